"""Fixtures for every test: real images, small made stores, and proofs about what was opened."""

from __future__ import annotations

import csv
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from vecstore.records import UInt8Array
from vecstore.store import Store

if TYPE_CHECKING:
    from tests.browser import Browser

COLOURS = {"red": (170, 120, 120), "green": (120, 170, 120), "blue": (120, 120, 170)}
PATIENTS_PER_COLOUR, PICTURES_PER_PATIENT = 7, 3


@pytest.fixture(scope="session")
def shared() -> Path:
    """The real images beside the checkout (their README: `../shared/data/README.md`)."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        reason = f"real images not found beside the checkout: {path.name} is looked for in ../shared"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path


def _coloured(colour: str, seed: int) -> UInt8Array:
    noise = np.random.default_rng(seed).normal(0, 80, (12, 12, 3))
    pixels: UInt8Array = np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)
    return pixels


@pytest.fixture(scope="session")
def paint() -> Callable[[Path, str, int], None]:
    """Write a noisy picture of a colour; the same seed gives the same pixels."""

    def write(path: Path, colour: str, seed: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(_coloured(colour, seed)).save(path)

    return write


@pytest.fixture(scope="session")
def colour_archive(tmp_path_factory: pytest.TempPathFactory, paint: Callable[[Path, str, int], None]) -> Path:
    """A folder of 63 pictures of 21 patients, and `labels.csv`: file, label, patient, age, sex, part."""
    root = tmp_path_factory.mktemp("colours") / "colours"
    rows = []
    patients = [(colour, number) for number in range(PATIENTS_PER_COLOUR) for colour in COLOURS]
    for number, (colour, of_colour) in enumerate(patients):
        for view in range(PICTURES_PER_PATIENT):
            file = f"p{number:02}/{colour}_{number}_{view}.png"
            paint(root / file, colour, 100 * number + view)
            part = "test" if of_colour >= PATIENTS_PER_COLOUR - 2 else "train"
            rows.append((file, colour, f"P{number}", 40 + number, "FM"[number % 2], part))
    with (root.parent / "labels.csv").open("w", newline="") as file_:
        csv.writer(file_).writerows([("file", "label", "patient", "age", "sex", "part"), *rows])
    return root


@pytest.fixture(scope="session")
def colour_labels(colour_archive: Path) -> Path:
    """The table of `colour_archive`."""
    return colour_archive.parent / "labels.csv"


@pytest.fixture(scope="session")
def _bare_store(tmp_path_factory: pytest.TempPathFactory, colour_archive: Path) -> Path:
    from vecstore.ingest import ingest

    path = tmp_path_factory.mktemp("bare") / "colours.vecs"
    with Store.create(path) as store:
        ingest(store, colour_archive, encoder="fake:64")
    return path


@pytest.fixture(scope="session")
def _labelled_store(tmp_path_factory: pytest.TempPathFactory, _bare_store: Path, colour_labels: Path) -> Path:
    from vecstore.label import label

    path = tmp_path_factory.mktemp("labelled") / "colours.vecs"
    shutil.copytree(_bare_store, path)
    with Store(path) as store:
        label(
            store,
            colour_labels,
            task="colour",
            key="file",
            value="label",
            columns=["patient", "age", "sex"],
        )
    return path


@pytest.fixture
def bare_store(tmp_path: Path, _bare_store: Path) -> Iterator[Store]:
    """A store of `colour_archive` without labels, its own copy."""
    with Store(shutil.copytree(_bare_store, tmp_path / "colours.vecs")) as store:
        yield store


@pytest.fixture
def colour_store(tmp_path: Path, _labelled_store: Path) -> Iterator[Store]:
    """A store of `colour_archive` with the task `colour` and the columns patient, age and sex, its own copy."""
    with Store(shutil.copytree(_labelled_store, tmp_path / "labelled.vecs")) as store:
        yield store


@pytest.fixture(scope="session")
def _shared_stores(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Callable[[str], Path]:
    from vecstore.ingest import ingest

    made: dict[str, Path] = {}

    def make(archive: str) -> Path:
        if archive not in made:
            path = tmp_path_factory.mktemp("shared") / "shared.vecs"
            with Store.create(path) as store:
                ingest(store, shared / archive, encoder="fake:64", thumbnails=False)
            made[archive] = path
        return made[archive]

    return make


@pytest.fixture
def shared_store(tmp_path: Path, _shared_stores: Callable[[str], Path]) -> Iterator[Callable[[str], Store]]:
    """Opens a copy of a store made from an archive of the real images, e.g. "us_busi/images.zip"."""
    opened: list[Store] = []

    def open_copy(archive: str) -> Store:
        opened.append(Store(shutil.copytree(_shared_stores(archive), tmp_path / f"copy{len(opened)}.vecs")))
        return opened[-1]

    yield open_copy
    for store in opened:
        store.close()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real browser without a window; one for all tests of a process."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not found:
        reason = "no chromium on PATH: pages can't be looked at"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    from tests.browser import Browser

    made = Browser(found, tmp_path_factory.mktemp("browser") / "profile")
    yield made
    made.close()


_listening: list[str] | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _listening is not None and event in ("open", "sqlite3.connect"):
        _listening.append(os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes)) else "")


@pytest.fixture(scope="session")
def _audited() -> None:
    sys.addaudithook(_audit)  # can't be removed: once


@pytest.fixture
def names_opened(_audited: None) -> Callable[[], AbstractContextManager[list[str]]]:
    """Files and databases this process opens in a block, by the interpreter's own audit events."""

    @contextmanager
    def listen() -> Iterator[list[str]]:
        global _listening
        found: list[str] = []
        _listening = found
        try:
            yield found
        finally:
            _listening = None

    return listen
