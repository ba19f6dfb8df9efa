"""Shards: immutable Parquet files of unit vectors, written once, read with their page checksums.

A vector is stored as fixed-size bytes (little-endian IEEE float16) and not as a list of floats, because
reading is then a copy and a cast: see FORMAT.md for decoders in NumPy and Polars.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from vecstore.errors import DataError, StoreDamaged
from vecstore.files import HashingFile, make_folder, os_errors
from vecstore.records import FloatArray, IntArray, Value

ROW_GROUP = 8192
_CAST_ROWS = 256  # a block that stays in the processor's second-level cache while it is cast
_SIGN_AND_VALUE = np.int32(-1879056384)  # 0x8fffe000: sign, exponent and mantissa of a shifted float16
_UNIT_TOLERANCE = 2e-3  # float16 rounding moves the length of a unit vector by less than 1e-3


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A shard as the catalog registers it: `first` and `last` are content ids."""

    sha256: bytes
    rows: int
    bytes: int
    first: int
    last: int


def schema(dim: int) -> pa.Schema:
    """The Parquet schema of a shard of `dim`-dimensional vectors."""
    return pa.schema(
        [
            pa.field("content", pa.int64(), nullable=False),
            pa.field("hash", pa.binary(16), nullable=False),
            pa.field("vector", pa.binary(2 * dim), nullable=False),
        ]
    )


def check_vectors(vectors: FloatArray) -> npt.NDArray[np.bool_]:
    """Which rows may enter a store: finite and of unit length.

    Parameters
    ----------
    vectors : ndarray of shape (n, d), float32

    Returns
    -------
    ndarray of shape (n,), bool
    """
    squares = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    good: npt.NDArray[np.bool_] = np.isfinite(squares) & (np.abs(squares - 1.0) < _UNIT_TOLERANCE)
    return good


def write_shard(
    folder: Path, contents: IntArray, hashes: Sequence[bytes], vectors: npt.NDArray[np.float16]
) -> ShardFile:
    """Write a shard under the name of its own SHA-256; synced when this returns.

    Parameters
    ----------
    folder : Path
        `shards/<space id>`; made if it is not there.
    contents : ndarray of shape (n,), int64
        Content ids, without repetition, in any order.
    hashes : sequence of n bytes objects of length 16
    vectors : ndarray of shape (n, d), float16
        Finite, of unit length.

    Raises
    ------
    DataError
        A vector is not finite or not of unit length.
    DiskFull, NotWritable
        No file is left behind.
    """
    if not len(contents) == len(hashes) == len(vectors) > 0 or {len(h) for h in hashes} != {16}:
        raise DataError(
            f"{len(contents)} contents, {len(hashes)} hashes and {len(vectors)} vectors",
            expected="as many of each, at least one, and hashes of 16 bytes",
        )
    good = check_vectors(vectors.astype(np.float32))
    if not good.all():
        raise DataError(
            f"{int((~good).sum())} of {len(good)} vectors are not finite or not of unit length",
            expected="unit vectors",
        )
    order = np.argsort(contents, kind="stable")
    if (np.diff(contents[order]) == 0).any():
        raise DataError("a content twice in one shard", expected="one vector for each")
    contents, vectors = contents[order], np.ascontiguousarray(vectors[order].astype("<f2", copy=False))
    dim = vectors.shape[1]
    table = pa.Table.from_arrays(
        [
            # From its buffer: pa.array would import pandas, where that is installed, to ask whether this is a Series.
            pa.Array.from_buffers(pa.int64(), len(contents), [None, pa.py_buffer(np.ascontiguousarray(contents))]),
            _fixed_bytes(b"".join(hashes[i] for i in order), 16, len(contents)),
            _fixed_bytes(vectors, 2 * dim, len(contents)),
        ],
        schema=schema(dim),
    )
    make_folder(folder)
    with os_errors(str(folder)):
        file = HashingFile(folder)
        try:
            writer = pq.ParquetWriter(
                file,
                table.schema,
                compression="none",
                use_dictionary=False,
                write_statistics=False,
                write_page_checksum=True,
                store_schema=False,
            )
            with writer:
                writer.write_table(table, row_group_size=ROW_GROUP)
            digest = file.sha256.digest()
            file.publish(folder / f"{digest.hex()}.parquet")
        except BaseException:
            file.discard()
            raise
    return ShardFile(digest, len(contents), file.bytes, int(contents[0]), int(contents[-1]))


def _fixed_bytes(data: Any, width: int, rows: int) -> pa.Array:
    return pa.Array.from_buffers(pa.binary(width), rows, [None, pa.py_buffer(data)])


