"""All the linear models of a cross-validation solved at once.

Every model (which folds it leaves out, which target, which strength of regularisation) is a row of one block of
coefficients, so an iteration is two matrix products for all of them together: the change of every margin along every
search direction, and every gradient. Rows are read fold after fold, and a model takes no part in the folds it leaves
out, so features are never copied per model.

Minimised for each model, as in scikit-learn with `C`, the intercept free::

    sum_i weight_i * loss(margin_i, target_i) + |coef|^2 / (2 C)

by L-BFGS over a preconditioner, the inverse of (mean curvature × Gram matrix + 1/C), by one eigendecomposition of the
Gram matrix of a sample of the rows, shared by all models; the step is Newton's on the line, on stored margins.
Models without a left-out fold come first, from a solution on the sample; those of the folds start from theirs,
whose gradients by fold are known, and inherit their pairs. A model that has cost as much as a Hessian of its own
would (hardly regularised, nearly separable) is given one. A model leaves when its Newton decrement is small against
its objective. Why so, and what was measured: `DECISIONS.md`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from vecstore.errors import DataError
from vecstore.probes.descent import End, Preconditioner, Run, Start, Task
from vecstore.probes.losses import LOSSES
from vecstore.probes.rows import Rows, cut
from vecstore.records import BoolArray, DoubleArray, IntArray

LossName = Literal["logistic", "softmax", "squared_hinge"]

PAYS = 1 << 24  # values of a feature matrix from which a card is faster, its start and the way there included
SMALL = 1 << 18  # values of a feature matrix up to which float64 costs nothing worth saving
ALONE = 1 << 20  # values up to which one thread solves: 0.2 s for two, 0.2 s for one, where nothing else runs
WIDE_RANGE = 1e4  # ratio of feature scales beyond which float32 products lose the small ones
LARGEST_EIGEN = 4096  # features beyond which an eigendecomposition costs more than the iterations it saves
SAMPLED = 16  # rows per feature in the sample for the Gram matrix and the first guess
LEAST_SAMPLE = 1 << 13
GUESSED, GUESSES = 1e-3, 20  # decrement against objective, or iterations, at which the first guess is left
NEARLY = 1e-2  # the same for the models with all rows, before those of the folds start from them
STORED = 1 << 30  # bytes of margins at a time; more models are solved one part after another


@dataclass(frozen=True, slots=True)
class Solution:
    """What `Sweep.solve` found; K is the number of targets, or of classes of the softmax.

    Attributes
    ----------
    coef : ndarray of shape (n_masks, n_strengths, K, d), float64
    intercept : ndarray of shape (n_masks, n_strengths, K), float64
    held_out : dict of (mask, fold) to ndarray of shape (n_strengths, K, n_rows), float32 or float64
        Margins of the rows of folds left out, in the order of the rows.
    objective : ndarray of shape (n_masks, n_strengths, n_targets), float64
    iterations : ndarray of shape (n_masks, n_strengths, n_targets), int64
    converged : ndarray of shape (n_masks, n_strengths, n_targets), bool
    """

    coef: DoubleArray
    intercept: DoubleArray
    held_out: dict[tuple[int, int], npt.NDArray[Any]]
    objective: DoubleArray
    iterations: IntArray
    converged: BoolArray


class Sweep:
    """Features made ready once, to solve any number of models over.

    Parameters
    ----------
    X : ndarray of shape (n, d), float16, float32 or float64
        Finite.
    folds : ndarray of shape (n,), int64, optional
        Fold of each row, from 0; all in one by default.
    center, spread : ndarray of shape (d,), float64, optional
        Features are centred and divided by the spread on the way. Centred ones converge fastest.
    double : bool, optional
        Whether to compute in float64; by default for small matrices and columns of very different scale.
    device : str
        As torch names it.
    seed : int
        Of the sample of rows.
    """

    def __init__(
        self,
        X: npt.NDArray[Any],
        folds: IntArray | None = None,
        center: DoubleArray | None = None,
        spread: DoubleArray | None = None,
        *,
        double: bool | None = None,
        device: str = "cpu",
        seed: int = 0,
    ) -> None:
        n, d = X.shape
        center, spread = np.zeros(d) if center is None else center, np.ones(d) if spread is None else spread
        if double is None:
            double = X.size <= SMALL or _wide(X[:: max(1, n // 4096)], spread)
        self._folds = np.zeros(n, np.int64) if folds is None else folds
        self._order = np.argsort(self._folds, kind="stable")
        self._device = torch.device(device)
        dtype = torch.float64 if double else torch.float32
        self._rows = Rows(X, self._order, np.bincount(self._folds), center, spread, dtype, self._device)
        self._back: torch.Tensor | None = None
        if min(n, d) <= LARGEST_EIGEN and (double or n < 4 * d):
            features, self._back = _rotated(self._rows.all())
            self._rows = self._rows.replaced(features)
        self._seed = seed
        size = max(SAMPLED * d, LEAST_SAMPLE)
        self._sampled = self._back is None and n >= 4 * size
        self._sample_size = size if self._sampled else n
        self._known: tuple[torch.Tensor, _Sample] | None = None

    def solve(
        self,
        targets: npt.NDArray[Any],
        row_weights: npt.NDArray[Any],
        left_out: BoolArray,
        strengths: DoubleArray,
        loss: LossName = "logistic",
        *,
        tol: float | None = None,
        max_iter: int = 500,
    ) -> Solution:
        """Solve for every set of folds left out, every strength and every target.

        Parameters
        ----------
        targets : ndarray of shape (n_targets, n)
            0 or 1 per row; softmax: one row with the class index.
        row_weights : ndarray of shape (1 or n_targets, n), float
            Non-negative; 0 leaves a row out.
        left_out : ndarray of shape (n_masks, n_folds), bool
        strengths : ndarray of shape (n_strengths,), float64
            C, as in scikit-learn; positive.
        loss : {"logistic", "softmax", "squared_hinge"}
        tol : float
            Newton decrement against objective at which a model is done; by default 1e-7 in float32 (2e-8 for the
            softmax, whose outputs the preconditioner takes for independent), and so far in float64 that predictions
            agree to about ten digits.
        max_iter : int
            Iterations after which the rest is returned with `converged` false.

        Returns
        -------
        Solution
        """
        rows = self._rows
        if tol is None:
            tol = 1e-20 if rows.dtype == torch.float64 else 2e-8 if loss == "softmax" else 1e-7
        with torch.no_grad(), _full_precision(), _threads(rows.n * rows.d):
            task = Task(
                LOSSES[loss](torch.from_numpy(targets[:, self._order]).to(self._device), rows.dtype),
                torch.from_numpy(row_weights[:, self._order]).to(self._device, rows.dtype),
            )
            sample = self._sample(task.weights)
            found = _Found(len(left_out), len(strengths), len(targets), task.loss.outputs, rows, left_out)
            per_family = 8 * rows.n * task.loss.outputs * (1 + len(left_out)) * torch.finfo(rows.dtype).bits // 32
            families = [(s, t) for t in range(len(targets)) for s in range(len(strengths))]
            at_once = max(1, STORED // per_family)
            parts = -(-len(families) // at_once)
            for part in np.array_split(np.array(families), parts):
                self._solve(task, sample, part, strengths, left_out, found, tol, max_iter)
            return found.solution(self._outwards)

    def _solve(
        self,
        task: Task,
        sample: _Sample,
        families: IntArray,
        strengths: DoubleArray,
        left_out: BoolArray,
        found: _Found,
        tol: float,
        max_iter: int,
    ) -> None:
        """Solve some families: the models of one strength and one target, whatever they leave out."""
        rows = self._rows
        penalty = torch.from_numpy(1 / strengths[families[:, 0]]).to(self._device, rows.dtype)
        target = torch.from_numpy(families[:, 1]).to(self._device)
        whole = torch.ones(len(families), len(rows.segments), dtype=torch.bool, device=self._device)
        start: Start | None = None
        if self._sampled:
            guess = Run(sample.rows, sample.task(task), sample.precondition, target, penalty, whole[:, :1], None)
            guessed = guess.finish(GUESSED, GUESSES, keep_folds=False)
            start = Start(guessed.point, guessed.pairs)
        run = Run(rows, task, sample.precondition, target, penalty, whole, start)
        full = run.finish(max(NEARLY, tol), max_iter, keep_folds=True)
        masks = np.repeat(np.arange(len(left_out)), len(families))
        families = np.tile(families, (len(left_out), 1))
        family = torch.arange(len(penalty), device=self._device).repeat(len(left_out))
        keep = torch.from_numpy(~left_out[masks]).to(self._device)
        start = full.by_folds(penalty, family, keep)
        del run, full
        end = Run(rows, task, sample.precondition, target[family], penalty[family], keep, start).finish(
            tol, max_iter, keep_folds=False
        )
        found.put(masks, families, end)
        found.hold_out(rows, end.point, masks, families)

    def _sample(self, weights: torch.Tensor) -> _Sample:
        mean = weights.double().mean(dim=0)
        if self._known is not None and torch.equal(self._known[0], mean):
            return self._known[1]
        places = np.arange(self._rows.n)
        if self._sampled:
            places = np.sort(np.random.default_rng(self._seed).permutation(self._rows.n)[: self._sample_size])
        chosen = torch.from_numpy(places).to(self._device)
        rows = self._rows.picked(places) if self._sampled else self._rows
        sample = _Sample(rows, chosen if self._sampled else None, _preconditioner(rows, mean[chosen], self._back))
        self._known = mean, sample
        return sample

    def _outwards(self, coef: torch.Tensor) -> torch.Tensor:
        """Coefficients of the rotated features as those of the features given."""
        return coef if self._back is None else coef @ self._back.T


@dataclass(frozen=True, slots=True)
class _Sample:
    """Some of the rows, or all, and what was learned from them for all models."""

    rows: Rows
    places: torch.Tensor | None
    precondition: Preconditioner

    def task(self, whole: Task) -> Task:
        """The same task on the sample, its rows counting for all."""
        if self.places is None:
            return whole
        share = whole.weights.shape[1] / len(self.places)
        return Task(whole.loss.picked(self.places), whole.weights[:, self.places] * share)


def _preconditioner(rows: Rows, mean: torch.Tensor, back: torch.Tensor | None) -> Preconditioner:
    """From rows that count `mean`."""
    total = mean.sum().clamp_min(torch.finfo(torch.float64).tiny)
    if back is not None or rows.d > LARGEST_EIGEN:
        spectrum = torch.zeros(rows.d, dtype=torch.float64, device=rows.device)
        for block in cut(slice(0, rows.n), 4096):
            spectrum += mean[block] @ rows.block(block).double() ** 2
        return Preconditioner(spectrum / total, None, rows)
    gram = torch.zeros(rows.d, rows.d, dtype=torch.float64)
    root = mean.sqrt().to(rows.dtype)[:, None]
    even = bool((mean == mean[0]).all())
    for block in cut(slice(0, rows.n), 8192):
        part = rows.block(block) if even else rows.block(block) * root[block]
        if rows.device.type == "cpu":
            values = part.numpy()
            gram += torch.from_numpy(values.T @ values)  # NumPy sees that it is symmetric, and does half the work
        else:
            gram += (part.T @ part).cpu()
    values, vectors = torch.linalg.eigh(gram * (mean[0].cpu() if even else 1) / total.cpu())
    return Preconditioner(values.clamp_min(0), vectors, rows)


class _Found:
    """The solution as it comes in."""

    def __init__(
        self, n_masks: int, n_strengths: int, n_targets: int, outputs: int, rows: Rows, left_out: BoolArray
    ) -> None:
        shape = (n_masks, n_strengths, n_targets)
        self._point = torch.zeros(*shape, outputs, rows.d + 1, dtype=torch.float64)
        self._objective = np.zeros(shape)
        self._iterations = np.zeros(shape, np.int64)
        self._converged = np.zeros(shape, bool)
        kind = np.float64 if rows.dtype == torch.float64 else np.float32
        sizes = [segment.stop - segment.start for segment in rows.segments]
        self._held_out = {
            (mask, fold): np.empty((n_strengths, n_targets, outputs, sizes[fold]), kind)
            for mask, fold in np.argwhere(left_out).tolist()
        }

    def put(self, masks: IntArray, families: IntArray, end: End) -> None:
        """Where models came out."""
        at = masks, families[:, 0], families[:, 1]
        self._point[at] = end.point.double().cpu()
        self._objective[at] = end.objective.cpu().numpy()
        self._iterations[at] = end.iterations.cpu().numpy()
        self._converged[at] = end.converged.cpu().numpy()

    def hold_out(self, rows: Rows, point: torch.Tensor, masks: IntArray, families: IntArray) -> None:
        """Margins of the rows that models left out."""
        for fold, segment in enumerate(rows.segments):
            models = np.flatnonzero([(int(mask), fold) in self._held_out for mask in masks])
            if not len(models):
                continue
            chosen = point[torch.from_numpy(models).to(rows.device)].flatten(0, 1)
            for block in rows.blocks(segment, len(chosen)):
                margins = torch.addmm(chosen[:, -1:], chosen[:, :-1], rows.block(block).T).cpu().numpy()
                inside = slice(block.start - segment.start, block.stop - segment.start)
                for model, values in zip(models, margins.reshape(len(models), point.shape[1], -1), strict=True):
                    self._held_out[int(masks[model]), fold][(*families[model], slice(None), inside)] = values

    def solution(self, outwards: Callable[[torch.Tensor], torch.Tensor]) -> Solution:
        """All of it, coefficients being those of the features given."""
        n_masks, n_strengths, n_targets, outputs, _ = self._point.shape
        shape = (n_masks, n_strengths, n_targets * outputs)
        return Solution(
            outwards(self._point[..., :-1]).numpy().reshape(*shape, -1),
            self._point[..., -1].numpy().reshape(shape),
            {key: values.reshape(n_strengths, shape[2], -1) for key, values in self._held_out.items()},
            self._objective,
            self._iterations,
            self._converged,
        )


def device_for(wanted: str, size: int) -> str:
    """The device that `wanted` means for that many values.

    Raises
    ------
    DataError
        No such device here.
    """
    if wanted == "auto":
        return "cuda" if size >= PAYS and torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise DataError(
            f"device={wanted!r}: {str(error).splitlines()[0].rstrip('.')}",
            expected="'auto', 'cpu', or a card that torch sees",
            do="pass device='cpu'",
        ) from error
    return wanted


def _wide(X: npt.NDArray[Any], spread: DoubleArray) -> bool:
    """Whether the scales of the columns are so different that float32 products lose some."""
    scale = X.astype(np.float64).std(axis=0) / spread
    scale = scale[scale > 0]
    return bool(len(scale) and scale.max() > WIDE_RANGE * scale.min())


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


@contextmanager
def _threads(values: int) -> Iterator[None]:
    """One thread for a small matrix: to meet costs more than is shared, above all where processors are busy."""
    before = torch.get_num_threads()
    if values <= ALONE:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _full_precision() -> Iterator[None]:
    """No shortened products on a card, whatever the program around has asked for."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
