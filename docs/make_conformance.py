"""Writes docs/conformance.md from tests/conformance/expected_failures.txt.

python docs/make_conformance.py
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

PAGE = Path(__file__).with_name("conformance.md")
LIST = Path(__file__).parents[1] / "tests" / "conformance" / "expected_failures.txt"

HEAD = """\
# ONNX's own backend suite

`make conformance` runs all {cases} cases of the suite in the `onnx` package (node, simple,
pytorch-converted and pytorch-operator): each is compiled, linked, loaded, run and compared by the
suite's own runner. {passed} pass, and {refused} are refused with an error that says why. No other
outcome is allowed, and a case below that starts to pass is an error too.

The numbers of Bernoulli and of Dropout in training are drawn by another generator than NumPy's, so
shapes and types are compared there, and distributions in tests of our own. Three cases, listed with
the reason in `tests/conformance/suite.py`, get a tolerance that their expected results meet.

`python tests/conformance/update.py` runs the suite and writes the list,
`python docs/make_conformance.py` this page.

| reason | cases |
|---|---|
"""

CASES = 2024


def page() -> str:
    """The whole page."""
    grouped: dict[str, list[str]] = defaultdict(list)
    lines = [line for line in LIST.read_text().splitlines() if not line.startswith("#")]
    for line in lines:
        name, outcome = line.split("\t", 1)
        grouped[_reason(outcome)].append(name)
    head = HEAD.format(cases=CASES, passed=CASES - len(lines), refused=len(lines))
    rows = sorted(grouped.items(), key=lambda item: (-len(item[1]), item[0]))
    return head + "".join(
        f"| {reason.replace('|', chr(92) + '|')} | {', '.join(names)} |\n" for reason, names in rows
    )


def _reason(outcome: str) -> str:
    """The sentence for the user, without how many nodes it holds for."""
    text = outcome.removeprefix("refused: ")
    if text.startswith("unsupported") and "): " in text:
        text = text[text.index("): ") + 3 :]
    return text


if __name__ == "__main__":
    PAGE.write_text(page())
