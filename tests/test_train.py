"""Train, evaluate, predict: one number, kept; the same probabilities wherever the model is loaded; no pixels."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from vecstore.dataset import dataset
from vecstore.errors import (
    ArchiveError,
    DataError,
    NotFound,
    NotWritable,
    PredicateRefused,
    SpaceMismatch,
    StoreDamaged,
    UsageError,
)
from vecstore.evaluate import evaluate
from vecstore.export import export
from vecstore.ingest import ingest
from vecstore.label import label
from vecstore.predict import predict
from vecstore.reporting import report
from vecstore.search import search
from vecstore.store import Store
from vecstore.train import train
from vecstore.trained import load

Paint = Callable[[Path, str, int], None]
Opened = Callable[[str], Store]
each_model = pytest.mark.parametrize("model", ["probe", "svm", "knn"])


def _add(store: Store, rows: Sequence[Sequence[Any]], header: Sequence[str], **options: Any) -> None:
    table = pl.DataFrame(list(rows), schema=list(header), orient="row")
    label(store, table, **({"task": "t", "key": "file", "value": "label"} | options))


def _colour(locator: str) -> str:
    return locator.partition("/")[2].partition("_")[0]


def _official(store: Store, labels: Path) -> None:
    label(store, labels, task="t", key="file", value="label", split_column="part")


# Round trips


@each_model
def test_evaluate_repeats_the_record_of_training(colour_store: Store, model: str) -> None:
    probe = train(colour_store, "colour", model=model)
    record = probe.record
    assert (record.part, record.n, record.groups, record.group_column) == ("out-of-fold", 63, 21, "patient")
    assert record.auc is not None and record.auc > 0.8 and record.pixels_read == 0
    assert record.classes == ["blue", "green", "red"] and record.counts == dict.fromkeys(record.classes, 21)
    assert record.commit + 1 == colour_store.commit
    again = evaluate(colour_store, "COLOUR")
    assert asdict(again.record) == asdict(record)
    np.testing.assert_array_equal(again.probabilities, probe.probabilities)
    np.testing.assert_array_equal(again.items, probe.items)
    areas = [roc_auc_score(probe.y == i, probe.probabilities[:, i]) for i in range(3)]
    assert record.auc == pytest.approx(np.mean(areas), abs=1e-12)


@each_model
def test_the_official_test_part_is_scored_and_scored_again(
    colour_store: Store, colour_labels: Path, model: str
) -> None:
    _official(colour_store, colour_labels)
    probe = train(colour_store, "t", model=model)
    assert (probe.record.part, probe.record.n, probe.record.trained_on) == ("test", 18, 45)
    assert asdict(evaluate(colour_store, "t").record) == asdict(probe.record)
    seen = {row[0] for row in colour_store.rows("SELECT item FROM seen")}
    assert seen == set(colour_store.items().ids.tolist()) - set(probe.items.tolist())


def test_evaluate_repeats_training_on_a_part_of_the_store(colour_store: Store, colour_labels: Path) -> None:
    _official(colour_store, colour_labels)
    label(colour_store, colour_labels, task="x", key="file", value="label", columns=["part"])
    for task, options in (
        ("t", {"where": "part = 'train'"}),  # out of fold, though the task has a test part
        ("t", {"where": "age < 59", "classes": ["red", "blue"]}),
        ("colour", {"group": "none", "seed": 3}),
        ("colour", {"min_groups": 4, "where": "sex = 'F'"}),
    ):
        probe = train(colour_store, task, **options)
        assert asdict(evaluate(colour_store, task).record) == asdict(probe.record)


def test_evaluate_repeats_training_after_more_was_ingested_and_labelled(
    colour_store: Store, tmp_path: Path, paint: Paint
) -> None:
    probe = train(colour_store, "colour")
    for number in range(30):
        paint(tmp_path / "more" / f"{number}.png", "red", 900 + number)
    ingest(colour_store, tmp_path / "more", encoder="fake:64", thumbnails=False)
    _add(colour_store, [(f"{n}.png", "red") for n in range(30)], ("file", "label"), task="colour", add=True)
    assert probe.model is not None
    made = probe.model.task.added_in
    note = (
        f"the task was imported again since (commit {colour_store.commit}); scored are the labels the model was"
        f" trained on (commit {made})"
    )
    again = evaluate(colour_store, "colour").record
    assert asdict(again) == asdict(probe.record) | {"notes": [*probe.record.notes, note]}


def test_what_was_asked_is_in_the_record_and_the_log_and_is_asked_again(colour_store: Store) -> None:
    asked: dict[str, Any] = {"where": "age < 55", "min_groups": 2, "classes": ["red", "blue"], "group": "patient"}
    record = train(colour_store, "colour", model="knn", seed=3, **asked).record
    told = (record.where, record.min_groups, record.classes_asked, record.group)
    assert told == ("age < 55", 2, ["red", "blue"], "patient")
    arguments = {"task": "colour", "space": record.space, "model": "knn", "seed": 3} | asked
    assert colour_store.log()[-1]["arguments"] == arguments
    names = [name for name in colour_store.items().locators if name.startswith(("p00/", "p01/"))]
    rows = [(name, _colour(name), 90) for name in names]
    _add(colour_store, rows, ("file", "label", "age"), task="other", columns=["age"])
    again = evaluate(colour_store, "colour").record
    left = [name for name in names if _colour(name) in asked["classes"]]
    assert left and again.n == record.n - len(left)
    assert (
        again.notes[-1]
        == f"{len(left)} items of the training record no longer fit its rules (labels, where, units that agree)"
    )


def test_a_picture_that_changed_is_not_scored_by_its_old_prediction(
    colour_store: Store, colour_archive: Path, tmp_path: Path, paint: Paint
) -> None:
    record = train(colour_store, "colour", model="knn").record
    archive = shutil.copytree(colour_archive, tmp_path / "colours")
    changed = archive / colour_store.items().locators[0]
    paint(changed, "green", 4242)
    os.utime(changed, (1, 1))
    ingest(colour_store, archive, encoder="fake:64", thumbnails=False)
    again = evaluate(colour_store, "colour").record
    assert again.n == record.n - 1
    assert again.notes == [*record.notes, "1 items have another picture than in training and are left out"]


def test_several_labels_are_trained_scored_and_predicted(colour_store: Store) -> None:
    rows = [(n, int("red" in n), int("blue" not in n)) for n in colour_store.items().locators]
    _add(colour_store, rows, ("file", "warm", "not blue"), value=["warm", "not blue"])
    for model in ("probe", "svm", "knn"):
        probe = train(colour_store, "t", model=model)
        assert asdict(evaluate(colour_store, "t").record) == asdict(probe.record)
        assert list(probe.record.auc_per_class) == ["warm", "not blue"]
        again = evaluate(colour_store, "t").record
        assert list(again.auc_per_class) == list(again.training_counts) == ["warm", "not blue"]
    for row in predict(colour_store, "t", where="colour = 'red'"):
        assert set(row.predicted.split(";")) - {""} == {c for c, p in row.probabilities.items() if p >= 0.5}


def test_a_real_multi_label_set_is_repeated_too(shared: Path, shared_store: Opened) -> None:
    store, table = shared_store("fundus_odir/images.zip"), shared / "fundus_odir" / "labels.csv"
    label(store, table, task="eyes", key="file", value=list("NDGCAHMO"), columns=["patient_id"])
    record = train(store, "eyes", model="knn").record
    assert (record.n, record.groups, record.group_column) == (527, 288, "patient_id")
    assert asdict(evaluate(store, "eyes").record) == asdict(record)


def test_the_official_part_of_a_real_set_is_repeated_too(shared_store: Opened) -> None:
    store = shared_store("medmnist/breastmnist.npz")
    record = train(store, "breastmnist").record
    assert (record.part, record.n, record.trained_on, record.counts) == ("test", 156, 623, {"0": 42, "1": 114})
    assert asdict(evaluate(store, "breastmnist").record) == asdict(record)
    assert any("1 training items were dropped" in note for note in record.notes)


def test_a_fresh_process_loads_the_same_probabilities(colour_store: Store) -> None:
    probes = [train(colour_store, "colour", model=model) for model in ("probe", "svm", "knn")]
    here = [[row.probabilities for row in predict(colour_store, probe)] for probe in probes]
    code = (
        "import sys, json, vecstore as vs\n"
        "with vs.open(sys.argv[1]) as store:\n"
        "    told = [list(vs.predict(store, 'colour', model=model)) for model in (1, 2, 3)]\n"
        "    print(json.dumps([[row.probabilities for row in rows] for rows in told]))\n"
    )
    told = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(colour_store.path)], capture_output=True, text=True, check=True
    )
    assert json.loads(told.stdout) == here


def test_the_newest_model_of_a_task_is_used_or_one_by_its_id(colour_store: Store) -> None:
    label(colour_store, task="sex", column="sex")
    first = train(colour_store, "colour", model="knn")
    second = train(colour_store, "colour", model="probe")
    other = train(colour_store, "sex", model="knn")
    assert first.model is not None and second.model is not None and other.model is not None
    assert load(colour_store, "colour").record == second.record
    assert load(colour_store, "colour", first.model.id).record == first.record
    with Store(colour_store.path, at=first.model.added_in) as before:
        assert load(before, "colour").record == first.record
    with pytest.raises(NotFound, match=r"no model 3 of task 'colour'; expected one of: 1, 2"):
        load(colour_store, "colour", other.model.id)
    with pytest.raises(NotFound, match="no model 99 of task 'sex'; expected one of: 3"):
        evaluate(colour_store, "sex", model=99)


def test_a_test_part_of_one_class_is_scored_and_scored_again(colour_store: Store, tmp_path: Path) -> None:
    rows = [
        {"file": name, "warm": "yes" if "red" in name else "no", "part": "test" if "p18" in name else "train"}
        for name in colour_store.items().locators
    ]
    only = next(row["warm"] for row in rows if row["part"] == "test")
    label(colour_store, pl.DataFrame(rows), task="t", key="file", value="warm", split_column="part")
    probe = train(colour_store, "t")
    assert probe.record.auc is None and probe.record.n == 3 and probe.record.counts[only] == 3
    assert asdict(evaluate(colour_store, "t").record) == asdict(probe.record)


# New pictures


@each_model
def test_a_picture_of_the_store_is_predicted_as_its_item(
    colour_store: Store, colour_archive: Path, tmp_path: Path, paint: Paint, model: str
) -> None:
    probe = train(colour_store, "colour", model=model)
    stored = {row.item: row for row in predict(colour_store, probe)}
    assert [row.item_id for row in stored.values()] == colour_store.items().ids.tolist()
    locators = colour_store.items().locators[:10]
    rows = list(predict(colour_store, probe, [colour_archive / name for name in locators]))
    for locator, row in zip(locators, rows, strict=True):
        assert (row.item, row.item_id, row.reason) == (str(colour_archive / locator), None, "")
        assert row.predicted == stored[locator].predicted
        assert row.probabilities == pytest.approx(stored[locator].probabilities, abs=1e-6)
        assert sum(row.probabilities.values()) == pytest.approx(1)
    paint(tmp_path / "new" / "a.png", "blue", 9001)  # noise that no stored picture has
    (tmp_path / "new" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    good, bad = predict(colour_store, "colour", tmp_path / "new")
    assert good.predicted == "blue" and good.item.endswith("new/a.png")
    assert bad.item.endswith("new/b.png") and bad.reason and bad.probabilities == {} and bad.predicted == ""


def test_a_copy_of_a_training_picture_was_trained_on(
    colour_store: Store, colour_archive: Path, tmp_path: Path, paint: Paint
) -> None:
    probe = train(colour_store, "colour")
    first = colour_store.items().locators[0]
    (tmp_path / "more").mkdir()
    shutil.copy(colour_archive / first, tmp_path / "more" / "copy.png")
    paint(tmp_path / "more" / "other.png", "red", 4711)
    ingest(colour_store, tmp_path / "more", encoder="fake:64")
    rows = {row.item: row for row in predict(colour_store, probe)}
    assert (rows[first].in_training, rows["copy.png"].in_training, rows["other.png"].in_training) == (True, True, False)
    assert rows["copy.png"].probabilities == rows[first].probabilities


def test_items_without_a_vector_are_rows_that_say_so(colour_store: Store, tmp_path: Path, paint: Paint) -> None:
    probe = train(colour_store, "colour")
    units = train(colour_store, "colour", level="patient")
    paint(tmp_path / "more" / "new.png", "red", 4711)
    ingest(colour_store, tmp_path / "more", encoder="fake:32")
    rows = list(predict(colour_store, probe))
    assert len(rows) == 64 and [row.item for row in rows if row.reason] == ["new.png"]
    assert rows[-1].reason == "no vector in the space fake-64; ingest embeds what is missing"
    assert (rows[-1].predicted, rows[-1].probabilities) == ("", {})
    by_unit = list(predict(colour_store, units))
    assert len(by_unit) == 22 and [(row.item, row.pictures) for row in by_unit if row.reason] == [("new.png", 1)]


def test_what_would_have_no_effect_on_a_prediction_is_refused(colour_store: Store) -> None:
    probe = train(colour_store, "colour", model="knn")
    with pytest.raises(UsageError, match=r"--device without new pictures: .*; name them, or leave --device away"):
        predict(colour_store, probe, device="cpu")
    with pytest.raises(UsageError, match="model=1 beside a probe; expected a task's name with it"):
        predict(colour_store, probe, model=1)


def test_no_new_pictures_are_no_predictions(colour_store: Store) -> None:
    probe = train(colour_store, "colour", model="knn")
    assert list(predict(colour_store, probe, [])) == []
    with pytest.raises(ArchiveError, match="nothing"):
        list(predict(colour_store, probe, "nothing.png"))
    with pytest.raises(UsageError, match="--where chooses items of the store"):
        predict(colour_store, probe, "new.png", where="age > 1")


def test_where_chooses_what_is_predicted(colour_store: Store) -> None:
    probe = train(colour_store, "colour", model="knn")
    rows = list(predict(colour_store, probe, where="age = 45"))
    assert [row.item_id for row in rows] == colour_store.select("age = 45").tolist() and len(rows) == 3
    with pytest.raises(PredicateRefused):
        list(predict(colour_store, probe, where="nope = 1"))


def test_another_fingerprint_is_refused(colour_store: Store, colour_archive: Path) -> None:
    probe = train(colour_store, "colour", model="knn")
    picture = colour_archive / colour_store.items().locators[0]
    with pytest.raises(SpaceMismatch) as caught:
        predict(colour_store, probe, [picture], encoder="fake:24")
    assert caught.value.fact.startswith("the encoder fake:24 has the fingerprint ")
    assert f"this probe was trained on {probe.record.fingerprint[:12]} (fake:64)" in caught.value.fact
    assert caught.value.expected == "vectors of the space fake-64" and caught.value.exit_code == 1
    assert caught.value.do.startswith("use --encoder fake:64")


def test_a_store_without_the_space_of_a_probe_is_told_how_to_get_it(
    colour_store: Store, tmp_path: Path, colour_archive: Path
) -> None:
    probe = train(colour_store, "colour", model="knn")
    with Store.create(tmp_path / "other.vecs") as other:
        ingest(other, colour_archive, encoder="fake:24", thumbnails=False)
        with pytest.raises(NotFound, match="has no space with the fingerprint") as caught:
            list(predict(other, probe))
    assert "--encoder fake:64" in caught.value.do


# What is written


def test_a_knn_model_holds_no_vector(colour_store: Store) -> None:
    probe = train(colour_store, "colour", model="knn")
    assert probe.model is not None
    folder = colour_store.path / "models" / probe.model.sha256.hex()
    held = b"".join(path.read_bytes() for path in folder.iterdir())
    rows = colour_store.vectors(colour_store.space(), colour_store.items().contents)
    whitened = probe.estimator._vectors
    for matrix in (rows, whitened):
        for kind in (np.float16, np.float32, np.float64):
            # Eight values in a row of a vector are enough to know it by.
            assert not any(row.astype(kind)[:8].tobytes() in held for row in matrix)
    assert rows.mean(axis=0, dtype=np.float64)[:8].tobytes() in held  # the check finds what is there
    assert sorted(path.name for path in folder.iterdir()) == [
        "model.json",
        "model.safetensors",
        "predictions.safetensors",
    ]
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_a_damaged_model_is_refused(colour_store: Store) -> None:
    probe = train(colour_store, "colour", model="knn")
    assert probe.model is not None
    path = colour_store.path / "models" / probe.model.sha256.hex() / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreDamaged, match="its files are not those that were registered") as caught:
        evaluate(colour_store, "colour")
    assert caught.value.exit_code == 4
    shutil.rmtree(path.parent)
    with pytest.raises(StoreDamaged, match="is missing; expected the files of a model; train it again"):
        list(predict(colour_store, "colour"))


# What can't be learned


def test_training_says_by_name_what_is_missing(colour_store: Store, colour_labels: Path) -> None:
    with pytest.raises(NotFound, match="has no task 'cough'; expected one of: colour; make one: vecstore label"):
        train(colour_store, "cough")
    with pytest.raises(NotFound, match="no model 'boosting'; expected one of: probe, svm, knn, mlp, forest"):
        train(colour_store, "colour", model="boosting")
    with pytest.raises(NotFound, match="no model of task 'colour'; expected a trained one; train one"):
        evaluate(colour_store, "colour")
    _add(
        colour_store,
        [(n, _colour(n), "test" if _colour(n) == "red" else "train") for n in colour_store.items().locators],
        ("file", "label", "part"),
        split_column="part",
    )
    with pytest.raises(DataError, match="task 't': no training item is of the class red; expected some of every class"):
        train(colour_store, "t", classes=["red", "blue", "green"])
    assert train(colour_store, "t", model="knn").record.notes[0] == "left out, in fewer than 5 groups: red (0)"
    _add(
        colour_store,
        [(n, _colour(n), "test") for n in colour_store.items().locators],
        ("file", "label", "part"),
        split_column="part",
    )
    told = "labels are in the test part; expected labelled items in the training part; label some there, or"
    with pytest.raises(DataError, match=f"^task 't': all 63 {told}"):
        train(colour_store, "t")
    with pytest.raises(DataError, match=f"^task 't': all 42 {told}"):
        train(colour_store, "t", classes=["red", "blue"])
    rare = [(n, _colour(n) if "red_0" not in n else "rare") for n in colour_store.items().locators]
    _add(colour_store, rare, ("file", "label"))
    with pytest.raises(DataError, match="class rare is in 1 groups"):
        train(colour_store, "t", min_groups=1)
    few = [(n, int("red" in n), int("red_0" in n)) for n in colour_store.items().locators]
    _add(colour_store, few, ("file", "A", "B"), value=["A", "B"])
    with pytest.raises(DataError, match="only the label A is left; expected at least two labels"):
        train(colour_store, "t")


def test_a_store_opened_at_a_commit_is_not_trained(colour_store: Store) -> None:
    with Store(colour_store.path, at=colour_store.commit) as fixed:
        with pytest.raises(NotWritable, match="was opened at commit 4: a model could not be registered"):
            train(fixed, "colour")
        assert not (fixed.path / "models").exists()


def test_classes_and_groups_of_a_training_are_told(colour_store: Store) -> None:
    class Told:
        def __init__(self) -> None:
            self.lines: list[str] = []

        def begin(self, what: str, total: int | None) -> None: ...

        def step(self, n: int = 1) -> None: ...

        def say(self, text: str) -> None:
            self.lines.append(text)

        def end(self) -> None: ...

    told = Told()
    record = train(colour_store, "colour", model="knn", classes=["red", "blue"], progress=told).record
    assert told.lines == [
        "groups: patient, 14 of them",
        "fitting knn: 42 items of 64 numbers, 2 classes; parameters chosen over 5 folds, and inside each of them",
    ]
    assert (record.classes, record.training_counts, record.n) == (["blue", "red"], {"blue": 21, "red": 21}, 42)
    train(colour_store, "colour", model="knn", group="none", progress=told)
    assert told.lines[2].startswith("groups: none known")


# No pixels


def test_after_ingest_no_picture_is_opened(
    colour_store: Store,
    colour_archive: Path,
    colour_labels: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names_opened: Callable[[], AbstractContextManager[list[str]]],
) -> None:
    import vecstore.decode.base

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("a picture was decoded")

    monkeypatch.setattr(vecstore.decode.base, "frames", forbidden)
    query = colour_store.vectors(colour_store.space(), colour_store.items().contents[:1])[0]
    with names_opened() as names:
        label(colour_store, colour_labels, task="t", key="file", value="label", columns=["age"])
        for model in ("probe", "svm", "knn"):
            assert train(colour_store, "t", model=model).record.pixels_read == 0
            assert evaluate(colour_store, "t").record.pixels_read == 0
            assert len(list(predict(colour_store, "t"))) == 63
        assert search(colour_store, 1, 5, where="age > 3").pixels_read == 0
        assert search(colour_store, query, 5).pixels_read == 0
        dataset(colour_store, "t").arrays()
        export(colour_store, tmp_path / "out.parquet")
        export(colour_store, tmp_path / "out.npz")
        report(colour_store, "t", tmp_path / "report.html", pictures=False, near_duplicates=False)
    assert any("catalog.sqlite" in name for name in names) and any("labels.csv" in name for name in names)
    assert not [name for name in names if str(colour_archive) + "/" in name or "thumbnails.sqlite" in name]
    # The test would notice.
    with names_opened() as names, pytest.raises(AssertionError, match="a picture was decoded"):
        search(colour_store, colour_archive / colour_store.items().locators[0], 5)
    assert any(str(colour_archive) + "/" in name for name in names)


def test_everything_but_new_pictures_works_without_the_archive(tmp_path: Path, paint: Paint) -> None:
    for number in range(30):
        paint(
            tmp_path / "archive" / f"{'red' if number % 2 else 'blue'}_{number}.png",
            "red" if number % 2 else "blue",
            number,
        )
    with Store.create(tmp_path / "s.vecs") as store:
        ingest(store, tmp_path / "archive", encoder="fake:64")
        shutil.rmtree(tmp_path / "archive")
        (store.path / "thumbnails.sqlite").unlink()
        _add(store, [(n, n.partition("_")[0]) for n in store.items().locators], ("file", "label"))
        assert train(store, "t").record.auc is not None
        assert len(search(store, 1, 29).hits) == 29
        assert evaluate(store, "t").record.n == len(list(predict(store, "t"))) == 30
