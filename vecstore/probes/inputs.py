"""What probes accept: vectors, labels, weights and groups, checked, with what is wrong said as `DataError`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_array, validate_data

from vecstore.errors import DataError
from vecstore.probes.splits import grouped_folds, identical_rows, is_missing, numbered
from vecstore.records import DoubleArray, IntArray, TaskKind


@dataclass(frozen=True, slots=True)
class Training:
    """Rows to learn from; those of zero weight are already left out.

    Attributes
    ----------
    X : ndarray of shape (n, d), float16, float32 or float64
    y : ndarray of shape (n,), int64, or (n, n_labels), float64
        Index into `classes`; several labels: 0, 1 or NaN for unknown.
    classes : ndarray of shape (n_classes,)
    kind : {"binary", "multi-class", "multi-label"}
    weights : ndarray of shape (n,), float64
        Positive.
    folds : ndarray of shape (n,), int64
    kept : ndarray of shape (n,), int64
        Which rows of the input these are, of `n_input`.
    """

    X: npt.NDArray[Any]
    y: npt.NDArray[Any]
    classes: npt.NDArray[Any]
    kind: TaskKind
    weights: DoubleArray
    folds: IntArray
    kept: IntArray
    n_input: int

    def truth(self) -> DoubleArray:
        """0, 1 or NaN, of shape (n_targets, n): one row for a binary task, else one per class or label."""
        if self.kind == "multi-label":
            return np.asarray(self.y.T, np.float64)
        if self.kind == "binary":
            return np.asarray(self.y == 1, np.float64)[None, :]
        return np.asarray(self.y == np.arange(len(self.classes))[:, None], np.float64)

    def scattered(self, values: npt.NDArray[Any], fill: float) -> npt.NDArray[Any]:
        """Values per kept row as values per input row; `fill` where the weight was zero."""
        if len(self.kept) == self.n_input:
            return values
        out = np.full((self.n_input, *values.shape[1:]), fill, dtype=values.dtype)
        out[self.kept] = values
        return out


def training(
    estimator: BaseEstimator,
    X: npt.ArrayLike,
    y: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None,
    groups: npt.ArrayLike | None,
    n_folds: int,
    seed: int,
    halves: bool = False,
) -> Training:
    """Check what `fit` was given, and deal rows into folds.

    Without groups, each row is its own, but equal vectors are one group: the same picture twice teaches nothing
    about new ones. If then no two folds have all classes, each row is its own after all.

    With `halves`, vectors in float16 stay so; without, they become float64, as integers do.

    Raises
    ------
    DataError
        See `LogisticProbe.fit`.
    """
    kinds = [np.float64, np.float32, np.float16] if halves else [np.float64, np.float32]
    with data_errors():
        shape = np.asarray(y).shape
        _check_labels(y)
        if len(shape) == 2 and shape[1] > 1:
            vectors = validate_data(estimator, X, dtype=kinds)
            target: npt.NDArray[Any] = indicator(y, len(vectors))
            classes = np.arange(target.shape[1])
            kind: TaskKind = "multi-label"
        else:
            vectors, labels = validate_data(estimator, X, y, dtype=kinds)
            check_classification_targets(labels)
            classes, target = np.unique(labels, return_inverse=True)
            kind = "binary" if len(classes) == 2 else "multi-class"
        weights = _check_sample_weight(sample_weight, vectors, dtype=np.float64, ensure_non_negative=True)
    n_input = len(vectors)
    if groups is not None and np.shape(groups) != (n_input,):
        raise DataError(
            f"{n_input} vectors and groups of shape {np.shape(groups)}", expected="a group per vector", do=""
        )
    codes = None if groups is None else numbered(groups)
    kept = np.flatnonzero(weights > 0)
    if len(kept) < len(vectors):
        vectors, target, weights = vectors[kept], target[kept], weights[kept]
        codes = None if codes is None else codes[kept]
    _two_sides(target, classes, kind)
    folds = _folds(vectors, target, classes, codes, weights, n_folds, seed)
    return Training(vectors, target, classes, kind, weights, folds, kept, n_input)


def checked_vectors(estimator: BaseEstimator, X: npt.ArrayLike) -> npt.NDArray[Any]:
    """Vectors to predict for, of the same width as those fitted; float32 or float64."""
    with data_errors():
        return np.asarray(validate_data(estimator, X, dtype=[np.float64, np.float32], reset=False))


@contextmanager
def data_errors() -> Iterator[None]:
    """Say scikit-learn's complaints about arrays as ours, with a next step."""
    try:
        yield
    except DataError:
        raise
    except ValueError as error:
        raise DataError(
            str(error).strip().rstrip("."),
            expected="finite vectors, a row per item, and a label per row",
            do="check the arrays passed to the probe",
        ) from error


