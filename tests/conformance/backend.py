"""Athanor as a backend of ONNX's own test suite: models go to worker processes."""

from __future__ import annotations

import subprocess
import sys
import threading
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import onnx
from onnx.backend.base import Backend, BackendRep, Device, DeviceType

LIMIT_SECS = 120
"""Longest time for one compilation or one run."""


class Refused(Exception):
    """The model was refused with a CompileError; str() is its text."""


class Worker:
    """A process of worker.py, started anew when it has died."""

    def __init__(self) -> None:
        ours, theirs = Pipe()
        command = [sys.executable, str(Path(__file__).with_name("worker.py")), str(theirs.fileno())]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()
        self.connection = ours

    def ask(self, request: Any) -> Any:
        """The value of an "ok" answer; Refused, or RuntimeError for anything else."""
        try:
            self.connection.send(request)
            if not self.connection.poll(LIMIT_SECS):
                self.process.kill()
                raise RuntimeError(f"time-out: no answer in {LIMIT_SECS} s")
            outcome, value = self.connection.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError(f"crash: exit status {self.process.wait()}") from error
        if outcome == "ok":
            return value
        raise Refused(value) if outcome == "refused" else RuntimeError(f"error: {value}")

    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self.process.poll() is None

    def close(self) -> None:
        """End the process."""
        self.connection.close()
        self.process.wait()


_local = threading.local()


def worker() -> Worker:
    """This thread's worker."""
    if not hasattr(_local, "worker") or not _local.worker.is_alive():
        _local.worker = Worker()
    return _local.worker


class AthanorRep(BackendRep):
    """The model that this thread's worker has compiled last."""

    def run(self, inputs: Any, **_options: Any) -> tuple[Any, ...]:
        """Outputs in order."""
        return tuple(worker().ask([_array(value) for value in inputs]))


def _array(value: Any) -> Any:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


class AthanorBackend(Backend):
    """Takes each model the whole way: compile, link, load, run."""

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **_options: Any) -> AthanorRep:
        """Compile, link and load; Refused for a CompileError. CUDA is emulated."""
        worker().ask((model.SerializeToString(), device))
        return AthanorRep()

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """The host, and a GPU under emulation."""
        return Device(device).type in (DeviceType.CPU, DeviceType.CUDA)
