"""From bytes or arrays to pictures: `frames`, the identity of pixels, and thumbnails.

Light to import: Pillow, pydicom and tifffile are loaded by the first picture that needs them.
"""

from __future__ import annotations

from vecstore.decode.base import content_hash, frames, thumbnail

__all__ = ["content_hash", "frames", "thumbnail"]
