"""Adding pictures and vectors: files first, then one transaction.

The order is what makes a crash harmless. Content ids are reserved; shards are written, synced and named
by their hash; then one transaction makes contents, items, metadata, failures and shards visible
together. Killed before it, an unregistered file is left; run again, everything converges.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.records import Value
from vecstore.store.catalog import Transaction
from vecstore.store.columns import apply_metadata, ensure_columns, fit, value_type
from vecstore.store.shards import ShardFile, write_shard
from vecstore.store.store import Space, Store


@dataclass(frozen=True, slots=True)
class Known:
    """What the store knows of a locator: `content`, `hash` and `file_sha256` are None where the item has no picture.

    `failed` holds the ids of the spaces in which it failed, None for a picture that could not be decoded.
    """

    item: int
    size: int | None
    mtime_ns: int | None
    content: int | None
    hash: bytes | None
    file_sha256: bytes | None
    failed: frozenset[int | None]


@dataclass(frozen=True, slots=True)
class Picture:
    """An item with its picture, ready to be stored; `hash` is the content hash, 16 bytes."""

    locator: str
    size: int | None
    mtime_ns: int | None
    file_sha256: bytes | None
    decoder: str
    hash: bytes
    width: int
    height: int
    metadata: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An item that failed: at "read", "decode" (space None) or "encode" (of one space)."""

    locator: str
    size: int | None
    mtime_ns: int | None
    stage: str
    reason: str
    space: int | None = None


@dataclass(slots=True)
class Batch:
    """What one commit of an ingest adds.

    Attributes
    ----------
    source, kind : str
    pictures : list of Picture
        Their locators differ.
    refusals : list of Refusal
    touched : list of (item id, size, mtime_ns)
        Files with unchanged bytes under a new time.
    described : dict
        Item id to metadata that its source now gives an unchanged file.
    vectors : dict
        Space id to (content hashes, float16 ndarray of shape (n, dim)).
    thumbnails : dict
        Content hash to JPEG bytes.
    """

    source: str
    kind: str
    pictures: list[Picture] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    touched: list[tuple[int, int | None, int | None]] = field(default_factory=list)
    described: dict[int, Mapping[str, Value]] = field(default_factory=dict)
    vectors: dict[int, tuple[list[bytes], npt.NDArray[np.float16]]] = field(default_factory=dict)
    thumbnails: dict[bytes, bytes] = field(default_factory=dict)


class _IdTakenError(Exception):
    """Another process committed one of our contents first; the rolled-back batch is written again."""


def known_items(store: Store, source: str, locators: Sequence[str]) -> dict[str, Known]:
    """What the newest commit knows of locators of a source."""
    found: dict[str, Known] = {}
    for locator in locators:
        rows = store.catalog.rows(
            "SELECT i.id, i.size, i.mtime_ns, s.content, c.hash, s.file_sha256 FROM items i"
            " LEFT JOIN states s ON s.item = i.id AND s.removed_in IS NULL"
            " LEFT JOIN contents c ON c.id = s.content WHERE i.key = ?",
            (store.item_key(source, locator),),
        )
        if rows:
            failed = store.catalog.rows("SELECT space FROM failures WHERE item = ?", (rows[0][0],))
            item, size, mtime_ns, content, content_hash, sha256 = rows[0]
            spaces = frozenset(row[0] for row in failed)
            found[locator] = Known(item, size, mtime_ns, content, content_hash, sha256, spaces)
    return found


def known_contents(store: Store, hashes: Sequence[bytes]) -> dict[bytes, int]:
    """Ids of those contents that the store has, by hash."""
    found = {}
    for content in hashes:
        rows = store.catalog.rows("SELECT id FROM contents WHERE hash = ?", (content,))
        if rows:
            found[content] = int(rows[0][0])
    return found


def sample_items(store: Store, source: str, count: int) -> list[tuple[str, bytes]]:
    """Up to `count` (locator, file SHA-256) of a source, spread over its items."""
    rows = store.catalog.rows(
        "SELECT i.locator, s.file_sha256 FROM items i JOIN sources src ON src.id = i.source"
        " JOIN states s ON s.item = i.id AND s.removed_in IS NULL"
        " WHERE src.name = ? AND s.file_sha256 IS NOT NULL ORDER BY i.key LIMIT ?",
        (source, count),
    )
    return [(locator, sha) for locator, sha in rows]


