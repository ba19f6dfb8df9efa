"""A deterministic encoder for tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from vecstore.encoders.base import Encoder
from vecstore.records import FloatArray, Passport, UInt8Array


class FakeEncoder(Encoder):
    """Projection of an 8 × 8 picture."""

    compute = "float32 on cpu"
    batch_size = 32

    def __init__(self, dim: int = 64) -> None:
        self.passport = Passport(
            f"fake:{dim}",
            "vecstore",
            "fake",
            "none",
            "",
            "",
            (8, 8),
            "squash bilinear",
            (0.5,),
            (1.0,),
            "random projection",
            dim,
        )
        self._projection = np.random.default_rng(0).standard_normal((192, dim)).astype(np.float32)

    def prepare(self, picture: UInt8Array) -> UInt8Array:
        return np.asarray(Image.fromarray(picture).resize((8, 8), Image.Resampling.BILINEAR))

    def encode(self, prepared: Sequence[UInt8Array]) -> FloatArray:
        flat = np.stack(prepared).reshape(len(prepared), -1).astype(np.float32) / 255 - 0.5
        vectors = np.stack([row @ self._projection for row in flat])
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (vectors / length).astype(np.float32)
