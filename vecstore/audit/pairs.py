"""All pairs of rows that are as similar as asked, without comparing every number of every two.

A projection onto orthogonal directions never moves two points apart: so rows that are near each other are near in the
few directions in which rows differ most. What is near there is compared in full; nothing else can be near.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from vecstore.records import DoubleArray, FloatArray, IntArray

DIRECTIONS = 64
"""That rows are compared in first."""

SAMPLE = 20_000
"""Rows that the directions are taken from."""

ROWS, COLUMNS = 1024, 8192
"""Compared at a time."""

DENSE = 0.02
"""Share of a block's pairs from which on it is cheaper to compare the whole block in full."""

PENDING = 1 << 20
"""Pairs that are held before the best of each row are kept."""

_ROUNDING = 1e-4


def near_pairs(
    vectors: npt.NDArray[np.float16 | np.float32],
    cosine: float,
    each: int,
    asked: IntArray | None = None,
    *,
    seed: int = 0,
    step: Callable[[int], None] = lambda rows: None,
) -> tuple[IntArray, IntArray, FloatArray, int]:
    """Pairs of rows of at least some cosine, of every row its most similar ones.

    Exact: no pair is missed but those beyond the `each` most similar of both of its rows.

    Parameters
    ----------
    vectors : ndarray of shape (n, d), float16 or float32
        Of any length but 0.
    cosine : float
    each : int
        At most so many of each row.
    asked : ndarray of shape (m,), int64, optional
        Only pairs with at least one of these rows; all by default.
    seed : int
        Of the rows that the directions are taken from: it has a say in how long it takes, and none in what is found.
    step : callable
        Told how many of the rows asked for were compared since.

    Returns
    -------
    first, second : ndarray of shape (n_pairs,), int64
        The lower row first; by cosine, the highest first, then by row.
    scores : ndarray of shape (n_pairs,), float32
    crowded : int
        Rows that have more than `each`, of which the others may have been passed over.

    Examples
    --------
    >>> near_pairs(np.array([[1, 0], [0, 1], [1, 0.01]], np.float32), 0.99, 3)[:2]
    (array([0]), array([2]))
    """
    n = len(vectors)
    order = np.arange(n)
    if asked is not None:  # what is asked for comes first, so that a block has only what follows to be compared with
        rest = np.ones(n, np.bool_)
        rest[asked] = False
        order = np.concatenate([np.sort(asked), np.flatnonzero(rest)])
    many = n if asked is None else len(asked)
    near = _projected(vectors, order, seed)
    limit = np.float32(cosine - 1 - _ROUNDING)  # less half the squared distance of two unit vectors
    best = _Best(n, each)
    for start in range(0, many, ROWS):
        rows = np.arange(start, min(start + ROWS, many))
        ahead = np.hstack([near[rows, :-1], near[rows, -1:], np.ones((len(rows), 1), np.float32)])
        full: FloatArray | None = None
        for left in range(start, n, COLUMNS):
            columns = near[left : left + COLUMNS]
            behind = np.hstack([columns[:, :-1], np.ones((len(columns), 1), np.float32), columns[:, -1:]])
            at, to = np.divmod(np.flatnonzero(ahead @ behind.T >= limit), len(columns))
            keep = to + left > at + start
            at, to = at[keep], to[keep]
            if not len(at):
                continue
            full = _unit(vectors[order[rows]]) if full is None else full
            if len(at) > DENSE * len(rows) * len(columns):
                whole = full @ _unit(vectors[order[left : left + COLUMNS]]).T
                scores = whole[at, to]
            else:
                scores = _cosines(full, at, vectors, order[to + left])
            sure = scores >= cosine
            best.add(order[at[sure] + start], order[to[sure] + left], scores[sure])
        step(len(rows))
    return best.pairs()


def _unit(rows: npt.NDArray[np.float16 | np.float32]) -> FloatArray:
    made = rows.astype(np.float32)
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    return made


def _projected(vectors: npt.NDArray[np.float16 | np.float32], order: IntArray, seed: int) -> FloatArray:
    """Unit rows in their main directions, and minus half their squared length there: of shape (n, directions + 1)."""
    n = len(vectors)
    some = np.arange(n)
    if n > SAMPLE:
        some = np.sort(np.random.default_rng(seed).choice(n, SAMPLE, replace=False))
    sample = _unit(vectors[some])
    middle = sample.mean(axis=0)
    sample -= middle
    basis: DoubleArray = np.linalg.eigh((sample.T @ sample).astype(np.float64))[1][:, -DIRECTIONS:]
    turn = np.ascontiguousarray(basis, np.float32)
    out = np.empty((n, turn.shape[1] + 1), np.float32)
    for start in range(0, n, COLUMNS):
        part = (_unit(vectors[order[start : start + COLUMNS]]) - middle) @ turn
        out[start : start + COLUMNS, :-1] = part
        out[start : start + COLUMNS, -1] = -0.5 * np.einsum("ij,ij->i", part, part)
    return out


def _cosines(full: FloatArray, at: IntArray, vectors: npt.NDArray[np.float16 | np.float32], to: IntArray) -> FloatArray:
    out = np.empty(len(at), np.float32)
    for start in range(0, len(at), COLUMNS):
        part = slice(start, start + COLUMNS)
        out[part] = np.einsum("ij,ij->i", full[at[part]], _unit(vectors[to[part]]))
    return out


class _Best:
    """The most similar rows of each row; what is over is dropped now and then."""

    def __init__(self, n: int, each: int) -> None:
        self._n, self._each = n, each
        self._found: list[tuple[IntArray, IntArray, FloatArray]] = []
        self._pending = 0
        self._crowded = np.zeros(n, np.bool_)

    def add(self, first: IntArray, second: IntArray, scores: FloatArray) -> None:
        """Further pairs, none of them twice."""
        self._found += [(first, second, scores), (second, first, scores)]
        self._pending += 2 * len(first)
        if self._pending > PENDING:
            self._drop()

    def _drop(self) -> tuple[IntArray, IntArray, FloatArray]:
        if not self._found:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
        rows, others, scores = (np.concatenate(parts) for parts in zip(*self._found, strict=True))
        order = np.lexsort((others, -scores, rows))
        rows, others, scores = rows[order], others[order], scores[order]
        place = np.arange(len(rows)) - np.searchsorted(rows, rows, side="left")
        self._crowded[rows[place >= self._each]] = True
        keep = place < self._each
        kept = rows[keep], others[keep], scores[keep]
        self._found, self._pending = [kept], 0
        return kept

    def pairs(self) -> tuple[IntArray, IntArray, FloatArray, int]:
        """All that are kept of either row, once each."""
        rows, others, scores = self._drop()
        low, high = np.minimum(rows, others), np.maximum(rows, others)
        _, once = np.unique(low * self._n + high, return_index=True)
        low, high, scores = low[once], high[once], scores[once]
        order = np.lexsort((high, low, -scores))
        return low[order], high[order], scores[order], int(self._crowded.sum())
