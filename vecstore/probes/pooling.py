"""Several vectors of one unit (a lesion, a study, a patient) as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from vecstore.errors import DataError
from vecstore.records import FloatArray, IntArray

Pool = Literal["mean", "max", "unit-mean"]
POOLS: tuple[Pool, ...] = get_args(Pool)
_BLOCK = 1 << 14  # vectors pooled at a time


def pooled(
    vectors: npt.NDArray[Any], rows: IntArray, n_rows: int, rule: str, blocks: Sequence[int] | None = None
) -> FloatArray:
    """One vector per unit.

    Parameters
    ----------
    vectors : ndarray of shape (m, d), float16, float32 or float64
        Unit vectors of the pictures.
    rows : ndarray of shape (m,), int64
        Which unit a picture belongs to, 0 to `n_rows` - 1; every unit has one at least.
    n_rows : int
    rule : {"mean", "max", "unit-mean"}
        The mean, which is the shorter the less the pictures agree; the largest value of every feature; or the mean
        brought back to unit length, which keeps only its direction (a mean of no length stays 0).
    blocks : sequence of int, optional
        Widths of the spaces that stand side by side: "unit-mean" is taken of each by itself. One of d by default.

    Returns
    -------
    ndarray of shape (n_rows, d), float32

    Raises
    ------
    DataError
        Another rule, or a unit without a picture.

    Examples
    --------
    >>> X = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    >>> [pooled(X, np.array([0, 0, 1]), 2, rule).astype(float).round(3).tolist() for rule in POOLS]
    [[[0.5, 0.5], [0.6, 0.8]], [[1.0, 1.0], [0.6, 0.8]], [[0.707, 0.707], [0.6, 0.8]]]
    """
    if rule not in POOLS:
        raise DataError(f"pool={rule!r}", expected=f"one of: {', '.join(POOLS)}", do="--pool mean")
    counts = np.bincount(rows, minlength=n_rows)
    if len(counts) > n_rows or not counts.all():
        raise DataError(
            f"{int((counts == 0).sum())} units without a picture", expected=f"rows from 0 to {n_rows - 1}, all in use"
        )
    order = np.argsort(rows, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)])
    out = np.empty((n_rows, vectors.shape[1]), np.float32)
    first = 0
    while first < n_rows:
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + _BLOCK, side="right")) - 1)
        members = vectors[order[starts[first] : starts[last]]].astype(np.float64)
        at = starts[first:last] - starts[first]
        if rule == "max":
            block = np.maximum.reduceat(members, at, axis=0)
        else:
            block = np.add.reduceat(members, at, axis=0) / counts[first:last, None]
        if rule == "unit-mean":
            for part in np.split(block, np.cumsum(blocks or [block.shape[1]])[:-1], axis=1):
                length = np.linalg.norm(part, axis=1, keepdims=True)
                part /= np.where(length > 0, length, 1)
        out[first:last] = block
        first = last
    return out
