"""DepthToSpace and SpaceToDepth against the formulas of the standard."""

import pytest

from athanor.errors import CompileError, RunError
from athanor.frontends.onnx.importer import import_model

from .artifact import ours
from .execute import check, floats, one_node, run, same


@pytest.mark.parametrize("mode", [None, "DCR", "CRD"])
@pytest.mark.parametrize("opset", [7, 11, 13, 27, 28])
@pytest.mark.parametrize("shape", [(1, 4, 2, 3), (2, 12, 1, 5), (0, 4, 2, 2)], ids=str)
def test_depth_to_space(mode, opset, shape):
    if mode is not None and opset < 11:
        pytest.skip("mode came with opset 11")
    attributes = {} if mode is None else {"mode": mode}
    check("DepthToSpace", [floats(*shape)], opset=opset, blocksize=2, **attributes)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize(
    ("block", "shape"), [(1, (1, 2, 3, 3)), (2, (2, 3, 4, 2)), (3, (1, 1, 3, 6))]
)
def test_space_to_depth_undoes_depth_to_space(mode, block, shape):
    x = floats(*shape)
    deep = run(one_node("SpaceToDepth", [x], opset=28, blocksize=block, mode=mode), [x])[0]
    b, c, h, w = shape
    assert deep.shape == (b, c * block * block, h // block, w // block)
    model = one_node("DepthToSpace", [deep], opset=28, blocksize=block, mode=mode)
    same(run(model, [deep])[0], x)


@pytest.mark.parametrize("opset", [7, 13, 27])
def test_space_to_depth(opset):
    check("SpaceToDepth", [floats(2, 3, 4, 6)], opset=opset, blocksize=2)


def test_rows_that_do_not_divide_are_refused():
    with pytest.raises(CompileError, match=r"SpaceToDepth 'node' .*5 rows do not divide by 2"):
        import_model(one_node("SpaceToDepth", [floats(1, 1, 5, 4)], opset=13, blocksize=2))
    model = one_node(
        "SpaceToDepth", [floats(1, 1, 4, 4)], opset=13, shapes={0: [1, 1, "h", 4]}, blocksize=2
    )
    (deep,) = ours(model, {"x0": floats(1, 1, 6, 4)})
    assert deep.shape == (1, 4, 3, 2)
    with pytest.raises(RunError, match="has to be equal to h in SpaceToDepth"):
        ours(model, {"x0": floats(1, 1, 5, 4)})


def test_wrong_attributes():
    x = floats(1, 4, 2, 2)
    for attributes, sentence in (
        ({"blocksize": 0}, "blocksize=0"),
        ({"blocksize": 2, "mode": "ABC"}, "mode='ABC' is neither DCR nor CRD"),
        ({"blocksize": 3}, "4 channels do not divide by 9"),
    ):
        with pytest.raises(CompileError, match=sentence):
            import_model(one_node("DepthToSpace", [x], opset=13, **attributes))
