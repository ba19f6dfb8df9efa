"""Label-free spaces to be similar in: cosine as it is, standardised features, or whitened principal components."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Self

import numpy as np

from vecstore.errors import UsageError
from vecstore.index.base import HalfArray, halved, unit_rows
from vecstore.records import DoubleArray, FloatArray

METRICS = ("cosine", "standard", "whitened")
"""cosine: of the vectors; standard: after each feature was brought to mean 0 and variance 1; whitened: of the leading
principal components, each brought to variance 1."""

DEFAULT_METRIC = "cosine"
"""See DECISIONS.md for what was measured."""

COMPONENTS = 128
"""Of "whitened"; fewer where there are fewer dimensions, or fewer than four vectors for each."""

SAMPLE = 50_000
"""Random vectors that a metric is fitted on."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A space that vectors are compared in, by the cosine.

    Attributes
    ----------
    name : {"cosine", "standard", "whitened"}
    mean : ndarray of shape (dim,), float64
    matrix : ndarray of shape (dim,) or (m, dim), float64
        Factors of the features, or directions that are projected on.
    """

    name: str
    mean: DoubleArray
    matrix: DoubleArray

    @classmethod
    def fit(cls, name: str, vectors: FloatArray) -> Self:
        """Learn a metric from unit vectors; no label is looked at.

        Parameters
        ----------
        name : str
        vectors : ndarray of shape (n, dim), float32

        Raises
        ------
        UsageError
            An unknown name.
        """
        check_metric(name)
        n, dim = vectors.shape
        mean = vectors.mean(axis=0, dtype=np.float64)
        if name == "cosine" or n < 2:
            return cls(name, np.zeros(dim), np.ones(dim))
        centred = vectors - mean
        if name == "standard":
            spread = np.sqrt(np.einsum("nd,nd->d", centred, centred) / n)
            known = spread > 1e-6 * spread.max() if spread.max() > 0 else np.zeros(dim, np.bool_)
            return cls(name, mean, np.divide(1.0, spread, out=np.zeros(dim), where=known))
        values, directions = np.linalg.eigh(centred.T @ centred / n)
        kept = max(1, min(COMPONENTS, dim, n // 4))
        values, directions = values[::-1][:kept], directions[:, ::-1][:, :kept]
        useful = values > 1e-9 * max(values[0], 1e-30)
        matrix = np.ascontiguousarray((directions[:, useful] / np.sqrt(values[useful])).T)
        return cls(name, mean, matrix if len(matrix) else np.zeros((1, dim)))

    @property
    def dim(self) -> int:
        """Length of the vectors that are compared."""
        return len(self.matrix)

    def apply(self, vectors: FloatArray) -> HalfArray:
        """Vectors as they are compared.

        In float64 and rounded to float16, so that a row does not depend on the rows beside it.

        Parameters
        ----------
        vectors : ndarray of shape (n, dim), float32

        Returns
        -------
        ndarray of shape (n, m), float16
            Of unit length. What is no different from the mean has no direction, and gets the first.
        """
        if self.name == "cosine":
            return halved(vectors)
        centred = vectors - self.mean
        moved = centred * self.matrix if self.matrix.ndim == 1 else centred @ self.matrix.T
        lengths = np.sqrt(np.einsum("nd,nd->n", moved, moved))
        lost = ~(lengths > 1e-9)
        moved[lost] = 0.0
        moved[lost, 0] = lengths[lost] = 1.0
        moved /= lengths[:, None]
        return moved.astype(np.float16)

    def queries(self, vectors: FloatArray) -> FloatArray:
        """Queries as they are compared: unit rows, float32, of shape (n, m); a stored vector is at cosine 1 to itself.

        Parameters
        ----------
        vectors : ndarray of shape (n, dim), float32
        """
        if self.name == "cosine":
            wide = np.array(vectors, np.float32)
            wide /= np.linalg.norm(wide, axis=1, keepdims=True)
            return wide
        return unit_rows(self.apply(vectors))

    def to_bytes(self) -> bytes:
        """Mean and matrix as two arrays of NumPy's format."""
        file = io.BytesIO()
        for values in (self.mean, self.matrix):
            np.lib.format.write_array(file, values, version=(1, 0), allow_pickle=False)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, name: str, data: bytes) -> Self:
        """Inverse of `to_bytes`; ValueError for anything else."""
        file = io.BytesIO(data)
        mean, matrix = (np.lib.format.read_array(file, allow_pickle=False) for _ in range(2))
        if name not in METRICS or mean.ndim != 1 or matrix.shape[-1:] != mean.shape or file.read(1):
            raise ValueError("not a metric")
        return cls(name, mean, matrix)


def check_metric(name: str) -> None:
    """Refuse an unknown name.

    Raises
    ------
    UsageError
    """
    if name not in METRICS:
        raise UsageError(f"metric {name!r}", expected=f"one of: {', '.join(METRICS)}", do="--metric cosine")
