"""Recall: how much of the exact answer an approximate one has, measured on held-out queries, with its interval."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.index.exact import Take, scan_rows
from vecstore.records import DoubleArray, FloatArray, IntArray

K = 10
"""Recall is measured at so many hits."""

QUERIES = 200
"""Held out: half for choosing the parameters of a search, half for measuring what they reach."""

PER_HIT = (2, 3, 5, 8, 12, 20, 32, 50, 80, 128)
"""Candidates re-scored for each hit asked for, as they are tried."""

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Recall:
    """A measured recall.

    Attributes
    ----------
    value : float
        Share of the exact best `k` that was found, mean over queries.
    low, high : float
        95 % interval: the wider of a bootstrap over queries and Wilson's over hits.
    k, queries : int
    n : int
        Vectors that were searched.
    """

    value: float
    low: float
    high: float
    k: int
    queries: int
    n: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"recall@{self.k} {self.value:.4f} [{self.low:.4f}, {self.high:.4f}] on {self.queries} queries"


def measured(shares: DoubleArray, k: int, n: int) -> Recall:
    """Recall and interval from the share found of each query.

    Parameters
    ----------
    shares : ndarray of shape (n_queries,), float64
        0 to 1.
    k, n : int
        Hits asked for, vectors searched.

    Examples
    --------
    >>> measured(np.ones(100), 10, 5000).low > 0.99
    True
    """
    value = float(shares.mean())
    draws = np.random.default_rng(0).integers(0, len(shares), (RESAMPLES, len(shares)))
    low, high = np.quantile(shares[draws].mean(axis=1), [0.025, 0.975])
    trials, z = len(shares) * k, 1.96
    centre = (value + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * np.sqrt(value * (1 - value) / trials + z * z / (4 * trials**2))
    return Recall(value, float(min(low, centre - half)), float(max(high, centre + half)), k, len(shares), n)


def held_out(n: int, seed: int) -> IntArray:
    """Row numbers of the queries: a random sample, ascending; none where there are too few vectors to ask."""
    count = min(QUERIES, n // 8)
    rows: IntArray = np.sort(np.random.default_rng([seed, 1]).choice(n, count, replace=False))
    return rows


def exact_neighbours(take: Take, n: int, rows: IntArray, queries: FloatArray, k: int) -> IntArray:
    """Row numbers of the exact best `k` of each query, itself left out.

    Parameters
    ----------
    take : callable
        Row numbers to vectors.
    n : int
    rows : ndarray of shape (n_queries,), int64
        The queries' own.
    queries : ndarray of shape (n_queries, dim), float32
    k : int

    Returns
    -------
    ndarray of shape (n_queries, k), int64
    """
    everyone = np.arange(n)
    found, _ = scan_rows(take, everyone, queries, k + 1, everyone)
    return without(found, rows, k)


def without(found: IntArray, own: IntArray, k: int) -> IntArray:
    """Rows of shape (n_queries, c) without each query's own, the first `k` of them."""
    own_last = np.argsort(found == own[:, None], axis=1, kind="stable")
    kept: IntArray = np.take_along_axis(found, own_last, axis=1)[:, : min(k, found.shape[1] - 1)]
    return kept


def positions(truth: IntArray, candidates: IntArray) -> npt.NDArray[np.float64]:
    """Where each true neighbour stands among the candidates; infinite where it does not.

    >>> positions(np.array([[5, 7]]), np.array([[3, 7, 9]]))
    array([[inf,  1.]])
    """
    places = np.full(truth.shape, np.inf)
    for query, (wanted, row) in enumerate(zip(truth, candidates, strict=True)):
        order = np.argsort(row, kind="stable")
        at = np.minimum(np.searchsorted(row[order], wanted), len(row) - 1)
        hit = row[order[at]] == wanted
        places[query, hit] = order[at[hit]]
    return places
