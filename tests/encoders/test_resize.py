"""Preparation gives the very pixels that the libraries' own transforms give."""

from __future__ import annotations

from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import timm.data
import torch
import torchvision
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from vecstore.encoders import open_clip_encoder, timm_encoder, torchvision_encoder
from vecstore.encoders.resize import MAX_LONG_SIDE, Fit
from vecstore.encoders.torch_encoder import Pixels
from vecstore.records import UInt8Array


def assert_same(pixels: Pixels, transform: Any, pictures: list[UInt8Array]) -> None:
    """Pixels are equal where the library's transform is undone; values are equal to float32's rounding."""
    for picture in pictures:
        expected = transform(Image.fromarray(picture))
        prepared = pixels.fit(picture)
        found = pixels.tensor(prepared[None], torch.device("cpu"))[0]
        mean, std = torch.tensor(pixels.mean), torch.tensor(pixels.std)
        undone = (expected * std.view(3, 1, 1) + mean.view(3, 1, 1)).mul(255).round().to(torch.uint8)
        np.testing.assert_array_equal(prepared, undone.permute(1, 2, 0).numpy())
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=2e-6)


@pytest.mark.parametrize(
    "weights", ["ResNet50_Weights.IMAGENET1K_V1", "ResNet50_Weights.IMAGENET1K_V2", "ViT_B_16_Weights.IMAGENET1K_V1",
                "ViT_B_16_Weights.IMAGENET1K_SWAG_E2E_V1", "EfficientNet_B3_Weights.IMAGENET1K_V1",
                "Inception_V3_Weights.IMAGENET1K_V1", "Swin_V2_T_Weights.IMAGENET1K_V1"],
)  # fmt: skip
def test_torchvisions_transforms_are_reproduced(weights: str, pictures: list[UInt8Array]) -> None:
    transforms = torchvision.models.get_weight(weights).transforms()
    assert_same(torchvision_encoder._pixels(transforms), transforms, pictures)


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("size", [224, (160, 96)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_open_clips_transforms_are_reproduced(
    mode: str, size: Any, interpolation: str, pictures: list[UInt8Array]
) -> None:
    settings = {"size": size, "resize_mode": mode, "interpolation": interpolation, "fill_color": 128}
    transform = image_transform_v2(PreprocessCfg(**settings), is_train=False)
    usable = [picture for picture in pictures if mode != "longest" or min(picture.shape[:2]) > 4]
    assert_same(open_clip_encoder._pixels(settings, None), transform, usable)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(3, 224, 224), (3, 128, 192)])
@pytest.mark.parametrize(("crop", "interpolation"), [(0.875, "bicubic"), (1.0, "bilinear"), (0.95, "lanczos")])
def test_timms_transforms_are_reproduced(
    mode: str, size: tuple[int, int, int], crop: float, interpolation: str, pictures: list[UInt8Array]
) -> None:
    settings = {
        "input_size": size, "interpolation": interpolation, "crop_pct": crop, "crop_mode": mode,
        "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225),
    }  # fmt: skip
    transform = timm.data.create_transform(**settings)
    usable = [picture for picture in pictures if mode != "border" or min(picture.shape[:2]) > 4]
    assert_same(timm_encoder._pixels(settings, "timm:x"), transform, usable)


def test_every_published_open_clip_preprocessing_is_understood() -> None:
    for architecture, tag in open_clip.list_pretrained():
        pixels = open_clip_encoder._pixels(open_clip.get_pretrained_cfg(architecture, tag), 224)
        assert pixels.size == (224, 224)
        assert len(pixels.mean) == len(pixels.std) == 3


@pytest.mark.parametrize("mode", ["squash", "shortest", "shortest rounded", "longest"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 20_000), (20_000, 1), (7, 5), (3000, 2)])
def test_any_shape_becomes_the_input_size(mode: Any, shape: tuple[int, int]) -> None:
    picture = np.full((*shape, 3), 77, np.uint8)
    found = Fit(mode, (32, 48), (40, 60), "bilinear", (77, 77, 77))(picture)
    assert found.shape == (32, 48, 3)
    assert (found == 77).all()


def test_a_very_long_strip_is_cut_before_it_is_blown_up() -> None:
    strip = np.zeros((2, 4 * MAX_LONG_SIDE, 3), np.uint8)
    strip[:, 2 * MAX_LONG_SIDE :] = 200
    fit = Fit("shortest", (224, 224), (256, 256), "bilinear")
    assert fit._shortened(strip).shape == (2, 512, 3)
    found = fit(strip)
    assert (np.diff(found[0, :, 0].astype(int)) >= 0).all()
    assert found[0, 0, 0] < 40 and found[0, -1, 0] > 160


def test_the_border_of_a_longest_side_fit_has_the_fill_colour() -> None:
    found = Fit("longest", (10, 10), fill=(1, 2, 3))(np.full((4, 8, 3), 50, np.uint8))
    np.testing.assert_array_equal(found[0, 0], (1, 2, 3))
    np.testing.assert_array_equal(found[5, 5], (50, 50, 50))
