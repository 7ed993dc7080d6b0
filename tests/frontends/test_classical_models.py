"""Trained scikit-learn pipelines through skl2onnx, compared with ONNX Runtime and scikit-learn."""

import numpy as np
import onnxruntime
import pytest

import athanor
from athanor.errors import RunError
from athanor.frontends.onnx.importer import import_model

from .execute import run

skl2onnx = pytest.importorskip("skl2onnx")
pytest.importorskip("sklearn")

from skl2onnx.common.data_types import FloatTensorType, StringTensorType  # noqa: E402
from sklearn import (  # noqa: E402
    compose,
    datasets,
    ensemble,
    impute,
    linear_model,
    naive_bayes,
    neighbors,
    neural_network,
    pipeline,
    preprocessing,
    svm,
    tree,
)

OPSETS = {"": 18, "ai.onnx.ml": 3}
ROWS = 333  # no multiple of a block


def convert(model, x, zipmap=False):
    options = {} if zipmap or not hasattr(model, "classes_") else {id(model): {"zipmap": False}}
    return skl2onnx.to_onnx(model, x[:1], options=options, target_opset=OPSETS)


def compare(model, x, rtol=1e-5, atol=1e-5):
    """Our outputs, after comparing them with ONNX Runtime's."""
    session = onnxruntime.InferenceSession(model.SerializeToString())
    expected = session.run(None, {session.get_inputs()[0].name: x})
    results = run(model, [x])
    for ours, theirs in zip(results, expected, strict=True):
        if isinstance(theirs, list):  # ZipMap
            theirs = np.array([list(row.values()) for row in theirs], np.float32)
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol)
    return results


def classes(count, seed=1):
    x, y = datasets.make_classification(
        900, 12, n_informative=8, n_classes=count, random_state=seed
    )
    return x.astype(np.float32), y


