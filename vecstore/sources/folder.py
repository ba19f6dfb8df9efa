"""A folder with everything below it, zip and tar files included; and one single file."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import ClassVar

from vecstore.errors import ArchiveError, PictureError
from vecstore.files import SNIFF_BYTES, locator_part
from vecstore.records import Raw
from vecstore.sources.base import Source, archive_name, cannot_open, read_file, refuse, unreadable
from vecstore.sources.packed import TarSource, ZipSource, packed_kind, packed_suffix


class FolderSource(Source):
    """A folder: files in the order of their names' bytes, each folder at its place among them.

    Links to files are followed; links to folders too, unless they lead to a folder that they are
    in. Zip and tar files (by name and content) are listed as `sub/archive.zip!member`. What is
    neither file nor folder (a pipe, a device) is not listed.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ArchiveError
        From `list` and `find`: a folder can't be read.
    """

    kind: ClassVar[str] = "folder"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = archive_name(path)

    def list(self) -> Iterator[Raw]:
        """Every file; only the entries of the folders on the way are in memory."""
        return self._walk(None)

    def find(self, locators: Collection[str]) -> Iterator[Raw]:
        """Files by name; only for names that had to be changed (NFD, not UTF-8), and members, is a folder read."""
        rest = set()
        for locator in dict.fromkeys(locators):
            raw = self._direct(locator)
            if raw is None:
                rest.add(locator)
            else:
                yield raw
        if rest:
            yield from self._walk(rest)

    def _direct(self, locator: str) -> Raw | None:
        parts = locator.split("/")
        plain = all(part not in ("", ".", "..") and locator_part(part) == part for part in parts)
        if not plain or packed_suffix(locator):
            return None
        path = os.path.join(self.path, *parts)  # noqa: PTH118 - a million of them
        try:
            found = os.stat(path)  # noqa: PTH116
        except (OSError, ValueError):
            return None
        return _raw(locator, path, found) if stat.S_ISREG(found.st_mode) else None

    def _walk(self, wanted: set[str] | None) -> Iterator[Raw]:
        """All files, or the wanted ones by way of the folders that lead to them."""
        leading = None if wanted is None else {w[: i + 1] for w in wanted for i, c in enumerate(w) if c == "/"}
        identity = _identity(self.path)
        levels = [(_entries(self.path, self.path), "", identity)]
        while levels:
            entries, prefix, _ = levels[-1]
            found = next(entries, None)
            if found is None:
                levels.pop()
                continue
            part, entry = found
            locator = prefix + part
            if not _is_folder(entry):
                yield from _file(locator, entry, wanted)
            elif leading is None or f"{locator}/" in leading:
                identity = _identity(Path(entry.path))
                if identity not in {above for _, _, above in levels}:
                    levels.append((_entries(Path(entry.path), self.path), f"{locator}/", identity))


class FileSource(Source):
    """One single picture file.

    Parameters
    ----------
    path : Path
    """

    kind: ClassVar[str] = "file"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = archive_name(path, path.suffix)

    def list(self) -> Iterator[Raw]:
        """The file, under its name."""
        try:
            found = self.path.stat()
        except OSError as error:
            raise cannot_open(self.path, error) from error
        yield _raw(locator_part(self.path.name), str(self.path), found)


def _raw(locator: str, path: str, found: os.stat_result) -> Raw:
    return Raw(locator, found.st_size, found.st_mtime_ns, partial(read_file, path, locator))


def _identity(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise cannot_open(path, error) from error
    return found.st_dev, found.st_ino


def _entries(folder: Path, root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Entries of one folder with their parts of a locator, in the order of their names' bytes."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        if folder == root:
            raise cannot_open(folder, error) from error
        # Its pictures would be missed without a word.
        raise ArchiveError(
            f"{folder}: this folder in the archive can't be listed: {(error.strerror or str(error)).lower()}",
            "every folder to be readable",
            "give permission to read it, or move it out of the archive",
        ) from error
    return zip(_parts([entry.name for entry in entries]), entries, strict=True)


def _parts(names: list[str]) -> list[str]:
    """A part of a locator for each name; two names that NFC makes one stay two."""
    parts = [locator_part(name) for name in names]
    if len(set(parts)) == len(parts):
        return parts
    taken = {name for name in names if locator_part(name) == name}
    for i, name in enumerate(names):
        if parts[i] == name:
            continue
        if parts[i] in taken:
            parts[i] = "".join(chr(b) if b < 128 else f"%{b:02X}" for b in os.fsencode(name))
        taken.add(parts[i])
    return parts


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself


def _file(locator: str, entry: os.DirEntry[str], wanted: set[str] | None) -> Iterator[Raw]:
    if packed_suffix(entry.name):
        packed = _packed(Path(entry.path))
        if packed is not None:
            yield from _members(locator, entry, packed, wanted)
            return
    if wanted is not None and locator not in wanted:
        return
    try:
        found = entry.stat()
    except OSError as error:
        if not entry.is_symlink():
            return  # removed since its folder was read
        reason = unreadable(error)
        link = partial(read_file, entry.path, locator)
        yield Raw(locator, None, None, link if isinstance(error, FileNotFoundError) else partial(refuse, reason))
        return
    if stat.S_ISREG(found.st_mode):
        yield _raw(locator, entry.path, found)


def _packed(path: Path) -> Source | None:
    """The zip or tar at a path; None if it is neither, whatever its name says."""
    try:
        with path.open("rb") as file:
            kind = packed_kind(path, file.read(SNIFF_BYTES))
    except OSError:
        return None  # its `read` will say why
    return {"zip": ZipSource, "tar": TarSource}[kind](path) if kind else None


def _members(locator: str, entry: os.DirEntry[str], packed: Source, wanted: set[str] | None) -> Iterator[Raw]:
    """Members of a zip or tar in the folder; if it is damaged, itself as an entry that can't be read."""
    inside = None if wanted is None else {w[len(locator) + 1 :] for w in wanted if w.startswith(f"{locator}!")}
    if inside is not None and not inside:
        return
    try:
        for raw in packed.list() if inside is None else packed.find(inside):
            yield replace(raw, locator=f"{locator}!{raw.locator}")
    except ArchiveError as error:
        found = entry.stat()
        # The rest of the folder is sound, so this is one failure and not the end.
        fact = error.fact.replace(str(entry.path), entry.name)
        reason = PictureError(fact, error.expected, error.do)
        yield Raw(locator, found.st_size, found.st_mtime_ns, partial(refuse, reason))
