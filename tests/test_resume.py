"""Killed, starved of space, or two at once: run again, everything converges."""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vecstore.errors import NotAStore
from vecstore.ingest import ingest
from vecstore.store import Store

COMMIT = 60
_SCRIPT = """
import importlib, os, sys
ingesting = importlib.import_module("vecstore.ingest")
encoders = importlib.import_module("vecstore.encoders.base")
store, archive, encoder, commit, counted = sys.argv[1:6]
ingesting.COMMIT_PICTURES = int(commit)
real = ingesting.open_encoder

class Counting(encoders.Encoder):
    "Says in a file how many pictures it was given, even if it is killed then."
    def __init__(self, name, **options):
        self.inner = real(name, **options)
        self.passport, self.compute, self.batch_size = self.inner.passport, self.inner.compute, 8
    def prepare(self, picture):
        return self.inner.prepare(picture)
    def encode(self, prepared):
        with open(counted, "a") as file:
            file.write("x" * len(prepared))
        return self.inner.encode(prepared)

ingesting.open_encoder = Counting
print("ready", flush=True)
sys.stdin.readline()
result = ingesting.ingest(store, archive, encoder=encoder)
print(result.added, result.present, result.failed, result.failed_before, result.embedded, flush=True)
"""
AHEAD = COMMIT + 8 + 2 * len(os.sched_getaffinity(0)) + 8
"""Pictures that can have been encoded but not committed: a batch of the commit, and what is in flight."""


