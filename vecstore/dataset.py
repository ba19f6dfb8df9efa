"""A store and a task become X, y and groups, with the rules that keep training and test apart.

Every rule that leaves something out adds a line to `Dataset.notes`; nothing is dropped silently.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vecstore.errors import DataError, NotFound
from vecstore.probes.splits import merge_groups
from vecstore.records import BoolArray, FloatArray, IntArray
from vecstore.store import Items, Label, Space, Store, Task

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
        Numbers of groups; groups that share a content, or frames of one file, are one.
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
    only: IntArray | None = None,
) -> Dataset:
    """Labelled items of a task with their vectors' contents and groups.

    Parameters
    ----------
    store : Store
    task : str or Task
    space : str or Space, optional
        Needed where the store has several.
    group : str, optional
        Column that must not be split; found by its name otherwise. "none" makes every file its own group.
    where : str, optional
        Only items that fit a predicate.
    min_groups : int
        Classes in fewer groups are left out and noted.
    classes : sequence of str, optional
        Only these, whatever their size.
    only : ndarray of shape (m,), int64, optional
        Only these items, before any rule looks at them.

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
    names = found.classes if wanted is None else wanted
    labels = store.labels(found)
    if where is not None:
        fitting = set(store.select(where).tolist())
        labels = [label for label in labels if label.item in fitting]
    if only is not None:
        asked = set(only.tolist())
        labels = [label for label in labels if label.item in asked]
    items = store.items()
    rows = _targets(found, labels, names, items)
    embedded = np.isin(rows.contents, store.embedded(chosen))
    if not embedded.all():
        notes.append(f"{int((~embedded).sum())} labelled items have no vector in the space {chosen.name}")
        rows = rows.only(embedded)
    # Groups are merged over the whole store: two patients may share a picture that has no label.
    grouped = group_codes(store, items, group)
    places = np.searchsorted(items.ids, rows.items)
    rows.groups = grouped.codes[places]
    for fallback, by_it in grouped.fallbacks:
        if by_it[places].any():
            notes.append(f"{int(by_it[places].sum())} items without {grouped.column} are grouped by {fallback}")
    if grouped.missing[places].any():
        alone = int(grouped.missing[places].sum())
        notes.append(f"{alone} items without {grouped.column}: each is a group of its own")
    rows = _official_split(rows, notes)
    if wanted is None:
        rows, names = _small_classes(rows, names, min_groups, notes)
    present = [name for name, count in zip(names, _counts(rows.y, len(names)), strict=True) if count]
    if not len(rows.items) or not names or (found.kind != "multi-label" and len(present) < 2):
        told = f" ({'; '.join(notes)})" if notes else ""
        raise DataError(
            f"task {found.name!r}: {len(rows.items)} items, in the classes: {', '.join(present) or 'none'}{told}",
            expected="at least two classes",
            do=f"see: vecstore info {store.path}; or lower --min-groups",
        )
    test = rows.splits == "test"
    return Dataset(
        store, found, chosen, list(names), rows.items, rows.contents, rows.y, rows.groups, test, grouped.column, notes
    )


@dataclass(slots=True)
class _Rows:
    """Labelled items on the way to a `Dataset`: arrays of equal length."""

    items: IntArray
    contents: IntArray
    y: npt.NDArray[np.generic]
    splits: npt.NDArray[np.str_]
    groups: IntArray

    def only(self, keep: BoolArray) -> _Rows:
        """Some of the rows."""
        return _Rows(self.items[keep], self.contents[keep], self.y[keep], self.splits[keep], self.groups[keep])


@dataclass(frozen=True, slots=True)
class Groups:
    """Which items belong together.

    Attributes
    ----------
    column : str or None
        The first column that was looked at.
    codes : ndarray of shape (n,), int64
        Group numbers of the items. Groups that share a content are one group; so are those that share a file, where
        all frames of a file are items.
    missing : ndarray of shape (n,), bool
        Items without a value; each (each file, of frames) is a group of its own.
    fallbacks : list of (str, ndarray of shape (n,), bool)
        Further columns, and which items they had to stand in for.
    """

    column: str | None
    codes: IntArray
    missing: BoolArray
    fallbacks: list[tuple[str, BoolArray]]


def group_column(store: Store, group: str | None = None) -> str | None:
    """The column that says which items belong together: the one asked for, or the first of `GROUP_COLUMNS`.

    Raises
    ------
    NotFound
        The store has no column of that name.
    """
    return next(iter(_group_columns(store, group)), None)


def _group_columns(store: Store, group: str | None) -> list[str]:
    """The column asked for; or all that are known by name, in the order of `GROUP_COLUMNS`, older ones first."""
    if group is not None:
        return [] if group == "none" else [store.column_name(group)]
    rank = {name.casefold().replace("_", ""): place for place, name in enumerate(GROUP_COLUMNS)}
    known = [(rank.get(name.casefold().replace("_", "")), name) for name in store.columns()]
    return [name for _, name in sorted(((r, n) for r, n in known if r is not None), key=lambda entry: entry[0])]


