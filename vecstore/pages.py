"""Results as pages: what a report part needs, fetched from the store, and written to a file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from vecstore.files import output_file, write_file
from vecstore.records import Hit, Value
from vecstore.report.learning import learning_page
from vecstore.report.page import count
from vecstore.report.similar import QueryCard, similar_page
from vecstore.report.suspects import items_shown, suspects_page
from vecstore.store import Store

if TYPE_CHECKING:
    from vecstore.curve import LearningCurve
    from vecstore.label_errors import LabelErrors
    from vecstore.search import SearchResult

_KINDS = {
    "item": "an item of the store",
    "picture": "a picture file",
    "vector": "a vector",
    "text": "a text",
    "several": "several examples",
}


def write_similar_page(store: Store, result: SearchResult, path: str | os.PathLike[str]) -> None:
    """Write the answer to one query as a self-contained HTML page with thumbnails.

    Raises
    ------
    UsageError
        No folder to write to.
    DiskFull, NotWritable
    """
    target = output_file(path)
    facts = {
        "space": result.space,
        "encoder": result.encoder,
        "search": f"{_search_told(result)}, cosine similarity"
        + ("" if result.metric == "cosine" else f" of {result.metric} features"),
        "items searched": str(result.searched),
        "store": f"{store.path.name}, commit {result.commit}",
    }
    if result.where:
        facts["filter"] = result.where
    if result.kind in ("item", "picture", "several"):
        column = result.group_column or "none known"
        own = f"left out ({column}): {count(result.excluded, 'item')}"
        facts["own group"] = own if result.excluded else "nothing left out"
    if result.predict:
        facts["predicted"] = f"by the newest model of {result.predict}"
    if result.notes:
        facts["notes"] = "; ".join(result.notes)
    name = Path(result.query).name if result.kind == "picture" else result.query
    asked = [] if result.item is None else [result.item]
    labels, metadata = store.labels_of(asked), store.metadata(asked)
    item = result.item or 0
    card = QueryCard(name, _KINDS[result.kind], result.thumbnail, labels.get(item, {}), _shown(metadata.get(item, {})))
    page = similar_page(
        card,
        [replace(hit, metadata=_shown(hit.metadata)) for hit in result.hits],
        _thumbnails(store, result.hits),
        facts,
    )
    write_file(target, page.encode())


def _search_told(result: SearchResult) -> str:
    """Whether anything can have been missed, and how often it is."""
    if result.exact or result.recall is None:
        return "exact" if result.exact else "approximate"
    low, high = result.recall["low"], result.recall["high"]
    return f"approximate (finds {result.recall['value']:.4f} [{low:.4f}, {high:.4f}] of the exact hits)"


_SHOWN_FIELDS = 10


def _shown(metadata: Mapping[str, Value]) -> dict[str, Value]:
    """The first few of metadata; unique identifiers say nothing to a reader."""
    return dict(islice(((name, value) for name, value in metadata.items() if not name.endswith("UID")), _SHOWN_FIELDS))


def write_curve_page(store: Store, curve: LearningCurve, path: str | os.PathLike[str]) -> None:
    """Write a learning curve as one self-contained HTML page with its plot; errors as `write_similar_page`."""
    target = output_file(path)
    write_file(target, learning_page(curve.to_dict() | {"store": store.path.name}).encode())


def write_suspects_page(store: Store, found: LabelErrors, path: str | os.PathLike[str]) -> None:
    """Write suspected label errors as one self-contained HTML page; errors as `write_similar_page`."""
    target = output_file(path)
    record = found.to_dict() | {"store": store.path.name}
    write_file(target, suspects_page(record, pictures_of(store, items_shown(record["suspects"]))).encode())


def _thumbnails(store: Store, hits: Iterable[Hit]) -> dict[int, bytes]:
    """JPEG bytes by item id, of those items that have a thumbnail."""
    return pictures_of(store, [hit.item_id for hit in hits])


def pictures_of(store: Store, items: Iterable[int]) -> dict[int, bytes]:
    """JPEG bytes by item id, of those items that have a thumbnail."""
    hashes = store.hashes_of(items)
    pictures = store.thumbnails.get(list(set(hashes.values())))
    return {item: pictures[digest] for item, digest in hashes.items() if digest in pictures}
