"""The graph passes in order: imported Relax -> kernel calls in a straight line."""

from __future__ import annotations

import tvm
from tvm.ir import IRModule
from tvm.relax import transform as relax_transform

from athanor.compiler.choices import Choices
from athanor.compiler.legalize import LEGALIZE
from athanor.compiler.passes.arrange_depthwise import ArrangeDepthwise
from athanor.compiler.passes.arrange_products import ArrangeProducts
from athanor.compiler.passes.block_layouts import BlockLayouts
from athanor.compiler.passes.channels_last import ChannelsLast
from athanor.compiler.passes.fold_channel_affine import FoldChannelAffine
from athanor.compiler.passes.fold_constants import FoldConstants
from athanor.compiler.passes.fuse_attention import FuseAttention
from athanor.compiler.passes.fuse_named import FuseNamed
from athanor.compiler.passes.legalize_concat import LegalizeConcat
from athanor.compiler.passes.lift_conv1d import LiftConv1d
from athanor.compiler.passes.lift_reshapes import LiftReshapes
from athanor.compiler.passes.lower_conv3d import LowerConv3d
from athanor.compiler.passes.merge_equal import MergeEqual
from athanor.compiler.passes.merge_products import MergeProducts
from athanor.compiler.passes.narrow_products import NarrowProducts
from athanor.compiler.passes.pack_matmul import PackMatmul
from athanor.compiler.passes.pad_channels import PadChannels
from athanor.compiler.passes.simplify_views import SimplifyViews
from athanor.compiler.passes.split_bands import SplitBands
from athanor.compiler.passes.split_phases import SplitPhases
from athanor.compiler.passes.tile_transposes import TileTransposes
from athanor.compiler.passes.trim_kernels import TrimKernels
from athanor.compiler.passes.widen_within import WidenWithin
from athanor.targets import TargetSpec
from athanor.targets.gpu import GPUSpec

VIEWS = ["relax.reshape", "relax.concat"]
"""Operators that need no kernel: the program gives input and output the same memory."""


def graph_passes(
    target: TargetSpec,
    winograd: bool = True,
    bf16: bool = False,
    choices: Choices | None = None,
) -> list[tvm.transform.Pass]:
    """Every pass from the imported graph to fused prim_funcs."""
    choices = choices or Choices()
    return [
        # Phase 0: the graph as the importer left it -> canonical
        relax_transform.CanonicalizeBindings(),
        MergeEqual(),
        FoldConstants(),
        FoldChannelAffine(),
        LiftConv1d(),
        LowerConv3d(),
        FoldConstants(),
        relax_transform.DeadCodeElimination(),  # else weights that nobody reads would be packed
        # Phase 1: layouts and packed weights, once weights are final
        *(
            _gpu_products(target, target.gpu)
            if target.gpu
            else _cpu_layouts(target, winograd, bf16, choices)
        ),
        SimplifyViews(),
        FoldConstants(),
        relax_transform.DeadCodeElimination(),
        # Phase 2: operators -> prim_funcs
        *([] if target.gpu else [TileTransposes(target)]),
        LegalizeConcat(target.gpu.access_bytes if target.gpu else 1),
        relax_transform.LegalizeOps(customize_legalize_map=LEGALIZE, skip_ops=VIEWS),
        # Phase 3: fusion
        relax_transform.AnnotateTIROpPattern(),
        FuseNamed(),
        relax_transform.FuseTIR(),
        relax_transform.DeadCodeElimination(),
    ]


def _cpu_layouts(
    target: TargetSpec, winograd: bool, bf16: bool, choices: Choices
) -> list[tvm.transform.Pass]:
    return [
        SplitPhases(target),
        TrimKernels(),
        SplitBands(target),
        BlockLayouts(target, winograd, bf16, choices),
        FuseAttention(target, choices),
        PackMatmul(target, bf16, choices),
    ]


def _gpu_products(target: TargetSpec, gpu: GPUSpec) -> list[tvm.transform.Pass]:
    narrow = [NarrowProducts(gpu.narrow)] if gpu.narrow else []
    return [
        LiftReshapes(),
        MergeProducts(),
        FuseAttention(target),
        *narrow,
        PadChannels(),
        ChannelsLast(),
        FoldConstants(),
        ArrangeProducts(),
        ArrangeDepthwise(),
        WidenWithin(),
    ]


def run_graph_passes(
    mod: IRModule,
    target: TargetSpec,
    winograd: bool = True,
    bf16: bool = False,
    choices: Choices | None = None,
) -> IRModule:
    """Apply `graph_passes`."""
    with target.gpu.tvm if target.gpu else target.tvm:
        return tvm.transform.Sequential(graph_passes(target, winograd, bf16, choices))(mod)
