"""The page of an embedding map: what is in it, and what it does under a pointer, a finger and a keyboard."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from vecstore.report.map import LONG_VALUE, MapField, MapPoints, map_page

if TYPE_CHECKING:
    from tests.browser import Browser

NASTY = "</script><script>alert(1)</script><!-- \"' {{ 7*7 }} \u202egpj.exe\x00\udcff\u2028"
FACTS = {"method": "principal components", "store": "chest.vecs, commit 7"}


def _points(n: int = 9, **changes: Any) -> MapPoints:
    """A grid of three columns."""
    values: dict[str, Any] = {
        "places": np.array([(i % 3, i // 3) for i in range(n)], np.float64),
        "ids": [100 + i for i in range(n)],
        "names": [f"a.zip!x/{i}.png" for i in range(n)],
        "sources": ["derm"] * n,
        "pictures": [b"p"] * n,
        "fields": [
            MapField("dx", [("nv", "mel", None)[i % 3] for i in range(n)], "task", ("nv", "mel")),
            MapField("age", [20.5 + i for i in range(n)]),
        ],
        "colors": [0, 1],
    } | changes
    return MapPoints(**values)


def _data(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_same_input_gives_the_same_bytes(jpeg: bytes) -> None:
    pages = {map_page("chest", "9 items", _points(), {b"p": jpeg}, FACTS).encode() for _ in range(3)}
    assert len(pages) == 1


def test_the_page_lets_one_script_run_and_opens_nothing(jpeg: bytes) -> None:
    html = map_page("chest", "9 items", _points(), {b"p": jpeg}, FACTS)
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', html)
    assert re.fullmatch(
        r"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-[\w+/=]{44}'", policy
    )
    assert html.count("<script") == 2 and "http" not in html.replace("http-equiv", "")
    assert not re.search(r"url\(|@import|(src|href)=[\"']", html)
    assert "9 items" in html and "chest.vecs, commit 7" in html


def test_places_keep_their_shape_and_a_picture_is_there_once(jpeg: bytes) -> None:
    points = _points(places=np.array([(0.0, 0.0), (4.0, 1.0), (2.0, 2.0)]), ids=[1, 2, 3], pictures=[b"p", b"p", b"q"])
    data = _data(map_page("m", "", points, {b"p": jpeg, b"q": b"<svg>"}, {}))
    assert data["x"] == [0, 9999, 5000]
    assert data["y"] == [5000, 2500, 0]  # downwards, in the unit of x
    assert (len(data["pictures"]), data["picture"]) == (1, [0, 0, -1])
    same = _data(map_page("m", "", _points(places=np.ones((9, 2))), {}, {}))
    assert set(same["x"]) == set(same["y"]) == {0}


def test_values_are_categories_or_a_scale() -> None:
    fields = [
        MapField("dx", ["mel", None, *["nv"] * 6, "bcc"], "task", ("nv", "mel", "df")),
        MapField("ward", ["b", "a", "b", "a", "c", "b", None, "b", "z"]),
        MapField("flag", [1, 0, 1, 0, 1, 0, 10, 2, None]),
        MapField("age", [0.5, 1, 2, 3, 4, 5, 6, 1 / 3, 9]),
        MapField("dose", [1e400, *[0.0] * 8]),
        MapField("mixed", ["x", 1, 2, 3, 4, 5, 6, 7, 8]),
        MapField("many", [f"p{i}" for i in range(9)], order=[f"p{i}" for i in range(30)]),
    ]
    dx, ward, flag, age, dose, mixed, many = _data(map_page("m", "", _points(fields=fields), {}, {}))["fields"]
    assert dx["levels"] == ["nv", "mel", "bcc"] and dx["codes"] == [1, -1, 0, 0, 0, 0, 0, 0, 2]
    assert ward["levels"] == ["b", "a", "c", "z"]  # the most frequent first
    assert flag["levels"] == ["0", "1", "2", "10"] and flag["codes"][-1] == -1
    assert age["values"] == [0.5, 1, 2, 3, 4, 5, 6, 0.333333, 9]
    assert dose["levels"] == ["0"] and dose["codes"][0] == -1  # what is no number is not known
    assert len(mixed["levels"]) == 9 and many["levels"][0] == "p0"


def test_any_text_is_shown_and_none_is_obeyed(browser: Browser, tmp_path: Path, jpeg: bytes) -> None:
    long = "word " * 60
    fields = [MapField(NASTY, [NASTY] * 9, "task", (NASTY,)), MapField("long", [long] * 9)]
    points = _points(names=[NASTY] * 9, sources=[NASTY] * 9, fields=fields)
    html = map_page(NASTY, NASTY, points, {b"p": jpeg}, {NASTY: NASTY})
    assert html.count("<script") == 2 and html.count("</script") == 2
    (tmp_path / "map.html").write_bytes(html.encode())
    page = browser.open(tmp_path / "map.html", 390)
    page.evaluate("document.querySelector('#map').focus()")
    page.press("ArrowRight")
    shown = NASTY.translate({0x202E: 0xFFFD, 0: 0xFFFD, 0xDCFF: 0xFFFD})
    text = page.evaluate("document.querySelector('#tip').textContent")
    assert shown[:-1] in text and page.evaluate("document.querySelector('#legend button bdi').textContent") == shown
    assert long[: LONG_VALUE - 1].rstrip() + "…" in text and long.strip() not in text
    assert page.faults() == []
    page.close()


@pytest.fixture
def map_file(tmp_path: Path, jpeg: bytes) -> Path:
    """A map of nine points; the last has no picture."""
    points = _points(pictures=[b"p"] * 8 + [None])
    (tmp_path / "map.html").write_bytes(map_page("chest", "9 items", points, {b"p": jpeg}, FACTS).encode())
    return tmp_path / "map.html"


TIP = "(t => t.hidden ? null : t.textContent)(document.querySelector('#tip'))"
PICTURE = "document.querySelector('#tip img')?.naturalWidth"


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (320, True)])
def test_a_pointer_over_a_point_shows_its_picture(browser: Browser, map_file: Path, width: int, dark: bool) -> None:
    page = browser.open(map_file, width, dark=dark)
    assert page.evaluate(TIP) is None
    page.evaluate("document.querySelector('#map').focus()")
    page.press("ArrowRight")  # the middle one; its ring says where it is
    spot = page.centre("#ring")
    page.press("Escape")
    assert page.evaluate(TIP) is None
    page.hover(*spot)
    text = page.evaluate(TIP)
    assert "4.png" in text and "derm · a.zip!x" in text and "dxmel" in text and "age24.5" in text and "item104" in text
    page.evaluate("document.querySelector('#tip img').decode().then(() => true)")
    assert page.evaluate(PICTURE) == 96
    assert page.faults() == [] and page.requests == [map_file.resolve().as_uri()]
    left, top = page.centre("#map")[0] - 1000, page.centre("#map")[1]
    page.hover(max(left, 1), top - 140)
    assert page.evaluate(TIP) is None
    page.click(*spot)
    page.hover(5, 5)
    assert "4.png" in page.evaluate(TIP) and page.evaluate("document.querySelector('#tip').className") == "tip pinned"
    page.click(*page.centre("#tip button"))
    assert page.evaluate(TIP) is None and page.faults() == []
    page.close()


def test_arrows_walk_and_enter_keeps(browser: Browser, map_file: Path) -> None:
    page = browser.open(map_file)
    page.evaluate("document.querySelector('#map').focus()")
    seen = []
    for key in ("ArrowLeft", "ArrowUp", "ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft", "ArrowRight"):
        page.press(key)
        seen.append(re.search(r"(\d)\.png", page.evaluate(TIP))[1])  # type: ignore[index]
    assert seen == ["4", "7", "8", "8", "5", "4", "5"]
    said = "document.querySelector('#said').textContent"
    assert page.evaluate(said) == "a.zip!x/5.png, age 25.5"
    page.press("Enter")
    assert page.evaluate("document.querySelector('#tip').className") == "tip pinned"
    page.press("Escape")
    assert page.evaluate(TIP) is None
    for key in "++-0":
        page.press(key)
    page.press("ArrowDown")
    assert "4.png" in page.evaluate(TIP) and page.faults() == []
    page.close()


def test_wheel_and_drag_look_closer_without_losing_the_point(browser: Browser, map_file: Path) -> None:
    page = browser.open(map_file)
    page.evaluate("document.querySelector('#map').focus()")
    page.press("ArrowRight")
    page.press("ArrowRight")
    page.press("Enter")  # the right of the middle row is kept
    (x, y), (right, level) = page.centre("#map"), page.centre("#ring")
    assert level == pytest.approx(y, abs=1) and right > x + 100
    page.wheel(right, level, -300)
    assert page.centre("#ring") == pytest.approx((right, level), abs=1)  # what the pointer is over stays there
    assert page.evaluate("getComputedStyle(document.querySelector('#map')).touchAction") == "none"
    page.drag(x - 300, y + 200, -60, 25)  # beside the card
    assert page.centre("#ring") == pytest.approx((right - 60, level + 25), abs=1)
    assert page.evaluate("document.querySelector('#tip').className") == "tip pinned"
    page.click(*page.centre("#whole"))
    assert page.centre("#ring") == pytest.approx((right, level), abs=1)
    page.click(*page.centre("#in"))
    assert page.centre("#ring")[0] - x == pytest.approx(1.6 * (right - x), abs=2)
    assert page.faults() == []
    page.close()


def test_a_finger_shows_a_picture_and_hides_it(browser: Browser, map_file: Path) -> None:
    page = browser.open(map_file, 390, 844, touch=True)
    x, y = page.centre("#map")
    page.tap(x + 8, y + 8)  # near is enough
    assert "4.png" in page.evaluate(TIP)
    box = page.evaluate("(b => [b.left, b.right, b.bottom])(document.querySelector('#tip').getBoundingClientRect())")
    assert box == [8, 382, 836]  # a sheet at the foot of the screen
    assert page.evaluate("getComputedStyle(document.querySelector('#map')).touchAction") == "pan-y"
    page.tap(*page.centre("#tip button"))
    assert page.evaluate(TIP) is None and page.faults() == []
    page.close()


def test_the_legend_counts_and_shows_some_alone(browser: Browser, map_file: Path) -> None:
    page = browser.open(map_file)
    rows = "[...document.querySelectorAll('#legend button')].map(b => b.innerText.replace(/\\s+/g, ' ').trim())"
    assert page.evaluate(rows) == ["nv 3", "mel 3", "not known 3"]
    middle = page.centre("#map")
    page.click(*page.centre("#legend li:first-child button"))
    assert page.evaluate("document.querySelector('#legend button').getAttribute('aria-pressed')") == "true"
    page.hover(*middle)  # a mel is there, which is not shown now
    assert page.evaluate(TIP) is None
    page.click(*page.centre("#legend li:first-child button"))
    page.hover(*middle)
    assert "4.png" in page.evaluate(TIP)
    page.evaluate("(s => { s.value = '1'; s.dispatchEvent(new Event('change')); })(document.querySelector('#by'))")
    assert page.evaluate("document.querySelector('#legend .ends').innerText.split(/\\s+/)") == ["20.5", "28.5"]
    assert page.evaluate(rows) == []
    assert page.faults() == []
    page.close()


def _painted(page: Any) -> int:
    """Pixels of the canvas that something is drawn on."""
    script = """(seen => {
      const copy = Object.assign(document.createElement("canvas"), { width: seen.width, height: seen.height });
      const pen = copy.getContext("2d", { willReadFrequently: true });
      pen.drawImage(seen, 0, 0);
      const data = pen.getImageData(0, 0, copy.width, copy.height).data;
      let found = 0;
      for (let i = 3; i < data.length; i += 4) found += data[i] > 200;
      return found;
    })(document.querySelector("#map"))"""
    return int(page.evaluate(script))


def test_pictures_are_drawn_in_place_of_points(browser: Browser, map_file: Path) -> None:
    page = browser.open(map_file)
    before = _painted(page)
    assert 9 * 50 < before < 9 * 250
    page.click(*page.centre("#pictures"))
    for _ in range(50):  # they are decoded first
        page.settle()
        if _painted(page) > 8 * 1500:
            break
    assert 8 * 1500 < _painted(page) < 8 * 2500  # 48 by 36, and a frame; one item has none
    page.hover(*page.centre("#map"))
    assert "4.png" in page.evaluate(TIP) and page.faults() == []
    page.close()


def test_a_map_without_anything_to_colour_by_is_a_map(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "map.html").write_text(map_page("m", "", _points(fields=[], colors=[], pictures=[None] * 9), {}, {}))
    page = browser.open(tmp_path / "map.html", 390)
    page.hover(*page.centre("#map"))
    assert "no thumbnail" in page.evaluate(TIP) and "item104" in page.evaluate(TIP)
    assert page.evaluate("document.querySelector('.tools label').offsetWidth") == 0 and page.faults() == []
    page.close()
