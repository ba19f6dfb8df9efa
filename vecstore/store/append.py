"""Adding pictures and vectors: files first, then one transaction.

The order is what makes a crash harmless. Content ids are reserved; shards are written, synced and named
by their hash; then one transaction makes contents, items, metadata, failures and shards visible
together. Killed before it, an unregistered file is left; run again, everything converges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.errors import DataError
from vecstore.records import Value
from vecstore.store.catalog import Transaction, in_pieces
from vecstore.store.columns import describe
from vecstore.store.shards import ShardFile, write_shard
from vecstore.store.store import Space, Store


@dataclass(frozen=True, slots=True)
class Known:
    """What the store knows of a locator: `content`, `hash` and `file_sha256` are None where the item has no picture.

    `failed` holds the ids of the spaces in which it failed, None for a picture that could not be decoded.
    `unread` says that its file could not be read when last tried.
    """

    item: int
    size: int | None
    mtime_ns: int | None
    content: int | None
    hash: bytes | None
    file_sha256: bytes | None
    failed: frozenset[int | None]
    unread: bool


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
    forgiven : list of str
        Locators whose failure is no more, though they have no picture: their frames have.
    """

    source: str
    kind: str
    pictures: list[Picture] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    touched: list[tuple[int, int | None, int | None]] = field(default_factory=list)
    described: dict[int, Mapping[str, Value]] = field(default_factory=dict)
    vectors: dict[int, tuple[list[bytes], npt.NDArray[np.float16]]] = field(default_factory=dict)
    thumbnails: dict[bytes, bytes] = field(default_factory=dict)
    forgiven: list[str] = field(default_factory=list)


class _WriteAgainError(Exception):
    """Another process committed one of our contents first, or swept a shard; the rolled-back batch is written again."""


def known_items(store: Store, source: str, locators: Sequence[str]) -> dict[str, Known]:
    """What the newest commit knows of locators of a source."""
    keys = {store.item_key(source, locator): locator for locator in locators}
    rows = list(
        in_pieces(
            store.catalog.rows,
            "SELECT i.key, i.id, i.size, i.mtime_ns, s.content, c.hash, s.file_sha256 FROM items i"
            " LEFT JOIN states s ON s.item = i.id AND s.removed_in IS NULL"
            " LEFT JOIN contents c ON c.id = s.content WHERE i.key IN ({})",
            keys,
        )
    )
    failed: dict[int, set[int | None]] = {}
    unread: set[int] = set()
    text = "SELECT item, space, stage FROM failures WHERE item IN ({})"
    for item, space, stage in in_pieces(store.catalog.rows, text, [row[1] for row in rows]):
        failed.setdefault(item, set()).add(space)
        if stage == "read":
            unread.add(item)
    found = {}
    for key, item, size, mtime_ns, content, content_hash, sha256 in rows:
        spaces = frozenset(failed.get(item, ()))
        found[keys[key]] = Known(item, size, mtime_ns, content, content_hash, sha256, spaces, item in unread)
    return found


def known_contents(store: Store, hashes: Sequence[bytes]) -> dict[bytes, int]:
    """Ids of those contents that the store has, by hash."""
    return _contents(store.catalog.rows, hashes)


_Fetch = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]


def _contents(fetch: _Fetch, hashes: Iterable[bytes]) -> dict[bytes, int]:
    return dict(in_pieces(fetch, "SELECT hash, id FROM contents WHERE hash IN ({})", hashes))


def _source_ids(fetch: Callable[[str], list[tuple[Any, ...]]], name: str) -> list[int]:
    """The source of a name, if it is there; SQLite would fold the case of ASCII letters only."""
    return [i for i, known in fetch("SELECT id, name FROM sources") if known.casefold() == name.casefold()]


