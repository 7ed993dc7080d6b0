"""Operators whose computes are ours rather than TVM's: the ones our schedule rules know."""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import relax, te, tirx
from tvm.ir import Call, Expr, Op

from athanor.schedules.compute import layer_norm, softmax
from athanor.schedules.compute.conv2d_channels_last import conv2d_channels_last
from athanor.schedules.compute.max_pool import max_pool

LegalizeFunction = Callable[[relax.BlockBuilder, Call], Expr]
RowCompute = Callable[..., te.Tensor]
RowOperator = Callable[[Call], RowCompute]


def _axes(call: Call) -> list[int]:
    rank = len(call.args[0].ty.shape.values)
    return [int(axis) % rank for axis in call.attrs.axes]


def _softmax(compute: Callable[[te.Tensor, int], te.Tensor]) -> RowOperator:
    def operator(call: Call) -> RowCompute:
        axis = int(call.attrs.axis)
        return lambda x: compute(x, axis)

    return operator


def _layer_norm(call: Call) -> RowCompute:
    attrs, axes = call.attrs, _axes(call)

    def compute(x: te.Tensor, gamma: te.Tensor, beta: te.Tensor) -> te.Tensor:
        scale, shift = (gamma if attrs.scale else None), (beta if attrs.center else None)
        return layer_norm.layer_norm(x, scale, shift, axes, float(attrs.epsilon))

    return compute


def _rms_norm(call: Call) -> RowCompute:
    axes, epsilon = _axes(call), float(call.attrs.epsilon)

    def compute(x: te.Tensor, gamma: te.Tensor) -> te.Tensor:
        return layer_norm.rms_norm(x, gamma, axes, epsilon)

    return compute


def _instance_norm(call: Call) -> RowCompute:
    epsilon, channel_axis = float(call.attrs.epsilon), int(call.attrs.channel_axis)

    def compute(x: te.Tensor, gamma: te.Tensor, beta: te.Tensor) -> te.Tensor:
        return layer_norm.instance_norm(x, gamma, beta, epsilon, channel_axis)

    return compute


def _group_norm(call: Call) -> RowCompute:
    groups, epsilon = int(call.attrs.num_groups), float(call.attrs.epsilon)
    channel_axis = int(call.attrs.channel_axis)

    def compute(x: te.Tensor, gamma: te.Tensor, beta: te.Tensor) -> te.Tensor:
        return layer_norm.group_norm(x, gamma, beta, groups, epsilon, channel_axis)

    return compute


ROW_OPERATORS: dict[str, RowOperator] = {
    "relax.nn.group_norm": _group_norm,
    "relax.nn.instance_norm": _instance_norm,
    "relax.nn.layer_norm": _layer_norm,
    "relax.nn.log_softmax": _softmax(softmax.log_softmax),
    "relax.nn.rms_norm": _rms_norm,
    "relax.nn.softmax": _softmax(softmax.softmax),
}
"""Operators over rows of their first operand: what each call computes of its operands."""


def row_kernel_name(name: str) -> str:
    """The name of a row operator's kernel."""
    return name.rsplit(".", 1)[-1]


def _legalize_rows(builder: relax.BlockBuilder, call: Call) -> Expr:
    name = call.op.name
    hint = row_kernel_name(name)
    return builder.call_te(ROW_OPERATORS[name](call), *call.args, primfunc_name_hint=hint)


