"""A store with labels and a model, and the command line in this process or in its own."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from vecstore.encoders.base import Encoder, unit_rows
from vecstore.records import FloatArray

ROOT = Path(__file__).resolve().parents[2]
Call = Callable[..., Result]
Spawn = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture(scope="session")
def vecstore() -> Call:
    """Run a command in this process."""

    def call(*arguments: object) -> Result:
        from vecstore_cli.main import cli

        return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="vecstore")

    return call


@pytest.fixture(scope="session")
def spawn() -> Spawn:
    """Start a command in a process of its own."""

    def start(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-W",
            "error",
            "-c",
            "from vecstore_cli.main import cli; cli()",
            *map(str, arguments),
        ]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "cli")]),
            "COLUMNS": "120",
            "TERM": "xterm",
        }
        return subprocess.Popen(command, env=environment, **options)  # type: ignore[call-overload,no-any-return]

    return start


def fill(folder: Path, n: int, names: Callable[[int], str] = "{:03d}.png".format, seed: int = 0) -> list[list[str]]:
    """Pictures of two kinds, three of each patient; rows of their labels."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        sick = i // 3 % 2
        pixels = rng.integers(0, 140, (20, 24, 3), np.uint8)
        pixels[4:14, 6:18] += np.uint8(90 * sick)
        path = folder / names(i)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        os.utime(path, (1_700_000_000, 1_700_000_000))
        rows.append([names(i), ("normal", "pneumonia")[sick], f"p{i // 3:02d}", str(30 + i), "FM"[i % 2]])
    return rows


def write_table(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "patient_id", "age", "sex"], *rows])
    return path


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, vecstore: Call) -> Path:
    """`archive/`, `findings.csv`, `query.png` and `chest.vecs` with a task and a model; not to be changed."""
    folder = tmp_path_factory.mktemp("cli")
    rows = fill(folder / "archive", 60)
    write_table(folder / "findings.csv", rows)
    fill(folder, 1, "query.png".format, seed=5)
    store = folder / "chest.vecs"
    table = ("--key", "path", "--value", "label", "--columns", "patient_id,age,sex")
    for command in (
        ("ingest", folder / "archive", "--store", store, "--encoder", "fake:64"),
        ("label", store, folder / "findings.csv", "--task", "pneumonia", *table),
        ("train", store, "pneumonia"),
    ):
        done = vecstore(*command)
        assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def store(place: Path, tmp_path: Path) -> Path:
    """A copy of the prepared store that may be changed."""
    return Path(shutil.copytree(place / "chest.vecs", tmp_path / "chest.vecs"))


def _with_texts(encoder: Encoder) -> Encoder:
    """An encoder that also has texts, with vectors that mean nothing."""

    class Talking(type(encoder)):  # type: ignore[misc]
        def encode_text(self, texts: Sequence[str]) -> FloatArray:
            rows = [np.random.default_rng(list(text.encode())).normal(size=self.passport.dim) for text in texts]
            return unit_rows(np.array(rows, np.float32))

    encoder.__class__ = Talking
    return encoder


@pytest.fixture
def fake_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every encoder's name opens the fake one: what is tested is not the network."""
    import importlib

    for name in ("ingest", "predict", "search", "zeroshot"):
        module = importlib.import_module(f"vecstore.{name}")
        real = module.open_encoder

        def fake(
            name: str, real: Callable[..., Encoder] = real, asks: bool = name == "zeroshot", **_: object
        ) -> Encoder:
            opened = real(name if name.startswith("fake") else "fake:64" if name == "bundled" else "fake:32")
            return _with_texts(opened) if asks else opened

        monkeypatch.setattr(module, "open_encoder", fake)
