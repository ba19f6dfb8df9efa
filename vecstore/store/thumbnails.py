"""Thumbnails: a cache beside the catalog, by content hash. It may be deleted at any time."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path


class Thumbnails:
    """JPEG pictures by content hash, in `thumbnails.sqlite`.

    Losing them loses pictures on pages, nothing else: so errors of the cache never end a run, and it
    does without syncing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._lock = threading.RLock()

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self, create: bool) -> sqlite3.Connection | None:
        if self._connection is None and (create or self.path.is_file()):
            if create:
                with suppress(FileExistsError):
                    os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            mode = "rw" if os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK) else "ro"
            self._connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode={mode}",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=10,
            )
            for pragma in ("synchronous=OFF", "temp_store=MEMORY", "secure_delete=ON"):
                self._connection.execute(f"PRAGMA {pragma}").close()
            if create:
                self._connection.execute(
                    "CREATE TABLE IF NOT EXISTS thumbnails"
                    " (hash BLOB PRIMARY KEY, jpeg BLOB NOT NULL) STRICT, WITHOUT ROWID"
                ).close()
        return self._connection

    def put(self, pictures: Mapping[bytes, bytes]) -> None:
        """Keep JPEG bytes by content hash; a cache that can't be written is left as it is."""
        if not pictures:
            return
        with self._lock, suppress(sqlite3.Error, OSError):
            connection = self._open(create=True)
            if connection is not None:
                connection.execute("BEGIN IMMEDIATE").close()
                try:
                    connection.executemany("INSERT OR IGNORE INTO thumbnails VALUES (?, ?)", pictures.items()).close()
                finally:
                    connection.execute("COMMIT").close()

    def get(self, hashes: Sequence[bytes]) -> dict[bytes, bytes]:
        """JPEG bytes of those contents that have a thumbnail."""
        found: dict[bytes, bytes] = {}
        with self._lock, suppress(sqlite3.Error):
            connection = self._open(create=False)
            for content in hashes if connection is not None else ():
                assert connection is not None
                with closing(connection.execute("SELECT jpeg FROM thumbnails WHERE hash = ?", (content,))) as cursor:
                    row = cursor.fetchone()
                if row:
                    found[content] = row[0]
        return found
