"""Matrix products in tiles: every kind of number, layout and size, against float64."""

import ml_dtypes
import numpy as np
import pytest
from onnx import helper

import athanor
from athanor.errors import CompileError
from athanor.targets import target_for_precision

from .test_operators import launches, model_of, rules
from .tiles import tiles

TYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
ERRORS = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2, "tf32": 4e-3}
ERRORS |= {"fp16": ERRORS["float16"], "bf16": ERRORS["bfloat16"]}
"""Of a sum of products, relative to the sum of their magnitudes."""


def numbers(seed, shape, dtype):
    return np.random.default_rng(seed).standard_normal(shape).astype(TYPES[dtype])


def check(
    nodes, feeds, constants, dtype, expected, sizes=(), precision="fp32", shapes=None, target="cuda"
):
    """Compile with these decisions, run, compare; the artifact."""
    model = model_of(nodes, feeds, ["y"], constants, shapes)
    with tiles(*sizes):
        artifact = athanor.compile(model, target, precision=precision)
    (result,) = artifact.load(threads=1).run(feeds).values()
    assert result.dtype == next(iter(feeds.values())).dtype
    assert result.shape == expected.shape
    depth = max(next(iter(feeds.values())).shape[-2:])
    error = np.abs(result.astype(np.float64) - expected).max() / np.sqrt(depth)
    assert error < ERRORS[precision if precision in ERRORS else dtype], error
    assert "CUDAMatmul" in rules(artifact)
    return artifact


def matmul(*arrays):
    wide = [array.astype(np.float64) for array in arrays]
    return wide[0] @ wide[1]


PRODUCT = [helper.make_node("MatMul", ["a", "b"], ["y"])]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("a", "b", "sizes"),
    [
        ((70, 200), (200, 96), (64, 64, 1, 3)),
        ((17, 264), (264, 136), (16, 128, 1, 4)),
        ((130, 72), (72, 130), (128, 64, 1, 2)),
        ((33, 77), (77, 51), (32, 64, 1, 2)),
        ((1, 520), (520, 72), (16, 64, 2, 3)),
        ((3, 40, 144), (3, 144, 72), (32, 128, 1, 3)),
    ],
)
def test_products_of_two_inputs(driver, dtype, a, b, sizes):
    feeds = {"a": numbers(0, a, dtype), "b": numbers(1, b, dtype)}
    check(PRODUCT, feeds, {}, dtype, matmul(*feeds.values()), sizes)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("swap_a", [False, True])
@pytest.mark.parametrize("swap_b", [False, True])
@pytest.mark.parametrize("sizes", [(64, 64, 1, 4), (128, 128, 1, 3), (64, 128, 1, 2)])
def test_warpgroups_of_sm_90a(driver, dtype, swap_a, swap_b, sizes):
    if dtype == "bfloat16" and sizes[0] == 128:
        pytest.skip("differs from float16 in the numbers alone, which small tiles show")
    a, b = (136, 328), (328, 72)
    feeds = {"a": numbers(0, a[::-1] if swap_a else a, dtype)}
    feeds |= {"b": numbers(1, b[::-1] if swap_b else b, dtype)}
    nodes = [helper.make_node("Gemm", ["a", "b"], ["y"], transA=int(swap_a), transB=int(swap_b))]
    left, right = feeds["a"], feeds["b"]
    expected = matmul(left.T if swap_a else left, right.T if swap_b else right)
    check(nodes, feeds, {}, dtype, expected, sizes, target="cuda -arch=sm_90a")


@pytest.mark.parametrize("dtype", TYPES)
def test_the_largest_tiles(driver, dtype):
    feeds = {"a": numbers(0, (136, 80), dtype), "b": numbers(1, (80, 144), dtype)}
    check(PRODUCT, feeds, {}, dtype, matmul(*feeds.values()), (128, 128, 1, 2))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("split", [1, 4])
