"""Private modes, read-only media, full disks and paths that are hard to write down."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vecstore.store import Label, Store

if TYPE_CHECKING:
    from tests.store.conftest import Kit

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
Namespace = Callable[[str], "subprocess.CompletedProcess[str]"]

PRELUDE = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(HERE)!r}]
from conftest import Kit
from vecstore.errors import VecstoreError
from vecstore.store import Store
kit = Kit()
def attempt(act):
    try:
        act()
    except VecstoreError as error:
        print(type(error).__name__, error.exit_code, error)
    else:
        print("done")
"""


def python(script: str, *arguments: object) -> str:
    """A shell command that runs a script after the prelude."""
    file = Path(str(arguments[0])).parent / "script.py"
    file.write_text(PRELUDE + script)
    quoted = " ".join(f"'{argument}'" for argument in arguments)
    return f"'{sys.executable}' '{file}' {quoted}"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777 & ~0o700])
def test_files_are_0600_and_folders_0700_whatever_the_umask(tmp_path: Path, kit: Kit, umask: int) -> None:
    before = os.umask(umask)
    try:
        with kit.create(tmp_path / "a.vecs") as store:
            kit.add(store, ["a", "b"], thumbnails=True)
            task = store.add_task("t", "binary", ["n", "y"], [Label(1, "y", 1.0, None)], {})
            store.add_model(task, store.space(), {"m.json": b"{}"}, {}, np.array([1]))
    finally:
        os.umask(before)
    found = {
        str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode)
        for path in [tmp_path / "a.vecs", *(tmp_path / "a.vecs").rglob("*")]
    }
    assert len(found) == 9
    assert set(found) >= {"a.vecs", "a.vecs/catalog.sqlite", "a.vecs/thumbnails.sqlite", "a.vecs/shards/1"}
    for name, mode in found.items():
        assert mode == (0o700 if (tmp_path / name).is_dir() else 0o600), f"{name} has mode {mode:o}"


