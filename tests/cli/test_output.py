"""What people and pipes see: tables, CSV, progress, and nothing else on standard output."""

from __future__ import annotations

import csv
import io
import os
import pty
import re
import signal
import subprocess
import sys
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from PIL import Image

from vecstore_cli._shared import Lines, echo_table

Call = Callable[..., Result]
Spawn = Callable[..., "subprocess.Popen[bytes]"]


def _rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough pictures for a bar to be seen."""
    folder = tmp_path_factory.mktemp("many") / "archive"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for i in range(400):
        Image.fromarray(rng.integers(0, 256, (90, 90, 3), np.uint8)).save(folder / f"{i:04d}.png", compress_level=1)
    return folder


# Tables and CSV


def test_ingest_says_in_a_line_what_happened(vecstore: Call, place: Path, tmp_path: Path) -> None:
    done = vecstore("ingest", place / "archive", "--store", tmp_path / "x.vecs", "--encoder", "fake:64")
    assert re.fullmatch(r"archive: 60 added, 0 present, 0 failed, 60 embedded \([\d.]+/s\)\n", done.stdout)
    again = vecstore("ingest", place / "archive", "--store", tmp_path / "x.vecs", "--encoder", "fake:64")
    assert again.stdout == "archive: 0 added, 60 present, 0 failed, 0 embedded\n"


def test_search_prints_a_table_and_says_the_rest_elsewhere(vecstore: Call, place: Path) -> None:
    done = vecstore("search", place / "chest.vecs", "000.png", "-k", 3)
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["rank", "item_id", "score", "source", "locator", "pneumonia"]
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    assert done.stderr == "archive: 000.png: 3 of 57 items; 3 of its own group left out\n"


def test_search_as_csv_has_metadata_and_labels(vecstore: Call, place: Path) -> None:
    rows = _rows(vecstore("search", place / "chest.vecs", place / "query.png", "-k", 5, "--csv").stdout)
    assert list(rows[0]) == ["rank", "item_id", "score", "source", "locator", "age", "patient_id", "sex", "pneumonia"]
    assert len(rows) == 5
    none = vecstore("search", place / "chest.vecs", "000.png", "--where", "age > 999", "--csv")
    assert none.stdout == "rank,item_id,score,source,locator\n"
    assert none.exit_code == 0


def test_predict_is_csv_of_items_or_of_new_pictures(vecstore: Call, place: Path, tmp_path: Path) -> None:
    stored = _rows(vecstore("predict", place / "chest.vecs", "pneumonia").stdout)
    assert len(stored) == 60
    assert list(stored[0]) == ["item", "item_id", "class", "probability_normal", "probability_pneumonia", "in_training"]
    odd = tmp_path / 'a "b", c.png'
    odd.write_bytes((place / "query.png").read_bytes())
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n")
    done = vecstore("predict", place / "chest.vecs", "pneumonia", bad, odd)
    assert done.exit_code == 3
    without, row = _rows(done.stdout)
    assert (without["item"], without["class"], without["probability_normal"]) == (str(bad), "", "")
    assert row["item"] == str(odd)
    assert done.stderr.startswith(f"{bad}: ")


def test_predict_writes_its_header_even_without_rows(vecstore: Call, place: Path) -> None:
    done = vecstore("predict", place / "chest.vecs", "pneumonia", "--where", "age > 999")
    assert done.stdout == "item,item_id,class,probability_normal,probability_pneumonia,in_training\n"


def test_predict_chooses_among_items_or_takes_new_pictures(vecstore: Call, place: Path) -> None:
    done = vecstore("predict", place / "chest.vecs", "pneumonia", place / "query.png", "--where", "age > 1")
    assert done.exit_code == 2
    assert "--where chooses items of the store" in done.stderr


def test_info_names_what_is_there(vecstore: Call, place: Path) -> None:
    text = vecstore("info", place / "chest.vecs").stdout
    for title in ("sources", "spaces", "passport of fake-64", "tasks", "models", "columns"):
        assert f"\n{title}\n" in text
    assert re.search(r"^commit +5 of 5$", text, re.M)
    assert re.search(r"^contents +60 different pictures$", text, re.M)


def test_log_and_failures_are_tables(vecstore: Call, place: Path) -> None:
    lines = vecstore("log", place / "chest.vecs").stdout.splitlines()
    assert lines[0].split()[:3] == ["commit", "time", "verb"]
    assert len(lines) == 6
    assert vecstore("failures", place / "chest.vecs").stdout == "0 failures\n"


def test_train_prints_the_number_its_interval_and_its_groups(vecstore: Call, store: Path) -> None:
    text = vecstore("train", store, "pneumonia").stdout
    head = re.match(r"pneumonia: AUC (0\.\d+|1\.000) \(\d\.\d+-\d\.\d+\) out-of-fold: 60 items in 20 groups\n", text)
    assert head, text
    assert re.search(r"^groups +patient_id$", text, re.M)
    assert re.search(r"^pixels read +0$", text, re.M)


def test_label_says_which_columns_had_to_be_widened(vecstore: Call, store: Path, tmp_path: Path) -> None:
    table = tmp_path / "more.csv"
    for number, score in enumerate(("1", "high")):
        table.write_text(f"file,label,score\n000.png,x,{score}\n001.png,y,2\n")
        done = vecstore("label", store, table, "--task", "t", "--key", "file", "--value", "label", "--columns", "score")
        assert bool(re.search(r"^columns widened +score to TEXT$", done.stdout, re.M)) == bool(number), done.output


def test_a_level_is_told_by_its_units(vecstore: Call, store: Path, place: Path) -> None:
    done = vecstore("train", store, "pneumonia", "--level", "patient", "--model", "knn")
    head = r"pneumonia: AUC [01]\.\d+ \(.+\) out-of-fold: 20 units of patient_id \(60 pictures\) in 20 groups\n"
    assert re.match(head, done.stdout), done.stdout
    assert re.search(r"^level +patient_id, vectors pooled by (mean|max|unit-mean)$", done.stdout, re.M)
    assert re.search(r"^trained on +20 units in 20 groups: normal 10, pneumonia 10$", done.stdout, re.M)
    told, again = done.stdout.splitlines(), vecstore("evaluate", store, "pneumonia").stdout.splitlines()
    assert [line for line in again if line in told] == told  # and more beside
    stored = vecstore("predict", store, "pneumonia")
    rows = _rows(stored.stdout)
    assert list(rows[0]) == ["unit", "pictures", "class", "probability_normal", "probability_pneumonia", "in_training"]
    assert [(row["unit"], row["pictures"]) for row in rows] == [(f"p{i:02d}", "3") for i in range(20)]
    assert "trained on 20 of these units" in stored.stderr
    new = vecstore("predict", store, "pneumonia", place / "query.png")
    assert new.stdout.splitlines()[0] == "item,class,probability_normal,probability_pneumonia"
    assert new.stderr == (
        "model 2 (knn), the newest of 2; another: --model ID\n"
        "note: the model is of the level patient_id; each new picture is scored by itself\n"
    )


def test_two_spaces_are_told_together(vecstore: Call, store: Path, place: Path) -> None:
    assert vecstore("ingest", place / "archive", "--store", store, "--encoder", "fake:16").exit_code == 0
    both = ("--space", "fake-64", "--space", "fake-16")
    done = vecstore("train", store, "pneumonia", "--model", "knn", *both)
    assert re.search(r"^model +knn 2 in space fake-64 \+ fake-16, ", done.stdout, re.M), done.output
    new = vecstore("predict", store, "pneumonia", place / "query.png", "--encoder", "fake:64", "--encoder", "fake:16")
    assert len(_rows(new.stdout)) == 1


def test_uncertain_labels_are_counted(vecstore: Call, store: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("file,A,B\n" + "".join(f"{i:03d}.png,{(1, 0, -1)[i % 3]},{i % 2}\n" for i in range(60)))
    arguments = ("label", store, table, "--task", "t", "--key", "file", "--value", "A,B")
    for policy, became, positives in (
        ("ignore", "ignored, as if not labelled", 20),
        ("ones", "taken for 1", 40),
        ("zeros", "taken for 0", 20),
    ):
        done = vecstore(*arguments, "--uncertain-policy", policy)
        assert re.search(rf"^uncertain labels +20, {became}$", done.stdout, re.M), done.output
        assert re.search(rf"^classes +A {positives}, B 30$", done.stdout, re.M)


def test_many_classes_fill_no_screen(vecstore: Call, store: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    names = [f"class number {i:02d}" for i in range(30)]
    table.write_text("file,label\n" + "".join(f"{i:03d}.png,{names[i // 2 % 30]}\n" for i in range(60)))
    done = vecstore("label", store, table, "--task", "t", "--key", "file", "--value", "label")
    assert re.search(r"^classes +class number 00 2, .*class number 11 2 and 18 more$", done.stdout, re.M)
    # In groups of a picture every class has two; some are left out, and that is said at length to programs alone.
    whole = vecstore("train", store, "t", "--group", "none", "--min-groups", "2", "--model", "knn")
    assert re.search(r"^AUC per class +class number 00 .* and 18 more$", whole.stdout, re.M), whole.output
    assert re.search(r"^trained on +60 items in 60 groups: class number 00 2, .* and 18 more$", whole.stdout, re.M)
    more = ("--task", "t", "--key", "file", "--value", "label")
    table.write_text("file,label\n" + "".join(f"{i:03d}.png,{names[max(0, i - 30)]}\n" for i in range(60)))
    assert vecstore("label", store, table, *more).exit_code == 0
    few = ("train", store, "t", "--group", "none", "--min-groups", "1", "--classes", f"{names[0]},{names[1]}")
    assert vecstore(*few).exit_code == 1
    split = tmp_path / "s.csv"
    parts = [(f"{i:03d}.png", "xy"[i % 2] if i < 40 else names[i - 40]) for i in range(60)]
    split.write_text("file,label\n" + "".join(f"{name},{text}\n" for name, text in parts))
    assert vecstore("label", store, split, *more).exit_code == 0
    noted = vecstore("train", store, "t", "--group", "none", "--model", "knn")
    (note,) = [line for line in noted.stdout.splitlines() if "left out, in fewer than" in line]
    assert len(note) < 450
    assert note.endswith(" … (all of it: --json)")
    told = vecstore("train", store, "t", "--group", "none", "--model", "knn", "--json").stdout
    assert "class number 19 (1)" in told


def test_export_warns_elsewhere_that_vectors_are_personal_data(vecstore: Call, place: Path, tmp_path: Path) -> None:
    done = vecstore("export", place / "chest.vecs", tmp_path / "v.npz")
    assert done.stdout == f"{tmp_path / 'v.npz'}: 60 rows of 64 dimensions, space fake-64\n"
    assert "personal data" in done.stderr


def test_a_table_is_cut_to_a_terminal_and_to_nothing_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[dict[str, object]] = [{"name": "x" * 50, "n": 1.5}, {"name": "two\nlines", "n": None}]
    echo_table(rows)
    assert [len(line) for line in capsys.readouterr().out.splitlines()] == [55, 55, 9]
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    echo_table(rows)
    assert capsys.readouterr().out.splitlines()[1] == "x" * 19 + "…"


# Names that are no text


def test_a_file_name_that_is_no_text_is_shown_escaped(spawn: Spawn, place: Path, tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\xff.png"
    with open(name, "wb") as file:  # noqa: PTH123 - no text, so no Path
        file.write((place / "query.png").read_bytes())
    for options in ((), ("--json",)):
        process = spawn(
            "predict", place / "chest.vecs", "pneumonia", os.fsdecode(name), *options, stdout=subprocess.PIPE
        )
        out, _ = process.communicate()
        assert process.returncode == 0
        assert b"\\udcff.png" in out


def test_names_in_any_form_are_found_again(spawn: Spawn, tmp_path: Path, place: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / unicodedata.normalize("NFD", "röntgen (1).png")).write_bytes((place / "query.png").read_bytes())
    store = tmp_path / "Lübeck #1.vecs"
    for arguments in (
        ("ingest", archive, "--store", store, "--encoder", "fake:64", "--quiet"),
        ("search", store, "röntgen (1).png", "-k", 1, "--include-own"),
    ):
        process = spawn(*arguments, stdout=subprocess.PIPE)
        out, _ = process.communicate()
        assert process.returncode == 0
    assert "röntgen (1).png" in out.decode()


# Progress


def _on_a_terminal(spawn: Spawn, *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output (a pipe) and what a terminal on standard error was sent."""
    main, other = pty.openpty()
    process = spawn(*arguments, stdout=subprocess.PIPE, stderr=other)
    os.close(other)
    seen = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # what Linux says when the other side is closed
            break
        if not part:
            break
        seen += part
    out, _ = process.communicate()
    os.close(main)
    return process.returncode, out.decode(), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())


