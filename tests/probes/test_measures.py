"""Figures agree with scikit-learn, statsmodels and MedMNIST's evaluator; thresholds are chosen on other rows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm, t
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    f1_score,
    roc_auc_score,
)
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.multitest import multipletests

from vecstore.errors import DataError
from vecstore.probes import evaluate
from vecstore.probes.auc import OneVsRest, resamples
from vecstore.probes.estimates import Rests, bounded, holm, percentiles, replicates, two_sided
from vecstore.probes.measures import Measures, Tuning, measure, threshold_for

EXACT = 1e-12


def noisy(n: int, k: int, seed: int = 0, decimals: int = 12) -> tuple[Any, Any]:
    """Labels and probabilities that know something of them."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    p = np.eye(k)[y] + 2 * rng.random((n, k))
    return y, (p / p.sum(axis=1, keepdims=True)).round(decimals)


def value(found: Measures, name: str, of: str | None = None) -> float:
    told = (found.overall if of is None else found.per_class[of])[name].value
    assert told is not None
    return told


@pytest.mark.parametrize("decimals", [1, 2, 12])
def test_average_precision_under_weights_equals_scikit_learn(decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    for _ in range(20):
        n = int(rng.integers(5, 200))
        y = np.r_[1, 0, rng.random(n) < 0.3].astype(float)
        scores, weights = rng.normal(size=n + 2).round(decimals), np.r_[1, 1, rng.integers(0, 4, n)]
        (found,) = OneVsRest(scores, y, np.arange(n + 2)).both(weights[None])
        expected = [score(y, scores, sample_weight=weights) for score in (roc_auc_score, average_precision_score)]
        np.testing.assert_allclose(found, expected, atol=EXACT)


def test_binary_figures_equal_scikit_learn() -> None:
    y, p = noisy(300, 2)
    found = measure(y, p, ["healthy", "ill"], "binary", n_boot=50)
    guess = p.argmax(axis=1)
    tn, fp, fn, tp = confusion_matrix(y, guess).ravel()
    expected = {
        "auc": roc_auc_score(y, p[:, 1]),
        "auprc": average_precision_score(y, p[:, 1]),
        "f1": f1_score(y, guess),
        "sensitivity": tp / (tp + fn),
        "specificity": tn / (tn + fp),
        "ppv": tp / (tp + fp),
        "npv": tn / (tn + fn),
    }
    assert list(found.per_class) == ["ill"]
    for name, figure in expected.items():
        assert value(found, name, "ill") == pytest.approx(figure, abs=EXACT)
        interval = found.per_class["ill"][name].interval
        assert interval is not None and interval[0] < figure < interval[1]
    assert value(found, "accuracy") == pytest.approx(accuracy_score(y, guess), abs=EXACT)
    assert value(found, "balanced_accuracy") == pytest.approx(balanced_accuracy_score(y, guess), abs=EXACT)
    assert value(found, "f1") == pytest.approx(f1_score(y, guess), abs=EXACT)
    json.dumps(found.to_dict(), allow_nan=False)


def test_multi_class_figures_equal_scikit_learn() -> None:
    y, p = noisy(400, 4)
    found, guess = measure(y, p, list("abcd"), "multi-class", n_boot=20), p.argmax(axis=1)
    assert value(found, "auc") == pytest.approx(roc_auc_score(y, p, multi_class="ovr"), abs=EXACT)
    assert value(found, "auprc") == pytest.approx(average_precision_score(np.eye(4)[y], p), abs=EXACT)
    assert value(found, "f1") == pytest.approx(f1_score(y, guess, average="macro"), abs=EXACT)
    assert value(found, "accuracy") == pytest.approx(accuracy_score(y, guess), abs=EXACT)
    assert value(found, "balanced_accuracy") == pytest.approx(balanced_accuracy_score(y, guess), abs=EXACT)
    for k, name in enumerate("abcd"):
        tn, fp, fn, tp = confusion_matrix(y == k, guess == k).ravel()
        figures = found.per_class[name]
        told: Any = [figures[figure].value for figure in ("sensitivity", "specificity", "ppv", "npv")]
        np.testing.assert_allclose(told, [tp / (tp + fn), tn / (tn + fp), tp / (tp + fp), tn / (tn + fn)], atol=EXACT)
    assert "quadratic_kappa" not in found.overall  # letters have no order


def test_several_labels_are_judged_where_they_are_known() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random((200, 3)) < 0.4).astype(float)
    p = np.clip(0.5 * y + rng.random((200, 3)) * 0.6, 0, 1)
    y[rng.random((200, 3)) < 0.2] = np.nan
    found, scores = measure(y, p, list("xyz"), "multi-label", n_boot=20), evaluate(y, p, list("xyz"), "multi-label")
    f1 = []
    for k, name in enumerate("xyz"):
        known = ~np.isnan(y[:, k])
        truth, chance = y[known, k], p[known, k]
        assert value(found, "auprc", name) == pytest.approx(average_precision_score(truth, chance), abs=EXACT)
        f1.append(f1_score(truth, chance > 0.5))
    assert value(found, "f1") == pytest.approx(np.mean(f1), abs=EXACT)
    for name in ("auc", "accuracy", "balanced_accuracy"):
        assert value(found, name) == pytest.approx(getattr(scores, name), abs=EXACT)


