"""Knowing when not to answer: sets of classes that hold the truth as often as asked, and rows unlike any seen.

Both rest on scores of rows of known groups. A new row of a new group is as likely to come from anywhere among them,
so a quantile of their scores, each group weighing the same, bounds the new one. That is exact for rows that were not
trained on; scores out of fold stand in for them here, and what they reach is measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.errors import DataError
from vecstore.probes.estimates import Estimate, Rests, group_numbers, ratio, replicates
from vecstore.probes.metrics import checked
from vecstore.records import BoolArray, DoubleArray, IntArray, TaskKind

BLOCK = 1 << 24  # cosines at a time: 64 MiB of float32
ROWS = 8192


@dataclass(frozen=True, slots=True)
class PredictionSets:
    """A rule that turns probabilities into sets of classes.

    Attributes
    ----------
    coverage : float
        The share of new rows whose class shall be in the set: of a random row of a random new group. Several labels:
        of each label by itself.
    kind : {"binary", "multi-class", "multi-label"}
    least : list of float
        A class is in the set from this probability on. One number; several labels: one per label, for its presence
        and its absence alike. 0, so that every class is in the set, where there are too few groups to promise anything.
    rows, groups : int
        It rests on.
    """

    coverage: float
    kind: TaskKind
    least: list[float]
    rows: int
    groups: int

    def __call__(self, probabilities: DoubleArray) -> BoolArray:
        """Which classes are in the set, of shape (n, n_classes); of several labels which may be present.

        A set of several classes, or of none, is no answer: the model can't tell them apart as surely as asked.
        """
        return np.asarray(probabilities >= np.array(self.least))

    def absent(self, probabilities: DoubleArray) -> BoolArray:
        """Of several labels: which may be absent, of shape (n, n_labels)."""
        return np.asarray(1 - probabilities >= np.array(self.least))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def prediction_sets(
    y: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    kind: TaskKind,
    coverage: float = 0.9,
    groups: npt.ArrayLike | None = None,
) -> PredictionSets:
    """Learn from out-of-fold probabilities which classes belong in a set.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, n_labels)
        Class index; several labels: 0, 1 or NaN for unknown.
    probabilities : array-like of shape (n, n_classes) or (n,)
        Of rows that the model had not seen; binary may give the positive class alone.
    kind : {"binary", "multi-class", "multi-label"}
    coverage : float
    groups : array-like of shape (n,), optional

    Returns
    -------
    PredictionSets

    Raises
    ------
    DataError
        As `evaluate`; or a coverage that is no share.

    Notes
    -----
    The score of a row is 1 less the probability of its class (Sadinle, Lei & Wasserman 2019, JASA 114, 223-234);
    groups weigh the same, as in Lee, Barber & Willett (2023), arXiv:2306.06342. Out-of-fold scores make it
    cross-conformal (Vovk 2015), whose coverage is guaranteed only to 2 * coverage - 1, and is near the one asked for.

    Examples
    --------
    >>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    >>> rule = prediction_sets([0, 0, 1, 1], p, "binary", coverage=0.6)
    >>> rule.least, rule(np.array([[0.65, 0.35]])).tolist()
    ([0.7], [[False, False]])
    """
    check_coverage(coverage)
    n_classes = 2 if np.ndim(probabilities) == 1 else np.shape(probabilities)[1]
    truth, scores, _ = checked(y, probabilities, range(n_classes), kind)
    codes = group_numbers(groups, len(scores))
    if kind == "multi-label":
        least = []
        for column, chance in zip(truth.T, scores.T, strict=True):
            known = ~np.isnan(column)
            sure = np.where(column == 1, chance, 1 - chance)[known]
            least.append(_least(sure, codes[known], coverage) if known.any() else 0.0)
    else:
        least = [_least(scores[truth == 1], codes, coverage)]
    return PredictionSets(coverage, kind, least, len(scores), int(codes.max()) + 1)


def group_quantile(scores: npt.ArrayLike, groups: npt.ArrayLike, coverage: float) -> float:
    """The score that a row of a new group stays at or below with the probability asked for.

    Parameters
    ----------
    scores : array-like of shape (n,), float
    groups : array-like of shape (n,)
    coverage : float

    Returns
    -------
    float
        Infinite where there are too few groups to promise anything: fewer than coverage / (1 - coverage).

    Examples
    --------
    >>> group_quantile([1.0, 2, 3, 4], [0, 1, 2, 3], 0.6), group_quantile([1.0, 2, 3, 4], [0, 0, 0, 1], 0.9)
    (3.0, inf)
    """
    values = np.asarray(scores, np.float64)
    codes = group_numbers(groups, len(values))
    sizes = np.bincount(codes)
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(1 / sizes[codes[order]]) / (len(sizes) + 1)
    place = int(np.searchsorted(reached, coverage - 1e-12))
    return float(values[order[place]]) if place < len(values) else float("inf")


@dataclass(frozen=True, slots=True)
class SetsCheck:
    """What prediction sets reach on evaluated rows.

    Attributes
    ----------
    coverage : float
        Asked for.
    covered : Estimate
        Share of rows whose class is in the set (several labels: mean over labels), every group weighing the same,
        with its interval by resampling groups.
    size : float
        Mean number of classes in a set; several labels: mean over labels of 1 (decided) or 2 (either may be).
    answered, empty : float
        Share of rows with one class in the set, and with none; groups weigh the same.
    covered_per_class : dict of class to float or None
        Share among rows of the class; several labels: among rows with the label.
    rows, groups : int
        That the rule rests on.
    """

    coverage: float
    covered: Estimate
    size: float
    answered: float
    empty: float
    covered_per_class: dict[str, float | None]
    rows: int
    groups: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def check_sets(
    y: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    classes: Sequence[object],
    kind: TaskKind,
    groups: npt.ArrayLike | None,
    rules: PredictionSets | Mapping[int, PredictionSets],
    folds: IntArray | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> SetsCheck:
    """Count how often sets hold the truth on rows that the rule does not rest on.

    Parameters
    ----------
    y, probabilities, classes, kind, groups
        As of `vecstore.probes.evaluate`.
    rules : PredictionSets, or mapping of fold to PredictionSets
        With `folds`: of each fold a rule that rests on the others.
    folds : ndarray of shape (n,), int64, optional
    n_boot, seed : int

    Returns
    -------
    SetsCheck
    """
    truth, scores, names = checked(y, probabilities, classes, kind)
    codes = group_numbers(groups, len(scores))
    present, absent = np.zeros(scores.shape, np.bool_), np.zeros(scores.shape, np.bool_)
    parts = {0: rules} if isinstance(rules, PredictionSets) else rules
    for fold, rule in parts.items():
        rows = np.ones(len(scores), np.bool_) if folds is None else folds == fold
        present[rows], absent[rows] = rule(scores[rows]), rule.absent(scores[rows])
    known = ~np.isnan(truth)
    if kind == "multi-label":
        right = np.where(truth == 1, present, absent) & known
        sizes = present.astype(np.int64) + absent
    else:
        right, known, sizes = (present & (truth == 1)).any(axis=1)[:, None], known[:, :1], present.sum(axis=1)[:, None]
    weights = 1 / np.bincount(codes)[codes]
    size = int(codes.max()) + 1
    sums = np.stack(
        [np.bincount(codes, weights * column, size) for part in (right, known) for column in part.T.astype(np.float64)]
    )

    def shares(drawn: DoubleArray) -> dict[str, DoubleArray]:
        held, all_of = np.split(np.einsum("cg,bg->bc", sums, drawn), 2, axis=1)
        each = ratio(held, all_of)
        count = (~np.isnan(each)).sum(axis=1)
        return {"covered": ratio(np.nansum(each, axis=1), count)}

    whole, resampled = replicates(shares, size, n_boot, seed)
    base = parts[next(iter(parts))]
    per_class = {
        name: _share(right[:, k if kind == "multi-label" else 0][truth[:, k] == 1]) for k, name in enumerate(names)
    }
    total = float((weights[:, None] * known).sum())
    return SetsCheck(
        coverage=base.coverage,
        covered=Estimate.of(float(whole["covered"]), resampled["covered"], Rests.on(size)),
        size=float((weights[:, None] * known * sizes).sum() / total),
        answered=float((weights[:, None] * known * (sizes == 1)).sum() / total),
        empty=float((weights[:, None] * known * (sizes == 0)).sum() / total),
        covered_per_class=per_class,
        rows=base.rows,
        groups=base.groups,
    )


@dataclass(frozen=True, slots=True)
class Familiarity:
    """Tells rows that have no similar case among those trained on.

    Attributes
    ----------
    coverage : float
        Share of rows like those trained on that count as familiar.
    least : float
        Cosine to the nearest row of another group, below which a row is unfamiliar; -1 where too few groups are known.
    rows, groups : int
        It rests on.
    """

    coverage: float
    least: float
    rows: int
    groups: int

    def unfamiliar(self, similarity: DoubleArray) -> BoolArray:
        """Which rows are, by the cosine of shape (n,) to their nearest row."""
        return np.asarray(similarity < self.least)


def familiarity(
    X: npt.NDArray[Any],
    groups: npt.ArrayLike,
    coverage: float = 0.9,
    *,
    most: int = 5000,
    seed: int = 0,
    cases: Cases | None = None,
) -> Familiarity:
    """Learn how similar the most similar case usually is: of every row among the rows of other groups.

    Parameters
    ----------
    X : ndarray of shape (n, d), float
    groups : array-like of shape (n,)
    coverage : float
    most : int
        Of more rows only so many, of groups drawn by chance, are asked for; all of them can be found.
    seed : int
    cases : Cases, optional
        Of these rows and groups, integers, where they are made already.

    Returns
    -------
    Familiarity

    Raises
    ------
    DataError
        A coverage that is no share.
    """
    check_coverage(coverage)
    codes = group_numbers(groups, len(X))
    asked = np.arange(len(X))
    if len(X) > most:
        order = np.random.default_rng(seed).permutation(int(codes.max()) + 1)
        sizes = np.bincount(codes)[order]
        chosen = order[: max(1, int(np.searchsorted(np.cumsum(sizes), most, side="right")))]
        asked = np.flatnonzero(np.isin(codes, chosen))
    # Made cases know groups by the numbers they were given, with gaps where a store has groups they lack.
    given = codes if cases is None else np.asarray(groups, np.int64)
    near = (cases or Cases(X, codes)).nearest(X[asked], given[asked])
    known = np.isfinite(near)
    limit = group_quantile(-near[known], codes[asked][known], coverage) if known.any() else np.inf
    return Familiarity(coverage, float(max(-limit, -1.0)), int(known.sum()), len(np.unique(codes[asked][known])))


def check_familiarity(
    X: npt.NDArray[Any],
    groups: npt.ArrayLike,
    folds: IntArray,
    coverage: float = 0.9,
    *,
    n_boot: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Count how often rows are familiar whose groups the rule does not rest on: each fold by a rule of the others.

    Parameters
    ----------
    X : ndarray of shape (n, d), float
    groups : array-like of shape (n,)
    folds : ndarray of shape (n,), int64
        That divide no group.
    coverage : float
    n_boot, seed : int

    Returns
    -------
    Estimate
        Share of rows, every group weighing the same, with its interval by resampling groups.

    Raises
    ------
    DataError
    """
    codes = group_numbers(groups, len(X))
    familiar = np.zeros(len(X))
    for fold in np.unique(folds):
        inside = folds == fold
        rule = familiarity(X[~inside], codes[~inside], coverage, seed=seed)
        familiar[inside] = ~rule.unfamiliar(nearest(X[inside], X[~inside]))
    size = int(codes.max()) + 1
    shares = np.bincount(codes, familiar, size) / np.bincount(codes)

    def mean(drawn: DoubleArray) -> dict[str, DoubleArray]:
        return {"familiar": np.einsum("g,bg->b", shares, drawn) / size}

    whole, resampled = replicates(mean, size, n_boot, seed)
    return Estimate.of(float(whole["familiar"]), resampled["familiar"], Rests.on(size))


