"""Indexes of a store: chosen, measured, kept up to date, and never in the way of the right answer."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from vecstore import neighbours
from vecstore.errors import DataError, NotFound, NotWritable, UsageError
from vecstore.index.choice import Spectrum, choose, spectrum
from vecstore.index.coded import CODES
from vecstore.indexes import index_build, index_info, index_update, parse_memory
from vecstore.neighbours import index_folder, searcher
from vecstore.records import FloatArray, Passport, Silent
from vecstore.search import search, search_many
from vecstore.store import Store
from vecstore.store.append import Batch, Picture, append

DIM, N = 48, 3000


def _vectors(n: int, seed: int) -> FloatArray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((30, DIM))
    rows = (centres[rng.integers(0, 30, n)] + 0.6 * rng.standard_normal((n, DIM))) * np.arange(1, DIM + 1) ** -0.5
    unit: FloatArray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
    return unit


def _add(store: Store, vectors: FloatArray, start: int) -> None:
    """Items `start`, `start` + 1, … with these vectors; five of each patient."""
    space = store.space()
    names = range(start, start + len(vectors))
    hashes = [hashlib.md5(b"%d" % name).digest() for name in names]
    pictures = [
        Picture(f"{name:06}.png", 1, 1, None, "made", h, 1, 1, {"patient": f"p{name // 5}", "age": name % 90})
        for name, h in zip(names, hashes, strict=True)
    ]
    batch = Batch("made", "folder", pictures, vectors={space.id: (hashes, vectors.astype(np.float16))})
    append(store, batch, {space.id: space}, {})


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of one test would wait for those of another program."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Store]:
    """A store of 3,000 items of 600 patients, in a space of 48 dimensions."""
    passport = Passport("made", "none", "made", "none", "", "", (1, 1), "none", (0.0,), (1.0,), "none", DIM)
    with Store.create(tmp_path / "made.vecs") as store:
        store.add_space("made", passport, {})
        _add(store, _vectors(N, 0), 0)
        yield store


def _same_scores(got: Any, expected: Any) -> float:
    """Share of the exact hits that were found; those found have the very same scores."""
    exact = {hit.item_id: hit.score for hit in expected.hits}
    for hit in got.hits:
        assert exact.get(hit.item_id, hit.score) == hit.score
    return len(exact.keys() & {hit.item_id for hit in got.hits}) / len(exact)


@pytest.mark.parametrize("kind", ["coded", "cells"])
def test_an_index_is_built_measured_told_and_served(made: Store, kind: str) -> None:
    exact = search_many(made, np.arange(1, 41).tolist(), 10, where="age >= 10")
    info = index_build(made, kind=kind, recall=0.97)
    assert (info.kind, info.vectors, info.covered, info.dim, info.metric) == (kind, N, N, DIM, "cosine")
    assert info.recall is not None and info.recall >= 0.97 and info.recall_low is not None
    assert info.recall_low <= info.recall and info.recall_queries == 100 and info.recall_k == 10
    assert info.why and info.design and info.bytes > N * 2 * DIM
    found = search_many(made, np.arange(1, 41).tolist(), 10, where="age >= 10")
    assert np.mean([_same_scores(got, one) for got, one in zip(found, exact, strict=True)]) >= 0.95
    for one in found:
        assert not one.exact and one.recall is not None and one.recall["value"] == info.recall
        assert len(one.hits) == 10
    with Store(made.path) as again:
        told = index_info(again)
        assert (told.kind, told.recall, told.design, told.why) == (kind, info.recall, info.design, "")
        assert [one.hits for one in search_many(again, np.arange(1, 41).tolist(), 10, where="age >= 10")] == [
            one.hits for one in found
        ]
    assert index_build(made, kind="exact").recall == 1.0
    assert search_many(made, np.arange(1, 41).tolist(), 10, where="age >= 10") == exact


@pytest.mark.parametrize("kind", ["exact", "coded", "cells"])
def test_an_index_built_beside_memory_is_the_same(made: Store, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    space = made.space()

    def files() -> dict[str, bytes]:
        folder = index_folder(made, space)
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "index.json"}

    index_build(made, kind=kind)
    before = files()
    asked: list[tuple[int, int]] = []
    room = np.memmap

    def counted(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs["shape"])
        return room(*args, **kwargs)

    monkeypatch.setattr("vecstore.neighbours._IN_MEMORY", 0)
    monkeypatch.setattr("numpy.memmap", counted)
    index_build(made, kind=kind)
    assert asked == [(N, DIM)] and files() == before
    left = {path.name for path in (made.path / "indexes").iterdir()}
    assert left == {str(space.id)}  # the file had no name, and is gone


def test_new_vectors_are_found_at_once_and_added_by_an_update(made: Store) -> None:
    index_build(made, kind="coded", recall=0.97)
    new = _vectors(400, 5)
    _add(made, new, N)
    first = search(made, new[0], 3)
    assert first.hits[0].item_id == N + 1 and first.hits[0].score == pytest.approx(1, abs=1e-6)
    assert first.notes == [f"400 vectors are newer than the index: run: vecstore index update {made.path}"]
    before = index_info(made)
    assert (before.covered, before.vectors, before.newest - before.commit) == (N, N + 400, 1)
    after = index_update(made)
    assert (after.kind, after.covered, after.vectors, after.commit) == ("coded", N + 400, N + 400, made.commit)
    assert after.recall is not None and after.recall >= 0.97
    again = search(made, new[0], 3)
    assert again.hits[0] == first.hits[0] and again.notes == []
    assert index_update(made).commit == made.commit
    assert index_update(made, metric="whitened").kind == "exact"  # none there yet: one is built


def test_what_the_store_has_no_more_is_not_found(made: Store) -> None:
    index_build(made, kind="coded", recall=0.97)
    query = _vectors(N, 0)[10]
    assert search(made, query, 1).hits[0].item_id == 11
    with made.write("end", {}) as tx:
        tx.end("states", "item = ?", (11,))
    result = search(made, query, 20)
    assert 11 not in [hit.item_id for hit in result.hits] and len(result.hits) == 20
    assert result.searched == N - 1


def test_a_damaged_approximate_index_is_made_again(made: Store) -> None:
    index_build(made, kind="coded", recall=0.97)
    folder = index_folder(made, made.space())
    expected = search(made, 1, 5).hits
    for path in sorted(folder.iterdir()):
        whole = bytearray(path.read_bytes())
        if whole:
            whole[len(whole) // 2] ^= 1
        path.write_bytes(whole + b"x" * (not whole))
        with pytest.raises(NotFound, match=r"has no index for cosine that can be used.*vecstore index build"):
            index_info(made)
        with Store(made.path) as again:
            result = search(again, 1, 5)
            assert result.exact and result.hits[0].score >= expected[0].score
        index_build(made, kind="coded", recall=0.97)


def test_a_recall_out_of_reach_is_refused_with_what_reaches_it(made: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    old = index_build(made, kind="exact")
    monkeypatch.setattr("vecstore.index.coded.PER_HIT", (1,))  # nothing but the codes' own order
    with pytest.raises(DataError) as caught:
        index_build(made, kind="coded", recall=0.999)
    assert "no coded reaches a recall of 0.999: coded (rabitq codes): recall@10 0." in caught.value.fact
    assert caught.value.do == "--kind exact reaches it"
    assert index_info(made) == old.__class__(**{**_fields(old), "why": ""})
    monkeypatch.setattr("vecstore.index.choice.EXACT_BELOW", 100)
    chosen = index_build(made, recall=0.999)
    assert chosen.kind == "exact" and len(chosen.tried) == 1 and chosen.tried[0].startswith("coded (rabitq codes)")


def test_codes_that_this_faiss_lacks_are_passed_over(made: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vecstore.index.choice.EXACT_BELOW", 100)
    monkeypatch.setitem(CODES, "rabitq", lambda dim: "NotYetInvented")
    chosen = index_build(made)
    assert chosen.kind == "exact" and "does not know the index IVF1,NotYetInvented" in chosen.tried[0]
    with pytest.raises(DataError, match="expected a version with rabitq codes; pip install -U faiss-cpu"):
        index_build(made, kind="coded")
    monkeypatch.undo()
    index_build(made, kind="coded", recall=0.97)
    monkeypatch.setattr(faiss, "__version__", "1.13.2")
    with pytest.raises(DataError, match=r"faiss 1\.13\.2 is too old for codes; expected 1\.15 or later"):
        index_build(made, kind="coded")
    with Store(made.path) as again:
        assert search(again, 1, 3).exact  # what a later faiss has left is not read


def _fields(info: Any) -> dict[str, Any]:
    return {name: getattr(info, name) for name in info.__dataclass_fields__}


def test_the_choice_is_told_before_the_work_begins(made: Store) -> None:
    said: list[str] = []

    class Listener(Silent):
        def say(self, text: str) -> None:
            said.append(text)

        def begin(self, what: str, total: int | None) -> None:
            said.append(f"{total} {what}")

    index_build(made, progress=Listener())
    assert said == [
        "exact: 3000 vectors are compared in about 1 ms; about 0.1 s to build, 600 kB on disk, 600 kB in memory",
        "3000 vectors",
    ]


STEEP, FLAT = Spectrum(5.0, {64: 0.98, 128: 0.995, 256: 1.0}), Spectrum(200.0, {64: 0.4, 128: 0.6, 256: 0.8})


@pytest.mark.parametrize(
    ("n", "sample", "recall", "kinds", "code"),
    [
        (1000, FLAT, 0.99, ["exact"], None),
        (100_000, FLAT, 1.0, ["exact"], None),
        (100_000, FLAT, 0.99, ["coded", "exact"], "rabitq"),
        (100_000, STEEP, 0.99, ["cells", "coded", "exact"], "half"),
        (1_000_000, STEEP, 0.99, ["cells", "cells", "cells", "coded", "exact"], "half"),
        (1_000_000, FLAT, 0.99, ["cells", "cells", "coded", "exact"], "pq"),
    ],
)
def test_the_choice_follows_number_and_spectrum(
    n: int, sample: Spectrum, recall: float, kinds: list[str], code: str | None
) -> None:
    plans = choose(n, 512, sample, recall)
    assert [plan.kind for plan in plans] == kinds
    assert (plans[0].design.code if plans[0].design else None) == code
    assert all(plan.why and plan.bytes >= n * 1024 for plan in plans)
    assert all(plan.design.project == 128 for plan in plans if plan.design and plan.design.code == "half")


def test_the_choice_keeps_to_the_memory() -> None:
    plans = choose(1_000_000, 512, STEEP, 0.99, memory=500_000_000)
    assert plans and all(plan.memory <= 500_000_000 for plan in plans) and plans[-1].kind == "coded"
    with pytest.raises(UsageError, match=r"no index of 1000000 vectors of length 512 fits into 1 kB; expected at"):
        choose(1_000_000, 512, STEEP, 0.99, memory=1000)
    with pytest.raises(UsageError, match=r"recall 1\.5"):
        choose(10, 4, None, 1.5)
    with pytest.raises(UsageError, match="kind 'tree'; expected one of: exact, coded, cells"):
        choose(10, 4, None, kind="tree")


def test_the_spectrum_is_that_of_the_vectors() -> None:
    rng = np.random.default_rng(0)
    flat = rng.standard_normal((4000, 100)).astype(np.float32)
    assert spectrum(flat).effective == pytest.approx(100, rel=0.05)
    assert spectrum(flat).within[64] == pytest.approx(0.7, abs=0.07)
    steep = (flat * 0.5 ** np.arange(100)).astype(np.float32)
    assert spectrum(steep).effective < 2 and spectrum(steep).within[64] == pytest.approx(1)


@pytest.mark.parametrize(("text", "size"), [("8GB", 8e9), ("8G", 8e9), (1000, 1000), ("1.5 KiB", 1536), (None, None)])
def test_memory_is_a_number_with_a_unit(text: Any, size: float | None) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["much", "-1", "8 parsecs", ""])
def test_memory_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a number of bytes, or one with a unit"):
        parse_memory(text)


def test_a_store_that_may_not_be_written_is_searched_and_not_indexed(made: Store) -> None:
    with Store(made.path, at=made.commit) as fixed:
        assert len(search(fixed, 1, 3).hits) == 3
        with pytest.raises(NotWritable, match="can't be written to at commit"):
            index_build(fixed)
    assert not (made.path / "indexes").exists()


KILLED = """
import os, signal, sys
from vecstore.files import HashingFile
from vecstore.indexes import index_build
published = HashingFile.publish
count = 0
def publish(self, path):
    global count
    if "indexes" in str(path):
        count += 1
        if count > int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
    published(self, path)
