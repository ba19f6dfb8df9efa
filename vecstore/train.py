"""`train`: from a task to a probe with an honest number, without opening a picture."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vecstore.dataset import MIN_GROUPS, Dataset, class_counts, dataset
from vecstore.embedding import pictures_opened
from vecstore.errors import DataError, NotWritable, UsageError
from vecstore.probes import make
from vecstore.probes.calibration import METHODS, Calibrator, Losses, cross_calibrated
from vecstore.probes.metrics import Scores, checked, evaluate
from vecstore.probes.pooling import POOLS
from vecstore.probes.splits import grouped_folds
from vecstore.records import BoolArray, DoubleArray, IntArray, Progress, Silent
from vecstore.store import Store, using
from vecstore.store.catalog import library_versions
from vecstore.trained import OutOfFold, Probe, Record, register, scored

NESTED_ITEMS = 20_000
"""Beyond, the out-of-fold scores are those of the folds on which the strength was chosen."""

FOLDS = 5
"""As the estimators have by default; fewer are made where groups or classes ask for it, and that is noted."""

METRICS = ("auc", "log_loss", "accuracy", "balanced_accuracy")

HALF_MODELS = frozenset({"probe", "svm"})
"""Models that learn from float16 vectors as they are."""

HALF_VALUES = 1 << 27
"""Values of a training matrix beyond which such a model is given float16: half the memory, and no cast."""


def train(
    store: Store | str | os.PathLike[str],
    task: str,
    *,
    model: str = "probe",
    space: str | Sequence[str] | None = None,
    group: str | None = None,
    level: str | None = None,
    pool: str = "auto",
    on_conflict: str = "error",
    metric: str = "auc",
    where: str | None = None,
    min_groups: int = MIN_GROUPS,
    classes: Sequence[str] | None = None,
    seed: int = 0,
    calibrate: str = "none",
    progress: Progress | None = None,
) -> Probe:
    """Train a probe on stored vectors, score it, and register it in the store.

    Parameters
    ----------
    store : Store or path
    task : str
    model : {"probe", "svm", "knn", "mlp", "forest"}
        Logistic regression, linear SVM, nearest neighbours, a network with one hidden layer, or a random forest.
    space : str or sequence of str, optional
        Needed where the store has several. Of several named the unit vectors stand side by side, each with the same
        share of a row's length; items that lack a vector in any of them are left out and counted.
    group : str, optional
        Column that is never split; found by its name otherwise. "none": every item for itself.
    level : str, optional
        Train, score and predict units instead of pictures: "patient", "study", "series", "lesion", or a column whose
        equal values make a unit. A lesion with four pictures counts once.
    pool : {"auto", "mean", "max", "unit-mean"}
        How the vectors of a unit become one: their mean, the largest value of each feature, or the mean brought back
        to unit length. Auto: what is best by the metric in cross-validation inside the training part; out-of-fold
        scores are of what is best on the other folds.
    on_conflict : {"error", "first", "any", "drop"}
        What to do with units whose pictures disagree: what the first says, the positive class if any has it, or
        leave the unit out.
    metric : {"auc", "log_loss", "accuracy", "balanced_accuracy"}
        What strength and pooling are chosen by.
    where : str, optional
        Only items that fit a predicate.
    min_groups : int
        Classes in fewer groups are left out and noted.
    classes : sequence of str, optional
        Only these.
    seed : int
        Of folds and bootstrap.
    calibrate : {"none", "temperature", "platt", "isotonic"}
        How probabilities are made to mean what they say: by one number, by slope and offset per class, or by any
        rising line per class. Learned from the out-of-fold predictions of the training part, never from the test
        part; out-of-fold scores are of calibrators that were learned on the other folds. Saved with the model.
    progress : Progress, optional

    Returns
    -------
    Probe
        `probe.record` has the scores: on the official test part where the task has one, else out of fold.

    Raises
    ------
    NotFound, Ambiguous, DataError, PredicateRefused
    LabelConflict
        Pictures of one unit disagree in label or official part.
    UsageError
        An unknown rule or calibration, or a metric that this model can't choose by.
    NotWritable
        The store was opened at a commit.
    """
    _check_asked(level, pool, metric, calibrate)
    with using(store) as opened:
        if opened.fixed:
            raise NotWritable(
                f"{opened.path} was opened at commit {opened.commit}: a model could not be registered",
                expected="the newest state",
                do="open it without at=",
            )
        before = pictures_opened()
        started = time.perf_counter()
        data = dataset(
            opened,
            task,
            space=space,
            group=group,
            where=where,
            min_groups=min_groups,
            classes=classes,
            level=level,
            pool="mean" if pool == "auto" else pool,
            on_conflict=on_conflict,
        )
        asked = {
            "where": where,
            "group": group,
            "classes_asked": None if classes is None else list(classes),
            "min_groups": min_groups,
        }
        return _trained(
            data, model, pool, on_conflict, metric, seed, calibrate, asked, before, started, progress or Silent()
        )


def _check_asked(level: str | None, pool: str, metric: str, calibrate: str) -> None:
    """Refuse rules that there are not, before any work."""
    if pool not in ("auto", *POOLS):
        raise UsageError(f"pool={pool!r}", expected=f"one of: auto, {', '.join(POOLS)}", do="--pool auto")
    if pool != "auto" and level is None:
        raise UsageError(f"--pool {pool} without units to pool", expected="a level with it", do="add --level COLUMN")
    if metric not in METRICS:
        raise UsageError(f"metric={metric!r}", expected=f"one of: {', '.join(METRICS)}", do="--metric auc")
    if calibrate not in METHODS:
        raise UsageError(f"calibrate={calibrate!r}", f"one of: {', '.join(METHODS)}", "--calibrate temperature")


def _trained(
    data: Dataset,
    model: str,
    pool: str,
    on_conflict: str,
    metric: str,
    seed: int,
    calibrate: str,
    asked: Mapping[str, Any],
    before: int,
    started: float,
    progress: Progress,
) -> Probe:
    """Fit, score and register what a dataset holds."""
    store, units = data.store, data.units
    progress.say(_groups_line(data))
    if units is not None:
        progress.say(f"level: {units.column}, {len(data)} units of {len(units.items)} pictures")
    development = ~data.test
    official = bool(data.test.any())
    _check_learnable(data, development)
    y, groups = data.y[development], data.groups[development]
    folds = int(grouped_folds(y, groups, FOLDS, seed, names=data.classes).max()) + 1
    nest = not official and len(y) <= NESTED_ITEMS and folds > 2
    _estimator(model, seed, metric, nest)  # refused before the vectors are read
    alone = units is None or len(units.items) == len(data)
    rules = [data.pool] if pool != "auto" or alone else list(POOLS)
    dtype = _dtype(model, len(y), data.dim)
    within = ", and inside each of them" if nest else ""
    progress.say(
        f"fitting {model}: {len(y)} {'items' if units is None else 'units'} of {data.dim} numbers,"
        f" {len(data.classes)} classes; parameters chosen over {folds} folds{within}"
    )
    fitted: list[Any] = []
    reading = fitting = 0.0
    now = time.perf_counter()
    for rule in rules:
        vectors = data.vectors(development, dtype=dtype, pool=rule)
        read = time.perf_counter()
        fitted.append(_estimator(model, seed, metric, nest).fit(vectors, y, groups=groups))
        del vectors
        reading, fitting, now = reading + read - now, fitting + time.perf_counter() - read, time.perf_counter()
    choice = _Choice.of(fitted, data, y, metric)
    estimator, rule = fitted[choice.best], rules[choice.best]
    reading += now - started - reading - fitting
    notes = [*data.notes, *_fit_notes(estimator)]
    if len(rules) > 1 and choice.scores == [None] * len(rules):
        notes.append(f"the {metric} could not be computed on any fold: vectors are pooled by the {rule}")
    if folds < FOLDS:
        notes.append(f"{folds} folds instead of {FOLDS}: each needs some of every class, and no group is divided")
    calibrator, out_of_fold = cross_calibrated(
        calibrate, y, choice.out_of_fold, data.task.kind, estimator.folds_, groups
    )
    if official:
        rows = data.test
        raw = np.asarray(estimator.predict_proba(data.vectors(data.test, dtype=dtype, pool=rule)), np.float64)
        probabilities = raw if calibrator is None else calibrator(raw)
    else:
        rows, raw, probabilities = development, choice.out_of_fold, out_of_fold
        if not getattr(estimator, "nested", True):  # who has no such choice chooses for each fold on the others
            notes.append("out-of-fold scores are from the folds on which the parameters were chosen")
    probabilities = np.asarray(probabilities, np.float64)
    scores = evaluate(data.y[rows], probabilities, data.classes, data.task.kind, data.groups[rows], seed=seed)
    calibration = None
    if calibrator is not None:
        changed = {"before": _judged(data, rows, raw), "after": _judged(data, rows, probabilities)}
        calibration = _calibration_told(calibrator) | changed
        notes += _calibration_notes(calibrate, **changed)
    done = time.perf_counter()
    seen, shown = _members(data, development), _members(data, rows)
    parameters = _parameters(estimator)
    if len(rules) > 1:
        parameters["pool_scores"] = dict(sorted(zip(rules, choice.scores, strict=True)))
        parameters = dict(sorted(parameters.items()))  # as they come back from the store
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
        parameters=parameters,
        part="test" if official else "out-of-fold",
        trained_on=int(development.sum()),
        training_groups=len(np.unique(groups)),
        group_column=data.group_column,
        **scored(scores),
        notes=[*notes, *scores.notes, *_sanity(scores)],
        commit=store.commit,
        seed=seed,
        pixels_read=pictures_opened() - before,
        seconds={"read": round(reading, 3), "fit": round(fitting, 3), "evaluate": round(done - now, 3)},
        versions=dict(sorted(library_versions().items())),
        **asked,
        spaces=[space.name for space in data.spaces],
        encoders=[space.passport.encoder for space in data.spaces],
        fingerprints=[space.fingerprint.hex() for space in data.spaces],
        level=None if units is None else units.column,
        pool=None if units is None else rule,
        on_conflict=on_conflict,
        pictures=len(shown.items),
        training_pictures=len(seen.items),
        metric=metric,
        calibration=calibration,
    )
    pictures = (None, None) if units is None else (shown.items, shown.rows)
    probe = Probe(record, estimator, None, data.items[rows], data.y[rows], probabilities, *pictures)
    probe = replace(probe, calibrator=calibrator, out_of_fold=OutOfFold(y, out_of_fold, groups, estimator.folds_))
    return register(
        store, data.task, data.spaces, probe, seen.items, seen.contents, y, None if units is None else seen.rows
    )


def _estimator(model: str, seed: int, metric: str, nest: bool) -> Any:
    """A new estimator, told what it can be told.

    Raises
    ------
    NotFound
        There is no such model.
    UsageError
        It can't choose by this metric.
    """
    made: Any = make(model, seed=seed)
    can = made.get_params()
    if "nested" in can:
        made.set_params(nested=nest)
    if "scoring" in can:
        made.set_params(scoring=metric)
    elif metric != "auc":
        raise UsageError(
            f"the model {model} chooses its parameters by auc alone", expected="--metric auc", do="leave --metric away"
        )
    return made


def _dtype(model: str, n: int, dim: int) -> npt.DTypeLike:
    """What vectors are handed over as: float16, as they are stored, where there are very many values."""
    return np.float16 if model in HALF_MODELS and n * dim > HALF_VALUES else np.float32


class _Members(NamedTuple):
    """Pictures of some rows; `rows` is the row of each."""

    items: IntArray
    contents: IntArray
    rows: IntArray


def _members(data: Dataset, rows: BoolArray) -> _Members:
    if data.units is None:
        return _Members(data.items[rows], data.contents[rows], np.arange(int(rows.sum())))
    units = data.units.only(rows)
    return _Members(units.items, units.contents, units.rows)


@dataclass(frozen=True, slots=True)
class _Choice:
    """Which of several poolings is best, and out-of-fold probabilities that are honest about the choice."""

    best: int
    scores: list[float | None]
    out_of_fold: DoubleArray

    @classmethod
    def of(cls, fitted: Sequence[Any], data: Dataset, y: npt.NDArray[Any], metric: str) -> _Choice:
        """The best by the mean over folds; each fold's predictions are of what is best on the other folds."""
        if len(fitted) == 1:
            return cls(0, [None], fitted[0].oof_)
        folds = fitted[0].folds_  # dealt by groups: the same for every pooling
        table = np.array(
            [
                [_score(y[folds == f], one.oof_[folds == f], data, metric) for f in range(int(folds.max()) + 1)]
                for one in fitted
            ]
        )
        out = np.full_like(fitted[0].oof_, np.nan)
        for fold in range(table.shape[1]):
            chosen = _best(np.delete(table, fold, axis=1))
            out[folds == fold] = fitted[chosen].oof_[folds == fold]
        means = [_mean(row) for row in table]
        return cls(_best(table), [mean if np.isfinite(mean) else None for mean in means], out)


