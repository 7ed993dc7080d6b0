"""String tensors, the whole way, against the onnx reference and Python's own strings."""

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import athanor
from athanor.errors import CompileError, RunError

from .execute import one_node
from .test_control_flow import model_of

WORDS = ["", "a", "naïve", "的中", "two words", "x" * 300, "A", "🂡"]


def text(*shape, seed=0):
    """An object array of words."""
    picks = np.random.default_rng(seed).integers(0, len(WORDS), np.prod(shape, dtype=int))
    return np.array(WORDS, object)[picks].reshape(shape)


def same(ours, theirs):
    theirs = np.asarray(theirs)
    assert ours.shape == theirs.shape
    if theirs.dtype.kind in "OSUT":
        assert ours.dtype == object
        assert all(isinstance(value, str) for value in ours.reshape(-1))
        theirs = theirs.astype(object)
    else:
        assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours, theirs)


def check(op, inputs, against=None, **options):
    model = one_node(op, inputs, **options)
    names = {value.name for value in model.graph.input}
    feeds = {f"x{i}": x for i, x in enumerate(inputs) if f"x{i}" in names}
    expected = ReferenceEvaluator(model).run(None, feeds) if against is None else against
    results = athanor.compile(model).load(threads=1).run(feeds)
    for ours, theirs in zip(results.values(), expected, strict=True):
        same(ours, theirs)
    return results


def ints(*values):
    return np.array(values, np.int64)


MOVES = {
    "Identity": ([text(2, 3)], {}),
    "Concat": ([text(2, 3), text(1, 3, seed=1), text(4, 3, seed=2)], {"axis": 0}),
    "Expand": ([text(2, 1), ints(3, 2, 4)], {"constants": [1]}),
    "Flatten": ([text(2, 3, 2)], {}),
    "Gather": ([text(5, 2), ints(4, -1, 0)], {"axis": 0}),
    "GatherElements": ([text(3, 2), ints(2, 0, -1, 1).reshape(2, 2)], {"axis": 0}),
    "GatherND": ([text(3, 2), ints(2, 1, 0, 0).reshape(2, 2)], {}),
    "Reshape": ([text(2, 6), ints(3, -1)], {"constants": [1]}),
    "Slice": ([text(7, 3), ints(5, 0), ints(0, 3), ints(0, 1), ints(-2, 2)], {}),
    "Squeeze": ([text(2, 1, 3), ints(1)], {"constants": [1]}),
    "Tile": ([text(2, 3), ints(2, 1)], {"constants": [1]}),
    "Transpose": ([text(2, 3, 4)], {"perm": [2, 0, 1]}),
    "Unsqueeze": ([text(3), ints(0)], {"constants": [1]}),
    "Compress": ([text(4, 2), np.array([True, False, True])], {"axis": 0}),
    "ScatterElements": ([text(3, 2), ints(1, 1).reshape(1, 2), text(1, 2, seed=3)], {"axis": 0}),
}


@pytest.mark.parametrize("op", MOVES)
def test_moves(op):
    inputs, options = MOVES[op]
    check(op, inputs, **options)


def test_split_where_and_constants():
    model = model_of(
        """g (string[n, 4] x, bool[n, 1] c) => (string[n, 2] a, string[n, 4] b, string[2] k) {
          a, rest = Split <axis = 1, num_outputs = 2> (x)
          b = Where(c, x, other)
          one = Constant <value_string = "ßé"> ()
          two = Constant <value_strings = ["", "tail"]> ()
          z = Constant <value = string[1] {"raw"}> ()
          first = Concat <axis = 0> (two, z)
          k = Where(pick, one, two)
        }""",
        other=np.array(["left", "", "right", "left"], object),
        pick=np.array([True, False]),
    )
    compiled = athanor.compile(model).load(threads=1)
    for n in (1, 3):
        x, c = text(n, 4, seed=n), np.arange(n).reshape(n, 1) % 2 == 0
        results = compiled.run({"x": x, "c": c})
        same(results["a"], x[:, :2])
        same(results["b"], np.where(c, x, ["left", "", "right", "left"]))
        same(results["k"], np.array(["ßé", "tail"], object))


