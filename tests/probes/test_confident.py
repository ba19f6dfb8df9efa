"""Confident learning: it agrees with cleanlab, and says what it can't work with."""

from __future__ import annotations

import numpy as np
import pytest

from vecstore.errors import DataError
from vecstore.probes.confident import confident
from vecstore.records import DoubleArray, IntArray


def _made(classes: int, n: int = 600, seed: int = 0) -> tuple[IntArray, DoubleArray]:
    """Labels, some of them wrong, and probabilities of a fair model; one class is rare."""
    rng = np.random.default_rng(seed)
    right = rng.choice(classes, n, p=np.r_[0.05, np.full(classes - 1, 0.95 / (classes - 1))])
    scores = rng.normal(size=(n, classes))
    scores[np.arange(n), right] += 1.5
    p = np.exp(scores)
    y = np.where(rng.random(n) < 0.1, rng.integers(0, classes, n), right)
    return y.astype(np.int64), np.asarray(p / p.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_it_agrees_with_cleanlab(classes: int) -> None:
    pytest.importorskip("cleanlab", reason="cleanlab is a package of the tests alone")
    from cleanlab.count import compute_confident_joint, get_confident_thresholds
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    y, p = _made(classes)
    found = confident(y, p)
    joint, off = compute_confident_joint(y, p, calibrate=False, return_indices_of_off_diagonals=True)
    assert set(np.flatnonzero(found.suspect)) <= set(off)
    issues = find_label_issues(y, p, filter_by="confident_learning", n_jobs=1)
    np.testing.assert_array_equal(found.suspect, issues)
    np.testing.assert_array_equal(found.joint, joint)
    np.testing.assert_allclose(found.thresholds, get_confident_thresholds(y, p), rtol=1e-12)
    for name, ours in (("normalized_margin", found.margin), ("self_confidence", found.own)):
        np.testing.assert_allclose(get_label_quality_scores(y, p, method=name), ours, rtol=0, atol=1e-12)
    assert 0 < found.suspect.sum() < len(y) / 2


def test_of_several_probable_classes_the_most_probable_of_them_counts() -> None:
    p = [[0.9, 0.05, 0.05], [0.7, 0.2, 0.1], [0.7, 0.1, 0.2], [0.5, 0.2, 0.3]]
    found = confident([0, 1, 2, 0], p)
    assert found.thresholds.tolist() == pytest.approx([0.7, 0.2, 0.2])
    # The last row is 0.5 for its own class, too little for that class, and enough for both others; yet it is the most.
    assert found.guess.tolist() == [0, 0, 0, 2]
    assert found.suspect.tolist() == [False, True, True, False]


def test_suspects_come_first_and_by_the_probability_of_their_class() -> None:
    y, p = _made(3)
    found = confident(y, p)
    ranking = found.ranking()
    count = int(found.suspect.sum())
    assert sorted(ranking.tolist()) == list(range(len(y)))
    assert found.suspect[ranking[:count]].all() and not found.suspect[ranking[count:]].any()
    assert (np.diff(found.own[ranking[:count]]) >= 0).all()
    np.testing.assert_allclose(found.suggested[found.suspect], p[found.suspect, found.guess[found.suspect]])


def test_more_wrong_labels_are_a_larger_share() -> None:
    rng = np.random.default_rng(1)
    right = rng.integers(0, 2, 2000)
    p = np.where(rng.random((2000, 1)) < 0.97, np.eye(2)[right] * 0.9 + 0.05, 0.5)
    shares = []
    for noise in (0.0, 0.05, 0.2):
        y = np.where(rng.random(2000) < noise, 1 - right, right)
        shares.append(confident(y, p).share)
    assert shares == sorted(shares)
    assert shares == pytest.approx([0.0, 0.05, 0.2], abs=0.03)


def test_a_class_without_rows_is_never_suggested() -> None:
    p = np.full((4, 3), 1 / 3)
    found = confident([0, 0, 1, 1], p)
    assert np.isinf(found.thresholds[2]) and 2 not in found.guess
    assert confident(np.empty(0), np.empty((0, 2))).share == 0


@pytest.mark.parametrize(
    ("y", "p", "message"),
    [
        ([0, 1], [[0.5, 0.5]], r"labels of shape \(2,\) and probabilities of shape \(1, 2\); expected a class index"),
        ([0], [[1.0]], r"at least two; pass the output of predict_proba"),
        ([0, 2], [[0.5, 0.5]] * 2, r"labels that are no column; expected numbers from 0 to 1, and indices from 0 to 1"),
        ([0, 1], [[0.5, 0.5], [np.nan, 0.5]], r"not finite.*; leave out rows without a prediction"),
    ],
)
def test_what_does_not_fit_is_refused(y: list[int], p: list[list[float]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        confident(y, p)
