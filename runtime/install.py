"""Put the C runtime where an app's build finds it."""

from __future__ import annotations

import shutil
from pathlib import Path

from athanor.errors import RunError
from athanor.runtime.library import LIBRARY

_INCLUDE = Path(__file__).resolve().parent / "include"
_HEADERS = ("athanor.h", "athanor.hpp")
_LIBRARIES = ("libathanor.so", "libathanor.a")
_PKG_CONFIG = """\
prefix=${{pcfiledir}}/../..
includedir=${{prefix}}/include
libdir=${{prefix}}/lib

Name: athanor
Description: Runs models that Athanor has compiled
Version: {version}
Cflags: -I${{includedir}}
Libs: -L${{libdir}} -lathanor
Libs.private: -lpthread -ldl
"""
"""Paths are relative to the file, so that the folder can be moved."""


def install_runtime(prefix: Path) -> list[Path]:
    """Copy headers, libraries and `athanor.pc` below `prefix`; the files written.

    They go to include/, lib/ and lib/pkgconfig/. Raises RunError where they can't be written.
    """
    from athanor import __version__

    files = [(_INCLUDE / name, prefix / "include" / name) for name in _HEADERS]
    files += [(LIBRARY.with_name(name), prefix / "lib" / name) for name in _LIBRARIES]
    description = prefix / "lib" / "pkgconfig" / "athanor.pc"
    try:
        for source, target in files:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        description.parent.mkdir(parents=True, exist_ok=True)
        description.write_text(_PKG_CONFIG.format(version=__version__), encoding="utf-8")
    except OSError as error:
        raise RunError(f"can't install the runtime to {prefix}: {error}") from error
    return [target for _, target in files] + [description]
