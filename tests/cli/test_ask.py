"""zero-shot, learning-curve and export-model on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from click.testing import Result

from vecstore.dataset import dataset
from vecstore.store import Store
from vecstore.trained import load

Call = Callable[..., Result]
PROMPTS = ("--prompt", "normal=a normal chest", "--prompt", "pneumonia=opacities", "--prompt", "pneumonia=a = b")


def _only(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


# zero-shot


def test_zero_shot_stands_beside_the_trained_model(vecstore: Call, place: Path, fake_for_all: None) -> None:
    found = _only(vecstore("zero-shot", place / "chest.vecs", "pneumonia", *PROMPTS, "--json"))
    assert found["prompts"] == {"normal": ["a normal chest"], "pneumonia": ["opacities", "a = b"]}
    assert (found["n"], found["groups"], found["part"], found["pixels_read"]) == (60, 20, "all", 0)
    assert 0 <= found["auc_interval"][0] <= found["auc"] <= found["auc_interval"][1] <= 1
    assert found["probe"]["zero_shot_auc"] == found["auc"]
    assert not {"items", "y", "probabilities"} & found.keys()
    with Store(place / "chest.vecs") as store:
        assert found["probe"]["auc"] == load(store, "pneumonia").record.auc
    told = vecstore("zero-shot", place / "chest.vecs", "pneumonia", *PROMPTS)
    assert f"zero-shot AUC {found['auc']:.3f}" in told.stdout
    assert f"probe {found['probe']['model_id']} in space fake-64: AUC {found['probe']['auc']:.3f}" in told.stdout
    assert "opacities | a = b" in told.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prompt", "normal"), "--prompt 'normal'; expected CLASS=TEXT"),
        ((*PROMPTS, "--prompts", "x.json"), "--prompt and --prompts; expected one of them"),
        (PROMPTS[:2], "no prompt for: pneumonia"),
    ],
)
def test_zero_shot_says_what_is_wrong(
    vecstore: Call, place: Path, fake_for_all: None, arguments: tuple[str, ...], message: str
) -> None:
    done = vecstore("zero-shot", place / "chest.vecs", "pneumonia", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr


def test_zero_shot_needs_texts(vecstore: Call, place: Path) -> None:
    done = vecstore("zero-shot", place / "chest.vecs", "pneumonia", *PROMPTS)
    assert done.exit_code == 1
    assert "the encoder fake:64 of the space fake-64 has no text tower; expected a space made by" in done.stderr


# learning-curve


def test_a_learning_curve_says_how_many_labels_are_enough(vecstore: Call, place: Path, tmp_path: Path) -> None:
    page = tmp_path / "curve.html"
    arguments = ("learning-curve", place / "chest.vecs", "pneumonia", "--per-class", "1,2,4,64", "--repeats", 6)
    found = _only(vecstore(*arguments, "--json", "--report", page))
    assert [point["per_class"] for point in found["points"]] == [1, 2, 4, None]
    assert all(0 <= point["low"] <= point["auc"] <= point["high"] <= 1 for point in found["points"])
    assert [point["rows"] for point in found["points"][:3]] == [6, 12, 24]  # three pictures of each patient
    assert (found["part"], found["repeats"], found["model"], found["pixels_read"]) == ("held-out", 6, "probe", 0)
    assert found["notes"] == ["left out, more groups per class than every draw has of the rarest class: 64"]
    told = vecstore(*arguments)
    assert re.search(r"^groups per class +items +auc +sd +low +high +draws$", told.stdout, re.M)
    assert "of the AUC with all labels" in told.stdout
    html = page.read_text()
    assert html.count("<svg") == 1 and "Learning curve" in html and "<script" not in html
    assert f"{found['points'][2]['sd']:.3f}" in html


def test_enough_is_where_the_curve_has_come_near_and_stays() -> None:
    from vecstore.curve import _enough
    from vecstore.probes.curves import Point

    def curve(*areas: float) -> list[Point]:
        sizes = [*(2**i for i in range(len(areas) - 1)), None]
        return [Point(size, 1.0, area, 0.0, area, area, 1) for size, area in zip(sizes, areas, strict=True)]

    assert _enough(curve(0.6, 0.7, 0.805, 0.81)) == 4
    assert _enough(curve(0.81, 0.7, 0.805, 0.81)) == 4
    assert _enough(curve(0.81, 0.82, 0.81)) == 1
    assert _enough(curve(0.6, 0.7, 0.81)) is None
    assert _enough(curve(float("nan"), float("nan"))) is None


def test_a_learning_curve_on_the_official_test_part(colour_store: Store, colour_labels: Path) -> None:
    from vecstore.curve import learning_curve
    from vecstore.label import label

    label(colour_store, colour_labels, task="t", key="file", value="label", split_column="part")
    found = learning_curve(colour_store, "t", per_class=[1, 5], repeats=3)
    assert (found.part, found.group_column) == ("test", "patient")
    assert [(point.per_class, point.rows, point.draws) for point in found.points] == [
        (1, 9, 3),
        (5, 45, 3),
        (None, 45, 1),
    ]
    assert found.points[1].auc == pytest.approx(found.points[2].auc, abs=1e-6) and found.points[1].sd < 1e-6


def test_a_test_part_of_one_class_has_no_curve_but_no_crash(vecstore: Call, store: Path, tmp_path: Path) -> None:
    with Store(store) as opened:
        names = opened.items().locators
    rows = [f"{name},{'ab'[i // 3 % 2]},{'test' if i < 3 else 'train'}" for i, name in enumerate(names)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,part", *rows]))
    options = ("--task", "t", "--key", "path", "--value", "label", "--split-column", "part")
    assert vecstore("label", store, tmp_path / "t.csv", *options).exit_code == 0
    arguments = ("learning-curve", store, "t", "--per-class", "1", "--repeats", 2)
    found = _only(vecstore(*arguments, "--json", "--report", tmp_path / "c.html"))
    assert [point["auc"] for point in found["points"]] == [None, None] and found["enough"] is None
    assert "AUC with all labels (not defined)" in vecstore(*arguments).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--per-class", "1,x"), "--per-class 1,x; expected whole numbers"),
        (("--per-class", "9999"), "per_class 9999: the rarest class has fewer groups to draw from; expected at least"),
        (("--per-class", "0"), "per_class [0], repeats 10; expected whole numbers from 1"),
        (("--repeats", "0"), "repeats 0; expected whole numbers from 1"),
        (("--report", "nowhere/x.html"), "its folder does not exist"),
    ],
)
def test_a_learning_curve_says_what_is_wrong(
    vecstore: Call, place: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = vecstore("learning-curve", place / "chest.vecs", "pneumonia", *arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr


# export-model


def test_a_model_is_written_for_others(vecstore: Call, store: Path, tmp_path: Path) -> None:
    for suffix in ("onnx", "npz", "json"):
        found = _only(vecstore("export-model", store, "pneumonia", tmp_path / f"m.{suffix}", "--json"))
        assert {name: found[name] for name in ("format", "task", "model", "classes", "dim", "space")} == {
            "format": suffix,
            "task": "pneumonia",
            "model": "probe",
            "classes": ["normal", "pneumonia"],
            "dim": 64,
            "space": "fake-64",
        }
        assert found["bytes"] == (tmp_path / f"m.{suffix}").stat().st_size
        assert (tmp_path / f"m.{suffix}").stat().st_mode & 0o777 == 0o600
    with Store(store) as opened:
        vectors = dataset(opened, "pneumonia").vectors()
        probe = load(opened, "pneumonia")
    expected = probe.predict_proba(vectors)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"vectors": vectors})[0], expected, atol=1e-5)
    told = json.loads((tmp_path / "m.json").read_text())
    assert told["fingerprint"] == probe.record.fingerprint and told["auc"] == probe.record.auc
    margins = vectors @ np.array(told["coef"]).T + np.array(told["intercept"])
    np.testing.assert_allclose(1 / (1 + np.exp(-margins[:, 0])), expected[:, 1], atol=1e-9)
    assert (
        "64 dimensions to normal, pneumonia" in vecstore("export-model", store, "pneumonia", tmp_path / "m.npz").stdout
    )


def test_a_model_that_can_not_be_written_is_said(vecstore: Call, store: Path, tmp_path: Path) -> None:
    assert vecstore("train", store, "pneumonia", "--model", "knn").exit_code == 0
    done = vecstore("export-model", store, "pneumonia", tmp_path / "m.onnx")
    assert done.exit_code == 1 and "a KNNProbe can't be written so" in done.stderr
    assert vecstore("export-model", store, "pneumonia", tmp_path / "m.onnx", "--model", 1).exit_code == 0
    done = vecstore("export-model", store, "pneumonia", tmp_path / "m.pkl")
    assert done.exit_code == 2 and "unknown format; expected a name ending in .onnx, .npz, .json" in done.stderr


# train with the heads of scikit-learn


@pytest.mark.parametrize("model", ["mlp", "forest"])
def test_heads_are_trained_scored_and_applied_by_name(vecstore: Call, store: Path, model: str) -> None:
    trained = _only(vecstore("train", store, "pneumonia", "--model", model, "--json"))
    again = _only(vecstore("evaluate", store, "pneumonia", "--json"))
    assert trained["model"] == model and trained["auc"] == again["auc"] > 0.7
    assert not any("parameters were chosen" in note for note in trained["notes"])
    assert trained["parameters"].keys() == {"folds", *({"alpha", "epochs"} if model == "mlp" else {"split"})}
    rows = vecstore("predict", store, "pneumonia", "--json").stdout.splitlines()
    with Store(store) as opened:
        probe = load(opened, "pneumonia")
        expected = probe.predict_proba(dataset(opened, "pneumonia").vectors())
    np.testing.assert_array_equal([json.loads(row)["probabilities"]["pneumonia"] for row in rows], expected[:, 1])


def test_a_class_with_an_equals_sign_in_its_name_is_asked_for() -> None:
    from vecstore_cli.ask import _by_class

    asked = ("grade=2=a mild lesion", "grade=2=another", "not grade=2=none", "grade=a lesion", "pink=no class")
    assert _by_class(asked, ["grade", "grade=2"]) == {
        "grade=2": ["a mild lesion", "another"],
        "not grade=2": ["none"],
        "grade": ["a lesion"],
        "pink": ["no class"],
    }
