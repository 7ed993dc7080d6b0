"""A profile as one HTML page that needs nothing else: a roofline plot and the table of steps.

The plot is SVG by matplotlib and the page a template for Jinja: some 100 KB, without a script. An
interactive plotting library would put four megabytes of JavaScript into every page.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

from athanor.compiler.profiling.limits import Limits
from athanor.compiler.profiling.summary import Row, Summary
from athanor.errors import RunError

_TEMPLATE = Path(__file__).with_name("page.html.jinja")
_NAMED = 12
"""Steps whose numbers are written beside their points: the slowest ones."""


def html_page(summary: Summary, title: str) -> str:
    """The page. Raises RunError where the libraries for it are missing."""
    plot = None if summary.limits is None else roofline_svg(summary.rows, summary.limits)
    return render(_TEMPLATE, title=title, summary=summary, rows=summary.slowest_first(), plot=plot)


def render(template: Path, **values: Any) -> str:
    """A page by a template of Jinja. Raises RunError where that is missing."""
    try:
        import jinja2
    except ImportError as error:
        raise missing(error) from None
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template.read_text(encoding="utf-8")).render(**values)


def missing(error: ImportError) -> RunError:
    """What to install."""
    return RunError(f"--html needs {error.name}; install it with: pip install 'athanor[report]'")


def roofline_svg(rows: tuple[Row, ...], limits: Limits) -> str:
    """Each step by its operations a byte and its rate, under the rate that the machine allows."""
    figure = new_figure(5)
    points = [row for row in rows if row.step.operations and row.step.bytes and row.step.gflops]
    axes = figure.add_subplot()
    intensities = [row.step.operations / row.step.bytes for row in points]
    low = min([0.1, *intensities]) / 1.5
    high = max([100.0, *intensities]) * 1.5
    for number, level in enumerate(limits.levels):
        # up to the ridge, where the rate of multiply-adds is the limit
        ridge = min(max(limits.gflops / level.gigabytes_per_second, low), high)
        ends = [low * level.gigabytes_per_second, ridge * level.gigabytes_per_second]
        label = f"{level.name} {level.gigabytes_per_second:.0f} GB/s"
        axes.plot([low, ridge], ends, color=f"C{number}", linewidth=1, label=label)
    peak = f"multiply-adds {limits.gflops:.0f} GFLOP/s"
    axes.axhline(limits.gflops, color="black", linewidth=1, label=peak)
    colors = {level.name: f"C{number}" for number, level in enumerate(limits.levels)}
    largest = max((row.step.milliseconds for row in points), default=1.0)
    axes.scatter(
        intensities,
        [row.step.gflops for row in points],
        s=[10 + 190 * row.step.milliseconds / largest for row in points],
        c=[colors[row.level or "memory"] for row in points],
        alpha=0.5,
        linewidths=0,
    )
    for row in sorted(points, key=lambda row: -row.step.milliseconds)[:_NAMED]:
        place = (row.step.operations / row.step.bytes, row.step.gflops)
        axes.annotate(str(row.step.number), place, fontsize=8, ha="center", va="center")
    axes.set(xscale="log", yscale="log", xlim=(low, high))
    axes.set(xlabel="operations a byte", ylabel="GFLOP/s")
    axes.grid(which="major", linewidth=0.3)
    axes.legend(fontsize=8, loc="lower right")
    return figure_svg(figure)


def new_figure(height: float) -> Any:
    """A Figure of matplotlib, 9 wide. Raises RunError where that is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing(error) from None
    return Figure(figsize=(9, height), layout="constrained")


def figure_svg(figure: Any) -> str:
    """The figure as an svg element."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    text = io.StringIO()
    FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    svg = text.getvalue()
    return re.sub(r"<metadata>.*</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
