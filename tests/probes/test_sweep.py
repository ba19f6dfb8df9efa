"""Every model of a sweep reaches the objective a float64 reference reaches."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from vecstore.errors import DataError
from vecstore.probes import rows as rows_module
from vecstore.probes import sweep as sweep_module
from vecstore.probes.sweep import LossName, Solution, Sweep, device_for
from vecstore.records import BoolArray, DoubleArray, IntArray

GAP = 1e-6
STRENGTHS = np.logspace(-4, 4, 5)
HINGE_STRENGTHS = np.logspace(-4, 2, 4)


def objective(
    X: DoubleArray, y: DoubleArray, w: DoubleArray, C: float, coef: DoubleArray, b: DoubleArray, loss: LossName
) -> float:
    margins = X @ coef.T + b
    if loss == "softmax":
        each = logsumexp(margins, axis=1) - margins[np.arange(len(y)), y.astype(int)]
    elif loss == "logistic":
        each = np.logaddexp(0, -(2 * y - 1) * margins[:, 0])
    else:
        each = np.maximum(0, 1 - (2 * y - 1) * margins[:, 0]) ** 2
    return float(w @ each + (coef**2).sum() / (2 * C))


def best(X: DoubleArray, y: DoubleArray, w: DoubleArray, C: float, loss: LossName) -> float:
    """Objective of a reference: scikit-learn's Newton, or for the hinge SciPy's L-BFGS, in float64."""
    if loss == "squared_hinge":
        sign = 2 * y - 1

        def value(at: DoubleArray) -> tuple[float, DoubleArray]:
            short = np.maximum(0, 1 - sign * (X @ at[:-1] + at[-1]))
            pull = -2 * w * short * sign
            slope = np.r_[X.T @ pull + at[:-1] / C, pull.sum()]
            return float(w @ short**2 + at[:-1] @ at[:-1] / (2 * C)), slope

        options = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-15, "gtol": 1e-9, "maxcor": 50}
        start = np.zeros(X.shape[1] + 1)
        return float(minimize(value, start, jac=True, method="L-BFGS-B", options=options).fun)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = LogisticRegression(C=C, solver="newton-cholesky", tol=1e-10, max_iter=2000).fit(X, y, sample_weight=w)
    return objective(X, y, w, C, fit.coef_, fit.intercept_, loss)


def all_but_one(folds: int) -> BoolArray:
    """A model with all folds, and one without each of the first two."""
    return np.vstack([np.zeros((1, folds), bool), np.eye(folds, dtype=bool)[:2]])


def worst_gap(
    X: npt.NDArray[np.floating],
    y: DoubleArray | IntArray,
    w: DoubleArray,
    folds: IntArray,
    loss: LossName,
    double: bool | None = None,
    strengths: DoubleArray | None = None,
) -> float:
    """Solve without fold 0, without fold 1 and with all; the largest relative excess over the reference."""
    strengths = strengths if strengths is not None else HINGE_STRENGTHS if loss == "squared_hinge" else STRENGTHS
    left_out = all_but_one(int(folds.max()) + 1)
    found = Sweep(X, folds, double=double).solve(y[None].astype(float), w[None], left_out, strengths, loss)
    assert found.converged.all()
    wide = X.astype(float)
    gaps = []
    for mask, out in enumerate(left_out):
        seen = ~out[folds] & (w > 0)
        for at, C in enumerate(strengths):
            coef, intercept = found.coef[mask, at], found.intercept[mask, at]
            reference = best(wide[seen], y[seen], w[seen], C, loss)
            mine = objective(wide[seen], y[seen], w[seen], C, coef, intercept, loss)
            assert found.objective[mask, at, 0] == pytest.approx(mine, rel=1e-4)
            margins = wide @ coef.T + intercept
            for fold in np.flatnonzero(out).tolist():
                held_out = found.held_out[mask, fold][at].T
                np.testing.assert_allclose(
                    held_out, margins[folds == fold], rtol=1e-3, atol=1e-3 * np.abs(margins).max()
                )
            gaps.append((mine - reference) / reference)
    return max(gaps)


def dealt(n: int, rng: np.random.Generator) -> IntArray:
    return rng.permutation(n) % 3


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    n=st.integers(40, 160),
    d=st.integers(1, 60),
    loss=st.sampled_from(["logistic", "squared_hinge", "softmax"]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    weighted=st.booleans(),
    spoiled=st.sampled_from(["no", "collinear", "constant"]),
)
def test_any_shape_scale_and_weights(
    seed: int, n: int, d: int, loss: LossName, scale: float, weighted: bool, spoiled: str
) -> None:
    rng = np.random.default_rng(seed)
    k = 4 if loss == "softmax" else 2
    X = rng.normal(size=(n, d)) * rng.random(d) ** 2
    y = (X @ rng.normal(size=(d, k)) + rng.normal(size=(n, k))).argmax(axis=1)
    folds = dealt(n, rng)
    for fold in range(3):  # every class is in every fold
        y[np.flatnonzero(folds == fold)[:k]] = np.arange(k)
    if spoiled == "collinear":
        X = np.hstack([X, X[:, : d // 2 + 1]])
    if spoiled == "constant":
        X = np.hstack([X, np.full((n, 2), 3.0)])
    w = rng.exponential(size=n) + 0.01 if weighted else np.ones(n)
    strengths = np.array([1e-3, 0.1, 10.0]) / scale**2
    assert worst_gap(X * scale, y, w, folds, loss, strengths=strengths) < GAP


def collinear(X: DoubleArray) -> DoubleArray:
    return np.hstack([X, X[:, :5], X[:, :3] + X[:, 3:6]])


def with_constants(X: DoubleArray) -> DoubleArray:
    return np.hstack([X, np.full((len(X), 2), 3.0), np.zeros((len(X), 1))])


def of_extreme_scales(X: DoubleArray) -> DoubleArray:
    return X * np.logspace(-4, 4, X.shape[1])


@pytest.mark.parametrize("spoil", [collinear, with_constants, of_extreme_scales])
@pytest.mark.parametrize("loss", ["logistic", "softmax"])
def test_awkward_columns(spoil: Callable[[DoubleArray], DoubleArray], loss: LossName) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 12))
    y = (X[:, :3] + rng.normal(size=(150, 3))).argmax(axis=1)
    y = y if loss == "softmax" else (y == 0).astype(int)
    assert worst_gap(spoil(X), y, np.ones(150), dealt(150, rng), loss) < GAP


@pytest.mark.parametrize("loss", ["logistic", "squared_hinge"])
def test_one_positive(loss: LossName) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(80, 10)), np.zeros(80, int)
    y[5] = 1
    folds = np.full(80, 2)
    folds[:2] = [0, 1]  # the one positive is in no fold that is left out
    assert worst_gap(X, y, np.ones(80), folds, loss) < GAP


@pytest.mark.parametrize("loss", ["logistic", "softmax", "squared_hinge"])
def test_rows_of_unequal_weight(loss: LossName) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 8))
    y = (X[:, :2] + rng.normal(size=(120, 2))).argmax(axis=1)
    if loss == "softmax":
        y[:30] = 2
    w = rng.exponential(size=120) * np.where(y == 1, 20, 1)
    w[:10] = 0
    assert worst_gap(X, y, w, dealt(120, rng), loss) < GAP


@pytest.mark.parametrize("loss", ["logistic", "softmax", "squared_hinge"])
@pytest.mark.parametrize("shape", [(900, 20), (300, 150)])
def test_float32_reaches_the_same_objective(loss: LossName, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    n, d = shape
    X = rng.normal(size=shape) / np.sqrt(d)
    y = (3 * X[:, :3] * np.sqrt(d) / 2 + rng.normal(size=(n, 3))).argmax(axis=1)
    y = y if loss == "softmax" else (y == 0).astype(int)
    assert worst_gap(X.astype(np.float32), y, np.ones(n), dealt(n, rng), loss, double=False) < GAP


def many_rows(n: int = 40_000, d: int = 16) -> tuple[npt.NDArray[np.float32], IntArray, IntArray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, d)).astype(np.float32) * np.linspace(0.1, 1, d, dtype=np.float32)
    y = (X[:, 0] + 0.3 * rng.normal(size=n) > 0.2).astype(int)
    return X, y, dealt(n, rng)


@pytest.mark.parametrize("loss", ["logistic", "squared_hinge"])
def test_many_rows_start_from_a_sample(loss: LossName) -> None:
    X, y, folds = many_rows()
    assert worst_gap(X, y, np.ones(len(X)), folds, loss) < GAP


def test_a_sample_of_hardly_any_positives_is_no_worse_start_than_none() -> None:
    X, _, folds = many_rows()
    y = np.zeros(len(X), int)
    y[np.argsort(X[:, 0])[-30:]] = 1
    assert worst_gap(X, y, np.ones(len(X)), folds, "logistic", strengths=np.array([1.0, 1e4])) < GAP


def solve(X: npt.NDArray[np.floating], y: IntArray, folds: IntArray, device: str = "cpu") -> Solution:
    center = X.mean(axis=0, dtype=np.float64)
    return Sweep(X, folds, center, double=False, device=device).solve(
        y[None].astype(float), np.ones((1, len(X))), all_but_one(3), np.array([0.1, 10.0])
    )


def test_float16_is_read_block_by_block_and_found_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, folds = many_rows()
    halves = X.astype(np.float16)
    wide = solve(halves.astype(np.float32), y, folds)
    monkeypatch.setattr(rows_module, "DENSE", 0)
    monkeypatch.setattr(rows_module, "FEATURES", 1 << 14)
    read = solve(halves, y, folds)
    np.testing.assert_allclose(read.coef, wide.coef, rtol=1e-3, atol=1e-4 * np.abs(wide.coef).max())
    np.testing.assert_allclose(read.objective, wide.objective, rtol=1e-6)
    np.testing.assert_allclose(read.held_out[1, 0], wide.held_out[1, 0], atol=1e-3)


def test_more_models_than_memory_are_solved_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, folds = many_rows(4000)
    whole = solve(X, y, folds)
    monkeypatch.setattr(sweep_module, "STORED", 1)
    parts = solve(X, y, folds)
    np.testing.assert_allclose(parts.objective, whole.objective, rtol=1e-6)
    np.testing.assert_allclose(parts.held_out[2, 1], whole.held_out[2, 1], atol=1e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA card here")
def test_a_card_finds_the_same() -> None:
    X, y, folds = many_rows()
    here, there = solve(X, y, folds), solve(X, y, folds, "cuda")
    np.testing.assert_allclose(there.objective, here.objective, rtol=1e-6)
    np.testing.assert_allclose(there.held_out[1, 0], here.held_out[1, 0], atol=1e-2)
    assert there.converged.all()


def test_a_device_that_is_not_there_is_said() -> None:
    assert device_for("cpu", 10) == device_for("auto", 10) == "cpu"
    with pytest.raises(DataError, match=r"device='abacus'.*expected 'auto', 'cpu', or a card that torch sees"):
        device_for("abacus", 10)


def test_a_model_with_one_side_only_is_left_at_its_start() -> None:
    X = np.random.default_rng(0).normal(size=(30, 4))
    y = np.r_[np.zeros(20), np.ones(10)].astype(int)
    folds = np.r_[np.arange(20) % 2, np.full(10, 2)]
    left_out = np.array([[False, False, False], [False, False, True]])
    found = Sweep(X, folds).solve(y[None], np.ones((1, 30)), left_out, np.ones(1))
    assert (found.coef[1] == 0).all() and found.intercept[1, 0, 0] < -10
    assert (found.held_out[1, 2] == found.intercept[1, 0, 0]).all()
    assert np.abs(found.coef[0]).max() > 0
    assert found.converged.all() and found.iterations[1, 0, 0] == 0


def test_too_few_iterations_are_reported() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 30))
    found = Sweep(X).solve(
        (X[:, :1].T > 0).astype(float), np.ones((1, 60)), np.zeros((1, 1), bool), np.array([1e3]), max_iter=2
    )
    assert found.converged.tolist() == [[[False]]] and found.iterations.tolist() == [[[2]]]
