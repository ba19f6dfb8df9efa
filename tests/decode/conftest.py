"""Decoding as a test writes it."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image

from vecstore.decode import frames
from vecstore.records import DecodeRule, UInt8Array

Decode = Callable[..., UInt8Array]


@pytest.fixture(scope="session")
def picture() -> Decode:
    """The first picture of bytes, an array, or a Pillow image saved as `save_as`."""

    def decode(data: Any, save_as: str = "", rule: DecodeRule | None = None, **options: Any) -> UInt8Array:
        if save_as:
            out = io.BytesIO()
            data.save(out, save_as, **options)
            data = out.getvalue()
        return next(frames(data, rule or DecodeRule())).picture

    return decode


@pytest.fixture(scope="session")
def dicom_file(shared: Path) -> Callable[[str, str], bytes]:
    """Bytes of a file in one of the shared DICOM zips."""

    def read(zip_name: str, file: str) -> bytes:
        with zipfile.ZipFile(shared / "dicom" / zip_name) as archive:
            return archive.read(file)

    return read


@pytest.fixture
def altered(dicom_file: Callable[[str, str], bytes]) -> Callable[..., bytes]:
    """A real CT slice with other values or header elements, saved again."""

    def save(values: Any = None, drop: tuple[str, ...] = (), **elements: Any) -> bytes:
        dataset = pydicom.dcmread(io.BytesIO(dicom_file("samples.zip", "CT_small.dcm")))
        if values is not None:
            array = np.asarray(values)
            dataset.Rows, dataset.Columns = array.shape
            dataset.BitsAllocated = dataset.BitsStored = 8 * array.dtype.itemsize
            dataset.HighBit = dataset.BitsStored - 1
            dataset.PixelRepresentation = int(array.dtype.kind == "i")
            dataset.PixelData = array.tobytes()
            dataset["PixelData"].VR = "OW" if array.dtype.itemsize > 1 else "OB"
        for keyword in drop:
            del dataset[keyword]
        out = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # values that break the standard are what is wanted
            for keyword, value in elements.items():
                setattr(dataset, keyword, value)
                if dataset[keyword].VR == "US or SS":
                    dataset[keyword].VR = "SS"
            dataset.save_as(out)
        return out.getvalue()

    return save


@pytest.fixture(scope="session")
def gradient() -> Image.Image:
    """A smooth RGB picture, 48 × 32, that shows where its corners are."""
    y, x = np.mgrid[0:32, 0:48]
    return Image.fromarray(np.stack([x * 5, y * 7, (x + y) * 3], axis=2).astype(np.uint8))