def test_bias_residual_and_activation_in_the_same_launch(driver, dtype, split):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "bias"], ["q"]),
        helper.make_node("Add", ["q", "r"], ["s"]),
        helper.make_node("Relu", ["s"], ["y"]),
    ]
    depth = 16 * (64 if dtype == "float32" else 128)
    feeds = {"x": numbers(0, (2, 9, depth), dtype), "r": numbers(3, (2, 9, 72), dtype)}
    constants = {"w": numbers(1, (depth, 72), dtype), "bias": numbers(2, (72,), dtype)}
    sums = matmul(feeds["x"], constants["w"])
    sums = sums + constants["bias"].astype(float) + feeds["r"].astype(float)
    artifact = check(
        nodes, feeds, constants, dtype, np.maximum(sums, 0), (16, 64, split, 3), shapes={}
    )
    assert launches(artifact) == (1 if split == 1 else 2)


def test_two_columns_of_16_bits_are_loaded_as_vectors(driver):
    feeds = {"a": numbers(0, (1, 1280), "float32")}
    constants = {"b": numbers(1, (1280, 2), "float32")}
    model = model_of(PRODUCT, feeds, ["y"], constants)
    artifact = athanor.compile(model, "cuda", precision="fp16", keep_ir=True)
    (result,) = artifact.load(threads=1).run(feeds).values()
    expected = matmul(feeds["a"], constants["b"])
    np.testing.assert_allclose(result, expected, rtol=5e-3, atol=5e-2)
    kernel = artifact.metadata["ir"]["cuda"].split('extern "C" __global__')[-1]
    assert "*(uint4*)" in kernel or "*(half4*)" in kernel
    assert "longlong4" not in kernel  # an index for each number


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("rows", [1, 33])
def test_sizes_of_the_run(driver, dtype, rows):
    shapes = {"a": ["batch", "rows", 72], "b": ["batch", 72, "columns"]}
    feeds = {"a": numbers(0, (2, rows, 72), dtype), "b": numbers(1, (2, 72, 37), dtype)}
    check(PRODUCT, feeds, {}, dtype, matmul(*feeds.values()), (32, 64, 1, 3), shapes=shapes)


@pytest.mark.parametrize("dtype", TYPES)
def test_a_depth_of_the_run(driver, dtype):
    shapes = {"a": ["rows", "depth"], "b": ["depth", 40]}
    feeds = {"a": numbers(0, (21, 150), dtype), "b": numbers(1, (150, 40), dtype)}
    check(PRODUCT, feeds, {}, dtype, matmul(*feeds.values()), shapes=shapes)


def test_few_rows_side_by_side(driver):
    """16 rows that lie along the rows of shared memory take the place of 32 there."""
    nodes = [helper.make_node("Gemm", ["a", "b"], ["y"], transA=1)]
    feeds = {"a": numbers(0, (264, 12), "float32"), "b": numbers(1, (264, 136), "float32")}
    expected = matmul(feeds["a"].T, feeds["b"])
    check(nodes, feeds, {}, "float32", expected, (16, 128, 1, 4))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("swapped", ["a", "b"])
def test_transposed_operands(driver, dtype, swapped):
    nodes = [
        helper.make_node("Transpose", [swapped], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["t", "b"] if swapped == "a" else ["a", "t"], ["y"]),
    ]
    feeds = {"a": numbers(0, (2, 72, 80), dtype), "b": numbers(1, (2, 80, 72), dtype)}
    expected = matmul(feeds["a"].swapaxes(1, 2), feeds["b"][:, :72]) if swapped == "a" else None
    if swapped == "a":
        feeds["b"] = numbers(1, (2, 72, 40), dtype)
        expected = matmul(feeds["a"].swapaxes(1, 2), feeds["b"])
    else:
        feeds["b"] = numbers(1, (2, 40, 80), dtype)
        expected = matmul(feeds["a"], feeds["b"].swapaxes(1, 2))
    artifact = check(nodes, feeds, {}, dtype, expected, (64, 64, 1, 2))
    assert launches(artifact) == 1


@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_not_finite_stays_so(driver, dtype):
    feeds = {"a": numbers(0, (20, 72), dtype), "b": numbers(1, (72, 40), dtype)}
    feeds["a"][3, 5], feeds["a"][7, 71] = np.inf, np.nan
    model = model_of(PRODUCT, feeds, ["y"])
    (result,) = athanor.compile(model, "cuda").load(threads=1).run(feeds).values()
    result = result.astype(np.float32)
    assert np.isinf(result[3]).all()
    assert np.isnan(result[7]).all()
    assert np.isfinite(np.delete(result, [3, 7], axis=0)).all()


