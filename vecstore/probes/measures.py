"""What a reviewer asks of a classifier beside its AUC: figures per class and over classes, each with its interval.

Everything that does not rank is made of sums per group, so a resample of groups is a product with a sparse matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array

from vecstore.errors import DataError
from vecstore.probes.auc import OneVsRest
from vecstore.probes.delong import delong
from vecstore.probes.estimates import Estimate, Interval, Rests, group_numbers, ratio, replicates, row_means
from vecstore.probes.metrics import checked
from vecstore.records import BoolArray, DoubleArray, IntArray, TaskKind

SPECIFICITY = SENSITIVITY = 0.9
"""At which the other is told, unless asked otherwise."""

PER_CLASS = ("auc", "auprc", "f1", "sensitivity", "specificity", "ppv", "npv")
OVERALL = ("auc", "auprc", "accuracy", "balanced_accuracy", "f1")


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A threshold that was chosen on other rows, and what it does on the evaluated ones.

    Attributes
    ----------
    fixed : {"specificity", "sensitivity"}
        What the threshold was chosen for.
    at : float
        At least this much of it, where the threshold was chosen.
    thresholds : list of float
        Probability from which on a row counts as positive: one, or one per fold, chosen on the other folds.
    sensitivity, specificity, ppv, npv : Estimate
        On the evaluated rows; predictive values at the prevalence that `Measures` tells.
    """

    fixed: str
    at: float
    thresholds: list[float]
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate


@dataclass(frozen=True, slots=True)
class Measures:
    """What `measure` found. All figures are from 0 to 1, kappa from -1 to 1.

    Attributes
    ----------
    kind : {"binary", "multi-class", "multi-label"}
    n, groups : int
        Rows and groups evaluated.
    overall : dict of str to Estimate
        "auc", "auprc", "f1": of a binary task those of the positive class, else the mean over classes or labels;
        "accuracy", "balanced_accuracy"; "quadratic_kappa" where classes are ordered; "sensitivity_at_specificity" and
        "specificity_at_sensitivity", means over classes, where thresholds could be chosen.
    per_class : dict of class to dict of str to Estimate
        "auc", "auprc", and of the usual decision (the most probable class; several labels: beyond 0.5) "f1",
        "sensitivity", "specificity", "ppv", "npv". Of a binary task the positive class only.
    points : dict of class to list of OperatingPoint
        Empty where there is nothing to choose a threshold on.
    delong : dict of class to (float, float) or None
        95 % interval of the AUC after DeLong; empty unless each group has one row.
    prevalence : dict of class to float
        That predictive values are for.
    prevalence_stated : bool
        Whether it was given; else it is that of the evaluated rows.
    ordinal : list of str or None
        Classes in the order that kappa weighs them by.
    notes : list of str
    """

    kind: TaskKind
    n: int
    groups: int
    overall: dict[str, Estimate]
    per_class: dict[str, dict[str, Estimate]]
    points: dict[str, list[OperatingPoint]]
    delong: dict[str, Interval | None]
    prevalence: dict[str, float | None]
    prevalence_stated: bool
    ordinal: list[str] | None
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Tuning:
    """Rows that thresholds may be chosen on: of a validation part, or out of fold.

    Attributes
    ----------
    y : ndarray of shape (n,) or (n, n_labels)
    probabilities : ndarray of shape (n, n_classes), float64
    folds : ndarray of shape (n,), int64, or None
        Given where these are the evaluated rows themselves: each fold is judged by a threshold of the others.
    """

    y: npt.NDArray[Any]
    probabilities: DoubleArray
    folds: IntArray | None = None


