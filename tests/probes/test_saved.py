"""Saved probes predict the same to the bit, hold no code and no vectors, and refuse what is not theirs."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save
from sklearn.exceptions import NotFittedError

from vecstore.errors import DataError, StoreDamaged, StoreTooNew
from vecstore.probes import KNNProbe, LogisticProbe, SVMProbe, from_files, to_files

from .conftest import Cases, QuickForest, QuickMLP

ALL = [LogisticProbe, SVMProbe, KNNProbe, QuickMLP, QuickForest]
RECORD = {"task": "pneumonia", "auc": 0.9, "seen": [1, 2, 3]}


def labels_of(kind: str, y: np.ndarray) -> Any:
    if kind == "labels":
        return np.stack([y == 0, y == 1], axis=1).astype(float)
    return np.array(["a", "b", "ü"])[y] if kind == "text" else y % 2 * 10


@pytest.mark.parametrize("probe", ALL)
@pytest.mark.parametrize("kind", ["text", "numbers", "labels"])
def test_a_round_trip_predicts_the_same_bit_for_bit(probe: Any, kind: str, cases: Cases) -> None:
    X, y, groups = cases(k=3)
    labels = labels_of(kind, y)
    fit = probe().fit(X, labels, groups=groups)
    files = to_files(fit, RECORD)
    again, record = from_files(files)
    if isinstance(again, KNNProbe):
        again.attach(X, labels)
    assert type(again) is type(fit) and record == RECORD
    assert again.predict_proba(X).tobytes() == fit.predict_proba(X).tobytes()
    assert again.predict(X).tolist() == fit.predict(X).tolist()
    assert again.classes_.dtype == fit.classes_.dtype
    assert again.get_params() == fit.get_params()
    assert to_files(again, record) == files


@pytest.mark.parametrize("probe", ALL)
def test_fitting_twice_gives_the_same_bytes(probe: Any, cases: Cases) -> None:
    X, y, groups = cases()
    assert to_files(probe().fit(X, y, groups=groups), RECORD) == to_files(probe().fit(X, y, groups=groups), RECORD)


def test_parameters_survive(cases: Cases) -> None:
    X, y, _ = cases()
    fit = LogisticProbe(strengths=np.array([0.1, 1.0]), class_weight={0: 1, 1: 2.5}).fit(X, y)
    again, _ = from_files(to_files(fit, {}))
    assert again.get_params() == fit.get_params() | {"strengths": [0.1, 1.0]}


def test_a_saved_knn_probe_holds_no_vectors_and_asks_for_them(cases: Cases) -> None:
    X, y, _ = cases(400, 30)
    files = to_files(KNNProbe(k=3).fit(X, y), {})
    rows_as_long_as = [array.shape for array in load(files["model.safetensors"]).values() if 400 in array.shape]
    assert sorted(rows_as_long_as) == [(400,), (400, 2)]  # folds and out-of-fold probabilities
    again, _ = from_files(files)
    with pytest.raises(DataError, match="loaded without its training vectors; expected attach"):
        again.predict(X)
    with pytest.raises(DataError, match="labels the probe does not know"):
        again.attach(X, y + 7)


def changed(files: dict[str, bytes], **head: Any) -> dict[str, bytes]:
    return {**files, "model.json": json.dumps({**json.loads(files["model.json"]), **head}).encode()}


def with_arrays(files: dict[str, bytes], **arrays: Any) -> dict[str, bytes]:
    """Other arrays under a hash that fits them."""
    tensors = save({**load(files["model.safetensors"]), **arrays})
    return changed({**files, "model.safetensors": tensors}, sha256=hashlib.sha256(tensors).hexdigest())


def test_a_later_format_is_refused(cases: Cases) -> None:
    X, y, _ = cases()
    files = to_files(LogisticProbe().fit(X, y), {})
    with pytest.raises(StoreTooNew, match="a model of format 3; expected at most 2; pip install --upgrade vecstore"):
        from_files(changed(files, format=3))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: {"model.json": f["model.json"]}, "no model.safetensors"),
        (lambda f: {**f, "model.json": b"{"}, "model.json can't be read"),
        (lambda f: {**f, "model.json": b"{}"}, "model.json can't be read: 'format'"),
        (lambda f: changed(f, format="one"), "lacks parts of format 1"),
        (lambda f: changed(f, model="boosting"), "can't be read: 'boosting'"),
        (lambda f: changed(f, params={"depth": 3}), "unexpected keyword argument 'depth'"),
        (lambda f: changed(f, values={}), "lacks values of a probe"),
        (lambda f: {**f, "model.safetensors": f["model.safetensors"][:-1] + b"?"}, "is not the file that"),
        (lambda f: with_arrays(f, coef_=np.zeros((1, 5))), r"coef_ has shape \(1, 5\), not \(1, 12\)"),
        (lambda f: with_arrays(f, intercept_=np.zeros(2)), r"intercept_ has shape \(2,\), not \(1,\)"),
        (lambda f: with_arrays(f, oof_=np.zeros((7, 2))), r"has shape \(\d+"),
        (lambda f: with_arrays(f, coef_=np.zeros((1, 12), np.float32)), "coef_ is of float32"),
        (lambda f: with_arrays(f, coef_=np.full((1, 12), np.nan)), "coef_ is not finite"),
        (lambda f: with_arrays(f, more=np.zeros(1)), "holds .*'more'"),
    ],
)
def test_files_that_are_not_what_was_written_are_refused(spoil: Any, message: str, cases: Cases) -> None:
    X, y, _ = cases()
    files = to_files(LogisticProbe().fit(X, y), {})
    with pytest.raises(StoreDamaged, match=message):
        from_files(spoil(files))


@pytest.mark.parametrize(
    ("probe", "change", "message"),
    [
        (
            QuickMLP,
            {"output_": np.zeros((1, 16, 3)), "output_bias_": np.zeros((1, 3))},
            "output_ gives 3 columns, not 1",
        ),
        (QuickMLP, {"hidden_bias_": np.zeros((1, 17))}, r"hidden_bias_ has shape \(1, 17\), not \(1, 16\)"),
        (QuickMLP, {"output_": np.full((1, 16, 1), np.inf)}, "output_ is not finite"),
        (QuickForest, {"left_": lambda a: a * 0}, "left_, right_ or roots_ lead out of the trees"),
        (QuickForest, {"right_": lambda a: a + len(a)}, "left_, right_ or roots_ lead out of the trees"),
        (QuickForest, {"roots_": lambda a: a - 1}, "left_, right_ or roots_ lead out of the trees"),
        (QuickForest, {"feature_": lambda a: a + 12}, "feature_ names features beyond the 12 there are"),
        (QuickForest, {"feature_": lambda a: a.astype(np.int64)}, "feature_ is of int64"),
        (QuickForest, {"value_": lambda a: np.hstack([a, a])}, "value_ gives 2 columns, not 1"),
    ],
)
def test_arrays_that_would_lead_astray_are_refused(probe: Any, change: Any, message: str, cases: Cases) -> None:
    X, y, _ = cases()
    files = to_files(probe().fit(X, y), {})
    known = load(files["model.safetensors"])
    arrays = {name: value(known[name]) if callable(value) else value for name, value in change.items()}
    with pytest.raises(StoreDamaged, match=message):
        from_files(with_arrays(files, **arrays))


def test_a_class_that_only_looks_like_a_model_is_not_written(cases: Cases) -> None:
    X, y, _ = cases()

    class Mine(LogisticProbe):
        """Someone's own."""

    with pytest.raises(DataError, match=r"a Mine; expected one of probe, svm, knn, mlp, forest; save it yourself"):
        to_files(Mine().fit(X, y), {})


def test_what_json_can_not_hold_is_refused(cases: Cases) -> None:
    X, y, _ = cases()
    fit = LogisticProbe().fit(X, y)
    with pytest.raises(DataError, match="can't be written as JSON"):
        to_files(fit, {"when": object()})
    with pytest.raises(NotFittedError):
        to_files(SVMProbe(), {})
