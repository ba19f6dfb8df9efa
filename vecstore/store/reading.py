"""Taking vectors out of shards by content, and models out of their folders."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vecstore.errors import NotFound, StoreDamaged
from vecstore.files import canonical_json
from vecstore.records import BoolArray, IntArray
from vecstore.store.shards import cast_rows, iter_vectors

if TYPE_CHECKING:
    from vecstore.store.store import ShardRow, Space, Store


_ALONE_ROWS = 20_000
"""Fewer rows than this are read faster by one thread than threads are started."""


def take(store: Store, spaces: Sequence[Space], contents: IntArray, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Vectors of contents in the order asked for; see `Store.vectors`."""
    contents = np.asarray(contents, np.int64)
    wanted, places = contents, np.arange(len(contents))
    again = np.empty(0, np.int64)
    if not (contents[1:] > contents[:-1]).all():
        wanted, places, inverse = np.unique(contents, return_index=True, return_inverse=True)
        first = places[inverse.reshape(-1)]
        again = np.flatnonzero(first != np.arange(len(contents)))
    # Straight to where they belong: of very many vectors there is room for one matrix, and not for two.
    result = np.empty((len(contents), sum(space.dim for space in spaces)), dtype)
    start = 0
    for space in spaces:
        _fill(store, space, wanted, places, result[:, start : start + space.dim])
        start += space.dim
    if len(again):
        result[again] = result[first[again]]
    return result


def _fill(store: Store, space: Space, wanted: IntArray, places: IntArray, result: npt.NDArray[Any]) -> None:
    """Vectors of ascending contents into their rows of the result; several shards at a time."""
    missing = np.ones(len(wanted), bool)
    useful = [s for s in store.shards(space) if np.subtract(*np.searchsorted(wanted, (s.last + 1, s.first)))]

    def fill(chain: Sequence[ShardRow]) -> None:
        for shard in chain:
            path = store.shard_path(space, shard.sha256)
            for ids, vectors in iter_vectors(path, space.dim, shard.rows, shard.bytes):
                _copy(ids, vectors, wanted, places, result, missing)

    chains = _chains(useful)
    if len(chains) == 1 or sum(shard.rows for shard in useful) < _ALONE_ROWS:
        for chain in chains:
            fill(chain)
    else:
        with ThreadPoolExecutor(min(len(chains), os.cpu_count() or 1, 4)) as pool:
            list(pool.map(fill, chains))
    if missing.any():
        raise NotFound(
            f"{int(missing.sum())} of {len(wanted)} contents have no vector in the space {space.name!r}",
            expected="a space that covers these items",
            do=f"embed them: vecstore ingest ARCHIVE --store {store.path} --encoder {space.passport.encoder}",
        )


def _chains(shards: Sequence[ShardRow]) -> list[list[ShardRow]]:
    """Shards whose ranges of contents touch, lowest id first: a chain can be read beside any other."""
    chains: list[list[ShardRow]] = []
    end = -1
    for shard in sorted(shards, key=lambda shard: shard.first):
        if shard.first > end:
            chains.append([])
        chains[-1].append(shard)
        end = max(end, shard.last)
    return [sorted(chain, key=lambda shard: shard.id) for chain in chains]


def _copy(
    ids: IntArray,
    vectors: npt.NDArray[np.float16],
    wanted: IntArray,
    places: IntArray,
    result: npt.NDArray[Any],
    missing: BoolArray,
) -> None:
    """Put those rows of a block that are wanted and still missing into their places."""
    start, stop = np.searchsorted(wanted, (ids[0], ids[-1] + 1))
    if start == stop:
        return
    asked, rows_of = wanted[start:stop], places[start:stop]
    whole = len(asked) == len(ids) and missing[start:stop].all() and np.array_equal(asked, ids)
    if whole and (np.diff(rows_of) == 1).all():
        _put(vectors, result[rows_of[0] : rows_of[-1] + 1])
        missing[start:stop] = False
        return
    rows = np.minimum(np.searchsorted(ids, asked), len(ids) - 1)
    fresh = (ids[rows] == asked) & missing[start:stop]  # of several, the shard with the lowest id counts
    block = np.empty((int(fresh.sum()), result.shape[1]), result.dtype)
    _put(np.ascontiguousarray(vectors[rows[fresh]]), block)
    result[rows_of[fresh]] = block
    missing[start:stop][fresh] = False


def _put(vectors: npt.NDArray[np.float16], target: npt.NDArray[Any]) -> None:
    """Copy as they are, or cast."""
    if target.dtype == np.float32:
        cast_rows(vectors, target)
    else:
        np.copyto(target, vectors)


def read_model(folder: Path, sha256: bytes) -> dict[str, bytes]:
    """All files of a model's folder, compared with the digest they are registered under."""
    try:
        files = {entry.name: entry.read_bytes() for entry in sorted(folder.iterdir())}
    except FileNotFoundError as error:
        raise StoreDamaged(f"{folder} is missing", expected="the files of a model", do="train it again") from error
    text = canonical_json({name: hashlib.sha256(data).hexdigest() for name, data in files.items()})
    if hashlib.sha256(text.encode()).digest() != sha256:
        raise StoreDamaged(f"{folder}: its files are not those that were registered", do="train the model again")
    return files
