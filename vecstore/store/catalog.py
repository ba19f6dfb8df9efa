"""The catalog: one SQLite file, one kind of transaction, snapshots by number.

Everything that is versioned goes in through `Transaction.add` and out through `Transaction.end`, so
that the digests (what a commit added, table by table) are written in one place.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vecstore.errors import DiskFull, NotAStore, NotWritable, StoreBusy, StoreDamaged, StoreTooNew
from vecstore.files import canonical_json, sync_folder

APPLICATION_ID = 0x76656373  # "vecs"
FORMAT_VERSION = 1
"""Raise it when an older vecstore would misread a store: see FORMAT.md, "Raising the version"."""

BUSY_SECONDS = 60.0
_LIBRARIES = ("vecstore", "numpy", "pyarrow", "torch", "faiss-cpu", "pillow", "pydicom", "scikit-learn")


def visible(alias: str = "") -> str:
    """SQL that is true for rows of a versioned table at commit `:at`."""
    dot = f"{alias}." if alias else ""
    return f"({dot}added_in <= :at AND ({dot}removed_in IS NULL OR {dot}removed_in > :at))"


def quoted(name: str) -> str:
    """An identifier for SQL text."""
    return '"' + name.replace('"', '""') + '"'


def plain(value: Any) -> Any:
    """A value as SQLite binds it: NumPy scalars become Python numbers (an np.int64 would bind as a BLOB)."""
    item = getattr(value, "item", None)
    return item() if item is not None and not isinstance(value, (bytes, memoryview)) else value


def row_digest(table: str, row: Mapping[str, Any]) -> int:
    """8-byte BLAKE2b of one row: its table and its non-NULL named values, sorted by name.

    Examples
    --------
    >>> row_digest("labels", {"item": 1, "class": "a"}) == row_digest("labels", {"class": "a", "split": None, "item": 1})
    True
    """
    values = {k: v.hex() if isinstance(v, bytes) else v for k, v in sorted(row.items()) if v is not None}
    text = json.dumps([table, values], ensure_ascii=False, separators=(",", ":"))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


# Left out of the digests: an item's size and time are what the last scan saw, not what the store says.
_UNDIGESTED = frozenset({"removed_in", "size", "mtime_ns"})


def library_versions() -> dict[str, str]:
    """The libraries that are installed, by name, for the record."""
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
    except sqlite3.OperationalError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL:
            raise DiskFull(
                f"{path}: no space left on the device",
                do="free some space and run the command again; the store is as it was",
            ) from error
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise StoreBusy(
                f"{path}: another process has been writing for {BUSY_SECONDS:.0f} s",
                do="wait for it to end, or look for a process that hangs, then run the command again",
            ) from error
        if code in (
            sqlite3.SQLITE_READONLY,
            sqlite3.SQLITE_CANTOPEN,
            sqlite3.SQLITE_PERM,
            sqlite3.SQLITE_IOERR,
        ):
            raise NotWritable(
                f"{path}: {error}",
                expected="a store that this user may read and write, on a medium that is not read-only",
                do="check the mount and the permissions, or copy the store",
            ) from error
        raise
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise StoreDamaged(
                f"{path}: {error}", expected="an intact SQLite catalog", do="restore it from a copy"
            ) from error
        raise


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
        """Insert rows of equal keys; `added_in` is filled in where the table has it.

        Returns
        -------
        list of int
            The rowids, for tables that number their rows.
        """
        ids: list[int] = []
        sums = self._digests.setdefault((self.commit, table), [0, 0])
        versioned = table in _VERSIONED
        text = ""
        for row in rows:
            full = {name: plain(value) for name, value in row.items()}
            if versioned:
                full["added_in"] = self.commit
            if not text:
                names = list(full)
                text = f"INSERT INTO {table} ({', '.join(map(quoted, names))}) VALUES ({', '.join('?' * len(names))})"
            cursor = self._connection.execute(text, list(full.values()))
            if table in _NUMBERED:
                full["id"] = cursor.lastrowid
                ids.append(cursor.lastrowid or 0)
            cursor.close()
            sums[0] += 1
            sums[1] += row_digest(table, {k: v for k, v in full.items() if k not in _UNDIGESTED})
        return ids

    def end(self, table: str, condition: str, values: Sequence[Any]) -> int:
        """End the live rows of a versioned table that fit a condition; returns how many."""
        rows = self._rows(table, f"removed_in IS NULL AND ({condition})", values)
        if rows:
            sums = self._digests.setdefault((self.commit, f"{table}-"), [0, 0])
            sums[0] += len(rows)
            sums[1] += sum(row_digest(table, row) for row in rows)
            self.sql(
                f"UPDATE {table} SET removed_in = ? WHERE removed_in IS NULL AND ({condition})",
                (self.commit, *values),
            )
        return len(rows)

    def fill(self, table: str, condition: str, values: Sequence[Any], changes: Mapping[str, Any]) -> None:
        """Set columns born in this commit, in place; the digests of the rows' own commits follow."""
        before = self._rows(table, condition, values)
        assignments = ", ".join(f"{quoted(name)} = ?" for name in changes)
        self.sql(f"UPDATE {table} SET {assignments} WHERE {condition}", (*map(plain, changes.values()), *values))
        after = self._rows(table, condition, values)
        for sign, rows in ((-1, before), (1, after)):
            for row in rows:
                # The row's own commit is booked by difference: `finish` adds to what is there.
                self._digests.setdefault((row["added_in"], table), [0, 0])[1] += sign * row_digest(table, row)

    def _rows(self, table: str, condition: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        with closing(self._connection.execute(f"SELECT * FROM {table} WHERE {condition}", values)) as cursor:
            names = [column[0] for column in cursor.description]
            return [
                {k: v for k, v in zip(names, row, strict=True) if k not in _UNDIGESTED} for row in cursor.fetchall()
            ]

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
        if not path.is_file() or path.stat().st_size == 0:
            raise NotAStore(
                f"{path.parent} is not a store (no catalog.sqlite in it)",
                expected="a folder made by: vecstore ingest ARCHIVE --store STORE",
            )
        self.writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
        with sqlite_errors(path):
            self._connection = connect(path, "rw" if self.writable else "ro")
            try:
                self._check_format()
            except BaseException:
                self._connection.close()
                raise
        self.meta: dict[str, Any] = dict(self.rows("SELECT name, value FROM meta"))

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

    def last_commit(self) -> int:
        """The number of the newest commit."""
        return int(self.rows("SELECT max(id) FROM commits")[0][0])

    @contextmanager
    def write(
        self, verb: str, arguments: Mapping[str, Any], waiting: Callable[[], None] | None = None
    ) -> Iterator[Transaction]:
        """Begin a commit; it ends with the block, and an exception undoes all of it."""
        if not self.writable:
            raise NotWritable(
                f"{self.path.parent} is on a read-only medium, or this user may not write to it",
                expected="a writable store",
                do="check the mount and the permissions, or copy the store",
            )
        with self._lock, sqlite_errors(self.path):
            self._begin(waiting)
            with _transaction(self._connection, verb, arguments) as transaction:
                yield transaction

    def reserve(self, count: int) -> int:
        """Take a range of content ids that nobody else will be given; returns its first."""
        with self._lock, sqlite_errors(self.path):
            self._begin(None)
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

    def _begin(self, waiting: Callable[[], None] | None) -> None:
        """BEGIN IMMEDIATE; tells `waiting` once if another process is writing."""
        self._connection.execute(f"PRAGMA busy_timeout={500 if waiting else int(BUSY_SECONDS * 1000)}").close()
        try:
            self._connection.execute("BEGIN IMMEDIATE").close()
        except sqlite3.OperationalError as error:
            if waiting is None or getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            waiting()
            self._connection.execute(f"PRAGMA busy_timeout={int(BUSY_SECONDS * 1000)}").close()
            self._connection.execute("BEGIN IMMEDIATE").close()


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
