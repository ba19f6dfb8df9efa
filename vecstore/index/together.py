"""Many queries at once over faiss's cells: each cell is compared with all queries that visit it, by one product.

faiss searches the cells query by query. A matrix product of a cell with its visitors does the same arithmetic ten
times as fast, and what it finds need not be sorted: a floor for each query, from the cells nearest to it, keeps a
few in a hundred of the products.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import faiss as _faiss
import numpy as np

from vecstore.index.base import single
from vecstore.records import BoolArray, FloatArray, IntArray

faiss: Any = _faiss

TOGETHER = 2048
"""Queries in one round."""

PRODUCTS = 4_000_000
"""Products held at a time, where a cell has very many rows."""

ROUNDING = 1e-5

FIRST = 8
"""Rows, in multiples of the candidates wanted, that a query's floor is taken from."""


def nearest(cells: Cells, queries: FloatArray, count: int, probe: int) -> IntArray:
    """The rows with the largest inner products in the cells nearest to each query.

    Parameters
    ----------
    cells : Cells
        Of float16, without residuals, by inner product.
    queries : ndarray of shape (n_queries, dim), float32
    count : int
        Rows wanted, from 1.
    probe : int
        Cells visited by each query.
    Returns
    -------
    ndarray of shape (n_queries, count), int64
        Row numbers, the nearest first; -1 where the cells have no more.
    """
    found = np.full((len(queries), count), -1, np.int64)
    for start in range(0, len(queries), TOGETHER):
        part = slice(start, start + TOGETHER)
        found[part] = _round(cells, queries[part], count, min(probe, len(cells.sizes)))
    return found


class Cells:
    """faiss's inverted lists as arrays: what may be found of each.

    Attributes
    ----------
    centres : ndarray of shape (cells, dim), float32
    rows : list of ndarray of shape (m,), int64
        Row numbers of each cell, those that may not be found among them.
    sizes : ndarray of shape (cells,), int64
        How many may be found.
    """

    def __init__(self, coded: Any, may: BoolArray | None) -> None:
        self._coded = coded  # whose memory the arrays are
        self._lists, self._dim, self._may = coded.invlists, int(coded.d), may
        self.centres: FloatArray = faiss.downcast_index(coded.quantizer).reconstruct_n(0, int(coded.nlist))
        self.rows = [self._ids(cell) for cell in range(int(coded.nlist))]
        self.sizes: IntArray = np.array(
            [len(rows) if may is None else int(np.count_nonzero(may[rows])) for rows in self.rows], np.int64
        )

    def _ids(self, cell: int) -> IntArray:
        size = self._lists.list_size(cell)
        ids: IntArray = faiss.rev_swig_ptr(self._lists.get_ids(cell), size) if size else np.empty(0, np.int64)
        return ids

    def vectors(self, cell: int) -> tuple[IntArray, FloatArray]:
        """Row numbers that may be found, and their vectors, float32."""
        rows = self.rows[cell]
        codes = faiss.rev_swig_ptr(self._lists.get_codes(cell), 2 * self._dim * len(rows))
        half = codes.view(np.float16).reshape(len(rows), self._dim)
        if self._may is not None:
            keep = self._may[rows]
            rows, half = rows[keep], half[keep]
        return rows, single(half)


def _round(cells: Cells, queries: FloatArray, count: int, probe: int) -> IntArray:
    near = np.argsort(-(queries @ cells.centres.T), axis=1)[:, :probe]
    sizes = cells.sizes[near]
    before = np.cumsum(sizes, axis=1) - sizes
    first = before < FIRST * count
    floor = _floors(cells, queries, count, near, first, before)
    owners, rows, scores = [], [], []
    for cell, visitors, _ in _visits(near, sizes > 0):
        numbers, vectors = cells.vectors(cell)
        step = max(1, PRODUCTS // len(numbers))
        for start in range(0, len(visitors), step):
            some = visitors[start : start + step]
            products = queries[some] @ vectors.T
            above = np.flatnonzero(products >= floor[some, None])
            if len(above) > len(some) * count:  # many of the same height: no more than can be among the first
                last = products.shape[1] - count
                top = np.argpartition(products, last, axis=1)[:, last:]
                above = (np.arange(len(some))[:, None] * len(numbers) + top).ravel()
            query = above // len(numbers)
            owners.append(some[query])
            rows.append(numbers[above - query * len(numbers)])
            scores.append(products.ravel()[above])
    if not owners:
        return np.full((len(queries), count), -1, np.int64)
    return _first(np.concatenate(owners), np.concatenate(rows), np.concatenate(scores), len(queries), count)


def _floors(
    cells: Cells, queries: FloatArray, count: int, near: IntArray, first: BoolArray, before: IntArray
) -> FloatArray:
    """A product that at least `count` rows of each query reach; -inf where the nearest cells have fewer."""
    width = FIRST * count
    products = np.full((len(queries), width + 1), -np.inf, np.float32)  # the last is for what is beyond
    for cell, visitors, place in _visits(near, first & (cells.sizes[near] > 0)):
        vectors = cells.vectors(cell)[1][:width]
        at = np.minimum(before[visitors, place][:, None] + np.arange(len(vectors)), width)
        products[visitors[:, None], at] = queries[visitors] @ vectors.T
    floor: FloatArray = np.partition(products[:, :width], width - count, axis=1)[:, width - count]
    return floor - np.float32(ROUNDING)  # the same product in another matrix may differ in its last bits


def _visits(near: IntArray, chosen: BoolArray) -> Iterator[tuple[int, IntArray, IntArray]]:
    """Each cell that is visited, the queries that do, and in which place of their order."""
    query, place = np.nonzero(chosen)
    cell = near[query, place]
    order = np.argsort(cell.astype(np.uint16) if cell.size and cell.max() < 1 << 16 else cell, kind="stable")
    query, place, cell = query[order], place[order], cell[order]
    ends = np.flatnonzero(np.diff(cell)) + 1
    for start, end in zip([0, *ends.tolist()], [*ends.tolist(), len(cell)], strict=True):
        if end > start:
            yield int(cell[start]), query[start:end], place[start:end]


def _first(owners: IntArray, rows: IntArray, scores: FloatArray, n_queries: int, count: int) -> IntArray:
    """The first `count` rows of each query by score."""
    order = np.argsort(owners.astype(np.uint16), kind="stable")
    owner = owners[order]
    many = np.bincount(owner, minlength=n_queries)
    at = np.arange(len(owner)) - (np.cumsum(many) - many)[owner]
    width = max(int(many.max()), count)
    table, numbers = np.full((n_queries, width), -np.inf, np.float32), np.full((n_queries, width), -1, np.int64)
    table[owner, at], numbers[owner, at] = scores[order], rows[order]
    if width > count:
        top = np.argpartition(table, width - count, axis=1)[:, width - count :]
        table, numbers = np.take_along_axis(table, top, axis=1), np.take_along_axis(numbers, top, axis=1)
    found: IntArray = np.take_along_axis(numbers, np.argsort(-table, axis=1, kind="stable"), axis=1)
    return found