@pytest.mark.parametrize(("kind", "k"), [("binary", 2), ("multi-class", 4)])
def test_measures_and_the_scores_of_a_record_are_the_same_figures_and_intervals(kind: Any, k: int) -> None:
    y, p = noisy(200, k)
    groups = np.random.default_rng(1).integers(0, 60, 200)
    found = measure(y, p, list("abcd")[:k], kind, groups, n_boot=100)
    scores = evaluate(y, p, list("abcd")[:k], kind, groups, n_boot=100)
    for name in ("auc", "accuracy", "balanced_accuracy"):
        assert value(found, name) == pytest.approx(getattr(scores, name), abs=EXACT)
        assert found.overall[name].interval == pytest.approx(getattr(scores, f"{name}_interval"), abs=EXACT)


def test_resampled_figures_are_those_of_the_repeated_rows() -> None:
    y, p = noisy(120, 3, decimals=1)
    groups = np.unique(np.random.default_rng(2).integers(0, 40, 120), return_inverse=True)[1]
    kept: dict[str, Any] = {}

    def spy(drawn: Any) -> dict[str, Any]:
        kept.setdefault("drawn", []).append(drawn.copy())
        return {"n": drawn.sum(axis=1)}

    replicates(spy, int(groups.max()) + 1, 20, seed=3)
    drawn = np.concatenate(kept["drawn"][1:])
    for weights in drawn[:10]:
        rows = np.repeat(np.arange(120), weights[groups].astype(int))
        again = measure(y[rows], p[rows], list("012"), "multi-class", n_boot=0)
        expected = cohen_kappa_score(y[rows], p[rows].argmax(axis=1), weights="quadratic")
        assert value(again, "quadratic_kappa") == pytest.approx(expected, abs=EXACT)
    found = measure(y, p, list("012"), "multi-class", groups, n_boot=20, seed=3)
    expected = [
        [
            cohen_kappa_score(y[rows], p[rows].argmax(axis=1), weights="quadratic"),
            *(average_precision_score(y[rows] == k, p[rows, k]) for k in range(3)),
        ]
        for rows in (np.repeat(np.arange(120), weights[groups].astype(int)) for weights in drawn)
    ]
    size = int(groups.max()) + 1
    kappas, areas = np.array(expected)[:, 0], np.array(expected)[:, 1:]
    interval = bounded(value(found, "quadratic_kappa"), kappas, Rests.on(size), least=-1)
    assert found.overall["quadratic_kappa"].interval == pytest.approx(interval, abs=EXACT)
    sides = [[len(set(groups[(y == k) == side].tolist())) for side in (True, False)] for k in range(3)]
    rests = Rests.mean(areas, [Rests.sides(*one) for one in sides])
    interval = bounded(value(found, "auprc"), areas.mean(axis=1), rests)
    assert found.overall["auprc"].interval == pytest.approx(interval, abs=EXACT)


