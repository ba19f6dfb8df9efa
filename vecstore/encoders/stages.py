"""`+stages`: the middle of a network instead of its end, as an option of every family's names.

`torchvision:resnet50/IMAGENET1K_V2+stages` reads the outputs of a network's stem and stages (of a vision transformer:
of four of its blocks), takes their mean and standard deviation over positions, and puts them side by side. That is the
recipe of the bundled encoder, where it is measured. Another pooling is another passport, so another space.

Convolutional networks: the stem and all stages but the last, which is not computed. Vision transformers: the blocks at
a quarter, a half, three quarters and the end of its depth, without the class token.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vecstore.errors import EncoderError

OPTION = "+stages"


@dataclass(frozen=True, slots=True)
class Stages:
    """Where to read.

    Attributes
    ----------
    paths : tuple of str
        Modules whose outputs are pooled, in the order in which they run.
    prefix : int
        Tokens of a transformer that stand for no position: they are left out.
    """

    paths: tuple[str, ...]
    prefix: int = 0

    def __str__(self) -> str:
        """As the passport has it."""
        return f"mean and std of {', '.join(self.paths)}"


def asked(name: str) -> tuple[str, bool]:
    """A name without the option, and whether it had it.

    >>> asked("timm:resnet18+stages"), asked("timm:resnet18")
    (('timm:resnet18', True), ('timm:resnet18', False))
    """
    return name.removesuffix(OPTION), name.endswith(OPTION)


def quarters(path: str, depth: int) -> tuple[str, ...]:
    """Paths of the blocks at a quarter, a half, three quarters and the end.

    >>> quarters("blocks", 12)
    ('blocks.2', 'blocks.5', 'blocks.8', 'blocks.11')
    """
    return tuple(f"{path}.{place}" for place in sorted({max(0, -(-depth * k // 4) - 1) for k in (1, 2, 3, 4)}))


def unknown(name: str, known: str) -> EncoderError:
    """What is raised where a network's stages are not known."""
    return EncoderError(
        f"the stages of {name.removesuffix(OPTION)} are not known",
        expected=known,
        do=f"leave {OPTION} out: the vector is then what the network itself pools",
    )


class _Enough(Exception):
    """The last output that is read was made."""


class _Watch:
    """A hook that keeps what a module gives; copied with its network, it watches the copy."""

    def __init__(self, prefix: int, last: bool) -> None:
        self._prefix, self._last = prefix, last
        self.seen: list[Tensor] = []

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.seen = moments(output[0] if isinstance(output, tuple) else output, self._prefix)
        if self._last:
            raise _Enough


class PooledOutputs(nn.Module):
    """Mean and standard deviation over positions of several modules' outputs, side by side.

    Parameters
    ----------
    network : Module
        From pictures; what it returns is not used, and what follows the last stage is not computed.
    stages : Stages
    """

    def __init__(self, network: nn.Module, stages: Stages) -> None:
        super().__init__()
        self.network = network
        self._watches = [_Watch(stages.prefix, path == stages.paths[-1]) for path in stages.paths]
        for path, watch in zip(stages.paths, self._watches, strict=True):
            network.get_submodule(path).register_forward_hook(watch)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, height, width) to (n, dim), float32.

        Raises
        ------
        RuntimeError
            The network no longer runs a module that is read.
        """
        for watch in self._watches:
            watch.seen = []
        with suppress(_Enough):
            self.network(x)
        parts = [watch.seen for watch in self._watches]
        if not all(parts):
            raise RuntimeError("a stage of the network did not run")
        return torch.cat([moment for part in parts for moment in part], 1)


def moments(x: Tensor, prefix: int = 0) -> list[Tensor]:
    """Mean and standard deviation per channel, in float32 whatever the type of `x`.

    Parameters
    ----------
    x : Tensor of shape (n, channels, height, width), or (n, tokens, channels)
    prefix : int
        Tokens to leave out at the beginning.
    """
    x = x.float()
    over = [2, 3] if x.ndim == 4 else [1]
    if x.ndim == 3 and prefix:
        x = x[:, prefix:]
    mean = x.mean(over)
    # E[x²] − μ² may come out slightly negative where all positions are equal.
    return [mean, x.square().mean(over).sub_(mean.square()).clamp_min_(0).sqrt_()]
