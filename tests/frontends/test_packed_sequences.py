"""Sequences and optionals whose length only the run knows, the whole way, against Python lists."""

import numpy as np
import pytest

import athanor
from athanor.errors import CompileError, RunError

from .execute import floats, same
from .test_control_flow import model_of


def compiled(text, **weights):
    return athanor.compile(model_of(text, **weights)).load(threads=1)


def same_list(ours, theirs):
    assert isinstance(ours, list)
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        same(mine, other)


def ragged(*lengths, width=2):
    return [floats(length, width, seed=length) for length in lengths]


SEQUENCES = [ragged(3, 1, 4), ragged(2), ragged(0, 5), ragged(0)]
NUMBER = np.array(7)


def test_insert_at_a_position_of_the_run():
    model = compiled(
        """g (seq(float[m, 2]) s, float[k, 2] x, int64 i) => (seq(float[p, 2]) t, int64 n) {
          t = SequenceInsert(s, x, i)
          n = SequenceLength(t)
        }"""
    )
    for s in [*SEQUENCES, []]:
        for i in {0, len(s), -len(s), len(s) // 2}:
            x = floats(3, 2, seed=9)
            results = model.run({"s": s, "x": x, "i": np.array(i)})
            expected = list(s)
            expected.insert(i, x)
            same_list(results["t"], expected)
            assert results["n"] == len(expected)
        for i in (len(s) + 1, -len(s) - 1):
            with pytest.raises(RunError, match="a position outside of the sequence"):
                model.run({"s": s, "x": floats(1, 2), "i": np.array(i)})


def test_erase_and_at():
    model = compiled(
        """g (seq(float[m, 2]) s, int32 i)
          => (seq(float[p, 2]) t, seq(float[p, 2]) u, float[q, 2] e) {
          t = SequenceErase(s, i)
          u = SequenceErase(s)
          e = SequenceAt(s, i)
        }"""
    )
    for s in SEQUENCES:
        for i in range(-len(s), len(s)):
            results = model.run({"s": s, "i": np.array(i, np.int32)})
            same_list(results["t"], [x for n, x in enumerate(s) if n != i % len(s)])
            same_list(results["u"], s[:-1])
            same(results["e"], s[i])
        with pytest.raises(RunError, match="a position outside of the sequence"):
            model.run({"s": s, "i": np.array(len(s), np.int32)})
    with pytest.raises(RunError, match="a position outside of the sequence"):
        model.run({"s": [], "i": np.array(0, np.int32)})


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concat(axis):
    model = compiled(
        f"""g (seq(int64[m, n, 2]) s) => (int64[a, b, c] y) {{
          y = ConcatFromSequence <axis = {axis}> (s)
        }}"""
    )
    for sizes in [(1, 3, 2), (4,), (0, 2, 0, 1), (0,)]:
        shapes = [[2, 3, 2] for _ in sizes]
        for shape, size in zip(shapes, sizes, strict=True):
            shape[axis if axis >= 0 else 1] = size if axis >= 0 else shape[1]
        s = [np.arange(np.prod(d)).reshape(d) + 100 * n for n, d in enumerate(shapes)]
        same(model.run({"s": s})["y"], np.concatenate(s, axis))
    with pytest.raises(RunError, match="a sequence without an element"):
        model.run({"s": []})
    with pytest.raises(RunError, match="shapes do not fit one another"):
        model.run({"s": [np.zeros((2, 3, 2), np.int64), np.zeros((1, 1, 2), np.int64)]})


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_concat_along_a_new_axis(axis):
    model = compiled(
        f"""g (seq(float[m, 3]) s) => (float[a, b, c] y) {{
          y = ConcatFromSequence <axis = {axis}, new_axis = 1> (s)
        }}"""
    )
    for count in (1, 4):
        s = [floats(2, 3, seed=seed) for seed in range(count)]
        same(model.run({"s": s})["y"], np.stack(s, axis))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_split_by_sizes_of_the_run(axis):
    model = compiled(
        f"""g (float[3, n, 4] x, int64[k] sizes) => (seq(float[a, b, c]) s, int64 l) {{
          s = SplitToSequence <axis = {axis}> (x, sizes)
          l = SequenceLength(s)
        }}"""
    )
    x = floats(3, 5, 4)
    extent = x.shape[axis]
    for sizes in [[extent], [1, extent - 1], [0, extent - 1, 0, 1], [1] * extent]:
        results = model.run({"x": x, "sizes": np.array(sizes)})
        same_list(results["s"], np.split(x, np.cumsum(sizes)[:-1], axis))
        assert results["l"] == len(sizes)
    for sizes in [[extent + 1], [extent - 1], [-1, extent + 1], [extent + 1, -1]]:
        with pytest.raises(RunError, match="do not add up to the axis"):
            model.run({"x": x, "sizes": np.array(sizes)})


def test_split_by_one_size_of_the_run():
    model = compiled(
        """g (float[2, n] x, int64 size) => (seq(float[a, b]) s) {
          s = SplitToSequence <axis = 1> (x, size)
        }"""
    )
    x = floats(2, 7)
    for size in (1, 2, 3, 7, 8, 1 << 60):
        parts = model.run({"x": x, "size": np.array(size)})["s"]
        same_list(parts, [x[:, i : i + size] for i in range(0, 7, size)])
    for size in (0, -1):
        with pytest.raises(RunError, match="parts of a size below 1"):
            model.run({"x": x, "size": np.array(size)})


@pytest.mark.parametrize("keepdims", [0, 1])
def test_split_of_a_symbolic_axis(keepdims):
    model = compiled(
        f"""g (float[2, n, 3] x) => (seq(float[a, b]) s, float[c, d] first) {{
          s = SplitToSequence <axis = 1, keepdims = {keepdims}> (x)
          first = SequenceAt(s, zero)
        }}""",
        zero=np.array(0),
    )
    for n in (1, 4):
        x = floats(2, n, 3)
        results = model.run({"x": x})
        parts = [x[:, i : i + 1] if keepdims else x[:, i] for i in range(n)]
        same_list(results["s"], parts)
        same(results["first"], parts[0])


def test_elements_of_any_rank():
    model = compiled(
        """g (seq(float[]) s, float[2] x) => (seq(float[]) t, seq(float[]) u) {
          t = SequenceInsert(s, x)
          u = SequenceErase(s)
        }"""
    )
    s = [floats(2, 3), np.float32(4).reshape(()), floats(1, 1, 1, 2), floats(0, 3)]
    results = model.run({"s": s, "x": floats(2)})
    same_list(results["t"], [*s, floats(2)])
    same_list(results["u"], s[:-1])
    with pytest.raises(RunError, match=r"input 's\[0\]' has shape .* at most 8 dimensions"):
        model.run({"s": [np.zeros([1] * 9, np.float32)], "x": floats(2)})
    at = "g (seq(float[]) s, int64 i) => (float[a, b] x) {x = SequenceAt(s, i)}"
    with pytest.raises(CompileError, match="rank is known only at run time; give the elements'"):
        athanor.compile(model_of(at))
    fixed = athanor.compile(model_of(at), shapes={"s": ["n", 2]}).load(threads=1)
    same(fixed.run({"s": SEQUENCES[0], "i": np.array(2)})["x"], SEQUENCES[0][2])
    assert fixed.inputs[0] == ("s", np.dtype("float32"), (None, 2), "sequence")


def test_map_over_two_sequences():
    model = compiled(
        """g (seq(float[m]) a, seq(float[m]) b, float c) => (seq(float[m]) s, seq(int64[1]) n) {
          s, n = SequenceMap (a, b, c) <
            body = f (float[k] x, float[k] y, float z) => (float[k] r, int64[1] l)
              {t = Mul(x, y) r = Add(t, z) l = Shape(x)}
          >
        }"""
    )
    for sizes in [(3, 1, 5), (2,), ()]:
        a, b = ([floats(n, seed=seed + n) for n in sizes] for seed in (0, 1))
        c = np.float32(2.5)
        results = model.run({"a": a, "b": b, "c": c})
        same_list(results["s"], [x * y + c for x, y in zip(a, b, strict=True)])
        same_list(results["n"], [np.array([n]) for n in sizes])


def test_map_over_a_sequence_of_known_length():
    model = compiled(
        """g (float[3, n] x) => (float[p, n] y) {
          s = SplitToSequence <axis = 0> (x, sizes)
          t = SequenceMap (s) <body = f (float[a, n] x) => (float[a, n] y) {y = Neg(x)}>
          y = ConcatFromSequence <axis = 0> (t)
        }""",
        sizes=np.array([1, 2]),
    )
    same(model.run({"x": floats(3, 4)})["y"], -floats(3, 4))


def test_a_sequence_grows_and_shrinks_in_a_loop():
    model = compiled(
        """g (int64 n, seq(float[m]) s, float[m] x) => (seq(float[m]) t, float[k] last) {
          t = Loop (n, true, s) <
            body = f (int64 i, bool c, seq(float[m]) a) => (bool d, seq(float[m]) b) {
              d = Identity(c)
              f = Cast <to = 1> (i)
              y = Add(x, f)
              two = Add(i, i)
              longer = SequenceInsert(a, y, zero)
              even = Mod(i, modulus)
              drop = Equal(even, zero)
              b = If (drop) <
                then_branch = h () => (seq(float[m]) u) {u = SequenceErase(longer)},
                else_branch = e () => (seq(float[m]) v) {v = Identity(longer)}
              >
            }
          >
          last = SequenceAt(t, minus)
        }""",
        true=np.array(True), zero=np.array(0), minus=np.array(-1), modulus=np.array(3),
    )  # fmt: skip
    x = floats(2)
    for count in (0, 1, 5):
        for s in ([floats(3, seed=1)], [floats(1, seed=2), floats(4, seed=3)]):
            expected = list(s)
            for i in range(count):
                expected.insert(0, x + np.float32(i))
                if i % 3 == 0:
                    expected.pop()
            results = model.run({"n": np.array(count), "s": s, "x": x})
            same_list(results["t"], expected)
            same(results["last"], expected[-1])


def test_if_between_sequences():
    model = compiled(
        """g (bool c, float[n] x, float[2, 3] y) => (seq(float[]) s, int64 l) {
          s = If (c) <
            then_branch = t () => (seq(float[]) a) {a = SequenceConstruct(x, y, x)},
            else_branch = e () => (seq(float[]) b) {b = SequenceEmpty()}
          >
          l = SequenceLength(s)
        }"""
    )
    x, y = floats(4), floats(2, 3)
    for flag, expected in ((True, [x, y, x]), (False, [])):
        results = model.run({"c": np.array(flag), "x": x, "y": y})
        same_list(results["s"], expected)
        assert results["l"] == len(expected)


def test_an_optional_tensor():
    model = compiled(
        """g (optional(float[n, 2]) o) => (bool has, float[m, 2] y, optional(float[n, 2]) p) {
          has = OptionalHasElement(o)
          p = Identity(o)
          y = If (has) <
            then_branch = t () => (float[a, 2] a) {h = OptionalGetElement(o) a = Neg(h)},
            else_branch = e () => (float[b, 2] b) {b = Identity(other)}
          >
        }""",
        other=floats(1, 2),
    )
    for x in (floats(3, 2), floats(0, 2)):
        results = model.run({"o": x})
        assert results["has"]
        same(results["y"], -x)
        same(results["p"], x)
    results = model.run({"o": None})
    assert not results["has"]
    assert results["p"] is None
    same(results["y"], floats(1, 2))
    assert [spec.kind for spec in model.outputs] == ["tensor", "tensor", "optional"]


def test_an_optional_sequence():
    model = compiled(
        """g (optional(seq(float[n])) o, bool c) => (optional(seq(float[n])) p, bool has) {
          p = If (c) <
            then_branch = t () => (optional(seq(float[n])) a) {a = Identity(o)},
            else_branch = e () => (optional(seq(float[n])) b) {b = Optional <type = seq(float)> ()}
          >
          has = OptionalHasElement(p)
        }"""
    )
    for o in ([floats(2), floats(3)], [], None):
        results = model.run({"o": o, "c": np.array(True)})
        assert results["has"] == (o is not None)
        assert results["p"] is None if o is None else same_list(results["p"], o) is None
        results = model.run({"o": o, "c": np.array(False)})
        assert results["p"] is None
        assert not results["has"]


def test_getting_an_absent_optional_ends_the_run():
    tensor = compiled("g (optional(float[2]) o) => (float[2] y) {y = OptionalGetElement(o)}")
    same(tensor.run({"o": floats(2)})["y"], floats(2))
    with pytest.raises(RunError, match="the optional is empty in OptionalGetElement 'y'"):
        tensor.run({"o": None})
    sequence = compiled(
        "g (optional(seq(float[2])) o) => (seq(float[2]) y) {y = OptionalGetElement(o)}"
    )
    same_list(sequence.run({"o": []})["y"], [])
    with pytest.raises(RunError, match="the optional is empty"):
        sequence.run({"o": None})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "double", "int8", "uint64", "bool"])
