"""Devices behind a tracker: real tracker, real servers, one killed, one that hangs."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time

import pytest

from athanor.errors import CompileError
from athanor.targets import find_target
from athanor.tuning.database import TRIAL, Database
from athanor.tuning.job import tune
from athanor.tuning.measure import CRASH, DEVICE_LOST
from athanor.tuning.rpc import TrackerMeasurer
from athanor.tuning.tracker import Tracker

from .c_kernels import GOOD, make_candidate
from .models import matmul

pytest.importorskip("tornado", reason="TVM's tracker needs it: pip install 'athanor[tracker]'")
TARGET = find_target("native")


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def start(*words):
    """A program of TVM's, with all the processes that it makes in one group."""
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def kill(process):
    os.killpg(process.pid, signal.SIGKILL)


def register(tracker, port):
    """Register a device as TVM's server does; closing the connection takes it back."""
    host, _, tracker_port = tracker.partition(":")
    connection = socket.create_connection((host, int(tracker_port)), 10)
    connection.sendall(struct.pack("<i", 0x2F271))
    connection.recv(4)
    info = {"key": "server:board", "addr": [None, port]}
    for message in ([5, info], [3, "board", [port, "board:1"], None]):
        text = json.dumps(message).encode()
        connection.sendall(struct.pack("<i", len(text)) + text)
        connection.recv(64)
    return connection


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def farm():
    """A tracker and three servers: its address, and the servers' processes by their address."""
    port, *server_ports = free_ports(4)
    address = f"127.0.0.1:{port}"
    host = ("--host", "127.0.0.1", "--port")
    processes = [start("tvm.exec.rpc_tracker", *host, port, "--port-end", port + 1)]
    tracker = Tracker(address)

    def answers():
        try:
            tracker.keys()
        except CompileError:
            return False
        return True

    try:
        wait_until(answers)
        servers = {}
        for server_port in server_ports:
            words = ("--port-end", server_port + 1, "--tracker", address, "--key", "board")
            servers[f"127.0.0.1:{server_port}"] = start(
                "tvm.exec.rpc_server", *host, server_port, *words
            )
        processes += servers.values()
        wait_until(lambda: tracker.free("board") == 3)
        yield address, servers
    finally:
        for process in processes:
            try:
                kill(process)
            except ProcessLookupError:
                pass
            process.wait()


def test_a_job_outlives_one_of_three_devices(farm, tmp_path):
    """Each candidate is measured once, wherever, and recorded."""
    address, servers = farm
    killed = []

    def kill_one(report):
        if report.trials >= 4 and not killed:
            killed.append(list(servers)[-1])
            kill(servers[killed[0]])

    measurer = TrackerMeasurer(TARGET, address, "board", connect_secs=5)
    assert len(set(measurer._tracker.devices("board"))) == 3
    options = {"measurer": measurer, "on_progress": kill_one, "choices": False}
    report = tune(matmul(), database=tmp_path, trials=14, **options)
    measurer.close()
    assert killed and report.trials == 14 and report.stage == "all trials are used"
    records = Database(tmp_path).records(TRIAL)
    assert len({tuple(record["values"]) for record in records}) == 14 == len(records)
    assert not [record["error"] for record in records if "error" in record]
    assert set(measurer.dropped) <= set(killed)


def test_devices_measure_and_a_killed_and_a_hung_one_are_dropped(farm, tmp_path):
    address, servers = farm
    measurer = TrackerMeasurer(TARGET, address, "board", connect_secs=5)
    assert measurer.threads == os.cpu_count() and measurer.cpu
    good = make_candidate(tmp_path, GOOD)
    bad = make_candidate(tmp_path, "abort();")
    results = list(measurer.measure([good, bad] * 6, repeats=3))
    assert [r.error and r.error.kind for r in results] == [None, CRASH] * 6
    assert all(len(r.seconds) == 3 for r in results[::2])

    # one dies while it measures
    slow = make_candidate(tmp_path, GOOD + "if (!i) usleep(100000);")
    killed, process = next(iter(servers.items()))
    measured = measurer.measure([slow] * 12, repeats=3)
    first = next(measured)
    kill(process)
    results = [first, *measured]
    assert all(r.error is None for r in results)

    # and one accepts connections, and then hangs
    with socket.create_server(("127.0.0.1", 0)) as hung:
        hung_address = f"127.0.0.1:{hung.getsockname()[1]}"
        connection = register(address, hung.getsockname()[1])
        results = list(measurer.measure([good] * 8, repeats=3))
        connection.close()
    assert all(r.error is None for r in results)
    assert hung_address in measurer.dropped and set(measurer.dropped) <= {hung_address, killed}

    # the finalists are measured in turn by one device
    pair = list(measurer.measure([good, slow], repeats=3, interleaved=True))
    assert [len(r.seconds) for r in pair] == [3, 3]
    measurer.close()
    measurer.close()


def test_when_no_device_is_left_the_rest_are_told_so(farm, tmp_path):
    address, servers = farm
    measurer = TrackerMeasurer(TARGET, address, "board", wait_secs=1, connect_secs=2)
    for process in servers.values():
        kill(process)
    good = make_candidate(tmp_path, GOOD)
    results = list(measurer.measure([good, good], repeats=3))
    assert [r.error.kind for r in results] == [DEVICE_LOST] * 2
    assert "no device under the key 'board' was free for 1 s" in results[0].error.sentence
    measurer.close()


def test_an_unknown_key_is_named(farm):
    with pytest.raises(CompileError, match="no device is registered under the key 'watch'"):
        TrackerMeasurer(TARGET, farm[0], "watch")


def test_a_tracker_that_is_not_there():
    (port,) = free_ports(1)
    with pytest.raises(CompileError, match=r"can't use the tracker at .*: .*refused"):
        TrackerMeasurer(TARGET, f"127.0.0.1:{port}", "board")
    for text in ("localhost", ":9190", "host:port"):
        with pytest.raises(CompileError, match="expected HOST:PORT"):
            Tracker(text)


@pytest.mark.parametrize(
    ("answer", "why"), [(b"HTTP/1.1 400", "is no tracker"), (b"", "hung up"), (None, "not answer")]
)
def test_something_else_at_that_port(answer, why):
    with socket.create_server(("127.0.0.1", 0)) as server:
        tracker = Tracker(f"127.0.0.1:{server.getsockname()[1]}", timeout_secs=0.3)
        server.settimeout(0.1)
        import threading

        def serve():
            try:
                connection, _ = server.accept()
            except TimeoutError:
                return
            connection.recv(4)  # or closing resets the connection
            if answer is None:
                time.sleep(0.6)
            else:
                connection.sendall(answer)
            connection.close()

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(CompileError, match=why):
            tracker.keys()
        thread.join()
