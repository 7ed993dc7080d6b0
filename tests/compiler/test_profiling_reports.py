"""A profile beside limits: summary, trace, page and command line."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from athanor.compiler.cli import run_command
from athanor.compiler.profiling import limit_kernels, limits
from athanor.compiler.profiling.limits import Level, Limits, machine_limits
from athanor.compiler.profiling.page import html_page
from athanor.compiler.profiling.summary import summarize
from athanor.compiler.profiling.trace import chrome_trace
from athanor.runtime.profile import EVENT, Profile
from athanor.targets import find_target

LIMITS = Limits(
    1, 100.0, (Level("L1", 1000, 50.0), Level("L2", 10**6, 20.0), Level("memory", None, 10.0))
)
STEPS = [
    {"kernel": "k_conv", "value": "y", "nodes": ["Conv <a&b>", "Relu r"]},
    {"kernel": "k_never", "value": "z", "nodes": []},
    {"kernel": "copy", "value": "w", "nodes": []},
]
KERNELS = [{"name": "k_conv", "rule": "CPUConv2d"}, {"name": "k_never", "rule": "CPUFallback"}]


def run(conv_ns, begin=0):
    """One run: a convolution, and a copy that runs twice."""
    times = [(-1, conv_ns + 500, 0, 0), (0, conv_ns, 40_000, 5_000)]
    times += [(2, 100, 0, 1_000), (2, 200, 0, 1_000)]
    events = np.zeros(len(times), EVENT)
    for event, (step, length, operations, size_bytes) in zip(events, times, strict=True):
        start = begin if step < 1 else begin + conv_ns
        event["step"], event["start_ns"], event["end_ns"] = step, start, start + length
        event["operations"], event["bytes"] = operations, size_bytes
    return events


@pytest.fixture
def summary():
    profile = Profile(STEPS, [run(1000), run(900, 5000), run(800, 9000)])
    return summarize(profile, {"kernels": KERNELS}, LIMITS)


def test_medians_sums_and_limits(summary):
    conv, copy = summary.rows  # the step that never ran is left out
    assert (conv.step.milliseconds, copy.step.milliseconds) == (900 / 1e6, 300 / 1e6)
    assert (copy.step.number, copy.step.calls, copy.step.bytes) == (2, 2, 2_000)
    assert conv.step.gflops == pytest.approx(40_000 / 900)
    # 40,000 operations at 100 a ns are 400 ns; 5,000 bytes at 20 a ns 250 ns
    assert conv.level == "L2"
    assert conv.of_limit == pytest.approx(400 / 900)
    # a call's 1,000 bytes fit the first level; both calls' bytes have to be moved
    assert copy.level == "L1"
    assert copy.of_limit == pytest.approx(2_000 / 50 / 300)
    assert conv.share == pytest.approx(900 / (900 + 300 + 200))
    assert summary.of_limit == pytest.approx((400 + 40) / 1200)
    rules = summary.by_rule()
    assert [rule for rule, *_ in rules] == ["CPUConv2d", "copy", "between kernels"]
    assert rules[-1][1] == pytest.approx(200 / 1e6)


def test_without_limits_there_are_no_shares_of_them():
    summary = summarize(Profile(STEPS, [run(1000)]), {"kernels": KERNELS}, None)
    assert summary.of_limit is None
    assert all(row.of_limit is None and row.level is None for row in summary.rows)
    assert json.loads(json.dumps(summary.as_data()))["limits"] is None
    assert "<svg" not in html_page(summary, "m")


def test_the_trace_is_the_median_run(summary):
    events = json.loads(json.dumps(chrome_trace(summary)))["traceEvents"]
    assert [event["name"] for event in events] == ["run", "conv", "copy", "copy"]
    assert [event["dur"] for event in events] == [1.4, 0.9, 0.1, 0.2]
    assert events[0]["ts"] == 0
    assert events[1]["args"]["nodes"] == ["Conv <a&b>", "Relu r"]


def test_the_page_is_whole_and_escaped(summary):
    page = html_page(summary, "a<b>.onnx")
    assert "a&lt;b&gt;.onnx" in page
    assert "Conv &lt;a&amp;b&gt;" in page
    assert "http" not in page.replace("http://www.w3.org/", "")  # names of SVG's parts apart
    start, end = page.index("<svg"), page.index("</svg>") + len("</svg>")
    ElementTree.fromstring(page[start:end])


def test_limits_are_measured():
    target = find_target("native")
    gflops, (inside,) = limit_kernels.rates(target, 1, [limit_kernels.Stream("L1", 12_000)])
    assert 0.5 < gflops < 5_000
    assert 0.5 < inside < 50_000


def test_limits_are_kept_for_the_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("ATHANOR_CACHE", str(tmp_path / "cache"))
    measured = []

    def measure(_target, threads):
        measured.append(threads)
        return Limits(threads, 100.0 + len(measured), LIMITS.levels)

    monkeypatch.setattr(limits, "measure_limits", measure)
    assert machine_limits(1) == machine_limits(1)
    assert measured == [1]
    assert machine_limits(2).threads == 2
    assert machine_limits(1, measure=True).gflops == 103.0
    (kept, _) = sorted(
        (tmp_path / "cache").iterdir(), key=lambda path: '"threads": 2' in path.read_text()
    )
    kept.write_text("damaged")
    assert machine_limits(1).gflops == 104.0
    monkeypatch.setenv("ATHANOR_CACHE", "off")
    assert machine_limits(1).gflops == 105.0


def test_profile_command(digits_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(limits, "measure_limits", lambda _target, _threads: LIMITS)
    monkeypatch.setenv("ATHANOR_CACHE", "off")
    artifact, trace, page = (tmp_path / name for name in ("m.so", "trace.json", "page.html"))
    assert run_command(["compile", str(digits_model), "-o", str(artifact), "--profile"]) == 0
    options = ["--dim", "batch=3", "--threads", "1", "--runs", "2", "--json"]
    files = ["--trace", str(trace), "--html", str(page)]
    capsys.readouterr()
    assert run_command(["profile", str(artifact), *options, *files]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["runs"] == 2
    assert all(step["nodes"] for step in data["steps"])
    assert json.loads(trace.read_text())["traceEvents"]
    assert "<svg" in page.read_text()
    assert run_command(["profile", str(artifact), "--threads", "1", "--runs", "2"]) == 0
    out = capsys.readouterr().out
    assert "of limit" in out
    assert "between kernels" in out


def test_profile_command_refuses_an_ordinary_artifact(digits_artifact, capsys):
    assert run_command(["profile", str(digits_artifact)]) == 1
    assert "not compiled for profiling" in capsys.readouterr().err