def test_element_types(dtype):
    model = compiled(
        f"""g (seq({dtype}[n]) s) => ({dtype}[m] y, seq({dtype}[n]) t) {{
          y = ConcatFromSequence <axis = 0> (s)
          t = SequenceErase(s, zero)
        }}""",
        zero=np.array(0),
    )
    name = {"double": "float64"}.get(dtype, dtype)
    s = [(3 * floats(n, seed=n)).astype(model.inputs[0].dtype) for n in (3, 0, 2)]
    assert s[0].dtype.name == name
    results = model.run({"s": s})
    same(results["y"], np.concatenate(s))
    same_list(results["t"], s[1:])


def test_refusals_name_the_kind():
    add = "g (seq(float[2]) s, float[2] x) => (float[2] y) {y = Add(s, x)}"
    with pytest.raises(CompileError, match=r"Add 'y' .*input 's' is a sequence, expected a tensor"):
        athanor.compile(model_of(add))
    strange = "g (map(int64, float[2]) s, float[2] x) => (float[2] y) {y = Neg(x)}"
    with pytest.raises(CompileError, match="input 's' is a map_type; only tensors"):
        athanor.compile(model_of(strange))
    mixed = """g (bool c, float[2] x) => (float[2] y) {
      y = If (c) <
        then_branch = t () => (float[2] a) {a = Neg(x)},
        else_branch = e () => (seq(float[2]) b) {b = SequenceConstruct(x)}
      >
    }"""
    with pytest.raises(CompileError, match="value 0: a tensor and a sequence of float32 can't be"):
        athanor.compile(model_of(mixed))


