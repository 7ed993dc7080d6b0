"""The small operators of ai.onnx.ml against ONNX Runtime."""

import numpy as np
import onnx
import onnxruntime
import pytest

import athanor
from athanor.errors import CompileError, RunError

from .execute import floats, run


def model_of(op, inputs, outputs=("y",), version=1, kind=1, **attributes):
    names = [f"x{i}" for i in range(len(inputs))]
    node = onnx.helper.make_node(op, names, list(outputs), domain="ai.onnx.ml", **attributes)
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape
            )
            for name, x in zip(names, inputs, strict=True)
        ],
        [onnx.ValueInfoProto(name=name) for name in outputs],
    )
    opsets = [onnx.helper.make_opsetid("", 18)]
    opsets.append(onnx.helper.make_opsetid("ai.onnx.ml", version))
    model = onnx.helper.make_model(graph, opset_imports=opsets)
    model.ir_version = 10
    full = onnx.shape_inference.infer_shapes(model)
    for value in full.graph.output:
        if not value.type.tensor_type.elem_type:
            value.type.tensor_type.elem_type = 7 if value.name == "label" else kind
        value.type.tensor_type.shape.SetInParent()
    return full


def compare(op, inputs, rtol=1e-5, atol=1e-6, **options):
    model = model_of(op, inputs, **options)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    expected = session.run(None, {f"x{i}": x for i, x in enumerate(inputs)})
    for ours, theirs in zip(run(model, inputs), expected, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)


ANY = [np.float32, np.float64, np.int32, np.int64]


def numbers(*shape, dtype=np.float32):
    return (floats(*shape) * 4).astype(dtype)


@pytest.mark.parametrize("dtype", ANY)
def test_scaler(dtype):
    x = numbers(5, 3, dtype=dtype)
    compare("Scaler", [x], offset=[0.5, -1.0, 2.0], scale=[2.0, 0.1, 3.0])
    compare("Scaler", [x], offset=[0.5], scale=[2.0])


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
def test_normalizer(norm):
    x = numbers(5, 3)
    x[2] = 0
    (result,) = run(model_of("Normalizer", [x], norm=norm), [x])
    size = {"MAX": np.abs(x).max(1), "L1": np.abs(x).sum(1), "L2": np.sqrt((x * x).sum(1))}[norm]
    np.testing.assert_allclose(result, x / np.where(size, size, 1)[:, None], rtol=1e-6)
    # ONNX Runtime's MAX is of the values, not of the absolute ones
    compare("Normalizer", [np.abs(x) if norm == "MAX" else x], norm=norm)


def test_binarizer():
    compare("Binarizer", [np.array([[0.5, 0.49], [np.inf, -1.0]], np.float32)], threshold=0.49)


def test_imputer():
    x = np.array([[1, np.nan, 3], [np.nan, 5, 6]], np.float32)
    values = dict(imputed_value_floats=[10.0, 20.0, 30.0])
    compare("Imputer", [x], replaced_value_float=float("nan"), **values)
    compare("Imputer", [x], replaced_value_float=5.0, imputed_value_floats=[-1.0])
    whole = np.array([[1, 2, 3], [2, 5, 2]], np.int64)
    compare("Imputer", [whole], kind=7, replaced_value_int64=2, imputed_value_int64s=[7, 8, 9])


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_one_hot_encoder(dtype):
    x = np.array([[1, 5], [7, 3]], dtype)
    compare("OneHotEncoder", [x], cats_int64s=[5, 1, 7], zeros=1)


def test_one_hot_encoder_that_has_to_know_all():
    x = np.array([[1, 5], [7, 1]], np.int64)
    model = model_of("OneHotEncoder", [x], cats_int64s=[5, 1, 7], zeros=0)
    compiled = athanor.compile(model).load(threads=1)
    expected = (x[..., None] == np.array([5, 1, 7])).astype(np.float32)
    np.testing.assert_array_equal(compiled.run({"x0": x})["y"], expected)
    x[1, 0] = 3
    with pytest.raises(RunError, match="none of the categories"):
        compiled.run({"x0": x})


