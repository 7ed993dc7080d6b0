"""Relax modules with kernels of one's own become artifacts."""

import numpy as np
import pytest
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from athanor import CompileError
from athanor.compiler.compile_module import compile_module


@I.ir_module
class TwoKernels:
    @T.prim_func(s_tir=True)
    def by_hand(x: T.Buffer((5, 3), "float32"), y: T.Buffer((5, 3), "float32")):
        T.func_attr({"tirx.is_scheduled": True})
        for i, j in T.grid(5, 3):
            with T.sblock("double"):
                vi, vj = T.axis.remap("SS", [i, j])
                y[vi, vj] = x[vi, vj] * T.float32(2)

    @T.prim_func(s_tir=True)
    def by_rule(x: T.Buffer((5, 3), "float32"), y: T.Buffer((5,), "float32")):
        for i, j in T.grid(5, 3):
            with T.sblock("sum"):
                vi, vj = T.axis.remap("SR", [i, j])
                with T.init():
                    y[vi] = T.float32(0)
                y[vi] = y[vi] + x[vi, vj]

    @R.function
    def main(
        x: R.Tensor((5, 3), "float32"),
    ) -> R.Tuple(R.Tensor((5, 3), "float32"), R.Tensor((5,), "float32")):
        cls = TwoKernels
        with R.dataflow():
            doubled = R.call_tir(cls.by_hand, (x,), out_ty=R.Tensor((5, 3), "float32"))
            total = R.call_tir(cls.by_rule, (doubled,), out_ty=R.Tensor((5,), "float32"))
            result = (doubled, total)
            R.output(result)
        return result


def test_two_kernels():
    artifact = compile_module(TwoKernels)
    rules = {kernel["name"]: kernel["rule"] for kernel in artifact.metadata["kernels"]}
    assert rules.pop("k_by_hand") == "ByHand"
    assert "ByHand" not in rules.values()
    x = np.random.default_rng(0).random((5, 3), np.float32)
    outputs = artifact.load(threads=1).run({"x": x})
    np.testing.assert_array_equal(outputs["output0"], x * 2)
    np.testing.assert_allclose(outputs["output1"], (x * 2).sum(1), rtol=1e-6)


@I.ir_module
class TwoResults:
    @T.prim_func(s_tir=True)
    def both(
        x: T.Buffer((6,), "float32"), y: T.Buffer((6,), "float32"), z: T.Buffer((6,), "float32")
    ):
        for i in range(6):
            with T.sblock("more"):
                vi = T.axis.spatial(6, i)
                y[vi] = x[vi] + T.float32(1)
        for i in range(6):
            with T.sblock("less"):
                vi = T.axis.spatial(6, i)
                z[vi] = x[vi] - T.float32(1)

    @R.function
    def main(
        x: R.Tensor((6,), "float32"),
    ) -> R.Tuple(R.Tensor((6,), "float32"), R.Tensor((6,), "float32")):
        cls = TwoResults
        return R.call_tir(
            cls.both, (x,), out_ty=[R.Tensor((6,), "float32"), R.Tensor((6,), "float32")]
        )


def test_results_of_the_last_call():
    x = np.arange(6, dtype=np.float32)
    more, less = compile_module(TwoResults).load(threads=1).run({"x": x}).values()
    np.testing.assert_array_equal(more, x + 1)
    np.testing.assert_array_equal(less, x - 1)


def test_unknown_target():
    with pytest.raises(CompileError, match="unknown target 'z80'"):
        compile_module(TwoKernels, "z80")
