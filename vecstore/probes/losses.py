"""Losses of the sweep: values, first and second derivatives of many models' margins at once.

Shapes: m models, k outputs per model, b rows. `bends` is what a loss keeps of its second derivative, weights included.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch.nn.functional import softplus


class Loss(Protocol):
    """What the sweep asks of a loss."""

    outputs: int
    """Margins per model and row: 1, or the number of classes."""

    def start(
        self, weights: torch.Tensor, which: torch.Tensor, target: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Best intercepts without any feature, (m, k), and which models have nothing more to learn, (m,)."""

    def derivatives(
        self, margins: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, block: slice
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weighted first derivative by margin and bends, both (m, k, b), for weights (m, 1, b)."""

    def level(self, bends: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Diagonal of the second derivative by margin, (m, k, b)."""

    def cross(self, bends: torch.Tensor, weight: torch.Tensor, i: int, j: int) -> torch.Tensor:
        """Second derivative by the margins of outputs i and j, (m, b)."""

    def bend(self, bends: torch.Tensor, along: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Second derivative along a direction of the margins, summed over rows, (m,)."""

    def value(self, margins: torch.Tensor, target: torch.Tensor, block: slice) -> torch.Tensor:
        """Loss per row without its weight, (m, b)."""


class _Signed:
    """Losses of target × margin, the target being 1 or -1."""

    outputs = 1

    def __init__(self, targets: torch.Tensor, dtype: torch.dtype) -> None:
        self._sign = (2 * targets - 1).to(dtype)

    def _signs(self, target: torch.Tensor, block: slice) -> torch.Tensor:
        return self._sign[:, block].index_select(0, target)[:, None, :]

    def _sides(
        self, weights: torch.Tensor, which: torch.Tensor, target: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight of positives and of negatives per model."""
        sums = weights.double() @ (self._sign.double().T + 1) / 2
        positive = sums[which, target]
        return positive, weights.double().sum(dim=1)[which] - positive

    def level(self, bends: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return bends

    def cross(self, bends: torch.Tensor, weight: torch.Tensor, i: int, j: int) -> torch.Tensor:
        return bends[:, 0]

    def bend(self, bends: torch.Tensor, along: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return (bends * along * along).sum(dim=(1, 2)).double()


class Logistic(_Signed):
    """log(1 + exp(-target × margin))."""

    def start(
        self, weights: torch.Tensor, which: torch.Tensor, target: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        positive, negative = self._sides(weights, which, target)
        least = (1e-6 * (positive + negative)).clamp_min(torch.finfo(torch.float64).tiny)
        # With one side only the best intercept is infinite.
        one_side = (positive <= 0) | (negative <= 0)
        return (positive.maximum(least) / negative.maximum(least)).log()[:, None], one_side

    def derivatives(
        self, margins: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, block: slice
    ) -> tuple[torch.Tensor, torch.Tensor]:
        sign = self._signs(target, block)
        # The chance of being wrong keeps its relative precision where it is tiny; 1 - chance of being right would not.
        wrong = torch.mul(margins, sign).neg_().sigmoid_()
        weighted = wrong * weight
        bends = torch.addcmul(weighted, weighted, wrong, value=-1)
        return weighted.mul_(sign).neg_(), bends

    def value(self, margins: torch.Tensor, target: torch.Tensor, block: slice) -> torch.Tensor:
        return softplus(-margins[:, 0] * self._signs(target, block)[:, 0])


class SquaredHinge(_Signed):
    """max(0, 1 - target × margin)²."""

    def start(
        self, weights: torch.Tensor, which: torch.Tensor, target: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        positive, negative = self._sides(weights, which, target)
        total = (positive + negative).clamp_min(torch.finfo(torch.float64).tiny)
        return ((positive - negative) / total)[:, None], (positive <= 0) | (negative <= 0)

    def derivatives(
        self, margins: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, block: slice
    ) -> tuple[torch.Tensor, torch.Tensor]:
        sign = self._signs(target, block)
        short = (1 - margins * sign).clamp_min_(0)
        bends = 2 * weight * (short > 0)
        return short.mul_(-2 * weight).mul_(sign), bends

    def value(self, margins: torch.Tensor, target: torch.Tensor, block: slice) -> torch.Tensor:
        return (1 - margins[:, 0] * self._signs(target, block)[:, 0]).clamp_min(0) ** 2


class Softmax:
    """Cross-entropy of the softmax over a model's outputs; `bends` holds weight × probability."""

    def __init__(self, targets: torch.Tensor, dtype: torch.dtype) -> None:
        self._classes = targets[0].long()
        self.outputs = int(self._classes.max()) + 1
        self._hot = torch.nn.functional.one_hot(self._classes, self.outputs).T.contiguous().to(dtype)

    def start(
        self, weights: torch.Tensor, which: torch.Tensor, target: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mass = weights.double() @ self._hot.double().T
        logs = mass.maximum(1e-6 * mass.sum(dim=1, keepdim=True)).log()
        return (logs - logs.mean(dim=1, keepdim=True))[which], torch.zeros(len(which), dtype=torch.bool)

    def derivatives(
        self, margins: torch.Tensor, weight: torch.Tensor, target: torch.Tensor, block: slice
    ) -> tuple[torch.Tensor, torch.Tensor]:
        share = margins.softmax(dim=1)
        return (share - self._hot[:, block]).mul_(weight), share * weight

    def level(self, bends: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return bends - bends * bends * _inverse(weight)

    def cross(self, bends: torch.Tensor, weight: torch.Tensor, i: int, j: int) -> torch.Tensor:
        both = bends[:, i] * bends[:, j] * _inverse(weight)[:, 0]
        return bends[:, i] - both if i == j else -both

    def bend(self, bends: torch.Tensor, along: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        first = bends * along
        mean = first.sum(dim=1)
        spread = (first * along).sum(dim=1) - mean * mean * _inverse(weight)[:, 0]
        return spread.double().sum(dim=1)

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
