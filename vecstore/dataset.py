"""A store and a task become X, y and groups, with the rules that keep training and test apart.

Every rule that leaves something out adds a line to `Dataset.notes`; nothing is dropped silently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vecstore.errors import DataError, NotFound
from vecstore.probes.splits import merge_groups
from vecstore.records import BoolArray, FloatArray, IntArray
from vecstore.store import Label, Space, Store, Task

GROUP_COLUMNS = ("PatientID", "patient", "subject", "participant", "lesion_id", "StudyInstanceUID")
"""Looked for in this order, letter case and `_` ignored ("patient_id" and "patientid" are PatientID)."""

MIN_GROUPS = 5


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled items with vectors.

    Attributes
    ----------
    store, task, space
    classes : list of str
        For a binary task the last is the positive one.
    items, contents : ndarray of shape (n,), int64
    y : ndarray of shape (n,), int64, or (n, n_classes), float64
        Index into `classes`; several labels: 1, 0, or NaN where unknown.
    groups : ndarray of shape (n,), int64
        Numbers of groups; groups that share a content are one.
    test : ndarray of shape (n,), bool
        The official test part; all False where the task has none.
    group_column : str or None
    notes : list of str
        What was left out, and why.
    """

    store: Store
    task: Task
    space: Space
    classes: list[str]
    items: IntArray
    contents: IntArray
    y: npt.NDArray[np.generic]
    groups: IntArray
    test: BoolArray
    group_column: str | None
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    def vectors(self, rows: BoolArray | None = None) -> FloatArray:
        """Unit vectors, float32, of shape (n, dim); of some rows, or all."""
        return self.store.vectors(self.space, self.contents if rows is None else self.contents[rows])

    def arrays(self) -> tuple[FloatArray, npt.NDArray[np.generic], IntArray]:
        """X of shape (n, dim), float32; y; groups of shape (n,), int64: what scikit-learn takes."""
        return self.vectors(), self.y, self.groups


def dataset(
    store: Store,
    task: str | Task,
    *,
    space: str | Space | None = None,
    group: str | None = None,
    where: str | None = None,
    min_groups: int = MIN_GROUPS,
    classes: Sequence[str] | None = None,
) -> Dataset:
    """Labelled items of a task with their vectors' contents and groups.

    Parameters
    ----------
    store : Store
    task : str or Task
    space : str or Space, optional
        Needed where the store has several.
    group : str, optional
        Column that must not be split; found by its name otherwise. "none" makes every item its own group.
    where : str, optional
        Only items that fit a predicate.
    min_groups : int
        Classes in fewer groups are left out and noted.
    classes : sequence of str, optional
        Only these, whatever their size.

    Returns
    -------
    Dataset

    Raises
    ------
    NotFound, PredicateRefused
    DataError
        Fewer than two classes are left.
    """
    found = store.refresh().task(task) if isinstance(task, str) else task
    chosen = space if isinstance(space, Space) else store.space(space)
    notes: list[str] = []
    wanted = _wanted_classes(found, classes)
    labels = store.labels(found)
    if where is not None:
        fitting = set(store.select(where).tolist())
        labels = [label for label in labels if label.item in fitting]
    items, y, splits = _targets(found, labels, wanted)
    content_of = dict(store.rows(f"SELECT item, content FROM states WHERE {_VISIBLE}"))
    contents = np.fromiter((content_of[i] for i in items.tolist()), np.int64, len(items))
    keep = np.isin(contents, store.embedded(chosen))
    if not keep.all():
        notes.append(f"{int((~keep).sum())} labelled items have no vector in the space {chosen.name}")
    items, contents, y, splits = items[keep], contents[keep], y[keep], splits[keep]
    column, groups, missing = group_codes(store, items, contents, group)
    if missing:
        notes.append(f"{missing} items without {column}: each is a group of its own")
    items, contents, y, splits, groups = _official_split(items, contents, y, splits, groups, notes)
    test = splits == "test"
    names = found.classes if wanted is None else wanted
    if wanted is None:
        items, contents, y, groups, test, names = _small_classes(
            found, items, contents, y, groups, test, min_groups, notes
        )
    present = [n for n, c in zip(names, _counts(y, len(names)), strict=True) if c]
    if len(items) == 0 or (found.kind != "multi-label" and len(present) < 2) or not names:
        raise DataError(
            f"task {found.name!r}: {len(items)} labelled items with vectors, classes left: {', '.join(present) or 'none'}"
            + (f" ({'; '.join(notes)})" if notes else ""),
            expected="at least two classes",
            do=f"see: vecstore info {store.path}; or lower --min-groups",
        )
    return Dataset(store, found, chosen, list(names), items, contents, y, groups, test, column, notes)


_VISIBLE = "(added_in <= :at AND (removed_in IS NULL OR removed_in > :at))"


def group_column(store: Store, group: str | None = None) -> str | None:
    """The column that says which items belong together: the one asked for, or the first of `GROUP_COLUMNS`.

    Raises
    ------
    NotFound
        The store has no column of that name.
    """
    if group is not None:
        return None if group == "none" else store.column_name(group)
    known = {name.casefold().replace("_", ""): name for name in reversed(store.columns())}
    for name in (*GROUP_COLUMNS[:1], *GROUP_COLUMNS[1:]):
        if column := known.get(name.casefold().replace("_", "")):
            return column
    return None


