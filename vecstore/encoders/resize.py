"""Resizing and cropping with Pillow, to the very pixels that torchvision, timm and open_clip make of a picture.

Done here, in decode threads and on uint8, so that the network's thread has nothing left to do but to compute;
Pillow releases the GIL while it resizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from vecstore.records import UInt8Array

Mode = Literal["squash", "shortest", "shortest rounded", "longest"]

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

MAX_LONG_SIDE = 65_536
"""A strip is not blown up beyond this; its ends, which the centre crop drops anyway, are cut off first."""


@dataclass(frozen=True, slots=True)
class Fit:
    """From any picture to one input size.

    Attributes
    ----------
    mode : {"squash", "shortest", "shortest rounded", "longest"}
        "squash": to `scale`, whatever the proportions. The others keep them: the shorter side to `scale`, the longer
        one cut (torchvision) or rounded (timm's and open_clip's ResizeKeepRatio); or the longer side to `scale`.
    size : tuple of (int, int)
        Height and width of the result: cut from the centre, and filled up where the picture is smaller.
    scale : tuple of (int, int), optional
        Height and width to resize to before the crop; `size` if not given.
    interpolation : str
        A filter of Pillow, always antialiased.
    fill : tuple of (int, int, int)
        Colour of the added border, 0 to 255.

    Examples
    --------
    >>> str(Fit("shortest", (224, 224), (256, 256), "bilinear"))
    'shortest to 256x256 bilinear, centre 224x224'
    >>> Fit("squash", (8, 6))(np.zeros((3, 500, 3), np.uint8)).shape
    (8, 6, 3)
    """

    mode: Mode
    size: tuple[int, int]
    scale: tuple[int, int] | None = None
    interpolation: str = "bicubic"
    fill: tuple[int, int, int] = (0, 0, 0)

    def __str__(self) -> str:
        height, width = self.scale or self.size
        text = f"{self.mode} to {height}x{width} {self.interpolation}"
        if self.mode != "squash" or (height, width) != self.size:
            text += f", centre {self.size[0]}x{self.size[1]}"
        return text + (f", border {self.fill}" if any(self.fill) else "")

    def __call__(self, picture: UInt8Array) -> UInt8Array:
        """Resize and crop.

        Parameters
        ----------
        picture : ndarray of shape (height, width, 3), uint8

        Returns
        -------
        ndarray of shape (size[0], size[1], 3), uint8
            A new array.
        """
        image = Image.fromarray(self._shortened(picture))
        height, width = self._resized(image.height, image.width)
        if (height, width) != (image.height, image.width):
            image = image.resize((width, height), _FILTERS[self.interpolation])
        return self._centre(np.array(image))

    def _shortened(self, picture: UInt8Array) -> UInt8Array:
        """Without the ends of an extreme strip, if the centre crop is going to drop them."""
        if not self.mode.startswith("shortest"):
            return picture
        height, width = picture.shape[:2]
        longest = max(1, min(height, width) * MAX_LONG_SIDE // max(self.scale or self.size))
        top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
        return picture[top : top + longest, left : left + longest]

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing."""
        target = self.scale or self.size
        if self.mode == "squash":
            return target
        if self.mode == "shortest":
            if height <= width:
                return target[0], int(target[0] * width / height)
            return int(target[0] * height / width), target[0]
        ratios = height / target[0], width / target[1]
        ratio = max(ratios) if self.mode == "longest" else min(ratios)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def _centre(self, pixels: UInt8Array) -> UInt8Array:
        """Cut from the centre after filling up, rounding as torchvision's `center_crop` does."""
        height, width = self.size
        short = max(0, height - pixels.shape[0]), max(0, width - pixels.shape[1])
        if any(short):
            padded = np.empty((pixels.shape[0] + short[0], pixels.shape[1] + short[1], 3), np.uint8)
            padded[:] = self.fill
            top, left = short[0] // 2, short[1] // 2
            padded[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
            pixels = padded
        top = round((pixels.shape[0] - height) / 2.0)
        left = round((pixels.shape[1] - width) / 2.0)
        return np.ascontiguousarray(pixels[top : top + height, left : left + width])


@dataclass(frozen=True, slots=True)
class FitBySize:
    """A smaller input for tiny pictures, which have nothing to show at a larger one.

    Attributes
    ----------
    small, large : Fit
    limit : int
        Longest side, in pixels, up to which `small` is used.
    """

    small: Fit
    large: Fit
    limit: int

    def __str__(self) -> str:
        return f"{self.large}; {self.small} where no side is longer than {self.limit}"

    def __call__(self, picture: UInt8Array) -> UInt8Array:
        """As `Fit`."""
        return (self.small if max(picture.shape[:2]) <= self.limit else self.large)(picture)


def interpolations() -> tuple[str, ...]:
    """The names that `Fit.interpolation` may have."""
    return tuple(_FILTERS)