def test_a_read_only_medium_is_read_and_not_written(store: Store, kit: Kit, in_namespace: Namespace) -> None:
    kit.add(store, ["a", "b"], metadata=lambda name: {"age": 60}, thumbnails=True)
    store.close()
    before = {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
    script = """
path = sys.argv[1]
with Store(path) as store:
    print(len(store.items("age = 60")), store.vectors(store.space(), store.items().contents).shape)
    print(len(store.thumbnails.get([kit.hash("a")])), store.sweep())
    attempt(lambda: kit.add(store, ["c"]))
    attempt(lambda: store.add_space("x", kit.passport("x"), {}))
attempt(lambda: Store.create(path + "/inner"))
"""
    read_only = f"mount --bind '{store.path}' '{store.path}'; mount -o remount,bind,ro '{store.path}'"
    result = in_namespace(f"{read_only}; {python(script, store.path)}")
    lines = result.stdout.splitlines()
    assert lines[:2] == ["2 (2, 16)", "1 0"], result.stderr
    assert len(lines) == 5
    for line in lines[2:4]:
        assert line.startswith("NotWritable 1 "), line
        assert "read-only medium" in line
        assert line.endswith("expected a writable store; check the mount and the permissions, or copy the store")
    assert lines[4].startswith("NotWritable 1 ")
    assert {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()} == before


FULL = """
import os, shutil
folder, room = sys.argv[1], int(sys.argv[2])
path = folder + "/a.vecs"
store = kit.create(__import__("pathlib").Path(path))
kit.add(store, ["old"], metadata=lambda name: {"age": 1})
space = store.space()
before = kit.dump(store.path)
free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
with open(folder + "/ballast", "wb") as ballast:
    ballast.write(b"x" * max(0, free - room))
names = [f"{i}.png" for i in range(2000)]
attempt(lambda: kit.add(store, names, metadata=lambda name: {"note": name * 20}))
print(kit.dump(store.path) == before, len(list(store.path.glob("shards/1/*"))))
os.unlink(folder + "/ballast")
attempt(lambda: kit.add(store, names, metadata=lambda name: {"note": name * 20}))
kit.check(store.path)
print(len(kit.dump(store.path)["items"]), len(list(store.path.glob("shards/1/*"))))
"""


@pytest.mark.parametrize("room", [0, 20_000, 80_000, 160_000, 300_000, 600_000])
def test_a_full_disk_leaves_the_store_as_it_was(tmp_path: Path, in_namespace: Namespace, room: int) -> None:
    """Room for nothing, for a part of the shard, for the shard and a part of the transaction."""
    (tmp_path / "disk").mkdir()
    result = in_namespace(f"mount -t tmpfs -o size=8m tmpfs '{tmp_path}/disk'; {python(FULL, tmp_path / 'disk', room)}")
    lines = result.stdout.splitlines()
    assert len(lines) == 4, result.stderr
    assert lines[0].startswith("DiskFull 1 ")
    assert lines[0].endswith(
        "no space left on the device; free some space and run the command again; the store is as it was"
    )
    assert lines[1:] == ["True 1", "done", "2001 2"]
    assert result.stderr == ""


def test_no_room_for_a_new_store_says_so_and_can_be_repeated(tmp_path: Path, in_namespace: Namespace) -> None:
    (tmp_path / "disk").mkdir()
    script = """
import os
with open(sys.argv[1] + "/ballast", "wb") as ballast:
    ballast.write(b"x" * (1_000_000 - 40_000))
attempt(lambda: Store.create(sys.argv[1] + "/a.vecs"))
os.unlink(sys.argv[1] + "/ballast")
attempt(lambda: Store.create(sys.argv[1] + "/a.vecs"))
"""
    result = in_namespace(
        f"mount -t tmpfs -o size=1000000 tmpfs '{tmp_path}/disk'; {python(script, tmp_path / 'disk')}"
    )
    first, second = result.stdout.splitlines()
    assert first.startswith("DiskFull 1 ")
    assert second == "done"


def test_a_folder_that_may_not_be_entered_is_our_error(tmp_path: Path, kit: Kit) -> None:
    kit.create(tmp_path / "a.vecs").close()
    (tmp_path / "a.vecs").chmod(0)
    script = PRELUDE + "import os; os.geteuid() or os.setuid(65534)\nattempt(lambda: Store(sys.argv[1]))"
    for parent in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        parent.chmod(0o755)
    command = [sys.executable, "-c", script, str(tmp_path / "a.vecs")]
    result = subprocess.run(command, capture_output=True, text=True)
    (tmp_path / "a.vecs").chmod(0o700)
    assert result.stdout.startswith("NotWritable 1 "), result.stderr
    assert "permission denied" in result.stdout


@pytest.mark.parametrize("name", ["with blank", "ümläut", "a#b", "50%25", "[x]*?", "a&b;c'd\"e", "x" * 200])
def test_a_store_works_under_any_name(tmp_path: Path, kit: Kit, name: str) -> None:
    with kit.create(tmp_path / name) as store:
        kit.add(store, ["a"], metadata=lambda _: {"age": 1}, thumbnails=True)
        assert store.select("age = 1").tolist() == [1]
        assert store.vectors(store.space(), np.array([1])).shape == (1, 16)
        assert len(store.thumbnails.get([kit.hash("a")])) == 1
    kit.check(tmp_path / name)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [name]


def test_thumbnails_are_a_cache_that_may_be_lost_or_broken(store: Store, kit: Kit) -> None:
    kit.add(store, ["a"], thumbnails=True)
    assert store.thumbnails.get([kit.hash("a"), b"x" * 16]) == {kit.hash("a"): b"\xff\xd8" + kit.hash("a") * 20}
    store.close()
    file = store.path / "thumbnails.sqlite"
    file.write_bytes(b"broken" * 1000)
    with Store(store.path) as again:
        assert again.thumbnails.get([kit.hash("a")]) == {}
        kit.add(again, ["b"], thumbnails=True)
    file.unlink()
    with Store(store.path) as again:
        assert again.thumbnails.get([kit.hash("a")]) == {}
        kit.add(again, ["c"], thumbnails=True)
        assert list(again.thumbnails.get([kit.hash(name) for name in "abc"])) == [kit.hash("c")]
        assert again.items().locators == ["a", "b", "c"]


def test_a_sweep_leaves_what_is_named_or_young(store: Store, kit: Kit) -> None:
    kit.add(store, ["a"])
    task = store.add_task("t", "binary", ["n", "y"], [Label(1, "y", 1.0, None)], {})
    store.add_model(task, store.space(), {"m.json": b"{}"}, {}, np.array([1]))
    named = [path for path in store.path.rglob("*") if path.is_file() or path.parent.name == "models"]
    left = [store.path / "shards" / "1" / ("0" * 64 + ".parquet"), store.path / "shards" / "1" / "tmp-1-a"]
    left += [store.path / "tmp-9-clock", store.path / "models" / ("1" * 64) / "model.json"]
    left += [store.path / "indexes" / "1" / "tmp-1-a"]
    index = store.path / "indexes" / "1" / "index.faiss"
    named.append(index)
    for path in (*left, index):
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"x")
    assert store.sweep() == 0
    for path in [*named, *left, left[3].parent]:
        os.utime(path, (0, 0))
    assert store.sweep() == 5
    assert [path for path in left if path.exists()] == []
    assert [path for path in named if not path.exists()] == []
