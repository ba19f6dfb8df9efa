"""Strengths are chosen by AUC on folds left out, and the coefficients are those scikit-learn finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, roc_auc_score

from vecstore.errors import DataError
from vecstore.probes import LogisticProbe, SVMProbe

from .conftest import Cases


@pytest.mark.parametrize("k", [2, 4])
def test_coefficients_are_scikit_learns_on_the_scaled_features(k: int, cases: Cases) -> None:
    X, y, groups = cases(k=k)
    X = X * np.linspace(0.1, 9, 12)
    probe = LogisticProbe(strengths=[0.5]).fit(X, y, groups=groups)
    scaled = (X - X.mean(axis=0)) / (X.std(axis=0) * np.sqrt(12))
    reference = LogisticRegression(C=0.5, solver="newton-cholesky", tol=1e-12).fit(scaled, y)
    np.testing.assert_allclose(probe.predict_proba(X), reference.predict_proba(scaled), rtol=1e-6)
    np.testing.assert_allclose(probe.coef_ * X.std(axis=0) * np.sqrt(12), reference.coef_, rtol=1e-5, atol=1e-8)


def test_without_scaling_coefficients_are_scikit_learns(cases: Cases) -> None:
    X, y, _ = cases()
    probe = LogisticProbe(strengths=[2.0], scale="none").fit(X, y)
    reference = LogisticRegression(C=2.0, solver="newton-cholesky", tol=1e-12).fit(X, y)
    np.testing.assert_allclose(probe.coef_, reference.coef_, rtol=1e-5)
    np.testing.assert_allclose(probe.intercept_, reference.intercept_, rtol=1e-5)


@pytest.mark.parametrize("rule", ["balanced", {0: 1.0, 1: 7.0}])
def test_class_weights_are_scikit_learns(rule: Any, cases: Cases) -> None:
    X, y, _ = cases()
    X, y = X[: 100 + 1], np.where(np.arange(101) % 5 == 0, 1, 0)
    probe = LogisticProbe(strengths=[2.0], scale="none", class_weight=rule).fit(X, y)
    reference = LogisticRegression(C=2.0, solver="newton-cholesky", tol=1e-12, class_weight=rule).fit(X, y)
    np.testing.assert_allclose(probe.coef_, reference.coef_, rtol=1e-5, atol=1e-8)


def test_balanced_labels_weigh_each_side_alike() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 4))
    y = (X[:, :2] + rng.normal(size=(200, 2)) > [1, 1.5]).astype(float)
    both = LogisticProbe(strengths=[1.0], class_weight="balanced", scale="none").fit(X, y)
    for label in range(2):
        one = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12, class_weight="balanced")
        np.testing.assert_allclose(both.coef_[label], one.fit(X, y[:, label]).coef_[0], rtol=1e-5)


def test_an_unknown_label_counts_for_nothing() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 4))
    y = (X[:, :2] + rng.normal(size=(200, 2)) > 0.5).astype(float)
    y[:50, 1] = np.nan
    both = LogisticProbe(strengths=[1.0], scale="none").fit(X, y)
    reference = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12).fit(X[50:], y[50:, 1])
    np.testing.assert_allclose(both.coef_[1], reference.coef_[0], rtol=1e-5)


def test_out_of_fold_rows_are_predicted_without_their_fold(cases: Cases) -> None:
    X, y, groups = cases()
    probe = LogisticProbe(strengths=[1.0], scale="none").fit(X, y, groups=groups)
    for fold in range(5):
        out = probe.folds_ == fold
        reference = LogisticRegression(solver="newton-cholesky", tol=1e-12).fit(X[~out], y[~out])
        np.testing.assert_allclose(probe.oof_[out], reference.predict_proba(X[out]), rtol=1e-5, atol=1e-9)
    by_fold = [roc_auc_score(y[probe.folds_ == f], probe.oof_[probe.folds_ == f, 1]) for f in range(5)]
    assert probe.cv_auc_[0] == pytest.approx(np.mean(by_fold), abs=1e-12)


@pytest.mark.parametrize("probe", [LogisticProbe, SVMProbe])
def test_nested_choice_sees_nothing_of_the_fold(probe: Any, cases: Cases) -> None:
    X, y, groups = cases(120, 30)
    X[:, 2:] *= 3
    strengths = [1e-3, 1e-1, 10.0]
    nested = probe(strengths=strengths, nested=True, scale="none").fit(X, y, groups=groups)
    fold = nested.folds_ == 0
    changed = y.copy()
    changed[fold] = 1 - changed[fold]
    same = _with_folds(probe(strengths=strengths, nested=True, scale="none"), X, changed, nested.folds_)
    np.testing.assert_allclose(same.oof_[fold], nested.oof_[fold], rtol=1e-9)


def _with_folds(probe: Any, X: Any, y: Any, folds: Any) -> Any:
    """Fit with a group per fold, so that folds are the same ones; their numbers are put back."""
    fit = probe.fit(X, y, groups=folds)
    assert all(len(np.unique(fit.folds_[folds == f])) == 1 for f in np.unique(folds))
    return fit


def test_on_noise_nested_choice_is_not_flattered() -> None:
    rng = np.random.default_rng(0)
    plain, nested = [], []
    for seed in range(12):
        X, y = rng.normal(size=(60, 40)), np.arange(60) % 2
        plain.append(np.nanmax(LogisticProbe(seed=seed, folds=3).fit(X, y).cv_auc_))
        fit = LogisticProbe(seed=seed, folds=3, nested=True).fit(X, y)
        nested.append(np.mean([roc_auc_score(y[fit.folds_ == f], fit.oof_[fit.folds_ == f, 1]) for f in range(3)]))
    assert np.mean(nested) < np.mean(plain)
    assert abs(np.mean(nested) - 0.5) < 0.06


def test_nested_choice_needs_three_folds(cases: Cases) -> None:
    X, y, _ = cases(40)
    with pytest.raises(DataError, match="2 folds leave nothing to choose a strength on"):
        LogisticProbe(folds=2, nested=True).fit(X, y)


def test_strengths_are_added_where_the_best_is_at_an_edge() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3)) * [1, 1, 3e-3]
    y = (X[:, 2] > 0).astype(int)
    probe = LogisticProbe(scale="none").fit(X, y)
    assert len(probe.strengths_) > 10
    assert probe.C_ > 100
    assert (np.diff(probe.strengths_) > 0).all()
    assert len(LogisticProbe(scale="none", strengths=[1, 2, 3]).fit(X, y).strengths_) == 3


def test_where_nothing_more_is_found_beyond_the_strengths_given_the_probe_says_so(cases: Cases) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3)) * [1, 1, 3e-3]
    y = (X[:, 2] > 0).astype(int)
    assert LogisticProbe(scale="none", strengths=[0.1, 1, 10]).fit(X, y).edge_ == "high"
    X[:, :2] = rng.normal(size=(400, 2)) * 30
    X[:, 2] = (y - 0.5) + rng.normal(size=400)
    few = LogisticProbe(scale="none", strengths=[1e-9, 1e-2]).fit(X, y)
    assert few.edge_ == "high" and few.C_ == 1e-2
    plenty, classes, _ = cases()
    assert LogisticProbe(strengths=[1.0]).fit(plenty, classes).edge_ == ""
    assert LogisticProbe().fit(plenty, classes).edge_ == ""


def test_strengths_that_rank_alike_are_told_apart_by_log_loss() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    X = rng.normal(size=(200, 5)) + 20 * y[:, None]
    probe = LogisticProbe(strengths=[1e-3, 1e-1, 10.0]).fit(X, y)
    assert (probe.cv_auc_ == 1).all()
    by_loss = LogisticProbe(strengths=[1e-3, 1e-1, 10.0], scoring="log_loss").fit(X, y)
    assert probe.C_ == by_loss.C_ == 10.0
    assert probe.edge_ == ""  # more strength gains nothing by the metric asked for


@pytest.mark.parametrize("probe", [LogisticProbe, SVMProbe])
@pytest.mark.parametrize("scoring", ["log_loss", "accuracy", "balanced_accuracy"])
@pytest.mark.parametrize("kind", ["binary", "multi-class", "multi-label"])
def test_the_strength_is_chosen_by_the_score_asked_for(probe: Any, scoring: str, kind: str) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(240, 6))
    noisy = X[:, :3] + rng.normal(size=(240, 3))
    y: Any = {"binary": noisy[:, 0] > 0.8, "multi-class": noisy.argmax(axis=1), "multi-label": (noisy > 0.5) * 1.0}[
        kind
    ]
    if kind == "multi-label":
        y[:20, 0] = np.nan
    weights = rng.exponential(size=240)
    fit = probe(scoring=scoring, strengths=[1e-4, 1e-2, 1.0], folds=3).fit(X, y, sample_weight=weights)
    at = int(np.flatnonzero(fit.strengths_ == fit.C_)[0])
    assert fit.cv_scores_[at] >= fit.cv_scores_.max() - 1e-4
    expected = []
    for fold in range(3):
        rows = fit.folds_ == fold
        chances, w = fit.oof_[rows], weights[rows]
        columns = range(3) if kind == "multi-label" else [None]
        each = []
        for column in columns:
            truth = y[rows] if column is None else y[rows, column]
            known = ~np.isnan(truth.astype(float))
            guess = chances.argmax(axis=1) if column is None else (chances[:, column] > 0.5) * 1.0
            rule = accuracy_score if scoring == "accuracy" else balanced_accuracy_score
            each.append(rule(truth[known], guess[known], sample_weight=w[known]))
        expected.append(np.mean(each))
    if scoring != "log_loss" and probe is LogisticProbe:
        assert fit.cv_scores_[at] == pytest.approx(np.mean(expected), abs=1e-9)
    if scoring == "log_loss" and kind != "multi-label":
        assert -fit.cv_scores_[at] == pytest.approx(log_loss(y, fit.oof_, sample_weight=weights), rel=1e-6)


@pytest.mark.parametrize("probe", [LogisticProbe, SVMProbe])
def test_float16_vectors_are_taken_as_they_are(probe: Any, cases: Cases) -> None:
    X, y, groups = cases(3000, 100)
    halves = X.astype(np.float16)
    wide = probe(strengths=[0.1, 1.0]).fit(halves.astype(np.float32), y, groups=groups)
    narrow = probe(strengths=[0.1, 1.0]).fit(halves, y, groups=groups)
    np.testing.assert_allclose(narrow.predict_proba(halves), wide.predict_proba(halves.astype(np.float32)), atol=1e-4)
    assert narrow.C_ == wide.C_ and narrow.device_ == "cpu"
    halves[7, 3] = np.nan
    with pytest.raises(DataError, match="contains NaN"):
        probe().fit(halves, y)


def test_parameters_are_spelled_out() -> None:
    shared = {"strengths", "folds", "class_weight", "scale", "seed", "nested", "scoring", "device"}
    assert set(SVMProbe().get_params()) == shared
    assert set(LogisticProbe().get_params()) == shared | {"several"}


def test_svm_margins_and_probabilities_agree_and_are_calibrated(cases: Cases) -> None:
    X, y, groups = cases(1000, d=4)
    probe = SVMProbe().fit(X, y, groups=groups)
    chance = probe.predict_proba(X)[:, 1]
    np.testing.assert_allclose(chance, 1 / (1 + np.exp(-probe.decision_function(X))))
    assert ((chance > 0.5) == probe.predict(X)).all()
    ranks = np.array_split(np.argsort(probe.oof_[:, 1]), 5)
    for part in ranks:
        assert abs(probe.oof_[part, 1].mean() - y[part].mean()) < 0.08


@pytest.mark.parametrize("probe", [LogisticProbe, SVMProbe])
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"strengths": [0.0, 1.0]}, "expected positive numbers"),
        ({"strengths": []}, "expected positive numbers"),
        ({"scale": "minmax"}, "expected 'standard' or 'none'"),
        ({"scoring": "f1"}, "scoring='f1'; expected 'auc', 'log_loss', 'accuracy' or 'balanced_accuracy'"),
        ({"device": "abacus"}, "device='abacus'"),
        ({"class_weight": "heavy"}, "expected None, 'balanced'"),
        ({"class_weight": {5: 1.0}}, "class_weight names 5, which is no class"),
        ({"folds": 1}, "expected at least 2"),
    ],
)
def test_parameters_out_of_range_are_said(probe: Any, params: dict[str, Any], message: str, cases: Cases) -> None:
    X, y, _ = cases(40)
    with pytest.raises(DataError, match=message):
        probe(**params).fit(X, y)


def test_float32_vectors_give_nearly_the_same_probe(cases: Cases) -> None:
    X, y, groups = cases(3000, 100)
    wide = LogisticProbe(strengths=[1.0]).fit(X, y, groups=groups)
    narrow = LogisticProbe(strengths=[1.0]).fit(X.astype(np.float32), y, groups=groups)
    np.testing.assert_allclose(wide.predict_proba(X), narrow.predict_proba(X.astype(np.float32)), atol=1e-3)
    assert wide.converged_ and narrow.converged_


def test_one_against_the_rest_is_a_binary_model_per_class() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(240, 6))
    y = (X[:, :3] + rng.normal(size=(240, 3))).argmax(axis=1)
    probe = LogisticProbe(strengths=[0.1], folds=3, several="one-vs-rest").fit(X, y)
    probabilities = probe.predict_proba(X)
    for name in range(3):
        alone = LogisticProbe(strengths=[0.1], folds=3).fit(X, y == name)
        assert np.allclose(probe.coef_[name], alone.coef_[0], atol=1e-3)
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert (probabilities.argmax(axis=1) == probe.predict(X)).all()


def test_another_word_for_several_classes_is_refused() -> None:
    with pytest.raises(DataError, match="several='both'; expected 'multinomial' or 'one-vs-rest'; choose one of them"):
        LogisticProbe(several="both").fit(np.eye(12), np.arange(12) % 3)
