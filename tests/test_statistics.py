"""Calibration, subgroups, prediction sets and comparisons, from a store and back into it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
import pytest
from safetensors.numpy import load as unpack
from safetensors.numpy import save as pack
from sklearn.metrics import log_loss

import vecstore.trained
from vecstore.compare import compare
from vecstore.dataset import dataset
from vecstore.errors import DataError, NotFound, UsageError
from vecstore.evaluate import evaluate
from vecstore.export_model import export_model
from vecstore.familiar import archive as cases_of
from vecstore.label import label
from vecstore.predict import predict
from vecstore.probes.calibration import fit_calibrator
from vecstore.probes.conformal import check_familiarity, familiarity
from vecstore.probes.measures import threshold_for
from vecstore.store import Store
from vecstore.train import _calibration_notes, train
from vecstore.trained import load

Opened = Callable[[str], Store]
METHODS = ["platt", "isotonic"]


def _official(store: Store, labels: Path) -> None:
    label(store, labels, task="t", key="file", value="label", split_column="part")


def _red(store: Store) -> None:
    """A binary task, of pictures in groups of three."""
    rows = [(name, int("red" in name)) for name in store.items().locators]
    label(store, pl.DataFrame(rows, schema=["file", "label"], orient="row"), task="red", key="file", value="label")


# Calibration


@pytest.mark.parametrize("method", METHODS)
def test_a_model_carries_its_calibration_everywhere(colour_store: Store, method: str) -> None:
    plain, made = train(colour_store, "colour"), train(colour_store, "colour", calibrate=method)
    assert plain.record.calibration is None and plain.calibrator is None
    assert made.record.calibration is not None
    assert {k: made.record.calibration[k] for k in ("method", "rows", "groups")} == {
        "method": method,
        "rows": 63,
        "groups": 21,
    }
    assert made.calibrator is not None and plain.out_of_fold is not None
    known = plain.out_of_fold
    assert made.calibrator == fit_calibrator(method, known.y, known.probabilities, "multi-class", known.groups)
    assert not np.allclose(made.probabilities, plain.probabilities)
    vectors = dataset(colour_store, "colour").vectors()
    np.testing.assert_array_equal(made.predict_proba(vectors), made.calibrator(plain.predict_proba(vectors)))
    again = load(colour_store, "colour")
    assert again.calibrator == made.calibrator
    np.testing.assert_array_equal(again.predict_proba(vectors), made.predict_proba(vectors))
    assert asdict(evaluate(colour_store, "colour").record) == asdict(made.record)
    rows = list(predict(colour_store, "colour"))
    np.testing.assert_allclose(
        [list(row.probabilities.values()) for row in rows], made.predict_proba(vectors), atol=1e-12
    )
    assert '"calibrate"' in json.dumps(colour_store.log())


@pytest.mark.parametrize("official", [False, True])
def test_what_a_calibration_changed_is_told_and_what_it_made_worse_noted(
    colour_store: Store, colour_labels: Path, official: bool
) -> None:
    if official:
        _official(colour_store, colour_labels)
    task = "t" if official else "colour"
    plain, made = train(colour_store, task), train(colour_store, task, calibrate="isotonic")
    told = made.record.calibration
    assert told is not None
    truth = np.eye(3)[np.asarray(made.y)]
    for when, probe in (("before", plain), ("after", made)):
        assert told[when]["auc"] == pytest.approx(probe.record.auc, abs=1e-12)
        assert told[when]["brier"] == pytest.approx(((probe.probabilities - truth) ** 2).sum(axis=1).mean())
        assert told[when]["log_loss"] == pytest.approx(log_loss(made.y, probe.probabilities))
    worse = [
        told["after"]["auc"] < told["before"]["auc"] - 0.0005,
        *(told["after"][name] > told["before"][name] + 0.0005 for name in ("brier", "log_loss")),
    ]
    notes = [note for note in made.record.notes if note.startswith("calibration by isotonic made it worse")]
    assert len(notes) == any(worse)
    for title, is_worse in zip(("AUC", "Brier score", "log-loss"), worse, strict=True):
        assert (f"{title} " in "".join(notes)) == is_worse


@pytest.mark.parametrize(
    ("after", "note"),
    [
        ((0.9, 0.1, 0.3), ""),
        ((0.8996, 0.1004, 0.3), ""),
        ((0.85, 0.1, 0.3), "(AUC 0.900 to 0.850): cases it gives the same probability are no longer ranked;"),
        ((None, 0.12, 0.5), "(Brier score 0.100 to 0.120, log-loss 0.300 to 0.500);"),
    ],
)
def test_the_note_of_a_calibration_names_what_got_worse(after: tuple[float, ...], note: str) -> None:
    names = ("auc", "brier", "log_loss")
    before = dict(zip(names, (0.9, 0.1, 0.3), strict=True))
    found = _calibration_notes("isotonic", before, dict(zip(names, after, strict=True)))
    told = f"calibration by isotonic made it worse on the evaluated rows {note} compare without it"
    assert found == ([told] if note else [])


def test_the_test_part_has_no_say_in_a_calibration(colour_store: Store, colour_labels: Path) -> None:
    _official(colour_store, colour_labels)
    first = train(colour_store, "t", calibrate="platt")
    assert (first.record.part, first.record.calibration["rows"]) == ("test", 45)  # type: ignore[index]
    table = pl.read_csv(colour_labels)
    turned = table.with_columns(
        pl.when(pl.col("part") == "test").then(pl.lit("red")).otherwise(pl.col("label")).alias("label")
    )
    label(colour_store, turned, task="t", key="file", value="label", split_column="part")
    assert train(colour_store, "t", calibrate="platt").calibrator == first.calibrator
    known = load(colour_store, "t", first.model.id).out_of_fold  # type: ignore[union-attr]
    assert known is not None and (known.y.shape, known.probabilities.shape) == ((45,), (45, 3))


def test_an_unknown_calibration_is_refused_before_any_work(colour_store: Store) -> None:
    with pytest.raises(UsageError, match="calibrate='beta'; expected one of: none, temperature, platt, isotonic"):
        train(colour_store, "colour", calibrate="beta")


@pytest.mark.parametrize(("task", "method"), [("colour", "temperature"), ("red", "temperature"), ("red", "platt")])
def test_an_exported_model_gives_calibrated_probabilities(
    colour_store: Store, tmp_path: Path, task: str, method: str
) -> None:
    _red(colour_store)
    probe = train(colour_store, task, calibrate=method)
    vectors = dataset(colour_store, task).vectors()
    expected = probe.predict_proba(vectors)
    export_model(colour_store, task, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession((tmp_path / "m.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"vectors": vectors})[0], expected, atol=2e-6)
    export_model(colour_store, task, tmp_path / "m.json")
    told = json.loads((tmp_path / "m.json").read_text())
    found: dict[str, Any] = {"np": np, "vectors": vectors, "coef": told["coef"], "intercept": told["intercept"]}
    exec("\n".join(told["apply"]), found)
    np.testing.assert_allclose(found["p"], expected, atol=1e-9)
    assert told["calibration"]["method"] == method


@pytest.mark.parametrize(("model", "method"), [("probe", "isotonic"), ("probe", "platt"), ("svm", "temperature")])
def test_what_weights_can_not_hold_is_not_exported(
    colour_store: Store, tmp_path: Path, model: str, method: str
) -> None:
    train(colour_store, "colour", model=model, calibrate=method)
    with pytest.raises(DataError, match=f"a calibration by {method} of this model can't be written as weights"):
        export_model(colour_store, "colour", tmp_path / "m.npz")
    assert not (tmp_path / "m.npz").exists()


# Assessment


def test_evaluate_judges_in_all_ways_and_writes_nothing(colour_store: Store) -> None:
    train(colour_store, "colour")
    before = colour_store.commit
    probe = evaluate(colour_store, "colour", subgroup=["sex", "age=50"], min_cell=3)
    found = probe.assessment
    assert found is not None and colour_store.refresh().commit == before
    assert found.measures.overall["auc"].value == probe.record.auc
    assert found.measures.overall["auc"].interval == pytest.approx(probe.record.auc_interval, abs=1e-12)
    assert len(found.measures.points["red"][0].thresholds) == 5  # one a fold, of the others
    sex, age = found.subgroups
    assert [(cell.value, cell.n, cell.groups) for cell in sex.cells] == [("F", 33, 11), ("M", 30, 10)]
    assert [(cell.value, cell.n) for cell in age.cells] == [("< 50", 30), (">= 50", 33)]
    assert found.sets is not None and found.sets.rows < 63
    json.dumps(found.to_dict(), allow_nan=False)


def test_thresholds_for_the_test_part_come_from_the_training_part(colour_store: Store, colour_labels: Path) -> None:
    _official(colour_store, colour_labels)
    train(colour_store, "t")
    probe = evaluate(colour_store, "t", specificity=0.8)
    known = probe.out_of_fold
    assert known is not None and probe.assessment is not None and len(probe.y) == 18
    for k, name in enumerate(probe.record.classes):
        expected = threshold_for("specificity", 0.8, known.probabilities[:, k], (known.y == k).astype(float))
        assert probe.assessment.measures.points[name][0].thresholds == [expected]
    assert probe.assessment.sets is not None and probe.assessment.sets.rows == 45


def test_a_unit_has_the_value_that_all_its_pictures_have(colour_store: Store, colour_labels: Path) -> None:
    table = pl.read_csv(colour_labels).with_columns(
        view=pl.when(pl.col("patient") == "P0").then(pl.col("file")).otherwise(pl.lit("PA"))
    )
    label(colour_store, table, task="colour", key="file", value="label", columns=["patient", "sex", "view"])
    train(colour_store, "colour", level="patient", pool="mean")
    probe = evaluate(colour_store, "colour", subgroup=("sex", "view"))
    assert probe.assessment is not None
    sex, view = probe.assessment.subgroups
    assert [(cell.value, cell.n) for cell in sex.cells] == [("F", 11), ("M", 10)]
    assert [(cell.value, cell.n, view.missing) for cell in view.cells] == [("PA", 20, 1)]


def test_a_model_of_an_earlier_version_is_judged_without_thresholds(
    colour_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(arrays: dict[str, Any]) -> bytes:
        return pack({name: array for name, array in arrays.items() if not name.startswith("oof_")})

    monkeypatch.setattr(vecstore.trained, "pack", without)
    train(colour_store, "colour")
    probe = evaluate(colour_store, "colour")
    assert probe.out_of_fold is None and probe.assessment is not None
    assert probe.assessment.sets is None and set(map(len, probe.assessment.measures.points.values())) == {0}
    assert any(note.startswith("no thresholds were chosen") for note in probe.assessment.notes)
    with pytest.raises(DataError, match=r"keeps no out-of-fold predictions by group.*train it again"):
        list(predict(colour_store, "colour", coverage=0.9))


def test_a_subgroup_that_is_no_column_or_no_number_is_refused(colour_store: Store) -> None:
    train(colour_store, "colour")
    with pytest.raises(NotFound, match="scanner"):
        evaluate(colour_store, "colour", subgroup=["scanner"])
    with pytest.raises(UsageError, match="--subgroup age=old: 'old' is no list of numbers"):
        evaluate(colour_store, "colour", subgroup=["age=old"])


def test_out_of_fold_predictions_are_kept_once(colour_store: Store) -> None:
    probe = train(colour_store, "colour")
    assert probe.model is not None
    arrays = unpack(colour_store.model_files(probe.model)["predictions.safetensors"])
    assert {name for name in arrays if name.startswith("oof_")} == {"oof_groups", "oof_folds"}


# Prediction sets


def test_predict_tells_sets_and_strangers(colour_store: Store, colour_archive: Path) -> None:
    probe = train(colour_store, "colour")
    assert probe.out_of_fold is not None
    rows = list(predict(colour_store, "colour", coverage=0.8))
    assert all(row.set is not None and set(row.set) <= set(probe.record.classes) for row in rows)
    assert 0 < sum(bool(row.unfamiliar) for row in rows) < 0.4 * len(rows)
    # No picture is similar to itself, nor to another one of its patient.
    assert max(row.similarity or 0 for row in rows) < 0.9999
    new = list(predict(colour_store, "colour", [colour_archive / rows[0].item], coverage=0.8))
    assert new[0].set == rows[0].set and new[0].similarity == pytest.approx(1, abs=1e-3)
    assert next(iter(predict(colour_store, "colour"))).set is None
    everything = list(predict(colour_store, "colour", coverage=0.99))  # 21 groups can't promise so much
    assert all(row.set == tuple(probe.record.classes) for row in everything)


def test_predict_of_units_tells_sets_too(colour_store: Store) -> None:
    train(colour_store, "colour", level="patient", pool="mean")
    rows = list(predict(colour_store, "colour", coverage=0.8))
    assert len(rows) == 21 and all(row.set is not None and row.unfamiliar is not None for row in rows)
    some = list(predict(colour_store, "colour", coverage=0.8, where="sex = 'F'"))
    by_name = {row.item: row for row in rows}
    assert [(row.set, row.unfamiliar) for row in some] == [
        (by_name[row.item].set, by_name[row.item].unfamiliar) for row in some
    ]


COVERED: dict[str, tuple[Any, str, Any]] = {
    "cxr_kermany/images.zip": ("label", "patient", {}),
    "cxr_covid/images.zip": ("finding", "patientid", {"ignore": ["todo", "Unknown"]}),
    "derm_ham10000/images.zip": ("dx", "lesion_id", {}),
    "fundus_odir/images.zip": (list("NDGCAHMO"), "patient_id", {}),
    "mammo_mias/images.zip": ("tissue", "patient", {}),
}
"""Shared sets with groups: label, group column, and how they are imported."""


@pytest.mark.parametrize("archive", COVERED)
def test_sets_hold_the_truth_and_cases_are_familiar_as_often_as_asked_by_group(
    shared_store: Opened, shared: Path, archive: str
) -> None:
    store, (value, group, options) = shared_store(archive), COVERED[archive]
    table = shared / archive.partition("/")[0] / "labels.csv"
    label(store, table, task="t", key="file", value=value, columns=[group], **options)
    probe = train(store, "t", model="knn")
    assert probe.record.group_column == group and probe.record.part == "out-of-fold"
    found = evaluate(store, "t", coverage=0.9).assessment
    assert found is not None and found.sets is not None
    data, known = dataset(store, "t"), probe.out_of_fold
    assert known is not None
    near = check_familiarity(data.vectors(), known.groups, known.folds, 0.9)
    rule = cases_of(store, probe, 0.9).rule  # items without a label leave gaps between the numbers of groups
    assert rule.least == pytest.approx(familiarity(data.vectors(), data.groups, 0.9).least, abs=1e-6)
    assert rule.least < 0.9999
    for checked in (found.sets.covered, near):
        assert checked.value == pytest.approx(0.9, abs=0.03)
        assert checked.interval is not None and checked.interval[0] <= 0.9 <= checked.interval[1]
    assert not [note for note in found.notes if "prediction sets" in note]


def test_an_official_test_part_that_is_unlike_training_is_told(shared_store: Opened, shared: Path) -> None:
    """Kermany's: of the normal radiographs of training few look ill out of fold, and half of those of the test part."""
    store = shared_store("cxr_kermany/images.zip")
    table = shared / "cxr_kermany" / "labels.csv"
    label(store, table, task="t", key="file", value="label", columns=["patient"], split_column="split")
    train(store, "t")
    found = evaluate(store, "t", coverage=0.9).assessment
    assert found is not None and found.sets is not None and found.sets.covered.interval is not None
    assert found.sets.covered.interval[1] < 0.9
    assert [note for note in found.notes if note.startswith("prediction sets hold the truth in 0.")]


