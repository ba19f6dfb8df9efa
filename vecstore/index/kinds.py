"""The kinds of index, and opening a saved one without trusting what lies there."""

from __future__ import annotations

import json
import mmap
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from vecstore.files import BlockSha256
from vecstore.index.base import FORMAT, Index, IndexUnusable, seal
from vecstore.index.cells import CellsIndex
from vecstore.index.coded import CodedIndex
from vecstore.index.exact import ExactIndex

KINDS: Mapping[str, type[Index]] = {
    ExactIndex.kind: ExactIndex,
    CodedIndex.kind: CodedIndex,
    CellsIndex.kind: CellsIndex,
}
"""Every kind by its name."""

_NAME = re.compile(r"index-[0-9a-f]{16}\.[a-z0-9]+")

JSON_BYTES = 64 << 20
"""More than an `index.json` can have: the digests of a million shards."""


def open_index(
    folder: Path, expect: Mapping[str, Any] | None = None, sha256: str | None = None
) -> tuple[Index, dict[str, Any]]:
    """Open a saved index if its bytes are those that were saved.

    The files are mapped into memory, hashed, and given to faiss only if the digest is right: faiss reads a file
    with flipped bytes without a word, and a hostile one is a way into the process.

    Parameters
    ----------
    folder : Path
    expect : mapping, optional
        Entries that `covers` must have, with equal values, e.g. the fingerprint of the space.
    sha256 : str, optional
        What `Index.save` returned, where the caller kept it.

    Returns
    -------
    index : Index
    covers : dict
        What `Index.save` was given.

    Raises
    ------
    IndexUnusable
        Whatever is wrong; the caller builds the index again.
    """
    facts = _facts(folder)
    covers: dict[str, Any] = facts["covers"]
    for name, value in (expect or {}).items():
        if name not in covers or covers[name] != value:
            raise IndexUnusable(folder, f"it covers another {name}")
    if sha256 is not None and sha256 != facts["seal"]:
        raise IndexUnusable(folder, "it is not the one that was registered")
    if not all(isinstance(told, dict) for told in facts["files"].values()):
        raise IndexUnusable(folder, "index.json was changed after it was written")
    files = {suffix: _checked(folder, told) for suffix, told in facts["files"].items()}
    try:
        return KINDS[facts["kind"]]._read(files, facts), covers
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise IndexUnusable(folder, f"its files are not what index.json says: {error}") from error


def reopened_index(folder: Path, expect: Mapping[str, Any] | None = None) -> tuple[Index, dict[str, Any]]:
    """`open_index`, once more where another process has replaced the index while it was read."""
    before = _stamp(folder)
    try:
        return open_index(folder, expect)
    except IndexUnusable:
        if _stamp(folder) == before:
            raise
        return open_index(folder, expect)


def _stamp(folder: Path) -> tuple[int, int] | None:
    """What changes when an index is replaced."""
    try:
        status = (folder / "index.json").stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _checked(folder: Path, told: Mapping[str, Any]) -> memoryview:
    """The bytes of a file, mapped into memory and hashed: what is not ours is never parsed."""
    name, size, sha256 = (told.get(key) for key in ("name", "bytes", "sha256"))
    if not isinstance(name, str) or not _NAME.fullmatch(name) or not isinstance(size, int):
        raise IndexUnusable(folder, "index.json was changed after it was written")
    try:
        with _opened(folder, folder / name, size, exactly=True) as file:
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b"")
    except (OSError, ValueError) as error:
        raise IndexUnusable(folder, f"{name} can't be read: {error}") from error
    if BlockSha256.of(mapped) != sha256:
        raise IndexUnusable(folder, f"{name} has another SHA-256 than index.json says")
    return mapped


def _facts(folder: Path) -> dict[str, Any]:
    """`index.json`, checked to be ours, whole and of this format."""
    try:
        facts: dict[str, Any] = json.loads(_bytes(folder, folder / "index.json", JSON_BYTES, exactly=False))
        text = seal({name: value for name, value in facts.items() if name != "seal"})
        intact = facts["seal"] == json.loads(text)["seal"]
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        raise IndexUnusable(folder, "index.json is not one of ours") from error
    if facts.get("format") != FORMAT:
        raise IndexUnusable(folder, f"format {facts.get('format')}, this version reads {FORMAT}")
    types = {"kind": str, "n": int, "dim": int, "files": dict, "facts": dict, "covers": dict}
    if not intact or not all(isinstance(facts.get(name), kind) for name, kind in types.items()):
        raise IndexUnusable(folder, "index.json was changed after it was written")
    if facts["kind"] not in KINDS:
        raise IndexUnusable(folder, f"kind {facts['kind']!r}, this version has {', '.join(KINDS)}")
    return facts


def _bytes(folder: Path, path: Path, size: int, *, exactly: bool) -> bytes:
    """The bytes of a plain file that has `size` bytes, or at most so many."""
    try:
        with _opened(folder, path, size, exactly=exactly) as file:
            return file.read()
    except OSError as error:
        raise IndexUnusable(folder, f"{path.name} can't be read: {error.strerror}") from error


@contextmanager
def _opened(folder: Path, path: Path, size: int, *, exactly: bool) -> Iterator[IO[bytes]]:
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise IndexUnusable(folder, f"{path.name} is not a plain file")
        if status.st_size > size or (exactly and status.st_size != size):
            raise IndexUnusable(folder, f"{path.name} has {status.st_size} bytes, not {size}")
        with path.open("rb") as file:
            yield file
    except FileNotFoundError as error:
        raise IndexUnusable(folder, f"there is no {path.name}") from error
