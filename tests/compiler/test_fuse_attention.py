"""Attention is found in the forms that exporters and operators give it, and nowhere else."""

import numpy as np
import pytest
from tvm import relax
from tvm.relax import op as R

from athanor.compiler import pipeline
from athanor.compiler.compile_module import compile_module
from athanor.compiler.passes.fuse_attention import FuseAttention
from athanor.targets import find_target

from .graphs import module, operators

RNG = np.random.default_rng(1)
TARGET = find_target("native")


def number(value):
    return relax.const(np.float32(value))


def attended(emit, q, k, v, steps=lambda emit, s: s, guard=False):
    """softmax(steps(q @ k^T)) @ v, all (..., row, column)."""
    rank = len(k.ty.shape.values)
    turned = emit(R.permute_dims(k, [*range(rank - 2), rank - 1, rank - 2]))
    weights = emit(R.nn.softmax(steps(emit, emit(R.matmul(q, turned))), axis=-1))
    if guard:
        weights = emit(R.where(emit(R.isnan(weights)), number(0), weights))
    return emit(R.matmul(weights, v))


def heads(emit, x, count):
    batch, length, width = x.ty.shape.values
    parted = emit(R.reshape(x, (batch, length, count, int(width) // count)))
    return emit(R.permute_dims(parted, [0, 2, 1, 3]))


def joined(emit, x):
    batch, count, length, size = x.ty.shape.values
    moved = emit(R.permute_dims(x, [0, 2, 1, 3]))
    return emit(R.reshape(moved, (batch, length, int(count) * int(size))))


def plain(emit, q, k, v):
    return attended(emit, q, k, v)


def scaled(emit, q, k, v):
    """As torch exports it: both scaled, a mask added, NaN to 0."""
    q, k, v = (heads(emit, x, 2) for x in (q, k, v))
    turned = emit(R.permute_dims(k, [0, 1, 3, 2]))
    left, right = emit(R.multiply(q, number(0.5))), emit(R.multiply(turned, number(0.5)))
    scores = emit(R.matmul(left, right))
    hidden = np.where(np.tri(7, 9) > 0, 0, -np.inf).astype("float32")
    hidden[3] = -np.inf
    weights = emit(R.nn.softmax(emit(R.add(scores, relax.const(hidden))), axis=3))
    weights = emit(R.where(emit(R.isnan(weights)), number(0), weights))
    return joined(emit, emit(R.matmul(weights, v)))


def sliced(emit, x):
    """One product for all three, as GPT-2 has it; scores divided."""
    parts = [emit(R.strided_slice(x, [2], [i], [i + 16])) for i in (0, 16, 32)]
    q, k, v = (heads(emit, part, 2) for part in parts)
    return joined(
        emit, attended(emit, q, k, v, lambda emit, s: emit(R.divide(s, number(8.0))), guard=True)
    )


def chosen(emit, q, k, v, mask):
    """A boolean mask and a number in the place of what it hides."""
    return attended(emit, q, k, v, lambda emit, s: emit(R.where(mask, s, number(-1e4))))


def chosen_other(emit, q, k, v, mask):
    return attended(emit, q, k, v, lambda emit, s: emit(R.where(mask, number(-np.inf), s)))


def two_masks(emit, q, k, v, one, other):
    def steps(emit, s):
        s = emit(R.multiply(emit(R.add(one, emit(R.multiply(s, number(0.3))))), number(0.7)))
        return emit(R.add(s, other))

    return attended(emit, q, k, v, steps)


def grouped(emit, q, k, v, bias):
    """Queries that share a key as one sequence, split for the mask."""
    batch, count, length, size = q.ty.shape.values
    _, groups, keys, _ = k.ty.shape.values
    share = int(count) // int(groups)
    together = emit(R.reshape(q, (batch, groups, length * share, size)))
    scores = emit(R.matmul(together, emit(R.permute_dims(k, [0, 1, 3, 2]))))
    scores = emit(R.reshape(scores, (batch, count, length, keys)))
    weights = emit(R.nn.softmax(emit(R.add(scores, bias)), axis=-1))
    weights = emit(R.reshape(weights, (batch, groups, length * share, keys)))
    return emit(R.reshape(emit(R.matmul(weights, v)), (batch, count, length, size)))


def repeated(emit, q, k, v):
    """Keys and values copied for each head that shares them."""

    def copies(x):
        batch, groups, length, size = x.ty.shape.values
        wide = emit(R.reshape(x, (batch, groups, 1, length, size)))
        wide = emit(R.broadcast_to(wide, (batch, groups, 3, length, size)))
        return emit(R.reshape(wide, (batch, int(groups) * 3, length, size)))

    return attended(emit, q, copies(k), copies(v))


F, B = "float32", "bool"
FOUND = {
    "rank 3": (plain, {"q": (3, 5, 8), "k": (3, 7, 8), "v": (3, 7, 4)}),
    "rank 4": (plain, {"q": (2, 3, 20, 8), "k": (2, 3, 33, 8), "v": (2, 3, 33, 16)}),
    "scaled": (scaled, {"q": (2, 7, 16), "k": (2, 9, 16), "v": (2, 9, 16)}),
    "sliced": (sliced, {"x": (2, 19, 48)}),
    "symbolic": (plain, {"q": ("b", 3, "m", 8), "k": ("b", 3, "n", 8), "v": ("b", 3, "n", 8)}),
    "sliced, symbolic": (sliced, {"x": ("b", "m", 48)}),
    "chosen": (
        chosen,
        {"q": (2, 3, 5, 8), "k": (2, 3, 6, 8), "v": (2, 3, 6, 8), "mask": ((2, 1, 5, 6), B)},
    ),
    "chosen, otherwise": (
        chosen_other,
        {"q": (2, 3, 40, 8), "k": (2, 3, 6, 8), "v": (2, 3, 6, 8), "mask": ((40, 6), B)},
    ),
    "two masks": (
        two_masks,
        {
            **{"q": (2, 3, 33, 8), "k": (2, 3, 6, 8), "v": (2, 3, 6, 8)},
            **{"one": (2, 1, 1, 6), "other": (3, 33, 6)},
        },
    ),
    "grouped": (
        grouped,
        {"q": (2, 6, 5, 8), "k": (2, 2, 7, 8), "v": (2, 2, 7, 8), "bias": (1, 1, 5, 7)},
    ),
    "grouped, symbolic": (
        grouped,
        {"q": ("b", 6, "m", 8), "k": ("b", 2, 7, 8), "v": ("b", 2, 7, 8), "bias": (1, 1, 1, 7)},
    ),
    "repeated": (repeated, {"q": (2, 6, 5, 8), "k": (2, 2, 7, 8), "v": (2, 2, 7, 8)}),
    "shared": (plain, {"q": (2, 6, 5, 8), "k": (2, 1, 7, 8), "v": (2, 1, 7, 8)}),
}
EXTENTS = {"b": 2, "m": 35, "n": 11}


def static(spec):
    shape, dtype = spec if isinstance(spec[0], tuple) else (spec, F)
    return tuple(EXTENTS.get(dim, dim) for dim in shape), dtype


def arrays_for(specs):
    for shape, dtype in map(static, specs.values()):
        array = RNG.standard_normal(shape)
        yield array > 0.3 if dtype == B else array.astype(F)


def kernels(mod):
    return [gv.name_hint for gv, _ in FuseAttention(TARGET)(mod).functions_items()]


@pytest.mark.parametrize("name", FOUND)
def test_found(name, monkeypatch):
    """One kernel, without a product or softmax beside it, that computes what the parts compute."""
    build, inputs = FOUND[name]
    mod = module(build, **inputs)
    after = relax.transform.DeadCodeElimination()(FuseAttention(TARGET)(mod))
    assert not {"relax.matmul", "relax.nn.softmax"} & set(operators(after))
    assert sum(gv.name_hint == "attention" for gv, _ in after.functions_items()) == 1
    arrays = dict(zip(inputs, arrays_for(inputs), strict=True))
    results = []
    for fused in (True, False):
        if not fused:
            mod = module(build, **{name: static(spec) for name, spec in inputs.items()})
            nothing = relax.transform.CanonicalizeBindings()
            monkeypatch.setattr(pipeline, "FuseAttention", lambda *_arguments: nothing)
        with compile_module(mod).load(threads=1) as model:
            results.append(model.run(arrays)["output0"])
    np.testing.assert_allclose(*results, rtol=1e-5, atol=2e-6)


def test_transposes_of_heads_are_gone():
    build, inputs = FOUND["scaled"]
    after = relax.transform.DeadCodeElimination()(FuseAttention(TARGET)(module(build, **inputs)))
    moved = [
        binding.value
        for block in after["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call) and "permute" in str(binding.value.op)
    ]
    assert len(moved) == 1, "the mask, which is constant"


def softmax_of_columns(emit, q, k, v):
    scores = emit(R.matmul(q, k))
    return emit(R.matmul(emit(R.nn.softmax(scores, axis=1)), v))


def weights_returned(emit, q, k, v):
    weights = emit(R.nn.softmax(emit(R.matmul(q, k)), axis=-1))
    return relax.Tuple([emit(R.matmul(weights, v)), weights])


def scores_read_twice(emit, q, k, v):
    scores = emit(R.matmul(q, k))
    weights = emit(R.nn.softmax(scores, axis=-1))
    return emit(R.add(emit(R.matmul(weights, v)), scores))


def another_guard(emit, q, k, v):
    weights = emit(R.nn.softmax(emit(R.matmul(q, k)), axis=-1))
    weights = emit(R.where(emit(R.isnan(weights)), number(1), weights))
    return emit(R.matmul(weights, v))


def wider_bias(emit, q, k, v):
    """A sum that has more elements than the scores."""
    scores = emit(R.add(emit(R.matmul(q, k)), relax.const(np.ones((4, 6, 6), F))))
    return emit(R.matmul(emit(R.nn.softmax(scores, axis=-1)), v))


@pytest.mark.parametrize(
    "build",
    [softmax_of_columns, weights_returned, scores_read_twice, another_guard, wider_bias],
)
def test_left_alone(build):
    first = 1 if build is wider_bias else 4
    shape = (first, 6, 6)
    assert kernels(module(build, q=shape, k=shape, v=(4, 6, 6))) == ["main"]


def test_symbolic_heads_and_half_precision_are_left_alone():
    size = {"q": (2, 3, "d"), "k": (2, 5, "d"), "v": (2, 5, 4)}
    assert kernels(module(plain, **size)) == ["main"]
    half = {name: ((2, 5, 8), "float16") for name in "qkv"}
    assert kernels(module(plain, **half)) == ["main"]
