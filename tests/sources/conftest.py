"""Small archives of real pictures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

_opened: list[str] | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _opened is not None and event == "open" and isinstance(arguments[0], str):
        _opened.append(arguments[0])


@pytest.fixture(scope="session")
def _audited() -> None:
    sys.addaudithook(_audit)  # can't be removed: once


@pytest.fixture
def opened_files(_audited: None) -> Callable[[], AbstractContextManager[list[str]]]:
    """Counts which files this process opens, by the interpreter's own audit events."""

    @contextmanager
    def count() -> Iterator[list[str]]:
        global _opened
        found: list[str] = []
        _opened = found
        try:
            yield found
        finally:
            _opened = None

    return count


@pytest.fixture(scope="session")
def plain(shared: Path) -> bytes:
    """A real JPEG."""
    return (shared / "messy" / "plain.jpg").read_bytes()


@pytest.fixture
def archive(tmp_path: Path, plain: bytes) -> Path:
    """A folder with pictures, a folder below, and bystanders."""
    root = tmp_path / "archive"
    (root / "sub" / "deep").mkdir(parents=True)
    for name in ("b.jpg", "a.jpg", "sub/c.jpg", "sub/deep/d", "sub.jpg"):
        (root / name).write_bytes(plain)
    (root / "labels.csv").write_text("file,label\na.jpg,x\n")
    (root / "sub" / "README").write_text("about these pictures")
    return root
