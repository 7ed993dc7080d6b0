"""Athanor as a backend of ONNX's own test suite."""

from typing import Any

import onnx
from onnx.backend.base import Backend, BackendRep, Device, DeviceType, namedtupledict

import athanor


class AthanorRep(BackendRep):
    """A compiled model with the suite's calling convention."""

    def __init__(self, compiled: athanor.Model) -> None:
        self.compiled = compiled

    def run(self, inputs: Any, **_options: Any) -> tuple[Any, ...]:
        names = [spec.name for spec in self.compiled.inputs]
        inputs = [
            onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
            for value in inputs
        ]
        outputs = self.compiled.run(dict(zip(names, inputs, strict=True)))
        return namedtupledict("Outputs", list(outputs))(*outputs.values())


class AthanorBackend(Backend):
    """Compiles each model of the suite whole way: compile, link, load, run."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **_options: Any) -> AthanorRep:
        return AthanorRep(athanor.compile(model).load(threads=1))

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return Device(device).type == DeviceType.CPU