@pytest.mark.parametrize("precision", ["tf32", "fp16", "bf16"])
def test_a_float32_model_on_tensor_cores(driver, precision):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "bias"], ["q"]),
        helper.make_node("Relu", ["q"], ["h"]),
        helper.make_node("Transpose", ["h"], ["t"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["h", "t"], ["s"]),
        helper.make_node("Softmax", ["s"], ["y"]),
    ]
    feeds = {"x": numbers(0, (2, 40, 136), "float32") / 8}
    constants = {"w": numbers(1, (136, 72), "float32") / 8, "bias": numbers(2, (72,), "float32")}
    hidden = np.maximum(matmul(feeds["x"], constants["w"]) + constants["bias"], 0)
    scores = hidden @ hidden.swapaxes(1, 2)
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    expected = powers / powers.sum(-1, keepdims=True)
    artifact = check(nodes, feeds, constants, "float32", expected, (), precision)
    used = {"tf32": "TF32", "fp16": "Half", "bf16": "BFloat"}[precision]
    assert artifact.metadata["precision"] == precision
    model = model_of(nodes, feeds, ["y"], constants)
    source = athanor.compile(model, "cuda", precision=precision, keep_ir=True).metadata["ir"][
        "cuda"
    ]
    calls = [line for line in source.splitlines() if "athanor::product<" in line and "(&" in line]
    assert len(calls) >= 2
    assert all(f"athanor::product<athanor::{used}" in line for line in calls)


@pytest.mark.parametrize(
    ("target", "precision", "sentence"),
    [
        ("x86-64-v3", "tf32", r"precision='tf32' is for NVIDIA GPUs; target 'x86-64-v3'.*'bf16'"),
        ("x86-64-v3", "fp16", "precision='fp16' is for NVIDIA GPUs"),
        ("cuda -arch=sm_75", "fp16", "has sm_75, and kernels for tensor cores want sm_80"),
        ("cuda", "fp8", "precision='fp8': expected fp32 or tf32 or fp16 or bf16"),
    ],
)
def test_precisions_that_a_target_has_not(target, precision, sentence):
    with pytest.raises(CompileError, match=sentence):
        target_for_precision(target, precision)


@pytest.mark.parametrize(
    ("precision", "sizes", "warps"),
    [
        ("fp16", (128, 128, 1, 2), (32, 64)),
        ("fp16", (64, 128, 1, 2), (64, 32)),
        ("bf16", (32, 128, 1, 2), (16, 32)),
        ("tf32", (16, 128, 1, 2), (16, 16)),
        ("tf32", (64, 64, 1, 2), (16, 32)),
    ],
)
def test_other_parts_of_a_tile_for_a_warp(driver, precision, sizes, warps):
    feeds = {"a": numbers(0, (70, 136), "float32"), "b": numbers(1, (136, 88), "float32")}
    expected = matmul(*feeds.values())
    artifact = check(
        PRODUCT, feeds, {}, "float32", expected, (*sizes, *warps), precision, target="cuda"
    )
    launch = next(
        launch
        for kernel in artifact.metadata["device"]["kernels"].values()
        if kernel["rule"] == "CUDAMatmul"
        for launch in kernel["launches"]
    )
    threads = sizes[0] * sizes[1] // (warps[0] * warps[1]) * 32
    assert launch["extents"][3] == str(threads)


def test_what_reads_the_product_twice_is_in_its_launch(driver):
    """GELU by tanh, written out."""

    def node(operator, inputs, output):
        return helper.make_node(operator, inputs, [output])

    nodes = [
        node("MatMul", ["a", "b"], "x"),
        node("Mul", ["x", "x"], "square"),
        node("Mul", ["square", "x"], "cube"),
        node("Mul", ["cube", "small"], "less"),
        node("Add", ["x", "less"], "sum"),
        node("Tanh", ["sum"], "tanh"),
        node("Mul", ["tanh", "x"], "y"),
    ]
    a, b = numbers(1, (40, 72), "float32"), numbers(2, (72, 50), "float32")
    x = matmul(a, b)
    expected = np.tanh(x + 0.05 * x**3) * x
    constants = {"b": b, "small": np.float32(0.05)}
    artifact = check(nodes, {"a": a}, constants, "float32", expected)
    assert launches(artifact) == 1
