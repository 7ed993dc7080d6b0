"""By which method a convolution runs: in NCHW, directly on blocks, or Winograd's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from tvm import te
from tvm.ir import Call, Expr

from athanor.compiler.passes.rewrite import array_constant
from athanor.schedules.blocks import constant
from athanor.schedules.compute import conv2d, winograd
from athanor.schedules.winograd_tasks import winograd_tile, winograd_tiles_of

if TYPE_CHECKING:
    from athanor.compiler.passes.block_layouts import LayoutRewriter

PLAIN, DIRECT = 0, 100
"""Methods of a convolution: in NCHW; on blocks, plus the channels of a reduction block. Between
them is Winograd's, the number of outputs of a tile along an axis."""

FINE_TILE = 4
"""Pixels of the tiles that the direct method takes where most taps meet padding."""


def choose_method(
    graph: LayoutRewriter,
    data: Expr,
    weights: np.ndarray,
    plan: conv2d.Conv2dPlan,
    options: dict[str, Any],
    alone: bool,
    few: bool,
    rows: float | None,
    wide: bool,
) -> int:
    """PLAIN, the output tile of Winograd's method, or DIRECT + channels of a reduction block.

    alone: whether nothing else wants blocks; few: and there is little to compute; rows: cycles in
    NCHW, less those of packing; wide: whether the direct method in blocks takes more than that.
    """
    out_channels, _, *kernel = weights.shape
    direct = DIRECT + plan.reduction_block
    preferred = PLAIN if plan.in_block == 1 and few else direct
    sizes = [constant(dim) for dim in _logical_sizes(graph, data)]
    height, width = sizes[2:]
    if height is None or width is None:
        return preferred
    tiles: tuple[int, ...] = ()
    blocked = _for_winograd(graph, plan, kernel, options)
    if blocked is not None:
        cut = (
            (height, width),
            options["padding"],
            kernel[0],
            -(-plan.in_channels // graph.block),
            blocked.reduction_steps * graph.block,
            -(-out_channels // graph.block),
            graph.target,
            options["dilation"][0],
        )
        tiles = winograd_tiles_of(*cut)
        share = _direct_share((height, width), kernel, options)
        tile = winograd_tile(*cut, limit=math.inf if rows is None else rows, share=share)
        if tile is not None and preferred != PLAIN:
            preferred = tile
    if preferred == direct and wide:
        preferred = PLAIN
    if sizes[0] is None:
        return preferred
    others = [block for block in (16, 8, 4, 2, 1) if reduced_by(plan, block, kernel) is not None]
    candidates = {preferred, direct, *tiles, *(DIRECT + block for block in others)}
    if alone:
        candidates.add(PLAIN)
    words = [
        "x".join(map(str, sizes)),
        "x".join(map(str, weights.shape)),
        *(f"{name} {'x'.join(map(str, value))}" for name, value in options.items()),
        f"groups {plan.groups}",
        "alone" if alone else "among blocks",
    ]
    key = f"conv2d {', '.join(words)}"
    return graph.choices.choose(key, sorted(candidates), preferred, graph.current)


def _logical_sizes(graph: LayoutRewriter, data: Expr) -> list[Any]:
    """(N, C, H, W) of a value of either layout."""
    if not graph.is_blocked(data):
        return list(data.ty.shape.values)
    batch, _, height, width, _ = data.ty.shape.values
    return [batch, graph.channels[data], height, width]


def _direct_share(image: tuple[int, int], kernel: list[int], options: dict[str, Any]) -> float:
    """Of the products of a convolution of stride 1, those that are not with padding, if few are."""
    padding, dilation = options["padding"], options["dilation"]
    rows, columns = (conv2d.Window(kernel[i], 1, dilation[i], padding[i], image[i]) for i in (0, 1))
    height, width = (
        image[i] + padding[i] + padding[i + 2] - (kernel[i] - 1) * dilation[i] for i in (0, 1)
    )
    share = conv2d.met_share((rows, columns), (height, width), FINE_TILE)
    return share if share < conv2d.MOST_MET else 1.0


def reduced_by(plan: conv2d.Conv2dPlan, block: int, kernel: list[int]) -> conv2d.Conv2dPlan | None:
    """The plan with that reduction block, where it is possible."""
    if plan.kind != "dense":
        return None
    return conv2d.plan_conv2d(
        plan.in_channels,
        plan.out_channels,
        (kernel[0], kernel[1]),
        plan.groups,
        plan.out_block,
        (block,),
    )


def _for_winograd(
    graph: LayoutRewriter, plan: conv2d.Conv2dPlan, kernel: list[int], options: dict[str, Any]
) -> conv2d.Conv2dPlan | None:
    """The plan of a convolution that Winograd's method can compute; None where it can not."""
    dilation, other = options["dilation"]
    if not graph.winograd or kernel[0] != kernel[1]:
        return None
    if options["strides"] != (1, 1) or dilation != other or plan.in_block != graph.block:
        return None
    return reduced_by(plan, graph.block, kernel)


def winograd_convolution(
    graph: LayoutRewriter,
    source: Expr,
    weights: np.ndarray,
    plan: conv2d.Conv2dPlan,
    options: dict[str, Any],
    tile: int,
) -> Call:
    """A convolution by Winograd's method."""
    taps = weights.shape[2]
    blocked = _for_winograd(graph, plan, [taps, taps], options)
    assert blocked is not None
    packed = array_constant(winograd.pack_winograd_weight(weights, blocked, tile))

    def compute(x: te.Tensor, w: te.Tensor) -> te.Tensor:
        return winograd.winograd_conv2d_blocked(
            x,
            w,
            plan=blocked,
            tile=tile,
            taps=taps,
            padding=options["padding"],
            dilation=options["dilation"][0],
        )

    return graph.call(compute, source, packed, hint="winograd")
