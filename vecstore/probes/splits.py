"""Groups and folds: what must not be divided, and how rows are dealt into folds without dividing it.

scikit-learn's `StratifiedGroupKFold` can return empty or one-class folds (scikit-learn#33085, #28218); here every
fold is checked, the number of folds is lowered where the groups ask for it, and what is impossible is said.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.errors import DataError
from vecstore.records import BoolArray, DoubleArray, IntArray

FEW = 8  # columns by which rows are told apart first; only those alike in them are read in full
ATTEMPTS = 10  # to give every fold all classes, before their number is lowered


def merge_groups(groups: npt.ArrayLike, contents: npt.ArrayLike | None = None) -> IntArray:
    """Groups as numbers, where groups that share a content have become one.

    Parameters
    ----------
    groups : array-like of shape (n,)
        Group of each row (patient, lesion, ...): numbers or text.
    contents : array-like of shape (n,), optional
        Content of each row. Rows with the same content end in the same group, and so do the rest of their groups.

    Returns
    -------
    ndarray of shape (n,), int64
        0 to number of groups - 1, numbered by first appearance.

    Raises
    ------
    DataError
        `groups` and `contents` differ in length.

    Examples
    --------
    >>> merge_groups(["a", "b", "c", "a"], [1, 2, 2, 3])
    array([0, 1, 1, 0])
    """
    codes = numbered(groups)
    if contents is not None:
        shared = numbered(contents)
        if len(shared) != len(codes):
            raise DataError(
                f"{len(codes)} groups and {len(shared)} contents",
                expected="one of each per row",
                do="pass arrays of one length",
            )
        n_groups = int(codes.max(initial=-1)) + 1
        if int(shared.max(initial=-1)) + 1 == len(codes):
            return _by_appearance(codes)  # nothing is shared
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        size = n_groups + int(shared.max(initial=-1)) + 1
        edges = coo_array((np.ones(len(codes), np.int8), (codes, shared + n_groups)), shape=(size, size))
        codes = connected_components(edges, directed=False)[1][codes]
    return _by_appearance(codes)


def identical_rows(X: npt.NDArray[Any]) -> IntArray:
    """Number rows so that equal rows have equal numbers, whatever the order of the rows.

    Parameters
    ----------
    X : ndarray of shape (n, d), float
        Finite.

    Returns
    -------
    ndarray of shape (n,), int64
        Sorted by a 64-bit hash of the row, so a permutation of the rows permutes the numbers with them.
    """
    few = np.unique(np.linspace(0, X.shape[1] - 1, FEW).astype(np.int64))
    hashes = _hashes(X[:, few])
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    alike = np.flatnonzero(counts[inverse] > 1)
    for start in range(0, len(alike), 4096):
        rows = alike[start : start + 4096]
        hashes[rows] = _hashes(X[rows])
    return np.unique(hashes, return_inverse=True)[1].astype(np.int64)


def _hashes(X: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each row."""
    words = np.random.default_rng(0).integers(1, 2**63, X.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    hashes = np.empty(len(X), np.uint64)
    for start in range(0, len(X), 4096):
        # Adding zero turns -0.0 into 0.0; the second multiplication mixes high bits into low ones.
        bits = (X[start : start + 4096].astype(np.float64) + 0.0).view(np.uint64)
        hashes[start : start + 4096] = ((bits ^ (bits >> np.uint64(29))) * words).sum(axis=1, dtype=np.uint64)
    return hashes


def grouped_folds(
    y: npt.ArrayLike,
    groups: npt.ArrayLike,
    n_folds: int = 5,
    seed: int = 0,
    *,
    weights: npt.ArrayLike | None = None,
    names: Sequence[object] | None = None,
) -> IntArray:
    """Deal rows into folds: no group is divided, and each fold has some of every class.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_labels)
        Class index of each row, or 0/1 (NaN: unknown) per label.
    groups : array-like of shape (n,)
        Group of each row, numbers or text.
    n_folds : int
        At least 2. Fewer are made when the rarest class is in fewer groups. For several labels a label in fewer
        groups than there are folds is dealt as evenly as it goes, and does not lower the number.
    seed : int
        Which of several equal groups goes where.
    weights : array-like of shape (n,), optional
        How much each row counts when classes are balanced between folds.
    names : sequence, optional
        Names of the classes for messages.

    Returns
    -------
    ndarray of shape (n,), int64
        Fold of each row, from 0; all folds up to the largest are in use.

    Raises
    ------
    DataError
        No two folds can both have some of every class; the message names the class and its number of groups.

    Examples
    --------
    >>> grouped_folds([0, 0, 1, 1, 0, 1], ["a", "a", "b", "c", "d", "d"], n_folds=2)
    array([0, 0, 1, 0, 1, 1])
    """
    if n_folds < 2:
        raise DataError(f"{n_folds} folds", expected="at least 2", do="pass n_folds=2 or more")
    present, names = _presence(np.asarray(y), names)
    codes = numbered(groups)
    if len(codes) != len(present):
        raise DataError(f"{len(present)} labels and {len(codes)} groups", expected="one of each per row", do="")
    amount = np.ones(len(codes)) if weights is None else np.asarray(weights, dtype=np.float64)
    several_labels = np.ndim(y) == 2
    counts = _sum_by_group(codes, present * amount[:, None])
    holders = (_sum_by_group(codes, present) > 0).sum(axis=0)
    most = _most_folds(holders, n_folds, several_labels, names)
    for folds in range(most, 1, -1):
        must = holders >= folds if several_labels else np.ones(len(holders), bool)
        fewest, best = present.size + folds, codes
        for attempt in range(ATTEMPTS):
            dealt = _deal(counts, folds, seed, attempt)[codes]
            lacking = folds * int(must.sum()) - int(np.count_nonzero(_sum_by_group(dealt, present[:, must])))
            if lacking < fewest:
                fewest, best = lacking, dealt
            if not lacking:
                break
        if not fewest or several_labels:
            return best
    rarest = int(np.argmin(holders))
    raise DataError(
        f"class {names[rarest]} is in {holders[rarest]} groups, which always fall in the same fold as another class's",
        expected="at least two folds that each have some of every class",
        do="leave the class out, or check the group column",
    )


def numbered(values: npt.ArrayLike) -> IntArray:
    """Equal values as equal numbers from 0; every missing one (None, NaN, pandas' NA and NaT) as a number of its own.

    Parameters
    ----------
    values : array-like of shape (n,)
        Numbers, text, or a mixture.

    Returns
    -------
    ndarray of shape (n,), int64
        In the order of the values where they have one, else by first appearance; missing ones last.

    Examples
    --------
    >>> numbered(["b", None, "a", "b", None]), numbered([2.0, float("nan"), 1.0])
    (array([1, 2, 0, 1, 3]), array([1, 2, 0]))
    """
    array = np.asarray(values).ravel()
    if array.dtype.kind in "iu" and (array[1:] > array[:-1]).all():
        return np.arange(len(array))  # a million of them need not be sorted
    if array.dtype.kind in "fcmM":
        missing = np.isnan(array) if array.dtype.kind in "fc" else np.isnat(array)
    elif array.dtype.kind == "O":
        missing = np.fromiter(map(is_missing, array), np.bool_, len(array))
    else:
        missing = np.zeros(len(array), np.bool_)
    codes = np.empty(len(array), np.int64)
    there = array[~missing]
    try:
        codes[~missing] = np.unique(there, return_inverse=True)[1].ravel()
    except TypeError:  # numbers and text have no order
        known: dict[object, int] = {}
        codes[~missing] = [known.setdefault(value, len(known)) for value in there]
    codes[missing] = codes[~missing].max(initial=-1) + 1 + np.arange(int(missing.sum()))
    return codes


def is_missing(value: object) -> bool:
    """None, NaN, or pandas' NA and NaT."""
    try:
        return value is None or bool(value != value)
    except (TypeError, ValueError):  # pandas' NA is neither true nor false
        return True


def _by_appearance(codes: IntArray) -> IntArray:
    if (codes[1:] > codes[:-1]).all():
        return np.arange(len(codes))
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse]


