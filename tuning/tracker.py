"""TVM's RPC tracker, as one that asks for devices sees it: a socket with a time limit.

The protocol is that of tvm/rpc/base.py: after a magic number, a length and JSON in each direction.
TVM's own client waits a minute for a tracker that is not there, and forever for a device.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from dataclasses import dataclass
from typing import Any

from athanor.errors import CompileError

_MAGIC = 0x2F271
_SUCCESS, _REQUEST, _SUMMARY = 0, 4, 6
_TIMEOUT_SECS = 5.0


@dataclass(frozen=True)
class Device:
    """A device that the tracker has lent: once, for one session."""

    host: str
    port: int
    matchkey: str

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"{self.host}:{self.port}"


class Tracker:
    """The tracker at HOST:PORT. Raises CompileError where it can't be reached."""

    def __init__(self, address: str, timeout_secs: float = _TIMEOUT_SECS) -> None:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise CompileError(f"tracker: expected HOST:PORT, got {address!r}")
        self.address = address
        self.host, self.port = host.strip("[]"), int(port)
        self.timeout_secs = timeout_secs

    def devices(self, key: str) -> list[str]:
        """HOST:PORT of all devices that are registered under the key, busy ones too."""
        summary = self._ask([_SUMMARY])
        found = []
        for server in summary["server_info"]:
            if server["key"] == f"server:{key}":
                host, port = server["addr"]
                found.append(f"{host or self.host}:{port}")
        return sorted(found)

    def keys(self) -> list[str]:
        """All keys that devices are registered under."""
        servers = self._ask([_SUMMARY])["server_info"]
        return sorted({str(server["key"]).partition(":")[2] for server in servers})

    def free(self, key: str) -> int:
        """How many devices could be lent at once."""
        return int(self._ask([_SUMMARY])["queue_info"].get(key, {"free": 0})["free"])

    def request(self, key: str) -> Device | None:
        """A free device, or None where there is none for now."""
        if not self.free(key):
            return None
        try:
            host, port, matchkey = self._ask([_REQUEST, key, "", 1])
        except TimeoutError:  # somebody else was faster
            return None
        return Device(host, int(port), matchkey)

    def _ask(self, question: list[Any]) -> Any:
        try:
            with socket.create_connection((self.host, self.port), self.timeout_secs) as connection:
                connection.sendall(struct.pack("<i", _MAGIC))
                if struct.unpack("<i", _receive(connection, 4)) != (_MAGIC,):
                    raise ValueError("it answers, but is no tracker of TVM")
                text = json.dumps(question).encode()
                connection.sendall(struct.pack("<i", len(text)) + text)
                (size,) = struct.unpack("<i", _receive(connection, 4))
                answer = json.loads(_receive(connection, size))
        except TimeoutError:
            if question[0] == _REQUEST:
                raise
            raise self._unreachable("it does not answer") from None
        except (OSError, ValueError) as error:
            raise self._unreachable(error) from error
        if isinstance(answer, list) and answer and answer[0] == _SUCCESS:
            return answer[1]
        raise self._unreachable(f"it answers {answer!r}")

    def _unreachable(self, why: object) -> CompileError:
        return CompileError(
            f"can't use the tracker at {self.address}: {why}. Start it with `python -m "
            "tvm.exec.rpc_tracker --host 127.0.0.1 --port PORT`, and devices with `python -m "
            "tvm.exec.rpc_server --tracker HOST:PORT --key KEY`"
        )


def _receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        with contextlib.suppress(InterruptedError):
            piece = connection.recv(size - len(data))
            if not piece:
                raise ValueError("it hung up")
            data += piece
    return data
