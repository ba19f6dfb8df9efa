"""`clusters` and `map` as they print, and as programs read them."""

from __future__ import annotations

import csv
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import Result

import vecstore as vs
from vecstore_cli.main import cli

Call = Callable[..., Result]


def test_clusters_are_a_table_with_examples_and_classes(vecstore: Call, place: Path) -> None:
    done = vecstore("clusters", place / "chest.vecs", "--count", 3, "--task", "pneumonia", "--examples", 2)
    assert done.exit_code == 0, done.output
    assert re.search(r"^items +60 in 3 clusters$", done.stdout, re.M)
    assert re.search(r"^silhouette +3: -?0\.\d{3}$", done.stdout, re.M)
    assert re.search(r"^purity by pneumonia +[01]\.\d{3}; 0\.500 by the most frequent class alone$", done.stdout, re.M)
    head, *rows = done.stdout.splitlines()[-4:]
    assert head.split() == ["cluster", "items", "share", "pneumonia", "purity", "examples"]
    assert sum(int(row.split()[1]) for row in rows) == 60
    assert all(row.split()[3] in ("normal", "pneumonia") and len(row.split()) == 7 for row in rows)
    assert re.search(r"^silhouette +2: .*, 12: ", vecstore("clusters", place / "chest.vecs").stdout, re.M)


def test_clusters_are_one_object_and_a_file(vecstore: Call, place: Path, tmp_path: Path) -> None:
    output = tmp_path / "clusters.csv"
    done = vecstore("clusters", place / "chest.vecs", "--count", 2, "--output", output, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    names = "items count space metric silhouettes clusters task purity chance mutual_information output commit notes"
    assert set(told) == set(names.split())
    assert (told["items"], told["count"], told["task"], told["output"]) == (60, 2, None, str(output))
    assert list(told["clusters"][0]) == ["cluster", "size", "examples", "labelled", "label", "purity"]
    assert list(told["clusters"][0]["examples"][0]) == ["item_id", "source", "locator", "score"]
    with output.open() as file:
        assert len(list(csv.DictReader(file))) == 60


def test_a_map_says_where_it_is_and_how_large(vecstore: Call, place: Path, tmp_path: Path) -> None:
    page = tmp_path / "map.html"
    done = vecstore("map", place / "chest.vecs", page, "--limit", 20, "--color", "task:pneumonia", "--color", "age")
    assert done.exit_code == 0, done.output
    assert re.fullmatch(rf"{re.escape(str(page))}: 20 of 60 items, 20 thumbnails, \d+\.\d MB\n", done.stdout)
    assert "pictures of patients" in done.stderr
    told = json.loads(vecstore("map", place / "chest.vecs", page, "--json").stdout)
    assert set(told) == set("path items of method explained space commit colors thumbnails bytes notes".split())
    assert (told["items"], told["of"], told["method"], told["bytes"]) == (60, 60, "pca", page.stat().st_size)
    assert told["colors"] == ["pneumonia", "cluster", "age", "patient_id", "sex"] and len(told["explained"]) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("clusters", "--count", "61"), 2, "61 clusters of 60 items; expected 1 to 60; give another --count"),
        (("clusters", "--task", "cough"), 2, "no task 'cough'; expected one of: pneumonia"),
        (("map", "m.html", "--color", "agee"), 2, "nothing to colour by is named 'agee'; expected one of: age"),
        (("map", "m.html", "--method", "tsne"), 2, "method 'tsne'; expected one of: pca, umap; --method pca"),
        (("map", "m.html", "--where", "age > 999"), 1, "0 items for a map; expected at least three; ingest more"),
        (("map", "absent/m.html"), 2, "its folder does not exist"),
    ],
)
def test_what_can_not_be_is_said(
    vecstore: Call,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    verb, *rest = arguments
    done = vecstore(verb, place / "chest.vecs", *rest)
    assert done.exit_code == code and said in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("verb", "function"), [("clusters", vs.clusters), ("map", vs.embedding_map)])
def test_options_are_the_arguments_of_the_function(verb: str, function: Callable[..., object]) -> None:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    assert {p.name for p in command.params} - {"as_json", "at"} == set(inspect.signature(function).parameters)
