"""Levels: which column makes units (lesions, studies, patients) of pictures, and what a unit's label is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from vecstore.dataset.groups import numbered
from vecstore.errors import LabelConflict, NotFound, UsageError
from vecstore.records import BoolArray, IntArray, TaskKind, Value
from vecstore.store import Items, Store
from vecstore.store.columns import PATIENT_COLUMNS, of_names

LEVEL_COLUMNS = {
    "patient": PATIENT_COLUMNS,
    "study": ("StudyInstanceUID", "study", "StudyID"),
    "series": ("SeriesInstanceUID", "series", "SeriesID"),
    "lesion": ("lesion_id", "lesion"),
}
"""Columns that a level is looked for in, in this order, letter case, `_`, `-` and blanks ignored."""

Conflict = Literal["error", "first", "any", "drop"]
PARTS = ("", "train", "val", "test")
"""Official parts by their code; 0 is none."""

_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Units:
    """Pictures pooled by the value of a column.

    Attributes
    ----------
    column : str
    names : list of str
        Value of each of n units; the locator where a picture has none.
    items, contents : ndarray of shape (m,), int64
        The pictures, items ascending.
    rows : ndarray of shape (m,), int64
        Which unit each picture belongs to; units are numbered by their first picture.
    without : ndarray of shape (n,), bool
        Units of one picture that has no value.
    """

    column: str
    names: list[str]
    items: IntArray
    contents: IntArray
    rows: IntArray
    without: BoolArray

    def counts(self) -> IntArray:
        """Pictures of each unit: ndarray of shape (n,), int64."""
        return np.bincount(self.rows, minlength=len(self.names)).astype(np.int64)

    def first(self) -> IntArray:
        """Position of each unit's first picture: ndarray of shape (n,), int64."""
        return np.unique(self.rows, return_index=True)[1].astype(np.int64)

    def only(self, keep: BoolArray) -> Units:
        """Some of the units, by a mask of shape (n,)."""
        number = np.cumsum(keep) - 1
        held = keep[self.rows]
        return Units(
            self.column,
            [name for name, kept in zip(self.names, keep.tolist(), strict=True) if kept],
            self.items[held],
            self.contents[held],
            number[self.rows[held]],
            self.without[keep],
        )


def level_column(store: Store, level: str) -> str:
    """The column of a level: one of exactly this name, else the first of `LEVEL_COLUMNS`.

    Raises
    ------
    NotFound
        The store has neither.
    """
    columns = store.columns()
    for name in columns:
        if name.casefold() == level.casefold():
            return name
    known = LEVEL_COLUMNS.get(level.casefold())
    if known is None:
        return store.column_name(level)
    for name in of_names(known, columns):
        return name
    raise NotFound(
        f"{store.path} has no column for the level {level!r}",
        expected=f"{', '.join(known)} (letter case, _, - and blanks ignored);"
        f" there are: {', '.join(columns) or 'none yet'}",
        do="name a column: --level COLUMN; columns come from DICOM files, a manifest, or: vecstore label ... --columns",
    )


def make_units(store: Store, column: str, items: Items, keep: npt.NDArray[Any]) -> Units:
    """Units of some items.

    Parameters
    ----------
    store : Store
    column : str
    items : Items
    keep : ndarray of shape (m,), int64
        Positions in `items`, ascending.
    """
    values = store.column(column, items.ids[keep])
    ids = items.ids[keep].tolist()
    found = [values.get(item) for item in ids]
    rows = numbered(found)
    first = np.unique(rows, return_index=True)[1].tolist()
    names = [items.locators[keep[at]] if found[at] is None else value_text(found[at]) for at in first]
    without = np.fromiter((found[at] is None for at in first), np.bool_, len(first))
    return Units(column, names, items.ids[keep], items.contents[keep], rows, without)


