"""Exact products of queries with rows of float16 as they lie: nothing is copied and made wider first.

By the loop that faiss looks through a cell of float16 codes with, which widens eight numbers at a time in registers:
100,000 × 512 cost 9 ms a query, of which making them float32 takes 65.
"""

from __future__ import annotations

from typing import Any

import faiss as _faiss
import numpy as np

from vecstore.index.base import HalfArray
from vecstore.records import BoolArray, FloatArray, IntArray

faiss: Any = _faiss


def products(half: HalfArray, queries: FloatArray, rows: IntArray) -> FloatArray:
    """Inner products of each query with rows of its own.

    Parameters
    ----------
    half : ndarray of shape (n, dim), float16, contiguous
    queries : ndarray of shape (n_queries, dim), float32, contiguous
    rows : ndarray of shape (n_queries, c), int64
        From 0 to n - 1.

    Returns
    -------
    ndarray of shape (n_queries, c), float32
    """
    cell = _Cell(half.shape[1], None)
    made, count = np.empty(rows.shape, np.float32), rows.shape[1]
    found, places = np.empty(count, np.float32), np.empty(count, np.int64)
    for query, some, out in zip(queries, rows, made, strict=True):
        found.fill(-np.inf)
        cell.scan(half.take(some, axis=0), query, found, places)
        out[places] = found
    return made


def largest(half: HalfArray, queries: FloatArray, count: int, may: BoolArray | None) -> tuple[FloatArray, IntArray]:
    """The rows with the largest inner products with each query.

    Parameters
    ----------
    half : ndarray of shape (n, dim), float16, contiguous
    queries : ndarray of shape (n_queries, dim), float32, contiguous
    count : int
        From 1 to as many rows as may be found.
    may : ndarray of shape (n,), bool, or None
        Which rows may be found.

    Returns
    -------
    products : ndarray of shape (n_queries, count), float32
        The largest first.
    rows : ndarray of shape (n_queries, count), int64
    """
    cell = _Cell(half.shape[1], may)
    found = np.full((len(queries), count), -np.inf, np.float32)
    rows = np.full((len(queries), count), -1, np.int64)
    for place, query in enumerate(queries):
        cell.scan(half, query, found[place], rows[place])
    order = np.argsort(-found, axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(rows, order, axis=1)


class _Cell:
    """faiss's loop over one cell of float16 codes, which names a row by its place."""

    def __init__(self, dim: int, may: BoolArray | None) -> None:
        # The loop holds addresses of all three.
        self._kind = faiss.ScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16)
        self._coarse = faiss.IndexFlatIP(dim)
        self._selector = None if may is None else faiss.IDSelectorBitmap(np.packbits(may, bitorder="little"))
        self._loop = self._kind.select_InvertedListScanner(
            faiss.METRIC_INNER_PRODUCT, self._coarse, True, self._selector, False
        )
        self._loop.set_list(0, 0.0)

    def scan(self, half: HalfArray, query: FloatArray, found: FloatArray, places: IntArray) -> None:
        """Put the largest products into `found`, where -inf stands, and where they are into `places`; in no order."""
        self._loop.set_query(faiss.swig_ptr(query))
        codes = faiss.swig_ptr(half.view(np.uint8).reshape(-1))
        self._loop.scan_codes(len(half), codes, None, faiss.swig_ptr(found), faiss.swig_ptr(places), len(found))
