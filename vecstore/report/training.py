"""The page of a trained probe: how good it is, on whom, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, roc_curve

from vecstore.errors import DataError
from vecstore.records import BoolArray, DoubleArray, FloatArray, IntArray
from vecstore.report.figures import COLOURS, Curve, dash, histogram_figure, roc_figure
from vecstore.report.page import clean, count, interval, number, phrase, render, share

MOST_CLASSES = 12
"""Classes up to which a confusion matrix can be read."""

NEEDED = ("task", "kind", "classes", "n")
"""Keys without which there is no page."""

_GROUP_NOUNS = (("patient", "patient", "patients"), ("lesion", "lesion", "lesions"), ("study", "study", "studies"))

_FACTS = (
    ("task", "Task"),
    ("kind", "Kind"),
    ("space", "Space"),
    ("encoder", "Encoder"),
    ("level", "Level"),
    ("pool", "Pooling"),
    ("model", "Model"),
    ("parameters", "Parameters"),
    ("group_column", "Groups"),
    ("where", "Filter"),
    ("store", "Store"),
    ("commit", "Commit"),
    ("versions", "Versions"),
)
"""Keys of the record in the order of the table, and what they are called there."""


def training_page(record: Mapping[str, Any], y: npt.ArrayLike, probabilities: npt.ArrayLike) -> str:
    """Make one HTML file of a trained probe.

    Parameters
    ----------
    record : mapping
        Plain values as in JSON. Needed:

        - ``task`` : str
        - ``kind`` : {"binary", "multi-class", "multi-label"}
        - ``classes`` : list of C names, in the order of `y` and `probabilities`; a binary task's positive is last
        - ``n`` : int, pictures evaluated

        Shown where present:

        - ``part`` : {"test", "out-of-fold"}, which pictures were evaluated; ``groups`` : int, how many groups they
          are of; ``group_column`` : str, the column that names them
        - ``level`` : str, the column whose equal values make a unit, where units and not pictures were evaluated;
          ``pictures`` : int, how many those had; ``pool`` : str, how their vectors became one
        - ``auc``, ``accuracy``, ``balanced_accuracy`` : float or None, and each with ``_interval`` : [low, high]
          or None, 95 %
        - ``auc_per_class`` : mapping of class to float or None, ``auc_interval_per_class`` : to [low, high] or None
        - ``counts`` : mapping of class to pictures it was trained on
        - ``notes`` : list of str, everything the reader must know
        - ``spaces``, ``encoders`` : list of str, where there are several; else
        - ``space``, ``encoder``, ``model``, ``where``, ``store`` : str; ``commit`` : int;
          ``parameters``, ``versions`` : mapping, list, number or str
    y : array of shape (n,), int, or (n, C), 0 or 1
        Class index; for several labels, which of them hold.
    probabilities : array of shape (n, C), or (n,) for the positive class of a binary task
        From 0 to 1, of the same pictures.

    Returns
    -------
    str
        The same text for the same input. It opens nothing from elsewhere and runs no script.

    Raises
    ------
    DataError
        The record lacks a needed key, or the arrays do not fit it.
    """
    missing = [key for key in NEEDED if key not in record]
    if missing:
        raise DataError(
            f"the record has no {', '.join(missing)}",
            expected=f"at least {', '.join(NEEDED)}",
            do="give the record that train or evaluate returned",
        )
    truth, scores = _arrays(record, y, probabilities)
    several = {one: record.get(all_of) or () for one, all_of in (("space", "spaces"), ("encoder", "encoders"))}
    record = {**record, **{one: " + ".join(names) for one, names in several.items() if len(names) > 1}}
    return render(
        "training.html",
        {
            "title": f"Classifier report: {clean(record['task'])}",
            "task": record["task"],
            "summary": _summary(record),
            "tiles": _tiles(record),
            "notes": [clean(note) for note in record.get("notes", ())],
            "roc": _roc(record, truth, scores),
            "classes": _class_rows(record, truth),
            "several": record["kind"] != "binary",
            "histogram": _histogram(record, truth, scores),
            "confusion": _confusion(record, truth, scores),
            "facts": [(title, phrase(record[key])) for key, title in _FACTS if record.get(key) not in (None, "")],
        },
    )


def _arrays(record: Mapping[str, Any], y: npt.ArrayLike, probabilities: npt.ArrayLike) -> tuple[BoolArray, FloatArray]:
    """Which classes hold, and their probabilities, both of shape (n, C)."""
    n, classes = int(record["n"]), len(record["classes"])
    given, scores = np.asarray(y), np.asarray(probabilities, dtype=np.float32)
    if record["kind"] == "binary" and scores.shape in ((n,), (n, 1)):
        scores = np.stack([1 - scores.ravel(), scores.ravel()], axis=1)
    several = record["kind"] == "multi-label"
    if scores.shape != (n, classes) or given.shape != ((n, classes) if several else (n,)):
        raise DataError(
            f"labels of shape {given.shape} and probabilities of shape {scores.shape} for {n} pictures",
            expected=f"{(n, classes) if several else (n,)} and {(n, classes)}: a column for each of the classes",
            do="give the labels and predictions that the record was computed from",
        )
    if not ((scores >= 0) & (scores <= 1)).all():
        raise DataError(
            "probabilities that are not from 0 to 1", expected="finite shares", do="calibrate the scores first"
        )
    indices = np.unique(given)
    if n and (indices[0] < 0 or indices[-1] >= (2 if several else classes) or (indices % 1).any()):
        raise DataError(
            f"labels from {indices[0]} to {indices[-1]}",
            expected="0 or 1 per class" if several else f"class indices from 0 to {classes - 1}",
            do="give the labels in the order of the record's classes",
        )
    return (given == 1 if several else given[:, None] == np.arange(classes)), scores


def _summary(record: Mapping[str, Any]) -> str:
    """One sentence that can be quoted alone."""
    test = "test " if record.get("part") == "test" else ""
    pictures = count(int(record["n"]), f"{test}picture")
    groups, unseen = "", "it"
    level = record.get("level")
    if level:
        held = count(int(record.get("pictures") or record["n"]), f"{test}picture")
        pictures = f"{_groups(int(record['n']), str(level), 'unit')} ({held})"
    if record.get("groups") and record.get("group_column") not in (None, "", level):
        groups = f" of {_groups(int(record['groups']), str(record['group_column']))}"
        unseen = "its group"
    auc = "AUC not defined"
    if record.get("auc") is not None:
        bounds = record.get("auc_interval")
        auc = f"AUC {share(record['auc'])}" + (f" (95 % CI {interval(bounds)})" if bounds else "")
    how = f", each scored by a model that had not seen {unseen}" if record.get("part") == "out-of-fold" else ""
    return f"{auc} on {pictures}{groups}{how}."


def _groups(n: int, column: str, noun: str = "group") -> str:
    for part, singular, plural in _GROUP_NOUNS:
        if part in column.lower():
            return count(n, singular, plural)
    return (
        count(n, f"{noun} of {clean(column)}", f"{noun}s of {clean(column)}")
        if noun == "unit"
        else (f"{count(n, noun)} ({clean(column)})")
    )


def _tiles(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The headline figures, each on a scale from 0 to 1."""
    several = {"multi-class": "mean of one-vs-rest", "multi-label": "mean over labels"}
    tiles = []
    for key, name, note in (
        ("auc", "AUC-ROC", several.get(record["kind"], "")),
        ("balanced_accuracy", "Balanced accuracy", ""),
        ("accuracy", "Accuracy", ""),
    ):
        value, bounds = record.get(key), record.get(f"{key}_interval")
        if value is not None:
            low, high = bounds or (value, value)
            tiles.append(
                {
                    "name": name,
                    "note": note,
                    "value": share(value),
                    "bounds": interval(bounds),
                    "at": f"{100 * value:.1f}",
                    "low": f"{100 * low:.1f}",
                    "width": f"{100 * (high - low):.1f}",
                }
            )
    return tiles


