"""`search`: similar cases to an item, a picture, a vector or a text; one query, or thousands in one call."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.dataset import Groups, group_codes
from vecstore.dataset.groups import numbered
from vecstore.embedding import NewPicture, embed_new, pictures_opened
from vecstore.encoders import open_encoder
from vecstore.errors import Ambiguous, ArchiveError, DataError, NotFound, PictureError, SpaceMismatch, UsageError
from vecstore.index.metric import DEFAULT_METRIC
from vecstore.neighbours import Neighbour, Searcher, searcher
from vecstore.records import BoolArray, DoubleArray, FloatArray, Hit, IntArray
from vecstore.sources import open_source
from vecstore.store import Items, Space, Store

DEFAULT_K = 10

Query = int | np.integer[Any] | str | os.PathLike[str] | npt.NDArray[np.floating[Any]]
"""An item id; an item's locator; a picture; a `.npy` file with one vector; a vector of shape (dim,)."""

_POOL = 10
"""Candidates for each hit that variety is chosen from."""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The answer to one query.

    Attributes
    ----------
    hits : list of Hit
        By score, the highest first; ties by item id.
    query : str
        What was asked.
    kind : {"item", "picture", "vector", "text", "several"}
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
        Whether nothing can have been missed.
    pixels_read : int
    notes : list of str
    thumbnail : bytes or None
        Of the query.
    metric : {"cosine", "standard", "whitened"}
        What similarity is the cosine of.
    recall : dict or None
        Of an approximate index: "value" with "low" and "high", as measured when it was built.
    item : int or None
        The query, where it is an item.
    predict : str or None
        Whose newest probe's predictions the hits have.
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
    metric: str = "cosine"
    recall: dict[str, Any] | None = None
    item: int | None = None
    predict: str | None = None


@dataclass(frozen=True, slots=True)
class _Query:
    name: str
    kind: str
    vector: FloatArray
    own: list[int]
    thumbnail: bytes | None = None
    first: int | None = None
    """The item whose picture is that of the query."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """What is asked of every query alike."""

    k: int | None
    where: str | None
    ids: IntArray | None
    group: str | None
    include_own: bool
    by: str | None
    unique: bool
    farthest: bool
    diverse: float
    predict: str | None
    thumbnails: bool


def search(
    store: Store | str | os.PathLike[str],
    query: Query | Sequence[Query] | None = None,
    k: int | None = None,
    *,
    text: str | None = None,
    like: Sequence[Query] = (),
    unlike: Sequence[Query] = (),
    where: str | None = None,
    ids: Iterable[int] | IntArray | None = None,
    space: str | None = None,
    metric: str = DEFAULT_METRIC,
    group: str | None = None,
    include_own: bool = False,
    by: str | None = None,
    unique: bool = False,
    farthest: bool = False,
    diverse: float = 0.0,
    predict: str | None = None,
    encoder: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    device: str | None = None,
    thumbnails: bool = False,
) -> SearchResult:
    """Find the most similar items.

    Parameters
    ----------
    store : Store or path
    query : int, str, path or ndarray of shape (dim,), or a sequence of these, optional
        An item id; an item's locator; a picture; a `.npy` file with one vector; a vector. Several are averaged.
    k : int, optional
        How many; exactly as many come back where as many exist. 10 by default, or as many as the store has.
    text : str, optional
        A description instead of a picture, in a CLIP space.
    like, unlike : sequence of queries
        Further examples of what is looked for, and of what is not: twice the mean of the former minus the mean of
        the latter is searched for.
    where : str, optional
        A SQLite expression over the metadata columns and tasks.
    ids : iterable of int or ndarray of shape (m,), int64, optional
        Only these items.
    space : str, optional
        Needed where the store has several.
    metric : {"cosine", "standard", "whitened"}
        What is compared by its cosine: the vectors; standardised features; whitened principal components.
    group : str, optional
        Column whose value the query shares with its own group; "none" for no groups.
    include_own : bool
        Also find the query's own item and group, which are left out otherwise.
    by : str, optional
        Column of which every value is found once, by its most similar item: the ten most similar patients. Items
        without a value count for themselves.
    unique : bool
        Of identical pictures only the first.
    farthest : bool
        The least similar instead, the least first.
    diverse : float
        From 0 (nothing but similarity) to below 1: how much a hit is to differ from those before it (maximal marginal
        relevance). Hits are then in the order in which they were chosen.
    predict : str, optional
        A task whose newest probe says what it thinks of every hit.
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
    several = isinstance(query, (list, tuple))
    wanted: list[Query] = [] if query is None else [*query] if several else [query]  # type: ignore[misc,list-item]
    positive = [*wanted, *like]
    if bool(positive) == bool((text or "").strip()):
        raise UsageError("a search needs one query", expected="an item id, a picture, a vector file, or --text")
    wish = _Wish(k, where, _checked_ids(ids), group, include_own, by, unique, farthest, diverse, predict, thumbnails)
    with _handle(store) as opened:
        read = pictures_opened()
        chosen = opened.refresh().space(space)
        engine = searcher(opened, chosen, metric)
        _check(wish, opened, engine.items)
        tools = (encoder, weights, device)
        if text is not None and metric != "cosine":
            raise UsageError(
                f"a text can't be compared by the metric {metric!r}, which is fitted on pictures",
                expected="the cosine",
                do="leave --metric away",
            )
        if text is not None:
            asked = [_by_text(chosen, text, *tools)]
            negative = _resolved(opened, chosen, engine, list(unlike), *tools)
        else:
            asked = _resolved(opened, chosen, engine, [*positive, *unlike], *tools)
            asked, negative = asked[: len(positive)], asked[len(positive) :]
        one = asked[0] if len(asked) == 1 and not negative else _combined(asked, negative)
        return _answers(opened, chosen, engine, [one], wish, read)[0]


