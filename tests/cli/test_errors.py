"""Each error: its exit code, and a message of fact, expectation and next step; never a traceback."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

from vecstore import errors
from vecstore_cli._shared import command

Call = Callable[..., Result]
CODES = {
    "VecstoreError": 1,
    "UsageError": 2,
    "NotFound": 2,
    "Ambiguous": 2,
    "LabelConflict": 2,
    "PredicateRefused": 2,
    "ArchiveError": 1,
    "PictureError": 1,
    "NotAPicture": 1,
    "EncoderError": 1,
    "WeightsMissing": 1,
    "PackageMissing": 1,
    "SpaceMismatch": 1,
    "DataError": 1,
    "ProblemsFound": 5,
    "StoreError": 1,
    "NotAStore": 1,
    "StoreTooNew": 1,
    "StoreBusy": 1,
    "NotWritable": 1,
    "DiskFull": 1,
    "StoreDamaged": 4,
}


def _refused(done: Result, code: int, *parts: str) -> None:
    """An exit code, nothing on standard output, and one line that has these parts in this order."""
    assert done.exit_code == code, (done.output, done.exception)
    assert done.stdout == ""
    message = done.stderr.splitlines()[-1]
    assert message.startswith("Error: "), done.stderr
    assert "Traceback" not in done.stderr
    assert re.search(".*".join(map(re.escape, parts)), message), message


def test_every_error_has_its_exit_code() -> None:
    found = {
        name: kind.exit_code
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.VecstoreError)
    }
    assert found == CODES


@pytest.mark.parametrize("name", CODES)
def test_the_command_line_ends_with_the_code_of_the_error(name: str) -> None:
    @click.command()
    @command
    def failing() -> None:
        raise getattr(errors, name)("the fact", expected="something else", do="do this")

    done = CliRunner().invoke(failing)
    assert done.exit_code == CODES[name]
    assert done.stderr == "Error: the fact; expected something else; do this\n"


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted; what was committed stays, run it again to go on"),
        (MemoryError(), 1, "not enough memory; close other programs, or use a machine with more"),
        (OSError(28, "No space left on device"), 1, "no space left on the device; free some space and run it again"),
        (OSError(122, "Disk quota exceeded"), 1, "no space left on the device; free some space and run it again"),
        (IsADirectoryError(21, "Is a directory", "/x"), 1, "/x: Is a directory"),
    ],
)
def test_what_the_system_raises_is_a_message_too(raised: BaseException, code: int, said: str) -> None:
    @click.command()
    @command
    def failing() -> None:
        raise raised

    done = CliRunner().invoke(failing)
    assert (done.exit_code, done.stderr) == (code, f"Error: {said}\n")


# What is not a store

_READERS = (
    ("info",),
    ("failures",),
    ("log",),
    ("search", "1"),
    ("train", "pneumonia"),
    ("evaluate", "pneumonia"),
    ("predict", "pneumonia"),
    ("export", "out.npz"),
    ("label", "t.csv", "--task", "x", "--key", "path", "--value", "label"),
)


@pytest.mark.parametrize("verb", _READERS, ids=lambda verb: verb[0])
def test_a_path_that_is_no_store_is_told(vecstore: Call, tmp_path: Path, verb: tuple[str, ...]) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("text")
    for name in ("absent", "folder", "file"):
        done = vecstore(verb[0], tmp_path / name, *verb[1:])
        what = "does not exist" if name == "absent" else "is not a store"
        _refused(done, 1, f"{tmp_path / name} {what}", "expected a folder made by: vecstore ingest")
    assert not (tmp_path / "absent").exists()


def test_a_store_is_not_made_where_something_is(vecstore: Call, place: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes").write_text("text")
    for name in ("file", "folder"):
        done = vecstore("ingest", place / "archive", "--store", tmp_path / name, "--encoder", "fake:64")
        _refused(
            done, 1, f"{tmp_path / name} exists already", "expected a path where nothing is", "choose another path"
        )
    assert (tmp_path / "file").read_text() == "text"


def test_another_sqlite_file_is_not_a_store(vecstore: Call, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "catalog.sqlite")) as other:
        other.execute("CREATE TABLE t (x)")
    _refused(vecstore("info", tmp_path), 1, "is not a vecstore catalog", "expected")


def test_a_newer_format_is_not_touched(vecstore: Call, store: Path, place: Path) -> None:
    with closing(sqlite3.connect(store / "catalog.sqlite")) as catalog:
        catalog.execute("PRAGMA user_version=99")
    for verb in (("info", store), ("ingest", place / "archive", "--store", store, "--encoder", "fake:64")):
        _refused(vecstore(*verb), 1, "has store format 99", "expected format 1 or earlier", "pip install --upgrade")


# Damage


def test_a_damaged_catalog_ends_with_4(vecstore: Call, store: Path) -> None:
    path = store / "catalog.sqlite"
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\x5a" * (len(whole) - 4096))
    _refused(vecstore("info", store), 4, "catalog.sqlite", "expected", "restore it from a copy")
    path.write_bytes(b"no database" * 1000)
    _refused(vecstore("log", store), 4, "catalog.sqlite", "expected", "restore it from a copy")


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_a_damaged_shard_ends_with_4_and_never_gives_vectors(vecstore: Call, store: Path, damage: str) -> None:
    (shard,) = store.glob("shards/*/*.parquet")
    data = bytearray(shard.read_bytes())
    if damage == "missing":
        shard.unlink()
    else:
        data[len(data) // 2] ^= 1
        shard.write_bytes(data[:-10] if damage == "cut" else data)
    for verb in (("train", store, "pneumonia"), ("search", store, "1"), ("predict", store, "pneumonia")):
        done = vecstore(*verb)
        assert done.exit_code == 4, done.output
        assert shard.name in done.stderr
        assert "restore it from a copy of the store" in done.stderr


def test_a_damaged_model_ends_with_4(vecstore: Call, store: Path) -> None:
    model = next(store.glob("models/*/model.safetensors"))
    model.write_bytes(model.read_bytes()[:-1] + b"\0")
    _refused(vecstore("evaluate", store, "pneumonia"), 4, "not those that were registered", "train the model again")


# No permission


@contextmanager
def _read_only(store: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of a store that this user can't write to: by its mode, or for root by its file system."""
    place = tmp_path / "medium"
    place.mkdir()
    if os.geteuid():
        shutil.copytree(store, place / store.name)
        folders = [path for path in place.rglob("*") if path.is_dir()] + [place]
        for path in place.rglob("*"):
            path.chmod(0o500 if path.is_dir() else 0o400)
        place.chmod(0o500)
        try:
            yield place / store.name
        finally:
            for path in reversed(folders):
                path.chmod(0o700)
        return
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("root may write everywhere, and may not mount here")
    try:
        shutil.copytree(store, place / store.name)
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        yield place / store.name
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_store_that_can_not_be_written_is_read_and_refuses_the_rest(
    vecstore: Call, store: Path, place: Path, tmp_path: Path
) -> None:
    with _read_only(store, tmp_path) as fixed:
        assert vecstore("info", fixed).exit_code == 0
        assert vecstore("search", fixed, "1", "-k", 3).exit_code == 0
        assert vecstore("predict", fixed, "pneumonia").exit_code == 0
        assert vecstore("evaluate", fixed, "pneumonia").exit_code == 0
        table = ("label", fixed, place / "findings.csv", "--task", "x", "--key", "path", "--value", "label")
        changed = tmp_path / "archive"
        shutil.copytree(place / "archive", changed)
        shutil.copy(place / "query.png", changed / "new.png")
        for verb in (
            table,
            ("train", fixed, "pneumonia"),
            ("ingest", changed, "--store", fixed, "--encoder", "fake:64"),
            ("ingest", changed, "--store", fixed.parent / "new.vecs", "--encoder", "fake:64"),
        ):
            _refused(vecstore(*verb), 1, "expected", "check the mount and the permissions, or copy the store")


