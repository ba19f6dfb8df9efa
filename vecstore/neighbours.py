"""Similar cases: the store's vectors, an index over them, and the rules about who may be found.

The index is a cache over contents. What it does not cover yet is searched exactly; what is gone, filtered
out or excluded is not allowed in. So with an exact index the answer is that of an exact search over the snapshot;
with an approximate one a hit may be missing, as often as was measured when it was built.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from vecstore.errors import DataError, DiskFull, NotWritable
from vecstore.files import make_folder, write_file
from vecstore.index.base import HalfArray, Index, IndexUnusable
from vecstore.index.choice import Plan, choose, spectrum
from vecstore.index.coded import CodedIndex, Design
from vecstore.index.kinds import KINDS, reopened_index
from vecstore.index.metric import DEFAULT_METRIC, SAMPLE, Metric, check_metric
from vecstore.index.pairs import FEWEST, all_pairs
from vecstore.index.recall import Recall
from vecstore.records import BoolArray, FloatArray, IntArray, Progress, Silent
from vecstore.store import Items, ShardRow, Space, Store

_TAIL_SHARE = 0.1
"""An exact index that lacks more than this share of the vectors is built again."""

_TAIL_SHARE_APPROXIMATE = 0.5
"""An approximate one takes longer to build: so much may be searched beside it, until `index update`."""

_READ_ROWS = 65_536

_IN_MEMORY = 1 << 30
"""Bytes of vectors up to which building an index holds them in memory."""

_SAMPLE_ROWS = 20_000
"""Random vectors that the spectrum is taken from."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An item and its similarity to a query, -1 to 1."""

    item: int
    score: float


