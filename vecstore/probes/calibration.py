"""Whether probabilities mean what they say, and how they are made to.

A calibrator takes a probe's probabilities, whatever head they come from, and gives better ones. It is fitted on
out-of-fold probabilities of the training part. Its numbers are plain, so it is saved as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.sparse import coo_array
from scipy.special import expit, log_softmax, logit, softmax
from scipy.stats import t as student

from vecstore.errors import DataError, NotFound
from vecstore.probes.estimates import (
    LEVEL,
    Estimate,
    Interval,
    Rests,
    bounded,
    group_numbers,
    number,
    ratio,
    replicates,
    row_means,
)
from vecstore.probes.measures import shown_columns
from vecstore.probes.metrics import checked
from vecstore.records import DoubleArray, IntArray, TaskKind

METHODS = ("none", "temperature", "platt", "isotonic")

BINS = 15
"""Of the expected calibration error, as Guo et al. (2017) have it."""

CURVE_BINS = 10
"""Of the reliability curve: bins of equally many rows."""

MOST_BRIER: Mapping[TaskKind, float] = {"binary": 1.0, "multi-class": 2.0, "multi-label": 1.0}
"""The largest Brier score there can be."""

MOST_CURVES = 20
"""Classes whose reliability curves have intervals."""

_TOP = "\0top"

_LEAST = 1e-12
"""Probabilities are kept this far from 0 and 1 before their log-odds are taken."""


@dataclass(frozen=True, slots=True)
class Calibrator:
    """Turns probabilities into calibrated ones.

    Attributes
    ----------
    method : {"temperature", "platt", "isotonic"}
    kind : {"binary", "multi-class", "multi-label"}
    parameters : dict of str to list
        "temperature": one number log-odds (several classes: logs of probabilities) are divided by. "slope",
        "offset": per column, of log-odds. "x", "y": per column, where a rising line bends.
        Columns are the classes or labels; of a binary task the positive class.
    rows, groups : int
        It was fitted on.
    """

    method: str
    kind: TaskKind
    parameters: dict[str, Any]
    rows: int
    groups: int

    def __call__(self, probabilities: DoubleArray) -> DoubleArray:
        """Calibrated probabilities, of shape (n, n_classes), float64; of one class per row they sum to 1."""
        if self.method == "temperature":
            heat = float(self.parameters["temperature"])
            if self.kind == "multi-class":
                return np.asarray(softmax(np.log(np.clip(probabilities, _LEAST, None)) / heat, axis=1))
            return self._whole(expit(_log_odds(self._columns(probabilities)) / heat))
        columns = self._columns(probabilities)
        if self.method == "platt":
            slope, offset = (np.array(self.parameters[name]) for name in ("slope", "offset"))
            return self._whole(expit(_log_odds(columns) * slope + offset))
        pairs = zip(columns.T, self.parameters["x"], self.parameters["y"], strict=True)
        return self._whole(np.stack([np.interp(column, x, y) for column, x, y in pairs], axis=1))

    def _columns(self, probabilities: DoubleArray) -> DoubleArray:
        return probabilities[:, 1:] if self.kind == "binary" else probabilities

    def _whole(self, columns: DoubleArray) -> DoubleArray:
        """All classes from the columns that were calibrated."""
        if self.kind == "binary":
            return np.hstack([1 - columns, columns])
        if self.kind == "multi-label":
            return columns
        total = columns.sum(axis=1, keepdims=True)
        return np.where(total > 0, columns / np.where(total > 0, total, 1), 1 / columns.shape[1])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, told: Mapping[str, Any], n_classes: int) -> Calibrator:
        """Inverse of `to_dict`.

        Raises
        ------
        ValueError
            Numbers that are none, or not of so many classes.
        """
        found = cls(**{name: told[name] for name in ("method", "kind", "parameters", "rows", "groups")})
        names = {"temperature": ("temperature",), "platt": ("slope", "offset"), "isotonic": ("x", "y")}[found.method]
        columns = 1 if found.kind == "binary" else n_classes
        if set(found.parameters) != set(names):
            raise ValueError(f"a calibration by {found.method} has {', '.join(names)}")
        for name in names:
            value = found.parameters[name]
            per_column = [value] if found.method == "temperature" else value
            if found.method != "temperature" and len(value) != columns:
                raise ValueError(f"{name} of {len(value)} columns, not {columns}")
            for one in per_column:
                line = np.atleast_1d(np.asarray(one, np.float64))
                if not len(line) or not np.isfinite(line).all():
                    raise ValueError(f"{name} is not finite")
        if found.method == "isotonic":
            for x, y in zip(found.parameters["x"], found.parameters["y"], strict=True):
                if len(x) != len(y) or (np.diff(x) < 0).any():
                    raise ValueError("x and y are no line")
        if found.method == "temperature" and not found.parameters["temperature"] > 0:
            raise ValueError("a temperature of 0 or less")
        return found


def fit_calibrator(
    method: str,
    y: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    kind: TaskKind,
    groups: npt.ArrayLike | None = None,
) -> Calibrator:
    """Learn a calibrator from probabilities that were predicted for rows their model had not seen.

    Parameters
    ----------
    method : {"temperature", "platt", "isotonic"}
        One number for all; slope and offset per class; or any rising line per class.
    y : array-like of shape (n,) or (n, n_labels)
        Class index; several labels: 0, 1 or NaN for unknown.
    probabilities : array-like of shape (n, n_classes) or (n,)
        Binary may give the positive class alone.
    kind : {"binary", "multi-class", "multi-label"}
    groups : array-like of shape (n,), optional
        Only counted.

    Returns
    -------
    Calibrator

    Raises
    ------
    NotFound
        Another method.
    DataError
        As `evaluate`; or a class without rows on either side.

    Notes
    -----
    Temperature: Guo et al. (2017), ICML. Slope and offset: Platt (1999), with his targets, which keep the slope
    finite; the slope is never negative. Isotonic: Zadrozny & Elkan (2002), KDD.
    """
    if method not in METHODS[1:]:
        raise NotFound(f"no calibration {method!r}", expected=f"one of: {', '.join(METHODS)}", do="--calibrate platt")
    n_classes = 2 if np.ndim(probabilities) == 1 else np.shape(probabilities)[1]
    truth, scores, names = checked(y, probabilities, range(n_classes), kind)
    shown = shown_columns(names, kind)
    for k in shown:
        if not ((truth[:, k] == 1).any() and (truth[:, k] == 0).any()):
            raise DataError(
                f"class {k} has rows on one side only", expected="rows with and without it", do="calibrate by none"
            )
    counted = len(scores), int(group_numbers(groups, len(scores)).max()) + 1
    if method == "temperature":
        return Calibrator(method, kind, {"temperature": _temperature(truth, scores, kind)}, *counted)
    pairs = [_known(truth[:, k], scores[:, k]) for k in shown]
    lines = [_platt(*pair) if method == "platt" else _isotonic(*pair) for pair in pairs]
    names_of = ("slope", "offset") if method == "platt" else ("x", "y")
    return Calibrator(method, kind, {name: [line[i] for line in lines] for i, name in enumerate(names_of)}, *counted)


def cross_calibrated(
    method: str,
    y: npt.NDArray[Any],
    probabilities: DoubleArray,
    kind: TaskKind,
    folds: IntArray,
    groups: npt.ArrayLike | None = None,
) -> tuple[Calibrator | None, DoubleArray]:
    """A calibrator of all rows; and every row's probabilities by a calibrator of the other folds.

    Parameters
    ----------
    method : {"none", "temperature", "platt", "isotonic"}
    y, probabilities, kind, groups
        As of `fit_calibrator`: out of fold.
    folds : ndarray of shape (n,), int64

    Returns
    -------
    calibrator : Calibrator or None
    probabilities : ndarray of shape (n, n_classes), float64
    """
    if method == "none":
        return None, probabilities
    out = np.empty_like(probabilities)
    for fold in np.unique(folds):
        inside = folds == fold
        made = fit_calibrator(method, y[~inside], probabilities[~inside], kind)
        out[inside] = made(probabilities[inside])
    return fit_calibrator(method, y, probabilities, kind, groups), out


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Rows of nearly the same predicted probability.

    Attributes
    ----------
    low, high : float
        Least and largest probability in it.
    n : int
    predicted, observed : float
        Mean probability, and share of rows where the class holds.
    interval : (float, float) or None
        95 % of the share, by resampling groups.
    """

    low: float
    high: float
    n: int
    predicted: float
    observed: float
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Reliability:
    """How far probabilities of a class are from shares.

    Attributes
    ----------
    ece, ece_mass : float
        Expected calibration error over `BINS` bins of equal width, or of equally many rows: mean distance of
        predicted and observed, weighted by rows.
    slope, intercept : float or None
        Of the log-odds of the truth on those predicted (Cox 1958): 1 and 0 where calibrated; a slope below 1 is
        overconfident. The intercept is that of calibration in the large: of a line whose slope is held at 1. None
        where there is no such line: one class only, or the classes do not overlap.
    slope_interval : (float, float) or None
        95 %, by the variance between groups (sandwich); None where there is no slope, or one group.
    curve : list of ReliabilityBin
        `CURVE_BINS` bins of equally many rows; equal probabilities are never divided.
    """

    ece: float
    ece_mass: float
    slope: float | None
    intercept: float | None
    curve: list[ReliabilityBin]
    slope_interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """What `calibration` found.

    Attributes
    ----------
    brier : Estimate
        Mean squared distance of probabilities from truth: of the positive class of a binary task (0 to 1); summed
        over the classes (0 to 2, Brier 1950); mean over labels (0 to 1).
    brier_of_prior : float
        Of always predicting the shares of the evaluated rows: what to be better than.
    log_loss_of_prior : float
        The same of the log-loss.
    log_loss : Estimate
        Natural logarithm, of probabilities not below 2.2e-16; mean over labels.
    bins, curve_bins : int
    per_class : dict of class to Reliability
        Of a binary task the positive class only.
    top : Reliability or None
        Several classes: of the most probable class, whether it is right. ECE as Guo et al. (2017) have it.
    """

    brier: Estimate
    brier_of_prior: float
    log_loss_of_prior: float
    log_loss: Estimate
    bins: int
    curve_bins: int
    per_class: dict[str, Reliability]
    top: Reliability | None
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def calibration(
    y: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    classes: Sequence[object],
    kind: TaskKind,
    groups: npt.ArrayLike | None = None,
    *,
    bins: int = BINS,
    curve_bins: int = CURVE_BINS,
    n_boot: int = 1000,
    seed: int = 0,
) -> Calibration:
    """Judge whether probabilities mean what they say.

    Parameters
    ----------
    y, probabilities, classes, kind, groups
        As of `vecstore.probes.evaluate`.
    bins, curve_bins : int
        Of the expected calibration error and of the curve.
    n_boot, seed : int

    Returns
    -------
    Calibration

    Raises
    ------
    DataError
        As `evaluate`; fewer than 1 bin.

    Examples
    --------
    >>> c = calibration([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], ["no", "yes"], "binary", n_boot=0)
    >>> round(c.brier.value, 6), round(c.per_class["yes"].ece, 4)
    (0.158125, 0.3375)
    """
    if bins < 1 or curve_bins < 1:
        raise DataError(f"bins={bins}, curve_bins={curve_bins}", expected="at least 1", do="leave them out")
    truth, scores, names = checked(y, probabilities, classes, kind)
    codes = group_numbers(groups, len(scores))
    size, known = int(codes.max()) + 1, ~np.isnan(truth)
    whole, resampled = replicates(Losses(truth, scores, kind, codes), size, n_boot, seed)
    shown = shown_columns(names, kind)
    columns = {
        names[k]: _Column(truth[known[:, k], k], scores[known[:, k], k], codes[known[:, k]])
        for k in shown
        if known[:, k].any()
    }
    if kind == "multi-class":
        best = scores.argmax(axis=1)
        columns[_TOP] = _Column(truth[np.arange(len(scores)), best], scores.max(axis=1), codes)
    drawn_for = [
        *list(columns)[:MOST_CURVES],
        *([_TOP] if kind == "multi-class" and len(columns) > MOST_CURVES else []),
    ]
    notes = []
    if len(columns) > len(drawn_for):
        notes.append(f"reliability curves beyond the first {MOST_CURVES} classes have no intervals")
    shares = _shares([columns[name] for name in drawn_for], curve_bins, size, n_boot, seed)
    intervals = dict(zip(drawn_for, shares, strict=True))
    told = {name: _reliability(column, bins, curve_bins, intervals.get(name)) for name, column in columns.items()}
    top = told.pop(_TOP, None)
    prior = np.where(known, truth, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    flat = Losses(truth, np.broadcast_to(prior, scores.shape), kind, codes)(np.ones((1, size)))
    return Calibration(
        brier=Estimate.of(float(whole["brier"]), resampled["brier"], Rests.on(size), most=MOST_BRIER[kind]),
        brier_of_prior=float(flat["brier"][0]),
        log_loss_of_prior=float(flat["log_loss"][0]),
        log_loss=Estimate.of(float(whole["log_loss"]), resampled["log_loss"], Rests.on(size), most=np.inf),
        bins=bins,
        curve_bins=curve_bins,
        per_class=told,
        top=top,
        notes=notes,
    )


class Losses:
    """Brier score and log-loss under weights of the groups, each of shape (block,).

    Parameters
    ----------
    truth, scores : ndarray of shape (n, n_classes), float64
    kind : {"binary", "multi-class", "multi-label"}
    codes : ndarray of shape (n,), int64
    """

    def __init__(self, truth: DoubleArray, scores: DoubleArray, kind: TaskKind, codes: IntArray) -> None:
        squares, logs, held = _losses(truth, scores, kind)
        self._width, size = held.shape[1], int(codes.max()) + 1
        self._sums = np.stack([np.bincount(codes, column, size) for part in (squares, logs, held) for column in part.T])

    def __call__(self, drawn: DoubleArray) -> dict[str, DoubleArray]:
        """Means over rows; several labels: mean over labels."""
        ends = [self._width, 2 * self._width]
        square, log, n = np.split(np.einsum("cg,bg->bc", self._sums, drawn), ends, axis=1)
        return {"brier": row_means(ratio(square, n)), "log_loss": row_means(ratio(log, n))}


def _losses(truth: DoubleArray, scores: DoubleArray, kind: TaskKind) -> tuple[DoubleArray, DoubleArray, DoubleArray]:
    """Squared and logarithmic loss of each row, and whether it counts: of shape (n, 1); of several labels per label."""
    least = np.finfo(np.float64).eps  # as scikit-learn has it: a sure mistake costs 36.04
    if kind == "multi-label":
        known = ~np.isnan(truth)
        sure = np.where(truth == 1, scores, 1 - scores)
        squares, logs = (1 - sure) ** 2, -np.log(np.maximum(sure, least))
        return np.where(known, squares, 0), np.where(known, logs, 0), known.astype(np.float64)
    sure = scores[truth == 1]  # one per row, in the order of rows
    squares = (1 - sure) ** 2 if kind == "binary" else ((scores - truth) ** 2).sum(axis=1)
    return squares[:, None], -np.log(np.maximum(sure, least))[:, None], np.ones((len(scores), 1))


@dataclass(frozen=True, slots=True)
class _Column:
    """Truth (0 or 1), probability and group of the rows that a reliability curve is of."""

    yes: DoubleArray
    scores: DoubleArray
    codes: IntArray


def _shares(
    columns: Sequence[_Column], curve_bins: int, size: int, n_boot: int, seed: int
) -> list[list[Interval | None]]:
    """Interval of the observed share in each bin of each column: all of them from the same resamples of groups."""
    if not columns:
        return []
    bins_of = [_equal_mass(column.scores, curve_bins) for column in columns]
    counts = [int(bin_of.max()) + 1 for bin_of in bins_of]
    starts = np.concatenate([[0], np.cumsum(counts)])
    rows = np.concatenate([bin_of + start for bin_of, start in zip(bins_of, starts[:-1], strict=True)])
    at = np.concatenate([column.codes for column in columns])
    shape = (int(starts[-1]), size)
    held = coo_array((np.ones(len(rows)), (rows, at)), shape=shape).tocsr()
    hits = coo_array((np.concatenate([column.yes for column in columns]), (rows, at)), shape=shape).tocsr()

    def shares(drawn: DoubleArray) -> dict[str, DoubleArray]:
        turned = np.ascontiguousarray(drawn.T)
        return {"observed": ratio(np.asarray(hits @ turned), np.asarray(held @ turned)).T}

    whole, resampled = replicates(shares, size, n_boot, seed)
    groups = np.diff(held.indptr).tolist()  # that have rows in each bin
    observed = whole["observed"].tolist()
    found = [
        bounded(value, column, Rests.on(n))
        for value, column, n in zip(observed, resampled["observed"].T, groups, strict=True)
    ]
    return [found[start:end] for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]


def _reliability(
    column: _Column, bins: int, curve_bins: int, intervals: Sequence[Interval | None] | None
) -> Reliability:
    yes, scores = column.yes, column.scores
    wide = np.clip((scores * bins).astype(np.int64), 0, bins - 1)
    bin_of = _equal_mass(scores, curve_bins)
    curve = []
    for at in range(int(bin_of.max()) + 1):
        inside = bin_of == at
        least, most = float(scores[inside].min()), float(scores[inside].max())
        means = float(scores[inside].mean()), float(yes[inside].mean())
        curve.append(ReliabilityBin(least, most, int(inside.sum()), *means, intervals[at] if intervals else None))
    slope, intercept, bounds = _cox(yes, scores, column.codes)
    ece = _ece(yes, scores, wide), _ece(yes, scores, _equal_mass(scores, bins))
    return Reliability(*ece, slope, intercept, curve, bounds)


def _ece(yes: DoubleArray, scores: DoubleArray, bin_of: IntArray) -> float:
    gaps = np.bincount(bin_of, scores - yes)
    return float(np.abs(gaps).sum() / len(scores))


def _equal_mass(scores: DoubleArray, bins: int) -> IntArray:
    """Bin of each row: equally many rows in each, as far as equal scores stay together; numbered without gaps."""
    ordered = np.sort(scores)
    # The bin of a score is that of its first row in order.
    first = np.searchsorted(ordered, scores, side="left")
    return np.unique(first * bins // len(scores), return_inverse=True)[1].astype(np.int64)


def _cox(yes: DoubleArray, scores: DoubleArray, codes: IntArray) -> tuple[float | None, float | None, Interval | None]:
    """Calibration slope, intercept where the slope is held at 1, the slope's interval; None where there is none."""
    if yes.min(initial=1) == yes.max(initial=0):
        return None, None, None
    odds = _log_odds(scores)
    slope, offset = _line(odds, yes)
    shift = 0.0
    for _ in range(100):
        chance = expit(odds + shift)
        step = float((yes - chance).sum() / max(float((chance * (1 - chance)).sum()), 1e-300))
        shift += float(np.clip(step, -2, 2))
        if abs(step) < 1e-12:
            break
    separable = odds[yes == 1].min() >= odds[yes == 0].max()
    if separable or not np.isfinite(slope):
        return None, number(shift), None
    return number(slope), number(shift), _slope_interval(odds, yes, codes, slope, offset)


def _slope_interval(
    odds: DoubleArray, yes: DoubleArray, codes: IntArray, slope: float, offset: float
) -> Interval | None:
    """By the sandwich of Liang & Zeger (1986), of groups, with its usual factor for few of them."""
    numbers = np.unique(codes, return_inverse=True)[1]
    size = int(numbers.max()) + 1
    design = np.stack([odds, np.ones(len(odds))], axis=1)
    chance = expit(slope * odds + offset)
    bread = (design * (chance * (1 - chance))[:, None]).T @ design
    if size < 2 or np.linalg.cond(bread) > 1e12:
        return None
    scored = np.stack([np.bincount(numbers, column * (yes - chance), size) for column in design.T], axis=1)
    spread = np.linalg.solve(bread, np.linalg.solve(bread, scored.T @ scored).T) * size / (size - 1)
    half = float(student.ppf(0.5 + LEVEL / 2, size - 1)) * float(np.sqrt(max(spread[0, 0], 0.0)))
    return slope - half, slope + half


def _log_odds(probabilities: DoubleArray) -> DoubleArray:
    return np.asarray(logit(np.clip(probabilities, _LEAST, 1 - _LEAST)))


def _known(truth: DoubleArray, scores: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    known = ~np.isnan(truth)
    return truth[known], scores[known]


def _temperature(truth: DoubleArray, scores: DoubleArray, kind: TaskKind) -> float:
    """The temperature of least log-loss, from 1/100 to 100."""
    if kind == "multi-class":
        logs = np.log(np.clip(scores, _LEAST, None))
        right = truth == 1

        def loss(log_heat: float) -> float:
            return -float(log_softmax(logs / np.exp(log_heat), axis=1)[right].mean())
    else:
        shown = slice(1, None) if kind == "binary" else slice(None)
        known = ~np.isnan(truth[:, shown])
        signed = np.where(truth[:, shown] == 1, 1.0, -1.0)[known] * _log_odds(scores[:, shown])[known]

        def loss(log_heat: float) -> float:
            return float(np.logaddexp(0, -signed / np.exp(log_heat)).mean())

    found = minimize_scalar(loss, bounds=(-np.log(100), np.log(100)), method="bounded", options={"xatol": 1e-10})
    return float(np.exp(found.x))


def _platt(yes: DoubleArray, scores: DoubleArray) -> tuple[float, float]:
    positive, negative = float(yes.sum()), float((1 - yes).sum())
    aim = np.where(yes == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))
    slope, offset = _line(_log_odds(scores), aim)
    if slope < 0:  # worse than guessing: every row gets the share of positives
        slope, offset = 0.0, float(logit((positive + 1) / (positive + negative + 2)))
    return slope, offset


def _line(odds: DoubleArray, aim: DoubleArray) -> tuple[float, float]:
    """Slope and offset of least log-loss against targets from 0 to 1, by Newton's method with step halving."""
    middle, spread = float(odds.mean()), float(odds.std()) or 1.0
    design = np.stack([(odds - middle) / spread, np.ones(len(odds))], axis=1)
    at = np.array([0.0, float(logit(np.clip(aim.mean(), _LEAST, 1 - _LEAST)))])

    def cost(point: DoubleArray) -> float:
        z = design @ point
        return float((np.logaddexp(0, z) - aim * z).sum())

    for _ in range(100):
        chance = expit(design @ at)
        gradient = design.T @ (chance - aim)
        hessian = (design * (chance * (1 - chance))[:, None]).T @ design + 1e-12 * np.eye(2)
        step, now, length = np.linalg.solve(hessian, gradient), cost(at), 1.0
        while cost(at - length * step) > now and length > 1e-10:
            length /= 2
        at = at - length * step
        if np.abs(gradient @ step) <= 1e-18 * max(now, 1.0):
            break
    slope = float(at[0]) / spread
    return slope, float(at[1]) - slope * middle


def _isotonic(yes: DoubleArray, scores: DoubleArray) -> tuple[list[float], list[float]]:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, yes)
    return fitted.X_thresholds_.tolist(), fitted.y_thresholds_.tolist()
