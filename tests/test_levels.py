"""Levels: pictures of a lesion, a patient or any column's value are pooled, and count once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import vecstore.probes.pooling as pooling
from vecstore.dataset import Dataset, dataset, level_column
from vecstore.errors import DataError, LabelConflict, NotFound, UsageError
from vecstore.evaluate import evaluate
from vecstore.ingest import ingest
from vecstore.label import label
from vecstore.predict import predict
from vecstore.probes.pooling import POOLS, pooled
from vecstore.reporting import report
from vecstore.store import Store
from vecstore.train import train
from vecstore.trained import load

Paint = Callable[[Path, str, int], None]
each_model = pytest.mark.parametrize("model", ["probe", "svm", "knn"])


def _add(store: Store, rows: Sequence[Sequence[Any]], header: Sequence[str], **options: Any) -> None:
    table = pl.DataFrame(list(rows), schema=list(header), orient="row")
    label(store, table, **({"task": "t", "key": "file", "value": "label"} | options))


def _names(store: Store) -> list[str]:
    return store.items().locators


def _colour(name: str) -> str:
    return name.partition("/")[2].partition("_")[0]


def _by_hand(data: Dataset, rule: str) -> np.ndarray[Any, Any]:
    """What pooling should give, unit by unit."""
    assert data.units is not None
    X = data.store.vectors(data.spaces, data.units.contents).astype(np.float64)
    found = []
    for unit in range(len(data)):
        members = X[data.units.rows == unit]
        row = members.max(axis=0) if rule == "max" else members.mean(axis=0)
        found.append(row / np.linalg.norm(row) if rule == "unit-mean" else row)
    return np.array(found)


# Pooling


@pytest.mark.parametrize("rule", POOLS)
@pytest.mark.parametrize("block", [1, 7, 1 << 14])
def test_units_are_pooled_as_by_hand_whatever_the_blocks(
    rule: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooling, "_BLOCK", block)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 6)).astype(np.float16)
    rows = rng.permutation(np.concatenate([np.arange(12), rng.integers(0, 12, 28)]))
    found = pooled(X, rows, 12, rule, [4, 2])
    for unit in range(12):
        members = X[rows == unit].astype(np.float64)
        row = members.max(axis=0) if rule == "max" else members.mean(axis=0)
        if rule == "unit-mean":
            row = np.concatenate([part / np.linalg.norm(part) for part in (row[:4], row[4:])])
        np.testing.assert_allclose(found[unit], row, rtol=1e-6)


def test_a_mean_without_length_stays_zero_and_wrong_calls_are_told() -> None:
    X = np.array([[1.0, 0.0], [-1.0, 0.0]])
    assert pooled(X, np.zeros(2, np.int64), 1, "unit-mean").tolist() == [[0.0, 0.0]]
    with pytest.raises(DataError, match="pool='median'; expected one of: mean, max, unit-mean; --pool mean"):
        pooled(X, np.zeros(2, np.int64), 1, "median")
    with pytest.raises(DataError, match="1 units without a picture"):
        pooled(X, np.zeros(2, np.int64), 2, "mean")


# Units


@pytest.mark.parametrize("rule", POOLS)
def test_a_patient_is_a_row_with_the_vectors_of_its_pictures(colour_store: Store, rule: str) -> None:
    data = dataset(colour_store, "colour", level="patient", pool=rule)
    X, y, groups = data.arrays()
    assert [X.shape, y.shape, groups.shape, len(data)] == [(21, 64), (21,), (21,), 21]
    assert data.units is not None and data.units.column == "patient" and len(data.units.items) == 63
    assert data.units.names == [f"P{number}" for number in range(21)] and data.units.counts().tolist() == [3] * 21
    assert len(np.unique(groups)) == 21 and data.notes == []
    np.testing.assert_allclose(X, _by_hand(data, rule), atol=1e-6)
    some = np.arange(21) % 3 == 0
    np.testing.assert_array_equal(data.vectors(some), X[some])
    first = dict(zip(colour_store.items().ids.tolist(), _names(colour_store), strict=True))
    assert all(data.classes[c] == _colour(first[i]) for i, c in zip(data.items.tolist(), y.tolist(), strict=True))


@pytest.mark.parametrize(
    ("columns", "level", "expected"),
    [
        (["PatientID", "age"], "patient", "PatientID"),
        (["subject", "patient_id"], "Patient", "patient_id"),
        (["PatientID", "patient"], "patient", "patient"),
        (["StudyInstanceUID", "study_id"], "study", "StudyInstanceUID"),
        (["study_id"], "study", "study_id"),
        (["SeriesInstanceUID"], "series", "SeriesInstanceUID"),
        (["lesion_id"], "lesion", "lesion_id"),
        (["ward"], "WARD", "ward"),
    ],
)
def test_a_level_is_found_by_the_known_names_of_its_column(
    bare_store: Store, columns: list[str], level: str, expected: str
) -> None:
    rows = [(name, "ab"[i % 2], *(["v"] * len(columns))) for i, name in enumerate(_names(bare_store))]
    _add(bare_store, rows, ("file", "label", *columns), columns=columns)
    assert level_column(bare_store, level) == expected


def test_a_level_that_is_not_there_is_told_with_the_columns_that_are(colour_store: Store) -> None:
    with pytest.raises(NotFound) as caught:
        dataset(colour_store, "colour", level="study")
    assert caught.value.fact.endswith("has no column for the level 'study'")
    assert caught.value.expected == (
        "StudyInstanceUID, study, StudyID (letter case, _, - and blanks ignored); there are: age, patient, sex"
    )
    assert caught.value.do.startswith("name a column: --level COLUMN")
    with pytest.raises(NotFound, match="has no column 'ward'; expected one of: age, patient, sex"):
        dataset(colour_store, "colour", level="ward")


def test_pictures_without_a_value_are_units_of_their_own_and_numbers_are_text(bare_store: Store) -> None:
    rows = [(n, _colour(n), None if i < 4 else float(n[1:3])) for i, n in enumerate(_names(bare_store))]
    _add(bare_store, rows, ("file", "label", "case"), columns=["case"])
    data = dataset(bare_store, "t", level="case")
    assert data.units is not None and len(data) == 4 + 20
    # The last of the second patient's pictures but one has no value.
    assert data.units.names[:6] == [*_names(bare_store)[:4], "1", "2"]
    assert "4 items without case: each is a unit of its own" in data.notes


def test_pictures_of_one_unit_that_disagree_are_refused_with_examples_or_resolved(colour_store: Store) -> None:
    old = [f"p{n}" for n in range(10, 16)]
    ages = [
        "old" if n[:3] in old or ("_0.png" in n and n[:3] in ("p00", "p04")) else "young" for n in _names(colour_store)
    ]
    _add(colour_store, list(zip(_names(colour_store), ages, strict=True)), ("file", "label"))
    with pytest.raises(LabelConflict) as caught:
        dataset(colour_store, "t", level="patient", min_groups=1)
    assert caught.value.fact == (
        "task 't': 2 units of patient have pictures that disagree: P0 (old / young), P4 (old / young)"
    )
    assert caught.value.expected == "one label per unit" and caught.value.exit_code == 2
    assert caught.value.do == "choose: --on-conflict first, any or drop"

    def classes(rule: str) -> dict[str, str]:
        data = dataset(colour_store, "t", level="patient", on_conflict=rule, classes=["old", "young"])
        assert data.units is not None and data.notes[0].startswith("2 units of patient have pictures that disagree, ")
        return {name: data.classes[c] for name, c in zip(data.units.names, np.asarray(data.y).tolist(), strict=True)}

    agreed = {f"P{n}": "old" if 10 <= n < 16 else "young" for n in range(21)}
    assert classes("first") == agreed | {"P0": "old", "P4": "old"}
    assert classes("any") == agreed  # young is the positive class
    assert classes("drop") == {name: age for name, age in agreed.items() if name not in ("P0", "P4")}
    with pytest.raises(UsageError, match="on_conflict='majority'; expected error, first, any or drop"):
        dataset(colour_store, "t", level="patient", on_conflict="majority")


def test_a_multi_class_task_has_no_positive_class_to_prefer(colour_store: Store) -> None:
    mixed = [(n, "red" if i == 0 else _colour(n)) for i, n in enumerate(_names(colour_store))]
    mixed[0] = (mixed[0][0], "blue" if _colour(mixed[0][0]) != "blue" else "green")
    _add(colour_store, mixed, ("file", "label"))
    with pytest.raises(LabelConflict, match=r"choose: --on-conflict first or drop$"):
        dataset(colour_store, "t", level="patient")
    with pytest.raises(UsageError, match="--on-conflict any needs to know the positive class"):
        dataset(colour_store, "t", level="patient", on_conflict="any")
    dropped = dataset(colour_store, "t", level="patient", on_conflict="drop")
    assert len(dropped) == 20 and dropped.units is not None and "P0" not in dropped.units.names
    assert dropped.notes == ["1 units of patient have pictures that disagree, left out"]
    first = dataset(colour_store, "t", level="patient", on_conflict="first")
    assert first.notes == ["1 units of patient have pictures that disagree, resolved: first"]
    assert first.classes[int(first.y[0])] == mixed[0][1]


def test_of_several_labels_the_unknown_agrees_with_everything(colour_store: Store) -> None:
    names = _names(colour_store)
    # A is told by the first picture of a patient alone, B by the second; C differs in one patient.
    rows: list[tuple[Any, ...]] = [
        (n, int("red" in n) if i % 3 == 0 else None, int("blue" in n) if i % 3 == 1 else None, int(i != 1 and i % 2))
        for i, n in enumerate(names)
    ]
    _add(colour_store, rows, ("file", "A", "B", "C"), value=["A", "B"])
    data = dataset(colour_store, "t", level="patient", min_groups=1)
    assert np.isfinite(np.asarray(data.y, np.float64)).all() and data.notes == []
    assert np.asarray(data.y).sum(axis=0).tolist() == [7, 7]
    rows = [(n, int(i % 3 == 0) if i < 3 else int("red" in n), int("blue" in n)) for i, n in enumerate(names)]
    _add(colour_store, rows, ("file", "A", "B"), value=["A", "B"])
    with pytest.raises(LabelConflict, match=r"1 units of patient have pictures that disagree: P0 \(A / none\)"):
        dataset(colour_store, "t", level="patient")
    first, any_, drop = (
        dataset(colour_store, "t", level="patient", on_conflict=rule) for rule in ("first", "any", "drop")
    )
    assert (first.y[0].tolist(), any_.y[0].tolist(), len(drop)) == ([1, 0], [1, 0], 20)


def test_official_parts_inside_one_unit_must_agree(colour_store: Store) -> None:
    def split(name: str, view: int) -> str | None:
        if name[:3] == "p00":
            return "train" if view else "test"
        return None if view == 1 else "test" if name[:3] in ("p18", "p19", "p20") else "train"

    rows = [(n, _colour(n), split(n, int(n[-5]))) for n in _names(colour_store)]
    _add(colour_store, rows, ("file", "label", "part"), split_column="part")
    with pytest.raises(LabelConflict) as caught:
        dataset(colour_store, "t", level="patient")
    assert "1 units of patient have pictures in different official parts: P0 (test / train)" in caught.value.fact
    assert caught.value.do == "choose: --on-conflict first or drop, or another --level"
    dropped = dataset(colour_store, "t", level="patient", on_conflict="drop")
    # A picture in no part goes with the others of its unit.
    assert (len(dropped), int(dropped.test.sum())) == (20, 3)
    assert dropped.units is not None and dropped.units.counts().tolist() == [3] * 20
    first = dataset(colour_store, "t", level="patient", on_conflict="first")
    assert (len(first), int(first.test.sum())) == (21, 4)


def test_a_units_group_is_that_of_all_its_pictures(bare_store: Store) -> None:
    # Each lesion has pictures under two patient ids: two neighbours share one.
    names = _names(bare_store)
    rows = [(n, _colour(n), f"L{i // 3}", f"Q{(i + 1) // 3}") for i, n in enumerate(names)]
    _add(bare_store, rows, ("file", "label", "lesion_id", "patient"), columns=["lesion_id", "patient"])
    data = dataset(bare_store, "t", level="lesion", group="patient", min_groups=1)
    assert len(data) == 21 and len(np.unique(data.groups)) == 1
    alone = dataset(bare_store, "t", level="lesion", group="lesion_id")
    assert len(np.unique(alone.groups)) == 21
    # Without a column, a unit is a group.
    assert len(np.unique(dataset(bare_store, "t", level="lesion", group="none").groups)) == 21


# Training


@each_model
def test_a_model_of_a_level_is_trained_scored_loaded_and_applied_at_it(
    colour_store: Store, colour_archive: Path, tmp_path: Path, model: str
) -> None:
    probe = train(colour_store, "colour", model=model, level="patient")
    record = probe.record
    assert (record.level, record.n, record.pictures, record.trained_on, record.training_pictures) == (
        "patient",
        21,
        63,
        21,
        63,
    )
    assert record.counts == dict.fromkeys(["blue", "green", "red"], 7) and record.groups == 21
    scores = record.parameters["pool_scores"]
    assert record.pool in POOLS and set(scores) == set(POOLS) and record.pixels_read == 0
    assert scores[record.pool] == max(scores.values()) > 0.9
    again = evaluate(colour_store, "colour")
    assert asdict(again.record) == asdict(record)
    np.testing.assert_array_equal(again.probabilities, probe.probabilities)
    assert probe.model is not None and len(colour_store.seen(probe.model)) == 63
    arguments = colour_store.log()[-1]["arguments"]
    assert (arguments["level"], arguments["pool"], arguments["on_conflict"]) == ("patient", record.pool, "error")
    # Loaded, it says the same of every unit.
    rows = list(predict(colour_store, "colour"))
    data = dataset(colour_store, "colour", level="patient", pool=record.pool)
    expected = probe.predict_proba(data.vectors())
    assert data.units is not None and [row.item for row in rows] == data.units.names
    assert {(row.item_id, row.pictures, row.in_training) for row in rows} == {(None, 3, True)}
    np.testing.assert_allclose([list(row.probabilities.values()) for row in rows], expected, atol=1e-12)
    some = list(predict(colour_store, "colour", where="age < 42"))
    assert [row.item for row in some] == ["P0", "P1"]
    # A new picture is a unit of one.
    picture = colour_archive / _names(colour_store)[0]
    (new,) = predict(colour_store, "colour", picture)
    vector = colour_store.vectors(colour_store.space(), colour_store.items().contents[:1])
    alone = pooled(vector, np.zeros(1, np.int64), 1, record.pool)
    np.testing.assert_allclose(list(new.probabilities.values()), probe.predict_proba(alone)[0], atol=1e-6)
    page = report(colour_store, "colour", tmp_path / "page.html", curve=False, near_duplicates=False, top=2).html
    text = page.read_text()
    assert "on 21 patients (63 pictures), each scored by a model that had not seen" in text
    assert f"patient, pooled by {record.pool}" in text


def test_a_unit_was_trained_on_whichever_of_its_pictures_are_predicted(colour_store: Store) -> None:
    """Trained on the first pictures of the patients, applied to the others."""
    probe = train(colour_store, "colour", level="patient", where="locator LIKE '%\\_0.png' ESCAPE '\\'")
    others = list(predict(colour_store, probe, where="locator NOT LIKE '%\\_0.png' ESCAPE '\\'"))
    assert len(others) == 21 and all(row.in_training for row in others)


@each_model
def test_the_official_test_part_of_a_level_is_scored_and_scored_again(
    colour_store: Store, colour_labels: Path, model: str
) -> None:
    label(colour_store, colour_labels, task="t", key="file", value="label", split_column="part")
    probe = train(colour_store, "t", model=model, level="patient", pool="max")
    assert (probe.record.part, probe.record.n, probe.record.pictures, probe.record.trained_on) == ("test", 6, 18, 15)
    assert (probe.record.pool, "pool_scores" in probe.record.parameters) == ("max", False)
    assert asdict(evaluate(colour_store, "t").record) == asdict(probe.record)
    rows = {row.item: row for row in predict(colour_store, "t")}
    assert sum(row.in_training for row in rows.values()) == 15 and len(rows) == 21


def test_saved_predictions_are_of_the_very_pictures_of_a_unit(
    colour_store: Store, colour_archive: Path, tmp_path: Path, paint: Paint
) -> None:
    record = train(colour_store, "colour", model="knn", level="patient").record
    archive = shutil.copytree(colour_archive, tmp_path / "colours")
    changed = archive / _names(colour_store)[0]
    paint(changed, "green", 4242)
    os.utime(changed, (1, 1))
    ingest(colour_store, archive, encoder="fake:64", thumbnails=False)
    again = evaluate(colour_store, "colour").record
    assert (again.n, again.pictures) == (20, 60)
    assert again.notes == [*record.notes, "1 units have other pictures than in training and are left out"]
    # A picture that belongs to another patient now: neither has the pictures it had.
    first, moved = _names(colour_store)[3], _names(colour_store)[4]
    rows = [(first, "red", "P1"), (moved, "blue", "P2")]
    _add(colour_store, rows, ("file", "label", "patient"), task="other", columns=["patient"])
    moved_on = evaluate(colour_store, "colour").record
    assert (moved_on.n, moved_on.pictures) == (18, 54)
    assert moved_on.notes[-2:] == [
        "2 units have other pictures than in training and are left out",
        "4 items of the training record no longer fit its rules (labels, where, units that agree)",
    ]


def test_units_of_one_picture_need_no_choice_of_pooling(colour_store: Store) -> None:
    _add(
        colour_store,
        [(n, _colour(n), n) for n in _names(colour_store)],
        ("file", "label", "own"),
        columns=["own"],
    )
    units = train(colour_store, "t", level="own").record
    pictures = train(colour_store, "t").record
    assert (units.pool, units.auc, units.groups, units.n) == ("mean", pictures.auc, pictures.groups, 63)
    assert "pool_scores" not in units.parameters


def test_several_labels_are_trained_at_a_level(colour_store: Store) -> None:
    rows = [(n, int("red" in n), int("blue" not in n)) for n in _names(colour_store)]
    _add(colour_store, rows, ("file", "warm", "not blue"), value=["warm", "not blue"])
    record = train(colour_store, "t", level="patient").record
    assert (record.n, record.counts) == (21, {"warm": 7, "not blue": 14})
    assert asdict(evaluate(colour_store, "t").record) == asdict(record)
    assert load(colour_store, "t").record == record


def test_rules_that_there_are_not_are_refused_before_any_work(colour_store: Store) -> None:
    before = colour_store.commit
    refused: list[tuple[dict[str, Any], str]] = [
        ({"pool": "median", "level": "patient"}, "pool='median'; expected one of: auto, mean, max, unit-mean"),
        ({"pool": "max"}, "--pool max without units to pool; expected a level with it; add --level COLUMN"),
        ({"metric": "f1"}, "metric='f1'; expected one of: auc, log_loss, accuracy, balanced_accuracy; --metric auc"),
    ]
    for options, said in refused:
        with pytest.raises(UsageError) as caught:
            train(colour_store, "colour", **options)
        assert said in str(caught.value)
    assert colour_store.commit == before