CLASSIFIERS = [
    tree.DecisionTreeClassifier(max_depth=6, random_state=0),
    ensemble.RandomForestClassifier(15, max_depth=7, random_state=0),
    ensemble.ExtraTreesClassifier(11, random_state=0),
    ensemble.GradientBoostingClassifier(n_estimators=15, random_state=0),
    linear_model.LogisticRegression(max_iter=500),
    linear_model.SGDClassifier(loss="log_loss", random_state=0),
    svm.SVC(kernel="rbf", probability=True, random_state=0),
    svm.SVC(kernel="poly", degree=3, random_state=0),
    svm.SVC(kernel="linear"),
    neural_network.MLPClassifier((16, 8), max_iter=60, random_state=0),
    naive_bayes.GaussianNB(),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("model", CLASSIFIERS, ids=lambda m: type(m).__name__)
def test_classifier(model, count):
    x, y = classes(count)
    model.fit(x[:500], y[:500])
    rows = x[500 : 500 + ROWS]
    # a linear machine's support vectors nearly cancel, in float32
    atol = 1e-3 if isinstance(model, svm.SVC) and model.kernel == "linear" else 1e-5
    labels, scores = compare(convert(model, x), rows, atol=atol)
    np.testing.assert_array_equal(labels, model.predict(rows))
    if hasattr(model, "predict_proba"):
        np.testing.assert_allclose(scores, model.predict_proba(rows), atol=1e-5)


def test_neighbours():
    x, y = classes(3)
    model = neighbors.KNeighborsClassifier().fit(x[:500], y[:500])
    compiled = athanor.compile(convert(model, x)).load(threads=1)
    labels, scores = compiled.run({"X": x[500:]}).values()
    np.testing.assert_array_equal(labels, model.predict(x[500:]))
    np.testing.assert_allclose(scores, model.predict_proba(x[500:]), atol=1e-6)


REGRESSORS = [
    tree.DecisionTreeRegressor(max_depth=7, random_state=0),
    ensemble.RandomForestRegressor(15, random_state=0),
    ensemble.GradientBoostingRegressor(n_estimators=20, random_state=0),
    linear_model.LinearRegression(),
    svm.SVR(kernel="rbf"),
    svm.SVR(kernel="sigmoid"),
    svm.NuSVR(kernel="poly"),
]


@pytest.mark.parametrize("model", REGRESSORS, ids=lambda m: type(m).__name__)
def test_regressor(model):
    x, y = datasets.make_regression(900, 9, noise=1.0, random_state=2)
    x = x.astype(np.float32)
    model.fit(x[:500], y[:500])
    rows = x[500 : 500 + ROWS]
    (result,) = compare(convert(model, x), rows, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(result[:, 0], model.predict(rows), rtol=1e-5, atol=1e-3)


def test_several_targets():
    x, y = datasets.make_regression(600, 7, n_targets=3, random_state=3)
    x = x.astype(np.float32)
    for model in (linear_model.LinearRegression(), ensemble.RandomForestRegressor(9)):
        model.fit(x, y)
        compare(convert(model, x), x[:ROWS], rtol=1e-4, atol=1e-3)


def test_novelty():
    x, _ = classes(2)
    model = svm.OneClassSVM(gamma=0.1).fit(x)
    compare(skl2onnx.to_onnx(model, x[:1], target_opset=OPSETS), x[:ROWS], atol=1e-4)


def test_isolation_forest():
    """A LabelEncoder of each tree's leaves: some hundred keys."""
    x, _ = classes(2)
    model = ensemble.IsolationForest(n_estimators=2, random_state=0).fit(x)
    labels, scores = compare(skl2onnx.to_onnx(model, x[:1], target_opset=OPSETS), x[:ROWS])
    np.testing.assert_array_equal(labels[:, 0], model.predict(x[:ROWS]))
    np.testing.assert_allclose(scores[:, 0], model.decision_function(x[:ROWS]), atol=1e-6)


def test_pipeline_with_zipmap():
    x, y = classes(3)
    model = pipeline.make_pipeline(
        preprocessing.StandardScaler(),
        preprocessing.Normalizer("l1"),
        preprocessing.Binarizer(threshold=0.02),
        linear_model.LogisticRegression(),
    ).fit(x, y)
    proto = convert(model, x, zipmap=True)
    compare(proto, x[:ROWS])
    assert import_model(proto).columns == {"output_probability": (0, 1, 2)}


NAMED = [
    linear_model.LogisticRegression(max_iter=500),
    linear_model.SGDClassifier(loss="log_loss", random_state=0),
    ensemble.RandomForestClassifier(7, random_state=0),
    ensemble.GradientBoostingClassifier(n_estimators=5, random_state=0),
    svm.SVC(),
    neural_network.MLPClassifier((5,), max_iter=30, random_state=0),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("model", NAMED, ids=lambda m: type(m).__name__)
def test_labels_that_are_strings(model, count):
    x, y = classes(count)
    names = np.array(["cat", "dog", "Aal in Öl"])[:count]
    model.fit(x[:500], names[y[:500]])
    artifact = athanor.compile(convert(model, x, zipmap=True))
    labels, scores = artifact.load(threads=1).run({"X": x[500:]}).values()
    np.testing.assert_array_equal(labels, model.predict(x[500:]))
    assert artifact.metadata["outputs"][0]["dtype"] == "string"
    assert artifact.metadata["outputs"][1]["columns"] == model.classes_.tolist()
    if hasattr(model, "predict_proba"):
        np.testing.assert_allclose(scores, model.predict_proba(x[500:]), atol=1e-5)


def test_encoded_categories():
    x = np.random.default_rng(0).integers(0, 5, (200, 3)).astype(np.int64)
    model = preprocessing.OneHotEncoder(sparse_output=False).fit(x)
    compiled = athanor.compile(skl2onnx.to_onnx(model, x[:1], target_opset=OPSETS)).load(threads=1)
    (result,) = compiled.run({"X": x}).values()
    np.testing.assert_array_equal(result, model.transform(x))
    x[3, 1] = 7
    with pytest.raises(RunError, match="none of the categories"):
        compiled.run({"X": x})


def test_imputed_and_encoded_columns():
    """Numbers with gaps, imputed and scaled; codes, one-hot; a forest on both."""
    rng = np.random.default_rng(4)
    x = np.concatenate([rng.normal(size=(400, 4)), rng.integers(0, 4, (400, 2))], axis=1)
    y = (x[:, 0] + (x[:, 5] == 2) > 0).astype(np.int64)
    x[:, :4][rng.random((400, 4)) < 0.15] = np.nan
    x = x.astype(np.float32)
    numeric = pipeline.make_pipeline(
        impute.SimpleImputer(strategy="median"),
        preprocessing.MinMaxScaler(),
    )
    encoder = preprocessing.OneHotEncoder(handle_unknown="ignore")
    model = pipeline.make_pipeline(
        compose.make_column_transformer((numeric, [0, 1, 2, 3]), (encoder, [4, 5])),
        ensemble.RandomForestClassifier(20, max_depth=6, random_state=0),
    ).fit(x, y)
    labels, scores = compare(convert(model, x), x)
    np.testing.assert_array_equal(labels, model.predict(x))
    np.testing.assert_allclose(scores, model.predict_proba(x), atol=1e-6)


def test_columns_of_numbers_and_strings():
    """The usual table: numbers with gaps, and categories that are strings, each an input."""
    rng = np.random.default_rng(6)
    rows = 300
    age, fare = (rng.normal(size=(rows, 1)).astype(np.float32) for _ in range(2))
    age[rng.random(rows) < 0.2] = np.nan
    port = rng.choice(["Cherbourg", "Queenstown", "Southampton"], (rows, 1)).astype(object)
    survived = np.where(fare[:, 0] + (port[:, 0] == "Cherbourg") > 0.4, "yes", "no")
    numbers = pipeline.make_pipeline(impute.SimpleImputer(), preprocessing.StandardScaler())
    encoder = preprocessing.OneHotEncoder(handle_unknown="ignore")
    model = pipeline.make_pipeline(
        compose.make_column_transformer((numbers, [0, 1]), (encoder, [2])),
        linear_model.LogisticRegression(),
    )
    table = np.concatenate([age.astype(object), fare.astype(object), port], axis=1)
    model.fit(table, survived)
    kinds = [(name, FloatTensorType([None, 1])) for name in ("age", "fare")]
    kinds.append(("port", StringTensorType([None, 1])))
    proto = skl2onnx.convert_sklearn(model, initial_types=kinds, target_opset=OPSETS)
    compiled = athanor.compile(proto).load(threads=1)
    port[3], table[3, 2] = "Atlantis", "Atlantis"
    labels, scores = compiled.run({"age": age, "fare": fare, "port": port}).values()
    np.testing.assert_array_equal(labels, model.predict(table))
    np.testing.assert_allclose(scores, model.predict_proba(table), atol=1e-5)


def test_constant_imputation():
    x = np.array([[1, np.nan, 3], [np.nan, 5, 6], [7, 8, np.nan]], np.float32)
    model = impute.SimpleImputer(strategy="constant", fill_value=-1).fit(x)
    (result,) = compare(skl2onnx.to_onnx(model, x[:1], target_opset=OPSETS), x)
    np.testing.assert_array_equal(result, model.transform(x))
