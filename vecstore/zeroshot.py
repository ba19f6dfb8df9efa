"""`zero_shot`: classes told apart by what their pictures are called, in a space that pictures share with texts."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecstore.dataset import MIN_GROUPS, Dataset, class_counts, dataset
from vecstore.embedding import pictures_opened
from vecstore.encoders import open_encoder
from vecstore.encoders.base import Encoder, unit_rows
from vecstore.errors import EncoderError, NotFound, SpaceMismatch, UsageError
from vecstore.probes.metrics import Scores, evaluate
from vecstore.records import DoubleArray, FloatArray, IntArray
from vecstore.store import Space, Store, using
from vecstore.trained import load

PLACE = "{}"
"""What a template has where the class goes."""

NOT = "not "
"""Before the name of a label: the prompts of pictures without it."""

Prompts = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True, slots=True)
class ZeroShot:
    """What texts alone say about the pictures of a task.

    Attributes
    ----------
    task, kind : str
    classes : list of str
        For a binary task the last is the positive one.
    prompts : dict of str to list of str
        What was asked for each class; several labels: also "not LABEL".
    space, encoder, fingerprint : str
    scale : float
        What cosines were multiplied by: the model's own.
    part : {"test", "all"}
        The official test part where the task has one, else every labelled item: texts have seen none of them.
    counts : dict
        Items per class in this part.
    scores : dict
        "auc", "auc_interval", "auc_per_class", "accuracy", … of `vecstore.probes.evaluate`.
    probe : dict or None
        The newest trained probe of the task: "model_id", "model", "space", "part", and the scores of both, "auc" and
        "zero_shot_auc", on the "n" items that both have a prediction for.
    group_column : str or None
    notes : list of str
    commit : int
    pixels_read : int
        Pictures opened on the way: 0.
    items : ndarray of shape (n,), int64
    y : ndarray of shape (n,) or (n, n_classes)
        Their labels.
    probabilities : ndarray of shape (n, n_classes), float64
        softmax(scale * cosine); several labels: of each against its "not LABEL".
    """

    task: str
    kind: str
    classes: list[str]
    prompts: dict[str, list[str]]
    space: str
    encoder: str
    fingerprint: str
    scale: float
    part: str
    counts: dict[str, int]
    scores: dict[str, Any]
    probe: dict[str, Any] | None
    group_column: str | None
    notes: list[str]
    commit: int
    pixels_read: int
    items: IntArray = field(repr=False)
    y: NDArray[np.generic] = field(repr=False)
    probabilities: DoubleArray = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: everything but the arrays, the scores on the first level."""
        told = {name: getattr(self, name) for name in self.__dataclass_fields__}
        for name in ("items", "y", "probabilities", "scores"):
            del told[name]
        return told | self.scores