def group_codes(
    store: Store, items: IntArray, contents: IntArray, group: str | None = None
) -> tuple[str | None, IntArray, int]:
    """Group numbers of items.

    Parameters
    ----------
    store : Store
    items, contents : ndarray of shape (n,), int64
    group : str, optional
        See `group_column`.

    Returns
    -------
    column : str or None
    groups : ndarray of shape (n,), int64
        Groups that share a content are one group.
    missing : int
        Items without a value; each is a group of its own.
    """
    column = group_column(store, group)
    values = store.column(column, items) if column else {}
    numbers: dict[object, int] = {}
    codes = np.empty(len(items), np.int64)
    missing = 0
    for row, item in enumerate(items.tolist()):
        value = values.get(item)
        missing += column is not None and value is None
        codes[row] = numbers.setdefault(("item", item) if value is None else ("value", value), len(numbers))
    return column, merge_groups(codes, contents), missing


def _wanted_classes(task: Task, classes: Sequence[str] | None) -> list[str] | None:
    if classes is None:
        return None
    for name in classes:
        if name not in task.classes:
            raise NotFound(
                f"task {task.name!r} has no class {name!r}",
                expected=f"one of: {', '.join(task.classes)}",
                do="--classes A,B",
            )
    return [name for name in task.classes if name in set(classes)]


def _targets(
    task: Task, labels: Sequence[Label], wanted: Sequence[str] | None
) -> tuple[IntArray, npt.NDArray[np.generic], npt.NDArray[np.str_]]:
    """Items in ascending order, their targets, and their parts ("" where none)."""
    names = task.classes if wanted is None else wanted
    position = {name: i for i, name in enumerate(names)}
    if task.kind == "multi-label":
        items = np.unique(np.fromiter((label.item for label in labels), np.int64, len(labels)))
        row = {item: i for i, item in enumerate(items.tolist())}
        table = np.full((len(items), len(names)), np.nan)
        splits = np.full(len(items), "", "<U5")
        for label in labels:
            splits[row[label.item]] = label.split or ""
            if label.name in position:
                table[row[label.item], position[label.name]] = label.value
        return items, table, splits
    kept = [label for label in labels if label.value > 0 and label.name in position]
    items = np.fromiter((label.item for label in kept), np.int64, len(kept))
    y = np.fromiter((position[label.name] for label in kept), np.int64, len(kept))
    return items, y, np.array([label.split or "" for label in kept], "<U5")


def _official_split(
    items: IntArray,
    contents: IntArray,
    y: npt.NDArray[np.generic],
    splits: npt.NDArray[np.str_],
    groups: IntArray,
    notes: list[str],
) -> tuple[IntArray, IntArray, npt.NDArray[np.generic], npt.NDArray[np.str_], IntArray]:
    """Test stays as it is; training rows of its groups are dropped, rows without a part too."""
    if not (splits == "test").any():
        if (splits != "").any():
            notes.append("the labels name parts but no test part: they are evaluated out of fold")
        return items, contents, y, splits, groups
    keep = splits != ""
    if not keep.all():
        notes.append(f"{int((~keep).sum())} labelled items are in no part of the official split and left out")
    leaking = (splits != "test") & keep & np.isin(groups, groups[splits == "test"])
    if leaking.any():
        notes.append(
            f"official split: {int(leaking.sum())} training items in {len(np.unique(groups[leaking]))} groups that are also"
            " in the test part were dropped"
        )
    if (splits == "val").any():
        notes.append("the official val part joins training for choosing and refit")
    keep &= ~leaking
    return items[keep], contents[keep], y[keep], splits[keep], groups[keep]


def _small_classes(
    task: Task,
    items: IntArray,
    contents: IntArray,
    y: npt.NDArray[np.generic],
    groups: IntArray,
    test: BoolArray,
    min_groups: int,
    notes: list[str],
) -> tuple[IntArray, IntArray, npt.NDArray[np.generic], IntArray, BoolArray, list[str]]:
    """Leave out classes that are in fewer than `min_groups` groups of the development part."""
    development = ~test
    sizes: dict[str, int] = {}
    for position, name in enumerate(task.classes):
        rows = (y[:, position] == 1) if y.ndim == 2 else (y == position)
        sizes[name] = len(np.unique(groups[rows & development]))
    small = [name for name, size in sizes.items() if size < min_groups]
    if not small:
        return items, contents, y, groups, test, list(task.classes)
    told = ", ".join(f"{name} ({sizes[name]})" for name in small)
    notes.append(f"left out, in fewer than {min_groups} groups: {told}")
    names = [name for name in task.classes if name not in small]
    kept = [task.classes.index(name) for name in names]
    if y.ndim == 2:
        return items, contents, y[:, kept], groups, test, names
    renumbered = np.full(len(task.classes), -1)
    renumbered[kept] = np.arange(len(kept))
    new = renumbered[y.astype(np.int64)]
    keep = new >= 0
    return items[keep], contents[keep], new[keep], groups[keep], test[keep], names


def _counts(y: npt.NDArray[np.generic], n_classes: int) -> list[int]:
    if y.ndim == 2:
        return [int((y[:, i] == 1).sum()) for i in range(n_classes)]
    counted = Counter(y.tolist())
    return [counted[i] for i in range(n_classes)]


def class_counts(data: Dataset, rows: BoolArray | None = None) -> dict[str, int]:
    """Items per class; of some rows, or all."""
    y = data.y if rows is None else data.y[rows]
    return dict(zip(data.classes, _counts(y, len(data.classes)), strict=True))
