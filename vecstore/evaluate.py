"""`evaluate`: score a stored model again, from stored vectors."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from vecstore.dataset import Units, class_counts, dataset, group_column
from vecstore.embedding import pictures_opened
from vecstore.probes import metrics
from vecstore.records import BoolArray, IntArray
from vecstore.store import Store, Task, using
from vecstore.store.catalog import visible
from vecstore.trained import Probe, Record, load, scored, spaces_of


def evaluate(store: Store | str | os.PathLike[str], task: str, *, model: int | None = None) -> Probe:
    """Score the newest model of a task, or one by its id.

    On the official test part the stored weights are applied again to the stored vectors; without one, the
    out-of-fold predictions saved in training are scored again. The labels are those of the import that the model was
    trained on, chosen as then (`where`, classes, groups), and pooled as then; what has changed since is said in the
    notes.

    Parameters
    ----------
    store : Store or path
    task : str
    model : int, optional

    Returns
    -------
    Probe
        With a fresh record; nothing is written.

    Raises
    ------
    NotFound, StoreDamaged
    """
    with using(store) as opened:
        return _evaluated(opened, task, model)


def _evaluated(store: Store, task: str, model: int | None) -> Probe:
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
        group=_group(store, record),
        where=record.where,
        classes=record.classes,
        only=asked,
        level=record.level,
        pool=record.pool or "mean",
        # Units that agreed in training and do not any more have other pictures now, or another label.
        on_conflict="drop" if record.on_conflict == "error" else record.on_conflict,
    )
    left = data.items if data.units is None else data.units.items
    keep = np.ones(len(data), np.bool_)
    if record.part == "test":
        probabilities = probe.predict_proba(data.vectors())
    else:
        saved = rows[np.searchsorted(members, data.items)]
        if data.units is not None:
            keep = _whole(data.units, saved, rows[np.searchsorted(members, left)], np.bincount(rows))
        probabilities = probe.probabilities[saved][keep]
    what = "items have another picture" if record.level is None else "units have other pictures"
    changed = len(np.unique(rows[~same])) + int((~keep).sum())
    if changed:
        notes.append(f"{changed} {what} than in training and are left out")
    if gone := int((~np.isin(asked, store.items().ids)).sum()):
        notes.append(f"{gone} items of the training record are gone")
    if others := len(asked) - len(left) - gone:
        notes.append(f"{others} items of the training record no longer fit its rules (labels, where, units that agree)")
    y, groups = data.y[keep], data.groups[keep]
    scores = metrics.evaluate(y, probabilities, record.classes, probe.model.task.kind, groups, seed=record.seed)
    units = None if data.units is None else data.units.only(keep)
    fresh = dataclasses.replace(
        record,
        counts=class_counts(data, keep),
        **scored(scores),
        notes=[*record.notes, *notes],
        pixels_read=pictures_opened() - opened,
        pictures=len(y) if units is None else len(units.items),
    )
    pooled = (None, None) if units is None else (units.items, units.rows)
    return Probe(fresh, probe.estimator, probe.model, data.items[keep], y, probabilities, *pooled)


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


def _group(store: Store, record: Record) -> str | None:
    """The groups of training: found by the column's name as then, unless that would find another column now."""
    if record.group is not None or group_column(store) == record.group_column:
        return record.group
    return record.group_column or "none"


def _imported_since(store: Store, scored_task: Task) -> list[str]:
    newest = store.task(scored_task.name)
    if newest.id == scored_task.id:
        return []
    then = f"scored are the labels the model was trained on (commit {scored_task.added_in})"
    return [f"the task was imported again since (commit {newest.added_in}); {then}"]


def _unchanged(store: Store, probe: Probe, items: IntArray) -> BoolArray:
    """Which of some items have the picture they had, or none: saved predictions are of that picture."""
    text = f"SELECT item, content FROM states WHERE {visible()}"
    before, now = dict(store.rows(text, at=probe.record.commit)), dict(store.rows(text))
    return np.array([now.get(item, before.get(item)) == before.get(item) for item in items.tolist()], np.bool_)
