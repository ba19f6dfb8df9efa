"""Invariant 1: killed before any step of a commit, the store is exactly old or exactly new."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vecstore.errors import NotAStore
from vecstore.store import Store

if TYPE_CHECKING:
    from tests.store.conftest import Kit

ROOT = Path(__file__).resolve().parents[2]
STEPS = "openat,mkdir,write,pwrite64,fsync,fdatasync,rename,unlink,ftruncate"


class Server:
    """The process that forks children which commit; `run` may put strace on one."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("commit_script.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            bufsize=0,
        )

    def run(self, verb: str, path: Path, *strace: str) -> int:
        """Commit; returns the child's wait status (9: it was killed)."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{verb} {path}\n".encode())
        child = self.process.stdout.readline().decode().strip()
        tracer = None
        if strace:
            command = ["strace", "-y", "-p", child, "-e", f"trace={STEPS}", *strace]
            tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
            assert tracer.stderr is not None
            attached = tracer.stderr.readline()
            assert "attached" in attached, attached + tracer.stderr.read()
        self.process.stdin.write(b".")
        status = int(self.process.stdout.readline().decode().split()[1])
        if tracer is not None:
            tracer.communicate(timeout=30)
        return status

    def steps(self, verb: str, path: Path, trace: Path) -> list[tuple[str, int, str]]:
        """What a commit does to files: (system call, how many of its kind so far, the traced line)."""
        assert self.run(verb, path, "-o", str(trace)) == 0
        counts: dict[str, int] = {}
        found = []
        for line in trace.read_text().splitlines():
            if match := re.match(r"(\w+)\(", line):
                name = match[1]
                counts[name] = counts.get(name, 0) + 1
                if name != "openat" or "O_CREAT" in line:
                    found.append((name, counts[name], line))
        return found

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture
def server(needs: Callable[[str, bool], None]) -> Iterator[Server]:
    needs("trace system calls (strace)", shutil.which("strace") is not None)
    made = Server()
    yield made
    made.close()


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: a killed process loses nothing that it wrote, synced or not."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


@pytest.fixture
def base(memory: Path, kit: Kit) -> Path:
    """A store with one commit of pictures."""
    path = memory / "base.vecs"
    with kit.create(path) as store:
        kit.add(store, ["old.png", "other.png"], metadata=lambda name: {"age": 7})
    return path


def vector_rows(kit: Kit, store: Path) -> tuple[int, int]:
    """Rows in registered shards, and contents."""
    (rows,) = kit.plain(store, "SELECT sum(rows) FROM shards WHERE removed_in IS NULL")
    (contents,) = kit.plain(store, "SELECT count(*) FROM contents")
    return rows[0], contents[0]


def thumbnails(store: Path, kit: Kit) -> int:
    with Store(store) as handle:
        return len(handle.thumbnails.get([row[0] for row in kit.plain(store, "SELECT hash FROM contents")]))


def test_an_append_killed_before_any_step_is_all_or_nothing(memory: Path, kit: Kit, base: Path, server: Server) -> None:
    whole = shutil.copytree(base, memory / "whole.vecs")
    steps = server.steps("append", whole, memory / "trace")
    old, new = kit.dump(base), kit.dump(whole)
    assert len(new["items"]) == 22
    assert old != new
    seen = []
    for name, number, line in steps:
        path = shutil.copytree(base, memory / "killed.vecs")
        assert server.run("append", path, "-e", f"inject={name}:signal=KILL:when={number}", "-o", os.devnull) == 9, line
        state = kit.dump(path)
        assert state in (old, new), line
        kit.check(path)
        seen.append(state == new)
        assert server.run("append", path) == 0
        assert kit.dump(path) == new, line
        kit.check(path)
        assert vector_rows(kit, path) == (22, 22)
        assert thumbnails(path, kit) == 20, line
        shutil.rmtree(path)
    assert len(steps) > 40
    assert seen.index(True) > 30  # old, old, ..., and from the point of no return on new
    assert seen == sorted(seen)


def test_a_creation_killed_before_any_step_can_be_repeated(memory: Path, kit: Kit, server: Server) -> None:
    steps = server.steps("create", memory / "whole.vecs", memory / "trace")
    created = 0
    for name, number, line in steps:
        path = memory / "killed.vecs"
        assert server.run("create", path, "-e", f"inject={name}:signal=KILL:when={number}", "-o", os.devnull) == 9, line
        try:
            Store(path).close()
            created += 1
        except NotAStore:
            Store.create(path).close()
        assert kit.dump(path) == kit.dump(memory / "whole.vecs"), line
        kit.check(path)
        shutil.rmtree(path)
    assert len(steps) > 10
    assert 0 < created < len(steps)


def test_a_shard_and_its_folder_are_synced_before_the_catalog_is_written(
    memory: Path, kit: Kit, base: Path, server: Server
) -> None:
    lines = [line for _, _, line in server.steps("append", base, memory / "trace")]

    def first(pattern: str, start: int = 0) -> int:
        return next(i for i in range(start, len(lines)) if re.search(pattern, lines[i]))

    written = first(r"write\(\d+<[^>]*/shards/1/tmp-")
    synced = first(r"fsync\(\d+<[^>]*/shards/1/tmp-", written)
    renamed = first(r"rename\(.*/shards/1/tmp-.*\.parquet", synced)
    folder = first(r"fsync\(\d+<[^>]*/shards/1>", renamed)
    journal = first(r"openat\(.*catalog\.sqlite-journal", renamed)
    pages = first(r"pwrite64\(\d+<[^>]*/catalog\.sqlite>", journal)
    unlinked = first(r"unlink\(.*catalog\.sqlite-journal", pages)
    after = first(r"(fsync|fdatasync)\(\d+<[^>]*base\.vecs>", unlinked)
    assert written < synced < renamed < folder < journal < pages < unlinked < after


def test_a_temporary_file_of_a_killed_commit_is_swept_after_a_day(
    memory: Path, kit: Kit, base: Path, server: Server
) -> None:
    copy = shutil.copytree(base, memory / "copy.vecs")
    steps = server.steps("append", copy, memory / "trace")
    name, number, _ = next(step for step in steps if step[0] == "rename")
    server.run("append", base, "-e", f"inject={name}:signal=KILL:when={number}", "-o", os.devnull)
    left = [entry for entry in (base / "shards" / "1").iterdir() if entry.name.startswith("tmp-")]
    assert len(left) == 1
    with Store(base) as store:
        assert store.sweep() == 0
        os.utime(left[0], (0, 0))
        assert store.sweep() == 1
    before: dict[str, Any] = kit.dump(base)
    assert not left[0].exists()
    assert len(before["items"]) == 2
