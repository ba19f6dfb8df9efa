"""What the store's tests share: batches of made-up pictures, and a second opinion on what a store holds."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vecstore.records import FloatArray, Passport, Value
from vecstore.store import Space, Store
from vecstore.store.append import Batch, Picture, Refusal, append

DIM = 16
BY_ADDED = ("states", "columns", "metadata", "spaces", "shards", "tasks", "models")
ENDING = ("states", "metadata", "shards", "tasks", "models")

Sums = dict[tuple[int, str], tuple[int, int]]


class Kit:
    """Makes batches and reads stores without the code under test where that is possible."""

    def passport(self, name: str = "fake", dim: int = DIM) -> Passport:
        return Passport(f"fake:{name}", "vecstore", name, "none", "", "", (8, 8), "squash", (0.5,), (1.0,), "none", dim)

    def hash(self, name: str, version: int = 0) -> bytes:
        return hashlib.md5(f"{name}/{version}".encode()).digest()

    def vector(self, content: bytes, dim: int = DIM) -> FloatArray:
        """The unit vector of a content, the same in every process."""
        raw = np.frombuffer(hashlib.shake_128(content).digest(4 * dim), "<u4").astype(np.float64) - 2**31
        return (raw / np.linalg.norm(raw)).astype(np.float32)

    def batch(
        self,
        spaces: Sequence[Space],
        names: Iterable[str],
        *,
        source: str = "archive",
        version: int = 0,
        metadata: Callable[[str], Mapping[str, Value]] = lambda name: {},
        contents: Mapping[str, str] | None = None,
        failing: Iterable[str] = (),
        thumbnails: bool = False,
    ) -> Batch:
        """Pictures of some names; `contents` says which name's content a name has, its own by default."""
        batch = Batch(source, "folder")
        for name in names:
            content = self.hash((contents or {}).get(name, name), version)
            file_sha256 = hashlib.sha256(f"{name}/{version}".encode()).digest()
            batch.pictures.append(
                Picture(name, 10, version, file_sha256, "Pillow 1", content, 28, 27, dict(metadata(name)))
            )
        batch.refusals += [Refusal(name, 10, version, "decode", "cannot identify it") for name in failing]
        hashes = list(dict.fromkeys(picture.hash for picture in batch.pictures))
        for space in spaces:
            vectors = np.array([self.vector(h, space.dim) for h in hashes], np.float16).reshape(-1, space.dim)
            batch.vectors[space.id] = (hashes, vectors)
        if thumbnails:
            batch.thumbnails |= {h: b"\xff\xd8" + h * 20 for h in hashes}
        return batch

    def add(self, store: Store, names: Iterable[str], **options: Any) -> dict[str, int]:
        """Append pictures to every space of a store."""
        spaces = store.refresh().spaces()
        batch = self.batch(spaces, names, **options)
        return append(store, batch, {space.id: space for space in spaces}, {"source": batch.source})

    def create(self, path: Path, *spaces: str) -> Store:
        store = Store.create(path)
        for name in spaces or ("fake",):
            store.add_space(name, self.passport(name), {})
        return store

    def plain(self, store: Path, text: str, *values: Any) -> list[tuple[Any, ...]]:
        """A query by Python's own module, as anybody would ask it."""
        with closing(sqlite3.connect(store / "catalog.sqlite")) as connection, connection:
            return connection.execute(text, values).fetchall()

    def booked(self, store: Path) -> Sums:
        """The digests as they stand in the catalog."""
        rows = self.plain(store, "SELECT commit_id, name, rows, sum FROM digests")
        return {(commit, name): (n, total) for commit, name, n, total in rows}

    def recomputed(self, store: Path) -> tuple[Sums, dict[str, tuple[int, int]]]:
        """The digests as the rows have them: by commit, and for tables without a commit in total."""
        by_commit: dict[tuple[int, str], list[int]] = {}
        totals: dict[str, tuple[int, int]] = {}
        for table in BY_ADDED:
            for row in self._records(store, table):
                ended = row.pop("removed_in", None)
                _count(by_commit, (row["added_in"], table), _digest(table, row))
                if ended is not None:
                    _count(by_commit, (ended, f"{table}-"), _digest(table, row))
        for table, parent, key in (("labels", "tasks", "task"), ("seen", "models", "model")):
            born = dict(self.plain(store, f"SELECT id, added_in FROM {parent}"))
            for row in self._records(store, table):
                _count(by_commit, (born[row[key]], table), _digest(table, row))
        for row in self._records(store, "commits"):
            _count(by_commit, (row["id"], "commits"), _digest("commits", row))
        for table, hidden in (("items", ("size", "mtime_ns")), ("contents", ()), ("sources", ())):
            digests = [
                _digest(table, {k: v for k, v in row.items() if k not in hidden}) for row in self._records(store, table)
            ]
            totals[table] = (len(digests), sum(digests) % 2**64)
        return {key: (rows, _signed(total)) for key, (rows, total) in by_commit.items()}, totals

    def disagreements(self, store: Path) -> list[str]:
        """Where the digests in the catalog and those of the rows differ: "table of commit 3"."""
        booked, (by_commit, totals) = self.booked(store), self.recomputed(store)
        found = []
        for commit, name in booked.keys() | by_commit.keys():
            if name not in totals and booked.get((commit, name), (0, 0)) != by_commit.get((commit, name), (0, 0)):
                found.append(f"{name} of commit {commit}")
        for name, expected in totals.items():
            mine = [value for (_, table), value in booked.items() if table == name]
            if (sum(n for n, _ in mine), sum(total for _, total in mine) % 2**64) != expected:
                found.append(name)
        return sorted(found)

    def _records(self, store: Path, table: str) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(store / "catalog.sqlite")) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(f"SELECT * FROM {table}")]

    def dump(self, store: Path, at: int | None = None) -> dict[str, Any]:
        """All that the public interface tells of a store; contents by hash, because ids may be skipped."""
        with Store(store, at) as handle:
            items = handle.items()
            hashes = handle.hashes_of(items.ids.tolist())
            metadata, labels = handle.metadata(items.ids.tolist()), handle.labels_of(items.ids.tolist())
            vectors = {}
            for space in handle.spaces():
                embedded = handle.embedded(space)
                by_id = dict(handle.rows("SELECT id, hash FROM contents"))
                rows = handle.vectors(space, embedded)
                vectors[space.name] = {by_id[i]: row.tobytes() for i, row in zip(embedded.tolist(), rows, strict=True)}
            return {
                "items": {
                    (source, locator): (hashes[item], metadata.get(item), labels.get(item))
                    for item, source, locator in zip(items.ids.tolist(), items.sources, items.locators, strict=True)
                },
                "vectors": vectors,
                "failures": [{k: v for k, v in row.items() if k != "commit"} for row in handle.failures()],
                "tasks": [(task.name, task.kind, task.classes) for task in handle.tasks()],
                "columns": handle.columns(),
                "models": [model.record for model in handle.models()],
            }

    def check(self, store: Path) -> None:
        """Every invariant that can be looked at from outside."""
        assert self.plain(store, "PRAGMA integrity_check") == [("ok",)]
        assert self.plain(store, "PRAGMA foreign_key_check") == []
        assert self.disagreements(store) == []
        for space, sha256, rows, size in self.plain(store, "SELECT space, sha256, rows, bytes FROM shards"):
            data = (store / "shards" / str(space) / f"{sha256.hex()}.parquet").read_bytes()
            assert (hashlib.sha256(data).digest(), len(data)) == (sha256, size)
            assert rows > 0
        next_content = self.plain(store, "SELECT value FROM meta WHERE name = 'next_content'")[0][0]
        assert self.plain(store, "SELECT ifnull(max(id), 0) FROM contents")[0][0] < next_content


