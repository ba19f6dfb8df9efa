"""Models side by side on the same rows: paired resamples of groups, DeLong's paired test, Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

from vecstore.errors import DataError, NotFound
from vecstore.probes.calibration import MOST_BRIER, Losses
from vecstore.probes.delong import PairedTest, paired_test
from vecstore.probes.estimates import (
    LEVEL,
    Estimate,
    Rests,
    group_numbers,
    holm,
    number,
    percentiles,
    replicates,
    two_sided,
)
from vecstore.probes.measures import OVERALL, Judge, decided, overall, overall_estimates, shown_columns
from vecstore.probes.metrics import checked
from vecstore.records import DoubleArray, IntArray, TaskKind

METRICS = (*OVERALL, "brier", "log_loss")
"""What models can be compared by; less is better of the last two."""

LESS_IS_BETTER = ("brier", "log_loss")


@dataclass(frozen=True, slots=True)
class Difference:
    """One model less another, on the same rows.

    Attributes
    ----------
    first, second : int
        Places in the list that was compared, from 0.
    value : float or None
        First less second.
    interval : (float, float) or None
        95 %, by resampling groups, the same ones for both.
    p : float or None
        Of no difference: twice the share of resamples on the rarer side of 0.
    p_holm : float or None
        The same, corrected for the number of pairs.
    real : bool
        The interval excludes 0, and so does the corrected p at 0.05.
    delong : dict of class to PairedTest or None
        DeLong's paired test of the areas; empty unless each group has one row and areas are compared.
    """

    first: int
    second: int
    value: float | None
    interval: tuple[float, float] | None
    p: float | None
    p_holm: float | None
    real: bool
    delong: dict[str, PairedTest | None]


def compared(
    y: npt.ArrayLike,
    probabilities: Sequence[npt.ArrayLike],
    classes: Sequence[object],
    kind: TaskKind,
    groups: npt.ArrayLike | None = None,
    *,
    metric: str = "auc",
    n_boot: int = 2000,
    seed: int = 0,
) -> tuple[list[dict[str, Estimate]], list[Difference]]:
    """Judge several predictions of the same rows, and every pair of them.

    Parameters
    ----------
    y, classes, kind, groups
        As of `vecstore.probes.evaluate`.
    probabilities : sequence of array-like of shape (n, n_classes)
        Of each model.
    metric : {"auc", "auprc", "accuracy", "balanced_accuracy", "f1", "brier", "log_loss"}
        What pairs are compared by.
    n_boot : int
        Number of resamples; more are made where pairs are so many that fewer could not tell any of them apart.
    seed : int

    Returns
    -------
    models : list of dict of str to Estimate
        All of the metrics, of each model.
    pairs : list of Difference

    Raises
    ------
    DataError
        As `evaluate`; fewer than two models.
    NotFound
        Another metric.
    """
    if metric not in METRICS:
        raise NotFound(f"no metric {metric!r}", expected=f"one of: {', '.join(METRICS)}", do="--metric auc")
    if len(probabilities) < 2:
        raise DataError(f"{len(probabilities)} model", expected="at least two", do="train another one")
    pairs = list(combinations(range(len(probabilities)), 2))
    # The least p there is, corrected, must be able to fall below 0.05.
    n_boot = max(n_boot, int(np.ceil(4 * len(pairs) / (1 - LEVEL)))) if n_boot else 0
    models: list[dict[str, Estimate]] = []
    values: list[float] = []
    resampled: list[DoubleArray] = []
    rests: list[Rests] = []
    scores: list[DoubleArray] = []
    truth: DoubleArray = np.empty(0)
    codes = group_numbers(groups, len(np.asarray(y)))
    size = int(codes.max(initial=0)) + 1
    for given in probabilities:
        truth, made, names = checked(y, given, classes, kind)
        scores.append(made)
        judge = _Figures(truth, made, kind, codes)
        figures, many, rest = judge.told(*replicates(judge, size, n_boot, seed))  # the same draws for every model
        models.append(figures)
        value = figures[metric].value
        values.append(float("nan") if value is None else value)
        resampled.append(many[metric])
        rests.append(rest[metric])
    shown = shown_columns(names, kind)
    single = metric == "auc" and size == len(codes)
    found = []
    for a, b in pairs:
        difference, apart = values[a] - values[b], resampled[a] - resampled[b]
        tests = {names[k]: _tested(scores[a][:, k], scores[b][:, k], truth[:, k]) for k in shown} if single else {}
        usable = not np.isnan(difference) and bool((~np.isnan(apart)).any())
        interval, p = (
            (percentiles(apart, min(rests[a].groups, rests[b].groups)), two_sided(apart)) if usable else (None, None)
        )
        found.append((a, b, number(difference), interval, p, tests))
    corrected = iter(holm([one[4] for one in found if one[4] is not None]))
    told = []
    for a, b, apart_by, interval, p, tests in found:
        p_holm = None if p is None else next(corrected)
        excludes = interval is not None and (interval[0] > 0 or interval[1] < 0)
        real = excludes and p_holm is not None and p_holm < 1 - LEVEL
        told.append(Difference(a, b, apart_by, interval, p, p_holm, real, tests))
    return models, told


class _Figures:
    """What all metrics are made of, under weights of the groups."""

    def __init__(self, truth: DoubleArray, scores: DoubleArray, kind: TaskKind, codes: IntArray) -> None:
        shown = shown_columns([""] * scores.shape[1], kind)
        self._kind, self._losses = kind, Losses(truth, scores, kind, codes)
        self._judge = Judge(truth, scores, kind, codes, shown, [decided(scores, kind)[:, shown]])
        self._size = int(codes.max()) + 1

    def __call__(self, drawn: DoubleArray) -> dict[str, DoubleArray]:
        return self._judge(drawn) | self._losses(drawn)

    def told(
        self, whole: dict[str, DoubleArray], resampled: dict[str, DoubleArray]
    ) -> tuple[dict[str, Estimate], dict[str, DoubleArray], dict[str, Rests]]:
        """Each metric, its replicates, and how many groups it rests on."""
        figures = overall_estimates(whole, resampled, self._judge)
        many = overall(resampled, self._kind) | {name: resampled[name] for name in LESS_IS_BETTER}
        rests = self._judge.overall_rests(resampled) | dict.fromkeys(LESS_IS_BETTER, Rests.on(self._size))
        for name, most in zip(LESS_IS_BETTER, (MOST_BRIER[self._kind], np.inf), strict=True):
            figures[name] = Estimate.of(float(whole[name]), many[name], rests[name], most=most)
        return {name: figures[name] for name in METRICS}, many, rests


def _tested(first: DoubleArray, second: DoubleArray, truth: DoubleArray) -> PairedTest | None:
    known = ~np.isnan(truth)
    return paired_test(first[known], second[known], truth[known] == 1)