def sample_items(store: Store, source: str, count: int) -> list[tuple[str, bytes]]:
    """Up to `count` (locator, file SHA-256) of a source, spread over its items."""
    rows = store.catalog.rows(
        "SELECT i.locator, s.file_sha256 FROM items i JOIN states s ON s.item = i.id AND s.removed_in IS NULL"
        " WHERE i.source = ? AND s.file_sha256 IS NOT NULL ORDER BY i.key LIMIT ?",
        ((_source_ids(store.catalog.rows, source) or [0])[0], count),
    )
    return [(locator, sha) for locator, sha in rows]


def count_items(store: Store, source: str) -> int:
    """Items of a source that have a picture now."""
    rows = store.catalog.rows(
        "SELECT count(*) FROM states s JOIN items i ON i.id = s.item WHERE i.source = ? AND s.removed_in IS NULL",
        ((_source_ids(store.catalog.rows, source) or [0])[0],),
    )
    return int(rows[0][0])


def append(
    store: Store,
    batch: Batch,
    spaces: Mapping[int, Space],
    arguments: Mapping[str, Any],
    waiting: Callable[[], None] | None = None,
) -> dict[str, Any]:
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
        "added", "failed", "embedded": what this commit changed; "columns_widened" (name to type) if it did.

    Raises
    ------
    DiskFull, NotWritable, StoreBusy, DataError
        The store is as it was.
    """
    for space_id, (_, vectors) in batch.vectors.items():
        if vectors.ndim != 2 or vectors.shape[1] != spaces[space_id].dim:
            raise DataError(
                f"vectors of shape {vectors.shape} for the space {spaces[space_id].name!r}",
                expected=f"rows of {spaces[space_id].dim} numbers",
            )
    store.thumbnails.put(batch.thumbnails)
    sizes = {p.hash: (p.width, p.height) for p in batch.pictures}
    hashes = list(dict.fromkeys([*sizes, *(h for group, _ in batch.vectors.values() for h in group)]))
    while True:
        ids = known_contents(store, hashes)
        new = [h for h in hashes if h not in ids]
        if new:
            first = store.catalog.reserve(len(new), waiting)
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
        except _WriteAgainError:
            _discard(store, written)
        except BaseException:
            _discard(store, written)
            raise


def _discard(store: Store, written: Sequence[tuple[Space, ShardFile]]) -> None:
    """Remove shards of a batch that was rolled back.

    Another process may have written the very same shard and be about to register it. So this holds the
    lock, and `_register` looks whether the file is still there. What can't be removed now is swept later.
    """
    with store.catalog.locked() as locked:
        for space, shard in written if locked else ():
            values = (space.id, shard.sha256)
            if not store.catalog.rows("SELECT 1 FROM shards WHERE space = ? AND sha256 = ?", values):
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
    found = _contents(tx.sql, ids)
    if any(found.get(h, i) != i for h, i in ids.items()) or not ids.keys() - new <= found.keys():
        raise _WriteAgainError  # another's id counts, or a content was forgotten since we looked
    fresh = [h for h in ids if h not in found]
    widths = {h: sizes.get(h, (None, None)) for h in fresh}
    tx.add("contents", ({"id": ids[h], "hash": h, "width": widths[h][0], "height": widths[h][1]} for h in fresh))
    _add_shards(tx, store, written)
    items = _items(tx, store, batch)
    added = _states(tx, batch.pictures, items, ids)
    _forgive(tx, store, batch, items)
    for refusal in batch.refusals:
        _fail(tx, items[refusal.locator], refusal)
    for item, size, mtime_ns in batch.touched:
        tx.sql("UPDATE items SET size = ?, mtime_ns = ? WHERE id = ?", (size, mtime_ns, item))
    said = [(items[picture.locator], picture.metadata) for picture in batch.pictures] + [*batch.described.items()]
    # What a file does not say any more stays.
    describe(tx, ((item, {k: v for k, v in known.items() if v is not None}) for item, known in said), batch.source)
    embedded = sum(shard.rows for _, shard in written)
    tx.counts |= {"source": batch.source, "added": added, "failed": len(batch.refusals), "embedded": embedded}


def _add_shards(tx: Transaction, store: Store, written: Sequence[tuple[Space, ShardFile]]) -> None:
    for space, shard in written:
        live = "SELECT 1 FROM shards WHERE space = ? AND sha256 = ? AND removed_in IS NULL"
        if tx.sql(live, (space.id, shard.sha256)):
            continue
        if not store.shard_path(space, shard.sha256).is_file():
            raise _WriteAgainError
        row = {"space": space.id, "sha256": shard.sha256, "rows": shard.rows, "bytes": shard.bytes}
        tx.add("shards", [row | {"first": shard.first, "last": shard.last}])


def _items(tx: Transaction, store: Store, batch: Batch) -> dict[str, int]:
    """Ids of the batch's items by locator: new ones are made, known ones get the size and time seen now."""
    sources = _source_ids(tx.sql, batch.source)
    source = sources[0] if sources else tx.add("sources", [{"name": batch.source, "kind": batch.kind}])[0]
    entries: dict[str, Picture | Refusal] = {picture.locator: picture for picture in batch.pictures}
    entries |= {refusal.locator: refusal for refusal in batch.refusals}
    keys = {store.item_key(batch.source, locator): locator for locator in entries}
    text = "SELECT key, id, size, mtime_ns FROM items WHERE key IN ({})"
    known = {keys[key]: seen for key, *seen in in_pieces(tx.sql, text, keys)}
    ids = {locator: int(seen[0]) for locator, seen in known.items()}
    for locator, (item, *seen) in known.items():
        size, mtime_ns = entries[locator].size, entries[locator].mtime_ns
        if seen != [size, mtime_ns]:
            tx.sql("UPDATE items SET size = ?, mtime_ns = ? WHERE id = ?", (size, mtime_ns, item))
    new = [
        {"key": key, "source": source, "locator": locator, "size": entries[locator].size}
        | {"mtime_ns": entries[locator].mtime_ns}
        for key, locator in keys.items()
        if locator not in known
    ]
    return ids | dict(zip((str(row["locator"]) for row in new), tx.add("items", new), strict=True))


