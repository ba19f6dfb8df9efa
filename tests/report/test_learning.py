"""The page of a learning curve."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from vecstore.report.learning import learning_page


def _curve(**changes: Any) -> dict[str, Any]:
    points = [
        {"per_class": size, "rows": 2.5 * (size or 100), "auc": auc, "sd": 0.05, "low": auc - 0.1, "high": auc + 0.05}
        for size, auc in ((1, 0.6), (2, 0.7), (16, 0.9), (None, 0.905))
    ]
    return {
        "task": "pneumonia",
        "kind": "binary",
        "classes": ["normal", "pneumonia"],
        "rule": "logistic regression",
        "part": "test",
        "points": [point | {"draws": 10} for point in points],
        "enough": 16,
        "notes": ["3 items have no vector"],
    } | changes


def test_a_page_says_how_many_labels_are_enough(parse: Callable[[str], Any]) -> None:
    page = parse(learning_page(_curve()))
    assert "From 16 labelled groups per class on, the mean AUC is within 0.01 of the AUC with all labels (0.905)." in (
        page.text
    )
    assert "3 items have no vector" in page.text and "Judged on the official test part." in page.text
    assert "0.600" in page.text and "0.500–0.650" in page.text and " all " in page.text
    (figure,) = page.of("svg")
    assert (
        figure["aria-label"]
        == "Mean AUC by labelled groups per class, 1: 0.60, 2: 0.70, 16: 0.90; with all labels 0.91."
    )


def test_the_figure_has_its_band_line_and_dashes_and_refers_to_nothing() -> None:
    html = learning_page(_curve())
    svg = html[html.index("<svg") : html.index("</svg>")]
    assert "<use" not in svg and "url(" not in svg
    band = [path for path in re.findall(r"<path[^>]*>", svg) if "opacity: 0.2" in path]
    assert len(band) == 1 and "fill: var(--c0)" in band[0]
    assert len([path for path in re.findall(r"<path[^>]*>", svg) if "stroke: var(--c0)" in path]) == 1
    assert "stroke-dasharray" in svg


def test_a_curve_that_still_rises_says_so(parse: Callable[[str], Any]) -> None:
    page = parse(learning_page(_curve(enough=None, part="held-out", notes=[])))
    assert "Fewer labels than there are do not reach within 0.01" in page.text
    assert "groups held out, others for each draw" in page.text and "Please note" not in page.text


def test_no_size_fits_and_names_are_text(parse: Callable[[str], Any]) -> None:
    alone = [point for point in _curve()["points"] if point["per_class"] is None]
    page = parse(learning_page(_curve(points=alone, enough=None, task="<b>&\x00")))
    assert not page.of("svg") and not page.of("b")
    assert "<b>&\ufffd" in page.text


@pytest.mark.parametrize("curve", [_curve(), _curve(enough=None)])
def test_the_same_curve_gives_the_same_bytes(curve: dict[str, Any]) -> None:
    assert learning_page(curve) == learning_page(curve)
