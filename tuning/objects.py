"""ELF object files: their kernel gets a name of its own, so that many can be linked together."""

from __future__ import annotations

import struct

from athanor.errors import CompileError

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_SYMBOL_TABLE = 2
"""SHT_SYMTAB. Layouts: https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.intro.html"""


def renamed(code: bytes, symbol: str, name: str) -> bytes:
    """The 64-bit little-endian object file `code`, in which `symbol` is called `name`.

    The new table of names is put behind the file, so no other offset changes. Raises CompileError
    where `code` is no such file or defines no `symbol`.
    """
    try:
        return _renamed(code, symbol.encode() + b"\0", name.encode() + b"\0")
    except (struct.error, IndexError, ValueError) as error:
        raise CompileError(f"this is no object file of a kernel: {error}") from error


def _renamed(code: bytes, symbol: bytes, name: bytes) -> bytes:
    header = _HEADER.unpack_from(code)
    if header[0][:6] != b"\x7fELF\x02\x01":
        raise ValueError("expected a 64-bit little-endian ELF file")
    first, width, count = header[6], header[11], header[12]
    places = [first + width * index for index in range(count)]
    sections = [_SECTION.unpack_from(code, place) for place in places]
    (table,) = [section for section in sections if section[1] == _SYMBOL_TABLE]
    names_index = table[6]
    names = sections[names_index]
    text = code[names[4] : names[4] + names[5]]
    result = bytearray(code)
    found = False
    for place in range(table[4], table[4] + table[5], _SYMBOL.size):
        entry = _SYMBOL.unpack_from(code, place)
        if text[entry[0] :].startswith(symbol):
            found = True
            _SYMBOL.pack_into(result, place, len(text), *entry[1:])
    if not found:
        raise ValueError(f"it does not define {symbol[:-1].decode()}")
    moved = (*names[:4], len(code), len(text) + len(name), *names[6:])
    _SECTION.pack_into(result, places[names_index], *moved)
    return bytes(result) + text + name
