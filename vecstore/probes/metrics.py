"""How good predictions are: AUC first, with intervals from resampling whole groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.errors import DataError
from vecstore.probes.auc import OneVsRest, resamples
from vecstore.probes.estimates import Interval, Rests, bounded, group_numbers, number, row_means
from vecstore.records import BoolArray, DoubleArray, IntArray, TaskKind

_ROUNDING = 1e-6
"""By so much a probability may be below 0 or above 1."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What `evaluate` found. Shares and areas are from 0 to 1; None where nothing could be computed.

    Attributes
    ----------
    kind : {"binary", "multi-class", "multi-label"}
    auc : float or None
        Area under the ROC curve; several classes: mean of one-vs-rest areas, several labels: mean over labels.
    auc_interval : (float, float) or None
        95 % interval over resamples of groups, wider where few have the rarer class: see `estimates.bounded`.
    auc_per_class : mapping of class to float or None
        Binary: the positive class only.
    auc_interval_per_class : mapping of class to (float, float) or None
    accuracy, balanced_accuracy : float or None
        Of the most probable class; several labels: at 0.5, mean over labels.
    accuracy_interval, balanced_accuracy_interval : (float, float) or None
    n, groups : int
        Rows and groups evaluated.
    notes : tuple of str
        What was left out and why.
    """

    kind: TaskKind
    auc: float | None
    auc_interval: Interval | None
    auc_per_class: dict[str, float | None]
    auc_interval_per_class: dict[str, Interval | None]
    accuracy: float | None
    accuracy_interval: Interval | None
    balanced_accuracy: float | None
    balanced_accuracy_interval: Interval | None
    n: int
    groups: int
    notes: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; intervals and notes as lists."""
        return {key: _plain(value) for key, value in asdict(self).items()}


