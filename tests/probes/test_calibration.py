"""Probabilities that mean what they say: measured as scikit-learn and statsmodels do, mended out of fold."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, log_softmax, logit
from scipy.stats import t as student
from sklearn.calibration import calibration_curve
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from vecstore.errors import DataError, NotFound, StoreDamaged
from vecstore.probes import LogisticProbe, from_files, to_files
from vecstore.probes.calibration import METHODS, Calibrator, calibration, cross_calibrated, fit_calibrator
from vecstore.probes.saved import calibrator_of

from .conftest import Cases

MENDING = METHODS[1:]
Kind = Any


def overconfident(n: int, kind: Kind, seed: int = 0) -> tuple[Any, Any]:
    """Labels drawn from true probabilities, and probabilities that are too sure of themselves."""
    rng = np.random.default_rng(seed)
    if kind == "multi-class":
        logits = rng.normal(size=(n, 3))
        true = np.exp(log_softmax(logits, axis=1))
        y = (true.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
        return y, np.exp(log_softmax(3 * logits, axis=1))
    logits = rng.normal(size=(n, 2 if kind == "multi-label" else 1))
    y = (rng.random(logits.shape) < expit(logits)).astype(float)
    p = expit(3 * logits + 0.5)
    return (y, p) if kind == "multi-label" else (y[:, 0].astype(int), np.hstack([1 - p, p]))


def names(kind: Kind) -> list[str]:
    return ["x", "y", "z"][: 3 if kind == "multi-class" else 2]


# Measuring


def test_brier_and_log_loss_equal_scikit_learn() -> None:
    y, p = overconfident(300, "binary")
    found = calibration(y, p, ["n", "y"], "binary", n_boot=50)
    assert found.brier.value == pytest.approx(brier_score_loss(y, p[:, 1]), abs=1e-12)
    assert found.log_loss.value == pytest.approx(log_loss(y, p), abs=1e-12)
    assert found.brier_of_prior == pytest.approx(y.mean() * (1 - y.mean()), abs=1e-12)
    assert found.log_loss_of_prior == pytest.approx(log_loss(y, np.full(len(y), y.mean())), abs=1e-12)
    y, p = overconfident(300, "multi-class")
    found = calibration(y, p, names("multi-class"), "multi-class", n_boot=50)
    assert found.brier.value == pytest.approx(((p - np.eye(3)[y]) ** 2).sum(axis=1).mean(), abs=1e-12)
    assert found.log_loss.value == pytest.approx(log_loss(y, p), abs=1e-12)
    y, p = overconfident(300, "multi-label")
    y[:40, 0] = np.nan
    found = calibration(y, p, names("multi-label"), "multi-label", n_boot=50)
    each = [brier_score_loss(y[40:, 0], p[40:, 0]), brier_score_loss(y[:, 1], p[:, 1])]
    assert found.brier.value == pytest.approx(np.mean(each), abs=1e-12)
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_equals_its_definition_and_scikit_learns_curve(bins: int) -> None:
    y, p = overconfident(400, "binary")
    found = calibration(y, p, ["n", "y"], "binary", bins=bins, curve_bins=bins, n_boot=0).per_class["y"]
    of = np.minimum((p[:, 1] * bins).astype(int), bins - 1)
    gaps = [abs(y[of == b].mean() - p[of == b, 1].mean()) * (of == b).mean() for b in np.unique(of)]
    assert found.ece == pytest.approx(sum(gaps), abs=1e-12)
    observed, predicted = calibration_curve(y, p[:, 1], n_bins=bins, strategy="quantile")
    counts = [one.n for one in found.curve]
    assert len(counts) == bins and max(counts) - min(counts) <= 1
    np.testing.assert_allclose([one.predicted for one in found.curve], predicted, atol=0.03)
    np.testing.assert_allclose([one.observed for one in found.curve], observed, atol=0.08)
    rows = sum(one.n * abs(one.predicted - one.observed) for one in found.curve)
    assert rows / len(y) == pytest.approx(found.ece_mass, abs=1e-12)


def test_slope_and_intercept_are_those_of_a_logistic_regression() -> None:
    y, p = overconfident(500, "binary")
    found = calibration(y, p, ["n", "y"], "binary", n_boot=0).per_class["y"]
    odds = logit(p[:, 1])
    fit = sm.GLM(y, sm.add_constant(odds), family=sm.families.Binomial()).fit(tol=1e-12)
    shift = sm.GLM(y, np.ones(len(y)), family=sm.families.Binomial(), offset=odds).fit(tol=1e-12)
    assert found.slope == pytest.approx(fit.params[1], abs=1e-7)
    assert found.intercept == pytest.approx(shift.params[0], abs=1e-7)
    assert found.slope is not None and found.slope < 0.6  # overconfident


def test_the_interval_of_the_slope_is_of_groups() -> None:
    y, p = overconfident(500, "binary")
    groups = np.arange(500) // 5
    found = calibration(y, p, ["n", "y"], "binary", groups, n_boot=0).per_class["y"]
    kinds = {"groups": groups, "use_correction": False}
    design = sm.add_constant(logit(p[:, 1]))
    fit = sm.GLM(y, design, family=sm.families.Binomial()).fit(tol=1e-12, cov_type="cluster", cov_kwds=kinds)
    half = student.ppf(0.975, 99) * fit.bse[1] * np.sqrt(100 / 99)
    assert found.slope_interval == pytest.approx((fit.params[1] - half, fit.params[1] + half), abs=1e-6)
    alone = calibration(y, p, ["n", "y"], "binary", np.zeros(500, int), n_boot=0).per_class["y"]
    assert alone.slope is not None and alone.slope_interval is None


def test_a_curve_has_intervals_by_group_and_equal_probabilities_in_one_bin() -> None:
    y, p = overconfident(300, "binary")
    p = np.stack([1 - p[:, 1].round(1), p[:, 1].round(1)], axis=1)
    groups = np.arange(300) // 3
    curve = calibration(y, p, ["n", "y"], "binary", groups, n_boot=200).per_class["y"].curve
    lows, highs = [one.low for one in curve], [one.high for one in curve]
    assert all(high < low for high, low in zip(highs, lows[1:], strict=False))
    assert sum(one.n for one in curve) == 300
    for one in curve:
        assert one.interval is not None and one.interval[0] <= one.observed <= one.interval[1]


def test_the_most_probable_class_has_its_own_curve() -> None:
    y, p = overconfident(400, "multi-class")
    top = calibration(y, p, names("multi-class"), "multi-class", n_boot=0).top
    assert top is not None
    right, sure = p.argmax(axis=1) == y, p.max(axis=1)
    of = np.minimum((sure * 15).astype(int), 14)
    gaps = [abs(right[of == b].mean() - sure[of == b].mean()) * (of == b).mean() for b in np.unique(of)]
    assert top.ece == pytest.approx(sum(gaps), abs=1e-12)


# Mending


@pytest.mark.parametrize("method", MENDING)
@pytest.mark.parametrize("kind", ["binary", "multi-class", "multi-label"])
def test_calibrated_out_of_fold_probabilities_are_better(method: str, kind: Kind) -> None:
    y, p = overconfident(1500, kind)
    folds = np.arange(1500) % 5
    calibrator, better = cross_calibrated(method, y, p, kind, folds)
    before, after = (calibration(y, q, names(kind), kind, n_boot=0) for q in (p, better))
    assert after.brier.value is not None and before.brier.value is not None
    assert after.brier.value < before.brier.value - 0.01
    for name in after.per_class:
        assert after.per_class[name].ece < 0.6 * before.per_class[name].ece
    assert calibrator is not None and (calibrator.rows, calibrator.method) == (1500, method)
    assert ((better >= 0) & (better <= 1)).all()
    if kind != "multi-label":
        np.testing.assert_allclose(better.sum(axis=1), 1, atol=1e-12)


@pytest.mark.parametrize("method", MENDING)
def test_a_fold_is_calibrated_by_what_was_learned_on_the_others(method: str) -> None:
    y, p = overconfident(400, "binary")
    folds = np.arange(400) % 4
    _, better = cross_calibrated(method, y, p, "binary", folds)
    expected = fit_calibrator(method, y[folds != 2], p[folds != 2], "binary")(p[folds == 2])
    np.testing.assert_array_equal(better[folds == 2], expected)
    turned = y.copy()
    turned[folds == 2] = 1 - turned[folds == 2]
    _, again = cross_calibrated(method, turned, p, "binary", folds)
    np.testing.assert_array_equal(again[folds == 2], better[folds == 2])  # its own labels have no say
    assert not np.array_equal(again[folds == 1], better[folds == 1])


def test_platt_and_isotonic_equal_scikit_learn() -> None:
    y, p = overconfident(600, "binary")
    platt = fit_calibrator("platt", y, p, "binary")
    # With Platt's targets, written as weights of both classes for each row.
    positive, negative = y.sum(), (1 - y).sum()
    aim = np.where(y == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))
    odds = logit(p[:, 1])[:, None]
    fit = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(
        np.vstack([odds, odds]), np.r_[np.ones(600), np.zeros(600)], sample_weight=np.r_[aim, 1 - aim]
    )
    assert platt.parameters["slope"][0] == pytest.approx(fit.coef_[0, 0], abs=1e-5)
    assert platt.parameters["offset"][0] == pytest.approx(fit.intercept_[0], abs=1e-5)
    line = IsotonicRegression(out_of_bounds="clip").fit(p[:, 1], y)
    new = np.linspace(0, 1, 101)
    found = fit_calibrator("isotonic", y, p, "binary")(np.stack([1 - new, new], axis=1))
    np.testing.assert_allclose(found[:, 1], line.predict(new), atol=1e-12)


def test_a_temperature_minimises_log_loss_and_ranks_as_before() -> None:
    y, p = overconfident(600, "multi-class")
    made = fit_calibrator("temperature", y, p, "multi-class")
    heat = made.parameters["temperature"]
    assert heat == pytest.approx(3, abs=0.4)

    def loss(t: float) -> float:
        return float(log_loss(y, np.exp(log_softmax(np.log(p) / t, axis=1))))

    assert loss(heat) < min(loss(heat * 1.001), loss(heat / 1.001))
    np.testing.assert_array_equal(made(p).argmax(axis=1), p.argmax(axis=1))
    y, p = overconfident(600, "binary")
    for method in ("temperature", "platt"):
        better = fit_calibrator(method, y, p, "binary")(p)
        assert roc_auc_score(y, better[:, 1]) == pytest.approx(roc_auc_score(y, p[:, 1]), abs=1e-12)


def test_a_model_worse_than_guessing_gets_the_shares_and_not_a_falling_line() -> None:
    y, p = overconfident(400, "binary")
    made = fit_calibrator("platt", 1 - y, p, "binary")
    assert made.parameters["slope"] == [0.0]
    np.testing.assert_allclose(made(p)[:, 1], (1 - y).mean(), atol=2e-3)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(MENDING), st.sampled_from(["binary", "multi-class", "multi-label"]), st.integers(0, 1000))
def test_a_calibrator_survives_json_and_gives_probabilities(method: str, kind: Kind, seed: int) -> None:
    y, p = overconfident(60, kind, seed)
    made = fit_calibrator(method, y, p, kind)
    again = Calibrator.from_dict(json.loads(json.dumps(made.to_dict(), allow_nan=False)), p.shape[1])
    hard = np.vstack([p, np.eye(p.shape[1])])
    found = again(hard)
    np.testing.assert_array_equal(found, made(hard))
    assert np.isfinite(found).all() and ((found >= 0) & (found <= 1)).all()


def test_what_can_not_be_calibrated_is_said() -> None:
    with pytest.raises(NotFound, match="no calibration 'beta'; expected one of: none, temperature, platt, isotonic"):
        fit_calibrator("beta", [0, 1], [[0.5, 0.5], [0.1, 0.9]], "binary")
    with pytest.raises(DataError, match="class 1 has rows on one side only"):
        fit_calibrator("platt", [1, 1], [[0.5, 0.5], [0.1, 0.9]], "binary")


# Saved


@pytest.mark.parametrize("method", MENDING)
def test_a_saved_model_carries_its_calibrator(method: str, cases: Cases) -> None:
    X, y, groups = cases()
    probe = LogisticProbe().fit(X, y, groups=groups)
    made = fit_calibrator(method, y, probe.oof_, "binary", groups)
    files = to_files(probe, {}, made)
    assert calibrator_of(files) == made and made.groups == len(np.unique(groups))
    assert json.loads(files["model.json"])["format"] == 2
    assert from_files(files)[0].predict_proba(X).tobytes() == probe.predict_proba(X).tobytes()
    plain = to_files(probe, {})
    assert calibrator_of(plain) is None and json.loads(plain["model.json"])["format"] == 1


@pytest.mark.parametrize(
    "spoilt",
    [
        {"method": "beta"},
        {"parameters": {"slope": [1.0]}},
        {"parameters": {"slope": [1.0, 2.0], "offset": [0.0]}},
        {"parameters": {"slope": [None], "offset": [0.0]}},
    ],
)
def test_a_damaged_calibration_is_refused(spoilt: dict[str, Any], cases: Cases) -> None:
    X, y, groups = cases()
    probe = LogisticProbe().fit(X, y, groups=groups)
    files = to_files(probe, {}, fit_calibrator("platt", y, probe.oof_, "binary"))
    head = json.loads(files["model.json"])
    head["calibration"] |= spoilt
    with pytest.raises(StoreDamaged, match=r"the calibration in model.json can't be used"):
        calibrator_of({**files, "model.json": json.dumps(head).encode()})


def test_a_sure_mistake_costs_what_scikit_learn_says() -> None:
    y, p = overconfident(40, "binary")
    p[0] = np.eye(2)[1 - y[0]]
    assert calibration(y, p, ["n", "y"], "binary", n_boot=0).log_loss.value == pytest.approx(log_loss(y, p), abs=1e-12)
    y, p = overconfident(40, "multi-class")
    p[0] = np.eye(3)[(y[0] + 1) % 3]
    assert calibration(y, p, "xyz", "multi-class", n_boot=0).log_loss.value == pytest.approx(log_loss(y, p), abs=1e-12)
    y, p = overconfident(40, "multi-label")
    p[0] = 1 - y[0]
    told = calibration(y, p, ["x", "y"], "multi-label", n_boot=0).log_loss.value
    assert told == pytest.approx(np.mean([log_loss(y[:, k], p[:, k]) for k in range(2)]), abs=1e-12)


def test_a_calibrator_takes_the_positive_class_alone_as_evaluate_does() -> None:
    y, p = overconfident(60, "binary")
    assert fit_calibrator("platt", y, p[:, 1], "binary") == fit_calibrator("platt", y, p, "binary")