def measure(
    y: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    classes: Sequence[object],
    kind: TaskKind,
    groups: npt.ArrayLike | None = None,
    *,
    tuning: Tuning | None = None,
    specificity: float = SPECIFICITY,
    sensitivity: float = SENSITIVITY,
    prevalence: float | Mapping[str, float] | None = None,
    ordinal: Sequence[str] | None = None,
    n_boot: int = 1000,
    seed: int = 0,
) -> Measures:
    """Judge predicted probabilities in every way that is usual, with intervals by resampling groups.

    Parameters
    ----------
    y, probabilities, classes, kind, groups
        As of `vecstore.probes.evaluate`.
    tuning : Tuning, optional
        Rows that thresholds are chosen on; without it there are no operating points.
    specificity, sensitivity : float
        At which the other is told.
    prevalence : float or mapping of class to float, optional
        For predictive values; by default that of the evaluated rows. One number is for the positive class of a binary
        task, or for every label.
    ordinal : sequence of str, optional
        Classes from least to most, for quadratic kappa; by default classes that are numbers are so ordered.
    n_boot, seed : int

    Returns
    -------
    Measures

    Raises
    ------
    DataError
        As `evaluate`; shares that are none; a prevalence or order that names other classes.

    Notes
    -----
    Thresholds are held fixed while groups are resampled. PPV and NPV follow from sensitivity, specificity and
    prevalence by Bayes' rule. Kappa: Cohen (1968), Psychol. Bull. 70, 213-220.

    Examples
    --------
    >>> m = measure([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], ["no", "yes"], "binary", n_boot=0)
    >>> round(m.overall["auprc"].value, 4), m.per_class["yes"]["sensitivity"].value
    (0.8333, 0.5)
    """
    truth, scores, names = checked(y, probabilities, classes, kind)
    codes = group_numbers(groups, len(scores))
    for name, share in (("specificity", specificity), ("sensitivity", sensitivity)):
        if not 0 < share < 1:
            raise DataError(f"{name}={share}", expected="more than 0 and less than 1", do=f"pass {name}=0.9")
    shown = shown_columns(names, kind)
    if kind == "binary" and isinstance(prevalence, Mapping) and list(prevalence) == names[:1]:
        prevalence = 1 - float(prevalence[names[0]])  # of two classes one says the other
    stated = _stated(prevalence, [names[k] for k in shown], kind)
    order = _ordered(ordinal, names, kind)
    notes: list[str] = []
    rules = [decided(scores, kind)[:, shown]]
    targets: list[tuple[str, float, list[DoubleArray]]] = []
    if tuning is None:
        notes.append("no thresholds were chosen: there are no out-of-fold predictions to choose them on")
    else:
        for fixed, at in (("specificity", specificity), ("sensitivity", sensitivity)):
            chosen, called = _tuned(tuning, names, kind, scores[:, shown], shown, fixed, at)
            targets.append((fixed, at, chosen))
            rules.append(called)
    judge = Judge(truth, scores, kind, codes, shown, rules, order)
    size = int(codes.max()) + 1
    whole, resampled = replicates(judge, size, n_boot, seed)
    labels = [names[k] for k in shown]
    rates = _rates(whole, stated), _rates(resampled, stated)
    for rule, (fixed, at, chosen) in enumerate(targets, 1):
        for j in np.flatnonzero([np.isnan(one).any() for one in chosen]).tolist():
            side = "is of the class" if fixed == "sensitivity" else "is without it"
            notes.append(f"{labels[j]}: no threshold for {fixed} {at:g}, no row to choose it on {side}")
            for values in (*rates[0].values(), *rates[1].values()):
                values[..., j, rule] = np.nan  # a comparison with NaN calls nothing positive, and that is no figure

    def told(name: str, j: int, rule: int = 0) -> Estimate:
        if name in ("auc", "auprc"):
            return Estimate.of(whole[name][j], resampled[name][:, j], judge.rests(name, j))
        found = Estimate.of(
            rates[0][name][j, rule], rates[1][name][:, j, rule], judge.rests(name, j, rule, stated is not None)
        )
        if stated is not None and found.value in (0, 1) and found.interval is not None and name in ("ppv", "npv"):
            return replace(found, interval=_at_bound(name, found.value, told, j, rule, float(stated[j])))
        return found

    overall = overall_estimates(whole, resampled, judge)
    for rule, (fixed, _, _) in enumerate(targets, 1):
        other = "sensitivity" if fixed == "specificity" else "specificity"
        value, many = row_means(rates[0][other][None, :, rule])[0], rates[1][other][:, :, rule]
        known = [
            judge.rests(other, j, rule) if rates[0][other][j, rule] == rates[0][other][j, rule] else Rests.on(0)
            for j in range(len(labels))
        ]
        overall[f"{other}_at_{fixed}"] = Estimate.of(value, row_means(many), Rests.mean(many, known))
    points = {
        label: [
            OperatingPoint(
                fixed,
                at,
                [float(value) for value in chosen[j]],
                *(told(name, j, rule) for name in ("sensitivity", "specificity", "ppv", "npv")),
            )
            for rule, (fixed, at, chosen) in enumerate(targets, 1)
            if not np.isnan(chosen[j]).any()
        ]
        for j, label in enumerate(labels)
    }
    single = len(scores) == size
    seen = ratio(whole["positive"], whole["positive"] + whole["negative"])
    return Measures(
        kind=kind,
        n=len(scores),
        groups=size,
        overall=overall,
        per_class={label: {name: told(name, j) for name in PER_CLASS} for j, label in enumerate(labels)},
        points=points,
        delong={label: _delong(truth[:, k], scores[:, k]) for label, k in zip(labels, shown, strict=True)}
        if single
        else {},
        prevalence={
            label: (None if np.isnan(at) else float(at)) if stated is None else float(stated[j])
            for j, (label, at) in enumerate(zip(labels, seen, strict=True))
        },
        prevalence_stated=stated is not None,
        ordinal=None if order is None else [names[k] for k in np.argsort(order)],
        notes=notes,
    )


