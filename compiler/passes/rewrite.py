"""The walk that graph passes share: main, call by call, into a new main."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator

import numpy as np
import tvm
from tvm import relax, te
from tvm.ir import Call, Expr, GenericConst, IRModule
from tvm_ffi import structural_equal

from athanor.frontends.onnx.origins import ORIGINS
from athanor.frontends.onnx.weight_memory import copy_elements, empty_tensor
from athanor.schedules.blocks import constant


class GraphRewriter:
    """Rebuilds `main` binding by binding; a pass overrides `rewrite_call`.

    Values keep their names, so that a kernel can be traced to the model's nodes through every
    pass. Functions other than main stay; what becomes unused is left to DeadCodeElimination.
    """

    def __init__(self, mod: IRModule) -> None:
        self.module, self.main = mod, mod["main"]
        others = {gv: func for gv, func in mod.functions_items() if gv.name_hint != "main"}
        self.builder = relax.BlockBuilder(IRModule(others, attrs=mod.attrs))
        self.replaced: dict[Expr, Expr] = {}
        self.definition: dict[Expr, Expr] = {}
        self.uses: dict[Expr, int] = {}
        """How often main reads each of its own values."""
        self.narrowed: dict[Expr, Expr] = {}
        """The bfloat16 value of each float32 one that something wants so."""
        self.readers: dict[Expr, int] = {}
        """How often main reads each new value under any of its old names."""
        self.made: dict[Hashable, Call] = {}
        """Kernel calls by all that decides their function."""
        self.origins: dict[str, list[str]] = dict((self.main.attrs or {}).get(ORIGINS, {}))
        self.new_origins: dict[str, list[str]] = {}
        self.current: list[str] | None = None
        """The nodes that what is emitted comes from."""

    def concerns(self, call: Call) -> bool:
        """Whether the pass may want this call of main as it stands.

        Where it wants none, main stays without a walk: most models give half of the passes no work.
        """
        return True

    def rewrite_call(self, call: Call, name: str, old: relax.Var) -> Expr | None:
        """The new value of a call whose arguments are rewritten already; None keeps the call."""
        raise NotImplementedError

    def finish(self, value: Expr) -> Expr:
        """A last chance to change an output value before main returns it."""
        return value

    def run(self) -> IRModule:
        """The module with the new main."""
        if not any(self.concerns(call) for call in calls_of(self.main)):
            return self.module
        self.uses = _count_uses(self.main)
        builder = self.builder
        params = list(self.main.params)
        with builder.function("main", params, attrs=dict(self.main.attrs or {})):
            with builder.dataflow():
                for block in self.main.body.blocks:
                    for binding in block.bindings:
                        new = self.bind(binding)
                        self.replaced[binding.var] = new
                        seen = self.readers.get(new, 0)
                        self.readers[new] = seen + self.uses.get(binding.var, 0)
                result = self.substitute(self.main.body.body)
                result = builder.emit_output(self.finish_all(result))
            builder.emit_func_output(result)
        mod = builder.get()
        if self.origins:
            mod["main"] = mod["main"].with_attr(ORIGINS, self.new_origins)
        return mod

    def finish_all(self, result: Expr) -> Expr:
        """Apply `finish` to each output."""
        definition = self.definition.get(result, result)
        if isinstance(definition, relax.Tuple):
            return relax.Tuple([self.finish_one(field) for field in definition.fields])
        return self.finish_one(result)

    def finish_one(self, value: Expr) -> Expr:
        """Apply `finish`; what it emits comes from the value's nodes."""
        self.current = self.new_origins.get(getattr(value, "name", ""))
        return self.finish(value)

    def bind(self, binding: relax.Binding) -> Expr:
        """The new value of one binding."""
        self.current = self.origins.get(binding.var.name)
        value = self.substitute(binding.value)
        if isinstance(value, relax.Call):
            new = self.rewrite_call(value, binding.var.name, binding.var)
            if new is not None:
                return new
        return self.emit(value, binding.var.name)

    def emit(self, value: Expr, name: str = "") -> Expr:
        """Bind a value and remember its definition."""
        if isinstance(value, (relax.Var, GenericConst)):
            return value
        var = self.builder.emit(value, name)
        self.definition[var] = value
        if self.current is not None:
            self.new_origins[var.name] = self.current
        return var

    def absorb(self, value: Expr) -> None:
        """What is emitted next for this binding takes the place of `value` too."""
        nodes = [*self.new_origins.get(getattr(value, "name", ""), ()), *(self.current or ())]
        self.current = list(dict.fromkeys(nodes))

    def call(
        self,
        compute: Callable[..., te.Tensor],
        *args: Expr,
        hint: str,
        options: Hashable | None = None,
    ) -> Call:
        """A kernel call of a tensor expression.

        Options belong in its closure, where they stay plain Python numbers. Where `options` names
        all of them, equal calls share what is made once: to make it takes more than a millisecond.
        """
        shapes = [static_shape(arg) for arg in args]
        if options is None or None in shapes:
            return self.builder.call_te(compute, *args, primfunc_name_hint=hint)
        key = (
            hint,
            options,
            *((shape, str(arg.ty.dtype)) for shape, arg in zip(shapes, args, strict=True)),
        )
        if key not in self.made:
            self.made[key] = self.builder.call_te(compute, *args, primfunc_name_hint=hint)
        made = self.made[key]
        return relax.call_tir(made.args[0], list(args), made.ty_args[0])

    def narrow(self, value: Expr) -> Expr:
        """The value rounded to bfloat16, once; before a reshape, so that its producer can do it."""
        if value not in self.narrowed:
            made = call_of(self.definition.get(value), "relax.reshape")
            if made is not None:
                source = self.narrow(made.args[0])
                self.narrowed[value] = self.emit(relax.op.reshape(source, made.args[1]))
            else:
                self.narrowed[value] = self.emit(relax.op.astype(value, "bfloat16"))
        return self.narrowed[value]

    def plain_weights(self, call: Call, operator: str, layout: str) -> np.ndarray | None:
        """Constant weights of that convolution of NCHW data; None for any other call."""
        attrs = call.attrs
        if op_name(call) != operator or attrs.data_layout != "NCHW":
            return None
        return self.constant(call.args[1]) if attrs.kernel_layout == layout else None

    def swaps_last_axes(self, value: Expr) -> bool:
        """Whether `value` is a transpose of its last two axes."""
        made = call_of(self.definition.get(value), "relax.permute_dims")
        if made is None:
            return False
        rank = len(value.ty.shape.values)
        if made.attrs.axes is None:
            return rank == 2
        axes = [int(axis) % rank for axis in made.attrs.axes]
        return axes == [*range(rank - 2), rank - 1, rank - 2]

    def substitute(self, expr: Expr) -> Expr:
        """The expression over new values."""
        if isinstance(expr, relax.Var):
            return self.replaced.get(expr, expr)
        if isinstance(expr, relax.Tuple):
            fields = list(expr.fields)
            parts = [self.substitute(field) for field in fields]
            same = all(new is old for new, old in zip(parts, fields, strict=True))
            return expr if same else relax.Tuple(parts)
        if isinstance(expr, relax.TupleGetItem):
            return relax.TupleGetItem(self.substitute(expr.tuple_value), expr.index)
        if isinstance(expr, relax.Call):
            olds = list(expr.args)
            args = [self.substitute(arg) for arg in olds]
            changed = [(new, old) for new, old in zip(args, olds, strict=True) if new is not old]
            if not changed:
                return expr
            # To infer it again takes most of a pass's time (a convolution's: 0.7 ms).
            same = all(structural_equal(new.ty, old.ty) for new, old in changed)
            known = expr.ty if same else None
            return relax.Call(expr.op, args, expr.attrs, expr.ty_args, ret_ty=known)
        return expr

    def constant(self, expr: Expr) -> np.ndarray | None:
        """The data of a constant, else None."""
        return constant_array(expr) if isinstance(expr, GenericConst) else None


