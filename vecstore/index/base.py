"""The contract of an index, the order of hits, and what is written when one is saved."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from vecstore.errors import DataError, StoreError, UsageError
from vecstore.files import BlockSha256, HashingFile, canonical_json, make_folder, os_errors, sync_folder, write_file
from vecstore.records import BoolArray, DoubleArray, FloatArray, IntArray

FORMAT = 4
"""Raised when `index.json` or the meaning of the other files changes; another number is rebuilt, never converted."""

UNIT_TOLERANCE = 0.01
"""How far from 1 a length may be: float16 moves the length of a unit vector by at most 0.0005."""

HalfArray = npt.NDArray[np.float16]

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
    """Library and version that writes the files, for the record."""
    exact: ClassVar[bool]
    """Whether every vector is compared, so that nothing can be missed."""

    @classmethod
    @abstractmethod
    def build(cls, ids: IntArray, vectors: FloatArray | HalfArray) -> Self:
        """Make an index of vectors.

        Parameters
        ----------
        ids : ndarray of shape (n,), int64
            Not negative, each once, in any order.
        vectors : ndarray of shape (n, dim), float32 or float16
            Finite rows of unit length (within `UNIT_TOLERANCE`). They are copied. What float16 did to the length of a
            row is made good: scores are those of `unit_rows`.

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
    def take(self, ids: IntArray) -> FloatArray:
        """Vectors as they are compared: ids (m,), all in the index, to ndarray of shape (m, dim), float32."""

    @property
    def facts(self) -> dict[str, Any]:
        """What is worth knowing beyond kind and size, as JSON values: design, parameters, measured recall."""
        return {}

    @abstractmethod
    def extended(self, ids: IntArray, vectors: FloatArray | HalfArray) -> Self:
        """An index that also has further vectors; this one may not be used any more. Arguments as of `build`."""

    @abstractmethod
    def search(self, queries: FloatArray, k: int, allowed: IntArray | BoolArray | None = None) -> Hits:
        """Find the `k` nearest vectors of each query.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, dim), float32
            Finite rows of unit length.
        k : int
            At least 1.
        allowed : ndarray of shape (n_allowed,), int64, or (n,), bool, optional
            Only these ids may be found: in any order, and ids that the index does not have are passed over; or one
            value for each of `ids`, which costs nothing to look up.

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

    def whole(self, queries: FloatArray, k: int, allowed: IntArray | BoolArray | None = None) -> Hits:
        """`search` with all vectors compared, so that nothing can be missed."""
        return self.search(queries, k, allowed)

    def beside(self, hits: Hits, queries: FloatArray, k: int, allowed: IntArray | BoolArray | None = None) -> Hits:
        """Complete the hits of an index that lacks these vectors, because they are newer.

        Parameters
        ----------
        hits : Hits
            The best `k` that the other index has for each query.
        queries, k, allowed
            As of `search`.

        Returns
        -------
        Hits
            As of `merge`.
        """
        return merge([hits, self.search(queries, k, allowed)], k)

    @abstractmethod
    def _files(self) -> dict[str, Callable[[HashingFile], None]]:
        """What writes each file of a saved index, by the file's suffix."""

    @classmethod
    @abstractmethod
    def _read(cls, files: Mapping[str, memoryview], facts: Mapping[str, Any]) -> Self:
        """Inverse of `_files` for bytes whose digests were checked; ValueError for anything unexpected in them."""

    def save(self, folder: Path, covers: Mapping[str, Any]) -> str:
        """Write the files under the names of their digests, and then `index.json`, which makes them valid.

        Parameters
        ----------
        folder : Path
            Created if absent. An older index in it stays valid until `index.json` is replaced, and is then removed:
            stopped half-way, the old one is used on.
        covers : mapping
            What the vectors are, in the caller's words, as JSON values: `kinds.open_index` returns it.

        Returns
        -------
        str
            Hex SHA-256 of `index.json`'s facts.

        Raises
        ------
        DiskFull, NotWritable
        """
        make_folder(folder)
        files: dict[str, dict[str, Any]] = {}
        for suffix, write in self._files().items():
            with os_errors(str(folder)):
                file = HashingFile(folder, digest=BlockSha256())
                try:
                    write(file)
                    digest = file.sha256.hexdigest()
                    name = f"index-{digest[:16]}.{suffix}"
                    file.publish(folder / name)
                except BaseException:
                    file.discard()
                    raise
            files[suffix] = {"name": name, "bytes": file.bytes, "sha256": digest}
        facts = {
            "format": FORMAT,
            "kind": self.kind,
            "n": len(self.ids),
            "dim": self.dim,
            "files": files,
            "engine": self.engine,
            "facts": self.facts,
            "covers": dict(covers),
        }
        text = seal(facts)
        write_file(folder / "index.json", text.encode())
        named = {told["name"] for told in files.values()}
        with suppress(OSError):  # what is left over costs space only, and the next save tries again
            for old in folder.glob("index*.*"):
                if old.name != "index.json" and old.name not in named:
                    old.unlink()
            sync_folder(folder)
        seal_of: str = json.loads(text)["seal"]
        return seal_of