def count_items(store: Store, source: str) -> int:
    """Items of a source that have a picture now."""
    rows = store.catalog.rows(
        "SELECT count(*) FROM states s JOIN items i ON i.id = s.item JOIN sources src ON src.id = i.source"
        " WHERE src.name = ? AND s.removed_in IS NULL",
        (source,),
    )
    return int(rows[0][0])


def append(
    store: Store,
    batch: Batch,
    spaces: Mapping[int, Space],
    arguments: Mapping[str, Any],
    waiting: Callable[[], None] | None = None,
) -> dict[str, int]:
    """Commit a batch.

    Parameters
    ----------
    store : Store
    batch : Batch
    spaces : mapping of space id to Space
        Those of `batch.vectors`.
    arguments : mapping
        For the log.
    waiting : callable, optional
        Called once if another process is writing.

    Returns
    -------
    dict
        "added", "failed", "embedded": what this commit changed.

    Raises
    ------
    DiskFull, NotWritable, StoreBusy, DataError
        The store is as it was.
    """
    store.thumbnails.put(batch.thumbnails)
    sizes = {p.hash: (p.width, p.height) for p in batch.pictures}
    hashes = list(dict.fromkeys([*sizes, *(h for group, _ in batch.vectors.values() for h in group)]))
    while True:
        ids = known_contents(store, hashes)
        new = [h for h in hashes if h not in ids]
        if new:
            first = store.catalog.reserve(len(new))
            ids |= {h: first + i for i, h in enumerate(new)}
        written: list[tuple[Space, ShardFile]] = []
        try:
            for space_id, (group, vectors) in batch.vectors.items():
                if group:
                    space = spaces[space_id]
                    contents = np.array([ids[h] for h in group], np.int64)
                    folder = store.shard_path(space, b"").parent
                    written.append((space, write_shard(folder, contents, group, vectors)))
            with store.write("ingest", arguments, waiting) as tx:
                _register(tx, store, batch, ids, set(new), sizes, written)
                return dict(tx.counts)
        except _IdTakenError:
            _discard(store, written)
        except BaseException:
            _discard(store, written)
            raise


def _discard(store: Store, written: Sequence[tuple[Space, ShardFile]]) -> None:
    """Remove shards of a batch that was rolled back, unless somebody registered the very same one."""
    for space, shard in written:
        if not store.catalog.rows("SELECT 1 FROM shards WHERE space = ? AND sha256 = ?", (space.id, shard.sha256)):
            store.shard_path(space, shard.sha256).unlink(missing_ok=True)


def _register(
    tx: Transaction,
    store: Store,
    batch: Batch,
    ids: Mapping[bytes, int],
    new: set[bytes],
    sizes: Mapping[bytes, tuple[int, int]],
    written: Sequence[tuple[Space, ShardFile]],
) -> None:
    """Everything of a batch, inside its transaction."""
    for content, planned in ids.items():
        found = tx.sql("SELECT id FROM contents WHERE hash = ?", (content,))
        if found and found[0][0] != planned:
            raise _IdTakenError
        if found:
            new.discard(content)
        elif content not in new:  # forgotten between our look and this transaction
            raise _IdTakenError
    tx.add(
        "contents",
        ({"id": ids[h], "hash": h, "width": sizes[h][0], "height": sizes[h][1]} for h in ids if h in new),
    )
    embedded = 0
    for space, shard in written:
        embedded += shard.rows
        if tx.sql(
            "SELECT 1 FROM shards WHERE space = ? AND sha256 = ? AND removed_in IS NULL",
            (space.id, shard.sha256),
        ):
            continue
        row = {"space": space.id, "sha256": shard.sha256, "rows": shard.rows, "bytes": shard.bytes}
        tx.add("shards", [row | {"first": shard.first, "last": shard.last}])
    source = _source(tx, batch)
    entries: list[Picture | Refusal] = [*batch.pictures, *batch.refusals]
    items = {
        entry.locator: _item(tx, store, batch.source, source, entry.locator, entry.size, entry.mtime_ns)
        for entry in entries
    }
    added = sum(_state(tx, items[p.locator], ids[p.hash], p) for p in batch.pictures)
    for picture in batch.pictures:
        tx.sql("DELETE FROM failures WHERE item = ? AND space IS NULL", (items[picture.locator],))
        for space_id in batch.vectors:
            tx.sql("DELETE FROM failures WHERE item = ? AND space = ?", (items[picture.locator], space_id))
    for refusal in batch.refusals:
        _fail(tx, items[refusal.locator], refusal)
    for item, size, mtime_ns in batch.touched:
        tx.sql("UPDATE items SET size = ?, mtime_ns = ? WHERE id = ?", (size, mtime_ns, item))
    _describe(tx, batch, items)
    tx.counts |= {"source": batch.source, "added": added, "failed": len(batch.refusals), "embedded": embedded}


