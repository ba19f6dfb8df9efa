"""The contract of an index, the order of hits, and what is written when one is saved."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from vecstore.errors import DataError, StoreError, UsageError
from vecstore.files import HashingFile, canonical_json, make_folder, write_file
from vecstore.records import DoubleArray, FloatArray, IntArray

FORMAT = 1
"""Raised when `index.json` or the meaning of `index.faiss` changes; another number is rebuilt, never converted."""

UNIT_TOLERANCE = 0.01
"""How far from 1 a length may be: float16 moves the length of a unit vector by at most 0.0005."""

Hits = tuple[IntArray, FloatArray]
"""Ids (n_queries, k), -1 where there is none, and their scores (n_queries, k), -inf where there is none."""


class IndexUnusable(StoreError):
    """A saved index is absent, damaged, of another format or not ours: build it again from the shards."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(
            f"the index in {folder} can't be used: {reason}",
            expected="the files that the last build left",
            do="delete the folder: an index is a cache and is built again when needed",
            folder=folder,
            reason=reason,
        )


class Index(ABC):
    """Vectors by id, and the nearest of them to a query.

    All kinds follow one rule for their hits: sorted by score from the highest, equal scores by id from the
    lowest; a score is the inner product in float64, rounded to float32 and clamped to [-1, 1], so it depends on
    nothing but the two vectors.
    """

    kind: ClassVar[str]
    engine: ClassVar[str]
    """Library and version that writes `index.faiss`, for the record."""

    @classmethod
    @abstractmethod
    def build(cls, ids: IntArray, vectors: FloatArray) -> Self:
        """Make an index of vectors.

        Parameters
        ----------
        ids : ndarray of shape (n,), int64
            Not negative, each once, in any order.
        vectors : ndarray of shape (n, dim), float32
            Finite rows of unit length (within `UNIT_TOLERANCE`). They are copied.

        Raises
        ------
        DataError
            Other shapes, a repeated or negative id, a row that is not finite or not of unit length.
        """

    @property
    @abstractmethod
    def ids(self) -> IntArray:
        """All ids, ascending: ndarray of shape (n,), int64."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length of the vectors."""

    @abstractmethod
    def search(self, queries: FloatArray, k: int, allowed: IntArray | None = None) -> Hits:
        """Find the `k` nearest vectors of each query.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, dim), float32
            Finite rows of unit length.
        k : int
            At least 1.
        allowed : ndarray of shape (n_allowed,), int64, optional
            Only these ids may be found. In any order; ids that the index does not have are passed over.

        Returns
        -------
        ids : ndarray of shape (n_queries, k), int64
            Exactly `k` where as many exist among the allowed; -1 in the rest.
        scores : ndarray of shape (n_queries, k), float32
            Cosine similarity, -1 to 1; -inf where the id is -1.

        Raises
        ------
        DataError
            Queries of another length, not finite or not of unit length.
        UsageError
            `k` below 1.
        """

    @abstractmethod
    def _write(self, file: HashingFile) -> None:
        """Write `index.faiss`."""

    @classmethod
    @abstractmethod
    def _read(cls, data: bytes, n: int, dim: int) -> Self:
        """Inverse of `_write` for bytes whose digest was checked; ValueError for anything unexpected in them."""

    def save(self, folder: Path, covers: Mapping[str, Any]) -> str:
        """Write `index.faiss` and then `index.json`, which makes it valid.

        Parameters
        ----------
        folder : Path
            Created if absent; an older index in it is replaced. Stopped half-way, it is unusable, never wrong.
        covers : mapping
            What the vectors are, in the caller's words, as JSON values: `kinds.open_index` returns it.

        Returns
        -------
        str
            Hex SHA-256 of `index.faiss`.

        Raises
        ------
        DiskFull, NotWritable
        """
        make_folder(folder)
        digest = write_file(folder / "index.faiss", self._write)
        facts = {
            "format": FORMAT,
            "kind": self.kind,
            "n": len(self.ids),
            "dim": self.dim,
            "bytes": (folder / "index.faiss").stat().st_size,
            "sha256": digest,
            "engine": self.engine,
            "covers": dict(covers),
        }
        write_file(folder / "index.json", seal(facts).encode())
        return digest


def seal(facts: Mapping[str, Any]) -> str:
    """Canonical JSON of `facts` with the SHA-256 of that JSON added under "seal".

    A flipped byte in the list of covered shards would otherwise be read as another list.
    """
    own = hashlib.sha256(canonical_json(facts).encode()).hexdigest()
    return canonical_json({**facts, "seal": own})


