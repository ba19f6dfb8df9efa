"""What `search` was given beyond one query, and the verbs around it, as they print."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from scipy.sparse import load_npz

from vecstore.report.page import probability
from vecstore.store import Store
from vecstore.store.append import Batch, Picture, append

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
    assert set(rows[0]) - set(alone[0]) == {"query", "query_index"}
    assert [row["query_index"] for row in rows] == [0, 0, 0, 1, 1, 1]
    done = vecstore("search", store, "--queries", tmp_path / "queries.txt", "-k", 2, "--csv")
    told = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["query"] for row in told] == ["archive: 000.png"] * 2 + ["archive: 005.png"] * 2
    refused = vecstore("search", store, "1", "--queries", tmp_path / "queries.txt")
    assert refused.exit_code == 2 and "no QUERY, --text, --like, --unlike or --html beside it" in refused.stderr
    both = vecstore("search", store, "1", "--json", "--csv")
    assert both.exit_code == 2 and "--json and --csv; expected one of them" in both.stderr


def test_examples_filters_and_groups_have_their_options(vecstore: Call, store: Path, tmp_path: Path) -> None:
    by = _lines(vecstore("search", store, 1, "--by", "patient_id", "-k", 5, "--json"))
    assert len({row["metadata"]["patient_id"] for row in by}) == 5
    (tmp_path / "ids.txt").write_text("7\n8\n9\n")
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbf7, 8\r\n9")
    for ids in ("7,8,9", tmp_path / "ids.txt", tmp_path / "bom.txt"):
        assert {row["item_id"] for row in _lines(vecstore("search", store, 1, "--ids", ids, "--json"))} == {7, 8, 9}
    bad = vecstore("search", store, 1, "--ids", "7,x")
    assert bad.exit_code == 2 and "expected ids with commas between" in bad.stderr
    several = vecstore("search", store, 1, "20", "--unlike", "40", "-k", 3)
    assert " of their own groups left out" in several.stderr
    assert several.exit_code == 0 and "archive: 000.png, archive: 019.png, not archive: 039.png: 3 of" in several.stderr
    far = _lines(vecstore("search", store, 1, "--farthest", "-k", 5, "--json"))
    assert [row["score"] for row in far] == sorted(row["score"] for row in far)
    varied = _lines(vecstore("search", store, 1, "--diverse", "0.5", "--metric", "standard", "-k", 5, "--json"))
    assert len(varied) == 5
    assert "not by score alone" in vecstore("search", store, 1, "--diverse", "0.5").stderr
    assert "not by score alone" not in vecstore("search", store, 1).stderr
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
    # The task has a class of its own name: label and probability are two columns.
    done = vecstore(*arguments)
    head, *lines = (line.split() for line in done.stdout.splitlines())
    assert head[-4:] == ["pneumonia", "p_normal", "p_pneumonia", "in_training"]
    assert lines[0][-4] == first["labels"]["pneumonia"]
    assert float(lines[0][-2]) == round(first["predictions"]["pneumonia"], 4)
    assert (first["in_training"], told[0]["in_training"], lines[0][-1]) == (True, "yes", "yes")
    assert "note: the model was trained on 2 of the 2 hits" in done.stderr
    assert "in_training" not in vecstore("search", store, 1, "--csv").stdout


@pytest.mark.parametrize("options", [[], ["--farthest"], ["--diverse", "0.4"], ["--by", "patient_id", "--unique"]])
def test_all_outputs_tell_the_same(vecstore: Call, store: Path, tmp_path: Path, options: list[str]) -> None:
    page = tmp_path / "similar.html"
    arguments = ("search", store, 7, "-k", 6, "--where", "age > 35", "--predict", "pneumonia", *options)
    rows = _lines(vecstore(*arguments, "--json", "--html", page))
    names = ("rank", "item_id", "score", "source", "locator")
    cells = list(csv.DictReader(io.StringIO(vecstore(*arguments, "--csv").stdout)))
    assert [[row[name] for name in names] for row in cells] == [[str(row[name]) for name in names] for row in rows]
    for row, cell in zip(rows, cells, strict=True):
        assert {name: cell[name] for name in row["metadata"]} == {k: str(v) for k, v in row["metadata"].items()}
        assert (cell["pneumonia"], cell["p_normal"]) == (
            row["labels"]["pneumonia"],
            str(row["predictions"]["normal"]),
        )
        assert (row["exact"], row["recall"]) == (True, None)
    head, *lines = vecstore(*arguments).stdout.splitlines()
    assert head.split() == [*names, "pneumonia", "p_normal", "p_pneumonia", "in_training"]
    assert [line.split()[:2] for line in lines] == [[str(row["rank"]), str(row["item_id"])] for row in rows]
    html = page.read_text()
    cards = re.findall(r'Rank (\d+)</span> <strong>(-?[\d.]+)<.*?<h3 title="([^"]+)">', html, re.S)
    assert cards == [(str(row["rank"]), f"{row['score']:.4f}", row["locator"]) for row in rows]
    for row in rows:
        likelier = max(row["predictions"], key=lambda name: row["predictions"][name])
        assert f"<dt>predicted {likelier}</dt><dd><bdi>{escape(probability(row['predictions'][likelier]))}" in html


def test_no_column_takes_the_place_of_another(vecstore: Call, store: Path, tmp_path: Path) -> None:
    table = tmp_path / "more.csv"
    lines = [f"{i:03}.png,{'normal' if i % 2 else 'sick'},{i},{i}" for i in range(60)]
    table.write_text("path,label,score,pneumonia\n" + "\n".join(lines) + "\n")
    options = ("--key", "path", "--value", "label", "--columns", "score,pneumonia")
    assert vecstore("label", store, table, "--task", "Rank", *options).exit_code == 0
    told = list(csv.DictReader(io.StringIO(vecstore("search", store, 1, "-k", 3, "--csv").stdout)))
    (first, *_) = _lines(vecstore("search", store, 1, "-k", 3, "--json"))
    number = int(first["locator"][:3])
    assert (told[0]["rank"], told[0]["label_Rank"]) == ("1", "normal" if number % 2 else "sick")
    assert (float(told[0]["score"]), told[0]["column_score"]) == (first["score"], str(number))
    assert (told[0]["pneumonia"], told[0]["label_pneumonia"]) == (str(number), first["labels"]["pneumonia"])


def test_measured_recall_is_in_every_row(vecstore: Call, store: Path) -> None:
    rng = np.random.default_rng(0)
    with Store(store) as opened:
        space = opened.space()
        hashes = [rng.bytes(16) for _ in range(300)]
        rows = rng.standard_normal((300, 64))
        vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
        pictures = [Picture(f"m{i}.png", 1, 1, None, "made", h, 1, 1, {}) for i, h in enumerate(hashes)]
        append(opened, Batch("made", "folder", pictures, vectors={space.id: (hashes, vectors)}), {space.id: space}, {})
    assert vecstore("index", "build", store, "--kind", "coded", "--recall", "0.9").exit_code == 0
    done = vecstore("search", store, 1, "-k", 3, "--json")
    for row in _lines(done):
        assert not row["exact"] and row["recall"]["low"] <= row["recall"]["value"] <= row["recall"]["high"]
    assert f"of the exact hits are found; all of them after: vecstore index build {store} --kind exact" in done.stderr


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
    assert small.exit_code == 2 and "no index of 60 vectors of length 64 fits into 1 kB" in small.stderr


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
    told = json.loads(vecstore("neighbors", store, "--duplicates", "0.5", "--outliers", 2, "--json").stdout)
    facts, *tables = shown.stdout.split("\n\n")
    together = sum(len(group) for group in told["duplicates"])
    assert f"near-duplicates  {together} items in {len(told['duplicates'])} groups" in facts
    head, *rows = (line.split() for line in tables[0].splitlines())
    assert head == ["near-duplicates", "item_id", "source", "locator"]
    group = told["duplicates"][0][:20]
    assert rows[: len(group)] == [["1", str(one["item_id"]), "archive", one["locator"]] for one in group]
    head, *rows = (line.split() for line in tables[1].splitlines())
    assert head == ["outlier", "item_id", "source", "locator", "distance"]
    assert [row[:4] for row in rows] == [
        [str(n), str(one["item_id"]), one["source"], one["locator"]] for n, one in enumerate(told["outliers"], 1)
    ]
    if len(group) < together:
        assert f"of {together} near-duplicates are listed" in shown.stderr


def test_whole_store_verbs_look_at_a_commit(
    vecstore: Call, store: Path, tmp_path: Path, paint: Callable[[Path, str, int], None]
) -> None:
    with Store(store) as opened:
        before = opened.commit
    for number in range(3):
        paint(tmp_path / "more" / f"{number}.png", "red", number)
    assert vecstore("ingest", tmp_path / "more", "--store", store, "--encoder", "fake:64").exit_code == 0
    for verb in (("neighbors",), ("clusters",), ("map", tmp_path / "map.html"), ("search-eval", "--task", "pneumonia")):
        now, then = (
            json.loads(vecstore(verb[0], store, *verb[1:], *at, "--json").stdout.splitlines()[-1])
            for at in ((), ("--at", before))
        )
        if verb[0] == "search-eval":
            assert now["candidates"] == then["candidates"] == 60
            continue
        assert (now["items"], then["items"], then["commit"]) == (63, 60, before)
        refused = vecstore(verb[0], store, *verb[1:], "--at", 999)
        assert refused.exit_code == 2 and "has no commit 999" in refused.stderr