def calls_of(main: relax.Function) -> Iterator[Call]:
    """The calls that main binds, in order."""
    for block in main.body.blocks:
        for binding in block.bindings:
            if isinstance(binding.value, relax.Call):
                yield binding.value


def op_name(expr: Expr) -> str | None:
    """`relax.nn.conv2d`, ... of an operator's call, else None."""
    if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
        return expr.op.name
    return None


def call_of(expr: Expr | None, *names: str) -> Call | None:
    """`expr` where it is a call of one of these operators, else None."""
    return expr if expr is not None and op_name(expr) in names else None


def constant_array(expr: GenericConst) -> np.ndarray:
    """A constant's data as an array, without a copy where NumPy has the type."""
    try:
        return np.from_dlpack(expr.value)
    except (BufferError, RuntimeError, TypeError):
        return expr.value.numpy()


def array_constant(array: np.ndarray) -> GenericConst:
    """A constant with the elements of `array`, which are copied once, whatever its strides."""
    try:
        tensor = empty_tensor(array.shape, str(array.dtype))
        copy_elements(np.from_dlpack(tensor), array)
    except (BufferError, RuntimeError, TypeError):  # a type that DLPack lacks in NumPy
        return relax.const(np.ascontiguousarray(array).reshape(array.shape), str(array.dtype))
    return relax.const(tensor)


def static_shape(expr: Expr) -> tuple[int, ...] | None:
    """The shape where every dimension is known, else None."""
    shape = getattr(expr.ty, "shape", None)
    if shape is None:
        return None
    dims = [int(dim) for dim in shape.values if isinstance(dim, tvm.tirx.IntImm)]
    return tuple(dims) if len(dims) == len(shape.values) else None


def batches_fit(a: Expr, b: Expr) -> bool:
    """Whether the batch axes of a product's operands are equal or 1, as far as both have them."""
    pairs = zip(*(reversed(value.ty.shape.values[:-2]) for value in (a, b)), strict=False)
    return all(1 in (constant(x), constant(y)) or structural_equal(x, y) for x, y in pairs)


def pair_of(values: object) -> tuple[int, int]:
    """Two numbers of an attribute, such as strides."""
    first, second = (int(value) for value in values)  # type: ignore[attr-defined]
    return first, second


def padding_of(values: object) -> tuple[int, int, int, int]:
    """A padding attribute: top, left, bottom, right."""
    top, left, bottom, right = (int(value) for value in values)  # type: ignore[attr-defined]
    return top, left, bottom, right


def _count_uses(main: relax.Function) -> dict[Expr, int]:
    uses: dict[Expr, int] = {}

    def count(expr: Expr) -> None:
        if isinstance(expr, relax.Var):
            uses[expr] = uses.get(expr, 0) + 1
        elif isinstance(expr, relax.Tuple):
            for item in expr.fields:
                count(item)
        elif isinstance(expr, relax.TupleGetItem):
            count(expr.tuple_value)
        elif isinstance(expr, relax.Call):
            for arg in expr.args:
                count(arg)

    for block in main.body.blocks:
        for binding in block.bindings:
            count(binding.value)
    count(main.body.body)
    return uses
