"""`predict`: a trained probe on new pictures, or on every item of the store."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

import numpy as np

from vecstore.dataset import level_column, make_units
from vecstore.embedding import embed_new
from vecstore.encoders import open_encoder
from vecstore.encoders.base import Encoder
from vecstore.errors import DataError, UsageError
from vecstore.familiar import Archive, archive
from vecstore.probes.conformal import PredictionSets, prediction_sets
from vecstore.probes.pooling import pooled
from vecstore.records import BoolArray, DoubleArray, FloatArray, IntArray, TaskKind
from vecstore.store import Items, Space, Store, using
from vecstore.trained import Probe, load, spaces_of, trained_on

_BLOCK = 65_536


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of `predict`.

    Attributes
    ----------
    item : str
        The file as it was given, the item's locator, or at a level the value that makes the unit.
    item_id : int or None
        In the store; None for a unit.
    predicted : str
        The most probable class; several labels: those above 0.5, joined by ";".
    probabilities : dict
        Probability per class, 0 to 1; empty where the picture failed.
    reason : str
        Why there is no prediction (the picture can't be read, or has no vector in the store); empty otherwise.
    in_training : bool
        Whether the model was trained on this picture, in this item or in a copy (of a unit: on any of its pictures):
        then the prediction flatters it. Other pictures of the same patient flatter it too, and are not marked: honest
        figures are those of `train` and `evaluate`.
    pictures : int
        How many are scored together.
    set : tuple of str or None
        Where a coverage was asked for: the classes that can't be ruled out; none or several are no answer. Several
        labels: those that may be present.
    absent : tuple of str or None
        Several labels: those that may be absent. A label in both is undecided.
    similarity : float or None
        Where a coverage was asked for: cosine to the most similar case trained on, of another group.
    unfamiliar : bool or None
        Whether that is lower than among the cases trained on, but for 1 - coverage of them.
    """

    item: str
    item_id: int | None
    predicted: str
    probabilities: dict[str, float]
    reason: str = ""
    in_training: bool = False
    pictures: int = 1
    set: tuple[str, ...] | None = None
    absent: tuple[str, ...] | None = None
    similarity: float | None = None
    unfamiliar: bool | None = None


def predict(
    store: Store | str | os.PathLike[str],
    probe: Probe | str,
    images: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    *,
    where: str | None = None,
    model: int | None = None,
    encoder: str | Sequence[str] | None = None,
    weights: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    device: str | None = None,
    coverage: float | None = None,
) -> Iterator[Prediction]:
    """Apply a probe.

    A probe of a level gives a row per unit of the store, with all of the unit's pictures that have vectors (and fit
    `where`) pooled as in training; of new pictures each is scored by itself.

    Parameters
    ----------
    store : Store or path
        A path is open until the last row was taken.
    probe : Probe or str
        A trained probe, or the name of its task (its newest model).
    images : path or sequence of path, optional
        New pictures, folders or archives of them; without them, every item of the store.
    where : str, optional
        Which items of the store.
    model : int, optional
        A model of the task by its id.
    encoder, weights, device : optional
        How to open the probe's encoder, where its name alone does not find the weights. Of a probe over several
        spaces one each, in the order of its record; an empty text is the one of the record.
    coverage : float, optional
        Also tell the set of classes that holds the truth so often (of a random picture of a random new group), and
        whether there is a similar case among those trained on. Both rest on the training part, left out by group.

    Yields
    ------
    Prediction

    Raises
    ------
    SpaceMismatch
        The encoder's fingerprint is not the probe's.
    UsageError
        What says how to open an encoder without new pictures to embed, or a model's id beside a probe.
    NotFound, ArchiveError, PredicateRefused
    DataError
        A coverage that is no share, or a model of an earlier version that kept no out-of-fold predictions.
    """
    _check_asked(probe, images, where, model, {"encoder": encoder, "weights": weights, "device": device})
    stack = ExitStack()
    try:
        opened = stack.enter_context(using(store))
        chosen = load(opened, probe, model) if isinstance(probe, str) else probe
        caution = None if coverage is None else _Caution.of(opened, chosen, coverage)
        if images is None:
            stored = _units if chosen.record.level else _stored
            rows = stored(opened, chosen, where, caution)
        else:
            paths = [images] if isinstance(images, (str, os.PathLike)) else images
            rows = _new(opened, chosen, _encoders(chosen, encoder, weights, device), paths, caution)
    except BaseException:
        stack.close()
        raise
    return rows if isinstance(store, Store) else _closing(rows, stack)


