"""What the linear probes share: one sweep over folds × strengths × classes, and the choice of a strength by AUC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from vecstore.errors import DataError
from vecstore.probes.auc import weighted_auc
from vecstore.probes.inputs import Training, checked_vectors, class_weights, training
from vecstore.probes.layout import LINEAR
from vecstore.records import BoolArray, DoubleArray, IntArray, TaskKind

NEARLY_BEST = 1e-4  # of mean AUC: among strengths within it the middle one is taken, safe from either extreme
WIDENINGS = 3  # times that strengths are added where the best is at the edge


class LinearProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Base of the linear probes; see `LogisticProbe`."""

    layout = LINEAR
    _default_strengths: tuple[float, ...]

    def __init__(
        self,
        strengths: Sequence[float] | DoubleArray | None = None,
        folds: int = 5,
        class_weight: str | Mapping[Any, float] | None = None,
        scale: str = "standard",
        seed: int = 0,
        nested: bool = False,
    ) -> None:
        self.strengths = strengths
        self.folds = folds
        self.class_weight = class_weight
        self.scale = scale
        self.seed = seed
        self.nested = nested

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def fit(
        self,
        X: npt.ArrayLike,
        y: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None = None,
        groups: npt.ArrayLike | None = None,
    ) -> Self:
        """Choose the strength by cross-validated AUC, and fit on all rows.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Finite.
        y : array-like of shape (n,) or (n, n_labels)
            A class per row; or for several labels 0, 1, or NaN for unknown.
        sample_weight : array-like of shape (n,), optional
            Non-negative; rows of weight 0 are left out.
        groups : array-like of shape (n,), optional
            What a fold must not divide. By default each row is its own group, equal rows together.

        Returns
        -------
        self

        Raises
        ------
        DataError
            No rows, one class only, a class in a single group, vectors that are not finite, or arrays that do not
            fit each other.
        """
        data = training(self, X, y, sample_weight, groups, self.folds, self.seed)
        strengths = self._checked_strengths()
        center, spread = self._scaling(data)
        plan = _Plan(data, self.nested)
        by_class = class_weights(self.class_weight, data)
        fitted = self._sweep(data, plan, by_class, strengths, center, spread)
        n_folds = plan.n_folds
        self.classes_ = data.classes
        self.kind_: TaskKind = data.kind
        self.strengths_ = fitted.strengths
        self.cv_auc_ = fitted.auc(data, [(f, data.folds == f) for f in range(n_folds)])
        best = _best(self.cv_auc_, fitted.strengths)
        self.C_ = float(fitted.strengths[best])
        chosen = (
            [_best(fitted.auc(data, inner), fitted.strengths) for inner in plan.inner]
            if self.nested
            else [best] * n_folds
        )
        margins = np.empty((fitted.margins.shape[2], len(data.y)))
        calibrated = np.empty_like(margins)
        for fold, at in enumerate(chosen):
            rows = data.folds == fold
            margins[:, rows] = fitted.margins[fold, at][:, rows]
            if self.nested:
                slope, offset = self._calibration(*fitted.held_out(data, plan.inner[fold], at), data, by_class)
                calibrated[:, rows] = slope[:, None] * margins[:, rows] + offset[:, None]
        slope, offset = self._calibration(margins, np.arange(len(data.y)), data, by_class)
        if not self.nested:
            calibrated = slope[:, None] * margins + offset[:, None]
        full = plan.full
        self.coef_ = slope[:, None] * fitted.coef[full, best] / spread
        self.intercept_ = slope * fitted.intercept[full, best] + offset - self.coef_ @ center
        self.oof_ = data.scattered(self._probabilities(calibrated.T), np.nan)
        self.folds_ = data.scattered(data.folds, -1)
        self.n_iter_ = int(fitted.iterations.max())
        self.converged_ = bool(fitted.converged[: n_folds + 1, best].all())
        return self

    def decision_function(self, X: npt.ArrayLike) -> DoubleArray:
        """Margins: of shape (n,) for a binary task, else (n, n_classes).

        Raises
        ------
        DataError
            Vectors that are not finite, or of another width.
        """
        check_is_fitted(self)
        vectors = checked_vectors(self, X)
        margins = np.empty((len(vectors), len(self.coef_)))
        for start in range(0, len(vectors), 4096):
            block = vectors[start : start + 4096].astype(np.float64)
            margins[start : start + 4096] = block @ self.coef_.T + self.intercept_
        return margins[:, 0] if self.kind_ == "binary" else margins

    def predict_proba(self, X: npt.ArrayLike) -> DoubleArray:
        """Probabilities of shape (n, n_classes), of several labels each by itself, else summing to 1."""
        margins = self.decision_function(X)
        return self._probabilities(margins[:, None] if margins.ndim == 1 else margins)

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[Any]:
        """The most probable class of each row; of several labels 0 or 1 each, of shape (n, n_labels)."""
        margins = self.decision_function(X)
        if self.kind_ == "multi-label":
            return (margins > 0).astype(np.int64)
        index = (margins > 0).astype(np.int64) if self.kind_ == "binary" else margins.argmax(axis=1)
        return np.asarray(self.classes_[index])

    def _loss(self, kind: TaskKind) -> Any:
        raise NotImplementedError

    def _probabilities(self, margins: DoubleArray) -> DoubleArray:
        raise NotImplementedError

    def _calibration(
        self, margins: DoubleArray, rows: IntArray, data: Training, by_class: DoubleArray
    ) -> tuple[DoubleArray, DoubleArray]:
        """Slope and offset per margin, from out-of-fold margins of shape (k, len(rows))."""
        return np.ones(len(margins)), np.zeros(len(margins))

    def _checked_strengths(self) -> DoubleArray:
        values = np.unique(
            np.asarray(self._default_strengths if self.strengths is None else self.strengths, np.float64)
        )
        if values.ndim != 1 or not len(values) or not (np.isfinite(values) & (values > 0)).all():
            raise DataError(f"strengths={self.strengths!r}", expected="positive numbers", do="pass C values as a list")
        return values

    def _scaling(self, data: Training) -> tuple[DoubleArray, DoubleArray]:
        """Center and spread per feature, labels unseen; scaled rows have mean squared length 1, as unit vectors do."""
        if self.scale not in ("standard", "none"):
            raise DataError(f"scale={self.scale!r}", expected="'standard' or 'none'", do="pass one of these")
        total = data.weights.sum()
        d = data.X.shape[1]
        center, square = np.zeros(d), np.zeros(d)
        for start in range(0, len(data.X), 4096):
            center += data.weights[start : start + 4096] @ data.X[start : start + 4096].astype(np.float64)
        center /= total
        if self.scale == "none":
            return center, np.ones(d)
        for start in range(0, len(data.X), 4096):
            square += data.weights[start : start + 4096] @ (data.X[start : start + 4096] - center) ** 2
        spread = np.sqrt(square / total)
        # What rounding leaves of a constant column is no spread.
        flat = spread <= 10 * np.finfo(data.X.dtype).eps * np.abs(center)
        return center, np.where(flat | (spread == 0), np.inf, spread) * np.sqrt(d)

    def _sweep(
        self,
        data: Training,
        plan: _Plan,
        by_class: DoubleArray,
        strengths: DoubleArray,
        center: DoubleArray,
        spread: DoubleArray,
    ) -> _Fitted:
        """Solve for all folds and strengths, and for more where the best strength is at an edge."""
        from vecstore.probes.sweep import SMALL, Sweep

        features = np.empty(data.X.shape, np.float64 if data.X.size <= SMALL else np.float32)
        for start in range(0, len(features), 4096):
            features[start : start + 4096] = (data.X[start : start + 4096] - center) / spread
        sweep = Sweep(features)
        rule = self._loss(data.kind)
        fitted = _solved(sweep, rule, data, plan, by_class, strengths)
        folds = [(f, data.folds == f) for f in range(plan.n_folds)]
        for _ in range(WIDENINGS if self.strengths is None else 0):
            more = _beyond(fitted.strengths, _best(fitted.auc(data, folds), fitted.strengths))
            if not len(more):
                break
            fitted = fitted.joined(_solved(sweep, rule, data, plan, by_class, more))
        return fitted


