"""What a cubin says of its kernels: registers and shared memory.

A cubin is an ELF file. Its section `.nv.info` holds attributes, of which number 0x2f tells the
registers of a kernel, by symbol; a kernel's static shared memory is the section `.nv.shared.NAME`.
(As ptxas -v and cuobjdump --dump-resource-usage tell; not every toolkit brings cuobjdump.)
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_MACHINE = 190
"""ELF's number of NVIDIA's GPUs."""
_SIZED, _REGISTERS, _FRAME = 4, 0x2F, 0x11
"""Format of an attribute that is followed by its size and data; those of registers and stack."""


@dataclass(frozen=True)
class KernelResources:
    """What one thread and one block of a kernel take."""

    registers: int
    """32-bit registers of a thread."""
    shared_bytes: int
    """Shared memory of a block, without what it asks for at launch."""
    stack_bytes: int
    """Local memory of a thread: registers that were spilled, arrays that registers can't hold."""


def kernel_resources(cubin: bytes) -> dict[str, KernelResources]:
    """The resources of every kernel in a cubin; none where it is no cubin (PTX)."""
    if cubin[:4] != b"\x7fELF" or struct.unpack_from("<H", cubin, 18)[0] != _MACHINE:
        return {}
    (start,) = struct.unpack_from("<Q", cubin, 40)
    count, names_index = struct.unpack_from("<HH", cubin, 60)
    rows = [_SECTION.unpack_from(cubin, start + number * _SECTION.size) for number in range(count)]
    names = _content(cubin, rows[names_index])
    sections = {_text(names, row[0]): row for row in rows}
    symbols, words = (_content(cubin, sections[name]) for name in (".symtab", ".strtab"))
    used: dict[str, KernelResources] = {}
    attributes = _content(cubin, sections[".nv.info"])
    frames = dict(_attribute(attributes, _FRAME))
    for index, registers in _attribute(attributes, _REGISTERS):
        name = _text(words, _SYMBOL.unpack_from(symbols, index * _SYMBOL.size)[0])
        shared = sections.get(f".nv.shared.{name}")
        used[name] = KernelResources(registers, shared[5] if shared else 0, frames.get(index, 0))
    return used


def _content(cubin: bytes, section: tuple[int, ...]) -> bytes:
    return cubin[section[4] : section[4] + section[5]]


def _text(strings: bytes, start: int) -> str:
    return strings[start : strings.index(b"\0", start)].decode()


def _attribute(attributes: bytes, wanted: int) -> Iterator[tuple[int, int]]:
    """Symbol index of each kernel, and the attribute of that number."""
    at = 0
    while at + 4 <= len(attributes):
        kind, number, size = struct.unpack_from("<BBH", attributes, at)
        at += 4
        if kind != _SIZED:
            continue  # its value stands in the place of the size
        if number == wanted:
            yield struct.unpack_from("<II", attributes, at)
        at += size