@pytest.mark.parametrize(
    ("left", "right"), [((2, 3), (2, 3)), ((4, 1), (3,)), ((), (2,)), ((0, 3), (3,)), ((), ())]
)
def test_equal_and_concat(left, right):
    a, b = text(*left), text(*right, seed=1)
    wide = np.broadcast_shapes(left, right)
    pairs = list(zip(*(np.broadcast_to(x, wide).reshape(-1) for x in (a, b)), strict=True))
    equal = np.array([x == y for x, y in pairs], bool).reshape(wide)
    check("Equal", [a, b], [equal])
    joined = np.empty(len(pairs), object)
    joined[:] = [x + y for x, y in pairs]
    check("StringConcat", [a, b], [joined.reshape(wide)])


SENTENCES = [
    "",
    " ",
    "a",
    " a  b\tc ",
    "no\u00a0break\u3000wide",
    "a,b,,c,",
    ",",
    "的,的,x",
    "a, b",
]


@pytest.mark.parametrize("delimiter", [None, "", ",", ", ", "的"])
@pytest.mark.parametrize("maxsplit", [None, 0, 1, 2, 9])
def test_split(delimiter, maxsplit):
    x = np.array(SENTENCES, object).reshape(3, 3)
    parts = [s.split(delimiter or None, -1 if maxsplit is None else maxsplit) for s in SENTENCES]
    width = max(len(p) for p in parts)
    expected = np.array([p + [""] * (width - len(p)) for p in parts], object)
    options = {"delimiter": delimiter, "maxsplit": maxsplit}
    options = {name: value for name, value in options.items() if value is not None}
    lengths = np.array([len(p) for p in parts], np.int64).reshape(3, 3)
    check("StringSplit", [x], [expected.reshape(3, 3, width), lengths], outputs=2, **options)


@pytest.mark.parametrize("x", [np.zeros((0, 2), object), np.array(["  "], object)])
def test_split_into_nothing(x):
    results = check(
        "StringSplit",
        [x],
        [np.zeros((*x.shape, 0), object), np.zeros(x.shape, np.int64)],
        outputs=2,
    )
    assert results["y0"].shape == (*x.shape, 0)


@pytest.mark.parametrize("is_sorted", [0, 1])
def test_unique(is_sorted):
    x = text(30)
    found, first, inverse, counts = np.unique(
        x, return_index=True, return_inverse=True, return_counts=True
    )
    if not is_sorted:
        order = np.argsort(first)
        place = np.argsort(order)
        found, first, counts, inverse = found[order], first[order], counts[order], place[inverse]
    check("Unique", [x], [found, first, inverse, counts], outputs=4, sorted=is_sorted)


def test_unique_rows():
    x = np.array([["b", "a"], ["a", "b"], ["b", "a"]], object)
    check("Unique", [x], [x[[1, 0]]], axis=0)


def test_a_text_grows_over_the_length_of_the_run():
    model = model_of(
        """g (string[n] x) => (string[k] y, int64[1] l) {
          twice = StringConcat(x, x)
          dash = StringConcat(twice, minus)
          all = StringConcat(dash, twice)
          parts, _ = StringSplit <delimiter = "-"> (all)
          y = Reshape(parts, flat)
          l = Shape(y)
        }""",
        minus=np.array("-", object),
        flat=np.array([-1]),
    )
    compiled = athanor.compile(model).load(threads=1)
    for n in (1, 5, 2):
        x = text(n, seed=n)
        results = compiled.run({"x": x})
        same(results["y"], np.repeat(x + x, 2))
        assert results["l"] == 2 * n


def test_strings_that_a_graph_inside_captures():
    model = model_of(
        """g (bool c, string[3] x) => (bool[3] y) {
          y = If (c) <
            then_branch = t () => (bool[3] a) {a = Equal(x, word)},
            else_branch = e () => (bool[3] b) {s = StringConcat(x, x) b = Equal(s, double)}
          >
        }""",
        word=np.array("a", object),
        double=np.array(["aa"], object),
    )
    compiled = athanor.compile(model).load(threads=1)
    x = np.array(["a", "", "aa"], object)
    for c in (True, False):
        same(compiled.run({"c": np.array(c), "x": x})["y"], np.array([True, False, False]))