class _Plan:
    """Which rows each model of the cross-validation learns from.

    Models 0 to n_folds - 1 leave out that fold, model `full` nothing; for nested choice there is a model per pair of
    folds: it serves to choose for either, judged on the other. `inner[f]` lists (model, rows to judge it on).
    """

    def __init__(self, data: Training, nested: bool) -> None:
        folds = data.folds
        self.n_folds = int(folds.max()) + 1
        masks = [folds != f for f in range(self.n_folds)]
        self.full = len(masks)
        masks.append(np.ones(len(folds), bool))
        self.inner: list[list[tuple[int, BoolArray]]] = [[] for _ in range(self.n_folds)]
        if nested and self.n_folds > 2:
            for f in range(self.n_folds):
                for g in range(f):
                    self.inner[f].append((len(masks), folds == g))
                    self.inner[g].append((len(masks), folds == f))
                    masks.append((folds != f) & (folds != g))
        elif nested:
            raise DataError(
                "2 folds leave nothing to choose a strength on within a fold",
                expected="every class in at least 3 groups for nested choice",
                do="pass nested=False, or give more groups",
            )
        self.masks = np.array(masks)


@dataclass(frozen=True, slots=True)
class _Fitted:
    """Solutions by (mask, strength): coef (.., k, d), intercept (.., k), margins (.., k, n)."""

    strengths: DoubleArray
    coef: DoubleArray
    intercept: DoubleArray
    margins: npt.NDArray[Any]
    iterations: IntArray
    converged: BoolArray

    def auc(self, data: Training, judged: list[tuple[int, BoolArray]]) -> DoubleArray:
        """Mean over (mask, rows) of the AUC per strength; of several classes the mean over those present."""
        truth = data.truth()
        areas = np.full((len(judged), self.margins.shape[2], len(self.strengths)), np.nan)
        for i, (mask, rows) in enumerate(judged):
            for k, column in enumerate(truth):
                known = np.flatnonzero(rows & ~np.isnan(column))
                scores = self.margins[mask, :, k][:, known].T
                areas[i, k] = weighted_auc(scores, column[known] == 1, data.weights[known])
        return nan_mean(nan_mean(areas, 1), 0)

    def held_out(
        self, data: Training, judged: list[tuple[int, BoolArray]], strength: int
    ) -> tuple[DoubleArray, IntArray]:
        """Margins of judged rows by the models that did not see them, and which rows these are."""
        rows = [np.flatnonzero(chosen) for _, chosen in judged]
        parts = [self.margins[mask, strength][:, at] for (mask, _), at in zip(judged, rows, strict=True)]
        return np.concatenate(parts, axis=1), np.concatenate(rows)

    def joined(self, other: _Fitted) -> _Fitted:
        """Both, sorted by strength."""
        strengths = np.concatenate([self.strengths, other.strengths])
        order = np.argsort(strengths)

        def both(name: str) -> Any:
            return np.concatenate([getattr(self, name), getattr(other, name)], axis=1)[:, order]

        names = ("coef", "intercept", "margins", "iterations", "converged")
        return _Fitted(strengths[order], *(both(name) for name in names))


