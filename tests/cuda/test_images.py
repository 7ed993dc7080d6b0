"""Images for real architectures, wherever there is a compiler for CUDA; no GPU is needed."""

import math

import onnx
import pytest
from onnx import TensorProto, helper

import athanor
from athanor.errors import CompileError
from athanor.targets import cuda_images, find_target

from .tiles import tiles

needs_compiler = pytest.mark.skipif(
    cuda_images.compiler_name() is None, reason="neither NVRTC nor nvcc is installed"
)


def two_kernels(dtype=TensorProto.FLOAT):
    """softmax(x @ weight) of [rows, 70]."""
    value = helper.make_tensor_value_info
    weight = helper.make_tensor("weight", dtype, [70, 50], [0.5] * 3500)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "weight"], ["product"]),
            helper.make_node("Softmax", ["product"], ["y"], axis=-1),
        ],
        "g",
        [value("x", dtype, ["rows", 70])],
        [value("y", dtype, ["rows", 50])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])


@needs_compiler
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_images_are_made_and_their_resources_are_within_limits(dtype):
    artifact = athanor.compile(two_kernels(dtype), "cuda -arch=sm_80,sm_90")
    device = artifact.metadata["device"]
    assert [i["architecture"] for i in device["images"]] == ["sm_80", "sm_90", "compute_90"]
    assert all(image["bytes"] > 1000 for image in device["images"])
    target = find_target("cuda -arch=sm_80,sm_90")
    for image in device["images"][:2]:
        for kernel in device["kernels"].values():
            for launch in kernel["launches"]:
                used = image["functions"][launch["function"]]
                threads = math.prod(int(extent) for extent in launch["extents"][3:])
                assert 1 <= threads <= target.gpu.block_threads
                assert 1 <= used["registers"] <= target.gpu.registers
                assert used["registers"] * threads <= 65536
                shared = used["shared_bytes"] + launch["shared_bytes"]
                assert shared <= target.gpu.shared_bytes


def test_without_a_compiler_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(cuda_images, "_TOOLKIT", tmp_path / "none")
    monkeypatch.setattr(cuda_images, "_has_nvrtc", lambda: False)
    monkeypatch.setenv("PATH", "/nowhere")
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert cuda_images.compiler_name() is None
    with pytest.raises(
        CompileError, match=r"no compiler for CUDA: install NVRTC \(pip install 'ath"
    ):
        cuda_images.device_image("", "sm_80")


@needs_compiler
def test_what_the_compiler_refuses_is_an_error_with_its_words():
    with pytest.raises(CompileError, match=r"(?s)_80.*nonsense"):
        cuda_images.device_image("nonsense", "sm_80")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cuda -arch=sm_50", "unknown architecture 'sm_50'; known: sm_75, sm_80"),
        ("cuda -fast=1", "no option -fast; there are -arch and -host"),
        ("cuda -host=z80", "unknown host 'z80'; known: x86-64-v2"),
        ("cuda sm_80", "expected 'cuda' or 'cuda -arch=sm_80,sm_90a'"),
    ],
)
def test_targets_that_mean_nothing(name, sentence):
    with pytest.raises(CompileError, match=sentence):
        find_target(name)


def test_a_model_that_only_the_host_can_run_is_refused():
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [2])],
        [value("y", TensorProto.FLOAT, [2])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])
    onnx.checker.check_model(model)
    with pytest.raises(CompileError, match="no kernel of this model can run on a GPU"):
        athanor.compile(model, "cuda")


@needs_compiler
@pytest.mark.parametrize(
    ("precision", "sizes"),
    [
        ("fp32", ()),
        ("tf32", ()),
        ("fp16", ()),
        ("tf32", (128, 128, 1, 2, 32, 64)),
        ("fp16", (128, 128, 1, 2, 32, 64)),
    ],
)
def test_tiles_of_products_stay_in_registers(precision, sizes):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"]), helper.make_node("Erf", ["c"], ["y"])],
        "g",
        [value("a", TensorProto.FLOAT, [2048, 1024]), value("b", TensorProto.FLOAT, [1024, 2048])],
        [value("y", TensorProto.FLOAT, [2048, 2048])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])
    target = find_target("cuda -arch=sm_80,sm_90")
    with tiles(*sizes):
        device = athanor.compile(model, target.name, precision=precision).metadata["device"]
    (launch,) = [
        launch
        for kernel in device["kernels"].values()
        if kernel["rule"] == "CUDAMatmul"
        for launch in kernel["launches"]
    ]
    for image in device["images"][:2]:
        used = image["functions"][launch["function"]]
        assert used["stack_bytes"] == 0
        assert used["registers"] * int(launch["extents"][3]) <= 65536
    assert 32 * 1024 <= launch["shared_bytes"] <= target.gpu.shared_bytes


@needs_compiler
def test_the_image_for_sm_90a_has_products_of_warpgroups():
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["y"])],
        "g",
        [
            value("a", TensorProto.FLOAT16, [4096, 1024]),
            value("b", TensorProto.FLOAT16, [1024, 4096]),
        ],
        [value("y", TensorProto.FLOAT16, [4096, 4096])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])
    artifact = athanor.compile(model, "cuda -arch=sm_90a", keep_ir=True)
    device = artifact.metadata["device"]
    # Bound to its architecture, so no PTX, and all of its shared memory.
    assert [image["architecture"] for image in device["images"]] == ["sm_90a"]
    (used,) = device["images"][0]["functions"].values()
    (kernel,) = device["kernels"].values()
    assert kernel["launches"][0]["shared_bytes"] > 99 * 1024
    assert used["stack_bytes"] == 0
    assert used["registers"] * 256 <= 65536
    source = artifact.metadata["ir"]["cuda"]
    ptx = cuda_images.device_image(source, "compute_90a").data.decode()
    assert "wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16" in ptx
    assert "mma.sync.aligned" not in ptx
    plain = cuda_images.device_image(source, "compute_90").data.decode()
    assert "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32" in plain
    assert "wgmma" not in plain
