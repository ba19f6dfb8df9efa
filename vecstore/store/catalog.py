"""The catalog: one SQLite file, one kind of transaction, snapshots by number.

Everything that is versioned goes in through `Transaction.add` and out through `Transaction.end`, so
that the digests (what a commit added, table by table) are written in one place.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import secrets
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from vecstore.errors import DiskFull, NotAStore, NotWritable, StoreBusy, StoreDamaged, StoreError, StoreTooNew
from vecstore.files import canonical_json, os_errors, sync_folder

APPLICATION_ID = 0x76656373  # "vecs"
FORMAT_VERSION = 1
"""Raise it when an older vecstore would misread a store: see FORMAT.md, "Raising the version"."""

BUSY_SECONDS = 60.0
_SOON_SECONDS = 0.5  # until a writer that waits says so
_CHUNK = 500  # values in one IN list; SQLite allows far more, but each text is compiled once
_LIBRARIES = ("vecstore", "numpy", "pyarrow", "torch", "faiss-cpu", "pillow", "pydicom", "scikit-learn")


def visible(alias: str = "") -> str:
    """SQL that is true for rows of a versioned table at commit `:at`."""
    dot = f"{alias}." if alias else ""
    return f"({dot}added_in <= :at AND ({dot}removed_in IS NULL OR {dot}removed_in > :at))"


def quoted(name: str) -> str:
    """An identifier for SQL text."""
    return '"' + name.replace('"', '""') + '"'


def in_pieces(
    fetch: Callable[[str, Sequence[Any]], list[tuple[Any, ...]]], text: str, values: Iterable[Any]
) -> Iterator[tuple[Any, ...]]:
    """Rows of a query with one `IN ({})` over many values, asked a few hundred values at a time.

    Parameters
    ----------
    fetch : callable
        `Catalog.rows` or `Transaction.sql`.
    text : str
        The query; `{}` takes the question marks.
    values : iterable
        What the list holds.
    """
    left = iter(values)
    while chunk := list(islice(left, _CHUNK)):
        yield from fetch(text.format(",".join("?" * len(chunk))), chunk)


def stored(value: Any, kind: str) -> Any:
    """A value as SQLite will give it back from a STRICT column of a type: what a digest must be taken of.

    NumPy scalars become Python numbers (an np.int64 would bind as a BLOB), a NaN is NULL in SQLite.

    Examples
    --------
    >>> stored(1, "REAL"), stored(True, "INTEGER"), stored(float("nan"), "REAL"), stored(-0.0, "REAL")
    (1.0, 1, None, 0.0)
    """
    if value is None or isinstance(value, (str, bytes)):
        return value
    item = getattr(value, "item", None)
    number = value if item is None or isinstance(value, memoryview) else item()
    if kind == "REAL":
        number = float(number) + 0.0
        return None if math.isnan(number) else number
    whole = isinstance(number, int) or (isinstance(number, float) and number.is_integer())
    return int(number) if kind == "INTEGER" and whole else number


_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def row_digest(table: str, row: Mapping[str, Any]) -> int:
    """8-byte BLAKE2b of one row: its table and its non-NULL named values, sorted by name.

    Examples
    --------
    >>> row_digest("labels", {"item": 1, "class": "a"}) - row_digest("labels", {"class": "a", "split": None, "item": 1})
    0
    """
    values = {k: v.hex() if isinstance(v, bytes) else v for k, v in sorted(row.items()) if v is not None}
    text = _JSON.encode([table, values])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def column_digests(table: str, columns: Mapping[str, Sequence[Any]]) -> Iterator[int]:
    """`row_digest` of many rows given by columns, several times as fast: equal values are written as JSON once.

    Examples
    --------
    >>> rows = [{"item": 1, "class": "a"}, {"item": 2, "class": None}]
    >>> made = column_digests("labels", {name: [row[name] for row in rows] for name in rows[0]})
    >>> list(made) == [row_digest("labels", row) for row in rows]
    True
    """
    parts = []
    for name, values in sorted(columns.items()):
        key = f"{_JSON.encode(name)}:"
        if set(map(type, values)) == {int}:
            parts.append([f"{key}{v}" for v in values])
            continue
        # By type too: 1 and 1.0 are equal and not the same text.
        known = {
            (kind, v): "" if v is None else key + _JSON.encode(v.hex() if isinstance(v, bytes) else v)
            for kind, v in set(zip(map(type, values), values, strict=True))
        }
        parts.append([known[pair] for pair in zip(map(type, values), values, strict=True)])
    head, blake = _JSON.encode(table), hashlib.blake2b
    for row in zip(*parts, strict=True):
        text = f"[{head},{{{','.join(filter(None, row))}}}]"
        yield int.from_bytes(blake(text.encode(), digest_size=8).digest(), "little")


_AS_THEY_ARE: Mapping[str, frozenset[type]] = defaultdict(
    frozenset, {"INTEGER": frozenset({int, type(None)}), "TEXT": frozenset({str, type(None)})}
)


def _stored_column(values: Sequence[Any], kind: str) -> Sequence[Any]:
    """`stored` for a column; values of equal type and value are looked at once."""
    if set(map(type, values)) <= _AS_THEY_ARE[kind]:
        return values
    known = {(t, v): stored(v, kind) for t, v in set(zip(map(type, values), values, strict=True))}
    return [known[key] for key in zip(map(type, values), values, strict=True)]


# Left out of the digests: an item's size and time are what the last scan saw, not what the store says.
_UNDIGESTED = {"items": frozenset({"size", "mtime_ns"})}


@cache
def library_versions() -> dict[str, str]:
    """The libraries that are installed, by name, for the record; looked up once in a process."""
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for name in _LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        ours = _translated(path, error)
        if ours is None:
            raise
        raise ours from error


_UNREADABLE = frozenset({sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS})


def _translated(path: Path, error: sqlite3.DatabaseError) -> StoreError | None:
    extended = getattr(error, "sqlite_errorcode", 0)
    code = extended & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or extended in _UNREADABLE or "UTF-8" in str(error):
        return StoreDamaged(f"{path}: {error}", expected="an intact SQLite catalog", do="restore it from a copy")
    if code == sqlite3.SQLITE_FULL:
        return DiskFull(
            f"{path}: no space left on the device",
            do="free some space and run the command again; the store is as it was",
        )
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreBusy(
            f"{path}: another process has held the catalog for {BUSY_SECONDS:.0f} s",
            expected="it to finish sooner",
            do="wait for it to end, or look for a process that hangs, then run the command again",
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR):
        return NotWritable(
            f"{path}: {error}",
            expected="a store that this user may read and write, on a medium that is not read-only",
            do="check the mount and the permissions, or copy the store",
        )
    return None


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open the catalog file with the settings every connection needs.

    The URI form is used because a plain path with `#`, `?` or `%` would be read as one.
    """
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_SECONDS,
    )
    for pragma in (
        "foreign_keys=ON",
        "temp_store=MEMORY",
        "secure_delete=ON",
        "synchronous=EXTRA",
        "trusted_schema=OFF",
    ):
        connection.execute(f"PRAGMA {pragma}").close()
    return connection