# Kappa


def test_quadratic_kappa_equals_scikit_learn_and_statsmodels() -> None:
    y, p = noisy(300, 5)
    guess = p.argmax(axis=1)
    found = value(measure(y, p, range(5), "multi-class", n_boot=0), "quadratic_kappa")
    assert found == pytest.approx(cohen_kappa_score(y, guess, weights="quadratic"), abs=EXACT)
    assert found == pytest.approx(cohens_kappa(confusion_matrix(y, guess), wt="fc").kappa, abs=EXACT)


def test_classes_that_are_numbers_are_ordered_by_value_and_others_as_told() -> None:
    y, p = noisy(200, 3)
    numbers = measure(y, p, ["10", "2", "1"], "multi-class", n_boot=0)
    assert numbers.ordinal == ["1", "2", "10"]
    told = measure(y, p, ["severe", "mild", "none"], "multi-class", ordinal=["none", "mild", "severe"], n_boot=0)
    expected = cohen_kappa_score(2 - y, 2 - p.argmax(axis=1), weights="quadratic")
    assert value(numbers, "quadratic_kappa") == pytest.approx(expected, abs=EXACT)
    assert value(told, "quadratic_kappa") == pytest.approx(expected, abs=EXACT)
    with pytest.raises(DataError, match="the order none, mild for a multi-class task; expected each class once"):
        measure(y, p, ["severe", "mild", "none"], "multi-class", ordinal=["none", "mild"])


# Operating points


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["sensitivity", "specificity"]), st.floats(0.05, 0.99))
def test_a_threshold_has_at_least_what_was_asked_and_none_gives_more_of_the_other(
    seed: int, fixed: str, at: float
) -> None:
    rng = np.random.default_rng(seed)
    truth = np.r_[0, 1, rng.integers(0, 2, int(rng.integers(1, 30)))].astype(float)
    scores = rng.random(len(truth)).round(1)
    best = threshold_for(fixed, at, scores, truth)

    def rates(threshold: float) -> dict[str, float]:
        called = scores >= threshold
        return {"sensitivity": called[truth == 1].mean(), "specificity": (~called)[truth == 0].mean()}

    other = "specificity" if fixed == "sensitivity" else "sensitivity"
    found = rates(best)
    assert found[fixed] >= at - 1e-12
    fit = [rates(t) for t in (*scores, np.inf) if rates(t)[fixed] >= at - 1e-12]
    assert found[other] == max(one[other] for one in fit)


def test_thresholds_come_from_the_tuning_rows_and_not_from_the_evaluated() -> None:
    y, p = noisy(300, 2, seed=1)
    tune_y, tune_p = noisy(200, 2, seed=2)
    found = measure(y, p, ["n", "y"], "binary", tuning=Tuning(tune_y, tune_p), specificity=0.8, n_boot=50)
    first, second = found.points["y"]
    cut = threshold_for("specificity", 0.8, tune_p[:, 1], tune_y.astype(float))
    assert (first.fixed, first.at, first.thresholds) == ("specificity", 0.8, [cut])
    called = p[:, 1] >= cut
    assert first.sensitivity.value == pytest.approx(called[y == 1].mean(), abs=EXACT)
    assert first.specificity.value == pytest.approx((~called)[y == 0].mean(), abs=EXACT)
    assert found.overall["sensitivity_at_specificity"] == first.sensitivity
    assert found.overall["specificity_at_sensitivity"] == second.specificity
    turned = measure(1 - y, p, ["n", "y"], "binary", tuning=Tuning(tune_y, tune_p), specificity=0.8, n_boot=0)
    assert turned.points["y"][0].thresholds == first.thresholds  # test labels have no say