def _source(tx: Transaction, batch: Batch) -> int:
    rows = tx.sql("SELECT id FROM sources WHERE name = ?", (batch.source,))
    if rows:
        return int(rows[0][0])
    return tx.add("sources", [{"name": batch.source, "kind": batch.kind}])[0]


def _item(
    tx: Transaction,
    store: Store,
    name: str,
    source: int,
    locator: str,
    size: int | None,
    mtime_ns: int | None,
) -> int:
    key = store.item_key(name, locator)
    rows = tx.sql("SELECT id, size, mtime_ns FROM items WHERE key = ?", (key,))
    if not rows:
        row = {"key": key, "source": source, "locator": locator, "size": size, "mtime_ns": mtime_ns}
        return tx.add("items", [row])[0]
    item, *seen = rows[0]
    if seen != [size, mtime_ns]:
        tx.sql("UPDATE items SET size = ?, mtime_ns = ? WHERE id = ?", (size, mtime_ns, item))
    return int(item)


def _state(tx: Transaction, item: int, content: int, picture: Picture) -> bool:
    """Point an item to its content; returns whether that is news."""
    rows = tx.sql("SELECT content, file_sha256 FROM states WHERE item = ? AND removed_in IS NULL", (item,))
    if rows and rows[0] == (content, picture.file_sha256):
        return False
    if rows:
        tx.end("states", "item = ?", (item,))
    row = {"item": item, "content": content, "file_sha256": picture.file_sha256, "decoder": picture.decoder}
    tx.add("states", [row])
    return not rows or rows[0][0] != content


def _fail(tx: Transaction, item: int, refusal: Refusal) -> None:
    if refusal.space is None:
        tx.end("states", "item = ?", (item,))
    rows = tx.sql(
        "SELECT attempts FROM failures WHERE item = ? AND ifnull(space, 0) = ifnull(?, 0)",
        (item, refusal.space),
    )
    attempts = rows[0][0] + 1 if rows else 1
    tx.sql("DELETE FROM failures WHERE item = ? AND ifnull(space, 0) = ifnull(?, 0)", (item, refusal.space))
    tx.sql(
        "INSERT INTO failures VALUES (?, ?, ?, ?, ?, ?)",
        (item, refusal.space, refusal.stage, refusal.reason, attempts, tx.commit),
    )


def _describe(tx: Transaction, batch: Batch, items: Mapping[str, int]) -> None:
    """Metadata of the batch: new columns, then rows."""
    rows = [(items[picture.locator], picture.metadata) for picture in batch.pictures] + [*batch.described.items()]
    kinds: dict[str, str] = {}
    for _, metadata in rows:
        for name, value in metadata.items():
            if value is not None:
                kinds.setdefault(name, value_type(value))
    if not kinds:
        return
    born, names = ensure_columns(tx, kinds, batch.source)
    types = dict(tx.sql("SELECT name, type FROM columns"))
    dropped: dict[str, int] = {}
    changes: dict[int, dict[str, Value]] = {}
    for item, metadata in rows:
        changes[item] = {}
        for name, value in metadata.items():
            if value is not None and (fitted := fit(value, types[names[name]])) is not None:
                changes[item][names[name]] = fitted
            elif value is not None:
                dropped[names[name]] = dropped.get(names[name], 0) + 1
    apply_metadata(tx, changes, born)
    if dropped:
        tx.counts["values_left_out"] = dropped
