"""What all encoders with a torch network share: batches, types, checks, unit length."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from torch import Tensor, nn

from vecstore.encoders.base import Encoder, unit_rows
from vecstore.encoders.packing import Flow, fast_copy
from vecstore.encoders.placement import Placement
from vecstore.encoders.resize import Fit, FitBySize
from vecstore.errors import EncoderError, PictureError
from vecstore.records import FloatArray, Passport, UInt8Array

MIN_COSINE = {torch.float32: 0.99999, torch.bfloat16: 0.999, torch.float16: 0.999}
"""Least cosine to the plain float32 network at which a faster form of it is used."""

GPU_BATCH = 128

_FAILURES = (RuntimeError, AttributeError, TypeError, NotImplementedError)
"""What a network or a build of torch raises that can't be packed; the plain network is used then."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """How prepared pictures become the network's input.

    Attributes
    ----------
    fit : Fit or FitBySize
    size : tuple of (int, int)
        Height and width that the network is made for.
    mean, std : tuple of float
        Per channel, on a 0 to 1 scale.
    """

    fit: Fit | FitBySize
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def tensor(self, pictures: UInt8Array, device: torch.device) -> Tensor:
        """Pictures of shape (n, height, width, 3), uint8, as float32 (n, 3, height, width) in channels-last memory."""
        values = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float()
        mean = torch.tensor(self.mean, device=device).mul_(255).view(1, 3, 1, 1)
        std = torch.tensor(self.std, device=device).mul_(255).view(1, 3, 1, 1)
        return values.sub_(mean).div_(std)


class TorchEncoder(Encoder):
    """An encoder over a network in float32, which it makes as fast as this machine allows.

    Parameters
    ----------
    network : Module
        float32, on the processor: (n, 3, height, width) to (n, dim). Taken over: don't use it afterwards.
    pixels : Pixels
    placement : Placement
    passport : callable
        Given the length of the vectors.

    Raises
    ------
    EncoderError
        The network does not give one vector per picture, or not finite ones.
    """

    def __init__(
        self, network: nn.Module, pixels: Pixels, placement: Placement, passport: Callable[[int], Passport]
    ) -> None:
        network.eval().requires_grad_(False)
        self._pixels = pixels
        self.batch_size = _batch_size(network) if placement.on_cpu else GPU_BATCH
        network.to(placement.device).to(memory_format=torch.channels_last)
        example = pixels.tensor(_example(pixels.size), placement.device)
        flow = Flow(network, example)
        if flow.output.ndim != 2:
            raise EncoderError(
                f"the network's output has the shape {tuple(flow.output.shape)}",
                expected="one vector per picture: (n, dim)",
                do="choose a model with pooled features",
            )
        with torch.inference_mode():
            self._network, self._placement = _fastest(network, placement, example, flow)
        # float16 ends at 65,504: a picture beyond is computed again in float32, not refused.
        self._exact = network if self._placement.dtype == torch.float16 else None
        self.passport = passport(flow.output.shape[1])
        self.compute = str(self._placement)

    def prepare(self, picture: UInt8Array) -> UInt8Array:
        """Resize and crop; see `Encoder.prepare`."""
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or 0 in picture.shape:
            raise PictureError(
                f"a picture of shape {picture.shape} and type {picture.dtype}",
                expected="shape (height, width, 3) and type uint8",
            )
        return self._pixels.fit(picture)

    def encode(self, prepared: Sequence[UInt8Array]) -> FloatArray:
        """Vectors of unit length; see `Encoder.encode`."""
        vectors = np.empty((len(prepared), self.passport.dim), np.float32)
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for position, picture in enumerate(prepared):
            by_shape.setdefault(picture.shape, []).append(position)
        for positions in by_shape.values():
            for start in range(0, len(positions), self.batch_size):
                some = positions[start : start + self.batch_size]
                vectors[some] = self._forward(np.stack([prepared[i] for i in some]))
        return unit_rows(vectors)

    def _forward(self, pictures: UInt8Array) -> FloatArray:
        with torch.inference_mode():
            pixels = self._pixels.tensor(pictures, self._placement.device)
            made = self._network(pixels.to(self._placement.dtype)).float()
            if self._exact is not None and len(over := torch.nonzero(~made.isfinite().all(dim=1))[:, 0]):
                made[over] = self._exact(pixels[over])
            vectors: FloatArray = made.cpu().numpy()
        return vectors


def _batch_size(network: nn.Module) -> int:
    """Pictures that suit the processor.

    A convolutional network is fastest while its activations stay in the caches (EfficientNet-Lite0, per thread: 145
    pictures per second in batches of 8, 96 in batches of 32); a transformer's matrix products prefer more rows.
    """
    convolutions = sum(isinstance(module, nn.Conv2d) for module in network.modules())
    return min(64, (4 if convolutions > 4 else 16) * max(2, torch.get_num_threads()))


def _fastest(network: nn.Module, placement: Placement, example: Tensor, flow: Flow) -> tuple[nn.Module, Placement]:
    """The fastest form of a network that gives the vectors of the plain one; float32 unless a type was asked for.

    Of the packed and the plain form in the wanted type, the first that passes; else the network as it is.
    """
    dtype = placement.dtype
    # A copy, because rounding can't be undone: the network itself is the fallback.
    plain: Callable[[], nn.Module] = lambda: copy.deepcopy(network).to(dtype)  # noqa: E731
    forms = [plain]
    if placement.on_cpu and dtype != torch.float16 and _packs_rightly(network, example, flow):
        forms.insert(0, lambda: fast_copy(network, flow, dtype))
    for form in forms:
        try:
            made = form()
            got = made(example.to(dtype))
        except _FAILURES:
            continue
        if _cosine(got, flow.output) >= MIN_COSINE[dtype] or (placement.asked and form is plain):
            return made, placement
    return network.float(), Placement(placement.device, torch.float32)


def _packs_rightly(network: nn.Module, example: Tensor, flow: Flow) -> bool:
    """Whether packing keeps what the network computes; asked in float32, where rounding can't hide a mistake."""
    try:
        got = fast_copy(network, flow, torch.float32)(example)
    except _FAILURES:
        return False
    return _cosine(got, flow.output) >= MIN_COSINE[torch.float32]


def _cosine(got: Tensor, expected: Tensor) -> float:
    return F.cosine_similarity(got.float(), expected.float(), dim=1).min().item()


def _example(size: tuple[int, int]) -> UInt8Array:
    """Three pictures to compare forms of a network with: in colour, in grey, and something faint on black."""
    height, width = size
    rows, columns = np.mgrid[0:height, 0:width] / np.array([height, width]).reshape(2, 1, 1)
    disc = (rows - 0.4) ** 2 + (columns - 0.6) ** 2 < 0.06
    texture = 0.5 + 0.5 * np.sin(60 * rows) * np.sin(45 * columns)
    colour = np.stack([rows, 0.7 * columns + 0.3 * disc, texture], axis=-1)
    grey, dark = (np.repeat(one[..., None], 3, axis=-1) for one in (0.6 * disc + 0.4 * texture, 0.4 * disc * texture))
    return (255 * np.stack([colour, grey, dark])).astype(np.uint8)