class Transaction:
    """All that one commit changes, visible together or not at all.

    Attributes
    ----------
    commit : int
        The number this transaction will have.
    counts : dict
        What the log shows; a verb fills it in.
    """

    def __init__(self, connection: sqlite3.Connection, commit: int) -> None:
        self._connection = connection
        self.commit = commit
        self.counts: dict[str, Any] = {}
        self._digests: dict[tuple[int, str], list[int]] = {}

    def sql(self, text: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement inside the transaction and fetch all its rows."""
        with closing(self._connection.execute(text, values)) as cursor:
            return cursor.fetchall()

    def add(self, table: str, rows: Iterable[Mapping[str, Any]]) -> list[int]:
        """Insert rows of equal keys; `added_in` is filled in where the table has it, and the id where it numbers rows.

        Returns
        -------
        list of int
            The ids, for tables that number their rows.
        """
        kinds = dict(self.sql("SELECT name, type FROM pragma_table_info(?)", (table,)))
        first = self._next_id(table) if table in _NUMBERED else 0
        whole: list[dict[str, Any]] = []
        for row in rows:
            full = {name: stored(value, kinds[name]) for name, value in row.items()}
            if table in _VERSIONED:
                full["added_in"] = self.commit
            if table in _NUMBERED:
                full["id"] = first + len(whole)
            whole.append(full)
        if not whole:
            return []
        names = list(whole[0])
        text = f"INSERT INTO {table} ({', '.join(map(quoted, names))}) VALUES ({', '.join('?' * len(names))})"
        self._connection.executemany(text, ([full[name] for name in names] for full in whole)).close()
        self._book(self.commit, table, whole)
        return [full["id"] for full in whole] if table in _NUMBERED else []

    def add_columns(self, table: str, columns: Mapping[str, Sequence[Any]]) -> None:
        """Insert many rows, given by columns of one length, into a table that does not number them."""
        kinds = dict(self.sql("SELECT name, type FROM pragma_table_info(?)", (table,)))
        if table in _VERSIONED:
            rows = len(next(iter(columns.values()), ()))
            columns = {**columns, "added_in": [self.commit] * rows}
        whole = {name: _stored_column(values, kinds[name]) for name, values in columns.items()}
        text = f"INSERT INTO {table} ({', '.join(map(quoted, whole))}) VALUES ({', '.join('?' * len(whole))})"
        self._connection.executemany(text, zip(*whole.values(), strict=True)).close()
        sums = self._digests.setdefault((self.commit, table), [0, 0])
        for digest in column_digests(table, whole):
            sums[0] += 1
            sums[1] += digest

    def _next_id(self, table: str) -> int:
        """The id after the highest that was ever given; AUTOINCREMENT keeps it, deleted rows included."""
        known = self.sql("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,))
        return int(known[0][0]) + 1 if known else 1

    def live(self, table: str, condition: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        """Rows of a versioned table that are visible in this transaction, by name of column."""
        return self._rows(table, f"removed_in IS NULL AND ({condition})", values)

    def end(self, table: str, condition: str, values: Sequence[Any]) -> int:
        """End the live rows of a versioned table that fit a condition; returns how many."""
        rows = self.live(table, condition, values)
        if rows:
            self._book(self.commit, f"{table}-", rows)
            self.sql(
                f"UPDATE {table} SET removed_in = ? WHERE removed_in IS NULL AND ({condition})",
                (self.commit, *values),
            )
        return len(rows)

    def fill(self, row: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
        """Set columns of a metadata row in place, columns born in this commit; the row's own digest follows.

        Parameters
        ----------
        row : mapping
            The row as `live` gave it.
        changes : mapping
            Values of the columns' types.
        """
        assignments = ", ".join(f"{quoted(name)} = ?" for name in changes)
        key = (row["item"], row["added_in"])
        self.sql(f"UPDATE metadata SET {assignments} WHERE item = ? AND added_in = ?", (*changes.values(), *key))
        before, after = row_digest("metadata", row), row_digest("metadata", {**row, **changes})
        self._shift(row["added_in"], "metadata", after - before)

    def recast(self, column: str, old: str, convert: Callable[[Any], Any]) -> None:
        """Copy a metadata column into one of another type that has its name now, in every version of every row.

        The sums of the commits that began the rows, and of those that ended them, follow.

        Parameters
        ----------
        column, old : str
            The new column, still empty, and the name that the old one has meanwhile.
        convert : callable
            Old value to new value.
        """
        last = (0, 0)
        while True:
            rows = self._all_of(
                f"SELECT * FROM metadata WHERE (item, added_in) > (?, ?) AND {quoted(old)} IS NOT NULL"
                f" ORDER BY item, added_in LIMIT {_PIECE}",
                last,
            )
            for row in rows:
                value, ended = row.pop(old), row.pop("removed_in")
                last, new = (row["item"], row["added_in"]), convert(value)
                self.sql(f"UPDATE metadata SET {quoted(column)} = ? WHERE item = ? AND added_in = ?", (new, *last))
                change = row_digest("metadata", {**row, column: new}) - row_digest("metadata", {**row, column: value})
                self._shift(row["added_in"], "metadata", change)
                if ended is not None:
                    self._shift(ended, "metadata-", change)
            if len(rows) < _PIECE:
                return

    def retype(self, column: str, kind: str) -> None:
        """Write down the new type of a metadata column."""
        (before,) = self._all_of("SELECT * FROM columns WHERE name = ?", (column,))
        self.sql("UPDATE columns SET type = ? WHERE name = ?", (kind, column))
        change = row_digest("columns", {**before, "type": kind}) - row_digest("columns", before)
        self._shift(before["added_in"], "columns", change)

    def _shift(self, commit: int, name: str, change: int) -> None:
        """A row of a commit has another digest now."""
        self._digests.setdefault((commit, name), [0, 0])[1] += change

    def _book(self, commit: int, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows to the digest of a commit; `name` is the table, with a dash behind it for ends."""
        table = name.removesuffix("-")
        left_out = _UNDIGESTED.get(table, frozenset())
        sums = self._digests.setdefault((commit, name), [0, 0])
        sums[0] += len(rows)
        for row in rows:
            sums[1] += row_digest(table, {k: v for k, v in row.items() if k not in left_out} if left_out else row)

    def _rows(self, table: str, condition: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        rows = self._all_of(f"SELECT * FROM {table} WHERE {condition}", values)
        return [{k: v for k, v in row.items() if k != "removed_in"} for row in rows]

    def _all_of(self, text: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        """Rows of a query, by name of column."""
        with closing(self._connection.execute(text, values)) as cursor:
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def finish(self, seconds: float) -> None:
        """Write the digests and complete the commit's own row."""
        self.sql(
            "UPDATE commits SET counts = ?, seconds = ? WHERE id = ?",
            (canonical_json(self.counts), round(seconds, 3), self.commit),
        )
        for row in self._rows("commits", "id = ?", (self.commit,)):
            self._digests[self.commit, "commits"] = [1, row_digest("commits", row)]
        for (commit, name), (rows, total) in self._digests.items():
            known = self.sql("SELECT rows, sum FROM digests WHERE commit_id = ? AND name = ?", (commit, name))
            old_rows, old_sum = known[0] if known else (0, 0)
            total = (total + old_sum) % 2**64
            signed = total - 2**64 if total >= 2**63 else total
            if rows or known:
                self.sql(
                    "INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)",
                    (commit, name, rows + old_rows, signed),
                )


_VERSIONED = frozenset({"states", "columns", "metadata", "spaces", "shards", "tasks", "models"})
_META = frozenset({"format", "store_id", "store_secret", "decode_rule", "next_content", "oldest"})
_PIECE = 4096
"""Rows of metadata that are held at once while a column gets another type."""
_NUMBERED = frozenset({"sources", "items", "spaces", "shards", "tasks", "models"})


class Catalog:
    """The SQLite file of a store.

    Parameters
    ----------
    path : Path
        Of `catalog.sqlite`.

    Raises
    ------
    NotAStore, StoreTooNew, StoreDamaged, NotWritable
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        with os_errors(str(path)):
            there = path.is_file() and path.stat().st_size > 0
        if not there:
            what = "is not a store (no catalog.sqlite in it)" if path.parent.exists() else "does not exist"
            raise NotAStore(
                f"{path.parent} {what}",
                expected="a folder made by: vecstore ingest ARCHIVE --store STORE",
            )
        self.writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
        with sqlite_errors(path):
            self._connection = connect(path, "rw" if self.writable else "ro")
            try:
                self._check_format()
                self.meta: dict[str, Any] = dict(self.rows("SELECT name, value FROM meta"))
                if missing := _META - self.meta.keys():
                    raise sqlite3.DatabaseError(f"no {', '.join(sorted(missing))} in meta")
            except (sqlite3.DatabaseError, StoreError) as error:
                self._connection.close()
                if isinstance(error, StoreError) or _translated(path, error) is not None:
                    raise
                raise StoreDamaged(
                    f"{path}: {error}", expected="the tables of a catalog", do="restore it from a copy"
                ) from error

    @staticmethod
    def unfinished(path: Path) -> bool:
        """Whether this is what a creation leaves that was killed: no table, and nobody else's mark."""
        if path.stat().st_size == 0:
            return True
        try:
            with closing(connect(path, "rw")) as connection:
                marks = [connection.execute(f"PRAGMA {p}").fetchone()[0] for p in ("application_id", "user_version")]
                return (
                    marks in ([0, 0], [APPLICATION_ID, 0])
                    and not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
                )
        except sqlite3.DatabaseError:
            return False

    @staticmethod
    def create(path: Path, meta: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
        """Make a new catalog in one transaction; killed before its end, there is none."""
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        schema = (Path(__file__).parent / "schema.sql").read_text(encoding="utf-8")
        with sqlite_errors(path), closing(connect(path, "rw")) as connection:
            connection.execute("PRAGMA journal_mode=DELETE").close()
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}").close()
            connection.execute("BEGIN IMMEDIATE").close()
            if connection.execute("PRAGMA user_version").fetchone()[0]:  # another process was first
                connection.execute("ROLLBACK").close()
                return
            for statement in _statements(schema):
                connection.execute(statement).close()
            connection.execute(f"PRAGMA user_version={FORMAT_VERSION}").close()
            settings = {
                "format": FORMAT_VERSION,
                "store_id": secrets.token_hex(16),
                "store_secret": secrets.token_bytes(32),
            }
            settings |= {"next_content": 1, "oldest": 1, **meta}
            connection.executemany("INSERT INTO meta VALUES (?, ?)", settings.items()).close()
            with _transaction(connection, "create", arguments):
                pass
        sync_folder(path.parent)

    def _check_format(self) -> None:
        application, version = (
            self._connection.execute(f"PRAGMA {p}").fetchone()[0] for p in ("application_id", "user_version")
        )
        if application != APPLICATION_ID or version == 0:
            raise NotAStore(
                f"{self.path} is not a vecstore catalog",
                expected="a folder made by: vecstore ingest ARCHIVE --store STORE",
            )
        if version > FORMAT_VERSION:
            raise StoreTooNew(
                f"{self.path.parent} has store format {version}",
                expected=f"format {FORMAT_VERSION} or earlier",
                do="upgrade: pip install --upgrade vecstore",
            )

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def rows(self, text: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Fetch all rows of a query and let go of the file; no transaction stays open."""
        with self._lock, sqlite_errors(self.path), closing(self._connection.execute(text, values)) as cursor:
            return cursor.fetchall()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let several queries see one state; writers wait meanwhile."""
        with self._lock, sqlite_errors(self.path):
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute("BEGIN").close()
            try:
                yield
            finally:
                _rollback(self._connection)

    def last_commit(self) -> int:
        """The number of the newest commit."""
        return int(self.rows("SELECT max(id) FROM commits")[0][0])

    @contextmanager
    def write(
        self, verb: str, arguments: Mapping[str, Any], waiting: Callable[[], None] | None = None
    ) -> Iterator[Transaction]:
        """Begin a commit; it ends with the block, and an exception undoes all of it."""
        with self._lock, sqlite_errors(self.path):
            self._begin(waiting)
            with _transaction(self._connection, verb, arguments) as transaction:
                yield transaction

    def reserve(self, count: int, waiting: Callable[[], None] | None = None) -> int:
        """Take a range of content ids that nobody else will be given; returns its first."""
        with self._lock, sqlite_errors(self.path):
            self._begin(waiting)
            try:
                first = int(
                    self._connection.execute("SELECT value FROM meta WHERE name = 'next_content'").fetchone()[0]
                )
                self._connection.execute(
                    "UPDATE meta SET value = ? WHERE name = 'next_content'", (first + count,)
                ).close()
                self._connection.execute("COMMIT").close()
            except BaseException:
                _rollback(self._connection)
                raise
            return first

    @contextmanager
    def locked(self) -> Iterator[bool]:
        """Keep writers out without a commit of our own: what no commit names now, nobody is about to name.

        Yields
        ------
        bool
            False where the lock can't be had soon; then nothing may be removed.
        """
        with self._lock:
            try:
                self._set_busy(_SOON_SECONDS)
                self._connection.execute("BEGIN IMMEDIATE").close()
            except sqlite3.Error:
                yield False
                return
            finally:
                self._set_busy(BUSY_SECONDS)
            try:
                yield True
            finally:
                _rollback(self._connection)

    def _begin(self, waiting: Callable[[], None] | None) -> None:
        """BEGIN IMMEDIATE; tells `waiting` once if another process is writing."""
        if not self.writable:
            raise NotWritable(
                f"{self.path.parent} is on a read-only medium, or this user may not write to it",
                expected="a writable store",
                do="check the mount and the permissions, or copy the store",
            )
        try:
            self._set_busy(_SOON_SECONDS if waiting else BUSY_SECONDS)
            self._connection.execute("BEGIN IMMEDIATE").close()
        except sqlite3.OperationalError as error:
            if waiting is None or getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            waiting()
            self._set_busy(BUSY_SECONDS)
            self._connection.execute("BEGIN IMMEDIATE").close()
        finally:
            # COMMIT waits for readers with the same patience, so the short one must not stay.
            self._set_busy(BUSY_SECONDS)

    def _set_busy(self, seconds: float) -> None:
        self._connection.execute(f"PRAGMA busy_timeout={int(seconds * 1000)}").close()


def _statements(script: str) -> Iterator[str]:
    """The statements of a script one by one (executescript would commit between them)."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _rollback(connection: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):
        if connection.in_transaction:
            connection.execute("ROLLBACK").close()


@contextmanager
def _transaction(connection: sqlite3.Connection, verb: str, arguments: Mapping[str, Any]) -> Iterator[Transaction]:
    """The body of a commit, inside a transaction that has begun."""
    started = time.monotonic()
    try:
        commit = int(connection.execute("SELECT ifnull(max(id), 0) + 1 FROM commits").fetchone()[0])
        connection.execute(
            "INSERT INTO commits VALUES (?, ?, ?, ?, ?, '{}', 0)",
            (
                commit,
                datetime.now(UTC).isoformat(timespec="seconds"),
                verb,
                canonical_json(arguments),
                canonical_json(library_versions()),
            ),
        ).close()
        transaction = Transaction(connection, commit)
        yield transaction
        transaction.finish(time.monotonic() - started)
        connection.execute("COMMIT").close()
    except BaseException:
        _rollback(connection)
        raise
