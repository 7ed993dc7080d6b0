"""Small valid models to mutate: every family of operators, control flow, functions, sequences."""

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper, parser

HEAD = '<ir_version: 8, opset_import: ["": 17, "acme": 1, "com.microsoft": 1]>\n'

TEXTS = {
    "mlp": """
g (float[rows, 8] x) => (float[rows, 4] y)
<float[4] b = {1, 2, 3, 4}>
{ m = Gemm <alpha = 0.5, beta = 2.0> (x, w, b)  r = Relu (m)  y = Softmax <axis = -1> (r) }
""",
    "images": """
g (float[1, 3, 8, 8] x) => (float[1, 4] y)
<float[4] s = {1, 2, 3, 4}, float[4] t = {0, 1, 0, 1}>
{
  c = Conv <pads = [1, 1, 1, 1], strides = [2, 2], group = 1, kernel_shape = [3, 3]> (x, w)
  n = BatchNormalization <epsilon = 0.001> (c, s, t, t, s)
  p = MaxPool <kernel_shape = [2, 2], ceil_mode = 1> (n)
  a = AveragePool <kernel_shape = [2, 2], strides = [1, 1], pads = [1, 1, 0, 0]> (p)
  l = GlobalAveragePool (a)
  y = Flatten <axis = 1> (l)
}
""",
    "shapes": """
g (float[n, m] x) => (float[n, k] y, int64[2] z)
<int64[1] one = {1}, int64[1] minus = {-1}, int64 zero = {0}, int64[1] starts = {0}>
{
  z = Shape (x)
  rows = Gather <axis = 0> (z, one)
  target = Concat <axis = 0> (minus, rows)
  r = Reshape (x, target)
  half = Slice (r, starts, one, one)
  wide = Expand (half, z)
  t = Tile (wide, z)
  q = Transpose <perm = [1, 0]> (wide)
  u = Unsqueeze (q, starts)
  v = Squeeze (u, starts)
  y = Pad <mode = "constant"> (v, pads)
  pads = Constant <value = int64[4] {0, 1, 0, 1}> ()
}
""",
    "branches": """
g (float[3] x, bool c) => (float[3] y, float[n] s)
<int64 trips = {4}, float[3] state = {0, 0, 0}>
{
  a = If (c) <
    then_branch = yes () => (float[3] p) { p = Add (x, x) },
    else_branch = no () => (float[3] q) { q = Mul (x, state) }
  >
  y, all = Loop (trips, c, state) <
    body = b (int64 i, bool go, float[3] prev) => (bool again, float[3] next, float[3] out)
      { again = Identity (go) next = Add (prev, a) out = Relu (next) }
  >
  f = Constant <value_ints = [-1]> ()
  s = Reshape (all, f)
}
""",
    "scans": """
g (float[2] init, float[5, 2] x) => (float[2] last, float[5, 2] all)
{
  last, all = Scan <
    num_scan_inputs = 1,
    body = b (float[2] sum, float[2] row) => (float[2] next, float[2] out)
      { next = Add (sum, row) out = Identity (next) }
  > (init, x)
}
""",
    "sequences": """
g (float[4, 3] x) => (float[4, 3] y, int64 n)
<int64 at = {1}>
{
  s = SplitToSequence <axis = 0, keepdims = 1> (x)
  e = SequenceAt (s, at)
  i = SequenceInsert (s, e)
  d = SequenceErase (i, at)
  n = SequenceLength (d)
  y = ConcatFromSequence <axis = 0> (d)
}
""",
    "recurrent": """
g (float[3, 1, 2] x) => (float[3, 1, 1, 2] y)
{ y, h, c = LSTM <hidden_size = 2, direction = "forward"> (x, w, r) }
""",
    "quantized": """
g (float[2, 4] x) => (float[2, 4] y)
<float s = {0.1}, uint8 z = {3}, uint8[4, 4] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}>
{
  q = QuantizeLinear (x, s, z)
  m = QLinearMatMul (q, s, z, w, s, z, s, z)
  y = DequantizeLinear (m, s, z)
}
""",
    "chosen": """
g (float[4, 5] x) => (int64[2, n] place, float[4, 2] best, int64[4, 2] where, float[m] only)
<int64[1] k = {2}>
{
  place = NonZero (x)
  best, where = TopK <axis = -1, largest = 1> (x, k)
  only = Unique <sorted = 1> (x)
}
""",
    "moves": """
g (float[1, 2, 4, 4] x, int64[2, 1] i) => (float[1, 2, 8, 8] y, float[2, 2, 4, 4] z, float[4, 4] e)
<float[4] scales = {1, 1, 2, 2}>
{
  y = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (x, , scales)
  c = Concat <axis = 0> (x, u)
  z = ScatterND (c, i2, x)
  i2 = Constant <value = int64[1, 1] {1}> ()
  g1 = GatherND (x, i3)
  i3 = Constant <value = int64[2] {0, 1}> ()
  e = Einsum <equation = "ij,jk->ik"> (g1, g1)
}
""",
    "attention": """
g (float[1, n, 8] x) => (float[1, n, 8] y)
<float[8] s = {1, 1, 1, 1, 1, 1, 1, 1}, float[8] b = {0, 1, 0, 1, 0, 1, 0, 1}>
{
  l = LayerNormalization <axis = -1> (x, s, b)
  t = Transpose <perm = [0, 2, 1]> (l)
  m = MatMul (l, t)
  p = Softmax <axis = -1> (m)
  v = MatMul (p, l)
  g1 = com.microsoft.Gelu (v)
  r = ReduceMean <axes = [-1], keepdims = 1> (g1)
  y = Sub (g1, r)
}
""",
    "types": """
g (float[3] x, int32[3] i, bool[3] c) => (float16[3] h, double[3] d, float[3] w, int64 a)
{
  h = Cast <to = 10> (x)
  d = Cast <to = 11> (i)
  q = Cast <to = 17> (x)
  w0 = Cast <to = 1> (q)
  w = Where (c, x, w0)
  a0 = ArgMax <axis = 0, keepdims = 0> (x)
  m = Mod (i, i)
  u = Cast <to = 12> (m)
  s = BitShift <direction = "LEFT"> (u, u)
  a = Identity (a0)
}
""",
}

