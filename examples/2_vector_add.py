"""A kernel written by hand: a vector addition, before and after `vectorize`.

Both are compiled and called the way a model is: kernel and host program in one library, loaded by
the runtime. The LLVM IR of both is printed. Run: python examples/2_vector_add.py
"""

import re
from types import SimpleNamespace

import numpy as np
from tvm import s_tir
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T
from tvm.target import Target

from athanor.compiler.compile_module import compile_module
from athanor.targets import find_target
from athanor.targets.codegen import build_kernels, lower_kernel

N = 1024


@I.ir_module
class VectorAdd:
    @T.prim_func(s_tir=True)
    def add(
        a: T.Buffer((1024,), "float32"),
        b: T.Buffer((1024,), "float32"),
        c: T.Buffer((1024,), "float32"),
    ):
        T.func_attr({"tirx.is_scheduled": True})
        for i in range(1024):
            with T.sblock("add"):
                v = T.axis.spatial(1024, i)
                c[v] = a[v] + b[v]

    @R.function
    def main(a: R.Tensor((1024,), "float32"), b: R.Tensor((1024,), "float32")) -> R.Tensor(
        (1024,), "float32"
    ):
        cls = VectorAdd
        with R.dataflow():
            c = R.call_tir(cls.add, (a, b), out_ty=R.Tensor((1024,), "float32"))
            R.output(c)
        return c


def vectorized(mod):
    """The same module with the loop split by the vector's width and its inner part vectorized."""
    sch = s_tir.Schedule(mod)
    (i,) = sch.get_loops(sch.get_sblock("add", func_name="add"))
    _, lane = sch.split(i, factors=[None, TARGET.lanes(32)])
    sch.vectorize(lane)
    return sch.mod


def llvm_ir(mod):
    """LLVM IR of the kernel, without debug information.

    At -O1, for that is where LLVM's own loop vectorizer is off: a loop as simple as this one it
    would vectorize by itself, and both would look alike.
    """
    settings = {"kind": "llvm", "mtriple": TARGET.triple, "mcpu": TARGET.mcpu, "opt-level": 1}
    kernel = lower_kernel("add", mod["add"], TARGET)
    known = {"avx512": TARGET.avx512, "pair_lanes": TARGET.pair_lanes}
    target = SimpleNamespace(tvm=Target(settings), **known)
    text = build_kernels({"add": kernel}, target).llvm_ir()
    function = text[text.index("define ") :].partition("\n}")[0] + "\n}"
    return re.sub(r",? ![a-z.]+ !\d+| *#dbg_.*\n", "", function)


def call(mod):
    """Compile, link, load and run the module; the result is checked."""
    model = compile_module(mod, TARGET.name).load(threads=1)
    a, b = np.random.default_rng(0).random((2, N), np.float32)
    (c,) = model.run({"a": a, "b": b}).values()
    np.testing.assert_array_equal(c, a + b)
    print(f"compiled, loaded and called: c = {c[:4]} ..., which is a + b\n")


TARGET = find_target("native")
for title, mod in (("before vectorize", VectorAdd), ("after vectorize", vectorized(VectorAdd))):
    print(f"==== {title}: TIR\n\n{mod['add'].script()}\n")
    print(f"==== {title}: LLVM IR\n\n{llvm_ir(mod)}\n")
    call(mod)