def zero_shot(
    store: Store | str | os.PathLike[str],
    task: str,
    prompts: Prompts | str | os.PathLike[str] | None = None,
    *,
    template: str | Sequence[str] = (),
    space: str | None = None,
    group: str | None = None,
    where: str | None = None,
    min_groups: int = MIN_GROUPS,
    classes: Sequence[str] | None = None,
    encoder: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    device: str | None = None,
    seed: int = 0,
) -> ZeroShot:
    """Classify stored pictures by texts, and score that beside the newest trained probe.

    The vector of a class is the mean of its prompts' unit vectors, brought back to unit length.

    Parameters
    ----------
    store : Store or path
    task : str
    prompts : mapping of class to str or sequence of str, or path, optional
        Of several labels also of "not LABEL". A path names a JSON file with such a mapping, or a CSV file with the
        columns `class` and `prompt`.
    template : str or sequence of str
        Texts with "{}" for the name of the class, for classes without prompts of their own.
    space : str, optional
        Needed where the store has several. One made by a CLIP encoder.
    group : str, optional
        Column by which intervals are resampled; found by its name otherwise. "none": every item for itself.
    where : str, optional
        Only items that fit a predicate.
    min_groups : int
        Classes in fewer groups are left out and noted.
    classes : sequence of str, optional
        Only these.
    encoder, weights, device : optional
        How to open the space's encoder, where its name alone does not find the weights.
    seed : int
        Of the bootstrap.

    Returns
    -------
    ZeroShot
        Nothing is written.

    Raises
    ------
    NotFound, Ambiguous, DataError, PredicateRefused
    UsageError
        Classes without prompts, prompts without a class, or a file that holds none.
    EncoderError
        The space's encoder has no text tower.
    SpaceMismatch
        The encoder's fingerprint is not the space's.
    """
    with using(store) as at_hand:
        before = pictures_opened()
        given = _mapping(prompts)
        templates = [template] if isinstance(template, str) else list(template)
        data = dataset(at_hand, task, space=space, group=group, where=where, min_groups=min_groups, classes=classes)
        asked = _asked(data, given, templates)
        opened = open_encoder(encoder or data.space.passport.encoder, weights=weights, device=device)
        _check(data.space, opened)
        rows = data.test if data.test.any() else np.ones(len(data), np.bool_)
        texts = {name: _class_vector(opened, several) for name, several in asked.items()}
        probabilities = _probabilities(data, data.vectors(rows), texts, opened.logit_scale)
        y, groups, items = data.y[rows], data.groups[rows], data.items[rows]
        scores = evaluate(y, probabilities, data.classes, data.task.kind, groups, seed=seed)
        return ZeroShot(
            task=data.task.name,
            kind=data.task.kind,
            classes=data.classes,
            prompts=asked,
            space=data.space.name,
            encoder=data.space.passport.encoder,
            fingerprint=data.space.fingerprint.hex(),
            scale=opened.logit_scale,
            part="test" if data.test.any() else "all",
            counts=class_counts(data, rows),
            scores={name: value for name, value in scores.to_dict().items() if name not in ("kind", "notes")},
            probe=_beside(at_hand, data, items, y, groups, probabilities, seed),
            group_column=data.group_column,
            notes=[*data.notes, *scores.notes],
            commit=at_hand.commit,
            pixels_read=pictures_opened() - before,
            items=items,
            y=y,
            probabilities=probabilities,
        )


def _mapping(prompts: Prompts | str | os.PathLike[str] | None) -> dict[str, list[str]]:
    """Prompts as lists, from wherever they are."""
    found: Any = {} if prompts is None else prompts
    if isinstance(found, (str, os.PathLike)):
        found = _read(Path(found))
    if not isinstance(found, Mapping):
        raise UsageError("the prompts are no mapping", expected='{"class": "text", …}', do="see: zero-shot --help")
    several = {str(name): [texts] if isinstance(texts, str) else texts for name, texts in found.items()}
    for name, texts in several.items():
        right = isinstance(texts, Sequence) and texts and all(isinstance(text, str) and text.strip() for text in texts)
        if not right:
            raise UsageError(f"the prompts of {name!r} are {texts!r}", expected="texts", do="give at least one")
    return {name: list(texts) for name, texts in several.items()}


