"""What every source offers, and what the entries of an archive have in common."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import ClassVar, NoReturn

from vecstore.errors import ArchiveError, NotAPicture, PictureError
from vecstore.files import PICTURE_KINDS, PICTURE_SUFFIXES, SNIFF_BYTES, locator_part, sniff
from vecstore.records import LabelTable, Raw

MAX_BYTES = 2 << 30
"""A file or member beyond this is refused: it is read whole, and several are in memory at once."""


class Source(ABC):
    """Lists an archive and hands out its raw pictures; nothing is opened before `Raw.read`.

    Attributes
    ----------
    kind : str
        Of the archive: "folder", "zip" …
    name : str
        The archive's base name without its suffix: "chest/images.zip" -> "images".
    """

    kind: ClassVar[str]
    name: str

    @abstractmethod
    def list(self) -> Iterator[Raw]:
        """Every entry, bystanders too, in an order that depends only on the archive.

        `Raw.read` may be called from several threads, while listing and later.

        Raises
        ------
        ArchiveError
            A part of the archive can't be listed; going on would lose it silently.
        """

    def find(self, locators: Collection[str]) -> Iterator[Raw]:
        """Those of some known entries that are still there, in any order."""
        wanted = set(locators)
        return (raw for raw in self.list() if raw.locator in wanted)

    def labels(self) -> LabelTable | None:
        """The labels that the archive itself brings, if it does."""
        return None


def archive_name(path: Path, suffix: str = "") -> str:
    """The name of a source: the last part of its path, NFC, without `suffix`."""
    name = Path(os.path.abspath(path)).name or "archive"  # noqa: PTH100 - resolves "..", keeps links
    return locator_part(name[: -len(suffix)] if suffix and len(name) > len(suffix) else name)


def picture_bytes(name: str, read: Callable[[int], bytes], size: int | None = None, *, claimed: bool = False) -> bytes:
    """Read an entry whole if it is a picture or says so; pass over a bystander after its first bytes.

    The one rule: content that looks like a picture is one, whatever its name; other content is a
    failure under a picture's name, and a bystander (a table, a note, a thumbnail cache) under any
    other. A DICOMDIR is a directory of pictures in DICOM's own format, so a bystander as well.

    Parameters
    ----------
    name : str
        Its name in the archive.
    read : callable
        Returns the next n bytes, or with -1 all the rest.
    size : int, optional
        Bytes that `read` is to give in all.
    claimed : bool
        Somebody says that it is a picture (a manifest), so that it can't be a bystander.

    Raises
    ------
    NotAPicture
        A bystander.
    PictureError
        Larger than `MAX_BYTES`.
    """
    head = read(SNIFF_BYTES if size is None else min(size, SNIFF_BYTES))
    path = PurePosixPath(name)
    if not claimed:
        if path.name.upper() == "DICOMDIR":
            raise NotAPicture("a DICOMDIR, the table of contents of DICOM files beside it")
        kind = sniff(head)
        if kind not in PICTURE_KINDS and path.suffix.lower() not in PICTURE_SUFFIXES:
            raise NotAPicture(f"{kind or 'no picture'} content under a name that claims none")
    check_bytes(size)
    return head + read(-1 if size is None else size - len(head))


def check_bytes(size: int | None) -> None:
    """Refuse what is too large to be read whole, by its declared size."""
    if size is not None and size > MAX_BYTES:
        raise PictureError(
            f"{size / 2**30:.1f} GiB in one file", f"at most {MAX_BYTES >> 30} GiB", "convert it to smaller pictures"
        )


def read_file(path: str, name: str, *, claimed: bool = False) -> bytes:
    """The bytes of a picture file, by the rule of `picture_bytes`.

    Raises
    ------
    NotAPicture, PictureError
    """
    try:
        with Path(path).open("rb") as file:
            return picture_bytes(name, file.read, os.fstat(file.fileno()).st_size, claimed=claimed)
    except OSError as error:
        claimed = claimed or PurePosixPath(name).suffix.lower() in PICTURE_SUFFIXES
        if isinstance(error, FileNotFoundError) and not claimed:
            raise NotAPicture("a link to nothing under a name that claims no picture") from error
        raise unreadable(error) from error


def unreadable(error: OSError) -> PictureError:
    """The system's reason why an entry can't be read, as one about a picture."""
    if isinstance(error, FileNotFoundError):
        return PictureError("file not found", do="restore it, or check the link or the manifest's path")
    if isinstance(error, PermissionError):
        return PictureError("no permission to read it", do="check the file's permissions")
    return PictureError(f"can't be read: {(error.strerror or str(error)).lower()}")


def refuse(reason: PictureError) -> NoReturn:
    """Raise a reason that was known when listing, as an entry's `read`."""
    # A fresh one each time: a raised exception keeps the frames of its raiser alive.
    raise PictureError(reason.fact, reason.expected, reason.do)


def cannot_open(path: Path, error: OSError) -> ArchiveError:
    """The system's reason why an archive or a folder in it can't be opened."""
    if isinstance(error, FileNotFoundError):
        return ArchiveError(
            f"{path}: not there", "a folder, zip, tar, MedMNIST .npz, manifest or picture", "check the path"
        )
    if isinstance(error, PermissionError):
        return ArchiveError(f"{path}: no permission to read it", "a readable archive", "check its permissions")
    return ArchiveError(f"{path}: {(error.strerror or str(error)).lower()}", "a readable archive")