def test_a_terminal_sees_a_bar_with_rate_and_time_left(spawn: Spawn, many: Path, tmp_path: Path) -> None:
    arguments = ("ingest", many, "--store", tmp_path / "x.vecs", "--encoder", "fake:64", "--json")
    code, out, seen = _on_a_terminal(spawn, *arguments)
    assert (code, out.count("\n")) == (0, 1)
    assert re.search(r"pictures .*\d+/400 +[\d.]+/s +0:00:\d\d left", seen), seen[-2000:]


def test_quiet_is_quiet_on_a_terminal_too(spawn: Spawn, many: Path, tmp_path: Path) -> None:
    arguments = ("ingest", many, "--store", tmp_path / "x.vecs", "--encoder", "fake:64", "--json", "--quiet")
    assert _on_a_terminal(spawn, *arguments)[2] == ""


def test_no_terminal_sees_no_bar(spawn: Spawn, many: Path, tmp_path: Path) -> None:
    arguments = ("ingest", many, "--store", tmp_path / "x.vecs", "--encoder", "fake:64")
    process = spawn(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = process.communicate()
    assert out.decode().startswith("archive: 400 added")
    assert b"\x1b" not in err
    assert b"\r" not in err


def test_an_error_takes_the_bar_away_before_its_message(spawn: Spawn, many: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    for i, picture in enumerate(sorted(many.iterdir())):
        os.link(picture, archive / f"{i:04d}.png")
    main, other = pty.openpty()
    process = spawn(
        "ingest", archive, "--store", tmp_path / "x.vecs", "--encoder", "fake:64", stdout=subprocess.PIPE, stderr=other
    )
    os.close(other)
    seen = os.read(main, 10)  # the bar is there
    process.send_signal(signal.SIGINT)
    while True:
        try:
            seen += os.read(main, 65536)
        except OSError:
            break
    process.communicate()
    os.close(main)
    assert process.returncode == 130
    assert seen.rstrip().endswith(b"run it again to go on")
    assert seen.rindex(b"\x1b[?25h") < seen.rindex(b"Error: interrupted")  # the cursor is back


def test_plain_lines_have_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(every_seconds=0.0)
    lines.begin("pictures", None)
    lines.step()
    lines.begin("pictures", 10)
    time.sleep(0.01)
    lines.step(4)
    lines.say("a.png: cut short")
    lines.end()
    out, err = capsys.readouterr()
    assert out == ""
    first, second, third = err.splitlines()
    assert re.fullmatch(r"1 pictures, [\d.]+/s", first)
    assert re.fullmatch(r"5 of 10 pictures, [\d.]+/s, \d+ s left", second)
    assert third == "a.png: cut short"


def test_an_audit_is_a_table_with_the_worst_first_and_examples(vecstore: Call, place: Path) -> None:
    done = vecstore("audit", place / "chest.vecs")
    head, columns, *lines = done.stdout.splitlines()
    assert re.fullmatch(r"chest\.vecs, commit 5, 60 items: (\d+ (PROBLEM|warning|not checked|fine)(, )?)+", head), head
    assert columns.split() == ["check", "task", "found"]
    ranks = [("PROBLEM", "warning", "not checked", "fine").index(re.split(r" {2,}", line)[0]) for line in lines[:12]]
    assert ranks == sorted(ranks)
    assert re.search(r"^fine +group column +patient_id: 20 groups of 60 items$", done.stdout, re.M)
    assert re.search(
        r"^fine +patients across parts +pneumonia +no official split; 20 of 20 patients", done.stdout, re.M
    )
    assert done.stderr == "groups: patient_id\n"


def test_suspects_are_a_table_and_a_sentence(vecstore: Call, store: Path, place: Path, tmp_path: Path) -> None:
    wrong = (place / "findings.csv").read_text().replace("010.png,pneumonia", "010.png,normal")
    (tmp_path / "wrong.csv").write_text(wrong)
    arguments = ("--task", "pneumonia", "--key", "path", "--value", "label")
    assert vecstore("label", store, tmp_path / "wrong.csv", *arguments).exit_code == 0
    done = vecstore("label-errors", store, "pneumonia", "--top", 1, "--html", tmp_path / "s.html")
    columns, row, said = done.stdout.splitlines()
    assert re.split(r" {2,}", columns)[:4] == ["rank", "item_id", "locator", "given"]
    assert re.match(r" +1 +11  010\.png  normal +0?\.?\d+ +pneumonia +", row), row
    assert re.fullmatch(
        r"pneumonia: \d+ of 60 labels are suspect(, the first 1 are shown)?;"
        r" predictions: out-of-fold \(60\) of a logistic regression made for this",
        said,
    )
    assert "010.png" in (tmp_path / "s.html").read_text()


# Pipes


@pytest.mark.parametrize("verb", ["predict", "predict --json", "search --csv", "log"])
def test_a_closed_pipe_is_no_error_message(spawn: Spawn, place: Path, verb: str) -> None:
    verb, *options = verb.split()
    arguments = {"predict": ("pneumonia",), "search": ("000.png", "-k", "57"), "log": ()}[verb]
    read, write = os.pipe()
    os.close(read)  # the reader is gone before the first byte, as `| head` soon is
    process = spawn(verb, place / "chest.vecs", *arguments, *options, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    _, err = process.communicate()
    assert b"Traceback" not in err
    assert b"Broken" not in err
    assert b"Error" not in err


def test_head_takes_one_line_and_nobody_complains(spawn: Spawn, place: Path) -> None:
    process = spawn("predict", place / "chest.vecs", "pneumonia", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    head = subprocess.run(["head", "-1"], stdin=process.stdout, capture_output=True, check=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read().decode()
    process.stderr.close()
    process.wait()
    assert [line for line in said.splitlines() if not line.startswith("note: ")] == []
    assert head.stdout == b"item,item_id,class,probability_normal,probability_pneumonia,in_training\n"