@dataclass(slots=True)
class Searcher:
    """Everything that searches of one snapshot need: made once, asked often.

    Attributes
    ----------
    items : Items
    parts : list of Index
        The saved index, and an exact one over what it does not cover.
    contents : ndarray of shape (n,), int64
        All contents with a vector, ascending.
    metric : Metric
    notes : list of str
        What a user of the index should know.
    """

    items: Items
    parts: list[Index]
    contents: IntArray
    metric: Metric
    notes: list[str] = field(default_factory=list)
    _order: IntArray = field(init=False)
    _first: IntArray = field(init=False)
    _rows: list[IntArray] = field(init=False)
    _has_vector: BoolArray = field(init=False)
    _made: dict[object, Any] = field(init=False, default_factory=dict)
    _filters: list[tuple[BoolArray | None, tuple[BoolArray, list[BoolArray | None], int]]] = field(
        init=False, default_factory=list
    )

    def __post_init__(self) -> None:
        places = np.searchsorted(self.contents, self.items.contents)
        places[places == len(self.contents)] = 0
        self._has_vector = (
            self.contents[places] == self.items.contents if len(self.contents) else np.zeros(len(self.items), np.bool_)
        )
        # Items by content: those of content c are _order[_first[c] : _first[c + 1]], ids ascending.
        owned = np.flatnonzero(self._has_vector)
        self._order = owned[np.argsort(places[owned], kind="stable")]
        counts = np.bincount(places[owned], minlength=len(self.contents))
        self._first = np.concatenate([[0], np.cumsum(counts)])
        # What an index still has and the store has not is never allowed: its place is one beyond all.
        self._rows = []
        for part in self.parts:
            rows = np.minimum(np.searchsorted(self.contents, part.ids), max(len(self.contents) - 1, 0))
            known = self.contents[rows] == part.ids if len(self.contents) else np.zeros(len(part.ids), np.bool_)
            self._rows.append(np.where(known, rows, len(self.contents)))

    @property
    def exact(self) -> bool:
        """Whether every part compares all vectors."""
        return all(part.exact for part in self.parts)

    @property
    def recall(self) -> Recall | None:
        """What was measured of an approximate index."""
        return next((part.recall for part in self.parts if isinstance(part, CodedIndex)), None)

    def vectors(self, store: Store, space: Space, contents: IntArray) -> FloatArray:
        """Vectors of contents: from the index where it holds them as they are, else from the shards.

        Parameters
        ----------
        store : Store
        space : Space
        contents : ndarray of shape (m,), int64
            In any order.

        Returns
        -------
        ndarray of shape (m, dim), float32

        Raises
        ------
        NotFound, StoreDamaged
        """
        if self.metric.name != "cosine" or not len(contents):
            return store.vectors(space, contents)
        rows = np.empty((len(contents), self.metric.dim), np.float32)
        missing = np.ones(len(contents), np.bool_)
        for part in self.parts:
            here = _in_ascending(part.ids, contents)
            rows[here] = part.take(contents[here])
            missing &= ~here
        return store.vectors(space, contents) if missing.any() else rows

    def once(self, key: object, make: Callable[[], Any]) -> Any:
        """A value that belongs to the snapshot (the items a predicate fits, groups): made when first asked for."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def fitting(self, store: Store, where: str) -> BoolArray:
        """Which of `items` fit a predicate: ndarray of shape (n_items,), bool; evaluated once per snapshot."""
        mask: BoolArray = self.once(("where", where), lambda: _among(self.items.ids, store.select(where)))
        return mask

    def of_ids(self, ids: Sequence[int] | IntArray) -> BoolArray:
        """Which of `items` have one of some ids: ndarray of shape (n_items,), bool."""
        return _among(self.items.ids, np.unique(np.asarray(ids, np.int64)))

    def candidates(self, allowed: BoolArray | None = None, excluded: Sequence[int] | IntArray = ()) -> BoolArray:
        """Which of `items` may be found: those with a vector, allowed and not excluded."""
        rows = self._has_vector.copy() if allowed is None else self._has_vector & allowed
        if len(excluded):
            rows &= ~self.of_ids(excluded)
        return rows

    def find(
        self,
        queries: FloatArray,
        k: int,
        allowed: BoolArray | None = None,
        excluded: Sequence[Sequence[int] | IntArray] | None = None,
        *,
        farthest: bool = False,
        once_per: Sequence[IntArray] = (),
        whole: bool = False,
    ) -> list[list[Neighbour]]:
        """The `k` most similar items to each query.

        Parameters
        ----------
        queries : ndarray of shape (n_queries, dim), float32
            Of unit length, as the encoder makes them.
        k : int
        allowed : ndarray of shape (n_items,), bool, optional
            Which of `items` may be found; all by default.
        excluded : sequence of n_queries sequences of int, optional
            Item ids that may not, for each query.
        farthest : bool
            The least similar instead, the least first. All vectors are compared: no index is made for it.
        once_per : sequence of ndarray of shape (n_items,), int64
            At most one hit, the first, with each value of each of them: patients, contents.
        whole : bool
            Whether to compare all vectors, whatever the index: for queries that are not of the kind it was measured on.

        Returns
        -------
        list of list of Neighbour
            By score, the highest first (the lowest, of the farthest); equal scores by item id. `k` of them where as
            many exist.
        """
        asked = self.metric.queries(np.atleast_2d(queries))
        if farthest:
            asked = -asked
        out: list[list[Neighbour]] = [[] for _ in asked]
        forbidden = [np.empty(0, np.int64)] * len(asked) if excluded is None else [_rows_of(self, e) for e in excluded]
        may, masks, reach = self._allowed(allowed)
        pending = np.arange(len(asked))
        # One more than needed: where the last scores are equal, contents beyond may hold lower item ids.
        count = k + 1 + max((len(rows) for rows in forbidden), default=0)
        if once_per:
            count = 3 * k + max((len(rows) for rows in forbidden), default=0) + 1
        while len(pending) and reach:
            count = min(count, reach)
            (first, mask), *newer = [
                (part, mask) for part, mask in zip(self.parts, masks, strict=True) if mask is None or mask.any()
            ]
            search = first.whole if whole or farthest else first.search
            found, scores = search(asked[pending], count, mask)
            for part, mask in newer:
                found, scores = part.beside((found, scores), asked[pending], count, mask)
            unsure = []
            for row, query in enumerate(pending.tolist()):
                hits, last = self._expand(found[row], scores[row], k, may, forbidden[query], once_per)
                whole = count >= reach or found[row, -1] < 0
                if whole or (len(hits) == k and last < hits[-1].score):
                    out[query] = hits
                else:
                    unsure.append(query)
            pending = np.array(unsure, np.int64)
            count *= 2
        if farthest:
            return [[Neighbour(hit.item, -hit.score) for hit in hits] for hits in out]
        return out

    def _allowed(self, allowed: BoolArray | None) -> tuple[BoolArray, list[BoolArray | None], int]:
        """Items that may be found, as rows of each part (None: all of them), and how many contents that are.

        The last answers are kept: the same filter is asked for again, query after query.
        """
        for known, answer in self._filters:
            if known is allowed:
                return answer
        may = self.candidates(allowed)
        contents = np.zeros(len(self.contents) + 1, np.bool_)
        if len(self._order):
            of_content = np.logical_or.reduceat(may[self._order], self._first[:-1].clip(max=len(self._order) - 1))
            contents[:-1] = of_content & (np.diff(self._first) > 0)
        rows = [contents[rows] for rows in self._rows]
        for mask in rows:
            mask.setflags(write=False)  # so that an index may keep what it derives from it
        answer = may, [None if mask.all() else mask for mask in rows], sum(int(np.count_nonzero(m)) for m in rows)
        self._filters = [(allowed, answer), *self._filters[:3]]
        return answer

    def _expand(
        self,
        contents: IntArray,
        scores: FloatArray,
        k: int,
        may: BoolArray,
        forbidden: IntArray,
        once_per: Sequence[IntArray],
    ) -> tuple[list[Neighbour], float]:
        """Contents found, as the first `k` items that may be; and the lowest score that was looked at."""
        real = contents >= 0
        contents, scores = contents[real], scores[real]
        if not len(contents):
            return [], -np.inf
        places = np.searchsorted(self.contents, contents)
        starts, counts = self._first[places], self._first[places + 1] - self._first[places]
        if (counts == 1).all():
            rows, values = self._order[starts], scores
        else:
            offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            rows, values = self._order[np.repeat(starts, counts) + offsets], np.repeat(scores, counts)
        keep = may[rows]
        if len(forbidden):
            keep &= ~np.isin(rows, forbidden)
        rows, values = rows[keep], values[keep]
        order = np.lexsort((self.items.ids[rows], -values))
        rows, values = rows[order], values[order]
        if once_per:
            first = _once([codes[rows] for codes in once_per], k)
            rows, values = rows[first], values[first]
        ids = self.items.ids[rows[:k]].tolist()
        return [Neighbour(*hit) for hit in zip(ids, values[:k].tolist(), strict=True)], float(scores[-1])


def _once(codes: Sequence[IntArray], k: int) -> IntArray:
    """Places of the first `k` hits of which none has a code, of any of some kinds, that one before it has."""
    if len(codes) == 1:
        return np.sort(np.unique(codes[0], return_index=True)[1])
    taken: list[set[int]] = [set() for _ in codes]
    places: list[int] = []
    for place, own in enumerate(zip(*(some.tolist() for some in codes), strict=True)):
        if len(places) == k:
            break
        if not any(code in gone for code, gone in zip(own, taken, strict=True)):
            places.append(place)
            for code, gone in zip(own, taken, strict=True):
                gone.add(code)
    return np.array(places, np.int64)


def _rows_of(searcher: Searcher, ids: Sequence[int] | IntArray) -> IntArray:
    """Where items are in `Searcher.items`; ids that are not there are passed over."""
    wanted = np.asarray(ids, np.int64)
    places = np.searchsorted(searcher.items.ids, wanted)
    places[places == len(searcher.items)] = 0
    rows: IntArray = places[searcher.items.ids[places] == wanted] if len(searcher.items) else places[:0]
    return rows


def _in_ascending(ids: IntArray, some: IntArray) -> BoolArray:
    """Which of some numbers are among ascending ids."""
    if not len(ids):
        return np.zeros(len(some), np.bool_)
    found: BoolArray = ids[np.minimum(np.searchsorted(ids, some), len(ids) - 1)] == some
    return found


def _among(ids: IntArray, some: IntArray) -> BoolArray:
    """Which of ascending ids are among others, also ascending."""
    mask = np.zeros(len(ids), np.bool_)
    if len(ids) and len(some):
        places = np.minimum(np.searchsorted(ids, some), len(ids) - 1)
        mask[places[ids[places] == some]] = True
    return mask


# Opening, building and updating the index of a store

_open: WeakKeyDictionary[Store, tuple[tuple[object, ...], Searcher]] = WeakKeyDictionary()
"""The last searcher of each handle: a second search of a snapshot does not read the index again."""


def index_folder(store: Store, space: Space, metric: str = DEFAULT_METRIC) -> Path:
    """Where the index of a space and metric lies."""
    return store.path / "indexes" / (str(space.id) if metric == "cosine" else f"{space.id}-{metric}")


def searcher(store: Store, space: Space, metric: str = DEFAULT_METRIC) -> Searcher:
    """Open, complete or rebuild what is needed to search a space at the store's snapshot.

    Raises
    ------
    UsageError
        An unknown metric.
    """
    check_metric(metric)
    key = (store.commit, space.id, metric)
    known = _open.get(store)
    if known is not None and known[0] == key:
        return known[1]
    made = _searcher(store, space, metric)
    _open[store] = (key, made)
    return made


def _searcher(store: Store, space: Space, metric: str) -> Searcher:
    shards = store.shards(space)
    # Digests are computed beside what SQLite does: both take about as long. The catalog is asked by this thread alone.
    with ThreadPoolExecutor(1) as pool:
        opening = pool.submit(_opened, store, space, metric, shards)
        items = store.items()
        found = opening.result()
    if found is not None and len(found[0].ids) == sum(shard.rows for shard in shards):
        index, fitted, _ = found  # it has all that the shards have, which need not be read
        return Searcher(items, [index], index.ids, fitted)
    contents = store.embedded(space)
    if found is not None:
        index, fitted, _ = found
        tail = np.setdiff1d(contents, index.ids, assume_unique=True)
        share = _TAIL_SHARE if index.exact else _TAIL_SHARE_APPROXIMATE
        if np.isin(index.ids, contents).all() and len(tail) <= share * len(contents):
            parts = [index]
            notes = []
            if len(tail):
                parts.append(KINDS["exact"].build(tail, fitted.apply(store.vectors(space, tail))))
            if not index.exact and len(tail) > _TAIL_SHARE * len(contents):
                notes.append(f"{len(tail)} vectors are newer than the index: run: vecstore index update {store.path}")
            return Searcher(items, parts, contents, fitted, notes)
        if isinstance(index, CodedIndex):
            asked = float(index.facts.get("asked", 0.99))
            built, fitted = _built(store, space, contents, metric, index.kind, index.design, asked)
            reached = built.recall if isinstance(built, CodedIndex) else None
            if reached is None or reached.value >= asked:
                _save(store, space, built, fitted)
                return Searcher(items, [built], contents, fitted)
    built, fitted = _built(store, space, contents, metric, "exact", None, 1.0)
    _save(store, space, built, fitted)
    return Searcher(items, [built], contents, fitted)


def _opened(
    store: Store, space: Space, metric: str, shards: Sequence[ShardRow]
) -> tuple[Index, Metric, dict[str, Any]] | None:
    """The saved index of a space, if it is whole, ours, and of shards of the snapshot; the catalog is not asked."""
    folder = index_folder(store, space, metric)
    with suppress(IndexUnusable, OSError, ValueError, KeyError, TypeError):
        index, covers = reopened_index(folder, {"fingerprint": space.fingerprint.hex(), "metric": metric})
        if not set(covers["shards"]) <= {shard.sha256.hex() for shard in shards}:
            return None
        fitted = Metric(metric, np.zeros(space.dim), np.ones(space.dim))
        if metric != "cosine":
            data = (folder / _metric_name(covers["metric_sha256"])).read_bytes()
            if hashlib.sha256(data).hexdigest() != covers["metric_sha256"]:
                return None
            fitted = Metric.from_bytes(metric, data)
        if fitted.dim == index.dim and len(fitted.mean) == space.dim:
            return index, fitted, covers
    return None


def _metric_name(sha256: str) -> str:
    return f"metric-{sha256[:16]}.npy"


def _save(store: Store, space: Space, index: Index, metric: Metric) -> bool:
    """Keep an index for the next time, where the store is written to; losing a cache loses time."""
    if store.fixed or not store.catalog.writable:
        return False
    try:
        save_index(store, space, index, metric)
    except (NotWritable, DiskFull, OSError):
        return False
    return True


def save_index(store: Store, space: Space, index: Index, metric: Metric) -> None:
    """Write an index of the whole snapshot into the store.

    Raises
    ------
    NotWritable, DiskFull
    """
    folder = index_folder(store, space, metric.name)
    covers: dict[str, Any] = {
        "fingerprint": space.fingerprint.hex(),
        "shards": [shard.sha256.hex() for shard in store.shards(space)],
        "commit": store.commit,
        "metric": metric.name,
    }
    if metric.name != "cosine":
        data = metric.to_bytes()
        covers["metric_sha256"] = hashlib.sha256(data).hexdigest()
        make_folder(folder)
        write_file(folder / _metric_name(covers["metric_sha256"]), data)
    index.save(folder, covers)
    for old in folder.glob("metric-*.npy"):
        if old.name != _metric_name(covers.get("metric_sha256", "")):
            with suppress(OSError):
                old.unlink()


def _blocks(store: Store, space: Space, contents: IntArray, progress: Progress) -> Iterator[tuple[slice, FloatArray]]:
    """Vectors of contents, block after block, so that float32 of all of them is never in memory."""
    progress.begin("vectors", len(contents))
    for start in range(0, len(contents), _READ_ROWS):
        part = slice(start, min(start + _READ_ROWS, len(contents)))
        yield part, store.vectors(space, contents[part])
        progress.step(part.stop - part.start)
    progress.end()


def _moved(store: Store, space: Space, contents: IntArray, metric: Metric, progress: Progress) -> HalfArray:
    """All vectors as a metric compares them: ndarray of shape (n, m), float16."""
    rows = _room(store, len(contents), metric.dim)
    for part, vectors in _blocks(store, space, contents, progress):
        rows[part] = metric.apply(vectors)
    return rows


def _room(store: Store, n: int, dim: int) -> HalfArray:
    """A matrix to be filled: of very many vectors in a file without a name, that goes with the process.

    Where there is no room on the disk either, in memory.
    """
    size = 2 * n * dim
    if size > _IN_MEMORY and not store.fixed and store.catalog.writable:
        folder = store.path / "indexes"
        with suppress(NotWritable, DiskFull, OSError):
            make_folder(folder)
            with tempfile.TemporaryFile(dir=folder) as file:
                if hasattr(os, "posix_fallocate"):  # a full disk is an error here, and would be a signal later
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    file.truncate(size)
                return np.memmap(file, np.float16, "r+", shape=(n, dim))
    return np.empty((n, dim), np.float16)


def sample_of(store: Store, space: Space, contents: IntArray, count: int) -> FloatArray:
    """Vectors of a random sample of contents, always the same: ndarray of shape (m, dim), float32."""
    if len(contents) <= count:
        return store.vectors(space, contents)
    rows = np.sort(np.random.default_rng(0).choice(len(contents), count, replace=False))
    return store.vectors(space, contents[rows])


def fitted_metric(store: Store, space: Space, contents: IntArray, metric: str) -> Metric:
    """A metric fitted on a store's vectors."""
    check_metric(metric)
    if metric == "cosine":
        return Metric(metric, np.zeros(space.dim), np.ones(space.dim))
    return Metric.fit(metric, sample_of(store, space, contents, SAMPLE))


