"""The descent of many models at once, which `Sweep` sets up: L-BFGS over a preconditioner, models leaving when done.

Shapes: m models, k outputs per model, d features; coefficients with the intercept last are (m, k, d + 1). Margins are
kept per fold as (members, k, rows), members being the models that learn from the fold, so that models are dropped and
picked by copying whole rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from vecstore.probes.losses import Loss, rows_of
from vecstore.probes.rows import Rows

LARGEST_HESSIANS = 1 << 30  # bytes of all models' own Hessians, beyond which none is made
PAIRS = 12  # of a model's latest steps and changes of gradient
SLOPE_LEFT = 0.25  # a line search ends when this share of the slope is left: tighter costs more than it saves
SEARCHES = 30


@dataclass(frozen=True, slots=True)
class Task:
    """A loss with its targets, and the weights of the rows, (1 or n_targets, n)."""

    loss: Loss
    weights: torch.Tensor


class Preconditioner:
    """Inverse of (curvature × mean squared feature + penalty), per model, in the eigenbasis."""

    def __init__(self, spectrum: torch.Tensor, vectors: torch.Tensor | None, rows: Rows) -> None:
        self._spectrum = spectrum.to(rows.device, rows.dtype)
        self._vectors = None if vectors is None else vectors.to(rows.device, rows.dtype)

    def __call__(self, gradient: torch.Tensor, curvature: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
        """Shapes (m, k, d), (m, k) summed curvature, (m,)."""
        inverse = 1 / (curvature[..., None] * self._spectrum + penalty[:, None, None])
        if self._vectors is None:
            return gradient * inverse
        return ((gradient @ self._vectors) * inverse) @ self._vectors.T


@dataclass(slots=True)
class Pairs:
    """Steps, changes of the gradient, and 1 / their product, which is 0 where a model has no such pair."""

    steps: list[torch.Tensor] = field(default_factory=list)
    changes: list[torch.Tensor] = field(default_factory=list)
    inverse: list[torch.Tensor] = field(default_factory=list)

    def add(self, step: torch.Tensor, change: torch.Tensor) -> None:
        """Keep a pair where it shows a curvature well above rounding."""
        product = dot(step, change)
        least = torch.finfo(step.dtype).eps * (dot(step, step) * dot(change, change)).sqrt()
        self.steps.append(step)
        self.changes.append(change)
        self.inverse.append(torch.where(product > least, 1 / product, 0))
        if len(self.steps) > PAIRS:
            self.steps, self.changes, self.inverse = self.steps[1:], self.changes[1:], self.inverse[1:]

    def picked(self, which: torch.Tensor) -> Pairs:
        """Of some models."""
        return Pairs(*([values[which] for values in one] for one in (self.steps, self.changes, self.inverse)))

    def thinned(self, share: torch.Tensor, penalty: torch.Tensor) -> Pairs:
        """As if only a share of the loss had been there; the penalty's part of a change stays."""
        found = Pairs()
        for step, change, inverse in zip(self.steps, self.changes, self.inverse, strict=True):
            ridge = _free(penalty[:, None, None] * step)
            found.add(step, share[:, None, None] * (change - ridge) + ridge)
            found.inverse[-1] = torch.where(inverse > 0, found.inverse[-1], 0)
        return found

    def latest_first(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Step, change, and 1 / their product."""
        return zip(reversed(self.steps), reversed(self.changes), reversed(self.inverse), strict=True)

    def forget(self, models: torch.Tensor) -> None:
        """Have some models start anew, (m,), bool."""
        self.inverse = [torch.where(models, 0, values) for values in self.inverse]


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run begins, and what of it is known there already: margins per fold, and sums over the loss."""

    point: torch.Tensor
    pairs: Pairs
    margins: list[torch.Tensor] | None = None
    gradient: torch.Tensor | None = None
    level: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class End:
    """Where the models of a run came out; margins per fold if they were to be kept."""

    point: torch.Tensor
    pairs: Pairs
    margins: list[torch.Tensor]
    objective: torch.Tensor
    iterations: torch.Tensor
    converged: torch.Tensor

    def by_folds(
        self,
        task: Task,
        rows: Rows,
        target: torch.Tensor,
        penalty: torch.Tensor,
        family: torch.Tensor,
        keep: torch.Tensor,
    ) -> Start:
        """The start of models that leave out folds: where the model with all came out, gradients known by fold.

        Parameters
        ----------
        target, penalty : Tensor of shape (n_families,)
        family : Tensor of shape (m,), int64
            Which model of this run each starts from.
        keep : Tensor of shape (m, n_folds), bool
        """
        shape = (len(family), *self.point.shape[1:])
        gradient = torch.zeros(shape, dtype=torch.float64, device=rows.device)
        level = torch.zeros(shape[:2], dtype=torch.float64, device=rows.device)
        total = torch.zeros(self.point.shape[:2], dtype=torch.float64, device=rows.device)
        margins = []
        for fold, segment in enumerate(rows.segments):
            pull, bend = _derivatives(task, rows, segment, self.margins[fold], target)
            members = torch.nonzero(keep[:, fold])[:, 0]
            gradient[members] += pull[family[members]]
            level[members] += bend[family[members]]
            total += bend
            margins.append(self.margins[fold][family[members]])
        share = level.sum(dim=1) / total.sum(dim=1)[family].clamp_min(torch.finfo(torch.float64).tiny)
        pairs = self.pairs.picked(family).thinned(share.to(rows.dtype), penalty[family])
        return Start(self.point[family], pairs, margins, gradient, level)


class Run:
    """The models still at work.

    Parameters
    ----------
    rows : Rows
    task : Task
    precondition : Preconditioner
    target : Tensor of shape (m,), int64
    penalty : Tensor of shape (m,)
    keep : Tensor of shape (m, n_folds), bool
        Which folds each model learns from.
    start : Start, optional
        By default no feature counts, and the intercepts are the best without.
    """

    def __init__(
        self,
        rows: Rows,
        task: Task,
        precondition: Preconditioner,
        target: torch.Tensor,
        penalty: torch.Tensor,
        keep: torch.Tensor,
        start: Start | None,
    ) -> None:
        self.rows, self.task, self.precondition = rows, task, precondition
        self.target, self.penalty = target, penalty
        self.members = [torch.nonzero(column)[:, 0] for column in keep.T]
        m, k = len(target), task.loss.outputs
        self.id = torch.arange(m, device=rows.device)
        tallies = torch.stack([self._tally(segment) for segment in rows.segments])
        mass = (keep.double()[:, :, None] * tallies[:, target].transpose(0, 1)).sum(dim=1)
        intercept, self.settled = task.loss.start(mass)
        cold = torch.zeros(m, k, rows.d + 1, dtype=rows.dtype, device=rows.device)
        cold[..., -1] = intercept
        self.point, self.pairs, self.margins = cold, Pairs(), self._even(cold)
        self.bound = self._objective(self.id)
        if start is not None:
            self._begin(start, cold)
        if start is not None and start.gradient is not None and start.level is not None:
            pull, self.level = start.gradient, start.level
        else:
            pull = torch.zeros(cold.shape, dtype=torch.float64, device=rows.device)
            self.level = torch.zeros(m, k, dtype=torch.float64, device=rows.device)
            for segment, members, margins in zip(rows.segments, self.members, self.margins, strict=True):
                first, second = _derivatives(task, rows, segment, margins, target[members])
                pull[members] += first
                self.level[members] += second
        self.pull = pull.to(rows.dtype)
        self.along = [torch.empty_like(each) for each in self.margins]
        self.factors: torch.Tensor | None = None

    def finish(self, tol: float, max_iter: int, keep_margins: bool) -> End:
        """Iterate until all models are done, and gather them."""
        m, device = len(self.id), self.rows.device
        point = torch.zeros_like(self.point)
        margins = [torch.empty_like(each) for each in self.margins] if keep_margins else []
        pairs: list[tuple[torch.Tensor, Pairs]] = []
        objective = torch.zeros(m, dtype=torch.float64, device=device)
        iterations = torch.full((m,), max_iter, device=device)
        converged = torch.zeros(m, dtype=torch.bool, device=device)

        def leave(done: torch.Tensor, step: int, success: bool) -> None:
            ids = self.id[done]
            point[ids], objective[ids] = self.point[done], self._objective(done)
            iterations[ids], converged[ids] = step, success
            pairs.append((ids, self.pairs.picked(done)))
            for kept, each in zip(margins, self.margins, strict=False):  # where kept, all models learn from all folds
                kept[ids] = each[done]

        for step in range(max_iter):
            if step in self._renewals(max_iter) and self._own_hessians():
                self.pairs = Pairs()
            gradient = self.pull + _free(self.penalty[:, None, None] * self.point)
            way = self._inverse(gradient)
            done = self._done(0.5 * dot(gradient, way), tol)
            if done.any():
                leave(torch.nonzero(done)[:, 0], step, True)
                stay = torch.nonzero(~done)[:, 0]
                if not len(stay):
                    break
                self._keep(stay)
                gradient, way = gradient[stay], way[stay]
            self._search(gradient, -way)
        else:
            leave(torch.arange(len(self.id), device=device), max_iter, False)
        return End(point, _gathered(pairs, m), margins, objective, iterations, converged)

    def _tally(self, segment: slice) -> torch.Tensor:
        loss, weights = self.task.loss, self.task.weights
        parts = [loss.tally(weights[:, block], block) for block in self.rows.blocks(segment, 8)]
        return torch.stack(parts).sum(dim=0)

    def _even(self, point: torch.Tensor) -> list[torch.Tensor]:
        """Margins where no feature counts."""
        return [
            point[members, :, -1:].repeat(1, 1, segment.stop - segment.start)
            for members, segment in zip(self.members, self.rows.segments, strict=True)
        ]

    def _begin(self, start: Start, cold: torch.Tensor) -> None:
        """Go to the start; where a model has nothing to learn, or the start is worse than none, stay."""
        even, bound = self.margins, self.bound
        self.point, self.pairs = start.point, start.pairs
        if start.margins is None:
            self.margins = [torch.empty_like(each) for each in even]
            for segment, members, out in zip(self.rows.segments, self.members, self.margins, strict=True):
                for _ in _products(self.rows, segment, self.point[members], out):
                    pass
        else:
            self.margins = start.margins
        self.bound = self._objective(self.id)
        back = self.settled | ~(self.bound < bound) if start.gradient is None else self.settled
        if back.any():
            self.bound = torch.where(back, bound, self.bound)
            self.point = torch.where(back[:, None, None], cold, self.point)
            self.margins = [
                torch.where(back[members][:, None, None], flat, each)
                for members, flat, each in zip(self.members, even, self.margins, strict=True)
            ]
            self.pairs.forget(back)

    def _renewals(self, max_iter: int) -> range:
        """Iterations before which the models left get Hessians of their own: when these cost no more than was spent."""
        k, width = self.point.shape[1:]
        worth = (width - 1) * k // (4 if k == 1 else 8) + ((width - 1) * k) ** 2 // (12 * self.rows.n)
        return range(max(worth, 10), max_iter, max(worth // 8, 4))

    def _own_hessians(self) -> bool:
        """Cholesky factors of each model's Hessian at the present margins, if they fit in memory."""
        m, k, width = self.point.shape
        if m * (k * width) ** 2 * 8 > LARGEST_HESSIANS:
            return False
        loss, rows = self.task.loss, self.rows
        hessians = torch.zeros(m, k, width, k, width, dtype=torch.float64, device=rows.device)
        for fold, segment in enumerate(rows.segments):
            members, margins = self.members[fold].tolist(), self.margins[fold]
            target = self.target[self.members[fold]]
            for block, inside in _inside(rows, segment, len(members) * k):
                weight = rows_of(self.task.weights, target, block)
                whole = loss.bends(margins[..., inside], weight, target, block)
                ones = torch.nn.functional.pad(rows.block(block), (0, 1), value=1.0)
                for i in range(k):
                    for j in range(i + 1):
                        bends = loss.cross(whole, weight, i, j)
                        for place, model in enumerate(members):
                            part = (bends[place, :, None] * ones).T @ ones
                            hessians[model, i, :, j] += part
                            if i != j:
                                hessians[model, j, :, i] += part
        if k > 1:  # Raising all intercepts together changes nothing: give that direction some bend.
            own = hessians[:, :, -1, :, -1]
            own += own.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
        flat = hessians.view(m, k * width, k * width)
        diagonal = flat.diagonal(dim1=1, dim2=2)
        slack = 10 * torch.finfo(rows.dtype).eps * diagonal.amax(dim=1, keepdim=True)
        diagonal += slack.clamp_min(torch.finfo(rows.dtype).tiny)
        diagonal.view(m, k, width)[..., :-1].add_(self.penalty.double()[:, None, None])
        self.factors = torch.linalg.cholesky_ex(flat)[0].to(rows.dtype)
        return True

    def _preconditioned(self, gradient: torch.Tensor) -> torch.Tensor:
        if self.factors is not None:
            return torch.cholesky_solve(gradient.flatten(1)[..., None], self.factors).view_as(gradient)
        level = self.level.to(gradient.dtype)
        z = self.precondition(gradient[..., :-1], level, self.penalty)
        z0 = gradient[..., -1:] / level[..., None].clamp_min(torch.finfo(gradient.dtype).tiny ** 0.5)
        return torch.cat([z, z0], dim=2)

    def _inverse(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient times an approximate inverse Hessian: the preconditioner, corrected by the pairs."""
        z, shares = gradient, []
        for step, change, inverse in self.pairs.latest_first():
            share = (inverse * dot(step, z)).to(z.dtype)[:, None, None]
            z = z - share * change
            shares.append(share)
        z = self._preconditioned(z)
        for step, change, inverse in reversed(list(self.pairs.latest_first())):
            z = z + (shares.pop() - (inverse * dot(change, z)).to(z.dtype)[:, None, None]) * step
        uphill = dot(gradient, z) <= 0
        return torch.where(uphill[:, None, None], self._preconditioned(gradient), z) if uphill.any() else z

    def _done(self, decrement: torch.Tensor, tol: float) -> torch.Tensor:
        """Models whose decrement is small against their objective, which is only worked out where it can matter.

        `bound` holds the objective when it was last worked out; objectives only fall.
        """
        candidates = torch.nonzero(self.settled | (decrement <= tol * self.bound))[:, 0]
        if len(candidates):
            self.bound[candidates] = self._objective(candidates)
        return self.settled | (decrement <= tol * self.bound)

    def _search(self, gradient: torch.Tensor, way: torch.Tensor) -> None:
        """Move along the directions to where little of the slope is left, and renew what is known there."""
        coef, turn = self.point[..., :-1], way[..., :-1]
        penalty = self.penalty.double()
        ridge, ridge2 = penalty * dot(coef, turn), penalty * dot(turn, turn)
        slope0 = dot(gradient, way)
        bend = self._look(way) + ridge2
        at, low, high = torch.zeros_like(slope0), torch.zeros_like(slope0), torch.full_like(slope0, torch.inf)
        move = torch.where(slope0 < 0, -slope0 / bend.clamp_min(1e-300), 0)
        before, last = self.pull, slope0
        self.pull = torch.zeros_like(before)
        active = torch.arange(len(at), device=at.device)
        for _ in range(SEARCHES):
            slope = self._advance(active, move)
            at[active] += move
            slope = slope + ridge[active] + at[active] * ridge2[active]
            low[active] = torch.where(slope < 0, at[active], low[active])
            high[active] = torch.where(slope > 0, torch.minimum(at[active], high[active]), high[active])
            short = slope.abs() > SLOPE_LEFT * slope0[active].abs()
            if not short.any():
                break
            curve = ((slope - last) / move)[short]
            active, slope = active[short], slope[short]
            here, lo, hi = at[active], low[active], high[active]
            aim = torch.where(curve > 0, here - slope / curve, torch.inf)
            middle = torch.where(hi.isinf(), 4 * here, 0.5 * (lo + hi))
            aim = torch.where((aim > lo) & (aim < torch.minimum(hi, 10 * here)), aim, middle)
            move, last = aim - here, slope
        step = at.to(way.dtype)[:, None, None] * way
        self.point = self.point + step
        self.pairs.add(step, self.pull - before + _free(self.penalty[:, None, None] * step))

    def _look(self, way: torch.Tensor) -> torch.Tensor:
        """Change of all margins along the directions; the bend of the loss there, and its level, which is kept."""
        loss = self.task.loss
        total = torch.zeros(len(self.id), dtype=torch.float64, device=way.device)
        self.level = torch.zeros_like(self.level)
        for segment, members, margins, along in zip(
            self.rows.segments, self.members, self.margins, self.along, strict=True
        ):
            target = self.target[members]
            for block, inside in _products(self.rows, segment, way[members], along):
                weight = rows_of(self.task.weights, target, block)
                bends = loss.bends(margins[..., inside], weight, target, block)
                self.level[members] += loss.level(bends, weight).sum(dim=2)
                total[members] += loss.bend(bends, along[..., inside], weight)
        return total

    def _advance(self, active: torch.Tensor, move: torch.Tensor) -> torch.Tensor:
        """Advance the margins of some models, and renew their part of `pull`; the slope of the loss there."""
        k = self.point.shape[1]
        pace = torch.zeros(len(self.id), dtype=self.rows.dtype, device=move.device)
        pace[active] = move.to(pace.dtype)
        chosen = torch.zeros(len(self.id), dtype=torch.bool, device=move.device)
        chosen[active] = True
        whole = len(active) == len(self.id)
        pull = torch.zeros(self.point.shape, dtype=torch.float64, device=move.device)
        slopes = torch.zeros(len(self.id), dtype=torch.float64, device=move.device)
        for fold, (segment, members) in enumerate(zip(self.rows.segments, self.members, strict=True)):
            local = torch.nonzero(chosen[members])[:, 0]
            models = members[local]
            if not len(models):
                continue
            target, speed = self.target[models], pace[models][:, None, None]
            for block, inside in _inside(self.rows, segment, len(models) * k):
                margins, along = self.margins[fold][..., inside], self.along[fold][..., inside]
                if whole:
                    margins.addcmul_(along, speed)
                else:
                    along = along[local]
                    margins = torch.addcmul(margins[local], along, speed)
                    self.margins[fold][local, :, inside] = margins
                weight = rows_of(self.task.weights, target, block)
                residual = self.task.loss.residual(margins, weight, target, block)
                slopes[models] += (residual * along).sum(dim=(1, 2))
                pull[models] += _pull(residual, self.rows.block(block))
        self.pull[active] = pull[active].to(self.pull.dtype)
        return slopes[active]

    def _objective(self, some: torch.Tensor) -> torch.Tensor:
        coef = self.point[some, :, :-1]
        total = 0.5 * self.penalty[some].double() * dot(coef, coef)
        place = torch.full((len(self.id),), -1, device=some.device)
        place[some] = torch.arange(len(some), device=some.device)
        for segment, members, margins in zip(self.rows.segments, self.members, self.margins, strict=True):
            local = torch.nonzero(place[members] >= 0)[:, 0]
            target, into = self.target[members[local]], place[members[local]]
            for block, inside in _inside(self.rows, segment, len(local) * self.point.shape[1]):
                weight = rows_of(self.task.weights, target, block)[:, 0]
                value = self.task.loss.value(margins[local, :, inside], target, block)
                total[into] += (weight * value).sum(dim=1, dtype=torch.float64)
        return total

    def _keep(self, stay: torch.Tensor) -> None:
        place = torch.full((len(self.id),), -1, device=stay.device)
        place[stay] = torch.arange(len(stay), device=stay.device)
        for fold, members in enumerate(self.members):
            local = torch.nonzero(place[members] >= 0)[:, 0]
            self.margins[fold] = self.margins[fold][local]
            self.along[fold] = self.along[fold][: len(local)]
            self.members[fold] = place[members[local]]
        for name in ("id", "target", "penalty", "point", "pull", "level", "settled", "bound"):
            setattr(self, name, getattr(self, name)[stay])
        self.pairs = self.pairs.picked(stay)
        self.factors = None if self.factors is None else self.factors[stay]


def dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Inner product per model, summed in float64."""
    return (a.double() * b.double()).flatten(1).sum(dim=1)


def _free(values: torch.Tensor) -> torch.Tensor:
    """The same without the intercepts, which no penalty holds."""
    values[..., -1] = 0
    return values


def _inside(rows: Rows, segment: slice, columns: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of a fold, counted over all rows and within the fold."""
    for block in rows.blocks(segment, columns):
        yield block, slice(block.start - segment.start, block.stop - segment.start)


def _products(rows: Rows, segment: slice, coef: torch.Tensor, out: torch.Tensor) -> Iterator[tuple[slice, slice]]:
    """Margins of a fold by coefficients, (m, k, d + 1), into `out`; yields each block when it is there."""
    flat = coef.flatten(0, 1)
    weights, intercepts, margins = flat[:, :-1].contiguous(), flat[:, -1:], out.flatten(0, 1)
    for block, inside in _inside(rows, segment, len(flat)):
        if len(flat):
            torch.addmm(intercepts, weights, rows.block(block).T, out=margins[:, inside])
            yield block, inside


def _pull(residual: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    """Gradient of the loss, (m, k, d + 1), by residuals (m, k, r) of rows (r, d)."""
    m, k, _ = residual.shape
    by_features = (residual.flatten(0, 1) @ block).view(m, k, -1)
    return torch.cat([by_features, residual.sum(dim=2, keepdim=True)], dim=2)


def _derivatives(
    task: Task, rows: Rows, segment: slice, margins: torch.Tensor, target: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient of the loss over a fold, (m, k, d + 1), and its bends' level, (m, k), both float64."""
    m, k, _ = margins.shape
    pull = torch.zeros(m, k, rows.d + 1, dtype=torch.float64, device=rows.device)
    level = torch.zeros(m, k, dtype=torch.float64, device=rows.device)
    if not m:
        return pull, level
    for block, inside in _inside(rows, segment, m * k):
        weight = rows_of(task.weights, target, block)
        residual = task.loss.residual(margins[..., inside], weight, target, block)
        pull += _pull(residual, rows.block(block))
        bends = task.loss.bends(margins[..., inside], weight, target, block)
        level += task.loss.level(bends, weight).sum(dim=2)
    return pull, level


def _gathered(parts: list[tuple[torch.Tensor, Pairs]], m: int) -> Pairs:
    """The pairs of models that left one after another, the latest of each last."""
    found = Pairs()
    longest = max((len(pairs.steps) for _, pairs in parts), default=0)
    for age in range(longest, 0, -1):
        having = [(ids, pairs) for ids, pairs in parts if len(pairs.steps) >= age]
        first = having[0][1].steps[-age]
        step = torch.zeros(m, *first.shape[1:], dtype=first.dtype, device=first.device)
        change, inverse = torch.zeros_like(step), torch.zeros(m, dtype=torch.float64, device=first.device)
        for ids, pairs in having:
            step[ids], change[ids], inverse[ids] = pairs.steps[-age], pairs.changes[-age], pairs.inverse[-age]
        found.steps.append(step)
        found.changes.append(change)
        found.inverse.append(inverse)
    return found
