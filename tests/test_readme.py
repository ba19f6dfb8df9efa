"""The README's commands and Python run as they stand there."""

from __future__ import annotations

import csv
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from vecstore_cli.main import cli

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _block(marker: str) -> str:
    found = re.search(rf"<!-- {re.escape(marker)} -->\n```\w+\n(.*?)```", README, re.S)
    assert found, f"the README has no block {marker!r}"
    return found[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README speaks of: an archive, a table of findings, a new picture."""
    folder = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    rows = []
    for number in range(60):
        sick = number % 2
        pixels = rng.integers(0, 120, (48, 40, 3), np.uint8)
        pixels[10:30, 10:30] += np.uint8(100 * sick)
        path = folder / "archive" / f"p{number // 3:02}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        locator = path.relative_to(folder / "archive").as_posix()
        rows.append([locator, ("normal", "pneumonia")[sick], f"p{number // 3:02}", 40 + number, "FM"[number % 4 > 1]])
    with (folder / "findings.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "label", "patient_id", "age", "sex"], *rows])
    Image.fromarray(rng.integers(0, 120, (48, 40, 3), np.uint8)).save(folder / "query.png")
    return folder


def _run(code: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(code, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_commands_run_in_their_order(place: Path) -> None:
    for line in _block("run: commands").splitlines():
        done = _run(["sh", "-c", line], place)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    predictions = list(csv.DictReader((place / "predictions.csv").read_text().splitlines()))
    assert len(predictions) == 40  # age 60 to 99
    assert {"item", "item_id", "class", "probability_normal", "probability_pneumonia", "in_training"} == set(
        predictions[0]
    )
    assert "<img" in (place / "similar.html").read_text()
    assert "AUC" in (place / "pneumonia.html").read_text()


def test_the_lines_that_need_a_hub_are_commands_with_their_options() -> None:
    lines = _block("parse: more commands").splitlines()
    assert len(lines) > 4
    for line in lines:
        _, verb, *arguments = shlex.split(line)
        command = cli.get_command(click.Context(cli), verb)
        assert command is not None, line
        command.make_context(verb, arguments)  # fails where an option or a choice is not there


def test_the_python_lines_run(place: Path) -> None:
    code = _block("run: python") + "\nassert X.shape == (60, store.space().dim) and len(y) == len(groups) == 60\n"
    done = _run([sys.executable, "-c", code], place)
    assert done.returncode == 0, done.stderr
    auc = float(done.stdout.split()[0])
    assert 0.8 < auc <= 1.0


@pytest.mark.parametrize("folder", ["plain", "a b", "Lübeck", "50%20 #1", "[x] {y}"])
def test_other_tools_open_a_store_wherever_it_lies(place: Path, tmp_path: Path, folder: str) -> None:
    target = tmp_path / folder
    target.mkdir()
    command = [
        "vecstore",
        "ingest",
        str(place / "archive"),
        "--store",
        f"{target}/chest.vecs",
        "--encoder",
        "fake:16",
        "--json",
    ]
    made = _run(command, tmp_path)
    assert json.loads(made.stdout)["embedded"] == 60, made.stderr
    done = _run([sys.executable, "-W", "error", "-c", _block("run: tools")], target)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["60", "(60,", "3)", "(60,)"]


@pytest.mark.parametrize("name", ["demo", "test"])
def test_the_set_up_is_one_command_each(name: str) -> None:
    assert len(_block(name).strip().splitlines()) == 1


def test_the_tables_say_what_the_results_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    tables = importlib.import_module("tables")
    for name in tables.TABLES:
        assert (tables.RESULTS / f"{name}.json").is_file(), f"no result: run benchmarks/{name}.py"
    assert tables.filled(README) == README


@pytest.mark.parametrize("name", ["bench_store", "bench_ingest", "shared_sets"])
def test_a_benchmark_runs(name: str, shared: Path, tmp_path: Path) -> None:
    data = {
        "bench_store": [],
        "bench_ingest": [str(shared / "cxr_kermany" / "images.zip")],
        "shared_sets": [str(shared), "--encoder", "fake:64"],
    }
    before = {path: path.read_bytes() for path in (ROOT / "benchmarks" / "results").iterdir()}
    done = _run([sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), *data[name], "--quick"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert f'"benchmark": "{name}"' in done.stdout
    assert {path: path.read_bytes() for path in (ROOT / "benchmarks" / "results").iterdir()} == before
