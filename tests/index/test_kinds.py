"""Saved indexes: opened if their bytes are ours, refused before faiss sees them otherwise."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from vecstore.errors import DiskFull, NotWritable, StoreError
from vecstore.files import BlockSha256, sha256_file, write_file
from vecstore.index.base import IndexUnusable, seal
from vecstore.index.exact import ExactIndex
from vecstore.index.kinds import KINDS, open_index
from vecstore.records import FloatArray

Check = Callable[..., Any]
COVERS = {"fingerprint": "ab" * 32, "shards": ["11" * 32, "22" * 32]}


@pytest.fixture
def vectors(unit_rows: Check) -> FloatArray:
    rows: FloatArray = unit_rows(40, 6)
    return rows


@pytest.fixture
def saved(tmp_path: Path, vectors: FloatArray) -> Path:
    """A saved index of 40 vectors with the ids 100 to 139."""
    folder = tmp_path / "indexes" / "1"
    ExactIndex.build(np.arange(100, 140), vectors).save(folder, COVERS)
    return folder


@pytest.fixture
def faiss_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make any reading by faiss an error that no code of ours expects."""

    def read_index(*_: object) -> None:
        raise AssertionError("faiss was given bytes that were not checked")

    monkeypatch.setattr(faiss, "read_index", read_index)


def _file(folder: Path, name: str) -> Path:
    """Where a file of the index lies: "index.json", or "index.rows" and the like, which have their digest's name."""
    if name == "index.json":
        return folder / name
    (found,) = folder.glob(f"index-*{Path(name).suffix}")
    return found


def _resealed(folder: Path, **changes: object) -> None:
    """Change `index.json` as a program of ours would have written it."""
    facts = json.loads((folder / "index.json").read_text())
    del facts["seal"]
    write_file(folder / "index.json", seal({**facts, **changes}).encode())


def test_an_opened_index_gives_the_same_hits_and_what_it_covers(
    saved: Path, vectors: FloatArray, same_hits: Check
) -> None:
    index, covers = open_index(saved, expect={"fingerprint": "ab" * 32})
    assert covers == COVERS
    assert type(index) is ExactIndex
    np.testing.assert_array_equal(index.ids, np.arange(100, 140))
    assert index.dim == 6
    allowed = np.arange(100, 120)
    same_hits(
        index.search(vectors, 5, allowed),
        ExactIndex.build(np.arange(100, 140), vectors).search(vectors, 5, allowed),
    )


def test_index_json_says_what_it_is(saved: Path) -> None:
    facts = json.loads((saved / "index.json").read_text())
    assert facts["format"] == 4
    assert facts["kind"] == "exact"
    assert (facts["n"], facts["dim"]) == (40, 6)
    path = _file(saved, "index.rows")
    digest = sha256_file(path)
    assert path.name == f"index-{digest[:16]}.rows"
    assert facts["files"] == {"rows": {"name": path.name, "bytes": path.stat().st_size, "sha256": digest}}
    assert facts["engine"] == f"faiss {faiss.__version__}"


