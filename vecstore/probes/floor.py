"""What can be told from a few features beside the pixels: bagged trees of scikit-learn, cross-validated by group.

Small on purpose. They are to notice that something tells the classes apart, in any form (a size in the middle, one
word of many), within a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.probes.splits import grouped_folds
from vecstore.records import BoolArray, DoubleArray

TREES, FOLDS = 8, 5

ROWS = 5000
"""Of more rows a tree is grown from so many, drawn by chance with replacement, as always."""

LEAF, SHARE = 5, 30
"""Least rows of a leaf, and which share of a tree's rows that is at least."""


def out_of_fold(
    features: DoubleArray,
    y: npt.NDArray[Any],
    groups: npt.ArrayLike,
    names: Sequence[object],
    seed: int = 0,
) -> DoubleArray:
    """Probabilities of rows by trees that had not seen their groups.

    Parameters
    ----------
    features : ndarray of shape (n, n_features), float64
        Finite.
    y : ndarray of shape (n,) or (n, n_classes)
        Class index; several labels: 0, 1 or NaN for unknown.
    groups : array-like of shape (n,)
    names : sequence
        Of the classes.
    seed : int

    Returns
    -------
    ndarray of shape (n, n_classes), float64

    Raises
    ------
    DataError
        The classes can't be dealt into folds.
    """
    folds = grouped_folds(y, groups, FOLDS, seed, names=names)
    rng = np.random.default_rng(seed)
    rows = np.ascontiguousarray(features, np.float32)
    out = np.empty((len(rows), len(names)))
    for fold in range(int(folds.max()) + 1):
        held: BoolArray = folds == fold
        if y.ndim == 1:
            out[held] = _chances(rows[~held], y[~held].astype(np.int64), rows[held], len(names), rng)
            continue
        for label in range(len(names)):
            known = ~held & ~np.isnan(y[:, label].astype(np.float64))
            chances = _chances(rows[known], y[known, label].astype(np.int64), rows[held], 2, rng)
            out[held, label] = chances[:, 1]
    return out


def _chances(
    rows: npt.NDArray[np.float32],
    y: npt.NDArray[np.int64],
    asked: npt.NDArray[np.float32],
    classes: int,
    rng: np.random.Generator,
) -> DoubleArray:
    """Mean over trees, of shape (n_asked, classes)."""
    from sklearn.tree import DecisionTreeClassifier

    out = np.zeros((len(asked), classes))
    if not len(rows):
        return out + 1 / classes
    size = min(len(rows), ROWS)
    leaf = max(LEAF, size // SHARE)
    for _ in range(TREES):
        drawn = rng.integers(0, len(rows), size)
        tree = DecisionTreeClassifier(min_samples_leaf=leaf, random_state=int(rng.integers(1 << 31)))
        tree.fit(rows[drawn], y[drawn])
        out[:, tree.classes_] += tree.predict_proba(asked) / TREES
    return out
