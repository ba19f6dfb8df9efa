"""Looking at a page: its elements by Python's parser, its layout by a real browser."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

if TYPE_CHECKING:
    from tests.browser import Browser

VOID = frozenset({"meta", "img", "br", "hr", "input", "link", "wbr", "col", "source"})


@dataclass
class Page:
    """What a page is made of."""

    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    text: str = ""

    def of(self, tag: str) -> list[dict[str, str]]:
        """Attributes of each element of this name."""
        return [attributes for name, attributes in self.tags if name == tag]


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page, self.open = Page(), [""]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"<{tag}> has an attribute twice"
        self.page.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.page.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if self.open[-1] != "style":
            # A place where a word may be divided divides no word.
            apart = "" if self.page.tags and self.page.tags[-1][0] == "wbr" else " "
            self.page.text += f"{apart}{data}"


@pytest.fixture(scope="session")
def parse() -> Callable[[str], Page]:
    """A page's elements and text; fails where tags are not balanced or ids repeat."""

    def run(html: str) -> Page:
        parser = _Parser()
        parser.feed(html)
        parser.close()
        assert parser.open == [""]
        ids = [attributes["id"] for _, attributes in parser.page.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        parser.page.text = " ".join(parser.page.text.split())
        return parser.page

    return run


@pytest.fixture(scope="session")
def assert_self_contained(parse: Callable[[str], Page]) -> Callable[[str], None]:
    """Assert that a page opens nothing from elsewhere, runs nothing, and can be read by everybody."""

    def check(html: str) -> None:
        page = parse(html)
        names = {name for name, _ in page.tags}
        assert not names & {"script", "link", "iframe", "object", "embed", "base", "form", "a", "image", "use"}
        for name, attributes in page.tags:
            assert not [key for key in attributes if key.startswith("on")], name
            for key in ("src", "href", "xlink:href", "srcset", "poster", "data", "action"):
                assert key not in attributes or attributes[key].startswith("data:image/"), (name, key)
        assert not re.search(r"url\(|@import|@font-face", html)
        assert "default-src 'none'" in page.of("meta")[4]["content"]
        assert all(image["alt"] for image in page.of("img"))
        assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.of("svg"))
        assert all(header["scope"] in ("row", "col") for header in page.of("th"))
        assert page.of("html") == [{"lang": "en"}]

    return check


@pytest.fixture
def measure(browser: Browser, tmp_path: Path) -> Callable[[str, int], dict[str, Any]]:
    """Title, inner width, and whatever is wrong with a page at a width in CSS pixels."""

    def run(html: str, width: int) -> dict[str, Any]:
        (tmp_path / "page.html").write_text(html, encoding="utf-8")
        page = browser.open(tmp_path / "page.html", width)
        title, inner = page.evaluate("[document.title, innerWidth]")
        faults = page.faults()
        page.close()
        return {"title": title, "inner": inner, "faults": faults}

    return run


@pytest.fixture(scope="session")
def jpeg() -> bytes:
    """A small JPEG."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((96, 72)).save(file, "JPEG")
    return file.getvalue()