class Cases:
    """Rows to look for similar ones in, made ready once: of unit length, groups together.

    Parameters
    ----------
    base : ndarray of shape (m, d), float
    groups : ndarray of shape (m,), int64, optional
        Rows of equal numbers do not see each other.
    """

    def __init__(self, base: npt.NDArray[Any], groups: IntArray | None = None) -> None:
        order = None if groups is None else np.argsort(groups, kind="stable")
        self._rows = _unit(base if order is None else base[order])
        self._numbers = None if groups is None or order is None else groups[order]

    def nearest(self, queries: npt.NDArray[Any], groups: IntArray | None = None) -> DoubleArray:
        """Cosine of each query to the most similar row of another group.

        Parameters
        ----------
        queries : ndarray of shape (n, d), float
        groups : ndarray of shape (n,), int64, optional
            Of the queries; without them every row is looked at.

        Returns
        -------
        ndarray of shape (n,), float64
            From -1 to 1; -infinity where there is no row of another group.
        """
        out = np.full(len(queries), -np.inf)
        if not len(self._rows):
            return out
        block = max(1, BLOCK // len(self._rows))
        for start in range(0, len(queries), block):
            cosines = _unit(queries[start : start + block]) @ self._rows.T
            if groups is not None and self._numbers is not None:
                own = groups[start : start + block]
                firsts, lasts = (np.searchsorted(self._numbers, own, side) for side in ("left", "right"))
                for row, first, last in zip(cosines, firsts.tolist(), lasts.tolist(), strict=True):
                    row[first:last] = -np.inf
            out[start : start + block] = cosines.max(axis=1)
        return np.where(np.isfinite(out), np.clip(out, -1, 1), out)


def nearest(
    queries: npt.NDArray[Any],
    base: npt.NDArray[Any],
    query_groups: IntArray | None = None,
    base_groups: IntArray | None = None,
) -> DoubleArray:
    """Cosine of each query to the most similar row of another group: see `Cases`, for rows that are asked once."""
    return Cases(base, base_groups).nearest(queries, query_groups)


def _unit(rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    made = np.array(rows, np.float32)  # a copy, brought to unit length in place and in blocks
    for start in range(0, len(made), ROWS):
        part = made[start : start + ROWS]
        part /= np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
    return made


def check_coverage(coverage: float) -> None:
    """Refuse what is no share.

    Raises
    ------
    DataError
    """
    if not 0 < coverage < 1:
        raise DataError(f"coverage={coverage}", expected="more than 0 and less than 1", do="pass 0.9")


def _least(sure: DoubleArray, codes: IntArray, coverage: float) -> float:
    """Probability from which on a class is in the set; 0, so that every class is, where groups are too few."""
    limit = group_quantile(-sure, codes, coverage)
    return -limit if np.isfinite(limit) else 0.0


def _share(right: BoolArray) -> float | None:
    return float(right.mean()) if len(right) else None
