"""If, Loop and Scan, the whole way, against ONNX Runtime."""

import numpy as np
import onnx
import pytest
from onnx import parser

import athanor
from athanor.errors import CompileError, RunError

from .artifact import runtime
from .execute import floats, same


def model_of(text, **weights):
    """A model in ONNX's text format, opset 20; weights become initializers."""
    header = '<ir_version: 9, opset_import: ["" : 20]>\n'
    model = parser.parse_model(header + text)
    for name, value in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return model


def check(model, *runs, threads=1):
    compiled = athanor.compile(model).load(threads=threads)
    for feeds in runs:
        expected = runtime(model, feeds)
        for ours, theirs in zip(compiled.run(feeds).values(), expected, strict=True):
            same(ours, np.asarray(theirs))


def flag(value):
    return np.array(value, bool)


def count(value):
    return np.array(value, np.int64)


def test_if_of_captured_values():
    model = model_of(
        """g (bool c, float[n, 4] x) => (float[n, 4] y, float[n, 4] z) {
          h = Exp(x)
          y, z = If (c) <
            then_branch = t () => (float[n, 4] a, float[n, 4] b) {a = Add(h, x) b = Neg(x)},
            else_branch = e () => (float[n, 4] d, float[n, 4] f) {d = MatMul(x, w) f = Identity(h)}
          >
        }""",
        w=floats(4, 4),
    )
    check(model, *[{"c": flag(c), "x": floats(n, 4, seed=n)} for n in (1, 5) for c in (0, 1)])


def test_the_one_result_of_a_branch_goes_on():
    """Into a kernel and, captured, into the graph of a loop."""
    model = model_of(
        """g (bool c, float[3] x) => (float[3] y, float[3] z) {
          a = If (c) <
            then_branch = t () => (float[3] p) {p = Add(x, x)},
            else_branch = e () => (float[3] q) {q = Neg(x)}
          >
          z = Exp(a)
          y = Loop (trips, c, x) <
            body = b (int64 i, bool go, float[3] state) => (bool again, float[3] next)
              {again = Identity(go) next = Add(state, a)}
          >
        }""",
        trips=count(3),
    )
    check(model, *[{"c": flag(c), "x": floats(3)} for c in (0, 1)])


def test_if_of_different_sizes():
    model = model_of(
        """g (bool c, float[5, 4] x) => (float[m, 4] y, float[k] s) {
          y = If (c) <
            then_branch = t () => (float[m, 4] a) {a = Slice(x, one, three)},
            else_branch = e () => (float[m, 4] b) {b = Concat <axis = 0> (x, x)}
          >
          t2 = Tanh(y)
          s = ReduceSum <keepdims = 0> (t2, axis)
        }""",
        one=np.array([1]),
        three=np.array([3]),
        axis=np.array([1]),
    )
    check(model, *[{"c": flag(c), "x": floats(5, 4)} for c in (0, 1, 0)])


def test_if_of_data_dependent_sizes():
    model = model_of(
        """g (bool c, float[6] x) => (int64[1, m] y) {
          y = If (c) <
            then_branch = t () => (int64[1, m] a) {r = Relu(x) a = NonZero(r)},
            else_branch = e () => (int64[1, m] b) {b = NonZero(x)}
          >
        }"""
    )
    x = np.array([1, -1, 0, 2, -3, 0], np.float32)
    check(model, *[{"c": flag(c), "x": v} for c in (0, 1) for v in (x, 0 * x, -abs(x))])


def test_nested_if():
    model = model_of(
        """g (bool a, bool b, float[3] x) => (float[3] y) {
          h = Sin(x)
          y = If (a) <
            then_branch = t () => (float[3] p) {
              p = If (b) <
                then_branch = u () => (float[3] q) {q = Add(h, x)},
                else_branch = v () => (float[3] r) {k = Cos(h) r = Mul(k, x)}
              >
            },
            else_branch = e () => (float[3] s) {s = Neg(h)}
          >
        }"""
    )
    runs = [{"a": flag(a), "b": flag(b), "x": floats(3)} for a in (0, 1) for b in (0, 1)]
    check(model, *runs)


def test_branches_of_different_types_are_refused():
    model = model_of(
        """g (bool c, float[3] x) => (float y) {
          y = If (c) <
            then_branch = t () => (float[3] a) {a = Neg(x)},
            else_branch = e () => (float[1, 3] b) {b = Unsqueeze(x, zero)}
          >
        }""",
        zero=np.array([0]),
    )
    with pytest.raises(CompileError, match="only sizes may differ"):
        athanor.compile(model)


