"""`train`: from a task to a probe with an honest number, without opening a picture."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from vecstore.dataset import MIN_GROUPS, Dataset, class_counts, dataset
from vecstore.embedding import pictures_opened
from vecstore.errors import DataError, NotWritable
from vecstore.probes import make
from vecstore.probes.metrics import Scores, evaluate
from vecstore.probes.splits import grouped_folds
from vecstore.records import BoolArray, Progress, Silent
from vecstore.store import Store
from vecstore.store.catalog import library_versions
from vecstore.trained import Probe, Record, register, scored

NESTED_ITEMS = 20_000
"""Beyond, the out-of-fold scores are those of the folds on which the strength was chosen."""


def train(
    store: Store,
    task: str,
    *,
    model: str = "probe",
    space: str | None = None,
    group: str | None = None,
    where: str | None = None,
    min_groups: int = MIN_GROUPS,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Probe:
    """Train a probe on stored vectors, score it, and register it in the store.

    Parameters
    ----------
    store : Store
    task : str
    model : {"probe", "svm", "knn", "mlp", "forest"}
        Logistic regression, linear SVM, nearest neighbours, a network with one hidden layer, or a random forest.
    space : str, optional
        Needed where the store has several.
    group : str, optional
        Column that is never split; found by its name otherwise. "none": every item for itself.
    where : str, optional
        Only items that fit a predicate.
    min_groups : int
        Classes in fewer groups are left out and noted.
    classes : sequence of str, optional
        Only these.
    seed : int
        Of folds and bootstrap.
    progress : Progress, optional

    Returns
    -------
    Probe
        `probe.record` has the scores: on the official test part where the task has one, else out of fold.

    Raises
    ------
    NotFound, Ambiguous, DataError, PredicateRefused
    NotWritable
        The store was opened at a commit.
    """
    progress = progress or Silent()
    if store.fixed:
        raise NotWritable(
            f"{store.path} was opened at commit {store.commit}: a model could not be registered",
            expected="the newest state",
            do="open it without at=",
        )
    opened = pictures_opened()
    started = time.perf_counter()
    data = dataset(store, task, space=space, group=group, where=where, min_groups=min_groups, classes=classes)
    progress.say(_groups_line(data))
    for note in data.notes:
        progress.say(note)
    development = ~data.test
    official = bool(data.test.any())
    _check_learnable(data, development)
    folds = int(grouped_folds(data.y[development], data.groups[development], seed=seed, names=data.classes).max()) + 1
    vectors = data.vectors(development)
    read = time.perf_counter()
    nested = model in ("probe", "svm") and not official and len(vectors) <= NESTED_ITEMS and folds > 2
    estimator: Any = make(model, seed=seed, **({"nested": True} if nested else {}))
    estimator.fit(vectors, data.y[development], groups=data.groups[development])
    fitted = time.perf_counter()
    notes = list(data.notes)
    if official:
        rows, probabilities = data.test, estimator.predict_proba(data.vectors(data.test))
    else:
        rows, probabilities = development, estimator.oof_
        if not nested and model in ("probe", "svm"):  # the others choose for each fold on the other folds
            notes.append("out-of-fold scores are from the folds on which the parameters were chosen")
    probabilities = np.asarray(probabilities, np.float64)
    scores = evaluate(data.y[rows], probabilities, data.classes, data.task.kind, data.groups[rows], seed=seed)
    done = time.perf_counter()
    record = Record(
        task=data.task.name,
        kind=data.task.kind,
        classes=data.classes,
        counts=class_counts(data, rows),
        training_counts=class_counts(data, development),
        space=data.space.name,
        encoder=data.space.passport.encoder,
        fingerprint=data.space.fingerprint.hex(),
        model=model,
        parameters=_parameters(estimator),
        part="test" if official else "out-of-fold",
        trained_on=int(development.sum()),
        training_groups=len(np.unique(data.groups[development])),
        group_column=data.group_column,
        **scored(scores),
        notes=[*notes, *scores.notes, *_sanity(scores)],
        commit=store.commit,
        seed=seed,
        pixels_read=pictures_opened() - opened,
        seconds={
            "read": round(read - started, 3),
            "fit": round(fitted - read, 3),
            "evaluate": round(done - fitted, 3),
        },
        versions=dict(sorted(library_versions().items())),
        where=where,
        group=group,
        classes_asked=None if classes is None else list(classes),
        min_groups=min_groups,
    )
    probe = Probe(record, estimator, None, data.items[rows], data.y[rows], probabilities)
    rows = development
    return register(store, data.task, data.space, probe, data.items[rows], data.contents[rows], data.y[rows])


def _check_learnable(data: Dataset, development: BoolArray) -> None:
    """Refuse what no estimator can learn from, by the names of the classes."""
    if not development.any():
        raise DataError(
            f"task {data.task.name!r}: no training items are left",
            expected="items outside the test part",
            do="check --split-column",
        )
    if data.y.ndim == 2 and len(data.classes) < 2:
        raise DataError(
            f"task {data.task.name!r}: only the label {data.classes[0]} is left",
            expected="at least two labels in a multi-label task",
            do="import its column as a task of its own, or lower --min-groups",
        )
    absent = [name for name, count in class_counts(data, development).items() if not count]
    if absent:
        raise DataError(
            f"task {data.task.name!r}: no training item is of the class {', '.join(absent)}",
            expected="some of every class outside the test part",
            do="leave it out: --classes A,B",
        )


def _groups_line(data: Dataset) -> str:
    if data.group_column is None:
        return "groups: none known, every picture (and its identical copies) stands for itself; --group names a column"
    return f"groups: {data.group_column}, {len(np.unique(data.groups))} of them"


_CHOSEN = ("C_", "k_", "temperature_", "alpha_", "epochs_", "split_", "converged_", "n_iter_")


def _parameters(estimator: Any) -> dict[str, Any]:
    """What was chosen inside the training part."""
    found = {name.rstrip("_"): getattr(estimator, name, None) for name in _CHOSEN}
    chosen = {
        name: value.item() if hasattr(value, "item") else value for name, value in found.items() if value is not None
    }
    return dict(sorted((chosen | {"folds": int(np.max(estimator.folds_)) + 1}).items()))


def _sanity(scores: Scores) -> list[str]:
    """What a reader should be told about a score that is too good, or no better than guessing."""
    if scores.auc is None or scores.auc_interval is None:
        return []
    if scores.auc >= 0.9995:
        return ["the classes are told apart perfectly: look for a leak (groups, burnt-in marks, one class per source)"]
    if scores.auc_interval[0] <= 0.5:
        return ["the interval of the AUC reaches 0.5: no better than guessing has not been ruled out"]
    return []
