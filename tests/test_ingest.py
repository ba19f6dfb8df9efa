"""`ingest`: what a second look at an archive costs, and what it does to what was there."""

from __future__ import annotations

import csv
import errno
import importlib
import io
import json
import os
import shutil
import sqlite3
import struct
import subprocess
import sys
import tarfile
import time
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image

from vecstore.decode.base import content_hash
from vecstore.embedding import embed_new, pictures_opened
from vecstore.encoders import open_encoder
from vecstore.encoders.base import Encoder
from vecstore.errors import (
    ArchiveError,
    NotWritable,
    PictureError,
    StoreError,
    UsageError,
    VecstoreError,
    WeightsMissing,
)
from vecstore.ingest import IngestResult, ingest
from vecstore.records import DecodeRule, FloatArray, Silent, UInt8Array
from vecstore.store import Store

ingesting = importlib.import_module("vecstore.ingest")  # `import vecstore.ingest as x` gives the function
OLD = 1_700_000_000


class Around(Encoder):
    """The fake encoder with something done before or after each batch."""

    def __init__(self, name: str, batch_size: int | None = None) -> None:
        self._inner = open_encoder(name)
        self.passport, self.compute = self._inner.passport, self._inner.compute
        self.batch_size = batch_size or self._inner.batch_size

    def prepare(self, picture: UInt8Array) -> UInt8Array:
        return self._inner.prepare(picture)

    def encode(self, prepared: Sequence[UInt8Array]) -> FloatArray:
        return self._inner.encode(prepared)


def noise(seed: int, side: int = 12) -> bytes:
    """A small PNG that no other seed gives."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=1)
    return out.getvalue()


def put(path: Path, data: bytes, time: int = OLD) -> Path:
    """Write a file whose time is long past, as those of an archive are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (time, time))
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Six pictures, one of them below a folder."""
    root = tmp_path / "archive"
    for i in range(5):
        put(root / f"{i}.png", noise(i))
    put(root / "sub" / "5.png", noise(5))
    return root


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store is to be."""
    return tmp_path / "x.vecs"


def run(store: Path, archive: Path, **options: Any) -> IngestResult:
    return ingest(store, archive, **{"encoder": "fake:64", **options})


def counts(result: IngestResult) -> dict[str, int]:
    """What is not zero of a result."""
    names = ("added", "present", "failed", "failed_before", "embedded", "gone", "passed_over")
    return {name: getattr(result, name) for name in names if getattr(result, name)}


def contents(store: Path, at: int | None = None) -> dict[str, bytes]:
    """Locator to content hash."""
    with Store(store, at) as opened:
        items = opened.items()
        hashes = opened.hashes_of(items.ids.tolist())
        return {name: hashes[i] for name, i in zip(items.locators, items.ids.tolist(), strict=True)}


def metadata(store: Path) -> dict[str, dict[str, Any]]:
    """Locator to metadata."""
    with Store(store) as opened:
        items = opened.items()
        found = opened.metadata(items.ids.tolist())
        return {name: found.get(i, {}) for name, i in zip(items.locators, items.ids.tolist(), strict=True)}


def failures(store: Path) -> list[dict[str, Any]]:
    with Store(store) as opened:
        return opened.failures()


def commits(store: Path) -> int:
    with Store(store) as opened:
        return opened.commit


def vectors_by_hash(store: Path, space: str | None = None) -> dict[bytes, FloatArray]:
    with Store(store) as opened:
        items = opened.items()
        hashes = opened.hashes_of(items.ids.tolist())
        rows = opened.vectors(opened.space(space), items.contents)
        return {hashes[i]: row for i, row in zip(items.ids.tolist(), rows, strict=True)}