def test_what_an_input_takes():
    model = athanor.compile(one_node("Identity", [text(2)])).load(threads=1)
    assert model.inputs[0].dtype == np.dtype(object)
    assert model.metadata["inputs"][0]["dtype"] == "string"
    expected = np.array(["ab", "ç"], object)
    for x in (
        np.array(["ab", "ç"]),
        np.array(["ab", "ç"], np.dtypes.StringDType()),
        np.array([b"ab", "ç".encode()], object),
        np.array(["ab", "-", "ç"], object)[::2],
    ):
        same(model.run({"x0": x})["y0"], expected)
    wrong = [
        (np.array(["a\0b", ""], object), "holds a zero byte in its element 0"),
        (np.array(["a", 3], object), "holds a int as its element 1, expected a string"),
        (np.array([1, 2]), "is of type int64, expected an array of strings"),
        (["a", "b"], "is of list, expected an array of strings"),
        (np.array(["a"], object), r"has shape \(1,\), expected \(2,\)"),
    ]
    for x, sentence in wrong:
        with pytest.raises(RunError, match=sentence):
            model.run({"x0": x})


def test_results_outlive_the_next_run():
    model = athanor.compile(one_node("StringConcat", [text(2), text(2)])).load(threads=1)
    first = model.run({"x0": np.array(["a", "b"], object), "x1": np.array(["c", "d"], object)})
    model.run({"x0": text(2), "x1": text(2)})
    same(first["y0"], np.array(["ac", "bd"], object))


@pytest.mark.parametrize(
    ("op", "inputs", "sentence"),
    [
        ("Neg", [text(2)], "Neg 'node' .*strings are not supported by this operator"),
        ("Pad", [text(2), ints(1, 1)], "strings are not supported by this operator"),
        ("Concat", [ints(1), text(1)], r"inputs \[1\] are strings; \[0, 1\] and no others may be"),
        ("Concat", [text(1), ints(1)], r"inputs \[0\] are strings; \[0, 1\] and no others may be"),
        ("Equal", [text(1), ints(1)], r"inputs \[0\] are strings; \[0, 1\] and no others may be"),
        ("Gather", [text(1), text(1)], r"inputs \[0, 1\] are strings; \[0\] and no others may be"),
        ("StringConcat", [ints(1), ints(1)], "input 0 is no string tensor"),
    ],
)
def test_refusals(op, inputs, sentence):
    options = {"axis": 0} if op in ("Concat", "Gather") else {}
    with pytest.raises(CompileError, match=sentence):
        athanor.compile(one_node(op, inputs, **options))


def test_gathering_from_nothing_ends_the_run():
    model = model_of(
        """g (string[2] x, bool[2] c, int64[n] i) => (string[n] y) {
          some = Compress(x, c)
          y = Gather(some, i)
        }"""
    )
    compiled = athanor.compile(model).load(threads=1)
    feeds = {"x": np.array(["a", "b"], object), "i": ints(0, 0)}
    same(compiled.run({**feeds, "c": np.array([False, True])})["y"], np.array(["b", "b"], object))
    with pytest.raises(RunError, match="no element to gather in Gather 'y'"):
        compiled.run({**feeds, "c": np.array([False, False])})
    with pytest.raises(RunError, match="no element to gather"):
        check("GatherElements", [text(0, 2), ints(0, 0).reshape(1, 2)], [text(1, 2)])


def test_a_zero_byte_in_a_constant_is_refused():
    tensor = onnx.helper.make_tensor("x1", onnx.TensorProto.STRING, [1], [b"a\0b"])
    model = one_node("StringConcat", [text(1), None])
    model.graph.node[0].input[1] = "x1"
    model.graph.initializer.append(tensor)
    with pytest.raises(CompileError, match="tensor 'x1' holds a string with a zero byte"):
        athanor.compile(model)
