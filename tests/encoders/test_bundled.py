"""The bundled encoder: its recipe, its weights, its pinned values."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from vecstore.encoders import open_encoder
from vecstore.encoders.base import Encoder
from vecstore.encoders.bundled import PIXELS, WEIGHTS_SHA256, PooledStages, _package_file
from vecstore.encoders.placement import place
from vecstore.errors import EncoderError, UsageError
from vecstore.records import UInt8Array


@pytest.fixture(scope="module")
def exact() -> Encoder:
    return open_encoder("bundled", device="cpu", compute="float32")


def fixed_picture() -> UInt8Array:
    """Integer arithmetic alone, so that it is the same everywhere."""
    rows, columns = np.mgrid[0:224, 0:224]
    disc = (rows - 90) ** 2 + (columns - 130) ** 2 < 2500
    return np.stack([rows, (columns + 60 * disc) % 256, (rows * columns // 64) % 256], axis=-1).astype(np.uint8)


def test_a_fixed_picture_has_its_pinned_vector(exact: Encoder) -> None:
    vector = exact.encode([exact.prepare(fixed_picture())])[0]
    np.testing.assert_allclose(vector[GOLDEN_AT], GOLDEN, atol=2e-5)


def test_the_input_is_160_for_tiny_pictures_and_224_for_others(exact: Encoder) -> None:
    for shape, side in (((28, 28), 160), ((64, 20), 160), ((65, 20), 224), ((1000, 700), 224)):
        assert exact.prepare(np.zeros((*shape, 3), np.uint8)).shape == (side, side, 3)


def test_the_whole_picture_is_squashed(exact: Encoder) -> None:
    picture = np.zeros((100, 400, 3), np.uint8)
    picture[:, :100] = 255
    prepared = exact.prepare(picture)
    assert prepared[:, :54].min() > 250 and prepared[:, 60:].max() < 5


def test_packed_and_folded_it_computes_what_the_plain_network_does(exact: Encoder) -> None:
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    tensors = torch.load(_package_file(), weights_only=True).values()
    network.load_state_dict(dict(zip(network.state_dict(), tensors, strict=True)))
    plain = PooledStages(network).eval()
    pictures = [np.roll(fixed_picture(), 40 * i, axis=1) for i in range(3)]
    prepared = np.stack([exact.prepare(picture) for picture in pictures])
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(plain(PIXELS.tensor(prepared, torch.device("cpu")))).numpy()
    np.testing.assert_allclose(exact.encode(list(prepared)), expected, atol=1e-5)


def test_its_passport_states_source_and_licence(exact: Encoder) -> None:
    passport = exact.passport
    assert (passport.encoder, passport.library, passport.model) == ("bundled", "timm", "tf_efficientnet_lite0")
    assert (passport.licence, passport.revision, passport.dim) == ("Apache-2.0", "0.1.0", 992)
    assert passport.weights_sha256 == WEIGHTS_SHA256
    assert passport.input_size == (224, 224)
    assert passport.resize == "squash to 224x224 bicubic; squash to 160x160 bicubic where no side is longer than 64"


def test_a_copy_of_its_weights_is_the_same_encoder(exact: Encoder, tmp_path: Path) -> None:
    copied = tmp_path / "copy.pth"
    shutil.copy(_package_file(), copied)
    assert open_encoder("bundled", weights=copied, device="cpu").passport == exact.passport


def test_changed_weights_are_refused_before_they_are_read(tmp_path: Path) -> None:
    changed = tmp_path / "changed.pth"
    content = bytearray(_package_file().read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    with pytest.raises(
        EncoderError, match=f"changed.pth .* SHA-256 .*; expected {WEIGHTS_SHA256[:12]}; run: pip install"
    ):
        open_encoder("bundled", weights=changed)


def test_it_has_no_variants() -> None:
    with pytest.raises(UsageError, match="no encoder 'bundled:large'; expected bundled"):
        open_encoder("bundled:large")


GOLDEN_AT = [0, 1, 31, 32, 63, 64, 100, 250, 400, 600, 700, 800, 990, 991]
GOLDEN = [
    0.022054, 0.025625, 0.0, 0.003795, 0.0, -0.003152, -0.031108,
    0.075785, -0.026034, 0.037546, -0.013292, 0.036798, 0.023685, 0.017089,
]  # fmt: skip


@pytest.mark.parametrize("level", [0, 3, 128, 255])
def test_even_and_dark_pictures_keep_their_direction_in_bfloat16(exact: Encoder, level: int) -> None:
    """Once .9977 for a black picture: every position was rounded to the same wrong number."""
    if place("cpu").dtype != torch.bfloat16:
        pytest.skip("this processor has no bfloat16, and float32 is used on it")
    fast = open_encoder("bundled", device="cpu", compute="bfloat16")
    even = np.full((300, 200, 3), level, np.uint8)
    faint = even.copy()
    faint[100:140, 50:120] += 12 if level < 200 else 0
    prepared = [exact.prepare(picture) for picture in (even, faint)]
    cosines = (exact.encode(prepared) * fast.encode(prepared)).sum(axis=1)
    assert cosines.min() >= 0.999
