"""Tree ensembles, node by node, against a walk in Python; hostile ones are refused."""

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest

from athanor.errors import CompileError

from .execute import run, runner

MODES = ["BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ"]


def model_of(op, x, outputs, **attributes):
    node = onnx.helper.make_node(op, ["x"], outputs, domain="ai.onnx.ml", **attributes)
    kind = onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [onnx.helper.make_tensor_value_info("x", kind, ["rows", x.shape[1]])],
        [onnx.ValueInfoProto(name=name) for name in outputs],
    )
    version = 5 if op == "TreeEnsemble" else 3
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("ai.onnx.ml", version)]
    model = onnx.helper.make_model(graph, opset_imports=opsets)
    for value in model.graph.output:
        value.type.tensor_type.elem_type = 7 if value.name == "label" else 1
        value.type.tensor_type.shape.SetInParent()
    return model


def grown(seed, trees=3, depth=4, columns=3, targets=2, modes=MODES):
    """Random trees as TreeEnsembleRegressor's attributes; thresholds from a few numbers."""
    rng = np.random.default_rng(seed)
    nodes, weights = [], []

    def grow(tree, level):
        number = sum(1 for node in nodes if node[0] == tree)
        entry = [tree, number, "LEAF", 0, 0.0, 0, 0, 0]
        nodes.append(entry)
        if level == depth or (level and rng.random() < 0.2):
            for target in range(targets):
                if rng.random() < 0.8:
                    weights.append((tree, number, target, float(rng.normal())))
            return number
        entry[2:5] = [str(rng.choice(modes)), int(rng.integers(columns)), float(rng.choice(VALUES))]
        entry[7] = int(rng.integers(2))
        entry[5] = grow(tree, level + 1)
        entry[6] = grow(tree, level + 1)
        return number

    for tree in range(trees):
        grow(tree, 0)
    names = "treeids nodeids modes featureids values truenodeids falsenodeids"
    names += " missing_value_tracks_true"
    attributes = {
        f"nodes_{name}": [node[i] for node in nodes] for i, name in enumerate(names.split())
    }
    for i, name in enumerate(("treeids", "nodeids", "ids", "weights")):
        attributes[f"target_{name}"] = [weight[i] for weight in weights]
    return {**attributes, "n_targets": targets}


VALUES = (-1.0, 0.0, 0.5, 2.0)
SPECIAL = (*VALUES, np.nan, np.inf, -np.inf, np.nextafter(np.float32(0.5), np.float32(0)), 0.25)
ROWS = np.array(list(itertools.product(SPECIAL, repeat=3)), np.float32)


def expected_of(attributes, x, merge=sum):
    """A walk, row by row, as the standard describes it; `merge` combines a target's weights."""
    compare = {
        "BRANCH_LEQ": np.less_equal,
        "BRANCH_LT": np.less,
        "BRANCH_GTE": np.greater_equal,
        "BRANCH_GT": np.greater,
        "BRANCH_EQ": np.equal,
        "BRANCH_NEQ": np.not_equal,
    }
    columns = [attributes[f"nodes_{n}"] for n in ("treeids", "nodeids")]
    places = {key: i for i, key in enumerate(zip(*columns, strict=True))}
    weights = [attributes[f"target_{n}"] for n in ("treeids", "nodeids", "ids", "weights")]
    leaves = {}
    for tree, number, target, weight in zip(*weights, strict=True):
        leaves.setdefault((tree, number), []).append((target, weight))
    result = np.zeros((len(x), attributes["n_targets"]))
    for row, features in enumerate(x):
        found = [[] for _ in range(attributes["n_targets"])]
        for tree in sorted(set(attributes["nodes_treeids"])):
            place = places[tree, 0]
            while attributes["nodes_modes"][place] != "LEAF":
                value = features[attributes["nodes_featureids"][place]]
                threshold = x.dtype.type(attributes["nodes_values"][place])
                true = compare[attributes["nodes_modes"][place]](value, threshold)
                if np.isnan(value) and attributes["nodes_missing_value_tracks_true"][place]:
                    true = True
                side = "true" if true else "false"
                place = places[tree, attributes[f"nodes_{side}nodeids"][place]]
            for target, weight in leaves.get((tree, attributes["nodes_nodeids"][place]), []):
                found[target].append(weight)
        result[row] = [merge(each) if each else 0 for each in found]
    return result


