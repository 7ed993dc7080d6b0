import numpy as np
from tvm import topi
from tvm.script import tirx as T

from .scheduled import check, placeholder, prim_func, random


def test_opaque_block():
    @T.prim_func(s_tir=True)
    def running_sum(A: T.Buffer((16,), "float32"), B: T.Buffer((16,), "float32")):
        with T.sblock("opaque"):
            T.reads(A[0:16])
            T.writes(B[0:16])
            B[0] = A[0]
            for i in T.serial(15):
                B[i + 1] = B[i] + A[i + 1]

    a = random(16)
    check(running_sum, "CPUFallback", [a], [a.cumsum(dtype="float32")])


def test_function_without_blocks():
    @T.prim_func(s_tir=True)
    def reverse(A: T.Buffer((16,), "float32"), B: T.Buffer((16,), "float32")):
        for i in range(16):
            B[i] = A[15 - i]

    a = random(16)
    check(reverse, "CPUFallback", [a], [a[::-1].copy()])


def test_reduction_over_nothing_is_zero():
    x = placeholder("x", 4, 0)
    func = prim_func([x], [topi.sum(x, 1)])
    check(func, "CPUFallback", [np.zeros((4, 0), "float32")], [np.zeros(4, "float32")])


def test_two_reductions_over_different_axes():
    x, a = placeholder("x", 9, 11), random(9, 11)
    func = prim_func([x], [topi.sum(x, 0), topi.sum(x, 1)])
    check(func, "CPUFallback", [a], [a.sum(0), a.sum(1)])
