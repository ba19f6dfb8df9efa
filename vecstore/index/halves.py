"""Inner products of queries with rows of float16 as they lie, in float32: nothing is copied and made wider first.

By the loop that faiss looks through a cell of float16 codes with, which widens eight numbers at a time in registers:
100,000 × 512 cost 9 ms a query, of which making them float32 takes 65.
"""

from __future__ import annotations

from typing import Any
from weakref import finalize

import faiss as _faiss
import numpy as np

from vecstore.index.base import HalfArray
from vecstore.records import BoolArray, FloatArray, IntArray

faiss: Any = _faiss


def pair_products(half: HalfArray, queries: FloatArray, others: IntArray, many: IntArray) -> FloatArray:
    """Inner products of each query with rows of its own.

    Parameters
    ----------
    half : ndarray of shape (n, dim), float16, contiguous
    queries : ndarray of shape (n_queries, dim), float32, contiguous
    others : ndarray of shape (m,), int64
        Row numbers, those of the first query first.
    many : ndarray of shape (n_queries,), int64
        How many of them belong to each query.

    Returns
    -------
    ndarray of shape (m,), float32
    """
    widest, made, begin = int(many.max(initial=0)), np.empty(len(others), np.float32), 0
    rows = np.empty((widest, half.shape[1]), np.float16)
    cell = _Cell(half.shape[1], None)
    found, places = np.empty(widest, np.float32), np.empty(widest, np.int64)
    at = _addresses(rows, found, places)
    for query, end in zip(queries, np.cumsum(many).tolist(), strict=True):
        size = end - begin
        if size:
            half.take(others[begin:end], axis=0, out=rows[:size], mode="clip")
            found[:size] = -np.inf
            cell.scan(query, size, size, at)
            made[begin:end][places[:size]] = found[:size]
            begin = end
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
        cell.scan(query, len(half), count, _addresses(half, found[place], rows[place]))
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
        # Its owner is the caller, of which its wrapper knows nothing.
        finalize(self, faiss.InvertedListScanner.__swig_destroy__, self._loop).atexit = False

    def scan(self, query: FloatArray, n: int, count: int, at: tuple[Any, Any, Any]) -> None:
        """Put the `count` largest products of `n` rows where -inf stands, and which rows they are of; in no order."""
        rows, found, places = at
        self._loop.set_query(faiss.swig_ptr(query))
        self._loop.scan_codes(n, rows, None, found, places, count)


def _addresses(half: HalfArray, found: FloatArray, places: IntArray) -> tuple[Any, Any, Any]:
    """Where rows lie, and where products and places go: found once, where they stay."""
    if not half.flags.c_contiguous:
        raise ValueError("rows that do not lie side by side have no address")
    return faiss.swig_ptr(half.view(np.uint8).reshape(-1)), faiss.swig_ptr(found), faiss.swig_ptr(places)
