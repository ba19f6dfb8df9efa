"""Zip and tar: names, order, threads, samples with side members, and damage."""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import pytest

from vecstore.errors import ArchiveError, NotAPicture, PictureError
from vecstore.records import Raw
from vecstore.sources import open_source, packed
from vecstore.sources.window import Window

Opened = Callable[[], AbstractContextManager[list[str]]]
TARS = ["x.tar", "x.tar.gz", "x.tgz", "x.tar.bz2", "x.tar.xz"]


def write_tar(path: Path, members: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> Path:
    """A tar, compressed as its suffix says."""
    kind = {"gz": "gz", "tgz": "gz", "bz2": "bz2", "xz": "xz"}.get(path.name.rpartition(".")[2], "")
    with tarfile.open(path, f"w:{kind}", format=form) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), 1_600_000_000
            tar.addfile(info, io.BytesIO(content))
    return path


def write_zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip with fixed times."""
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name, (2020, 1, 2, 3, 4, 6)), content, method)
    return path


def listed(path: Path) -> dict[str, Raw]:
    """All entries by locator, in order."""
    return {raw.locator: raw for raw in open_source(path).list()}


@pytest.fixture(scope="module")
def real(shared: Path) -> dict[str, bytes]:
    """The first 60 pictures of a real archive."""
    with zipfile.ZipFile(shared / "cxr_kermany" / "images.zip") as file:
        return {name: file.read(name) for name in sorted(file.namelist())[:60]}


def test_a_real_zip_is_listed_with_sizes_and_times(shared: Path) -> None:
    source = open_source(shared / "us_busi" / "images.zip")
    assert (source.kind, source.name) == ("zip", "images")
    raws = list(source.list())
    assert len(raws) == 780
    assert [raw.locator for raw in raws] == sorted(raw.locator for raw in raws)
    assert raws[0].locator == "benign/benign (1).jpg"
    assert raws[0].size == 14775
    checksum = zlib.crc32(bytes(raws[0].read()))
    assert raws[0].mtime_ns == 1_577_836_800 * 10**9 + checksum  # 2020-01-01, and what the content is
    assert len(raws[0].read()) == 14775


def test_reading_a_zip_from_four_threads_gives_the_right_bytes(shared: Path) -> None:
    source = open_source(shared / "cxr_kermany" / "images.zip")
    with zipfile.ZipFile(shared / "cxr_kermany" / "images.zip") as file:
        expected = {name: hashlib.sha256(file.read(name)).digest() for name in file.namelist()}
    raws = list(source.list())
    random.Random(0).shuffle(raws)
    with ThreadPoolExecutor(4) as pool:
        found = dict(pool.map(lambda raw: (raw.locator, hashlib.sha256(raw.read()).digest()), raws))
    assert found == expected


@pytest.mark.parametrize("name", TARS)
def test_tars_are_read_while_listing_later_and_from_threads(tmp_path: Path, real: dict[str, bytes], name: str) -> None:
    source = open_source(write_tar(tmp_path / name, real))
    assert (source.kind, source.name) == ("tar", "x")
    raws = []
    for raw in source.list():
        assert raw.read() == real[raw.locator]
        raws.append(raw)
    assert [raw.locator for raw in raws] == list(real)
    assert (raws[0].size, raws[0].mtime_ns) == (len(real[raws[0].locator]), 1_600_000_000 * 10**9)
    random.Random(0).shuffle(raws)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda raw: raw.read() == real[raw.locator], raws))
    wanted = sorted(real)[5:8]
    assert {raw.locator: raw.read() for raw in source.find([*wanted, "gone"])} == {n: real[n] for n in wanted}


def test_packed_files_of_all_kinds_have_one_listing(tmp_path: Path, real: dict[str, bytes]) -> None:
    expected = list(listed(write_zip(tmp_path / "x.zip", real)))
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        raws = listed(write_zip(tmp_path / f"{method}.zip", real, method))
        assert list(raws) == expected
        assert all(raws[name].read() == real[name] for name in expected[:5])
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT):
        assert list(listed(write_tar(tmp_path / f"{form}.tar", real, form))) == expected


def test_listing_a_zip_opens_it_once_and_reads_no_member(tmp_path: Path, plain: bytes, opened_files: Opened) -> None:
    path = write_zip(tmp_path / "x.zip", {f"{i}.jpg": plain for i in range(50)})
    source = open_source(path)
    with opened_files() as opened:
        raws = list(source.list())
        assert all(raw.read() == plain for raw in raws)
    assert opened == [str(path)]


def test_a_changed_zip_is_read_anew(tmp_path: Path, plain: bytes) -> None:
    path = write_zip(tmp_path / "x.zip", {"a.jpg": plain})
    assert list(listed(path)) == ["a.jpg"]
    write_zip(path, {"a.jpg": plain, "b.jpg": plain})
    assert list(listed(path)) == ["a.jpg", "b.jpg"]


# ---- names


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("./a.jpg", "a.jpg"),
        ("../../etc/a.jpg", "etc/a.jpg"),
        ("/abs/a.jpg", "abs/a.jpg"),
        ("x//y/./a.jpg", "x/y/a.jpg"),
        (unicodedata.normalize("NFD", "röntgen.jpg"), "röntgen.jpg"),
        ("slice#3", "slice%233"),
        ("a" * 150 + "/" + "b" * 150 + ".jpg", "a" * 150 + "/" + "b" * 150 + ".jpg"),
    ],
)
def test_names_become_relative_locators(tmp_path: Path, plain: bytes, written: str, expected: str) -> None:
    for path in (write_zip(tmp_path / "x.zip", {written: plain}), write_tar(tmp_path / "x.tar", {written: plain})):
        source = open_source(path)
        assert [raw.locator for raw in source.list()] == [expected]
        assert [raw.read() for raw in source.find([expected])] == [plain]


def test_names_in_a_zip_are_decoded_as_they_were_meant(tmp_path: Path, plain: bytes) -> None:
    path = tmp_path / "x.zip"
    write_zip(path, {"AAAA.jpg": plain, "BBBBB.jpg": plain, "C_D.jpg": plain})
    data = path.read_bytes()
    # Written without the UTF-8 flag: UTF-8 by most programs today, code page 437 by old ones.
    data = data.replace(b"AAAA", "üü".encode()).replace(b"BBBBB", b"caf\x82s").replace(b"C_D", b"C\\D")
    patched = bytearray(data)
    start = data.index(b"PK\x01\x02", data.index(b"C\\D") + 40)
    while start >= 0:
        patched[start + 5] = 0  # made by MS-DOS
        start = data.find(b"PK\x01\x02", start + 4)
    path.write_bytes(patched)
    assert list(listed(path)) == ["C/D.jpg", "cafés.jpg", "üü.jpg"]


def test_bytes_that_are_not_utf8_are_escaped_in_a_tar(tmp_path: Path, plain: bytes) -> None:
    path = write_tar(tmp_path / "x.tar", {"a\udcff.jpg": plain}, tarfile.GNU_FORMAT)
    assert list(listed(path)) == ["a%FF.jpg"]


def test_of_several_members_with_one_name_the_last_counts(tmp_path: Path, plain: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("./a.jpg", b"\xff\xd8\xffold")
        file.writestr("a.jpg", plain)
    assert [raw.read() for raw in open_source(tmp_path / "x.zip").list()] == [plain]


def test_folders_and_mac_side_files_follow_the_rules_of_files(tmp_path: Path, plain: bytes) -> None:
    members = {"a/": b"", "a/x.jpg": plain, "__MACOSX/a/._x.jpg": b"\0\5\x16\7\0\2", "__MACOSX/._a": b"\0\5\x16\7\0\2"}
    raws = listed(write_zip(tmp_path / "x.zip", members))
    assert list(raws) == ["__MACOSX/._a", "__MACOSX/a/._x.jpg", "a/x.jpg"]
    assert bytes(raws["__MACOSX/a/._x.jpg"].read())[:2] == b"\0\5"  # decoding says what it is
    with pytest.raises(NotAPicture):
        raws["__MACOSX/._a"].read()


def test_links_in_a_tar_are_followed(tmp_path: Path, plain: bytes) -> None:
    for name in ("x.tar", "x.tgz"):
        with tarfile.open(tmp_path / name, "w:gz" if name == "x.tgz" else "w") as tar:
            info = tarfile.TarInfo("d/a.jpg")
            info.size = len(plain)
            tar.addfile(info, io.BytesIO(plain))
            for link, kind, target in (
                ("hard.jpg", tarfile.LNKTYPE, "d/a.jpg"),
                ("d/soft.jpg", tarfile.SYMTYPE, "a.jpg"),
                ("up.jpg", tarfile.SYMTYPE, "../../etc/passwd"),
            ):
                info = tarfile.TarInfo(link)
                info.type, info.linkname = kind, target
                tar.addfile(info)
            info = tarfile.TarInfo("fifo.jpg")
            info.type = tarfile.FIFOTYPE
            tar.addfile(info)
        raws = listed(tmp_path / name)
        assert list(raws) == ["d/a.jpg", "hard.jpg", "d/soft.jpg", "up.jpg"]
        assert raws["hard.jpg"].read() == raws["d/soft.jpg"].read() == plain
        with pytest.raises(PictureError, match=r"a link to etc/passwd, which is not in the tar"):
            raws["up.jpg"].read()


# ---- WebDataset samples


@pytest.mark.parametrize("name", ["x.zip", *TARS])
def test_side_members_become_metadata(tmp_path: Path, plain: bytes, name: str) -> None:
    about = {"age": 7, "score": 0.5, "ok": True, "site": "A", "none": None, "boxes": [1], "image": "x" * 5000}
    members = {
        "s/000.cls": b"3\n",
        "s/000.jpg": plain,
        "s/000.json": json.dumps(about).encode(),
        "s/001.left.jpg": plain,
        "s/001.right.jpg": plain,
        "s/001.txt": b"kein Befund",
        "s/002.jpg": plain,
        "s/003.json": b'{"lonely": 1}',
        "s/004.jpg": plain,
        "s/004.json": b"{not json",
    }
    write = write_zip if name == "x.zip" else write_tar
    raws = listed(write(tmp_path / name, members))
    assert list(raws) == ["s/000.jpg", "s/001.left.jpg", "s/001.right.jpg", "s/002.jpg", "s/003.json", "s/004.jpg"]
    assert raws["s/000.jpg"].metadata == {"cls": 3, "age": 7, "score": 0.5, "ok": 1, "site": "A", "none": None}
    assert raws["s/001.left.jpg"].metadata == raws["s/001.right.jpg"].metadata == {"txt": "kein Befund"}
    assert raws["s/002.jpg"].metadata == raws["s/004.jpg"].metadata == {}
    assert all(raw.read() == plain for locator, raw in raws.items() if locator.endswith("jpg"))
    with pytest.raises(NotAPicture):
        raws["s/003.json"].read()
    found = list(open_source(tmp_path / name).find(["s/000.jpg", "s/001.right.jpg", "s/gone.jpg"]))
    assert {raw.locator: raw.metadata for raw in found} == {
        "s/000.jpg": raws["s/000.jpg"].metadata,
        "s/001.right.jpg": {"txt": "kein Befund"},
    }


def test_members_that_are_not_next_to_each_other_are_no_sample(tmp_path: Path, plain: bytes) -> None:
    members = {"a.jpg": plain, "b.jpg": plain, "a.json": b'{"x": 1}'}
    assert listed(write_tar(tmp_path / "x.tar", members))["a.jpg"].metadata == {}


def test_files_named_by_uids_are_no_sample(tmp_path: Path, plain: bytes) -> None:
    members = {f"1.2.840.{i}.jpg": plain for i in range(200)} | {"1.2.840.txt": b"all of them"}
    raws = listed(write_tar(tmp_path / "x.tar", members))
    assert list(raws) == list(members)
    assert all(raw.metadata == {} for raw in raws.values())


# ---- damage


def test_an_encrypted_member_is_one_failure(tmp_path: Path, plain: bytes) -> None:
    path = write_zip(tmp_path / "x.zip", {"a.jpg": plain, "b.jpg": plain})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    raws = listed(path)
    with pytest.raises(PictureError, match=r"encrypted in its zip; expected a member without password"):
        raws["a.jpg"].read()
    assert raws["b.jpg"].read() == plain


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_a_damaged_member_is_one_failure(tmp_path: Path, plain: bytes, method: int) -> None:
    path = write_zip(tmp_path / "x.zip", {"a.jpg": plain, "b.jpg": plain}, method)
    data = bytearray(path.read_bytes())
    for i in range(3000, 3040):
        data[i] ^= 0x55
    path.write_bytes(data)
    raws = listed(path)
    with pytest.raises(PictureError, match=r"damaged in its zip|can't be read"):
        raws["a.jpg"].read()
    assert raws["b.jpg"].read() == plain


def test_an_unknown_compression_is_one_failure(tmp_path: Path, plain: bytes) -> None:
    path = write_zip(tmp_path / "x.zip", {"a.jpg": plain})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 10] = 9  # Deflate64
    data[8] = 9
    path.write_bytes(data)
    with pytest.raises(PictureError, match=r"packed in a way that Python can't read"):
        listed(path)["a.jpg"].read()


def test_a_member_that_announces_more_than_two_gibibytes_is_refused(tmp_path: Path, plain: bytes) -> None:
    path = write_zip(tmp_path / "x.zip", {"a.jpg": plain})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 24 :][:4]
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, 3_000_000_000)
    path.write_bytes(data)
    with pytest.raises(PictureError, match=r"2\.8 GiB in one file; expected at most 2 GiB"):
        listed(path)["a.jpg"].read()


def test_a_zip_without_its_directory_is_refused(tmp_path: Path, plain: bytes) -> None:
    path = write_zip(tmp_path / "x.zip", {"a.jpg": plain})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ArchiveError, match=r"x\.zip: damaged zip: .*; expected a zip file; copy it again"):
        listed(path)


@pytest.mark.parametrize("name", TARS)
def test_a_tar_that_is_cut_short_is_refused_after_what_is_whole(
    tmp_path: Path, real: dict[str, bytes], name: str
) -> None:
    path = write_tar(tmp_path / name, real)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    found: list[str] = []
    with pytest.raises(ArchiveError, match=r"damaged or cut short: .*; expected a whole tar file; copy it again"):
        found.extend(raw.locator for raw in open_source(path).list())
    # bzip2 and xz keep back whole blocks.
    assert len(found) < 60
    assert found == list(real)[: len(found)]


def test_a_damaged_header_in_the_middle_is_no_end(tmp_path: Path, real: dict[str, bytes]) -> None:
    path = write_tar(tmp_path / "x.tar", real)
    with tarfile.open(path) as tar:
        offset = tar.getmembers()[30].offset
    data = bytearray(path.read_bytes())
    data[offset : offset + 100] = b"\x99" * 100
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=f"no valid header at byte {offset}"):
        listed(path)


def test_a_member_of_a_tar_that_was_cut_later_is_one_failure(tmp_path: Path, real: dict[str, bytes]) -> None:
    path = write_tar(tmp_path / "x.tar", real)
    raws = list(listed(path).values())
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    assert raws[0].read() == real[raws[0].locator]
    with pytest.raises(PictureError, match=r"cut short in its tar; expected \d+ bytes"):
        raws[-1].read()


def test_gzip_that_holds_no_tar_is_no_archive(tmp_path: Path) -> None:
    import gzip

    (tmp_path / "volume.nii.gz").write_bytes(gzip.compress(b"\x5c\x01\0\0" + b"\0" * 1000))
    with pytest.raises(ArchiveError, match="not an archive that is known here"):
        open_source(tmp_path / "volume.nii.gz")


def test_packed_suffixes_are_told_from_others() -> None:
    names = ["a.zip", "A.ZIP", "a.tar.gz", "a.b.tgz", "a.gz", "a.nii.gz", "zip", "a.tar"]
    assert [packed.packed_suffix(name) for name in names] == [".zip", ".ZIP", ".tar.gz", ".tgz", "", "", "", ".tar"]


# ---- reading compressed data at any place


def test_a_window_reads_anywhere_and_passes_once_when_asked_in_order() -> None:
    content = random.Random(0).randbytes(10 << 20)
    packed_bytes = zlib.compress(content, 1)
    starts = []

    def start() -> IO[bytes]:
        starts.append(1)
        return io.BytesIO(zlib.decompress(packed_bytes))

    window = Window(start, keep_bytes=3 << 20)
    for offset in range(0, 10 << 20, 700_001):
        assert window.read(offset, 1000) == content[offset : offset + 1000]
        assert window.read(max(0, offset - 500_000), 10) == content[max(0, offset - 500_000) :][:10]
    assert len(starts) == 1
    assert window.read(0, 5 << 20) == content[: 5 << 20]
    assert len(starts) == 2
    assert window.read(len(content) - 5, 100) == content[-5:]
    assert window.read(len(content) + 5, 100) == b""


def test_json_of_a_sample_keeps_no_name_of_a_person(tmp_path: Path, plain: bytes) -> None:
    said: dict[str, str | int] = {
        "PatientName": "Doe^Jane",
        "patient_birth_date": "1970",
        "OtherPatientIDs": "7",
        "Address": "x",
    }
    said |= {"PHONE": "1", "referring_physician_name": "Roe", "PersonName": "x", "PatientID": "7", "age": 60}
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("1.jpg", plain)
        file.writestr("1.json", json.dumps(said))
    (raw,) = open_source(tmp_path / "a.zip").list()
    assert raw.metadata == {"PatientID": "7", "age": 60}


def test_a_link_in_a_tar_that_broke_is_named_without_the_path_of_the_tar(tmp_path: Path, plain: bytes) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, kind in (("l.jpg", tarfile.SYMTYPE), ("a.jpg", tarfile.REGTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, "a.jpg", 0 if kind == tarfile.SYMTYPE else len(plain)
            tar.addfile(info, io.BytesIO(plain) if info.size else None)
    raws = list(open_source(path).list())
    path.write_bytes(path.read_bytes()[:512] + b"broken" * 1000)
    with pytest.raises(PictureError, match="damaged in its tar") as refused:
        raws[0].read()
    assert str(tmp_path) not in str(refused.value)
