"""Clusters of vectors by their direction: faiss's spherical k-means, and a rule for how many."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import faiss as _faiss
import numpy as np

from vecstore.errors import DataError, UsageError
from vecstore.records import FloatArray, IntArray

COUNTS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32)
"""Numbers of clusters that are tried where none is given, as long as there are `_EACH` vectors for each."""

_EACH = 5

CLEAR = 0.5
"""Mean silhouette from which on vectors are in clusters by themselves (Kaufman and Rousseeuw 1990)."""

TRAINED_ON = 20_000
"""Random vectors that the centres are learned from, at least `_FOR_A_CENTRE` for each centre."""

_FOR_A_CENTRE = 256

TRIED_ON = 5_000
"""As many of them where several numbers of clusters are tried."""

JUDGED_ON = 2_000
"""Random vectors that the silhouette is taken of; it compares every two of them."""

_ROUNDS, _STARTS, _BLOCK = 25, 3, 65_536


@dataclass(frozen=True, slots=True)
class Clustering:
    """Which vectors are together.

    Attributes
    ----------
    labels : ndarray of shape (n,), int64
        Cluster of each vector: 0 is the largest.
    scores : ndarray of shape (n,), float32
        Cosine to the cluster's centre, -1 to 1. The vector with the highest is the medoid: its mean cosine to all of
        its cluster is the highest too.
    centres : ndarray of shape (n_clusters, dim), float32
        Unit vectors: the mean direction of a cluster.
    silhouettes : dict of int to float
        By number of clusters that was tried: mean silhouette (Rousseeuw 1987) by cosine distance, -1 to 1.
    """

    labels: IntArray
    scores: FloatArray
    centres: FloatArray
    silhouettes: dict[int, float]


def cluster(read: Callable[[IntArray], FloatArray], n: int, count: int | None = None, seed: int = 0) -> Clustering:
    """Divide unit vectors into clusters.

    Centres are learned from a random sample; then every vector goes to the nearest. Where no number is given, it is
    the one of `COUNTS` that `chosen` names for the mean silhouettes on a random sample.

    Parameters
    ----------
    read : callable
        Gives the unit vectors of some rows: ndarray of shape (m,), int64, ascending, to shape (m, dim), float32.
    n : int
        How many rows there are.
    count : int, optional
        How many clusters; fewer come back where so many different vectors are not there.
    seed : int

    Returns
    -------
    Clustering
        The same for the same vectors and seed.

    Raises
    ------
    UsageError
        `count` is below 1 or above `n`.
    DataError
        Fewer than two vectors.
    """
    if n < 2:
        raise DataError(f"{n} vectors to cluster", expected="at least two", do="ingest more, or widen --where")
    if count is not None and not 1 <= count <= n:
        raise UsageError(f"{count} clusters of {n} vectors", expected=f"1 to {n}", do="give another --count")
    rng = np.random.default_rng(seed)
    sample = read(_some(rng, n, max(TRAINED_ON, _FOR_A_CENTRE * (count or 0))))
    tried = [count] if count is not None else [k for k in COUNTS if k * _EACH <= n] or [2]
    judged = _some(rng, len(sample), JUDGED_ON)
    part = sample[_some(rng, len(sample), TRIED_ON)] if count is None else sample
    silhouettes = {wanted: _silhouette(sample[judged], _centres(part, wanted, seed)) for wanted in tried}
    return _assigned(read, n, _centres(sample, chosen(silhouettes), seed), silhouettes)


def chosen(silhouettes: Mapping[int, float]) -> int:
    """The number of clusters with the best silhouette, where that is clear; else the most that are half as good.

    Pictures of one kind differ gradually: their best silhouette is low and nearly always that of two clusters, which
    tells nothing. See DECISIONS.md for what was measured.

    >>> chosen({2: 0.4, 5: 0.65, 6: 0.6}), chosen({2: 0.2, 5: 0.15, 8: 0.1, 12: 0.09})
    (5, 8)
    """
    best = max(silhouettes.values())
    return max(count for count, value in silhouettes.items() if value >= (best if best >= CLEAR else best / 2))


def agreement(numbers: IntArray, classes: IntArray) -> float:
    """Mutual information of two divisions of the same rows, adjusted for chance (Vinh et al. 2010).

    Parameters
    ----------
    numbers, classes : ndarray of shape (n,), int64

    Returns
    -------
    float
        1 for the same division, about 0 for chance.
    """
    from sklearn.metrics import adjusted_mutual_info_score

    return float(adjusted_mutual_info_score(classes, numbers))


def _some(rng: np.random.Generator, n: int, most: int) -> IntArray:
    return np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))


def _centres(vectors: FloatArray, count: int, seed: int) -> FloatArray:
    found = _faiss.Kmeans(
        vectors.shape[1],
        count,
        niter=_ROUNDS,
        nredo=_STARTS,
        spherical=True,
        seed=seed,
        init_method=_faiss.ClusteringInitMethod_KMEANS_PLUS_PLUS,
        min_points_per_centroid=1,
        max_points_per_centroid=len(vectors),
    )
    found.train(vectors)
    return np.asarray(found.centroids, np.float32)


def _silhouette(vectors: FloatArray, centres: FloatArray) -> float:
    """Mean silhouette by cosine distance; 0 where all are in one cluster, as scikit-learn has it for a lone vector."""
    from sklearn.metrics import silhouette_score

    labels = np.argmax(vectors @ centres.T, axis=1)
    if not 1 < len(np.unique(labels)) < len(vectors):
        return 0.0
    return float(silhouette_score(vectors, labels, metric="cosine"))


def _assigned(
    read: Callable[[IntArray], FloatArray], n: int, centres: FloatArray, silhouettes: dict[int, float]
) -> Clustering:
    """Every row to its nearest centre; then centres by size, and those that nothing is near to are dropped."""
    labels, scores = np.empty(n, np.int64), np.empty(n, np.float32)
    for start in range(0, n, _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, n))
        cosines = read(rows) @ centres.T
        labels[rows], scores[rows] = cosines.argmax(axis=1), cosines.max(axis=1)
    sizes = np.bincount(labels, minlength=len(centres))
    order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    place = np.empty(len(centres), np.int64)
    place[order] = np.arange(len(order))
    return Clustering(place[labels], scores.clip(-1, 1), centres[order], silhouettes)
