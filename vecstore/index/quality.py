"""How good rankings are against labels: precision, recall, average precision and NDCG, beside those of chance."""

from __future__ import annotations

import numpy as np

from vecstore.records import BoolArray, DoubleArray, IntArray

MEASURES = ("precision", "recall", "map", "ndcg")
"""precision and recall at k; average precision over the whole ranking; NDCG at k."""


def ranked(scores: DoubleArray, gains: DoubleArray, may: BoolArray, k: int) -> DoubleArray:
    """Measures of rankings.

    Parameters
    ----------
    scores : ndarray of shape (n_queries, n), float64
        Similarity to each candidate; equal ones rank in the order of the candidates.
    gains : ndarray of shape (n_queries, n), float64
        How relevant a candidate is, 0 to 1; relevant is what is above 0.
    may : ndarray of shape (n_queries, n), bool
        Which candidates are ranked: not those of the query's own group.
    k : int

    Returns
    -------
    ndarray of shape (n_queries, 4), float64
        In the order of `MEASURES`; NaN where nothing relevant could be found.

    Examples
    --------
    >>> ranked(np.array([[0.9, 0.8, 0.7]]), np.array([[1.0, 0, 1]]), np.ones((1, 3), bool), 2).round(3)
    array([[0.5  , 0.5  , 0.833, 0.613]])
    """
    order = np.argsort(np.where(may, -scores, np.inf), axis=1, kind="stable")
    gain = np.where(np.take_along_axis(may, order, axis=1), np.take_along_axis(gains, order, axis=1), 0.0)
    relevant = gain > 0
    total = relevant.sum(axis=1)
    count = np.cumsum(relevant, axis=1)
    places = np.arange(1, scores.shape[1] + 1)
    k = min(k, scores.shape[1])
    discounts = 1 / np.log2(places[:k] + 1)
    best = -np.sort(-gain, axis=1)[:, :k]
    with np.errstate(divide="ignore", invalid="ignore"):
        measures = np.stack(
            [
                count[:, k - 1] / k,
                count[:, k - 1] / total,
                (count / places * relevant).sum(axis=1) / total,
                (gain[:, :k] @ discounts) / (best @ discounts),
            ],
            axis=1,
        )
    measures[total == 0] = np.nan
    return np.asarray(measures, np.float64)


def at_random(gains: DoubleArray, may: BoolArray, k: int) -> DoubleArray:
    """What a random ranking reaches, in expectation: arguments and result as of `ranked`.

    Average precision by the exact formula (Bestgen 2015): (H + (R - 1)(N - H) / (N - 1)) / N, with N candidates, R of
    them relevant, and the harmonic number H of N.
    """
    gain = np.where(may, gains, 0.0)
    n, total = may.sum(axis=1).astype(np.float64), (gain > 0).sum(axis=1).astype(np.float64)
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, may.shape[1] + 1))])[n.astype(np.int64)]
    seen = np.minimum(k, n)
    discounts = np.cumsum(1 / np.log2(np.arange(2, may.shape[1] + 2)))
    best = -np.sort(-gain, axis=1)[:, :k]
    ideal = best @ (1 / np.log2(np.arange(2, best.shape[1] + 2)))
    with np.errstate(divide="ignore", invalid="ignore"):
        chance = total / n * seen / k
        precision = (harmonic + np.where(n > 1, (total - 1) * (n - harmonic) / (n - 1), 0.0)) / n
        ndcg = gain.sum(axis=1) / n * discounts[np.maximum(seen.astype(np.int64) - 1, 0)] / ideal
    measures = np.stack([chance, seen / n, precision, ndcg], axis=1)
    measures[total == 0] = np.nan
    return np.asarray(measures, np.float64)


def grouped_interval(
    values: DoubleArray, groups: IntArray, seed: int = 0, resamples: int = 1000
) -> tuple[float, float]:
    """95 % interval of a mean over queries, by resampling whole groups.

    Parameters
    ----------
    values : ndarray of shape (n_queries,), float64
    groups : ndarray of shape (n_queries,), int64
    """
    _, codes = np.unique(groups, return_inverse=True)
    sums, counts = np.bincount(codes, values), np.bincount(codes).astype(np.float64)
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    for place in range(resamples):
        weights = np.bincount(rng.integers(0, len(sums), len(sums)), minlength=len(sums))
        means[place] = weights @ sums / (weights @ counts)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