def checked_vectors(vectors: FloatArray, dim: int | None, what: str) -> FloatArray:
    """Vectors as one contiguous float32 matrix, refused unless finite and of unit length.

    Parameters
    ----------
    vectors : ndarray of shape (n, dim), float32
    dim : int or None
        The length they must have; None for any.
    what : str
        What a row is called in messages, e.g. "query".

    Raises
    ------
    DataError
    """
    matrix = np.ascontiguousarray(vectors, dtype=np.float32)
    if matrix.ndim != 2 or matrix.shape[1] == 0 or (dim is not None and matrix.shape[1] != dim):
        raise DataError(
            f"{what} vectors of shape {matrix.shape}",
            expected=f"(n, {dim or 'dim'})",
            do="give a matrix with one row per vector, made by the encoder of this space",
        )
    # A row with NaN or infinity gives a length that fails the comparison too.
    lengths = np.sqrt(np.einsum("nd,nd->n", matrix, matrix))
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= UNIT_TOLERANCE))
    if len(wrong):
        raise DataError(
            f"{what} {wrong[0]} has length {lengths[wrong[0]]:.6g} ({len(wrong)} such of {len(matrix)})",
            expected="finite vectors of unit length",
            do="embed the picture again, or divide each row by its length",
            rows=wrong,
        )
    return matrix


def checked_ids(ids: IntArray, n: int) -> IntArray:
    """Ids as int64, refused unless there are `n`, none negative, none repeated.

    Raises
    ------
    DataError
    """
    given = np.asarray(ids)
    if given.shape != (n,) or (n and given.dtype.kind not in "iu"):
        raise DataError(
            f"ids of shape {given.shape} and type {given.dtype} for {n} vectors",
            expected=f"({n},) integers",
            do="give one id per vector",
        )
    values: IntArray = given.astype(np.int64)
    if n and values.min() < 0:
        raise DataError(f"id {values.min()}", expected="ids from 0", do="-1 means 'none' in the hits")
    ordered = np.sort(values)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(repeated):
        raise DataError(
            f"id {repeated[0]} is given more than once",
            expected="one vector per id",
            do="keep the vector of the shard with the lowest id",
        )
    return values


def checked_k(k: int) -> int:
    """`k`, refused below 1.

    Raises
    ------
    UsageError
    """
    if k < 1:
        raise UsageError(f"k = {k}", expected="at least 1", do="say how many similar cases are wanted")
    return int(k)


def no_hits(n_queries: int, k: int) -> Hits:
    """Hits that are all padding."""
    return np.full((n_queries, k), -1, dtype=np.int64), np.full((n_queries, k), -np.inf, dtype=np.float32)


def clamped(products: DoubleArray) -> FloatArray:
    """Inner products as scores: rounded to float32, clamped to [-1, 1].

    >>> clamped(np.array([1.0001, 0.25]))
    array([1.  , 0.25], dtype=float32)
    """
    scores: FloatArray = np.clip(products.astype(np.float32), np.float32(-1), np.float32(1))
    return scores


def best(ids: IntArray, scores: FloatArray, k: int) -> Hits:
    """The first `k` of candidates by (score descending, id ascending), padded to `k`.

    Parameters
    ----------
    ids : ndarray of shape (n_queries, c), int64
        -1 where there is none.
    scores : ndarray of shape (n_queries, c), float32
        -inf where the id is -1.
    k : int

    Returns
    -------
    Hits

    Examples
    --------
    >>> best(np.array([[7, 3, 5, -1]]), np.float32([[0.5, 0.5, 0.75, -np.inf]]), 2)
    (array([[5, 3]]), array([[0.75, 0.5 ]], dtype=float32))
    """
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    top_ids, top_scores = no_hits(len(ids), k)
    top_ids[:, : order.shape[1]] = np.take_along_axis(ids, order, axis=1)
    top_scores[:, : order.shape[1]] = np.take_along_axis(scores, order, axis=1)
    return top_ids, top_scores


def merge(results: list[Hits], k: int) -> Hits:
    """Hits of several indexes as if they had been one: an index and the exact tail of newer vectors.

    Parameters
    ----------
    results : list of Hits
        At least one, of the same queries; each with the best `k` of its vectors. No id is in two of them.
    k : int

    Returns
    -------
    Hits

    Raises
    ------
    UsageError
        Nothing to merge, or other numbers of queries.
    """
    if not results or len({len(ids) for ids, _ in results}) > 1:
        raise UsageError(
            f"hits of {[len(ids) for ids, _ in results]} queries",
            expected="at least one result, all of the same queries",
            do="search every index with the same matrix of queries",
        )
    ids = np.concatenate([ids for ids, _ in results], axis=1)
    scores = np.concatenate([scores for _, scores in results], axis=1)
    return best(ids, scores, checked_k(k))
