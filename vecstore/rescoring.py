"""A stored model on its evaluated rows again, as the store is now: what `evaluate` and `compare` start from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vecstore.dataset import Units, class_counts, dataset, group_as_trained
from vecstore.embedding import pictures_opened
from vecstore.probes import metrics
from vecstore.probes.measures import Tuning
from vecstore.records import BoolArray, IntArray, Value
from vecstore.store import Store, Task
from vecstore.store.catalog import visible
from vecstore.trained import Probe, Record, load, scored, spaces_of


@dataclass(frozen=True, slots=True)
class Rescored:
    """A probe with fresh scores, and what its rows are.

    Attributes
    ----------
    probe : Probe
    groups : ndarray of shape (n,), int64
        Of the evaluated rows.
    names : list of str
        What a row is: at a level the value that makes the unit, else the item's id as text.
    folds : ndarray of shape (n,), int64, or None
        Where the evaluated rows are those trained on: the fold each was left out in.
    """

    probe: Probe
    groups: IntArray
    names: list[str]
    folds: IntArray | None

    def tuning(self) -> Tuning | None:
        """What thresholds may be chosen on; None of models that an earlier version trained."""
        known = self.probe.out_of_fold
        if known is None:
            return None
        if self.folds is not None:
            return Tuning(self.probe.y, self.probe.probabilities, self.folds)
        return Tuning(known.y, known.probabilities)

    def tuning_groups(self) -> IntArray | None:
        """Groups of the rows of `tuning`: ndarray of shape (n_tuning,), int64."""
        known = self.probe.out_of_fold
        return self.groups if known is None or self.folds is not None else known.groups

    def column(self, store: Store, name: str) -> list[Value]:
        """Values of an item column, one per row; at a level None where the unit's pictures differ."""
        probe = self.probe
        if probe.pictures is None or probe.rows is None:
            values = store.column(name, probe.items)
            return [values.get(item) for item in probe.items.tolist()]
        values = store.column(name, probe.pictures)
        held: list[set[Value]] = [set() for _ in probe.items]
        for item, row in zip(probe.pictures.tolist(), probe.rows.tolist(), strict=True):
            if values.get(item) is not None:
                held[row].add(values[item])
        return [next(iter(one)) if len(one) == 1 else None for one in held]


def rescored(store: Store, task: str, model: int | None = None, n_boot: int = 1000) -> Rescored:
    """Score the newest model of a task, or one by its id, again: see `vecstore.evaluate`.

    Intervals are of `n_boot` resamples, in training 1000.

    Raises
    ------
    NotFound, StoreDamaged
    """
    opened = pictures_opened()
    probe = load(store, task, model)
    assert probe.model is not None
    record = probe.record
    notes = _imported_since(store, probe.model.task)
    members = probe.items if probe.pictures is None else probe.pictures
    rows = np.arange(len(members)) if probe.rows is None else probe.rows
    same = np.ones(len(members), np.bool_)
    if record.part != "test":
        same = _unchanged(store, probe, members)
        same &= ~np.isin(rows, rows[~same])
    asked = members[same]
    data = dataset(
        store,
        probe.model.task,
        space=spaces_of(store, probe),
        group=training_group(store, record),
        where=record.where,
        classes=record.classes,
        only=asked,
        level=record.level,
        pool=record.pool or "mean",
        # Units that agreed in training and do not any more have other pictures now, or another label.
        on_conflict="drop" if record.on_conflict == "error" else record.on_conflict,
    )
    left = data.items if data.units is None else data.units.items
    keep, folds = np.ones(len(data), np.bool_), None
    if record.part == "test":
        probabilities = probe.predict_proba(data.vectors())
    else:
        saved = rows[np.searchsorted(members, data.items)]
        if data.units is not None:
            keep = _whole(data.units, saved, rows[np.searchsorted(members, left)], np.bincount(rows))
        probabilities = probe.probabilities[saved][keep]
        folds = None if probe.out_of_fold is None else probe.out_of_fold.folds[saved][keep]
    what = "items have another picture" if record.level is None else "units have other pictures"
    changed = len(np.unique(rows[~same])) + int((~keep).sum())
    if changed:
        notes.append(f"{changed} {what} than in training and are left out")
    if gone := int((~np.isin(asked, store.items().ids)).sum()):
        notes.append(f"{gone} items of the training record are gone")
    if others := len(asked) - len(left) - gone:
        notes.append(f"{others} items of the training record no longer fit its rules (labels, where, units that agree)")
    y, groups = data.y[keep], data.groups[keep]
    kind = probe.model.task.kind
    scores = metrics.evaluate(y, probabilities, record.classes, kind, groups, n_boot=n_boot, seed=record.seed)
    units = None if data.units is None else data.units.only(keep)
    fresh = replace(
        record,
        counts=class_counts(data, keep),
        **scored(scores),
        notes=[*record.notes, *notes],
        pixels_read=pictures_opened() - opened,
        pictures=len(y) if units is None else len(units.items),
    )
    pooled = (None, None) if units is None else (units.items, units.rows)
    made = replace(
        probe,
        record=fresh,
        items=data.items[keep],
        y=y,
        probabilities=probabilities,
        pictures=pooled[0],
        rows=pooled[1],
    )
    names = [str(item) for item in made.items.tolist()] if units is None else list(units.names)
    return Rescored(made, groups, names, folds)


def _whole(units: Units, saved: IntArray, of_members: IntArray, sizes: IntArray) -> BoolArray:
    """Which units have the very pictures of one unit of training: a saved prediction is of these together.

    Parameters
    ----------
    units : Units
    saved : ndarray of shape (n,), int64
        The unit of training that the first picture of each was in.
    of_members : ndarray of shape (m,), int64
        The same for every picture.
    sizes : ndarray of shape (n_saved,), int64
        Pictures of each unit of training.
    """
    strange = np.bincount(units.rows[of_members != saved[units.rows]], minlength=len(saved)) > 0
    return np.asarray(~strange & (units.counts() == sizes[saved]), np.bool_)


def training_group(store: Store, record: Record) -> str | None:
    """The groups of training: found by the column's name as then, unless that would find another column now."""
    return group_as_trained(store, record.group, record.group_column)


def _imported_since(store: Store, scored_task: Task) -> list[str]:
    newest = store.task(scored_task.name)
    if newest.id == scored_task.id:
        return []
    then = f"scored are the labels the model was trained on (commit {scored_task.added_in})"
    return [f"the task was imported again since (commit {newest.added_in}); {then}"]


def repainted(store: Store, then: int) -> bool:
    """Whether any item may have another picture, or none, than at an earlier commit."""
    later = "SELECT 1 FROM states WHERE added_in > :then OR (removed_in > :then AND removed_in <= :at) LIMIT 1"
    return bool(store.rows(later, then=then))


def _unchanged(store: Store, probe: Probe, items: IntArray) -> BoolArray:
    """Which of some items have the picture they had, or none: saved predictions are of that picture."""
    if not repainted(store, probe.record.commit):
        return np.ones(len(items), np.bool_)
    text = f"SELECT item, content FROM states WHERE {visible()}"
    before, now = dict(store.rows(text, at=probe.record.commit)), dict(store.rows(text))
    return np.array([now.get(item, before.get(item)) == before.get(item) for item in items.tolist()], np.bool_)
