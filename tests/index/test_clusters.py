"""Clusters by direction: found again where they are, judged as scikit-learn judges them, and the same each time."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score

from vecstore.errors import DataError, UsageError
from vecstore.index.clusters import Clustering, agreement, cluster
from vecstore.records import FloatArray, IntArray


def _blobs(sizes: list[int], dim: int = 24, spread: float = 0.15, seed: int = 1) -> tuple[FloatArray, IntArray]:
    """Unit vectors around as many directions, in random order."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    rows = rng.normal(size=(len(sizes), dim))[truth] / np.sqrt(dim) + rng.normal(0, spread, (len(truth), dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), truth


def _of(rows: FloatArray, count: int | None = None, seed: int = 0) -> Clustering:
    return cluster(lambda some: rows[some], len(rows), count, seed)


def test_the_number_of_clusters_is_found_with_the_clusters() -> None:
    rows, truth = _blobs([200, 120, 60, 40, 30], spread=0.05)
    found = _of(rows)
    assert adjusted_rand_score(truth, found.labels) == 1.0
    assert np.bincount(found.labels).tolist() == [200, 120, 60, 40, 30]  # the largest first
    assert max(found.silhouettes, key=lambda count: found.silhouettes[count]) == 5
    assert list(found.silhouettes) == [2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32]
    expected = silhouette_score(rows, found.labels, metric="cosine")
    assert found.silhouettes[5] == pytest.approx(expected, abs=1e-5)
    assert agreement(found.labels, truth) == pytest.approx(1.0)


def test_a_score_is_the_cosine_to_the_mean_direction_and_the_best_is_the_medoid() -> None:
    rows, _ = _blobs([90, 60, 50])
    found = _of(rows, 3)
    for number in range(3):
        members = np.flatnonzero(found.labels == number)
        mean = rows[members].mean(axis=0, dtype=np.float64)
        np.testing.assert_allclose(found.centres[number], mean / np.linalg.norm(mean), atol=1e-5)
        np.testing.assert_allclose(found.scores[members], rows[members] @ found.centres[number], atol=1e-6)
        cosines = rows[members] @ rows[members].T
        assert cosines.mean(axis=1).argmax() == found.scores[members].argmax()


def test_it_is_as_good_as_that_of_scikit_learn() -> None:
    rows, _ = _blobs([70] * 9, spread=0.3)
    found = _of(rows, 9)
    theirs = KMeans(9, n_init=3, random_state=0).fit(rows)
    centres = np.array([rows[theirs.labels_ == i].mean(axis=0) for i in range(9)])
    reached = (rows @ (centres / np.linalg.norm(centres, axis=1, keepdims=True)).T).max(axis=1)
    assert found.scores.mean() > reached.mean() - 0.005


def test_the_same_seed_gives_the_same_clusters_also_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, truth = _blobs([400, 300, 200])
    first, again = _of(rows, None, 3), _of(rows, None, 3)
    np.testing.assert_array_equal(first.labels, again.labels)
    np.testing.assert_array_equal(first.centres, again.centres)
    monkeypatch.setattr("vecstore.index.clusters.TRAINED_ON", 100)
    monkeypatch.setattr("vecstore.index.clusters._FOR_A_CENTRE", 10)
    monkeypatch.setattr("vecstore.index.clusters._BLOCK", 250)
    asked: list[int] = []

    def read(some: IntArray) -> FloatArray:
        asked.append(len(some))
        return rows[some]

    found = cluster(read, len(rows), 3)
    assert asked == [100, 250, 250, 250, 150]  # never all at once
    assert adjusted_rand_score(truth, found.labels) > 0.99


def test_fewer_different_vectors_than_clusters() -> None:
    rows = np.repeat(np.eye(3, 8, dtype=np.float32), [5, 3, 2], axis=0)
    found = _of(rows, 6)
    assert np.bincount(found.labels).tolist() == [5, 3, 2] and len(found.centres) == 3
    np.testing.assert_allclose(found.scores, 1, atol=1e-6)
    same = _of(np.ones((7, 1), np.float32))
    assert (same.labels == 0).all() and same.silhouettes == {2: 0.0}
    alone = _of(rows, 1)
    assert (alone.labels == 0).all() and alone.silhouettes == {1: 0.0}
    assert np.bincount(_of(rows, 10).labels).sum() == 10


def test_what_makes_no_clusters_is_refused() -> None:
    rows, _ = _blobs([4, 4])
    with pytest.raises(UsageError, match="9 clusters of 8 vectors; expected 1 to 8; give another --count"):
        _of(rows, 9)
    with pytest.raises(UsageError, match="0 clusters"):
        _of(rows, 0)
    with pytest.raises(DataError, match="1 vectors to cluster; expected at least two"):
        _of(rows[:1])
