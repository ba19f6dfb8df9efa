"""Looking at a page: its elements by Python's parser, its layout by a real browser."""

from __future__ import annotations

import html as entities
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

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
            self.page.text += f" {data}"


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


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a real browser."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        reason = "no chromium on PATH: layout can't be measured"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture
def measure(chromium: str, tmp_path: Path) -> Callable[[str, int], dict[str, str]]:
    """Title, inner width, and elements that stick out on the right, of a page at a width in CSS pixels.

    The page itself forbids scripts, so that line is taken out of the copy that is measured.
    """

    script = """<script>addEventListener("load", () => {
      const inScroller = e => e.parentElement && (e.parentElement.closest(".scroll") !== null);
      const out = [...document.querySelectorAll("body *")].filter(
        e => !inScroller(e) && e.getBoundingClientRect().right > innerWidth + 0.5);
      const broken = [...document.images].filter(i => !i.complete || i.naturalWidth === 0);
      document.documentElement.dataset.measured = JSON.stringify([document.title, innerWidth,
        document.documentElement.scrollWidth, out.map(e => e.tagName + "." + e.className), broken.length]);
    })</script>"""

    def run(html: str, width: int) -> dict[str, str]:
        bare = re.sub(r"<meta http-equiv[^>]*>", "", html)
        (tmp_path / "page.html").write_text(bare.replace("</body>", script + "</body>"), encoding="utf-8")
        # A window of a desktop browser has a least width, a frame has not.
        frame = f'<iframe src="page.html" style="width: {width}px; height: 3000px; border: 0"></iframe>'
        report = """<script>addEventListener("load", () => {
          document.title = document.querySelector("iframe").contentDocument.documentElement.dataset.measured;
        })</script>"""
        (tmp_path / "frame.html").write_text(f"<!doctype html><title></title>{frame}{report}", encoding="utf-8")
        flags = (
            "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
            "--disable-component-update --disable-sync --hide-scrollbars --allow-file-access-from-files --dump-dom"
        )
        done = subprocess.run(
            [chromium, *flags.split(), f"--user-data-dir={tmp_path / 'profile'}", f"file://{tmp_path}/frame.html"],
            capture_output=True,
            timeout=120,
            check=True,
        )
        title = re.search(r"<title>(.*?)</title>", done.stdout.decode(), re.DOTALL)
        assert title, done.stdout[:500]
        values = json.loads(entities.unescape(title[1]))
        return dict(zip(("title", "inner", "scroll", "out", "broken"), values, strict=True))

    return run


@pytest.fixture(scope="session")
def jpeg() -> bytes:
    """A small JPEG."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((96, 72)).save(file, "JPEG")
    return file.getvalue()
