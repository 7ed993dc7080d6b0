"""Each graph pass: what it changes, what it keeps, and one module it must leave alone."""

import numpy as np
import pytest
import tvm_ffi
from tvm import relax
from tvm.relax import op as R

from athanor.compiler.passes.block_layouts import BlockLayouts
from athanor.compiler.passes.fold_channel_affine import FoldChannelAffine
from athanor.compiler.passes.fold_constants import FoldConstants
from athanor.compiler.passes.legalize_concat import LegalizeConcat
from athanor.compiler.passes.lift_conv1d import LiftConv1d
from athanor.compiler.passes.merge_equal import MergeEqual
from athanor.compiler.passes.rewrite import constant_array
from athanor.compiler.passes.simplify_views import SimplifyViews
from athanor.targets import find_target

from .graphs import module, operators

RNG = np.random.default_rng(0)


def constant(*shape):
    return relax.const(RNG.standard_normal(shape).astype("float32"))


def constants(mod):
    """Arrays of the constants that main's calls take, in order."""
    return [
        constant_array(arg)
        for block in mod["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call)
        for arg in binding.value.args
        if hasattr(arg, "value") and not isinstance(arg, relax.Var)
    ]


def drop_dead(mod):
    return relax.transform.DeadCodeElimination()(mod)


def test_views_become_one_reshape():
    before = module(
        lambda emit, x: emit(R.reshape(emit(R.expand_dims(emit(R.flatten(x)), 1)), (3, 2))),
        x=(2, 3),
    )
    after = drop_dead(SimplifyViews()(before))
    assert operators(after) == ["relax.reshape"]
    assert [int(d) for d in after["main"].ret_ty.shape.values] == [3, 2]


def test_reshape_to_the_same_shape_disappears():
    before = module(lambda emit, x: emit(R.nn.relu(emit(R.reshape(x, (2, 3))))), x=(2, 3))
    assert operators(drop_dead(SimplifyViews()(before))) == ["relax.nn.relu"]


def test_a_transpose_that_moves_unit_axes_only_is_a_view():
    before = module(lambda emit, x: emit(R.permute_dims(x, [1, 0, 2])), x=(1, 4, 5))
    assert operators(SimplifyViews()(before)) == ["relax.reshape"]


def test_a_real_transpose_stays():
    before = module(lambda emit, x: emit(R.permute_dims(x, [1, 0])), x=(3, 4))
    assert tvm_ffi.structural_equal(SimplifyViews()(before)["main"], before["main"])


def test_symbolic_views():
    before = module(lambda emit, x: emit(R.squeeze(emit(R.expand_dims(x, 0)), [0])), x=("n", 4))
    assert operators(drop_dead(SimplifyViews()(before))) == []


def test_constant_arithmetic_is_folded():
    a, b = constant(4, 3), constant(4, 3)
    before = module(
        lambda emit, x: emit(R.add(x, emit(R.permute_dims(emit(R.multiply(a, b)))))), x=(3, 4)
    )
    after = drop_dead(FoldConstants()(before))
    assert operators(after) == ["relax.add"]
    (folded,) = constants(after)
    np.testing.assert_array_equal(folded, (constant_array(a) * constant_array(b)).T)


def test_slices_of_constants_are_folded():
    a = constant(4, 6)
    before = module(
        lambda emit, x: emit(R.add(x, emit(R.strided_slice(a, [0, 1], [1, 0], [4, 6], [1, 2])))),
        x=(3, 3),
    )
    after = drop_dead(FoldConstants()(before))
    assert operators(after) == ["relax.add"]
    np.testing.assert_array_equal(constants(after)[0], constant_array(a)[1:4, 0:6:2])


def test_concatenations_of_constants_are_folded():
    a, b = constant(1, 3), constant(2, 3)
    before = module(lambda emit, x: emit(R.add(x, emit(R.concat([a, b], axis=0)))), x=(3, 3))
    after = drop_dead(FoldConstants()(before))
    assert operators(after) == ["relax.add"]
    expected = np.concatenate([constant_array(a), constant_array(b)])
    np.testing.assert_array_equal(constants(after)[0], expected)


def test_a_folded_scalar_stays_a_scalar():
    a, b = relax.const(np.array(2, np.float32)), relax.const(np.array(3, np.float32))
    before = module(lambda emit, x: emit(R.add(x, emit(R.multiply(a, b)))), x=(3,))
    (folded,) = constants(drop_dead(FoldConstants()(before)))
    assert folded.shape == () and folded == 6


def test_standardized_weights_are_folded():
    weight = constant(4, 3, 3, 3)

    def standardized(emit, x):
        flat = emit(R.reshape(weight, (4, 27)))
        centered = emit(R.subtract(flat, emit(R.mean(flat, [1], keepdims=True))))
        spread = emit(R.sqrt(emit(R.variance(flat, [1], keepdims=True))))
        return emit(R.nn.conv2d(x, emit(R.reshape(emit(R.divide(centered, spread)), (4, 3, 3, 3)))))

    after = drop_dead(FoldConstants()(module(standardized, x=(1, 3, 8, 8))))
    assert operators(after) == ["relax.nn.conv2d"]
    flat = constant_array(weight).reshape(4, 27).astype(np.float64)
    wanted = (flat - flat.mean(1, keepdims=True)) / flat.std(1, keepdims=True)
    np.testing.assert_allclose(constants(after)[0].reshape(4, 27), wanted, rtol=1e-5, atol=1e-6)


def test_quotients_by_zero_are_folded_without_a_warning(recwarn):
    a, b = constant(3), relax.const(np.zeros(3, np.float32))
    before = module(lambda emit, x: emit(R.add(x, emit(R.divide(a, b)))), x=(3,))
    (folded,) = constants(drop_dead(FoldConstants()(before)))
    assert np.isinf(folded).all() and not recwarn.list


def test_what_depends_on_an_input_is_not_folded():
    before = module(lambda emit, x: emit(R.permute_dims(x)), x=(3, 4))
    assert tvm_ffi.structural_equal(FoldConstants()(before)["main"], before["main"])


def batch_norm_graph(emit, x, weight, use_conv_twice=False):
    parts = [relax.const(RNG.uniform(0.5, 1.5, 6).astype("float32")) for _ in range(4)]
    c = emit(R.nn.conv2d(x, weight, padding=1))
    biased = emit(R.add(c, constant(1, 6, 1, 1)))
    normal = emit(R.nn.batch_norm(biased, *parts, axis=1, epsilon=1e-3))
    y = emit(relax.TupleGetItem(normal, 0))
    return emit(R.add(y, c)) if use_conv_twice else y


def evaluate(mod, x):
    import tvm

    executable = tvm.compile(mod, target="llvm")
    return relax.VirtualMachine(executable, tvm.cpu())["main"](tvm.runtime.tensor(x)).numpy()


@pytest.mark.parametrize("twice", [False, True])
def test_batch_norm_goes_into_the_convolution(twice):
    weight = constant(6, 3, 3, 3)
    before = module(lambda emit, x: batch_norm_graph(emit, x, weight, twice), x=(1, 3, 5, 5))
    after = drop_dead(FoldChannelAffine()(before))
    expected = ["relax.nn.conv2d", "relax.add"]
    if twice:  # the convolution has another reader, so its weights must stay
        expected = ["relax.nn.conv2d", "relax.add", "relax.multiply", "relax.add", "relax.add"]
    assert operators(after) == expected
    x = RNG.standard_normal((1, 3, 5, 5)).astype("float32")
    reference = relax.transform.DecomposeOpsForInference()(before)
    np.testing.assert_allclose(evaluate(after, x), evaluate(reference, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_batch_norm_goes_into_the_transposed_convolution(groups):
    weight = constant(4, 6 // groups, 3, 3)
    parts = [relax.const(RNG.uniform(0.5, 1.5, 6).astype("float32")) for _ in range(4)]

    def build(emit, x):
        c = emit(R.nn.conv2d_transpose(x, weight, strides=2, groups=groups))
        return emit(relax.TupleGetItem(emit(R.nn.batch_norm(c, *parts, axis=1)), 0))

    before = module(build, x=(1, 4, 5, 5))
    after = drop_dead(FoldChannelAffine()(before))
    assert operators(after) == ["relax.nn.conv2d_transpose", "relax.add"]
    x = RNG.standard_normal((1, 4, 5, 5)).astype("float32")
    reference = relax.transform.DecomposeOpsForInference()(before)
    np.testing.assert_allclose(evaluate(after, x), evaluate(reference, x), rtol=1e-5, atol=1e-5)


def test_per_pixel_constants_are_not_folded():
    weight = constant(6, 3, 3, 3)
    before = module(
        lambda emit, x: emit(R.multiply(emit(R.nn.conv2d(x, weight)), constant(1, 6, 3, 3))),
        x=(1, 3, 5, 5),
    )
    assert tvm_ffi.structural_equal(FoldChannelAffine()(before)["main"], before["main"])


@pytest.mark.parametrize(
    "shape, axis, stays",
    [((1, 3, 4), 1, True), ((2, 3, 4), 1, False), ((2, 3), 0, True), (("n", 3), 0, False)],
)
def test_concat(shape, axis, stays):
    before = module(lambda emit, x, y: emit(R.concat([x, y], axis=axis)), x=shape, y=shape)
    expected = ["relax.concat"] if stays else ["relax.call_tir"]
    assert operators(LegalizeConcat()(before)) == expected


@pytest.mark.parametrize(
    "build",
    [
        lambda x, w: R.nn.conv1d(x, w, strides=2, padding=(1, 2), dilation=2, groups=2),
        lambda x, _: R.nn.conv1d_transpose(
            x, constant(4, 3, 3), strides=3, padding=(2, 1), output_padding=1
        ),
        lambda x, w: R.nn.max_pool1d(x, 3, strides=2, padding=(1, 1), ceil_mode=True),
        lambda x, w: R.nn.avg_pool1d(x, 3, padding=(1, 0), count_include_pad=True),
    ],
)
def test_one_axis_is_lifted_to_two(build):
    weight = constant(6, 2, 3)
    before = module(lambda emit, x: emit(build(x, weight)), x=(2, 4, 11))
    after = LiftConv1d()(before)
    assert not any("1d" in name for name in operators(after))
    x = RNG.standard_normal((2, 4, 11)).astype("float32")
    np.testing.assert_array_equal(evaluate(after, x), evaluate(before, x))


def test_two_axes_stay():
    weight = constant(6, 3, 3, 3)
    before = module(lambda emit, x: emit(R.nn.conv2d(x, weight)), x=(1, 3, 5, 5))
    assert tvm_ffi.structural_equal(LiftConv1d()(before)["main"], before["main"])


@pytest.mark.parametrize("read_on", [False, True])
def test_a_convolution_of_an_image_is_blocked_only_for_readers_that_want_it(read_on):
    def build(emit, x):
        y = emit(R.nn.relu(emit(R.nn.conv2d(x, constant(16, 3, 3, 3)))))
        return emit(R.nn.max_pool2d(y, (2, 2))) if read_on else y

    mod = BlockLayouts(find_target("native"))(module(build, x=(1, 3, 9, 9)))
    assert ("relax.nn.conv2d" in operators(mod)) is not read_on


def test_what_is_the_same_is_computed_once():
    """Equal constants are the same if they are small, or one object."""
    large, small = constant(40, 40), constant(40)
    twin = relax.const(constant_array(small).copy())

    def build(emit, x):
        sums = [emit(R.add(emit(R.matmul(x, large)), bias)) for bias in (small, twin, small)]
        return emit(R.multiply(emit(R.multiply(sums[0], sums[1])), sums[2]))

    before = module(build, x=(2, 40))
    after = MergeEqual()(before)
    merged = ["relax.matmul", "relax.add", "relax.multiply", "relax.multiply"]
    assert operators(after) == merged
    expected = relax.transform.EliminateCommonSubexpr()(before)
    assert tvm_ffi.structural_equal(after, expected)
    assert operators(expected) == merged


def test_different_large_constants_stay_apart():
    before = module(
        lambda emit, x: emit(
            R.add(emit(R.matmul(x, constant(40, 40))), emit(R.matmul(x, constant(40, 40))))
        ),
        x=(2, 40),
    )
    assert tvm_ffi.structural_equal(MergeEqual()(before), before)
