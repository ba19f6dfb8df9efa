"""Areas under ROC curves, many at once: over columns of scores, and over resamples of groups.

A resample of groups gives every row an integer weight, so its AUC is a weighted AUC on scores that never change:
they are sorted once, and each resample costs one cumulative sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.records import BoolArray, DoubleArray, IntArray

BLOCK = 1 << 17  # resampled weights at a time: 1 MiB of float64, about a core's cache


def weighted_auc(scores: npt.NDArray[Any], positive: BoolArray, weights: npt.NDArray[Any] | None = None) -> DoubleArray:
    """Area under the ROC curve of each column of scores; ties count half.

    Parameters
    ----------
    scores : ndarray of shape (n, n_columns), float
        Higher means more likely positive.
    positive : ndarray of shape (n,), bool
    weights : ndarray of shape (n,), float, optional
        Non-negative; 1 by default.

    Returns
    -------
    ndarray of shape (n_columns,), float64
        NaN where positives or negatives have no weight.

    Examples
    --------
    >>> weighted_auc(np.array([[0.1], [0.4], [0.4], [0.8]]), np.array([False, False, True, True]))
    array([0.875])
    """
    w = np.ones((1, len(positive))) if weights is None else np.asarray(weights, np.float64)[None, :]
    return np.array([Ranking(column, positive)(w)[0] for column in scores.T])


class Ranking:
    """Scores sorted once, to be judged under many weightings of the rows.

    Parameters
    ----------
    scores : ndarray of shape (n,), float
    positive : ndarray of shape (n,), bool
    """

    def __init__(self, scores: npt.NDArray[Any], positive: BoolArray) -> None:
        self.order = np.argsort(scores, kind="stable")
        ordered = scores[self.order]
        self._positive = positive[self.order].astype(np.float64)
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.empty(0, np.int64)
        self._starts = None if len(starts) == len(ordered) else starts

    def __call__(self, weights: DoubleArray) -> DoubleArray:
        """AUC under each row of `weights`, of shape (n_weightings, n) in the order of the scores as given."""
        return self.of_ordered(weights[:, self.order])

    def of_ordered(self, weights: DoubleArray) -> DoubleArray:
        """The same for weights whose columns are already in the order of `self.order`."""
        positive = weights * self._positive
        negative = weights - positive
        if self._starts is not None:
            positive = np.add.reduceat(positive, self._starts, axis=1)
            negative = np.add.reduceat(negative, self._starts, axis=1)
        below = np.cumsum(negative, axis=1)
        all_negative = below[:, -1].copy() if below.shape[1] else np.zeros(len(below))
        below -= 0.5 * negative
        pairs = positive.sum(axis=1) * all_negative
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(pairs > 0, np.einsum("ij,ij->i", positive, below) / pairs, np.nan)


def resamples(groups: IntArray, n_boot: int, seed: int) -> Iterator[DoubleArray]:
    """Bootstrap by groups: how often each group was drawn, for blocks of resamples.

    Parameters
    ----------
    groups : ndarray of shape (n,), int64
        0 to number of groups - 1.
    n_boot : int
        Number of resamples; each draws as many groups as there are, with replacement.
    seed : int

    Yields
    ------
    ndarray of shape (block, n_groups), float64
        Whole numbers; rows sum to the number of groups. `block` suits the number of rows. Valid until the next.
    """
    size = int(groups.max()) + 1
    generator = np.random.default_rng(seed)
    block = max(1, min(n_boot, BLOCK // max(len(groups), 1)))
    counts = np.empty((block, size))
    for start in range(0, n_boot, block):
        held = counts[: n_boot - start]
        for row in held:
            row[:] = np.bincount(generator.integers(0, size, size, dtype=np.int32), minlength=size)
        yield held
