"""Tuning records in a folder, one line of JSON each; docs/tuning.md has the format.

Every line is on disk before `append` returns. Processes may write at once: each line is appended
under a lock. A line that a crash cut short is dropped by the next reader and by the next writer.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import json
import os
import warnings
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from athanor.errors import CompileError
from athanor.schedules.decisions import Decisions
from athanor.tuning.workload import workload_key

FORMAT = 1
"""Raised when an older reader would misread a line."""
RECORDS, LOCK = "records.jsonl", "lock"
WORKLOAD, TRIAL, BEST, CHOICE = "workload", "trial", "best", "choice"
"""Kinds of lines: a kernel before scheduling; a candidate's times or failure; what was faster than
the heuristic, or nothing faster than it, when the best were measured in turn; the same of a choice
about the graph."""
UNCONFIRMED = "unconfirmed"
"""Field of a BEST or CHOICE line that says that the job has yet to compare the whole model: it was
stopped before, or is under way."""


class DatabaseWarning(UserWarning):
    """Something of a database could not be used, and was left out."""


class Database:
    """The records in one folder, or in one exported file."""

    def __init__(
        self, folder: str | Path, create: bool = False, without: Collection[str] = ()
    ) -> None:
        """create: make the folder where there is none; without: kinds of lines that are not read.

        Raises CompileError.
        """
        given = Path(folder)
        self.folder, self.path = given, given / RECORDS
        if given.is_file() and not create:
            self.folder, self.path = given.parent, given
        self._left_out = tuple(_start(kind) for kind in without)
        self._forget()
        self._funcs: dict[str, tirx.PrimFunc] = {}
        if create:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                what = error.strerror or error
                raise CompileError(f"can't make the database {folder}: {what}") from error
        if not self.folder.is_dir():
            raise CompileError(
                f"database {str(folder)!r}: there is no such folder; `athanor tune --database` "
                "makes one"
            )
        self.refresh()

    def refresh(self) -> list[dict[str, Any]]:
        """Read what has been appended since, by whomever; returns the new lines."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._read_bytes)
                data = file.read()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CompileError(f"can't read the database {self.path}: {error}") from error
        whole, newline, rest = data.rpartition(b"\n")
        self._read_bytes += len(whole) + len(newline)
        if rest:
            self._warn("the last line is cut short, and left out")
        found = []
        for line in whole.split(b"\n") if whole else []:
            self._line_count += 1
            if line.startswith(self._left_out):
                continue
            entry = self._parse(line, self._line_count)
            if entry is not None:
                found.append(entry)
                self._index(entry)
        self.lines += found
        return found

    def _forget(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self._read_bytes = self._line_count = 0
        self._workloads: dict[str, dict[str, Any]] = {}
        self._by_kind: dict[tuple[str, str | None], list[dict[str, Any]]] = {}

    def _index(self, entry: dict[str, Any]) -> None:
        kind = entry["kind"]
        if kind == WORKLOAD:
            self._workloads.setdefault(entry["key"], entry)
        self._by_kind.setdefault((kind, None), []).append(entry)
        if "workload" in entry:
            self._by_kind.setdefault((kind, entry["workload"]), []).append(entry)

    def _parse(self, line: bytes, number: int) -> dict[str, Any] | None:
        try:
            entry = json.loads(line)
            version = int(entry["format"])
            str(entry["kind"])
        except (ValueError, KeyError, TypeError):
            self._warn(f"line {number} is damaged, and left out")
            return None
        if version > FORMAT:
            raise CompileError(
                f"{self.path} has format {version}, and this version of Athanor reads up to "
                f"{FORMAT}: update Athanor, or use another database"
            )
        return entry

    def _warn(self, what: str) -> None:
        warnings.warn(f"database {self.path}: {what}", DatabaseWarning, stacklevel=4)

    # Writing

    def append(self, kind: str, **fields: Any) -> None:
        """Add a line, and wait until the disk has it. Raises CompileError where that fails."""
        entry = {"kind": kind, "format": FORMAT, **fields}
        line = _line(entry)
        try:
            with self._locked(), self.path.open("r+b" if self.path.exists() else "w+b") as file:
                end = _whole_bytes(file)
                file.seek(end)
                file.truncate()
                try:
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(end)
                    raise
        except OSError as error:
            help = "; free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise CompileError(
                f"can't write to the database {self.path}: {error.strerror or error}{help}. "
                "The records so far are kept"
            ) from error
        self.refresh()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.folder / LOCK).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield  # closing the file releases the lock, so does the end of the process

    def add_workload(self, func: tirx.PrimFunc, label: str) -> str:
        """Make sure that the kernel is in the database; its key."""
        key = workload_key(func)
        if key not in self._workloads:
            text = base64.b64encode(zlib.compress(tvm.ir.save_json(func).encode())).decode()
            self.append(WORKLOAD, key=key, label=label, tir=text)
        return key

    def rewrite(self, lines: list[dict[str, Any]]) -> None:
        """Replace all lines; the file changes whole or not at all. Other jobs must not run."""
        aside = self.path.with_suffix(".new")
        try:
            with self._locked():
                with aside.open("wb") as file:
                    for line in lines:
                        file.write(_line(line))
                    file.flush()
                    os.fsync(file.fileno())
                aside.replace(self.path)
        except OSError as error:
            raise CompileError(f"can't rewrite {self.path}: {error.strerror or error}") from error
        self._forget()
        self.refresh()

    # Reading

    def records(self, kind: str, workload: str | None = None) -> list[dict[str, Any]]:
        """The lines of a kind, in order."""
        return list(self._by_kind.get((kind, workload), ()))

    def is_same(self, key: str, func: tirx.PrimFunc) -> bool:
        """Whether the workload of that key is this kernel: keys are hashes."""
        if key not in self._workloads:
            return False  # its line was damaged
        if key not in self._funcs:
            text = zlib.decompress(base64.b64decode(self._workloads[key]["tir"])).decode()
            # Equal text needs no loading, which takes five times as long as saving.
            same = text == tvm.ir.save_json(func)
            self._funcs[key] = func if same else tvm.ir.load_json(text)
        return tvm_ffi.structural_equal(self._funcs[key], func)


def decisions_of(record: dict[str, Any]) -> Decisions:
    """The decisions of a TRIAL or BEST line."""
    return Decisions(str(record["rule"]), tuple(int(value) for value in record["values"]))


def _line(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


def _start(kind: str) -> bytes:
    """How a line of that kind begins, in the format that this version writes."""
    return _line({"kind": kind, "format": FORMAT})[:-2] + b","


def _whole_bytes(file: Any) -> int:
    """Where the last whole line ends."""
    size = file.seek(0, os.SEEK_END)
    position = size
    while position > 0:
        start = max(0, position - 65536)
        file.seek(start)
        newline = file.read(position - start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0