def threshold_for(fixed: str, at: float, scores: npt.NDArray[Any], truth: npt.NDArray[Any]) -> float:
    """The threshold that has at least so much of one, and most of the other; positive is what reaches it.

    Parameters
    ----------
    fixed : {"specificity", "sensitivity"}
    at : float
    scores : ndarray of shape (n,), float64
    truth : ndarray of shape (n,), float64
        1, 0, or NaN for unknown.

    Returns
    -------
    float
        One of the scores; infinity where only calling nothing positive is specific enough; NaN where there is no row
        to choose it by.

    Examples
    --------
    >>> s, t = np.array([0.1, 0.2, 0.3, 0.4, 0.9]), np.array([0, 0, 1, 0, 1.0])
    >>> threshold_for("specificity", 0.6, s, t), threshold_for("sensitivity", 1.0, s, t)
    (0.3, 0.3)
    """
    side = np.sort(scores[truth == (0 if fixed == "specificity" else 1)])
    if not len(side):
        return float("nan")
    needed = int(np.ceil(at * len(side) - 1e-9))
    if fixed == "sensitivity":
        return float(side[len(side) - max(needed, 1)])
    if not needed:
        return float("-inf")
    above = scores[(scores > side[needed - 1]) & ~np.isnan(truth)]
    return float(above.min()) if len(above) else float("inf")


def shown_columns(names: Sequence[str], kind: TaskKind) -> list[int]:
    """Of a binary task the positive class only."""
    return [len(names) - 1] if kind == "binary" else list(range(len(names)))