@pytest.mark.parametrize("mode", [*MODES, "all"])
@pytest.mark.parametrize("targets", [1, 3])
def test_branches(mode, targets):
    modes = MODES if mode == "all" else [mode]
    attributes = grown(len(mode), targets=targets, modes=modes)
    (result,) = run(model_of("TreeEnsembleRegressor", ROWS, ["y"], **attributes), [ROWS])
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected_of(attributes, ROWS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("trees", [1, 9])
def test_a_row_alone_gives_what_it_gives_among_others(trees):
    attributes = grown(5, trees=trees)
    call = runner(model_of("TreeEnsembleRegressor", ROWS, ["y"], **attributes))
    x = ROWS[100:171]
    (together,) = call([x])
    np.testing.assert_allclose(together, expected_of(attributes, x), rtol=1e-5, atol=1e-5)
    for rows in (1, 7, 8, 9, 33):
        np.testing.assert_array_equal(call([x[:rows]])[0], together[:rows])


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.int32])
def test_input_types(dtype):
    x = np.array(list(itertools.product((-1, 0, 1, 2, 3), repeat=3)), dtype)
    attributes = grown(6)
    (result,) = run(model_of("TreeEnsembleRegressor", x, ["y"], **attributes), [x])
    expected = expected_of(attributes, x.astype(np.float32))
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.parametrize(
    ("aggregate", "merge"),
    [("SUM", sum), ("AVERAGE", lambda w: sum(w) / 4), ("MIN", min), ("MAX", max)],
)
def test_aggregates_and_base_values(aggregate, merge, targets):
    attributes = grown(7, trees=4, targets=targets) | {"aggregate_function": aggregate}
    attributes["base_values"] = [2.5, -1.0][:targets]
    (result,) = run(model_of("TreeEnsembleRegressor", ROWS, ["y"], **attributes), [ROWS])
    expected = expected_of(attributes, ROWS, merge) + attributes["base_values"]
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_thresholds_that_the_input_type_can_not_hold(mode):
    """A threshold between two float32 numbers separates them, and equals neither."""
    exact = 0.1
    near = np.float32(exact)
    x = np.array([[near], [np.nextafter(near, np.float32(0))], [np.inf], [-np.inf]], np.float32)
    attributes = stump(mode)
    for name, values in (("nodes_values", [exact, 0, 0]), ("target_weights", [1.0, 2.0])):
        del attributes[name]
        attributes[f"{name}_as_tensor"] = onnx.numpy_helper.from_array(np.array(values))
    wide = expected_of(stump(mode) | {"nodes_values": [exact, 0, 0]}, x.astype(np.float64))
    for rows in (x, x.astype(np.float64)):
        (result,) = run(model_of("TreeEnsembleRegressor", rows, ["y"], **attributes), [rows])
        np.testing.assert_array_equal(result, wide)


@pytest.mark.parametrize("mode", MODES)
def test_thresholds_at_the_edges(mode):
    """Stumps side by side, each with a target of its own."""
    cases = list(itertools.product((np.nan, np.inf, -np.inf), (0, 1)))
    attributes = {name: value * len(cases) for name, value in stump(mode).items() if name[1] != "_"}
    for number, (threshold, missing) in enumerate(cases):
        attributes["nodes_treeids"][3 * number : 3 * number + 3] = [number] * 3
        attributes["target_treeids"][2 * number : 2 * number + 2] = [number] * 2
        attributes["target_ids"][2 * number : 2 * number + 2] = [number] * 2
        attributes["nodes_values"][3 * number] = threshold
        attributes["nodes_missing_value_tracks_true"][3 * number] = missing
    attributes["n_targets"] = len(cases)
    x = np.array([[v] for v in SPECIAL], np.float32)
    (result,) = run(model_of("TreeEnsembleRegressor", x, ["y"], **attributes), [x])
    np.testing.assert_array_equal(result, expected_of(attributes, x))