def test_predict_finds_as_many_strangers_among_what_it_knows_as_asked(shared_store: Opened, shared: Path) -> None:
    store = shared_store("cxr_kermany/images.zip")
    table = shared / "cxr_kermany" / "labels.csv"
    label(store, table, task="pneumonia", key="file", value="label", columns=["patient"])
    train(store, "pneumonia", model="knn")
    by_group: dict[Any, list[bool]] = {}
    groups = store.column("patient")
    for row in predict(store, "pneumonia", coverage=0.9):
        by_group.setdefault(groups[row.item_id or -1], []).append(bool(row.unfamiliar))
    assert np.mean([np.mean(flags) for flags in by_group.values()]) == pytest.approx(0.1, abs=0.01)


# Compare


def test_models_stand_side_by_side_on_the_same_rows(colour_store: Store) -> None:
    first = train(colour_store, "colour", seed=1)
    newest = [train(colour_store, "colour"), train(colour_store, "colour", model="knn")]
    found = compare(colour_store, "colour")
    assert {one.model_id for one in found.models} == {probe.model.id for probe in newest if probe.model}
    assert (found.n, found.groups, found.part, found.metric) == (63, 21, "out-of-fold", "auc")
    scores = {one.model: one.scores["auc"].value for one in found.models}
    assert scores == {probe.record.model: pytest.approx(probe.record.auc, abs=1e-12) for probe in newest}
    assert [one.scores["auc"].value for one in found.models] == sorted(scores.values(), reverse=True)  # type: ignore[type-var]
    (pair,) = found.pairs
    assert pair.value == pytest.approx(scores["probe"] - scores["knn"], abs=1e-12)  # type: ignore[operator]
    assert pair.delong == {}
    ids = [one.model.id for one in (first, *newest) if one.model]
    three = compare(colour_store, "colour", models=ids, metric="brier")
    assert [(one.first, one.second) for one in three.pairs] == [(ids[0], ids[1]), (ids[0], ids[2]), (ids[1], ids[2])]
    briers = [one.scores["brier"].value for one in three.models]
    assert briers == sorted(briers)  # type: ignore[type-var]
    json.dumps(three.to_dict(), allow_nan=False)