def _read(path: Path) -> Any:
    """Prompts from a file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} can't be read: {error}", expected="a JSON or CSV file in UTF-8") from error
    if path.suffix.lower() == ".json":
        try:
            return json.loads(text)
        except ValueError as error:
            raise UsageError(f"{path} is no JSON: {error}", expected='{"class": ["text", …], …}') from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    rows = []
    for row in reader:
        if None in row:
            raise UsageError(
                f"{path}, line {reader.line_num}: more cells than columns",
                expected="a text with commas in quotes",
                do=f'write: {row.get("class")},"{row.get("prompt")},{",".join(row[None])}"',
            )
        rows.append(row)
    if not rows or not {"class", "prompt"} <= rows[0].keys():
        raise UsageError(
            f"{path} has the columns {', '.join(map(str, rows[0])) if rows else 'none'}",
            expected="the columns class and prompt, and a row per prompt",
            do="write such a table, or a JSON file named .json",
        )
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["class"] or "", []).append(row["prompt"] or "")
    return found


def _asked(data: Dataset, given: Mapping[str, Sequence[str]], templates: Sequence[str]) -> dict[str, list[str]]:
    """The prompts of every class, and of several labels of every absence."""
    for one in templates:
        if PLACE not in one:
            raise UsageError(f"the template {one!r} has no {PLACE}", expected=f"as in 'an x-ray of {PLACE}'")
    several = data.task.kind == "multi-label"
    absences = [f"{NOT}{name}" for name in data.classes] if several else []
    known = {*data.task.classes, *(f"{NOT}{name}" for name in data.task.classes if several)}
    for name in given:
        if name not in known:
            raise NotFound(
                f"task {data.task.name!r} has no class {name!r}",
                expected=f"prompts for: {', '.join([*data.classes, *absences])}",
                do="--prompt CLASS=TEXT",
            )
    asked = {
        name: list(given.get(name) or [one.replace(PLACE, name) for one in templates])
        for name in [*data.classes, *absences]
    }
    silent = [name for name, texts in asked.items() if not texts]
    if silent:
        raise UsageError(
            f"no prompt for: {', '.join(silent)}",
            expected="at least one for each class" + (f', and of "{NOT}LABEL" for pictures without it' * several),
            do=f'--prompt "{silent[0]}=TEXT", or --template "a picture of {PLACE}" for the names as they are',
        )
    return asked


def _check(space: Space, encoder: Encoder) -> None:
    if type(encoder).encode_text is Encoder.encode_text:
        raise EncoderError(
            f"the encoder {space.passport.encoder} of the space {space.name} has no text tower",
            expected="a space made by an open_clip encoder, e.g. open_clip:ViT-B-32/laion2b_s34b_b79k",
            do="name one with --space, or ingest with such an encoder",
        )
    if encoder.passport.fingerprint != space.fingerprint:
        raise SpaceMismatch(
            f"the encoder {encoder.passport.encoder} has the fingerprint {encoder.passport.fingerprint.hex()[:12]};"
            f" the space {space.name} has {space.fingerprint.hex()[:12]}",
            expected=f"{space.passport.encoder} with weights {space.passport.weights_sha256[:12]}",
            do="give the same weights: --weights FILE",
        )


def _class_vector(encoder: Encoder, texts: Sequence[str]) -> FloatArray:
    """Mean of unit vectors, of unit length, of shape (dim,)."""
    vector: FloatArray = unit_rows(encoder.encode_text(texts).mean(axis=0, keepdims=True))[0]
    if not np.isfinite(vector).all():
        raise EncoderError(f"the vectors of {list(texts)!r} cancel out", expected="texts that mean something")
    return vector


def _probabilities(data: Dataset, vectors: FloatArray, texts: Mapping[str, FloatArray], scale: float) -> DoubleArray:
    """Of shape (n, n_classes): softmax over classes; several labels: of each against its absence."""
    wide = vectors.astype(np.float64)
    held = scale * (wide @ np.stack([texts[name] for name in data.classes], axis=1))
    if data.task.kind == "multi-label":
        absent = scale * (wide @ np.stack([texts[f"{NOT}{name}"] for name in data.classes], axis=1))
        return np.asarray(1 / (1 + np.exp(absent - held)))
    odds = np.exp(held - held.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def _beside(
    store: Store,
    data: Dataset,
    items: IntArray,
    y: NDArray[np.generic],
    groups: IntArray,
    probabilities: DoubleArray,
    seed: int,
) -> dict[str, Any] | None:
    """The newest trained probe of the task, and both on the items that both predict."""
    try:
        probe = load(store, data.task.name)
    except NotFound:
        return None
    # A probe of units (lesions …) has no prediction for a picture.
    if probe.model is None or probe.record.classes != data.classes or getattr(probe.record, "level", None):
        return None
    both, here, there = np.intersect1d(items, probe.items, return_indices=True)
    if not len(both):
        return None
    known = (y[here], data.classes, data.task.kind, groups[here])

    def scored(values: DoubleArray) -> Scores:
        return evaluate(known[0], values, known[1], known[2], known[3], seed=seed)

    trained, texts = scored(probe.probabilities[there]), scored(probabilities[here])
    return {
        "model_id": probe.model.id,
        "model": probe.record.model,
        "space": probe.record.space,
        "part": probe.record.part,
        "n": len(both),
        "auc": trained.auc,
        "auc_interval": asdict(trained)["auc_interval"],
        "zero_shot_auc": texts.auc,
        "zero_shot_auc_interval": asdict(texts)["auc_interval"],
    }
