"""Folders: order, laziness, bystanders, links, names of every kind."""

from __future__ import annotations

import io
import itertools
import os
import tarfile
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from vecstore.errors import ArchiveError, NotAPicture, PictureError
from vecstore.sources import Source, base, open_source

Opened = Callable[[], AbstractContextManager[list[str]]]


def locators(source: Source) -> list[str]:
    """All of them."""
    return [raw.locator for raw in source.list()]


def readable(source: Source) -> list[str]:
    """Those that are no bystanders."""
    found = []
    for raw in source.list():
        try:
            raw.read()
        except NotAPicture:
            continue
        found.append(raw.locator)
    return found


def test_files_come_in_the_order_of_their_names_with_size_and_time(archive: Path, plain: bytes) -> None:
    raws = list(open_source(archive).list())
    expected = ["a.jpg", "b.jpg", "labels.csv", "sub/README", "sub/c.jpg", "sub/deep/d", "sub.jpg"]
    assert [raw.locator for raw in raws] == expected
    for raw in raws:
        found = (archive / raw.locator).stat()
        assert (raw.size, raw.mtime_ns) == (found.st_size, found.st_mtime_ns)
    assert raws[0].read() == plain


def test_the_name_is_that_of_the_folder(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(archive / "sub")
    names = [open_source(path).name for path in (archive, ".", "..", "deep/..", f"{archive}/")]
    assert names == ["archive", "sub", "archive", "sub", "archive"]
    decomposed = archive / unicodedata.normalize("NFD", "röntgen.v2")
    decomposed.mkdir()
    assert open_source(decomposed).name == unicodedata.normalize("NFC", "röntgen.v2")


def test_listing_opens_no_file(archive: Path, opened_files: Opened) -> None:
    source = open_source(archive)
    with opened_files() as opened:
        raws = list(source.list())
        assert list(source.find(["a.jpg", "sub/c.jpg"]))
    assert opened == []
    with opened_files() as opened:
        raws[0].read()
    assert opened == [str(archive / "a.jpg")]


def test_listing_goes_on_only_as_far_as_it_is_asked(archive: Path) -> None:
    found = open_source(archive).list()
    assert next(found).locator == "a.jpg"
    (archive / "sub" / "late.jpg").write_bytes(b"")
    assert "sub/late.jpg" in [raw.locator for raw in found]


def test_the_messy_folder_has_one_bystander(shared: Path) -> None:
    source = open_source(shared / "messy")
    everything = locators(source)
    assert len(everything) == 36
    assert set(everything) - set(readable(source)) == {"cases.csv"}


def test_of_a_real_archive_only_the_pictures_are_read(shared: Path) -> None:
    pictures = readable(open_source(shared))
    assert len(pictures) == 609 + 1003 + 1190 + 527 + 322 + 780 + 28 + 35 + 9 + 32 + 35
    assert "us_busi/images.zip!benign/benign (1).jpg" in pictures


@pytest.mark.parametrize(
    ("name", "content", "is_read"),
    [
        ("no_suffix", b"\xff\xd8\xff\xe0....", True),
        ("scan.0001", b"\0" * 128 + b"DICM", True),
        ("IM000001", b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100", True),
        ("1.2.840.1", b"\x08\x00\x00\x00\x04\x00\x00\x00\x66\x01\x00\x00", False),
        ("text.jpg", b"only text", True),
        ("EMPTY.PNG", b"", True),
        ("x.dcm", b"anything", True),
        ("empty", b"", False),
        ("bmi.csv", b"BMI,age\n21,33\n", False),
        ("notes", b"P1 is the first patient", False),
        (".DS_Store", b"\0\0\0\1Bud1\0", False),
        ("Thumbs.db", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", False),
        ("DICOMDIR", b"\0" * 128 + b"DICM", False),
        ("book.docx", b"PK\x03\x04", False),
        ("model.pt", b"PK\x03\x04", False),
    ],
)
def test_what_is_read_and_what_is_passed_over(tmp_path: Path, name: str, content: bytes, is_read: bool) -> None:
    (tmp_path / name).write_bytes(content)
    (raw,) = open_source(tmp_path).list()
    if is_read:
        assert raw.read() == content
    else:
        with pytest.raises(NotAPicture):
            raw.read()


def test_a_bystander_is_not_read_whole(tmp_path: Path) -> None:
    file = io.BytesIO(b"just text " * 1000)
    with pytest.raises(NotAPicture):
        base.picture_bytes("notes.txt", file.read, 10_000)
    assert file.tell() == 512


def test_a_file_that_is_too_large_is_refused_without_reading(tmp_path: Path) -> None:
    with (tmp_path / "huge.tif").open("wb") as file:
        file.write(b"II*\0")
        file.truncate(3 << 30)  # no blocks on disk
    (raw,) = open_source(tmp_path).list()
    with pytest.raises(PictureError, match=r"3\.0 GiB in one file; expected at most 2 GiB"):
        raw.read()


# ---- names


def test_names_that_are_not_utf8_or_not_nfc_have_locators_and_are_found_again(tmp_path: Path, plain: bytes) -> None:
    decomposed = unicodedata.normalize("NFD", "ö")
    names = [b"a\xff.jpg", f"{decomposed}.jpg".encode(), b"slice#2.jpg", b"slice#2", b"a!b.jpg", b"100%.jpg"]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(plain)
    source = open_source(tmp_path)
    found = locators(source)
    assert sorted(found) == sorted(["a%FF.jpg", "ö.jpg", "slice#2.jpg", "slice%232", "a!b.jpg", "100%.jpg"])
    again = {raw.locator: raw for raw in source.find([*found, "gone.jpg"])}
    assert again.keys() == set(found)
    assert all(raw.read() == plain for raw in again.values())


def test_two_names_that_nfc_makes_one_stay_two(tmp_path: Path, plain: bytes) -> None:
    (tmp_path / "ö.jpg").write_bytes(plain)
    (tmp_path / unicodedata.normalize("NFD", "ö.jpg")).write_bytes(b"other")
    raws = {raw.locator: raw for raw in open_source(tmp_path).list()}
    assert set(raws) == {"ö.jpg", "o%CC%88.jpg"}
    assert raws["ö.jpg"].read() == plain
    assert raws["o%CC%88.jpg"].read() == b"other"
    found = {raw.locator: raw.read() for raw in open_source(tmp_path).find(list(raws))}
    assert found == {"ö.jpg": plain, "o%CC%88.jpg": b"other"}


def test_four_hundred_folders_deep(tmp_path: Path, plain: bytes) -> None:
    depth = 400
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(depth):
            os.mkdir("deep", dir_fd=here)
            inner = os.open("deep", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = inner
        file = os.open("x.jpg", os.O_WRONLY | os.O_CREAT, dir_fd=here)
        os.write(file, plain)
        os.close(file)
    finally:
        os.close(here)
    (raw,) = open_source(tmp_path).list()
    assert raw.locator == "deep/" * depth + "x.jpg"
    assert raw.read() == plain


# ---- links and special files


def test_links_are_followed_but_not_in_circles(archive: Path, plain: bytes) -> None:
    (archive / "sub" / "up").symlink_to(archive)
    (archive / "sub" / "here").symlink_to(".")
    (archive / "again").symlink_to(archive / "sub" / "deep")
    (archive / "link.jpg").symlink_to("a.jpg")
    (archive / "itself.jpg").symlink_to("itself.jpg")
    (archive / "nothing.jpg").symlink_to("absent.jpg")
    (archive / "nothing").symlink_to("absent")
    source = open_source(archive)
    found = {raw.locator: raw for raw in source.list()}
    assert len(locators(source)) == len(found) == 7 + 5
    assert found["again/d"].read() == plain
    assert found["link.jpg"].read() == plain
    with pytest.raises(PictureError, match=r"file not found; restore it, or check the link"):
        found["nothing.jpg"].read()
    with pytest.raises(NotAPicture):
        found["nothing"].read()
    with pytest.raises(PictureError, match="can't be read: too many levels of symbolic links"):
        found["itself.jpg"].read()


def test_pipes_and_sockets_are_not_listed(archive: Path) -> None:
    os.mkfifo(archive / "pipe.jpg")
    assert "pipe.jpg" not in locators(open_source(archive))
    assert list(open_source(archive).find(["pipe.jpg"])) == []


# ---- what can't be read


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder that another user owns, and the rights of a user who is not root."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        root = os.geteuid() == 0
        if root:
            nobody = 65534
            os.chown(folder, nobody, nobody)
            os.seteuid(nobody)
        try:
            yield Path(folder)
        finally:
            if root:
                os.seteuid(0)
            for path in Path(folder).rglob("*"):
                path.chmod(0o700)


def test_a_file_without_permission_is_one_failure(as_nobody: Path, plain: bytes) -> None:
    for name in ("a.jpg", "b.jpg"):
        (as_nobody / name).write_bytes(plain)
    (as_nobody / "a.jpg").chmod(0)
    first, second = open_source(as_nobody).list()
    with pytest.raises(PictureError, match=r"no permission to read it; check the file's permissions"):
        first.read()
    assert second.read() == plain


def test_a_folder_without_permission_ends_the_listing(as_nobody: Path, plain: bytes) -> None:
    (as_nobody / "a.jpg").write_bytes(plain)
    (as_nobody / "closed").mkdir()
    (as_nobody / "closed").chmod(0)
    with pytest.raises(ArchiveError, match=r"closed: this folder in the archive can't be listed: permission"):
        locators(open_source(as_nobody))


def test_a_file_that_goes_away_is_one_failure(archive: Path) -> None:
    raws = list(open_source(archive).list())
    (archive / "a.jpg").unlink()
    with pytest.raises(PictureError, match="file not found"):
        raws[0].read()


# ---- finding


def test_known_files_are_found_without_reading_their_folder(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    scandir = os.scandir

    def counted(path: str | Path) -> Any:
        asked.append(str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", counted)
    source = open_source(archive)
    found = [raw.locator for raw in source.find(["sub/deep/d", "a.jpg", "a.jpg"])]
    assert sorted(found) == ["a.jpg", "sub/deep/d"]
    assert asked == []
    assert list(source.find(["gone.jpg", "../archive/a.jpg", "/a.jpg", "sub", "sub/deep/d/x", "a\0b"])) == []
    assert set(asked) <= {str(archive), str(archive / "sub"), str(archive / "sub" / "deep")}


# ---- archives in a folder


def pack(path: Path, members: dict[str, bytes]) -> None:
    """A zip, or a tar by its suffix."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for name, content in members.items():
                file.writestr(name, content)
        return
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("name", ["in.zip", "in.tar", "in.tar.gz", "in.TGZ"])
def test_archives_in_a_folder_are_listed_in_place(archive: Path, plain: bytes, name: str) -> None:
    pack(archive / "sub" / name, {"x/y.jpg": plain, "notes.txt": b"text"})
    source = open_source(archive)
    inside = [f"sub/{name}!notes.txt", f"sub/{name}!x/y.jpg"]
    found = {raw.locator: raw for raw in source.list()}
    assert [locator for locator in found if "!" in locator] == (inside if "zip" in name else inside[::-1])
    assert found[f"sub/{name}!x/y.jpg"].read() == plain
    with pytest.raises(NotAPicture):
        found[f"sub/{name}!notes.txt"].read()
    again = list(source.find([f"sub/{name}!x/y.jpg", f"sub/{name}!gone.jpg", "a.jpg"]))
    assert {raw.locator for raw in again} == {f"sub/{name}!x/y.jpg", "a.jpg"}
    assert all(raw.read() == plain for raw in again)


def test_a_damaged_archive_in_a_folder_is_one_failure(archive: Path, plain: bytes) -> None:
    pack(archive / "sub" / "in.zip", {"x.jpg": plain})
    whole = (archive / "sub" / "in.zip").read_bytes()
    (archive / "sub" / "in.zip").write_bytes(whole[: len(whole) - 30])
    (archive / "sub" / "text.zip").write_text("no zip at all")
    found = {raw.locator: raw for raw in open_source(archive).list()}
    assert len(found) == 9
    with pytest.raises(PictureError, match=r"^in\.zip: damaged zip: .*; expected a zip file; copy it again"):
        found["sub/in.zip"].read()
    with pytest.raises(NotAPicture):
        found["sub/text.zip"].read()


def test_many_zips_do_not_use_up_the_open_files(tmp_path: Path, plain: bytes) -> None:
    import resource

    for i in range(80):
        pack(tmp_path / f"{i:03d}.zip", {"x.jpg": plain})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 30, hard))
    try:
        raws = list(open_source(tmp_path).list())
        assert len(raws) == 80
        assert all(raw.read() == plain for raw in itertools.chain(raws, reversed(raws)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