def _shown(record: Mapping[str, Any]) -> range:
    """Columns that have a curve: of a binary task the positive class only."""
    classes = len(record["classes"])
    return range(1, 2) if record["kind"] == "binary" else range(classes)


def _roc(record: Mapping[str, Any], truth: BoolArray, scores: FloatArray) -> Any:
    curves: list[Curve | None] = []
    for column in _shown(record):
        held = truth[:, column]
        if held.all() or not held.any():
            curves.append(None)
            continue
        false_rate, true_rate, _ = roc_curve(held, scores[:, column])
        curves.append((false_rate, true_rate))
    if not any(curve is not None for curve in curves):
        return None
    what = "ROC curve" if len(curves) == 1 else f"{len(curves)} ROC curves, one per class"
    return roc_figure(curves, f"{what}: sensitivity against 1 − specificity. {_summary(record)}")


def _class_rows(record: Mapping[str, Any], truth: BoolArray) -> list[dict[str, Any]]:
    """A row per class: its colour, how many pictures, and its AUC."""
    areas: Mapping[str, float | None] = record.get("auc_per_class") or {}
    bounds: Mapping[str, Sequence[float] | None] = record.get("auc_interval_per_class") or {}
    counts: Mapping[str, int] = record.get("counts") or {}
    shown = _shown(record)
    rows = []
    for column, name in enumerate(record["classes"]):
        curve = column - shown.start
        rows.append(
            {
                "name": clean(name),
                "colour": curve % COLOURS if column in shown else None,
                "dash": dash(curve),
                "trained": number(int(counts[name])) if name in counts else "–",
                "evaluated": number(int(truth[:, column].sum())),
                "auc": share(areas.get(name)) if column in shown else "–",
                "bounds": interval(bounds.get(name)),
            }
        )
    return rows