def cast_rows(source: npt.NDArray[np.float16], target: FloatArray) -> None:
    """Cast finite float16 to float32, exactly, about four times faster than NumPy's own cast.

    The bits of a float16, sign-extended and shifted, are a float32 that is 2**112 times too small,
    subnormal numbers included.

    Parameters
    ----------
    source : ndarray of shape (n, d), float16, C-contiguous
    target : ndarray of shape (n, d), float32

    Examples
    --------
    >>> target = np.empty((1, 4), np.float32)
    >>> cast_rows(np.array([[0.5, -0.25, 6e-8, -0.0]], np.float16), target)
    >>> target
    array([[ 5.0000000e-01, -2.5000000e-01,  5.9604645e-08, -0.0000000e+00]],
          dtype=float32)
    """
    words = source.view(np.int16)
    for start in range(0, len(words), _CAST_ROWS):
        block = target[start : start + _CAST_ROWS]
        bits = block.view(np.int32)
        np.copyto(bits, words[start : start + _CAST_ROWS])
        bits <<= 13
        bits &= _SIGN_AND_VALUE
        block *= np.float32(2.0**112)


@contextmanager
def _opened(path: Path, dim: int, rows: int, size_bytes: int) -> Iterator[pq.ParquetFile]:
    """A registered shard, after its size, schema and row count were compared with the catalog's."""
    try:
        with os_errors(str(path)):
            found = path.stat().st_size
            if found != size_bytes:
                raise _damaged(path, f"has {found} bytes", str(size_bytes))
            with pq.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
                if file.metadata.num_rows != rows or not file.schema_arrow.equals(schema(dim)):
                    raise _damaged(path, "is not what the catalog says", f"{rows} rows, {dim} dimensions")
                yield file
    except FileNotFoundError as error:
        raise _damaged(path, "is missing", f"a shard of {rows} vectors") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise _damaged(path, f"can't be read: {reason}", "pages that agree with their checksums") from error


def _damaged(path: Path, fact: str, expected: str) -> StoreDamaged:
    return StoreDamaged(f"{path} {fact}", expected, do="restore it from a copy of the store")


def read_column(path: Path, name: str, dim: int, rows: int, size_bytes: int) -> pa.ChunkedArray:
    """One column of a registered shard ("content" or "hash")."""
    with _opened(path, dim, rows, size_bytes) as file:
        column = file.read([name])[name]
    if len(column) != rows or column.null_count:
        raise _damaged(path, f"gives {len(column)} rows", str(rows))
    return column


def read_contents(path: Path, dim: int, rows: int, size_bytes: int) -> IntArray:
    """Content ids of a registered shard, ascending: ndarray of shape (rows,), int64."""
    chunks = read_column(path, "content", dim, rows, size_bytes).chunks
    return np.concatenate([_integers(chunk) for chunk in chunks])


def _integers(column: pa.Array) -> IntArray:
    """An int64 column as it lies in memory; its `to_numpy` would import pandas, where that is installed."""
    return np.frombuffer(column.buffers()[1], np.int64, count=len(column), offset=8 * column.offset)


def iter_vectors(
    path: Path, dim: int, rows: int, size_bytes: int
) -> Iterator[tuple[IntArray, npt.NDArray[np.float16]]]:
    """Blocks of a registered shard, in order.

    Checksums cover what is in a page, but neither a page's header nor the footer; rows that are missing
    or out of order show that one of these was hit.

    Yields
    ------
    contents : ndarray of shape (m,), int64
    vectors : ndarray of shape (m, dim), float16
        A view that is valid until the next block.
    """
    total, last = 0, -1
    with _opened(path, dim, rows, size_bytes) as file:
        for batch in file.iter_batches(batch_size=ROW_GROUP, columns=["content", "vector"]):
            content, column = batch.columns
            if content.null_count or column.null_count:
                raise _damaged(path, "has empty values", f"{rows} rows")
            ids = _integers(content)
            if column.type.byte_width != 2 * dim or ids[0] <= last or (np.diff(ids) <= 0).any():
                raise _damaged(path, "has rows that are out of order", f"{rows} rows sorted by content")
            total, last = total + len(ids), ids[-1]
            data = column.buffers()[1]
            flat = np.frombuffer(data, "<f2", count=len(column) * dim, offset=column.offset * 2 * dim)
            yield ids, flat.reshape(-1, dim)
    if total != rows:
        raise _damaged(path, f"gives {total} rows", str(rows))


def write_export(path: Path, vectors: FloatArray, ids: IntArray, columns: Mapping[str, Sequence[Value]]) -> None:
    """Write vectors for others to read: Parquet with `FixedSizeList<float32>`.

    Parameters
    ----------
    path : Path
        An existing file is replaced, whole or not at all.
    vectors : ndarray of shape (n, d), float32
    ids : ndarray of shape (n,), int64
        Item ids.
    columns : mapping
        Further columns by name, n values each.
    """
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    names = ["item_id", *columns, "vector"]
    arrays = [
        pa.array(ids),
        *(pa.array(list(values)) for values in columns.values()),
        pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
    ]
    with os_errors(str(path)):
        file = HashingFile(path.parent)
        try:
            pq.write_table(pa.Table.from_arrays(arrays, names), file, use_dictionary=list(columns))
            file.publish(path)
        except BaseException:
            file.discard()
            raise