def search_many(
    store: Store | str | os.PathLike[str],
    queries: str | os.PathLike[str] | Sequence[Query] | npt.NDArray[np.floating[Any]],
    k: int | None = None,
    *,
    where: str | None = None,
    ids: Iterable[int] | IntArray | None = None,
    space: str | None = None,
    metric: str = DEFAULT_METRIC,
    group: str | None = None,
    include_own: bool = False,
    by: str | None = None,
    unique: bool = False,
    farthest: bool = False,
    diverse: float = 0.0,
    predict: str | None = None,
    encoder: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    device: str | None = None,
) -> list[SearchResult]:
    """Find the most similar items to each of many queries, in one pass.

    Parameters
    ----------
    store : Store or path
    queries : path, sequence of queries, or ndarray of shape (n, dim)
        A `.npy` file with a matrix; a text file with an item id, a locator or the path of a picture on each line; or
        these themselves.
    k, where, ids, space, metric, group, include_own, by, unique, farthest, diverse, predict, encoder, weights, device
        As of `search`; `ids` may be an ndarray of shape (m,), int64.

    Returns
    -------
    list of SearchResult
        One for each query, in their order; each is what `search` answers.

    Raises
    ------
    NotFound, Ambiguous, UsageError, DataError, PredicateRefused, PictureError, SpaceMismatch
    """
    ids = _checked_ids(ids)
    wish = _Wish(k, where, ids, group, include_own, by, unique, farthest, diverse, predict, thumbnails=False)
    with _handle(store) as opened:
        read = pictures_opened()
        chosen = opened.refresh().space(space)
        engine = searcher(opened, chosen, metric)
        _check(wish, opened, engine.items)
        asked = _resolved(opened, chosen, engine, _listed(queries, chosen), encoder, weights, device, many=True)
        return _answers(opened, chosen, engine, asked, wish, read)


@contextmanager
def _handle(store: Store | str | os.PathLike[str]) -> Iterator[Store]:
    """A store as it was given, or opened from a path and closed again."""
    if isinstance(store, Store):
        yield store
        return
    with Store(store) as opened:
        yield opened


def _check(wish: _Wish, store: Store, items: Items) -> None:
    _checked_k(wish.k, items)
    if wish.group not in (None, "none"):
        store.column_name(wish.group)  # of a query without a group nobody would notice that there is none
    if not 0 <= wish.diverse < 1:
        raise UsageError(f"diverse {wish.diverse}", expected="from 0 to below 1", do="--diverse 0.5")
    if wish.diverse and wish.farthest:
        raise UsageError("variety is chosen among the most similar", expected="--diverse or --farthest, not both")


