"""All the linear models of a cross-validation solved at once.

Every model (which rows it may learn from, which target, which strength of regularisation) is a row of one block of
coefficients, so an iteration is two matrix products for all of them together: the change of every margin along
every search direction, and every gradient. A held-out fold is a weight of zero, so the features are never copied
or sliced, and out-of-fold margins fall out of the work.

Minimised for each model, as in scikit-learn with `C`, the intercept free::

    sum_i weight_i * loss(margin_i, target_i) + |coef|^2 / (2 C)

by preconditioned non-linear conjugate gradients (Polak–Ribière, restarted when not descending), the preconditioner
being the inverse of (mean curvature × Gram matrix + 1/C) by one eigendecomposition shared by all models, the step
by Newton's method on the line on stored margins. A model that has cost as much as a Hessian of its own would
(hardly regularised, nearly separable) is given one. A model leaves when its Newton decrement is small against its
objective. Measured: `PERFORMANCE.md`, "The sweep of logistic regressions".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from vecstore.probes.losses import LOSSES, Loss
from vecstore.records import BoolArray, DoubleArray, IntArray

LossName = Literal["logistic", "softmax", "squared_hinge"]

SMALL = 1 << 18  # values of a feature matrix up to which float64 costs nothing worth saving
WIDE_RANGE = 1e4  # ratio of feature scales beyond which float32 products lose the small ones
LARGEST_EIGEN = 4096  # features beyond which an eigendecomposition costs more than the iterations it saves
CACHED = 1 << 18  # margins worked on at a time: what fits a core's second-level cache in float32
SLOPE_LEFT = 0.25  # a line search ends when this share of the slope is left: tighter costs more than it saves


@dataclass(frozen=True, slots=True)
class Models:
    """Which models to solve; all arrays have one entry per model.

    Attributes
    ----------
    weights : ndarray of shape (n_models,), int64
        Row of `row_weights` that says what each row of the features counts.
    targets : ndarray of shape (n_models,), int64
        Row of `targets` that holds what is to be predicted.
    strengths : ndarray of shape (n_models,), float64
        C, as in scikit-learn; positive.
    """

    weights: IntArray
    targets: IntArray
    strengths: DoubleArray


@dataclass(frozen=True, slots=True)
class Solution:
    """What `Sweep.solve` found.

    Attributes
    ----------
    coef : ndarray of shape (n_models, n_outputs, d), float64
    intercept : ndarray of shape (n_models, n_outputs), float64
    margins : ndarray of shape (n_models, n_outputs, n), float32 or float64
        Of all rows, held-out ones too.
    objective : ndarray of shape (n_models,), float64
    iterations : ndarray of shape (n_models,), int64
    converged : ndarray of shape (n_models,), bool
    """

    coef: DoubleArray
    intercept: DoubleArray
    margins: npt.NDArray[Any]
    objective: DoubleArray
    iterations: IntArray
    converged: BoolArray


class Sweep:
    """Features made ready once, to solve any number of models over.

    Parameters
    ----------
    X : ndarray of shape (n, d), float32 or float64
        Finite. Centred columns converge fastest; nothing is centred or scaled here.
    double : bool, optional
        Whether to compute in float64; by default for small matrices and columns of very different scale.
    """

    def __init__(self, X: npt.NDArray[Any], double: bool | None = None) -> None:
        n, d = X.shape
        if double is None:
            scale = X.std(axis=0)
            scale = scale[scale > 0]
            double = X.size <= SMALL or (len(scale) > 0 and scale.max() > WIDE_RANGE * scale.min())
        self._dtype = torch.float64 if double else torch.float32
        self._back: torch.Tensor | None = None
        self._eigen: tuple[torch.Tensor, torch.Tensor] | None = None
        self._spectra: torch.Tensor | None = None
        if min(n, d) <= LARGEST_EIGEN and (double or n < 4 * d):
            features, self._back = _rotated(torch.from_numpy(np.ascontiguousarray(X, dtype=np.float64)))
            self._features = features.to(self._dtype)
        else:
            self._features = torch.from_numpy(np.ascontiguousarray(X)).to(self._dtype)

    def solve(
        self,
        targets: npt.NDArray[Any],
        row_weights: npt.NDArray[Any],
        models: Models,
        loss: LossName = "logistic",
        *,
        tol: float | None = None,
        max_iter: int = 500,
    ) -> Solution:
        """Solve all models.

        Parameters
        ----------
        targets : ndarray of shape (n_targets, n)
            0 or 1 per row; softmax: one row with the class index.
        row_weights : ndarray of shape (n_weights, n), float
            Non-negative; 0 leaves a row out.
        models : Models
        loss : {"logistic", "softmax", "squared_hinge"}
        tol : float
            Newton decrement against objective at which a model is done; by default 1e-9 in float32, and so far in
            float64 that predictions agree to about eight digits.
        max_iter : int
            Matrix products after which the rest is returned with `converged` false.

        Returns
        -------
        Solution
        """
        weights = torch.from_numpy(np.ascontiguousarray(row_weights)).to(self._dtype)
        rule = LOSSES[loss](torch.from_numpy(np.ascontiguousarray(targets)), self._dtype)
        if tol is None:
            tol = 1e-16 if self._dtype == torch.float64 else 1e-9
        run = _Run(self._features, self._preconditioner(weights), rule, weights, models)
        return run.finish(tol, max_iter, self._outwards)

    def _preconditioner(self, weights: torch.Tensor) -> _Preconditioner:
        mean = weights.double().mean(dim=0)
        A = self._features
        if self._back is not None or A.shape[1] > LARGEST_EIGEN:
            spectrum = sum((mean[block, None] * A[block].double() ** 2).sum(dim=0) for block in _blocks(len(A), 4096))
            return _Preconditioner(torch.as_tensor(spectrum) / mean.sum(), None, self._dtype)
        if self._eigen is None or self._spectra is None or not torch.equal(self._spectra, mean / mean.sum()):
            gram = torch.zeros(A.shape[1], A.shape[1], dtype=torch.float64)
            root = mean.sqrt().to(self._dtype)[:, None]
            for block in _blocks(len(A), 8192):
                part = A[block] * root[block]
                gram += part.T @ part
            values, vectors = torch.linalg.eigh(gram / mean.sum())
            self._eigen, self._spectra = (values.clamp_min(0), vectors), mean / mean.sum()
        return _Preconditioner(*self._eigen, self._dtype)

    def _outwards(self, coef: torch.Tensor) -> torch.Tensor:
        """Coefficients of the rotated features as those of the features given."""
        return coef if self._back is None else coef @ self._back.T


class _Preconditioner:
    """Inverse of (curvature × mean squared feature + penalty), per model, in the eigenbasis."""

    def __init__(self, spectrum: torch.Tensor, vectors: torch.Tensor | None, dtype: torch.dtype) -> None:
        self._spectrum = spectrum.to(dtype)
        self._vectors = None if vectors is None else vectors.to(dtype)

    def __call__(self, gradient: torch.Tensor, curvature: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
        """Shapes (m, k, d), (m, k) summed curvature, (m,)."""
        inverse = 1 / (curvature[..., None] * self._spectrum + penalty[:, None, None])
        if self._vectors is None:
            return gradient * inverse
        return ((gradient @ self._vectors) * inverse) @ self._vectors.T


class _Run:
    """One call of `solve`: the state of the models still at work.

    Margins are kept as (model, output, row), so that a model's margins are contiguous: leaving models are
    dropped and a few models are picked by copying whole rows.
    """

    def __init__(
        self,
        features: torch.Tensor,
        precondition: _Preconditioner,
        loss: Loss,
        weights: torch.Tensor,
        models: Models,
    ) -> None:
        self.A, self.precondition, self.loss, self.weights = features, precondition, loss, weights
        self.which = torch.from_numpy(models.weights)
        self.target = torch.from_numpy(models.targets)
        self.penalty = torch.from_numpy(1 / models.strengths).to(features.dtype)
        self.n, d = features.shape
        m, k = len(models.strengths), loss.outputs
        self.id = torch.arange(m)
        self.coef = torch.zeros(m, k, d, dtype=features.dtype)
        intercept, self.settled = loss.start(weights, self.which, self.target)
        self.intercept = intercept.to(features.dtype)
        self.margins = self.intercept[..., None].repeat(1, 1, self.n)
        self.bends = torch.empty_like(self.margins)
        self.along = torch.zeros_like(self.margins)
        self.gradient = torch.empty_like(self.coef)
        self.gradient0 = torch.empty_like(self.intercept)
        self.curvature = torch.empty_like(self.intercept)
        self.factors: torch.Tensor | None = None
        self.bound = torch.zeros(m, dtype=torch.float64)
        self.direction, self.direction0 = torch.zeros_like(self.coef), torch.zeros_like(self.intercept)
        self.past, self.past0 = torch.zeros_like(self.coef), torch.zeros_like(self.intercept)
        self.past_slope = torch.ones(m, dtype=torch.float64)
        self.restart = torch.ones(m, dtype=torch.bool)

    def finish(self, tol: float, max_iter: int, outwards: Any) -> Solution:
        """Iterate until all models are done, and gather them."""
        m, k, d = self.coef.shape
        coef = torch.zeros(m, k, d, dtype=torch.float64)
        intercept = torch.zeros(m, k, dtype=torch.float64)
        margins = torch.zeros(m, k, self.n, dtype=self.A.dtype)
        objective = torch.zeros(m, dtype=torch.float64)
        iterations = torch.full((m,), max_iter)
        converged = torch.zeros(m, dtype=torch.bool)

        def leave(done: torch.Tensor, step: int, success: bool) -> None:
            ids = self.id[done]
            coef[ids], intercept[ids] = self.coef[done].double(), self.intercept[done].double()
            margins[ids], objective[ids] = self.margins[done], self._objective(done)
            iterations[ids], converged[ids] = step, success

        self._refresh(torch.arange(m), None)
        self.bound = self._objective(torch.arange(m))
        for step in range(max_iter):
            if step in self._renewals(max_iter):
                self._own_hessians()
                self.restart = torch.ones(len(self.id), dtype=torch.bool)
            z, z0 = self._preconditioned()
            done = self._done(0.5 * (_dot(self.gradient, z) + _dot(self.gradient0, z0)), tol)
            if done.any():
                leave(torch.nonzero(done)[:, 0], step, True)
                stay = torch.nonzero(~done)[:, 0]
                self._keep(stay)
                if not len(stay):
                    break
                z, z0 = z[stay], z0[stay]
            self._turn(z, z0)
            self._search()
        else:
            leave(torch.arange(len(self.id)), max_iter, False)
        return Solution(
            outwards(coef).numpy(),
            intercept.numpy(),
            margins.numpy(),
            objective.numpy(),
            iterations.numpy(),
            converged.numpy(),
        )

    def _renewals(self, max_iter: int) -> range:
        """Iterations before which the models left get Hessians of their own: when these cost no more than was spent."""
        size = self.A.shape[1] * self.loss.outputs
        worth = size // (4 if self.loss.outputs == 1 else 8) + size**2 // (12 * self.n)
        return range(max(worth, 10), max_iter, max(worth // 8, 4))

    def _own_hessians(self) -> None:
        """Cholesky factors of each model's Hessian at the present margins, each output's intercept last."""
        m, k, r = self.coef.shape
        hessians = torch.zeros(m, k, r + 1, k, r + 1, dtype=torch.float64)
        for block in _blocks(self.n, 8192):
            weight = self.weights[:, block].index_select(0, self.which)[:, None, :]
            rows = torch.nn.functional.pad(self.A[block], (0, 1), value=1.0)
            for i in range(k):
                for j in range(i + 1):
                    bends = self.loss.cross(self.bends[..., block], weight, i, j)
                    for model in range(m):
                        part = (bends[model, :, None] * rows).T @ rows
                        hessians[model, i, :, j] += part
                        if i != j:
                            hessians[model, j, :, i] += part
        if k > 1:  # Raising all intercepts together changes nothing: give that direction some bend.
            own = hessians[:, :, r, :, r]
            own += own.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
        flat = hessians.view(m, k * (r + 1), k * (r + 1))
        diagonal = flat.diagonal(dim1=1, dim2=2)
        slack = 10 * torch.finfo(self.A.dtype).eps * diagonal.amax(dim=1, keepdim=True)
        diagonal += slack.clamp_min(torch.finfo(self.A.dtype).tiny)
        diagonal.view(m, k, r + 1)[..., :r].add_(self.penalty.double()[:, None, None])
        self.factors = torch.linalg.cholesky_ex(flat)[0].to(self.A.dtype)

    def _preconditioned(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of coefficients and intercepts, times an approximate inverse Hessian."""
        if self.factors is not None:
            both = torch.cat([self.gradient, self.gradient0[..., None]], dim=2)
            both = torch.cholesky_solve(both.flatten(1)[..., None], self.factors).view_as(both)
            return both[..., :-1], both[..., -1]
        z = self.precondition(self.gradient, self.curvature, self.penalty)
        return z, self.gradient0 / self.curvature.clamp_min(torch.finfo(self.A.dtype).tiny ** 0.5)

    def _done(self, decrement: torch.Tensor, tol: float) -> torch.Tensor:
        """Models whose decrement is small against their objective, which is only worked out where it can matter.

        `bound` holds the objective when it was last worked out; objectives only fall.
        """
        candidates = torch.nonzero(self.settled | (decrement <= tol * self.bound))[:, 0]
        if len(candidates):
            self.bound[candidates] = self._objective(candidates)
        return self.settled | (decrement <= tol * self.bound)

    def _turn(self, z: torch.Tensor, z0: torch.Tensor) -> None:
        """New directions from preconditioned gradients, by Polak and Ribière; steepest where that would not descend."""
        change = _dot(self.gradient - self.past, z) + _dot(self.gradient0 - self.past0, z0)
        beta = torch.where(self.restart, 0, (change / self.past_slope).clamp_min(0)).to(z.dtype)
        direction, direction0 = beta[:, None, None] * self.direction - z, beta[:, None] * self.direction0 - z0
        uphill = _dot(self.gradient, direction) + _dot(self.gradient0, direction0) >= 0
        self.direction = torch.where(uphill[:, None, None], -z, direction)
        self.direction0 = torch.where(uphill[:, None], -z0, direction0)
        self.past, self.past0 = self.gradient.clone(), self.gradient0.clone()
        self.past_slope = _dot(self.gradient, z) + _dot(self.gradient0, z0)
        self.restart = torch.zeros_like(self.restart)

    def _search(self) -> None:
        """Move along the directions to where little of the slope is left, and renew gradients there."""
        direction, direction0 = self.direction, self.direction0
        self._set_along(direction, direction0)
        ridge = self.penalty.double() * _dot(self.coef, direction)
        ridge2 = self.penalty.double() * _dot(direction, direction)
        slope0 = _dot(self.gradient, direction) + _dot(self.gradient0, direction0)
        at = torch.zeros_like(slope0)
        low, high = torch.zeros_like(slope0), torch.full_like(slope0, torch.inf)
        bend = self._bend_along() + ridge2
        move = torch.where(slope0 < 0, -slope0 / bend.clamp_min(1e-300), 0)
        active = torch.arange(len(at))
        slope, bend = self._refresh(active, move)
        for _ in range(30):
            at[active] += move
            slope, bend = slope + ridge[active] + at[active] * ridge2[active], bend + ridge2[active]
            low[active] = torch.where(slope < 0, at[active], low[active])
            high[active] = torch.where(slope > 0, torch.minimum(at[active], high[active]), high[active])
            short = slope.abs() > SLOPE_LEFT * slope0[active].abs()
            if not short.any():
                break
            active, slope, bend = active[short], slope[short], bend[short]
            lo, hi, here = low[active], high[active], at[active]
            target = here - slope / bend.clamp_min(1e-300)
            middle = torch.where(hi.isinf(), 4 * here, 0.5 * (lo + hi))
            target = torch.where((target > lo) & (target < torch.minimum(hi, 10 * here)), target, middle)
            move = target - here
            slope, bend = self._refresh(active, move)
        step = at.to(direction.dtype)
        self.coef += step[:, None, None] * direction
        self.intercept += step[:, None] * direction0
        self.gradient += self.penalty[:, None, None] * step[:, None, None] * direction

    def _refresh(self, active: torch.Tensor, move: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Advance margins by `move` along the directions, renew gradients; slope and bend of the loss there.

        The gradient's penalty part is that of the coefficients before the move.
        """
        whole = len(active) == len(self.id)
        k, d = self.coef.shape[1:]
        gradient = torch.zeros(len(active), k, d, dtype=torch.float64)
        gradient0 = torch.zeros(len(active), k, dtype=torch.float64)
        curvature = torch.zeros(len(active), k, dtype=torch.float64)
        slope = torch.zeros(len(active), dtype=torch.float64)
        bend = torch.zeros(len(active), dtype=torch.float64)
        which, target = self.which[active], self.target[active]
        pace = None if move is None else move.to(self.A.dtype)[:, None, None]
        for block in self._row_blocks(len(active)):
            margins = self.margins[..., block] if whole else self.margins[active, :, block]
            along = self.along[..., block] if whole else self.along[active, :, block]
            if pace is not None:
                margins.addcmul_(along, pace)
                if not whole:
                    self.margins[active, :, block] = margins
            weight = self.weights[:, block].index_select(0, which)[:, None, :]
            residual, bends = self.loss.derivatives(margins, weight, target, block)
            if whole:
                self.bends[..., block] = bends
            else:
                self.bends[active, :, block] = bends
            gradient += (residual.flatten(0, 1) @ self.A[block]).view(len(active), k, d)
            gradient0 += residual.sum(dim=2)
            curvature += self.loss.level(bends, weight).sum(dim=2)
            slope += (residual * along).sum(dim=(1, 2))
            bend += self.loss.bend(bends, along, weight)
        self.gradient[active] = (gradient + self.penalty[active, None, None] * self.coef[active]).to(self.A.dtype)
        self.gradient0[active] = gradient0.to(self.A.dtype)
        self.curvature[active] = curvature.to(self.A.dtype)
        return slope, bend

    def _set_along(self, direction: torch.Tensor, direction0: torch.Tensor) -> None:
        m, k, d = direction.shape
        flat, flat0 = direction.reshape(m * k, d), direction0.reshape(m * k, 1)
        along = self.along.view(m * k, self.n)
        for block in self._row_blocks(m):
            along[:, block] = flat @ self.A[block].T + flat0

    def _bend_along(self) -> torch.Tensor:
        bend = torch.zeros(len(self.id), dtype=torch.float64)
        for block in self._row_blocks(len(self.id)):
            weight = self.weights[:, block].index_select(0, self.which)[:, None, :]
            bend += self.loss.bend(self.bends[..., block], self.along[..., block], weight)
        return bend

    def _objective(self, some: torch.Tensor) -> torch.Tensor:
        total = 0.5 * self.penalty[some].double() * _dot(self.coef[some], self.coef[some])
        for block in self._row_blocks(len(some)):
            weight = self.weights[:, block].index_select(0, self.which[some])
            total += (
                (weight * self.loss.value(self.margins[some, :, block], self.target[some], block)).double().sum(dim=1)
            )
        return total

    def _keep(self, stay: torch.Tensor) -> None:
        for name in (
            "id", "which", "target", "penalty", "coef", "intercept", "margins", "bends", "along",
            "gradient", "gradient0", "curvature", "settled", "bound", "direction", "direction0", "past", "past0",
            "past_slope", "restart",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name)[stay])
        self.factors = None if self.factors is None else self.factors[stay]

    def _row_blocks(self, m: int) -> Iterator[slice]:
        return _blocks(self.n, max(256, CACHED // max(1, m * self.loss.outputs)))


def _rotated(X: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Features in the basis of their principal directions, and the matrix that leads back to coefficients.

    With fewer rows than features they are first brought into the space the rows span: a penalised coefficient
    outside it is zero. The basis is orthonormal to rounding, whatever the scales, so nothing is lost by it.
    """
    n, d = X.shape
    span = torch.linalg.qr(X.T)[0] if n < d else None
    inside = X if span is None else X @ span
    vectors = torch.linalg.eigh(inside.T @ inside)[1]
    return inside @ vectors, vectors if span is None else span @ vectors


def _blocks(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Inner product per model, summed in float64."""
    return (a.double() * b.double()).flatten(1).sum(dim=1)
