"""Integer operators on elements that contain symbolic dimensions.

Each folder returns None where the result is not an integer expression known at import; the node
then goes to its converter and is computed at run time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from tvm import tirx

from athanor.frontends.onnx.known import (
    Known,
    as_objects,
    is_equal,
    is_nonnegative,
    is_symbolic,
    known,
    product,
    simplify,
    truncated_quotient,
)
from athanor.frontends.onnx.node import Node

Folder = Callable[[Node, list[Known | None]], Known | None]


def _elementwise(function: Callable[..., Any], dtype: str | None = None) -> Folder:
    """A folder that applies `function` to the broadcast elements of its inputs."""

    def folder(node: Node, inputs: list[Known | None]) -> Known | None:
        values = [value for value in inputs if value is not None]
        if any(np.dtype(value.dtype).kind not in "iub" for value in values):
            return None
        arrays = np.broadcast_arrays(*[value.exact() for value in values])
        rows = zip(*(array.reshape(-1).tolist() for array in arrays), strict=True)
        flat = [function(*row) for row in rows]
        if any(element is None for element in flat):
            return None
        elements = as_objects([simplify(element) for element in flat], arrays[0].shape)
        return known(elements, dtype or values[-1].dtype)

    return folder


def _divide(left: Any, right: Any) -> Any:
    return None if is_equal(right, 0) is not False else truncated_quotient(left, right)


def _modulo(left: Any, right: Any) -> Any:
    # fmod and the sign rules agree on non-negative numbers
    if not is_nonnegative(left) or not is_nonnegative(right) or is_equal(right, 0) is not False:
        return None
    return left % right


def _minimum(left: Any, right: Any) -> Any:
    if _at_most(left, right):
        return left
    return right if _at_most(right, left) else tirx.min(left, right)


def _maximum(left: Any, right: Any) -> Any:
    if _at_most(right, left):
        return left
    return right if _at_most(left, right) else tirx.max(left, right)


def _at_most(left: Any, right: Any) -> bool:
    return is_nonnegative(simplify(right - left))


def _less(left: Any, right: Any) -> bool | None:
    if is_nonnegative(simplify(right - left - 1)):
        return True
    return False if _at_most(right, left) else None


def _less_or_equal(left: Any, right: Any) -> bool | None:
    greater = _less(right, left)
    return None if greater is None else not greater


def _where(condition: Any, left: Any, right: Any) -> Any:
    if is_symbolic(condition):
        return None
    return left if condition else right


def _variadic(function: Callable[[Any, Any], Any]) -> Folder:
    def reduce(*values: Any) -> Any:
        result = values[0]
        for value in values[1:]:
            result = function(result, value)
        return result

    return _elementwise(reduce)


def _cast(node: Node, inputs: list[Known | None]) -> Known | None:
    value = inputs[0]
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(node.int("to")))
    if value is None or dtype.name not in ("int32", "int64"):
        return None
    return Known(value.elements, dtype.name)


def _concat(node: Node, inputs: list[Known | None]) -> Known | None:
    values = [value for value in inputs if value is not None]
    axis = node.int("axis")
    return known(np.concatenate([v.exact() for v in values], axis=axis), values[0].dtype)


def _gather(node: Node, inputs: list[Known | None]) -> Known | None:
    data, indices = inputs
    assert data is not None and indices is not None
    if not indices.is_constant:
        return None
    axis = node.axis("axis", data.elements.ndim, 0)
    extent = data.shape[axis]
    if np.any((indices.elements < -extent) | (indices.elements >= extent)):
        raise node.error(f"an index is outside [{-extent}, {extent - 1}]")
    taken = np.take(data.exact(), indices.elements % extent, axis=axis)
    return known(np.asarray(taken, dtype=object), data.dtype)


def _slice(node: Node, inputs: list[Known | None]) -> Known | None:
    data = inputs[0]
    assert data is not None
    rest = [value.elements.reshape(-1) if value is not None else None for value in inputs[1:]]
    if any(value is not None and not value.is_constant for value in inputs[1:]):
        return None
    if node.opset < 10:
        starts, ends = node.ints("starts"), node.ints("ends")
        axes, steps = node.ints("axes", range(len(starts))), [1] * len(starts)
    else:
        rest += [None] * (4 - len(rest))
        starts, ends = rest[0].tolist(), rest[1].tolist()  # type: ignore[union-attr]
        axes = rest[2].tolist() if rest[2] is not None else list(range(len(starts)))
        steps = rest[3].tolist() if rest[3] is not None else [1] * len(starts)
    index: list[slice] = [slice(None)] * data.elements.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        extent = data.shape[axis]
        stop = None if step < 0 and end < -extent else end
        index[axis] = slice(start, stop, step)
    return known(data.exact()[tuple(index)], data.dtype)


def _axes(node: Node, inputs: list[Known | None]) -> list[int] | None:
    if node.has("axes"):
        return node.ints("axes")
    if len(inputs) > 1 and inputs[1] is not None and inputs[1].is_constant:
        return inputs[1].elements.reshape(-1).tolist()
    return None


def _squeeze(node: Node, inputs: list[Known | None]) -> Known | None:
    data, axes = inputs[0], _axes(node, inputs)
    assert data is not None
    chosen = tuple(axes) if axes is not None else None
    return known(np.squeeze(data.exact(), axis=chosen), data.dtype)


def _unsqueeze(node: Node, inputs: list[Known | None]) -> Known | None:
    data, axes = inputs[0], _axes(node, inputs)
    assert data is not None
    return None if axes is None else known(np.expand_dims(data.exact(), tuple(axes)), data.dtype)


def _reshape(node: Node, inputs: list[Known | None]) -> Known | None:
    data, shape = inputs[0], inputs[1] if len(inputs) > 1 else None
    assert data is not None
    if shape is None or not shape.is_constant:
        return None
    dims = shape.elements.reshape(-1).tolist()
    if not node.int("allowzero", 0):
        dims = [data.shape[i] if dim == 0 else dim for i, dim in enumerate(dims)]
    return known(data.exact().reshape(dims), data.dtype)


def _reduce(function: Callable[[list[Any]], Any]) -> Folder:
    def folder(node: Node, inputs: list[Known | None]) -> Known | None:
        data, axes = inputs[0], _axes(node, inputs)
        assert data is not None
        if data.elements.ndim != 1 or (not axes and node.int("noop_with_empty_axes", 0)):
            return None
        result = function(data.flat())
        shape = (1,) if node.int("keepdims", 1) else ()
        return None if result is None else known(as_objects([result], shape), data.dtype)

    return folder


def _sum(values: list[Any]) -> Any:
    total: Any = 0
    for value in values:
        total = total + value
    return simplify(total)


def _range(node: Node, inputs: list[Known | None]) -> Known | None:
    start, limit, delta = (value.flat()[0] for value in inputs if value is not None)
    if is_symbolic(delta) or delta == 0:
        return None
    count = simplify(limit - start)
    if is_symbolic(count):
        return None
    count = max(-(-count // delta), 0)
    if count > 256:
        return None
    elements = [simplify(start + i * delta) for i in range(count)]
    assert inputs[0] is not None
    return known(as_objects(elements, (count,)), inputs[0].dtype)


def _identity(node: Node, inputs: list[Known | None]) -> Known | None:
    return inputs[0]


FOLDERS: dict[str, Folder] = {
    "Abs": _elementwise(lambda value: value if is_nonnegative(value) else None),
    "Add": _elementwise(lambda left, right: left + right),
    "Cast": _cast,
    "Concat": _concat,
    "Div": _elementwise(_divide),
    "Equal": _elementwise(is_equal, "bool"),
    "Gather": _gather,
    "Greater": _elementwise(lambda left, right: _less(right, left), "bool"),
    "GreaterOrEqual": _elementwise(lambda left, right: _less_or_equal(right, left), "bool"),
    "Identity": _identity,
    "Less": _elementwise(_less, "bool"),
    "LessOrEqual": _elementwise(_less_or_equal, "bool"),
    "Max": _variadic(_maximum),
    "Min": _variadic(_minimum),
    "Mod": _elementwise(_modulo),
    "Mul": _elementwise(lambda left, right: left * right),
    "Neg": _elementwise(lambda value: 0 - value),
    "Range": _range,
    "ReduceProd": _reduce(product),
    "ReduceSum": _reduce(_sum),
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _elementwise(lambda left, right: left - right),
    "Unsqueeze": _unsqueeze,
    "Where": _elementwise(_where),
}
