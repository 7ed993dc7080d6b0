"""The HTML page of a job."""

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


def test_a_job_without_choices():
    assert "compiler's own" not in html_page(report(), "m")