def evaluate(
    y: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    classes: Sequence[object],
    kind: TaskKind,
    groups: npt.ArrayLike | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> Scores:
    """Score predicted probabilities, with intervals by resampling groups.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_labels)
        Index into `classes`; several labels: 0, 1 or NaN for unknown.
    probabilities : array-like of shape (n, n_classes) or (n,)
        One column per class, in the order of `classes`; binary may give the positive class alone.
    classes : sequence
        Names; for a binary task the last is the positive one.
    kind : {"binary", "multi-class", "multi-label"}
    groups : array-like of shape (n,), optional
        What is resampled together; each row by itself by default.
    n_boot : int
        Number of resamples; 0 gives no intervals.
    seed : int

    Returns
    -------
    Scores

    Raises
    ------
    DataError
        No rows, shapes that do not fit, or probabilities that are not finite or not from 0 to 1.

    Notes
    -----
    A resample in which a class or its complement is absent leaves that class out of its mean, as the whole set does.

    Examples
    --------
    >>> s = evaluate([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], ["no", "yes"], "binary", n_boot=0)
    >>> s.auc, s.accuracy, s.auc_interval
    (0.75, 0.75, None)
    """
    truth, scores, names = checked(y, probabilities, classes, kind)
    codes = group_numbers(groups, len(scores))
    shown = range(len(names) - 1, len(names)) if kind == "binary" else range(len(names))
    rankings = [OneVsRest(scores[:, k], truth[:, k], codes) for k in shown]
    hits = _Hits(truth, scores, kind, codes)
    size = int(codes.max()) + 1
    once = np.ones((1, size))
    auc = np.array([ranking(once.astype(np.uint8))[0] for ranking in rankings])
    boot_auc, (share, balanced, recall) = _bootstrap(rankings, hits, codes, n_boot, seed)
    point = [float(values[0]) for values in hits(once)[:2]]
    rests = [Rests.sides(*ranking.sides) for ranking in rankings]
    mean = float(row_means(auc[None, :])[0])
    labels = [names[k] for k in shown]
    return Scores(
        kind=kind,
        auc=number(mean),
        auc_interval=bounded(mean, row_means(boot_auc), Rests.mean(boot_auc, rests)),
        auc_per_class={label: number(value) for label, value in zip(labels, auc, strict=True)},
        auc_interval_per_class={
            label: bounded(float(auc[j]), boot_auc[:, j], rests[j]) for j, label in enumerate(labels)
        },
        accuracy=number(point[0]),
        accuracy_interval=bounded(point[0], share, Rests.on(size)),
        balanced_accuracy=number(point[1]),
        balanced_accuracy_interval=bounded(
            point[1], balanced, Rests.mean(recall, [Rests.on(n) for n in hits.groups.tolist()])
        ),
        n=len(scores),
        groups=size,
        notes=tuple(_notes(truth, names, auc, labels, kind)),
    )


class _Hits:
    """Accuracy and balanced accuracy from sums per group: a resample is one product."""

    def __init__(self, truth: DoubleArray, scores: DoubleArray, kind: TaskKind, codes: IntArray) -> None:
        self._labels = kind == "multi-label"
        if self._labels:
            guess = scores > 0.5
            cells = np.hstack([truth == 1, truth == 0])
            right = np.hstack([(truth == 1) & guess, (truth == 0) & ~guess])
        else:
            cells = truth == 1
            # Ties go to the first class, as scikit-learn's argmax does.
            right = cells & (np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, None])
        size = int(codes.max()) + 1
        columns = np.hstack([cells, right]).T.astype(np.float64)
        self._sums = np.stack([np.bincount(codes, column, size) for column in columns])
        self.groups: IntArray = np.count_nonzero(self._sums[: cells.shape[1]], axis=1)
        """That have rows of each class; of labels with it, then without it."""

    def __call__(self, drawn: DoubleArray) -> tuple[DoubleArray, DoubleArray, DoubleArray]:
        """Accuracy, balanced accuracy, and what the latter is a mean of, of shape (block, len(groups))."""
        # Not `@` here either.
        cells, right = np.split(np.einsum("cg,bg->bc", self._sums, drawn), 2, axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = right / cells
            if not self._labels:
                return right.sum(axis=1) / cells.sum(axis=1), row_means(recall), recall
            n_labels = cells.shape[1] // 2
            share = (right[:, :n_labels] + right[:, n_labels:]) / (cells[:, :n_labels] + cells[:, n_labels:])
            return row_means(share), row_means((recall[:, :n_labels] + recall[:, n_labels:]) / 2), recall


def _bootstrap(
    rankings: list[OneVsRest], hits: _Hits, codes: IntArray, n_boot: int, seed: int
) -> tuple[DoubleArray, list[DoubleArray]]:
    areas, shares = [np.empty((0, len(rankings)))], [(np.empty(0), np.empty(0), np.empty((0, len(hits.groups))))]
    for drawn in resamples(np.arange(int(codes.max()) + 1), n_boot, seed):  # as large as suits the groups
        whole = drawn.astype(np.uint8 if drawn.max() < 256 else np.int64)
        areas.append(np.stack([ranking(whole) for ranking in rankings], axis=1))
        shares.append(hits(drawn))
    return np.concatenate(areas), [np.concatenate(parts) for parts in zip(*shares, strict=True)]


def checked(
    y: npt.ArrayLike, probabilities: npt.ArrayLike, classes: Sequence[object], kind: TaskKind
) -> tuple[DoubleArray, DoubleArray, list[str]]:
    """Truth and scores as float64 of shape (n, n_classes); truth 0, 1 or NaN."""
    names = [str(name) for name in classes]
    scores = np.asarray(probabilities, dtype=np.float64)
    if kind == "binary" and scores.ndim == 1:
        scores = np.stack([1 - scores, scores], axis=1)
    if scores.ndim != 2 or scores.shape[1] != len(names) or (kind == "binary" and len(names) != 2):
        raise DataError(
            f"probabilities of shape {np.shape(probabilities)} for {len(names)} classes of a {kind} task",
            expected="a row per item and a column per class",
            do="pass the output of predict_proba and the classes of the same probe",
        )
    if not len(scores):
        raise DataError("no rows to evaluate", expected="at least one", do="check the split or the `where`")
    if not np.isfinite(scores).all():
        raise DataError(
            f"{int((~np.isfinite(scores)).any(axis=1).sum())} rows have probabilities that are not finite",
            expected="numbers from 0 to 1",
            do="leave out rows without a prediction",
        )
    if scores.min() < -_ROUNDING or scores.max() > 1 + _ROUNDING:
        raise DataError(
            f"probabilities from {scores.min():g} to {scores.max():g}",
            expected="numbers from 0 to 1",
            do="pass the output of predict_proba, not of decision_function",
        )
    labels = np.asarray(y, dtype=np.float64)
    if kind != "multi-label":
        if labels.shape != (len(scores),) or not np.isin(labels, np.arange(len(names))).all():
            raise DataError(
                f"y of shape {labels.shape} for {len(scores)} rows, or values that are no class index",
                expected=f"an index from 0 to {len(names) - 1} per row",
                do="encode labels by the probe's classes",
            )
        labels = (labels[:, None] == np.arange(len(names))).astype(np.float64)
    elif labels.shape != scores.shape or not (np.isnan(labels) | (labels == 0) | (labels == 1)).all():
        raise DataError(
            f"y of shape {labels.shape} for probabilities of shape {scores.shape}, or values beside 0, 1 and NaN",
            expected="0, 1 or NaN per item and label",
            do="encode labels as an indicator matrix",
        )
    return labels, scores, names


def _notes(truth: DoubleArray, names: list[str], auc: DoubleArray, labels: list[str], kind: TaskKind) -> list[str]:
    notes = []
    for label in [label for label, value in zip(labels, auc, strict=True) if np.isnan(value)]:
        column = truth[:, names.index(label)]
        lack = "positive" if not (column == 1).any() else "negative"
        left_out = "no AUC" if kind == "binary" else "left out of the mean AUC"
        notes.append(f"{label}: no {lack} row in this part, {left_out}")
    if kind == "multi-label":
        unknown: BoolArray = np.isnan(truth)
        if unknown.any():
            notes.append(f"{int(unknown.sum())} unknown labels were left out")
    return notes


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return {key: _plain(one) for key, one in value.items()} if isinstance(value, dict) else value