class Judge:
    """Figures under any weights of the groups, of shape (block, n_groups), whole numbers.

    Parameters
    ----------
    truth, scores : ndarray of shape (n, n_classes), float64
    kind : {"binary", "multi-class", "multi-label"}
    codes : ndarray of shape (n,), int64
    shown : list of int
        Columns that figures are of.
    rules : list of ndarray of shape (n, n_shown), bool
        What is called positive; the first is the usual decision.
    order : ndarray of shape (n_classes,), float64, or None
        Ranks of ordered classes.
    """

    def __init__(
        self,
        truth: DoubleArray,
        scores: DoubleArray,
        kind: TaskKind,
        codes: IntArray,
        shown: list[int],
        rules: list[BoolArray],
        order: DoubleArray | None = None,
    ) -> None:
        self._ranks = [OneVsRest(scores[:, k], truth[:, k], codes) for k in shown]
        self._order, self.kind = order, kind
        yes, known = truth[:, shown] == 1, ~np.isnan(truth[:, shown])
        # Where every label is known, one count of rows stands for all of them.
        parts = [yes, known[:, :1] if known.all() else known]
        parts += [part for called in rules for part in (yes & called, known & ~yes & called)]
        self._ends = np.cumsum([part.shape[1] for part in parts])
        flat = np.hstack(parts)
        at, rows = np.nonzero(flat)
        values, size = np.ones(len(rows)), flat.shape[1]
        if order is not None:  # squared distance of ranks, and ranks by truth and by decision
            t, p = order[truth.argmax(axis=1)], order[scores.argmax(axis=1)]
            extra = np.stack([(t - p) ** 2, t, t**2, p, p**2])
            rows = np.concatenate([rows, np.repeat(np.arange(size, size + len(extra)), len(codes))])
            at, values = np.concatenate([at, np.tile(np.arange(len(codes)), len(extra))]), np.r_[values, extra.ravel()]
            size += len(extra)
        self._sums = coo_array((values, (rows, codes[at])), shape=(size, int(codes.max()) + 1)).tocsr()
        self._groups = int(codes.max()) + 1
        asked = (known & rule if kept else known & ~rule for rule in rules for kept in (True, False))
        #: Groups with rows that a rule calls positive, and that it does not: of shape (n_rules, 2, n_shown).
        self._called = np.array([_holders(part, codes) for part in asked]).reshape(len(rules), 2, len(shown))

    def rests(self, name: str, j: int, rule: int = 0, stated: bool = False) -> Rests:
        """How many groups a figure of the j-th shown class rests on; predictive values: at a `stated` prevalence."""
        with_class, without = self._ranks[j].sides
        if name == "sensitivity":
            return Rests.on(with_class)
        if name == "specificity":
            return Rests.on(without)
        if name in ("ppv", "npv") and not stated:
            return Rests.on(int(self._called[rule, 0 if name == "ppv" else 1, j]))
        return Rests.sides(with_class, without)

    def overall_rests(self, resampled: Mapping[str, DoubleArray]) -> dict[str, Rests]:
        """The same of each figure over classes, by the spread of what it is a mean of."""
        rates, width = _rates(resampled, None), range(len(self._ranks))
        recall, other = rates["sensitivity"][..., 0], rates["specificity"][..., 0]
        told = {
            name: Rests.mean(values, [self.rests(name, j) for j in width])
            for name, values in (("auc", resampled["auc"]), ("auprc", resampled["auprc"]), ("f1", rates["f1"][..., 0]))
        }
        parts = [self.rests("sensitivity", j) for j in width]
        if self.kind != "multi-class":
            recall, parts = np.hstack([recall, other]), parts + [self.rests("specificity", j) for j in width]
        told["balanced_accuracy"] = Rests.mean(recall, parts)
        return told | dict.fromkeys(("accuracy", "quadratic_kappa"), Rests.on(self._groups))

    def __call__(self, drawn: DoubleArray) -> dict[str, DoubleArray]:
        """Arrays whose first axis is that of `drawn`; "hits" and "false" have a last axis of rules."""
        whole = drawn.astype(np.uint8 if drawn.max(initial=0) < 256 else np.int64)
        areas = np.stack([rank.both(whole) for rank in self._ranks], axis=1)
        sums = np.asarray(self._sums @ np.ascontiguousarray(drawn.T)).T
        positive, known, *called, orders = np.split(sums, self._ends, axis=1)
        found = {
            "auc": areas[:, :, 0],
            # Where every row is positive there is nothing to be precise about.
            "auprc": np.where(known > positive, areas[:, :, 1], np.nan),
            "positive": positive,
            "negative": known - positive,
            "hits": np.stack(called[::2], axis=-1),
            "false": np.stack(called[1::2], axis=-1),
        }
        if self._order is not None:
            apart, t, t2, p, p2 = orders.T
            n = known[:, 0]
            found["quadratic_kappa"] = 1 - ratio(apart * n, n * t2 + n * p2 - 2 * t * p)
        return found


