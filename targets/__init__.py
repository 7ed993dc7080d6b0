"""Targets: what differs per device, and code generation for it."""

from __future__ import annotations

from athanor.errors import CompileError
from athanor.targets.aarch64 import AARCH64
from athanor.targets.detect import detect_target
from athanor.targets.target import TargetSpec
from athanor.targets.x86_64 import X86_64_V2, X86_64_V3, X86_64_V4

__all__ = ["TARGETS", "TargetSpec", "find_target"]

TARGETS = {spec.name: spec for spec in (X86_64_V2, X86_64_V3, X86_64_V4, AARCH64)}


def find_target(name: str) -> TargetSpec:
    """The target of that name; `native` is the machine that compiles.

    Raises CompileError for an unknown name, listing the known ones.
    """
    if name == "native":
        try:
            return detect_target()
        except LookupError as error:
            raise CompileError(f"target 'native': {error}; name a target instead") from error
    if name not in TARGETS:
        known = ", ".join(("native", *TARGETS))
        raise CompileError(f"unknown target {name!r}; known targets: {known}")
    return TARGETS[name]
