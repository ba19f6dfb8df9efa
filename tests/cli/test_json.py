"""`--json`: one object on the last line, with the names that are promised."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from vecstore_cli._shared import echo_json

Call = Callable[..., Result]


def _only(result: Result, code: int = 0) -> dict[str, Any]:
    """The one object on standard output."""
    assert result.exit_code == code, result.output
    (line,) = result.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_ingest_counts_what_it_did(vecstore: Call, place: Path, tmp_path: Path) -> None:
    arguments = ("ingest", place / "archive", "--store", tmp_path / "x.vecs", "--encoder", "fake:64", "--json")
    first = _only(vecstore(*arguments))
    names = ("added", "present", "failed", "embedded", "gone")
    assert [first[name] for name in names] == [60, 0, 0, 60, 0]
    second = _only(vecstore(*arguments))
    assert [second[name] for name in names] == [0, 60, 0, 0, 0]
    assert (second["source"], second["spaces"]) == ("archive", ["fake-64"])


def test_refused_images_are_told_by_exit_code_3_once(vecstore: Call, tmp_path: Path, place: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / "a.png").write_bytes((place / "query.png").read_bytes())
    (archive / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for path in archive.iterdir():
        os.utime(path, (1_700_000_000, 1_700_000_000))
    arguments = ("ingest", archive, "--store", tmp_path / "x.vecs", "--encoder", "fake:64", "--json")
    first = vecstore(*arguments)
    assert {k: _only(first, 3)[k] for k in ("added", "failed", "embedded")} == {"added": 1, "failed": 1, "embedded": 1}
    assert "b.png: " in first.stderr
    second = _only(vecstore(*arguments))
    assert (second["failed"], second["failed_before"], second["present"]) == (0, 1, 1)
    for flag in ("--retry-failures", "--only-failures"):
        assert _only(vecstore(*arguments, flag), 3)["failed"] == 1
    listed = _only(vecstore("failures", tmp_path / "x.vecs", "--json"))
    assert listed["count"] == 1
    assert {k: listed["failures"][0][k] for k in ("locator", "stage", "attempts")} == {
        "locator": "b.png",
        "stage": "decode",
        "attempts": 3,
    }


def test_label_says_what_matched(vecstore: Call, store: Path, place: Path) -> None:
    arguments = ("--task", "other", "--key", "path", "--value", "label", "--json")
    found = _only(vecstore("label", store, place / "findings.csv", *arguments))
    assert {k: found[k] for k in ("task", "kind", "classes", "matched", "unmatched_rows", "unlabelled_items")} == {
        "task": "other",
        "kind": "binary",
        "classes": ["normal", "pneumonia"],
        "matched": 60,
        "unmatched_rows": 0,
        "unlabelled_items": 0,
    }


@pytest.mark.parametrize("model", ["probe", "svm", "knn"])
def test_train_and_evaluate_say_how_good_it_is_and_that_no_pixel_was_read(
    vecstore: Call, store: Path, model: str
) -> None:
    for command in (
        ("train", store, "pneumonia", "--model", model, "--json"),
        ("evaluate", store, "pneumonia", "--json"),
    ):
        found = _only(vecstore(*command))
        low, high = found["auc_interval"]
        assert 0.5 < low <= found["auc"] <= high <= 1
        assert (found["n"], found["groups"], found["pixels_read"], found["model"]) == (60, 20, 0, model)


def test_what_is_new_is_named_in_json(vecstore: Call, store: Path, place: Path, tmp_path: Path) -> None:
    found = _only(vecstore("train", store, "pneumonia", "--model", "knn", "--level", "patient", "--json"))
    assert (found["level"], found["n"], found["pictures"], found["training_pictures"]) == ("patient_id", 20, 60, 60)
    assert (found["spaces"], found["encoders"], found["metric"]) == (["fake-64"], ["fake:64"], "auc")
    rows = [json.loads(line) for line in vecstore("predict", store, "pneumonia", "--json").stdout.splitlines()]
    assert [(row["item"], row["item_id"], row["pictures"]) for row in rows[:2]] == [("p00", None, 3), ("p01", None, 3)]
    table = tmp_path / "t.csv"
    table.write_text("path,A,B\n000.png,1,0\n001.png,-1,1\n002.png,0,1\n")
    arguments = ("--task", "t", "--key", "path", "--value", "A,B", "--uncertain-policy", "ones", "--json")
    found = _only(vecstore("label", store, table, *arguments))
    assert (found["uncertain"], found["uncertain_policy"], found["counts"]) == (1, "ones", {"A": 2, "B": 2})


def test_search_gives_a_line_per_hit(vecstore: Call, place: Path) -> None:
    done = vecstore("search", place / "chest.vecs", "000.png", "-k", 4, "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["rank"] for row in rows] == [1, 2, 3, 4]
    assert all({"rank", "item_id", "score", "source", "locator"} <= row.keys() for row in rows)
    assert all(-1 <= row["score"] <= 1 for row in rows)
    assert not {"000.png", "001.png", "002.png"} & {row["locator"] for row in rows}  # the query's own patient


def test_predict_gives_a_line_per_picture_and_3_if_one_was_refused(vecstore: Call, place: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    done = vecstore("predict", place / "chest.vecs", "pneumonia", place / "query.png", bad, "--json")
    assert done.exit_code == 3
    good, refused = [json.loads(line) for line in done.stdout.splitlines()]
    assert good["item"] == str(place / "query.png")
    assert good["class"] in ("normal", "pneumonia")
    assert sum(good["probabilities"].values()) == pytest.approx(1)
    assert (refused["item"], refused["class"], refused["probabilities"]) == (str(bad), "", {})
    assert "empty" in refused["reason"]
    stored = vecstore("predict", place / "chest.vecs", "pneumonia", "--where", "age < 40", "--json")
    assert len(stored.stdout.splitlines()) == 10


def test_export_says_what_it_wrote(vecstore: Call, place: Path, tmp_path: Path) -> None:
    for suffix in ("npz", "parquet"):
        found = _only(vecstore("export", place / "chest.vecs", tmp_path / f"out.{suffix}", "--json"))
        assert found == {"path": str(tmp_path / f"out.{suffix}"), "rows": 60, "dim": 64, "space": "fake-64"}
    with np.load(tmp_path / "out.npz") as arrays:
        assert arrays["vector"].shape == (60, 64)


def test_info_and_log_are_their_tables(vecstore: Call, place: Path) -> None:
    facts = _only(vecstore("info", place / "chest.vecs", "--json"))
    assert (facts["items"], facts["contents"], facts["failures"]) == (60, 60, 0)
    assert facts["spaces"][0]["vectors"] == 60
    assert facts["tasks"] == [
        {"name": "pneumonia", "kind": "binary", "items": 60, "classes": {"normal": 30, "pneumonia": 30}}
    ]
    assert {column["name"] for column in facts["columns"]} == {"patient_id", "age", "sex"}
    commits = _only(vecstore("log", place / "chest.vecs", "--json"))["commits"]
    assert [entry["verb"] for entry in commits] == ["create", "ingest", "ingest", "label", "train"]
    assert [entry["commit"] for entry in commits] == [1, 2, 3, 4, 5]
    earlier = _only(vecstore("info", place / "chest.vecs", "--at", 2, "--json"))
    assert (earlier["items"], earlier["commit"], earlier["last_commit"]) == (0, 2, 5)


def test_audit_and_label_errors_are_plain_records(vecstore: Call, place: Path) -> None:
    found = _only(vecstore("audit", place / "chest.vecs", "pneumonia", "--json"))
    assert {"store", "tasks", "group_column", "space", "findings", "counts", "pixels_read"} <= found.keys()
    assert (found["tasks"], found["group_column"], found["pixels_read"]) == (["pneumonia"], "patient_id", 0)
    names = {"check", "severity", "title", "told", "task", "about", "counts", "examples", "do"}
    assert all(finding.keys() == names for finding in found["findings"])
    assert sum(found["counts"].values()) == len(found["findings"])
    errors = _only(vecstore("label-errors", place / "chest.vecs", "pneumonia", "--json"))
    assert (errors["model_id"], errors["predictions"], errors["n"]) == (1, "out-of-fold (60)", 60)
    assert errors["found"] == len(errors["suspects"]) == sum(pair["count"] for pair in errors["pairs"])


def test_demo_is_one_object(vecstore: Call, shared: Path, tmp_path: Path, fake_for_all: None) -> None:
    file = shared / "medmnist" / "breastmnist.npz"
    found = _only(vecstore("demo", "--medmnist", file, "--folder", tmp_path / "demo", "--json"))
    assert (found["ingest"]["added"], found["record"]["part"], found["record"]["n"]) == (780, "test", 156)
    assert found["published"] == 0.901
    assert all(Path(page).is_file() for page in found["pages"].values())
    again = _only(vecstore("demo", "--medmnist", file, "--folder", tmp_path / "demo", "--json"))
    assert (again["ingest"]["present"], again["ingest"]["embedded"]) == (780, 0)


def test_the_demo_of_real_dicom_files_says_what_it_did(vecstore: Call, tmp_path: Path, fake_for_all: None) -> None:
    done = vecstore("demo", "--folder", tmp_path / "demo")
    assert done.exit_code == 0, done.output
    head = re.search(r"(\d+) pictures in the store, (\d+) could not be decoded; (\d+) embedded now", done.stdout)
    assert head, done.stdout
    assert int(head[1]) > 50
    assert re.search(
        r"^modality: AUC [01]\.\d{3} \(\d\.\d{3}-\d\.\d{3}\), out-of-fold, \d+ pictures$", done.stdout, re.M
    )
    for page in ("report", "similar"):
        assert Path(re.search(rf"^{page}  +(/.+)$", done.stdout, re.M)[1]).is_file()  # type: ignore[index]


def test_what_json_can_not_hold_becomes_null_or_plain(capsys: pytest.CaptureFixture[str]) -> None:
    value = {
        "a": float("nan"),
        "b": [np.float32(0.5), np.int64(3)],
        "c": {1: float("inf")},
        "d": np.zeros(2),
        "e": Path("x"),
    }
    echo_json(value)
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [0.5, 3], "c": {"1": None}, "d": [0, 0], "e": "x"}