def _holders(part: BoolArray, codes: IntArray) -> IntArray:
    """In how many groups each column holds somewhere."""
    size = int(codes.max()) + 1
    return np.array([np.count_nonzero(np.bincount(codes, column, size)) for column in part.T], np.int64)


def overall_estimates(
    whole: Mapping[str, DoubleArray], resampled: Mapping[str, DoubleArray], judge: Judge
) -> dict[str, Estimate]:
    """Figures over classes from what a `Judge` gives of all groups, and of resamples of them."""
    one = overall({name: np.asarray(values)[None] for name, values in whole.items()}, judge.kind)
    many, rests = overall(resampled, judge.kind), judge.overall_rests(resampled)
    least = {"quadratic_kappa": -1.0}
    return {
        name: Estimate.of(float(values[0]), many[name], rests[name], least.get(name, 0.0))
        for name, values in one.items()
    }


def overall(found: Mapping[str, DoubleArray], kind: TaskKind) -> dict[str, DoubleArray]:
    """Figures over classes from what `Judge` gives, each of shape (block,)."""
    rates = _rates(found, None)
    told = {name: row_means(found[name]) for name in ("auc", "auprc")}
    hits, false = found["hits"][..., 0], found["false"][..., 0]
    positive, negative = found["positive"], found["negative"]
    recall, other = rates["sensitivity"][..., 0], rates["specificity"][..., 0]
    if kind == "multi-class":
        told["accuracy"] = ratio(hits.sum(axis=1), positive.sum(axis=1))
        told["balanced_accuracy"] = row_means(recall)
    else:
        told["accuracy"] = row_means(ratio(hits + negative - false, positive + negative))
        # Of a binary task a class without rows is left out of the mean; of a label both sides are needed.
        both = np.stack([recall, other], axis=-1)
        told["balanced_accuracy"] = row_means(both[:, 0] if kind == "binary" else both.mean(axis=-1))
    told["f1"] = row_means(rates["f1"][..., 0])
    if "quadratic_kappa" in found:
        told["quadratic_kappa"] = found["quadratic_kappa"]
    return told


def _at_bound(
    name: str, value: float, told: Callable[[str, int, int], Estimate], j: int, rule: int, prevalence: float
) -> Interval | None:
    """A predictive value of 0 or 1 at a stated prevalence: as far as the share behind it can be from its own bound."""
    sensitivity, specificity = told("sensitivity", j, rule), told("specificity", j, rule)
    # PPV is 1 where specificity is, and 0 where sensitivity is; NPV the other way round.
    behind = specificity if (name == "ppv") == (value == 1) else sensitivity
    if behind.interval is None or sensitivity.value is None or specificity.value is None:
        return None
    limit = behind.interval[0] if behind.value == 1 else behind.interval[1]
    shares = (sensitivity.value, limit) if behind is specificity else (limit, specificity.value)
    ppv, npv = _predictive(*shares, prevalence)
    other = float(ppv if name == "ppv" else npv)
    return (other, 1.0) if value == 1 else (0.0, other)


def _predictive(sensitivity: Any, specificity: Any, prevalence: Any) -> tuple[DoubleArray, DoubleArray]:
    """PPV and NPV by Bayes' rule."""
    right, wrong = sensitivity * prevalence, (1 - specificity) * (1 - prevalence)
    clear, missed = specificity * (1 - prevalence), (1 - sensitivity) * prevalence
    return ratio(right, right + wrong), ratio(clear, clear + missed)


