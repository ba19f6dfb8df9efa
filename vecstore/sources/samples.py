"""WebDataset samples: side members of a packed picture become its metadata.

Members next to each other whose names agree up to the first dot belong together: `000.jpg`,
`000.json`, `000.cls`, `000.txt`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from vecstore.files import PICTURE_SUFFIXES
from vecstore.records import Raw, Value
from vecstore.tables import is_integer

SIDE_SUFFIXES = frozenset({"json", "cls", "txt"})
MAX_SIDE_BYTES = 64 << 10
"""A larger side member is no metadata, and stays an entry of its own."""
_IDENTIFYING = (
    "birthdate birthday birthtime dateofbirth otherpatientid address phone telephone telecom email insurance passport"
    " socialsecurity ssn medicalrecordlocator accessionnumber"
).split()
_PERSONS = (
    "patient person physician first last family given middle maiden full mother doctor operator reader observer"
    " surgeon performer radiologist"
).split()
_MAX_TEXT = 4096
_MAX_SAMPLE = 64


def sample_key(name: str) -> str:
    """What members of one sample have in common: folder and name up to the first dot."""
    return _key(name)[0]


def could_be_side(name: str, size: int) -> bool:
    """Whether a member's name is a key, one dot and a suffix of side members, and it is small."""
    return size <= MAX_SIDE_BYTES and _key(name)[1].lower() in SIDE_SUFFIXES


def with_metadata(members: Iterator[tuple[Raw, bytes | None]]) -> Iterator[Raw]:
    """Entries of a packed archive, side members folded into the pictures they belong to.

    Parameters
    ----------
    members : iterator of (Raw, bytes or None)
        In the archive's order, with the content of what could be a side member.

    Yields
    ------
    Raw
        Pictures with metadata: the scalars of a JSON object by their names, `cls` and `txt`; keys that
        are likely to identify a person (names, birth dates, addresses, numbers) are left out.
        Side members without a picture are entries as others are.
    """
    sample: list[tuple[Raw, bytes | None]] = []
    key = ""
    for member in members:
        own = _key(member[0].locator)[0]
        # Files named by a UID agree up to the first dot all over: no sample is that large.
        if own != key or len(sample) >= _MAX_SAMPLE:
            yield from _joined(sample)
            sample, key = [], own
        sample.append(member)
    yield from _joined(sample)


def _joined(sample: list[tuple[Raw, bytes | None]]) -> Iterator[Raw]:
    pictures = [raw for raw, _ in sample if PurePosixPath(raw.locator).suffix.lower() in PICTURE_SUFFIXES]
    sides = {_key(raw.locator)[1].lower(): content for raw, content in sample if content is not None}
    if not pictures or not sides:
        yield from (raw for raw, _ in sample)
        return
    known: dict[str, Value] = {}
    for suffix in sorted(sides):
        known |= _values(suffix, sides[suffix])
    yield from (replace(raw, metadata=known) for raw, content in sample if content is None)


def _key(name: str) -> tuple[str, str]:
    """A member's key and what follows its first dot; a leading dot belongs to the key."""
    path = PurePosixPath(name)
    stem, dot, rest = path.name[1:].partition(".")
    return f"{path.parent}/{path.name[:1]}{stem}", rest if dot else ""


def _values(suffix: str, content: bytes) -> dict[str, Value]:
    text = content.decode("utf-8", "replace").strip()
    if suffix == "cls":
        return {"cls": int(text) if is_integer(text) else text or None}
    if suffix == "txt":
        return {"txt": text[:_MAX_TEXT] or None}
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return _scalars(found) if isinstance(found, dict) else {}


def _identifies(name: str) -> bool:
    """Whether a key is likely to hold a person's name, address or number; a patient's id becomes a pseudonym.

    >>> [_identifies(n) for n in ("PatientName", "patient_birth_date", "phone", "PatientID", "PatientAge", "file_name")]
    [True, True, True, False, False, False]
    """
    key = "".join(c for c in name.casefold() if c.isalnum())
    return any(word in key for word in _IDENTIFYING) or ("name" in key and any(word in key for word in _PERSONS))


def _scalars(found: dict[str, Any]) -> dict[str, Value]:
    """The values of a JSON object that a column can hold; no lists, objects or embedded pictures."""
    kept: dict[str, Value] = {}
    for name, value in found.items():
        if _identifies(name):
            continue
        if isinstance(value, bool):
            kept[name] = int(value)
        elif isinstance(value, int):
            kept[name] = value if abs(value) < 2**63 else str(value)
        elif isinstance(value, float):
            kept[name] = value if math.isfinite(value) else None
        elif value is None or (isinstance(value, str) and len(value) <= _MAX_TEXT):
            kept[name] = value or None
    return kept