WEIGHTS = {
    "mlp": {"w": (8, 4)},
    "images": {"w": (4, 3, 3, 3)},
    "recurrent": {"w": (1, 8, 2), "r": (1, 8, 2)},
    "moves": {"u": (1, 2, 4, 4)},
}

FUNCTION = """
<ir_version: 8, opset_import: ["": 17, "acme": 1]>
g (float[4] x) => (float[4] y) { y = acme.Affine <factor = 2.0> (x, x) }
<domain: "acme", opset_import: ["": 17]>
Affine <factor> (a, b) => (c)
{ f = Constant <value_float: float = @factor> () m = Mul (a, f) c = Add (m, b) }
"""


def external():
    """A weight in a file; the fuzzer writes `weights.bin` into the model's folder."""
    model = parser.parse_model(HEAD + "g (float[4] x) => (float[4] y) { y = Add (x, w) }")
    weight = numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", "16")):
        weight.external_data.add(key=key, value=value)
    model.graph.initializer.append(weight)
    return model


def seeds():
    """Models by name; each compiles."""
    found = {name: sorted_model(parser.parse_model(HEAD + text)) for name, text in TEXTS.items()}
    rng = np.random.default_rng(0)
    for name, shapes in WEIGHTS.items():
        for weight, shape in shapes.items():
            array = rng.standard_normal(shape).astype(np.float32)
            found[name].graph.initializer.append(numpy_helper.from_array(array, weight))
    return {**found, "function": parser.parse_model(FUNCTION), "external": external()}


def sorted_model(model):
    """The graph's constants before what reads them, as the standard wants."""
    nodes = sorted(model.graph.node, key=lambda node: node.op_type != "Constant")
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def suite_seeds():
    """The models of ONNX's backend suite, for runs by hand."""
    from onnx.backend.test.loader import load_model_tests

    for kind in ("node", "simple"):
        for case in load_model_tests(kind=kind):
            model = case.model
            if model is None:
                model = onnx.load(f"{case.model_dir}/model.onnx")
            if model.ByteSize() < 20_000:
                yield case.name, model