def _digest(table: str, row: Mapping[str, Any]) -> int:
    named = {name: row[name].hex() if isinstance(row[name], bytes) else row[name] for name in sorted(row)}
    there = {name: value for name, value in named.items() if value is not None}
    text = json.dumps([table, there], ensure_ascii=False, separators=(",", ":"))
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


def _count(sums: dict[tuple[int, str], list[int]], key: tuple[int, str], digest: int) -> None:
    rows = sums.setdefault(key, [0, 0])
    rows[0] += 1
    rows[1] += digest


def _signed(total: int) -> int:
    return (total + 2**63) % 2**64 - 2**63


@pytest.fixture(scope="session")
def kit() -> Kit:
    return Kit()


@pytest.fixture
def store(tmp_path: Path, kit: Kit) -> Iterable[Store]:
    """An empty store with one space."""
    with kit.create(tmp_path / "a.vecs") as made:
        yield made


@pytest.fixture
def needs() -> Callable[[str, bool], None]:
    """Skip with a reason where this machine can't do something; fail where CI is to do it."""

    def ensure(what: str, possible: bool) -> None:
        if not possible and os.environ.get("CI"):
            pytest.fail(f"CI must be able to: {what}")
        if not possible:
            pytest.skip(f"this machine can't: {what}")

    return ensure


@pytest.fixture
def in_namespace(needs: Callable[[str, bool], None]) -> Callable[[str], subprocess.CompletedProcess[str]]:
    """Run a shell script that may mount: in a mount namespace of its own, so nothing is left behind."""
    flags = ["-m"] if os.geteuid() == 0 else ["-rm"]
    probe = ["unshare", *flags, "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    possible = shutil.which("unshare") is not None and subprocess.run(probe, capture_output=True).returncode == 0
    needs("mount inside a namespace (unshare -m)", possible)

    def run(script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["unshare", *flags, "sh", "-ec", script], capture_output=True, text=True, timeout=120)

    return run
