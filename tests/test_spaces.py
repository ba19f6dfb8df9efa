"""Several spaces at once: vectors side by side, and a model that knows every encoder it needs."""

from __future__ import annotations

# `vecstore.train` as a module: the package's own attribute of this name is the verb.
import importlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import vecstore as vs
from vecstore.dataset import dataset
from vecstore.errors import NotFound, SpaceMismatch, UsageError
from vecstore.evaluate import evaluate
from vecstore.export import export
from vecstore.ingest import ingest
from vecstore.label import label
from vecstore.predict import predict
from vecstore.probes import make
from vecstore.reporting import report
from vecstore.store import Store
from vecstore.trained import load

train_module = importlib.import_module("vecstore.train")
train = train_module.train

Paint = Callable[[Path, str, int], None]
each_model = pytest.mark.parametrize("model", ["probe", "svm", "knn"])


@pytest.fixture(scope="session")
def _two_spaces(tmp_path_factory: pytest.TempPathFactory, _labelled_store: Path, colour_archive: Path) -> Path:
    path = Path(shutil.copytree(_labelled_store, tmp_path_factory.mktemp("two") / "colours.vecs"))
    ingest(path, colour_archive, encoder="fake:24", thumbnails=False)
    return path


@pytest.fixture
def two(tmp_path: Path, _two_spaces: Path) -> Iterator[Store]:
    """The labelled colours in the spaces fake-64 and fake-24."""
    with Store(shutil.copytree(_two_spaces, tmp_path / "two.vecs")) as store:
        yield store


def test_unit_vectors_of_several_spaces_stand_side_by_side(two: Store) -> None:
    small, large = two.space("fake-24"), two.space("fake-64")
    data = dataset(two, "colour", space=["fake-24", "FAKE-64"])
    X = data.vectors()
    assert (X.shape, X.dtype.name, data.dim, data.space) == ((63, 88), "float32", 88, small)
    np.testing.assert_array_equal(X[:, :24], two.vectors(small, data.contents))
    np.testing.assert_array_equal(X[:, 24:], two.vectors(large, data.contents))
    for block in (X[:, :24], X[:, 24:]):
        np.testing.assert_allclose(np.linalg.norm(block, axis=1), 1, atol=1e-3)
    backwards = np.arange(63) % 2 == 0
    np.testing.assert_array_equal(data.vectors(backwards), X[backwards])
    contents = data.contents[::-1]
    np.testing.assert_array_equal(two.vectors([small, large], np.repeat(contents, 2)), np.repeat(X[::-1], 2, axis=0))


def test_float16_vectors_are_those_of_the_shard(two: Store) -> None:
    data = dataset(two, "colour", space=["fake-64", "fake-24"])
    half = data.vectors(dtype=np.float16)
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half.astype(np.float32), data.vectors())
    level = dataset(two, "colour", space=["fake-64", "fake-24"], level="patient")
    assert level.vectors(dtype=np.float16).dtype == np.float16
    np.testing.assert_allclose(level.vectors(dtype=np.float16), level.vectors(), atol=1e-3)


def test_items_that_lack_a_vector_in_one_of_the_spaces_are_left_out_and_counted(
    colour_store: Store, colour_archive: Path, tmp_path: Path
) -> None:
    shutil.copytree(colour_archive, tmp_path / "colours")
    for patient in ("p00", "p01"):
        shutil.rmtree(tmp_path / "colours" / patient)
    ingest(colour_store, tmp_path / "colours", encoder="fake:24", thumbnails=False)
    data = dataset(colour_store, "colour", space=["fake-64", "fake-24"])
    assert len(data) == 57
    assert data.notes == ["6 labelled items have no vector in each of the spaces fake-64, fake-24"]
    record = train(colour_store, "colour", space=["fake-64", "fake-24"], model="knn").record
    assert (record.n, record.notes[0]) == (57, data.notes[0])
    rows = list(predict(colour_store, "colour"))
    assert (len(rows), sum(not row.reason for row in rows)) == (63, 57)
    assert rows[-1].reason == "no vector in each of: fake-64, fake-24; ingest embeds what is missing"


