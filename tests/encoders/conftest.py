"""Small networks with random weights, saved to disk and opened through the real loading code."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import nn

from vecstore.encoders import open_encoder
from vecstore.encoders.base import Encoder
from vecstore.records import UInt8Array

TINY_CLIP = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 64, "layers": 3, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@dataclass(frozen=True)
class Case:
    """One family: how to open it, how to open it with other weights, and what its vectors are like."""

    name: str
    dim: int
    weights: Path | None = None
    other: dict[str, Any] = field(default_factory=dict)

    def open(self, **options: Any) -> Encoder:
        """On the processor unless told otherwise."""
        return open_encoder(self.name, **{"weights": self.weights, "device": "cpu", **options})


def shaken(network: nn.Module, seed: int) -> nn.Module:
    """Batch norms that do something, as after training; a fresh one is the identity."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            for values, low, high in (
                (module.weight, 0.7, 1.3),
                (module.bias, -0.2, 0.2),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 1.5),
            ):
                values.data.uniform_(low, high, generator=generator)
    return network


def _resnet(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return shaken(torchvision.models.resnet18(weights=None), seed)


@pytest.fixture(scope="session")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("resnet") / "resnet18.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in _resnet(1).state_dict().items()}, "epoch": 3}, path)
    return path


@pytest.fixture(scope="session")
def other_resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("other") / "resnet18.safetensors"
    save_file(_resnet(2).state_dict(), path)
    return path


def write_clip(folder: Path, seed: int) -> Path:
    """A folder as open_clip writes it."""
    folder.mkdir()
    torch.manual_seed(seed)
    model = open_clip.CLIP(**TINY_CLIP)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    preprocess = {
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.4],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY_CLIP, "preprocess_cfg": preprocess}))
    return folder


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "tiny-clip", 1)


@pytest.fixture(scope="session")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("timm") / "tiny-vit"
    torch.manual_seed(1)
    save_for_hf(timm.create_model("test_vit", pretrained=False), folder, safe_serialization=True)
    return folder


@pytest.fixture(scope="session")
def timm_resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("timm") / "test_resnet.pth"
    torch.manual_seed(1)
    torch.save(shaken(timm.create_model("test_resnet", pretrained=False), 1).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def cases(
    resnet_file: Path,
    other_resnet_file: Path,
    clip_folder: Path,
    vit_folder: Path,
    timm_resnet_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Case]:
    """All families."""
    other_clip = write_clip(tmp_path_factory.mktemp("clip") / "tiny-clip", 2) / "open_clip_model.safetensors"
    torch.manual_seed(2)
    other_timm = tmp_path_factory.mktemp("timm") / "weights.safetensors"
    save_file(timm.create_model("test_resnet", pretrained=False).state_dict(), other_timm)
    other_vit = tmp_path_factory.mktemp("timm") / "vit.safetensors"
    save_file(timm.create_model("test_vit", pretrained=False).state_dict(), other_vit)
    return {
        "bundled": Case("bundled", 992),
        "fake": Case("fake:24", 24),
        "torchvision": Case("torchvision:resnet18", 512, resnet_file, {"weights": other_resnet_file}),
        "open_clip": Case(f"open_clip:local-dir:{clip_folder}", 48, None, {"weights": other_clip}),
        "timm local-dir": Case(f"timm:local-dir:{vit_folder}", 64, None, {"weights": other_vit}),
        "timm file": Case("timm:test_resnet", 96, timm_resnet_file, {"weights": other_timm}),
        "torchvision stages": Case(
            "torchvision:resnet18+stages", 2 * (64 + 64 + 128 + 256), resnet_file, {"weights": other_resnet_file}
        ),
        "open_clip stages": Case(
            f"open_clip:local-dir:{clip_folder}+stages", 2 * 3 * 64, None, {"weights": other_clip}
        ),
        "timm stages": Case(f"timm:local-dir:{vit_folder}+stages", 2 * 4 * 64, None, {"weights": other_vit}),
        "timm stages of a file": Case(
            "timm:test_resnet+stages", 2 * (32 + 32 + 48 + 192), timm_resnet_file, {"weights": other_timm}
        ),
    }


FAMILIES = ["bundled", "fake", "torchvision", "open_clip", "timm local-dir", "timm file"]
STAGES = ["torchvision stages", "open_clip stages", "timm stages", "timm stages of a file"]


@pytest.fixture(scope="session", params=FAMILIES + STAGES)
def case(request: pytest.FixtureRequest, cases: dict[str, Case]) -> Case:
    """Each family in turn."""
    return cases[request.param]


@pytest.fixture(scope="session")
def opened(cases: dict[str, Case]) -> Callable[..., Encoder]:
    """Opens each case once per set of options."""
    known: dict[tuple[str, str], Encoder] = {}

    def open_once(case: Case, **options: Any) -> Encoder:
        key = case.name, repr(options)
        if key not in known:
            known[key] = case.open(**options)
        return known[key]

    return open_once


def scene(height: int, width: int, seed: int) -> UInt8Array:
    """A picture with shapes and texture, unlike noise a thing that networks tell apart."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width, 2)
    values = np.zeros((height, width, 3))
    for _ in range(6):
        y, x, size = rng.uniform(0, 1, 3)
        values += rng.uniform(-90, 90, 3) * ((rows - y) ** 2 + (columns - x) ** 2 < 0.1 * size)[..., None]
    values += 40 * np.sin(rng.uniform(5, 60) * rows + rng.uniform(5, 60) * columns)[..., None]
    return np.clip(values + rng.normal(120, 5, values.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def pictures() -> list[UInt8Array]:
    """Of many shapes."""
    shapes = [(224, 224), (300, 200), (97, 131), (64, 64), (28, 28), (512, 4), (3, 400), (1, 1), (65, 20), (480, 640)]
    return [scene(*shape, seed) for seed, shape in enumerate(shapes)]


@pytest.fixture(scope="session")
def real_pictures(shared: Path) -> list[UInt8Array]:
    """A few from each of several archives: X-ray, skin, eye, mammography."""
    found = []
    for folder in ("cxr_kermany", "derm_ham10000", "fundus_odir", "mammo_mias"):
        with zipfile.ZipFile(shared / folder / "images.zip") as archive:
            for name in [name for name in archive.namelist() if not name.endswith("/")][:8]:
                with Image.open(io.BytesIO(archive.read(name))) as image:
                    found.append(np.asarray(image.convert("RGB")))
    assert len(found) == 32
    return found


@pytest.fixture(scope="session")
def shake() -> Callable[[nn.Module, int], nn.Module]:
    """`shaken`, for tests that build networks themselves."""
    return shaken