STATES = """g (int64 m, bool c, float[3, 4] x) => (float[3, 4] s, float[3, 4] t, float[k, 4] e) {
  s, t, e = Loop (m, c, x, x) <
    body = b (int64 i, bool going, float[3, 4] p, float[3, 4] q)
      => (bool more, float[3, 4] r, float[3, 4] p2, float[4] u) {
      f = MatMul(p, w)
      r = Tanh(f)
      p2 = Identity(p)
      u = ReduceSum <keepdims = 0> (q, axis)
      total = ReduceSum <keepdims = 0> (r)
      more = Less(total, limit)
    }
  >
}"""


@pytest.mark.parametrize("limit", [-100.0, 0.5, 100.0])
def test_loop_that_a_condition_ends(limit):
    limits = {"limit": np.array(limit, np.float32), "axis": np.array([0])}
    model = model_of(STATES, w=floats(4, 4, seed=2), **limits)
    trips = [(0, 1), (1, 1), (2, 1), (7, 1), (40, 1), (5, 0)]
    runs = [{"m": count(m), "c": flag(c), "x": floats(3, 4)} for m, c in trips]
    compiled = athanor.compile(model).load(threads=2)
    for feeds in runs:
        s, t, e = states(feeds, floats(4, 4, seed=2), limit)
        results = compiled.run(feeds)
        same(results["s"], s)
        same(results["t"], t)
        same(results["e"], e)


def states(feeds, w, limit):
    p = q = feeds["x"]
    going, elements = bool(feeds["c"]), []
    for _ in range(int(feeds["m"])):
        if not going:
            break
        elements.append(q.sum(axis=0))
        p, q = np.tanh(p @ w), p
        going = p.sum() < limit
    return p, q, np.array(elements, np.float32).reshape(-1, 4)


def test_states_that_change_places():
    model = model_of(
        """g (float[2] x, float[2] y) => (float[2] s, float[2] t) {
          s, t = Loop (three, , x, y) <
            body = b (int64 i, bool c, float[2] p, float[2] q)
              => (bool d, float[2] q2, float[2] p2) {
              d = Identity(c) q2 = Identity(q) p2 = Identity(p)
            }
          >
        }""",
        three=np.array(3),
    )
    check(model, {"x": floats(2), "y": floats(2, seed=1)})


def test_state_that_grows():
    model = model_of(
        """g (int64 m, float[2, 3] x) => (float[k, 3] y, float[3] z) {
          y = Loop (m, , x) <
            body = b (int64 i, bool c, float[k, 3] p) => (bool d, float[l, 3] q) {
              d = Identity(c)
              f = Cast <to = 1> (i)
              s = Add(x, f)
              q = Concat <axis = 0> (p, s)
            }
          >
          z = ReduceSum <keepdims = 0> (y, axis)
        }""",
        axis=np.array([0]),
    )
    check(model, *[{"m": count(m), "x": floats(2, 3)} for m in (0, 1, 2, 9, 0)])


def test_stacked_elements_of_known_number():
    model = model_of(
        """g (float[n, 3] x) => (float[n, 3] y, float[3] s) {
          shape = Shape <end = 1> (x)
          length = Squeeze(shape)
          start = ConstantOfShape(three)
          s, y = Loop (length, , start) <
            body = b (int64 i, bool c, float[3] p) => (bool d, float[3] q, float[3] e) {
              d = Identity(c)
              row = Gather(x, i)
              q = Add(p, row)
              e = Mul(q, row)
            }
          >
        }""",
        three=np.array([3]),
    )
    check(model, *[{"x": floats(n, 3)} for n in (1, 2, 33)])


def test_nested_loops():
    model = model_of(
        """g (int64 m, float[2] x) => (float[2] y) {
          y = Loop (m, , x) <
            body = b (int64 i, bool c, float[2] p) => (bool d, float[2] q) {
              d = Identity(c)
              h = Sin(p)
              q = Loop (i, , p) <
                body = b2 (int64 j, bool c2, float[2] r) => (bool d2, float[2] s) {
                  d2 = Identity(c2)
                  t = Add(r, h)
                  s = Mul(t, half)
                }
              >
            }
          >
        }""",
        half=np.array(0.5, np.float32),
    )
    check(model, *[{"m": count(m), "x": floats(2)} for m in (0, 1, 2, 5)])