def _best(table: DoubleArray) -> int:
    """The row of the highest mean; of equals the first."""
    return int(np.argmax([_mean(row) for row in table]))


def _mean(scores: DoubleArray) -> float:
    """Of those that are defined; the lowest there is where none is."""
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if len(known) else -np.inf


def _score(y: npt.NDArray[Any], probabilities: DoubleArray, data: Dataset, metric: str) -> float:
    """Of some rows; the higher the better; NaN where it is not defined."""
    if metric == "log_loss":
        truth = y if y.ndim == 2 else y[:, None] == np.arange(len(data.classes))
        chance = np.clip(probabilities, 1e-15, 1)
        held = np.log(chance) * (truth == 1)
        if y.ndim == 2:
            held = held + np.log(np.clip(1 - probabilities, 1e-15, 1)) * (truth == 0)
            return float(held.sum() / max(1, int((truth == truth).sum())))
        return float(held.sum(axis=1).mean())
    value = getattr(evaluate(y, probabilities, data.classes, data.task.kind, n_boot=0), metric)
    return float("nan") if value is None else float(value)


def _fit_notes(estimator: Any) -> list[str]:
    """What the solver has to say of its own work."""
    notes = []
    if getattr(estimator, "converged_", True) is False:
        told = getattr(estimator, "n_iter_", None)
        after = "" if told is None else f" after {int(np.max(told))} iterations"
        notes.append(f"the solver had not converged{after}: another run may score otherwise")
    edge = getattr(estimator, "edge_", "")
    if edge:
        notes.append(f"the best strength lies at the edge of the grid ({edge}): a better one may lie beyond")
    return notes


