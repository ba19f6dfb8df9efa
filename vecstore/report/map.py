"""The page of an embedding map: a point for each item, its picture under the pointer, coloured by what is known."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
from markupsafe import Markup

from vecstore.records import DoubleArray, Value
from vecstore.report.page import clean, data_uri, number, render

LONG_VALUE = 120
"""Characters of a value that are kept."""

SHOWN = 24
"""Values of a field that get a colour and shape of their own, eight colours in three shapes; the rest are grey."""

_FEW = 8
"""Different numbers that are categories, like "0" and "1", and no scale."""

_STEPS = 9_999
"""Places along the longer axis."""


@dataclass(frozen=True, slots=True)
class MapField:
    """Something known of the items.

    Attributes
    ----------
    name : str
    values : sequence of n values
        None where nothing is known.
    what : {"task", "column", "source", "cluster"}
    order : sequence of str
        Values in the order of the legend; those not in it follow, the most frequent first.
    aside : bool
        Shown under the pointer only while items are coloured by it.
    """

    name: str
    values: Sequence[Value]
    what: str = "column"
    order: Sequence[str] = ()
    aside: bool = False


@dataclass(frozen=True, slots=True)
class MapPoints:
    """The items of a map.

    Attributes
    ----------
    places : ndarray of shape (n, 2), float64
        One unit of length for both axes.
    ids : sequence of n ints
    names, sources : sequence of n str
    pictures : sequence of n values
        Which thumbnail: any hashable value, None where there is none.
    fields : sequence of MapField
        Shown under the pointer, in this order.
    colors : sequence of int
        Fields that can be coloured by; the first is at first.
    """

    places: DoubleArray
    ids: Sequence[int]
    names: Sequence[str]
    sources: Sequence[str]
    pictures: Sequence[bytes | None]
    fields: Sequence[MapField] = field(default_factory=list)
    colors: Sequence[int] = ()


def map_page(
    title: str, summary: str, points: MapPoints, thumbnails: Mapping[bytes, bytes], facts: Mapping[str, str]
) -> str:
    """Make one HTML file of an embedding map.

    Parameters
    ----------
    title, summary : str
        A heading, and a sentence on what is shown.
    points : MapPoints
    thumbnails : mapping
        JPEG bytes by what `points.pictures` names; each is embedded once.
    facts : mapping of str to str
        How it was made, in the order given.

    Returns
    -------
    str
        The same text for the same input. It opens nothing from elsewhere; its policy lets one script run, by its
        digest.
    """
    script = (files("vecstore.report") / "templates" / "map.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return render(
        "map.html",
        {
            "title": f"Embedding map: {clean(title)}",
            "heading": clean(title),
            "summary": clean(summary),
            "facts": [(clean(name), clean(value)) for name, value in facts.items()],
            "choices": [(place, clean(points.fields[place].name)) for place in points.colors],
            "data": Markup(_json(_data(points, thumbnails))),
            "script": Markup(script),
            "digest": digest,
            "total": number(len(points.ids)),
        },
    )


def _json(value: Any) -> str:
    """JSON that ends no element and starts none."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _data(points: MapPoints, thumbnails: Mapping[bytes, bytes]) -> dict[str, Any]:
    pictures: list[str] = []
    place: dict[bytes | None, int] = {None: -1}
    for key in points.pictures:
        if key not in place:
            uri = data_uri(thumbnails.get(key)) if key is not None else None
            place[key] = len(pictures) if uri else -1
            if uri:
                pictures.append(uri)
    x, y = _spread(points.places)
    return {
        "x": x,
        "y": y,
        "id": list(points.ids),
        "name": [clean(name) for name in points.names],
        "source": _category(MapField("", points.sources)),
        "picture": [place[key] for key in points.pictures],
        "pictures": pictures,
        "fields": [_field(one) for one in points.fields],
    }


def _spread(places: DoubleArray) -> tuple[list[int], list[int]]:
    """Whole numbers from 0, the same unit on both axes; y grows downwards, as on a screen."""
    low, high = places.min(axis=0), places.max(axis=0)
    span = float((high - low).max()) or 1.0
    steps = np.rint((places - low) / span * _STEPS).astype(np.int64)
    down = int(steps[:, 1].max()) - steps[:, 1]
    return steps[:, 0].tolist(), down.tolist()


def _field(one: MapField) -> dict[str, Any]:
    """A field of numbers or of categories; numbers of few different values are categories."""
    told = {"name": clean(one.name), "what": one.what} | ({"aside": True} if one.aside else {})
    numbers = [value for value in one.values if isinstance(value, (int, float)) and math.isfinite(value)]
    if not numbers or any(isinstance(value, str) for value in one.values):
        return told | _category(one)
    values, different = [_short(value) for value in one.values], sorted(set(numbers))
    if len(different) <= _FEW:
        return told | _category(MapField(one.name, values, order=[clean(value) for value in different]))
    return told | {"values": values}


def _short(value: Value) -> float | None:
    """A number with as many digits as are shown; None where there is none."""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value if isinstance(value, int) and abs(value) < 2**53 else float(f"{value:.6g}")


def _category(one: MapField) -> dict[str, Any]:
    """Values as numbers of levels, -1 where nothing is known."""
    texts = [None if value is None else _cut(clean(value)) for value in one.values]
    counts = Counter(text for text in texts if text is not None)
    first = {_cut(clean(text)): place for place, text in enumerate(one.order)}
    # In the given order as long as every value gets a colour; of more, the most frequent get one.
    given = first if len(counts) <= SHOWN else {}
    levels = sorted(counts, key=lambda text: (given.get(text, len(given)), -counts[text], text))
    place = {text: i for i, text in enumerate(levels)}
    return {"levels": levels, "codes": [-1 if text is None else place[text] for text in texts]}


def _cut(text: str) -> str:
    return text if len(text) <= LONG_VALUE else text[: LONG_VALUE - 1].rstrip() + "…"
