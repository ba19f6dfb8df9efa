"""How good a classifier is with few labels: repeated draws by group, one classifier per draw.

Nothing is chosen on a draw, because one group per class leaves nothing to choose on. Vectors are standardised by all
rows that are not judged on, labels unseen, and brought to a mean squared length of 1; then a fixed rule learns from
the rows drawn (`RULES`). C = 10 is within 0.003 AUC of the best of 0.1 to 1000 at every size from 1 to 128 groups a
class, on the bundled vectors of breast ultrasound, chest X-rays, skin and mammograms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.errors import DataError, NotFound
from vecstore.probes.auc import weighted_auc
from vecstore.probes.linear import nan_mean
from vecstore.probes.splits import ATTEMPTS, grouped_folds, numbered
from vecstore.records import BoolArray, DoubleArray, IntArray

PER_CLASS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
RULES = {
    "probe": "logistic regression, C = 10 on standardised vectors of mean squared length 1",
    "svm": "linear SVM, C = 1 on standardised vectors of mean squared length 1",
    "knn": "up to 200 nearest neighbours of those drawn, standardised, softmax votes of temperature 0.1",
}
STRENGTHS = {"probe": 10.0, "svm": 1.0}
HELD_OUT = 3  # folds, one of which is judged on, where there is no test part
NEIGHBOURS, TEMPERATURE = 200, 0.1

SMALL = 1 << 22
"""Numbers below which one thread fits faster: hundreds of short products, at each of which threads wait for others."""


@dataclass(frozen=True, slots=True)
class Point:
    """Classifiers learned from equally many groups per class.

    Attributes
    ----------
    per_class : int or None
        Groups drawn per class; None: all there are.
    rows : float
        Labelled rows they learned from, mean over draws.
    auc : float
        Mean over draws; several classes or labels: of the mean over them.
    sd : float
        Standard deviation over draws; 0 for a single one.
    low, high : float
        The worst and the best draw.
    draws : int
    """

    per_class: int | None
    rows: float
    auc: float
    sd: float
    low: float
    high: float
    draws: int


def learning_curve(
    X: npt.NDArray[Any],
    y: npt.NDArray[Any],
    groups: IntArray,
    *,
    test: BoolArray | None = None,
    per_class: Sequence[int] = PER_CLASS,
    repeats: int = 10,
    model: str = "probe",
    seed: int = 0,
) -> list[Point]:
    """AUC by number of labelled groups per class.

    Parameters
    ----------
    X : ndarray of shape (n, d), float
        Finite.
    y : ndarray of shape (n,), int64, or (n, n_labels), float64
        Class index from 0; several labels: 0, 1 or NaN. There a class is a label, or its absence.
    groups : ndarray of shape (n,), int64
        What is drawn: of a group all rows of the class are labelled.
    test : ndarray of shape (n,), bool, optional
        Rows to judge on; by default a third of the groups, another one for each repeat.
    per_class : sequence of int
        Sizes; those beyond the groups of the rarest class are left out. In one repeat, a larger draw holds the
        smaller one.
    repeats : int
    model : {"probe", "svm", "knn"}
    seed : int

    Returns
    -------
    list of Point
        By size; the last has all rows that are not judged on.

    Raises
    ------
    NotFound
        Another model.
    DataError
        Sizes or repeats below 1, or a class in too few groups.
    """
    if model not in RULES:
        raise NotFound(
            f"no learning curve of the model {model!r}", expected=f"one of: {', '.join(RULES)}", do="pass model='probe'"
        )
    if repeats < 1 or not len(per_class) or min(per_class) < 1 or any(size != int(size) for size in per_class):
        raise DataError(
            f"per_class={list(per_class)} and repeats={repeats}", expected="whole numbers from 1", do="leave them out"
        )
    features = None if test is None else _standardised(X, ~test)
    sides = _sides(y)
    codes = numbered(groups)
    found: dict[int | None, list[tuple[int, float]]] = {}
    for repeat in range(repeats):
        judged = test if test is not None else _third(y, sides, codes, seed, repeat)
        pool = ~judged
        if test is None:
            features = _standardised(X, pool)
        assert features is not None
        for size, rows in _draws(sides & pool, codes, per_class, np.random.default_rng([seed, repeat])):
            if size is None and test is not None and repeat:
                continue  # all rows again would be the same classifier again
            scores = _scores(features[rows], y[rows], features[judged], model)
            found.setdefault(size, []).append((int(rows.sum()), _auc(scores, y[judged])))
    # A size that only some splits have room for would be a mean over other test parts.
    whole = {size: values for size, values in found.items() if size is None or len(values) == repeats}
    return [_point(size, values) for size, values in sorted(whole.items(), key=lambda one: one[0] or np.inf)]


def _third(y: npt.NDArray[Any], sides: BoolArray, codes: IntArray, seed: int, repeat: int) -> BoolArray:
    """Rows of a random third of the groups, drawn for each class by itself; every class is on both sides.

    A group of several classes is drawn with the rarest of them. (Folds would not do: they are dealt as evenly as it
    goes, which for groups of many sizes is the same way for every seed.)
    """
    held = np.stack([np.bincount(codes, side) > 0 for side in sides])
    rarest = np.argsort(held.sum(axis=1), kind="stable")
    stratum = rarest[held[rarest].argmax(axis=0)]
    for attempt in range(ATTEMPTS):
        generator = np.random.default_rng([seed, repeat, attempt])
        order = generator.permutation(len(stratum))
        order = order[np.argsort(stratum[order], kind="stable")]
        # Every third of them in the order of classes, from a random place on.
        drawn = np.zeros(len(stratum), np.bool_)
        drawn[order[int(generator.integers(HELD_OUT)) :: HELD_OUT]] = True
        if all((drawn & one).any() and (~drawn & one).any() for one in held):
            return np.asarray(drawn[codes])
    return np.asarray(grouped_folds(y, codes, HELD_OUT, seed + repeat) == 0)


def _standardised(X: npt.NDArray[Any], by: BoolArray) -> npt.NDArray[Any]:
    """Equal spread of every feature over some rows, and a mean squared length of 1; float32."""
    center, spread = X[by].mean(axis=0, dtype=np.float64), X[by].std(axis=0, dtype=np.float64)
    flat = spread <= 10 * np.finfo(X.dtype).eps * np.abs(center)
    scale = np.where(flat | (spread == 0), np.inf, spread) * np.sqrt(X.shape[1])
    return np.asarray((X - center) / scale, np.float32)


def _sides(y: npt.NDArray[Any]) -> BoolArray:
    """Rows of each class, of shape (n_classes, n); of several labels of each label and of each absence."""
    if y.ndim == 2:
        return np.vstack([y.T == 1, y.T == 0])
    return np.asarray(y == np.arange(int(y.max()) + 1)[:, None])


def _draws(
    sides: BoolArray, codes: IntArray, sizes: Sequence[int], generator: np.random.Generator
) -> Iterator[tuple[int | None, BoolArray]]:
    """Sizes with the rows drawn, of shape (n,); at last all rows."""
    orders = [generator.permutation(np.unique(codes[side])) for side in sides]
    room = min(len(order) for order in orders)
    if room < 1:
        raise DataError(
            "a class has no group outside the part that is judged on", expected="at least one", do="leave the class out"
        )
    for size in sorted(set(sizes)):
        if size <= room:
            drawn = np.zeros(sides.shape[1], np.bool_)
            for side, order in zip(sides, orders, strict=True):
                drawn |= side & np.isin(codes, order[:size])
            yield size, drawn
    yield None, np.asarray(sides.any(axis=0), np.bool_)


def _scores(X: npt.NDArray[Any], y: npt.NDArray[Any], judged: npt.NDArray[Any], model: str) -> DoubleArray:
    """Scores of shape (n_judged, 1 or n_classes); of several labels each learned where it is known."""
    if y.ndim == 1:
        return _scored(X, y, judged, model)
    columns = []
    for label in y.T:
        known = ~np.isnan(label)
        columns.append(_scored(X[known], label[known].astype(np.int64), judged, model))
    return np.hstack(columns)


def _scored(X: npt.NDArray[Any], y: IntArray, judged: npt.NDArray[Any], model: str) -> DoubleArray:
    if model == "knn":
        return _votes(X, y, judged)
    if model == "svm":
        from sklearn.svm import LinearSVC

        scores = LinearSVC(C=STRENGTHS[model], dual="auto", random_state=0).fit(X, y).decision_function(judged)
    else:
        from sklearn.linear_model import LogisticRegression

        with _threads().limit(limits=1 if X.size < SMALL else None, user_api="blas"):
            scores = LogisticRegression(C=STRENGTHS[model], max_iter=1000).fit(X, y).decision_function(judged)
    return np.asarray(scores if scores.ndim == 2 else scores[:, None], np.float64)


@cache
def _threads() -> Any:
    """What limits the threads of matrix products."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _votes(X: npt.NDArray[Any], y: IntArray, judged: npt.NDArray[Any]) -> DoubleArray:
    """Shares of softmax votes; of two classes of the second alone."""
    unit, asked = (part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in (X, judged))
    classes = np.unique(y)
    out = np.empty((len(asked), len(classes)))
    k = min(NEIGHBOURS, len(unit))
    for start in range(0, len(asked), 1024):
        cosines = asked[start : start + 1024] @ unit.T
        nearest = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        near = np.take_along_axis(cosines, nearest, axis=1).astype(np.float64)
        votes = np.exp((near - near.max(axis=1, keepdims=True)) / TEMPERATURE)
        held = [np.where(y[nearest] == one, votes, 0).sum(axis=1) for one in classes]
        out[start : start + 1024] = np.stack(held, axis=1) / votes.sum(axis=1, keepdims=True)
    return out[:, 1:] if len(classes) == 2 else out


def _auc(scores: DoubleArray, y: npt.NDArray[Any]) -> float:
    truth = (
        y if y.ndim == 2 else (y == 1)[:, None] if scores.shape[1] == 1 else y[:, None] == np.arange(scores.shape[1])
    )
    areas = []
    for column, held in zip(scores.T, truth.astype(np.float64).T, strict=True):
        known = ~np.isnan(held)
        areas.append(weighted_auc(column[known][:, None], held[known] == 1))
    return float(nan_mean(np.array(areas), 0)[0])


def _point(size: int | None, values: list[tuple[int, float]]) -> Point:
    rows, areas = (np.array(column, np.float64) for column in zip(*values, strict=True))
    sd = float(areas.std(ddof=1)) if len(areas) > 1 else 0.0
    return Point(size, float(rows.mean()), float(areas.mean()), sd, float(areas.min()), float(areas.max()), len(areas))
