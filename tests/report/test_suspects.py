"""The page of label errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vecstore.report.suspects import MOST_PAIRS, items_shown, suspects_page

Check = Callable[..., Any]
NASTY = "<script>alert(1)</script>\"' onerror=x {{ 7*7 }} \u202egpj.exe\x00.jpg"
SHOWN = "<script>alert(1)</script>\"' onerror=x {{ 7*7 }} \ufffdgpj.exe\ufffd.jpg"


def _hit(item: int, **changes: Any) -> dict[str, Any]:
    return {"rank": 1, "item_id": item, "score": 0.91, "source": "busi", "locator": f"x/{item}.jpg"} | changes


def _suspect(rank: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "rank": rank,
        "item_id": 10 * rank,
        "source": "busi",
        "locator": f"benign/{rank}.jpg",
        "label": "",
        "given": "benign",
        "suggested": "malignant",
        "probability_given": 0.04,
        "probability_suggested": 0.9,
        "margin": 0.05,
        "part": "test",
        "group": "P7",
        "pictures": 1,
        "nearest_suggested": [_hit(10 * rank + 1), _hit(10 * rank + 2)],
        "nearest_given": [_hit(10 * rank + 3)],
    } | changes


def _record(suspects: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {
        "task": "diagnosis",
        "kind": "binary",
        "classes": ["benign", "malignant"],
        "n": 1780,
        "items": 1780,
        "found": len(suspects),
        "share": 0.02,
        "suspects": suspects,
        "pairs": [{"given": "benign", "suggested": "malignant", "count": len(suspects)}] if suspects else [],
        "counts": {"benign": 1000, "malignant": 780},
        "predictions": "out-of-fold (1780)",
        "model": "probe",
        "space": "bundled",
        "encoder": "bundled",
        "group_column": None,
        "level": None,
        "notes": ["3 items have no vector"],
        "commit": 4,
        "store": "busi.vecs",
    } | changes


def test_a_card_says_what_is_doubted_and_shows_both_sides(
    jpeg: bytes, parse: Check, assert_self_contained: Check
) -> None:
    html = suspects_page(_record([_suspect()]), {10: jpeg, 11: jpeg, 13: jpeg})
    assert_self_contained(html)
    page = parse(html)
    assert "1 of 1 780 labels is suspect" in page.text
    assert (
        "1 1.jpg busi · benign · item 10 Label benign probability 0.040 Suggested malignant probability 0.900"
        in page.text
    )
    assert "part test group P7" in page.text and "pictures 1" not in page.text
    assert "labelled malignant , as suggested 0.910 11.jpg no thumbnail 0.910 12.jpg" in page.text
    assert "labelled benign , as it is 0.910 13.jpg" in page.text
    assert [image["alt"] for image in page.of("img")] == ["Suspect 1: benign/1.jpg", "busi: x/11.jpg", "busi: x/13.jpg"]
    assert [bar["style"] for bar in page.of("i")] == ["width: 4.0%", "width: 90.0%"]
    for text in ("3 items have no vector", "Predictions out-of-fold (1780)", "benign 1000, malignant 780", "busi.vecs"):
        assert text in page.text
    assert html == suspects_page(_record([_suspect()]), {10: jpeg, 11: jpeg, 13: jpeg})


def test_a_label_of_several_is_named(parse: Check) -> None:
    suspect = _suspect(label="glaucoma", given="no", suggested="yes", pictures=2, part="", group="")
    pairs = [
        {"label": f"finding {n}", "given": "no", "suggested": "yes", "count": 20 - n} for n in range(MOST_PAIRS + 2)
    ]
    page = parse(suspects_page(_record([suspect], kind="multi-label", pairs=pairs, found=40), {}))
    assert "1 · glaucoma 1.jpg" in page.text and "pictures 2" in page.text
    assert "The 1 most doubtful of 40" in page.text
    assert "finding 11 no yes 9" in page.text and "finding 12" not in page.text and "and 2 rarer kinds" in page.text


def test_no_suspect_is_said_in_words(parse: Check) -> None:
    text = parse(suspects_page(_record([]), {})).text
    assert "None of 1 780 labels is suspect." in text and "No label is suspect." in text
    assert "What is doubted" not in text


def test_any_text_is_shown_and_none_is_obeyed(parse: Check, assert_self_contained: Check, jpeg: bytes) -> None:
    hit = _hit(11, locator=NASTY, source=NASTY)
    names: dict[str, Any] = dict.fromkeys(("source", "locator", "given", "suggested", "group", "label"), NASTY)
    suspect = _suspect(**names, nearest_suggested=[hit], nearest_given=[])
    pair = {"label": NASTY, "given": NASTY, "suggested": NASTY, "count": 1}
    html = suspects_page(_record([suspect], task=NASTY, notes=[NASTY], pairs=[pair]), {10: jpeg, 11: b"<svg>"})
    assert_self_contained(html)
    page = parse(html)
    assert f"Label errors: {SHOWN}" in page.text and "49" not in page.text
    assert [image["alt"] for image in page.of("img")] == [f"Suspect 1: {SHOWN}"]


def test_every_picture_that_is_shown_is_asked_for_once() -> None:
    assert items_shown([_suspect(), _suspect(2, nearest_given=[_hit(10)])]) == [10, 11, 12, 13, 20, 21, 22]


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out_at_any_width(width: int, jpeg: bytes, measure: Check) -> None:
    long = {"locator": "deep/" * 30 + "n" * 150, "given": "g" * 90, "suggested": "s" * 90, "group": "v" * 80}
    hits = [_hit(11, locator="w" * 120 + ".jpg"), *(_hit(n) for n in range(12, 15))]
    suspects = [_suspect(1, **long, nearest_suggested=hits, nearest_given=hits), _suspect(2)]
    pairs = [{"label": "l" * 60, "given": "g" * 90, "suggested": "s" * 90, "count": 1}]
    html = suspects_page(_record(suspects, pairs=pairs), {10: jpeg, **dict.fromkeys(range(11, 24), jpeg)})
    seen = measure(html, width)
    assert seen == {"title": "Label errors: diagnosis", "inner": width, "faults": []}