def _check_labels(y: npt.ArrayLike) -> None:
    """Say that labels are missing, where one row has one label."""
    labels = np.asarray(y)
    if labels.dtype.kind != "O" or (labels.ndim == 2 and labels.shape[1] > 1):
        return
    missing = sum(map(is_missing, labels.flat))
    if missing:
        raise DataError(
            f"{missing} of {labels.size} labels are missing",
            expected="a label per row",
            do="leave these rows out; of several labels, unknown ones are NaN",
        )
    types = sorted({type(value).__name__ for value in labels.flat})
    try:
        np.unique(labels)
    except TypeError as error:
        raise DataError(
            f"labels of the types {', '.join(types)}", expected="numbers or texts", do="convert them: y.astype(str)"
        ) from error


def class_weights(rule: str | Mapping[Any, float] | None, data: Training) -> DoubleArray:
    """What each row counts by its class, of shape (1 or n_labels, n).

    Parameters
    ----------
    rule : None, "balanced" or mapping of class to weight
        Balanced: every class has the same total weight; several labels: so have either side of each label.

    Raises
    ------
    DataError
        Anything else, a class of the mapping that is not in the labels, or a mapping for several labels.
    """
    if rule is None:
        return np.ones((1, len(data.weights)))
    if rule == "balanced":
        if data.kind == "multi-label":
            return np.stack([_balanced(column, data.weights) for column in data.y.T])
        return _balanced(data.y, data.weights)[None, :]
    if isinstance(rule, Mapping) and data.kind != "multi-label":
        known = data.classes.tolist()
        strange = [key for key in rule if key not in known]
        if not strange:
            each = np.array([_class_weight(name, rule.get(name, 1.0)) for name in known])
            return each[data.y.astype(np.int64)][None, :]
        raise DataError(
            f"class_weight names {strange[0]!r}, which is no class", expected=f"one of {known}", do="check the names"
        )
    raise DataError(
        f"class_weight={rule!r} for a {data.kind} task",
        expected="None, 'balanced', or (one label per row) a mapping of class to weight",
        do="pass one of these",
    )


def _class_weight(name: object, value: object) -> float:
    if isinstance(value, (int, float, np.number)) and 0 < float(value) < np.inf:
        return float(value)
    raise DataError(
        f"class_weight of {name!r} is {value!r}", expected="a positive number", do="leave a class out by its rows"
    )


def _balanced(y: npt.NDArray[Any], weights: DoubleArray) -> DoubleArray:
    out = np.zeros(len(y))
    sides = np.unique(y[~np.isnan(y)])
    total = weights[~np.isnan(y)].sum()
    for side in sides:
        rows = y == side
        out[rows] = total / (len(sides) * weights[rows].sum())
    return out


def indicator(y: npt.ArrayLike, n: int) -> DoubleArray:
    """Labels as 0, 1 or NaN, of shape (n, n_labels)."""
    labels = check_array(y, dtype=np.float64, ensure_all_finite="allow-nan", input_name="y")
    if len(labels) != n:
        raise DataError(f"{n} vectors and {len(labels)} rows of labels", expected="one of each per item", do="")
    if not (np.isnan(labels) | (labels == 0) | (labels == 1)).all():
        raise DataError(
            "y has several columns with values beside 0, 1 and NaN",
            expected="an indicator per label, NaN where unknown",
            do="for one class per row pass one column",
        )
    return np.asarray(labels)


def _two_sides(y: npt.NDArray[Any], classes: npt.NDArray[Any], kind: TaskKind) -> None:
    if kind == "multi-label":
        for name, column in zip(classes, y.T, strict=True):
            if not ((column == 0).any() and (column == 1).any()):
                lack = "positive" if (column == 0).any() else "negative"
                raise DataError(
                    f"label {name} has no {lack} row", expected="rows with and without it", do="leave the label out"
                )
        return
    present = np.unique(y)
    if len(present) < 2:
        only = classes[present[0]] if len(present) else "none"
        raise DataError(
            f"the labels have only one class ({only})",
            expected="rows of at least 2 classes",
            do="label rows of another class, or check the label column",
        )
    if len(present) < len(classes):
        absent = classes[np.setdiff1d(np.arange(len(classes)), present)[0]]
        raise DataError(
            f"all rows of class {absent} have sample_weight 0", expected="some weight in each class", do="leave it out"
        )


def _folds(
    X: npt.NDArray[Any],
    y: npt.NDArray[Any],
    classes: npt.NDArray[Any],
    groups: npt.NDArray[Any] | None,
    weights: DoubleArray,
    n_folds: int,
    seed: int,
) -> IntArray:
    names = classes.tolist()
    if groups is not None:
        return grouped_folds(y, groups, n_folds, seed, weights=weights, names=names)
    try:
        return grouped_folds(y, identical_rows(X), n_folds, seed, weights=weights, names=names)
    except DataError:
        return grouped_folds(y, np.arange(len(X)), n_folds, seed, weights=weights, names=names)
