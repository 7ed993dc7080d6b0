"""A model that runs."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

import numpy as np

from athanor.errors import RunError
from athanor.runtime.arguments import Arguments, as_buffer
from athanor.runtime.device_tensor import DeviceTensor
from athanor.runtime.dlpack import Imported, stream_number
from athanor.runtime.fast_call import Call, fast_call
from athanor.runtime.handle import Handle
from athanor.runtime.library import CUDA_GRAPH, DeviceInfo, SessionOptions, check, library
from athanor.runtime.profile import EventRecorder, Profile
from athanor.runtime.spec import TensorSpec
from athanor.runtime.values import Values

Outputs = Literal["host", "device"] | Mapping[str, Any]
"""Where the results of a run go; see Model.run."""


class Model:
    """A compiled model and the memory to run it, from `athanor.load` or `Artifact.load`.

    Threads: a Model runs one call at a time; calls from several threads wait for each other. For
    runs at the same time give each thread its own `new_session()`: they share weights and code.
    All models of the process share one pool of worker threads.

    Memory: NumPy arrays and whatever has `__dlpack__` are read in place during the call, without a
    copy, if they are dense and row-major (else they are copied). Results belong to the caller; once
    the caller has dropped them, their memory may be used for the results of a later run. The
    artifact's file is mapped: replace it by rename, never in place.

    GPU: tensors on the session's GPU (torch, CuPy, all with `__dlpack__`) are read in place, too,
    after what their owner still computes. A run returns when its results are there. With a stream
    of the caller's, and all tensors on the GPU, it returns when the work is queued: hold inputs
    that were made on another stream until it is done.
    """

    def __init__(
        self,
        handle: Handle,
        threads: int | None = None,
        device: int = 0,
        stream: Any = None,
        cuda_graph: bool = False,
    ) -> None:
        if threads is not None and (not isinstance(threads, int) or threads < 1):
            raise RunError(f"threads is {threads!r}, expected a positive number or None")
        self._lock = threading.Lock()
        self._handle: Handle | None = handle
        self._threads = threads
        self._device = device
        self._cuda_graph = cuda_graph
        self._session: ctypes.c_void_p | None = None
        self._keep_alive: Any = None  # the folder of an artifact that was not saved
        self._ins, self._outs = Values(handle, "input"), Values(handle, "output")
        self.inputs: tuple[TensorSpec, ...] = self._ins.specs
        self.outputs: tuple[TensorSpec, ...] = self._outs.specs
        self._input_names = [spec.name for spec in self.inputs]
        self._output_names = [spec.name for spec in self.outputs]
        self._arguments = Arguments(self._ins.tensors)
        self._asked = Arguments(self._outs.tensors)
        self._results = Arguments(self._outs.tensors)
        self._is_planned = False
        self._fast: Call | None = None
        self._runs_of_shapes = 0
        self._run = library().athanor_session_run
        options = SessionOptions(
            ctypes.sizeof(SessionOptions),
            threads or 0,
            device=device,
            stream=stream_number(stream),
            flags=CUDA_GRAPH if cuda_graph else 0,
        )
        session = ctypes.c_void_p()
        check(
            library().athanor_session_create(
                handle.pointer, ctypes.byref(options), ctypes.byref(session)
            )
        )
        self._session = session
        self._stream: int | None = library().athanor_session_stream(session)
        self._stream_object = stream  # its owner may hold it nowhere else

    @property
    def metadata(self) -> dict[str, Any]:
        """What the artifact says of itself: versions, hashes, target, kernels and sizes."""
        return self._alive()[0].metadata()

    @property
    def device_info(self) -> dict[str, Any]:
        """What the GPU is that the model runs on: name, capability, clocks in kHz, sizes in bytes.

        Raises RunError for a model for the CPU.
        """
        info = DeviceInfo(size_bytes=ctypes.sizeof(DeviceInfo))
        with self._lock:
            check(library().athanor_session_device_info(self._alive()[1], ctypes.byref(info)))
        fields = [field[0] for field in DeviceInfo._fields_ if field[0] != "size_bytes"]
        values = {name: getattr(info, name) for name in fields}
        return {**values, "name": info.name.decode("utf-8", "replace")}

    def new_session(
        self,
        threads: int | None = None,
        device: int | None = None,
        stream: Any = None,
        cuda_graph: bool | None = None,
    ) -> Model:
        """A Model of the same weights with memory of its own, for another thread.

        threads, device, cuda_graph: None are those of this one. stream: as for `athanor.load`.
        """
        device = self._device if device is None else device
        graph = self._cuda_graph if cuda_graph is None else cuda_graph
        other = Model(self._alive()[0], threads or self._threads, device, stream, graph)
        other._keep_alive = self._keep_alive
        return other

    def run(self, inputs: Mapping[str, Any], outputs: Outputs = "host") -> dict[str, Any]:
        """Run on one array for every input name; the outputs by name, in the model's order.

        A sequence is a list of arrays, an absent optional None.
        outputs: "host", NumPy arrays; "device", of a model for a GPU: DeviceTensors, which stay
        there; or arrays and tensors of your own by name, on the host or the GPU, dense, which are
        written and returned (outputs that you leave out are NumPy arrays).
        Raises RunError, naming the input, what was expected and what was received, where an input
        is missing, unknown, of another type or of another shape.
        """
        fast = self._fast
        if fast is not None and outputs == "host":
            found = fast.run(inputs)
            if found is not None:
                return found
        names = self._input_names
        try:
            values = [inputs[name] for name in names]
        except KeyError:
            values = []
        if len(values) != len(inputs) or len(inputs) != len(names):
            raise _wrong_names("inputs", names, list(inputs))
        return dict(zip(self._output_names, self._execute(values, outputs), strict=True))

    def __call__(self, *arrays: Any, outputs: Outputs = "host") -> Any:
        """Run on the inputs in the model's order; outputs: as of `run`.

        Returns the output itself where the model has one, else a tuple of them in order.
        """
        if len(arrays) != len(self.inputs):
            names = ", ".join(spec.name for spec in self.inputs)
            raise RunError(f"{len(arrays)} inputs given, expected {len(self.inputs)}: {names}")
        fast = self._fast if outputs == "host" else None
        found = None if fast is None else fast.run(dict(zip(self._input_names, arrays)))
        results = self._execute(arrays, outputs) if found is None else list(found.values())
        return results[0] if len(results) == 1 else tuple(results)

    def profile(self, inputs: Mapping[str, Any], runs: int = 20) -> Profile:
        """The times of the model's kernels over `runs` runs, after one that is not counted.

        Results are written to the same memory in every run, as `run` does when its caller drops
        them: kernels that write new pages would take the time in which the system clears these.
        Raises RunError as `run` does, and where the model was not compiled for profiling.
        """
        metadata = self.metadata.get("profile")
        if metadata is None:
            raise RunError(
                "the model was not compiled for profiling: athanor.compile(..., profile=True)"
            )
        values = [inputs.get(spec.name) for spec in self.inputs]
        recorder = EventRecorder()
        results = self.run(inputs)
        kept: Outputs = "host"
        if self._outs.is_numeric:
            shapes = zip(results.items(), self._results.given_shapes, strict=True)
            kept = {name: array for (name, array), shape in shapes if -1 not in shape}
        for _ in range(runs):
            self._execute(values, kept, recorder)
        return Profile(metadata["steps"], recorder.runs)

    def close(self) -> None:
        """Free the memory; runs raise RunError from now on. Closing twice is harmless."""
        with self._lock:
            session, self._session, self._handle = self._session, None, None
            self._forget_shapes()
            if session is not None:
                library().athanor_session_close(session)
            self._stream_object = None

    def __reduce_ex__(self, _protocol: Any) -> Any:
        raise TypeError("a loaded model can't be copied or pickled: use new_session, or load it")

    def _alive(self) -> tuple[Handle, ctypes.c_void_p]:
        handle, session = self._handle, self._session
        if handle is None or session is None:
            raise RunError("the model is closed")
        return handle, session

    def _execute(
        self,
        values: Sequence[Any],
        outputs: Outputs = "host",
        recorder: EventRecorder | None = None,
    ) -> list[Any]:
        arrays = self._ins.split(values, self._stream)
        buffers = self._buffers(outputs)
        with self._lock:
            session = self._alive()[1]
            self._arguments.set_data(arrays)
            if outputs == "device":
                if self._arguments.set_shapes([array.shape for array in arrays]):
                    self._is_planned = False
                return self._run_tensors(session)
            self._plan(session, arrays)
            # A size that only the run tells is in memory of the session, which is copied.
            results: list[Any] = self._results.results()
            for index, (_, buffer) in buffers.items():
                results[index] = buffer
            self._results.set_data(results)
            self._check_buffers(buffers)
            ins, outs = self._arguments.tensors, self._results.tensors
            arguments = (session, ins, len(arrays), outs, len(results))
            check(self._run(*arguments) if recorder is None else recorder.run(*arguments))
            for index, result in enumerate(results):
                if result is None:
                    results[index] = self._results.copy(index)
            for index, (given, _) in buffers.items():
                results[index] = given
            self._runs_of_shapes += 1
            if self._runs_of_shapes == 2 and self._ins.is_plain and self._outs.is_plain:
                shapes = ([array.shape for array in arrays], self._results.given_shapes)
                self._fast = fast_call(
                    session, self._ins.tensors, self._outs.tensors, shapes, self._lock
                )
            # while `arrays` lives: strings of outputs may be those of inputs
            return self._outs.join(results)

    def _run_tensors(self, session: ctypes.c_void_p) -> list[DeviceTensor]:
        """With the lock: results that stay on the GPU."""
        if not self._outs.is_plain:
            raise RunError("sequences and optionals can't stay on the device: leave outputs out")
        count = len(self._outs.tensors)
        made = (ctypes.c_void_p * max(1, count))()
        run = library().athanor_session_run_tensors
        check(run(session, self._arguments.tensors, len(self._ins.tensors), made, count))
        return [DeviceTensor(ctypes.c_void_p(made[index])) for index in range(count)]

    def _buffers(self, outputs: Outputs) -> dict[int, tuple[Any, np.ndarray | Imported]]:
        """What the caller gave for outputs, by their number, and its memory."""
        if isinstance(outputs, str):
            if outputs not in ("host", "device"):
                raise RunError(f"outputs is {outputs!r}, expected 'host', 'device' or a mapping")
            return {}
        if not outputs:
            return {}
        if not self._outs.is_plain:
            raise RunError("a model with sequences or optionals has no outputs to be written to")
        unknown = [name for name in outputs if name not in self._output_names]
        if unknown:
            raise _wrong_names("outputs", self._output_names, list(outputs))
        return {
            index: (outputs[spec.name], as_buffer(spec, outputs[spec.name], self._stream))
            for index, spec in enumerate(self._outs.tensors)
            if spec.name in outputs
        }

    def _check_buffers(self, buffers: Mapping[int, tuple[Any, np.ndarray | Imported]]) -> None:
        """The library sees an output's expected shape alone, so the caller's is checked here."""
        for index, (_, buffer) in buffers.items():
            expected = self._results.given_shapes[index]
            if -1 not in expected and buffer.shape != expected:
                name = self._output_names[index]
                raise RunError(f"output '{name}' has shape {buffer.shape}, expected {expected}")

    def _plan(self, session: ctypes.c_void_p, arrays: Sequence[np.ndarray | Imported]) -> None:
        """Set the outputs' shapes; they stay the same while the inputs' do."""
        changed = self._arguments.set_shapes([array.shape for array in arrays])
        if changed or not self._is_planned:
            self._is_planned = False
            self._forget_shapes()
            ins, outs = self._arguments.tensors, self._asked.tensors
            shapes_of = library().athanor_session_output_shapes
            count, results = len(arrays), len(self._outs.tensors)
            check(shapes_of(session, ins, count, outs, results))
            self._results.set_shapes(self._asked.shapes())
            self._is_planned = True

    def _forget_shapes(self) -> None:
        """With the lock: the next runs are of other shapes, or there are none."""
        fast, self._fast, self._runs_of_shapes = self._fast, None, 0
        if fast is not None:
            fast.close()

    def __del__(self) -> None:
        if getattr(self, "_session", None) is not None:
            self.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _wrong_names(kind: str, expected: Sequence[str], received: Sequence[str]) -> RunError:
    """kind: "inputs", all of which must be there, or "outputs"."""
    is_partial = kind == "outputs"
    missing = [name for name in expected if name not in received and not is_partial]
    extra = [str(name) for name in received if name not in expected]
    faults = [
        f"{what} {', '.join(map(repr, names))}"
        for what, names in (("missing", missing), ("unknown", extra))
        if names
    ]
    wanted = ", ".join(map(repr, expected)) or "none"
    return RunError(f"{kind} don't fit: {'; '.join(faults)}; expected {wanted}")
