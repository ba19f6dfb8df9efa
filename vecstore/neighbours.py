"""Similar cases: the store's vectors, an index over them, and the rules about who may be found.

The index is a cache over contents. What it does not cover yet is searched exactly; what is gone, filtered
out or excluded is not allowed in. So the answer is that of an exact search over the snapshot.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from vecstore.errors import DiskFull, NotWritable
from vecstore.index.base import Index, IndexUnusable, merge
from vecstore.index.kinds import KINDS, open_index
from vecstore.records import BoolArray, FloatArray, IntArray
from vecstore.store import Items, Space, Store

_TAIL_SHARE = 0.1
"""An index that lacks more than this share of the vectors is built again."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An item and its cosine similarity to a query, -1 to 1."""

    item: int
    score: float


@dataclass(frozen=True, slots=True)
class Searcher:
    """Everything one search needs: made once, asked often.

    Attributes
    ----------
    parts : list of Index
        The saved index, and an exact one over what it does not cover.
    exact : bool
        Whether every part compares all vectors.
    """

    items: Items
    parts: list[Index]
    contents: IntArray
    exact: bool

    def candidates(self, allowed: IntArray | None = None, excluded: Sequence[int] = ()) -> BoolArray:
        """Which of `items` may be found: those with a vector, allowed and not excluded."""
        rows = np.isin(self.items.contents, self.contents)
        if allowed is not None:
            rows &= np.isin(self.items.ids, allowed)
        if len(excluded):
            rows &= ~np.isin(self.items.ids, np.asarray(excluded, np.int64))
        return rows

    def find(
        self,
        query: FloatArray,
        k: int,
        allowed: IntArray | None = None,
        excluded: Sequence[int] = (),
    ) -> list[Neighbour]:
        """The `k` most similar items.

        Parameters
        ----------
        query : ndarray of shape (dim,), float32
            Of unit length.
        k : int
        allowed : ndarray of shape (m,), int64, optional
            Item ids that may be found; all by default.
        excluded : sequence of int
            Item ids that may not.

        Returns
        -------
        list of Neighbour
            By score, the highest first; equal scores by item id. `k` of them where as many exist.
        """
        candidates = self.candidates(allowed, excluded)
        whole = bool(candidates.all()) and len(np.unique(self.items.contents)) == len(self.contents)
        ids, contents = self.items.ids[candidates], self.items.contents[candidates]
        of_content: dict[int, list[int]] = defaultdict(list)
        wanted = None if whole else np.unique(contents)
        unit = _unit(np.array(query, np.float32)[None])
        asked = k
        while True:
            # One more than needed: where the last scores are equal, contents beyond may hold lower item ids.
            asked += 1
            found, scores = merge([part.search(unit, asked, wanted) for part in self.parts], asked)
            if found[0, -1] < 0 or scores[0, -1] < scores[0, k - 1]:
                break
            asked *= 2
        best = {int(c): float(s) for c, s in zip(found[0], scores[0], strict=True) if c >= 0}
        if not best:
            return []
        rows = np.flatnonzero(np.isin(contents, np.fromiter(best, np.int64, len(best))))
        for row in rows:
            of_content[int(contents[row])].append(int(ids[row]))
        hits = [Neighbour(item, best[content]) for content, members in of_content.items() for item in members]
        return sorted(hits, key=lambda hit: (-hit.score, hit.item))[:k]


def _unit(vectors: FloatArray) -> FloatArray:
    """Rows brought back to length 1, which float16 moved by up to 0.0005: a vector's cosine with itself is 1."""
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def searcher(store: Store, space: Space) -> Searcher:
    """Open, complete or rebuild what is needed to search a space at the store's snapshot."""
    shards = store.shards(space)
    names = [shard.sha256.hex() for shard in shards]
    folder = store.path / "indexes" / str(space.id)
    contents = store.embedded(space, shards)
    items = store.items()
    fingerprint = space.fingerprint.hex()
    parts: list[Index] = []
    with suppress(IndexUnusable):
        index, covers = open_index(folder)
        known = set(covers.get("shards", []))
        tail = np.setdiff1d(contents, index.ids)
        if (
            covers.get("fingerprint") == fingerprint
            and known <= set(names)
            and np.isin(index.ids, contents).all()
            and len(tail) <= _TAIL_SHARE * len(contents)
        ):
            parts = [index]
            if len(tail):
                parts.append(KINDS["exact"].build(tail, _unit(store.vectors(space, tail))))
    if not parts:
        parts = [KINDS["exact"].build(contents, _unit(store.vectors(space, contents)))]
        if not store.fixed and store.catalog.writable:
            with suppress(NotWritable, DiskFull, OSError):  # a cache: losing it loses time
                parts[0].save(folder, {"fingerprint": fingerprint, "shards": names, "commit": store.commit})
    return Searcher(items, parts, contents, all(part.kind == "exact" for part in parts))