def test_wrong_values_of_sequences():
    model = compiled("g (seq(float[n, 2]) s) => (seq(float[n, 2]) t) {t = Identity(s)}")
    wrong = [
        (floats(3, 2), "input 's' is of class ndarray, expected a list of arrays of float32"),
        ([np.zeros((3, 2))], r"input 's\[0\]' has type float64, expected float32"),
        ([floats(1, 2), floats(2)], r"input 's\[1\]' has shape \(2,\), expected \(any, 2\)"),
        (None, "input 's' is of class NoneType"),
    ]
    for value, sentence in wrong:
        with pytest.raises(RunError, match=sentence):
            model.run({"s": value})


def is_valid(table, total, sizes):
    """Whether a table of shapes fits elements of these sizes (None: any; no sizes: any rank)."""
    count = 0
    for rank, *row in table.tolist():
        if not 0 <= rank <= len(row) or (sizes is not None and rank != len(sizes)):
            return False
        wanted = sizes or [None] * rank
        pairs = zip(row[:rank], wanted, strict=True)
        if any(size < 0 or size not in (size if want is None else want,) for size, want in pairs):
            return False
        if np.prod([max(size, 1) for size in row[:rank]], dtype=object) > 1 << 46:
            return False
        count += int(np.prod(row[:rank], dtype=object))
    return count == total