def _hyperbolic(odd: bool, hint: str) -> LegalizeFunction:
    """Sinh or cosh by exp, for LLVM has no lowering of them.

    Halves are multiplied so as not to overflow early; near 0, where sinh's two powers cancel, its
    series to x^7 is exact to 5e-9, that of float64 to x^15 to 1e-19. 16 bits are widened.
    """

    def element(x: tirx.Expr) -> tirx.Expr:
        dtype = str(x.ty.dtype)
        if dtype in ("float16", "bfloat16"):
            return tirx.Cast(dtype, element(tirx.Cast("float32", x)))

        def number(value: float) -> tirx.Expr:
            return tirx.const(value, dtype)

        size = tirx.abs(x)
        root = tirx.exp(size * number(0.5))
        grown, shrunk = number(0.5) * root * root, number(0.5) / root / root
        if not odd:
            return grown + shrunk
        z = x * x
        series = number(0.0)
        for degree in range(15 if dtype == "float64" else 7, 0, -2):
            series = series * z + number(1 / math.factorial(degree))
        far = tirx.Select(x < number(0.0), shrunk - grown, grown - shrunk)
        return tirx.Select(size < number(0.5), x * series, far)

    def legalize(builder: relax.BlockBuilder, call: Call) -> Expr:
        def compute(x: te.Tensor) -> te.Tensor:
            return te.compute(x.shape, lambda *i: element(x(*i)), name=hint)

        return builder.call_te(compute, call.args[0], primfunc_name_hint=hint)

    return legalize


def _conv2d(builder: relax.BlockBuilder, call: Call) -> Expr:
    attrs = call.attrs
    if attrs.data_layout != "NHWC" or attrs.kernel_layout != "OHWI":
        return Op.get("relax.nn.conv2d").get_attr("FLegalize")(builder, call)
    strides, padding, dilation = (
        tuple(int(number) for number in getattr(attrs, name))
        for name in ("strides", "padding", "dilation")
    )

    def compute(data: te.Tensor, weight: te.Tensor) -> te.Tensor:
        return conv2d_channels_last(
            data,
            weight,
            strides=strides,  # pyright: ignore[reportArgumentType]
            padding=padding,  # pyright: ignore[reportArgumentType]
            dilation=dilation,  # pyright: ignore[reportArgumentType]
            groups=int(attrs.groups),
            out_dtype=str(attrs.out_dtype or call.ty.dtype),
        )

    # What follows may be fused into it: kOutEWiseFusable, which TVM does not see by itself.
    attributes = {"op_pattern": 4}
    return builder.call_te(
        compute, *call.args, primfunc_name_hint="conv2d", primfunc_attrs=attributes
    )


def _max_pool(builder: relax.BlockBuilder, call: Call) -> Expr:
    x, attrs = call.args[0], call.attrs
    layout = str(attrs.layout)
    axes = [place for place, letter in enumerate(layout) if letter in "DHW"]
    if (
        layout.upper() != layout
        or not layout.isalpha()
        or not str(x.ty.dtype).startswith(("float", "bfloat"))
    ):
        return Op.get(call.op.name).get_attr("FLegalize")(builder, call)
    padding = [int(side) for side in attrs.padding]
    if len(padding) != 2 * len(axes):  # one for all sides, or one for both sides of an axis
        padding = 2 * (padding if len(padding) == len(axes) else padding * len(axes))
    kernel, strides, dilation = (
        [int(number) for number in numbers]
        for numbers in (attrs.pool_size, attrs.strides, attrs.dilation)
    )

    def compute(data: te.Tensor) -> te.Tensor:
        return max_pool(
            data,
            axes,
            kernel=kernel,
            strides=strides,
            padding=padding,
            dilation=dilation,
            ceil_mode=bool(attrs.ceil_mode),
        )

    return builder.call_te(compute, x, primfunc_name_hint="max_pool")


LEGALIZE: dict[str, LegalizeFunction] = {
    "relax.cosh": _hyperbolic(False, "cosh"),
    "relax.nn.conv2d": _conv2d,
    "relax.nn.max_pool1d": _max_pool,
    "relax.nn.max_pool2d": _max_pool,
    "relax.nn.max_pool3d": _max_pool,
    "relax.sinh": _hyperbolic(True, "sinh"),
    **dict.fromkeys(ROW_OPERATORS, _legalize_rows),
}
"""For LegalizeOps, by operator."""
