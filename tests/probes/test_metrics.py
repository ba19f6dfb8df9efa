"""Areas agree with scikit-learn's; intervals come from whole groups; what is left out is said."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score

from vecstore.errors import DataError
from vecstore.probes import evaluate
from vecstore.probes.auc import Ranking, resamples, weighted_auc


@pytest.mark.parametrize("decimals", [1, 2, 12])
def test_weighted_auc_with_ties_equals_scikit_learn(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    for _ in range(20):
        n = int(rng.integers(5, 200))
        y = np.r_[True, False, rng.random(n) < 0.3]
        scores, weights = rng.normal(size=(n + 2, 3)).round(decimals), np.r_[1, 1, rng.integers(0, 4, n)]
        expected = [roc_auc_score(y, column, sample_weight=weights) for column in scores.T]
        np.testing.assert_allclose(weighted_auc(scores, y, weights), expected, atol=1e-12)


def test_auc_without_positives_is_not_a_number() -> None:
    assert np.isnan(weighted_auc(np.zeros((3, 1)), np.zeros(3, bool))).all()
    assert np.isnan(weighted_auc(np.zeros((0, 1)), np.zeros(0, bool))).all()


def test_resampled_auc_equals_auc_of_the_repeated_rows() -> None:
    rng = np.random.default_rng(0)
    groups, y, scores = rng.integers(0, 40, 150), rng.random(150) < 0.4, rng.normal(size=150).round(1)
    groups = np.unique(groups, return_inverse=True)[1]
    ranking = Ranking(scores, y)
    for drawn in resamples(groups, 30, seed=1):
        assert (drawn.sum(axis=1) == groups.max() + 1).all()
        for weights, area in zip(drawn[:, groups], ranking(drawn[:, groups]), strict=True):
            rows = np.repeat(np.arange(150), weights.astype(int))
            assert area == pytest.approx(roc_auc_score(y[rows], scores[rows]), abs=1e-12)


def test_binary_scores_equal_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 300)
    p = 1 / (1 + np.exp(-(y - 0.5 + rng.normal(size=300))))
    scores = evaluate(y, np.stack([1 - p, p], axis=1), ["healthy", "ill"], "binary")
    assert scores.auc == pytest.approx(roc_auc_score(y, p), abs=1e-12)
    assert scores.accuracy == accuracy_score(y, p > 0.5)
    assert scores.balanced_accuracy == pytest.approx(balanced_accuracy_score(y, p > 0.5), abs=1e-12)
    assert scores.auc_per_class == {"ill": scores.auc}
    assert scores.auc is not None and scores.auc_interval is not None
    assert scores.auc_interval[0] < scores.auc < scores.auc_interval[1]
    assert (scores.n, scores.groups, scores.notes) == (300, 300, ())


def test_multi_class_scores_equal_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 400)
    p = np.eye(4)[y] + rng.random((400, 4))
    p /= p.sum(axis=1, keepdims=True)
    scores = evaluate(y, p, list("abcd"), "multi-class", n_boot=200)
    assert scores.auc == pytest.approx(roc_auc_score(y, p, multi_class="ovr"), abs=1e-12)
    assert scores.balanced_accuracy == pytest.approx(balanced_accuracy_score(y, p.argmax(axis=1)), abs=1e-12)
    assert list(scores.auc_per_class) == list("abcd")


def test_unknown_labels_are_left_out_label_by_label() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random((200, 3)) < 0.4).astype(float)
    p = np.clip(0.5 * y + rng.random((200, 3)) * 0.6, 0, 1)
    y[rng.random((200, 3)) < 0.2] = np.nan
    scores = evaluate(y, p, ["x", "y", "z"], "multi-label", n_boot=100)
    known = [~np.isnan(column) for column in y.T]
    expected = [roc_auc_score(y[k, j], p[k, j]) for j, k in enumerate(known)]
    assert scores.auc == pytest.approx(np.mean(expected), abs=1e-12)
    shares = [accuracy_score(y[k, j], p[k, j] >= 0.5) for j, k in enumerate(known)]
    assert scores.accuracy == pytest.approx(np.mean(shares), abs=1e-12)
    assert scores.notes == (f"{int(np.isnan(y).sum())} unknown labels were left out",)


def test_an_absent_class_is_left_out_of_the_mean_and_said() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 100)
    p = rng.random((100, 3))
    scores = evaluate(y, p, ["a", "b", "c"], "multi-class", n_boot=50)
    assert scores.auc_per_class["c"] is None and scores.auc_interval_per_class["c"] is None
    assert scores.auc == pytest.approx(np.mean([roc_auc_score(y == k, p[:, k]) for k in (0, 1)]), abs=1e-12)
    assert scores.notes == ("c: no positive row in this part, left out of the mean AUC",)


def test_intervals_widen_when_rows_of_a_group_are_copies() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 60)
    p = 1 / (1 + np.exp(-(y - 0.5 + rng.normal(size=60))))
    many_y, many_p = np.repeat(y, 10), np.repeat(p, 10)
    by_row = evaluate(many_y, many_p, ["n", "y"], "binary").auc_interval
    by_group = evaluate(many_y, many_p, ["n", "y"], "binary", np.repeat(np.arange(60), 10)).auc_interval
    once = evaluate(y, p, ["n", "y"], "binary").auc_interval
    assert by_row is not None and by_group is not None and once is not None
    assert by_group == pytest.approx(once, abs=1e-12)
    assert by_group[1] - by_group[0] > 2 * (by_row[1] - by_row[0])


def test_scores_become_plain_json() -> None:
    scores = evaluate([0, 1, 0, 1], [0.1, 0.9, 0.2, 0.3], ["n", "y"], "binary", n_boot=20)
    read = json.loads(json.dumps(scores.to_dict(), allow_nan=False))
    assert read["auc"] == 1.0
    assert read["auc_interval"] == [pytest.approx(0.025**0.5), 1.0]  # two groups on either side, all alike
    assert read["notes"] == []


def test_one_class_only_has_no_auc() -> None:
    scores = evaluate([1, 1], [0.2, 0.7], ["n", "y"], "binary", n_boot=10)
    assert (scores.auc, scores.auc_interval) == (None, None)
    assert scores.notes == ("y: no negative row in this part, no AUC",)


@pytest.mark.parametrize(
    ("y", "p", "fact"),
    [
        ([], np.empty((0, 2)), "no rows to evaluate"),
        ([0, 1], [[0.5, 0.5], [np.nan, 1]], "1 rows have probabilities that are not finite"),
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], "no class index"),
        ([0, 1], [[0.5, 0.2, 0.3], [0.1, 0.8, 0.1]], "for 2 classes of a binary task"),
    ],
)
def test_what_can_not_be_evaluated_is_said(y: list[int], p: object, fact: str) -> None:
    with pytest.raises(DataError, match=fact):
        evaluate(y, p, ["n", "y"], "binary")  # type: ignore[arg-type]


@pytest.mark.parametrize("groups", [[1.0, np.nan, 1.0, np.nan], np.array(["a", None, "a", None], object)])
def test_a_row_without_a_group_is_a_group_of_its_own(groups: object) -> None:
    assert evaluate([0, 1, 0, 1], [0.1, 0.9, 0.2, 0.3], ["n", "y"], "binary", groups, n_boot=5).groups == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("p", [[-3.0, 2.5], [0.2, 1.1]])
def test_scores_that_are_no_probabilities_are_refused(p: list[float]) -> None:
    with pytest.raises(DataError, match=r"probabilities from .* to .*; expected numbers from 0 to 1; .* decision_func"):
        evaluate([0, 1], p, ["n", "y"], "binary")
