"""String tensors in an imported module.

An element is carried as int64: the address of zero-terminated UTF-8. Whatever moves elements
therefore needs no kernel of its own, and an element takes 8 bytes however long its text is. (A pair
of address and length would allow text with zero bytes in it, which no token or label has, for an
axis more in every shape.) Constants lie in the weights, and each run computes their addresses; what
a run writes lies in memory that it asks for, and so no kernel can write it: C functions of the host
program do (runtime/include/athanor_strings.h).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import relax

from athanor.errors import CompileError
from athanor.frontends.onnx.import_builder import HOST, ImportBuilder
from athanor.frontends.onnx.known import constant


def host_call(
    function: str,
    inputs: Sequence[relax.Expr],
    outputs: Sequence[tuple[Sequence[Any], str]],
    builder: ImportBuilder,
) -> list[relax.Expr]:
    """Emit a call of `athanor_<function>`; `outputs` are shapes and dtypes."""
    types = [relax.TensorType(list(shape), dtype) for shape, dtype in outputs]
    name = f"{HOST}{function}"
    call = builder.emit(relax.call_dps_packed(name, relax.Tuple(list(inputs)), types))
    if len(types) == 1:
        return [call]
    return [builder.emit(relax.TupleGetItem(call, index)) for index in range(len(types))]


def encoded(text: Any, what: str) -> bytes:
    """A string's bytes; CompileError where it holds a zero byte."""
    data = text if isinstance(text, bytes) else str(text).encode("utf-8", "surrogateescape")
    if b"\0" in data:
        raise CompileError(f"{what} holds a string with a zero byte, which is not supported")
    return data


def string_constant(array: np.ndarray, what: str, builder: ImportBuilder) -> relax.Expr:
    """The addresses of constant strings, an object array of str or bytes."""
    starts: list[int] = []
    places: dict[bytes, int] = {}
    blob = bytearray()
    for text in array.reshape(-1):
        data = encoded(text, what)
        if data not in places:
            places[data] = len(blob)
            blob += data + b"\0"
        starts.append(places[data])
    inputs = [
        constant(np.frombuffer(bytes(blob) or b"\0", np.uint8)),
        constant(np.array(starts, np.int64)),
    ]
    return host_call("string_constant", inputs, [(array.shape, "int64")], builder)[0]
