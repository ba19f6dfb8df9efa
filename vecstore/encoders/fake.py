"""`fake` and `fake:DIM`: a deterministic encoder without torch, for tests of vecstore and of what uses it.

Its vectors mean something (a thumbnail's colours, randomly projected), so that equal pictures are equal, similar
ones similar and a bright-or-dark task can be learned; they are no good for anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vecstore.encoders.base import Encoder, unit_rows
from vecstore.encoders.resize import Fit
from vecstore.errors import UsageError
from vecstore.records import FloatArray, Passport, UInt8Array

_SIDE = 8
_SEED = 20_261_123
DEFAULT_DIM = 32


class FakeEncoder(Encoder):
    """A fixed random projection of an 8 × 8 thumbnail.

    Parameters
    ----------
    dim : int
        Length of the vectors, 2 to 4096.
    name : str
        As it was asked for.

    Examples
    --------
    >>> encoder = FakeEncoder(16)
    >>> dark, light = np.zeros((5, 9, 3), np.uint8), np.full((40, 30, 3), 255, np.uint8)
    >>> encoder.encode([encoder.prepare(dark), encoder.prepare(light)]).shape
    (2, 16)
    """

    compute = "float32 on cpu"
    batch_size = 32

    def __init__(self, dim: int = DEFAULT_DIM, name: str = "fake") -> None:
        self._fit = Fit("squash", (_SIDE, _SIDE), interpolation="box")
        inputs = _SIDE * _SIDE * 3 + 1  # and one constant, so that no picture maps to zero
        self._projection = np.random.Generator(np.random.PCG64(_SEED)).standard_normal((inputs, dim))
        self.passport = Passport(
            encoder=name,
            library="vecstore",
            model="fake",
            weights_sha256="none",
            revision="1",
            licence="MIT",
            input_size=(_SIDE, _SIDE),
            resize=str(self._fit),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            pooling="random projection",
            dim=dim,
        )

    def prepare(self, picture: UInt8Array) -> UInt8Array:
        """An 8 × 8 thumbnail."""
        return self._fit(picture)

    def encode(self, prepared: Sequence[UInt8Array]) -> FloatArray:
        """Projections of thumbnails."""
        if not prepared:
            return np.empty((0, self.passport.dim), np.float32)
        values = np.stack(prepared).reshape(len(prepared), -1) / 127.5 - 1.0
        values = np.concatenate([values, np.ones((len(prepared), 1))], axis=1)
        return unit_rows((values @ self._projection).astype(np.float32))


def make(name: str, weights: Path | None, device: str | None, compute: str | None) -> FakeEncoder:
    """Open `fake` or `fake:DIM`; it has no weights, and one device and type."""
    text = name.partition(":")[2] or str(DEFAULT_DIM)
    if not text.isdecimal() or not 2 <= int(text) <= 4096:
        raise UsageError(f"no fake encoder {name!r}", expected="fake, or fake:DIM with DIM from 2 to 4096")
    if weights is not None:
        raise UsageError("the fake encoder has no weights", do="leave --weights out")
    return FakeEncoder(int(text), "fake" if int(text) == DEFAULT_DIM else f"fake:{int(text)}")
