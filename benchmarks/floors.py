"""What a score has to beat: pixels as they are, networks with random weights, shuffled labels, metadata alone.

The first two are encoders, registered as a third party would, so that they go the same way as any other:
`floor:pixels`, `floor:random` (the bundled network with random weights). `floor:last` and `floor:mirrored` are the
bundled weights under another recipe.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

import vecstore as vs
from vecstore.dataset.known import known_features
from vecstore.encoders.base import Encoder, unit_rows
from vecstore.encoders.bundled import ARCHITECTURE, PIXELS, PooledStages, _package_file
from vecstore.encoders.placement import place
from vecstore.encoders.resize import Fit
from vecstore.encoders.torch_encoder import TorchEncoder
from vecstore.encoders.weights import load_state, read_state
from vecstore.errors import UsageError
from vecstore.files import sha256_file
from vecstore.records import DoubleArray, FloatArray, Passport, UInt8Array

SIDE = 32


class Pixels(Encoder):
    """A picture of 32 × 32 pixels as a vector, minus middle grey."""

    compute = "float32 on cpu"
    batch_size = 256

    def __init__(self) -> None:
        self._fit = Fit("squash", (SIDE, SIDE), interpolation="bicubic")
        self.passport = _plain("floor:pixels", "pixels", str(self._fit), (SIDE, SIDE), 3 * SIDE * SIDE)

    def prepare(self, picture: UInt8Array) -> UInt8Array:
        """Resize."""
        return self._fit(picture)

    def encode(self, prepared: Sequence[UInt8Array]) -> FloatArray:
        """Flatten."""
        values = np.stack(prepared).reshape(len(prepared), -1).astype(np.float32)
        return unit_rows(values / 127.5 - 1)


class _Last(nn.Module):
    """The last layer's mean: what everyone takes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.network(x)
        return made


class _Mirrored(nn.Module):
    """Vectors of a picture and its mirror image, each of unit length, added."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        both = (nn.functional.normalize(self.network(picture).float()) for picture in (x, x.flip(-1)))
        return next(both) + next(both)


def make(name: str, weights: Path | None, device: str | None, compute: str | None) -> Encoder:
    """Open a floor; as `vecstore.encoders` wants it."""
    kind = name.partition(":")[2]
    if kind == "pixels":
        return Pixels()
    if kind not in ("random", "last", "mirrored"):
        raise UsageError(f"no floor {name!r}", expected="floor:pixels, floor:random, floor:last or floor:mirrored")
    torch.manual_seed(0)
    network = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=1000 if kind != "last" else 0)
    digest = "random, seed 0"
    if kind != "random":
        file = _package_file()
        digest = sha256_file(file)
        own = timm.create_model(ARCHITECTURE, pretrained=False)
        state = dict(zip(own.state_dict(), read_state(file).values(), strict=True))
        load_state(network, state, file, lambda key: kind == "last" and key.startswith("classifier."))
    form: nn.Module = _Last(network) if kind == "last" else PooledStages(network)
    form = _Mirrored(form) if kind == "mirrored" else form
    passport = _plain(name, ARCHITECTURE, str(PIXELS.fit), PIXELS.size, 0)
    return TorchEncoder(
        form, PIXELS, place(device, compute), lambda dim: replace(passport, dim=dim, weights_sha256=digest)
    )


def _plain(name: str, model: str, resize: str, size: tuple[int, int], dim: int) -> Passport:
    grey = (0.5, 0.5, 0.5)
    return Passport(name, "benchmarks", model, "none", "", "", size, resize, grey, grey, name, dim)


def register() -> None:
    """Make `floor:` names known, by an entry point in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="floors-"))
    about = folder / "vecstore_floors-0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: vecstore-floors\nVersion: 0\n", encoding="utf-8")
    (about / "entry_points.txt").write_text("[vecstore.encoders]\nfloor = floors:make\n", encoding="utf-8")
    sys.path.append(str(folder))


def random_weights(name: str, folder: Path) -> Path:
    """A file with random weights for an encoder's architecture (seed 0), for `--weights`.

    Parameters
    ----------
    name : str
        "torchvision:ARCH…", "timm:ARCH…" or "open_clip:ARCH…".
    folder : Path
    """
    family, _, rest = name.partition(":")
    architecture = rest.partition("+")[0].partition("/")[0]
    torch.manual_seed(0)
    if family == "torchvision":
        network = torchvision.models.get_model(architecture, weights=None)
    elif family == "timm":
        network = timm.create_model(architecture.partition(".")[0], pretrained=False)
    elif family == "open_clip":
        import open_clip  # takes seconds

        network = open_clip.create_model(architecture, pretrained=None)
    else:
        raise UsageError(f"no random weights for {name!r}", expected="a torchvision, timm or open_clip encoder")
    path = folder / f"random-{family}-{architecture}.safetensors"
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path)
    return path


def shuffled(data: vs.Dataset, seed: int = 0) -> npt.NDArray[np.generic]:
    """Labels dealt to other groups: within the development part, and within the test part where there is one.

    Each group takes the labels of another, in order and over again where it is larger, so that the labels of a group
    still go together as patients' do.
    """
    rng = np.random.default_rng(seed)
    y = data.y.copy()
    for part in (data.test, ~data.test):
        groups = np.unique(data.groups[part])
        for group, giver in zip(groups.tolist(), rng.permutation(groups).tolist(), strict=True):
            taker = np.flatnonzero((data.groups == group) & part)
            given = np.flatnonzero((data.groups == giver) & part)
            y[taker] = data.y[np.resize(given, len(taker))]
    return y


def metadata(store: vs.Store, data: vs.Dataset, known: Sequence[str]) -> tuple[DoubleArray, list[str]]:
    """What is known of pictures beside their pixels, as a matrix: numbers, one column per word, and what is missing.

    Returns
    -------
    ndarray of shape (n, n_features), float64
    list of str
        What the columns were made of.
    """
    return known_features(store, data.items, data.contents, known)
