"""The heads of scikit-learn: kept as arrays, they predict as its own classes do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.neural_network import MLPClassifier

from vecstore.errors import DataError
from vecstore.probes import ForestProbe, MLPProbe

from .conftest import Cases, QuickForest, QuickMLP


def labels_of(kind: str, y: np.ndarray) -> Any:
    return np.stack([y == 0, y == 1], axis=1).astype(int) if kind == "labels" else y % 2 if kind == "binary" else y


def columns(chances: Any) -> np.ndarray:
    """scikit-learn's forest gives a pair of columns per label."""
    return np.stack([pair[:, 1] for pair in chances], axis=1) if isinstance(chances, list) else np.asarray(chances)


def network(X: Any, y: Any, epochs: int, alpha: float, hidden: int, rate: float = 0.002) -> Any:
    """scikit-learn's own after so many passes."""
    # One stream of random numbers: with a number instead, each pass would bring the rows in the same order.
    stream = np.random.RandomState(0)
    learned = MLPClassifier((hidden,), alpha=alpha, batch_size=16, learning_rate_init=rate, random_state=stream)
    for _ in range(epochs):
        learned.partial_fit(X, y, classes=np.arange(y.shape[1]) if y.ndim == 2 else np.unique(y))
    return learned


@pytest.mark.parametrize("kind", ["binary", "classes", "labels"])
def test_a_forest_predicts_as_scikit_learns(kind: str, cases: Cases) -> None:
    X, y, _ = cases(k=3)
    probe = QuickForest().fit(X[:150], labels_of(kind, y)[:150])
    theirs = RandomForestClassifier(12, min_samples_split=probe.split_, random_state=0)
    theirs.fit(X[:150], labels_of(kind, y)[:150])
    np.testing.assert_allclose(probe.predict_proba(X), columns(theirs.predict_proba(X)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["binary", "classes", "labels"])
def test_a_network_predicts_as_scikit_learns(kind: str, cases: Cases) -> None:
    X, y, _ = cases(k=3)
    probe = MLPProbe(hidden=8, alphas=[0.1], epochs=[7], batch_size=16).fit(X[:150], labels_of(kind, y)[:150])
    scaled = (X - X[:150].mean(axis=0)) / X[:150].std(axis=0)
    theirs = network(scaled[:150], labels_of(kind, y)[:150], 7, 0.1, 8)
    np.testing.assert_allclose(probe.predict_proba(X), theirs.predict_proba(scaled), rtol=0, atol=1e-12)


def test_a_tree_cut_back_is_a_tree_not_grown_further(cases: Cases) -> None:
    from vecstore.probes.choice import Target
    from vecstore.probes.forest import _Trees

    X, y, _ = cases()
    target = Target(y, np.ones(200, bool), np.array([0]), 2)
    # All features at every node: nothing is drawn there, so that growing less far is cutting back.
    grow = {"n_estimators": 5, "max_features": None, "random_state": 0}
    trees = _Trees(RandomForestClassifier(**grow).fit(X, y), target)
    for size in (2, 10, 40):
        theirs = RandomForestClassifier(min_samples_split=size, **grow).fit(X, y)
        found = trees.chances(X, trees.size < size)
        np.testing.assert_allclose(found[:, 0], theirs.predict_proba(X)[:, 1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("probe", "chosen"), [(QuickMLP, ("alpha_", "epochs_")), (QuickForest, ("split_",))])
def test_what_is_chosen_is_nearly_the_best_of_the_table(probe: Any, chosen: tuple[str, ...], cases: Cases) -> None:
    X, y, groups = cases()
    fit = probe().fit(X, y, groups=groups)
    settings = [(a, e) for a in fit.alphas_ for e in fit.runs_] if "epochs_" in chosen else [(s,) for s in fit.splits_]
    at = settings.index(tuple(getattr(fit, name) for name in chosen))
    assert fit.cv_auc_[at] >= fit.cv_auc_.max() - 1e-3
    assert fit.cv_auc_.shape == (len(settings),)
    assert fit.cv_auc_.std() > 0


@pytest.mark.parametrize("probe", [QuickMLP, QuickForest])
def test_out_of_fold_predictions_are_of_models_without_the_fold(probe: Any, cases: Cases) -> None:
    X, y, groups = cases()
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    fit = probe(**({"epochs": [8]} if probe is QuickMLP else {"splits": [2]})).fit(X, y, groups=groups)
    for fold in range(5):
        out = fit.folds_ == fold
        if probe is QuickMLP:
            theirs = network(X[~out], y[~out], 8, 0.01, 16, 0.02)
        else:
            theirs = RandomForestClassifier(12, random_state=0).fit(X[~out], y[~out])
        np.testing.assert_allclose(fit.oof_[out], theirs.predict_proba(X[out]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("probe", [QuickMLP, QuickForest])
def test_random_labels_score_as_guessing(probe: Any) -> None:
    scores = []
    for seed in range(16):
        rng = np.random.default_rng(seed)
        y = rng.permutation(np.arange(60) % 2)
        scores.append(roc_auc_score(y, probe(seed=seed).fit(rng.normal(size=(60, 32)), y).oof_[:, 1]))
    # Of 30 and 30 rows ranked at random the AUC deviates by the square root of 61 / (12 * 30 * 30).
    assert abs(np.mean(scores) - 0.5) < 3 * np.sqrt(61 / 10_800 / len(scores))


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (MLPProbe(hidden=0), "hidden=0; expected positive numbers; leave it out for the default"),
        (MLPProbe(alphas=[-1.0]), r"alphas=\[-1.0\]; expected positive numbers"),
        (MLPProbe(epochs=[]), r"epochs=\[\]; expected positive numbers"),
        (MLPProbe(batch_size=0), "batch_size=0; expected positive"),
        (ForestProbe(trees=0), "trees=0; expected positive"),
        (ForestProbe(splits=[]), r"splits=\[\]; expected positive"),
    ],
)
def test_parameters_out_of_range_are_said(probe: Any, message: str, cases: Cases) -> None:
    X, y, _ = cases(40)
    with pytest.raises(DataError, match=message):
        probe.fit(X, y)


def test_a_tree_of_many_rows_is_grown_from_some(cases: Cases) -> None:
    X, y, _ = cases(400)
    fit = QuickForest(max_samples=50, splits=[2]).fit(X, y)
    theirs = RandomForestClassifier(12, max_samples=50, random_state=0).fit(X, y)
    np.testing.assert_allclose(fit.predict_proba(X), theirs.predict_proba(X), rtol=0, atol=1e-12)
    assert len(fit.feature_) < len(QuickForest(splits=[2]).fit(X, y).feature_)


def test_many_rows_are_passed_over_less_often(cases: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, _ = cases()
    monkeypatch.setattr("vecstore.probes.mlp.STEPS", 100)
    fit = MLPProbe(hidden=2, alphas=[0.01], folds=2, batch_size=16).fit(X, y)
    assert fit.runs_.tolist() == [2, 5]  # 100 steps of 16 are 8 passes over 200


def test_an_interrupted_run_does_not_go_on(cases: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, _ = cases(60)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MLPClassifier, "_backprop", interrupted)
    with pytest.raises(KeyboardInterrupt):
        QuickMLP().fit(X, y)