def _states(tx: Transaction, pictures: Sequence[Picture], items: Mapping[str, int], ids: Mapping[bytes, int]) -> int:
    """Point items to their contents; returns how many got another one than before."""
    text = "SELECT item, content, file_sha256 FROM states WHERE removed_in IS NULL AND item IN ({})"
    before = {item: seen for item, *seen in in_pieces(tx.sql, text, [items[p.locator] for p in pictures])}
    added = 0
    begun = []
    for picture in pictures:
        item, content = items[picture.locator], ids[picture.hash]
        old = before.get(item)
        if old == [content, picture.file_sha256]:
            continue
        if old:
            tx.end("states", "item = ?", (item,))
        row = {"item": item, "content": content, "file_sha256": picture.file_sha256, "decoder": picture.decoder}
        begun.append(row)
        added += old is None or old[0] != content
    tx.add("states", begun)
    return added


def _forgive(tx: Transaction, store: Store, batch: Batch, items: Mapping[str, int]) -> None:
    """Drop failures of pictures that succeeded now; one that fails again keeps its count of attempts."""
    again = {(refusal.locator, refusal.space) for refusal in batch.refusals}
    locators = {items[picture.locator]: picture.locator for picture in batch.pictures}
    asked = {None, *batch.vectors}
    for item, space in list(in_pieces(tx.sql, "SELECT item, space FROM failures WHERE item IN ({})", locators)):
        if space in asked and (locators[item], space) not in again:
            tx.sql("DELETE FROM failures WHERE item = ? AND space IS ?", (item, space))
    for locator in batch.forgiven:
        key = store.item_key(batch.source, locator)
        tx.sql("DELETE FROM failures WHERE space IS NULL AND item IN (SELECT id FROM items WHERE key = ?)", (key,))


def _fail(tx: Transaction, item: int, refusal: Refusal) -> None:
    # What could not even be read may be as it was; only new bytes that don't decode end a state.
    if refusal.space is None and refusal.stage != "read":
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
