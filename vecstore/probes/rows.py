"""Feature rows as the sweep reads them: fold after fold, centred and scaled, in the working type, block by block."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vecstore.records import DoubleArray, IntArray

DENSE = 1 << 29  # bytes up to which rows are kept ready in memory; beyond, each block is made anew from the rows given
DENSE_SHARE = 0.4  # of a card's free memory, the same
MARGINS = 1 << 16  # worked on at a time by a thread: what fits a core's second-level cache in float32
FEATURES = 1 << 20  # the same of features, which are read twice: what fits its share of the third level
ON_CARD = 1 << 25  # the same on a card, where starting a kernel is what costs


class Rows:
    """A feature matrix in the order of its folds.

    Parameters
    ----------
    X : ndarray of shape (n, d), float16, float32 or float64
        Never copied as a whole beyond `DENSE` bytes.
    order : ndarray of shape (m,), int64
        Which rows, fold after fold.
    sizes : sequence of int
        Rows per fold; their sum is m.
    center, spread : ndarray of shape (d,), float64
        Subtracted, then divided by (inf: the column is left out).
    dtype : torch.dtype
        float32 or float64.
    device : torch.device

    Attributes
    ----------
    segments : list of slice
        Where each fold lies.
    """

    def __init__(
        self,
        X: npt.NDArray[Any],
        order: IntArray,
        sizes: IntArray,
        center: DoubleArray,
        spread: DoubleArray,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.n, self.d = len(order), X.shape[1]
        self.dtype, self.device = dtype, device
        ends = np.cumsum(sizes).tolist()
        self.segments = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable.*")  # nothing is written to it
            self._given = torch.from_numpy(X if all(step > 0 for step in X.strides) else np.ascontiguousarray(X))
        self._order = torch.from_numpy(np.ascontiguousarray(order))
        exact = torch.float64 if X.dtype == np.float64 else dtype
        self._center = torch.from_numpy(center).to(exact) if center.any() else None
        inverse = 1 / spread
        self._inverse = torch.from_numpy(inverse).to(exact) if (inverse != 1).any() else None
        self._exact = exact
        self._dense: torch.Tensor | None = None
        room = DENSE if device.type == "cpu" else DENSE_SHARE * torch.cuda.mem_get_info(device)[0]
        if self.n * self.d * torch.finfo(dtype).bits // 8 <= room:
            dense = torch.empty(self.n, self.d, dtype=dtype, device=device)
            for block in cut(slice(0, self.n), 4096):
                dense[block] = self._made(self._order[block])
            self._dense = dense

    def block(self, block: slice) -> torch.Tensor:
        """Rows of shape (r, d), on the device. They may be a view: not to be written to."""
        if self._dense is not None:
            return self._dense[block]
        return self._made(self._order[block]).to(self.device, non_blocking=True)

    def picked(self, places: IntArray) -> Rows:
        """Some of the rows, as one fold."""
        one = object.__new__(Rows)
        one.__dict__.update(self.__dict__)
        one.n, one.segments = len(places), [slice(0, len(places))]
        index = torch.from_numpy(places)
        one._order = self._order[index]
        one._dense = torch.empty(one.n, self.d, dtype=self.dtype, device=self.device)
        for block in cut(slice(0, one.n), 4096):
            one._dense[block] = (
                self._made(one._order[block]).to(self.device)
                if self._dense is None
                else self._dense[index[block].to(self.device)]
            )
        return one

    def all(self) -> torch.Tensor:
        """Every row, in float64 and on the processor: for small matrices."""
        return torch.cat([self.block(block).double().cpu() for block in cut(slice(0, self.n), 4096)])

    def replaced(self, dense: torch.Tensor) -> Rows:
        """Other features for the same rows."""
        one = object.__new__(Rows)
        one.__dict__.update(self.__dict__)
        one._dense, one.d = dense.to(self.device, self.dtype).contiguous(), dense.shape[1]
        return one

    def blocks(self, segment: slice, columns: int) -> Iterator[slice]:
        """Blocks of a fold, for that many margins per row."""
        if self.device.type != "cpu":
            return cut(segment, max(256, ON_CARD // columns))
        threads = torch.get_num_threads()
        return cut(segment, max(256, min(MARGINS // columns, FEATURES // self.d) * threads))

    def _made(self, rows: torch.Tensor) -> torch.Tensor:
        part = self._given.index_select(0, rows).to(self._exact)
        if self._center is not None:
            part.sub_(self._center)
        if self._inverse is not None:
            part.mul_(self._inverse)
        return part.to(self.dtype)


def cut(span: slice, size: int) -> Iterator[slice]:
    """A span in pieces of at most that size."""
    return (slice(start, min(start + size, span.stop)) for start in range(span.start, span.stop, size))
