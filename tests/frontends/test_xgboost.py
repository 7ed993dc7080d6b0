"""Trained XGBoost models through onnxmltools, compared with XGBoost itself on all rows."""

import numpy as np
import pytest

from .execute import run

xgboost = pytest.importorskip("xgboost")
onnxmltools = pytest.importorskip("onnxmltools")

from onnxmltools.convert.common.data_types import FloatTensorType  # noqa: E402

ROWS, FEATURES = 901, 7


def data(missing):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
    if missing:
        x[rng.random(x.shape) < 0.2] = np.nan
    return x, np.nan_to_num(x[:, :4]).sum(axis=1) + 0.3 * rng.normal(size=ROWS)


def convert(model):
    kind = FloatTensorType([None, FEATURES])
    return onnxmltools.convert_xgboost(model, initial_types=[("x", kind)], target_opset=15)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("objective", ["reg:squarederror", "reg:absoluteerror", "count:poisson"])
def test_regressor(objective, missing):
    x, y = data(missing)
    if objective == "count:poisson":
        y = np.abs(y).round()
    model = xgboost.XGBRegressor(n_estimators=40, objective=objective, n_jobs=1).fit(x, y)
    (result,) = run(convert(model), [x])
    np.testing.assert_allclose(result[:, 0], model.predict(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("bounds", [[0.2], [-1.0, 0.2, 1.0]], ids=["two", "four"])
def test_classifier(bounds, missing):
    x, y = data(missing)
    y = np.digitize(y, bounds)
    model = xgboost.XGBClassifier(n_estimators=25, max_depth=5, n_jobs=1).fit(x, y)
    labels, scores = run(convert(model), [x])
    np.testing.assert_array_equal(labels, model.predict(x))
    np.testing.assert_allclose(scores, model.predict_proba(x), rtol=1e-5, atol=1e-6)


def test_margins_that_are_all_positive():
    """The trees of a frequent event may have one sign; they are margins, not probabilities."""
    x, y = data(False)
    model = xgboost.XGBClassifier(
        n_estimators=1, max_depth=2, base_score=0.02, learning_rate=0.1, n_jobs=1
    ).fit(x, (y > -2).astype(int))
    proto = convert(model)
    weights = next(a for a in proto.graph.node[0].attribute if a.name == "class_weights")
    assert min(weights.floats) >= 0
    labels, scores = run(proto, [x])
    np.testing.assert_array_equal(labels, model.predict(x))
    np.testing.assert_allclose(scores, model.predict_proba(x), rtol=1e-5, atol=1e-6)
