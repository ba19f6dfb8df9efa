"""Whether two pictures look alike to a computer: a perceptual hash that survives compression and resizing."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from scipy.fft import dctn

from vecstore.records import BoolArray

SIDE, KEPT = 64, 16

BITS = KEPT * KEPT
"""Length of a picture's hash."""


def picture_hash(encoded: bytes) -> BoolArray:
    """The perceptual hash of a picture file.

    Grey, 64 × 64, its 16 × 16 lowest frequencies (cosine transform), each above or below their median: after
    "pHash" (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions").

    Parameters
    ----------
    encoded : bytes
        Of a thumbnail.

    Returns
    -------
    ndarray of shape (256,), bool

    Raises
    ------
    OSError
        Not a picture.
    """
    with Image.open(io.BytesIO(encoded)) as image:
        image.draft("L", (SIDE, SIDE))  # a JPEG is decoded no larger than needed
        small = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), np.float64)
    low = dctn(small, norm="ortho")[:KEPT, :KEPT].ravel()
    low[0] = 0  # the mean says how bright it is, not what it shows
    found: BoolArray = low > np.median(low[1:])
    return found
