"""`index_build`, `index_update`, `index_info`: the index that search uses, chosen, measured and kept up to date."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from vecstore.errors import NotFound, NotWritable, UsageError
from vecstore.index.coded import CodedIndex
from vecstore.index.metric import DEFAULT_METRIC
from vecstore.neighbours import IndexState, build_index, index_folder, index_state, update_index
from vecstore.records import Progress
from vecstore.store import Space, Store

_UNITS = {"": 1.0, "b": 1.0} | {
    f"{letter}{end}": float(base**power)
    for power, letter in enumerate("kmgt", 1)
    for end, base in (("", 1000), ("b", 1000), ("ib", 1024))
}


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """An index of a store.

    Attributes
    ----------
    space, metric : str
    kind : {"exact", "coded", "cells"}
    design : str
        Codes, projection and cells; empty for an exact one.
    why : str
        Why it was chosen; empty where nothing was chosen now.
    tried : list of str
        What was built before and did not reach the recall.
    vectors, covered : int
        Vectors in the space, and in the index; the rest is searched exactly beside it.
    dim, bytes : int
        Length of the vectors that are compared; size on disk.
    recall, recall_low, recall_high : float
        As measured against the exact answer on held-out queries, with its 95 % interval; 1 for an exact index.
    recall_k, recall_queries : int
        At how many hits, and on how many queries; 0 for an exact index.
    commit, newest : int
        The commit it was made at, and the store's.
    """

    space: str
    metric: str
    kind: str
    design: str
    why: str
    tried: list[str] = field(default_factory=list)
    vectors: int = 0
    covered: int = 0
    dim: int = 0
    bytes: int = 0
    recall: float | None = 1.0
    recall_low: float | None = 1.0
    recall_high: float | None = 1.0
    recall_k: int = 0
    recall_queries: int = 0
    commit: int = 0
    newest: int = 0


def index_build(
    store: Store | str | os.PathLike[str],
    *,
    space: str | None = None,
    kind: str | None = None,
    recall: float = 0.99,
    memory: int | str | None = None,
    metric: str = DEFAULT_METRIC,
    progress: Progress | None = None,
) -> IndexInfo:
    """Choose an index, build and measure it, and keep it for every later search.

    A build that is stopped leaves the old index as it was.

    Parameters
    ----------
    store : Store or path
    space : str, optional
        Needed where the store has several.
    kind : {"exact", "coded", "cells"}, optional
        Instead of choosing by number, length and spectrum of the vectors.
    recall : float
        Share of the exact ten best hits that has to be found, as measured on held-out queries; 1: an exact index.
    memory : int or str, optional
        What an index may keep in memory, in bytes or like "8GB"; vectors that are only mapped do not count.
    metric : {"cosine", "standard", "whitened"}
        What is compared by its cosine; see `search`. Each metric has an index of its own.
    progress : Progress, optional
        Is told the choice with its reason and estimates before the work begins.

    Returns
    -------
    IndexInfo

    Raises
    ------
    DataError
        Nothing that fits reaches the recall.
    UsageError, NotFound, Ambiguous, NotWritable, DiskFull
    """
    bytes_allowed = parse_memory(memory)
    with _handle(store) as opened:
        _writable(opened)
        chosen = opened.refresh().space(space)
        state = build_index(
            opened, chosen, kind=kind, recall=recall, memory=bytes_allowed, metric=metric, progress=progress
        )
        return _info(opened, chosen, state)


def index_update(
    store: Store | str | os.PathLike[str],
    *,
    space: str | None = None,
    metric: str = DEFAULT_METRIC,
    progress: Progress | None = None,
) -> IndexInfo:
    """Add newer vectors to the saved index, without building it again; measure it again.

    Where there is none that can be used, or vectors were removed, one is built.

    Parameters
    ----------
    store : Store or path
    space, metric, progress : optional
        As of `index_build`.

    Returns
    -------
    IndexInfo

    Raises
    ------
    UsageError, NotFound, Ambiguous, NotWritable, DiskFull
    """
    with _handle(store) as opened:
        _writable(opened)
        chosen = opened.refresh().space(space)
        return _info(opened, chosen, update_index(opened, chosen, metric, progress))


def index_info(
    store: Store | str | os.PathLike[str], *, space: str | None = None, metric: str = DEFAULT_METRIC
) -> IndexInfo:
    """What is known of the saved index: its files are read and checked.

    Parameters
    ----------
    store : Store or path
    space, metric : optional
        As of `index_build`.

    Returns
    -------
    IndexInfo

    Raises
    ------
    NotFound
        There is none that can be used.
    """
    with _handle(store) as opened:
        chosen = opened.refresh().space(space)
        state = index_state(opened, chosen, metric)
        if state is None:
            raise NotFound(
                f"the space {chosen.name} has no index for {metric} that can be used",
                expected="an index of this store, whole and of this version",
                do=f"build one: vecstore index build {opened.path} --metric {metric}",
            )
        return _info(opened, chosen, state)


def parse_memory(memory: int | str | None) -> int | None:
    """Bytes of a number or a text.

    >>> parse_memory("8GB"), parse_memory("8g"), parse_memory("512 MiB"), parse_memory(None)
    (8000000000, 8000000000, 536870912, None)

    Raises
    ------
    UsageError
    """
    if memory is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", str(memory))
    if match is None or match[2].lower() not in _UNITS:
        raise UsageError(f"memory {memory!r}", expected="a number of bytes, or one with a unit", do="--memory 8GB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


@contextmanager
def _handle(store: Store | str | os.PathLike[str]) -> Iterator[Store]:
    if isinstance(store, Store):
        yield store
        return
    with Store(store) as opened:
        yield opened


def _writable(store: Store) -> None:
    if store.fixed or not store.catalog.writable:
        raise NotWritable(
            f"{store.path} can't be written to" + (f" at commit {store.commit}" if store.fixed else ""),
            expected="the newest state, on a medium that can be written to",
            do="search works without a saved index, only slower",
        )


def _info(store: Store, space: Space, state: IndexState) -> IndexInfo:
    index = state.index
    folder = index_folder(store, space, state.metric)
    recall = index.recall if isinstance(index, CodedIndex) else None
    sure = 1.0 if index.exact else None
    return IndexInfo(
        space.name,
        state.metric,
        index.kind,
        str(index.design) if isinstance(index, CodedIndex) else "",
        state.plan.why if state.plan else "",
        state.tried,
        state.vectors,
        state.covered,
        index.dim,
        sum(path.stat().st_size for path in folder.glob("*") if path.is_file()),
        recall.value if recall else sure,
        recall.low if recall else sure,
        recall.high if recall else sure,
        recall.k if recall else 0,
        recall.queries if recall else 0,
        state.commit,
        store.commit,
    )