def _built(
    store: Store,
    space: Space,
    contents: IntArray,
    metric: str,
    kind: str,
    design: Design | None,
    recall: float,
    fitted: Metric | None = None,
    progress: Progress | None = None,
) -> tuple[Index, Metric]:
    chosen = fitted or fitted_metric(store, space, contents, metric)
    rows = _moved(store, space, contents, chosen, progress or Silent())
    if kind == "exact":
        return KINDS["exact"].build(contents, rows), chosen
    maker = KINDS[kind]
    assert issubclass(maker, CodedIndex)
    return maker.build(contents, rows, design, recall), chosen


@dataclass(frozen=True, slots=True)
class IndexState:
    """An index of a store, and how it came to be.

    Attributes
    ----------
    index : Index
    metric : str
    plan : Plan or None
        What was chosen; None where nothing was built.
    tried : list of str
        Plans that did not reach the recall, and what they reached.
    covered, vectors : int
        Vectors in the index, and in the space.
    commit : int
        The snapshot it was built or updated at.
    """

    index: Index
    metric: str
    plan: Plan | None
    tried: list[str]
    covered: int
    vectors: int
    commit: int


def build_index(
    store: Store,
    space: Space,
    *,
    kind: str | None = None,
    recall: float = 0.99,
    memory: int | None = None,
    metric: str = DEFAULT_METRIC,
    progress: Progress | None = None,
) -> IndexState:
    """Choose, build, measure and save an index; see `vecstore.index_build`."""
    told = progress or Silent()
    contents = store.embedded(space)
    fitted = fitted_metric(store, space, contents, metric)
    sample = sample_of(store, space, contents, _SAMPLE_ROWS)
    shape = spectrum(fitted.queries(sample)) if len(sample) > 1 else None
    plans = choose(len(contents), fitted.dim, shape, recall, memory, kind)
    tried: list[str] = []
    for plan in [plan for plan in plans if kind in (None, plan.kind)] or plans:
        told.say(str(plan))
        try:
            index, _ = _built(store, space, contents, metric, plan.kind, plan.design, recall, fitted, told)
        except DataError as error:
            if kind is not None or plan.kind == "exact":
                raise
            tried.append(f"{plan.kind} ({plan.design}): {error.fact}")
            told.say(f"not possible: {tried[-1]}")
            continue
        reached = index.recall if isinstance(index, CodedIndex) else None
        if reached is None or reached.value >= recall:
            save_index(store, space, index, fitted)
            _open.pop(store, None)
            return IndexState(index, metric, plan, tried, len(index.ids), len(contents), store.commit)
        tried.append(f"{plan.kind} ({plan.design}): {reached}")
        told.say(f"not enough: {tried[-1]}")
    others = [name for name in ("coded", "exact") if name != kind]
    raise DataError(
        f"no {kind or 'index that fits into the memory'} reaches a recall of {recall}: {'; '.join(tried)}",
        expected=f"a measured recall of at least {recall}; the old index, if any, is as it was",
        do=f"--kind {' or --kind '.join(others)} reaches it"
        if kind
        else "give more --memory, or ask for less --recall",
    )


