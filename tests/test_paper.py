"""The paper's experiment: splits that leak nothing, floors that know nothing, a rival that learns, honest tables."""

from __future__ import annotations

import io
import json
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import vecstore as vs

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
PATIENTS, EACH = 30, 2


@pytest.fixture(scope="module", autouse=True)
def _importable() -> Iterator[None]:
    before = list(sys.path)
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path[:] = before


def picture(kind: int, rng: np.random.Generator) -> bytes:
    """Grey noise with a bright disc, or with a bright bar."""
    values = rng.integers(60, 120, (40, 36), dtype=np.uint8)
    row, column = rng.integers(10, 26, 2)
    rows, columns = np.mgrid[:40, :36]
    values[(rows - row) ** 2 + (columns - column) ** 2 < 40 if kind else abs(rows - row) < 2] += 90
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive as the sets are: two pictures per patient, and metadata that say nothing of the class."""
    folder = tmp_path_factory.mktemp("sets")
    (folder / "toy").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    with zipfile.ZipFile(folder / "toy" / "images.zip", "w") as archive:
        for patient in range(PATIENTS):
            for number in range(EACH):
                name = f"{patient}_{number}.png"
                archive.writestr(name, picture(patient % 2, rng))
                age = "" if patient % 5 == 0 else str(20 + patient * 7 % 40)
                rows.append((name, ("bar", "disc")[patient % 2], patient, age, "mf"[patient // 2 % 2]))
    table = pd.DataFrame(rows, columns=["file", "shape", "patient", "age", "sex"])
    table.to_csv(folder / "toy" / "labels.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def toy() -> Any:
    import paper_sets

    return paper_sets.Set("Toy", "toy", "shape", "shape", "patient,age,sex", known=("age", "sex"), flips="hv")


@pytest.fixture(scope="module")
def store(data: Path, toy: Any, tmp_path_factory: pytest.TempPathFactory) -> vs.Store:
    import paper_sets

    path = tmp_path_factory.mktemp("work") / "toy.vecs"
    vs.ingest(path, paper_sets.archive(data, toy), encoder="fake:16", thumbnails=False)
    found = vs.open(path)
    paper_sets.labelled(found, data, toy)
    return found


def test_a_holdout_split_divides_no_patient_and_has_both_classes_everywhere(store: vs.Store) -> None:
    import paper_sets

    rows = vs.dataset(store, "shape")
    parts = paper_sets.holdout(store, rows)
    for part in (paper_sets.TRAIN, paper_sets.VAL, paper_sets.TEST):
        assert set(rows.y[parts == part].tolist()) == {0, 1}
    assert all(len(set(parts[rows.groups == group].tolist())) == 1 for group in rows.groups)
    assert paper_sets.split_digest(store, rows, parts) == paper_sets.split_digest(store, rows, parts.copy())
    other = np.roll(parts, 1)
    assert paper_sets.split_digest(store, rows, parts) != paper_sets.split_digest(store, rows, other)


def test_a_holdout_split_becomes_a_task_that_train_scores_on_the_test_part(store: vs.Store) -> None:
    import paper_sets

    rows = vs.dataset(store, "shape")
    parts = paper_sets.holdout(store, rows)
    probe = vs.train(store, paper_sets.holdout_task(store, rows, parts), classes=rows.classes)
    assert probe.record.part == "test"
    assert probe.items.tolist() == rows.items[parts == paper_sets.TEST].tolist()
    assert probe.record.trained_on == int((parts != paper_sets.TEST).sum())
    np.testing.assert_array_equal(probe.y, rows.y[parts == paper_sets.TEST])


def test_an_official_split_is_kept_and_validation_shares_no_picture_with_training(tmp_path: Path) -> None:
    import paper_sets

    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 40), ("val", 12), ("test", 14)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    arrays["train_images"][3] = arrays["val_images"][3]
    np.savez(tmp_path / "mnist.npz", **arrays)  # type: ignore[arg-type]
    vs.ingest(tmp_path / "s.vecs", tmp_path / "mnist.npz", encoder="fake:8", thumbnails=False)
    found = vs.open(tmp_path / "s.vecs")
    rows = vs.dataset(found, "mnist")
    parts = paper_sets.holdout(found, rows)
    assert [int((parts == part).sum()) for part in (0, 1, 2)] == [39, 13, 14]
    assert not set(rows.groups[parts == 0].tolist()) & set(rows.groups[parts == 1].tolist())


def test_shuffled_labels_go_by_patient(store: vs.Store) -> None:
    import floors

    rows = vs.dataset(store, "shape")
    made = floors.shuffled(rows)
    assert sorted(made.tolist()) == sorted(rows.y.tolist())
    assert (made != rows.y).any()
    assert all(len(set(made[rows.groups == group].tolist())) == 1 for group in rows.groups)


def test_metadata_are_numbers_words_and_what_is_missing(store: vs.Store) -> None:
    import floors

    rows = vs.dataset(store, "shape")
    matrix, used = floors.metadata(store, rows, ("age", "sex"))
    assert used == ["age", "sex"]  # all pictures have one size: it says nothing
    assert matrix.shape == (PATIENTS * EACH, 4)  # age, whether it is missing, m, f
    assert np.isfinite(matrix).all()
    assert set(matrix[:, 1].tolist()) == {0.0, 1.0}


def test_floors_are_encoders_and_pixels_are_pixels(data: Path, toy: Any, tmp_path: Path) -> None:
    import floors
    import paper_sets

    floors.register()
    done = vs.ingest(tmp_path / "s.vecs", paper_sets.archive(data, toy), encoder="floor:pixels", thumbnails=False)
    assert done.embedded == PATIENTS * EACH
    assert vs.open(tmp_path / "s.vecs").space(None).passport.dim == 3 * 32 * 32
    encoder = vs.open_encoder("floor:pixels")
    half = np.full((50, 60, 3), 255, np.uint8)
    half[:25] = 0
    vector = encoder.encode([encoder.prepare(half)])[0].reshape(32, 32, 3)
    assert (vector[:14] < 0).all()
    assert (vector[18:] > 0).all()


def test_the_mirrored_recipe_does_not_tell_left_from_right() -> None:
    import floors

    floors.register()
    encoder = vs.open_encoder("floor:mirrored", device="cpu", compute="float32")
    rng = np.random.default_rng(0)
    left = rng.integers(0, 256, (28, 28, 3), dtype=np.uint8)
    made = encoder.encode([encoder.prepare(left), encoder.prepare(left[:, ::-1])])
    assert float(made[0] @ made[1]) > 0.9999


def test_the_rival_is_prepared_without_pickle_and_learns_what_is_easy(
    data: Path, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import paper_sets
    import rival
    import torch

    monkeypatch.setattr(paper_sets, "SETS", (toy,))
    rival.prepare(data, tmp_path / "rival.npz", None, None)
    (part,) = rival.prepared(tmp_path / "rival.npz")
    assert (part.kind, part.classes, part.flips) == ("binary", ["bar", "disc"], "hv")
    assert len(part.pictures) == PATIENTS * EACH == len(part.y) == len(part.groups)
    monkeypatch.setattr(rival, "network", _small)
    monkeypatch.setattr(rival, "SEEN", 0)
    recipe = rival.Recipe("AdamW", 3e-3, 0.05)
    run = rival.fit(part, recipe, 32, torch.device("cpu"), 0, time.monotonic() + 60)
    again = rival.fit(part, recipe, 32, torch.device("cpu"), 0, time.monotonic() + 60)
    np.testing.assert_array_equal(run["test"], again["test"])
    made = rival.summary(part, [run | {"size": 32}])
    assert made["auc"] > 0.9
    assert made["n"]["train"] + made["n"]["val"] + made["n"]["test"] == PATIENTS * EACH
    unpacked = rival.unpack(made["predictions"][0], 2)
    np.testing.assert_allclose(unpacked, run["test"], atol=1e-3)


def _small(outputs: int, size: int) -> Any:
    """A network for a test: the loop around it is the rival's own."""
    from torch import nn

    return nn.Sequential(
        nn.Conv2d(3, 8, 5, 2, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 5, 2, 2), nn.BatchNorm2d(16),
        nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(16, outputs),
    )  # fmt: skip


