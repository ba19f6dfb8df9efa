"""Neighbours by cosine, their votes, and a probe that keeps no vectors when saved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from vecstore.errors import DataError
from vecstore.probes import KNNProbe, leave_one_group_out

from .conftest import Cases


@pytest.mark.parametrize("k", [1, 4, 9])
def test_uniform_votes_without_whitening_are_scikit_learns(k: int, cases: Cases) -> None:
    X, y, _ = cases(k=3)
    mine = KNNProbe(k=k, weights="uniform", whiten="none").fit(X[:150], y[:150])
    reference = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(X[:150], y[:150])
    np.testing.assert_allclose(mine.predict_proba(X[150:]), reference.predict_proba(X[150:]), atol=1e-12)


@pytest.mark.parametrize(
    ("weights", "vote"),
    [
        ("softmax", lambda cosine: np.exp(cosine / 0.1)),
        ("similarity", lambda cosine: np.maximum(cosine, 0)),
        ("uniform", np.ones_like),
    ],
)
def test_votes_follow_their_rule(weights: str, vote: Any, cases: Cases) -> None:
    X, y, _ = cases(k=3)
    probe = KNNProbe(k=7, temperature=0.1, weights=weights, whiten="standard").fit(X[:150], y[:150])
    scaled = (X - X[:150].mean(axis=0)) / X[:150].std(axis=0)
    unit = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    cosines = unit[150:] @ unit[:150].T
    nearest = np.argsort(-cosines, axis=1)[:, :7]
    votes = vote(np.take_along_axis(cosines, nearest, axis=1))
    expected = np.stack([(votes * (y[nearest] == c)).sum(axis=1) / votes.sum(axis=1) for c in range(3)], axis=1)
    np.testing.assert_allclose(probe.predict_proba(X[150:]), expected, atol=1e-9)


def test_principal_components_are_scikit_learns_whitened_ones(cases: Cases) -> None:
    X, y, _ = cases()
    X = np.hstack([X, X[:, :2] - X[:, 2:4]])
    probe = KNNProbe(whiten="pca", components=20).fit(X, y)
    assert probe.projection_.shape == (14, 12)  # two columns are sums of others
    mine = (X - probe.center_) @ probe.projection_
    reference = PCA(12, whiten=True).fit_transform(X)
    np.testing.assert_allclose(np.abs(mine), np.abs(reference) * np.sqrt(200 / 199), atol=1e-6)


@pytest.mark.parametrize("shrinkage", [0.0, 5.0])
def test_shrunk_components_are_those_of_standardised_features(shrinkage: float, cases: Cases) -> None:
    X, y, _ = cases()
    X = np.hstack([X * np.arange(1, 13), np.ones((200, 1))])
    probe = KNNProbe(shrinkage=shrinkage).fit(X, y)
    assert probe.projection_.shape == (13, 12) and (probe.projection_[12] == 0).all()  # a constant says nothing
    scaled = (X[:, :12] - X[:, :12].mean(axis=0)) / X[:, :12].std(axis=0)
    values, vectors = np.linalg.eigh(np.corrcoef(X[:, :12].T))
    expected = scaled @ vectors / np.sqrt(values + shrinkage)  # the mean variance of standardised features is 1
    mine = (X - probe.center_) @ probe.projection_
    np.testing.assert_allclose(np.abs(mine), np.abs(expected[:, ::-1]), atol=1e-9)
    assert KNNProbe(components=3).fit(X, y).projection_.shape == (13, 3)


@pytest.mark.parametrize("several", [False, True])
def test_votes_of_all_other_groups_are_those_of_probes_without_the_group(several: bool, cases: Cases) -> None:
    X, y, groups = cases(k=3)
    groups[:90] = 1000  # one group of nearly half the rows: k is filled all the same
    labels: Any = np.stack([y == 0, np.where(np.arange(200) % 7 == 0, np.nan, y == 1)], axis=1) if several else y
    settings: dict[str, Any] = {"k": 60, "temperature": 0.1, "whiten": "none"}
    found = leave_one_group_out(X, labels, groups, **settings)
    assert found.shape == (200, 2 if several else 3)
    for group in [1000, *np.unique(groups)[:5].tolist()]:
        out = groups == group
        again = KNNProbe(**settings, folds=2).fit(X[~out], labels[~out])
        np.testing.assert_allclose(found[out], again.predict_proba(X[out]), atol=1e-9)


def test_blocks_of_rows_do_not_show(cases: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, groups = cases()
    groups = groups // 20
    whole = KNNProbe(folds="groups").fit(X, y, groups=groups)
    monkeypatch.setattr("vecstore.probes.knn.SCORES", 200 * 7)
    parts = KNNProbe(folds="groups").fit(X, y, groups=groups)
    np.testing.assert_allclose(parts.oof_, whole.oof_, atol=1e-12)
    assert (parts.k_, parts.temperature_) == (whole.k_, whole.temperature_)


def test_equal_rows_do_not_vote_for_each_other(cases: Cases) -> None:
    X, y, _ = cases(60)
    once = leave_one_group_out(X, y, np.arange(60), k=1, whiten="none")
    twice = KNNProbe(k=1, whiten="none", folds="groups").fit(np.repeat(X, 2, axis=0), np.repeat(y, 2))
    np.testing.assert_array_equal(twice.oof_, np.repeat(once, 2, axis=0))


def test_k_and_temperature_are_the_best_of_the_table(cases: Cases) -> None:
    X, y, groups = cases()
    probe = KNNProbe().fit(X, y, groups=groups)
    row, column = np.unravel_index(np.nanargmax(probe.cv_auc_), probe.cv_auc_.shape)
    assert (probe.k_, probe.temperature_) == (probe.ks_[column], probe.temperatures_[row])
    assert probe.cv_auc_.shape == (len(probe.temperatures_), len(probe.ks_))


def test_out_of_fold_votes_come_from_other_folds(cases: Cases) -> None:
    X, y, groups = cases()
    probe = KNNProbe(k=5, temperature=0.1, whiten="none").fit(X, y, groups=groups)
    for fold in range(5):
        out = probe.folds_ == fold
        again = KNNProbe(k=5, temperature=0.1, whiten="none").fit(X[~out], y[~out], groups=groups[~out])
        np.testing.assert_allclose(probe.oof_[out], again.predict_proba(X[out]), atol=1e-9)


def test_no_fold_has_a_say_in_how_it_is_scored(cases: Cases) -> None:
    X, y, groups = cases()
    probe = KNNProbe().fit(X, y, groups=groups)
    votes = {
        (i, j): KNNProbe(k=int(k), temperature=float(temperature)).fit(X, y, groups=groups).oof_
        for i, temperature in enumerate(probe.temperatures_)
        for j, k in enumerate(probe.ks_)
    }
    for fold in range(5):
        others = [probe.folds_ == other for other in range(5) if other != fold]
        areas = np.zeros((len(probe.temperatures_), len(probe.ks_)))
        for place, chances in votes.items():
            areas[place] = np.mean([roc_auc_score(y[rows], chances[rows, 1]) for rows in others])
        row, column = np.argwhere(areas >= areas.max() - 1e-9)[-1]
        inside = probe.folds_ == fold
        np.testing.assert_allclose(probe.oof_[inside], votes[row, column][inside], atol=1e-9)


def test_random_labels_score_as_guessing() -> None:
    scores = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        y = rng.permutation(np.arange(60) % 2)
        probe = KNNProbe(seed=seed).fit(rng.normal(size=(60, 32)), y)
        scores.append(roc_auc_score(y, probe.oof_[:, 1]))
    assert abs(np.mean(scores) - 0.5) < 3 * np.std(scores) / np.sqrt(len(scores))


def test_unknown_labels_do_not_vote() -> None:
    X = np.array([[1, 0], [1, 0.1], [1, -0.1], [0, 1], [0.1, 1], [-0.1, 1]])
    y = np.array([[1, 0], [np.nan, 1], [1, 0], [0, 1], [0, np.nan], [np.nan, 0]])
    probe = KNNProbe(k=3, weights="uniform", whiten="none", folds=2).fit(X, y)
    np.testing.assert_allclose(probe.predict_proba([[1, 0], [0, 1]]), [[1, 1 / 3], [0, 1 / 2]])


def test_a_vector_of_no_length_gets_votes_all_the_same() -> None:
    X = np.random.default_rng(0).normal(size=(40, 3))
    probe = KNNProbe(k=5, weights="similarity", whiten="none").fit(X, np.arange(40) % 2)
    np.testing.assert_allclose(probe.predict_proba(np.zeros((1, 3))), [[0.5, 0.5]])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"k": 0}, "k=0 for 40 rows; expected 1 to 40"),
        ({"k": 41}, "k=41 for 40 rows"),
        ({"temperature": 0.0}, "expected more than 0"),
        ({"weights": "distance"}, "weights='distance'; expected one of"),
        ({"whiten": "zca"}, "whiten='zca'; expected one of"),
        ({"components": 0}, "expected at least 1"),
        ({"shrinkage": -1.0}, "shrinkage=-1.0; expected at least 0"),
        ({"folds": "group"}, "folds='group'; expected a number, or 'groups'"),
    ],
)
def test_parameters_out_of_range_are_said(params: dict[str, Any], message: str, cases: Cases) -> None:
    X, y, _ = cases(40)
    with pytest.raises(DataError, match=message):
        KNNProbe(**params).fit(X, y)
