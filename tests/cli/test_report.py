"""`vecstore report`: files, what is printed, JSON, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Call = Callable[..., Result]
QUICK = ("--no-curve", "--no-near-duplicates", "--top", "2")


def test_three_files_and_a_summary_with_what_to_know(vecstore: Call, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "paper" / ""
    done = vecstore("report", store, "pneumonia", "--out", out, "--subgroup", "age=50", "--prevalence", "0.2", *QUICK)
    assert done.exit_code == 0, done.output
    told = json.loads((out / "report.json").read_text(encoding="utf-8"))
    lines = done.stdout.splitlines()
    assert lines[0] == told["summary"] and lines[1:-1] == [f"note: {caveat}" for caveat in told["caveats"]]
    assert lines[-1] == f"written: {out / 'report.html'}, report.json, model-card.md"
    assert [part["edges"] for part in told["assessment"]["subgroups"]] == [[50.0]]
    assert told["assessment"]["measures"]["prevalence"] == {"pneumonia": 0.2}
    assert "--subgroup age=50 --prevalence 0.2" in told["manifest"]["report_command"]


def test_json_is_the_content_on_the_last_line(vecstore: Call, store: Path, tmp_path: Path) -> None:
    done = vecstore("report", store, "pneumonia", "--out", tmp_path / "a.html", "--json", "--no-pictures", *QUICK)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told.pop("files") == ["a.html", "a.json", "a-model-card.md"]
    assert told == json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))


def test_a_page_that_has_no_folder_is_refused(vecstore: Call, store: Path, tmp_path: Path) -> None:
    done = vecstore("report", store, "pneumonia", "--out", tmp_path / "absent" / "page.html")
    assert done.exit_code == 2 and "its folder does not exist" in done.stderr and done.stdout == ""


def test_train_writes_the_report_of_the_model_it_made(vecstore: Call, store: Path, tmp_path: Path) -> None:
    page = tmp_path / "p.html"
    done = vecstore("train", store, "pneumonia", "--model", "knn", "--where", "age > 30", "--report", page)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("pneumonia: AUC ")
    assert lines[-1] == f"written: {page}, p.json, p-model-card.md"
    told = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert (told["record"]["model"], told["record"]["where"]) == ("knn", "age > 30")
    command = told["manifest"]["report_command"].split()[2:]
    again = vecstore("report", store, *command[1:], "--out", tmp_path / "again.html")
    assert again.exit_code == 0, again.output
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()
    assert (tmp_path / "again-model-card.md").read_bytes() == (tmp_path / "p-model-card.md").read_bytes()


def test_evaluate_writes_the_report_it_prints(vecstore: Call, store: Path, tmp_path: Path) -> None:
    options = ("--coverage", "0.8", "--subgroup", "age=50", "--min-cell", "5")
    done = vecstore("evaluate", store, "pneumonia", *options, "--report", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("files") == ["report.html", "report.json", "model-card.md"]
    told = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert told["assessment"] == found["assessment"] and told["assessment"]["sets"]["coverage"] == 0.8
    bare = json.loads(vecstore("evaluate", store, "pneumonia", *options, "--json").stdout.splitlines()[-1])
    assert found == bare
    text = vecstore("evaluate", store, "pneumonia", "--report", tmp_path / "x.html").stdout.splitlines()
    assert text[0].startswith("pneumonia: AUC ")
    assert text[-1] == f"written: {tmp_path / 'x.html'}, x.json, x-model-card.md"


def test_a_report_over_a_folder_is_refused_before_training(vecstore: Call, store: Path, tmp_path: Path) -> None:
    (tmp_path / "x.json").mkdir()
    before = (store / "catalog.sqlite").read_bytes()
    done = vecstore("train", store, "pneumonia", "--report", tmp_path / "x.html")
    assert done.exit_code == 2 and "x.json: a folder has this name" in done.stderr and done.stdout == ""
    assert (store / "catalog.sqlite").read_bytes() == before
