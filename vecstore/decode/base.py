"""Bytes or arrays to pictures: which plug-in decodes what, the identity of pixels, thumbnails.

Whatever a plug-in's library raises becomes `PictureError` here, so one file never ends a run.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Iterator
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from vecstore.decode.quiet import quiet
from vecstore.decode.scaling import as_rgb, check_size, to_eight_bits
from vecstore.errors import PictureError
from vecstore.files import PICTURE_KINDS, SNIFF_BYTES, sniff
from vecstore.records import DecodeRule, Frame, UInt8Array

PLUGINS: dict[str, str] = dict.fromkeys(PICTURE_KINDS, "vecstore.decode.raster") | {"dicom": "vecstore.decode.dicom"}
"""Kind of content (`files.sniff`) -> module with `frames(data, kind, rule)`, imported when first needed."""

_WITHOUT_MAGIC = "other"
"""Formats that no first bytes tell for certain (TGA, ICO …): Pillow is asked."""


class Plugin(Protocol):
    """A module that decodes some kinds of content."""

    def frames(self, data: bytes, kind: str, rule: DecodeRule) -> Iterator[Frame]:
        """The frames that `rule` asks for."""


def frames(data: bytes | npt.NDArray[Any], rule: DecodeRule) -> Iterator[Frame]:
    """Decode a file's bytes, or an array, into the pictures that `rule` asks for.

    Frames are decoded one at a time. The rules for pixels: EXIF orientation is applied; alpha and
    transparency are composited on black; gray becomes three equal channels; 16-bit, 32-bit and
    float values are scaled linearly from their smallest to their largest finite value to 0..255,
    rounded (a constant frame is 0; NaN and infinities count as the smallest). DICOM: see
    `vecstore.decode.dicom`.

    A JPEG whose compressed data are damaged but complete is accepted as libjpeg paints it: libjpeg
    only warns, and Pillow does not hand the warning on. A truncated one is refused.

    Parameters
    ----------
    data : bytes, or ndarray of shape (height, width), (height, width, 3) or (height, width, 4)
        An array may be bool, integer or float.
    rule : DecodeRule

    Yields
    ------
    Frame
        At least one. Later frames may fail after earlier ones were yielded.

    Raises
    ------
    PictureError
        Why there is no picture: the fact, what was expected, and the next step where there is one.
    """
    if isinstance(data, np.ndarray):
        yield Frame(None, _from_array(data, rule), {}, f"numpy {np.__version__}")
        return
    kind = sniff(data[:SNIFF_BYTES])
    if kind not in PLUGINS:
        _refuse_known_mistakes(data, kind)
        kind = _WITHOUT_MAGIC
    plugin = cast(Plugin, importlib.import_module(PLUGINS.get(kind, "vecstore.decode.raster")))
    found = plugin.frames(data, kind, rule)
    while True:
        # A generator's caller runs between two frames: silence must not cover that.
        with quiet():
            frame = _next(found)
        if frame is None:
            return
        yield frame


def _next(found: Iterator[Frame]) -> Frame | None:
    try:
        return next(found, None)
    except PictureError:
        raise
    except MemoryError as error:
        raise PictureError("not enough memory to decode it") from error
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise PictureError(f"can't be decoded: {lines[0][:300]}") from error


def _from_array(values: npt.NDArray[Any], rule: DecodeRule) -> UInt8Array:
    if values.ndim not in (2, 3) or values.dtype.kind not in "buif":
        raise PictureError(
            f"an array of shape {values.shape} and type {values.dtype}",
            "height × width or height × width × 3, of integers or floats",
        )
    check_size(values.shape[1], values.shape[0], rule.max_pixels)
    if values.dtype == np.bool_:
        return as_rgb(values.astype(np.uint8) * 255)
    return as_rgb(values if values.dtype == np.uint8 else to_eight_bits(values))


def _refuse_known_mistakes(data: bytes, kind: str | None) -> None:
    """Name what is under a picture's name where that can be told."""
    if not data:
        raise PictureError("the file is empty", do="copy it again")
    if kind == "appledouble":
        raise PictureError("an AppleDouble side file of macOS, not the picture", do="it may be deleted")
    if kind is not None:
        raise PictureError(f"{kind} content, not a picture", do="unpack it, or open it as an archive of its own")
    head = data[:SNIFF_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise PictureError("a Git LFS pointer, not the picture", do="run: git lfs pull")
    if head.startswith((b"<!doctype html", b"<html")):
        raise PictureError("an HTML page, not a picture", do="download it again: this is often an error page")
    if head.startswith((b"<?xml", b"<svg")):
        raise PictureError("XML or SVG text, not a picture of pixels")
    if _is_text(data[:SNIFF_BYTES]):
        raise PictureError("text, not a picture")


def _is_text(head: bytes) -> bool:
    try:
        # The cut may go through a letter, so the last bytes don't count.
        text = head.decode("utf-8", "ignore" if len(head) == SNIFF_BYTES else "strict")
    except UnicodeDecodeError:
        return False
    return len(text) > 0.9 * len(head) and all(c.isprintable() or c in "\t\r\n\f" for c in text)


def content_hash(picture: UInt8Array) -> bytes:
    """The identity of a picture's pixels.

    Parameters
    ----------
    picture : ndarray of shape (height, width, 3), uint8

    Returns
    -------
    bytes of length 16
        The first half of SHA-256 over "<height>x<width>:" and the pixels, row by row.

    Examples
    --------
    >>> content_hash(np.zeros((2, 1, 3), np.uint8)).hex()
    '636d71549369022c9f06b8f8be116699'
    """
    digest = hashlib.sha256(f"{picture.shape[0]}x{picture.shape[1]}:".encode())
    digest.update(np.ascontiguousarray(picture).data)
    return digest.digest()[:16]


def thumbnail(picture: UInt8Array, side: int = 160) -> bytes:
    """A small JPEG (quality 80) for people to look at.

    Parameters
    ----------
    picture : ndarray of shape (height, width, 3), uint8
    side : int
        Longest side in pixels; a smaller picture is not enlarged.
    """
    raster = importlib.import_module("vecstore.decode.raster")
    return cast(bytes, raster.thumbnail(picture, side))
