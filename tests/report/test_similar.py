"""The page of similar cases."""

from __future__ import annotations

import base64
import csv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vecstore.records import Hit
from vecstore.report.similar import LONG_VALUE, QueryCard, similar_page

Check = Callable[..., Any]
NASTY = "<script>alert(1)</script>\"' onerror=x &amp; Röntgen [a](b) {{ 7*7 }} \u202egpj.exe\x00.jpg"
SHOWN = "<script>alert(1)</script>\"' onerror=x &amp; Röntgen [a](b) {{ 7*7 }} \ufffdgpj.exe\ufffd.jpg"
FACTS = {"k": "3", "space": "lite0", "search": "exact", "filter": "age >= 60", "own group": "left out", "commit": "7"}


def _hits(n: int = 3, **changes: Any) -> list[Hit]:
    first = {"source": "derm", "locator": "a.zip!x/ISIC_1.jpg", "metadata": {"age": 60.0, "sex": "male"}}
    return [
        Hit(**{"rank": i + 1, "item_id": 10 + i, "score": 0.9 - 0.1 * i, "labels": {"dx": "nv"}, **first, **changes})
        for i in range(n)
    ]


def test_the_same_input_gives_the_same_bytes(jpeg: bytes) -> None:
    pages = {similar_page(QueryCard("q", picture=jpeg), _hits(), {10: jpeg}, FACTS).encode("utf-8") for _ in range(3)}
    assert len(pages) == 1


def test_the_page_is_self_contained_and_says_how_it_was_found(
    jpeg: bytes, parse: Check, assert_self_contained: Check
) -> None:
    html = similar_page(QueryCard("q.png", "a new picture", jpeg, {"dx": "mel"}), _hits(), {10: jpeg}, FACTS)
    assert_self_contained(html)
    assert "http" not in html.replace('meta http-equiv="', "")
    page = parse(html)
    for text in ("q.png", "a new picture", "dx mel", "own group left out", "commit 7", "3 similar cases"):
        assert text in page.text
    assert [attributes["alt"] for attributes in page.of("img")] == ["Query: q.png", "Rank 1: a.zip!x/ISIC_1.jpg"]
    assert page.text.count("no thumbnail") == 2


def test_cards_come_in_order_with_score_bar_and_values(parse: Check) -> None:
    html = similar_page(QueryCard("q"), _hits(), {}, {})
    page = parse(html)
    for rank, score in enumerate(("0.9000", "0.8000", "0.7000"), 1):
        assert f"Rank {rank} {score} ISIC_1.jpg derm · a.zip!x dx nv age 60 sex male" in page.text
    assert [bar["style"] for bar in page.of("i")] == ["width: 90.0%", "width: 80.0%", "width: 70.0%"]


def test_the_likeliest_classes_are_told_and_long_names_are_divided_between_their_words(parse: Check) -> None:
    predictions = {"mel": 0.1, "nv": 0.55, "bkl": 0.05, "df": 0.3}
    html = similar_page(
        QueryCard("q"), _hits(1, predictions=predictions, metadata={"BurnedInAnnotation": "A\\B"}), {}, {}
    )
    text = "predicted nv 0.550 predicted df 0.300 predicted mel 0.100 BurnedInAnnotation A\\B"
    assert text in parse(html).text and "bkl" not in html
    assert "Burned<wbr>In<wbr>Annotation" in html and "A\\<wbr>B" in html


@pytest.mark.parametrize(("score", "width"), [(-0.4, "0.0"), (0.0, "0.0"), (1.0, "100.0")])
def test_the_bar_stays_in_its_track(score: float, width: str, parse: Check) -> None:
    page = parse(similar_page(QueryCard("q"), _hits(1, score=score), {}, {}))
    assert page.of("i")[0]["style"] == f"width: {width}%"


def test_any_text_is_shown_and_none_is_obeyed(jpeg: bytes, parse: Check, assert_self_contained: Check) -> None:
    hits = _hits(1, source=NASTY, locator=NASTY, metadata={NASTY: NASTY}, labels={NASTY: NASTY})
    html = similar_page(QueryCard(NASTY, NASTY, jpeg, {NASTY: NASTY}), hits, {10: jpeg}, {NASTY: NASTY})
    assert_self_contained(html)
    page = parse(html)
    assert f"Similar cases: {SHOWN}" in page.text
    assert page.of("img")[1]["alt"] == f"Rank 1: {SHOWN}"
    assert page.of("dd")[-1]["title"] == SHOWN
    assert "49" not in page.text


def test_half_a_surrogate_pair_does_not_stop_the_page_from_being_written(parse: Check) -> None:
    html = similar_page(QueryCard("a\udcffb"), [], {}, {})
    assert "Similar cases: a\ufffdb" in parse(html.encode("utf-8").decode()).text


def test_long_values_are_cut_but_whole_in_the_title(parse: Check) -> None:
    value = "word " * 40
    page = parse(similar_page(QueryCard("q"), _hits(1, metadata={"c": value, "empty": None}), {}, {}))
    assert page.of("dd") == [{"title": value}]
    assert value[: LONG_VALUE - 1].rstrip() + "…" in page.text
    assert value.strip() not in page.text
    assert "empty" not in page.text


def test_no_hits_are_said_in_words(parse: Check) -> None:
    text = parse(similar_page(QueryCard("q"), [], {}, {})).text
    assert "0 similar cases" in text
    assert "No other picture of the store passes the filter." in text


def test_thumbnails_are_the_bytes_given_and_what_is_no_picture_is_not_shown(jpeg: bytes, parse: Check) -> None:
    thumbnails = {10: jpeg, 11: b"\x89PNG\r\n\x1a\n rest", 12: b"<svg onload=alert(1)>"}
    sources = [image["src"] for image in parse(similar_page(QueryCard("q"), _hits(), thumbnails, {})).of("img")]
    assert [source.split(",")[0] for source in sources] == ["data:image/jpeg;base64", "data:image/png;base64"]
    assert base64.b64decode(sources[0].split(",")[1]) == jpeg


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_sticks_out_at_any_width_with_real_pictures(width: int, shared: Path, measure: Check) -> None:
    folder = shared / "derm_ham10000"
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:6]
    hits, thumbnails = [], {}
    with zipfile.ZipFile(folder / "images.zip") as pictures:
        for i, row in enumerate(rows):
            thumbnails[i] = pictures.read(row["file"])
            metadata = dict(row) | ({"c" * 60: "w" * 200} if i == 1 else {})
            locator = "images.zip!" + ("deep/" * 30 + "n" * 150 if i == 2 else row["file"])
            hits.append(Hit(i + 1, i, 0.9, "derm", locator, metadata, {"t" * 50: "l" * 90} if i == 3 else {"dx": "nv"}))
    query = QueryCard("q" * 90 + ".jpg", "item", thumbnails[0], metadata={"key": "v" * 200})
    facts = {"filter": "x" * 150, "space": "lite0"}
    seen = measure(similar_page(query, hits, thumbnails, facts), width)
    assert seen == {"title": f"Similar cases: {query.title}", "inner": width, "faults": []}
