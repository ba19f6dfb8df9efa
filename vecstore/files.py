"""Files: hashes, canonical JSON, writing that survives a crash, names, and what bytes are by their look.

Everything vecstore writes goes through here, so that private modes (0600, 0700), syncing and the
translation of the system's errors into ours are in one place.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from vecstore.errors import DiskFull, NotWritable, UsageError

PICTURE_SUFFIXES = frozenset(
    ".apng .avif .bmp .dcm .dib .dicom .gif .ico .ima .j2k .jfif .jp2 .jpe .jpeg .jpg .jpx .pbm .pgm "
    ".png .pnm .ppm .ras .sgi .tga .tif .tiff .webp".split()
)
"""Names that claim to be a picture: what is under them and can't be decoded is a failure, not a bystander."""

_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (128, b"DICM", "dicom"),  # before the others: its free preamble may be the head of a TIFF
    (0, b"\xff\xd8\xff", "jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (0, b"GIF87a", "gif"),
    (0, b"GIF89a", "gif"),
    (0, b"II*\x00", "tiff"),
    (0, b"MM\x00*", "tiff"),
    (0, b"II+\x00", "tiff"),
    (0, b"MM\x00+", "tiff"),
    (8, b"WEBP", "webp"),
    (0, b"\x00\x00\x00\x0cjP  \r\n\x87\n", "jp2"),
    (0, b"\xff\x4f\xff\x51", "jp2"),
    (4, b"ftypavif", "avif"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (257, b"ustar", "tar"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"\x00\x05\x16\x07", "appledouble"),
    (0, b"PAR1", "parquet"),
)
_BMP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})
"""Lengths of the second header of a BMP: "BM" alone also begins a text about BMI."""
SNIFF_BYTES = 512
PICTURE_KINDS = frozenset({"jpeg", "png", "gif", "tiff", "bmp", "webp", "dicom", "jp2", "avif", "pnm"})


def sniff(head: bytes) -> str | None:
    """What a file is by its first `SNIFF_BYTES` bytes, whatever its name says.

    Returns
    -------
    str or None
        "jpeg", "png", "gif", "tiff", "bmp", "webp", "dicom", "jp2", "avif", "pnm" (the pictures),
        "zip", "tar", "gzip", "parquet", "appledouble", or None.

    Examples
    --------
    >>> sniff(b"P5\\n28 28\\n255\\n"), sniff(b"<html>"), sniff(b"")
    ('pnm', None, None)
    """
    for offset, magic, kind in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return kind
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    if len(head) > 3 and head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in b" \t\r\n":
        return "pnm" if head[3:4] in b"0123456789# \t\r\n" else None
    return "dicom" if _bare_dicom(head) else None


def _bare_dicom(head: bytes) -> bool:
    """Whether bytes without preamble begin with a little-endian element as a DICOM header does.

    The lowest elements of groups 0002 and 0008, with a VR or (implicit) a short even length.
    """
    group, element = int.from_bytes(head[:2], "little"), int.from_bytes(head[2:4], "little")
    if len(head) < 16 or group not in (2, 8) or element > 0x18:
        return False
    if head[4:6] in (b"UL", b"OB", b"UI", b"SH", b"AE", b"CS", b"DA", b"TM", b"LO"):
        return True
    length = int.from_bytes(head[4:8], "little")
    return group == 8 and (length == 4 if element == 0 else length % 2 == 0 and 0 < length <= 128)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no blanks: equal values give equal text.

    >>> canonical_json({"b": (1, 2), "a": 0.5})
    '{"a":0.5,"b":[1,2]}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class BlockSha256:
    """SHA-256 of one block; of several, SHA-256 over theirs: threads can compute it side by side.

    The length has to be compared beside it: the digests of blocks, as a file, would have the digest of the blocks.

    Examples
    --------
    >>> digest = BlockSha256()
    >>> digest.update(b"short"), digest.hexdigest() == hashlib.sha256(b"short").hexdigest()
    (None, True)
    """

    BLOCK = 16 << 20

    def __init__(self) -> None:
        self._digests: list[bytes] = []
        self._open, self._filled = hashlib.sha256(), 0

    def update(self, data: Any) -> None:
        """Add bytes."""
        view = memoryview(data).cast("B")
        while view.nbytes:
            if self._filled == self.BLOCK:
                self._digests.append(self._open.digest())
                self._open, self._filled = hashlib.sha256(), 0
            part = view[: self.BLOCK - self._filled]
            self._open.update(part)
            self._filled += part.nbytes
            view = view[part.nbytes :]

    def hexdigest(self) -> str:
        """Of what was added so far."""
        return self._of([*self._digests, self._open.digest()])

    @classmethod
    def of(cls, data: memoryview) -> str:
        """The same of bytes that are all there, by several threads."""
        starts = range(0, max(data.nbytes, 1), cls.BLOCK)
        with ThreadPoolExecutor(min(len(starts), os.cpu_count() or 1, 8)) as pool:
            return cls._of(list(pool.map(lambda at: hashlib.sha256(data[at : at + cls.BLOCK]).digest(), starts)))

    @staticmethod
    def _of(digests: list[bytes]) -> str:
        return digests[0].hex() if len(digests) == 1 else hashlib.sha256(b"".join(digests)).hexdigest()


