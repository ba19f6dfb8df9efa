"""What the heads of scikit-learn share: settings chosen by cross-validated AUC, as for the linear probes and kNN.

Subclasses say which settings there are, and how they learn; one run of learning may serve several settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from vecstore.errors import DataError
from vecstore.probes.auc import weighted_auc
from vecstore.probes.inputs import Training, checked_vectors, training
from vecstore.probes.layout import Layout
from vecstore.probes.linear import nan_mean
from vecstore.records import BoolArray, DoubleArray, IntArray

NEARLY_BEST = 1e-3  # of mean AUC: among settings within it the one with the least squared error is taken


@dataclass(frozen=True, slots=True)
class Target:
    """What one classifier of scikit-learn is to tell.

    Attributes
    ----------
    y : ndarray of shape (n_known,), int64, or (n_known, n_labels), int64
        Class index of each row it may learn from; several labels: 0 or 1 each.
    known : ndarray of shape (n,), bool
        Which rows these are.
    columns : ndarray of shape (n_columns,), int64
        Which outputs it gives: one for two classes.
    sides : int
        Number of classes, or of labels.
    """

    y: IntArray
    known: BoolArray
    columns: IntArray
    sides: int

    def without(self, held: BoolArray) -> Target:
        """Some rows left out."""
        return Target(self.y[~held[self.known]], self.known & ~held, self.columns, self.sides)


class ChosenProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Base of the heads of scikit-learn; see `MLPProbe` and `ForestProbe`."""

    layout: ClassVar[Layout]
    folds: int
    seed: int

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> Self:
        """Choose the settings by cross-validated AUC, and fit on all rows.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Finite.
        y : array-like of shape (n,) or (n, n_labels)
            A class per row; or for several labels 0, 1, or NaN for unknown.
        groups : array-like of shape (n,), optional
            What a fold must not divide. By default each row is its own group, equal rows together.

        Returns
        -------
        self

        Raises
        ------
        DataError
            No rows, one class only, a class in a single group, vectors that are not finite, arrays that do not fit
            each other, or parameters out of range.
        """
        data = training(self, X, y, None, groups, self.folds, self.seed)
        settings = self._settings(len(data.y))
        self.classes_, self.kind_ = data.classes, data.kind
        features = self._features(data.X)
        truth = data.truth()
        targets = _targets(data)
        n_folds = int(data.folds.max()) + 1
        shares = np.empty((len(settings), len(data.y), len(truth)))
        for fold in range(n_folds):
            held = data.folds == fold
            for target in targets:
                rest = target.without(held)
                chances = self._chances(features[rest.known], rest, features[held])
                for setting, columns in enumerate(chances):
                    shares[setting][np.ix_(held, target.columns)] = columns
        areas = fold_areas(shares, truth, data.folds)
        errors = squared_errors(shares, truth, data.folds)
        self.cv_auc_ = nan_mean(areas, 0)
        best = _best(areas, errors)
        self._learn(features, targets, settings[best])
        # For each fold the setting that is best on the others, so that no row has a say in how it is scored itself.
        out_of_fold = np.empty((len(data.y), len(truth)))
        for fold in range(n_folds):
            apart = _best(np.delete(areas, fold, axis=0), np.delete(errors, fold, axis=0))
            inside = data.folds == fold
            out_of_fold[inside] = shares[apart][inside]
        self.oof_ = self._as_probabilities(out_of_fold)
        self.folds_ = data.folds
        return self

    def predict_proba(self, X: npt.ArrayLike) -> DoubleArray:
        """Probabilities of shape (n, n_classes), of several labels each by itself, else summing to 1.

        Raises
        ------
        DataError
            Vectors that are not finite, or of another width.
        """
        check_is_fitted(self, "folds_")
        vectors = checked_vectors(self, X)
        shares = np.empty((len(vectors), 1 if self.kind_ == "binary" else len(self.classes_)))
        for start in range(0, len(vectors), 2048):
            shares[start : start + 2048] = self._predicted(vectors[start : start + 2048])
        return self._as_probabilities(shares)

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[Any]:
        """The most probable class of each row; of several labels 0 or 1 each, of shape (n, n_labels)."""
        chances = self.predict_proba(X)
        if self.kind_ == "multi-label":
            return (chances > 0.5).astype(np.int64)
        return np.asarray(self.classes_[chances.argmax(axis=1)])

    def _as_probabilities(self, shares: DoubleArray) -> DoubleArray:
        return np.hstack([1 - shares, shares]) if self.kind_ == "binary" else np.ascontiguousarray(shares)

    def _settings(self, n: int) -> Sequence[Any]:
        """What is chosen from for n rows, after a check of the parameters."""
        raise NotImplementedError

    def _features(self, X: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """What the classifiers see of the vectors, labels unseen."""
        return X

    def _chances(self, X: npt.NDArray[Any], target: Target, held: npt.NDArray[Any]) -> Iterator[DoubleArray]:
        """For each setting the outputs of one target on rows held out, of shape (n_held, n_columns)."""
        raise NotImplementedError

    def _learn(self, features: npt.NDArray[Any], targets: Sequence[Target], setting: Any) -> None:
        """Fit on all rows, and keep arrays of NumPy."""
        raise NotImplementedError

    def _predicted(self, X: npt.NDArray[Any]) -> DoubleArray:
        """Outputs of shape (n, 1 or n_classes), from the arrays kept."""
        raise NotImplementedError


def _targets(data: Training) -> list[Target]:
    """One classifier for everything; where some labels are unknown, one per label on the rows that are known."""
    everything = np.ones(len(data.y), bool)
    if data.kind != "multi-label":
        columns = np.arange(1 if data.kind == "binary" else len(data.classes))
        return [Target(data.y.astype(np.int64), everything, columns, len(data.classes))]
    unknown = np.isnan(data.y)
    whole = np.nan_to_num(data.y).astype(np.int64)
    if not unknown.any():
        return [Target(whole, everything, np.arange(whole.shape[1]), whole.shape[1])]
    labels = zip(whole.T, ~unknown.T, strict=True)
    return [Target(column[known], known, np.array([i]), 2) for i, (column, known) in enumerate(labels)]


def fold_areas(shares: DoubleArray, truth: DoubleArray, folds: IntArray) -> DoubleArray:
    """The (macro) AUC on each fold for each setting.

    Parameters
    ----------
    shares : ndarray of shape (n_settings, n, n_outputs)
    truth : ndarray of shape (n_outputs, n)
        0, 1 or NaN for unknown.
    folds : ndarray of shape (n,), int64

    Returns
    -------
    ndarray of shape (n_folds, n_settings)
        NaN where nothing could be computed.
    """
    areas = []
    for fold in range(int(folds.max()) + 1):
        columns = []
        for output, column in enumerate(truth):
            known = np.flatnonzero((folds == fold) & ~np.isnan(column))
            columns.append(weighted_auc(shares[:, known, output].T, column[known] == 1))
        areas.append(nan_mean(np.array(columns), 0))
    return np.array(areas)


def squared_errors(shares: DoubleArray, truth: DoubleArray, folds: IntArray) -> DoubleArray:
    """Mean squared error of the probabilities on each fold for each setting, as `fold_areas`."""
    squares = (np.nan_to_num(truth.T) - shares) ** 2 * ~np.isnan(truth.T)
    return np.stack([squares[:, folds == fold].mean(axis=(1, 2)) for fold in range(int(folds.max()) + 1)])


def _best(areas: DoubleArray, errors: DoubleArray) -> int:
    """The setting with the least squared error among those whose mean AUC is nearly the best."""
    mean = np.nan_to_num(nan_mean(areas, 0), nan=0.0)
    near = np.flatnonzero(mean >= mean.max() - NEARLY_BEST)
    return int(near[np.argmin(errors.mean(axis=0)[near])])


def positive_numbers(values: Mapping[str, Any]) -> None:
    """Refuse parameters that are not positive numbers, or empty lists of them.

    Raises
    ------
    DataError
    """
    for name, value in values.items():
        numbers = np.atleast_1d(np.asarray(value))
        if numbers.dtype.kind not in "iuf" or not numbers.size or not (np.isfinite(numbers) & (numbers > 0)).all():
            raise DataError(f"{name}={value!r}", expected="positive numbers", do="leave it out for the default")
