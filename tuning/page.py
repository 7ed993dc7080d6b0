"""A tuning job as one HTML page that needs nothing else: the model's time, and each kernel's."""

from __future__ import annotations

from pathlib import Path

from athanor.compiler.profiling.page import figure_svg, new_figure, render
from athanor.tuning.rounds import TuningReport

_TEMPLATE = Path(__file__).with_name("page.html.jinja")


def html_page(report: TuningReport, title: str) -> str:
    """The page. Raises RunError where the libraries for it are missing."""
    rows = report.slowest_first()
    return render(_TEMPLATE, title=title, report=report, rows=rows, plot=_curve(report))


def _curve(report: TuningReport) -> str:
    """The model's time over the job's."""
    figure = new_figure(3.5)
    axes = figure.add_subplot()
    times = [secs for secs, _, _ in report.history] + [report.elapsed_secs]
    latencies = [1e3 * secs for _, _, secs in report.history] + [1e3 * report.best_secs]
    axes.step(times, latencies, where="post", color="C0", label="best so far")
    untuned = 1e3 * report.heuristic_secs
    axes.axhline(untuned, color="black", linewidth=1, label=f"untuned, {untuned:.3f} ms")
    axes.set(xlabel="seconds of tuning", ylabel="ms of the model's kernels", ylim=(0, None))
    axes.grid(which="major", linewidth=0.3)
    axes.legend(fontsize=8, loc="lower left")
    return figure_svg(figure)
