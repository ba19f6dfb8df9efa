"""The page of label errors: suspects, what speaks against their labels, and similar cases of either class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vecstore.report.page import clean, count, data_uri, number, phrase, probability, render
from vecstore.report.similar import parted

MOST_PAIRS = 12
"""Lines of the table of what is doubted."""

_FACTS = (
    ("kind", "Kind"),
    ("counts", "Labels"),
    ("predictions", "Predictions"),
    ("model", "Model"),
    ("space", "Space"),
    ("encoder", "Encoder"),
    ("group_column", "Groups"),
    ("level", "Level"),
    ("store", "Store"),
    ("commit", "Commit"),
)
"""Keys of the record in the order of the table, and what they are called there."""


def suspects_page(record: Mapping[str, Any], thumbnails: Mapping[int, bytes]) -> str:
    """Make one HTML file of suspected label errors.

    Parameters
    ----------
    record : mapping
        Plain values as of `LabelErrors.to_dict()`; also "store".
    thumbnails : mapping of item id to JPEG bytes
        Items without one get a placeholder.

    Returns
    -------
    str
        The same text for the same input. It opens nothing from elsewhere and runs no script.
    """
    pictures = {item: data_uri(jpeg) for item, jpeg in thumbnails.items()}
    shown, found = len(record["suspects"]), int(record["found"])
    return render(
        "suspects.html",
        {
            "title": f"Label errors: {clean(record['task'])}",
            "task": record["task"],
            "summary": _summary(record),
            "notes": [clean(note) for note in record["notes"]],
            "pairs": [_pair(pair) for pair in record["pairs"][:MOST_PAIRS]],
            "more_pairs": max(0, len(record["pairs"]) - MOST_PAIRS),
            "shown": f"The {number(shown)} most doubtful of {number(found)}" if shown < found else "Suspects",
            "columns": max((len(one["nearest_suggested"]) for one in record["suspects"]), default=1) or 1,
            "cards": [_card(suspect, pictures) for suspect in record["suspects"]],
            "facts": [(title, phrase(record[key])) for key, title in _FACTS if record.get(key) not in (None, "")],
        },
    )


def _summary(record: Mapping[str, Any]) -> str:
    """One sentence that can be quoted alone."""
    found, n = int(record["found"]), int(record["n"])
    if not found:
        return f"None of {count(n, 'label')} is suspect."
    verb = "is" if found == 1 else "are"
    return (
        f"{number(found)} of {count(n, 'label')} {verb} suspect: a model that had not seen the picture is surer of"
        " another class."
    )


def _pair(pair: Mapping[str, Any]) -> dict[str, str]:
    return {
        "label": clean(pair["label"]) if pair.get("label") else "",
        "given": clean(pair["given"]),
        "suggested": clean(pair["suggested"]),
        "count": number(int(pair["count"])),
    }


def _card(suspect: Mapping[str, Any], pictures: Mapping[int, str | None]) -> dict[str, Any]:
    folder, name = parted(clean(suspect["locator"]))
    given, suggested = clean(suspect["given"]), clean(suspect["suggested"])
    label = clean(suspect["label"]) if suspect.get("label") else ""
    facts = [("part", suspect["part"]), ("group", suspect["group"])]
    facts += [("pictures", suspect["pictures"])] if suspect["pictures"] != 1 else []
    return {
        "rank": suspect["rank"],
        "item": suspect["item_id"],
        "name": name,
        "whole": clean(suspect["locator"]),
        "where": [part for part in (clean(suspect["source"]), folder) if part],
        "label": label,
        "picture": pictures.get(suspect["item_id"]),
        "bars": [
            {"what": what, "name": told, "value": probability(chance), "percent": f"{100 * chance:.1f}"}
            for what, told, chance in (
                ("given", given, float(suspect["probability_given"])),
                ("suggested", suggested, float(suspect["probability_suggested"])),
            )
        ],
        "facts": [(key, clean(value)) for key, value in facts if value != ""],
        "rows": [
            {"title": title, "name": told, "hits": [_near(hit, pictures) for hit in suspect[key]]}
            for title, told, key in (
                ("suggested", suggested, "nearest_suggested"),
                ("given", given, "nearest_given"),
            )
        ],
    }


def _near(hit: Mapping[str, Any], pictures: Mapping[int, str | None]) -> dict[str, Any]:
    return {
        "name": parted(clean(hit["locator"]))[1],
        "whole": f"{clean(hit['source'])}: {clean(hit['locator'])}",
        "score": f"{float(hit['score']):.3f}",
        "picture": pictures.get(hit["item_id"]),
    }


def items_shown(suspects: Sequence[Mapping[str, Any]]) -> list[int]:
    """Ids of all items whose pictures the page shows."""
    found: dict[int, None] = {}
    for suspect in suspects:
        for item in (
            suspect["item_id"],
            *(h["item_id"] for h in suspect["nearest_suggested"] + suspect["nearest_given"]),
        ):
            found.setdefault(int(item))
    return list(found)