def _check_asked(
    probe: Probe | str, images: object, where: str | None, model: int | None, opening: Mapping[str, object]
) -> None:
    """Refuse what would have no effect."""
    if images is not None and where is not None:
        raise UsageError("--where chooses items of the store", "no new pictures with it", "leave one of them away")
    told = [name for name, value in opening.items() if value is not None]
    if images is None and told:
        raise UsageError(
            f"--{told[0]} without new pictures: items of the store have their vectors already",
            expected="pictures to embed with it",
            do=f"name them, or leave --{told[0]} away",
        )
    if model is not None and not isinstance(probe, str):
        raise UsageError(
            f"model={model} beside a probe", expected="a task's name with it", do="pass the task, or the probe alone"
        )


@dataclass(frozen=True, slots=True)
class _Caution:
    """When not to answer."""

    sets: PredictionSets
    archive: Archive

    @classmethod
    def of(cls, store: Store, probe: Probe, coverage: float) -> _Caution:
        known = probe.out_of_fold
        if known is None:
            raise DataError(
                "this model keeps no out-of-fold predictions by group: it was trained by an earlier version",
                expected="a model that does",
                do=f"train it again: vecstore train {store.path} {probe.record.task}",
            )
        kind: TaskKind = probe.record.kind  # type: ignore[assignment]
        sets = prediction_sets(known.y, known.probabilities, kind, coverage, known.groups)
        return cls(sets, archive(store, probe, coverage, probe.record.seed))

    def told(
        self, classes: Sequence[str], probabilities: DoubleArray, vectors: FloatArray, names: Sequence[str] | None
    ) -> Iterator[dict[str, Any]]:
        """Further fields of `Prediction`, a row at a time."""
        similar = self.archive.similarity(vectors, names)
        strange = self.archive.rule.unfamiliar(similar)
        absent = self.sets.absent(probabilities) if self.sets.kind == "multi-label" else None
        for row, held in enumerate(self.sets(probabilities)):
            near = float(similar[row])
            yield {
                "set": _picked(classes, held),
                "absent": None if absent is None else _picked(classes, absent[row]),
                "similarity": near if np.isfinite(near) else None,
                "unfamiliar": bool(strange[row]),
            }


def _picked(classes: Sequence[str], held: BoolArray) -> tuple[str, ...]:
    return tuple(name for name, one in zip(classes, held.tolist(), strict=True) if one)


def _further(
    caution: _Caution | None, probe: Probe, probabilities: DoubleArray, vectors: FloatArray, names: Sequence[str] | None
) -> Iterator[dict[str, Any]]:
    if caution is None:
        return repeat({}, len(probabilities))
    return caution.told(probe.record.classes, probabilities, vectors, names)


def _closing(rows: Iterator[Prediction], stack: ExitStack) -> Iterator[Prediction]:
    with stack:
        yield from rows


def _encoders(
    probe: Probe,
    encoder: str | Sequence[str] | None,
    weights: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None,
    device: str | None,
) -> list[Encoder]:
    """The encoder of each space, refused where its fingerprint is another."""
    names = _each(probe, "encoder", encoder)
    files = _each(probe, "weights", weights)
    found = []
    for place, (name, file) in enumerate(zip(names, files, strict=True)):
        opened = open_encoder(os.fspath(name or probe.record.encoders[place]), weights=file or None, device=device)
        probe.check(opened.passport.fingerprint, f"the encoder {opened.passport.encoder}", place)
        found.append(opened)
    return found


def _each(
    probe: Probe, what: str, given: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
) -> list[str | os.PathLike[str]]:
    """One for each space; "" where none is given."""
    spaces = probe.record.spaces
    values = [given] if isinstance(given, (str, os.PathLike)) else list(given or [""] * len(spaces))
    if len(values) != len(spaces):
        raise UsageError(
            f"--{what} is given {len(values)} times, and the model is of {len(spaces)} spaces: {', '.join(spaces)}",
            expected="one for each of them, in this order",
            do=f"an empty text stands for the {what} of the record: --{what} ''",
        )
    return values