def test_a_busy_store_is_told_after_a_while(
    vecstore: Call, store: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.import_module("vecstore.store.catalog"), "BUSY_SECONDS", 0.2)
    table = ("label", store, place / "findings.csv", "--task", "x", "--key", "path", "--value", "label")
    with closing(sqlite3.connect(store / "catalog.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        _refused(vecstore(*table), 1, "another process has", "expected", "run the command again")
        other.execute("ROLLBACK")
    assert vecstore(*table).exit_code == 0


# Wrong calls


def test_names_that_are_not_there_are_answered_with_those_that_are(vecstore: Call, place: Path) -> None:
    store = place / "chest.vecs"
    for verb, parts in (
        (("train", store, "cough"), ("no task 'cough'", "expected one of: pneumonia", "vecstore label")),
        (("search", store, "1", "--space", "clip"), ("no space 'clip'", "expected one of: fake-64", "--space")),
        (("train", store, "pneumonia", "--group", "study"), ("no column 'study'", "expected one of:", "patient_id")),
        (("evaluate", store, "pneumonia", "--model", "99"), ("no model 99", "expected one of: 1", "vecstore train")),
        (("search", store, "999"), ("no item 999", "expected")),
        (("search", store, "absent.png"), ("no such file, and no item", "expected a picture")),
        (("info", store, "--at", "99"), ("no commit 99", "expected 1 to 5", "vecstore log")),
        (("search", store, "1", "-k", "0"), ("k = 0", "expected", "at least 1")),
        (("search", store), ("a search needs one query", "expected")),
        (("export", store, "out.csv"), ("unknown format", "expected a name ending in .parquet or .npz")),
        (("search", store, "1", "--where", "age; DROP TABLE items"), ("expected",)),
        (("search", store, "1", "--where", "nothing = 1"), ("nothing",)),
        (("search", store, "1", "--where", "age >"), ("expected",)),
    ):
        _refused(vecstore(*verb), 2, *parts)


def test_two_spaces_and_none_named_is_an_error_that_lists_them(vecstore: Call, store: Path, place: Path) -> None:
    assert vecstore("ingest", place / "archive", "--store", store, "--encoder", "fake:16").exit_code == 0
    for verb in (("search", store, "1"), ("train", store, "pneumonia"), ("export", store, "x.npz")):
        _refused(vecstore(*verb), 2, "has 2 spaces", "expected one of: fake-64, fake-16", "--space NAME")


def test_a_strict_audit_ends_with_5_after_its_table(vecstore: Call, store: Path, tmp_path: Path) -> None:
    arguments = ("audit", store, "pneumonia", "--strict", "--no-near-duplicates")
    assert vecstore(*arguments).exit_code == 0
    table = tmp_path / "split.csv"
    rows = [f"{i:03d}.png,{('normal', 'pneumonia')[i // 3 % 2]},{('train', 'test')[i % 2]}\n" for i in range(60)]
    table.write_text("file,label,part\n" + "".join(rows))
    split = ("--task", "pneumonia", "--key", "file", "--value", "label", "--split-column", "part")
    assert vecstore("label", store, table, *split).exit_code == 0
    done = vecstore(*arguments)
    assert done.exit_code == 5
    assert re.search(
        r"^PROBLEM +patients across parts +pneumonia +of 20 patients 20 are in the test part", done.stdout, re.M
    )
    assert done.stderr.splitlines()[-1].startswith(
        "Error: the audit of chest.vecs found 1 problem (patients across parts: of 20 patients 20 are"
    )
    assert vecstore(*arguments[:3], arguments[4]).exit_code == 0
    machine = vecstore(*arguments, "--json")
    assert machine.exit_code == 5 and machine.stdout.startswith("{")


def test_what_an_audit_is_asked_in_vain_is_told(vecstore: Call, place: Path) -> None:
    _refused(vecstore("audit", place / "chest.vecs", "absent"), 2, "no task 'absent'", "one of: pneumonia")
    _refused(vecstore("audit", place / "chest.vecs", "--cosine", 2), 2, "cosine = 2", "a similarity up to 1")
    several = ("label-errors", place / "chest.vecs", "pneumonia", "--model", 1, "--group", "age")
    _refused(vecstore(*several), 2, "model 1, and a space, group or where", "one of them", "leave --space")
    page = ("label-errors", place / "chest.vecs", "pneumonia", "--html", place / "no" / "x.html")
    _refused(vecstore(*page), 2, "its folder does not exist")


def test_a_conflict_of_labels_is_refused_with_examples(vecstore: Call, store: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("path,label\n000.png,a\n000.png,b\n001.png,a\n")
    done = vecstore("label", store, table, "--task", "x", "--key", "path", "--value", "label")
    _refused(done, 2, "000.png", "--on-conflict")


def test_archives_that_are_none_are_refused_before_a_store_is_made(vecstore: Call, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("text")
    store = tmp_path / "x.vecs"
    for name, parts in (
        ("absent", ("not there", "expected a folder, zip, tar", "check the path")),
        ("empty", ("there are no files in it", "expected pictures", "check the path")),
        ("text.txt", ("not an archive that is known here", "expected a folder, zip")),
    ):
        done = vecstore("ingest", tmp_path / name, "--store", store, "--encoder", "fake:64")
        _refused(done, 1, str(tmp_path / name), *parts)
    assert not store.exists()


def test_an_encoder_that_does_not_exist_is_refused_before_a_store_is_made(
    vecstore: Call, place: Path, tmp_path: Path
) -> None:
    store = tmp_path / "x.vecs"
    done = vecstore("ingest", place / "archive", "--store", store, "--encoder", "no-such-encoder")
    assert done.exit_code in (1, 2), done.output
    assert "no-such-encoder" in done.stderr
    assert "expected" in done.stderr
    assert not store.exists()


def test_flags_that_belong_to_one_encoder_are_refused_for_two(vecstore: Call, place: Path, tmp_path: Path) -> None:
    two = ("--encoder", "fake:8", "--encoder", "fake:16", "--space", "x")
    done = vecstore("ingest", place / "archive", "--store", tmp_path / "x.vecs", *two)
    _refused(done, 2, "--space and --weights belong to one encoder", "expected", "run once per encoder")


def test_a_query_that_is_no_picture_or_no_vector_is_told(vecstore: Call, place: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n")
    _refused(vecstore("search", place / "chest.vecs", bad), 1, str(bad), "expected")
    for name, values in (("long.npy", np.ones(65)), ("zero.npy", np.zeros(64)), ("nan.npy", np.full(64, np.nan))):
        np.save(tmp_path / name, values)
        _refused(vecstore("search", place / "chest.vecs", tmp_path / name), 1, "query vector", "expected (64,)")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    done = vecstore("search", place / "chest.vecs", tmp_path / "objects.npy")
    assert done.exit_code in (1, 2), done.exception
    assert done.stderr.startswith("Error: ")


def test_what_predict_refuses_leaves_no_header_behind(vecstore: Call, place: Path, tmp_path: Path) -> None:
    _refused(vecstore("predict", place / "chest.vecs", "pneumonia", tmp_path / "nofile.png"), 1, "nofile.png")
    _refused(vecstore("predict", place / "chest.vecs", "pneumonia", "--where", "ege > 1"), 2, "no column ege")


def test_a_probe_refuses_another_encoder(vecstore: Call, place: Path) -> None:
    done = vecstore("predict", place / "chest.vecs", "pneumonia", place / "query.png", "--encoder", "fake:16")
    _refused(done, 1, "fingerprint", "expected vectors of the space fake-64", "--encoder fake:64")


def test_labels_nothing_can_be_learned_from_are_told(vecstore: Call, store: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    arguments = ("label", store, table, "--task", "one", "--key", "path", "--value", "label")
    table.write_text("path,label\n" + "".join(f"{i:03d}.png,same\n" for i in range(60)))
    _refused(vecstore(*arguments), 1, "expected")
    table.write_text("path,label\n" + "".join(f"{i:03d}.png,{'rare' if i < 4 else 'same'}\n" for i in range(60)))
    assert vecstore(*arguments).exit_code == 0
    _refused(vecstore("train", store, "one"), 1, "expected")


def _label(vecstore: Call, store: Path, table: Path, rows: Iterable[tuple[object, ...]], *options: str) -> Result:
    """Import `rows` of (number of the picture, values …) as the task x."""
    lines = [",".join([f"{number:03d}.png", *map(str, values)]) for number, *values in rows]
    width = lines[0].count(",")
    header = ",".join(["path", "label", "part", "more"][: width + 1])
    table.write_text("\n".join([header, *lines]) + "\n")
    return vecstore("label", store, table, "--task", "x", "--key", "path", "--value", "label", *options)


def _pairs(i: int) -> str:
    return "ab"[i // 3 % 2]


def test_one_class_only_is_told_when_labelled_and_when_trained(vecstore: Call, store: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    done = _label(vecstore, store, table, ((i, "same") for i in range(60)))
    _refused(done, 1, "every labelled item has the value 'same'", "expected at least two classes", "check --value")
    assert _label(vecstore, store, table, ((i, _pairs(i)) for i in range(60))).exit_code == 0
    done = vecstore("train", store, "x", "--where", "pneumonia = 'normal'")
    _refused(done, 1, "task 'x': ", "in the classes: a", "expected at least two classes", "--min-groups")
    done = vecstore("train", store, "x", "--classes", "a")
    _refused(done, 1, "task 'x': 30 items, in the classes: a", "expected at least two classes")


def test_labels_that_are_no_labels_are_told_or_counted(vecstore: Call, store: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    done = _label(vecstore, store, table, ((i, ("nan", "", "NaN")[i % 3]) for i in range(60)))
    _refused(done, 1, "60 of 60 keys fit (rule: exact locator), but the column 'label' is empty", "--value COLUMN")
    done = _label(vecstore, store, table, ((i, "nan" if i < 6 else _pairs(i)) for i in range(60)))
    assert done.exit_code == 0
    assert re.search(r"^rows without a value, or with an ignored one +6$", done.stdout, re.M)
    assert re.search(r"^items without a label +6 \(000.png, ", done.stdout, re.M)
    assert " 54 items in 18 groups" in vecstore("train", store, "x", "--model", "knn").stdout


def test_a_class_in_too_few_groups_for_folds_is_told(vecstore: Call, store: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    _label(vecstore, store, table, ((i, "rare" if i < 3 else _pairs(i)) for i in range(60)))
    done = vecstore("train", store, "x", "--min-groups", "1")
    _refused(done, 1, "class rare is in 1 groups", "expected every class in at least 2 groups", "leave the class out")
    left_out = vecstore("train", store, "x", "--model", "knn")
    assert "note: left out, in fewer than 5 groups: rare (1)" in left_out.stdout
    _label(vecstore, store, table, ((i, "rare" if i < 9 else _pairs(i)) for i in range(60)))
    fewer = vecstore("train", store, "x", "--min-groups", "1", "--model", "knn")
    assert "note: 3 folds instead of 5: each needs some of every class, and no group is divided" in fewer.stdout
    assert "'folds': 3" in fewer.stdout


def test_fewer_groups_than_folds_is_told(vecstore: Call, store: Path) -> None:
    # Either sex has both classes: two groups, two folds.
    fewer = vecstore("train", store, "pneumonia", "--group", "sex", "--min-groups", "1", "--model", "knn")
    assert "note: 2 folds instead of 5" in fewer.stdout
    assert " in 2 groups" in fewer.stdout
    done = vecstore("train", store, "pneumonia", "--group", "sex", "--min-groups", "1", "--where", "sex = 'F'")
    _refused(done, 1, "class normal is in 1 groups", "expected every class in at least 2 groups", "group column")
    done = vecstore("train", store, "pneumonia", "--group", "sex")
    _refused(done, 1, "left out, in fewer than 5 groups: normal (2), pneumonia (2)", "expected at least two classes")


def test_a_group_on_both_sides_of_an_official_split_is_dropped_from_training(
    vecstore: Call, store: Path, tmp_path: Path
) -> None:
    rows = [(i, _pairs(i), "test" if i >= 48 or i in (0, 3) else "train") for i in range(60)]
    assert _label(vecstore, store, tmp_path / "t.csv", rows, "--split-column", "part").exit_code == 0
    done = vecstore("train", store, "x", "--model", "knn")
    said = "note: official split: 4 training items were dropped, of 2 groups (or identical pictures) that are also in"
    assert said in done.stdout
    assert " test: 14 items in 6 groups" in done.stdout
    assert re.search(r"^trained on +42 items in 14 groups: a 21, b 21$", done.stdout, re.M)


def test_units_that_disagree_and_levels_that_are_not_there_are_told(
    vecstore: Call, store: Path, tmp_path: Path
) -> None:
    _refused(
        vecstore("train", store, "pneumonia", "--level", "study"),
        2,
        "no column for the level 'study'",
        "expected StudyInstanceUID, study, StudyID",
        "--level COLUMN",
    )
    rows = [(i, "b" if i == 0 else _pairs(i)) for i in range(60)]
    assert _label(vecstore, store, tmp_path / "t.csv", rows).exit_code == 0
    done = vecstore("train", store, "x", "--level", "patient")
    _refused(done, 2, "1 units of patient_id have pictures that disagree: p00 (a / b)", "--on-conflict first, any or")
    resolved = vecstore("train", store, "x", "--level", "patient", "--on-conflict", "drop", "--pool", "mean")
    assert resolved.exit_code == 0, resolved.output
    assert "note: 1 units of patient_id have pictures that disagree, left out" in resolved.stdout
    _refused(vecstore("train", store, "x", "--pool", "max"), 2, "--pool max without units", "add --level COLUMN")


def test_an_uncertain_policy_that_says_nothing_is_told(vecstore: Call, store: Path, tmp_path: Path) -> None:
    rows = [(i, "u" if i == 0 else "abc"[i % 3]) for i in range(60)]
    done = _label(vecstore, store, tmp_path / "t.csv", rows, "--uncertain", "u", "--uncertain-policy", "ones")
    _refused(done, 2, "for a task with 3 certain classes (a, b, c)", "expected a task of two classes", "--positive")


@pytest.mark.parametrize(
    ("verb", "option"), [("train pneumonia", "--report"), ("evaluate pneumonia", "--report"), ("search 1", "--html")]
)
def test_a_page_that_has_no_folder_is_refused_before_any_work(
    vecstore: Call, store: Path, tmp_path: Path, verb: str, option: str
) -> None:
    before = (store / "catalog.sqlite").read_bytes(), sorted((store / "models").glob("*"))
    name, argument = verb.split()
    done = vecstore(name, store, argument, option, tmp_path / "absent" / "page.html")
    _refused(done, 2, "its folder does not exist", "choose another output")
    assert ((store / "catalog.sqlite").read_bytes(), sorted((store / "models").glob("*"))) == before


def test_the_demo_names_the_sets_it_knows(vecstore: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VECSTORE_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    _refused(
        vecstore("demo", "--medmnist", "brestmnist", "--folder", tmp_path / "d"),
        2,
        "no such file, and no MedMNIST set",
        "expected a file, or one of: ",
        "breastmnist",
    )
    _refused(
        vecstore("demo", "--medmnist", "breastmnist", "--folder", tmp_path / "d"),
        1,
        "can't be downloaded now: downloads are forbidden",
        "expected https://",
        "vecstore demo --medmnist breastmnist.npz",
    )
    assert not (tmp_path / "cache" / "vecstore").exists()


def test_json_or_not_an_error_leaves_standard_output_empty(vecstore: Call, tmp_path: Path) -> None:
    done = vecstore("info", tmp_path / "absent", "--json")
    assert (done.exit_code, done.stdout) == (1, "")