HashingFile.publish = publish
index_build(sys.argv[1], kind="coded", recall=0.9)
"""


def test_a_killed_build_leaves_the_old_index(made: Store) -> None:
    old = index_build(made, kind="exact")
    expected = search(made, 1, 5)
    # Before the first of its files, and before index.json, which makes them valid.
    for files in (0, 3):
        command = [sys.executable, "-c", KILLED, str(made.path), str(files)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        left = index_info(made)
        assert (left.kind, left.commit) == (old.kind, old.commit)
        with Store(made.path) as again:
            assert search(again, 1, 5).hits == expected.hits
    subprocess.run([*command[:-1], "9"], check=True)
    assert index_info(made).kind == "coded"
    folder = index_folder(made, made.space())
    named = {told["name"] for told in json.loads((folder / "index.json").read_text())["files"].values()}
    left_over = {path.name for path in folder.iterdir() if not path.name.startswith("tmp-")}
    assert left_over == named | {"index.json"}


def test_an_index_serves_every_search_of_a_handle(made: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    index_build(made, kind="coded", recall=0.97)
    engine = searcher(made, made.space())
    assert searcher(made, made.space()) is engine
    _add(made, _vectors(1, 9), N)
    assert searcher(made.refresh(), made.space()) is not engine


def test_recall_told_holds_for_the_farthest(made: Store) -> None:
    exact = search_many(made, np.arange(1, 41).tolist(), 10, farthest=True)
    info = index_build(made, kind="coded", recall=0.97)
    found = search_many(made, np.arange(1, 41).tolist(), 10, farthest=True)
    share = np.mean(
        [len({h.item_id for h in a.hits} & {h.item_id for h in b.hits}) / 10 for a, b in zip(exact, found, strict=True)]
    )
    assert share >= 0.95, (share, info.recall)


def test_rebuild_in_a_search_keeps_the_asked_recall(made: Store, monkeypatch: Any) -> None:
    index_build(made, kind="coded", recall=0.97)
    _add(made, _vectors(3200, 5), N)  # more than half: the next search makes it anew
    monkeypatch.setattr("vecstore.index.coded.PER_HIT", (1,))  # and this time it does not reach the recall
    with Store(made.path) as again:
        result = search(again, 1, 10)
        assert result.recall is None or result.recall["value"] >= 0.97, result.recall


def test_a_query_that_is_like_nothing_in_the_store_is_compared_with_all(made: Store) -> None:
    strangers = np.random.default_rng(8).standard_normal((30, DIM)).astype(np.float32)
    exact = search_many(made, strangers, 10)
    index_build(made, kind="coded", recall=0.9)
    assert [[h.item_id for h in one.hits] for one in search_many(made, strangers, 10)] == [
        [h.item_id for h in one.hits] for one in exact
    ]


def test_vectors_that_come_while_an_index_is_built_are_found(made: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index says that it covers their shard, and lacks them."""
    real = neighbours._built

    def meddled(*arguments: Any, **options: Any) -> Any:
        built = real(*arguments, **options)
        thread = threading.Thread(target=_add, args=(made, _vectors(3, 5), N))
        thread.start()
        thread.join()
        return built

    monkeypatch.setattr(neighbours, "_built", meddled)
    searcher(made, made.space())
    monkeypatch.undo()
    with Store(made.path) as again:
        found = searcher(again, again.space())
        assert len(found.items) == len(found.contents) == N + 3
        assert search(again, N + 1, 1, include_own=True).hits[0].item_id == N + 1


def test_an_index_is_opened_by_a_thread_that_keeps_writers_out(made: Store) -> None:
    """The thread beside it does not ask the catalog, which would wait for this one."""
    index_build(made, kind="exact")
    neighbours._open.clear()
    answers: list[int] = []

    def ask() -> None:
        with made.catalog.locked():
            answers.append(len(searcher(made, made.space()).contents))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(60)
    assert answers == [N]
