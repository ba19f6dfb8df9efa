"""The report: its three files say the same, a browser can read it, and the same input gives the same bytes."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from vecstore.errors import DataError, NotFound, UsageError
from vecstore.evaluate import evaluate
from vecstore.label import label
from vecstore.report.page import share
from vecstore.reporting import Report, report
from vecstore.store import Store
from vecstore.train import train

if TYPE_CHECKING:
    from tests.browser import Browser

HEADINGS = [
    "Before you rely on it",
    "How well it tells classes apart",
    "Where it is sure, and where it errs",
    "Subgroups",
    "Knowing when not to answer",
    "What it is to be compared with",
    "Learning curve",
    "Data and leakage",
    "The surest mistakes",
    "Suspected label errors",
    "To be filled in by the authors",
    "How it was made",
]


@pytest.fixture(scope="module")
def module_store(tmp_path_factory: pytest.TempPathFactory, _labelled_store: Path) -> Iterator[Store]:
    """A store with a model of `colour`, which is not to be changed."""
    import shutil

    path = tmp_path_factory.mktemp("report") / "colours.vecs"
    with Store(shutil.copytree(_labelled_store, path)) as store:
        train(store, "colour", model="knn")
        yield store


@pytest.fixture(scope="module")
def made(module_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of `module_store`."""
    return report(module_store, "colour", tmp_path_factory.mktemp("out"), min_cell=5)


def _again(store: Store, path: Path, task: str = "colour", **options: Any) -> Report:
    """A report that is quick to make."""
    return report(store, task, path, **{"curve": False, "near_duplicates": False, "top": 2, **options})


def _text(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page[page.index("<main>") :]).split())


def test_three_files_are_written_for_the_owner_alone(made: Report) -> None:
    assert [file.name for file in (made.html, made.json, made.card)] == ["report.html", "report.json", "model-card.md"]
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in (made.html, made.json, made.card))
    assert json.loads(made.json.read_text(encoding="utf-8")) == json.loads(json.dumps(made.content))
    assert made.to_dict()["files"] == ["report.html", "report.json", "model-card.md"]