def test_elements_of_changing_sizes_end_the_run():
    model = model_of(
        """g (float[3, 4] x) => (float[k, l] y) {
          y = Loop (three, yes) <
            body = b (int64 i, bool c) => (bool d, int64[1, m] e) {
              d = Identity(c)
              row = Gather(x, i)
              e = NonZero(row)
            }
          >
        }""",
        three=np.array(3),
        yes=np.array(True),
    )
    compiled = athanor.compile(model).load(threads=1)
    even = np.array([[1, 0, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]], np.float32)
    expected = np.stack([np.array(np.nonzero(row)) for row in even])
    np.testing.assert_array_equal(compiled.run({"x": even})["y"], expected)
    with pytest.raises(RunError, match="another shape than those before it"):
        compiled.run({"x": np.tri(3, 4, dtype=np.float32)})


SCAN = """g (float[3] a, float[{x}] x, float[{y}] y) => (float[3] s, float[{o}] o, float[n] t) {{
  s, o, t = Scan <num_scan_inputs = 2, {options}
    body = b (float[3] p, float[3] u, float[3] v) => (float[3] q, float[3] e, float f) {{
      w = Mul(u, v)
      q = Add(p, w)
      e = Sub(q, u)
      f = ReduceSum <keepdims = 0> (e)
    }}
  > (a, x, y)
}}"""


@pytest.mark.parametrize(
    ("x", "y", "o", "options"),
    [
        ("5, 3", "5, 3", "5, 3", ""),
        ("5, 3", "3, 5", "3, 5", "scan_input_axes = [0, 1], scan_output_axes = [1, 0],"),
        ("5, 3", "5, 3", "5, 3", "scan_input_directions = [1, 0],"),
        ("5, 3", "3, 5", "3, 5", "scan_input_axes = [0, -1], scan_output_axes = [-1, 0],"),
        ("5, 3", "5, 3", "5, 3", "scan_output_directions = [1, 0],"),
    ],
)
def test_scan(x, y, o, options):
    model = model_of(SCAN.format(x=x, y=y, o=o, options=options))
    shapes = [[int(d) for d in text.split(",")] for text in (x, y)]
    feeds = {"a": floats(3), "x": floats(*shapes[0], seed=1), "y": floats(*shapes[1], seed=2)}
    compiled = athanor.compile(model).load(threads=1)
    first, second = feeds["x"], feeds["y"] if y == "5, 3" else feeds["y"].T
    if "scan_input_directions" in options:
        first = first[::-1]
    p, elements = feeds["a"], []
    for u, v in zip(first, second, strict=True):
        p = p + u * v
        elements.append(p - u)
    o_expected = np.stack(elements, axis=1 if o == "3, 5" else 0)
    if "scan_output_directions" in options:
        o_expected = o_expected[::-1]
    results = compiled.run(feeds)
    same(results["s"], p)
    same(results["o"], o_expected)
    same(results["t"], np.array([e.sum() for e in elements], np.float32))


def test_scan_over_a_named_size():
    model = model_of(SCAN.format(x="n, 3", y="n, 3", o="n, 3", options=""))
    runs = [
        {"a": floats(3), "x": floats(n, 3, seed=1), "y": floats(n, 3, seed=2)} for n in (1, 2, 40)
    ]
    check(model, *runs)


SCAN_8 = """
    <ir_version: 3, opset_import: ["" : 8]>
    g (float[3, 2] a, float[3, 4, 2] x) => (float[3, 2] s, float[3, 4, 2] o) {{
      s, o = Scan ("", a, x) <num_scan_inputs: int = 1{options}, body: graph = b
        (float[2] p, float[2] v) => (float[2] q, float[2] w) {{
          q = Add (p, v)
          w = Mul (q, v)
      }}>
    }}
"""


@pytest.mark.parametrize("backwards", [False, True])
def test_scan_of_opset_8_is_a_scan_for_each_row(backwards):
    a, x = floats(3, 2), floats(3, 4, 2, seed=1)
    options = ", directions: ints = [1]" if backwards else ""
    model = onnx.parser.parse_model(SCAN_8.format(options=options))
    results = athanor.compile(model).load(threads=1).run({"a": a, "x": x})
    order = x[:, ::-1] if backwards else x
    sums = a[:, None] + np.cumsum(order, axis=1)
    same(results["s"], sums[:, -1])
    same(results["o"], sums * order)
