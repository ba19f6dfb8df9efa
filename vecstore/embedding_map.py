"""`embedding_map`: all items in a plane, alike ones near each other, as one page with their pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vecstore.errors import DataError, NotFound, UsageError
from vecstore.files import output_file, write_file
from vecstore.index.clusters import cluster
from vecstore.index.projection import METHODS, plane
from vecstore.neighbours import Searcher, searcher
from vecstore.records import DoubleArray, FloatArray, IntArray, Value
from vecstore.report.map import SHOWN, MapField, MapPoints, map_page
from vecstore.report.page import count, number
from vecstore.store import Space, Store, using

LIMIT = 2_000
"""Of more items a random sample is shown: a thumbnail makes a page 4 to 8 kB larger, so these make 9 to 16 MB."""

_FIELDS = 12
"""Columns shown under the pointer beside the one that is coloured by."""


@dataclass(frozen=True, slots=True)
class EmbeddingMap:
    """A map that was written.

    Attributes
    ----------
    path : str
    ids : ndarray of shape (n,), int64
        Items that are shown, ascending.
    places : ndarray of shape (n, 2), float64
        Where each of them is.
    of : int
        Items that fit, of which these are all or a random sample.
    method : {"pca", "umap"}
    explained : list of float, or None
        Share of the variance on each axis; None of UMAP.
    space : str
    commit : int
    colors : list of str
        What can be coloured by; the first is at first.
    thumbnails, bytes : int
        Pictures in the page, and its size.
    """

    path: str
    ids: IntArray
    places: DoubleArray
    of: int
    method: str
    explained: list[float] | None
    space: str
    commit: int
    colors: list[str]
    thumbnails: int
    bytes: int
    notes: list[str] = field(default_factory=list)


def embedding_map(
    store: Store | str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    space: str | None = None,
    method: str = "pca",
    color: Sequence[str] = (),
    where: str | None = None,
    limit: int = LIMIT,
    seed: int = 0,
) -> EmbeddingMap:
    """Write a map of a store's items as one self-contained HTML page.

    Parameters
    ----------
    store : Store or path
    output : path
    space : str, optional
        Needed where the store has several.
    method : {"pca", "umap"}
        Principal components; or UMAP (McInnes et al. 2018), which keeps neighbours together and needs `umap-learn`.
    color : sequence of str, optional
        What can be coloured by: columns, "task:NAME" or the name of a task, "source", "cluster" (as `clusters` finds
        them, without a number given). All of these by default, tasks first.
    where : str, optional
        Only items that fit a predicate.
    limit : int
        Of more items a random sample is shown.
    seed : int
        Of that sample, of the clusters and of UMAP.

    Returns
    -------
    EmbeddingMap

    Raises
    ------
    UsageError, NotFound, Ambiguous, PredicateRefused, PackageMissing, DiskFull, NotWritable
    DataError
        Fewer than three items.
    """
    target = output_file(output)  # refused before any work
    if limit < 3:
        raise UsageError(f"limit = {limit}", expected="at least 3", do=f"--limit {LIMIT}")
    if method not in METHODS:
        raise UsageError(f"method {method!r}", expected=f"one of: {', '.join(METHODS)}", do="--method pca")
    with using(store) as opened:
        chosen = opened.refresh().space(space)
        engine = searcher(opened, chosen)
        fit = np.flatnonzero(engine.candidates(None if where is None else engine.fitting(opened, where)))
        if len(fit) < 3:
            raise DataError(
                f"{len(fit)} items for a map", expected="at least three", do="ingest more, or widen --where"
            )
        wanted = _wanted(opened, color)
        rows = fit
        if len(fit) > limit:
            rows = np.sort(np.random.default_rng(seed).choice(fit, limit, replace=False))
        places, explained = plane(_vectors(engine, opened, chosen, rows), method, seed)
        fields, colors = _fields(opened, engine, chosen, fit, rows, wanted, bool(color), seed)
        ids = engine.items.ids[rows]
        hashes = opened.hashes_of(ids.tolist())
        pictures = opened.thumbnails.get(sorted(set(hashes.values())))
        points = MapPoints(
            places,
            ids.tolist(),
            [engine.items.locators[row] for row in rows.tolist()],
            [engine.items.sources[row] for row in rows.tolist()],
            [hashes[item] if hashes.get(item) in pictures else None for item in ids.tolist()],
            fields,
            colors,
        )
        shown = count(len(rows), "item")
        if len(rows) < len(fit):
            shown = f"{number(len(rows))} of {count(len(fit), 'item')}, a random sample (seed {seed})"
        facts = {
            "shown": shown,
            "method": _method(explained),
            "space": chosen.name,
            "encoder": chosen.passport.encoder,
            "store": f"{opened.path.name}, commit {opened.commit}",
        } | ({"filter": where} if where else {})
        summary = f"{shown}; what looks alike to the encoder lies together"
        page = map_page(opened.path.stem, summary, points, pictures, facts).encode()
        write_file(target, page)
        names = [fields[place].name for place in colors]
        return EmbeddingMap(
            str(target),
            ids,
            places,
            len(fit),
            method,
            explained,
            chosen.name,
            opened.commit,
            names,
            len(pictures),
            len(page),
            list(engine.notes),
        )


def _method(explained: list[float] | None) -> str:
    if explained is None:
        return "UMAP of cosine distances; its axes have no meaning"
    return f"principal components, {explained[0]:.0%} and {explained[1]:.0%} of the variance"


def _vectors(engine: Searcher, store: Store, space: Space, rows: IntArray) -> FloatArray:
    return engine.metric.queries(engine.vectors(store, space, engine.items.contents[rows]))


def _wanted(store: Store, color: Sequence[str]) -> list[tuple[str, str]]:
    """What to colour by, as (what, name): all there is, or what was named."""
    columns, tasks = list(store.columns()), [task.name for task in store.tasks()]
    if not color:
        # Once clusters are a task or column of that name, it is theirs.
        new = [] if "cluster" in {name.casefold() for name in (*columns, *tasks)} else [("cluster", "cluster")]
        every = [("task", name) for name in tasks] + [*new, ("source", "source")]
        return every + [("column", name) for name in columns]
    folded = {"source": ("source", "source"), "cluster": ("cluster", "cluster")}
    folded |= {name.casefold(): ("task", name) for name in tasks}
    folded |= {name.casefold(): ("column", name) for name in columns}
    folded |= {f"task:{name.casefold()}": ("task", name) for name in tasks}
    found = []
    for name in color:
        if name.casefold() not in folded:
            known = [*columns, *(f"task:{task}" for task in tasks), "source", "cluster"]
            raise NotFound(
                f"nothing to colour by is named {name!r}", expected=f"one of: {', '.join(known)}", do="--color NAME"
            )
        found.append(folded[name.casefold()])
    return list(dict.fromkeys(found))


def _telling(store: Store, metadata: Mapping[int, Mapping[str, Value]]) -> list[str]:
    """Columns that tell one item from another: numbers, and texts of a few values, before others."""
    values = {name: [known[name] for known in metadata.values() if name in known] for name in store.columns()}

    def rank(name: str) -> int:
        different = set(values[name])
        if name.endswith("UID") or not different:
            return 3
        if len(different) == 1:
            return 2
        return 0 if len(different) <= SHOWN or all(isinstance(value, (int, float)) for value in different) else 1

    return sorted((name for name in values if rank(name) < 3), key=rank)


def _fields(
    store: Store,
    engine: Searcher,
    space: Space,
    fit: IntArray,
    rows: IntArray,
    wanted: list[tuple[str, str]],
    named: bool,
    seed: int,
) -> tuple[list[MapField], list[int]]:
    """What is told of each item, and which of it can be coloured by."""
    ids = engine.items.ids[rows].tolist()
    metadata, labels = store.metadata(ids), store.labels_of(ids)
    told = _telling(store, metadata)
    if not named:
        wanted = [one for one in wanted if one[0] != "column"] + [("column", name) for name in told]
    more = [("task", task.name) for task in store.tasks()] + [("column", name) for name in told]
    fields: list[MapField] = []
    colors: list[int] = []
    for what, name in dict.fromkeys([*wanted, *more]):
        if what == "task":
            made = MapField(name, [labels.get(i, {}).get(name) for i in ids], what, store.task(name).classes)
        elif what == "column":
            made = MapField(name, [metadata.get(i, {}).get(name) for i in ids], aside=name not in told[:_FIELDS])
        elif what == "source":
            made = MapField(name, [engine.items.sources[row] for row in rows.tolist()], what)
        else:
            # Of all items that fit, as `clusters` divides them, and not of the sample alone.
            found = cluster(lambda some: _vectors(engine, store, space, fit[some]), len(fit), None, seed)
            numbers = (found.labels[np.searchsorted(fit, rows)] + 1).tolist()
            made = MapField(
                name, [str(number) for number in numbers], what, [str(n) for n in range(1, max(numbers) + 1)]
            )
        if (what, name) in wanted and (named or len({value for value in made.values if value is not None}) > 1):
            colors.append(len(fields))
        fields.append(made)
    return fields, colors