def test_the_rivals_network_is_a_resnet_18_for_any_size() -> None:
    import rival
    import torch

    for size in (28, 80):
        made = rival.network(5, size).eval()
        assert made(torch.zeros(1, 3, size, size)).shape == (1, 5)
        assert sum(isinstance(module, torch.nn.Conv2d) for module in made.modules()) == 20


def test_an_unknown_label_is_not_learned_from(toy: Any) -> None:
    import rival
    import torch

    y = np.array([[1, 0], [0, np.nan], [1, 1], [0, 0]])
    part = rival.Part("t", "multi-label", ["a", "b"], "", 0, "", [], y, np.arange(4), np.zeros(4, np.int64))
    loss = rival.Loss(part, torch.device("cpu"))
    logits = torch.zeros(4, 2, requires_grad=True)
    loss(logits, torch.from_numpy(y)).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad[1, 1] == 0
    assert logits.grad[1, 0] != 0


def test_pictures_are_squashed_once_and_augmented_within_range(tmp_path: Path) -> None:
    import rival
    import torch

    rng = np.random.default_rng(0)
    files = [picture(k % 2, rng) for k in range(8)]
    stored = rival.pixels(files, 64)
    assert stored.shape == (8, 3, 40, 40)  # not enlarged beyond the longer side
    part = rival.Part("t", "binary", ["a", "b"], "hv", 180, "", files, np.arange(8) % 2, np.arange(8), np.zeros(8, int))
    augment = rival.Augment(part, stored, 32)
    rows = torch.arange(8)
    plain, random = augment(rows), augment(rows, torch.Generator().manual_seed(0))
    assert plain.shape == random.shape == (8, 3, 32, 32)
    assert not torch.allclose(plain, random)
    torch.testing.assert_close(augment(rows), plain)


