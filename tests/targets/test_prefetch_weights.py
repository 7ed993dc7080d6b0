"""Prefetches name the weights that come next, and all of them."""

from dataclasses import replace

import numpy as np
import pytest
import tvm_ffi
from tvm import te, tirx
from tvm.ir import Call, IRModule
from tvm.script import tirx as T
from tvm.sym import Analyzer

from athanor.schedules.compute import matmul
from athanor.targets import TARGETS
from athanor.targets.codegen import build_kernels
from athanor.targets.prefetch_weights import PrefetchWeights
from athanor.targets.rules import schedule_and_lower


def panels(tiles, outer, inner, elements):
    """A product's loops over tiles, steps, and what is unrolled in a step."""
    spatial, steps = {"athanor.prefetch.tiles": 1}, {"athanor.prefetch.steps": ["b", elements]}

    @T.prim_func(private=True)
    def main(b: T.Buffer((10 * elements,), "float32"), c: T.Buffer((10 * tiles,), "float32")):
        for panel in range(10):
            for tile in T.serial(tiles, annotations=spatial):
                for k in T.serial(outer, annotations=steps):
                    for j in range(inner):
                        c[panel * tiles + tile] += b[panel * elements + k * inner + j]

    return main


def prefetched(func):
    """Every element whose address is prefetched in the panel 3, of `b`."""
    body = PrefetchWeights()(IRModule({"main": func}))["main"].body
    found, extents = [], {}
    tvm_ffi.structural_walk(
        body,
        (tirx.For, lambda loop: extents.__setitem__(loop.loop_var.name, int(loop.extent))),
    )

    def see(call):
        if getattr(call.op, "name", "") == "tirx.address_of":
            found.append(call.args[0].indices[0])

    tvm_ffi.structural_walk(body, (Call, see))
    elements = set()
    for index in found:
        for tile in range(extents["tile"]):
            for k in range(extents["k"]):
                values = {"panel": 3, "tile": tile, "k": k}
                place = tvm_ffi.structural_map(
                    index,
                    (
                        tirx.Var,
                        lambda var, v=values: tirx.IntImm(str(var.ty.dtype), v[var.name]),
                    ),
                )
                elements.add(int(Analyzer().simplify(place)))
    return elements


@pytest.mark.parametrize(
    ("tiles", "outer", "inner", "covered"),
    [(22, 24, 64, 96), (4, 24, 64, 96), (3, 24, 64, 96), (2, 24, 128, 192), (2, 8, 256, 64)],
)
def test_lines(tiles, outer, inner, covered):
    """All lines of the next panel, or as many as few tiles can ask for."""
    elements = outer * inner
    lines = {place // 16 for place in prefetched(panels(tiles, outer, inner, elements))}
    first = 4 * elements // 16
    assert set(range(first, first + covered)) <= lines
    assert max(lines) < first + elements // 16 + 4 * outer  # not far behind


def test_tiles_of_a_short_band():
    """The last band has fewer rows of tiles: they can't be counted."""

    @T.prim_func(private=True)
    def main(b: T.Buffer((4096,), "float32"), c: T.Buffer((64,), "float32")):
        for band in range(4):
            for tile in T.serial(
                T.min(4, 14 - band * 4), annotations={"athanor.prefetch.tiles": 1}
            ):
                for k in T.serial(8, annotations={"athanor.prefetch.steps": ["b", 512]}):
                    c[band * 4 + tile] += b[k]

    body = PrefetchWeights()(IRModule({"main": main}))["main"].body
    assert "prefetch" not in body.script()


def test_one_tile():
    """Weights that are read once come at the pace of memory anyway."""
    assert not prefetched(panels(1, 24, 64, 24 * 64))


@pytest.mark.parametrize("l2_bytes", [1 << 13, 1 << 20])
def test_product(l2_bytes):
    """Where L2 does not hold the weights, and only there."""
    target = replace(TARGETS["x86-64-v3"], l2_bytes=l2_bytes)
    a = te.placeholder((37, 96), "float32", "a")
    weight = matmul.pack_matmul_weight(np.zeros((96, 80), "float32"), False, target)
    b = te.placeholder(weight.shape, "float32", "b")
    func = te.create_prim_func([a, b, matmul.matmul_packed(a, b, 80)], "int64")
    _, lowered, _ = schedule_and_lower("product", func, target)
    assembly = build_kernels({"product": lowered}, target).assembly()
    assert ("prefetch" in assembly) == (l2_bytes < 1 << 20)


def test_rows_of_the_run():
    """Their tiles can't be counted: no prefetch, and the rule still holds."""
    target = replace(TARGETS["x86-64-v3"], l2_bytes=1 << 13)
    a = te.placeholder((te.var("m", "int64"), 96), "float32", "a")
    weight = matmul.pack_matmul_weight(np.zeros((96, 80), "float32"), False, target)
    b = te.placeholder(weight.shape, "float32", "b")
    func = te.create_prim_func([a, b, matmul.matmul_packed(a, b, 80)], "int64")
    _, lowered, rule = schedule_and_lower("product", func, target)
    assert rule == "CPUMatmul"
    assert "prefetch" not in build_kernels({"product": lowered}, target).assembly()
