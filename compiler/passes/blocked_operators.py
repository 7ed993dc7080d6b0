"""What each operator becomes on blocked values; None leaves it to the plain layout."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import relax, te
from tvm.ir import Call, Expr

from athanor.compiler.passes.blocked_moves import concat, strided_slice
from athanor.compiler.passes.blocked_transposed import transposed_convolution
from athanor.compiler.passes.convolution_method import (
    DIRECT,
    PLAIN,
    choose_method,
    reduced_by,
    winograd_convolution,
)
from athanor.compiler.passes.plain_convolution import dense_form, plain_convolution
from athanor.compiler.passes.rewrite import (
    array_constant,
    op_name,
    padding_of,
    pair_of,
    static_shape,
)
from athanor.schedules.compute import conv2d, layer_norm, pool2d, window
from athanor.schedules.plain_tile import (
    WINDOW_UNROLLED,
    blocked_cycles,
    blocked_window_cycles,
    plain_window_cycles,
)

if TYPE_CHECKING:
    from athanor.compiler.passes.block_layouts import LayoutRewriter

Rewrite = Callable[["LayoutRewriter", Call, str], Expr | None]

_UNARY = (
    "abs",
    "clip",
    "erf",
    "negative",
    "nn.gelu",
    "nn.gelu_tanh",
    "nn.leakyrelu",
    "nn.relu",
    "nn.relu6",
    "nn.silu",
    "sigmoid",
    "tanh",
)
"""Finite in, finite out, so that the padding stays harmless."""
_UNARY_FULL = ("ceil", "cos", "exp", "floor", "log", "round", "rsqrt", "sin", "sqrt", "square")
"""Only where channels fill their blocks: padding could become infinite or NaN."""
_BINARY = ("add", "maximum", "minimum", "multiply", "subtract")
_FEW_PRODUCTS = 32
"""Of one output, up to which the plain layout is as fast if nothing else wants blocks."""
_BINARY_FULL = ("divide", "power")
EVEN = (16, 8, 4, 2)
"""Channels of a reduction block that are multiplied in pairs."""


def _convolution(graph: LayoutRewriter, call: Call, name: str) -> Expr | None:
    data, weight = call.args
    weights = graph.constant(weight)
    attrs = call.attrs
    if weights is None or str(weight.ty.dtype) != "float32" or weights.ndim != 4:
        return None
    if attrs.data_layout != "NCHW" or attrs.kernel_layout != "OIHW":
        return None
    out_channels, group_channels, *kernel = weights.shape
    in_channels = group_channels * int(attrs.groups)
    plan = conv2d.plan_conv2d(
        in_channels, out_channels, tuple(kernel), int(attrs.groups), graph.block
    )
    if plan is None:
        return None
    alone = not graph.is_blocked(data) and graph.old not in graph.stays_blocked
    few = weights[0].size <= _FEW_PRODUCTS and max(pair_of(attrs.strides)) <= 2
    options: dict[str, Any] = dict(
        strides=pair_of(attrs.strides),
        padding=padding_of(attrs.padding),
        dilation=pair_of(attrs.dilation),
    )
    if graph.bf16 and plan.kind == "dense":
        made = None
        if not (plan.in_block == 1 and few and alone):
            source = graph.input_in_blocks(data, in_channels, plan.in_block)
            made = _in_pairs(graph, source, weights, plan, options)
        if made is not None:
            return graph.emit_blocked(made, out_channels, name)
    strides = options["strides"]
    # Dense with one input channel is no window: its outputs share what is loaded.
    window = in_channels == int(attrs.groups) and out_channels % in_channels == 0
    window = window and (in_channels > 1 or plan.kind != "dense")
    rows, blocked, form = None, math.inf, None
    if alone and window:
        rows, blocked = _window_cycles(graph, call, kernel, strides, plan) or (None, math.inf)
    elif alone:
        form = dense_form(graph, call, plan, kernel)
        if form is not None:
            taps, result = math.prod(kernel), static_shape(graph.old)
            assert result is not None, "a form is of known sizes"
            rows = form.cycles
            blocked = blocked_cycles((result[2], result[3]), taps, plan.nominal[1], graph.target)
    wide = rows is not None and rows < blocked
    method = choose_method(graph, data, weights, plan, options, alone, alone and few, rows, wide)
    if method == PLAIN and window:
        made = _depthwise_plain(graph, data, weights, options, name)
        if made is not None:
            return made
    if method == PLAIN:  # the result would be unpacked at once
        return None if form is None else plain_convolution(graph, call, weights, form, name)
    source = graph.input_in_blocks(data, in_channels, plan.in_block)
    if method < DIRECT:
        made = winograd_convolution(graph, source, weights, plan, options, method)
        return graph.emit_blocked(made, out_channels, name)
    if method != DIRECT + plan.reduction_block:
        plan = reduced_by(plan, method - DIRECT, kernel) or plan
    packed = array_constant(conv2d.pack_conv2d_weight(weights, plan))

    def depthwise(x: te.Tensor, w: te.Tensor) -> te.Tensor:
        return conv2d.depthwise_conv2d_blocked(x, w, **options)

    def dense(x: te.Tensor, w: te.Tensor) -> te.Tensor:
        return conv2d.conv2d_blocked(x, w, plan=plan, **options)

    compute = depthwise if plan.kind == "depthwise" else dense
    made = graph.call(compute, source, packed, hint="conv2d", options=(plan, *options.values()))
    return graph.emit_blocked(made, out_channels, name)


def _window_cycles(
    graph: LayoutRewriter,
    call: Call,
    kernel: Sequence[int],
    strides: tuple[int, int],
    plan: conv2d.Conv2dPlan | None = None,
) -> tuple[float, float] | None:
    """Of a window that nobody shares blocks with: along rows, and in blocks.

    plan: of a convolution, where blocks are dense unless it has one filter for each channel.
    """
    assert graph.old is not None, "a binding is rewritten"
    image, result = static_shape(call.args[0]), static_shape(graph.old)
    if image is None or result is None or 0 in (*image, *result):
        return None
    if max(kernel[1], strides[1]) > WINDOW_UNROLLED:
        return None
    sides, window = ((image[2], image[3]), (result[2], result[3])), (kernel[0], kernel[1])
    rows = plain_window_cycles((image[1], result[1]), *sides, window, strides[1], graph.target)
    taps = window[0] * window[1]
    if plan is not None and plan.kind == "dense":
        return rows, blocked_cycles(sides[1], taps, plan.nominal[1], graph.target)
    return rows, blocked_window_cycles(image[1], sides[1], taps, graph.target)


def _depthwise_plain(
    graph: LayoutRewriter, data: Expr, weights: np.ndarray, options: dict[str, Any], name: str
) -> Expr | None:
    value = graph.plain(data)
    if static_shape(value) is None:
        return None

    def compute(x: te.Tensor, w: te.Tensor) -> te.Tensor:
        return window.depthwise_conv2d_plain(x, w, **options)

    kernels = array_constant(np.ascontiguousarray(weights[:, 0]))
    return graph.emit(graph.call(compute, value, kernels, hint="conv2d"), name)


def _in_pairs(
    graph: LayoutRewriter,
    source: Expr,
    weights: np.ndarray,
    plan: conv2d.Conv2dPlan,
    options: dict[str, Any],
) -> Expr | None:
    """A dense convolution that multiplies pairs of bfloat16: channels, or taps of an image's row.

    None where a pixel and a row have but one to offer.
    """
    kernel = weights.shape[2], weights.shape[3]
    if plan.in_block > 1:
        sizes = plan.in_channels, plan.out_channels
        even = conv2d.plan_conv2d(*sizes, kernel, plan.groups, graph.block, EVEN)
        assert even is not None, "a whole block is one of EVEN"
        plan = even
    elif kernel[1] < 2 or options["dilation"][1] > 1:
        return None
    words = conv2d.pair_conv2d_weight(conv2d.pack_conv2d_weight(weights, plan), plan)

    def compute(x: te.Tensor, w: te.Tensor) -> te.Tensor:
        return conv2d.conv2d_blocked(x, w, plan=plan, columns=kernel[1], **options)

    return graph.call(compute, graph.narrow(source), relax.const(words), hint="conv2d")


def _unary(graph: LayoutRewriter, call: Call, name: str) -> Expr | None:
    value = call.args[0]
    if not graph.is_blocked(value):
        return None
    made = relax.Call(call.op, [value, *call.args[1:]], call.attrs)
    return graph.emit_blocked(made, graph.channels[value], name)


def _unary_full(graph: LayoutRewriter, call: Call, name: str) -> Expr | None:
    value = call.args[0]
    full = graph.is_blocked(value) and graph.channels[value] % graph.block == 0
    return _unary(graph, call, name) if full else None


def _binary(graph: LayoutRewriter, call: Call, name: str) -> Expr | None:
    blocked = [arg for arg in call.args if graph.is_blocked(arg)]
    if not blocked:
        return None
    channels = max(graph.channels[arg] for arg in blocked)
    operands = [graph.blocked(arg, channels) for arg in call.args]
    if None in operands:
        return None
    operands = [graph.as_stored(arg) for arg in operands if arg is not None]
    return graph.emit_blocked(relax.Call(call.op, operands, call.attrs), channels, name)


def _binary_full(graph: LayoutRewriter, call: Call, name: str) -> Expr | None:
    blocked = [arg for arg in call.args if graph.is_blocked(arg)]
    if any(graph.channels[arg] % graph.block for arg in blocked):
        right = graph.constant(call.args[1])  # x / 6 and x ** 2 are as finite as x
        if right is None or right.size != 1 or not right.reshape(-1)[0] > 0:
            return None
    return _binary(graph, call, name)


def _pool(graph: LayoutRewriter, call: Call, name: str) -> Expr | None:
    attrs = call.attrs
    if attrs.layout != "NCHW":
        return None
    options: dict[str, Any] = dict(
        kernel=pair_of(attrs.pool_size),
        strides=pair_of(attrs.strides),
        padding=padding_of(attrs.padding),
        dilation=pair_of(attrs.dilation),
        ceil_mode=bool(attrs.ceil_mode),
    )
    compute, in_rows = pool2d.max_pool2d_blocked, window.max_pool2d_plain
    if op_name(call) == "relax.nn.avg_pool2d":
        options["count_include_pad"] = bool(attrs.count_include_pad)
        compute, in_rows = pool2d.avg_pool2d_blocked, window.avg_pool2d_plain
    alone = not graph.is_blocked(call.args[0]) and graph.old not in graph.stays_blocked
    strides = pair_of(attrs.strides)
    cycles = _window_cycles(graph, call, options["kernel"], strides) if alone else None
    if cycles is not None and cycles[0] < cycles[1]:
        if strides[1] > 1 and not any(options["padding"]) and not attrs.ceil_mode:
            return None  # LLVM deals out the columns of a row in registers
        if str(call.args[0].ty.dtype) == "float32":
            return graph.emit(
                graph.call(lambda x: in_rows(x, **options), *call.args, hint="pool2d"), name
            )
    value = graph.worth_blocking(call.args[0])
    if value is None:
        return None
    made = graph.call(lambda x: compute(x, **options), value, hint="pool2d")
    return graph.emit_blocked(made, graph.channels[value], name)


def _global_average(graph: LayoutRewriter, call: Call, name: str) -> Expr | None:
    value, attrs = call.args[0], call.attrs
    if not graph.is_blocked(value):
        return None
    if op_name(call) == "relax.mean":
        axes = sorted(int(axis) % 4 for axis in (attrs.axis or []))
        if axes != [2, 3]:
            return None
    elif [int(size) for size in (attrs.output_size or [])] != [1, 1]:
        return None
    made = graph.call(pool2d.global_avg_pool2d_blocked, value, hint="global_avg_pool2d")
    pooled = graph.emit_blocked(made, graph.channels[value], name)
    if op_name(call) == "relax.mean" and not attrs.keepdims:
        plain = graph.plain(pooled)
        return graph.emit(relax.op.reshape(plain, list(plain.ty.shape.values)[:2]), f"{name}_flat")
    return pooled


def _instance_norm(graph: LayoutRewriter, call: Call, name: str) -> Expr | None:
    value, epsilon = call.args[0], float(call.attrs.epsilon)
    vectors = [graph.constant(vector) for vector in call.args[1:]]
    known = [vector for vector in vectors if vector is not None]
    if not graph.is_blocked(value) or len(known) < 2 or epsilon <= 0:
        return None
    channels = graph.channels[value]
    blocks = [
        array_constant(np.pad(vector, (0, -channels % graph.block)).reshape(-1, graph.block))
        for vector in known
    ]
    made = graph.call(
        lambda x, gamma, beta: layer_norm.instance_norm_blocked(x, gamma, beta, epsilon),
        value,
        *blocks,
        hint="instance_norm",
    )
    return graph.emit_blocked(made, channels, name)


BLOCKED_OPERATORS: dict[str, Rewrite] = {
    "relax.concat": concat,
    "relax.mean": _global_average,
    "relax.nn.adaptive_avg_pool2d": _global_average,
    "relax.nn.avg_pool2d": _pool,
    "relax.nn.conv2d": _convolution,
    "relax.nn.conv2d_transpose": transposed_convolution,
    "relax.nn.instance_norm": _instance_norm,
    "relax.nn.max_pool2d": _pool,
    "relax.strided_slice": strided_slice,
    **{f"relax.{name}": _unary for name in _UNARY},
    **{f"relax.{name}": _unary_full for name in _UNARY_FULL},
    **{f"relax.{name}": _binary for name in _BINARY},
    **{f"relax.{name}": _binary_full for name in _BINARY_FULL},
}