@pytest.mark.parametrize(("model", "level"), [("probe", None), ("svm", None), ("knn", None), ("knn", "patient")])
def test_a_model_over_two_spaces_is_scored_loaded_and_applied(
    two: Store, colour_archive: Path, tmp_path: Path, model: str, level: str | None
) -> None:
    probe = train(two, "colour", space=["fake-64", "fake-24"], model=model, level=level)
    record = probe.record
    fingerprints = [two.space(name).fingerprint.hex() for name in ("fake-64", "fake-24")]
    assert (record.spaces, record.encoders, record.fingerprints) == (
        ["fake-64", "fake-24"],
        ["fake:64", "fake:24"],
        fingerprints,
    )
    assert (record.space, record.encoder, record.fingerprint) == ("fake-64", "fake:64", fingerprints[0])
    assert probe.model is not None and probe.model.space == two.space("fake-64").id
    assert two.log()[-1]["arguments"]["space"] == ["fake-64", "fake-24"]
    assert asdict(evaluate(two, "colour").record) == asdict(record)
    if level is None:
        stored = {row.item: row.probabilities for row in predict(two, "colour")}
        locators = two.items().locators[:4]
        rows = list(predict(two, "colour", [colour_archive / name for name in locators]))
        for name, row in zip(locators, rows, strict=True):
            assert row.probabilities == pytest.approx(stored[name], abs=1e-6)
    else:
        assert len(list(predict(two, "colour"))) == 21
    page = report(two, "colour", tmp_path / "page.html", curve=False, near_duplicates=False, top=2).html
    assert "frozen image features (fake:64 and fake:24)" in page.read_text()


def test_each_encoder_is_checked_by_its_fingerprint(two: Store, colour_archive: Path) -> None:
    train(two, "colour", space=["fake-64", "fake-24"], model="knn")
    picture = colour_archive / two.items().locators[0]
    (row,) = predict(two, "colour", picture, encoder=["fake:64", "fake:24"])
    (same,) = predict(two, "colour", picture, encoder=["", ""], weights=["", ""])
    assert row == same
    with pytest.raises(SpaceMismatch) as caught:
        predict(two, "colour", picture, encoder=["fake:64", "fake:32"])
    assert caught.value.fact.startswith("the encoder fake has the fingerprint ")
    assert caught.value.expected == "vectors of the space fake-24"
    with pytest.raises(SpaceMismatch, match="expected vectors of the space fake-64"):
        predict(two, "colour", picture, encoder=["fake:24", "fake:64"])
    with pytest.raises(UsageError) as usage:
        predict(two, "colour", picture, encoder="fake:64")
    assert usage.value.fact == "--encoder is given 1 times, and the model is of 2 spaces: fake-64, fake-24"
    assert usage.value.expected == "one for each of them, in this order"


def test_a_store_that_lacks_one_of_the_spaces_is_told_how_to_get_it(two: Store, colour_store: Store) -> None:
    probe = train(two, "colour", space=["fake-64", "fake-24"], model="knn")
    with pytest.raises(NotFound, match="has no space with the fingerprint") as caught:
        list(predict(colour_store, probe))
    assert "--encoder fake:24" in caught.value.do


def test_a_space_named_twice_is_refused_and_none_is_ambiguous(two: Store) -> None:
    with pytest.raises(UsageError, match="the space fake-64 is named twice; expected each space once"):
        train(two, "colour", space=["fake-64", "Fake-64"])
    with pytest.raises(vs.VecstoreError, match="has 2 spaces; expected one of: fake-64, fake-24"):
        train(two, "colour")


def test_a_model_of_a_version_that_knew_one_space_is_read(colour_store: Store) -> None:
    """The record of an earlier version has neither spaces nor levels; the files are otherwise the same."""
    probe = train(colour_store, "colour", model="knn")
    assert probe.model is not None
    folder = colour_store.path / "models" / probe.model.sha256.hex()
    head = json.loads((folder / "model.json").read_text())
    added = ("spaces", "encoders", "fingerprints", "level", "pool", "on_conflict", "pictures", "training_pictures")
    for name in (*added, "metric"):
        del head["record"][name]
    files = {path.name: path.read_bytes() for path in folder.iterdir()} | {"model.json": json.dumps(head).encode()}
    colour_store.add_model(probe.model.task, colour_store.space(), files, head["record"], probe.items)
    again = evaluate(colour_store, "colour")
    assert again.model is not None and again.model.id == probe.model.id + 1
    assert asdict(again.record) == asdict(probe.record)


# Verbs by path


def test_every_verb_takes_a_path_as_well_as_a_store(
    colour_store: Store, colour_labels: Path, colour_archive: Path, tmp_path: Path
) -> None:
    path = colour_store.path
    result = label(path, colour_labels, task="t", key="file", value="label")
    assert result.matched == 63 and colour_store.refresh().task("t").name == "t"
    probe = vs.train(path, "t", model="knn")
    assert asdict(vs.evaluate(str(path), "t").record) == asdict(probe.record)
    rows = list(vs.predict(path, "t"))
    assert len(rows) == 63 and rows == list(vs.predict(colour_store.refresh(), "t"))
    (new,) = vs.predict(path, "t", colour_archive / colour_store.items().locators[0])
    assert new.predicted in probe.record.classes
    assert export(path, tmp_path / "out.npz")["rows"] == 63
    data = vs.dataset(path, "t")
    assert data.vectors().shape == (63, 64)
    data.store.close()
    for call in (
        lambda: vs.train(tmp_path / "absent", "t"),
        lambda: vs.evaluate(tmp_path / "absent", "t"),
        lambda: vs.predict(tmp_path / "absent", "t"),
        lambda: vs.export(tmp_path / "absent", tmp_path / "x.npz"),
        lambda: label(tmp_path / "absent", colour_labels, task="t", key="file", value="label"),
    ):
        with pytest.raises(vs.VecstoreError, match="absent does not exist"):
            call()
    assert not (tmp_path / "absent").exists()


