"""Row operators take narrow operands themselves, where nothing else is asked of the wide ones."""

import pytest
from tvm import relax
from tvm.relax import op as R

from athanor.compiler.passes.widen_within import WidenWithin

from .graphs import module, operators


def widened(emit, x):
    return emit(R.nn.softmax(emit(R.astype(x, "float32")), axis=-1))


def after(mod):
    return operators(relax.transform.DeadCodeElimination()(WidenWithin()(mod)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_wide_copy_is_gone(dtype):
    assert after(module(widened, x=((3, 70), dtype))) == ["relax.call_tir"]


def test_integers_and_other_operands_are_left_alone():
    assert "relax.astype" in after(module(widened, x=((3, 70), "int32")))
    plain = module(lambda emit, x: emit(R.nn.softmax(x, axis=-1)), x=((3, 70), "float16"))
    assert after(plain) == ["relax.nn.softmax"]
