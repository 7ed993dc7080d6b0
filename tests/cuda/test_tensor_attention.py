"""Attention of 16-bit numbers on tensor cores, under emulation and as images."""

import math

import ml_dtypes
import numpy as np
import pytest
from tvm import relax
from tvm.relax import op as R

from athanor.compiler.compile_module import compile_module
from athanor.schedules.compute import tensor_attention
from athanor.schedules.decisions import nearest
from athanor.targets import cuda_images

from ..compiler.graphs import module
from ..compiler.test_fuse_attention import FOUND, arrays_for, attended, plain
from .test_attention import masked

TYPES = {"fp16": (np.float16, 2e-3), "bf16": (ml_dtypes.bfloat16, 2e-2)}


def rounded(arrays, precision):
    """The arrays with floats that the type holds."""
    dtype, _ = TYPES[precision]
    return {
        name: array if array.dtype == bool else array.astype(dtype).astype(np.float32)
        for name, array in arrays.items()
    }


def compare(build, inputs, arrays, precision, masks=()):
    """A float32 model with 16-bit products beside the CPU; attention is one launch of mma."""
    given = rounded({name: arrays[name] for name in arrays if name not in masks}, precision)
    given |= {name: arrays[name] for name in masks}
    with compile_module(module(build, **inputs)).load(threads=1) as model:
        expected = model.run(given)["output0"]
    artifact = compile_module(module(build, **inputs), target="cuda", precision=precision)
    with artifact.load(threads=1) as model:
        result = model.run(given)["output0"]
    tolerance = TYPES[precision][1]
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)
    found = artifact.metadata["device"]["kernels"]
    (launches,) = [found[name]["launches"] for name in found if "attention" in name]
    assert len(launches) == 1
    assert launches[0]["extents"][4] == "1", "warps side by side: tensor cores"
    return result


def tile_of(monkeypatch, queries, groups, stages):
    """Blocks of so many sixteens of queries, groups and stages, as far as they fit."""
    wanted = {"attention_queries": queries, "attention_groups": groups, "attention_stages": stages}
    real = tensor_attention.choose_attention_tile

    def choose(name, candidates, _preferred):
        return nearest(candidates, wanted[name])

    monkeypatch.setattr(
        tensor_attention, "choose_attention_tile", lambda a, gpu, _: real(a, gpu, choose)
    )


@pytest.mark.parametrize("name", FOUND)
def test_forms(driver, name):
    build, inputs = FOUND[name]
    compare(build, inputs, dict(zip(inputs, arrays_for(inputs), strict=True)), "fp16")


@pytest.mark.parametrize(
    ("queries", "keys", "size", "value_size", "precision"),
    [
        (1, 1, 4, 1, "fp16"),  # one number at a time
        (1, 300, 64, 64, "fp16"),  # decoding
        (65, 130, 64, 64, "bf16"),
        (197, 197, 32, 32, "fp16"),
        (33, 70, 80, 80, "bf16"),
        (40, 140, 128, 100, "fp16"),
        (3, 70, 256, 256, "fp16"),
        (5, 9, 7, 6, "bf16"),
    ],
)
def test_sizes(driver, queries, keys, size, value_size, precision):
    inputs = {"q": (1, 2, queries, size), "k": (1, 2, keys, size), "v": (1, 2, keys, value_size)}
    compare(plain, inputs, dict(zip(inputs, arrays_for(inputs), strict=True)), precision)


@pytest.mark.parametrize(
    ("queries", "groups", "stages"), [(1, 8, 1), (2, 4, 2), (4, 2, 2), (4, 1, 1), (8, 1, 2)]
)
def test_tiles(driver, monkeypatch, queries, groups, stages):
    tile_of(monkeypatch, queries, groups, stages)
    inputs = {"q": (2, 150, 48), "k": (2, 330, 48), "v": (2, 330, 40), "mask": (150, 330)}
    compare(masked, inputs, dict(zip(inputs, arrays_for(inputs), strict=True)), "fp16", ["mask"])


