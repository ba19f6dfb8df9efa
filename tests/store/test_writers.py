"""Several writers and readers at once."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from vecstore.errors import StoreBusy
from vecstore.store import Store
from vecstore.store import append as appending
from vecstore.store import catalog as catalogs
from vecstore.store.catalog import connect
from vecstore.store.shards import read_column, write_shard

if TYPE_CHECKING:
    from tests.store.conftest import Kit

ROOT = Path(__file__).resolve().parents[2]


def before_the_first_write(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> list[str]:
    """Run `act` between the reservation of ids and the first shard; returns the names of shards as they are written."""
    real, names, pending = write_shard, list[str](), [act]

    def write(folder: Path, *rest: Any) -> Any:
        if pending:
            pending.pop()()
        shard = real(folder, *rest)
        names.append(f"{shard.sha256.hex()}.parquet")
        return shard

    monkeypatch.setattr(appending, "write_shard", write)
    return names


def test_who_commits_a_content_second_rewrites_its_shard_with_the_firsts_ids(
    store: Store, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(store.path) as other:
        names = before_the_first_write(monkeypatch, lambda: kit.add(other, ["x", "shared"], source="o"))
        counts = kit.add(store, ["shared", "mine"])
    assert counts == {"source": "archive", "added": 2, "failed": 0, "embedded": 2}
    ids = dict(kit.plain(store.path, "SELECT hash, id FROM contents"))
    # The second had reserved 1 and 2 for itself; what it kept of its range is only what is its own.
    assert sorted(ids.values()) == [3, 4, 5]
    assert ids[kit.hash("x")], ids[kit.hash("shared")] == (3, 4)
    space = store.space()
    on_disk = {path.name for path in (store.path / "shards" / "1").iterdir()}
    assert len(names) == 3  # the other's, the first attempt, and what was written again
    assert on_disk == {names[0], names[2]}
    shards = [store.rows("SELECT first, last FROM shards WHERE id = :id", id=row.id)[0] for row in store.shards(space)]
    assert shards == [(3, 4), (4, 5)]
    kit.check(store.path)
    for item in store.items().contents.tolist():
        content = store.rows("SELECT hash FROM contents WHERE id = :id", id=item)[0][0]
        expected = kit.vector(content).astype(np.float16).astype(np.float32)
        assert store.vectors(space, np.array([item]))[0].tobytes() == expected.tobytes()


def test_every_row_of_a_registered_shard_has_content_and_hash_as_the_catalog(
    store: Store, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(store.path) as other:
        before_the_first_write(monkeypatch, lambda: kit.add(other, ["a", "b"]))
        kit.add(store, ["b", "c", "a", "d"])
    known = dict(kit.plain(store.path, "SELECT id, hash FROM contents"))
    space = store.space()
    for shard in store.shards(space):
        path = store.shard_path(space, shard.sha256)
        columns = [
            read_column(path, name, space.dim, shard.rows, shard.bytes).to_pylist() for name in ("content", "hash")
        ]
        assert [known[content] for content in columns[0]] == columns[1]
        assert columns[0] == sorted(columns[0])


def test_a_shard_that_two_processes_wrote_alike_is_not_taken_from_the_other(
    store: Store, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same contents, same vectors: one file. Who fails must not remove what the other registers."""
    kit.add(store, ["a"])
    store.add_space("second", kit.passport("second"), {})
    second = store.space("second")
    batch = kit.batch([second], ["a"])
    with Store(store.path) as other:

        def register() -> None:
            appending.append(other, kit.batch([second], ["a"]), {second.id: second}, {})

        before_the_first_write(monkeypatch, register)
        batch.described[999] = {"new": 1}  # no such item: this commit fails
        with pytest.raises(Exception, match="FOREIGN KEY"):
            appending.append(store, batch, {second.id: second}, {})
    assert store.refresh().vectors(second, np.array([1])).shape == (1, 16)
    assert [row.rows for row in store.shards(second)] == [1]