def test_same_input_same_bytes_wherever_it_is_written(module_store: Store, made: Report, tmp_path: Path) -> None:
    again = report(module_store, "colour", tmp_path / "new", min_cell=5)
    for one, other in zip((made.html, made.json, made.card), (again.html, again.json, again.card), strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert str(tmp_path) not in again.json.read_text(encoding="utf-8")


def test_the_json_says_what_the_page_and_evaluate_say(module_store: Store, made: Report) -> None:
    told = json.loads(made.json.read_text(encoding="utf-8"))
    probe = evaluate(module_store, "colour", subgroup=["age", "sex"], min_cell=5)
    assert probe.assessment is not None
    assert told["record"]["auc"] == probe.record.auc and told["record"]["n"] == 63
    assert told["assessment"] == json.loads(json.dumps(probe.assessment.to_dict()))
    table = np.array(told["confusion"]["counts"])
    assert table.sum() == 63 and np.trace(table) / 63 == pytest.approx(probe.record.accuracy)
    text = _text(made.html.read_text(encoding="utf-8"))
    assert told["summary"].replace('"', "&#34;") in text
    low, high = told["record"]["auc_interval"]
    assert f"AUC {share(told['record']['auc'])} (95 % CI {share(low)}–{share(high)})" in told["summary"]
    for figures in told["assessment"]["measures"]["per_class"].values():
        assert share(figures["sensitivity"]["value"]) in text
    for cell in told["assessment"]["subgroups"][1]["cells"]:
        assert f"{cell['value']} {cell['n']} {cell['groups']}" in text
    for row in table.tolist():
        assert all(re.search(rf"\b{n} [<>]? ?\d+ %", text.replace("&gt;", ">").replace("&lt;", "<")) for n in row)
    assert all(one["told"] in text for one in told["audit"]["findings"])
    assert [one["name"] for one in told["floors"]][:2] == ["Shuffled labels", "Metadata alone"]
    assert told["floors"][0]["auc"] < told["record"]["auc"]


def test_what_is_known_of_its_making_is_in_the_manifest(module_store: Store, made: Report) -> None:
    manifest, model = made.content["manifest"], module_store.models("colour")[-1]
    assert manifest["snapshot_commit"] == module_store.commit and manifest["model_sha256"] == model.sha256.hex()
    assert manifest["fingerprints"] == [module_store.space().fingerprint.hex()]
    assert manifest["trained"] == module_store.log()[-1]["time"]
    assert (
        manifest["train_command"].startswith("vecstore train colours.vecs colour")
        and "knn" in manifest["train_command"]
    )
    assert manifest["report_command"].endswith(f"--model {model.id} --min-cell 5 --top 8 --seed 0")
    assert made.content["pixels_read"] == 0
    text = _text(made.html.read_text(encoding="utf-8"))
    assert model.sha256.hex() in text and manifest["report_command"] in text


def test_mistakes_are_the_surest_and_come_with_training_cases_of_other_patients(
    module_store: Store, made: Report
) -> None:
    mistakes = made.content["mistakes"]
    chances = [one["probability"] for one in mistakes]
    assert mistakes and chances == sorted(chances, reverse=True)
    patients = module_store.column("patient")
    for one in mistakes:
        assert one["truth"] != one["predicted"] and one["probability"] > one["probability_truth"]
        assert len(one["nearest"]) == 3 and one["locator"].split("/")[1].startswith(one["truth"])
        assert all(patients[hit["item_id"]] != patients[one["item_id"]] for hit in one["nearest"])
        assert all(hit["locator"].split("/")[1].startswith(hit["label"]) for hit in one["nearest"])


def test_the_model_card_has_the_facts(made: Report) -> None:
    card, told = made.card.read_text(encoding="utf-8"), made.content
    assert card.startswith("# colour\n\n" + told["summary"])
    for fact in (
        f"| AUC-ROC | {told['record']['auc']:.2f} |",
        f"| Accuracy | {told['record']['accuracy']:.2f} |",
        "| blue | 21 | 21 | 7 |",
        "63 items in the store, 63 with a label (0 without); trained on 63 pictures, evaluated 63.",
        "- External validation (figures of other hospitals or of a later time): not known",
        f"- Encoder: {told['encoders'][0]['encoder']}: ",
        told["manifest"]["model_sha256"],
        told["manifest"]["train_command"],
        "not a medical device",
        "## Before you rely on it",
        "| sex | F |",
    ):
        assert fact in card
    assert all(f"- {caveat}" in card for caveat in told["caveats"])


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_browser_reads_the_report(browser: Browser, made: Report, width: int, dark: bool) -> None:
    page = browser.open(made.html, width, dark=dark)
    assert page.faults() == [] and page.requests == [made.html.resolve().as_uri()]
    assert page.evaluate("[...document.querySelectorAll('h2')].map(h => h.innerText)") == HEADINGS
    assert page.evaluate("document.querySelector('h1').innerText") == "colour"
    assert page.evaluate("document.querySelector('.lead').innerText") == made.content["summary"]
    widths = page.evaluate("[...document.images].map(i => i.naturalWidth)")
    assert len(widths) >= 4 * len(made.content["mistakes"]) and set(widths) == {12}
    assert page.evaluate("document.querySelectorAll('svg.figure').length") == 4
    # Names of classes and headings of columns are not broken within a word.
    heights = page.evaluate(
        "[...document.querySelectorAll('.scroll thead th, .scroll tbody th')].filter(e => e.offsetHeight > 0 &&"
        " !e.innerText.includes(' ') && !e.innerText.includes('-')).map(e => { const r = document.createRange();"
        " r.selectNodeContents(e.querySelector('bdi') || e); return new Set([...r.getClientRects()]"
        ".filter(b => b.height > 8).map(b => Math.round(b.top))).size; })"
    )
    assert len(heights) > 20 and max(heights) == 1
    page.close()


def test_a_report_is_self_contained_and_well_formed(made: Report) -> None:
    page = made.html.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=[\"'](?!data:|#)|<script|url\(|@import", page)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert all('alt="' in image for image in re.findall(r"<img[^>]*>", page))


def test_without_pictures_there_are_none(module_store: Store, tmp_path: Path) -> None:
    bare = _again(module_store, tmp_path / "bare.html", pictures=False)
    page = bare.html.read_text(encoding="utf-8")
    assert "<img" not in page and "data:image/jpeg" not in page and "no thumbnail" not in page
    assert bare.content["mistakes"] and bare.content["mistakes"][0]["locator"].rpartition("/")[2] in page
    assert [file.name for file in (bare.json, bare.card)] == ["bare.json", "bare-model-card.md"]
    assert "--no-pictures --no-curve --no-near-duplicates" in bare.content["manifest"]["report_command"]
    assert "No learning curve: it was not asked for." in _text(page)


def test_a_binary_task_on_a_test_part_without_groups(colour_store: Store, colour_labels: Path, tmp_path: Path) -> None:
    with colour_labels.open() as file:
        rows = [row for row in csv.DictReader(file) if row["label"] != "blue"]
    with (tmp_path / "two.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "is it red?", "part"])
        table.writerows([row["file"], "red, or <b>so" if row["label"] == "red" else "no", row["part"]] for row in rows)
    label(colour_store, tmp_path / "two.csv", task="two", key="file", value="is it red?", split_column="part",
          positive="red, or <b>so")  # fmt: skip
    train(colour_store, "two", group="none", min_groups=2)
    found = _again(colour_store, tmp_path / "x.html", "two", prevalence=0.1, subgroup=["age=50"], curve=True)
    told, text = found.content, _text(found.html.read_text(encoding="utf-8"))
    assert "tells “red, or <b>so” from “no”" in told["summary"] and "on 12 test pictures, none" in told["summary"]
    assert "“red, or &lt;b&gt;so”" in text and "<b>so" not in found.html.read_text(encoding="utf-8")
    assert any("belong to one patient is not known" in caveat for caveat in told["caveats"])
    assert any("Only 12 pictures were evaluated" in caveat for caveat in told["caveats"])
    assert told["assessment"]["measures"]["prevalence"] == {"red, or <b>so": 0.1}
    assert "PPV and NPV hold for the stated prevalence" in text
    assert told["learning_curve"]["part"] == "test" and len(told["learning_curve"]["points"]) > 2
    assert list(told["curves"]["roc"]) == ["red, or <b>so"]
    assert [part["column"] for part in told["assessment"]["subgroups"]] == ["age"]


def test_at_a_level_it_speaks_of_patients(colour_store: Store, tmp_path: Path) -> None:
    train(colour_store, "colour", level="patient", pool="mean")
    found = _again(colour_store, tmp_path / "x.html")
    assert "on 21 patients (63 pictures), each scored" in found.content["summary"]
    text = _text(found.html.read_text(encoding="utf-8"))
    assert "Bins of equally many patients" in text and "resampling patients" in text and "Patients per class" in text
    assert found.content["familiar"]["n"] == 21
    assert all(one["unit"].startswith("P") for one in found.content["mistakes"])


def test_groups_by_several_columns_are_not_called_patients(
    colour_store: Store, colour_labels: Path, tmp_path: Path
) -> None:
    with colour_labels.open() as file:
        names = [row["file"] for row in csv.DictReader(file)]
    with (tmp_path / "ids.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "PatientID", "odd"])
        table.writerows([name, "" if i < 3 else name[:3], i % 2] for i, name in enumerate(names))
    label(colour_store, tmp_path / "ids.csv", task="odd", key="file", value="odd", columns=["PatientID"])
    train(colour_store, "colour", group="PatientID", model="knn")
    told = _again(colour_store, tmp_path / "one.html").content
    assert told["record"]["stand_ins"] == [] and " patients, each" in told["summary"]
    train(colour_store, "colour", model="knn")
    told = _again(colour_store, tmp_path / "two.html").content
    assert told["record"]["group_column"] == "PatientID" and told["record"]["stand_ins"] == ["patient"]
    assert " groups (PatientID, else patient), each" in told["summary"]


def test_several_labels_are_told_one_by_one(colour_store: Store, colour_labels: Path, tmp_path: Path) -> None:
    with colour_labels.open() as file:
        rows = list(csv.DictReader(file))
    with (tmp_path / "several.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "warm", "odd"])
        for i, row in enumerate(rows):
            table.writerow([row["file"], int(row["label"] == "red"), "" if i == 5 else i // 3 % 2])
    label(colour_store, tmp_path / "several.csv", task="several", key="file", value=["warm", "odd"])
    train(colour_store, "several")
    found = _again(colour_store, tmp_path / "x.html", "several", curve=True)
    told = found.content
    assert "finds 2 labels" in told["summary"] and told["confusion"] is None
    red, odd = 21 / 63, sum(i // 3 % 2 for i in range(63) if i != 5) / 62
    assert told["chance"]["accuracy"] == pytest.approx((1 - red + max(odd, 1 - odd)) / 2)
    assert set(told["curves"]["roc"]) == {"warm", "odd"}
    assert {one["label"] for one in told["mistakes"]} <= {"warm", "odd"}
    assert {one["truth"] for one in told["mistakes"]} <= {"absent", "present"}
    assert len(told["learning_curve"]["points"]) > 1
    assert "Confusion matrix" not in _text(found.html.read_text(encoding="utf-8"))


def test_what_can_not_be_done_is_refused_before_any_work(
    module_store: Store, tmp_path: Path, names_opened: Callable[..., Any]
) -> None:
    with pytest.raises(UsageError, match="its folder does not exist"):
        report(module_store, "colour", tmp_path / "no" / "report.html")
    with pytest.raises(UsageError, match="its folder does not exist"):
        report(module_store, "colour", tmp_path / "no" / "folder")
    (tmp_path / "x.json").mkdir()
    with pytest.raises(UsageError, match=r"x\.json: a folder has this name"):
        report(module_store, "colour", tmp_path / "x.html")
    with pytest.raises(NotFound, match="no model 99 of task 'colour'; expected one of: 1"):
        report(module_store, "colour", tmp_path / "y.html", model=99)
    with pytest.raises(DataError, match="top = -1; expected a number from 0"):
        report(module_store, "colour", tmp_path / "y.html", top=-1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json"]


def test_a_task_without_a_model_says_how_to_train_one(colour_store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no model of task 'colour'; expected a trained one; train one: vecstore train"):
        report(colour_store, "colour", tmp_path / "x.html")


def test_labels_and_columns_are_read_once_while_somebody_holds_them(colour_store: Store, colour_labels: Path) -> None:
    ages = colour_store.column("age")
    assert colour_store.column("AGE") is ages and len(ages) == 63
    some = np.array(list(ages)[:2], np.int64)
    assert colour_store.column("age", some) == {item: ages[item] for item in some.tolist()}
    task = colour_store.task("colour")
    held = colour_store.label_arrays(task)
    assert all(one is other for one, other in zip(held, colour_store.label_arrays(task), strict=True))
    with pytest.raises(ValueError, match="read-only"):
        held[1][0] = 2
    label(colour_store, colour_labels, task="colour", key="file", value="part")  # another import, other classes
    assert colour_store.column("age") is not ages  # of another commit
    again = colour_store.label_arrays(colour_store.task("colour"))
    assert set(again[1].tolist()) == {0, 1} and set(held[1].tolist()) == {0, 1, 2}
    np.testing.assert_array_equal(colour_store.label_arrays(task)[1], held[1])  # a model knows those it learned
