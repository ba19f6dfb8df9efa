"""`search_eval`: how similar similar cases are, judged by the labels of a task."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vecstore.dataset import Dataset, dataset
from vecstore.errors import DataError, UsageError
from vecstore.index.metric import METRICS, check_metric
from vecstore.index.quality import MEASURES, at_random, grouped_interval, ranked
from vecstore.neighbours import fitted_metric
from vecstore.records import BoolArray, DoubleArray, IntArray
from vecstore.store import Store

MAX_QUERIES = 2000
"""More labelled items than this are asked for by a random sample; all of them can be found."""

_BLOCK = 64


@dataclass(frozen=True, slots=True)
class Quality:
    """Measures of one metric, mean over queries.

    Attributes
    ----------
    metric : {"cosine", "standard", "whitened"}
    values, low, high, random : dict of str to float
        By measure ("precision" and "recall" at k, "map", "ndcg" at k): the value, its 95 % interval by resampling
        groups, and what a random ranking reaches.
    per_class : dict of str to dict
        "values", "random" and "n" for the queries of each class.
    beyond_cosine : dict of str to list of float
        By measure: how much better than cosine on the same queries, with its 95 % interval; empty for cosine itself,
        and where that was not asked for.
    """

    metric: str
    values: dict[str, float]
    low: dict[str, float]
    high: dict[str, float]
    random: dict[str, float]
    per_class: dict[str, dict[str, Any]]
    beyond_cosine: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SearchEvaluation:
    """What `search_eval` found.

    Attributes
    ----------
    task, space : str
    k, queries, groups, candidates : int
        Hits that precision, recall and NDCG look at; items asked for, their groups, and items that can be found.
    group_column : str or None
        Whose value keeps a query's own group out.
    metrics : list of Quality
    notes : list of str
    """

    task: str
    space: str
    k: int
    queries: int
    groups: int
    candidates: int
    group_column: str | None
    metrics: list[Quality]
    notes: list[str] = field(default_factory=list)


def search_eval(
    store: Store | str | os.PathLike[str],
    task: str,
    *,
    k: int = 10,
    metric: str | None = None,
    space: str | None = None,
    group: str | None = None,
    where: str | None = None,
    max_queries: int = MAX_QUERIES,
    seed: int = 0,
) -> SearchEvaluation:
    """Judge similar cases by labels: is what is found of the query's class?

    Every labelled item is a query; its own group is never found. For a task with several labels two items are as
    relevant to each other as their labels overlap (Jaccard).

    Parameters
    ----------
    store : Store or path
    task : str
    k : int
    metric : str, optional
        One of "cosine", "standard", "whitened"; all of them by default, side by side.
    space, group, where : str, optional
        As of `train`.
    max_queries : int
        Of more labelled items, a random sample is asked for.
    seed : int

    Returns
    -------
    SearchEvaluation

    Raises
    ------
    NotFound, UsageError, PredicateRefused
    DataError
        No query has anything relevant to find.
    """
    if k < 1 or max_queries < 1:
        raise UsageError(f"k = {k}, max_queries = {max_queries}", expected="at least 1", do="-k 10")
    names = METRICS if metric is None else (metric,)
    for name in names:
        check_metric(name)
    with nullcontext(store) if isinstance(store, Store) else Store(store) as opened:
        data = dataset(opened, task, space=space, group=group, where=where)
        if k >= len(data):
            raise UsageError(
                f"k = {k} of {len(data)} labelled items, of which one is the query",
                expected=f"1 to {len(data) - 1}",
                do="-k N",
            )
        notes = list(data.notes)
        asked = np.arange(len(data))
        if len(asked) > max_queries:
            notes.append(f"{max_queries} of {len(asked)} labelled items are queries, by chance; all can be found")
            asked = np.sort(np.random.default_rng(seed).choice(len(asked), max_queries, replace=False))
        targets = _targets(data)
        chance = _measured(data, targets, asked, None, k)
        useful = np.isfinite(chance[:, 0])
        if not useful.any():
            raise DataError(
                f"task {data.task.name!r}: nothing relevant to any query outside its own group",
                expected="a class in at least two groups",
                do=f"see: vecstore info {opened.path}; or --group none",
            )
        if not useful.all():
            notes.append(f"{int((~useful).sum())} queries are left out: nothing relevant in other groups")
        contents = opened.embedded(data.space)
        qualities: list[Quality] = []
        cosine: DoubleArray | None = None
        for name in names:
            moved = fitted_metric(opened, data.space, contents, name).queries(data.vectors())
            found = _measured(data, targets, asked, moved.astype(np.float64), k)
            made = _quality(name, found[useful], chance[useful], data, targets[asked[useful]], asked[useful])
            if name == "cosine":
                cosine = found
            elif cosine is not None:
                for i, measure in enumerate(MEASURES):
                    more = (found - cosine)[useful, i]
                    interval = grouped_interval(more, data.groups[asked[useful]])
                    made.beyond_cosine[measure] = [float(more.mean()), *interval]
            qualities.append(made)
        groups = len(np.unique(data.groups[asked[useful]]))
        return SearchEvaluation(
            data.task.name,
            data.space.name,
            k,
            int(useful.sum()),
            groups,
            len(data),
            data.group_column,
            qualities,
            notes,
        )


def _targets(data: Dataset) -> DoubleArray:
    """1 where a class holds: ndarray of shape (n, n_classes), float64."""
    if data.y.ndim == 2:
        return np.nan_to_num(data.y.astype(np.float64))
    return np.asarray(np.eye(len(data.classes))[data.y.astype(np.int64)], np.float64)


def _measured(
    data: Dataset,
    targets: DoubleArray,
    asked: IntArray,
    rows: DoubleArray | None,
    k: int,
) -> DoubleArray:
    """Measures of queries, of shape (n_queries, 4): of rows by their cosine, or of a random ranking."""
    sizes = targets.sum(axis=1)
    parts = []
    for start in range(0, len(asked), _BLOCK):
        block = asked[start : start + _BLOCK]
        common = targets[block] @ targets.T
        either = sizes[block][:, None] + sizes - common
        gains = np.divide(common, either, out=np.zeros_like(common), where=either > 0)
        may: BoolArray = data.groups[block][:, None] != data.groups
        parts.append(at_random(gains, may, k) if rows is None else ranked(rows[block] @ rows.T, gains, may, k))
    return np.concatenate(parts)


def _quality(
    name: str,
    found: DoubleArray,
    chance: DoubleArray,
    data: Dataset,
    targets: DoubleArray,
    asked: IntArray,
) -> Quality:
    def told(values: Sequence[float] | DoubleArray) -> dict[str, float]:
        return dict(zip(MEASURES, (float(value) for value in values), strict=True))

    intervals = [grouped_interval(found[:, i], data.groups[asked]) for i in range(len(MEASURES))]
    per_class: dict[str, dict[str, Any]] = {}
    for position, class_name in enumerate(data.classes):
        of_class = targets[:, position] > 0
        if of_class.any():
            per_class[class_name] = {
                "n": int(of_class.sum()),
                "values": told(found[of_class].mean(axis=0)),
                "random": told(chance[of_class].mean(axis=0)),
            }
    return Quality(
        name,
        told(found.mean(axis=0)),
        told([low for low, _ in intervals]),
        told([high for _, high in intervals]),
        told(chance.mean(axis=0)),
        per_class,
    )