def test_out_of_fold_rows_are_judged_by_thresholds_of_the_other_folds() -> None:
    y, p = noisy(300, 2)
    folds = np.arange(300) % 5
    (point, _) = measure(y, p, ["n", "y"], "binary", tuning=Tuning(y, p, folds), n_boot=0).points["y"]
    cuts = [threshold_for("specificity", 0.9, p[folds != f, 1], y[folds != f].astype(float)) for f in range(5)]
    assert point.thresholds == cuts
    called = p[:, 1] >= np.array(cuts)[folds]
    assert point.sensitivity.value == pytest.approx(called[y == 1].mean(), abs=EXACT)


def test_predictive_values_follow_bayes_at_the_stated_prevalence() -> None:
    y, p = noisy(300, 2)
    found = measure(y, p, ["n", "y"], "binary", prevalence=0.02, n_boot=0).per_class["y"]
    sens, spec = (found[name].value or 0.0 for name in ("sensitivity", "specificity"))
    assert found["ppv"].value == pytest.approx(sens * 0.02 / (sens * 0.02 + (1 - spec) * 0.98), abs=EXACT)
    assert found["npv"].value == pytest.approx(spec * 0.98 / (spec * 0.98 + (1 - sens) * 0.02), abs=EXACT)
    # At the prevalence of the rows that is the plain share.
    plain = measure(y, p, ["n", "y"], "binary", n_boot=0)
    stated = measure(y, p, ["n", "y"], "binary", prevalence=y.mean(), n_boot=0)
    assert plain.per_class["y"]["ppv"].value == pytest.approx(stated.per_class["y"]["ppv"].value, abs=EXACT)
    assert (plain.prevalence_stated, stated.prevalence_stated) == (False, True)


def _counted(tp: int, fp: int, fn: int, tn: int) -> tuple[Any, Any]:
    """Labels and probabilities of a table of four."""
    y = np.repeat([1, 0, 1, 0], [tp, fp, fn, tn])
    return y, np.repeat([0.9, 0.9, 0.1, 0.1], [tp, fp, fn, tn])


def test_liver_scans_are_as_altman_and_bland_have_them() -> None:
    """Altman & Bland (1994), BMJ 308, 1552 and 309, 102: scans of 344 patients, 258 of them with liver disease."""
    y, p = _counted(231, 32, 27, 54)
    told = measure(y, p, ["normal", "abnormal"], "binary", n_boot=0).per_class["abnormal"]
    published = {"sensitivity": 0.90, "specificity": 0.63, "ppv": 0.88, "npv": 0.67}
    for name, share in published.items():
        assert round(told[name].value or 0, 2) == share, name
    # Their second note: at a prevalence of 0.25 instead of 0.75.
    stated = measure(y, p, ["normal", "abnormal"], "binary", prevalence=0.25, n_boot=0).per_class["abnormal"]
    assert (round(stated["ppv"].value or 0, 2), round(stated["npv"].value or 0, 2)) == (0.45, 0.95)


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"specificity": 1.0}, "specificity=1.0; expected more than 0 and less than 1"),
        ({"prevalence": 5}, r"prevalence=\[5.0\]; expected more than 0 and less than 1; pass a share, 0.05 for 5 %"),
        ({"prevalence": {"ill": 0.1}}, "prevalence is told of ill; expected each of: y"),
        ({"ordinal": ["n", "y"]}, "the order n, y for a binary task"),
    ],
)
def test_what_can_not_be_asked_is_said(options: dict[str, Any], fact: str) -> None:
    with pytest.raises(DataError, match=fact):
        measure([0, 1], [[0.5, 0.5], [0.1, 0.9]], ["n", "y"], "binary", **options)


def test_one_prevalence_is_not_enough_for_several_classes() -> None:
    y, p = noisy(30, 3)
    with pytest.raises(
        DataError, match=r"one prevalence, 0.1, for 3 classes; expected one for each of: a, b, c"
    ) as told:
        measure(y, p, list("abc"), "multi-class", prevalence=0.1)
    assert told.value.do == "repeat it: --prevalence a=… --prevalence b=… …"


