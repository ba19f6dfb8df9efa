"""Metadata columns: their types, their birth, and versions of an item's row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from vecstore.errors import DataError
from vecstore.records import Value
from vecstore.store.catalog import Transaction, in_pieces, quoted

RESERVED_COLUMNS = frozenset({"item", "source", "locator", "added_in", "removed_in", "rowid", "oid", "_rowid_"})
MAX_COLUMNS = 1000
_TOO_LARGE = 2**63  # SQLite's integers have 64 bits


def value_type(value: Value) -> str:
    """The SQLite type of a value: "TEXT", "INTEGER" or "REAL"."""
    return "TEXT" if isinstance(value, str) else "REAL" if isinstance(value, float) else "INTEGER"


def common_type(values: Iterable[Value]) -> str:
    """The type of a column that holds all of some values: TEXT if any is text, REAL if any has a fraction."""
    kinds = {value_type(value) for value in values if value is not None}
    if not kinds or "TEXT" in kinds:
        return "TEXT"
    return "REAL" if "REAL" in kinds else "INTEGER"


def fit(value: Value, kind: str) -> Value:
    """A value as a column of a type can hold it, or None.

    Examples
    --------
    >>> fit(60.0, "INTEGER"), fit(60.5, "INTEGER"), fit(7, "TEXT"), fit("x", "REAL"), fit(2**63, "INTEGER")
    (60, None, '7', None, None)
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if kind == "TEXT":
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return str(value).encode("utf-8", "replace").decode()  # SQLite has no lone surrogates
    if isinstance(value, str) or abs(value) >= _TOO_LARGE:
        return float(value) if kind == "REAL" and isinstance(value, float) else None
    if kind == "REAL":
        return float(value)
    return int(value) if float(value).is_integer() else None


def ensure_columns(tx: Transaction, wanted: Mapping[str, str], origin: str) -> tuple[set[str], dict[str, str]]:
    """Add the metadata columns that are not there yet.

    Returns
    -------
    born : set of str
        Columns that did not exist before this transaction.
    names : dict
        Wanted name to the name in the store: the same but for letter case, or with the origin in front
        where it would collide with a name of ours.
    """
    known = {name.casefold(): (name, added) for name, added in tx.sql("SELECT name, added_in FROM columns")}
    names: dict[str, str] = {}
    for name, kind in wanted.items():
        clean = _clean(name)
        if not clean or clean.casefold() in RESERVED_COLUMNS:
            clean = f"{_clean(origin)}_{clean or 'column'}"
        if clean.casefold() not in known:
            if len(known) >= MAX_COLUMNS:
                raise DataError(f"more than {MAX_COLUMNS} metadata columns", do="choose them: --columns A,B")
            tx.sql(f"ALTER TABLE metadata ADD COLUMN {quoted(clean)} {kind}")
            tx.add("columns", [{"name": clean, "type": kind, "origin": origin}])
            known[clean.casefold()] = (clean, tx.commit)
        names[name] = known[clean.casefold()][0]
    return {name for name, added in known.values() if added == tx.commit}, names


def _clean(name: str) -> str:
    return name.replace("\0", "").encode("utf-8", "replace").decode().strip()


def apply_metadata(tx: Transaction, changes: Mapping[int, Mapping[str, Value]], born: set[str]) -> int:
    """Bring items' metadata to what `changes` say; returns how many items changed."""
    known = [row[0] for row in tx.sql("SELECT name FROM columns")]
    names = ["item", "added_in", *known]
    text = f"SELECT {', '.join(map(quoted, names))} FROM metadata WHERE removed_in IS NULL AND item IN ({{}})"
    current = {row[0]: dict(zip(names, row, strict=True)) for row in in_pieces(tx.sql, text, changes)}
    changed = 0
    begun: list[dict[str, Value]] = []
    for item, wanted in changes.items():
        row = current.get(item, {"item": item})
        differing = {k: v for k, v in wanted.items() if row.get(k) != v}
        if not differing:
            continue
        changed += 1
        if item in current and (row["added_in"] == tx.commit or all(name in born for name in differing)):
            tx.fill(row, differing)
            continue
        if item in current:
            tx.end("metadata", "item = ?", (item,))
        begun.append(row | differing)
    used = [name for name in ["item", *known] if any(row.get(name) is not None for row in begun)]
    tx.add("metadata", ({name: row.get(name) for name in used} for row in begun))
    return changed
