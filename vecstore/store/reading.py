"""Taking vectors out of shards by content, and models out of their folders."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vecstore.errors import NotFound, StoreDamaged
from vecstore.files import canonical_json
from vecstore.records import FloatArray, IntArray
from vecstore.store.shards import cast_rows, iter_vectors

if TYPE_CHECKING:
    from vecstore.store.store import Space, Store


def take(store: Store, space: Space, contents: IntArray) -> FloatArray:
    """Vectors of contents in the order asked for; see `Store.vectors`."""
    contents = np.asarray(contents, np.int64)
    ascending = bool((contents[1:] > contents[:-1]).all())
    wanted, inverse = (contents, None) if ascending else np.unique(contents, return_inverse=True)
    result = np.empty((len(wanted), space.dim), np.float32)
    missing = np.ones(len(wanted), bool)
    for shard in store.shards(space):
        low, high = np.searchsorted(wanted, (shard.first, shard.last + 1))
        if low == high or not missing[low:high].any():
            continue
        path = store.shard_path(space, shard.sha256)
        for ids, vectors in iter_vectors(path, space.dim, shard.rows, shard.bytes):
            start, stop = np.searchsorted(wanted, (ids[0], ids[-1] + 1))
            if start == stop:
                continue
            asked = wanted[start:stop]
            if len(asked) == len(ids) and missing[start:stop].all() and np.array_equal(asked, ids):
                cast_rows(vectors, result[start:stop])
                missing[start:stop] = False
                continue
            rows = np.minimum(np.searchsorted(ids, asked), len(ids) - 1)
            fresh = (ids[rows] == asked) & missing[start:stop]  # of several, the shard with the lowest id counts
            block = np.empty((int(fresh.sum()), space.dim), np.float32)
            cast_rows(np.ascontiguousarray(vectors[rows[fresh]]), block)
            result[start:stop][fresh] = block
            missing[start:stop][fresh] = False
    if missing.any():
        raise NotFound(
            f"{int(missing.sum())} of {len(wanted)} contents have no vector in the space {space.name!r}",
            expected="a space that covers these items",
            do=f"embed them: vecstore ingest ARCHIVE --store {store.path} --encoder {space.passport.encoder}",
        )
    return result if inverse is None else result[inverse.reshape(-1)]


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
