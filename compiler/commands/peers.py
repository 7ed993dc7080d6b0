"""Other runtimes that a model is compared with; optional, imported on use."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from athanor.errors import RunError

Runner = Callable[[Mapping[str, np.ndarray]], list[Any]]
"""Inputs by name -> outputs in the model's order; a sequence is a list."""


def onnxruntime(model: Path, threads: int | None) -> Runner:
    """ONNX Runtime on the CPU with its own default optimizations."""
    try:
        import onnxruntime as ort
    except ImportError:
        raise _missing("onnxruntime") from None
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no narrower base class
        raise RunError(f"onnxruntime can't load {model}: {_first_line(error)}") from error

    def run(feeds: Mapping[str, np.ndarray]) -> list[Any]:
        try:
            outputs = session.run(None, dict(feeds))
            return [x if isinstance(x, list) or x is None else np.asarray(x) for x in outputs]
        except Exception as error:
            raise RunError(f"onnxruntime can't run {model}: {_first_line(error)}") from error

    return run


def openvino(model: Path, threads: int | None, precision: str = "f32") -> Runner:
    """OpenVINO on the CPU, tuned for latency; precision: its INFERENCE_PRECISION_HINT."""
    try:
        import openvino as ov
    except ImportError:
        raise _missing("openvino") from None
    core = ov.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads or usable_cores(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
    }
    try:
        compiled = core.compile_model(core.read_model(str(model)), "CPU", settings)
    except RuntimeError as error:
        raise RunError(f"openvino can't load {model}: {_first_line(error)}") from error
    request = compiled.create_infer_request()
    names = [port.get_any_name() for port in compiled.inputs]

    def run(feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        request.infer({name: feeds[name] for name in names}, share_inputs=True)
        count = len(compiled.outputs)
        return [request.get_output_tensor(index).data.copy() for index in range(count)]

    return run


PEERS: dict[str, Callable[[Path, int | None], Runner]] = {
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "openvino-bf16": partial(openvino, precision="bf16"),
}


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _missing(name: str) -> RunError:
    return RunError(f"{name} is not installed; install it with: pip install 'athanor[{name}]'")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
