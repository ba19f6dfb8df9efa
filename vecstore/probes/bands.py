"""ROC and precision-recall curves of few points, each with a band that resampling groups makes.

A curve is what is counted at thresholds, and what is counted is a sum over groups: so all resamples of all classes are
one product of sparse matrices, and a set of 100,000 rows costs as much as its groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array, vstack

from vecstore.probes.estimates import Rests, group_numbers, percentiles, replicates
from vecstore.probes.measures import shown_columns
from vecstore.probes.metrics import checked
from vecstore.records import DoubleArray, IntArray, TaskKind

POINTS = 200
"""Thresholds at most at which either side of a class is counted: all of them where there are fewer scores."""

GRID = np.linspace(0, 1, 51)
"""Where bands are told."""

MOST_BANDS = 12
"""Classes whose curves have a band."""

N_BOOT = 400


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve and its band.

    Attributes
    ----------
    x, y : list of float
        1 - specificity and sensitivity, or recall and precision; x ascends.
    at, low, high : list of float
        95 % of the curve at some x, over resamples of groups; empty where there is no band.
    """

    x: list[float]
    y: list[float]
    at: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True, slots=True)
class Curves:
    """What `curves` found, per class; None where a class has rows on one side only.

    Attributes
    ----------
    roc, precision_recall : dict of class to Curve or None
        Of a binary task the positive class only.
    n_boot : int
    groups : int
    """

    roc: dict[str, Curve | None]
    precision_recall: dict[str, Curve | None]
    n_boot: int
    groups: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def curves(
    y: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    classes: Sequence[object],
    kind: TaskKind,
    groups: npt.ArrayLike | None = None,
    *,
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> Curves:
    """Curves of every class against all others.

    Parameters
    ----------
    y, probabilities, classes, kind, groups
        As of `vecstore.probes.evaluate`.
    n_boot, seed : int

    Returns
    -------
    Curves

    Raises
    ------
    DataError
        As `evaluate`.

    Examples
    --------
    >>> c = curves([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], ["no", "yes"], "binary", n_boot=0).roc["yes"]
    >>> c.x, c.y
    ([0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0])
    """
    truth, scores, names = checked(y, probabilities, classes, kind)
    codes = group_numbers(groups, len(scores))
    size = int(codes.max()) + 1
    columns = shown_columns(names, kind)
    shown = [names[k] for k in columns]
    counts = {names[k]: _Counts.of(truth[:, k], scores[:, k], codes, size) for k in columns}
    told = {name: one for name, one in counts.items() if one is not None}
    banded = dict(list(told.items())[:MOST_BANDS])
    roc: dict[str, Curve | None] = dict.fromkeys(shown)
    precision_recall: dict[str, Curve | None] = dict.fromkeys(shown)
    bands = _bands(banded, size, n_boot, seed) if banded and n_boot else {}
    for name, one in told.items():
        whole = np.asarray(one.sums.sum(axis=1), np.float64).reshape(2, -1)
        x, heights = _roc(whole)
        rests = one.rests().groups
        roc[name] = _curve(x, heights, GRID, bands.get(("roc", name)), rests)
        recall, precision = _precision_recall(whole)
        precision_recall[name] = _curve(recall, precision, GRID[1:], bands.get(("pr", name)), rests)
    return Curves(roc, precision_recall, n_boot, size)


@dataclass(frozen=True, slots=True)
class _Counts:
    """Rows of each group with and without a class, by the highest threshold they reach: a sparse matrix."""

    sums: Any

    def rests(self) -> Rests:
        """Groups that have rows on either side."""
        middle = self.sums.shape[0] // 2
        return Rests.sides(*(len(np.unique(side.indices)) for side in (self.sums[:middle], self.sums[middle:])))

    @classmethod
    def of(cls, truth: DoubleArray, scores: DoubleArray, codes: IntArray, size: int) -> _Counts | None:
        """None where one side has no rows."""
        known = ~np.isnan(truth)
        held, values = truth[known] == 1, scores[known]
        if not held.any() or held.all():
            return None
        thresholds = np.unique(np.concatenate([_some(values[held]), _some(values[~held])]))[::-1]
        place = np.searchsorted(-thresholds, -values, side="left")
        rows = np.where(held, place, place + len(thresholds))
        shape = (2 * len(thresholds), size)
        return cls(coo_array((np.ones(len(rows)), (rows, codes[known])), shape=shape).tocsr())


def _some(values: DoubleArray) -> DoubleArray:
    """Different values, or `POINTS` of them evenly by rank, the least and the largest among them."""
    ordered = np.sort(values)
    if len(np.unique(ordered)) <= POINTS:
        return np.unique(ordered)
    return ordered[np.linspace(0, len(ordered) - 1, POINTS).round().astype(np.int64)]


def _roc(sums: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    """1 - specificity and sensitivity at each threshold, from (0, 0) on."""
    hits, false = (np.concatenate([[0.0], np.cumsum(side)]) for side in sums)
    with np.errstate(invalid="ignore", divide="ignore"):
        return false / false[-1], hits / hits[-1]


def _precision_recall(sums: DoubleArray) -> tuple[DoubleArray, DoubleArray]:
    """Recall and precision at each threshold that calls anything positive."""
    hits, false = (np.cumsum(side) for side in sums)
    called = hits + false > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        return (hits / hits[-1])[called], (hits[called] / (hits + false)[called])


def _bands(counts: dict[str, _Counts], size: int, n_boot: int, seed: int) -> dict[tuple[str, str], DoubleArray]:
    """Replicates of the curves on the grid, of shape (n_boot, n_grid)."""
    matrix = vstack([one.sums for one in counts.values()]).tocsr()
    ends = np.cumsum([one.sums.shape[0] for one in counts.values()])[:-1]

    def heights(drawn: DoubleArray) -> dict[str, DoubleArray]:
        sums = np.asarray(matrix @ np.ascontiguousarray(drawn.T)).T
        found: dict[str, DoubleArray] = {}
        for name, part in zip(counts, np.split(sums, ends, axis=1), strict=True):
            sides = part.reshape(len(part), 2, -1)
            found[f"roc {name}"] = np.stack([_on_grid(_roc(one)) for one in sides])
            found[f"pr {name}"] = np.stack([_at_recall(_precision_recall(one)) for one in sides])
        return found

    _, resampled = replicates(heights, size, n_boot, seed)
    return {(kind, name): resampled[f"{kind} {name}"] for name in counts for kind in ("roc", "pr")}


def _on_grid(curve: tuple[DoubleArray, DoubleArray]) -> DoubleArray:
    x, y = curve
    return np.interp(GRID, x, y) if np.isfinite(x).all() and np.isfinite(y).all() else np.full(len(GRID), np.nan)


def _at_recall(curve: tuple[DoubleArray, DoubleArray]) -> DoubleArray:
    """Precision at the first threshold that reaches a recall."""
    recall, precision = curve
    if not len(recall) or not np.isfinite(recall).all():
        return np.full(len(GRID) - 1, np.nan)
    places = np.searchsorted(recall, GRID[1:] - 1e-12, side="left")
    return np.asarray(precision[np.minimum(places, len(precision) - 1)])


def _curve(x: DoubleArray, y: DoubleArray, grid: DoubleArray, made: DoubleArray | None, n_groups: float) -> Curve:
    bounds = [] if made is None else [percentiles(column, n_groups) for column in made.T]
    told = [(float(at), *found) for at, found in zip(grid, bounds, strict=False) if found is not None]
    at, low, high = ([row[i] for row in told] for i in range(3))
    return Curve(x.tolist(), y.tolist(), at, low, high)
