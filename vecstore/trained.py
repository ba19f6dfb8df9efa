"""A trained probe: its record, its estimator, and how both go into a store and come back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load as unpack
from safetensors.numpy import save as pack

from vecstore.errors import NotFound, SpaceMismatch
from vecstore.probes import saved
from vecstore.probes.assessing import Assessment
from vecstore.probes.calibration import Calibrator
from vecstore.probes.metrics import Scores
from vecstore.probes.pooling import pooled
from vecstore.records import BoolArray, DoubleArray, FloatArray, IntArray
from vecstore.store import Items, Model, Space, Store, Task
from vecstore.store.catalog import visible


@dataclass(frozen=True, slots=True)
class Record:
    """What is known about a trained probe; written beside its weights.

    Attributes
    ----------
    task, kind : str
    classes : list of str
        For a binary task the last is the positive one.
    counts : dict
        Items per class in the evaluated part.
    training_counts : dict
        Items per class it was trained on.
    space, encoder, fingerprint : str
        Of several spaces those of the first; all of them are in `spaces`, `encoders` and `fingerprints`.
    model : {"probe", "svm", "knn", "mlp", "forest"}
    parameters : dict
        What was chosen, and how.
    part : {"test", "out-of-fold"}
        Where the scores come from.
    n, groups : int
        Items (at a level: units) and groups evaluated.
    trained_on, training_groups : int
    group_column : str or None
    auc, accuracy, balanced_accuracy : float or None
    auc_interval, accuracy_interval, balanced_accuracy_interval : list of float, or None
        95 %, by bootstrap over groups.
    auc_per_class, auc_interval_per_class : dict
    notes : list of str
    commit : int
        The snapshot it was trained at.
    seed : int
    pixels_read : int
        Pictures opened on the way: 0.
    seconds : dict
        "read", "fit", "evaluate".
    versions : dict
    where, group, classes_asked, min_groups
        What was asked for when it was trained.
    spaces, encoders, fingerprints : list of str
        Whose vectors stand side by side, in this order.
    level : str or None
        The column whose equal values make a unit; None where every picture counts by itself.
    pool : {"mean", "max", "unit-mean"} or None
        How the vectors of a unit become one.
    on_conflict : {"error", "first", "any", "drop"}
        What was done with units whose pictures disagree.
    pictures, training_pictures : int
        Pictures evaluated and trained on; without a level `n` and `trained_on`.
    metric : {"auc", "log_loss", "accuracy", "balanced_accuracy"}
        What the parameters were chosen by.
    calibration : dict or None
        "method", its numbers ("temperature", or "slope" and "offset" per class), and the "rows" and "groups" of the
        training part whose out-of-fold predictions it was fitted on.
    """

    task: str
    kind: str
    classes: list[str]
    counts: dict[str, int]
    training_counts: dict[str, int]
    space: str
    encoder: str
    fingerprint: str
    model: str
    parameters: dict[str, Any]
    part: str
    n: int
    groups: int
    trained_on: int
    training_groups: int
    group_column: str | None
    auc: float | None
    auc_interval: list[float] | None
    auc_per_class: dict[str, float | None]
    auc_interval_per_class: dict[str, list[float] | None]
    accuracy: float | None
    accuracy_interval: list[float] | None
    balanced_accuracy: float | None
    balanced_accuracy_interval: list[float] | None
    notes: list[str]
    commit: int
    seed: int
    pixels_read: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    where: str | None = None
    group: str | None = None
    classes_asked: list[str] | None = None
    min_groups: int | None = None
    spaces: list[str] = field(default_factory=list)
    encoders: list[str] = field(default_factory=list)
    fingerprints: list[str] = field(default_factory=list)
    level: str | None = None
    pool: str | None = None
    on_conflict: str = "error"
    pictures: int = 0
    training_pictures: int = 0
    metric: str = "auc"
    calibration: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """Predictions for the training part, each by a model that had not seen its group, calibrated likewise.

    What may be chosen on them: thresholds, calibration, prediction sets. The test part is only judged.

    Attributes
    ----------
    y : ndarray of shape (n,) or (n, n_classes)
    probabilities : ndarray of shape (n, n_classes), float64
    groups, folds : ndarray of shape (n,), int64
    """

    y: npt.NDArray[np.generic]
    probabilities: DoubleArray
    groups: IntArray
    folds: IntArray


@dataclass(frozen=True, slots=True)
class Probe:
    """A trained probe, in memory.

    Attributes
    ----------
    record : Record
    estimator : scikit-learn classifier
    model : Model or None
        As registered in the store.
    items : ndarray of shape (n,), int64
        Items of the evaluated part; at a level the first picture of each unit.
    y : ndarray of shape (n,) or (n, n_classes)
        Their labels.
    probabilities : ndarray of shape (n, n_classes), float64
        What the record's scores were computed from.
    pictures, rows : ndarray of shape (m,), int64, or None
        At a level: all pictures of the evaluated units, ascending, and the row of each.
    calibrator : Calibrator or None
        What the estimator's probabilities go through.
    out_of_fold : OutOfFold or None
        Predictions for the training part; None of models that an earlier version trained.
    assessment : Assessment or None
        All other figures, where `evaluate` made them.
    """

    record: Record
    estimator: Any
    model: Model | None
    items: IntArray
    y: npt.NDArray[np.generic]
    probabilities: DoubleArray
    pictures: IntArray | None = None
    rows: IntArray | None = None
    calibrator: Calibrator | None = None
    out_of_fold: OutOfFold | None = None
    assessment: Assessment | None = None

    def check(self, fingerprint: bytes, what: str, place: int = 0) -> None:
        """Refuse vectors of another fingerprint than that of the space at `place`, from 0.

        Raises
        ------
        SpaceMismatch
        """
        expected, encoder = self.record.fingerprints[place], self.record.encoders[place]
        if fingerprint.hex() != expected:
            raise SpaceMismatch(
                f"{what} has the fingerprint {fingerprint.hex()[:12]}; this probe was trained on"
                f" {expected[:12]} ({encoder})",
                expected=f"vectors of the space {self.record.spaces[place]}",
                do=f"use --encoder {encoder} with the same weights, or train on the other space",
            )

    def predict_proba(self, vectors: FloatArray) -> DoubleArray:
        """Probability per class: vectors of shape (n, dim) to ndarray of shape (n, n_classes), float64.

        Several labels: the probability that each holds.
        """
        found = np.asarray(self.estimator.predict_proba(vectors), np.float64)
        return found if self.calibrator is None else self.calibrator(found)


_PER_CLASS = ("counts", "training_counts", "auc_per_class", "auc_interval_per_class")


def scored(scores: Scores) -> dict[str, Any]:
    """The fields of a `Record` that scores fill."""
    told = scores.to_dict()
    return {
        name: value
        for name, value in told.items()
        if name in Record.__dataclass_fields__ and name not in ("kind", "notes")
    }


def spaces_of(store: Store, probe: Probe) -> list[Space]:
    """The spaces a probe was trained on, in its order.

    Raises
    ------
    NotFound
        The store does not have one of them.
    """
    known = {space.fingerprint.hex(): space for space in store.spaces()}
    for fingerprint, encoder in zip(probe.record.fingerprints, probe.record.encoders, strict=True):
        if fingerprint not in known:
            raise NotFound(
                f"{store.path} has no space with the fingerprint {fingerprint[:12]}",
                expected=f"vectors of {encoder}",
                do=f"embed them: vecstore ingest ARCHIVE --store {store.path} --encoder {encoder}",
            )
    return [known[fingerprint] for fingerprint in probe.record.fingerprints]


def register(
    store: Store,
    task: Task,
    spaces: Sequence[Space],
    probe: Probe,
    seen: IntArray,
    contents: IntArray,
    targets: npt.NDArray[np.generic],
    rows: IntArray | None = None,
) -> Probe:
    """Write a probe's files into the store and register it; returns it with its `model`.

    Parameters
    ----------
    store, task, spaces, probe
        The catalog names the first space; the record names all.
    seen, contents : ndarray of shape (m,), int64
        Items it was trained on, and their contents.
    targets : ndarray of shape (n,) or (n, n_classes)
        Their labels. A kNN model keeps contents and labels, and no vectors: so forgetting a patient leaves
        nothing of it in a model.
    rows : ndarray of shape (m,), int64, optional
        At a level: which of the n units each item belongs to.
    """
    files = saved.to_files(probe.estimator, probe.record.to_dict(), probe.calibrator)
    arrays: dict[str, npt.NDArray[Any]] = {"items": probe.items, "y": probe.y, "probabilities": probe.probabilities}
    if probe.pictures is not None and probe.rows is not None:
        arrays |= {"pictures": probe.pictures, "rows": probe.rows}
    if probe.out_of_fold is not None:
        kept = ("groups", "folds") if probe.record.part != "test" else OutOfFold.__slots__
        arrays |= {f"oof_{name}": getattr(probe.out_of_fold, name) for name in kept}
    if probe.record.model == "knn":
        arrays |= {"contents": contents, "contents_y": targets}
        if rows is not None:
            arrays["contents_rows"] = rows
    files["predictions.safetensors"] = pack({name: np.ascontiguousarray(values) for name, values in arrays.items()})
    record = probe.record
    arguments = {
        "task": record.task,
        "model": record.model,
        "space": record.space if len(spaces) == 1 else record.spaces,
        "group": record.group,
        "where": record.where,
        "min_groups": record.min_groups,
        "classes": record.classes_asked,
        "seed": record.seed,
    }
    if record.level is not None:
        arguments |= {"level": record.level, "pool": record.pool, "on_conflict": record.on_conflict}
    if record.metric != "auc":
        arguments["metric"] = record.metric
    if record.calibration is not None:
        arguments["calibrate"] = record.calibration["method"]
    return replace(probe, model=store.add_model(task, spaces[0], files, record.to_dict(), seen, arguments))


def trained_on(store: Store, probe: Probe, items: Items) -> BoolArray:
    """Of which items the model has seen the picture, in them or in a copy."""
    if probe.model is None:
        return np.zeros(len(items), np.bool_)
    seen = store.seen(probe.model)
    text = f"SELECT item, content FROM states WHERE {visible()}"
    pictures = [content for item, content in store.rows(text, at=probe.record.commit) if item in seen]
    return np.isin(items.ids, list(seen)) | np.isin(items.contents, pictures)


def load(store: Store, task: str, model: int | None = None) -> Probe:
    """The newest probe of a task, or one by its id.

    Raises
    ------
    NotFound
        The task has no model yet, or none with this id.
    StoreDamaged
        Its files are not those that were registered.
    """
    models = store.refresh().models(store.task(task).name)
    chosen = [m for m in models if model is None or m.id == model]
    if not chosen:
        raise NotFound(
            f"no model {'' if model is None else f'{model} '}of task {task!r}",
            expected=f"one of: {', '.join(str(m.id) for m in models)}" if models else "a trained one",
            do=f"train one: vecstore train {store.path} {task}",
        )
    return _load(store, chosen[-1])


def _load(store: Store, model: Model) -> Probe:
    files = store.model_files(model)
    arrays = unpack(files.pop("predictions.safetensors"))
    estimator, record = saved.from_files(files)
    probe = Probe(
        Record(**_fields(record)),
        estimator,
        model,
        arrays["items"],
        arrays["y"],
        arrays["probabilities"],
        arrays.get("pictures"),
        arrays.get("rows"),
        saved.calibrator_of(files),
        _out_of_fold(arrays),
    )
    if probe.record.model == "knn":
        spaces, targets = spaces_of(store, probe), arrays["contents_y"]
        if "contents_rows" not in arrays:
            vectors = store.vectors(spaces, arrays["contents"])
        else:
            members = store.vectors(spaces, arrays["contents"], np.float16)
            widths = [space.dim for space in spaces]
            vectors = pooled(members, arrays["contents_rows"], len(targets), str(probe.record.pool), widths)
        estimator.attach(vectors, targets)
    return probe


def _out_of_fold(arrays: Mapping[str, npt.NDArray[Any]]) -> OutOfFold | None:
    """The evaluated rows themselves where there is no test part."""
    if "oof_groups" not in arrays:
        return None
    y, probabilities = (arrays.get(f"oof_{name}", arrays[name]) for name in ("y", "probabilities"))
    return OutOfFold(y, probabilities, arrays["oof_groups"], arrays["oof_folds"])


def _fields(record: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `Record` only, as a later version may have written more; per class in the order of the classes."""
    fields = {name: value for name, value in record.items() if name in Record.__dataclass_fields__}
    rank = {name: i for i, name in enumerate(fields["classes"])}
    for name in _PER_CLASS:
        fields[name] = dict(sorted(fields[name].items(), key=lambda entry: rank[entry[0]]))
    # What a version before several spaces and levels did not write.
    for several, one in (("spaces", "space"), ("encoders", "encoder"), ("fingerprints", "fingerprint")):
        fields.setdefault(several, [fields[one]])
    fields.setdefault("pictures", fields["n"])
    fields.setdefault("training_pictures", fields["trained_on"])
    return fields