def update_index(
    store: Store, space: Space, metric: str = DEFAULT_METRIC, progress: Progress | None = None
) -> IndexState:
    """Add to the saved index what is newer, without building it again; see `vecstore.index_update`."""
    found = _opened(store, space, metric, store.shards(space))
    contents = store.embedded(space)
    if found is None or not np.isin(found[0].ids, contents).all():
        return build_index(store, space, metric=metric, progress=progress)
    index, fitted, covers = found
    tail = np.setdiff1d(contents, index.ids, assume_unique=True)
    if not len(tail) and covers["commit"] == store.commit:
        return IndexState(index, metric, None, [], len(index.ids), len(contents), store.commit)
    if len(tail):
        index = index.extended(tail, _moved(store, space, tail, fitted, progress or Silent()))
    if isinstance(index, CodedIndex):
        asked, reached = float(index.settings.get("asked", 0.0)), index.recall
        if reached is not None and reached.value < asked:
            return build_index(store, space, metric=metric, recall=asked, progress=progress)
    save_index(store, space, index, fitted)
    _open.pop(store, None)
    return IndexState(index, metric, None, [], len(index.ids), len(contents), store.commit)


def pairs_of(
    store: Store, space: Space, engine: Searcher, contents: IntArray, k: int, recall: float, progress: Progress
) -> tuple[IntArray, FloatArray, Recall] | None:
    """Neighbours of all of some contents among each other; see `vecstore.index.pairs.all_pairs`.

    Parameters
    ----------
    contents : ndarray of shape (n,), int64
        One for each item, so that some may be given more than once.
    k : int
    recall : float
        Below 1.

    Returns
    -------
    tuple or None
        Of few different vectors: they are to be compared exactly.
    """
    if len(contents) < FEWEST:
        return None
    vectors = _moved(store, space, contents, engine.metric, progress)
    try:
        return all_pairs(vectors, k, recall, progress=progress)
    except DataError:
        return None


def index_state(store: Store, space: Space, metric: str = DEFAULT_METRIC) -> IndexState | None:
    """The saved index of a space, or None where there is none that can be used."""
    found = _opened(store, space, metric, store.shards(space))
    if found is None:
        return None
    index, _, covers = found
    return IndexState(index, metric, None, [], len(index.ids), len(store.embedded(space)), int(covers["commit"]))