def test_the_files_are_private_and_nothing_else_is_left(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == [_file(saved, "index.rows").name, "index.json"]
    assert {path.stat().st_mode & 0o777 for path in saved.iterdir()} == {0o600}
    assert saved.stat().st_mode & 0o777 == 0o700


def test_saving_twice_writes_the_same_bytes(saved: Path, tmp_path: Path, vectors: FloatArray) -> None:
    digest = ExactIndex.build(np.arange(139, 99, -1), vectors[::-1]).save(tmp_path / "again", COVERS)
    for name in ("index.rows", "index.json"):
        assert _file(tmp_path / "again", name).read_bytes() == _file(saved, name).read_bytes()
    assert digest == json.loads((saved / "index.json").read_text())["seal"]


def test_an_empty_index_can_be_saved_and_opened(tmp_path: Path) -> None:
    empty = ExactIndex.build(np.empty(0, np.int64), np.empty((0, 3), np.float32))
    empty.save(tmp_path / "empty", {})
    index, covers = open_index(tmp_path / "empty")
    assert (len(index.ids), index.dim, covers) == (0, 3, {})
    assert index.search(np.eye(3, dtype=np.float32), 1)[0].tolist() == [[-1], [-1], [-1]]


def test_every_opened_kind_is_the_one_of_its_name() -> None:
    assert {name: kind.kind for name, kind in KINDS.items()} == {name: name for name in KINDS}


@pytest.mark.usefixtures("faiss_reads_nothing")
@pytest.mark.parametrize("name", ["index.rows", "index.json"])
def test_any_flipped_byte_is_found_before_faiss_reads(saved: Path, name: str) -> None:
    path = _file(saved, name)
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in (0x01, 0x80):
            flipped = bytearray(whole)
            flipped[place] ^= bit
            path.write_bytes(flipped)
            with pytest.raises(IndexUnusable):
                open_index(saved)


@pytest.mark.usefixtures("faiss_reads_nothing")
@pytest.mark.parametrize("name", ["index.rows", "index.json"])
def test_any_truncation_or_extension_is_found_before_faiss_reads(saved: Path, name: str) -> None:
    path = _file(saved, name)
    whole = path.read_bytes()
    for changed in [whole[:length] for length in range(len(whole))] + [whole + b"}", whole + whole]:
        path.write_bytes(changed)
        with pytest.raises(IndexUnusable):
            open_index(saved)


@pytest.mark.usefixtures("faiss_reads_nothing")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 1}, "format 1, this version reads 4"),
        ({"kind": "tree"}, "kind 'tree', this version has exact, coded, cells"),
        ({"n": "40"}, "index.json was changed after it was written"),
        ({"covers": []}, "index.json was changed after it was written"),
        ({"files": {"rows": None}}, "index.json was changed after it was written"),
        ({"files": {"rows": {"name": "../index.json", "bytes": 3}}}, "index.json was changed after it was written"),
        ({"sha256": "00" * 32}, r"rows has another SHA-256 than index.json says"),
        ({"bytes": 17}, r"rows has .* bytes, not 17"),
    ],
)
def test_a_sealed_index_json_that_does_not_fit_is_refused(saved: Path, changes: dict[str, Any], reason: str) -> None:
    if {"sha256", "bytes"} & set(changes):
        told = json.loads((saved / "index.json").read_text())["files"]["rows"]
        changes = {"files": {"rows": told | changes}}
    _resealed(saved, **changes)
    with pytest.raises(IndexUnusable, match=reason):
        open_index(saved)


@pytest.mark.parametrize("changes", [{"n": 39}, {"dim": 7}])
def test_an_index_of_another_size_than_it_says_is_refused(saved: Path, changes: dict[str, object]) -> None:
    _resealed(saved, **changes)
    with pytest.raises(IndexUnusable, match=r"1280 bytes of (39|40) rows of length [67]"):
        open_index(saved)


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 200, 1234])
def test_a_digest_of_blocks_is_the_same_however_the_bytes_come(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BlockSha256, "BLOCK", 100)
    data = np.random.default_rng(size).bytes(size)
    whole, pieces = BlockSha256(), BlockSha256()
    whole.update(data)
    for start in range(0, size, 37):
        pieces.update(data[start : start + 37])
    assert whole.hexdigest() == pieces.hexdigest() == BlockSha256.of(memoryview(data))
    blocks = [hashlib.sha256(data[at : at + 100]).digest() for at in range(0, max(size, 1), 100)]
    assert whole.hexdigest() == (blocks[0].hex() if size <= 100 else hashlib.sha256(b"".join(blocks)).hexdigest())


def test_a_flipped_bit_in_any_block_is_noticed(
    tmp_path: Path, unit_rows: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BlockSha256, "BLOCK", 100)
    ExactIndex.build(np.arange(12), unit_rows(12, 6)).save(tmp_path, COVERS)
    path = _file(tmp_path, "index.rows")
    good = path.read_bytes()
    assert len(good) > 300 and len(open_index(tmp_path)[0].ids) == 12
    for at in range(0, len(good), 90):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(IndexUnusable, match="has another SHA-256"):
            open_index(tmp_path)
    half = len(good) // 200 * 100
    path.write_bytes(good[half:] + good[:half])
    with pytest.raises(IndexUnusable, match="has another SHA-256"):
        open_index(tmp_path)


def _foreign(kind: str) -> bytes:
    rows = np.eye(6, dtype=np.float32)
    if kind == "of faiss":
        flat = faiss.IndexFlatIP(6)
        flat.add(rows)
        return bytes(faiss.serialize_index(flat))
    ids = np.array([3, 1, 2, 4, 5, 6]) if kind == "out of order" else np.array([-1, 1, 2, 3, 4, 5])
    return ids.tobytes() + rows.tobytes()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("of faiss", "bytes of 6 rows of length 6"),
        ("out of order", "its ids are not in ascending order"),
        ("negative", "its ids are not in ascending order"),
    ],
)
def test_another_file_under_a_right_digest_is_refused(saved: Path, kind: str, reason: str) -> None:
    path = _file(saved, "index.rows")
    digest = write_file(path, _foreign(kind))
    told = {"name": path.name, "bytes": path.stat().st_size, "sha256": digest}
    _resealed(saved, files={"rows": told}, n=6)
    with pytest.raises(IndexUnusable, match=reason):
        open_index(saved)


