"""Pages: everything of a result is on its page, with pictures, and nothing is fetched."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from vecstore.errors import UsageError
from vecstore.pages import write_similar_page
from vecstore.search import search
from vecstore.store import Store

if TYPE_CHECKING:
    from tests.browser import Browser

_PICTURE = re.compile(r"data:image/jpeg;base64,([A-Za-z0-9+/=]+)")


def _pictures(page: str) -> list[bytes]:
    return [base64.b64decode(text) for text in _PICTURE.findall(page)]


def test_the_page_of_a_search_has_every_hit_with_its_picture(colour_store: Store, tmp_path: Path) -> None:
    result = search(colour_store, 5, 10, where="age > 41", thumbnails=True)
    write_similar_page(colour_store, result, tmp_path / "similar.html")
    page = (tmp_path / "similar.html").read_text(encoding="utf-8")
    assert result.thumbnail is not None
    hashes = colour_store.hashes_of([5, *(hit.item_id for hit in result.hits)])
    stored = colour_store.thumbnails.get(list(hashes.values()))
    shown = _pictures(page)
    assert len(shown) == 11 and set(shown) == set(stored.values())
    for hit in result.hits:
        assert hit.locator.rpartition("/")[2] in page and str(hit.metadata["patient"]) in page
        assert f"{hit.score:.4f}" in page
    for text in ("fake-64", "age &gt; 41", "left out (patient): 3 items", f"commit {colour_store.commit}", "exact"):
        assert text in page
    assert str(result.searched) in page
    assert not re.search(r"(src|href)=[\"'](?!data:|#)", page)
    assert (tmp_path / "similar.html").stat().st_mode & 0o777 == 0o600


def test_the_page_says_what_is_known_of_the_query(colour_store: Store, tmp_path: Path) -> None:
    result = search(colour_store, 5, 2, where="patient = 'P9'")
    write_similar_page(colour_store, result, tmp_path / "similar.html")
    query, _, _ = (tmp_path / "similar.html").read_text(encoding="utf-8").partition("2 similar cases")
    known = colour_store.metadata([5])[5]
    assert f"<dt>patient</dt><dd><bdi>{known['patient']}</bdi>" in query and "<dt>age</dt>" in query
    assert colour_store.labels_of([5])[5]["colour"] in query
    several = search(colour_store, [5, 9], 2, where="patient = 'P9'")
    write_similar_page(colour_store, several, tmp_path / "several.html")
    assert "<dt>patient</dt>" not in (tmp_path / "several.html").read_text().partition("2 similar cases")[0]


def test_a_page_without_thumbnails_still_has_every_hit(colour_store: Store, tmp_path: Path) -> None:
    (colour_store.path / "thumbnails.sqlite").unlink()
    with Store(colour_store.path) as store:
        result = search(store, 5, 4, thumbnails=True)
        write_similar_page(store, result, tmp_path / "similar.html")
    page = (tmp_path / "similar.html").read_text(encoding="utf-8")
    assert result.thumbnail is None and _pictures(page) == []
    assert all(hit.locator.rpartition("/")[2] in page for hit in result.hits)


def test_a_new_picture_is_shown_beside_its_hits(
    colour_store: Store, tmp_path: Path, paint: Callable[[Path, str, int], None]
) -> None:
    paint(tmp_path / "dir" / "<b>new.png", "red", 3)
    result = search(colour_store, tmp_path / "dir" / "<b>new.png", 2, thumbnails=True)
    write_similar_page(colour_store, result, tmp_path / "similar.html")
    page = (tmp_path / "similar.html").read_text(encoding="utf-8")
    assert result.thumbnail in _pictures(page) and "&lt;b&gt;new.png" in page and "<b>new" not in page
    assert "nothing left out" in page
    assert str(tmp_path) not in page  # where pictures lie on this machine is nobody's business


def test_a_page_of_no_hits_says_so(colour_store: Store, tmp_path: Path) -> None:
    result = search(colour_store, 5, 3, where="age > 1000")
    write_similar_page(colour_store, result, tmp_path / "similar.html")
    assert "0 of 3: no more items fit" in (tmp_path / "similar.html").read_text(encoding="utf-8")


def test_a_page_without_a_folder_is_refused(colour_store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="its folder does not exist"):
        write_similar_page(colour_store, search(colour_store, 1, 2), tmp_path / "no" / "similar.html")
    with pytest.raises(UsageError, match="a folder has this name"):
        write_similar_page(colour_store, search(colour_store, 1, 2), tmp_path)


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_browser_shows_similar_cases_with_their_pictures(
    browser: Browser, colour_store: Store, tmp_path: Path, width: int, dark: bool
) -> None:
    path = tmp_path / "similar.html"
    result = search(colour_store, 5, 10, thumbnails=True)
    write_similar_page(colour_store, result, path)
    page = browser.open(path, width, dark=dark)
    assert page.evaluate("[...document.images].map(i => i.naturalWidth)") == [12] * 11
    assert page.faults() == [] and page.requests == [path.resolve().as_uri()]
    # What the pointer is over says in full what the card may have cut.
    page.evaluate("document.querySelector('.card h3').scrollIntoView()")
    page.hover(*page.centre(".card h3 bdi"))
    assert page.evaluate("document.querySelector('.card h3:hover').title") == result.hits[0].locator
    page.close()


def test_a_browser_tells_of_every_fault(browser: Browser, tmp_path: Path) -> None:
    html = """<!doctype html><title>t</title><meta http-equiv="Content-Security-Policy" content="img-src data:">
    <body style="margin: 0"><div id="wide" style="width: 500px">x</div><img alt="broken" src="data:image/png;base64,AA">
    <img alt="elsewhere" src="file:///elsewhere.png"><script>console.warn("careful"); throw Error("oops")</script>"""
    (tmp_path / "bad.html").write_text(html, encoding="utf-8")
    page = browser.open(tmp_path / "bad.html", 390)
    told = "\n".join(page.faults())
    for fault in ("scrolls sideways: 500", "sticks out: div #wide", "no picture: broken", "no picture: elsewhere"):
        assert fault in told
    for fault in ("console: careful", "Error: oops", "Content Security Policy directive"):
        assert fault in told
    page.close()
