"""A store and a task become X, y and groups, with the rules that keep training and test apart.

Every rule that leaves something out adds a line to `Dataset.notes`; nothing is dropped silently.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.dataset.groups import GROUP_COLUMNS, Groups, group_as_trained, group_codes, group_column
from vecstore.dataset.levels import LEVEL_COLUMNS, Units, level_column, make_units, merge_labels
from vecstore.errors import DataError, NotFound, UsageError
from vecstore.probes.pooling import pooled
from vecstore.probes.splits import merge_groups
from vecstore.records import BoolArray, IntArray
from vecstore.store import Space, Store, Task

__all__ = [
    "GROUP_COLUMNS",
    "LEVEL_COLUMNS",
    "MIN_GROUPS",
    "Dataset",
    "Groups",
    "Units",
    "chosen_spaces",
    "class_counts",
    "dataset",
    "group_as_trained",
    "group_codes",
    "group_column",
    "level_column",
    "make_units",
]

MIN_GROUPS = 5
_VAL, _TEST = 2, 3  # codes of official parts


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled items with vectors; or, at a level, units of items.

    Attributes
    ----------
    store, task
    space : Space
        The first of `spaces`.
    classes : list of str
        For a binary task the last is the positive one.
    items, contents : ndarray of shape (n,), int64
        At a level, the first picture of each unit; all of them are in `units`.
    y : ndarray of shape (n,), int64, or (n, n_classes), float64
        Index into `classes`; several labels: 1, 0, or NaN where unknown.
    groups : ndarray of shape (n,), int64
        Numbers of groups; groups that share a content, or frames of one file, are one. At a level a unit's group is
        that of all its pictures.
    test : ndarray of shape (n,), bool
        The official test part; all False where the task has none.
    group_column : str or None
    notes : list of str
        What was left out, and why.
    spaces : list of Space
        Whose vectors stand side by side.
    units : Units or None
        None where every picture is a row.
    pool : {"mean", "max", "unit-mean"}
        How the vectors of a unit become one, where `vectors` is not told another.
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
    spaces: list[Space] = field(default_factory=list)
    units: Units | None = None
    pool: str = "mean"

    def __len__(self) -> int:
        return len(self.items)

    @property
    def dim(self) -> int:
        """Width of the vectors: the sum over the spaces."""
        return sum(space.dim for space in self.spaces)

    def vectors(
        self, rows: BoolArray | None = None, *, dtype: npt.DTypeLike = np.float32, pool: str | None = None
    ) -> npt.NDArray[Any]:
        """Vectors, float32 or float16, of shape (n, dim); of some rows, or all.

        Of unit length, or side by side a unit vector of each space; at a level they are pooled.
        """
        if self.units is None:
            return self.store.vectors(self.spaces, self.contents if rows is None else self.contents[rows], dtype)
        units = self.units if rows is None else self.units.only(rows)
        members = self.store.vectors(self.spaces, units.contents, np.float16)
        widths = [space.dim for space in self.spaces]
        made = pooled(members, units.rows, len(units.names), pool or self.pool, widths)
        return made.astype(dtype, copy=False)

    def arrays(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.generic], IntArray]:
        """X of shape (n, dim), float32; y; groups of shape (n,), int64: what scikit-learn takes."""
        return self.vectors(), self.y, self.groups


def dataset(
    store: Store | str | os.PathLike[str],
    task: str | Task,
    *,
    space: str | Space | Sequence[str | Space] | None = None,
    group: str | None = None,
    where: str | None = None,
    min_groups: int = MIN_GROUPS,
    classes: Sequence[str] | None = None,
    only: IntArray | None = None,
    level: str | None = None,
    pool: str = "mean",
    on_conflict: str = "error",
) -> Dataset:
    """Labelled items of a task with their vectors' contents and groups.

    Parameters
    ----------
    store : Store or path
        A path is opened, and stays open with the dataset.
    task : str or Task
    space : str or Space, or several of them, optional
        Needed where the store has several. Of several spaces the unit vectors stand side by side, so that each has
        the same share of a row's length; items that lack a vector in any of them are left out and counted. (A probe
        that gives every feature equal spread weighs a space by its dimension.)
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
    level : str, optional
        A row per unit instead of per picture: "patient", "study", "series", "lesion" (found by the names of their
        columns), or a column whose equal values make a unit. Labelled pictures of a unit are pooled; one without a
        value is a unit of its own.
    pool : {"mean", "max", "unit-mean"}
        How a unit's vectors become one: see `vecstore.probes.pooling.pooled`.
    on_conflict : {"error", "first", "any", "drop"}
        Units whose pictures disagree in label or official part.

    Returns
    -------
    Dataset

    Raises
    ------
    NotFound, PredicateRefused, LabelConflict
    UsageError
        A space named twice, or an unknown rule.
    DataError
        Fewer than two classes are left, or of `only` some items none.
    """
    store = store if isinstance(store, Store) else Store(store)
    found = store.refresh().task(task) if isinstance(task, str) else task
    spaces = chosen_spaces(store, space)
    column = None if level is None else level_column(store, level)
    notes: list[str] = []
    wanted = _wanted_classes(found, classes)
    names = found.classes if wanted is None else wanted
    items = store.items()
    rows = _targets(store, found, names)
    if where is not None:
        rows = rows.only(np.isin(rows.items, store.select(where)))
    if only is not None:
        rows = rows.only(np.isin(rows.items, only))
    places = np.searchsorted(items.ids, rows.items)
    rows.contents = items.contents[places]
    embedded = _embedded(store, spaces, rows.contents)
    if not embedded.all():
        lacking = f"the space {spaces[0].name}" if len(spaces) == 1 else f"each of the {_named(spaces)}"
        notes.append(f"{int((~embedded).sum())} labelled items have no vector in {lacking}")
        rows, places = rows.only(embedded), places[embedded]
    # Groups are merged over the whole store: two patients may share a picture that has no label.
    grouped = group_codes(store, items, group)
    rows.groups = grouped.codes[places]
    for fallback, by_it in grouped.fallbacks:
        if by_it[places].any():
            notes.append(f"{int(by_it[places].sum())} items without {grouped.column} are grouped by {fallback}")
    if grouped.missing[places].any():
        alone = int(grouped.missing[places].sum())
        notes.append(f"{alone} items without {grouped.column}: each is a group of its own")
    units: Units | None = None
    if column is not None:
        units = make_units(store, column, items, places)
        rows = _pooled_rows(rows, units, found, names, on_conflict, notes)
    rows = _official_split(rows, notes, "items" if units is None else "units")
    if wanted is None:
        if only is None:
            _check_training_part(found, rows, notes)
        rows, names = _small_classes(rows, names, min_groups, notes)
    present = [name for name, count in zip(names, _counts(rows.y, len(names)), strict=True) if count]
    alone = found.kind != "multi-label" and len(present) < 2 and only is None  # what is only scored may have one class
    if not len(rows.items) or not names or alone:
        told = f" ({'; '.join(map(_cut, notes))})" if notes else ""
        raise DataError(
            f"task {found.name!r}: {len(rows.items)} items, in the classes: {', '.join(present) or 'none'}{told}",
            expected="at least two classes",
            do=f"see: vecstore info {store.path}; or lower --min-groups",
        )
    if units is not None:
        kept = np.zeros(len(units.names), np.bool_)
        kept[rows.places] = True
        units = units.only(kept)
        notes += _told(units)
    return Dataset(
        store,
        found,
        spaces[0],
        list(names),
        rows.items,
        rows.contents,
        rows.y,
        rows.groups,
        rows.parts == _TEST,
        grouped.column,
        notes,
        spaces,
        units,
        pool,
    )


def chosen_spaces(store: Store, space: str | Space | Sequence[str | Space] | None) -> list[Space]:
    """One space or several, in the order asked for.

    Raises
    ------
    NotFound, Ambiguous
    UsageError
        One is named twice.
    """
    asked: Sequence[str | Space | None] = [space] if space is None or isinstance(space, (str, Space)) else space
    found = [one if isinstance(one, Space) else store.space(one) for one in asked or [None]]
    twice = [one.name for place, one in enumerate(found) if one.id in {other.id for other in found[:place]}]
    if twice:
        raise UsageError(f"the space {twice[0]} is named twice", "each space once", "leave one --space away")
    return found


def _named(spaces: Sequence[Space]) -> str:
    return f"spaces {', '.join(space.name for space in spaces)}"


def _embedded(store: Store, spaces: Sequence[Space], contents: IntArray) -> BoolArray:
    """Which contents have a vector in every space."""
    found = np.ones(len(contents), np.bool_)
    for space in spaces:
        found &= np.isin(contents, store.embedded(space))
    return found


@dataclass(slots=True)
class _Rows:
    """Labelled items (or units) on the way to a `Dataset`: arrays of equal length."""

    items: IntArray
    contents: IntArray
    y: npt.NDArray[np.generic]
    parts: IntArray
    groups: IntArray
    places: IntArray

    def only(self, keep: BoolArray) -> _Rows:
        """Some of the rows."""
        if keep.all():
            return self
        return _Rows(
            self.items[keep],
            self.contents[keep],
            self.y[keep],
            self.parts[keep],
            self.groups[keep],
            self.places[keep],
        )


def _pooled_rows(
    rows: _Rows, units: Units, task: Task, names: Sequence[str], on_conflict: str, notes: list[str]
) -> _Rows:
    """A row per unit, in the order of their first pictures."""
    positive = names.index(task.classes[-1]) if task.kind == "binary" and task.classes[-1] in names else -1
    y, parts, keep, conflicts = merge_labels(
        task.name, task.kind, list(names), positive, units, rows.y, rows.parts, on_conflict
    )
    if conflicts:
        done = "left out" if on_conflict == "drop" else f"resolved: {on_conflict}"
        notes.append(f"{conflicts} units of {units.column} have pictures that disagree, {done}")
    first = units.first()
    groups = merge_groups(rows.groups, units.rows)[first]
    merged = _Rows(rows.items[first], rows.contents[first], y, parts, groups, np.arange(len(first)))
    return merged.only(keep)


def _told(units: Units) -> list[str]:
    """What a reader should know of the units."""
    alone = int(units.without.sum())
    return [f"{alone} items without {units.column}: each is a unit of its own"] if alone else []


_MOST_NAMED = 10
"""Classes that an error names."""


def _cut(text: str) -> str:
    """A list after a colon, cut to a few: an error is one line.

    >>> _cut("one of: " + ", ".join(map(str, range(13))))
    'one of: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 3 more'
    """
    head, colon, entries = text.partition(": ")
    names = entries.split(", ")
    more = len(names) - _MOST_NAMED
    return f"{head}{colon}{', '.join(names[:_MOST_NAMED])} and {more} more" if more > 0 else text


def _wanted_classes(task: Task, classes: Sequence[str] | None) -> list[str] | None:
    if classes is None:
        return None
    for name in classes:
        if name not in task.classes:
            raise NotFound(
                f"task {task.name!r} has no class {name!r}",
                expected=_cut(f"one of: {', '.join(task.classes)}"),
                do="--classes A,B",
            )
    return [name for name in task.classes if name in set(classes)]


def _targets(store: Store, task: Task, names: Sequence[str]) -> _Rows:
    """Labelled items in ascending order, with targets and parts; contents are yet to be found."""
    items, classes, values, parts = store.label_arrays(task)
    position = np.full(len(task.classes), -1)
    position[[task.classes.index(name) for name in names]] = np.arange(len(names))
    columns = position[classes]
    wanted = columns >= 0 if task.kind == "multi-label" else (columns >= 0) & (values > 0)
    items, columns, values, parts = items[wanted], columns[wanted], values[wanted], parts[wanted]
    found, row = np.unique(items, return_inverse=True)
    part = np.zeros(len(found), np.int64)
    part[row] = parts
    y: npt.NDArray[np.generic]
    if task.kind == "multi-label":
        several = np.full((len(found), len(names)), np.nan)
        several[row, columns] = values
        y = several
    else:
        one = np.zeros(len(found), np.int64)
        one[row] = columns
        y = one
    unset = np.arange(len(found))
    return _Rows(found, unset, y, part, unset, unset)


def _official_split(rows: _Rows, notes: list[str], what: str) -> _Rows:
    """Test stays as it is; training rows of its groups are dropped, rows without a part too."""
    test = rows.parts == _TEST
    if not test.any():
        if rows.parts.any():
            notes.append("the labels name parts but no test part: they are evaluated out of fold")
        return rows
    placed = rows.parts > 0
    if not placed.all():
        notes.append(f"{int((~placed).sum())} labelled {what} are in no part of the official split and left out")
    leaking = placed & ~test & np.isin(rows.groups, rows.groups[test])
    if leaking.any():
        shared = len(np.unique(rows.groups[leaking]))
        notes.append(
            f"official split: {int(leaking.sum())} training {what} were dropped, of {shared} groups (or identical"
            " pictures) that are also in the test part"
        )
    if (rows.parts == _VAL).any():
        notes.append("the official val part joins training for choosing and refit")
    return rows.only(placed & ~leaking)


def _check_training_part(task: Task, rows: _Rows, notes: Sequence[str]) -> None:
    """Refuse labels that are all in the official test part: no number of groups would help."""
    if len(rows.items) and (rows.parts == _TEST).all():
        told = f" ({'; '.join(notes)})" if notes else ""
        raise DataError(
            f"task {task.name!r}: all {len(rows.items)} labels are in the test part{told}",
            expected="labelled items in the training part",
            do="label some there, or import the labels without --split-column to evaluate out of fold",
        )


def _small_classes(rows: _Rows, names: list[str], min_groups: int, notes: list[str]) -> tuple[_Rows, list[str]]:
    """Leave out classes that are in fewer than `min_groups` groups of the development part.

    Of several labels also those that so few groups are known not to have: nothing tells them apart.
    """
    development = rows.parts != _TEST
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


def _counts(y: npt.NDArray[Any], n_classes: int) -> list[int]:
    if y.ndim == 2:
        return [int((y[:, i] == 1).sum()) for i in range(n_classes)]
    return [int(count) for count in np.bincount(y, minlength=n_classes)]


def class_counts(data: Dataset, rows: BoolArray | None = None) -> dict[str, int]:
    """Items per class; of some rows, or all."""
    y = data.y if rows is None else data.y[rows]
    return dict(zip(data.classes, _counts(y, len(data.classes)), strict=True))
