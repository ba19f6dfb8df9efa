"""`neighbors`: the nearest neighbours of every item, in one pass over the store; near-duplicates and outliers."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from vecstore.errors import DataError, UsageError
from vecstore.files import output_file, write_file
from vecstore.index.metric import DEFAULT_METRIC
from vecstore.neighbours import pairs_of, searcher
from vecstore.records import DoubleArray, IntArray, Progress, Silent
from vecstore.store import Store

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_BLOCK = 4096
"""Queries in one call."""

_MOST = 128
"""Neighbours that are looked at for near-duplicates, where all of the first k are."""


@dataclass(frozen=True, slots=True)
class NeighborGraph:
    """The nearest neighbours of every item.

    Attributes
    ----------
    ids : ndarray of shape (n,), int64
        Items, ascending: the rows and columns of `graph`.
    graph : scipy.sparse.csr_matrix of shape (n, n), float64
        In row i the distances (1 - cosine, 0 to 2) to its k nearest other items, the nearest first: what cleanlab's
        `knn_graph` and UMAP's `precomputed_knn` are made of.
    duplicates : list of list of int
        Groups of items that are at least as similar as the threshold, directly or by way of others; the largest first.
    outliers : list of (int, float)
        Items by their mean distance to their neighbours, the farthest first.
    places : dict of int to (str, str)
        Source and locator of the items in `duplicates` and `outliers`.
    space, metric : str
    k, commit : int
    exact : bool
    recall : dict or None
        Of an approximate graph, as measured on held-out items; None of an exact one.
    """

    ids: IntArray
    graph: csr_matrix
    duplicates: list[list[int]]
    outliers: list[tuple[int, float]]
    space: str
    metric: str
    k: int
    commit: int
    exact: bool
    recall: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    places: dict[int, tuple[str, str]] = field(default_factory=dict)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a file that `scipy.sparse.load_npz` reads; `item_ids` in it are the ids of the rows.

        Raises
        ------
        UsageError, DiskFull, NotWritable
        """
        target = output_file(path)
        write_file(target, lambda file: _write(self, file))


def _write(found: NeighborGraph, file: Any) -> None:
    """The members of SciPy's format, and the ids."""
    import io

    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        indices=found.graph.indices,
        indptr=found.graph.indptr,
        format=b"csr",
        shape=np.array(found.graph.shape),
        data=found.graph.data,
        item_ids=found.ids,
    )
    file.write(buffer.getvalue())


