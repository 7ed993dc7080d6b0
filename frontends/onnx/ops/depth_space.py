"""DepthToSpace and SpaceToDepth: blocks of an image moved between channels and space."""

from __future__ import annotations

from typing import Any

from tvm import relax

from athanor.frontends.onnx.import_builder import ImportBuilder
from athanor.frontends.onnx.known import dims_quotient, simplify
from athanor.frontends.onnx.node import Node
from athanor.frontends.onnx.tensors import reshape, shape_of

Inputs = list[relax.Expr]
Builder = ImportBuilder


def depth_to_space(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """(B, C, H, W) -> (B, C / b², H b, W b), b the blocksize.

    mode DCR: the channels are (block row, block column, depth); CRD: (depth, row, column).
    Source: https://onnx.ai/onnx/operators/onnx__DepthToSpace.html
    """
    batch, channels, height, width, block = _image(node, inputs[0])
    depth = _quotient(node, channels, block * block, "channels", builder)
    if _depth_first(node):
        split, order = [batch, depth, block, block, height, width], [0, 1, 4, 2, 5, 3]
    else:
        split, order = [batch, block, block, depth, height, width], [0, 3, 4, 1, 5, 2]
    moved = relax.op.permute_dims(reshape(inputs[0], split, builder), order)
    result = [batch, depth, simplify(height * block), simplify(width * block)]
    return reshape(builder.emit(moved), result, builder)


def space_to_depth(node: Node, inputs: Inputs, builder: Builder) -> relax.Expr:
    """(B, C, H, W) -> (B, C b², H / b, W / b), b the blocksize; undoes DepthToSpace.

    Source: https://onnx.ai/onnx/operators/onnx__SpaceToDepth.html
    """
    batch, channels, height, width, block = _image(node, inputs[0])
    rows = _quotient(node, height, block, "rows", builder)
    columns = _quotient(node, width, block, "columns", builder)
    split = [batch, channels, rows, block, columns, block]
    order = [0, 1, 3, 5, 2, 4] if _depth_first(node) else [0, 3, 5, 1, 2, 4]
    moved = relax.op.permute_dims(reshape(inputs[0], split, builder), order)
    result = [batch, simplify(channels * block * block), rows, columns]
    return reshape(builder.emit(moved), result, builder)


def _image(node: Node, image: relax.Expr) -> tuple[Any, Any, Any, Any, int]:
    dims, block = shape_of(image), node.int("blocksize")
    if len(dims) != 4 or block < 1:
        raise node.error(f"blocksize={block} for an input {dims}; expected (B, C, H, W)")
    return dims[0], dims[1], dims[2], dims[3], block


def _depth_first(node: Node) -> bool:
    mode = node.string("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise node.error(f"mode={mode!r} is neither DCR nor CRD")
    return mode == "CRD"


def _quotient(node: Node, size: Any, divisor: int, what: str, builder: Builder) -> Any:
    whole = dims_quotient([size], [divisor])
    if whole is None:
        raise node.error(f"{size} {what} do not divide by {divisor}")
    builder.require_equal(simplify(whole * divisor), size)
    return whole