def _presence(y: npt.NDArray[Any], names: Sequence[object] | None) -> tuple[BoolArray, Sequence[object]]:
    """What a fold should have some of: a column per class; for labels a column per label and per its absence."""
    if y.ndim == 2:
        labels = list(names) if names is not None else list(range(y.shape[1]))
        return np.hstack([y == 1, y == 0]), [*labels, *(f"not {label}" for label in labels)]
    classes = y.astype(np.int64)
    size = len(names) if names is not None else int(classes.max(initial=-1)) + 1
    return classes[:, None] == np.arange(size), names if names is not None else list(range(size))


def _sum_by_group(codes: IntArray, values: npt.NDArray[Any]) -> DoubleArray:
    size = int(codes.max(initial=-1)) + 1
    return np.stack([np.bincount(codes, column, size) for column in values.T.astype(np.float64)], axis=1)


def _most_folds(holders: IntArray, n_folds: int, several_labels: bool, names: Sequence[object]) -> int:
    half = len(holders) // 2
    limits = np.minimum(holders[:half], holders[half:]) if several_labels else holders
    reach = 0 if not len(limits) else int(limits.max() if several_labels else limits.min())
    if reach >= 2:
        return min(n_folds, reach)
    listing = ", ".join(f"{name}: {count}" for name, count in zip(names, holders, strict=True))
    if not len(holders):
        raise DataError("no labels to deal into folds", expected="at least two classes", do="check the labels")
    raise DataError(
        f"class {names[int(np.argmin(holders))]} is in {holders.min()} groups (groups per class: {listing})",
        expected="every class in at least 2 groups",
        do="leave the class out, add labelled cases, or name a finer group column",
    )


def _deal(counts: DoubleArray, folds: int, seed: int, attempt: int) -> IntArray:
    """Fold of each group, from its class counts of shape (n_groups, n_classes).

    Groups with equal counts are interchangeable, so each such kind is dealt at once: the same number to every
    fold, the remainder one by one to the fold that has least of what the group brings. Kinds that bring
    the largest share of a class go first, while there is still room to even things out; attempts after the first
    shuffle that order a little.
    """
    counts = np.hstack([counts, counts.sum(axis=1, keepdims=True)])
    total = counts.sum(axis=0)
    total[total == 0] = 1
    kinds, kind_of = np.unique(counts, axis=0, return_inverse=True)
    generator = np.random.default_rng([seed, attempt])
    shuffled = generator.permutation(len(counts))
    urgency = (kinds / total).max(axis=1) * (generator.uniform(0.3, 1, len(kinds)) if attempt else 1)
    members = np.split(
        shuffled[np.argsort(kind_of.ravel()[shuffled], kind="stable")],
        np.cumsum(np.bincount(kind_of.ravel(), minlength=len(kinds)))[:-1],
    )
    held = np.zeros((folds, counts.shape[1]))
    fold_of = np.empty(len(counts), np.int64)
    for kind in np.argsort(-urgency, kind="stable"):
        each, rest = divmod(len(members[kind]), folds)
        fold_of[members[kind][: each * folds]] = np.repeat(np.arange(folds), each)
        held += each * kinds[kind]
        price = kinds[kind] / total**2
        for group in members[kind][each * folds :] if rest else ():
            fold = int(np.argmin(held @ price))
            fold_of[group] = fold
            held[fold] += kinds[kind]
    return fold_of
