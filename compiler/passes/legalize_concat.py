"""Tell concatenations that need no kernel from those that do."""

from __future__ import annotations

import math

import tvm
from tvm import relax, te, tirx
from tvm.ir import Call, Expr, IRModule

from athanor.compiler.passes.rewrite import GraphRewriter, op_name, static_shape


@tvm.transform.module_pass(opt_level=0, name="LegalizeConcat")
class LegalizeConcat:
    """Give a kernel to each `concat` whose parts do not lie one behind the other in the result.

        z = R.concat((x, y), axis=1)   # (2, 3) and (2, 4)    =>    z = call_tir(concatenate, ...)
        z = R.concat((x, y), axis=1)   # (1, 3) and (1, 4)          stays

    Where all axes before the concatenated one are 1, every part is one piece of the result: the
    program then lets the kernels that make the parts write there, and nothing is copied. Sizes
    must be known, for offsets are; they have to be multiples of `alignment` bytes, where kernels
    load and store more than one element at once. Just before LegalizeOps, which leaves `concat`
    alone.
    """

    def __init__(self, alignment: int = 1) -> None:
        self.alignment = alignment

    def transform_module(self, mod: IRModule, _ctx: tvm.transform.PassContext) -> IRModule:
        """Rewrite main."""
        return _Rewriter(mod, self.alignment).run()


class _Rewriter(GraphRewriter):
    def __init__(self, mod: IRModule, alignment: int) -> None:
        super().__init__(mod)
        self.alignment = alignment

    def concerns(self, call: Call) -> bool:
        return op_name(call) == "relax.concat"

    def rewrite_call(self, call: Call, name: str, old: relax.Var) -> Expr | None:
        if op_name(call) != "relax.concat":
            return None
        parts, axis = call.args[0], int(call.attrs.axis)
        if not isinstance(parts, relax.Tuple):
            return None
        shapes = [static_shape(part) for part in parts.fields]
        if all(shape is not None and _leads(shape, axis) for shape in shapes):
            bits = tvm.DataType(str(parts.fields[0].ty.dtype)).bits
            sizes = [math.prod(shape or ()) * max(8, bits) // 8 for shape in shapes]
            if all(size % self.alignment == 0 for size in sizes[:-1]):
                return None
        dims = list(old.ty.shape.values)
        made = self.call(
            lambda *tensors: _concatenate(tensors, axis % len(dims), dims),
            *parts.fields,
            hint="concat",
        )
        return self.emit(made, name)


def _concatenate(tensors: tuple[te.Tensor, ...], axis: int, dims: list[Expr]) -> te.Tensor:
    """The parts one behind the other; `dims` as Relax writes them.

    TOPI adds up the sizes itself, and where symbols are among them FuseTIR does not see that its
    sum and Relax's are the same.
    """
    ends = [tensors[0].shape[axis]]
    for tensor in tensors[1:-1]:
        ends.append(ends[-1] + tensor.shape[axis])

    def element(*index: Expr) -> Expr:
        def part(number: int) -> Expr:
            start = ends[number - 1] if number else 0
            return tensors[number](*index[:axis], index[axis] - start, *index[axis + 1 :])

        value = part(len(tensors) - 1)
        for number in reversed(range(len(tensors) - 1)):
            value = tirx.if_then_else(index[axis] < ends[number], part(number), value)
        return value

    return te.compute(dims, element, name="concat")


def _leads(shape: tuple[int, ...], axis: int) -> bool:
    return all(dim == 1 for dim in shape[: axis % len(shape)])
