"""What the linear probes share: one sweep over folds × strengths × classes, and the choice of a strength."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
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

NEARLY_BEST = 1e-4  # of a mean score: strengths within it are told apart by their log-loss
SCORINGS = ("auc", "log_loss", "accuracy", "balanced_accuracy")
WIDENINGS = 3  # times that strengths are added where the best is at the edge


class LinearProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Base of the linear probes; see `LogisticProbe`."""

    layout = LINEAR
    _default_strengths: tuple[float, ...]

    strengths: Sequence[float] | DoubleArray | None
    folds: int
    class_weight: str | Mapping[Any, float] | None
    scale: str
    seed: int
    nested: bool
    scoring: str
    device: str

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
        """Choose the strength by cross-validation, and fit on all rows.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Finite. float16, float32 and float64 are read as they are, and never copied beyond 512 MiB.
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
        data = training(self, X, y, sample_weight, groups, self.folds, self.seed, halves=True)
        strengths = self._checked_strengths()
        _check_choice("scoring", self.scoring, SCORINGS)
        center, spread, wide = self._scaling(data)
        plan = _Plan(data, self.nested)
        by_class = class_weights(self.class_weight, data)
        judge = _Judge(data, plan, self.scoring, partial(self._chances, data=data, by_class=by_class))
        fitted, self.device_ = self._sweep(data, plan, by_class, strengths, center, spread, wide, judge)
        n_folds, outer = plan.n_folds, [(fold, fold) for fold in range(plan.n_folds)]
        self.classes_ = data.classes
        self.kind_: TaskKind = data.kind
        self.strengths_ = fitted.strengths
        self.cv_scores_ = judge.scores(fitted, outer)
        self.cv_auc_ = self.cv_scores_ if self.scoring == "auc" else judge.scores(fitted, outer, "auc")
        best = judge.best(fitted, outer)
        self.edge_ = _edge(self.cv_scores_, best)
        self.C_ = float(fitted.strengths[best])
        chosen = [judge.best(fitted, inner) for inner in plan.inner] if self.nested else [best] * n_folds
        margins = np.empty((fitted.coef.shape[2], len(data.y)))
        calibrated = np.empty_like(margins)
        for fold, at in enumerate(chosen):
            rows = plan.rows[fold]
            margins[:, rows] = fitted.held_out[fold, fold][at]
            if self.nested:
                slope, offset = self._calibration(*fitted.judged(plan, plan.inner[fold], at), data, by_class)
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
        check_is_fitted(self, "coef_")
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

    def _chances(self, margins: DoubleArray, rows: IntArray, data: Training, by_class: DoubleArray) -> DoubleArray:
        """Out-of-fold probabilities as `oof_` would have them, (n_rows, n_classes)."""
        slope, offset = self._calibration(margins, rows, data, by_class)
        self.kind_ = data.kind
        return self._probabilities((slope[:, None] * margins + offset[:, None]).T)

    def _scaling(self, data: Training) -> tuple[DoubleArray, DoubleArray, bool]:
        """Center and spread per feature, labels unseen; scaled rows have mean squared length 1, as unit vectors do.

        And whether the columns that are left differ so much in scale that float32 would lose some of them.
        """
        from vecstore.probes.sweep import WIDE_RANGE

        _check_choice("scale", self.scale, ("standard", "none"))
        center, deviation = _moments(data.X, data.weights)
        d = len(center)
        if self.scale == "none":
            found = deviation[deviation > 0]
            return center, np.ones(d), bool(len(found) and found.max() > WIDE_RANGE * found.min())
        # What rounding leaves of a constant column is no spread.
        # float16 values are added up in float32: one that never changes is told by its deviation of 0.
        eps = np.finfo(np.float64 if data.X.dtype == np.float64 else np.float32).eps
        flat = deviation <= 10 * eps * np.abs(center)
        return center, np.where(flat | (deviation == 0), np.inf, deviation) * np.sqrt(d), False

    def _sweep(
        self,
        data: Training,
        plan: _Plan,
        by_class: DoubleArray,
        strengths: DoubleArray,
        center: DoubleArray,
        spread: DoubleArray,
        wide: bool,
        judge: _Judge,
    ) -> tuple[_Fitted, str]:
        """Solve for all folds and strengths, and for more where the best strength is at an edge; and the device."""
        from vecstore.probes.sweep import SMALL, Sweep, device_for

        device = device_for(self.device, data.X.size)
        double = wide or data.X.size <= SMALL
        sweep = Sweep(data.X, data.folds, center, spread, double=double, device=device, seed=self.seed)
        rule = self._loss(data.kind)
        fitted = _solved(sweep, rule, data, plan, by_class, strengths)
        outer = [(fold, fold) for fold in range(plan.n_folds)]
        for _ in range(WIDENINGS if self.strengths is None else 0):
            more = _beyond(fitted.strengths, _edge(judge.scores(fitted, outer), judge.best(fitted, outer)))
            if not len(more):
                break
            fitted = fitted.joined(_solved(sweep, rule, data, plan, by_class, more))
        return fitted, device


class _Plan:
    """Which folds each model of the cross-validation leaves out.

    Models 0 to n_folds - 1 leave out that fold, model `full` nothing; for nested choice there is a model per pair of
    folds: it serves to choose for either, judged on the other. `inner[f]` lists (model, fold to judge it on).
    """

    def __init__(self, data: Training, nested: bool) -> None:
        self.n_folds = int(data.folds.max()) + 1
        self.rows = [np.flatnonzero(data.folds == fold) for fold in range(self.n_folds)]
        left_out = [{fold} for fold in range(self.n_folds)]
        self.full = len(left_out)
        left_out.append(set())
        self.inner: list[list[tuple[int, int]]] = [[] for _ in range(self.n_folds)]
        if nested and self.n_folds > 2:
            for f in range(self.n_folds):
                for g in range(f):
                    self.inner[f].append((len(left_out), g))
                    self.inner[g].append((len(left_out), f))
                    left_out.append({f, g})
        elif nested:
            raise DataError(
                "2 folds leave nothing to choose a strength on within a fold",
                expected="every class in at least 3 groups for nested choice",
                do="pass nested=False, or give more groups",
            )
        self.left_out = np.array([[fold in one for fold in range(self.n_folds)] for one in left_out])


@dataclass(frozen=True, slots=True)
class _Fitted:
    """Solutions by (mask, strength): coef (.., k, d), intercept (.., k); margins by (mask, fold left out)."""

    strengths: DoubleArray
    coef: DoubleArray
    intercept: DoubleArray
    held_out: dict[tuple[int, int], npt.NDArray[Any]]
    iterations: IntArray
    converged: BoolArray

    def judged(self, plan: _Plan, pairs: list[tuple[int, int]], strength: int) -> tuple[DoubleArray, IntArray]:
        """Margins of the folds of (mask, fold) by models that did not see them, and which rows these are."""
        parts = [self.held_out[pair][strength] for pair in pairs]
        rows = np.concatenate([plan.rows[fold] for _, fold in pairs])
        return np.concatenate(parts, axis=1).astype(np.float64), rows

    def joined(self, other: _Fitted) -> _Fitted:
        """Both, sorted by strength."""
        strengths = np.concatenate([self.strengths, other.strengths])
        order = np.argsort(strengths)

        def both(name: str) -> Any:
            return np.concatenate([getattr(self, name), getattr(other, name)], axis=1)[:, order]

        held_out = {key: np.concatenate([one, other.held_out[key]])[order] for key, one in self.held_out.items()}
        return _Fitted(
            strengths[order], both("coef"), both("intercept"), held_out, both("iterations"), both("converged")
        )


class _Judge:
    """Scores of strengths on folds left out, and the choice among them."""

    def __init__(
        self, data: Training, plan: _Plan, scoring: str, chances: Callable[[DoubleArray, IntArray], DoubleArray]
    ) -> None:
        self._data, self._plan, self._scoring, self._chances = data, plan, scoring, chances
        self._truth = data.truth()
        self._known: dict[tuple[str, tuple[tuple[int, int], ...], float], float] = {}

    def scores(self, fitted: _Fitted, pairs: list[tuple[int, int]], scoring: str | None = None) -> DoubleArray:
        """Mean over (mask, fold) of the score per strength, more being better; NaN where there is none."""
        return np.array([self._score(fitted, at, pairs, scoring) for at in range(len(fitted.strengths))])

    def best(self, fitted: _Fitted, pairs: list[tuple[int, int]]) -> int:
        """The best strength; of those that are nearly best, the one of least log-loss."""
        scores = self.scores(fitted, pairs)
        if np.isnan(scores).all():
            return int(np.argmin(np.abs(np.log(fitted.strengths))))
        near = np.flatnonzero(scores >= np.nanmax(scores) - NEARLY_BEST)
        if self._scoring == "log_loss" or len(near) == 1:
            return int(np.nanargmax(scores))
        return int(near[np.argmax([self._score(fitted, at, pairs, "log_loss") for at in near.tolist()])])

    def _score(self, fitted: _Fitted, at: int, pairs: list[tuple[int, int]], scoring: str | None) -> float:
        scoring = scoring or self._scoring
        key = (scoring, tuple(pairs), float(fitted.strengths[at]))
        if key not in self._known:
            if scoring == "log_loss":
                margins, rows = fitted.judged(self._plan, pairs, at)
                found = -_log_loss(self._data, self._truth, self._chances(margins, rows), rows)
            else:
                judge = self._auc if scoring == "auc" else partial(self._hits, even=scoring == "balanced_accuracy")
                each = [judge(fitted.held_out[pair][at], self._plan.rows[pair[1]]) for pair in pairs]
                found = float(nan_mean(np.array(each), 0))
            self._known[key] = found
        return self._known[key]

    def _auc(self, margins: npt.NDArray[Any], rows: IntArray) -> float:
        areas = []
        for column, scores in zip(self._truth[:, rows], margins, strict=True):
            known = ~np.isnan(column)
            areas.append(weighted_auc(scores[known, None], column[known] == 1, self._data.weights[rows][known])[0])
        return float(nan_mean(np.array(areas), 0))

    def _hits(self, margins: npt.NDArray[Any], rows: IntArray, even: bool) -> float:
        """Share of rows that are right, or the mean of that share over classes; several labels: mean over labels."""
        weights = self._data.weights[rows]
        if self._data.kind == "multi-label":
            cases = [(column, scores > 0) for column, scores in zip(self._truth[:, rows], margins, strict=True)]
        else:
            guess = margins[0] > 0 if self._data.kind == "binary" else margins.argmax(axis=0)
            cases = [(self._data.y[rows].astype(np.float64), guess)]
        found = []
        for truth, guess in cases:
            known = ~np.isnan(truth)
            right, count, sides = (truth == guess)[known], weights[known], truth[known]
            if not len(right):
                found.append(np.nan)
                continue
            each = [np.average(right[at], weights=count[at]) for at in (sides == side for side in np.unique(sides))]
            found.append(np.mean(each) if even else np.average(right, weights=count))
        return float(nan_mean(np.array(found), 0))


def _log_loss(data: Training, truth: DoubleArray, chances: DoubleArray, rows: IntArray) -> float:
    """Mean over rows, of several labels over all that are known; chances of shape (n_rows, n_classes)."""
    least = np.finfo(np.float64).tiny
    weights = data.weights[rows]
    if data.kind == "multi-label":
        sure = np.where(truth[:, rows].T == 1, chances, 1 - chances)
        counts = weights[:, None] * ~np.isnan(truth[:, rows].T)
        return float(-(counts * np.log(np.maximum(sure, least))).sum() / counts.sum())
    sure = chances[np.arange(len(rows)), data.y[rows].astype(np.int64)]
    return float(-np.average(np.log(np.maximum(sure, least)), weights=weights))


def _solved(
    sweep: Any, rule: Any, data: Training, plan: _Plan, by_class: DoubleArray, strengths: DoubleArray
) -> _Fitted:
    truth: npt.NDArray[Any] = data.truth() if rule != "softmax" else data.y[None, :].astype(np.float32)
    weights = by_class * data.weights
    if data.kind == "multi-label" and np.isnan(truth).any():
        weights = weights * ~np.isnan(truth)
        truth = np.nan_to_num(truth)
    found = sweep.solve(truth, weights, plan.left_out, strengths, rule)
    return _Fitted(
        strengths,
        found.coef,
        found.intercept,
        found.held_out,
        found.iterations.max(axis=2),
        found.converged.all(axis=2),
    )


def _moments(X: npt.NDArray[Any], weights: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    """Weighted mean and standard deviation of each column, in one pass over rows moved near zero."""
    kind: Any = np.float64 if X.dtype == np.float64 else np.float32
    near: npt.NDArray[Any] = X[: min(len(X), 4096)].mean(axis=0, dtype=np.float64).astype(kind)
    first, second = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    for start in range(0, len(X), 4096):
        part: npt.NDArray[Any] = X[start : start + 4096].astype(kind)
        part -= near
        count: npt.NDArray[Any] = weights[start : start + 4096].astype(kind)
        first += count @ part
        np.multiply(part, part, out=part)
        second += count @ part
    total = weights.sum()
    first /= total
    return near + first, np.sqrt(np.maximum(second / total - first**2, 0))


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        listing = ", ".join(repr(choice) for choice in choices[:-1])
        raise DataError(f"{name}={value!r}", expected=f"{listing} or {choices[-1]!r}", do="pass one of these")


def _edge(scores: DoubleArray, best: int) -> str:
    """Where the best is at an edge, and more would be gained beyond than is nothing: "low" or "high"; else ""."""
    if len(scores) < 2 or best not in (0, len(scores) - 1):
        return ""
    inside = scores[1] if best == 0 else scores[-2]
    if not scores[best] > inside + NEARLY_BEST:
        return ""
    return "low" if best == 0 else "high"


def _beyond(strengths: DoubleArray, edge: str) -> DoubleArray:
    """Two more strengths outside an edge."""
    if edge == "low":
        return np.asarray(strengths[0] * (strengths[0] / strengths[1]) ** np.array([2.0, 1.0]))
    if edge == "high":
        return np.asarray(strengths[-1] * (strengths[-1] / strengths[-2]) ** np.array([1.0, 2.0]))
    return np.empty(0)


def nan_mean(values: DoubleArray, axis: int) -> DoubleArray:
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    return np.where(count > 0, np.where(known, values, 0).sum(axis=axis) / np.maximum(count, 1), np.nan)