# What the estimators can be told, and what they say


@each_model
def test_a_metric_is_passed_on_or_refused(colour_store: Store, model: str) -> None:
    if "scoring" in make(model).get_params():
        record = train(colour_store, "colour", model=model, metric="log_loss").record
        assert record.metric == "log_loss" and load(colour_store, "colour").estimator.scoring == "log_loss"
        assert colour_store.log()[-1]["arguments"]["metric"] == "log_loss"
        return
    with pytest.raises(UsageError) as caught:
        train(colour_store, "colour", model=model, metric="log_loss")
    assert caught.value.fact == f"the model {model} chooses its parameters by auc alone"


def test_poolings_are_compared_by_every_metric(colour_store: Store) -> None:
    data = dataset(colour_store, "colour", level="patient")
    y = np.asarray(data.y)
    good = np.eye(3)[y] * 0.8 + 0.2 / 3
    flat = np.full((21, 3), 1 / 3)
    for metric in train_module.METRICS:
        assert train_module._score(y, good, data, metric) > train_module._score(y, flat, data, metric)
    assert train_module._score(y, good, data, "log_loss") == pytest.approx(np.log(0.8 + 0.2 / 3))
    several = replace(data, task=replace(data.task, kind="multi-label"))
    truth = np.array([[1.0, 0.0, np.nan], [0.0, 1.0, 1.0]])
    chances = np.array([[0.9, 0.2, 0.5], [0.1, 0.8, 0.6]])
    expected = np.mean(np.log([0.9, 0.8, 0.9, 0.8, 0.6]))
    assert train_module._score(truth, chances, several, "log_loss") == pytest.approx(expected)


def test_each_fold_is_scored_by_what_is_best_on_the_others(colour_store: Store) -> None:
    data = dataset(colour_store, "colour", level="patient")
    y = np.asarray(data.y)
    folds = np.arange(21) // 7 % 3
    right, wrong = np.eye(3)[y], np.eye(3)[(y + 1) % 3]
    # The first is right in folds 0 and 1, the second in fold 2 alone.
    first = SimpleNamespace(folds_=folds, oof_=np.where(folds[:, None] < 2, right, wrong))
    second = SimpleNamespace(folds_=folds, oof_=np.where(folds[:, None] == 2, right, wrong))
    choice = train_module._Choice.of([first, second], data, y, "accuracy")
    assert (choice.best, choice.scores) == (0, [pytest.approx(2 / 3), pytest.approx(1 / 3)])
    # On folds 1 and 2 both are right once: the first of equals. On 0 and 1 the first is better, and wrong in fold 2.
    np.testing.assert_array_equal(choice.out_of_fold, first.oof_)


def test_what_a_solver_says_of_itself_is_in_the_notes_and_parameters() -> None:
    said: Any = SimpleNamespace(converged_=False, n_iter_=np.int64(40), edge_="high", folds_=np.zeros(3), C_=0.5)
    assert train_module._fit_notes(said) == [
        "the solver had not converged after 40 iterations: another run may score otherwise",
        "the best strength lies at the edge of the grid (high): a better one may lie beyond",
    ]
    assert train_module._parameters(said) == {"C": 0.5, "converged": False, "edge": "high", "folds": 1, "n_iter": 40}
    quiet: Any = SimpleNamespace(converged_=True, n_iter_=8, edge_="", folds_=np.zeros(3), device_="cuda")
    assert train_module._fit_notes(quiet) == []
    assert train_module._parameters(quiet) == {"converged": True, "device": "cuda", "folds": 1, "n_iter": 8}


def test_very_many_values_are_handed_over_as_float16(two: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train_module._dtype("probe", 1000, 768) is np.float32
    spaces = ["fake-64", "fake-24"]
    whole = train(two, "colour", space=spaces).record
    assert train_module._dtype("probe", 1_000_000, 768) is np.float16
    assert train_module._dtype("knn", 1_000_000, 768) is np.float32
    monkeypatch.setattr(train_module, "HALF_VALUES", 0)
    half = train(two, "colour", space=spaces).record
    assert half.auc == pytest.approx(whole.auc, abs=1e-3)
