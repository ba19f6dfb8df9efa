"""Metadata columns: their types, their birth, and versions of an item's row."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from vecstore.errors import DataError
from vecstore.records import Value
from vecstore.store.catalog import Transaction, in_pieces, quoted

RESERVED_COLUMNS = frozenset({"item", "source", "locator", "added_in", "removed_in", "rowid", "oid", "_rowid_"})
MAX_COLUMNS = 1000
PSEUDONYMS = "patientid"
"""A column of this name, in any letter case, holds pseudonyms, whoever writes it."""
PATIENT_COLUMNS = ("PatientID", "patient", "subject", "SubjectID", "participant", "ParticipantID", "MRN")
"""Names of columns that say whose a picture is, as `of_names` knows them ("patient_id", "Patient ID", "subject_id")."""
_TOO_LARGE = 2**63  # SQLite's integers have 64 bits
_EXACT = 2**53  # beyond it not every integer has a float of its own
_TYPES = ("INTEGER", "REAL", "TEXT")  # from narrow to wide


def of_names(names: Iterable[str], columns: Iterable[str]) -> list[str]:
    """Those of some columns that have one of the known names, in the order of the names, then of the columns.

    Letter case, `_`, `-` and blanks are ignored.

    >>> of_names(PATIENT_COLUMNS, ["age", "subject_id", "Patient ID", "PATIENTID"])
    ['Patient ID', 'PATIENTID', 'subject_id']
    """
    rank: dict[str, int] = {}
    for name in names:
        rank.setdefault(_bare(name), len(rank))
    return sorted((column for column in columns if _bare(column) in rank), key=lambda column: rank[_bare(column)])


def _bare(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def common_type(values: Iterable[Value], at_least: str = "INTEGER") -> str:
    """The narrowest type from `at_least` on that holds all of some values without loss; TEXT for no values.

    Examples
    --------
    >>> common_type([60, 61]), common_type([60, 60.5]), common_type([60, "P3"]), common_type([2**60 + 1, 0.5])
    ('INTEGER', 'REAL', 'TEXT', 'TEXT')
    """
    given = [value for value in values if not _missing(value)]
    kinds = _TYPES[_TYPES.index(at_least) :] if given else ()
    return next((kind for kind in kinds if all(fit(value, kind) is not None for value in given)), "TEXT")


def fit(value: Value, kind: str) -> Value:
    """A value as a column of a type can hold it without loss, or None.

    Examples
    --------
    >>> fit(60.0, "INTEGER"), fit(60.5, "INTEGER"), fit(7, "TEXT"), fit("x", "REAL"), fit(2**63, "INTEGER")
    (60, None, '7', None, None)
    """
    if value is None or _missing(value):
        return None
    if kind == "TEXT":
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return str(value).encode("utf-8", "replace").decode()  # SQLite has no lone surrogates
    if isinstance(value, str):
        return None
    small = abs(value) < _TOO_LARGE
    if kind == "REAL":
        return float(value) if isinstance(value, float) or (small and int(float(value)) == value) else None
    return int(value) if small and float(value).is_integer() else None


def _missing(value: Value) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def describe(tx: Transaction, rows: Iterable[tuple[int, Mapping[str, Value]]], origin: str) -> None:
    """Give items metadata: columns are made, or widened until every value fits, then rows follow.

    A column born here is filled in place, a correction begins a new row, None takes a value away.

    Parameters
    ----------
    tx : Transaction
    rows : iterable of (item id, metadata)
    origin : str
        Put in front of names that would collide with ours.
    """
    given: dict[str, list[Value]] = {}
    rows = list(rows)
    for _, metadata in rows:
        for name, value in metadata.items():
            given.setdefault(name, []).append(value)
    if not given:
        return
    born, names = _ensure_columns(tx, given, origin)
    types = dict(tx.sql("SELECT name, type FROM columns"))
    changes: dict[int, dict[str, Value]] = {}
    for item, metadata in rows:
        fitted = {names[name]: fit(value, types[names[name]]) for name, value in metadata.items()}
        changes.setdefault(item, {}).update(fitted)
    _apply(tx, changes, born)


def _ensure_columns(tx: Transaction, given: Mapping[str, list[Value]], origin: str) -> tuple[set[str], dict[str, str]]:
    """Make the metadata columns that some values need.

    Returns
    -------
    born : set of str
        Columns that did not exist before this transaction.
    names : dict
        Given name to the name in the store: the same but for letter case, or with the origin in front
        where it would collide with a name of ours.
    """
    known = {
        name.casefold(): (name, kind, added) for name, kind, added in tx.sql("SELECT name, type, added_in FROM columns")
    }
    names: dict[str, str] = {}
    for name, all_values in given.items():
        values = [value for _, value in set(zip(map(type, all_values), all_values, strict=True))]
        clean = _clean(name)
        if not clean or clean.casefold() in RESERVED_COLUMNS:
            clean = f"{_clean(origin)}_{clean or 'column'}"
        if clean.casefold() not in known:
            if len(known) >= MAX_COLUMNS:
                raise DataError(f"more than {MAX_COLUMNS} metadata columns", do="choose them: --columns A,B")
            kind = common_type(values)
            tx.sql(f"ALTER TABLE metadata ADD COLUMN {quoted(clean)} {kind}")
            tx.add("columns", [{"name": clean, "type": kind, "origin": origin}])
            known[clean.casefold()] = (clean, kind, tx.commit)
        column, kind, added = known[clean.casefold()]
        if any(fit(value, kind) is None for value in values if not _missing(value)):
            kind = _widen(tx, column, common_type(values, kind))
            known[clean.casefold()] = (column, kind, added)
        names[name] = column
    return {name for name, _, added in known.values() if added == tx.commit}, names


def _widen(tx: Transaction, column: str, kind: str) -> str:
    """Change a column to a wider type, in all versions of all rows: the values stay equal; returns the type."""
    name = quoted(column)
    if kind == "REAL" and tx.sql(f"SELECT 1 FROM metadata WHERE abs({name}) > {_EXACT} LIMIT 1"):
        kind = "TEXT"  # a REAL would round them
    taken = {row[0].casefold() for row in tx.sql("SELECT name FROM pragma_table_info('metadata')")}
    old = next(f"old_{i}" for i in range(len(taken) + 1) if f"old_{i}" not in taken)
    tx.sql(f"ALTER TABLE metadata RENAME COLUMN {name} TO {old}")
    tx.sql(f"ALTER TABLE metadata ADD COLUMN {name} {kind}")
    tx.recast(column, old, lambda value: fit(value, kind))
    tx.sql(f"ALTER TABLE metadata DROP COLUMN {old}")
    tx.retype(column, kind)
    tx.counts.setdefault("columns_widened", {})[column] = kind
    return kind


def _clean(name: str) -> str:
    return name.replace("\0", "").encode("utf-8", "replace").decode().strip()


def _apply(tx: Transaction, changes: Mapping[int, Mapping[str, Value]], born: set[str]) -> None:
    """Bring items' metadata to what `changes` say."""
    known = [row[0] for row in tx.sql("SELECT name FROM columns")]
    names = ["item", "added_in", *known]
    text = f"SELECT {', '.join(map(quoted, names))} FROM metadata WHERE removed_in IS NULL AND item IN ({{}})"
    current = {row[0]: dict(zip(names, row, strict=True)) for row in in_pieces(tx.sql, text, changes)}
    begun: list[dict[str, Value]] = []
    for item, wanted in changes.items():
        row = current.get(item, {"item": item})
        differing = {k: v for k, v in wanted.items() if row.get(k) != v}
        if not differing:
            continue
        if item in current and (row["added_in"] == tx.commit or all(name in born for name in differing)):
            tx.fill(row, differing)
            continue
        if item in current:
            tx.end("metadata", "item = ?", (item,))
        begun.append(row | differing)
    used = [name for name in ["item", *known] if any(row.get(name) is not None for row in begun)]
    if begun:
        tx.add_columns("metadata", {name: [row.get(name) for row in begun] for name in used})