def test_a_shard_that_was_swept_before_it_was_registered_is_written_again(
    store: Store, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, swept = write_shard, list[Path]()

    def write(folder: Path, *rest: Any) -> Any:
        shard = real(folder, *rest)
        if not swept:
            swept.append(folder / f"{shard.sha256.hex()}.parquet")
            swept[0].unlink()
        return shard

    monkeypatch.setattr(appending, "write_shard", write)
    kit.add(store, ["a"])
    assert len(swept) == 1
    assert store.vectors(store.space(), np.array([2])).shape == (1, 16)


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import Kit
from vecstore.store import Store
kit, offset = Kit(), int(sys.argv[3])
with Store(sys.argv[2]) as store:
    for batch in range(20):
        names = [f"{i}.png" for i in range(batch * 8 + offset, batch * 8 + offset + 16)]
        kit.add(store, names, source=f"s{offset}", metadata=lambda name: {"n": int(name[:-4]), f"only{offset}": 1})
"""


def test_two_processes_that_append_at_once_end_with_everything_right(store: Store, kit: Kit) -> None:
    command = [sys.executable, "-c", WRITER, str(Path(__file__).parent), str(store.path)]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    writers = [subprocess.Popen([*command, str(offset)], env=environment) for offset in (0, 4)]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    kit.check(store.path)
    items = store.refresh().items()
    expected = [(f"s{offset}", f"{i}.png") for offset in (0, 4) for i in range(offset, offset + 168)]
    assert sorted(zip(items.sources, items.locators, strict=True)) == sorted(expected)
    space = store.space()
    hashes = store.hashes_of(items.ids.tolist())
    assert {name: hashes[i] for i, name in zip(items.ids.tolist(), items.locators, strict=True)} == {
        name: kit.hash(name) for name in items.locators
    }
    contents = np.unique(items.contents)
    assert np.array_equal(store.embedded(space), contents)
    assert len(contents) == 172
    vectors = store.vectors(space, items.contents)
    expected_vectors = np.stack([kit.vector(kit.hash(name)) for name in items.locators]).astype(np.float16)
    assert vectors.tobytes() == expected_vectors.astype(np.float32).tobytes()
    assert {name: int(name[:-4]) for name in items.locators} == {
        name: store.column("n")[i] for i, name in zip(items.ids.tolist(), items.locators, strict=True)
    }
    assert [entry["commit"] for entry in store.log()] == list(range(1, 43))


def test_two_processes_that_make_one_store_at_once_make_one(tmp_path: Path) -> None:
    script = (
        "import sys; from vecstore.store import Store; s = Store.create(sys.argv[1]); print(s.catalog.meta['store_id'])"
    )
    for attempt in range(3):
        path = tmp_path / f"{attempt}.vecs"
        command = [sys.executable, "-c", script, str(path)]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        makers = [subprocess.Popen(command, env={"PYTHONPATH": str(ROOT)}, **pipes) for _ in range(2)]
        outputs = [maker.communicate(timeout=60) for maker in makers]
        with Store(path) as store:
            made = {out.strip() for out, _ in outputs} - {""}
            assert made == {store.catalog.meta["store_id"]}
            assert store.log()[0]["verb"] == "create"
            assert len(store.log()) == 1
        for _, error in outputs:
            assert not error or "exists already" in error


# Waiting


def test_a_writer_that_waits_says_so_and_then_goes_on(store: Store, kit: Kit) -> None:
    holder = connect(store.catalog.path, "rw")
    holder.execute("BEGIN IMMEDIATE")
    release = threading.Timer(1.2, lambda: holder.execute("ROLLBACK"))
    release.start()
    said: list[float] = []
    started = time.monotonic()
    batch = kit.batch(store.spaces(), ["a"])
    spaces = {space.id: space for space in store.spaces()}
    appending.append(store, batch, spaces, {}, lambda: said.append(time.monotonic() - started))
    release.join()
    holder.close()
    assert len(said) == 1
    assert 0.4 < said[0] < 1.1
    assert store.items().locators == ["a"]


def test_a_lock_that_is_not_given_back_is_an_error_that_says_how_long(
    store: Store, kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogs, "BUSY_SECONDS", 0.3)
    with closing(connect(store.catalog.path, "rw")) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(
            StoreBusy,
            match="another process has held the catalog for 0 s; expected it to finish sooner; wait for it to end, or",
        ):
            kit.add(store, ["a"])
        holder.execute("ROLLBACK")
    kit.add(store, ["a"])
    assert store.items().locators == ["a"]


def test_a_writer_waits_for_a_reader_with_the_same_patience_at_the_end(store: Store) -> None:
    """The short time-out, after which a writer says that it waits, must not be that of its COMMIT."""
    reader = connect(store.catalog.path, "ro")
    held = reader.execute("SELECT * FROM commits")
    held.fetchone()
    release = threading.Timer(1.2, held.close)
    release.start()
    started = time.monotonic()
    with store.write("test", {}, lambda: None) as tx:
        tx.counts["x"] = 1
    assert 0.8 < time.monotonic() - started < 10
    release.join()
    reader.close()


def test_readers_that_fetch_and_close_do_not_keep_a_writer_waiting(store: Store, kit: Kit) -> None:
    kit.add(store, [f"{i}" for i in range(200)], metadata=lambda name: {"n": int(name)})
    stop = threading.Event()
    reads: list[int] = []

    def read() -> None:
        with Store(store.path) as reader:
            while not stop.is_set():
                items = reader.refresh().items("n >= 0")
                reader.vectors(reader.space(), items.contents)
                reads.append(len(items))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    started = time.monotonic()
    for i in range(10):
        kit.add(store, [f"{1000 + i}"], metadata=lambda name: {"n": int(name)})
    seconds = time.monotonic() - started
    stop.set()
    for reader in readers:
        reader.join()
    assert seconds < 10
    assert len(reads) > 2
    assert set(reads) <= set(range(200, 211))


def test_a_handle_holds_no_lock_between_calls(store: Store, kit: Kit) -> None:
    kit.add(store, ["a"])
    store.items()
    store.select("item > 0")
    store.vectors(store.space(), np.array([1]))
    with closing(connect(store.catalog.path, "rw")) as other:
        other.execute("PRAGMA busy_timeout=0")
        other.execute("BEGIN EXCLUSIVE")
        other.execute("ROLLBACK")