def test_of_two_classes_the_prevalence_of_one_says_that_of_the_other() -> None:
    y, p = noisy(30, 2)
    told = [
        measure(y, p, ["n", "y"], "binary", prevalence=share, n_boot=0) for share in (0.25, {"y": 0.25}, {"n": 0.75})
    ]
    assert told[0] == told[1] == told[2] and told[0].prevalence == {"y": 0.25}


def test_without_tuning_rows_there_are_no_operating_points_and_that_is_said() -> None:
    y, p = noisy(30, 2)
    found = measure(y, p, ["n", "y"], "binary", n_boot=0)
    assert found.points == {"y": []}
    assert found.notes == ["no thresholds were chosen: there are no out-of-fold predictions to choose them on"]


# MedMNIST


def _get_auc(y: Any, p: Any, task: str) -> float:
    """`getAUC` of medmnist.evaluator (medmnist 3.0.2), written from its definition."""
    y, p = y.squeeze(), p.squeeze()
    if task == "multi-label, binary-class":
        return float(np.mean([roc_auc_score(y[:, i], p[:, i]) for i in range(p.shape[1])]))
    if task == "binary-class":
        return float(roc_auc_score(y, p[:, -1] if p.ndim == 2 else p))
    return float(np.mean([roc_auc_score((y == i).astype(float), p[:, i]) for i in range(p.shape[1])]))


def _get_acc(y: Any, p: Any, task: str, threshold: float = 0.5) -> float:
    """`getACC`, likewise."""
    y, p = y.squeeze(), p.squeeze()
    if task == "multi-label, binary-class":
        return float(np.mean([accuracy_score(y[:, i], p[:, i] > threshold) for i in range(y.shape[1])]))
    if task == "binary-class":
        return float(accuracy_score(y, (p[:, -1] if p.ndim == 2 else p) > threshold))
    return float(accuracy_score(y, np.argmax(p, axis=-1)))


@pytest.mark.parametrize("decimals", [1, 12])  # rounded, many are at the threshold
@pytest.mark.parametrize(
    ("task", "kind", "k"),
    [
        ("binary-class", "binary", 2),
        ("multi-class", "multi-class", 5),
        ("ordinal-regression", "multi-class", 5),
        ("multi-label, binary-class", "multi-label", 4),
    ],
)
def test_medmnists_evaluator_gives_the_same(task: str, kind: Any, k: int, decimals: int) -> None:
    rng = np.random.default_rng(decimals)
    if kind == "multi-label":
        y = rng.integers(0, 2, (300, k))
        p = np.clip(0.4 * y + 0.6 * rng.random((300, k)), 0, 1).round(decimals)
    else:
        y, p = noisy(300, k, decimals=decimals)
        p[:, 0] = 1 - p[:, 1:].sum(axis=1) if k == 2 else p[:, 0]
    found = evaluate(y, p, range(k), kind, n_boot=0)
    column = y[:, None] if y.ndim == 1 else y
    assert found.auc == pytest.approx(_get_auc(column, p, task), abs=EXACT)
    assert found.accuracy == pytest.approx(_get_acc(column, p, task), abs=EXACT)


# Resampling, against published examples

MICE = np.array([94, 197, 16, 38, 99, 141, 23.0])
"""Survival in days of the treated mice of Efron & Tibshirani (1993), table 2.1."""


def test_the_bootstrap_reproduces_efron_and_tibshirani() -> None:
    draws = np.concatenate([drawn.copy() for drawn in resamples(np.arange(7), 20_000, seed=0)])
    means = draws @ MICE / draws.sum(axis=1)
    assert MICE.mean() == pytest.approx(86.86, abs=0.005)
    assert means.std() == pytest.approx(23.36, abs=0.4)  # table 2.2, infinitely many resamples of the mean
    order = np.argsort(MICE)
    middle = (np.cumsum(draws[:, order], axis=1) >= 4).argmax(axis=1)
    assert MICE[order][middle].std() == pytest.approx(37.83, abs=0.8)  # the same of the median


