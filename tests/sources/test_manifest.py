"""Manifests: paths, types of metadata, rows that are wrong."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vecstore.errors import ArchiveError, PictureError
from vecstore.sources import open_source


@pytest.fixture
def folder(tmp_path: Path, plain: bytes) -> Path:
    """A folder with two pictures, and room for a manifest."""
    (tmp_path / "im").mkdir()
    for name in ("im/a.jpg", "im/b.jpg"):
        (tmp_path / name).write_bytes(plain)
    return tmp_path


def manifest(folder: Path, text: str, name: str = "list.csv") -> Path:
    """A manifest with this content."""
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_other_columns_become_typed_metadata(folder: Path, plain: bytes) -> None:
    text = "age,File,code,score,note\n7,im/a.jpg,007,1,\n,im/b.jpg,12,0.5,NA\n"
    source = open_source(manifest(folder, text))
    assert (source.kind, source.name) == ("manifest", "list")
    first, second = source.list()
    assert (first.locator, first.size) == ("im/a.jpg", len(plain))
    assert first.mtime_ns == (folder / "im/a.jpg").stat().st_mtime_ns
    assert first.metadata == {"age": 7, "code": "007", "score": 1.0, "note": None}
    assert second.metadata == {"age": None, "code": "12", "score": 0.5, "note": "NA"}
    assert first.read() == plain
    assert [raw.locator for raw in source.find(["im/b.jpg", "gone"])] == ["im/b.jpg"]


def test_tsv_and_parquet_are_manifests_too(folder: Path) -> None:
    rows = {"path": ["im/a.jpg", "im/b.jpg"], "age": [7, None]}
    pq.write_table(pa.table(rows), folder / "list.parquet")
    manifest(folder, "path\tage\nim/a.jpg\t7\nim/b.jpg\t\n", "list.tsv")
    for name in ("list.parquet", "list.tsv"):
        raws = list(open_source(folder / name).list())
        assert [(raw.locator, raw.metadata) for raw in raws] == [
            ("im/a.jpg", {"age": 7}),
            ("im/b.jpg", {"age": None}),
        ]


@pytest.mark.parametrize(
    ("header", "column"),
    [("locator,image,PATH", 2), ("locator,image,Filename", 2), ("id,locator,image", 2), ("Locator,id,x", 0)],
)
def test_the_path_column_is_the_first_of_the_usual_names(folder: Path, header: str, column: int) -> None:
    cells = ["z", "z", "z"]
    cells[column] = "im/a.jpg"
    (raw,) = open_source(manifest(folder, f"{header}\n{','.join(cells)}\n")).list()
    assert raw.locator == "im/a.jpg"


def test_the_path_column_can_be_named(folder: Path) -> None:
    path = manifest(folder, "path,scan\nother,im/a.jpg\n")
    (raw,) = open_source(path, path_column="Scan").list()
    assert (raw.locator, raw.metadata) == ("im/a.jpg", {"path": "other"})
    with pytest.raises(ArchiveError, match=r"no column 'x'; expected one of: path, scan; give another --path-col"):
        open_source(path, path_column="x")
    with pytest.raises(ArchiveError, match=r"no column with paths among a, b; .*; name it with --path-column"):
        open_source(manifest(folder, "a,b\n1,2\n"))


def test_absolute_and_odd_paths_become_relative(folder: Path, plain: bytes) -> None:
    text = f"path\n{folder}/im/a.jpg\nim\\b.jpg\n"
    assert [raw.locator for raw in open_source(manifest(folder, text)).list()] == ["im/a.jpg", "im/b.jpg"]
    dotted = manifest(folder, "path\n./im/../im/a.jpg\n")
    assert [(raw.locator, raw.read()) for raw in open_source(dotted).list()] == [("im/a.jpg", plain)]


def test_a_picture_that_is_not_there_is_one_failure(folder: Path, plain: bytes) -> None:
    gone, there = open_source(manifest(folder, "path\nim/gone.jpg\nim/a.jpg\n")).list()
    assert (gone.size, gone.mtime_ns) == (None, None)
    with pytest.raises(PictureError, match=r"file not found; restore it, or check the link or the manifest's path"):
        gone.read()
    assert there.read() == plain


def test_what_a_manifest_names_is_no_bystander(folder: Path) -> None:
    (folder / "notes.txt").write_text("text")
    (raw,) = open_source(manifest(folder, "path\nnotes.txt\n")).list()
    assert raw.read() == b"text"  # decoding gives the reason


@pytest.mark.parametrize("text", ["../x.jpg", "/etc/passwd", "im/../../x.jpg", "."])
def test_paths_outside_the_folder_are_refused_with_their_row(folder: Path, text: str) -> None:
    source = open_source(manifest(folder, f"path\nim/a.jpg\n{text}\n"))
    with pytest.raises(ArchiveError, match=r"row 3: .* is not a file in the manifest's folder"):
        next(source.list())


def test_a_row_without_path_is_refused(folder: Path) -> None:
    with pytest.raises(ArchiveError, match="row 3 has no path; expected a path in every row"):
        next(open_source(manifest(folder, "path,x\nim/a.jpg,1\n,2\n")).list())


def test_rows_that_repeat_are_taken_once_and_rows_that_differ_are_refused(folder: Path) -> None:
    twice = "path,x\nim/a.jpg,1\nim/b.jpg,2\nim/a.jpg,1\n"
    assert [raw.locator for raw in open_source(manifest(folder, twice)).list()] == ["im/a.jpg", "im/b.jpg"]
    with pytest.raises(ArchiveError, match="rows 2 and 4 give one picture different values; expected one row per"):
        next(open_source(manifest(folder, twice.replace("a.jpg,1\n", "a.jpg,9\n", 1))).list())


def test_a_broken_table_is_refused_as_an_archive(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b"path,n\xfcme\n")
    with pytest.raises(ArchiveError, match="not UTF-8 text"):
        open_source(tmp_path / "x.csv")
