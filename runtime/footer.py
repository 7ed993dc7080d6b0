"""Write an artifact: the linked library, and behind it the weights, the metadata and the footer.

The layout is that of include/athanor_abi.h. Needs the standard library alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import struct
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from athanor.errors import CompileError

ABI_VERSION = 3
MAGIC = b"ATHANOR\1"
WEIGHTS_BESIDE = 1
WEIGHTS_SUFFIX = ".weights"
"""What is appended to an artifact's name for the file of weights beside it."""
FOOTER = struct.Struct("<4I5Q32s32s32s64s256s32s8s")
"""AthanorFooter: version, footer bytes, flags, 0; code bytes, weights offset, weights bytes,
metadata offset, metadata bytes; hashes of code, weights, metadata; triple, CPU features; hash of
all before it; magic."""
_HASHED = struct.calcsize("<4I5Q32s32s32s64s256s")

_PAGE_BYTES = {"x86_64": 4096}
"""Largest page of Linux by processor family; elsewhere 64 KiB."""

Pieces = Iterable[bytes | bytearray | memoryview] | Path


def append_payload(
    elf: Path,
    weights: Pieces,
    metadata: dict[str, Any],
    triple: str,
    cpu_features: Sequence[str],
    output: Path,
    weights_beside: bool = False,
    weights_hash: bytes | None = None,
) -> None:
    """Write the artifact `output` from the shared object `elf`.

    weights: the bytes, piece by piece, or a file of them; they are streamed, never held.
    metadata: written as JSON. cpu_features: names as in /proc/cpuinfo. weights_beside: weights go
    to `<output>.weights`, and the artifact holds their size and hash. weights_hash: what
    `hash_pieces` gives for the weights, where the caller had time to find it before.
    The files appear whole or not at all. Raises CompileError where they can't be written, and
    where the triple or the features are longer than their fields.
    """
    names = _field(triple, 64, "target triple"), _field(" ".join(cpu_features), 256, "CPU features")
    beside = output.with_name(output.name + WEIGHTS_SUFFIX)
    written: dict[Path, Path] = {}  # file aside -> its final name
    try:
        aside = _aside(output, written)
        with contextlib.ExitStack() as files:
            file = files.enter_context(aside.open("wb"))
            code_bytes, code_hash = _copy(elf, file)
            if weights_beside:
                weights_file = files.enter_context(_aside(beside, written).open("wb"))
                offset, flags = 0, WEIGHTS_BESIDE
            else:
                weights_file = file
                offset, flags = _pad_to_page(file, triple), 0
            weights_bytes, weights_hash = _copy(weights, weights_file, weights_hash)
            metadata_offset = file.tell()
            text = json.dumps(metadata, ensure_ascii=False, separators=(",", ":")).encode()
            file.write(text)
            sizes = (code_bytes, offset, weights_bytes, metadata_offset, len(text))
            hashes = (code_hash, weights_hash, hashlib.sha256(text).digest())
            file.write(_footer(flags, sizes, hashes, names))
        aside.chmod(0o755)
        # The weights first: who sees the new artifact finds them.
        for path, final in reversed(written.items()):
            path.replace(final)
    except OSError as error:
        raise CompileError(f"can't write {output}: {error.strerror or error}") from error
    finally:
        for path in written:
            path.unlink(missing_ok=True)


def _field(text: str, size_bytes: int, what: str) -> bytes:
    encoded = text.encode()
    if len(encoded) >= size_bytes:
        raise CompileError(f"{what} {text!r} is longer than {size_bytes - 1} bytes")
    return encoded


def _aside(path: Path, written: dict[Path, Path]) -> Path:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    # mkstemp makes a file for its owner alone; an artifact is as readable as any other file.
    Path(name).chmod(0o644)
    written[Path(name)] = path
    return Path(name)


def hash_pieces(pieces: Iterable[bytes | bytearray | memoryview]) -> bytes:
    """SHA-256 of all pieces together."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


def _copy(source: Pieces, target: BinaryIO, known: bytes | None = None) -> tuple[int, bytes]:
    """Write all pieces; their size in bytes and their SHA-256, which may be `known`."""
    start = target.tell()
    digest = hashlib.sha256()
    with ThreadPoolExecutor(1) as hashing:  # neither holds Python's lock over a long piece
        for piece in _read(source) if isinstance(source, Path) else source:
            hashed = None if known else hashing.submit(digest.update, piece)
            target.write(piece)
            if hashed:
                hashed.result()
    return target.tell() - start, known or digest.digest()


def _read(path: Path) -> Iterable[bytes]:
    with path.open("rb") as file:
        while piece := file.read(shutil.COPY_BUFSIZE):
            yield piece


def _pad_to_page(file: BinaryIO, triple: str) -> int:
    page = _PAGE_BYTES.get(triple.split("-")[0], 65536)
    file.write(bytes(-file.tell() % page))
    return file.tell()


def _footer(
    flags: int, sizes: Sequence[int], hashes: Sequence[bytes], names: Sequence[bytes]
) -> bytes:
    values = (ABI_VERSION, FOOTER.size, flags, 0, *sizes, *hashes, *names)
    hashed = FOOTER.pack(*values, b"", MAGIC)[:_HASHED]
    return hashed + hashlib.sha256(hashed).digest() + MAGIC