def _histogram(record: Mapping[str, Any], truth: BoolArray, scores: FloatArray) -> dict[str, Any] | None:
    """Where the probabilities lie, for pictures that should be high and those that should be low."""
    if not len(truth):
        return None
    if record["kind"] == "binary":
        negative, positive = (clean(name) for name in record["classes"])
        axis, names = "Probability of the positive class", [f"is {positive}", f"is {negative}"]
        parts = [scores[truth[:, 1], 1], scores[~truth[:, 1], 1]]
    elif record["kind"] == "multi-class":
        highest = scores.argmax(axis=1)
        right = truth[np.arange(len(truth)), highest]
        top: FloatArray = scores.max(axis=1)
        axis, names, parts = "Highest probability", ["predicted right", "predicted wrong"], [top[right], top[~right]]
    else:
        axis, names, parts = (
            "Probability of a label",
            ["label holds", "label does not hold"],
            [scores[truth], scores[~truth]],
        )
    return {
        "figure": histogram_figure(parts, axis, f"Two histograms. {axis}: {names[0]}, and {names[1]}."),
        "legend": [(i, name, number(len(part))) for i, (name, part) in enumerate(zip(names, parts, strict=True))],
    }


def _confusion(record: Mapping[str, Any], truth: BoolArray, scores: FloatArray) -> dict[str, Any] | None:
    """Counts of true class by most probable class, and their shares of the row."""
    names = [clean(name) for name in record["classes"]]
    if record["kind"] == "multi-label" or len(names) > MOST_CLASSES or not len(truth):
        return None
    true: IntArray = truth.argmax(axis=1)
    table: IntArray = confusion_matrix(true, scores.argmax(axis=1), labels=np.arange(len(names)))
    shares: DoubleArray = table / np.maximum(1, table.sum(axis=1, keepdims=True))
    rows = [
        (name, [(number(int(n)), f"{100 * part:.0f}") for n, part in zip(table[i], shares[i], strict=True)])
        for i, name in enumerate(names)
    ]
    return {"names": names, "rows": rows}
