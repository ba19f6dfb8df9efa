"""What every encoder offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from vecstore.errors import EncoderError
from vecstore.records import FloatArray, Passport, UInt8Array


class Encoder(ABC):
    """Pictures to unit vectors."""

    passport: Passport
    compute: str
    batch_size: int

    @abstractmethod
    def prepare(self, picture: UInt8Array) -> UInt8Array:
        """Resize and crop; called in worker threads."""

    @abstractmethod
    def encode(self, prepared: Sequence[UInt8Array]) -> FloatArray:
        """(n, dim) float32, rows of unit length or NaN."""

    def encode_text(self, texts: Sequence[str]) -> FloatArray:
        """(n, dim) float32 in a CLIP space."""
        raise EncoderError(f"{self.passport.encoder} has no text tower", expected="an open_clip encoder")