LSAT = [576, 635, 558, 578, 666, 580, 555, 661, 651, 605, 653, 575, 545, 572, 594]
GPA = [3.39, 3.30, 2.81, 3.03, 3.44, 3.07, 3.00, 3.43, 3.36, 3.13, 3.12, 2.74, 2.76, 2.88, 2.96]
"""The fifteen law schools of Efron & Tibshirani (1993), table 3.1."""


def test_the_bootstrap_reproduces_the_law_schools() -> None:
    """Correlation 0.776, and its standard error 0.132 with 3,200 resamples: their table 6.1."""
    sat, gpa = np.array(LSAT, float), np.array(GPA)
    products = np.stack([np.ones(15), sat, gpa, sat * gpa, sat**2, gpa**2])

    def correlation(drawn: Any) -> dict[str, Any]:
        n, a, b, ab, aa, bb = products @ drawn.T
        return {"r": (ab * n - a * b) / np.sqrt((aa * n - a**2) * (bb * n - b**2))}

    whole, many = replicates(correlation, 15, 20_000, seed=0)
    assert round(float(whole["r"]), 3) == 0.776 == round(float(np.corrcoef(sat, gpa)[0, 1]), 3)
    assert many["r"].std(ddof=1) == pytest.approx(0.132, abs=0.004)
    # Fisher's z is half the log-odds scale of a figure from -1 to 1, so by the same error the two are one interval.
    reach = t.ppf(0.975, 14) * many["r"].std(ddof=1) * np.sqrt(15 / 14) / (1 - whole["r"] ** 2)
    expected = np.tanh(np.arctanh(whole["r"]) + np.array([-reach, reach]))
    assert bounded(float(whole["r"]), many["r"], Rests.on(15), least=-1) == pytest.approx(expected, abs=EXACT)


# Intervals


def test_a_figure_between_bounds_has_an_interval_within_them_and_one_at_a_bound_the_exact_limit() -> None:
    spread = 0.9 + 0.02 * norm.ppf((np.arange(999) + 0.5) / 999)
    low, high = bounded(0.9, spread, Rests.on(40)) or (0.0, 0.0)
    reach = t.ppf(0.975, 39) * spread.std(ddof=1) * np.sqrt(40 / 39) / (0.9 * 0.1)
    assert (low, high) == pytest.approx((1 / (1 + np.exp(reach) / 9), 1 / (1 + np.exp(-reach) / 9)), abs=EXACT)
    for n in (2, 7, 30):
        exact = binomtest(n, n).proportion_ci(0.95, "exact")
        assert bounded(1.0, np.ones(50), Rests.on(n)) == pytest.approx((exact.low, 1.0), abs=EXACT)
        assert bounded(0.0, np.zeros(50), Rests.on(n)) == pytest.approx((0.0, 1 - exact.low), abs=EXACT)
    loss = bounded(0.4, 0.4 + 0.01 * norm.ppf((np.arange(99) + 0.5) / 99), Rests.on(40), most=np.inf)
    assert loss is not None and 0 < loss[0] < 0.4 < loss[1] and loss[0] * loss[1] == pytest.approx(0.16, abs=EXACT)
    for nothing in (
        bounded(np.nan, spread, Rests.on(40)),
        bounded(0.9, np.array([0.9]), Rests.on(40)),
        bounded(0.9, spread, Rests.on(1)),  # one group says nothing of others
        bounded(1.0, np.ones(9), Rests.on(9), least=-1),
    ):
        assert nothing is None


