"""What `search` was given beyond one query, and the verbs around it, as they print."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import Result
from scipy.sparse import load_npz

Call = Callable[..., Result]


def _lines(done: Result) -> list[dict[str, Any]]:
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_many_queries_are_answered_in_one_call(vecstore: Call, store: Path, tmp_path: Path) -> None:
    (tmp_path / "queries.txt").write_text("1\n005.png\n")
    rows = _lines(vecstore("search", store, "--queries", tmp_path / "queries.txt", "-k", 3, "--json"))
    assert [(row["query"], row["rank"]) for row in rows] == [
        (f"archive: {name}", rank) for name in ("000.png", "005.png") for rank in (1, 2, 3)
    ]
    alone = _lines(vecstore("search", store, "5", "-k", 3, "--json"))
    assert [row["item_id"] for row in rows[:3]] == [
        row["item_id"] for row in _lines(vecstore("search", store, 1, "-k", 3, "--json"))
    ]
    assert set(rows[0]) - set(alone[0]) == {"query"}
    done = vecstore("search", store, "--queries", tmp_path / "queries.txt", "-k", 2, "--csv")
    told = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["query"] for row in told] == ["archive: 000.png"] * 2 + ["archive: 005.png"] * 2
    refused = vecstore("search", store, "1", "--queries", tmp_path / "queries.txt")
    assert refused.exit_code == 2 and "no QUERY, --text, --like, --unlike or --html beside it" in refused.stderr


def test_examples_filters_and_groups_have_their_options(vecstore: Call, store: Path, tmp_path: Path) -> None:
    by = _lines(vecstore("search", store, 1, "--by", "patient_id", "-k", 5, "--json"))
    assert len({row["metadata"]["patient_id"] for row in by}) == 5
    (tmp_path / "ids.txt").write_text("7\n8\n9\n")
    for ids in ("7,8,9", tmp_path / "ids.txt"):
        assert {row["item_id"] for row in _lines(vecstore("search", store, 1, "--ids", ids, "--json"))} == {7, 8, 9}
    bad = vecstore("search", store, 1, "--ids", "7,x")
    assert bad.exit_code == 2 and "expected ids with commas between" in bad.stderr
    several = vecstore("search", store, 1, "20", "--unlike", "40", "-k", 3)
    assert several.exit_code == 0 and "archive: 000.png, archive: 019.png, not archive: 039.png: 3 of" in several.stderr
    far = _lines(vecstore("search", store, 1, "--farthest", "-k", 5, "--json"))
    assert [row["score"] for row in far] == sorted(row["score"] for row in far)
    varied = _lines(vecstore("search", store, 1, "--diverse", "0.5", "--metric", "standard", "-k", 5, "--json"))
    assert len(varied) == 5
    page = tmp_path / "similar.html"
    assert vecstore("search", store, 1, "20", "--html", page).exit_code == 0
    assert "several examples" in page.read_text()


def test_a_probe_speaks_in_every_output(vecstore: Call, store: Path) -> None:
    arguments = ("search", store, 1, "-k", 2, "--predict", "pneumonia")
    (first, _) = _lines(vecstore(*arguments, "--json"))
    assert set(first["predictions"]) == {"normal", "pneumonia"}
    assert sum(first["predictions"].values()) == 1 or abs(sum(first["predictions"].values()) - 1) < 1e-6
    told = list(csv.DictReader(io.StringIO(vecstore(*arguments, "--csv").stdout)))
    assert float(told[0]["p_pneumonia"]) == first["predictions"]["pneumonia"]
    assert "pneumonia" in vecstore(*arguments).stdout.splitlines()[0]


def test_an_index_is_built_updated_and_described(vecstore: Call, store: Path) -> None:
    shutil.rmtree(store / "indexes", ignore_errors=True)  # a search of another test may have left one
    none = vecstore("index", "info", store)
    assert none.exit_code == 2 and "has no index for cosine that can be used" in none.stderr
    done = vecstore("index", "build", store)
    assert done.exit_code == 0, done.output
    assert "exact: 60 vectors are compared in about 1 ms; about" in done.stderr
    assert "recall   1, nothing can be missed" in done.stdout
    info = json.loads(vecstore("index", "info", store, "--json").stdout.splitlines()[-1])
    assert (info["kind"], info["vectors"], info["covered"], info["recall"]) == ("exact", 60, 60, 1.0)
    coded = vecstore("index", "build", store, "--kind", "coded", "--recall", "0.9", "--json")
    assert json.loads(coded.stdout.splitlines()[-1])["kind"] == "coded"
    assert "recall   not measured: too few vectors" in vecstore("index", "update", store).stdout
    small = vecstore("index", "build", store, "--memory", "1kB")
    assert small.exit_code == 2 and "no index of 60 vectors of length 64 fits into 0.00 GB" in small.stderr


def test_search_is_judged_by_labels(vecstore: Call, store: Path) -> None:
    done = vecstore("search-eval", store, "--task", "pneumonia", "-k", 5)
    assert done.exit_code == 0, done.output
    head, *rows = done.stdout.splitlines()
    assert head.split()[:3] == ["metric", "measure", "all"] and len(rows) == 12
    assert "60 queries, 20 groups by patient_id; 60 items can be found" in done.stderr
    told = json.loads(vecstore("search-eval", store, "--task", "pneumonia", "--json").stdout.splitlines()[-1])
    assert {"task", "space", "k", "queries", "groups", "candidates", "group_column", "metrics", "notes"} == set(told)


def test_the_graph_of_all_items_is_written(vecstore: Call, store: Path, tmp_path: Path) -> None:
    done = vecstore("neighbors", store, "-k", 4, "--output", tmp_path / "graph.npz", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["items"], told["k"], told["exact"]) == (60, 4, True) and len(told["outliers"]) == 20
    graph = load_npz(tmp_path / "graph.npz")
    assert graph.shape == (60, 60) and graph.nnz == 240 and np.isfinite(graph.data).all()
    shown = vecstore("neighbors", store, "--duplicates", "0.5", "--outliers", 2)
    assert "near-duplicates" in shown.stdout and "together: " in shown.stdout and "mean distance" in shown.stdout