def hash_of(png: bytes) -> bytes:
    return content_hash(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")))


# A second run


def test_a_second_run_embeds_nothing_opens_nothing_and_commits_nothing(path: Path, archive: Path) -> None:
    assert counts(run(path, archive)) == {"added": 6, "embedded": 6}
    before, opened = commits(path), pictures_opened()
    assert counts(run(path, archive)) == {"present": 6}
    assert (commits(path), pictures_opened()) == (before, opened)


def test_a_touched_file_is_read_once_and_its_time_is_kept(path: Path, archive: Path) -> None:
    run(path, archive)
    os.utime(archive / "0.png", (OLD + 5, OLD + 5))
    assert counts(run(path, archive)) == {"present": 6}
    opened = pictures_opened()
    assert counts(run(path, archive)) == {"present": 6}
    assert pictures_opened() == opened


def test_a_changed_file_points_to_its_new_content_and_the_old_snapshot_to_the_old(path: Path, archive: Path) -> None:
    first = run(path, archive)
    put(archive / "0.png", noise(100), OLD + 5)
    assert counts(run(path, archive)) == {"added": 1, "present": 5, "embedded": 1}
    assert contents(path)["0.png"] == hash_of(noise(100))
    assert contents(path, first.commit)["0.png"] == hash_of(noise(0))
    assert counts(run(path, archive)) == {"present": 6}


def test_an_item_that_is_gone_is_kept_and_counted(path: Path, archive: Path) -> None:
    run(path, archive)
    (archive / "0.png").unlink()
    for _ in range(2):
        assert counts(run(path, archive)) == {"present": 5, "gone": 1}
    assert "0.png" in contents(path)


def test_a_renamed_file_is_a_new_item_of_a_known_content(path: Path, archive: Path) -> None:
    run(path, archive)
    (archive / "0.png").rename(archive / "renamed.png")
    assert counts(run(path, archive)) == {"added": 1, "present": 5, "gone": 1}
    assert contents(path)["renamed.png"] == contents(path)["0.png"]


def test_a_file_that_no_longer_decodes_ends_its_state(path: Path, archive: Path) -> None:
    first = run(path, archive)
    put(archive / "0.png", noise(0)[:40], OLD + 5)
    assert counts(run(path, archive)) == {"failed": 1, "present": 5}
    assert "0.png" not in contents(path)
    assert "0.png" in contents(path, first.commit)
    assert [(row["locator"], row["stage"], row["attempts"]) for row in failures(path)] == [("0.png", "decode", 1)]
    assert counts(run(path, archive)) == {"failed_before": 1, "present": 5}


def test_a_picture_that_became_a_bystander_ends_its_state(path: Path, archive: Path) -> None:
    put(archive / "slice", noise(50))
    run(path, archive)
    put(archive / "slice", b"notes about this patient", OLD + 5)
    assert counts(run(path, archive)) == {"failed": 1, "present": 6}
    assert "slice" not in contents(path)
    assert failures(path)[0]["reason"] == "no longer a picture"


def test_changed_bytes_under_equal_size_and_time_are_found_when_asked(path: Path, tmp_path: Path) -> None:
    pixels = [np.full((8, 8, 3), value, np.uint8) for value in (1, 2)]
    for name, values in zip(("one", "two"), pixels, strict=True):
        Image.fromarray(values).save(tmp_path / f"{name}.ppm")
    one, two = (tmp_path / f"{name}.ppm" for name in ("one", "two"))
    target = put(tmp_path / "archive" / "a.ppm", one.read_bytes())
    run(path, target.parent)
    put(target, two.read_bytes())
    assert counts(run(path, target.parent)) == {"present": 1}
    assert counts(run(path, target.parent, verify_content=True)) == {"added": 1, "embedded": 1}
    assert contents(path) == {"a.ppm": content_hash(pixels[1])}
    assert counts(run(path, target.parent, verify_content=True)) == {"present": 1}


def test_a_file_modified_within_two_seconds_is_hashed_at_the_next_scan(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "archive" / "a.ppm"
    for value in (1, 2):
        target.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(tmp_path / "made.ppm")
        when = target.stat().st_mtime_ns if target.exists() else None
        shutil.copyfile(tmp_path / "made.ppm", target)
        if when is not None:  # as a second change within one tick of the clock
            os.utime(target, ns=(when, when))
        assert counts(run(path, target.parent)) == {"added": 1, "embedded": 1}


def test_the_time_of_reading_decides_not_the_time_of_a_slow_encoder(
    path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(Around):
        def encode(self, prepared: Sequence[UInt8Array]) -> FloatArray:
            time.sleep(2.1)
            return super().encode(prepared)

    monkeypatch.setattr(ingesting, "open_encoder", lambda name, **_: Slow(name, 1))
    for picture in sorted(archive.rglob("*.png"))[1:]:
        picture.unlink()
    os.utime(archive / "0.png")
    run(path, archive)
    opened = pictures_opened()
    assert counts(run(path, archive)) == {"present": 1}
    assert pictures_opened() == opened + 1


# Which archive


def test_a_moved_archive_embeds_nothing(path: Path, archive: Path, tmp_path: Path) -> None:
    run(path, archive)
    moved = tmp_path / "elsewhere" / "archive"
    shutil.copytree(archive, moved)
    for file in moved.rglob("*.png"):
        os.utime(file, (OLD + 99, OLD + 99))
    said: list[str] = []
    assert counts(run(path, moved, progress=_Told(said))) == {"present": 6}
    assert said == ["archive: moved archive, 6 of 6 sampled files have the same bytes"]
    opened = pictures_opened()
    assert counts(run(path, moved)) == {"present": 6}
    assert pictures_opened() == opened


class _Told(Silent):
    def __init__(self, said: list[str]) -> None:
        self._said = said

    def say(self, text: str) -> None:
        self._said.append(text)


def test_another_archive_under_a_known_name_is_refused(path: Path, archive: Path, tmp_path: Path) -> None:
    run(path, archive)
    before = contents(path), commits(path)
    other = tmp_path / "elsewhere" / "archive"
    for i in range(5):
        put(other / f"{i}.png", noise(1000 + i))
    with pytest.raises(ArchiveError, match=r"'archive'.*0 are there with the same bytes; expected .*--source NAME"):
        run(path, other)
    assert (contents(path), commits(path)) == before
    assert counts(run(path, other, source="other")) == {"added": 5, "embedded": 5}


def test_the_letter_case_of_a_source_does_not_make_another(path: Path, archive: Path, tmp_path: Path) -> None:
    run(path, archive, source="Ärzte")
    other = tmp_path / "other"
    put(other / "0.png", noise(1000))
    with pytest.raises(ArchiveError, match="'Ärzte'"):
        run(path, other, source="ärzte")
    assert run(path, archive, source=unicodedata.normalize("NFD", "ärzte")).source == "Ärzte"


def test_two_sources_share_contents_but_not_items(path: Path, archive: Path, tmp_path: Path) -> None:
    run(path, archive)
    other = tmp_path / "other"
    shutil.copytree(archive, other)
    put(other / "new.png", noise(77))
    assert counts(run(path, other)) == {"added": 7, "embedded": 1}
    with Store(path) as store:
        assert len(store.items(source="archive")) == 6
        assert len(store.items(source="other")) == 7


def test_a_store_inside_its_archive_is_no_part_of_it(archive: Path) -> None:
    store = archive / "deep" / "ö.vecs"
    assert counts(run(store, archive)) == {"added": 6, "embedded": 6}
    assert counts(run(store, archive)) == {"present": 6}
    with pytest.raises(UsageError, match="archive and store are one folder"):
        run(store, store)


def test_names_are_nfc_whatever_the_file_system_says(path: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    put(archive / unicodedata.normalize("NFD", "röntgen.png"), noise(1))
    assert counts(run(path, archive)) == {"added": 1, "embedded": 1}
    assert list(contents(path)) == [unicodedata.normalize("NFC", "röntgen.png")]
    assert counts(run(path, archive)) == {"present": 1}


def test_two_names_that_normalisation_makes_equal_stay_two_items(path: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    put(archive / unicodedata.normalize("NFD", "ö.png"), noise(1))
    put(archive / unicodedata.normalize("NFC", "ö.png"), noise(2))
    assert counts(run(path, archive)) == {"added": 2, "embedded": 2}
    assert contents(path)["ö.png"] == hash_of(noise(2))
    assert counts(run(path, archive)) == {"present": 2}


def test_an_empty_folder_is_an_error_and_makes_no_store(path: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArchiveError, match=r"no files in it; expected pictures; check the path"):
        run(path, tmp_path / "empty")
    assert not path.exists()


def test_an_archive_without_one_picture_is_an_error(path: Path, tmp_path: Path) -> None:
    put(tmp_path / "notes" / "a.txt", b"text")
    with pytest.raises(ArchiveError, match=r"none of its 1 files is a picture; expected .*; check the path"):
        run(path, tmp_path / "notes")


def test_an_encoder_that_can_not_be_had_makes_no_store(
    path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> Encoder:
        raise WeightsMissing("no weights", "a file", "--weights FILE")

    monkeypatch.setattr(ingesting, "open_encoder", missing)
    with pytest.raises(WeightsMissing):
        run(path, archive)
    assert not path.exists()


@pytest.mark.parametrize(
    "options",
    [
        {"frames": "every"},
        {"retry": "yes"},
        {"encoder": []},
        {"encoder": ["fake:8", "fake:16"], "space": "one"},
        {"encoder": ["fake:8", "fake:16"], "weights": "file"},
    ],
)
def test_a_wrong_call_is_refused_before_a_store_is_made(path: Path, archive: Path, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        run(path, archive, **options)
    assert not path.exists()


def test_a_store_that_was_opened_at_a_commit_is_not_written_to(path: Path, archive: Path) -> None:
    run(path, archive)
    put(archive / "new.png", noise(8))
    with Store(path, at=commits(path)) as old, pytest.raises(NotWritable, match="opened at commit"):
        ingest(old, archive, encoder="fake")


def test_a_folder_with_other_things_is_not_made_a_store(archive: Path, tmp_path: Path) -> None:
    put(tmp_path / "mine" / "thesis.txt", b"years of work")
    with pytest.raises(StoreError, match="exists already"):
        run(tmp_path / "mine", archive)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


# Encoders


def test_a_new_encoder_on_an_old_store_embeds_for_that_one_only(path: Path, archive: Path) -> None:
    run(path, archive, encoder="fake:16")
    assert counts(run(path, archive, encoder="fake:64")) == {"present": 6, "embedded": 6}
    assert counts(run(path, archive, encoder=["fake:16", "fake:64"])) == {"present": 6}
    with Store(path) as store:
        assert [(space.name, len(store.embedded(space))) for space in store.spaces()] == [
            ("fake-16", 6),
            ("fake-64", 6),
        ]


def test_two_encoders_open_each_picture_once(path: Path, archive: Path) -> None:
    opened = pictures_opened()
    assert counts(run(path, archive, encoder=["fake:16", "fake:64"])) == {"added": 6, "embedded": 12}
    assert pictures_opened() - opened == 6


def test_two_names_of_one_encoder_are_one_space(path: Path, archive: Path) -> None:
    result = run(path, archive, encoder=["fake", "fake:32"])
    assert (result.embedded, len(result.spaces)) == (6, 1)


def test_duplicates_are_embedded_once(path: Path, archive: Path) -> None:
    for i in range(40):
        put(archive / "copies" / f"{i}.png", noise(3))
    assert counts(run(path, archive)) == {"added": 46, "embedded": 6}
    with Store(path) as store:
        assert sum(shard.rows for shard in store.shards(store.space())) == 6


@pytest.fixture
def black_is_nan(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """The fake encoder, which gives a black picture no finite vector; the switch heals it."""
    broken = True

    class Nan(Around):
        def encode(self, prepared: Sequence[UInt8Array]) -> FloatArray:
            found = super().encode(prepared)
            if broken and self.passport.dim == 64:
                found[[not picture.any() for picture in prepared]] = np.nan
            return found

    def switch(value: bool) -> None:
        nonlocal broken
        broken = value

    monkeypatch.setattr(ingesting, "open_encoder", lambda name, **_: Nan(name))
    return switch


def _black(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(path)
    os.utime(path, (OLD, OLD))


def test_a_vector_that_is_not_finite_is_a_failure_of_that_space(
    path: Path, archive: Path, black_is_nan: Callable[[bool], None]
) -> None:
    _black(archive / "black.png")
    _black(archive / "black2.png")
    assert counts(run(path, archive)) == {"added": 8, "failed": 2, "embedded": 6}
    rows = [(row["locator"], row["stage"], row["space"], row["reason"]) for row in failures(path)]
    reason = "the encoder's vector is not finite or has no length"
    assert rows == [(name, "encode", "fake-64", reason) for name in ("black.png", "black2.png")]
    assert counts(run(path, archive)) == {"present": 6, "failed_before": 2}
    assert counts(run(path, archive, retry="also")) == {"present": 8, "failed": 2}
    black_is_nan(False)
    assert counts(run(path, archive, retry="only")) == {"present": 8, "embedded": 1}
    assert failures(path) == []


def test_a_failure_in_one_space_does_not_keep_a_picture_out_of_another(
    path: Path, archive: Path, black_is_nan: Callable[[bool], None]
) -> None:
    _black(archive / "black.png")
    run(path, archive, encoder="fake:64")
    run(path, archive, encoder=["fake:64", "fake:16"])
    with Store(path) as store:
        assert len(store.embedded(store.space("fake-16"))) == 7
        assert len(store.embedded(store.space("fake-64"))) == 6
    assert counts(run(path, archive, encoder=["fake:64", "fake:16"])) == {"present": 6, "failed_before": 1}


# Failures


def test_failures_are_retried_alone_and_their_attempts_counted(path: Path, archive: Path) -> None:
    put(archive / "bad.png", noise(9)[:30])
    run(path, archive)
    put(archive / "new.png", noise(70))
    assert counts(run(path, archive, retry="only")) == {"present": 6, "failed": 1}
    assert failures(path)[0]["attempts"] == 2
    assert counts(run(path, archive, retry="also")) == {"added": 1, "present": 6, "failed": 1, "embedded": 1}
    assert failures(path)[0]["attempts"] == 3
    put(archive / "bad.png", noise(9), OLD + 1)
    assert counts(run(path, archive)) == {"added": 1, "present": 7, "embedded": 1}
    assert failures(path) == []


def test_only_the_first_refused_files_are_named_on_the_way(path: Path, archive: Path) -> None:
    for number in range(25):
        put(archive / f"bad{number:02}.png", b"")
    said: list[str] = []
    assert counts(run(path, archive, progress=_Told(said)))["failed"] == 25
    assert [text.partition(":")[0] for text in said[:20]] == [f"bad{number:02}.png" for number in range(20)]
    assert said[20:] == [f"further refused files are not named here; all of them: vecstore failures {path}"]
    assert len(failures(path)) == 25


def test_bystanders_are_passed_over_and_what_claims_to_be_a_picture_fails(path: Path, archive: Path) -> None:
    put(archive / "labels.csv", b"path,label\n0.png,1\n")
    put(archive / "README", b"read me")
    put(archive / "empty.png", b"")
    put(archive / "page.jpg", b"<html>not found</html>")
    assert counts(run(path, archive)) == {"added": 6, "failed": 2, "embedded": 6, "passed_over": 2}
    assert {row["locator"]: row["reason"].split(";")[0].split(",")[0] for row in failures(path)} == {
        "empty.png": "the file is empty",
        "page.jpg": "an HTML page",
    }


def test_a_decompression_bomb_is_a_failure_row(path: Path, archive: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )
    put(archive / "bomb.png", bomb)
    assert counts(run(path, archive)) == {"added": 6, "failed": 1, "embedded": 6}
    assert "pixels" in failures(path)[0]["reason"]


def test_one_unreadable_folder_of_a_zip_in_a_folder_does_not_end_the_run(path: Path, archive: Path) -> None:
    put(archive / "broken.zip", b"PK\x03\x04" + b"\0" * 60)
    assert counts(run(path, archive)) == {"added": 6, "failed": 1, "embedded": 6}


def test_real_odd_files_give_what_their_table_says(path: Path, shared: Path) -> None:
    with (shared / "messy" / "cases.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    decodes = {unicodedata.normalize("NFC", row["file"]) for row in rows if row["decodes"] in ("yes", "True", "1")}
    result = run(path, shared / "messy")
    assert result.failed == len(failures(path))
    assert decodes <= contents(path).keys()
    assert counts(run(path, shared / "messy"))["present"] == result.added


# Packed archives, frames, labels


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name, (2020, 1, 2, 3, 4, 6)), data)
    os.utime(path, (OLD, OLD))
    return path


def test_a_zip_in_a_folder_is_looked_into(path: Path, archive: Path) -> None:
    _zip(archive / "more.zip", {"a.png": noise(60), "b/c.png": noise(0)})
    assert counts(run(path, archive)) == {"added": 8, "embedded": 7}
    assert contents(path)["more.zip!b/c.png"] == contents(path)["0.png"]
    assert counts(run(path, archive)) == {"present": 8}


@pytest.mark.parametrize("look_up", [2, 1024])
def test_a_tar_with_one_name_twice_never_ends_a_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, look_up: int
) -> None:
    monkeypatch.setattr(ingesting, "_LOOK_UP", look_up)
    file = tmp_path / "a.tar"
    with tarfile.open(file, "w") as tar:
        for name, seed in (("a.png", 1), ("b.png", 2), ("c.png", 3), ("d.png", 4), ("a.png", 5)):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(noise(seed)), OLD + seed
            tar.addfile(info, io.BytesIO(noise(seed)))
    assert run(path, file).added == 4
    assert set(contents(path)) == {"a.png", "b.png", "c.png", "d.png"}
    assert contents(path)["a.png"] == hash_of(noise(5))
    opened = pictures_opened()
    assert counts(run(path, file)) == {"present": 4}
    assert pictures_opened() == opened


def _gif(path: Path, values: Sequence[int], time: int = OLD) -> None:
    frames = [Image.fromarray(np.full((10, 10, 3), value, np.uint8)) for value in values]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    put(path, out.getvalue(), time)


def test_all_frames_of_a_gif_are_items_and_a_second_run_embeds_nothing(path: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    _gif(archive / "a.gif", (10, 90, 200))
    put(archive / "still.png", noise(1))
    assert counts(run(path, archive, frames="all")) == {"added": 4, "embedded": 4}
    assert sorted(contents(path)) == ["a.gif#1", "a.gif#2", "a.gif#3", "still.png"]
    opened = pictures_opened()
    assert counts(run(path, archive)) == {"present": 4}
    assert pictures_opened() == opened
    assert counts(run(path, archive, encoder="fake:16")) == {"present": 4, "embedded": 4}
    os.utime(archive / "a.gif", (OLD + 9, OLD + 9))
    assert counts(run(path, archive)) == {"present": 4}


def test_frames_of_a_multi_frame_dicom_are_items(path: Path, tmp_path: Path, shared: Path) -> None:
    with zipfile.ZipFile(shared / "dicom" / "samples.zip") as file:
        put(tmp_path / "archive" / "mr.dcm", file.read("emri_small.dcm"))
    result = run(path, tmp_path / "archive", frames="all")
    assert counts(result)["added"] == 10
    assert sorted(contents(path), key=len) == [f"mr.dcm#{i}" for i in range(1, 11)]
    assert counts(run(path, tmp_path / "archive")) == {"present": 10}
    assert metadata(path)["mr.dcm#7"]["Modality"] == "MR"


def test_only_the_first_frame_counts_by_default(path: Path, tmp_path: Path) -> None:
    _gif(tmp_path / "archive" / "a.gif", (10, 90))
    run(path, tmp_path / "archive")
    assert list(contents(path)) == ["a.gif"]


@pytest.mark.parametrize(
    ("first", "then"), [((10, 90, 200), (10, 90)), ((10, 90), (10, 90, 200)), ((10,), (10, 90)), ((10, 90), (10,))]
)
def test_a_file_whose_number_of_frames_changed_converges(
    path: Path, tmp_path: Path, first: Sequence[int], then: Sequence[int]
) -> None:
    archive = tmp_path / "archive"
    _gif(archive / "a.gif", first)
    run(path, archive, frames="all")
    _gif(archive / "a.gif", then, OLD + 10)
    run(path, archive)
    opened, before = pictures_opened(), commits(path)
    result = run(path, archive)
    assert (result.present, result.embedded, result.added) == (len(then), 0, 0)
    assert result.gone == (len(first) if min(len(first), len(then)) == 1 else max(0, len(first) - len(then)))
    assert (pictures_opened(), commits(path)) == (opened, before)


def test_frames_of_a_file_that_no_longer_decodes_all_end(path: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    _gif(archive / "a.gif", (10, 90, 200))
    put(archive / "b.png", noise(1))
    run(path, archive, frames="all")
    whole = (archive / "a.gif").read_bytes()
    put(archive / "a.gif", whole[: len(whole) // 2], OLD + 10)
    assert run(path, archive).failed == 3
    assert list(contents(path)) == ["b.png"]
    assert counts(run(path, archive)) == {"failed_before": 3, "present": 1}
    put(archive / "a.gif", whole, OLD + 20)
    assert counts(run(path, archive)) == {"added": 3, "present": 1}
    assert failures(path) == []


def test_a_file_whose_later_frame_fails_is_one_failure_and_embeds_nothing(path: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    _gif(archive / "a.gif", (10, 90, 200))
    whole = (archive / "a.gif").read_bytes()
    put(archive / "a.gif", whole[:-60])
    first = Image.fromarray(np.full((10, 10, 3), 10, np.uint8))
    first.save(archive / "z.png")  # the same pixels as the failing file's first frame
    os.utime(archive / "z.png", (OLD, OLD))
    result = run(path, archive, frames="all")
    assert (result.failed, result.added, result.embedded) == (1, 1, 1)
    assert len(vectors_by_hash(path)) == 1


def test_another_frames_rule_than_the_stores_is_refused(path: Path, archive: Path) -> None:
    run(path, archive)
    with pytest.raises(UsageError, match=r"created with frames=first; expected the same rule .*--frames"):
        run(path, archive, frames="all")


def test_labels_of_a_medmnist_file_become_a_task_with_its_splits(path: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 6), ("val", 2), ("test", 4)):
        arrays[f"{split}_images"] = rng.integers(0, 255, (n, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(n) % 2).astype(np.uint8)[:, None]
    file = tmp_path / "breastmnist.npz"
    np.savez(file, **arrays)  # type: ignore[arg-type]
    os.utime(file, (OLD, OLD))
    result = run(path, file)
    assert (result.task, result.added, result.embedded) == ("breastmnist", 12, 12)
    with Store(path) as store:
        labels = store.labels(store.task("breastmnist"))
    assert [sum(label.split == split for label in labels) for split in ("train", "val", "test")] == [6, 2, 4]
    again = run(path, file)
    assert (counts(again), again.task) == ({"present": 12}, None)


# Metadata


def _manifest(path: Path, rows: str) -> None:
    path.write_text(rows)


def test_columns_of_a_manifest_become_item_columns_and_follow_its_changes(path: Path, archive: Path) -> None:
    table = archive / "images.csv"
    _manifest(table, "path,patient,age\n0.png,p1,61\n1.png,p2,45\n")
    assert counts(run(path, table)) == {"added": 2, "embedded": 2}
    assert metadata(path) == {"0.png": {"patient": "p1", "age": 61}, "1.png": {"patient": "p2", "age": 45}}
    before, opened = commits(path), pictures_opened()
    assert counts(run(path, table)) == {"present": 2}
    assert commits(path) == before
    _manifest(table, "path,patient,age,sex\n0.png,p1,62,F\n1.png,p2,45,M\n")
    assert counts(run(path, table)) == {"present": 2}
    assert metadata(path)["0.png"] == {"patient": "p1", "age": 62, "sex": "F"}
    assert pictures_opened() == opened
    with Store(path, before) as old:
        assert old.metadata([1])[1]["age"] == 61


def test_a_manifest_column_named_like_ours_does_not_commit_at_each_run(path: Path, archive: Path) -> None:
    table = archive / "images.csv"
    _manifest(table, "path,source,item, age \n0.png,clinic,9,4\n")
    run(path, table)
    assert metadata(path)["0.png"] == {"images_source": "clinic", "images_item": 9, "age": 4}
    before = commits(path)
    run(path, table)
    assert commits(path) == before


def test_new_metadata_of_a_file_that_changed_too_keeps_both(path: Path, tmp_path: Path, shared: Path) -> None:
    with zipfile.ZipFile(shared / "dicom" / "samples.zip") as file:
        data = {name: file.read(name) for name in ("CT_small.dcm", "MR_small.dcm")}
    root = tmp_path / "archive"
    put(root / "a.dcm", data["CT_small.dcm"])
    _manifest(root / "m.csv", "path,site\na.dcm,x\n")
    run(path, root / "m.csv")
    assert metadata(path)["a.dcm"]["Modality"] == "CT"
    put(root / "a.dcm", data["MR_small.dcm"], OLD + 1)
    _manifest(root / "m.csv", "path,site\na.dcm,y\n")
    run(path, root / "m.csv")
    assert {k: metadata(path)["a.dcm"][k] for k in ("Modality", "site")} == {"Modality": "MR", "site": "y"}


def test_a_changed_manifest_reaches_all_frames_of_a_file(path: Path, tmp_path: Path) -> None:
    root = tmp_path / "archive"
    _gif(root / "a.gif", (10, 90))
    _manifest(root / "m.csv", "path,site\na.gif,x\n")
    run(path, root / "m.csv", frames="all")
    _manifest(root / "m.csv", "path,site\na.gif,y\n")
    assert counts(run(path, root / "m.csv")) == {"present": 2}
    assert metadata(path) == {"a.gif#1": {"site": "y"}, "a.gif#2": {"site": "y"}}


def test_a_large_changed_manifest_is_committed_in_parts(
    path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingesting, "_LOOK_UP", 2)
    monkeypatch.setattr(ingesting, "COMMIT_PICTURES", 2)
    for version in ("a", "b"):
        _manifest(archive / "m.csv", "path,v\n" + "".join(f"{i}.png,{version}\n" for i in range(5)))
        before = commits(path) if path.exists() else 0
        run(path, archive / "m.csv")
        assert {row["v"] for row in metadata(path).values()} == {version}
    assert commits(path) - before == 3


def test_dicom_keywords_become_columns_and_a_patient_id_is_nowhere_in_the_store(
    path: Path, tmp_path: Path, shared: Path
) -> None:
    with zipfile.ZipFile(shared / "dicom" / "samples.zip") as file:
        dataset = pydicom.dcmread(io.BytesIO(file.read("CT_small.dcm")))
    for name, patient in (("a", "SECRET-4711"), ("b", "SECRET-4711"), ("c", "SECRET-0815")):
        dataset.PatientID, dataset.PatientName = patient, "Hidden^Name"
        dataset.PixelData = bytes([ord(name)]) * len(dataset.PixelData)
        (tmp_path / "archive").mkdir(exist_ok=True)
        dataset.save_as(tmp_path / "archive" / f"{name}.dcm")
    run(path, tmp_path / "archive")
    found = metadata(path)
    assert found["a.dcm"]["Modality"] == "CT"
    assert found["a.dcm"]["Rows"] == 128
    ids = [found[f"{name}.dcm"]["PatientID"] for name in "abc"]
    assert ids[0] == ids[1] != ids[2]
    assert all(len(i) == 16 for i in ids)
    for entry in path.rglob("*"):
        data = entry.read_bytes() if entry.is_file() else b""
        assert not any(secret in data for secret in (b"SECRET-4711", b"SECRET-0815", b"Hidden")), entry.name


# What must not matter


def test_neither_order_nor_batches_nor_commits_change_a_vector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(40):
        put(tmp_path / "forth" / f"{i:03d}.png", noise(i % 30))
        put(tmp_path / "back" / f"{99 - i:03d}.png", noise(i % 30))
    stores = []
    for name, commit, batch in (("forth", 4096, 32), ("forth", 7, 3), ("back", 1, 1), ("back", 11, 64)):
        monkeypatch.setattr(ingesting, "COMMIT_PICTURES", commit)
        monkeypatch.setattr(ingesting, "open_encoder", lambda n, b=batch, **_: Around(n, b))
        store = tmp_path / f"{name}-{commit}-{batch}.vecs"
        assert counts(run(store, tmp_path / name)) == {"added": 40, "embedded": 30}
        stores.append(vectors_by_hash(store))
        with Store(store) as opened:
            assert sum(shard.rows for shard in opened.shards(opened.space())) == 30
    for other in stores[1:]:
        assert other.keys() == stores[0].keys()
        for key, vector in stores[0].items():
            assert np.array_equal(other[key], vector)


def test_every_commit_holds_the_vectors_of_all_its_items(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(60):  # pairs of equal neighbours, so that threads race for them
        put(tmp_path / "archive" / f"{i:03d}.png", noise(i // 2, 64))
    monkeypatch.setattr(ingesting, "COMMIT_PICTURES", 1)
    run(path, tmp_path / "archive")
    for commit in range(3, commits(path) + 1):
        with Store(path, commit) as store:
            items = store.items()
            assert len(store.vectors(store.space(), items.contents)) == len(items)


_PEAK = """
import importlib, resource, sys
ingesting = importlib.import_module("vecstore.ingest")
ingesting.COMMIT_PICTURES = 256
ingesting.ingest(sys.argv[1], sys.argv[2], encoder="fake")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_archive(tmp_path: Path) -> None:
    for i in range(3000):
        target = put(tmp_path / "large" / f"{i:05d}.png", noise(i, 16))
        if i < 300:
            (tmp_path / "small").mkdir(exist_ok=True)
            os.link(target, tmp_path / "small" / target.name)
    peaks = []
    for name in ("small", "large"):
        command = [sys.executable, "-c", _PEAK, str(tmp_path / f"{name}.vecs"), str(tmp_path / name)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 40


# New pictures


def test_new_pictures_are_named_as_they_were_given(tmp_path: Path) -> None:
    single = put(tmp_path / unicodedata.normalize("NFD", "ö.png"), noise(1))
    twin = put(tmp_path / "x" / "x", noise(2))
    bad = put(tmp_path / "bad.png", b"")
    found = list(embed_new(open_encoder("fake"), DecodeRule(), [single, twin.parent, bad, single]))
    assert [(p.name, p.reason.split(",")[0].split(";")[0]) for p in found] == [
        (str(single), ""),
        (str(twin), ""),
        (str(bad), "an empty file"),
        (str(single), ""),
    ]
    assert found[0].vector is not None
    assert found[3].vector is not None
    assert np.array_equal(found[0].vector, found[3].vector)


def test_frames_of_a_new_file_are_numbered(tmp_path: Path) -> None:
    _gif(tmp_path / "a.gif", (10, 90))
    found = embed_new(open_encoder("fake"), DecodeRule(frames="all"), [tmp_path / "a.gif"])
    assert [picture.name for picture in found] == [f"{tmp_path / 'a.gif'}#1", f"{tmp_path / 'a.gif'}#2"]


def test_errors_of_ingest_belong_to_our_tree(path: Path, tmp_path: Path) -> None:
    for wrong in (tmp_path / "absent", put(tmp_path / "text.txt", b"text")):
        with pytest.raises(VecstoreError, match="expected"):
            run(path, wrong)
    assert not path.exists()


def test_a_space_name_for_vectors_that_have_a_space_already_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    folder.mkdir()
    Image.new("RGB", (9, 9), "red").save(folder / "a.png")
    ingest(tmp_path / "s.vecs", folder, encoder="fake:8", space="first")
    with pytest.raises(
        UsageError, match="are in the space 'first' already; expected one space per fingerprint; leave --space"
    ):
        ingest(tmp_path / "s.vecs", folder, encoder="fake:8", space="second")


class _Unreadable:
    """Reading one file fails, as on a share that is away, until told otherwise."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.away = True
        opened = Path.open

        def failing(this: Path, *args: Any, **options: Any) -> Any:
            if self.away and this.name == name:
                raise OSError(errno.EIO, "Input/output error")
            return opened(this, *args, **options)

        monkeypatch.setattr(Path, "open", failing)


def test_a_read_error_takes_no_picture_away_and_heals_by_itself(
    path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(path, archive)
    before = contents(path)
    share = _Unreadable(monkeypatch, "1.png")
    assert run(path, archive, encoder="fake:16").failed == 1
    assert contents(path) == before
    assert [row["stage"] for row in failures(path)] == ["read"]
    assert counts(run(path, archive)) == {"failed": 1, "present": 5}
    share.away = False
    assert counts(run(path, archive)) == {"present": 6}
    assert failures(path) == []
    assert counts(run(path, archive, encoder="fake:16")) == {"present": 6, "embedded": 1}


def test_a_picture_that_could_not_be_read_at_first_is_tried_again(
    path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = _Unreadable(monkeypatch, "1.png")
    assert counts(run(path, archive)) == {"added": 5, "embedded": 5, "failed": 1}
    share.away = False
    assert counts(run(path, archive)) == {"added": 1, "embedded": 1, "present": 5}


def test_later_values_widen_a_column_and_none_is_lost(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingesting, "COMMIT_PICTURES", 2)
    members: dict[str, bytes] = {}
    for i, (age, patient) in enumerate(((60, 7), (61, 8), (45.5, 9), (46, "P3"))):
        members |= {f"{i}.png": noise(i), f"{i}.json": json.dumps({"age": age, "patient": patient}).encode()}
    result = run(path, _zip(tmp_path / "a.zip", members))
    assert metadata(path) == {
        "0.png": {"age": 60.0, "patient": "7"},
        "1.png": {"age": 61.0, "patient": "8"},
        "2.png": {"age": 45.5, "patient": "9"},
        "3.png": {"age": 46.0, "patient": "P3"},
    }
    assert result.notes == [
        "the column age is REAL now: a value did not fit its type",
        "the column patient is TEXT now: a value did not fit its type",
    ]
    assert counts(run(path, tmp_path / "a.zip")) == {"present": 4}


def test_a_patient_id_is_a_pseudonym_whoever_says_it(path: Path, tmp_path: Path, shared: Path) -> None:
    with zipfile.ZipFile(shared / "dicom" / "samples.zip") as file:
        put(tmp_path / "ct.dcm", file.read("CT_small.dcm"))
    put(tmp_path / "same.dcm", (tmp_path / "ct.dcm").read_bytes())
    put(tmp_path / "x.png", noise(1))
    table = tmp_path / "m.csv"
    table.write_text("path,patientid,note\nct.dcm,1CT1,a\nsame.dcm,,b\nx.png,1CT1,c\n")
    run(path, table)
    with Store(path) as store:
        expected = store.pseudonym("1CT1")
        assert store.column_name("PATIENTID") == "PatientID"
    assert {row["PatientID"] for row in metadata(path).values()} == {expected}
    assert counts(run(path, table)) == {"present": 3}
    members = {"1.png": noise(2), "1.json": json.dumps({"PATIENTID": "1CT1"}).encode()}
    run(path, _zip(tmp_path / "w.zip", members))
    assert metadata(path)["1.png"] == {"PatientID": expected}


def _medmnist(file: Path, seed: int, n: int = 6) -> Path:
    images = np.random.default_rng(seed).integers(0, 255, (n, 28, 28), dtype=np.uint8)
    np.savez(file, train_images=images, train_labels=(np.arange(n) % 2).astype(np.uint8)[:, None])
    os.utime(file, (OLD, OLD))
    return file


def _labelled(path: Path, task: str) -> int:
    with Store(path) as store:
        return len(store.labels(store.task(task)))


def test_labels_are_imported_though_pictures_fail_and_follow_when_they_heal(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _medmnist(tmp_path / "breastmnist.npz", 0)
    reading = importlib.import_module("vecstore.sources.medmnist")
    real = reading._read

    def failing(images: Any, index: int) -> Any:
        if index == 2:
            raise PictureError("damaged in its .npz")
        return real(images, index)

    monkeypatch.setattr(reading, "_read", failing)
    result = run(path, file)
    assert (result.failed, result.task, _labelled(path, "breastmnist")) == (1, "breastmnist", 5)
    assert run(path, file).task is None
    monkeypatch.setattr(reading, "_read", real)
    result = run(path, file)
    assert (result.added, result.task, _labelled(path, "breastmnist")) == (1, "breastmnist", 6)
    assert run(path, file).task is None


def test_labels_under_a_taken_name_become_a_task_named_after_the_source(path: Path, tmp_path: Path) -> None:
    run(path, _medmnist(tmp_path / "breastmnist.npz", 0))
    result = run(path, _medmnist(tmp_path / "breastmnist_64.npz", 1))
    assert result.task == "breastmnist_64"
    assert result.notes == [
        "the task 'breastmnist' is there from elsewhere; the labels of 'breastmnist_64' are the task 'breastmnist_64'"
    ]
    assert (_labelled(path, "breastmnist"), _labelled(path, "breastmnist_64")) == (6, 6)
    assert run(path, tmp_path / "breastmnist_64.npz").task is None


def test_labels_without_a_free_name_are_said_to_be_left_out(path: Path, tmp_path: Path) -> None:
    run(path, _medmnist(tmp_path / "breastmnist.npz", 0), source="first")
    result = run(path, _medmnist(tmp_path / "breastmnist_64.npz", 1), source="breastmnist")
    assert (result.task, result.added) == (None, 6)
    (note,) = result.notes
    assert note.startswith("the tasks 'breastmnist' and 'breastmnist' are there from elsewhere; the labels of")
    assert note.endswith("were not imported: ingest it under another --source")


def test_one_equal_file_of_ten_does_not_make_a_moved_archive(path: Path, tmp_path: Path) -> None:
    for i in range(10):
        put(tmp_path / "x" / "arch" / f"{i}.png", noise(i))
        put(tmp_path / "y" / "arch" / f"n{i}.png", noise(100 + i))
    put(tmp_path / "y" / "arch" / "0.png", noise(0))
    run(path, tmp_path / "x" / "arch")
    with pytest.raises(ArchiveError, match=r"of 10 of its files looked for in .*, 1 are there .*--source NAME"):
        run(path, tmp_path / "y" / "arch")


def test_changed_pictures_in_a_zip_with_fixed_times_are_found(path: Path, tmp_path: Path) -> None:
    def made(seed: int) -> Path:
        pixels = np.random.default_rng(seed).integers(0, 255, (8, 8), dtype=np.uint8).tobytes()
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
            file.writestr(zipfile.ZipInfo("a.pgm"), b"P5\n8 8\n255\n" + pixels)
        return tmp_path / "a.zip"

    run(path, made(1))
    before = contents(path)
    assert counts(run(path, made(2))) == {"added": 1, "embedded": 1}
    assert contents(path) != before
    assert counts(run(path, made(2))) == {"present": 1}


def test_deleted_thumbnails_come_back_with_verify_content(path: Path, archive: Path) -> None:
    run(path, archive)
    hashes = list(contents(path).values())
    (path / "thumbnails.sqlite").unlink()
    assert counts(run(path, archive, verify_content=True, thumbnails=False)) == {"present": 6}
    assert not (path / "thumbnails.sqlite").exists()
    assert counts(run(path, archive, verify_content=True)) == {"present": 6}
    with Store(path) as store:
        assert len(store.thumbnails.get(hashes)) == 6
    commit = commits(path)
    run(path, archive, verify_content=True)
    assert commits(path) == commit


def test_ingest_waits_for_another_writer_as_long_as_it_takes(
    path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(path, archive)
    put(archive / "new.png", noise(50))
    catalog: Any = importlib.import_module("vecstore.store.catalog")
    monkeypatch.setattr(catalog, "BUSY_SECONDS", 0.05)
    monkeypatch.setattr(catalog, "_SOON_SECONDS", 0.01)
    other = sqlite3.connect(path / "catalog.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    said: list[str] = []

    class Releasing(_Told):
        def say(self, text: str) -> None:
            super().say(text)
            if sum("still waiting" in line for line in said) == 2 and other.in_transaction:
                other.execute("ROLLBACK")

    result = run(path, archive, progress=Releasing(said))
    other.close()
    assert (result.added, result.embedded) == (1, 1)
    assert sum("still waiting" in line for line in said) == 2


def test_a_failure_of_a_file_is_cleared_when_its_frames_decode(path: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    _gif(archive / "a.gif", (10, 90, 200))
    put(archive / "b.png", noise(1))
    whole = (archive / "a.gif").read_bytes()
    put(archive / "a.gif", whole[:-60])
    run(path, archive, frames="all")
    assert [row["locator"] for row in failures(path)] == ["a.gif"]
    put(archive / "a.gif", whole, OLD + 10)
    assert counts(run(path, archive)) == {"added": 3, "present": 1, "embedded": 3}
    assert failures(path) == []
    assert counts(run(path, archive)) == {"present": 4}
