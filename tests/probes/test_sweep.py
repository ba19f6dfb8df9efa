"""Every model of a sweep reaches the objective a float64 reference reaches."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from vecstore.probes.sweep import LossName, Models, Sweep
from vecstore.records import DoubleArray, FloatArray

GAP = 1e-6
STRENGTHS = np.logspace(-4, 4, 5)
HINGE_STRENGTHS = np.logspace(-4, 2, 4)  # a hardly regularised hinge is given up after 500 iterations, and says so


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


def worst_gap(
    X: DoubleArray | FloatArray, y: DoubleArray, rows: DoubleArray, loss: LossName, double: bool | None = None
) -> float:
    """Solve every row weighting at every strength; the largest relative excess over the reference."""
    strengths = HINGE_STRENGTHS if loss == "squared_hinge" else STRENGTHS
    models = Models(
        np.repeat(np.arange(len(rows)), len(strengths)),
        np.zeros(len(rows) * len(strengths), np.int64),
        np.tile(strengths, len(rows)),
    )
    found = Sweep(X, double).solve(y[None].astype(float), rows, models, loss)
    assert found.converged.all()
    gaps = []
    for i, C in enumerate(models.strengths):
        w = rows[models.weights[i]]
        seen = w > 0
        reference = best(X[seen].astype(float), y[seen], w[seen], C, loss)
        mine = objective(X.astype(float), y, w, C, found.coef[i], found.intercept[i], loss)
        assert found.objective[i] == pytest.approx(mine, rel=1e-4)
        margins = X.astype(float) @ found.coef[i].T + found.intercept[i]
        np.testing.assert_allclose(found.margins[i].T, margins, rtol=1e-3, atol=1e-3 * np.abs(margins).max())
        gaps.append((mine - reference) / reference)
    return max(gaps)


def masks(n: int, rng: np.random.Generator) -> DoubleArray:
    """Two folds left out in turn, and all rows."""
    fold = rng.permutation(n) % 3
    return np.stack([fold != 0, fold != 1, np.ones(n, bool)]).astype(float)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("loss", ["logistic", "squared_hinge", "softmax"])
def test_random_shapes(seed: int, loss: LossName) -> None:
    rng = np.random.default_rng(seed)
    n, d, k = int(rng.integers(40, 200)), int(rng.integers(1, 90)), 4 if loss == "softmax" else 2
    X = rng.normal(size=(n, d)) * rng.random(d) ** 3
    y = (X @ rng.normal(size=(d, k)) + rng.normal(size=(n, k))).argmax(axis=1)
    y[:6] = np.r_[0:k, 0:k, 0:k, 0:k][:6]
    rows = masks(n, rng)
    rows[:, : 2 * k] = 1  # every class is in every model
    y[:k], y[k : 2 * k] = np.arange(k), np.arange(k)
    assert worst_gap(X, y, rows, loss) < GAP


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
    assert worst_gap(spoil(X), y, masks(150, rng), loss) < GAP


@pytest.mark.parametrize("loss", ["logistic", "squared_hinge"])
def test_one_positive(loss: LossName) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(80, 10)), np.zeros(80, int)
    y[5] = 1
    assert worst_gap(X, y, np.ones((1, 80)), loss) < GAP


@pytest.mark.parametrize("loss", ["logistic", "softmax", "squared_hinge"])
def test_rows_of_unequal_weight(loss: LossName) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 8))
    y = (X[:, :2] + rng.normal(size=(120, 2))).argmax(axis=1)
    if loss == "softmax":
        y[:30] = 2
    rows = masks(120, rng) * rng.exponential(size=120) * np.where(y == 1, 20, 1)
    assert worst_gap(X, y, rows, loss) < GAP


@pytest.mark.parametrize("loss", ["logistic", "softmax", "squared_hinge"])
@pytest.mark.parametrize("shape", [(900, 20), (300, 150)])
def test_float32_reaches_the_same_objective(loss: LossName, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    n, d = shape
    X = rng.normal(size=shape) / np.sqrt(d)
    y = (3 * X[:, :3] * np.sqrt(d) / 2 + rng.normal(size=(n, 3))).argmax(axis=1)
    y = y if loss == "softmax" else (y == 0).astype(int)
    assert worst_gap(X.astype(np.float32), y, masks(n, rng), loss, double=False) < GAP


def test_features_are_given_as_they_are_when_rows_abound() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 16)).astype(np.float32) * np.linspace(0.1, 1, 16, dtype=np.float32)
    y = (X[:, 0] + 0.3 * rng.normal(size=20_000) > 0.2).astype(int)
    assert worst_gap(X, y, masks(20_000, rng), "logistic") < GAP


def test_a_model_with_one_side_only_is_left_at_its_start() -> None:
    X = np.random.default_rng(0).normal(size=(30, 4))
    y = np.r_[np.zeros(20), np.ones(10)]
    rows = np.stack([np.ones(30), 1 - y])
    models = Models(np.array([0, 1]), np.zeros(2, np.int64), np.ones(2))
    found = Sweep(X).solve(y[None], rows, models)
    assert (found.coef[1] == 0).all() and found.intercept[1, 0] < -10
    assert np.abs(found.coef[0]).max() > 0
    assert found.converged.all() and found.iterations[1] == 0


def test_too_few_iterations_are_reported() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 30))
    models = Models(np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([1e3]))
    found = Sweep(X).solve((X[:, :1].T > 0).astype(float), np.ones((1, 60)), models, max_iter=2)
    assert found.converged.tolist() == [False] and found.iterations.tolist() == [2]
