"""`predict`: a trained probe on new pictures, or on every item of the store."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vecstore.embedding import embed_new
from vecstore.encoders import open_encoder
from vecstore.encoders.base import Encoder
from vecstore.errors import UsageError
from vecstore.records import DoubleArray
from vecstore.store import Store
from vecstore.trained import Probe, load, space_of

_BLOCK = 65_536


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of `predict`.

    Attributes
    ----------
    item : str
        The file as it was given, or the item's locator.
    item_id : int or None
        In the store.
    predicted : str
        The most probable class; several labels: those above 0.5, joined by ";".
    probabilities : dict
        Probability per class, 0 to 1; empty where the picture failed.
    reason : str
        Why there is no prediction; empty otherwise.
    in_training : bool
        Whether the model was trained on this item: then the prediction flatters it. Honest figures are those of
        `train` and `evaluate`.
    """

    item: str
    item_id: int | None
    predicted: str
    probabilities: dict[str, float]
    reason: str = ""
    in_training: bool = False


def predict(
    store: Store,
    probe: Probe | str,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    *,
    where: str | None = None,
    model: int | None = None,
    encoder: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    device: str | None = None,
) -> Iterator[Prediction]:
    """Apply a probe.

    Parameters
    ----------
    store : Store
    probe : Probe or str
        A trained probe, or the name of its task (its newest model).
    images : path or sequence of path, optional
        New pictures, folders or archives of them; without them, every item of the store.
    where : str, optional
        Which items of the store.
    model : int, optional
        A model of the task by its id.
    encoder, weights, device : optional
        How to open the probe's encoder, where its name alone does not find the weights.

    Yields
    ------
    Prediction

    Raises
    ------
    SpaceMismatch
        The encoder's fingerprint is not the probe's.
    NotFound, UsageError, ArchiveError, PredicateRefused
    """
    chosen = load(store, probe, model) if isinstance(probe, str) else probe
    if images is not None:
        if where is not None:
            raise UsageError("--where chooses items of the store", "no new pictures with it", "leave one of them away")
        paths = [images] if isinstance(images, (str, os.PathLike)) else images
        opened = open_encoder(encoder or chosen.record.encoder, weights=weights, device=device)
        chosen.check(opened.passport.fingerprint, f"the encoder {opened.passport.encoder}")
        return _new(store, chosen, opened, paths)
    return _stored(store, chosen, where)


def _new(
    store: Store, probe: Probe, encoder: Encoder, images: Sequence[str | os.PathLike[str]]
) -> Iterator[Prediction]:
    for picture in embed_new(encoder, store.rule, images):
        if picture.vector is None:
            yield Prediction(picture.name, None, "", {}, picture.reason)
        else:
            # As a shard holds it: a picture that is also in the store gets the prediction it has there.
            vector = picture.vector.astype(np.float16).astype(np.float32)
            row = probe.predict_proba(vector[None])[0]
            yield _prediction(picture.name, None, probe, row)


def _stored(store: Store, probe: Probe, where: str | None) -> Iterator[Prediction]:
    space = space_of(store.refresh(), probe)
    items = store.items(where)
    seen = set() if probe.model is None else store.seen(probe.model)
    has_vector = np.flatnonzero(np.isin(items.contents, store.embedded(space)))
    for start in range(0, len(has_vector), _BLOCK):
        rows = has_vector[start : start + _BLOCK]
        probabilities = probe.predict_proba(store.vectors(space, items.contents[rows]))
        for row, values in zip(rows.tolist(), probabilities, strict=True):
            item = int(items.ids[row])
            yield _prediction(items.locators[row], item, probe, values, item in seen)


def _prediction(name: str, item: int | None, probe: Probe, row: DoubleArray, seen: bool = False) -> Prediction:
    classes = probe.record.classes
    if probe.record.kind == "multi-label":
        predicted = ";".join(c for c, p in zip(classes, row, strict=True) if p >= 0.5)
    else:
        predicted = classes[int(np.argmax(row))]
    return Prediction(name, item, predicted, {c: float(p) for c, p in zip(classes, row, strict=True)}, in_training=seen)