def _answers(
    store: Store, space: Space, engine: Searcher, asked: Sequence[_Query], wish: _Wish, read: int
) -> list[SearchResult]:
    """Results of queries in one pass."""
    items = engine.items
    k = _checked_k(wish.k, items)
    notes = list(engine.notes)
    allowed: BoolArray | None = None
    if wish.where is not None:
        told = engine.once(("warnings", wish.where), lambda: store.where_warnings(wish.where or ""))
        notes += told
        allowed = engine.fitting(store, wish.where)
    if wish.ids is not None:
        some = engine.of_ids(wish.ids)
        allowed = some if allowed is None else allowed & some
    grouped = [_own(store, engine, query.own, wish) for query in asked]
    own = [excluded for _, excluded in grouped]
    once_per = [_values(store, engine, wish.by)] if wish.by is not None else []
    once_per += [items.contents] if wish.unique else []
    pool = min(len(items), max(_POOL * k, 50)) if wish.diverse else k
    vectors = np.stack([query.vector for query in asked]) if asked else np.empty((0, space.dim), np.float32)
    # Recall is measured with pictures that look for the nearest: of anything else all vectors are compared.
    whole = wish.farthest or any(query.kind == "text" for query in asked)
    found = engine.find(vectors, pool, allowed, own, farthest=wish.farthest, once_per=once_per, whole=whole)
    if wish.diverse:
        found = [_varied(store, space, engine, hits, k, wish.diverse) for hits in found]
    hits = _hits(store, space, items, found, wish.predict)
    able = engine.candidates(allowed)
    results = []
    for query, (column, excluded), of_query in zip(asked, grouped, hits, strict=True):
        short = [f"{len(of_query)} of {k}: no more items fit"] if len(of_query) < k else []
        results.append(
            SearchResult(
                of_query,
                query.name,
                query.kind,
                space.name,
                space.passport.encoder,
                wish.where,
                column,
                len(excluded),
                store.commit,
                int(able.sum()) - int((able & engine.of_ids(excluded)).sum() if len(excluded) else 0),
                engine.exact or whole,
                pictures_opened() - read,
                [*notes, *short],
                _thumbnail(store, query) if wish.thumbnails else query.thumbnail,
                engine.metric.name,
                engine.recall.to_dict() if engine.recall and not whole else None,
                query.first if query.kind == "item" else None,
                wish.predict,
            )
        )
    return results


def _thumbnail(store: Store, query: _Query) -> bytes | None:
    if query.thumbnail is not None or query.first is None:
        return query.thumbnail
    digest = store.hashes_of([query.first])[query.first]
    return store.thumbnails.get([digest]).get(digest)


def _varied(
    store: Store, space: Space, engine: Searcher, hits: list[Neighbour], k: int, weight: float
) -> list[Neighbour]:
    """Maximal marginal relevance (Carbonell and Goldstein 1998): similar to the query, unlike those chosen before."""
    if len(hits) <= 1:
        return hits
    rows = np.searchsorted(engine.items.ids, [hit.item for hit in hits])
    vectors = engine.metric.queries(engine.vectors(store, space, engine.items.contents[rows])).astype(np.float64)
    scores = np.array([hit.score for hit in hits])
    nearest = np.full(len(hits), -np.inf)
    chosen = [0]
    while len(chosen) < min(k, len(hits)):
        nearest = np.maximum(nearest, (vectors * vectors[chosen[-1]]).sum(axis=1))
        worth = (1 - weight) * scores - weight * nearest
        worth[chosen] = -np.inf
        chosen.append(int(np.argmax(worth)))
    return [hits[place] for place in chosen]


def _combined(positive: Sequence[_Query], negative: Sequence[_Query]) -> _Query:
    """One query of several examples."""
    wanted: DoubleArray = np.mean([query.vector for query in positive], axis=0, dtype=np.float64)
    if negative:
        wanted = 2 * wanted - np.mean([query.vector for query in negative], axis=0, dtype=np.float64)
    length = float(np.linalg.norm(wanted))
    if length < 1e-6:
        raise DataError(
            "the examples cancel each other out", expected="a direction that is left", do="give other examples"
        )
    names = [query.name for query in positive] + [f"not {query.name}" for query in negative]
    own = sorted({item for query in (*positive, *negative) for item in query.own})
    name = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    first = positive[0]
    return _Query(name, "several", (wanted / length).astype(np.float32), own, first.thumbnail, first.first)


