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
SLOPE_LEFT = 0.6  # a line search ends when this share of the slope is left: tighter costs more than it saves
SEARCHES = 30
FLAT = 1e-8  # second derivative per weight of a row, below which a model counts as having that much
WORSE = 1.02  # of the loss without features: a start from there on is not taken


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


@dataclass(slots=True)
class Fold:
    """What is known of the rows of a fold, for the models that learn from it.

    Attributes
    ----------
    members : Tensor of shape (b,), int64
        Their places among the models still at work.
    margins : Tensor of shape (b, k, n_rows)
    pull : Tensor of shape (b, k, d + 1)
        Gradient of the loss over the rows.
    level : Tensor of shape (b, k), float64
        Second derivative of the loss by each margin, summed over the rows.
    """

    members: torch.Tensor
    margins: torch.Tensor
    pull: torch.Tensor
    level: torch.Tensor

    def picked(self, which: torch.Tensor, members: torch.Tensor) -> Fold:
        """Of some of the members, with new places."""
        return Fold(members, self.margins[which], self.pull[which], self.level[which])


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run begins; with `folds` and `objective`, at most, where all is known already."""

    point: torch.Tensor
    pairs: Pairs
    folds: list[Fold] | None = None
    objective: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class End:
    """Where the models of a run came out; all of them as members of each fold, if folds were to be kept."""

    point: torch.Tensor
    pairs: Pairs
    folds: list[Fold]
    objective: torch.Tensor
    iterations: torch.Tensor
    converged: torch.Tensor

    def by_folds(self, penalty: torch.Tensor, family: torch.Tensor, keep: torch.Tensor) -> Start:
        """The start of models that leave out folds: where the model with all came out, gradients known by fold.

        Parameters
        ----------
        penalty : Tensor of shape (n_families,)
        family : Tensor of shape (m,), int64
            Which model of this run each starts from.
        keep : Tensor of shape (m, n_folds), bool
        """
        folds = []
        for fold, kept in zip(self.folds, keep.T, strict=True):
            members = torch.nonzero(kept)[:, 0]
            folds.append(fold.picked(family[members], members))
        level = torch.stack([fold.level.sum(dim=1) for fold in self.folds])
        total = level.sum(dim=0).clamp_min(torch.finfo(torch.float64).tiny)
        share = (level[:, family] * keep.T).sum(dim=0) / total[family]
        pairs = self.pairs.picked(family).thinned(share.to(self.point.dtype), penalty[family])
        return Start(self.point[family], pairs, folds, self.objective[family])


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
        self.folds: list[Fold] = []
        self.target, self.penalty = target, penalty
        self.id = torch.arange(len(target), device=rows.device)
        tallies = torch.stack([self._tally(segment) for segment in rows.segments])
        mass = (keep.double()[:, :, None] * tallies[:, target].transpose(0, 1)).sum(dim=1)
        intercept, objective, self.settled = task.loss.start(mass)
        cold = torch.zeros(*intercept.shape, rows.d + 1, dtype=rows.dtype, device=rows.device)
        cold[..., -1] = intercept
        self.point, self.pairs, self.bound = cold, Pairs(), objective
        self.least = (FLAT * mass.sum(dim=1)).clamp_min(torch.finfo(rows.dtype).tiny ** 0.5)
        if start is None:
            self._begin(cold, keep)
        else:
            self.point, self.pairs = start.point, start.pairs
            if start.folds is None or start.objective is None:
                found = self._begin(start.point, keep)
                back = self.settled | (found > WORSE * objective)
                self.bound = torch.where(back, objective, found)
            else:
                self.folds, back = start.folds, self.settled
                self.bound = start.objective
            if back.any():
                self.pairs.forget(back)
                self.point = torch.where(back[:, None, None], cold, self.point)
                self._begin(self.point, keep)
        self._renew()
        self.along = [torch.empty_like(fold.margins) for fold in self.folds]
        self.factors: torch.Tensor | None = None

    def finish(self, tol: float, max_iter: int, keep_folds: bool) -> End:
        """Iterate until all models are done, and gather them."""
        m, device = len(self.id), self.rows.device
        point = torch.zeros_like(self.point)
        everyone = torch.arange(m, device=device)
        # Where folds are kept, all models learn from all of them.
        folds = [fold.picked(everyone, everyone) for fold in self.folds] if keep_folds else []
        pairs: list[tuple[torch.Tensor, Pairs]] = []
        objective = torch.zeros(m, dtype=torch.float64, device=device)
        iterations = torch.full((m,), max_iter, device=device)
        converged = torch.zeros(m, dtype=torch.bool, device=device)

        def leave(done: torch.Tensor, step: int, success: bool) -> None:
            ids = self.id[done]
            point[ids], objective[ids] = self.point[done], self.bound[done]
            iterations[ids], converged[ids] = step, success
            pairs.append((ids, self.pairs.picked(done)))
            for kept, fold in zip(folds, self.folds, strict=False):
                kept.margins[ids], kept.pull[ids], kept.level[ids] = (
                    fold.margins[done],
                    fold.pull[done],
                    fold.level[done],
                )

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
        return End(point, _gathered(pairs, m), folds, objective, iterations, converged)

    def _tally(self, segment: slice) -> torch.Tensor:
        loss, weights = self.task.loss, self.task.weights
        parts = [loss.tally(weights[:, block], block) for block in self.rows.blocks(segment, 8)]
        return torch.stack(parts).sum(dim=0)

    def _begin(self, point: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        """Work out all folds at a point, in one pass; the objective there."""
        loss, rows, k = self.task.loss, self.rows, point.shape[1]
        coef = point[..., :-1]
        total = 0.5 * self.penalty.double() * dot(coef, coef)
        even = not coef.any()
        self.folds = []
        for segment, kept in zip(rows.segments, keep.T, strict=True):
            members = torch.nonzero(kept)[:, 0]
            size, chosen, target = segment.stop - segment.start, point[members], self.target[members]
            margins = torch.empty(len(members), k, size, dtype=rows.dtype, device=rows.device)
            pull = torch.zeros(chosen.shape, dtype=torch.float64, device=rows.device)
            level = torch.zeros(chosen.shape[:2], dtype=torch.float64, device=rows.device)
            if even:
                margins.copy_(chosen[:, :, -1:].expand_as(margins))
            for block, inside in _inside(rows, segment, len(members) * k):
                features = rows.block(block)
                if not even:
                    _product(features, chosen, margins[..., inside])
                part = margins[..., inside]
                weight = rows_of(self.task.weights, target, block)
                residual, bends = loss.derivatives(part, weight, target, block)
                pull += _pull(residual, features)
                level += loss.level(bends, weight).sum(dim=2)
                if not even:
                    value = loss.value(part, target, block)
                    total[members] += (weight[:, 0] * value).sum(dim=1, dtype=torch.float64)
            self.folds.append(Fold(members, margins, pull.to(rows.dtype), level))
        return total

    def _renew(self) -> None:
        """Gradient of the loss and level of all folds together."""
        self.pull, self.level = torch.zeros_like(self.point), torch.zeros_like(self.point[..., 0], dtype=torch.float64)
        for fold in self.folds:
            self.pull[fold.members] += fold.pull
            self.level[fold.members] += fold.level

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
        for fold, segment in zip(self.folds, rows.segments, strict=True):
            members, target = fold.members.tolist(), self.target[fold.members]
            for block, inside in _inside(rows, segment, len(members) * k):
                weight = rows_of(self.task.weights, target, block)
                _, whole = loss.derivatives(fold.margins[..., inside], weight, target, block)
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
        diagonal.view(m, k, width)[..., -1].add_(self.least[:, None])
        self.factors = torch.linalg.cholesky_ex(flat)[0].to(rows.dtype)
        return True

    def _preconditioned(self, gradient: torch.Tensor) -> torch.Tensor:
        if self.factors is not None:
            return torch.cholesky_solve(gradient.flatten(1)[..., None], self.factors).view_as(gradient)
        level = self.level.maximum(self.least[:, None]).to(gradient.dtype)
        z = self.precondition(gradient[..., :-1], level, self.penalty)
        return torch.cat([z, gradient[..., -1:] / level[..., None]], dim=2)

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
        """Move along the directions to where no more than `SLOPE_LEFT` of the slope is left, and renew the folds."""
        coef, turn = self.point[..., :-1], way[..., :-1]
        penalty = self.penalty.double()
        ridge, ridge2 = penalty * dot(coef, turn), penalty * dot(turn, turn)
        slope0 = dot(gradient, way)
        at, low, high = torch.zeros_like(slope0), torch.zeros_like(slope0), torch.full_like(slope0, torch.inf)
        before, last = self.pull, slope0
        active, move = torch.arange(len(at), device=at.device), torch.ones_like(slope0)
        for attempt in range(SEARCHES):
            slope = self._advance(active, move, way if not attempt else None)
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
        self._renew()
        step = at.to(way.dtype)[:, None, None] * way
        self.point = self.point + step
        self.pairs.add(step, self.pull - before + _free(self.penalty[:, None, None] * step))

    def _advance(self, active: torch.Tensor, move: torch.Tensor, way: torch.Tensor | None) -> torch.Tensor:
        """Advance the margins of some models, and renew their gradients by fold; the slope of the loss there.

        With new directions, of all models, the change of the margins along them is worked out in the same pass.
        """
        k = self.point.shape[1]
        place = self._places(active)
        slopes = torch.zeros_like(move)
        for segment, fold, along in zip(self.rows.segments, self.folds, self.along, strict=True):
            local = torch.nonzero(place[fold.members] >= 0)[:, 0]
            models = fold.members[local]
            into = place[models]
            target, speed = self.target[models], move[into].to(along.dtype)[:, None, None]
            pull = torch.zeros(len(local), *self.point.shape[1:], dtype=torch.float64, device=move.device)
            level = torch.zeros(len(local), k, dtype=torch.float64, device=move.device)
            chosen = None if way is None else way[models]
            for block, inside in _inside(self.rows, segment, len(local) * k):
                features = self.rows.block(block)
                if chosen is not None:
                    margins, change = fold.margins[..., inside], along[..., inside]
                    _product(features, chosen, change)
                    margins.addcmul_(change, speed)
                else:
                    change = along[local, :, inside]
                    margins = torch.addcmul(fold.margins[local, :, inside], change, speed)
                    fold.margins[local, :, inside] = margins
                weight = rows_of(self.task.weights, target, block)
                residual, bends = self.task.loss.derivatives(margins, weight, target, block)
                level += self.task.loss.level(bends, weight).sum(dim=2)
                pull += _pull(residual, features)
                slopes[into] += residual.mul_(change).sum(dim=(1, 2))
            fold.pull[local], fold.level[local] = pull.to(fold.pull.dtype), level
        return slopes

    def _objective(self, some: torch.Tensor) -> torch.Tensor:
        coef = self.point[some, :, :-1]
        total = 0.5 * self.penalty[some].double() * dot(coef, coef)
        place = self._places(some)
        for segment, fold in zip(self.rows.segments, self.folds, strict=True):
            local = torch.nonzero(place[fold.members] >= 0)[:, 0]
            target, into = self.target[fold.members[local]], place[fold.members[local]]
            for block, inside in _inside(self.rows, segment, len(local) * self.point.shape[1]):
                weight = rows_of(self.task.weights, target, block)[:, 0]
                value = self.task.loss.value(fold.margins[local, :, inside], target, block)
                total[into] += (weight * value).sum(dim=1, dtype=torch.float64)
        return total

    def _places(self, some: torch.Tensor) -> torch.Tensor:
        """Where each model is among some of them; -1 elsewhere."""
        place = torch.full((len(self.id),), -1, device=some.device)
        place[some] = torch.arange(len(some), device=some.device)
        return place

    def _keep(self, stay: torch.Tensor) -> None:
        place = self._places(stay)
        for number, fold in enumerate(self.folds):
            local = torch.nonzero(place[fold.members] >= 0)[:, 0]
            self.folds[number] = fold.picked(local, place[fold.members[local]])
            self.along[number] = self.along[number][: len(local)]
        for name in ("id", "target", "penalty", "point", "pull", "level", "settled", "bound", "least"):
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
    """Blocks of a fold, counted over all rows and within the fold; none for no columns."""
    for block in rows.blocks(segment, columns) if columns else ():
        yield block, slice(block.start - segment.start, block.stop - segment.start)


def _product(features: torch.Tensor, coef: torch.Tensor, out: torch.Tensor) -> None:
    """Margins (m, k, r) of rows (r, d) by coefficients (m, k, d + 1)."""
    flat = coef.flatten(0, 1)
    torch.addmm(flat[:, -1:], flat[:, :-1], features.T, out=out.flatten(0, 1))


def _pull(residual: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    """Gradient of the loss, (m, k, d + 1), by residuals (m, k, r) of rows (r, d)."""
    m, k, _ = residual.shape
    by_features = (residual.flatten(0, 1) @ block).view(m, k, -1)
    return torch.cat([by_features, residual.sum(dim=2, keepdim=True)], dim=2)


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
