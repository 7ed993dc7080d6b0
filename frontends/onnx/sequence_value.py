"""Sequences and optional values while a model is imported: Python values of expressions.

How many elements a sequence has, and whether an optional has one, is known at import; so nothing of
either is left in the imported module.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import relax


@dataclass(frozen=True)
class SequenceValue:
    """A sequence of tensors."""

    elements: tuple[relax.Expr, ...]


@dataclass(frozen=True)
class OptionalValue:
    """A value, or None where the optional is empty."""

    value: relax.Expr | SequenceValue | None
