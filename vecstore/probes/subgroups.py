"""How good a classifier is on parts of its rows: by sex, age band, view, scanner or site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.errors import DataError
from vecstore.probes.auc import OneVsRest
from vecstore.probes.estimates import Estimate, Rests, group_numbers, number, percentiles, replicates, row_means
from vecstore.probes.measures import shown_columns
from vecstore.probes.metrics import checked
from vecstore.probes.splits import is_missing
from vecstore.records import BoolArray, DoubleArray, TaskKind, Value

MIN_CELL = 10
"""Groups below which a cell is suppressed."""

AGE_BANDS = (18.0, 40.0, 60.0, 80.0)
"""Edges of a column that is called age."""

MOST_VALUES = 8
"""Different numbers up to which a column of numbers is taken as it is, and not cut in bands."""

_AGES = ("age", "patientage", "ageyears")


@dataclass(frozen=True, slots=True)
class Cell:
    """Rows of one value or band.

    Attributes
    ----------
    value : str
    n, groups : int or None
        None where suppressed; rounded to `Subgroups.min_cell` where another cell is.
    auc : Estimate or None
        Several classes or labels: the mean over those that have rows on both sides here.
    gap : Estimate or None
        AUC here less the AUC of all other cells that are told, with the interval of the difference.
    suppressed : bool
        Fewer groups than `Subgroups.min_cell`: nothing is told.
    """

    value: str
    n: int | None
    groups: int | None
    auc: Estimate | None
    gap: Estimate | None
    suppressed: bool


@dataclass(frozen=True, slots=True)
class Subgroups:
    """A column's values or bands, and how good the classifier is on each.

    Attributes
    ----------
    column : str
    edges : list of float or None
        Of bands: each from its edge on, below the next; None where values are taken as they are.
    min_cell : int
        Groups below which a cell is suppressed.
    cells : list of Cell
    missing : int
        Rows without a value; they are in no cell and no comparison.
    notes : list of str
    """

    column: str
    edges: list[float] | None
    min_cell: int
    cells: list[Cell]
    missing: int
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def subgroups(
    y: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    classes: Sequence[object],
    kind: TaskKind,
    groups: npt.ArrayLike | None,
    column: str,
    values: Sequence[Value],
    *,
    edges: Sequence[float] | None = None,
    min_cell: int = MIN_CELL,
    n_boot: int = 1000,
    seed: int = 0,
) -> Subgroups:
    """Judge predictions by the values of a column.

    Parameters
    ----------
    y, probabilities, classes, kind, groups
        As of `vecstore.probes.evaluate`.
    column : str
        Its name: one called age is cut at `AGE_BANDS`.
    values : sequence of n values
        Text, number, or missing: None or NaN.
    edges : sequence of float, optional
        Where numbers are cut; by default ages at `AGE_BANDS`, other numbers of more than `MOST_VALUES` kinds at
        their quartiles.
    min_cell : int
        Groups below which a cell is suppressed.
    n_boot, seed : int

    Returns
    -------
    Subgroups

    Raises
    ------
    DataError
        As `evaluate`; edges that do not rise, or edges for text; cells of fewer than one group.
    """
    truth, scores, names = checked(y, probabilities, classes, kind)
    codes = group_numbers(groups, len(scores))
    if len(values) != len(scores):
        raise DataError(f"{len(scores)} rows and {len(values)} values of {column}", "one of each per row", "pass both")
    if min_cell < 1:
        raise DataError(f"min_cell={min_cell}", expected="at least 1", do="--min-cell 10")
    texts, used, labels = _cut(column, [None if is_missing(value) else value for value in values], edges)
    size, shown = int(codes.max()) + 1, shown_columns(names, kind)
    has = np.array([text is not None for text in texts], np.bool_)
    place = {label: at for at, label in enumerate(labels)}
    numbers = np.array([-1 if text is None else place[text] for text in texts], np.int64)

    def ranks(rows: BoolArray) -> list[OneVsRest]:
        return [OneVsRest(scores[rows, k], truth[rows, k], codes[rows]) for k in shown]

    held = [len(np.unique(codes[numbers == at])) for at in range(len(labels))]
    told = [at for at, count in enumerate(held) if count >= min_cell]
    here = {at: ranks(numbers == at) for at in told}
    # A cell that is not told has no part in a gap either: with two cells it could be worked out.
    rest = {at: np.isin(numbers, [other for other in told if other != at]) for at in told}
    others = {at: ranks(rows) for at, rows in rest.items() if rows.any()}

    def areas(drawn: DoubleArray) -> dict[str, DoubleArray]:
        whole = drawn.astype(np.uint8 if drawn.max(initial=0) < 256 else np.int64)
        found = {}
        for at in told:
            found[f"{at}"] = np.stack([rank(whole) for rank in here[at]], axis=1)
            if at in others:
                found[f"others {at}"] = np.stack([rank(whole) for rank in others[at]], axis=1)
        return found

    hidden = len(told) < len(labels)

    def counted(n: int) -> int:
        # All rows less the others' would be the count of a cell that is not told.
        return max(min_cell, min_cell * round(n / min_cell)) if hidden else n

    whole, resampled = replicates(areas, size, n_boot, seed) if told else ({}, {})
    cells = []
    for at, label in enumerate(labels):
        if at not in here:
            cells.append(Cell(label, None, None, None, None, True))
            continue
        value, areas_here, rests = _mean(here[at], whole[f"{at}"], resampled[f"{at}"])
        auc, gap = Estimate.of(value, areas_here, rests), None
        if at in others:
            rival, areas_there, few = _mean(others[at], whole[f"others {at}"], resampled[f"others {at}"])
            apart = value - rival
            known = None if np.isnan(apart) else percentiles(areas_here - areas_there, min(rests.groups, few.groups))
            gap = Estimate(number(apart), known)
        cells.append(Cell(label, counted(int((numbers == at).sum())), counted(held[at]), auc, gap, False))
    notes = [
        f"{cell.value}: no AUC, a class has no rows there"
        for cell in cells
        if cell.auc is not None and cell.auc.value is None
    ]
    if hidden and told:
        notes.append(f"counts are rounded to {min_cell}: those of a suppressed cell could be worked out of exact ones")
    return Subgroups(column, used, min_cell, cells, int((~has).sum()), notes)


def _mean(ranks: Sequence[OneVsRest], areas: DoubleArray, resampled: DoubleArray) -> tuple[float, DoubleArray, Rests]:
    """Mean area over classes, its replicates, and how many groups it rests on."""
    rests = Rests.mean(resampled, [Rests.sides(*rank.sides) for rank in ranks])
    return float(row_means(areas[None])[0]), row_means(resampled), rests


def _cut(
    column: str, values: Sequence[Value], edges: Sequence[float] | None
) -> tuple[list[str | None], list[float] | None, list[str]]:
    """Label of each row, edges where there are bands, and all labels in order."""
    known = [value for value in values if value is not None]
    numeric = bool(known) and all(isinstance(value, (int, float)) for value in known)
    if edges is not None and known and not numeric:
        raise DataError(
            f"{column} holds text and can't be cut at {', '.join(_short(float(edge)) for edge in edges)}",
            expected="a column of numbers",
            do=f"name it without edges: --subgroup {column}",
        )
    if edges is None and numeric:
        edges = _default_edges(column, np.array(known, np.float64))
    if edges is None:
        texts = [None if value is None else _text(value) for value in values]
        ordered = sorted({_text(value): value for value in known}.items(), key=lambda pair: _rank(pair[1], numeric))
        return texts, None, [text for text, _ in ordered]
    cuts = [float(edge) for edge in edges]  # NumPy's numbers are shown as Python's
    if not cuts or not np.isfinite(cuts).all() or any(not low < high for low, high in pairwise(cuts)):
        raise DataError(
            f"edges {', '.join(map(_short, cuts)) or 'none'} of {column}",
            expected="numbers that rise",
            do=f"--subgroup {column}=40,60",
        )
    labels = [f"< {_short(cuts[0])}"]
    labels += [f"{_short(low)} to < {_short(high)}" for low, high in pairwise(cuts)]
    labels.append(f">= {_short(cuts[-1])}")
    places = np.searchsorted(cuts, [np.nan if value is None else float(value) for value in values], side="right")
    bands = [None if value is None else labels[at] for value, at in zip(values, places.tolist(), strict=True)]
    present = set(bands)
    return bands, cuts, [label for label in labels if label in present]


def _default_edges(column: str, known: DoubleArray) -> list[float] | None:
    if column.casefold().replace("_", "") in _AGES:
        return list(AGE_BANDS)
    if len(np.unique(known)) <= MOST_VALUES:
        return None
    return [float(edge) for edge in np.unique([float(f"{cut:.3g}") for cut in np.percentile(known, [25, 50, 75])])]


def _text(value: Value) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _rank(value: Value, numeric: bool) -> tuple[float, str]:
    return (float(value) if numeric and value is not None else 0.0, str(value))


def _short(value: float) -> str:
    """As short as it can be without being another number: two edges never have one name."""
    return repr(int(value)) if value.is_integer() else repr(value)