def _checked_k(k: int | None, items: Items) -> int:
    """How many hits are asked for: only a number that was given is refused for being too large."""
    if k is not None and (isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1):
        raise UsageError(f"k = {k!r}", expected="a whole number, at least 1", do="-k 10")
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
    return int(k)


def _checked_ids(ids: Iterable[int] | IntArray | None) -> IntArray | None:
    """Item ids as an array: what NumPy would make other ids of (a mask, fractions) is refused."""
    if ids is None:
        return None
    given = ids if isinstance(ids, np.ndarray) else list(ids)
    array = np.asarray(given)
    if array.size and array.dtype.kind not in "iu":
        if not all(isinstance(one, (int, np.integer)) and not isinstance(one, bool) for one in given):
            raise UsageError(
                f"ids of type {array.dtype}",
                expected="item ids, whole numbers",
                do="of a mask: store.items().ids[mask]",
            )
        array = np.array([one for one in given if -1 < int(one) < 1 << 63], np.int64)  # no item has the others
    return array.astype(np.int64).ravel()


def _listed(
    queries: str | os.PathLike[str] | Sequence[Query] | npt.NDArray[np.floating[Any]], space: Space
) -> list[Query]:
    """Many queries as a list."""
    if isinstance(queries, (str, os.PathLike)):
        path = Path(queries)
        if path.suffix.lower() != ".npy":
            try:
                lines = path.read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(
                    f"{path}: {error}", expected="a .npy file, or a text file with a query on each line"
                ) from error
            return [line.strip() for line in lines if line.strip()]
        queries = _loaded(path)
    if isinstance(queries, np.ndarray):
        if queries.ndim != 2 or queries.shape[1] != space.dim:
            raise SpaceMismatch(
                f"query vectors of shape {queries.shape}",
                expected=f"(n, {space.dim}): the space {space.name}",
                do="give a row for each query",
            )
        return list(queries)
    return list(queries)


def _resolved(
    store: Store,
    space: Space,
    engine: Searcher,
    queries: Sequence[Query],
    encoder: str | None,
    weights: str | os.PathLike[str] | None,
    device: str | None,
    *,
    many: bool = False,
) -> list[_Query]:
    """What queries mean: a vector, an item id, a file, or a locator, in this order.

    Items are read in one go, and pictures embedded in one. Of many, vectors have their number (from 0) as a name.
    """
    items = engine.items
    found: list[_Query | int | Path] = []
    for place, query in enumerate(queries):
        if isinstance(query, np.ndarray):
            name = f"vector {place}" if many else "a vector"
            found.append(_Query(name, "vector", _unit(query, space, f"vector {place}" if many else ""), []))
            continue
        if isinstance(query, (int, np.integer)) or (
            isinstance(query, str) and query.isascii() and query.isdigit() and not _is_file(Path(query))
        ):
            found.append(_row_of_item(store, items, int(query)))
            continue
        path = Path(str(query))
        if not _is_file(path):
            found.append(_row_of_locator(engine, str(query)))
        elif path.suffix.lower() == ".npy":
            found.append(_Query(path.name, "vector", _unit(_loaded(path), space, path.name if many else ""), []))
        else:
            found.append(path)
    rows = np.array([row for row in found if isinstance(row, int)], np.int64)
    vectors = iter(engine.vectors(store, space, items.contents[rows]))
    paths = list(dict.fromkeys(one for one in found if isinstance(one, Path)))
    pictures = _by_pictures(store, space, engine, paths, encoder, weights, device) if paths else {}
    resolved = []
    for one in found:
        if isinstance(one, int):
            item = int(items.ids[one])
            name = f"{items.sources[one]}: {items.locators[one]}"
            resolved.append(_Query(name, "item", next(vectors), [item], first=item))
        else:
            resolved.append(pictures[one] if isinstance(one, Path) else one)
    return resolved