@pytest.mark.parametrize("aggregate", [0, 1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_tree_ensemble(aggregate, dtype):
    """Two trees, one with a set, one of a leaf that is both successors."""

    def tensor(values, kind=dtype):
        return onnx.numpy_helper.from_array(np.array(values, kind))

    attributes = dict(
        n_targets=2,
        aggregate_function=aggregate,
        tree_roots=[0, 2, 3],
        nodes_featureids=[0, 1, 0, 2],
        nodes_splits=tensor([0.5, 2.0, 0.0, 0.0]),
        nodes_modes=tensor([0, 6, 3, 1], np.uint8),
        nodes_missing_value_tracks_true=[1, 1, 0, 1],
        nodes_truenodeids=[1, 0, 2, 4],
        nodes_trueleafs=[0, 1, 1, 1],
        nodes_falsenodeids=[1, 1, 3, 4],
        nodes_falseleafs=[1, 1, 1, 1],
        leaf_targetids=[0, 0, 0, 1, 0],
        leaf_weights=tensor([1.5, -2.0, 4.0, 8.0, 0.25]),
        membership_values=tensor([-1.0, 2.0, np.nan]),
    )
    (result,) = run(
        model_of("TreeEnsemble", ROWS.astype(dtype), ["y"], **attributes), [ROWS.astype(dtype)]
    )
    a, b, _ = ROWS.T
    first = np.where((a <= 0.5) | np.isnan(a), np.where(np.isin(b, [-1, 2, np.nan]), 1.5, -2), -2)
    first = np.where(((a <= 0.5) | np.isnan(a)) & np.isnan(b), 1.5, first)
    zero = np.array([first, np.where(a > 0, 4, np.nan), np.full(len(a), 0.25)])
    one = np.where(a > 0, np.nan, 8)
    merge = [lambda w: np.nansum(w, axis=0) / 3, lambda w: np.nansum(w, axis=0)]
    merge = [*merge, lambda w: np.nanmin(w, axis=0), lambda w: np.nanmax(w, axis=0)][aggregate]
    second = np.nan_to_num(one) / (3 if aggregate == 0 else 1)
    assert result.dtype == dtype
    np.testing.assert_allclose(result, np.stack([merge(zero), second], axis=1), rtol=1e-3)


def classifier(seed, targets, **more):
    attributes = grown(seed, targets=targets)
    attributes.pop("n_targets")
    for name in ("treeids", "nodeids", "ids", "weights"):
        attributes[f"class_{name}"] = attributes.pop(f"target_{name}")
    return {**attributes, "classlabels_int64s": [3, 9, 4, 0][: max(targets, 2)], **more}


def compare_classifier(attributes, x):
    """Our labels and scores, after comparing them with ONNX Runtime's."""
    model = model_of("TreeEnsembleClassifier", x, ["label", "scores"], **attributes)
    model.ir_version = 10
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    results = run(model, [x])
    for ours, theirs in zip(results, expected, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    return results


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
def test_several_classes(transform):
    x = ROWS[~np.isnan(ROWS).any(axis=1)]
    base = {} if transform == "LOGISTIC" else {"base_values": [1, 0, -1, 0.5]}
    compare_classifier(classifier(11, 4, post_transform=transform, **base), x)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("base", [(), (0.25,)])
def test_one_score_for_two_classes(sign, base):
    x = ROWS[~np.isnan(ROWS).any(axis=1)]
    attributes = classifier(8, 1, base_values=base) if base else classifier(8, 1)
    weights = np.abs(attributes["class_weights"]) / 8
    attributes["class_weights"] = (weights if sign > 0 else weights - weights.mean()).tolist()
    compare_classifier(attributes, x)
    attributes["post_transform"] = "LOGISTIC"
    if sign < 0:
        compare_classifier(attributes, x)
    else:  # a margin, though all weights are positive; ONNX Runtime asks it to exceed 1/2
        model = model_of("TreeEnsembleClassifier", x, ["label", "scores"], **attributes)
        labels, scores = run(model, [x])
        np.testing.assert_array_equal(labels, np.where(scores[:, 1] > 0.5, 9, 3))
        np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-6)


def test_two_classes_with_scores_of_their_own():
    x = ROWS[~np.isnan(ROWS).any(axis=1)]
    attributes = classifier(9, 2)
    model = model_of("TreeEnsembleClassifier", x, ["label", "scores"], **attributes)
    targets = {f"target_{n}": attributes[f"class_{n}"] for n in ("treeids", "nodeids", "ids")}
    targets |= {"target_weights": attributes["class_weights"], "n_targets": 2}
    expected = expected_of({**attributes, **targets}, x)
    labels, scores = run(model, [x])
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(labels, np.where(scores[:, 1] > scores[:, 0], 9, 3))


def stump(mode="BRANCH_LEQ"):
    """One branch, two leaves."""
    return dict(
        nodes_treeids=[0, 0, 0],
        nodes_nodeids=[0, 1, 2],
        nodes_modes=[mode, "LEAF", "LEAF"],
        nodes_featureids=[0, 0, 0],
        nodes_values=[0.5, 0.0, 0.0],
        nodes_truenodeids=[1, 0, 0],
        nodes_falsenodeids=[2, 0, 0],
        nodes_missing_value_tracks_true=[0, 0, 0],
        target_treeids=[0, 0],
        target_nodeids=[1, 2],
        target_ids=[0, 0],
        target_weights=[1.0, 2.0],
        n_targets=1,
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"nodes_truenodeids": [0, 0, 0]}, "cycle|two roots"),
        ({"nodes_truenodeids": [7, 0, 0]}, "node 7 of tree 0: no such node"),
        ({"nodes_featureids": [5, 0, 0]}, "feature 5 of an input with 3"),
        ({"nodes_featureids": [-1, 0, 0]}, "feature -1"),
        ({"target_ids": [1, 0]}, "outside"),
        ({"target_nodeids": [1, 9]}, "no such node"),
        ({"nodes_values": [0.5, 0.0]}, "2 entries for 3 nodes"),
        ({"nodes_modes": ["BRANCH_ODD", "LEAF", "LEAF"]}, "BRANCH_ODD"),
        ({"base_values": [1.0, 2.0]}, "2 base_values"),
    ],
)
def test_refused(changes, sentence):
    x = ROWS[:3]
    with pytest.raises(CompileError, match=sentence):
        run(model_of("TreeEnsembleRegressor", x, ["y"], **{**stump(), **changes}), [x])