def value_text(value: Value) -> str:
    """A column's value as text; an integer-valued float is an integer."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def merge_labels(
    task: str,
    kind: TaskKind,
    classes: list[str],
    positive: int,
    units: Units,
    y: npt.NDArray[Any],
    parts: IntArray,
    on_conflict: str,
) -> tuple[npt.NDArray[Any], IntArray, BoolArray, int]:
    """One label and one part per unit.

    Parameters
    ----------
    task : str
    kind : {"binary", "multi-class", "multi-label"}
    classes : list of str
    positive : int
        Index of a binary task's positive class; -1 where there is none.
    units : Units
    y : ndarray of shape (m,) or (m, n_classes)
        Of the pictures. What is not known (NaN) agrees with everything.
    parts : ndarray of shape (m,), int64
        Index into `PARTS`; no part agrees with everything.
    on_conflict : {"error", "first", "any", "drop"}
        Units whose pictures disagree: an error; what the first picture says; the positive class if any has it (any
        label that one has); leave the unit out.

    Returns
    -------
    y, parts : ndarray of shape (n,) or (n, n_classes), and (n,)
    keep : ndarray of shape (n,), bool
        False for units that are left out.
    conflicts : int
        Units whose pictures disagreed.

    Raises
    ------
    LabelConflict
        Pictures of a unit disagree, and no rule was asked for or it has no answer.
    UsageError
        Another rule, or `any` for a task of several classes.
    """
    if on_conflict not in get_args(Conflict):
        raise UsageError(f"on_conflict={on_conflict!r}", "error, first, any or drop", "--on-conflict first")
    if on_conflict == "any" and kind == "multi-class":
        raise UsageError(
            f"task {task!r}: --on-conflict any needs to know the positive class, and a multi-class task has none",
            do="choose first or drop",
        )
    n = len(units.names)
    differing, merged = _merged(y, units, on_conflict, positive)
    if differing.any() and on_conflict == "error":
        told = _examples(units, differing, lambda at: _label_text(y[at], classes))
        raise LabelConflict(
            f"task {task!r}: {int(differing.sum())} units of {units.column} have pictures that disagree: {told}",
            expected="one label per unit",
            do=f"choose: --on-conflict {'first or drop' if kind == 'multi-class' else 'first, any or drop'}",
        )
    torn, merged_parts = _first_known(parts.astype(np.float64), units)
    if torn.any() and on_conflict in ("error", "any"):
        told = _examples(units, torn, lambda at: PARTS[parts[at]])
        several = f"{int(torn.sum())} units of {units.column} have pictures in different official parts"
        raise LabelConflict(
            f"task {task!r}: {several}: {told}",
            expected="one part per unit",
            do="choose: --on-conflict first or drop, or another --level",
        )
    conflicts = differing | torn
    keep = ~conflicts if on_conflict == "drop" else np.ones(n, np.bool_)
    return merged, merged_parts, keep, int(conflicts.sum())


def _merged(y: npt.NDArray[Any], units: Units, on_conflict: str, positive: int) -> tuple[BoolArray, npt.NDArray[Any]]:
    """Which units disagree, and the label of each."""
    n = len(units.names)
    if y.ndim == 1:
        first = y[units.first()]
        wrong = y != first[units.rows]
        differing = np.bincount(units.rows[wrong], minlength=n) > 0
        if on_conflict == "any":
            held = np.bincount(units.rows[y == positive], minlength=n) > 0
            first = np.where(held, positive, first)
        return differing, first
    differing = np.zeros(n, np.bool_)
    merged = np.full((n, y.shape[1]), np.nan)
    for column, values in enumerate(y.T):
        yes = np.bincount(units.rows[values == 1], minlength=n) > 0
        no = np.bincount(units.rows[values == 0], minlength=n) > 0
        differing |= yes & no
        if on_conflict == "first":
            first_known = _first(np.where(np.isnan(values), -1, values), units, -1)
            merged[:, column] = np.where(first_known < 0, np.nan, first_known)
        else:
            merged[:, column] = np.where(yes, 1.0, np.where(no, 0.0, np.nan))
    return differing, merged


def _first(values: npt.NDArray[Any], units: Units, unknown: float) -> npt.NDArray[Any]:
    """Value of each unit's first picture that has one, else `unknown`."""
    known = np.flatnonzero(values != unknown)
    out = np.full(len(units.names), unknown, values.dtype)
    rows, at = np.unique(units.rows[known], return_index=True)
    out[rows] = values[known[at]]
    return out


def _first_known(parts: npt.NDArray[Any], units: Units) -> tuple[BoolArray, IntArray]:
    """Which units are in several parts, and the part of each unit's first picture that has one."""
    first = _first(parts, units, 0)
    wrong = (parts > 0) & (parts != first[units.rows])
    return np.bincount(units.rows[wrong], minlength=len(units.names)) > 0, first.astype(np.int64)


def _label_text(label: Any, classes: list[str]) -> str:
    if np.ndim(label) == 0:
        return classes[int(label)]
    return ";".join(name for name, value in zip(classes, label, strict=True) if value == 1) or "none"


def _examples(units: Units, chosen: BoolArray, text: Any) -> str:
    """A few units by name, and what their pictures say."""
    shown = []
    wanted = np.flatnonzero(chosen)
    for unit in islice(wanted.tolist(), _EXAMPLES):
        told: Iterable[str] = sorted({text(at) for at in np.flatnonzero(units.rows == unit).tolist()})
        shown.append(f"{units.names[unit]} ({' / '.join(told)})")
    return ", ".join(shown) + (" …" if len(wanted) > _EXAMPLES else "")
