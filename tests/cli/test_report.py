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