def test_the_score_of_the_second_class_alone_is_refused():
    attributes = classifier(8, 1)
    attributes["class_ids"] = [1] * len(attributes["class_ids"])
    model = model_of("TreeEnsembleClassifier", ROWS, ["label", "scores"], **attributes)
    with pytest.raises(CompileError, match="second one alone"):
        run(model, [ROWS])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"nodes_truenodeids": [1, 0]}, "cycle"),
        ({"tree_roots": [2]}, "tree_roots"),
        ({"nodes_falsenodeids": [0, 5]}, "no such successor 5"),
        ({"leaf_targetids": [0, 0, 3]}, "outside"),
        ({"nodes_featureids": [0, 9]}, "feature 9"),
        ({"n_targets": 0}, "0 targets"),
        ({"aggregate_function": 7}, "aggregate_function=7"),
        ({"nodes_modes": onnx.numpy_helper.from_array(np.array([0, 6], np.uint8))}, "0 sets"),
        ({"nodes_modes": onnx.numpy_helper.from_array(np.array([0, 7], np.uint8))}, "mode 7"),
    ],
)
def test_refused_tree_ensemble(changes, sentence):
    tensor = onnx.numpy_helper.from_array
    attributes = dict(
        n_targets=1,
        tree_roots=[0],
        nodes_featureids=[0, 1],
        nodes_splits=tensor(np.array([0.5, 2.0], np.float32)),
        nodes_modes=tensor(np.array([0, 0], np.uint8)),
        nodes_truenodeids=[1, 0],
        nodes_trueleafs=[0, 0],
        nodes_falsenodeids=[0, 1],
        nodes_falseleafs=[1, 1],
        leaf_targetids=[0, 0, 0],
        leaf_weights=tensor(np.array([1.0, 2.0, 3.0], np.float32)),
    )
    if "cycle" not in sentence:
        attributes |= {"nodes_truenodeids": [1, 2], "nodes_trueleafs": [0, 1]}
    with pytest.raises(CompileError, match=sentence):
        run(model_of("TreeEnsemble", ROWS, ["y"], **{**attributes, **changes}), [ROWS])
