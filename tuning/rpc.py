"""Measures on devices that have registered with a tracker of TVM's RPC.

Each piece of the candidates becomes a program (program.py), which a session uploads and runs. A
device that dies or hangs is not asked again.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import queue
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from athanor.errors import CompileError
from athanor.targets import TargetSpec
from athanor.tuning.local import measure_linkable
from athanor.tuning.measure import Candidate, Measurement, is_lost
from athanor.tuning.options import Options
from athanor.tuning.program import build_launcher, link_program, measure_libraries
from athanor.tuning.results import Head, ResultsError, read_head, read_measurements
from athanor.tuning.spread import NoPlaceError, PlaceLostError, spread
from athanor.tuning.tracker import Device, Tracker

_CONNECT_SECS = 10.0
"""A device that has not answered by then is taken for dead."""
_WAIT_SECS = 30.0
"""How long to wait for a device where all that are left are lent to others, or none is left."""
_START_SECS = 60.0
_STEP_SECS = 0.1


class TrackerMeasurer:
    """A Measurer on the devices of one key, which should be alike. Raises CompileError."""

    def __init__(
        self,
        target: TargetSpec,
        tracker: str,
        key: str,
        threads: int | None = None,
        wait_secs: float = _WAIT_SECS,
        connect_secs: float = _CONNECT_SECS,
    ) -> None:
        self.target, self.key = target, key
        self.wait_secs, self.connect_secs = wait_secs, connect_secs
        self.dropped: dict[str, str] = {}
        """Devices that are not asked again, HOST:PORT, and why."""
        self._tracker = Tracker(tracker)
        self._folder = tempfile.TemporaryDirectory(prefix="athanor-rpc-")
        self._sessions: queue.LifoQueue[_Session] = queue.LifoQueue()
        self._all_sessions: list[_Session] = []
        self._lock = threading.Lock()
        if not self._tracker.devices(key):
            raise CompileError(
                f"no device is registered under the key {key!r} at the tracker {tracker}; its keys "
                f"are {self._tracker.keys()}"
            )
        try:
            head = self._probe(Options(threads or 1))
        except BaseException:
            self.close()
            raise
        self.threads = threads or head.cores
        self.cpu: str | None = head.cpu

    def _probe(self, options: Options) -> Head:
        """What a device says of itself."""
        try:
            return self._run([], options)[0]
        except (NoPlaceError, PlaceLostError) as error:
            raise CompileError(f"can't measure under the key {self.key!r}: {error}") from error

    @functools.cached_property
    def _parts(self) -> tuple[list[Path], Path]:
        """The measuring program without its table, and the launcher."""
        folder = Path(self._folder.name)
        return measure_libraries(folder, self.target), build_launcher(folder, self.target)

    def measure(
        self,
        candidates: Sequence[Candidate],
        *,
        repeats: int = 20,
        limit_secs: float = math.inf,
        timeout_secs: float = 10.0,
        interleaved: bool = False,
    ) -> Iterator[Measurement]:
        """See Measurer."""
        options = Options(self.threads, repeats, limit_secs, timeout_secs, interleaved)
        places = max(1, len(set(self._tracker.devices(self.key)) - set(self.dropped)))
        yield from measure_linkable(
            candidates,
            lambda good: spread(
                good, lambda piece: self._run(piece, options)[1], places, interleaved
            ),
        )

    def _run(
        self, candidates: Sequence[Candidate], options: Options
    ) -> tuple[Head, list[Measurement]]:
        """On any device. Raises PlaceLostError, NoPlaceError."""
        with self._lock:
            libraries, launcher = self._parts
        with tempfile.TemporaryDirectory(dir=self._folder.name) as folder:
            program = link_program(candidates, Path(folder), libraries, self.target)
            request = {
                "timeout_secs": options.most_secs(len(candidates)),
                "program": str(program.path),
                "launcher": str(launcher),
                "options": options.words(),
            }
            session = self._session()  # first of all: a lent device waits some seconds only
            while True:
                device = self._device()
                request["address"] = [device.host, device.port]
                request["matchkey"] = device.matchkey
                try:
                    answer = session.ask(request, self.connect_secs)
                    if "stale" in answer:
                        continue  # the device is free again, by another matchkey
                    head, measurements = _read(answer, program.bundle, len(candidates))
                except PlaceLostError as error:
                    session.end()
                    self.dropped[device.address] = str(error)
                    raise PlaceLostError(f"device {device.address}: {error}") from error
                self._sessions.put(session)
                return head, measurements

    def _device(self) -> Device:
        """A free device that was not dropped. Raises NoPlaceError."""
        deadline = time.monotonic() + self.wait_secs
        while True:
            try:
                device = self._tracker.request(self.key)
            except CompileError as error:
                raise NoPlaceError(str(error)) from error
            if device is not None and device.address not in self.dropped:
                return device
            if time.monotonic() > deadline:
                break
            if device is None:
                time.sleep(0.05)
        lost = "; ".join(f"{address} was dropped: {why}" for address, why in self.dropped.items())
        raise NoPlaceError(
            f"no device under the key {self.key!r} was free for {self.wait_secs:.0f} s"
            + (f" ({lost})" if lost else "")
        )

    def _session(self) -> _Session:
        with contextlib.suppress(queue.Empty):
            return self._sessions.get_nowait()
        session = _Session()
        self._all_sessions.append(session)
        return session

    def close(self) -> None:
        """End the sessions; twice is harmless."""
        for session in self._all_sessions:
            session.end()
        self._folder.cleanup()


class _Session:
    """A process of rpc_session.py."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "athanor.tuning.rpc_session"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # TVM's notices of what it transfers
            start_new_session=True,  # Ctrl-C is for the job
        )
        self._rest = b""
        assert self._answer(_START_SECS) == {"ready": True}

    def ask(self, request: dict[str, Any], connect_secs: float) -> dict[str, Any]:
        """Raises PlaceLostError."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # reading tells
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        answer = self._answer(connect_secs)
        if answer == {"connected": True}:
            answer = self._answer(connect_secs + request["timeout_secs"])
        if "lost" in answer:
            raise PlaceLostError(answer["lost"])
        return answer

    def _answer(self, timeout_secs: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        waited_secs = 0.0  # in steps: the time that this machine was asleep does not count
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                if not selector.select(_STEP_SECS):
                    waited_secs += _STEP_SECS
                    if waited_secs < timeout_secs:
                        continue
                    raise PlaceLostError(f"it did not answer for {timeout_secs:.0f} s")
                piece = os.read(self._process.stdout.fileno(), 65536)
                if not piece:
                    raise PlaceLostError("the session's process ended")
                self._rest += piece
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def end(self) -> None:
        """Kill the process; twice is harmless."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _read(answer: dict[str, Any], bundle: str, count: int) -> tuple[Head, list[Measurement]]:
    """Raises PlaceLostError where these are no results."""
    if answer["code"] != 0:
        said = answer["messages"].strip() or "is it of the target's architecture?"
        raise PlaceLostError(f"the measuring program ended with {answer['code']}: {said}")
    first, *lines = answer["results"].splitlines(keepends=True)
    try:
        head, measurements = read_head(first), list(read_measurements(lines))
    except ResultsError as error:
        raise PlaceLostError(str(error)) from error
    if head.bundle != bundle or len(measurements) != count:
        raise PlaceLostError("it sent other results than was asked for")
    lost = [result.error.sentence for result in measurements if result.error and is_lost(result)]
    if lost and len(lost) == count:
        raise PlaceLostError(lost[0])
    return head, measurements