def seal(facts: Mapping[str, Any]) -> str:
    """Canonical JSON of `facts` with the SHA-256 of that JSON added under "seal".

    A flipped byte in the list of covered shards would otherwise be read as another list.
    """
    own = hashlib.sha256(canonical_json(facts).encode()).hexdigest()
    return canonical_json({**facts, "seal": own})


_CAST_ROWS = 256  # a block that stays in the processor's second-level cache while it is cast
_SIGN_AND_VALUE = np.int32(-1879056384)  # 0x8fffe000: sign, exponent and mantissa of a shifted float16


def single(rows: HalfArray) -> FloatArray:
    """float16 as float32, exactly, about four times faster than NumPy's own cast.

    The bits of a float16, sign-extended and shifted, are a float32 that is 2**112 times too small. What is not
    finite comes out as 65536 or more, which no vector of unit length has.

    >>> single(np.array([[0.5, -0.25, 6e-8]], np.float16))
    array([[ 5.0000000e-01, -2.5000000e-01,  5.9604645e-08]], dtype=float32)
    """
    source = np.ascontiguousarray(rows).view(np.int16)
    result = np.empty(rows.shape, np.float32)
    flat_in, flat_out = source.reshape(-1, rows.shape[-1]), result.reshape(-1, rows.shape[-1])
    for start in range(0, len(flat_in), _CAST_ROWS):
        block = flat_out[start : start + _CAST_ROWS]
        bits = block.view(np.int32)
        np.copyto(bits, flat_in[start : start + _CAST_ROWS])
        bits <<= 13
        bits &= _SIGN_AND_VALUE
        block *= np.float32(2.0**112)
    return result


def halved(rows: FloatArray | HalfArray) -> HalfArray:
    """Rows as float16; as they are where they are.

    float32 that was float16 once, as a store hands it out, is cast by its bits, several times faster than by NumPy.

    >>> halved(np.array([[0.5, -0.25, 5.9604645e-08, 0.3]], np.float32))
    array([[ 5.0e-01, -2.5e-01,  6.0e-08,  3.0e-01]], dtype=float16)
    """
    if rows.dtype == np.float16:
        return np.asarray(rows, np.float16)
    given = np.ascontiguousarray(rows, np.float32)
    result = np.empty(given.shape, np.float16)
    for start in range(0, len(given), _CAST_ROWS):
        block = given[start : start + _CAST_ROWS]
        bits = (block * np.float32(2.0**-112)).view(np.int32)
        halves = ((bits >> 13) & 0x7FFF | (bits >> 16) & -0x8000).astype(np.int16).view(np.float16)
        exact = single(halves) == block
        result[start : start + _CAST_ROWS] = halves if exact.all() else block.astype(np.float16)
    return result


def unit_rows(rows: FloatArray | HalfArray) -> FloatArray:
    """Rows as an index compares them: float32 as they are, float16 brought back to length 1.

    float16 moves the length of a unit vector by up to 0.0005; without it, a vector's cosine with itself is not 1.
    A row's result depends on that row alone.

    Parameters
    ----------
    rows : ndarray of shape (..., dim), float32 or float16
    """
    if rows.dtype != np.float16:
        return np.asarray(rows, np.float32)
    wide = single(np.asarray(rows, np.float16))
    for start in range(0, len(wide), _CAST_ROWS):
        block = wide[start : start + _CAST_ROWS]
        block /= np.sqrt((block * block).sum(axis=-1, keepdims=True))
    return wide


def allowed_rows(ids: IntArray, allowed: IntArray | BoolArray | None) -> BoolArray | None:
    """`allowed` of `Index.search` as one value per row; None where all are.

    Parameters
    ----------
    ids : ndarray of shape (n,), int64, ascending
    allowed : ndarray of shape (m,), int64, or (n,), bool, or None

    Raises
    ------
    UsageError
        As many values as there are not ids.
    """
    if allowed is None:
        return None
    given = np.asarray(allowed)
    if given.dtype == np.bool_:
        if given.shape != ids.shape:
            raise UsageError(
                f"a filter of shape {given.shape} for {len(ids)} vectors", expected="a value for each, or ids"
            )
        flags = np.asarray(given, np.bool_)
        return None if flags.all() else flags
    may = np.zeros(len(ids), np.bool_)
    asked = given.astype(np.int64, copy=False).ravel()
    if len(ids) and len(asked):
        places = np.minimum(np.searchsorted(ids, asked), len(ids) - 1)
        may[places[ids[places] == asked]] = True
    return None if may.all() else may


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
