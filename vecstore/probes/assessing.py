"""Everything that is told of evaluated predictions beside the scores of the record: one call, plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.probes.calibration import Calibration, calibration
from vecstore.probes.conformal import SetsCheck, check_coverage, check_sets, prediction_sets
from vecstore.probes.estimates import group_numbers
from vecstore.probes.measures import SENSITIVITY, SPECIFICITY, Measures, Tuning, measure
from vecstore.probes.subgroups import MIN_CELL, Subgroups, subgroups
from vecstore.records import DoubleArray, IntArray, TaskKind, Value

COVERAGE = 0.9
"""Of prediction sets, unless asked otherwise."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """What `assess` found.

    Attributes
    ----------
    measures : Measures
    calibration : Calibration
    sets : SetsCheck or None
        None where there are no out-of-fold predictions to rest on.
    subgroups : list of Subgroups
    notes : list of str
        Of all parts.
    """

    measures: Measures
    calibration: Calibration
    sets: SetsCheck | None
    subgroups: list[Subgroups] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Column:
    """Values of evaluated rows, for `Subgroups`.

    Attributes
    ----------
    name : str
    values : list of str, int, float or None
    edges : list of float or None
        Where numbers are cut; None: by the rules of `subgroups`.
    """

    name: str
    values: Sequence[Value]
    edges: Sequence[float] | None = None


def assess(
    y: npt.NDArray[Any],
    probabilities: DoubleArray,
    classes: Sequence[str],
    kind: TaskKind,
    groups: IntArray,
    *,
    tuning: Tuning | None = None,
    tuning_groups: IntArray | None = None,
    columns: Sequence[Column] = (),
    specificity: float = SPECIFICITY,
    sensitivity: float = SENSITIVITY,
    prevalence: float | Mapping[str, float] | None = None,
    ordinal: Sequence[str] | None = None,
    coverage: float = COVERAGE,
    min_cell: int = MIN_CELL,
    n_boot: int = 1000,
    seed: int = 0,
) -> Assessment:
    """Judge predictions in all ways.

    Parameters
    ----------
    y, probabilities, classes, kind, groups
        As of `vecstore.probes.evaluate`.
    tuning : Tuning, optional
        Out-of-fold predictions, on which thresholds and prediction sets rest; with folds where they are the
        evaluated rows themselves.
    tuning_groups : ndarray of shape (n_tuning,), int64, optional
    columns : sequence of Column
        Subgroups.
    specificity, sensitivity, prevalence, ordinal
        As of `measure`.
    coverage : float
        Of prediction sets.
    min_cell : int
        Groups below which a subgroup is suppressed.
    n_boot, seed : int

    Returns
    -------
    Assessment

    Raises
    ------
    DataError
    """
    check_coverage(coverage)
    measures = measure(
        y,
        probabilities,
        classes,
        kind,
        groups,
        tuning=tuning,
        specificity=specificity,
        sensitivity=sensitivity,
        prevalence=prevalence,
        ordinal=ordinal,
        n_boot=n_boot,
        seed=seed,
    )
    found = calibration(y, probabilities, classes, kind, groups, n_boot=n_boot, seed=seed)
    sets, shifted = None, list[str]()
    if tuning is not None:
        held = group_numbers(tuning_groups, len(tuning.probabilities))
        sets = _sets(y, probabilities, classes, kind, groups, tuning, held, coverage, n_boot, seed)
        reached = sets.covered
        if reached.interval is not None and reached.interval[1] < coverage:
            low, high = reached.interval
            shifted.append(
                f"prediction sets hold the truth in {reached.value:.2f} ({low:.2f}-{high:.2f}) of these rows and not in"
                f" {coverage:g}: they are unlike those that the sets rest on, and so may new pictures be"
            )
    parts = [
        subgroups(
            y,
            probabilities,
            classes,
            kind,
            groups,
            column.name,
            column.values,
            edges=column.edges,
            min_cell=min_cell,
            n_boot=n_boot,
            seed=seed,
        )
        for column in columns
    ]
    notes = [
        *measures.notes,
        *found.notes,
        *shifted,
        *(f"{part.column}: {note}" for part in parts for note in part.notes),
    ]
    return Assessment(measures, found, sets, parts, notes)


def _sets(
    y: npt.NDArray[Any],
    probabilities: DoubleArray,
    classes: Sequence[str],
    kind: TaskKind,
    groups: IntArray,
    tuning: Tuning,
    held: IntArray,
    coverage: float,
    n_boot: int,
    seed: int,
) -> SetsCheck:
    if tuning.folds is None:
        rule = prediction_sets(tuning.y, tuning.probabilities, kind, coverage, held)
        return check_sets(y, probabilities, classes, kind, groups, rule, None, n_boot, seed)
    rules = {}
    for fold in np.unique(tuning.folds).tolist():
        rest = tuning.folds != fold
        rules[fold] = prediction_sets(tuning.y[rest], tuning.probabilities[rest], kind, coverage, held[rest])
    return check_sets(y, probabilities, classes, kind, groups, rules, tuning.folds, n_boot, seed)
