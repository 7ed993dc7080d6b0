"""Products multiply in the shape that follows them."""

import numpy as np
import pytest
from tvm import relax
from tvm.relax import op as R

from athanor.compiler.compile_module import compile_module
from athanor.compiler.passes.lift_reshapes import LiftReshapes

from .graphs import module, operators

RNG = np.random.default_rng(2)
W, BIAS = (RNG.standard_normal(shape).astype("float32") for shape in ((8, 12), (12,)))


def dense(emit, x, shape=(2, 3, 12), bias=BIAS):
    """relu(x @ W + bias), in another shape."""
    sums = emit(R.add(emit(R.matmul(x, relax.const(W))), relax.const(bias)))
    return emit(R.reshape(emit(R.nn.relu(sums)), shape))


def test_lifted():
    def build(emit, x):
        return dense(emit, emit(R.reshape(x, (6, 8))))

    mod = module(build, x=(2, 3, 8))
    after = LiftReshapes()(mod)
    called = [name for name in operators(after) if name != "relax.reshape"]
    assert called[-3:] == ["relax.matmul", "relax.add", "relax.nn.relu"]
    assert [int(d) for d in after["main"].body.blocks[0].bindings[-2].var.ty.shape.values] == [
        2,
        3,
        12,
    ]
    x = RNG.standard_normal((2, 3, 8)).astype("float32")
    with compile_module(after).load(threads=1) as model:
        np.testing.assert_allclose(
            model.run({"x": x})["output0"], np.maximum(x @ W + BIAS, 0), rtol=1e-5, atol=1e-5
        )


def test_symbolic_rows():
    def build(emit, x):
        batch, rows, _ = x.ty.shape.values
        return dense(emit, emit(R.reshape(x, (batch * rows, 8))), (batch, rows, 12))

    after = LiftReshapes()(module(build, x=("b", "s", 8)))
    assert operators(after)[-1] == "relax.nn.relu"


def wide_bias(emit, x):
    return dense(emit, x, bias=np.ones((6, 12), "float32"))


def other_columns(emit, x):
    return dense(emit, x, (3, 2, 2, 6))


@pytest.mark.parametrize("build", [wide_bias, other_columns])
def test_left_alone(build):
    mod = module(build, x=(6, 8))
    assert operators(LiftReshapes()(mod)) == operators(mod)


def test_a_product_that_others_read_stays():
    def build(emit, x):
        y = emit(R.matmul(x, relax.const(W)))
        z = emit(R.reshape(y, (2, 3, 12)))
        return emit(R.add(emit(R.sum(z, axis=[0, 1])), emit(R.sum(y, axis=[0]))))

    mod = module(build, x=(6, 8))
    assert operators(LiftReshapes()(mod)) == operators(mod)
