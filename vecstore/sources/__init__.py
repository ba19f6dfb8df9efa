"""Adapters that list an archive: `open_source` chooses one by what is there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from vecstore.errors import ArchiveError, NotAPicture, UsageError
from vecstore.files import SNIFF_BYTES, sniff
from vecstore.sources.base import Source, cannot_open, picture_bytes
from vecstore.sources.folder import FileSource, FolderSource
from vecstore.sources.manifest import ManifestSource
from vecstore.sources.medmnist import MedMnistSource
from vecstore.sources.packed import TarSource, ZipSource, packed_kind

__all__ = ["KINDS", "Source", "open_source"]

_TABLES = frozenset({".csv", ".tsv", ".parquet", ".pq"})


class Kind(NamedTuple):
    """One kind of archive: its name, whether a path (with its first bytes) is one, and how to open it."""

    name: str
    fits: Callable[[Path, bytes], bool]
    open: Callable[[Path, str | None], Source]


KINDS: tuple[Kind, ...] = (
    Kind("folder", lambda path, head: path.is_dir(), lambda path, _: FolderSource(path)),
    Kind("medmnist", lambda path, head: path.suffix.lower() == ".npz", lambda path, _: MedMnistSource(path)),
    Kind("manifest", lambda path, head: _is_table(path, head), ManifestSource),
    Kind("zip", lambda path, head: packed_kind(path, head) == "zip", lambda path, _: ZipSource(path)),
    Kind("file", lambda path, head: _is_picture(path, head), lambda path, _: FileSource(path)),
    Kind("tar", lambda path, head: packed_kind(path, head) == "tar", lambda path, _: TarSource(path)),
)
"""Every kind of archive; the first that fits opens it. A new source is a line here."""


def open_source(archive: str | os.PathLike[str], *, kind: str | None = None, path_column: str | None = None) -> Source:
    """The source for an archive, chosen by what is there; nothing is listed yet.

    Parameters
    ----------
    archive : str or path
        A folder, zip, tar, MedMNIST .npz, manifest (CSV, TSV, Parquet) or one picture file.
    kind : str, optional
        One of the names in `KINDS`, instead of looking.
    path_column : str, optional
        Of a manifest: the column with the paths.

    Raises
    ------
    ArchiveError
        Not there, not readable, or nothing that is known; a manifest without path column.
    UsageError
        An unknown kind, or `path_column` for something else than a manifest.
    """
    path = Path(archive)
    if kind is not None and kind not in {known.name for known in KINDS}:
        raise UsageError(f"no kind of archive {kind!r}", f"one of: {', '.join(known.name for known in KINDS)}")
    head = _head(path)
    chosen = next((k for k in KINDS if (k.name == kind if kind else k.fits(path, head))), None)
    if chosen is None:
        raise ArchiveError(
            f"{path}: not an archive that is known here" if head else f"{path}: an empty file",
            "a folder, zip, tar, MedMNIST .npz, manifest (CSV, TSV, Parquet) or picture",
            "check the path, or say what it is: --kind KIND",
        )
    if path_column is not None and chosen.name != "manifest":
        raise UsageError(f"--path-column is of no use for a {chosen.name}", "a manifest", "leave it out")
    return chosen.open(path, path_column)


def _head(path: Path) -> bytes:
    try:
        if path.is_dir():
            return b""
        if path.exists() and not path.is_file():
            raise ArchiveError(f"{path}: neither a file nor a folder", "an archive")
        with path.open("rb") as file:
            return file.read(SNIFF_BYTES)
    except OSError as error:
        raise cannot_open(path, error) from error


def _is_table(path: Path, head: bytes) -> bool:
    return path.suffix.lower() in _TABLES or sniff(head) == "parquet"


def _is_picture(path: Path, head: bytes) -> bool:
    try:
        picture_bytes(path.name, lambda n: head if n > 0 else b"")
    except NotAPicture:
        return False
    return bool(head)
