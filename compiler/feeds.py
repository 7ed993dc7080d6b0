"""Seeded inputs for a model, from what it says of its inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import ml_dtypes  # noqa: F401  (gives NumPy the names bfloat16, float8_e4m3fn, ...)
import numpy as np

from athanor.errors import RunError

if TYPE_CHECKING:
    import onnx

INTEGERS_BELOW = 100
"""Random integers stay under this: most are indices of tokens, and no vocabulary is smaller."""


class TensorInfo(Protocol):
    """What a feed is made from: an input of a Model."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def dtype(self) -> Any: ...  # noqa: D102
    @property
    def shape(self) -> tuple[int | str | None, ...] | None: ...  # noqa: D102


def make_feeds(
    inputs: Iterable[TensorInfo],
    *,
    dims: Mapping[str, int] | None = None,
    seed: int = 0,
    limits: Mapping[str, int] | None = None,
    given: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """An array for every input: those of `given`, and seeded values for the rest.

    `dims` sets symbolic dimensions; one that neither it nor an array of `given` sets is 1.
    `limits` bounds the integers of an input; elsewhere they stay under INTEGERS_BELOW. Inputs
    whose names speak of a mask are all ones, of token types zeros, of positions 0, 1, 2, ...
    Raises RunError for a dimension that no input has, and for an input that is no tensor.
    """
    inputs, given, limits = list(inputs), dict(given or {}), limits or {}
    for info in inputs:
        kind = getattr(info, "kind", "tensor")
        if kind != "tensor":
            raise RunError(f"input '{info.name}' is of kind {kind}; run the model from Python")
    sizes = _dimension_sizes(inputs, given)
    for name, size in (dims or {}).items():
        if name not in sizes:
            known = ", ".join(sizes) or "none"
            raise RunError(f"no input has a symbolic dimension {name!r}; symbolic are: {known}")
        sizes[name] = size
    rng = np.random.default_rng(seed)
    feeds = {}
    for info in inputs:
        dims_of = info.shape or ()
        shape = tuple(d if isinstance(d, int) else sizes.get(d or "") or 1 for d in dims_of)
        limit = limits.get(info.name, INTEGERS_BELOW)
        made = _values(rng, info.name, np.dtype(info.dtype), shape, limit)
        feeds[info.name] = given.pop(info.name, made)
    return {**feeds, **given}


def _dimension_sizes(
    inputs: list[TensorInfo], given: Mapping[str, np.ndarray]
) -> dict[str, int | None]:
    """Every symbolic dimension, with its size where a given array tells it."""
    sizes: dict[str, int | None] = {}
    for info in inputs:
        array = given.get(info.name)
        for axis, dim in enumerate(info.shape or ()):
            if isinstance(dim, str):
                sizes.setdefault(dim, None)
                if array is not None and axis < array.ndim:
                    sizes[dim] = array.shape[axis]
    return sizes


def _values(
    rng: np.random.Generator, name: str, dtype: np.dtype, shape: tuple[int, ...], limit: int
) -> np.ndarray:
    if dtype.kind == "O":
        numbers = rng.integers(0, limit, shape)
        return np.vectorize("text{}".format, otypes=[object])(numbers)
    if "mask" in name.lower():
        return np.ones(shape, dtype)
    if dtype == np.bool_:
        return rng.random(shape) < 0.5
    if np.issubdtype(dtype, np.integer):
        if "token_type" in name or "segment" in name:
            return np.zeros(shape, dtype)
        if "position" in name and shape:
            return np.broadcast_to(np.arange(shape[-1]) % limit, shape).astype(dtype)
        if dtype.itemsize == 1:
            bounds = np.iinfo(dtype)
            return rng.integers(bounds.min, bounds.max + 1, shape).astype(dtype)
        return rng.integers(0, limit, shape).astype(dtype)
    return rng.random(shape, np.float32).astype(dtype)


def index_limits(
    model: onnx.ModelProto, weights: Iterable[onnx.TensorProto] = ()
) -> dict[str, int]:
    """How large the integers of an input may be: the rows of the table that it looks up.

    weights: initializers that are kept apart from the model.
    """
    rows = {tensor.name: tensor.dims for tensor in (*model.graph.initializer, *weights)}
    limits: dict[str, int] = {}
    renamed: dict[str, str] = {value.name: value.name for value in model.graph.input}
    for node in model.graph.node:
        if node.op_type in ("Cast", "Identity") and node.input[0] in renamed:
            renamed[node.output[0]] = renamed[node.input[0]]
        if node.op_type == "Gather" and node.input[0] in rows and node.input[1] in renamed:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            name = renamed[node.input[1]]
            size = rows[node.input[0]][axis]
            limits[name] = min(size, limits.get(name, size))
    return limits
