"""The page of a learning curve: how good a classifier is with few labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vecstore.report.figures import curve_figure
from vecstore.report.page import clean, number, phrase, render

_FACTS = (
    ("kind", "Kind"),
    ("classes", "Classes"),
    ("rule", "Rule"),
    ("space", "Space"),
    ("encoder", "Encoder"),
    ("group_column", "Groups"),
    ("seed", "Seed"),
    ("store", "Store"),
    ("commit", "Commit"),
)
"""Keys of the curve in the order of the table, and what they are called there."""


def learning_page(curve: Mapping[str, Any]) -> str:
    """Make one HTML file of a learning curve.

    Parameters
    ----------
    curve : mapping
        Plain values as in JSON: ``task`` : str; ``part`` : {"test", "held-out"}; ``points`` : list of mappings with
        ``per_class`` (None in the last: all labels), ``rows``, ``auc``, ``sd``, ``low``, ``high`` and ``draws``;
        ``enough`` : int or None; ``notes`` : list of str; and what `_FACTS` names.

    Returns
    -------
    str
        The same text for the same input. It opens nothing from elsewhere and runs no script.
    """
    points = curve["points"]
    drawn = [point for point in points if point["per_class"] is not None]
    mean, low, high = (np.array([point[name] for point in drawn], np.float32) for name in ("auc", "low", "high"))
    whole = points[-1]["auc"]
    figure = curve_figure([point["per_class"] for point in drawn], mean, low, high, whole) if drawn else ""
    enough = curve["enough"]
    judged = "the official test part" if curve["part"] == "test" else "groups held out, others for each draw"
    aim = f"the AUC with all labels ({whole:.3f})"
    summary = (
        f"From {number(enough)} labelled groups per class on, the mean AUC is within 0.01 of {aim}."
        if enough
        else f"Fewer labels than there are do not reach within 0.01 of {aim}: more of them may help."
    )
    rows = [
        {
            "size": "all" if point["per_class"] is None else number(point["per_class"]),
            "rows": number(round(point["rows"])),
            "auc": f"{point['auc']:.3f}",
            "sd": f"{point['sd']:.3f}",
            "bounds": f"{point['low']:.3f}–{point['high']:.3f}",
            "draws": number(point["draws"]),
        }
        for point in points
    ]
    return render(
        "learning.html",
        {
            "title": f"Learning curve: {clean(curve['task'])}",
            "task": curve["task"],
            "summary": f"{summary} Judged on {judged}.",
            "notes": [clean(note) for note in curve.get("notes", ())],
            "figure": figure,
            "rows": rows,
            "facts": [(title, phrase(curve[key])) for key, title in _FACTS if curve.get(key) not in (None, "")],
        },
    )
