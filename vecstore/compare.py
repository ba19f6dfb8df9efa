"""`compare`: models of one task side by side on the same rows, and which differences are real."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from vecstore.errors import DataError, NotFound, UsageError
from vecstore.probes.comparison import METRICS, Difference, compared
from vecstore.probes.estimates import Estimate
from vecstore.probes.splits import merge_groups
from vecstore.records import IntArray
from vecstore.rescoring import Rescored, rescored
from vecstore.store import Store, using


@dataclass(frozen=True, slots=True)
class Compared:
    """One model of a comparison.

    Attributes
    ----------
    model_id : int
    model : {"probe", "svm", "knn", "mlp", "forest"}
    spaces : list of str
    calibration : str or None
        How it was calibrated.
    scores : dict of str to Estimate
        "auc", "auprc", "accuracy", "balanced_accuracy", "f1", "brier", "log_loss", on the common rows.
    left_out : int
        Rows that it was evaluated on and another model was not.
    """

    model_id: int
    model: str
    spaces: list[str]
    calibration: str | None
    scores: dict[str, Estimate]
    left_out: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """What `compare` found.

    Attributes
    ----------
    task, kind : str
    classes : list of str
    part : {"test", "out-of-fold"}
        Where all of the models were evaluated.
    level : str or None
    n, groups : int
        Rows and groups that all of them were evaluated on.
    metric : str
        What pairs are compared by.
    models : list of Compared
        Best first by the metric.
    pairs : list of Difference
        Of every two; `first` and `second` are ids of models here.
    notes : list of str
    """

    task: str
    kind: str
    classes: list[str]
    part: str
    level: str | None
    n: int
    groups: int
    metric: str
    models: list[Compared]
    pairs: list[Difference]
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def compare(
    store: Store | str | os.PathLike[str],
    task: str,
    *,
    models: Sequence[int] | None = None,
    metric: str = "auc",
    seed: int = 0,
) -> Comparison:
    """Put models of a task side by side on the rows that all of them were evaluated on.

    Groups are resampled, the same ones for every model, so that what two models have in common cancels. A difference
    is real where its 95 % interval excludes 0, also after Holm's correction for the number of pairs. Where each group
    has one row, DeLong's paired test of the areas stands beside it.

    Parameters
    ----------
    store : Store or path
    task : str
    models : sequence of int, optional
        By their ids; by default the newest of each kind of model and space (and level, and calibration).
    metric : {"auc", "auprc", "accuracy", "balanced_accuracy", "f1", "brier", "log_loss"}
        What pairs are compared by.
    seed : int
        Of the bootstrap.

    Returns
    -------
    Comparison
        Nothing is written.

    Raises
    ------
    NotFound
        No such task, model or metric.
    UsageError
        Fewer than two models; models of another part, level, or other classes; a model named twice.
    DataError
        No row that all of them were evaluated on, or the labels of the rows differ.
    StoreDamaged
    """
    if metric not in METRICS:
        raise NotFound(f"no metric {metric!r}", expected=f"one of: {', '.join(METRICS)}", do="--metric auc")
    with using(store) as opened:
        chosen = _chosen(opened, task, models)
        again = [rescored(opened, task, model) for model in chosen]
    return _comparison(again, metric, seed)


def _chosen(store: Store, task: str, models: Sequence[int] | None) -> list[int]:
    """Ids of the models to compare."""
    name = store.refresh().task(task).name
    known = store.models(name)
    if models is None:
        newest = {}
        for one in known:
            told = one.record
            calibrated = (told.get("calibration") or {}).get("method")
            kind = (told["model"], tuple(told.get("spaces") or [told["space"]]), told.get("level"), calibrated)
            newest[kind] = one.id
        chosen = sorted(newest.values())
    else:
        chosen = list(models)
        strange = [model for model in chosen if model not in {one.id for one in known}]
        if strange:
            raise NotFound(
                f"no model {strange[0]} of task {name!r}",
                expected=f"some of: {', '.join(str(one.id) for one in known) or 'none yet'}",
                do=f"see: vecstore log {store.path}",
            )
        if len(set(chosen)) < len(chosen):
            raise UsageError(
                f"--models {','.join(map(str, chosen))} names one twice", "each model once", "leave one of them away"
            )
    if len(chosen) < 2:
        raise UsageError(
            f"{len(chosen)} model of task {name!r} to compare",
            expected="at least two",
            do=f"train another one: vecstore train {store.path} {name} --model knn",
        )
    return chosen


def _comparison(again: Sequence[Rescored], metric: str, seed: int) -> Comparison:
    _check_alike(again)
    first = again[0].probe.record
    common = sorted(set.intersection(*(set(one.names) for one in again)))
    if not common:
        raise DataError(
            "the models have no evaluated row in common",
            expected="models of the same labels, part and level",
            do="train them on the same task, without --where",
        )
    places = [_places(one, common) for one in again]
    y = again[0].probe.y[places[0]]
    codes = np.asarray(again[0].groups[places[0]], np.int64)
    for one, place in zip(again[1:], places[1:], strict=True):
        differing = int((~_equal(y, one.probe.y[place])).sum())
        if differing:
            raise DataError(
                f"models {_id(again[0])} and {_id(one)} were trained on other labels: {differing} of {len(common)} rows"
                " that both were evaluated on disagree",
                expected="models of one import of the task",
                do="train the older one again",
            )
        codes = merge_groups(codes, one.groups[place])
    probabilities = [one.probe.probabilities[place] for one, place in zip(again, places, strict=True)]
    scores, pairs = compared(y, probabilities, first.classes, _kind(again[0]), codes, metric=metric, seed=seed)
    ids = [_id(one) for one in again]
    told = [
        Compared(
            _id(one),
            one.probe.record.model,
            list(one.probe.record.spaces),
            None if one.probe.record.calibration is None else one.probe.record.calibration["method"],
            figures,
            len(one.names) - len(common),
        )
        for one, figures in zip(again, scores, strict=True)
    ]
    sign = -1 if metric in ("brier", "log_loss") else 1
    told.sort(key=lambda one: -sign * _value(one.scores[metric], sign))
    groups = int(codes.max()) + 1
    notes = [
        f"model {one.model_id}: {one.left_out} rows were left out, others lack them" for one in told if one.left_out
    ]
    columns = sorted({str(one.probe.record.group_column) for one in again})
    if len(columns) > 1:
        notes.append(f"groups of {' and '.join(columns)} were joined: what either keeps together is resampled together")
    return Comparison(
        task=first.task,
        kind=first.kind,
        classes=list(first.classes),
        part=first.part,
        level=first.level,
        n=len(common),
        groups=groups,
        metric=metric,
        models=told,
        pairs=[_named(pair, ids) for pair in pairs],
        notes=notes,
    )


def _named(pair: Difference, ids: Sequence[int]) -> Difference:
    """With ids of models instead of places."""
    values = {name: getattr(pair, name) for name in Difference.__slots__}
    return Difference(**values | {"first": ids[pair.first], "second": ids[pair.second]})


def _check_alike(again: Sequence[Rescored]) -> None:
    """Refuse models whose scores mean something else."""
    first = again[0].probe.record
    for one in again[1:]:
        record = one.probe.record
        for what, mine, other in (
            ("evaluated on the part", first.part, record.part),
            ("of the level", first.level or "picture", record.level or "picture"),
            ("of the classes", ", ".join(first.classes), ", ".join(record.classes)),
        ):
            if mine != other:
                raise UsageError(
                    f"model {_id(again[0])} was {what} {mine}, model {_id(one)} {what} {other}",
                    expected="models that were scored on the same rows in the same way",
                    do="choose them: --models A,B",
                )


def _places(one: Rescored, common: Sequence[str]) -> IntArray:
    place = {name: at for at, name in enumerate(one.names)}
    return np.array([place[name] for name in common], np.int64)


def _equal(first: Any, second: Any) -> Any:
    """Which rows have the same label, unknown ones alike."""
    same = (first == second) | ((first != first) & (second != second))
    return same.all(axis=1) if same.ndim == 2 else same


def _value(estimate: Estimate, sign: int) -> float:
    return -np.inf * sign if estimate.value is None else estimate.value


def _id(one: Rescored) -> int:
    assert one.probe.model is not None
    return one.probe.model.id


def _kind(one: Rescored) -> Any:
    assert one.probe.model is not None
    return one.probe.model.task.kind