def test_rows_that_one_model_lacks_are_counted_and_left_out(colour_store: Store) -> None:
    both = [train(colour_store, "colour"), train(colour_store, "colour", where="sex = 'F'", min_groups=2)]
    found = compare(colour_store, "colour", models=[probe.model.id for probe in both if probe.model])
    assert (found.n, found.groups) == (33, 11)
    left_out = {one.model_id: one.left_out for one in found.models}
    assert [left_out[probe.model.id] for probe in both if probe.model] == [30, 0]
    assert found.notes == [f"model {both[0].model.id}: 30 rows were left out, others lack them"]  # type: ignore[union-attr]


def test_units_are_compared_by_name_and_delong_stands_beside(colour_store: Store) -> None:
    _red(colour_store)
    for model in ("probe", "knn"):
        train(colour_store, "red", model=model, level="patient", pool="mean")
    (pair,) = compare(colour_store, "red").pairs
    assert list(pair.delong) == ["1"]
    train(colour_store, "red", model="svm")
    with pytest.raises(UsageError, match=r"was of the level patient, model \d of the level picture"):
        compare(colour_store, "red")


def test_what_can_not_be_compared_is_refused(colour_store: Store, colour_labels: Path) -> None:
    only = train(colour_store, "colour")
    assert only.model is not None
    with pytest.raises(UsageError, match="1 model of task 'colour' to compare; expected at least two; train another"):
        compare(colour_store, "colour")
    with pytest.raises(NotFound, match="no model 77 of task 'colour'; expected some of: 1"):
        compare(colour_store, "colour", models=[1, 77])
    with pytest.raises(UsageError, match="--models 1,1 names one twice"):
        compare(colour_store, "colour", models=[1, 1])
    with pytest.raises(NotFound, match="no metric 'youden'"):
        compare(colour_store, "colour", metric="youden")
    train(colour_store, "colour", classes=["red", "blue"], model="knn")
    with pytest.raises(
        UsageError, match="model 1 was of the classes blue, green, red, model 2 of the classes blue, red"
    ):
        compare(colour_store, "colour")
    label(colour_store, colour_labels, task="colour", key="file", value="label", split_column="part")
    train(colour_store, "colour", model="svm")
    with pytest.raises(
        UsageError, match=re.escape("model 1 was evaluated on the part out-of-fold, model 3 evaluated on the part test")
    ):
        compare(colour_store, "colour", models=[1, 3])


def test_models_of_other_labels_are_refused(colour_store: Store, colour_labels: Path) -> None:
    train(colour_store, "colour")
    table = pl.read_csv(colour_labels).with_columns(
        pl.when(pl.col("patient") == "P1").then(pl.lit("red")).otherwise(pl.col("label")).alias("label")
    )
    label(colour_store, table, task="colour", key="file", value="label")
    train(colour_store, "colour", model="knn")
    with pytest.raises(DataError, match="models 1 and 2 were trained on other labels: 3 of 63 rows"):
        compare(colour_store, "colour")