def test_a_figure_rests_on_the_groups_that_have_the_class() -> None:
    assert Rests.on(8) == (8, 8)
    assert tuple(Rests.sides(25, 25)) == pytest.approx((49, 25))  # Welch's degrees of freedom are 48
    assert Rests.sides(5, 1000).groups == pytest.approx(5.04, abs=0.01)
    assert Rests.sides(1, 50).groups == 1
    columns = norm.ppf((np.arange(99)[:, None] + 0.5) / 99) * [[1.0, 1.0, 3.0]]
    df = (1 + 1 + 9) ** 2 / (1 / 9 + 1 / 19 + 81 / 29)
    assert tuple(Rests.mean(columns, [Rests.on(10), Rests.on(20), Rests.on(30)])) == pytest.approx((1 + df, 10))
    y = np.r_[np.ones(6, int), np.zeros(94, int)]
    p = np.clip(0.3 * y + 0.7 * np.random.default_rng(0).random(100), 0, 1)
    few = measure(y, p, ["n", "y"], "binary", np.r_[np.zeros(5, int), np.arange(1, 96)])  # six rows of two patients
    assert few.per_class["y"]["sensitivity"].interval is not None
    low, high = few.per_class["y"]["sensitivity"].interval
    assert high - low > 0.8
    one = measure(y, p, ["n", "y"], "binary", np.r_[np.zeros(6, int), np.arange(1, 95)])
    assert one.per_class["y"]["sensitivity"].interval is None and one.per_class["y"]["auc"].interval is None
    assert one.per_class["y"]["specificity"].interval is not None


@pytest.mark.parametrize("groups", [None, np.repeat(np.arange(10), 4)])
def test_what_is_always_right_is_not_told_without_a_width(groups: Any) -> None:
    y = np.repeat([0, 1], 20)
    found = measure(y, 0.1 + 0.8 * y, ["n", "y"], "binary", groups, prevalence=0.01)
    sure = 20 if groups is None else 5
    for name in ("auc", "auprc", "sensitivity", "specificity", "f1"):
        assert found.per_class["y"][name].interval == pytest.approx((0.025 ** (1 / sure), 1.0), abs=EXACT)
    # A PPV of 1 at a prevalence of 1 % hangs on the specificity: 0.83 may be no better than 0.06.
    limit = 0.025 ** (1 / sure)
    assert found.per_class["y"]["ppv"].interval == pytest.approx((0.01 / (0.01 + (1 - limit) * 0.99), 1.0), abs=EXACT)
    assert found.per_class["y"]["npv"].interval == pytest.approx((0.99 / (0.99 + (1 - limit) * 0.01), 1.0), abs=EXACT)


def test_percentiles_are_expanded_as_hesterberg_has_it_and_hardly_for_many_groups() -> None:
    values = np.arange(100_001) / 1e5
    expected = norm.cdf(-np.sqrt(30 / 29) * t.ppf(0.975, 29))
    assert percentiles(values, 30) == pytest.approx((expected, 1 - expected), abs=1e-12)
    assert round(expected, 3) == 0.019
    assert percentiles(values, 10**7) == pytest.approx((0.025, 0.975), abs=1e-6)
    assert percentiles(values, 1) == (0, 1)
    assert percentiles(np.full(3, np.nan), 30) is None


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_statsmodels(p_values: list[float]) -> None:
    np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1], atol=EXACT)


def test_a_bootstrap_p_counts_the_rarer_side() -> None:
    assert two_sided(np.r_[np.full(3, -1.0), np.full(96, 1.0)]) == pytest.approx(0.08)
    assert two_sided(np.zeros(10)) == 1.0


def test_a_class_without_a_threshold_is_left_out_of_the_mean_and_said() -> None:
    y, p = noisy(200, 3)
    tune_y, tune_p = noisy(100, 3, seed=1)
    found = measure(y, p, list("abc"), "multi-class", tuning=Tuning(tune_y % 2, tune_p), n_boot=20)  # no row of c
    assert [len(found.points[name]) for name in "abc"] == [2, 2, 1]  # a specificity needs no row of the class
    told = [found.points[name][1].specificity.value or 0.0 for name in "ab"]
    mean = found.overall["specificity_at_sensitivity"]
    assert min(told) > 0 and mean.value is not None
    assert mean.value == pytest.approx(np.mean(told), abs=EXACT) and mean.interval is not None
    assert mean.interval[0] < mean.value < mean.interval[1]
    assert found.notes == ["c: no threshold for sensitivity 0.9, no row to choose it on is of the class"]
