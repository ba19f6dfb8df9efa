"""Zip and tar archives, read in place: nothing is unpacked, so no member can be written anywhere."""

from __future__ import annotations

import bz2
import calendar
import gzip
import lzma
import os
import tarfile
import threading
import zipfile
import zlib
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any, ClassVar, cast

import numpy as np

from vecstore.errors import ArchiveError, PictureError
from vecstore.files import SNIFF_BYTES, locator_part, sniff
from vecstore.records import Raw
from vecstore.sources.base import Source, archive_name, cannot_open, check_bytes, picture_bytes, refuse, unreadable
from vecstore.sources.samples import could_be_side, sample_key, with_metadata
from vecstore.sources.window import Window

ZIP_SUFFIXES = (".zip",)
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")
_COMPRESSIONS: tuple[tuple[bytes, Callable[..., Any]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
)
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, gzip.BadGzipFile, EOFError)
_UTF8_FLAG, _ENCRYPTED_FLAG, _DOS = 0x800, 0x1, 0


def packed_suffix(name: str) -> str:
    """The suffix of a name that says zip or tar, or ""."""
    lower = name.lower()
    # The longest first: `.tar.gz` before `.gz` would be.
    fits = [suffix for suffix in ZIP_SUFFIXES + TAR_SUFFIXES if lower.endswith(suffix)]
    return name[-len(max(fits, key=len)) :] if fits else ""


def packed_kind(path: Path, head: bytes) -> str | None:
    """What a file is by its content: "zip", "tar" (compressed or not), or None.

    A compressed file whose beginning is damaged is a tar if its name says so.
    """
    if sniff(head) == "zip":
        return "zip"
    opener = _opener(head)
    if opener is not None:
        try:
            with opener(str(path)) as file:
                head = file.read(SNIFF_BYTES)
        except (*_DAMAGE, OSError):
            # Listing says what is wrong with it; here only its name tells what it was to be.
            return "tar" if packed_suffix(path.name).lower() in TAR_SUFFIXES else None
    return "tar" if _is_tar(head) else None


def _is_tar(head: bytes) -> bool:
    if sniff(head) == "tar":
        return True
    try:
        # Tars from before 1988 have no magic, only a check sum.
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def _opener(head: bytes) -> Callable[[str], IO[bytes]] | None:
    return next((opener for magic, opener in _COMPRESSIONS if head.startswith(magic)), None)


def member_name(name: str) -> str:
    """A member's name as a locator: relative, NFC, `/`, without `.` and `..`.

    >>> member_name("./a//b.png"), member_name("../../etc/x.png"), member_name("/a.png")
    ('a/b.png', 'etc/x.png', 'a.png')
    """
    return "/".join(locator_part(part) for part in name.split("/") if part not in ("", ".", ".."))


class ZipSource(Source):
    """A zip file; members in the order of their names.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ArchiveError
        From `list`: no zip file, or its directory is damaged.
    """

    kind: ClassVar[str] = "zip"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = archive_name(path, packed_suffix(path.name) or path.suffix)

    def list(self) -> Iterator[Raw]:
        """Members in the order of their names; of several with one name the last, as when unpacking."""
        members = self._members()
        return with_metadata(self._entries(members, sorted(members)))

    def find(self, locators: Collection[str]) -> Iterator[Raw]:
        """Members by name, with their side members; no other is read."""
        members = self._members()
        wanted = {locator for locator in locators if locator in members}
        keys = {sample_key(name) for name in wanted}
        near = sorted(name for name in members if sample_key(name) in keys) if wanted else []
        return (raw for raw in with_metadata(self._entries(members, near)) if raw.locator in wanted)

    def _entries(self, members: dict[str, zipfile.ZipInfo], names: Iterable[str]) -> Iterator[tuple[Raw, bytes | None]]:
        for name in names:
            info = members[name]
            yield self._raw(name, info), self._side(info) if could_be_side(name, info.file_size) else None

    def _members(self) -> dict[str, zipfile.ZipInfo]:
        try:
            opened = _zip(self.path)
        except _DAMAGE as error:
            raise ArchiveError(f"{self.path}: damaged zip: {error}", "a zip file", "copy it again") from error
        except OSError as error:
            raise cannot_open(self.path, error) from error
        infos = opened.file.infolist()
        return {member_name(_true_name(info)): info for info in infos if not info.is_dir()}

    def _raw(self, name: str, info: zipfile.ZipInfo) -> Raw:
        # Many programs write one fixed time: the check sum of the content tells what the time does not.
        # It adds at most 4.3 s.
        return Raw(name, info.file_size, (_zip_time_ns(info) or 0) + info.CRC, partial(self._read, name, info))

    def _read(self, name: str, info: zipfile.ZipInfo) -> bytes:
        check_bytes(info.file_size)
        with self._open(info) as member:
            # Never the declared size: `read` itself stops there.
            return picture_bytes(name, member.read)

    def _side(self, info: zipfile.ZipInfo) -> bytes | None:
        try:
            with self._open(info) as member:
                return member.read()
        except PictureError:
            return None

    @contextmanager
    def _open(self, info: zipfile.ZipInfo) -> Iterator[IO[bytes]]:
        if info.flag_bits & _ENCRYPTED_FLAG:
            raise PictureError("encrypted in its zip", "a member without password", "unpack the zip first")
        try:
            opened = _zip(self.path)
            with opened.lock:
                member = opened.file.open(info)
            try:
                yield member
            finally:
                with opened.lock:
                    member.close()
        except NotImplementedError as error:
            raise PictureError(f"packed in a way that Python can't read: {error}", do="pack it anew") from error
        except _DAMAGE as error:
            raise PictureError(f"damaged in its zip: {error}", do="copy the zip again") from error
        except OSError as error:
            raise unreadable(error) from error