def _solved(
    sweep: Any, rule: Any, data: Training, plan: _Plan, by_class: DoubleArray, strengths: DoubleArray
) -> _Fitted:
    from vecstore.probes.sweep import Models

    truth = data.truth() if rule != "softmax" else data.y[None, :].astype(np.float64)
    known = ~np.isnan(truth)
    n_masks, n_targets = len(plan.masks), len(truth)
    per_target = by_class * known if data.kind == "multi-label" else by_class
    rows = (plan.masks[:, None, :] * (per_target * data.weights)[None]).reshape(-1, len(data.y))
    mask, strength, target = np.meshgrid(
        np.arange(n_masks), np.arange(len(strengths)), np.arange(n_targets), indexing="ij"
    )
    models = Models(
        weights=(mask * len(per_target) + (target if len(per_target) > 1 else 0)).ravel(),
        targets=target.ravel(),
        strengths=strengths[strength.ravel()],
    )
    found = sweep.solve(np.nan_to_num(truth), rows, models, rule)
    shape = (n_masks, len(strengths), -1)
    n, d = len(data.y), data.X.shape[1]
    return _Fitted(
        strengths,
        found.coef.reshape(*shape, d),
        found.intercept.reshape(shape),
        found.margins.reshape(*shape, n),
        found.iterations.reshape(shape).max(axis=2),
        found.converged.reshape(shape).all(axis=2),
    )


def _best(auc: DoubleArray, strengths: DoubleArray) -> int:
    """The middle one of the strengths that are nearly best; where no AUC could be computed, the one nearest 1."""
    if np.isnan(auc).all():
        return int(np.argmin(np.abs(np.log(strengths))))
    near = np.flatnonzero(auc >= np.nanmax(auc) - NEARLY_BEST)
    return int(near[(len(near) - 1) // 2])


def _beyond(strengths: DoubleArray, best: int) -> DoubleArray:
    """Two more strengths outside the edge the best is at; none if it is inside, or there is but one."""
    if len(strengths) < 2:
        return np.empty(0)
    if best == 0:
        return np.asarray(strengths[0] * (strengths[0] / strengths[1]) ** np.array([2.0, 1.0]))
    if best == len(strengths) - 1:
        return np.asarray(strengths[-1] * (strengths[-1] / strengths[-2]) ** np.array([1.0, 2.0]))
    return np.empty(0)


def nan_mean(values: DoubleArray, axis: int) -> DoubleArray:
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    return np.where(count > 0, np.where(known, values, 0).sum(axis=axis) / np.maximum(count, 1), np.nan)
