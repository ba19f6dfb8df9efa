"""`evaluate`: score a stored model again, from stored vectors."""

from __future__ import annotations

import dataclasses

import numpy as np

from vecstore.dataset import class_counts, dataset, group_column
from vecstore.embedding import pictures_opened
from vecstore.probes import metrics
from vecstore.records import BoolArray
from vecstore.store import Store, Task
from vecstore.store.catalog import visible
from vecstore.trained import Probe, Record, load, scored, space_of


def evaluate(store: Store, task: str, *, model: int | None = None) -> Probe:
    """Score the newest model of a task, or one by its id.

    On the official test part the stored weights are applied again to the stored vectors; without one, the
    out-of-fold predictions saved in training are scored again. The labels are those of the import that the model was
    trained on, chosen as then (`where`, classes, groups); what has changed since is said in the notes.

    Parameters
    ----------
    store : Store
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
    opened = pictures_opened()
    probe = load(store, task, model)
    assert probe.model is not None
    record = probe.record
    notes = _imported_since(store, probe.model.task)
    scored_items = probe.items
    if record.part != "test":
        same = _unchanged(store, probe)
        if not same.all():
            notes.append(f"{int((~same).sum())} items have another picture than in training and are left out")
        scored_items = probe.items[same]
    data = dataset(
        store,
        probe.model.task,
        space=space_of(store, probe),
        group=_group(store, record),
        where=record.where,
        classes=record.classes,
        only=scored_items,
    )
    if record.part == "test":
        probabilities = probe.predict_proba(data.vectors())
    else:
        probabilities = probe.probabilities[np.searchsorted(probe.items, data.items)]
    if gone := len(scored_items) - len(data):
        notes.append(f"{gone} items of the training record are gone")
    scores = metrics.evaluate(
        data.y, probabilities, record.classes, probe.model.task.kind, data.groups, seed=record.seed
    )
    fresh = dataclasses.replace(
        record,
        counts=class_counts(data),
        **scored(scores),
        notes=[*record.notes, *notes],
        pixels_read=pictures_opened() - opened,
    )
    return Probe(fresh, probe.estimator, probe.model, data.items, data.y, probabilities)


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


def _unchanged(store: Store, probe: Probe) -> BoolArray:
    """Which of a probe's items have the picture they had, or none: saved predictions are of that picture."""
    text = f"SELECT item, content FROM states WHERE {visible()}"
    before, now = dict(store.rows(text, at=probe.record.commit)), dict(store.rows(text))
    return np.array([now.get(item, before.get(item)) == before.get(item) for item in probe.items.tolist()], np.bool_)