class _OpenZip:
    """An open zip; `lock` guards its count of open members, reading members needs none."""

    def __init__(self, path: str) -> None:
        self.file = zipfile.ZipFile(path)
        self.lock = threading.Lock()


@lru_cache(maxsize=8)
def _open_zip(path: str, _size: int, _mtime_ns: int) -> _OpenZip:
    """Open zips, few at once: a folder may hold ten thousand. One closes when nobody reads it any more."""
    return _OpenZip(path)


def _zip(path: Path) -> _OpenZip:
    stat = path.stat()
    return _open_zip(str(path), stat.st_size, stat.st_mtime_ns)


def _true_name(info: zipfile.ZipInfo) -> str:
    """A member's name as it was meant: many programs write UTF-8 without saying so."""
    name = info.filename
    if not info.flag_bits & _UTF8_FLAG:
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            name = info.filename
    if info.create_system == _DOS and "/" not in name:
        name = name.replace("\\", "/")
    return name


def _zip_time_ns(info: zipfile.ZipInfo) -> int | None:
    # Local time of an unknown place: taken as UTC, so that it is the same everywhere.
    year, month, day, *clock = info.date_time
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    return calendar.timegm((year, month, day, *clock)) * 10**9


class TarSource(Source):
    """A tar file, plain or compressed; members in the order of the file, of several with one name the last.

    A header has no check sum of the content: a member that changed under equal size and time is found
    only by hashing (`--verify-content`).

    A plain one is read at any place. A compressed one is decompressed twice for listing and once for
    reading, as long as members are read in about the order of the listing.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ArchiveError
        From `list`: no tar file, damaged or cut short.
    """

    kind: ClassVar[str] = "tar"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = archive_name(path, packed_suffix(path.name) or path.suffix)
        self._open: Callable[..., Any] = open
        self._window: Window | None = None
        self._repeated: tuple[tuple[int, int], frozenset[int]] | None = None

    def list(self) -> Iterator[Raw]:
        """Members in the order of the file."""
        return with_metadata(self._entries())

    def _entries(self) -> Iterator[tuple[Raw, bytes | None]]:
        self._prepare()
        overwritten = self._overwritten()
        with self._tar() as tar:
            for number, info in enumerate(_members(tar)):
                if number in overwritten or not _is_entry(info):
                    continue
                name = member_name(info.name)
                side = None
                if info.isreg() and could_be_side(name, info.size):
                    content = tar.extractfile(info)
                    side = content.read() if content else None
                yield Raw(name, info.size, int(info.mtime * 10**9), self._reader(name, info)), side

    def _overwritten(self) -> frozenset[int]:
        """Numbers of members whose name comes again later, as when unpacking: found in a pass over the headers."""
        try:
            stat = self.path.stat()
        except OSError as error:
            raise cannot_open(self.path, error) from error
        seen = (stat.st_size, stat.st_mtime_ns)
        if self._repeated is None or self._repeated[0] != seen:
            # 16 bytes a member: the listing may be larger than memory.
            names, numbers = array("q"), array("q")
            with self._tar() as tar:
                for number, info in enumerate(_members(tar)):
                    if _is_entry(info):
                        names.append(hash(member_name(info.name)))
                        numbers.append(number)
            hashes = np.asarray(names)
            order = np.argsort(hashes, kind="stable")
            again = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
            self._repeated = seen, frozenset(np.asarray(numbers)[order[again]].tolist())
        return self._repeated[1]

    def _prepare(self) -> None:
        """Find out once whether the file is compressed, before threads ask."""
        try:
            with self.path.open("rb") as file:
                opener = _opener(file.read(SNIFF_BYTES))
        except OSError as error:
            raise cannot_open(self.path, error) from error
        if opener is not None and self._window is None:
            self._open = opener
            self._window = Window(partial(opener, str(self.path)))

    @contextmanager
    def _tar(self) -> Iterator[tarfile.TarFile]:
        try:
            # The stream is ours, because tarfile's own guess hides why a damaged one can't be opened.
            with (
                self._open(str(self.path), "rb") as stream,
                tarfile.open(fileobj=stream, mode="r:", encoding="utf-8", errors="surrogateescape") as tar,
            ):
                yield tar
        except _DAMAGE as error:
            raise ArchiveError(
                f"{self.path}: damaged or cut short: {error}", "a whole tar file", "copy it again"
            ) from error
        except OSError as error:
            raise cannot_open(self.path, error) from error

    def _reader(self, name: str, info: tarfile.TarInfo) -> Callable[[], bytes]:
        if info.isreg() and not info.issparse():
            return partial(self._read, name, info.offset_data, info.size)
        target = info.linkname if info.islnk() else os.path.join(os.path.dirname(info.name), info.linkname)  # noqa: PTH118, PTH120 - names, not paths
        return partial(self._read_link, name, info.name if info.isreg() else os.path.normpath(target))

    def _read(self, name: str, offset: int, size: int) -> bytes:
        check_bytes(size)
        try:
            if self._window is not None:
                data = picture_bytes(name, _at(self._window, offset), size)
            else:
                with self.path.open("rb") as file:
                    file.seek(offset)
                    data = picture_bytes(name, file.read, size)
        except _DAMAGE as error:
            raise PictureError(f"damaged in its tar: {error}", do="copy the tar again") from error
        except OSError as error:
            raise unreadable(error) from error
        if len(data) < size:
            refuse(PictureError("cut short in its tar", f"{size} bytes", "copy the tar again"))
        return data

    def _read_link(self, name: str, target: str) -> bytes:
        """A link within the tar, or a sparse member: rare, so found by going through the file again."""
        wanted = member_name(target)
        try:
            with self._tar() as tar:
                overwritten = self._overwritten()
                for number, info in enumerate(_members(tar)):
                    if number not in overwritten and info.isreg() and member_name(info.name) == wanted:
                        check_bytes(info.size)
                        content = tar.extractfile(info)
                        return picture_bytes(name, content.read if content else lambda _: b"")
        except ArchiveError as error:
            # Not its words: they hold the archive's path.
            raise PictureError("damaged in its tar", error.expected, error.do) from error
        raise PictureError(f"a link to {wanted}, which is not in the tar")


def _is_entry(info: tarfile.TarInfo) -> bool:
    return info.isreg() or info.islnk() or info.issym()


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """All members, without keeping them; `TarFile` itself remembers each one."""
    while (info := tar.next()) is not None:
        yield info
        cast(Any, tar).members.clear()
    file = tar.fileobj
    if file is None:
        return
    # `next` takes a damaged header for the end, which would lose the rest without a word.
    file.seek(tar.offset)
    rest = file.read(tarfile.BLOCKSIZE)
    if rest.strip(b"\0"):
        raise tarfile.ReadError(f"no valid header at byte {tar.offset}")


def _at(window: Window, offset: int) -> Callable[[int], bytes]:
    """A `read` that goes on from `offset`."""
    position = offset

    def read(size: int) -> bytes:
        nonlocal position
        data = window.read(position, size)
        position += len(data)
        return data

    return read
