"""`search`: similar cases to an item, a picture, a vector or a text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.dataset import group_codes
from vecstore.embedding import embed_new, pictures_opened
from vecstore.encoders import open_encoder
from vecstore.errors import Ambiguous, DataError, NotFound, PictureError, SpaceMismatch, UsageError
from vecstore.neighbours import Neighbour, searcher
from vecstore.records import FloatArray, Hit, IntArray
from vecstore.store import Items, Space, Store

DEFAULT_K = 10


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The answer to one query.

    Attributes
    ----------
    hits : list of Hit
        By score, the highest first; ties by item id.
    query : str
        What was asked.
    kind : {"item", "picture", "vector", "text"}
    space, encoder : str
    where : str or None
    group_column : str or None
        Whose value the query's own group was excluded by.
    excluded : int
        Items left out because they are the query itself or of its group.
    commit : int
    searched : int
        Items that could have been found.
    exact : bool
    pixels_read : int
    notes : list of str
    thumbnail : bytes or None
        Of the query.
    """

    hits: list[Hit]
    query: str
    kind: str
    space: str
    encoder: str
    where: str | None
    group_column: str | None
    excluded: int
    commit: int
    searched: int
    exact: bool
    pixels_read: int
    notes: list[str] = field(default_factory=list)
    thumbnail: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Query:
    name: str
    kind: str
    vector: FloatArray
    own: list[int]
    thumbnail: bytes | None = None


def search(
    store: Store,
    query: int | np.integer[Any] | str | os.PathLike[str] | npt.NDArray[np.floating[Any]] | None = None,
    k: int | None = None,
    *,
    text: str | None = None,
    where: str | None = None,
    space: str | None = None,
    group: str | None = None,
    include_own: bool = False,
    encoder: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    device: str | None = None,
    thumbnails: bool = False,
) -> SearchResult:
    """Find the most similar items.

    Parameters
    ----------
    store : Store
    query : int, str, path or ndarray of shape (dim,), optional
        An item id; an item's locator; a picture; a `.npy` file with one vector; a vector.
    k : int, optional
        How many; exactly as many come back where as many exist. 10 by default, or as many as the store has.
    text : str, optional
        A description instead of a picture, in a CLIP space.
    where : str, optional
        A SQLite expression over the metadata columns.
    space : str, optional
        Needed where the store has several.
    group : str, optional
        Column whose value the query shares with its own group; "none" for no groups.
    include_own : bool
        Also find the query's own item and group, which are left out otherwise.
    encoder, weights, device : optional
        How to open the space's encoder, where its name alone does not find the weights.
    thumbnails : bool
        Whether the query's own thumbnail is wanted.

    Returns
    -------
    SearchResult

    Raises
    ------
    NotFound, Ambiguous, UsageError, DataError, PredicateRefused, PictureError, SpaceMismatch
    """
    if (query is None) == (text is None):
        raise UsageError("a search needs one query", expected="an item id, a picture, a vector file, or --text")
    opened = pictures_opened()
    chosen = store.refresh().space(space)
    engine = searcher(store, chosen)
    items = engine.items
    k = _checked_k(k, items)
    notes = store.where_warnings(where) if where is not None else []
    notes = [f"a text column is compared with a number: {told}" for told in notes]
    allowed = store.select(where) if where is not None else None
    if text is not None:
        asked = _by_text(chosen, text, encoder, weights, device)
    else:
        asked = _resolve(store, chosen, items, query, encoder, weights, device)
    column, own = _own(store, items, asked.own, group, include_own)
    found = engine.find(asked.vector, k, allowed, own)
    if len(found) < k:
        notes.append(f"{len(found)} of {k}: no more items fit")
    thumbnail = asked.thumbnail
    if thumbnail is None and thumbnails and asked.own:
        digest = store.hashes_of(asked.own)[asked.own[0]]
        thumbnail = store.thumbnails.get([digest]).get(digest)
    return SearchResult(
        _hits(store, items, found),
        asked.name,
        asked.kind,
        chosen.name,
        chosen.passport.encoder,
        where,
        column,
        len(own),
        store.commit,
        int(engine.candidates(allowed, own).sum()),
        engine.exact,
        pictures_opened() - opened,
        notes,
        thumbnail,
    )


def _checked_k(k: int | None, items: Items) -> int:
    """How many hits are asked for: only a number that was given is refused for being too large."""
    if k is not None and k < 1:
        raise UsageError(f"k = {k}", expected="at least 1", do="-k 10")
    if not len(items):
        raise DataError(
            "the store has no items", expected="at least one", do="run: vecstore ingest ARCHIVE --store STORE"
        )
    if k is None:
        return min(DEFAULT_K, len(items))
    if k > len(items):
        raise UsageError(
            f"k = {k} is more than the {len(items)} items of the store", expected=f"1 to {len(items)}", do="-k N"
        )
    return k


