"""Areas under ROC curves, many at once: over columns of scores, and over resamples of groups.

A resample of groups gives every row an integer weight, so its AUC is a weighted AUC on scores that never change:
they are sorted once, and each resample costs one cumulative sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.records import BoolArray, DoubleArray, IntArray

KEPT = 1 << 25
"""Counts of groups up to which resamples are kept for the next figure: 64 MiB."""

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


class OneVsRest:
    """One class against the rest, for rows whose label is known: its areas under any weights of the groups.

    Weights are whole numbers, so every sum is exact, in whatever order it is taken. A positive row wins against the
    negative weight below it, which is read off one running sum over the negatives; of ties it wins half.

    Parameters
    ----------
    scores : ndarray of shape (n,), float64
    truth : ndarray of shape (n,), float64
        1, 0, or NaN for unknown.
    codes : ndarray of shape (n,), int64
        Group of each row, from 0.

    Attributes
    ----------
    sides : (int, int)
        Groups that have positive rows, and negative ones.
    """

    def __init__(self, scores: DoubleArray, truth: DoubleArray, codes: IntArray) -> None:
        negative, positive = np.flatnonzero(truth == 0), np.flatnonzero(truth == 1)
        negative = negative[np.argsort(scores[negative], kind="stable")]
        positive = positive[np.argsort(scores[positive], kind="stable")]
        below = np.searchsorted(scores[negative], scores[positive], side="left")
        upto = np.searchsorted(scores[negative], scores[positive], side="right")
        self._below, self._upto = below, None if np.array_equal(below, upto) else upto
        self._negative, self._positive = codes[negative], codes[positive]
        self.sides = len(np.unique(self._positive)), len(np.unique(self._negative))
        first = np.searchsorted(scores[positive], scores[positive], side="left")
        self._first = None if np.array_equal(first, np.arange(len(first))) else first

    def __call__(self, drawn: npt.NDArray[Any]) -> DoubleArray:
        """Area under the ROC curve for each row of `drawn`, of shape (block, n_groups); NaN where a side is empty."""
        return np.array([self._roc(*self._sums(row)) for row in drawn])

    def both(self, drawn: npt.NDArray[Any]) -> DoubleArray:
        """Area under the ROC curve, and average precision (NaN without positives): of shape (block, 2).

        Average precision as scikit-learn has it: precision at each positive row's own score, mean over these rows.
        """
        out = np.empty((len(drawn), 2))
        for row, found in zip(drawn, out, strict=True):
            beaten, held = self._sums(row)
            found[:] = self._roc(beaten, held), self._precision(beaten, held)
        return out

    def _sums(self, weights: npt.NDArray[Any]) -> tuple[IntArray, DoubleArray]:
        beaten = np.zeros(len(self._negative) + 1, np.int64)  # a running sum of integers is thrice as fast
        np.cumsum(weights.take(self._negative), dtype=np.int64, out=beaten[1:])
        return beaten, weights.take(self._positive).astype(np.float64)

    def _roc(self, beaten: IntArray, held: DoubleArray) -> float:
        won = beaten.take(self._below).astype(np.float64)
        if self._upto is not None:
            won += beaten.take(self._upto)
            won *= 0.5
        pairs = held.sum() * float(beaten[-1])
        # Not `@`: threads that meet for a sum this short cost more than they save.
        return float(np.einsum("i,i->", held, won)) / pairs if pairs > 0 else float("nan")

    def _precision(self, beaten: IntArray, held: DoubleArray) -> float:
        before = np.cumsum(held)
        total = float(before[-1]) if len(before) else 0.0
        if not total > 0:
            return float("nan")
        before -= held
        hits = total - (before if self._first is None else before.take(self._first))
        called = hits + (beaten[-1] - beaten.take(self._below))
        # Where nothing is called positive, the row itself has no weight either.
        return float(np.einsum("i,i->", held, hits / np.maximum(called, 1))) / total


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
    block = max(1, min(n_boot, BLOCK // max(len(groups), 1)))
    counts = np.empty((block, size))
    drawn = iter(_kept(size, n_boot, seed) if size * n_boot <= KEPT else _draws(size, n_boot, seed))
    for start in range(0, n_boot, block):
        held = counts[: n_boot - start]
        for row, times in zip(held, drawn, strict=False):  # as many as the block has room for
            row[:] = times
        yield held


def _draws(size: int, n_boot: int, seed: int) -> Iterator[IntArray]:
    generator = np.random.default_rng(seed)
    for _ in range(n_boot):
        yield np.bincount(generator.integers(0, size, size, dtype=np.int32), minlength=size)


@lru_cache(maxsize=1)
def _kept(size: int, n_boot: int, seed: int) -> npt.NDArray[np.uint16]:
    """The last draws: one figure after another is made on the same resamples."""
    return np.array([times.astype(np.uint16) for times in _draws(size, n_boot, seed)], np.uint16).reshape(n_boot, size)