def _new(
    store: Store,
    probe: Probe,
    encoders: Sequence[Encoder],
    images: Sequence[str | os.PathLike[str]],
    caution: _Caution | None,
) -> Iterator[Prediction]:
    widths = [encoder.passport.dim for encoder in encoders]
    for picture in embed_new(encoders, store.rule, images):
        if picture.vector is None:
            yield Prediction(picture.name, None, "", {}, picture.reason)
        else:
            # As a shard holds it: a picture that is also in the store gets the prediction it has there.
            vector = picture.vector.astype(np.float16).astype(np.float32)[None]
            if probe.record.pool is not None:
                vector = pooled(vector, np.zeros(1, np.int64), 1, probe.record.pool, widths)
            values = probe.predict_proba(vector)
            (further,) = _further(caution, probe, values, vector, None)
            yield replace(_prediction(picture.name, None, probe, values[0]), **further)


def _embedded(store: Store, probe: Probe, where: str | None) -> tuple[list[Space], Items, IntArray]:
    """The probe's spaces, items, and the places of those that have a vector in every space."""
    spaces = spaces_of(store.refresh(), probe)
    items = store.items(where)
    has = np.ones(len(items), np.bool_)
    for space in spaces:
        has &= np.isin(items.contents, store.embedded(space))
    return spaces, items, np.flatnonzero(has)


def _stored(store: Store, probe: Probe, where: str | None, caution: _Caution | None) -> Iterator[Prediction]:
    spaces, items, has_vector = _embedded(store, probe, where)
    known = trained_on(store, probe, items)
    for start in range(0, len(has_vector), _BLOCK):
        rows = has_vector[start : start + _BLOCK]
        vectors = store.vectors(spaces, items.contents[rows])
        probabilities = probe.predict_proba(vectors)
        names = [str(item) for item in items.ids[rows].tolist()]
        further = _further(caution, probe, probabilities, vectors, names)
        for row, values, more in zip(rows.tolist(), probabilities, further, strict=True):
            told = _prediction(items.locators[row], int(items.ids[row]), probe, values, bool(known[row]))
            yield replace(told, **more)
    for row in np.delete(np.arange(len(items)), has_vector).tolist():
        yield Prediction(items.locators[row], int(items.ids[row]), "", {}, _lacking(spaces))


def _lacking(spaces: Sequence[Space]) -> str:
    """Why there is no prediction."""
    where = f"the space {spaces[0].name}" if len(spaces) == 1 else f"each of: {', '.join(s.name for s in spaces)}"
    return f"no vector in {where}; ingest embeds what is missing"


def _units(store: Store, probe: Probe, where: str | None, caution: _Caution | None) -> Iterator[Prediction]:
    """A row per unit, by the first picture of each."""
    spaces, items, has_vector = _embedded(store, probe, where)
    column = level_column(store, str(probe.record.level))
    units = make_units(store, column, items, has_vector)
    # Over the whole store: a patient was trained on, whichever of its pictures `where` leaves.
    everything = store.items()
    whole = make_units(store, column, everything, np.arange(len(everything)))
    known = {whole.names[row] for row in np.unique(whole.rows[trained_on(store, probe, everything)]).tolist()}
    trained = np.array([name in known for name in units.names], np.bool_)
    counts = units.counts()
    blocks = (np.cumsum(counts) - counts) // _BLOCK
    widths = [space.dim for space in spaces]
    for block in np.unique(blocks):
        here = blocks == block
        part = units.only(here)
        members = store.vectors(spaces, part.contents, np.float16)
        vectors = pooled(members, part.rows, len(part.names), str(probe.record.pool), widths)
        probabilities = probe.predict_proba(vectors)
        further = _further(caution, probe, probabilities, vectors, part.names)
        told = zip(part.names, probabilities, trained[here].tolist(), counts[here].tolist(), further, strict=True)
        for name, values, in_training, pictures, more in told:
            yield replace(_prediction(name, None, probe, values, in_training, pictures), **more)
    asked, having = make_units(store, column, items, np.arange(len(items))), set(units.names)
    for name, pictures in zip(asked.names, asked.counts().tolist(), strict=True):
        if name not in having:
            yield Prediction(name, None, "", {}, _lacking(spaces), pictures=pictures)


def _prediction(
    name: str, item: int | None, probe: Probe, row: DoubleArray, seen: bool = False, pictures: int = 1
) -> Prediction:
    classes = probe.record.classes
    if probe.record.kind == "multi-label":
        predicted = ";".join(c for c, p in zip(classes, row, strict=True) if p > 0.5)
    else:
        predicted = classes[int(np.argmax(row))]
    probabilities = {c: float(p) for c, p in zip(classes, row, strict=True)}
    return Prediction(name, item, predicted, probabilities, in_training=seen, pictures=pictures)