@pytest.mark.usefixtures("faiss_reads_nothing")
def test_an_index_of_another_space_is_refused(saved: Path) -> None:
    with pytest.raises(IndexUnusable, match="it covers another fingerprint"):
        open_index(saved, expect={"fingerprint": "cd" * 32})
    with pytest.raises(IndexUnusable, match="it covers another rule"):
        open_index(saved, expect={"rule": None})


@pytest.mark.usefixtures("faiss_reads_nothing")
def test_an_index_that_is_not_the_registered_one_is_refused(saved: Path) -> None:
    with pytest.raises(IndexUnusable, match="it is not the one that was registered"):
        open_index(saved, sha256="00" * 32)


def test_the_registered_digest_opens_it(saved: Path) -> None:
    seal_of = json.loads((saved / "index.json").read_text())["seal"]
    assert open_index(saved, sha256=seal_of)[1] == COVERS


@pytest.mark.parametrize("name", ["index.rows", "index.json"])
def test_a_missing_file_is_a_reason_to_rebuild(saved: Path, name: str) -> None:
    path = _file(saved, name)
    path.unlink()
    with pytest.raises(IndexUnusable, match=f"there is no {path.name}"):
        open_index(saved)


def test_a_missing_folder_is_a_reason_to_rebuild(tmp_path: Path) -> None:
    with pytest.raises(IndexUnusable, match=r"there is no index\.json; expected the files .*; delete the folder"):
        open_index(tmp_path / "absent")


@pytest.mark.parametrize("name", ["index.rows", "index.json"])
@pytest.mark.parametrize("what", ["link", "folder", "pipe"])
def test_what_is_not_a_plain_file_is_never_opened(saved: Path, name: str, what: str) -> None:
    path = _file(saved, name)
    elsewhere = shutil.copy(path, saved / "elsewhere")
    path.unlink()
    if what == "link":
        path.symlink_to(elsewhere)
    elif what == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(IndexUnusable, match=f"{path.name} is not a plain file"):
        open_index(saved)


@pytest.mark.parametrize(
    "text", ["null", "[]", "3", '{"format": 1}', '{"seal": 1}', "\xff", "NaN", "[" * 100_000, '{"a": NaN, "seal": ""}']
)
def test_an_index_json_from_elsewhere_is_refused(saved: Path, text: str) -> None:
    (saved / "index.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(IndexUnusable, match=r"index\.json is not one of ours|format None"):
        open_index(saved)


def test_a_rebuilt_index_replaces_the_old_one_and_a_killed_build_leaves_it(
    saved: Path, unit_rows: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = ExactIndex.build(np.arange(7), unit_rows(7, 6, seed=5))

    def killed(*_: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("vecstore.index.base.seal", killed)  # the new files lie there, `index.json` is the old one
        with pytest.raises(KeyboardInterrupt):
            newer.save(saved, {"again": True})
    assert len(list(saved.glob("index-*.rows"))) == 2
    index, covers = open_index(saved)
    assert (len(index.ids), covers) == (40, COVERS)
    newer.save(saved, {"again": True})
    index, covers = open_index(saved)
    assert (len(index.ids), covers) == (7, {"again": True})
    assert len(list(saved.iterdir())) == 2  # nothing of the killed build or of the old index is left


def test_files_of_the_first_format_are_removed_by_the_next_save(saved: Path, vectors: FloatArray) -> None:
    (saved / "index.faiss").write_bytes(b"of an earlier version")
    ExactIndex.build(np.arange(40), vectors).save(saved, COVERS)
    assert not (saved / "index.faiss").exists() and len(open_index(saved)[0].ids) == 40


def test_a_full_disk_leaves_the_old_index_as_it_was(saved: Path, unit_rows: Check) -> None:
    resource = pytest.importorskip("resource", reason="limits on file size exist on POSIX only")
    signal = pytest.importorskip("signal")
    # A limit on the size of files stands in for a full disk: the same OSError, from the real write.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises((DiskFull, OSError)):
            ExactIndex.build(np.arange(4000), unit_rows(4000, 6)).save(saved, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert len(open_index(saved)[0].ids) == 40
    assert sorted(path.name for path in saved.iterdir()) == [_file(saved, "index.rows").name, "index.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into a read-only folder")
def test_a_folder_that_may_not_be_written_is_named(saved: Path, vectors: FloatArray) -> None:
    saved.chmod(0o500)
    with pytest.raises(NotWritable, match="permission denied"):
        ExactIndex.build(np.arange(40), vectors).save(saved, {})


def test_an_unusable_index_is_an_error_of_the_store() -> None:
    assert issubclass(IndexUnusable, StoreError)
    error = IndexUnusable(Path("indexes/1"), "why")
    assert (error.facts["reason"], error.exit_code) == ("why", 1)