def test_a_quick_run_fills_every_part_and_the_table_says_what_was_not_run(
    data: Path, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import floors
    import paper
    import paper_sets
    import paper_table
    import rival

    floors.register()
    monkeypatch.setattr(paper, "MODELS", ("probe", "knn"))
    bench = paper.Bench(data, tmp_path, toy)
    asked = [paper.Asked("fake:16", None, "bundled")]
    row = paper.scores(bench, asked)
    rows = bench.dataset("bundled")
    parts = paper_sets.holdout(bench.store, rows)
    test = np.flatnonzero(parts == paper_sets.TEST)
    half = 0.5 * rows.y[test].astype(np.float32)
    guess = np.stack([1 - half, half], 1)
    against = {
        "split": paper_sets.split_digest(bench.store, rows, parts), "predictions": [rival.pack(guess)], "auc": 1.0,
        "auc_seeds": [1.0], "size": 224, "seconds_of_one": 3.0,
    }  # fmt: skip
    row["holdout"] = paper.holdout(bench, asked, against)
    found = row["holdout"]["encoders"]["bundled"]["probe"]
    assert found["minus_rival"]["auc"] == pytest.approx(found["auc"] - 1, abs=1e-4)
    low, high = found["minus_rival"]["interval"]
    assert low <= found["minus_rival"]["auc"] <= high
    row["rival"] = against
    row["floors"] = {"metadata alone": {"auc": 0.99, "columns": ["age"]}, "shuffled labels": {"auc": 0.5}}
    goals = paper.summary({"Toy": row})
    assert goals["best"]["Toy"]["auc"] == max(m["auc"] for m in row["encoders"]["bundled"]["models"].values())
    result = {"sets": {"Toy": row}, "rival": {"device": "H", "jobs": 2}, "goals": goals, "spaces": ["bundled"],
              "published": paper.PUBLISHED}  # fmt: skip
    text = paper_table.paper(result)
    assert "metadata alone (age) .990" in text
    assert "recipe: Toy" in text
    assert "no weights were at hand" in text
    assert "1.000, 1 seed, 224 px" in text
    with pytest.raises(SystemExit, match="another split"):
        paper.holdout(bench, asked, against | {"split": "x"})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--only", "nothing"], "no set begins with 'nothing'"),
        (["--weights", "x"], "--weights comes after the --encoder"),
        (["--part", "all"], "--part: one or more of scores"),
    ],
)
def test_a_set_that_is_not_there_and_weights_without_an_encoder_are_usage_errors(
    tmp_path: Path, arguments: list[str], told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import paper

    monkeypatch.setattr("sys.argv", ["paper.py", str(tmp_path), "--work", str(tmp_path), *arguments])
    with pytest.raises(SystemExit) as ended:
        paper.main()
    assert ended.value.code
    assert told in f"{ended.value}{capsys.readouterr().err}"


def test_the_committed_result_adds_up() -> None:
    """Each set is judged or named as not run; the split is the rival's; no difference is without interval."""
    import paper_sets
    import paper_table

    result = json.loads((BENCHMARKS / "results" / "paper.json").read_text(encoding="utf-8"))
    rivals = json.loads((BENCHMARKS / "results" / "paper_rival.json").read_text(encoding="utf-8"))["sets"]
    assert [one.name for one in paper_sets.SETS if one.name not in result["sets_not_run"]] == list(result["sets"])
    for name, row in result["sets"].items():
        assert row["rival"]["split"] == rivals[name]["split"]
        for entry in row.get("holdout", {"encoders": {"bundled": {}}})["encoders"]["bundled"].values():
            low, high = entry["minus_rival"]["interval"]
            assert low <= entry["minus_rival"]["auc"] <= high
    assert all(name in paper_table.paper(result) for name in result["sets_not_run"])
