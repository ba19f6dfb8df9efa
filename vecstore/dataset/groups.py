"""Which items belong together, so that no fold and no official part divides them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from vecstore.probes.splits import merge_groups
from vecstore.records import BoolArray, IntArray
from vecstore.store import Items, Store
from vecstore.store.columns import PATIENT_COLUMNS, of_names

GROUP_COLUMNS = (*PATIENT_COLUMNS, "lesion_id", "StudyInstanceUID")
"""Looked for in this order, letter case, `_`, `-` and blanks ignored ("patient_id" and "Patient ID" are PatientID)."""


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


def group_as_trained(store: Store, asked: str | None, found: str | None) -> str | None:
    """The groups of a training as `group_codes` takes them, from what was asked for and what was found then.

    Those found by the column's name are found so again, with the columns that stand in, unless that would lead to
    another column now.
    """
    if asked is not None or group_column(store) == found:
        return asked
    return found or "none"


def _group_columns(store: Store, group: str | None) -> list[str]:
    """The column asked for; or all that are known by name, in the order of `GROUP_COLUMNS`, older ones first."""
    if group is not None:
        return [] if group == "none" else [store.column_name(group)]
    return of_names(GROUP_COLUMNS, store.columns())


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
        codes = merge_groups(codes, numbered(values[i] if values.get(i) in wanted else None for i in ids))
        missing &= ~has
        if place and stands_in.any():
            fallbacks.append((column, stands_in))
    if store.rule.frames == "all":
        files = zip(items.sources, map(store.rule.file_of, items.locators), strict=True)
        codes = merge_groups(codes, numbered(files))
    column_or_none = columns[0] if columns else None
    return Groups(column_or_none, merge_groups(codes, items.contents), missing & bool(columns), fallbacks)


def numbered(values: Iterable[object]) -> IntArray:
    """Equal values as equal numbers; every None as a number of its own."""
    numbers: dict[object, int] = {}
    found = [numbers.setdefault(("none", row) if v is None else v, len(numbers)) for row, v in enumerate(values)]
    return np.array(found, np.int64)
