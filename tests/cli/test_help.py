"""The help pages: an example each, and every example runs."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import Result

from vecstore_cli._shared import COMMANDS
from vecstore_cli.main import cli

Call = Callable[..., Result]


def _examples(text: str) -> list[list[str]]:
    """The example commands of a help page, as arguments."""
    lines = [line.strip() for line in text.splitlines()]
    return [shlex.split(line.split(" > ")[0])[1:] for line in lines if re.match(r"vecstore \w+", line)]


def _page(verb: str) -> str:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    return command.get_help(click.Context(command, info_name=verb, parent=click.Context(cli, max_content_width=110)))


def test_help_of_the_group_lists_every_verb_and_the_exit_codes(vecstore: Call) -> None:
    done = vecstore("--help")
    assert done.exit_code == 0
    for verb in COMMANDS:
        assert re.search(rf"^  {verb} +\w", done.stdout, re.M), verb
    for code in ("0 done", "1 failure", "2 usage", "3 done in part", "4 the store is damaged", "5 audit --strict"):
        assert code in re.sub(r"\s+", " ", done.stdout)


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_verb_explains_itself_with_an_example(vecstore: Call, verb: str) -> None:
    done = vecstore(verb, "--help")
    assert done.exit_code == 0
    assert done.stdout == vecstore(verb, "-h").stdout
    assert _examples(done.stdout), verb
    assert all(example[0] == verb for example in _examples(done.stdout))
    assert "--json" in done.stdout
    without_help = [
        parameter.name
        for parameter in cli.get_command(click.Context(cli), verb).params  # type: ignore[union-attr]
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert without_help == []


@pytest.fixture
def desk(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: Path) -> Path:
    """A working folder with everything that the help pages speak of."""
    for name in ("archive", "chest.vecs"):
        shutil.copytree(place / name, tmp_path / name)
    for name in ("findings.csv", "query.png"):
        shutil.copy(place / name, tmp_path)
    table = (tmp_path / "findings.csv").read_text().replace("patient_id", "patient")
    (tmp_path / "findings.csv").write_text(table)
    for name in ("new1.png", "new2.png"):
        shutil.copy(place / "query.png", tmp_path / name)
    (tmp_path / "queries.txt").write_text("new1.png\n17\n")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as file:
        file.write(place / "query.png", "query.png")
    eyes = ["file,N,D,G,C,A,H,M,O,patient_id"]
    eyes += [f"{i:03d}.png,{','.join(str(int(i % 8 == c)) for c in range(8))},p{i}" for i in range(60)]
    (tmp_path / "labels.csv").write_text("\n".join(eyes) + "\n")
    with zipfile.ZipFile(shared / "dicom" / "samples.zip") as file:
        for name in ("CT_small.dcm", "MR_small.dcm"):
            file.extract(name, tmp_path / "dicom")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("verb", ["", *(verb for verb in COMMANDS if verb != "demo")])
def test_every_example_of_a_help_page_runs(vecstore: Call, desk: Path, fake_for_all: None, verb: str) -> None:
    for archive, store in (("archive", "eyes.vecs"), ("dicom", "ct.vecs")):
        assert vecstore("ingest", archive, "--store", store).exit_code == 0
    if verb == "compare":  # needs two models
        assert vecstore("train", "chest.vecs", "pneumonia", "--model", "knn").exit_code == 0
    examples = _examples(_page(verb) if verb else vecstore("--help").stdout)
    assert examples
    for example in examples:
        done = vecstore(*example)
        assert done.exit_code == 0, f"{example}: {done.output}"


def test_the_examples_of_the_demo_parse() -> None:
    command = cli.get_command(click.Context(cli), "demo")
    assert command is not None
    for example in _examples(_page("demo")):
        assert command.make_context("demo", example[1:]).params["as_json"] is False


@pytest.mark.parametrize(
    ("typed", "meant"), [("serach", "search"), ("ingets", "ingest"), ("lable", "label"), ("evalute", "evaluate")]
)
def test_a_misspelt_verb_is_answered_with_the_nearest(vecstore: Call, typed: str, meant: str) -> None:
    done = vecstore(typed)
    assert done.exit_code == 2
    assert f"No such command '{typed}'. Did you mean {meant}?" in done.stderr


def test_a_verb_like_no_other_is_a_usage_error(vecstore: Call) -> None:
    done = vecstore("xyzzy")
    assert done.exit_code == 2
    assert "Did you mean" not in done.stderr


def test_a_misspelt_option_is_a_usage_error(vecstore: Call, place: Path) -> None:
    done = vecstore("info", place / "chest.vecs", "--jsno")
    assert done.exit_code == 2
    assert "--json" in done.stderr


def test_the_version_is_the_packages() -> None:
    import vecstore

    code = "from vecstore_cli.main import cli; cli(['--version'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith(vecstore.__version__), done.stderr