def _started(store: Path, archive: Path, encoder: str = "fake", commit: int = COMMIT) -> subprocess.Popen[str]:
    """A process that has imported everything and waits for a line."""
    command = [sys.executable, "-c", _SCRIPT, str(store), str(archive), encoder, str(commit), f"{store}.count"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def _go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _finish(process: subprocess.Popen[str]) -> list[int]:
    """Wait; what the run counted."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return [int(word) for word in out.split()]


def _encoded(store: Path) -> int:
    return len(Path(f"{store}.count").read_text())


def _fill(folder: Path, n: int, seed: int = 0) -> Path:
    """Pictures, every tenth a copy of the one before, and a few that can't be decoded."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for i in range(n):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(out, "PNG", compress_level=1)
        if i % 10 != 9:
            data = out.getvalue()
        target = folder / f"{i:05d}.png"
        target.write_bytes(data[:50] if i % 97 == 5 else data)
        os.utime(target, (1_700_000_000, 1_700_000_000))
    return folder


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,500 pictures."""
    return _fill(tmp_path_factory.mktemp("resume") / "archive", 1500)


@pytest.fixture(scope="module")
def uninterrupted(archive: Path) -> dict[str, Any]:
    """What a store of the archive holds that nobody disturbed."""
    store = archive.parent / "whole.vecs"
    ingest(store, archive, encoder="fake")
    return _held(store)


def _held(path: Path) -> dict[str, Any]:
    """All that a store says, without its numbers; and that it is sound."""
    with closing(sqlite3.connect(path / "catalog.sqlite")) as catalog:
        assert catalog.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert catalog.execute("PRAGMA foreign_key_check").fetchall() == []
    with Store(path) as store:
        items = store.items()
        hashes = store.hashes_of(items.ids.tolist())
        space = store.space()
        files = store.rows("SELECT i.locator, s.file_sha256, s.removed_in FROM states s JOIN items i ON i.id = s.item")
        return {
            "items": {
                (s, n): hashes[i] for s, n, i in zip(items.sources, items.locators, items.ids.tolist(), strict=True)
            },
            "files": sorted(files),
            "contents": sorted(h for (h,) in store.rows("SELECT hash FROM contents")),
            "vectors": {
                hashes[i]: row.tobytes()
                for i, row in zip(items.ids.tolist(), store.vectors(space, items.contents), strict=True)
            },
            "failures": [(f["locator"], f["stage"], f["reason"], f["attempts"]) for f in store.failures()],
        }


def _rows(path: Path) -> tuple[int, int]:
    """Vectors in registered shards, and contents."""
    with Store(path) as store:
        ((contents,),) = store.rows("SELECT count(*) FROM contents")
        return sum(shard.rows for shard in store.shards(store.space())), contents


# Killed


def test_twenty_kills_and_a_last_run_give_the_store_of_an_undisturbed_run(
    archive: Path, uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    store = tmp_path / "x.vecs"
    delays = random.Random(4)
    killed, made = 0, False
    for _ in range(20):
        process = _started(store, archive)
        _go(process)
        time.sleep(delays.uniform(0.0, 0.25))
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        try:
            opened_store = Store(store)
        except NotAStore:
            assert not made  # only while the store itself is being made: the next run makes it
            continue
        made = True
        with opened_store as opened:
            if opened.spaces():  # every commit is whole: no item without its vector
                opened.vectors(opened.space(), opened.items().contents)
    process = _started(store, archive)
    _go(process)
    _finish(process)
    assert killed >= 10
    assert _held(store) == uninterrupted
    rows, contents = _rows(store)
    assert rows == contents
    assert contents <= _encoded(store) <= contents + killed * AHEAD
    last = _started(store, archive)
    _go(last)
    _, present, _, failed_before, embedded = _finish(last)
    assert (present + failed_before, embedded) == (1500, 0)


def test_an_interrupt_ends_with_130_and_a_hint(archive: Path, tmp_path: Path) -> None:
    code = "import sys; from vecstore_cli.main import cli; cli()"
    command = [
        sys.executable,
        "-c",
        code,
        "ingest",
        str(archive),
        "--store",
        str(tmp_path / "x.vecs"),
        "--encoder",
        "fake",
    ]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1] / "cli")}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    while not (tmp_path / "x.vecs" / "catalog.sqlite").exists() and process.poll() is None:
        time.sleep(0.005)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "Error: interrupted; what was committed stays, run it again to go on"
    assert out == ""


def test_two_kills_with_the_bundled_network(tmp_path: Path) -> None:
    if importlib.util.find_spec("vecstore.encoders.bundled") is None:
        pytest.skip("the bundled encoder is not there yet")
    archive = _fill(tmp_path / "archive", 40, seed=3)
    whole = tmp_path / "whole.vecs"
    ingest(whole, archive, encoder="bundled")
    store = tmp_path / "x.vecs"
    killed = 0
    for wanted in (1, 12):
        process = _started(store, archive, "bundled", commit=8)
        _go(process)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            if Path(f"{store}.count").exists() and _encoded(store) >= wanted:
                break
            time.sleep(0.01)
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = _started(store, archive, "bundled", commit=8)
    _go(process)
    _finish(process)
    assert killed == 2
    found, expected = _held(store), _held(whole)
    assert found.pop("vectors").keys() == expected.pop("vectors").keys()
    assert found == expected
    rows, contents = _rows(store)
    assert rows == contents
    with Store(store) as one, Store(whole) as other:
        a, b = (s.vectors(s.space(), s.items().contents) for s in (one, other))
        order = [np.argsort(np.asarray(s.items().locators)) for s in (one, other)]
        assert float(np.einsum("ij,ij->i", a[order[0]], b[order[1]]).min()) > 0.999


# Two at once


def test_two_ingests_of_one_archive_at_once_converge(
    archive: Path, uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    store = tmp_path / "x.vecs"
    both = [_started(store, archive) for _ in range(2)]
    for process in both:
        _go(process)
    results = [_finish(process) for process in both]
    assert _held(store) == uninterrupted | {"failures": _held(store)["failures"]}
    assert {f[:3] for f in _held(store)["failures"]} == {f[:3] for f in uninterrupted["failures"]}
    assert sum(result[0] for result in results) == len(uninterrupted["items"])
    rows, contents = _rows(store)
    assert contents <= rows <= 2 * contents


def test_two_ingests_of_two_archives_at_once_share_their_contents(
    archive: Path, uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(archive, other)
    _fill(other / "more", 200, seed=9)
    store = tmp_path / "x.vecs"
    both = [_started(store, place) for place in (archive, other)]
    for process in both:
        _go(process)
    results = [_finish(process) for process in both]
    held = _held(store)
    assert results[0][0] == len(uninterrupted["items"])
    mine = {name: content for (source, name), content in held["items"].items() if source == "archive"}
    assert mine == {name: content for (_, name), content in uninterrupted["items"].items()}
    theirs = {name for source, name in held["items"] if source == "other"}
    assert mine.keys() < theirs
    assert uninterrupted["vectors"].items() <= held["vectors"].items()
    assert len(held["contents"]) == len(set(held["contents"])) == len(held["vectors"])


def test_a_writer_that_waits_for_another_says_so(archive: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for i in range(3):
        shutil.copy2(archive / f"{i:05d}.png", few)
    store = tmp_path / "x.vecs"
    Store.create(store).close()
    with closing(sqlite3.connect(store / "catalog.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        process = _started(store, few)
        _go(process)
        time.sleep(1.0)
        assert process.poll() is None
        other.execute("COMMIT")
    assert _finish(process)[0] == 3


# No space


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte; grown by `mount -o remount,size=…`."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small file system; the test with failing system calls covers it")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _cli(*arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "-c", "from vecstore_cli.main import cli; cli()", *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1] / "cli")}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=120)


def test_a_full_disk_leaves_the_last_commit_and_a_retry_converges(
    small_disk: Path, archive: Path, tmp_path: Path
) -> None:
    growing = tmp_path / "growing"
    growing.mkdir()
    for i in range(40):
        shutil.copy2(archive / f"{i:05d}.png", growing)
    store = small_disk / "x.vecs"
    arguments = ("ingest", str(growing), "--store", str(store), "--encoder", "fake:1024", "--no-thumbnails")
    assert _cli(*arguments).returncode == 3  # one of them is cut short
    before = _held(store)
    for i in range(40, 1000):
        shutil.copy2(archive / f"{i:05d}.png", growing)
    full = _cli(*arguments)
    assert full.returncode == 1
    assert "no space left on the device; free some space and run the command again" in full.stderr
    assert "Traceback" not in full.stderr
    assert _held(store) == before
    assert [p.name for p in store.rglob("*") if p.name.startswith("tmp-")] == []
    subprocess.run(["mount", "-o", "remount,size=60m", str(small_disk)], check=True)
    assert _cli(*arguments).returncode == 3
    whole = tmp_path / "whole.vecs"
    ingest(whole, growing, encoder="fake:1024")
    assert _held(store) == _held(whole)


def test_a_catalog_that_can_not_be_written_says_so_and_stays(archive: Path, tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        if os.environ.get("CI"):
            pytest.fail("strace is needed")
        pytest.skip("strace is not installed")
    few = tmp_path / "few"
    few.mkdir()
    for i in range(4):
        shutil.copy2(archive / f"{i:05d}.png", few)
    store = tmp_path / "x.vecs"
    arguments = ("ingest", str(few), "--store", str(store), "--encoder", "fake", "--no-thumbnails")
    assert _cli(*arguments).returncode == 0
    before = _held(store)
    shutil.copy2(archive / "00004.png", few)
    # Only SQLite writes with pwrite64: the first to fail are those of the journal.
    inject = ("strace", "-f", "-qq", "-o", os.devnull, "-e", "inject=pwrite64:error=ENOSPC")
    full = _cli(*arguments, before=inject)
    assert full.returncode == 1, full.stderr
    assert "no space left on the device; free some space" in full.stderr
    assert _held(store) == before
    assert _cli(*arguments).returncode == 0
    assert len(_held(store)["items"]) == 5


def test_the_module_says_how_often_it_commits() -> None:
    ingesting = importlib.import_module("vecstore.ingest")
    assert (ingesting.COMMIT_PICTURES, ingesting.FIRST_SECONDS, ingesting.COMMIT_SECONDS) == (4096, 5.0, 30.0)
