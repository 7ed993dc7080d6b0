"""Athanor: an ONNX model in, one self-contained shared library out.

>>> import athanor
>>> athanor.compile("model.onnx").save("model.so")      # needs TVM and onnx
>>> model = athanor.load("model.so", threads=1)         # needs neither
>>> outputs = model.run({"x": array})
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Artifact",
    "CheckReport",
    "CompileError",
    "CompilerDefect",
    "Model",
    "RunError",
    "TuningReport",
    "__version__",
    "check",
    "compile",
    "load",
    "tune",
]

if TYPE_CHECKING:
    from athanor.compiler.artifact import Artifact
    from athanor.compiler.check import CheckReport, check
    from athanor.compiler.driver import compile
    from athanor.errors import CompileError, CompilerDefect, RunError
    from athanor.runtime.loader import load
    from athanor.runtime.model import Model
    from athanor.tuning.job import tune
    from athanor.tuning.rounds import TuningReport

# Resolved on first use, so that a process that only loads artifacts never imports TVM or onnx.
_HOME = {
    "check": "athanor.compiler.check",
    "CheckReport": "athanor.compiler.check",
    "compile": "athanor.compiler.driver",
    "Artifact": "athanor.compiler.artifact",
    "load": "athanor.runtime.loader",
    "Model": "athanor.runtime.model",
    "tune": "athanor.tuning.job",
    "TuningReport": "athanor.tuning.rounds",
    "CompileError": "athanor.errors",
    "CompilerDefect": "athanor.errors",
    "RunError": "athanor.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'athanor' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
