"""Strings in operators of ai.onnx.ml, the whole way, against ONNX Runtime and scikit-learn."""

import numpy as np
import onnx
import onnxruntime
import pytest
import skl2onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

import athanor
from athanor.errors import CompileError, RunError

from .test_strings import same

CITIES = np.array(["Ålesund", "Bonn", "", "京都"], object)


def model_of(op, x, outputs=("y",), version=2, **attributes):
    types = [onnx.helper.np_dtype_to_tensor_dtype(x.dtype)]
    node = onnx.helper.make_node(op, ["x"], list(outputs), "node", domain="ai.onnx.ml")
    for name, value in attributes.items():
        node.attribute.append(onnx.helper.make_attribute(name, value))
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [onnx.helper.make_tensor_value_info("x", types[0], ["n", *x.shape[1:]])],
        [onnx.ValueInfoProto(name=name) for name in outputs],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.ml", version)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    model = onnx.shape_inference.infer_shapes(model)
    for value in model.graph.output:
        if not value.type.WhichOneof("value"):
            value.type.tensor_type.elem_type = onnx.TensorProto.STRING
        value.type.tensor_type.shape.SetInParent()
    return model


def check(op, x, **options):
    model = model_of(op, x, **options)
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    compiled = athanor.compile(model).load(threads=1)
    same(compiled.run({"x": x})["y"], expected)
    same(compiled.run({"x": x[:1]})["y"], expected[:1])


MISSING = np.array(["Bonn", "京都", "Rom", "", "Bonn "], object)
KEYS = ["", "京都", "Bonn", "Ålesund", "Bonn"]


@pytest.mark.parametrize(
    ("x", "attributes"),
    [
        (MISSING, {"keys_strings": KEYS, "values_int64s": [5, 4, 3, 2, 1]}),
        (MISSING, {"keys_strings": KEYS, "values_int64s": [1] * 5, "default_int64": 7}),
        (MISSING, {"keys_strings": KEYS, "values_floats": [0.5, 1, 2, 3, 4]}),
        (MISSING, {"keys_strings": KEYS, "values_strings": ["a", "", "é", "d", "e"]}),
        (np.array([3, -1, 4]), {"keys_int64s": [4, 3, 0], "values_strings": ["vier", "drei", "0"]}),
        (
            np.array([0.5, -1, 2], np.float32),
            {"keys_floats": [0.5, 2], "values_strings": ["a", "b"], "default_string": "none"},
        ),
    ],
)
def test_label_encoder(x, attributes):
    check("LabelEncoder", x, **attributes)


def test_a_nan_is_a_key():
    x = np.array([0.5, np.nan, 2], np.float32)
    options = {"keys_floats": [np.nan, 0.5], "values_strings": ["nan", "half"]}
    compiled = athanor.compile(model_of("LabelEncoder", x, **options)).load(threads=1)
    same(compiled.run({"x": x})["y"], np.array(["half", "nan", "_Unused"], object))


def test_label_encoder_of_the_first_version():
    classes = ["x", "", "ü"]
    check("LabelEncoder", MISSING, version=1, classes_strings=[*classes, "Bonn"])
    check("LabelEncoder", np.array([2, 0, 3, -1]), version=1, classes_strings=classes)


def test_category_mapper():
    attributes = {"cats_strings": ["a", "Bonn", ""], "cats_int64s": [7, -3, 0]}
    check("CategoryMapper", MISSING, version=1, **attributes)
    check("CategoryMapper", np.array([0, 7, 9]), version=1, default_string="?", **attributes)


def test_one_hot_encoder():
    x = MISSING.reshape(5, 1)
    check("OneHotEncoder", x, version=1, cats_strings=["", "Bonn", "Rom"])
    strict = model_of("OneHotEncoder", x, version=1, cats_strings=["Bonn"], zeros=0)
    with pytest.raises(RunError, match="none of the categories"):
        athanor.compile(strict).load(threads=1).run({"x": x})


@pytest.mark.parametrize(
    ("x", "attributes", "sentence"),
    [
        (MISSING, {"keys_int64s": [1], "values_int64s": [1]}, "has strings, the attributes have n"),
        (np.arange(3), {"keys_strings": ["a"], "values_int64s": [1]}, "has numbers, the attrib"),
        (MISSING, {"keys_strings": ["a", "b"], "values_int64s": [1]}, "2 keys for 1 values"),
        (MISSING, {"keys_strings": ["a"]}, "values are missing"),
        (MISSING, {"keys_strings": ["a\0"], "values_int64s": [1]}, "a string with a zero byte"),
    ],
)
def test_refusals(x, attributes, sentence):
    with pytest.raises(CompileError, match=sentence):
        athanor.compile(model_of("LabelEncoder", x, **attributes))


def data(rows, classes):
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal((rows, 3)).astype(np.float32)
    cities = CITIES[rng.integers(0, len(CITIES), (rows, 1))]
    kinds = (numbers[:, 0] > 0).astype(int) + (cities[:, 0] == "Bonn") * (classes - 2)
    return numbers, cities, np.array(["été", "b", "c"], object)[kinds]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("estimator", [LogisticRegression, DecisionTreeClassifier, SVC, GaussianNB])
def test_classifiers_with_labels_of_text(estimator, classes):
    numbers, _, labels = data(90, classes)
    fitted = estimator().fit(numbers, labels)
    model = skl2onnx.to_onnx(
        fitted, initial_types=[("x", FloatTensorType([None, 3]))], options={"zipmap": False}
    )
    results = athanor.compile(model).load(threads=1).run({"x": numbers})
    same(results[model.graph.output[0].name], fitted.predict(numbers))


def test_a_pipeline_over_categories_of_text():
    numbers, cities, labels = data(90, 3)
    encode = ColumnTransformer(
        [("city", OneHotEncoder(handle_unknown="ignore"), [3])], remainder="passthrough"
    )
    table = np.concatenate([numbers.astype(object), cities], axis=1)
    fitted = make_pipeline(encode, LogisticRegression()).fit(table, labels)
    types = [(f"n{i}", FloatTensorType([None, 1])) for i in range(3)]
    types.append(("city", StringTensorType([None, 1])))
    model = skl2onnx.to_onnx(fitted, initial_types=types, options={"zipmap": False})
    feeds = {f"n{i}": numbers[:, i : i + 1] for i in range(3)}
    compiled = athanor.compile(model).load(threads=1)
    unknown = cities.copy()
    unknown[::7] = "nowhere"
    for given in (cities, unknown):
        label, scores = compiled.run({**feeds, "city": given}).values()
        table = np.concatenate([numbers.astype(object), given], axis=1)
        same(label, fitted.predict(table))
        np.testing.assert_allclose(scores, fitted.predict_proba(table), rtol=1e-4, atol=1e-5)
