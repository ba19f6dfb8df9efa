"""The hash of a picture survives what people do to copies, and tells pictures of different patients apart."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from vecstore.decode.likeness import BITS, picture_hash
from vecstore.records import BoolArray

CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "smaller": lambda image: image.resize((140, 120)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "more contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.2),
    "grey": lambda image: image.convert("L"),
    "a little cropped": lambda image: image.crop((2, 2, image.width - 2, image.height - 2)),
}


def _jpeg(image: Image.Image, quality: int = 85) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


@pytest.fixture(scope="module")
def pictures(shared: Path) -> list[Image.Image]:
    """Twelve ultrasounds and twelve chest radiographs of different patients."""
    found = []
    for archive, part in (("us_busi", "benign/"), ("cxr_kermany", "train/NORMAL/")):
        with zipfile.ZipFile(shared / archive / "images.zip") as packed:
            names = sorted(name for name in packed.namelist() if name.startswith(part) and "." in name)[:180:15]
            found += [Image.open(io.BytesIO(packed.read(name))).convert("RGB") for name in names]
    return found


def _apart(a: BoolArray, b: BoolArray) -> int:
    return int((a != b).sum())


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_has_nearly_the_same_hash(pictures: list[Image.Image], change: str) -> None:
    for image in pictures:
        assert _apart(picture_hash(_jpeg(image)), picture_hash(_jpeg(CHANGES[change](image), 60))) <= 40


def test_different_patients_have_different_hashes(pictures: list[Image.Image]) -> None:
    hashes = [picture_hash(_jpeg(image)) for image in pictures]
    assert len(hashes) == 24 and all(one.shape == (BITS,) and one.dtype == np.bool_ for one in hashes)
    least = min(_apart(a, b) for i, a in enumerate(hashes) for b in hashes[:i])
    assert least > 48


def test_what_is_no_picture_has_none() -> None:
    with pytest.raises(OSError, match="cannot identify"):
        picture_hash(b"no picture")