def _resolve(
    store: Store,
    space: Space,
    items: Items,
    query: object,
    encoder: str | None,
    weights: str | os.PathLike[str] | None,
    device: str | None,
) -> _Query:
    """What a query means: a vector, an item id, a file, or a locator, in this order."""
    if isinstance(query, np.ndarray):
        return _Query("a vector", "vector", _unit(query, space), [])
    if isinstance(query, (int, np.integer)) or (
        isinstance(query, str) and query.isascii() and query.isdigit() and not _is_file(Path(query))
    ):
        return _by_item(store, space, items, int(query))
    path = Path(str(query))
    if _is_file(path):
        if path.suffix.lower() == ".npy":
            return _Query(path.name, "vector", _unit(_loaded(path), space), [])
        return _by_picture(store, space, items, path, encoder, weights, device)
    asked = str(query).replace("\\", "/")
    rows = [row for row, locator in enumerate(items.locators) if locator == asked]
    if not rows:  # the end of a path will do, where it names one item
        rows = [row for row, locator in enumerate(items.locators) if locator.replace("!", "/").endswith(f"/{asked}")]
    if len(rows) == 1:
        return _by_item(store, space, items, int(items.ids[rows[0]]))
    if rows:
        told = ", ".join(f"{items.ids[row]} ({items.sources[row]}: {items.locators[row]})" for row in rows[:5])
        raise Ambiguous(f"{query!s} fits {len(rows)} items: {told}", expected="one item", do="give the item id")
    raise NotFound(
        f"{query!s}: no such file, and no item with this locator or id",
        expected="a picture, a .npy file, an item id or a locator",
        do="ids and locators of all items: vecstore export, or a predict without images",
    )


def _is_file(path: Path) -> bool:
    """Whether there is a file; what no file system could have as a name is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _loaded(path: Path) -> FloatArray:
    """The array in a `.npy` file, which is not trusted to be one."""
    try:
        array: FloatArray = np.asarray(np.load(path, allow_pickle=False), np.float64)
    except (OSError, ValueError, EOFError, TypeError) as error:
        raise UsageError(
            f"{path}: {error}", expected="a .npy file with one vector", do="write it with numpy.save"
        ) from error
    return array


def _by_item(store: Store, space: Space, items: Items, item: int) -> _Query:
    row = int(np.searchsorted(items.ids, item))
    if row >= len(items) or items.ids[row] != item:
        raise NotFound(
            f"the store has no item {item}",
            expected="the id of an item with a picture",
            do=f"see: vecstore predict or export {store.path}",
        )
    vector = store.vectors(space, items.contents[row : row + 1])[0]
    return _Query(f"{items.sources[row]}: {items.locators[row]}", "item", vector, [item])


def _by_picture(
    store: Store,
    space: Space,
    items: Items,
    path: Path,
    encoder: str | None,
    weights: str | os.PathLike[str] | None,
    device: str | None,
) -> _Query:
    """A picture is embedded; where the store has the same pixels, those items are the query itself."""
    opened = open_encoder(encoder or space.passport.encoder, weights=weights, device=device)
    _check_fingerprint(space, opened.passport.fingerprint, opened.passport.encoder)
    picture = next(embed_new(opened, store.rule, [path]), None)
    if picture is None or picture.vector is None:
        raise PictureError(
            f"{path}: {picture.reason if picture else 'no picture in it'}", expected="a picture", do="try another file"
        )
    own = items.ids[np.isin(items.contents, store.contents_of([picture.hash]))].tolist()
    # As a shard holds it: a picture of the store finds what its item finds.
    vector = picture.vector.astype(np.float16).astype(np.float32)
    return _Query(str(path), "picture", vector, own, picture.thumbnail)


def _by_text(
    space: Space, text: str, encoder: str | None, weights: str | os.PathLike[str] | None, device: str | None
) -> _Query:
    opened = open_encoder(encoder or space.passport.encoder, weights=weights, device=device)
    _check_fingerprint(space, opened.passport.fingerprint, opened.passport.encoder)
    return _Query(text, "text", opened.encode_text([text])[0], [])


def _check_fingerprint(space: Space, fingerprint: bytes, name: str) -> None:
    if fingerprint != space.fingerprint:
        raise SpaceMismatch(
            f"the encoder {name} has the fingerprint {fingerprint.hex()[:12]}; the space {space.name} has"
            f" {space.fingerprint.hex()[:12]}",
            expected=f"{space.passport.encoder} with weights {space.passport.weights_sha256[:12]}",
            do="give the same weights: --weights FILE",
        )


def _unit(vector: FloatArray, space: Space) -> FloatArray:
    shape = np.shape(vector)
    flat = np.asarray(vector, np.float64).reshape(-1)
    length = float(np.linalg.norm(flat)) if np.isfinite(flat).all() else 0.0
    if shape not in ((space.dim,), (1, space.dim)) or length == 0.0:
        raise SpaceMismatch(
            f"the query vector has shape {shape}" + ("" if length else ", and is not finite or has no length"),
            expected=f"({space.dim},), finite: the space {space.name}",
            do="make it with the space's encoder",
        )
    unit: FloatArray = (flat / length).astype(np.float32)
    return unit


def _own(
    store: Store, items: Items, own: Sequence[int], group: str | None, include_own: bool
) -> tuple[str | None, list[int]]:
    """Items that are the query, or belong to its group."""
    if include_own or not own:
        return None, []
    grouped = group_codes(store, items, group)
    mine = grouped.codes[np.isin(items.ids, np.asarray(own, np.int64))]
    excluded: IntArray = items.ids[np.isin(grouped.codes, mine)]
    return grouped.column, excluded.tolist()


def _hits(store: Store, items: Items, found: Sequence[Neighbour]) -> list[Hit]:
    ids = [hit.item for hit in found]
    metadata = store.metadata(ids)
    labels = store.labels_of(ids)
    hits = []
    for rank, hit in enumerate(found, 1):
        row = int(np.searchsorted(items.ids, hit.item))
        hits.append(
            Hit(
                rank,
                hit.item,
                hit.score,
                items.sources[row],
                items.locators[row],
                metadata.get(hit.item, {}),
                labels.get(hit.item, {}),
            )
        )
    return hits
