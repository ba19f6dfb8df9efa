"""The kinds of index, and opening a saved one without trusting what lies there."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vecstore.index.base import FORMAT, Index, IndexUnusable, seal
from vecstore.index.exact import ExactIndex

KINDS: Mapping[str, type[Index]] = {
    ExactIndex.kind: ExactIndex,
}
"""Every kind by its name."""

JSON_BYTES = 64 << 20
"""More than an `index.json` can have: the digests of a million shards."""


def open_index(
    folder: Path, expect: Mapping[str, Any] | None = None, sha256: str | None = None
) -> tuple[Index, dict[str, Any]]:
    """Open a saved index if its bytes are those that were saved.

    The bytes are read once, hashed, and given to faiss only if the digest is right: faiss reads a file with
    flipped bytes without a word, and a hostile one is a way into the process.

    Parameters
    ----------
    folder : Path
    expect : mapping, optional
        Entries that `covers` must have, with equal values, e.g. the fingerprint of the space.
    sha256 : str, optional
        The digest of `index.faiss` that `Index.save` returned, where the caller kept it.

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
    if sha256 is not None and sha256 != facts["sha256"]:
        raise IndexUnusable(folder, "it is not the one that was registered")
    data = _bytes(folder, folder / "index.faiss", facts["bytes"], exactly=True)
    if hashlib.sha256(data).hexdigest() != facts["sha256"]:
        raise IndexUnusable(folder, "index.faiss has another SHA-256 than index.json says")
    try:
        return KINDS[facts["kind"]]._read(data, facts["n"], facts["dim"]), covers
    except (RuntimeError, ValueError) as error:
        raise IndexUnusable(folder, f"index.faiss is not what index.json says: {error}") from error


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
    types = {"kind": str, "n": int, "dim": int, "bytes": int, "sha256": str, "covers": dict}
    if not intact or not all(isinstance(facts.get(name), kind) for name, kind in types.items()):
        raise IndexUnusable(folder, "index.json was changed after it was written")
    if facts["kind"] not in KINDS:
        raise IndexUnusable(folder, f"kind {facts['kind']!r}, this version has {', '.join(KINDS)}")
    return facts


def _bytes(folder: Path, path: Path, size: int, *, exactly: bool) -> bytes:
    """The bytes of a plain file that has `size` bytes, or at most so many."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise IndexUnusable(folder, f"{path.name} is not a plain file")
        if status.st_size > size or (exactly and status.st_size != size):
            raise IndexUnusable(folder, f"{path.name} has {status.st_size} bytes, not {size}")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise IndexUnusable(folder, f"there is no {path.name}") from error
    except OSError as error:
        raise IndexUnusable(folder, f"{path.name} can't be read: {error.strerror}") from error
