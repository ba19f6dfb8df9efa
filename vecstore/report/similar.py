"""The page of similar cases: a query, and the pictures of the store that are nearest to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vecstore.records import Hit
from vecstore.report.page import clean, count, data_uri, probability, render

LONG_VALUE = 48
"""Characters of a metadata value that are shown; the whole value is in its title."""

_LIKELIEST = 3
"""Classes of a prediction that are shown of each hit."""


@dataclass(frozen=True, slots=True)
class QueryCard:
    """What was asked.

    Attributes
    ----------
    title : str
        Name of the picture, e.g. its locator or file name.
    what : str
        One line: where it comes from, e.g. "item 12 of derm_ham10000" or "a new picture, not in the store".
    picture : bytes or None
        JPEG, PNG, GIF or WebP; None where there is none to show.
    labels, metadata : mapping
        What is known of it, as for a hit.
    """

    title: str
    what: str = ""
    picture: bytes | None = None
    labels: Mapping[str, str] | None = None
    metadata: Mapping[str, Any] | None = None


def similar_page(
    query: QueryCard, hits: Sequence[Hit], thumbnails: Mapping[int, bytes], facts: Mapping[str, str]
) -> str:
    """Make one HTML file of a query and its hits.

    Parameters
    ----------
    query : QueryCard
    hits : sequence of Hit
        In the order of their ranks; may be empty.
    thumbnails : mapping of item id to JPEG bytes
        Items without one get a placeholder.
    facts : mapping of str to str
        How it was found, in the order given, e.g. {"k": "10", "space": ..., "encoder": ..., "search": "exact",
        "filter": "age >= 60", "own group": "left out (PatientID)", "commit": "12"}.

    Returns
    -------
    str
        The same text for the same input. It opens nothing from elsewhere and runs no script.
    """
    return render(
        "similar.html",
        {
            "title": f"Similar cases: {clean(query.title)}",
            "query": query,
            "query_picture": data_uri(query.picture),
            "query_labels": _chips(query.labels or {}),
            "query_metadata": _entries(query.metadata or {}),
            "facts": [(clean(name), clean(value)) for name, value in facts.items()],
            "found": count(len(hits), "similar case"),
            "cards": [_card(hit, thumbnails.get(hit.item_id)) for hit in hits],
        },
    )


def _card(hit: Hit, thumbnail: bytes | None) -> dict[str, Any]:
    folder, name = parted(clean(hit.locator))
    return {
        "rank": hit.rank,
        "score": f"{hit.score:.4f}",
        # Nothing below 0 is similar, so the bar begins there.
        "percent": f"{100 * min(1.0, max(0.0, hit.score)):.1f}",
        "source": clean(hit.source),
        "folder": folder,
        "whole": clean(hit.locator),
        "name": name,
        "picture": data_uri(thumbnail),
        "labels": _chips(hit.labels),
        "predictions": _predicted(hit.predictions),
        "metadata": _entries(hit.metadata),
    }


def parted(locator: str) -> tuple[str, str]:
    """Where a picture is, and its own name.

    >>> parted("ct.zip!head/1.dcm#2"), parted("a.png")
    (('ct.zip!head', '1.dcm#2'), ('', 'a.png'))
    """
    cut = max(locator.rfind("/"), locator.rfind("!")) + 1
    return locator[:cut].rstrip("/!"), locator[cut:]


def _chips(labels: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(clean(task), clean(label)) for task, label in labels.items()]


def _predicted(predictions: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """The likeliest classes with their probabilities, as entries."""
    likeliest = sorted(predictions.items(), key=lambda told: -told[1])[:_LIKELIEST]
    return [(f"predicted {clean(name)}", probability(value), "") for name, value in likeliest]


def _entries(metadata: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value as shown, and whole value where it is longer; values that are absent are left out."""
    entries = []
    for name, value in metadata.items():
        whole = clean(value)
        if value is not None and whole:
            shown = whole if len(whole) <= LONG_VALUE else whole[: LONG_VALUE - 1].rstrip() + "…"
            entries.append((clean(name), shown, whole if shown != whole else ""))
    return entries
