"""The one rule by which values that are not 8-bit become 8-bit, and what checks sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.errors import PictureError
from vecstore.records import UInt8Array

_TABLE_SPAN = 1 << 16
"""Integers over a span below this go through a table: equal result, a sixth of the time."""


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Refuse, by its header, a picture that is empty or too large to be opened.

    Raises
    ------
    PictureError
        A side is below 1, or width × height is beyond `max_pixels`.
    """
    if width < 1 or height < 1:
        raise PictureError(f"{width} × {height} pixels", "at least one pixel")
    if width * height > max_pixels:
        raise PictureError(
            f"{width} × {height} pixels, more than a picture may have",
            f"at most {max_pixels:,} pixels, which this store is made for",
            "make it smaller, or cut it into tiles",
        )


def to_eight_bits(values: npt.NDArray[Any], low: float | None = None, high: float | None = None) -> UInt8Array:
    """Scale values linearly so that `low` becomes 0 and `high` 255; round; clip what is beyond.

    Parameters
    ----------
    values : ndarray of any shape, integer or float
    low, high : float, optional
        Default: the smallest and largest finite value.

    Returns
    -------
    ndarray of the same shape, uint8
        All 0 where `low` equals `high`. NaN and infinities count as the minimum.

    Examples
    --------
    >>> to_eight_bits(np.array([0, 100, 1000], dtype=np.uint16))
    array([  0,  26, 255], dtype=uint8)
    >>> to_eight_bits(np.array([np.nan, 0.0, 1.0, np.inf]))
    array([  0,   0, 255,   0], dtype=uint8)
    """
    integers = values.dtype.kind in "iu"
    finite = values if integers else values[np.isfinite(values)]
    if finite.size == 0:
        return np.zeros(values.shape, np.uint8)
    low = float(finite.min()) if low is None else low
    high = float(finite.max()) if high is None else high
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    if integers:
        first, last = int(values.min()), int(values.max())
        if last - first < _TABLE_SPAN:
            table = _scaled(np.arange(first, last + 1, dtype=np.float64), low, high)
            return table[(values.astype(np.int64) - first)]
    return _scaled(values.astype(np.float64), low, high)


def _scaled(values: npt.NDArray[np.float64], low: float, high: float) -> UInt8Array:
    # Halved, because the span of two finite doubles may not be finite.
    with np.errstate(all="ignore"):
        share = (values / 2 - low / 2) / (high / 2 - low / 2)
    share[~np.isfinite(values)] = 0.0
    return np.rint(np.clip(share, 0.0, 1.0) * 255.0).astype(np.uint8)


def as_rgb(pixels: npt.NDArray[Any]) -> UInt8Array:
    """A picture from uint8 pixels with one, three or four (alpha) channels.

    Parameters
    ----------
    pixels : ndarray of shape (height, width), (height, width, 1), (height, width, 3) or (height, width, 4), uint8

    Returns
    -------
    ndarray of shape (height, width, 3), uint8
        Contiguous and writeable; alpha is composited on black.

    Raises
    ------
    PictureError
        Any other shape.
    """
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim == 2:
        picture = np.empty((*pixels.shape, 3), np.uint8)
        picture[...] = pixels[:, :, None]
        return picture
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise PictureError(
            f"values of shape {' × '.join(map(str, pixels.shape))}",
            "height × width, or height × width × 3 or 4 channels",
        )
    if pixels.shape[2] == 3:
        return np.array(pixels, np.uint8, order="C")
    alpha = pixels[:, :, 3:].astype(np.uint16)
    # x · a / 255 rounded, in integers: the same on every machine.
    return ((pixels[:, :, :3] * alpha + 127) // 255).astype(np.uint8)
