"""The pages say what is: every stage is shown, links lead somewhere, code in README runs."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_how_it_works_shows_every_stage():
    """All that `make docs` generates has its place on the page, and nothing else has.

    The text itself may be older than the schedules: they change more often than the page is made.
    """
    page = (ROOT / "docs" / "how-it-works.md").read_text()
    generator = runpy.run_path(str(ROOT / "docs" / "make_how_it_works.py"))
    stages = generator["stages"]()
    assert all(text.strip() for _, text in stages.values())
    generated = {name: language for name, (language, _) in stages.items()}
    shown = re.findall(r"<!-- ir: (\S+) -->\n```(\w+)\n(.+?)\n```\n<!-- end -->", page, re.DOTALL)
    assert {name: language for name, language, _ in shown} == generated
    assert page.count("<!-- ir: ") == len(shown) == len(generated)


def test_operators_page_is_what_the_converter_table_says():
    """`make docs` writes it again."""
    generator = runpy.run_path(str(ROOT / "docs" / "make_operators.py"))
    assert (ROOT / "docs" / "operators.md").read_text() == generator["page"]()


def test_conformance_page_is_what_the_list_says():
    """`make docs` writes it again."""
    generator = runpy.run_path(str(ROOT / "docs" / "make_conformance.py"))
    assert (ROOT / "docs" / "conformance.md").read_text() == generator["page"]()


def test_no_operator_is_both_supported_and_not():
    from athanor.frontends.onnx.not_supported import REASONS
    from athanor.frontends.onnx.ops import CONVERTERS

    assert REASONS.keys() & {(domain, op) for domain, op, _ in CONVERTERS} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    wrong = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert wrong == []


def test_readme_code_runs(digits_model, tmp_path):
    """The Python blocks, one after the other, on a model of the names that they use."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    (tmp_path / "model.onnx").write_bytes(digits_model.read_bytes())
    code = "\n".join(["import numpy as np", *blocks])
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "model.so").exists()