def _check_learnable(data: Dataset, development: BoolArray) -> None:
    """Refuse what no estimator can learn from, by the names of the classes."""
    if not development.any():
        raise DataError(
            f"task {data.task.name!r}: all {len(data)} labels are in the test part",
            expected="labelled items in the training part",
            do="label some there, or import the labels without --split-column to evaluate out of fold",
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


_CHOSEN = (
    *("C_", "k_", "temperature_", "alpha_", "epochs_", "split_"),
    *("converged_", "n_iter_", "edge_", "device_"),
)


def _parameters(estimator: Any) -> dict[str, Any]:
    """What was chosen inside the training part."""
    found = {name.rstrip("_"): getattr(estimator, name, None) for name in _CHOSEN}
    chosen = {
        name: value.tolist() if hasattr(value, "tolist") else value
        for name, value in found.items()
        if value is not None and not (isinstance(value, str) and not value)
    }
    return dict(sorted((chosen | {"folds": int(np.max(estimator.folds_)) + 1}).items()))


def _calibration_told(calibrator: Calibrator) -> dict[str, Any]:
    """For the record; the lines of an isotonic one are too long for it."""
    told = {name: value for name, value in calibrator.parameters.items() if name not in ("x", "y")}
    return {"method": calibrator.method, "rows": calibrator.rows, "groups": calibrator.groups, **told}


def _judged(data: Dataset, rows: BoolArray, probabilities: DoubleArray) -> dict[str, float | None]:
    """What a calibration may change: AUC, Brier score and log-loss of some rows."""
    kind, y = data.task.kind, data.y[rows]
    truth, scores, _ = checked(y, probabilities, data.classes, kind)
    losses = Losses(truth, scores, kind, np.zeros(len(scores), np.int64))(np.ones((1, 1)))
    auc = evaluate(y, probabilities, data.classes, kind, n_boot=0).auc
    return {"auc": auc, **{name: float(value[0]) for name, value in losses.items()}}


_WORSE = 0.0005
"""A change of a score beyond it is seen in three digits."""


def _calibration_notes(method: str, before: Mapping[str, float | None], after: Mapping[str, float | None]) -> list[str]:
    """What a calibration made worse."""
    told = []
    for name, title, sign in (("auc", "AUC", -1), ("brier", "Brier score", 1), ("log_loss", "log-loss", 1)):
        was, now = before[name], after[name]
        if was is not None and now is not None and sign * (now - was) > _WORSE:
            told.append(f"{title} {was:.3f} to {now:.3f}")
    if not told:
        return []
    tied = method == "isotonic" and told[0].startswith("AUC")
    ties = ": cases it gives the same probability are no longer ranked" if tied else ""
    worse = f"calibration by {method} made it worse on the evaluated rows ({', '.join(told)})"
    return [f"{worse}{ties}; compare without it"]


def _sanity(scores: Scores) -> list[str]:
    """What a reader should be told about a score that is too good, or no better than guessing."""
    if scores.auc is None or scores.auc_interval is None:
        return []
    if scores.auc >= 0.9995:
        return ["the classes are told apart perfectly: look for a leak (groups, burnt-in marks, one class per source)"]
    if scores.auc_interval[0] <= 0.5:
        return ["the interval of the AUC reaches 0.5: no better than guessing has not been ruled out"]
    return []
