"""`evaluate`: score a stored model again, from stored vectors."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vecstore.errors import UsageError
from vecstore.probes.assessing import COVERAGE, Column, assess
from vecstore.probes.measures import SENSITIVITY, SPECIFICITY
from vecstore.probes.subgroups import MIN_CELL
from vecstore.rescoring import Rescored, rescored
from vecstore.store import Store, using
from vecstore.trained import Probe


def evaluate(
    store: Store | str | os.PathLike[str],
    task: str,
    *,
    model: int | None = None,
    subgroup: Sequence[str] | Mapping[str, Sequence[float] | None] = (),
    min_cell: int = MIN_CELL,
    specificity: float = SPECIFICITY,
    sensitivity: float = SENSITIVITY,
    prevalence: float | Mapping[str, float] | None = None,
    ordinal: Sequence[str] | None = None,
    coverage: float = COVERAGE,
) -> Probe:
    """Score the newest model of a task, or one by its id, and judge it in all ways.

    On the official test part the stored weights are applied again to the stored vectors; without one, the
    out-of-fold predictions saved in training are scored again. The labels are those of the import that the model was
    trained on, chosen as then (`where`, classes, groups), and pooled as then; what has changed since is said in the
    notes.

    Thresholds and prediction sets rest on out-of-fold predictions of the training part; where those are what is
    evaluated, each fold is judged by what was chosen on the others.

    Parameters
    ----------
    store : Store or path
    task : str
    model : int, optional
    subgroup : sequence of str, or mapping of column to edges
        Item columns whose values are judged by themselves: "sex", or "age=40,60" for where its numbers are cut.
        Ages are cut at 18, 40, 60 and 80 by default, other numbers of many kinds at their quartiles.
    min_cell : int
        Subgroups of fewer groups are suppressed.
    specificity, sensitivity : float
        At which the other is told.
    prevalence : float or mapping of class to float, optional
        For predictive values; by default that of the evaluated rows.
    ordinal : sequence of str, optional
        Classes from least to most, for quadratic kappa; classes that are numbers are so ordered by default.
    coverage : float
        Of prediction sets.

    Returns
    -------
    Probe
        With a fresh record, and `assessment`: measures, calibration, prediction sets, subgroups. Nothing is written.

    Raises
    ------
    NotFound, StoreDamaged
    DataError
        Shares that are none, a prevalence or order of other classes, edges that do not rise.
    UsageError
        A subgroup that can't be read.
    """
    with using(store) as opened:
        return judged(
            opened,
            task,
            model,
            asked_columns(subgroup),
            min_cell=min_cell,
            specificity=specificity,
            sensitivity=sensitivity,
            prevalence=prevalence,
            ordinal=ordinal,
            coverage=coverage,
        ).probe


def judged(
    store: Store,
    task: str,
    model: int | None,
    asked: Sequence[tuple[str, Sequence[float] | None]],
    **options: Any,
) -> Rescored:
    """What `evaluate` does, with what its rows are; `asked` are columns of subgroups with their edges."""
    again = rescored(store, task, model, options.get("n_boot", 1000))
    columns = [_column(store, again, name, edges) for name, edges in asked]
    probe, record = again.probe, again.probe.record
    assert probe.model is not None
    assessment = assess(
        probe.y,
        probe.probabilities,
        record.classes,
        probe.model.task.kind,
        again.groups,
        tuning=again.tuning(),
        tuning_groups=again.tuning_groups(),
        columns=columns,
        seed=record.seed,
        **options,
    )
    return replace(again, probe=replace(probe, assessment=assessment))


def _column(store: Store, again: Rescored, name: str, edges: Sequence[float] | None) -> Column:
    found = store.column_name(name)
    return Column(found, again.column(store, found), edges)


def asked_columns(
    subgroup: Sequence[str] | Mapping[str, Sequence[float] | None],
) -> list[tuple[str, list[float] | None]]:
    """Columns with their edges, from `age=40,60` or a mapping."""
    if isinstance(subgroup, Mapping):
        return [(name, None if edges is None else [float(edge) for edge in edges]) for name, edges in subgroup.items()]
    asked: list[tuple[str, list[float] | None]] = []
    for text in [subgroup] if isinstance(subgroup, str) else subgroup:
        name, mark, cuts = text.partition("=")
        try:
            asked.append((name, [float(cut) for cut in cuts.split(",")] if mark else None))
        except ValueError:
            raise UsageError(
                f"--subgroup {text}: {cuts!r} is no list of numbers",
                expected="a column, or a column and where its numbers are cut",
                do="--subgroup age=40,60",
            ) from None
    return asked