@pytest.mark.parametrize(("text", "sizes"), [("[n, 2]", [None, 2]), ("[]", None)])
def test_tables_that_do_not_fit_are_refused(text, sizes, monkeypatch):
    model = compiled(f"g (seq(float{text}) s) => (seq(float{text}) t) {{t = SequenceErase(s)}}")
    width = model._ins.tensors[1].shape[1] - 1
    rng = np.random.default_rng(0)
    interesting = [0, 1, 2, 3, -1, 1 << 31, 1 << 62, -(1 << 63), (1 << 63) - 1]
    seen = set()
    for _ in range(400):
        length = rng.integers(1, 4)
        table = rng.integers(0, 3, (length, 1 + width))
        table[:, 0] = rng.choice([1, 2, 2, 2, 3], length)
        table[:, 2] = rng.choice([2, 2, 2, 1], length)
        if rng.random() < 0.3:
            table[rng.integers(length), rng.integers(1 + width)] = rng.choice(interesting)
        rows = table.tolist()
        exact = sum(int(np.prod(row[1 : 1 + max(row[0], 0)], dtype=object)) for row in rows)
        total = exact if rng.random() < 0.8 and 0 <= exact < 100 else rng.integers(0, 9)
        arrays = [np.arange(total, dtype=np.float32), table]
        monkeypatch.setattr(model._ins, "split", lambda *_, arrays=arrays: arrays)
        valid = is_valid(table, total, sizes)
        seen.add(valid)
        if not valid:
            with pytest.raises(RunError, match="the shapes of input 's' do not fit its elements"):
                model.run({"s": []})
            continue
        results = model.run({"s": []})["t"]
        assert [list(x.shape) for x in results] == [list(r[1 : 1 + r[0]]) for r in table[:-1]]
    assert seen == {True, False}
