"""`evaluate`: score a stored model again, from stored vectors."""

from __future__ import annotations

import dataclasses

import numpy as np

from vecstore.dataset import class_counts, dataset
from vecstore.embedding import pictures_opened
from vecstore.probes import metrics
from vecstore.store import Store
from vecstore.trained import Probe, load, scored, space_of


def evaluate(store: Store, task: str, *, model: int | None = None) -> Probe:
    """Score the newest model of a task, or one by its id.

    On the official test part the stored weights are applied again to the stored vectors; without one, the
    out-of-fold predictions saved in training are scored again.

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
    group = record.group_column or "none"
    data = dataset(
        store,
        probe.model.task,
        space=space_of(store, probe),
        group=group,
        classes=record.classes,
        only=probe.items,
    )
    if record.part == "test":
        probabilities = probe.predict_proba(data.vectors())
    else:
        probabilities = probe.probabilities[np.searchsorted(probe.items, data.items)]
    gone = record.n - len(data)
    notes = [f"{gone} items of the training record are gone"] if gone else []
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
