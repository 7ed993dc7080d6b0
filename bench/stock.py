"""MetaSchedule as TVM ships it, on the operators of shapes.py: its search space, its search."""

from __future__ import annotations

import logging
import math
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import shapes
from tvm import s_tir, te, tirx, topi
from tvm.ir import IRModule
from tvm.s_tir import meta_schedule
from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock
from tvm.target import Target

from athanor.targets import TargetSpec
from athanor.targets.codegen import build_kernels, lower_kernel
from athanor.tuning.measure import CONSTANT, INPUT, OUTPUT, Argument, Candidate

SYMBOL = "stock"
ROUND = 32
"""Candidates that it builds and measures at once."""
FAILED_SECS = 1e5
"""Above it a time stands for a candidate that failed."""


class StockSearch:
    """A search that is over: its candidates in the order in which they were measured."""

    def __init__(self, func: tirx.PrimFunc, target: TargetSpec, threads: int, trials: int) -> None:
        """Searches: trials candidates, on this machine, with so many threads."""
        self.func, self.target = func, target
        os.environ["TVM_NUM_THREADS"] = str(threads)  # its runner's processes read it
        logging.getLogger("tvm.s_tir.meta_schedule").setLevel(logging.ERROR)
        machine = dict(target.tvm.export())
        machine["num-cores"] = threads
        found = meta_schedule.Database.create("memory")
        with tempfile.TemporaryDirectory() as folder:
            meta_schedule.tune_tir(
                func,
                Target(machine),
                folder,
                trials,
                num_trials_per_iter=ROUND,
                database=found,
                builder=_builder(),
                num_tuning_cores=os.cpu_count() or 1,
                seed=1,
            )
        self.records = found.get_all_tuning_records()
        self.seconds = [_median(record) for record in self.records]
        assert min(self.seconds, default=math.inf) < FAILED_SECS, "no candidate could be measured"

    def best(self, trials: int) -> int:
        """The fastest of the first `trials` by its own measurements."""
        return min(range(min(trials, len(self.seconds))), key=lambda i: self.seconds[i])

    def candidate(self, index: int) -> Candidate:
        """For our measuring program; weights lie as the candidate wants them."""
        sch = s_tir.Schedule(self.func)
        self.records[index].trace.apply_to_schedule(sch, remove_postproc=False)
        mod = RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(sch.mod)
        (scheduled,) = mod.functions.values()
        lowered = lower_kernel(SYMBOL, scheduled, self.target)
        with tempfile.TemporaryDirectory() as folder:
            path = build_kernels({SYMBOL: lowered}, self.target).save(Path(folder) / "stock.o")
            code = path.read_bytes()
        roles = [INPUT, *[CONSTANT] * (len(scheduled.params) - 2), OUTPUT]
        arguments = tuple(
            Argument("float32", tuple(int(dim) for dim in param.shape), role)
            for param, role in zip(scheduled.params, roles, strict=True)
        )
        return Candidate("stock", (index,), code, SYMBOL, arguments)


def _builder() -> meta_schedule.builder.LocalBuilder:
    """TVM's, whose processes would each import its GPU instructions for some ten seconds."""

    def build(mod: IRModule, target: Target, _params: Any) -> Any:  # by value to its processes
        from tvm.driver import build
        from tvm.s_tir.transform import RemoveWeightLayoutRewriteBlock

        return build(RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(mod), target=target)

    return meta_schedule.builder.LocalBuilder(f_build=build, timeout_sec=60)


def operator(name: str) -> tirx.PrimFunc:
    """The operator of a shape of shapes.py as TVM writes it; its weights may lie in any layout."""
    kind, _, short = name.partition(": ")
    func = _convolution(short) if kind == "conv" else _product(short)
    return func.with_attr("layout_free_buffers", [1])


def _convolution(name: str) -> tirx.PrimFunc:
    spec = shapes.CONVOLUTIONS[name]
    batch, in_channels, out_channels, size, kernel, stride, dilation, groups = spec
    reach = [(taps - 1) * dilation for taps in kernel]
    padding = [*(r // 2 for r in reach), *(r - r // 2 for r in reach)]
    data = te.placeholder((batch, in_channels, *size), "float32", "data")
    weight = te.placeholder((out_channels, in_channels // groups, *kernel), "float32", "weight")
    bias = te.placeholder((out_channels,), "float32", "bias")
    if groups == 1:
        y = topi.nn.conv2d_nchw(data, weight, stride, padding, dilation)
    elif groups == in_channels:
        y = topi.nn.depthwise_conv2d_nchw(data, weight, stride, padding, dilation)
    else:
        y = topi.nn.group_conv2d_nchw(data, weight, stride, padding, dilation, groups)
    result = te.compute(y.shape, lambda n, c, h, w: y[n, c, h, w] + bias[c], name="add")
    return te.create_prim_func([data, weight, bias, result])


def _product(name: str) -> tirx.PrimFunc:
    shape_a, shape_b, constant = shapes.PRODUCTS[name]
    assert constant, "two values of the run have no free layout"
    a, b = (te.placeholder(shape, "float32") for shape in (shape_a, shape_b))
    return te.create_prim_func([a, b, topi.nn.matmul(a, b)])


def _median(record: meta_schedule.database.TuningRecord) -> float:
    times = [float(secs) for secs in record.run_secs or []]
    return statistics.median(times) if times else math.inf
