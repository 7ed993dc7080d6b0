"""Operators whose computes are ours rather than TVM's."""

from __future__ import annotations

from collections.abc import Callable

from tvm import relax
from tvm.ir import Call, Expr

LegalizeFunction = Callable[[relax.BlockBuilder, Call], Expr]

LEGALIZE: dict[str, LegalizeFunction] = {}