def _rates(found: Mapping[str, DoubleArray], stated: DoubleArray | None) -> dict[str, DoubleArray]:
    """Figures of decisions, of shape (..., n_shown, n_rules)."""
    hits, false = found["hits"], found["false"]
    positive, negative = found["positive"][..., None], found["negative"][..., None]
    sensitivity, specificity = ratio(hits, positive), ratio(negative - false, negative)
    prevalence = ratio(positive, positive + negative) if stated is None else stated[:, None]
    ppv, npv = _predictive(sensitivity, specificity, prevalence)
    return {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "f1": ratio(2 * hits, hits + false + positive),
        "ppv": ppv,
        "npv": npv,
    }


def decided(scores: DoubleArray, kind: TaskKind) -> BoolArray:
    """The usual decision: several labels beyond 0.5 each; else the most probable class, of equals the first."""
    if kind == "multi-label":
        return np.asarray(scores > 0.5)
    return np.asarray(np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, None])


def _tuned(
    tuning: Tuning,
    names: Sequence[str],
    kind: TaskKind,
    scores: DoubleArray,
    shown: list[int],
    fixed: str,
    at: float,
) -> tuple[list[DoubleArray], BoolArray]:
    """Thresholds of each class (one, or one per fold), and what they call positive, of shape (n, n_shown)."""
    truth, known, _ = checked(tuning.y, tuning.probabilities, names, kind)
    folds = tuning.folds
    if folds is None:
        chosen = [np.array([threshold_for(fixed, at, known[:, k], truth[:, k])]) for k in shown]
        return chosen, np.stack([scores[:, j] >= one[0] for j, one in enumerate(chosen)], axis=1)
    if len(folds) != len(scores):
        raise DataError(f"{len(scores)} rows and {len(folds)} folds", expected="a fold per row", do="")
    numbers, place = np.unique(folds, return_inverse=True)
    chosen = [
        np.array([threshold_for(fixed, at, known[folds != fold, k], truth[folds != fold, k]) for fold in numbers])
        for k in shown
    ]
    return chosen, np.stack([scores[:, j] >= one[place] for j, one in enumerate(chosen)], axis=1)


def _stated(prevalence: float | Mapping[str, float] | None, labels: list[str], kind: TaskKind) -> DoubleArray | None:
    if prevalence is None:
        return None
    if not isinstance(prevalence, Mapping):
        if kind == "multi-class":
            raise DataError(
                f"one prevalence, {prevalence}, for {len(labels)} classes",
                expected=f"one for each of: {', '.join(labels[:10])}{' …' if len(labels) > 10 else ''}",
                do=f"repeat it: {' '.join(f'--prevalence {name}=…' for name in labels[:2])} …",
            )
        prevalence = dict.fromkeys(labels, prevalence)
    strange = [name for name in prevalence if name not in labels]
    lacking = [name for name in labels if name not in prevalence]
    if strange or lacking:
        raise DataError(
            f"prevalence is told of {', '.join(prevalence)}", expected=f"each of: {', '.join(labels)}", do="name them"
        )
    values = np.array([float(prevalence[name]) for name in labels])
    if not ((values > 0) & (values < 1)).all():
        raise DataError(
            f"prevalence={values.tolist()}", expected="more than 0 and less than 1", do="pass a share, 0.05 for 5 %"
        )
    return values


def _ordered(ordinal: Sequence[str] | None, names: list[str], kind: TaskKind) -> DoubleArray | None:
    """Ranks of the classes; None where they have no order."""
    if ordinal is not None:
        if kind != "multi-class" or sorted(ordinal) != sorted(names):
            raise DataError(
                f"the order {', '.join(ordinal)} for a {kind} task",
                expected=f"each class once, from least to most: {', '.join(names)}",
                do="name all classes of a multi-class task",
            )
        return np.array([list(ordinal).index(name) for name in names], np.float64)
    if kind != "multi-class":
        return None
    try:
        values = np.array([float(name) for name in names])
    except ValueError:
        return None
    return np.argsort(np.argsort(values)).astype(np.float64) if np.isfinite(values).all() else None


def _delong(truth: DoubleArray, scores: DoubleArray) -> Interval | None:
    known = ~np.isnan(truth)
    return delong(scores[known], truth[known] == 1).interval()
