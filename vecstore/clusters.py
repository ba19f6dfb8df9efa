"""`clusters`: what an unlabelled archive consists of, by its vectors alone."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass, field, replace

import numpy as np

from vecstore.errors import DataError, UsageError
from vecstore.files import output_file, write_file
from vecstore.index.clusters import CLEAR, Clustering, agreement, cluster
from vecstore.index.metric import DEFAULT_METRIC
from vecstore.neighbours import searcher
from vecstore.records import FloatArray, IntArray
from vecstore.store import Items, Store, Task, using


@dataclass(frozen=True, slots=True)
class Cluster:
    """Items that are alike.

    Attributes
    ----------
    number : int
        From 1, the largest first.
    size : int
    examples : list of (int, str, str, float)
        Item id, source, locator, and cosine to the cluster's centre, of its most central items; the first is the
        medoid. Of identical pictures only one.
    labelled : int
        Items with a label of the task; 0 where none was named.
    label, purity : str or None, float or None
        The class that most of those have, and their share.
    """

    number: int
    size: int
    examples: list[tuple[int, str, str, float]]
    labelled: int = 0
    label: str | None = None
    purity: float | None = None


@dataclass(frozen=True, slots=True)
class Clusters:
    """What `clusters` found.

    Attributes
    ----------
    ids : ndarray of shape (n,), int64
        Items, ascending.
    numbers : ndarray of shape (n,), int64
        The cluster of each, from 1.
    scores : ndarray of shape (n,), float32
        Cosine of each to its cluster's centre.
    clusters : list of Cluster
        The largest first.
    silhouettes : dict of int to float
        Mean silhouette for each number of clusters that was tried, -1 to 1.
    space, metric : str
    commit : int
    task : str or None
    purity, chance : float or None
        Share of labelled items that have the most frequent class of their cluster; and of the most frequent class
        overall, which one single cluster reaches.
    mutual_information : float or None
        Between clusters and classes, adjusted for chance: 1 is the same division, 0 chance; None of several labels.
    """

    ids: IntArray
    numbers: IntArray
    scores: FloatArray
    clusters: list[Cluster]
    silhouettes: dict[int, float]
    space: str
    metric: str
    commit: int
    task: str | None = None
    purity: float | None = None
    chance: float | None = None
    mutual_information: float | None = None
    notes: list[str] = field(default_factory=list)


def clusters(
    store: Store | str | os.PathLike[str],
    count: int | None = None,
    *,
    space: str | None = None,
    metric: str = DEFAULT_METRIC,
    where: str | None = None,
    task: str | None = None,
    examples: int = 5,
    seed: int = 0,
    output: str | os.PathLike[str] | None = None,
) -> Clusters:
    """Divide items into clusters by k-means on their vectors; no label is looked at.

    Parameters
    ----------
    store : Store or path
    count : int, optional
        How many clusters. By default one of 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32 (of at least five items each), by
        the mean silhouette on a random sample of 2,000 items: the best where it is at least 0.5, as of an archive of
        several kinds of pictures; else the most whose silhouette is at least half the best.
    space, metric, where : str, optional
        As of `search`.
    task : str, optional
        Whose labels the clusters are compared with.
    examples : int
        Central items told of each cluster.
    seed : int
        Of the samples and of the first centres.
    output : path, optional
        A CSV file: item_id, source, locator, cluster, score; `vecstore label` reads it.

    Returns
    -------
    Clusters

    Raises
    ------
    UsageError, NotFound, Ambiguous, PredicateRefused, DiskFull, NotWritable
    DataError
        Fewer than two items, or none with a label of the task.
    """
    if examples < 1:
        raise UsageError(f"examples = {examples}", expected="at least 1", do="--examples 5")
    target = None if output is None else output_file(output)  # refused before any work
    with using(store) as opened:
        chosen = opened.refresh().space(space)
        engine = searcher(opened, chosen, metric)
        rows = np.flatnonzero(engine.candidates(None if where is None else engine.fitting(opened, where)))
        if len(rows) < 2:
            raise DataError(
                f"{len(rows)} items to cluster", expected="at least two", do="ingest more, or widen --where"
            )
        if count is not None and not 1 <= count <= len(rows):
            raise UsageError(
                f"{count} clusters of {len(rows)} items", expected=f"1 to {len(rows)}", do="give another --count"
            )
        contents = engine.items.contents[rows]
        found = cluster(
            lambda some: engine.metric.queries(engine.vectors(opened, chosen, contents[some])), len(rows), count, seed
        )
        told = _described(engine.items, rows, found, examples)
        notes = list(engine.notes)
        if count is not None and len(told) < count:
            notes.append(f"{len(told)} of {count} clusters: there are no more different pictures")
        best = max(found.silhouettes.values())
        if count is None and best < CLEAR:
            notes.append(
                f"no number of clusters stands out (best silhouette {best:.3f}; clear ones have {CLEAR} or more): of"
                f" the numbers tried, {len(told)} is the largest whose silhouette is at least half of that; --count"
                " sets another number"
            )
        result = Clusters(
            engine.items.ids[rows],
            found.labels + 1,
            found.scores,
            told,
            found.silhouettes,
            chosen.name,
            metric,
            opened.commit,
            notes=notes,
        )
        if task is not None:
            result = _compared(opened, result, opened.task(task))
        if target is not None:
            write_file(target, _table(engine.items, rows, result).encode("utf-8", "replace"))
    return result


def _described(items: Items, rows: IntArray, found: Clustering, examples: int) -> list[Cluster]:
    """Size and most central items of each cluster; of equal scores the lowest item id, of a content the first item."""
    order = np.lexsort((items.ids[rows], -found.scores, found.labels))
    described = []
    for number, members in enumerate(np.split(order, np.flatnonzero(np.diff(found.labels[order])) + 1), 1):
        _, first = np.unique(items.contents[rows[members]], return_index=True)
        central = [
            (int(items.ids[row]), items.sources[row], items.locators[row], float(score))
            for row, score in zip(
                rows[members[np.sort(first)[:examples]]].tolist(),
                found.scores[members[np.sort(first)[:examples]]].tolist(),
                strict=True,
            )
        ]
        described.append(Cluster(number, len(members), central))
    return described


def _compared(store: Store, found: Clusters, task: Task) -> Clusters:
    """Clusters beside the classes of a task."""
    items, classes, values, _ = store.label_arrays(task)
    place = np.searchsorted(found.ids, items)
    place[place == len(found.ids)] = 0
    here = found.ids[place] == items
    labelled = np.unique(place[here])
    if not len(labelled):
        raise DataError(
            f"none of {len(found.ids)} items has a label of {task.name!r}",
            expected="labels on some of them",
            do="name another --task, or widen --where",
        )
    # How many of each cluster have each class; an item with several labels counts for each.
    positive = here & (values > 0)
    table = np.zeros((len(found.clusters), len(task.classes)), np.int64)
    np.add.at(table, (found.numbers[place[positive]] - 1, classes[positive]), 1)
    sizes = np.bincount(found.numbers[labelled] - 1, minlength=len(found.clusters))
    told = [
        replace(
            one,
            labelled=int(n),
            label=task.classes[int(row.argmax())] if row.any() else None,  # of several labels none may hold
            purity=float(row.max() / n),
        )
        if n
        else one
        for one, row, n in zip(found.clusters, table, sizes.tolist(), strict=True)
    ]
    single = task.kind != "multi-label"
    return replace(
        found,
        clusters=told,
        task=task.name,
        purity=float(table.max(axis=1).sum() / len(labelled)),
        chance=float(table.sum(axis=0).max() / len(labelled)),
        mutual_information=agreement(found.numbers[place[positive]], classes[positive]) if single else None,
    )


def _table(items: Items, rows: IntArray, found: Clusters) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["item_id", "source", "locator", "cluster", "score"])
    for row, number, score in zip(rows.tolist(), found.numbers.tolist(), found.scores.tolist(), strict=True):
        writer.writerow([int(items.ids[row]), items.sources[row], items.locators[row], number, f"{score:.6f}"])
    return file.getvalue()
