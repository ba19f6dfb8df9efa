"""Which source opens what, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from vecstore.errors import ArchiveError, UsageError
from vecstore.sources import KINDS, open_source


def test_the_kind_is_chosen_by_what_is_there(shared: Path, archive: Path, plain: bytes) -> None:
    (archive / "no_suffix").write_bytes(plain)
    (archive / "scan.dcm").write_bytes(b"not yet known")
    with zipfile.ZipFile(archive / "zip_without_suffix", "w") as file:
        file.writestr("a.jpg", plain)
    found = {
        path.name: open_source(path).kind
        for path in (
            archive,
            archive / "labels.csv",
            archive / "no_suffix",
            archive / "scan.dcm",
            archive / "zip_without_suffix",
            shared / "medmnist" / "breastmnist.npz",
            shared / "cxr_covid" / "images.zip",
        )
    }
    assert found == {
        "archive": "folder",
        "labels.csv": "manifest",
        "no_suffix": "file",
        "scan.dcm": "file",
        "zip_without_suffix": "zip",
        "breastmnist.npz": "medmnist",
        "images.zip": "zip",
    }


def test_one_picture_is_an_archive(archive: Path, plain: bytes) -> None:
    source = open_source(archive / "a.jpg")
    (raw,) = source.list()
    assert (source.name, raw.locator, raw.read()) == ("a", "a.jpg", plain)
    assert [found.locator for found in source.find(["a.jpg", "b.jpg"])] == ["a.jpg"]
    assert source.labels() is None


def test_an_empty_folder_lists_nothing(tmp_path: Path) -> None:
    assert list(open_source(tmp_path).list()) == []


def test_the_kind_can_be_given(archive: Path) -> None:
    (archive / "list.txt").write_text("path\na.jpg\n")
    source = open_source(archive / "list.txt", kind="manifest")
    assert [raw.locator for raw in source.list()] == ["a.jpg"]
    with pytest.raises(UsageError, match=r"no kind of archive 'rar'; expected one of: folder, medmnist, manifest"):
        open_source(archive, kind="rar")
    with pytest.raises(ArchiveError, match="damaged zip"):
        list(open_source(archive / "a.jpg", kind="zip").list())
    with pytest.raises(ArchiveError, match="expected a readable archive"):
        list(open_source(archive / "a.jpg", kind="folder").list())


def test_a_path_column_is_for_manifests(archive: Path) -> None:
    with pytest.raises(UsageError, match="--path-column is of no use for a folder; expected a manifest"):
        open_source(archive, path_column="file")


def test_what_is_no_archive_is_refused(archive: Path) -> None:
    with pytest.raises(ArchiveError, match=r"gone: not there; expected a folder, zip, .*; check the path"):
        open_source(archive / "gone")
    with pytest.raises(ArchiveError, match="README: not an archive that is known here; expected a folder"):
        open_source(archive / "sub" / "README")
    (archive / "empty").write_bytes(b"")
    with pytest.raises(ArchiveError, match="empty: an empty file"):
        open_source(archive / "empty")
    os.mkfifo(archive / "pipe")
    with pytest.raises(ArchiveError, match="pipe: neither a file nor a folder"):
        open_source(archive / "pipe")


def test_kinds_have_different_names() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS)


def test_sources_and_decoding_load_no_heavy_library() -> None:
    code = (
        "import sys, vecstore.sources, vecstore.decode, vecstore.tables\n"
        "print([m for m in ('PIL', 'pydicom', 'tifffile', 'pyarrow', 'torch', 'sqlite3') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