def _row_of_locator(engine: Searcher, query: str) -> int:
    """The item with a locator, or one that ends in it where that names one item."""
    items, asked = engine.items, query.replace("\\", "/").replace("!", "/")

    def by_name() -> dict[str, list[int]]:
        rows: dict[str, list[int]] = {}
        for row, locator in enumerate(items.locators):
            name = locator.replace("!", "/").rpartition("/")[2]
            rows.setdefault(name, []).append(row)
            if "#" in name:  # a frame: it may be asked for without its number
                rows.setdefault(name.rpartition("#")[0], []).append(row)
        return rows

    named = engine.once("by name", by_name).get(asked.rpartition("/")[2], [])
    known = {row: items.locators[row].replace("!", "/") for row in named}
    rows = [row for row, locator in known.items() if locator == asked]
    rows = rows or [row for row, locator in known.items() if f"/{locator}".endswith(f"/{asked}")]
    rows = rows or [row for row, locator in known.items() if f"/{locator.rpartition('#')[0]}".endswith(f"/{asked}")]
    if len(rows) == 1:
        return int(rows[0])
    if rows:
        told = ", ".join(f"{items.ids[row]} ({items.sources[row]}: {items.locators[row]})" for row in rows[:5])
        raise Ambiguous(f"{query} fits {len(rows)} items: {told}", expected="one item", do="give the item id")
    raise NotFound(
        f"{query}: no such file, and no item with this locator or id",
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


def _row_of_item(store: Store, items: Items, item: int) -> int:
    row = int(np.searchsorted(items.ids, item))
    if row >= len(items) or items.ids[row] != item:
        raise NotFound(
            f"the store has no item {item}",
            expected="the id of an item with a picture",
            do=f"see: vecstore predict or export {store.path}",
        )
    return row


def _by_pictures(
    store: Store,
    space: Space,
    engine: Searcher,
    paths: Sequence[Path],
    encoder: str | None,
    weights: str | os.PathLike[str] | None,
    device: str | None,
) -> dict[Path, _Query]:
    """Pictures are embedded; where the store has the same pixels, those items are the query itself."""
    for path in paths:
        with suppress(ArchiveError):  # what is no archive either is refused below, with its reason
            kind = open_source(path).kind
            if kind != "file":
                raise PictureError(
                    f"{path} is no picture, but a {kind}", expected="one picture", do="give one of its pictures"
                )
    opened = open_encoder(encoder or space.passport.encoder, weights=weights, device=device)
    _check_fingerprint(space, opened.passport.fingerprint, opened.passport.encoder)
    found: dict[str, NewPicture] = {}
    for one in embed_new(opened, store.rule, paths):
        # Of several frames, which have a number behind the name, the first.
        found.setdefault(one.name if Path(one.name) in paths else one.name.rpartition("#")[0], one)
    items = engine.items
    order = engine.once("content order", lambda: np.argsort(items.contents, kind="stable"))
    ordered = engine.once("contents in order", lambda: items.contents[order])
    made = {}
    for path in paths:
        picture = found.get(os.fspath(path))
        if picture is None or picture.vector is None:
            raise PictureError(
                f"{path}: {picture.reason if picture else 'no picture in it'}",
                expected="a picture",
                do="try another file",
            )
        contents = store.contents_of([picture.hash])
        first, last = np.searchsorted(ordered, contents), np.searchsorted(ordered, contents, "right")
        own = sorted(int(item) for a, b in zip(first, last, strict=True) for item in items.ids[order[a:b]])
        # As a shard holds it: a picture of the store finds what its item finds.
        vector = picture.vector.astype(np.float16).astype(np.float32)
        made[path] = _Query(picture.name, "picture", vector, own, picture.thumbnail)
    return made


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


def _unit(vector: FloatArray, space: Space, name: str = "") -> FloatArray:
    """A query vector as float32 of unit length; `name` says in an error which of many it is."""
    shape, length = np.shape(vector), 0.0
    flat: DoubleArray = np.zeros(1)
    if np.asarray(vector).dtype.kind in "fiu":
        flat = np.asarray(vector, np.float64).reshape(-1)
        most = float(np.abs(flat).max(initial=0.0))  # by which squares neither overflow nor vanish
        if 0 < most < np.inf:
            flat = flat / most
            length = float(np.linalg.norm(flat))
    if shape not in ((space.dim,), (1, space.dim)) or not length:
        raise SpaceMismatch(
            f"{name or 'the query vector'} has shape {shape}"
            + ("" if length else ", and is not finite or has no length"),
            expected=f"({space.dim},), finite: the space {space.name}",
            do="make it with the space's encoder",
        )
    unit: FloatArray = (flat / length).astype(np.float32)
    return unit


def _grouped(store: Store, engine: Searcher, group: str | None) -> Groups:
    grouped: Groups = engine.once(("groups", group), lambda: group_codes(store, engine.items, group))
    return grouped


def _values(store: Store, engine: Searcher, column: str) -> IntArray:
    """Numbers of a column's values: unlike groups, two that share a picture stay two. Without a value, each for itself.

    Frames of a file without a value are together.
    """

    def number() -> IntArray:
        items, rule = engine.items, store.rule
        values = store.column(column, items.ids)
        whole = rule.frames == "all"
        return numbered(
            ("value", values[item]) if item in values else ("file", source, rule.file_of(locator)) if whole else None
            for item, source, locator in zip(items.ids.tolist(), items.sources, items.locators, strict=True)
        )

    codes: IntArray = engine.once(("values", column), number)
    return codes


def _own(store: Store, engine: Searcher, own: Sequence[int], wish: _Wish) -> tuple[str | None, IntArray]:
    """Items that are the query, or belong to its group."""
    if wish.include_own or not own:
        return None, np.empty(0, np.int64)
    grouped = _grouped(store, engine, wish.group)
    order = engine.once(("members", wish.group), lambda: np.argsort(grouped.codes, kind="stable"))
    codes = grouped.codes[np.searchsorted(engine.items.ids, np.asarray(own, np.int64))]
    ordered = engine.once(("codes", wish.group), lambda: grouped.codes[order])
    first, last = np.searchsorted(ordered, np.unique(codes)), np.searchsorted(ordered, np.unique(codes), "right")
    rows = np.concatenate([order[a:b] for a, b in zip(first, last, strict=True)])
    return grouped.column, engine.items.ids[np.sort(rows)]


def _hits(
    store: Store, space: Space, items: Items, found: Sequence[Sequence[Neighbour]], predict: str | None
) -> list[list[Hit]]:
    ids = sorted({hit.item for hits in found for hit in hits})
    metadata = store.metadata(ids)
    labels = store.labels_of(ids)
    predictions, seen = ({}, None) if predict is None else _predictions(store, space, items, ids, predict)
    answers: list[list[Hit]] = []
    for hits in found:
        answers.append([])
        for rank, hit in enumerate(hits, 1):
            row = int(np.searchsorted(items.ids, hit.item))
            answers[-1].append(
                Hit(
                    rank,
                    hit.item,
                    hit.score,
                    items.sources[row],
                    items.locators[row],
                    metadata.get(hit.item, {}),
                    labels.get(hit.item, {}),
                    predictions.get(hit.item, {}),
                    None if seen is None else hit.item in seen,
                )
            )
    return answers


def _predictions(
    store: Store, space: Space, items: Items, ids: Sequence[int], task: str
) -> tuple[dict[int, dict[str, float]], frozenset[int]]:
    """What the newest probe of a task says of items, probability per class; and which of them it was trained on."""
    from vecstore.trained import load, trained_on  # scikit-learn: seconds that other searches do not need

    probe = load(store, task)
    probe.check(space.fingerprint, f"the space {space.name}")
    if not len(ids):
        return {}, frozenset()
    asked = np.asarray(ids, np.int64)
    rows = np.searchsorted(items.ids, asked)
    values = probe.predict_proba(store.vectors(space, items.contents[rows]))
    classes = probe.record.classes
    told = {
        item: {name: float(p) for name, p in zip(classes, row, strict=True)}
        for item, row in zip(ids, values, strict=True)
    }
    return told, frozenset(asked[trained_on(store, probe, items)[rows]].tolist())