@pytest.mark.parametrize(
    "case",
    [
        dict(keys_int64s=[9, -4, 3], values_floats=[0.5, 1.5, 2.5], default_float=-7.0),
        dict(keys_int64s=[9, -4, 3], values_int64s=[5, 6, 7], default_int64=-9),
        dict(keys_floats=[9.0, -4.0, float("nan")], values_int64s=[5, 6, 7]),
        dict(keys_floats=[2.0], values_floats=[3.0]),
        dict(keys_int64s=list(range(0, 60, 2)), values_int64s=list(range(30))),
    ],
    ids=lambda case: " ".join(case),
)
def test_label_encoder(case):
    x = np.array([[9, -4, 3], [2, 58, 59], [0, 60, -5]], np.int64)
    if "keys_floats" in case:
        x = x.astype(np.float32)
        x[1, 1], x[1, 2] = np.nan, np.inf
    compare("LabelEncoder", [x], version=4 if "keys_floats" in case else 2, **case)


def test_feature_vectorizer():
    inputs = [numbers(4, 3), numbers(4, 2), numbers(4, 4)]
    model = model_of("FeatureVectorizer", inputs, inputdimensions=[3, 3, 1])
    (result,) = run(model, inputs)
    expected = np.concatenate([inputs[0], inputs[1], np.zeros((4, 1)), inputs[2][:, :1]], axis=1)
    np.testing.assert_array_equal(result, expected.astype(np.float32))
    compare("FeatureVectorizer", inputs[:2], inputdimensions=[3, 2])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 1000, 1024])
def test_label_encoder_of_many_keys(count):
    rng = np.random.default_rng(count)
    keys = rng.choice(5000, count, replace=False) - 2500
    values = rng.normal(size=count).astype(np.float32)
    x = np.concatenate([keys, rng.integers(-3000, 3000, 50)])[:, None]
    options = {"keys_int64s": keys.tolist(), "values_floats": values.tolist()}
    compare("LabelEncoder", [x], version=2, default_float=-9.0, **options)


def test_label_encoder_of_tensors():
    x = np.array([3, -1, 2, 7], np.int16)
    tensors = {
        "keys_tensor": np.array([7, 3, 2], np.int16),
        "values_tensor": np.array([0.5, 1.5, 2.5], np.float64),
        "default_tensor": np.array([-1.0], np.float64),
    }
    attributes = {name: onnx.numpy_helper.from_array(value) for name, value in tensors.items()}
    (result,) = run(model_of("LabelEncoder", [x], version=4, kind=11, **attributes), [x])
    np.testing.assert_array_equal(result, [1.5, -1.0, 2.5, 0.5])


@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5)], ids=str)
def test_array_feature_extractor(shape):
    indices = np.array([[4, 0, 2]], np.int64)
    compare("ArrayFeatureExtractor", [numbers(*shape), indices])


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO"])
def test_linear_models(transform):
    x = numbers(6, 3)
    weights = dict(coefficients=floats(12, seed=1).tolist(), post_transform=transform)
    weights["intercepts"] = floats(4, seed=2).tolist()
    compare("LinearRegressor", [x], targets=4, **weights)
    compare(
        "LinearClassifier",
        [x],
        outputs=("label", "scores"),
        classlabels_ints=[4, 8, 1, 0],
        **weights,
    )


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC"])
def test_linear_classifier_with_one_score(transform):
    weights = dict(coefficients=floats(3, seed=1).tolist(), intercepts=[0.25])
    compare(
        "LinearClassifier",
        [numbers(6, 3)],
        outputs=("label", "scores"),
        classlabels_ints=[4, 8],
        post_transform=transform,
        **weights,
    )


def test_probit():
    x = np.array([[0.01], [0.4], [0.5], [0.9]], np.float32)
    options = dict(coefficients=[1.0], intercepts=[0.0], post_transform="PROBIT")
    compare("LinearRegressor", [x], rtol=1e-3, atol=1e-3, **options)


@pytest.mark.parametrize(
    ("op", "attributes", "sentence"),
    [
        ("Scaler", {"offset": [1.0, 2.0]}, "2 values of offset"),
        ("Normalizer", {"norm": "L7"}, "norm='L7'"),
        ("LabelEncoder", {"keys_int64s": [1, 1], "values_int64s": [1, 2]}, "keys of type"),
        ("OneHotEncoder", {"cats_int64s": [3, 3]}, "twice"),
        ("LinearRegressor", {"coefficients": [1.0]}, "1 coefficients"),
        ("SVMRegressor", {"coefficients": [1.0], "rho": [0.0]}, "1 coefficients"),
    ],
)
def test_refused(op, attributes, sentence):
    x = numbers(4, 3)
    version = 2 if op == "LabelEncoder" else 1
    with pytest.raises(CompileError, match=sentence):
        run(model_of(op, [x], version=version, **attributes), [x])
