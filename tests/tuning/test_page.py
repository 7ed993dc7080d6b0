"""The HTML page and the table of a job."""

import io
import re
from dataclasses import replace

from rich.console import Console

from athanor.compiler.commands.tune import job_table
from athanor.tuning.choose import ChoiceReport
from athanor.tuning.page import html_page
from athanor.tuning.rounds import TaskReport, TuningReport


def report(*choices):
    task = TaskReport("conv", "key", "1x3 -> 1x4", "CPURule", 2, 1e-3, 8e-4, 9)
    history = ((1.0, 1, 2e-3), (2.0, 9, 1.6e-3))
    return TuningReport((task,), 9, 2.5, 2e-3, 1.6e-3, 0.01, history, "done", choices)


def test_kernels_and_choices():
    choice = ChoiceReport("conv2d 1x3, <a>", 4, 116, 2e-4, 1.5e-4)
    page = html_page(report(choice), "m & n")
    assert "<td>1000.0</td>" in page and "<td>20.0%</td>" in page and "m &amp; n" in page
    cells = "<td>116</td><td>4</td>", "<td>200.0</td>", "<td>150.0</td>"
    assert "conv2d 1x3, &lt;a&gt;" in page and all(cell in page for cell in cells)


def test_the_page_needs_nothing_else():
    page = html_page(report(), "m")
    assert "<svg" in page
    assert not re.findall(r"<script|<link|<img|@import|src=|url\((?!#)", page)


def test_a_job_that_measured_nothing():
    inf = float("inf")
    task = TaskReport("conv", "key", "1x3 -> 1x4", "CPURule", 2, inf, inf, 0)
    empty = TuningReport((task,), 0, 2.5, 0.0, 0.0, 0.0, (), "interrupted")
    page = html_page(empty, "m")
    assert "not measured" in page and "inf" not in page.partition("<table>")[2]
    assert job_table(empty, 5).row_count == 1


def test_the_table_shows_what_a_job_knows():
    task, failed = report().tasks[0], TaskReport("pool", "k", "4", "R", 1, 1e-6, 1e-6, 1, "died")
    shown = replace(report(), tasks=(failed, task))
    console = Console(width=150, file=io.StringIO())
    console.print(job_table(shown, 2))
    text = console.file.getvalue()
    assert "model 2.000 -> 1.600 ms" in text and "1.0% more to expect" in text
    row = next(line for line in text.splitlines() if "conv" in line)
    for cell in ("1x3 -> 1x4", "CPURule", "2", "1000.0", "800.0", "20.0%", "9"):
        assert cell in row
    assert text.index("conv") < text.index("pool") and "failed" in text


def test_a_job_without_choices():
    assert "compiler's own" not in html_page(report(), "m")
