"""Compiled kernels, kept in the user's cache folder from one compilation to the next.

An entry is one file: a line of JSON, the kernel's unscheduled TIR, its object code. Its name is a
hash of the TIR's structure, the target and all that turns the one into the other, so a kernel of
another model is found too, and one of another version of the rules never is. The structural hash
has 64 bits; what decides is that the TIR is equal.

Processes share the folder without locks: an entry appears whole, by rename, and is never changed;
one that is gone, cut short or damaged counts as not there. When the folder outgrows its limit, the
entries that were not used for longest go.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import tvm
import tvm_ffi
from tvm import tirx

import athanor
from athanor.compiler.user_cache import user_cache
from athanor.compiler.write_aside import OutputError, write_aside
from athanor.schedules.decisions import Decisions
from athanor.targets import TargetSpec

LIMIT_BYTES = 512 << 20
"""Size of the folder past which old entries go: some 50,000 kernels."""
_KEPT = 0.75
"""Part of the limit that is left then, so that it does not happen at every compilation."""
_RECIPE_FOLDERS = ("schedules", "targets")
"""Packages whose sources decide what object code a kernel becomes."""


@dataclass(frozen=True)
class CachedKernel:
    """A kernel as an earlier compilation left it."""

    object_code: bytes
    rule: str
    """The schedule rule that made it."""


class KernelCache:
    """The kernels of one target; `folder` None finds nothing and keeps nothing."""

    def __init__(self, target: TargetSpec, folder: Path | None) -> None:
        self.folder = folder
        self.context = f"{_recipe()} {target}"
        self.stored = False

    def key(self, stem: str, func: tirx.PrimFunc, decisions: Decisions | None = None) -> str:
        """20 hexadecimal digits; stem: the part of the symbol that names the kernel.

        decisions: those that a tuner made in place of the rule.
        """
        text = f"{self.context} {stem} {tvm_ffi.structural_hash(func)}"
        if decisions is not None:
            text += f" {decisions}"
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def find(self, key: str, func: tirx.PrimFunc) -> CachedKernel | None:
        """The kernel, if an equal one was compiled before."""
        if self.folder is None:
            return None
        path = self._path(self.folder, key)
        try:
            data = path.read_bytes()
            head, _, rest = data.partition(b"\n")
            entry = json.loads(head)
            if hashlib.sha256(rest).hexdigest() != entry["sha256"]:
                return None
            text = zlib.decompress(rest[: entry["tir_bytes"]]).decode()
            if text != tvm.ir.save_json(func):  # else it is equal, and needs no loading
                if not tvm_ffi.structural_equal(tvm.ir.load_json(text), func):
                    return None
            os.utime(path)  # used just now
        except (OSError, ValueError, KeyError, TypeError, zlib.error):
            return None
        return CachedKernel(rest[entry["tir_bytes"] :], entry["rule"])

    def store(self, key: str, func: tirx.PrimFunc, kernel: CachedKernel) -> None:
        """Keep a kernel; a folder that can't be written costs time the next time, no more."""
        if self.folder is None:
            return
        text = zlib.compress(tvm.ir.save_json(func).encode(), 1)
        rest = text + kernel.object_code
        entry = {
            "rule": kernel.rule,
            "tir_bytes": len(text),
            "sha256": hashlib.sha256(rest).hexdigest(),
        }
        path = self._path(self.folder, key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with write_aside(path) as file:
                file.write(json.dumps(entry).encode() + b"\n" + rest)
            self.stored = True
        except (OSError, OutputError):
            return

    def prune(self, limit_bytes: int = LIMIT_BYTES) -> None:
        """Where this compilation added entries: bring the folder below its limit."""
        if self.folder is None or not self.stored:
            return
        entries = []
        for path in self.folder.glob("??/*"):
            try:
                status = path.stat()
            except OSError:
                continue  # another process was faster
            entries.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in entries)
        if total <= limit_bytes:
            return
        for _, size, path in sorted(entries):
            if total <= limit_bytes * _KEPT:
                break
            path.unlink(missing_ok=True)
            total -= size

    @staticmethod
    def _path(folder: Path, key: str) -> Path:
        return folder / key[:2] / key[2:]


def kernel_cache(target: TargetSpec, enabled: bool = True) -> KernelCache:
    """The user's cache of kernels for `target`; not enabled: one that is always empty."""
    base = user_cache() if enabled else None
    return KernelCache(target, None if base is None else base / "kernels")


@functools.cache
def _recipe() -> str:
    """A hash of versions and of the sources that schedule and lower kernels."""
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    versions = (athanor.__version__, tvm.__version__, tvm.target.codegen.llvm_version_major())
    digest.update(repr(versions).encode())
    for name in _RECIPE_FOLDERS:
        for path in sorted((package / name).rglob("*.py")):
            digest.update(path.relative_to(package).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
