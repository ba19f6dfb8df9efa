"""Losses of the sweep: values, first and second derivatives of many models' margins at once.

Shapes: m models, k outputs per model, r rows of a block. `weight` is (m or 1, 1, r); `bends` is what a loss keeps of
its second derivative, weights included.
"""

from __future__ import annotations

from copy import copy
from typing import Protocol, Self

import torch
from torch.nn.functional import softplus


class Loss(Protocol):
    """What the sweep asks of a loss."""

    outputs: int
    """Margins per model and row: 1, or the number of classes."""

    def picked(self, places: torch.Tensor) -> Loss:
        """The same loss over some of the rows."""

    def tally(self, weights: torch.Tensor, block: slice) -> torch.Tensor:
        """Weight of each side of each target, (n_targets, sides), float64, for weights (n_targets or 1, r)."""

    def start(self, mass: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Best intercepts without any feature, (m, k), the loss there, and which models have nothing to learn, (m,)."""

    def derivatives(
        self, margins: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, block: slice
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted first derivative by margin, and bends, both (m, k, r)."""

    def level(self, bends: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Diagonal of the second derivative by margin, (m, k, r)."""

    def cross(self, bends: torch.Tensor, weight: torch.Tensor, i: int, j: int) -> torch.Tensor:
        """Second derivative by the margins of outputs i and j, (m, r)."""

    def value(self, margins: torch.Tensor, target: torch.Tensor, block: slice) -> torch.Tensor:
        """Loss per row without its weight, (m, r)."""


def rows_of(values: torch.Tensor, which: torch.Tensor, block: slice) -> torch.Tensor:
    """A row of values per model, (m, 1, r); where all models share one it is not repeated, (1, 1, r)."""
    part = values[:, block]
    return part[None] if len(part) == 1 else part.index_select(0, which)[:, None, :]


class _Signed:
    """Losses of target × margin, the target being 1 or -1."""

    outputs = 1

    def __init__(self, targets: torch.Tensor, dtype: torch.dtype) -> None:
        self._sign = targets.to(dtype).mul_(2).sub_(1)

    def picked(self, places: torch.Tensor) -> Self:
        other = copy(self)
        other._sign = self._sign[:, places]
        return other

    def _signs(self, target: torch.Tensor, block: slice) -> torch.Tensor:
        return rows_of(self._sign, target, block)

    def tally(self, weights: torch.Tensor, block: slice) -> torch.Tensor:
        sign = self._sign[:, block]
        return torch.stack([(weights * (sign < 0)).double().sum(dim=1), (weights * (sign > 0)).double().sum(dim=1)], 1)

    def level(self, bends: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return bends

    def cross(self, bends: torch.Tensor, weight: torch.Tensor, i: int, j: int) -> torch.Tensor:
        return bends[:, 0]


class Logistic(_Signed):
    """log(1 + exp(-target × margin))."""

    def start(self, mass: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        negative, positive = mass[:, 0], mass[:, 1]
        least = (1e-6 * (positive + negative)).clamp_min(torch.finfo(torch.float64).tiny)
        # With one side only the best intercept is infinite.
        one_side = (positive <= 0) | (negative <= 0)
        at = (positive.maximum(least) / negative.maximum(least)).log()
        return at[:, None], positive * softplus(-at) + negative * softplus(at), one_side

    def derivatives(
        self, margins: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, block: slice
    ) -> tuple[torch.Tensor, torch.Tensor]:
        against = -self._signs(target, block)
        # The chance of being wrong keeps its relative precision where it is tiny; 1 - chance of being right would not.
        wrong = torch.mul(margins, against).sigmoid_()
        bends = torch.addcmul(wrong, wrong, wrong, value=-1).mul_(weight)
        return wrong.mul_(against * weight), bends

    def value(self, margins: torch.Tensor, target: torch.Tensor, block: slice) -> torch.Tensor:
        return softplus((margins * -self._signs(target, block))[:, 0])


class SquaredHinge(_Signed):
    """max(0, 1 - target × margin)²."""

    def start(self, mass: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        negative, positive = mass[:, 0], mass[:, 1]
        total = (positive + negative).clamp_min(torch.finfo(torch.float64).tiny)
        at = (positive - negative) / total
        loss = positive * (1 - at) ** 2 + negative * (1 + at) ** 2
        return at[:, None], loss, (positive <= 0) | (negative <= 0)

    def derivatives(
        self, margins: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, block: slice
    ) -> tuple[torch.Tensor, torch.Tensor]:
        sign = self._signs(target, block)
        short = (1 - margins * sign).clamp_min_(0)
        bends = (short > 0) * (2 * weight)
        return short.mul_(-2 * weight * sign), bends

    def value(self, margins: torch.Tensor, target: torch.Tensor, block: slice) -> torch.Tensor:
        return (1 - (margins * self._signs(target, block))[:, 0]).clamp_min(0) ** 2


class Softmax:
    """Cross-entropy of the softmax over a model's outputs; `bends` holds weight × probability."""

    def __init__(self, targets: torch.Tensor, dtype: torch.dtype) -> None:
        self._classes = targets[0].long()
        self._dtype = dtype
        self.outputs = int(self._classes.max()) + 1

    def picked(self, places: torch.Tensor) -> Self:
        other = copy(self)
        other._classes = self._classes[places]
        return other

    def _hot(self, block: slice) -> torch.Tensor:
        """(k, r): 1 for the class of each row."""
        classes = self._classes[None, block]
        hot = torch.zeros(self.outputs, classes.shape[1], dtype=self._dtype, device=classes.device)
        return hot.scatter_(0, classes, 1)

    def tally(self, weights: torch.Tensor, block: slice) -> torch.Tensor:
        return weights.double() @ self._hot(block).double().T

    def start(self, mass: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        logs = mass.maximum(1e-6 * mass.sum(dim=1, keepdim=True)).log()
        loss = (mass * (logs.logsumexp(dim=1, keepdim=True) - logs)).sum(dim=1)
        return logs - logs.mean(dim=1, keepdim=True), loss, torch.zeros_like(loss, dtype=torch.bool)

    def derivatives(
        self, margins: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, block: slice
    ) -> tuple[torch.Tensor, torch.Tensor]:
        share = margins.softmax(dim=1)
        return (share - self._hot(block)).mul_(weight), share.mul_(weight)

    def level(self, bends: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.addcmul(bends, bends, bends * _inverse(weight), value=-1)

    def cross(self, bends: torch.Tensor, weight: torch.Tensor, i: int, j: int) -> torch.Tensor:
        both = bends[:, i] * bends[:, j] * _inverse(weight)[:, 0]
        return bends[:, i] - both if i == j else -both

    def value(self, margins: torch.Tensor, target: torch.Tensor, block: slice) -> torch.Tensor:
        picked = margins.gather(1, self._classes[block].expand(len(margins), 1, -1))[:, 0]
        return margins.logsumexp(dim=1) - picked


def _inverse(weight: torch.Tensor) -> torch.Tensor:
    """1 / weight, and 0 for rows that do not count."""
    return torch.where(weight > 0, 1 / weight, 0)


LOSSES: dict[str, type[Logistic] | type[SquaredHinge] | type[Softmax]] = {
    "logistic": Logistic,
    "squared_hinge": SquaredHinge,
    "softmax": Softmax,
}