def test_rows_without_a_key_infinities_and_nan(driver, monkeypatch):
    tile_of(monkeypatch, 1, 2, 2)
    inputs = {"q": (1, 6, 8), "k": (1, 280, 8), "v": (1, 280, 8), "mask": (6, 280)}
    arrays = dict(zip(inputs, arrays_for(inputs), strict=True))
    arrays["mask"][1] = -np.inf
    arrays["mask"][2, :200] = -np.inf
    arrays["mask"][4, 7] = np.inf
    arrays["mask"][5] = -3e38
    arrays["q"][0, 3] = np.nan
    result = compare(masked, inputs, arrays, "fp16", ["mask"])
    assert np.isnan(result[0, [1, 3, 4]]).all() and not np.isnan(result[0, [0, 2, 5]]).any()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("wide", [False, True])
def test_models_of_16_bits(driver, dtype, wide):
    """As they are, and with the softmax in float32 between two casts."""

    def build(emit, q, k, v, mask):
        scores = emit(R.matmul(q, emit(R.permute_dims(k, [0, 2, 1]))))
        scores = emit(R.multiply(scores, relax.const(0.25, dtype)))
        scores = emit(R.add(scores, mask))
        if wide:
            scores = emit(R.astype(scores, "float32"))
        weights = emit(R.nn.softmax(scores, axis=-1))
        return emit(R.matmul(emit(R.astype(weights, dtype)) if wide else weights, v))

    shapes = {"q": (2, 20, 16), "k": (2, 90, 16), "v": (2, 90, 24), "mask": (1, 1, 90)}
    numpy_type = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype]
    rng = np.random.default_rng(3)
    arrays = {name: rng.standard_normal(shape).astype(numpy_type) for name, shape in shapes.items()}
    arrays["mask"][..., 70:] = -np.inf
    artifact = compile_module(
        module(build, **{name: (shape, dtype) for name, shape in shapes.items()}), target="cuda"
    )
    with artifact.load(threads=1) as model:
        result = np.asarray(model.run(arrays)["output0"]).astype(np.float32)
    q, k, v, mask = (array.astype(np.float64) for array in arrays.values())
    scores = np.exp(0.25 * q @ k.transpose(0, 2, 1) + mask)
    expected = scores / scores.sum(-1, keepdims=True) @ v
    tolerance = 2e-3 if dtype == "float16" else 2e-2
    np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)
    kernels = artifact.metadata["device"]["kernels"]
    assert len(kernels) == 1 and len(kernels["k_attention"]["launches"]) == 1


def test_a_head_too_wide_for_registers_is_left_in_parts(driver):
    inputs = {name: ((1, 3, 320), "float16") for name in "qkv"}
    artifact = compile_module(module(attended, **inputs), target="cuda")
    assert not any("attention" in name for name in artifact.metadata["device"]["kernels"])


@pytest.mark.skipif(
    cuda_images.compiler_name() is None, reason="neither NVRTC nor nvcc is installed"
)
@pytest.mark.parametrize(
    ("batch", "size", "keys"), [(1, 64, 128), (32, 64, 128), (32, 128, 512), (4, 256, 512)]
)
def test_images_spill_nothing(batch, size, keys):
    shape = (batch, 12, keys, size)
    mod = module(plain, q=shape, k=shape, v=shape)
    artifact = compile_module(mod, target="cuda -arch=sm_80,sm_90a", precision="fp16")
    device = artifact.metadata["device"]
    (launch,) = device["kernels"]["k_attention"]["launches"]
    threads = math.prod(int(extent) for extent in launch["extents"][3:])
    for image in device["images"][:2]:
        used = image["functions"][launch["function"]]
        assert used["stack_bytes"] == 0
        assert used["registers"] * threads <= 65536