def neighbors(
    store: Store | str | os.PathLike[str],
    k: int = 10,
    *,
    space: str | None = None,
    metric: str = DEFAULT_METRIC,
    where: str | None = None,
    recall: float | None = None,
    duplicates: float = 0.99,
    outliers: int = 20,
    output: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> NeighborGraph:
    """Find the nearest neighbours of every item, groups of near-duplicates, and outliers.

    Parameters
    ----------
    store : Store or path
    k : int
        Neighbours of each item, itself not among them.
    space, metric, where : str, optional
        As of `search`; only items that fit `where` are rows, and found.
    recall : float, optional
        Share of the exact neighbours that is to be found, above 0 and up to 1; by default as much as the store's index
        finds, which is all of an exact one. Below 1 the pairs of items are looked at once, over few directions, and
        what comes near is scored from the vectors; the recall that was measured is told. A few thousand items are
        compared exactly all the same.
    duplicates : float
        Similarity from which on two items are near-duplicates, up to 1. Where all k neighbours of an item are, up to
        128 are looked at.
    outliers : int
        How many are listed.
    output : path, optional
        Where to write the graph (`.npz`).
    progress : Progress, optional

    Returns
    -------
    NeighborGraph

    Raises
    ------
    UsageError, NotFound, Ambiguous, PredicateRefused
    DataError
        Fewer than two items.
    """
    if k < 1 or not -1 <= duplicates <= 1 or outliers < 0:
        raise UsageError(
            f"k = {k}, duplicates = {duplicates}, outliers = {outliers}",
            expected="k from 1, a similarity up to 1, and a number from 0",
            do="-k 10 --duplicates 0.99 --outliers 20",
        )
    if recall is not None and not 0 < recall <= 1:
        raise UsageError(f"recall {recall}", expected="above 0 and at most 1", do="--recall 0.97")
    if output is not None:
        output_file(output)  # refused before any work
    told = progress or Silent()
    with nullcontext(store) if isinstance(store, Store) else Store(store) as opened:
        chosen = opened.refresh().space(space)
        engine = searcher(opened, chosen, metric)
        may = engine.candidates(None if where is None else engine.fitting(opened, where))
        rows = np.flatnonzero(may)
        if len(rows) < 2:
            raise DataError(
                f"{len(rows)} items to compare",
                expected="at least two with a vector",
                do="ingest more, or widen --where",
            )
        ids, contents = engine.items.ids[rows], engine.items.contents[rows]
        k = min(k, len(rows) - 1)

        def nearest(some: IntArray, count: int) -> tuple[IntArray, DoubleArray]:
            """Rows of the nearest others of some rows, and their distances."""
            near, far = np.empty((len(some), count), np.int64), np.empty((len(some), count), np.float64)
            for start in range(0, len(some), _BLOCK):
                part = slice(start, start + _BLOCK)
                vectors = engine.vectors(opened, chosen, contents[some[part]])
                own = [[int(item)] for item in ids[some[part]]]
                hits = engine.find(vectors, count, may, own, whole=recall is not None)
                near[part] = np.searchsorted(ids, [[hit.item for hit in of_one] for of_one in hits])
                far[part] = [[1 - hit.score for hit in of_one] for of_one in hits]
                if count == k:
                    told.step(len(hits))
            return near, far

        reached, exact = engine.recall, engine.exact or recall is not None
        by_pairs = None
        if recall is not None and recall < 1:
            by_pairs = pairs_of(opened, chosen, engine, contents, k, recall, told)
        if by_pairs is not None:
            near, scores, reached = by_pairs
            far, exact = 1 - scores.astype(np.float64), False
        else:
            told.begin("items", len(rows))
            near, far = nearest(np.arange(len(rows)), k)
            told.end()
        together, alone = _groups(ids, near, far, 1 - duplicates, nearest), _outliers(ids, far, outliers)
        told_of = [*(item for group in together for item in group), *(item for item, _ in alone)]
        places = np.searchsorted(engine.items.ids, told_of).tolist()
        found = NeighborGraph(
            ids,
            _graph(near, far),
            together,
            alone,
            chosen.name,
            metric,
            k,
            opened.commit,
            exact,
            reached.to_dict() if reached and not exact else None,
            list(engine.notes),
            {
                item: (engine.items.sources[row], engine.items.locators[row])
                for item, row in zip(told_of, places, strict=True)
            },
        )
    if output is not None:
        found.save(output)
    return found


def _graph(near: IntArray, far: DoubleArray) -> csr_matrix:
    from scipy.sparse import csr_matrix

    n, k = near.shape
    return csr_matrix((far.ravel(), near.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))


def _groups(
    ids: IntArray,
    near: IntArray,
    far: DoubleArray,
    distance: float,
    nearest: Callable[[IntArray, int], tuple[IntArray, DoubleArray]],
) -> list[list[int]]:
    """Items that are near each other, or joined by others that are.

    Of an item whose neighbours are all near, there may be more: two bunches of a dozen alike pictures would come apart
    at k = 10. So more are looked at, as long as the last is near.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    rows, n = np.arange(len(ids)), len(ids)
    firsts, seconds = [], []
    while True:
        close = far <= distance + 1e-7  # scores are float32: what has just the threshold's similarity is within it
        firsts.append(np.repeat(rows, close.sum(axis=1)))
        seconds.append(near[close])
        rows, count = rows[close[:, -1]], min(4 * near.shape[1], n - 1, _MOST)
        if not len(rows) or count <= near.shape[1]:
            break
        near, far = nearest(rows, count)
    first, second = np.concatenate(firsts), np.concatenate(seconds)
    pairs = coo_matrix((np.ones(len(first)), (first, second)), shape=(n, n))
    _, codes = connected_components(pairs, directed=False)
    order = np.argsort(codes, kind="stable")
    groups = np.split(ids[order], np.flatnonzero(np.diff(codes[order])) + 1)
    return sorted((group.tolist() for group in groups if len(group) > 1), key=lambda group: (-len(group), group))


def _outliers(ids: IntArray, far: DoubleArray, count: int) -> list[tuple[int, float]]:
    mean = far.mean(axis=1)
    order = np.lexsort((ids, -mean))[:count]
    return [(int(ids[row]), float(mean[row])) for row in order]
