"""Exact search by faiss: the answer that any other index is measured against.

faiss finds candidates in float32, and its last bits depend on batch, threads and processor. So more candidates
than asked for are fetched, re-scored in float64, and taken only if a bound on the float32 error proves that no
row left out could be among the best; otherwise that query is answered by a scan with the same bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import faiss as _faiss
import numpy as np

from vecstore.files import HashingFile
from vecstore.index.base import (
    HalfArray,
    Hits,
    Index,
    allowed_rows,
    best,
    checked_ids,
    checked_k,
    checked_vectors,
    clamped,
    merge,
    no_hits,
    unit_rows,
)
from vecstore.records import BoolArray, FloatArray, IntArray

faiss: Any = _faiss  # its type stubs describe the generated module, without what its Python layer adds

SPARE = 32
"""Candidates fetched beyond `k`: enough that the bound nearly always holds, too few to slow faiss down."""

FEW_EXCLUDED = 256
"""Up to so many forbidden rows, it is cheaper to find them too and drop them than to test every row."""

FEW_ALLOWED = 4096
"""Up to so many allowed rows, copying them is cheaper than products with every row (measured at d = 512)."""

FEW_QUERIES = 4
"""With a row filter, all products are made of so few queries; of more, copied blocks are multiplied."""

BLOCK_ROWS = 16_384
"""Allowed rows that are copied at a time: 32 MB at d = 512."""

PRODUCTS_FROM = 1536
"""Numbers in the queries (three of them at d = 512) from which on a matrix product is faster than a scan for each."""

RESCORE_BYTES = 32 << 20
"""Float64 working memory of re-scoring."""

Fetch = Callable[[FloatArray, int], tuple[FloatArray, IntArray]]
"""Queries and a number to float32 scores, descending, and row numbers, -1 where there are no more."""

Take = Callable[[IntArray], FloatArray]
"""Row numbers of any shape to their vectors, float32, with one more axis."""


class ExactIndex(Index):
    """All vectors as they are compared, rows in the order of their ids; an opened one is mapped from its file.

    Examples
    --------
    >>> index = ExactIndex.build(np.array([7, 3]), np.eye(2, dtype=np.float32))
    >>> index.search(np.float32([[0.6, 0.8]]), k=3)
    (array([[ 3,  7, -1]]), array([[ 0.8,  0.6, -inf]], dtype=float32))
    """

    kind: ClassVar[str] = "exact"
    engine: ClassVar[str] = f"faiss {faiss.__version__}"
    exact: ClassVar[bool] = True

    def __init__(self, ids: IntArray, vectors: FloatArray) -> None:
        self._ids, self._vectors = ids, vectors

    @classmethod
    def build(cls, ids: IntArray, vectors: FloatArray | HalfArray) -> Self:
        """Make an index of vectors; see `Index.build`."""
        matrix = checked_vectors(unit_rows(vectors), None, "row")
        numbers = checked_ids(ids, len(matrix))
        order = np.argsort(numbers)
        if vectors.dtype == np.float16 and (order[1:] > order[:-1]).all():
            return cls(numbers, matrix)  # made here, and in order
        return cls(numbers[order], matrix[order])

    def take(self, ids: IntArray) -> FloatArray:
        """Vectors of ids; see `Index.take`."""
        return self._vectors[np.searchsorted(self._ids, ids)]

    def extended(self, ids: IntArray, vectors: FloatArray | HalfArray) -> Self:
        """An index that also has further vectors; see `Index.extended`."""
        more = checked_vectors(unit_rows(vectors), self.dim, "row")
        return type(self).build(np.concatenate([self._ids, ids]), np.concatenate([self._vectors, more]))

    @property
    def ids(self) -> IntArray:
        """All ids, ascending: ndarray of shape (n,), int64."""
        return self._ids

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return int(self._vectors.shape[1])

    def beside(self, hits: Hits, queries: FloatArray, k: int, allowed: IntArray | BoolArray | None = None) -> Hits:
        """Complete the hits of another index; see `Index.beside`. Few vectors are multiplied, and seldom ranked."""
        last = hits[1][:, -1:] if len(self._ids) <= BLOCK_ROWS else None
        if last is None or np.isinf(last).any():
            return super().beside(hits, queries, k, allowed)
        # Few new vectors are among the best: nothing is ranked where none comes near.
        near = (queries @ self._vectors.T >= last - float32_error(self.dim)).any(axis=1)
        if not near.any():
            return hits
        ids, scores = hits[0].copy(), hits[1].copy()
        ids[near], scores[near] = merge([(ids[near], scores[near]), self.search(queries[near], k, allowed)], k)
        return ids, scores

    def search(self, queries: FloatArray, k: int, allowed: IntArray | BoolArray | None = None) -> Hits:
        """Find the `k` nearest vectors of each query; see `Index.search`."""
        wanted, k = checked_vectors(queries, self.dim, "query"), checked_k(k)
        n = len(self._ids)
        may = allowed_rows(self._ids, allowed) if n else None
        many = n if may is None else int(np.count_nonzero(may))
        if many == 0 or len(wanted) == 0:
            return no_hits(len(wanted), k)
        if may is None:
            return top(self._vectors, self._ids, wanted, k, all_of(self._vectors))
        if n - many > FEW_EXCLUDED and (many <= FEW_ALLOWED or len(wanted) > FEW_QUERIES):
            return scan_rows(self._vectors.__getitem__, self._ids, wanted, k, np.flatnonzero(may))
        if n - many <= FEW_EXCLUDED:
            fetch, spare = all_of(self._vectors), n - many
        else:
            fetch, spare = self._selected(may), 0
        return top(self._vectors, self._ids, wanted, k, fetch, spare, may)

    def _selected(self, may: BoolArray) -> Fetch:
        """Rank the rows that may be found: all products, without those that may not."""

        def fetch(queries: FloatArray, count: int) -> tuple[FloatArray, IntArray]:
            products = np.where(may, queries @ self._vectors.T, np.float32(-np.inf))
            last = products.shape[1] - count
            rows = np.argpartition(products, last, axis=1)[:, last:] if last else np.argsort(products, axis=1)
            found = np.take_along_axis(products, rows, axis=1)
            order = np.argsort(-found, axis=1, kind="stable")
            found = np.take_along_axis(found, order, axis=1)
            return found, np.where(found > -np.inf, np.take_along_axis(rows, order, axis=1), -1)

        return fetch

    def _files(self) -> dict[str, Callable[[HashingFile], None]]:
        return {"rows": self._write}

    def _write(self, file: HashingFile) -> None:
        """Ids (int64), then rows (float32)."""
        if not len(self._ids):
            return
        file.write(np.ascontiguousarray(self._ids, "<i8").data)
        for start in range(0, len(self._ids), BLOCK_ROWS):
            file.write(np.ascontiguousarray(self._vectors[start : start + BLOCK_ROWS], "<f4").data)

    @classmethod
    def _read(cls, files: Mapping[str, memoryview], facts: Mapping[str, Any]) -> Self:
        n, dim, data = facts["n"], facts["dim"], files["rows"]
        if len(data) != n * (8 + 4 * dim):
            raise ValueError(f"{len(data)} bytes of {n} rows of length {dim}")
        ids = np.frombuffer(data, "<i8", n)
        check_ascending(ids)
        return cls(ids, np.frombuffer(data, "<f4", n * dim, 8 * n).reshape(n, dim))


def read_faiss(data: memoryview) -> Any:
    """What faiss wrote, from bytes whose digest was checked."""
    place = 0

    def read(size: int) -> bytes:
        nonlocal place
        place += size
        return bytes(data[place - size : place])

    return faiss.read_index(faiss.PyCallbackIOReader(read))


def check_ascending(ids: IntArray) -> None:
    """ValueError unless ids are not negative and ascending."""
    if len(ids) and (ids[0] < 0 or (np.diff(ids) <= 0).any()):
        raise ValueError("its ids are not in ascending order")


def scan_rows(take: Take, ids: IntArray, queries: FloatArray, k: int, rows: IntArray) -> Hits:
    """The exact best `k` among some rows, block after block of copied rows.

    Parameters
    ----------
    take : callable
    ids : ndarray of shape (n,), int64, ascending
    queries : ndarray of shape (n_queries, dim), float32
    k : int
    rows : ndarray of shape (m,), int64, ascending
        Where in `ids`.
    """
    hits = no_hits(len(queries), k)
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS]
        vectors = take(block)
        hits = merge([hits, top(vectors, ids[block], queries, k, all_of(vectors))], k)
    return hits


def all_of(vectors: FloatArray) -> Fetch:
    """Let faiss rank all rows of a matrix, by one matrix product where there are many queries."""

    def fetch(queries: FloatArray, count: int) -> tuple[FloatArray, IntArray]:
        with _products_early():
            found: tuple[FloatArray, IntArray] = faiss.knn(queries, vectors, count, metric=faiss.METRIC_INNER_PRODUCT)
        return found

    return fetch


@contextmanager
def _products_early() -> Iterator[None]:
    """Let faiss compute matrix products from a few queries on.

    faiss 1.15 does so from 128,000 numbers in the queries on (250 of them at d = 512), and takes 218 ms for 64 queries
    over 16,384 vectors where the product takes 21. Earlier versions count queries, from 20 on: they are left alone.
    The setting is faiss's own for the whole process, so it is set back; it changes speed and nothing else.
    """
    before = faiss.cvar.distance_compute_blas_threshold
    if before <= PRODUCTS_FROM:
        yield
        return
    faiss.cvar.distance_compute_blas_threshold = PRODUCTS_FROM
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = before


def top(
    vectors: FloatArray,
    ids: IntArray,
    queries: FloatArray,
    k: int,
    fetch: Fetch,
    excluded: int = 0,
    may: BoolArray | None = None,
) -> Hits:
    """The exact best `k` rows of a matrix for each query.

    Parameters
    ----------
    vectors : ndarray of shape (n, dim), float32
    ids : ndarray of shape (n,), int64, ascending
    queries : ndarray of shape (n_queries, dim), float32
    k : int
    fetch : callable
        Finds candidates among all rows, or among those that `may`.
    excluded : int
        How many rows that may not be found `fetch` can return.
    may : ndarray of shape (n,), bool, optional
        Which rows may be found.
    """
    count = min(len(vectors), k + SPARE + excluded)
    error = float32_error(vectors.shape[1])
    approximate, rows = fetch(queries, count)
    # Every row that was not fetched scores at most so much, its float32 error included.
    rest = np.where(rows[:, -1] >= 0, approximate[:, -1].astype(np.float64) + error, -np.inf)
    if count == len(vectors):
        rest[:] = -np.inf
    if may is not None:
        rows, approximate = drop_rows(rows, approximate, may)
    useful = useful_candidates(approximate, k, error)
    found_ids, found_scores = best(*rescored(vectors.__getitem__, ids, queries, rows[:, :useful]), k)
    last = found_scores[:, -1].astype(np.float64)
    # At -1, clamping makes ties of rows that differ, so nothing below can be ruled out.
    unsure = np.flatnonzero((rest >= last) | ((last <= -1) & (rest > -np.inf)))
    for query in unsure:
        floor = last[query] - error if last[query] > -1 else -np.inf
        hits = _scan(vectors, ids, queries[query], k, floor, may)
        found_ids[query], found_scores[query] = hits[0][0], hits[1][0]
    return found_ids, found_scores


def float32_error(dim: int) -> float:
    """How far a float32 inner product of unit vectors, in any order of summation, can be from the score.

    The textbook bound dim·u·|x||y| (Higham 2002, section 3.1), with room for lengths that are off by
    `UNIT_TOLERANCE` and for rounding the exact product to float32.
    """
    return 1.05 * (dim + 4) * 2.0**-24


def drop_rows(rows: IntArray, scores: FloatArray, may: BoolArray) -> tuple[IntArray, FloatArray]:
    """Candidates without those that may not be found; the others keep their order and move up."""
    keep = (rows >= 0) & may[rows]
    order = np.argsort(~keep, axis=1, kind="stable")
    kept_rows = np.take_along_axis(np.where(keep, rows, -1), order, axis=1)
    kept_scores = np.take_along_axis(np.where(keep, scores, np.float32(-np.inf)), order, axis=1)
    return kept_rows, kept_scores


def useful_candidates(approximate: FloatArray, k: int, error: float) -> int:
    """How many leading candidates can be among the best `k` of any query."""
    if approximate.shape[1] <= k:
        return int(approximate.shape[1])
    last = approximate[:, k - 1].astype(np.float64)
    # Clamping turns all that is above 1, or below -1, into ties, of which none may be left out.
    floor = np.where(last <= error - 1, -np.inf, np.minimum(last, 1) - 2 * error)
    near: IntArray = (approximate >= floor[:, None]).sum(axis=1)
    return int(near.max())


def rescored(take: Take, ids: IntArray, queries: FloatArray, rows: IntArray) -> tuple[IntArray, FloatArray]:
    """Ids and scores of candidate rows of shape (n_queries, c); -1 stays -1 and scores -inf."""
    scores = np.empty(rows.shape, dtype=np.float32)
    step = max(1, RESCORE_BYTES // (8 * queries.shape[1] * max(1, rows.shape[1])))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        # Products of two float32 are exact in float64; each sum runs along one contiguous row, so its
        # order depends on the length alone.
        products = take(rows[part]).astype(np.float64) * queries[part, None, :]
        scores[part] = clamped(products.sum(axis=2))
    scores[rows < 0] = -np.inf
    return np.where(rows >= 0, ids[rows], -1), scores


def _scan(vectors: FloatArray, ids: IntArray, query: FloatArray, k: int, floor: float, may: BoolArray | None) -> Hits:
    """The best `k` of one query by looking at every row: many rows are as good as the last hit."""
    hits = no_hits(1, k)
    for start in range(0, len(vectors), BLOCK_ROWS):
        block = slice(start, start + BLOCK_ROWS)
        near = vectors[block] @ query >= floor
        rows = np.flatnonzero(near if may is None else near & may[block])[None, :]
        hits = merge([hits, rescored(vectors[block].__getitem__, ids[block], query[None, :], rows)], k)
    return hits