def locator_part(name: str) -> str:
    """A file name as part of a locator: NFC, and bytes that are not UTF-8 percent-encoded.

    A trailing `#` with digits is escaped, because that is how frames are named.

    >>> locator_part("a\\udcff.png"), locator_part("slice#2"), locator_part("o\\u0308")
    ('a%FF.png', 'slice%232', 'ö')
    """
    if any("\udc80" <= c <= "\udcff" for c in name):
        name = "".join(f"%{ord(c) - 0xDC00:02X}" if "\udc80" <= c <= "\udcff" else c for c in name)
    stem, mark, number = name.rpartition("#")
    if mark and number.isdigit():
        name = f"{stem}%23{number}"
    return unicodedata.normalize("NFC", name)


@contextmanager
def os_errors(what: str) -> Iterator[None]:
    """Turn the system's errors about space and permission into ours.

    Raises
    ------
    DiskFull
        No space left on the device, or a quota is reached.
    NotWritable
        A read-only medium or a missing permission.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"{what}: no space left on the device",
                do="free some space and run the command again; the store is as it was",
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise NotWritable(
                f"{what}: {os.strerror(error.errno).lower()}",
                expected="a folder that this user may write to",
                do="check the mount and the permissions, or copy the store",
            ) from error
        raise


def make_folder(path: Path) -> None:
    """Create a private folder (0700) and its parents, and sync its parent."""
    with os_errors(str(path)):
        if not path.is_dir():
            make_folder(path.parent)
            with suppress(FileExistsError):
                path.mkdir(mode=0o700)
            sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames inside a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def output_file(path: str | os.PathLike[str]) -> Path:
    """A path that a result may be written to.

    Raises
    ------
    UsageError
        It is a folder, or its folder does not exist.
    """
    target = Path(path)
    if target.is_dir() or not target.parent.is_dir():
        raise UsageError(
            f"{target}: " + ("a folder has this name" if target.is_dir() else "its folder does not exist"),
            expected="a file in a folder that is there",
            do="choose another output",
        )
    return target


class HashingFile:
    """A private temporary file that knows the SHA-256 and length of what went through it.

    It takes its final name only in `publish`, after its bytes are synced.
    """

    def __init__(self, folder: Path, prefix: str = "tmp-", digest: Any = None) -> None:
        self.path = folder / f"{prefix}{os.getpid()}-{os.urandom(6).hex()}"
        self.sha256 = digest or hashlib.sha256()
        self.bytes = 0
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._file: IO[bytes] = os.fdopen(descriptor, "wb")

    @property
    def closed(self) -> bool:
        """Whether it was closed (pyarrow asks)."""
        return self._file.closed

    def write(self, data: Any) -> int:
        """Append bytes."""
        view = memoryview(data)
        self.sha256.update(view)
        self.bytes += view.nbytes
        self._file.write(view)
        return view.nbytes

    def tell(self) -> int:
        """Bytes so far."""
        return self.bytes

    def flush(self) -> None:
        """Hand buffered bytes to the system."""
        self._file.flush()

    def close(self) -> None:
        """Close without publishing."""
        self._file.close()

    def publish(self, path: Path) -> None:
        """Sync, take the final name, sync the folder."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self.path.replace(path)
        sync_folder(path.parent)

    def discard(self) -> None:
        """Close and remove."""
        with suppress(OSError):
            self._file.close()
        self.path.unlink(missing_ok=True)


def write_file(path: Path, data: bytes | Callable[[HashingFile], None]) -> str:
    """Write a private file so that it is there whole or not at all.

    Parameters
    ----------
    path : Path
        Its folder must exist.
    data : bytes or callable
        The bytes, or a function that writes them into the file it is given.

    Returns
    -------
    str
        Hex SHA-256 of what was written.

    Raises
    ------
    DiskFull, NotWritable
        The old file, if any, is as it was.
    """
    with os_errors(str(path)):
        file = HashingFile(path.parent)
        try:
            if callable(data):
                data(file)
            else:
                file.write(data)
            file.publish(path)
        except BaseException:
            file.discard()
            raise
        return file.sha256.hexdigest()


def cache_home() -> Path:
    """Where vecstore may keep what can be fetched again (XDG_CACHE_HOME, or ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vecstore"


def offline() -> bool:
    """Whether VECSTORE_OFFLINE or HF_HUB_OFFLINE forbids any download."""
    return any(
        os.environ.get(name, "").lower() in ("1", "true", "yes", "on")
        for name in ("VECSTORE_OFFLINE", "HF_HUB_OFFLINE")
    )