def group_codes(store: Store, items: Items, group: str | None = None) -> Groups:
    """Group numbers of items.

    Parameters
    ----------
    store : Store
    items : Items
    group : str, optional
        See `group_column`. Only of a column found by its name do the other known columns stand in where an item has
        no value: it then joins all items that share its value there.

    Returns
    -------
    Groups
    """
    columns = _group_columns(store, group)
    ids = items.ids.tolist()
    missing = np.ones(len(ids), np.bool_)
    codes = np.arange(len(ids))
    fallbacks: list[tuple[str, BoolArray]] = []
    for place, column in enumerate(columns):
        values = store.column(column, items.ids)
        has = np.fromiter((item in values for item in ids), np.bool_, len(ids))
        stands_in = missing & has
        # A column that stands in joins only what shares a value with an item that lacks the columns before.
        wanted = {values[item] for item, needed in zip(ids, stands_in.tolist(), strict=True) if needed}
        codes = merge_groups(codes, _numbered(values[i] if values.get(i) in wanted else None for i in ids))
        missing &= ~has
        if place and stands_in.any():
            fallbacks.append((column, stands_in))
    if store.rule.frames == "all":
        files = zip(items.sources, map(store.rule.file_of, items.locators), strict=True)
        codes = merge_groups(codes, _numbered(files))
    column_or_none = columns[0] if columns else None
    return Groups(column_or_none, merge_groups(codes, items.contents), missing & bool(columns), fallbacks)


def _numbered(values: Iterable[object]) -> IntArray:
    """Equal values as equal numbers; every None as a number of its own."""
    numbers: dict[object, int] = {}
    found = [numbers.setdefault(("none", row) if v is None else v, len(numbers)) for row, v in enumerate(values)]
    return np.array(found, np.int64)


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


def _targets(task: Task, labels: Sequence[Label], names: Sequence[str], visible: Items) -> _Rows:
    """Labelled items in ascending order, with targets and parts ("" where none)."""
    position = {name: i for i, name in enumerate(names)}
    labels = [label for label in labels if label.name in position and (task.kind == "multi-label" or label.value > 0)]
    items = np.unique(np.fromiter((label.item for label in labels), np.int64, len(labels)))
    row = {item: i for i, item in enumerate(items.tolist())}
    splits = np.full(len(items), "", "<U5")
    several = np.full((len(items), len(names)), np.nan)
    one = np.zeros(len(items), np.int64)
    for label in labels:
        splits[row[label.item]] = label.split or ""
        several[row[label.item], position[label.name]] = label.value
        one[row[label.item]] = position[label.name]
    contents = visible.contents[np.searchsorted(visible.ids, items)]
    return _Rows(items, contents, several if task.kind == "multi-label" else one, splits, np.arange(len(items)))


def _official_split(rows: _Rows, notes: list[str]) -> _Rows:
    """Test stays as it is; training rows of its groups are dropped, rows without a part too."""
    test = rows.splits == "test"
    if not test.any():
        if (rows.splits != "").any():
            notes.append("the labels name parts but no test part: they are evaluated out of fold")
        return rows
    placed = rows.splits != ""
    if not placed.all():
        notes.append(f"{int((~placed).sum())} labelled items are in no part of the official split and left out")
    leaking = placed & ~test & np.isin(rows.groups, rows.groups[test])
    if leaking.any():
        shared = len(np.unique(rows.groups[leaking]))
        notes.append(
            f"official split: {int(leaking.sum())} training items were dropped, of {shared} groups (or identical"
            " pictures) that are also in the test part"
        )
    if (rows.splits == "val").any():
        notes.append("the official val part joins training for choosing and refit")
    return rows.only(placed & ~leaking)


def _small_classes(rows: _Rows, names: list[str], min_groups: int, notes: list[str]) -> tuple[_Rows, list[str]]:
    """Leave out classes that are in fewer than `min_groups` groups of the development part.

    Of several labels also those that so few groups are known not to have: nothing tells them apart.
    """
    development = rows.splits != "test"
    sizes = {}
    for position, name in enumerate(names):
        sides = [rows.y[:, position] == side for side in (1, 0)] if rows.y.ndim == 2 else [rows.y == position]
        sizes[name] = min(len(np.unique(rows.groups[side & development])) for side in sides)
    small = [name for name, size in sizes.items() if size < max(min_groups, 1)]
    if not small:
        return rows, names
    told = ", ".join(f"{name} ({sizes[name]})" for name in small)
    what = "in fewer than" if rows.y.ndim == 1 else "with or without the label in fewer than"
    notes.append(f"left out, {what} {max(min_groups, 1)} groups: {told}")
    kept = [position for position, name in enumerate(names) if name not in small]
    left = [names[position] for position in kept]
    if rows.y.ndim == 2:
        rows.y = rows.y[:, kept]
        return rows.only((rows.y == rows.y).any(axis=1)), left  # not all of them NaN
    renumbered = np.full(len(names), -1)
    renumbered[kept] = np.arange(len(kept))
    numbers = renumbered[rows.y.astype(np.int64)]
    rows.y = numbers
    return rows.only(numbers >= 0), left


def _counts(y: npt.NDArray[np.generic], n_classes: int) -> list[int]:
    if y.ndim == 2:
        return [int((y[:, i] == 1).sum()) for i in range(n_classes)]
    counted = Counter(y.tolist())
    return [counted[i] for i in range(n_classes)]


def class_counts(data: Dataset, rows: BoolArray | None = None) -> dict[str, int]:
    """Items per class; of some rows, or all."""
    y = data.y if rows is None else data.y[rows]
    return dict(zip(data.classes, _counts(y, len(data.classes)), strict=True))
