"""Products of bfloat16 pairs: their lowering, and the kernels made of them."""

import re
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from tvm import te, tirx

from athanor.schedules.compute import bf16
from athanor.schedules.compute.conv2d import conv2d_blocked, pack_conv2d_weight, plan_conv2d
from athanor.schedules.compute.matmul import matmul_packed, pack_matmul_weight
from athanor.targets import TARGETS
from athanor.targets.bf16_dots import bf16_function
from athanor.targets.codegen import build_kernels
from athanor.targets.detect import cpu_features
from athanor.targets.rules import schedule, schedule_and_lower

from .kernel import Kernel
from .scheduled import placeholder, prim_func, random

TARGET = TARGETS["x86-64-v4+avx512bf16"]


def assembly(func, rule, target=TARGET):
    """Of `func`, which `rule` takes; for a machine that need not be this one."""
    _, lowered, name = schedule_and_lower("kernel", func, target)
    assert name == rule
    return build_kernels({"kernel": lowered}, target).assembly()


def hottest(text):
    blocks = [re.split(r"\n\tj", block)[0] for block in text.split("\n.L")]
    return max(blocks, key=lambda block: block.count("vdpbf16ps"))


def check_inner_loop(text):
    """Nothing but dot products, their operands and the loop: the left operand is in memory."""
    loop = hottest(text)
    assert loop.count("vdpbf16ps") >= 16
    assert not re.findall(r"%zmm.*\(%rsp\)|\(%rsp\).*%zmm", loop)
    others = re.findall(r"\tv(?!dpbf16ps|movups|movdqu|movaps|movdqa)\w+", loop)
    assert len(others) <= loop.count("vdpbf16ps") / 2, others


def test_convolutions_are_dot_products():
    plan = plan_conv2d(64, 64, (3, 3), 1, 16, (16, 8, 4, 2))
    weight = bf16.pack_pairs(pack_conv2d_weight(random(64, 64, 3, 3), plan), 4)
    data = placeholder("data", 1, 4, 28, 28, 16, dtype="bfloat16")
    packed = placeholder("weight", *weight.shape, dtype="int32")
    made = conv2d_blocked(data, packed, plan=plan, padding=(1, 1, 1, 1))
    func = prim_func([data, packed], [made])
    check_inner_loop(assembly(func, "CPUConv2d", TARGET))
    # With one pipe a tile is one vector wide, and pixels are broadcast by the product itself.
    narrow = assembly(func, "CPUConv2d", replace(TARGET, fma_pipes=1))
    check_inner_loop(narrow)
    assert "{1to16}" in hottest(narrow)


def test_matrix_products_are_dot_products():
    weight = bf16.pack_pairs(pack_matmul_weight(random(256, 64), False, TARGET), 1)
    left = placeholder("left", 128, 256, dtype="bfloat16")
    packed = placeholder("weight", *weight.shape, dtype="int32")
    func = prim_func([left, packed], [matmul_packed(left, packed, 64)])
    check_inner_loop(assembly(func, "CPUMatmul"))


def test_rounding_is_one_instruction():
    x = placeholder("x", 64, 64)
    rounded = te.compute(x.shape, lambda *i: x(*i).astype("bfloat16"), name="rounded")
    text = assembly(prim_func([x], [rounded]), "CPUElementwise")
    assert "vcvtneps2bf16" in text and "vpsrld" not in text


def test_words_hold_neighbours():
    array = random(3, 6)
    words = bf16.pack_pairs(array, 1)
    halves = array.astype(ml_dtypes.bfloat16).view(np.uint16)
    np.testing.assert_array_equal(words.view(np.uint32) & 0xFFFF, halves[:, 0::2])
    np.testing.assert_array_equal(words.view(np.uint32) >> 16, halves[:, 1::2])


@pytest.mark.skipif(not cpu_features().issuperset(TARGET.cpu_features), reason="needs AVX512_BF16")
@pytest.mark.parametrize("columns", [1, 5, 16])
def test_numbers_that_are_apart_are_joined_by_shifts(columns):
    """Every second number of a row: no one load has both, and the fallback rule tiles nothing."""
    array, weight = random(6, 32), random(16, columns)
    left = placeholder("left", 6, 32, dtype="bfloat16")
    words = placeholder("words", 8, columns, dtype="int32")
    bits, k = bf16.bits(left), te.reduce_axis((0, 8), "k")

    def element(i, j):
        return te.sum(bf16.dot(bf16.pair(bits[i, 4 * k], bits[i, 4 * k + 2]), words[k, j]), k)

    func = prim_func([left, words], [te.compute((6, columns), element, name="made")])
    kernel = Kernel(schedule(func, TARGET)[0].mod["main"], TARGET)
    made = np.full((6, columns), 77, "float32")
    halves = array.astype(ml_dtypes.bfloat16)
    kernel(halves, bf16.pack_pairs(weight, 0), made)
    wanted = halves[:, ::2].astype("float64") @ weight.astype(ml_dtypes.bfloat16).astype("float64")
    np.testing.assert_allclose(made, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lanes", [1, 3, 4, 8, 16, 32, 48])
def test_lanes_are_cut_into_registers(lanes):
    text = bf16_function("dot", lanes)
    calls = re.findall(r"call .*dpbf16ps\.(\d+)", text)
    assert sum(int(bits) // 32 for bits in calls) == (lanes if lanes % 4 == 0 else 0)
    assert f"athanor_dot_bf16_x{lanes}(" in text


def test_operators_have_no_side_effects():
    word = tirx.Var("word", "int32")
    call = bf16.dot(word, word)
    assert str(call.ty.dtype) == "float32"
    assert call.op.get_attr("TCallEffectKind") == tirx.exp(1.0).op.get_attr("TCallEffectKind")
