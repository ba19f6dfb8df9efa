"""The audit finds what the README of the shared images states, what was put there, and nothing where nothing is."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vecstore.audit import Audit, Finding, audit
from vecstore.audit.pairs import near_pairs
from vecstore.errors import Ambiguous, LabelConflict, NotFound, ProblemsFound, UsageError
from vecstore.ingest import ingest
from vecstore.label import label
from vecstore.store import Label, Store

Shared = Callable[[str], Store]


def _one(found: Audit, check: str, about: str | None = None) -> Finding:
    """The finding of a check."""
    (one,) = [one for one in found.findings if one.check == check and about in (None, one.about)]
    return one


def _locators(finding: Finding) -> list[set[str]]:
    return [{member.locator for member in example.members} for example in finding.examples]


@pytest.fixture(scope="session")
def facts(shared: Path) -> dict[str, Any]:
    """What is known of the shared images."""
    known: dict[str, Any] = json.loads((shared / "facts.json").read_text())
    return known


# What the README of the shared images states


def test_breastmnist_has_one_contradicting_pair_across_parts(shared_store: Shared) -> None:
    found = audit(shared_store("medmnist/breastmnist.npz"), near_duplicates=False)
    across, labels = _one(found, "identical_across_parts"), _one(found, "identical_with_other_labels")
    assert across.counts == {
        "identical_groups": 1,
        "identical_items": 2,
        "across_test": 1,
        "across_train_and_val": 0,
        "items": 2,
    }
    assert (across.severity, labels.severity, labels.counts) == ("problem", "problem", {"pictures": 1, "items": 2})
    for finding in (across, labels):
        (example,) = finding.examples
        told = [(member.locator, member.part, member.label) for member in example.members]
        assert told == [("train/00115", "train", "0"), ("test/00076", "test", "1")]
    assert found.group_column is None and _one(found, "group_column").severity == "warning"
    assert _one(found, "units_across_parts").severity == "not checked"
    assert (found.items, found.pixels_read, found.tasks) == (780, 0, ["breastmnist"])


def test_pneumoniamnist_has_eight_groups_in_train_and_val(shared_store: Shared, facts: dict[str, Any]) -> None:
    found = audit(shared_store("medmnist/pneumoniamnist.npz"), near_duplicates=False, examples=20)
    across = _one(found, "identical_across_parts")
    assert across.counts == {
        "identical_groups": 27,
        "identical_items": 56,
        "across_test": 0,
        "across_train_and_val": 8,
        "items": 18,
    }
    assert across.severity == "warning"
    groups = facts["medmnist/pneumoniamnist"]["groups_across_splits"]
    stated = [{f"{part}/{number:05d}" for part, number, _ in group} for group in groups]
    assert sorted(map(sorted, _locators(across))) == sorted(map(sorted, stated))
    assert _one(found, "identical_with_other_labels").severity == "fine"
    assert found.problems == []


def test_kermany_has_39_patients_in_both_parts(shared_store: Shared, shared: Path, facts: dict[str, Any]) -> None:
    store = shared_store("cxr_kermany/images.zip")
    table = shared / "cxr_kermany" / "labels.csv"
    label(store, table, task="pneumonia", key="file", value="label", split_column="split", columns=["patient"])
    found = audit(store, "pneumonia", near_duplicates=False, examples=50)
    patients = _one(found, "units_across_parts")
    assert (patients.severity, patients.title, patients.about) == ("problem", "patients across parts", "patient")
    assert (patients.counts["groups"], patients.counts["across_test"]) == (610, 39)
    assert (
        sorted(example.what for example in patients.examples) == facts["cxr_kermany"]["patient_numbers_in_both_splits"]
    )
    for example in patients.examples:
        assert {member.part for member in example.members} == {"train", "test"}
        assert {member.group for member in example.members} == {example.what}
    copies = _one(found, "identical_across_groups")
    assert _locators(copies) == [{f"test/NORMAL/NORMAL2-IM-00{n}-0001.jpeg" for n in (95, 96)}]
    assert copies.severity == "warning"
    identical = _one(found, "identical_across_parts")
    assert (identical.severity, identical.counts["identical_groups"], identical.counts["identical_items"]) == (
        "fine",
        30,
        62,
    )
    # Folders are named NORMAL and PNEUMONIA: that is the label, and no shortcut.
    origin = _one(found, "label_from_origin")
    assert origin.severity == "fine" and "NORMAL, PNEUMONIA" in origin.told


def test_busi_has_a_picture_in_two_classes(shared_store: Shared, shared: Path) -> None:
    store = shared_store("us_busi/images.zip")
    label(store, shared / "us_busi" / "labels.csv", task="diagnosis", key="file", value="label")
    found = audit(store, near_duplicates=False)
    (problem,) = found.problems
    assert (problem.check, problem.counts) == ("identical_with_other_labels", {"pictures": 1, "items": 2})
    assert _locators(problem) == [{"benign/benign (433).jpg", "malignant/malignant (145).jpg"}]
    assert [member.label for member in problem.examples[0].members] == ["benign", "malignant"]
    assert _one(found, "identical_across_parts").told.startswith("no official split; 2 items are copies")


def test_two_covid_patients_have_one_picture(shared_store: Shared, shared: Path) -> None:
    store = shared_store("cxr_covid/images.zip")
    table = shared / "cxr_covid" / "labels.csv"
    label(store, table, task="finding", key="file", value="finding", columns=["patientid", "view"], ignore="todo")
    found = audit(store, near_duplicates=False)
    copies = _one(found, "identical_across_groups")
    assert _locators(copies) == [{"353889E0-A1E8-4F9E-A0B8-F24F36BCFBFB.jpg", "case_72_RX-TORACE1.jpg"}]
    first, second = copies.examples[0].members
    assert (copies.severity, copies.about, copies.counts) == ("warning", "patientid", {"pictures": 1, "items": 2})
    assert first.group != second.group
    assert not {"78", "201"} & {first.group, second.group}  # patients are stored under pseudonyms
    missing = _one(found, "group_column")
    assert (missing.severity, missing.counts) == ("warning", {"groups": 360, "items": 609, "without_group": 4})


def test_mini_mias_has_both_sides_of_a_patient(shared_store: Shared, shared: Path) -> None:
    store = shared_store("mammo_mias/images.zip")
    table = shared / "mammo_mias" / "labels.csv"
    with pytest.raises(LabelConflict, match=r"mdb144.png \(B / M\)"):
        label(store, table, task="severity", key="file", value="severity")
    refused = audit(store, near_duplicates=False)  # nothing was imported, and the pictures can still be looked at
    assert refused.tasks == [] and _one(refused, "group_column").severity == "warning"
    label(store, table, task="severity", key="file", value="severity", on_conflict="first")
    columns = ["patient", "side"]
    label(store, table, task="finding", key="file", value="abnormality", positive="NORM", columns=columns)
    rows = _one(audit(store, "severity", near_duplicates=False), "rows_in_conflict")
    assert (rows.severity, rows.counts) == ("warning", {"items": 1})
    assert rows.told == "1 item had rows that disagree; the first row counts (--on-conflict first)"
    found = audit(store, "finding", near_duplicates=False)
    assert _one(found, "rows_in_conflict").severity == "fine"
    sides = _one(found, "units_across_parts")
    assert (sides.severity, sides.about) == ("fine", "patient")
    assert sides.counts == {"groups": 161, "with_several_items": 161, "with_several_labels": 101}
    assert all(sorted(member.label for member in e.members) == ["NORM", "not NORM"] for e in sides.examples)
    assert _one(found, "label_from_metadata").about == "side"


def test_what_the_patient_is_tells_the_skin_lesion(shared_store: Shared, shared: Path) -> None:
    store = shared_store("derm_ham10000/images.zip")
    table = shared / "derm_ham10000" / "labels.csv"
    columns = ["lesion_id", "age", "sex", "localization"]
    label(store, table, task="dx", key="file", value="dx", columns=columns)
    floor = _one(audit(store, near_duplicates=False), "label_from_metadata")
    assert (floor.severity, floor.about) == ("warning", "age, localization, sex")
    assert floor.counts["auc"] == pytest.approx(0.68, abs=0.04)
    assert floor.counts["auc_low"] is not None and floor.counts["auc_low"] > 0.6
    ages, places = floor.counts["auc of age"], floor.counts["auc of localization"]
    assert ages is not None and places is not None
    assert 0.5 < ages < floor.counts["auc"] and 0.5 < places < floor.counts["auc"]  # type: ignore[operator]


# What was put there


@pytest.fixture
def copied(tmp_path: Path, shared: Path) -> Store:
    """Twenty-four chest radiographs, the first eight of them again, compressed anew and smaller, as the test part."""
    folder = tmp_path / "copied"
    folder.mkdir()
    rows = []
    with zipfile.ZipFile(shared / "cxr_kermany" / "images.zip") as packed:
        names = sorted(name for name in packed.namelist() if name.startswith("train/NORMAL/"))[:120:5]
        for number, name in enumerate(names):
            (folder / f"{number:02d}.jpg").write_bytes(packed.read(name))
            rows.append((f"{number:02d}.jpg", "ab"[number % 2], "train", f"p{number}"))
            if number < 8:
                with Image.open(io.BytesIO(packed.read(name))) as image:
                    image.convert("RGB").resize((200, 190)).save(folder / f"again{number}.jpg", quality=60)
                rows.append((f"again{number}.jpg", "ab"[(number + (number == 3)) % 2], "test", f"q{number}"))
    with (tmp_path / "copied.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label", "part", "patient"), *rows])
    store = Store.create(tmp_path / "copied.vecs")
    ingest(store, folder, encoder="fake:64")
    known = {"key": "file", "value": "label", "split_column": "part", "columns": ["patient"]}
    label(store, tmp_path / "copied.csv", task="t", **known)  # type: ignore[arg-type]
    return store


def test_copies_that_were_compressed_and_resized_are_found(copied: Store) -> None:
    found = audit(copied, "t", examples=20)
    across = _one(found, "near_across_parts")
    assert sorted(map(sorted, _locators(across))) == [[f"{n:02d}.jpg", f"again{n}.jpg"] for n in range(8)]
    assert (across.severity, across.counts["across_test"], across.counts["pairs"]) == ("problem", 8, 8)
    assert (across.counts["test_pictures"], across.counts["test_pictures_in_all"]) == (8, 8)
    assert across.told.startswith("8 of 8 test pictures have one in another part (8 pairs), in train and val: 0")
    assert all(re.match(r"cosine (0.9|1.0)\d+, hash differs in \d+ of 256 bits$", e.what) for e in across.examples)
    labels = _one(found, "near_with_other_labels")
    assert (labels.severity, labels.counts["pairs_with_other_labels"]) == ("warning", 1)
    assert _locators(labels) == [{"03.jpg", "again3.jpg"}]
    groups = _one(found, "near_across_groups")
    assert (groups.severity, groups.counts["pairs_across_groups"]) == ("warning", 8)
    assert _one(found, "identical_across_parts").severity == "fine"
    assert found.space == "fake-64" and found.pixels_read == 0


@pytest.mark.parametrize("dim", [8, 200])
@pytest.mark.parametrize("asked", [None, [3, 77, 78, 900]])
def test_pairs_are_all_that_a_full_comparison_finds(dim: int, asked: list[int] | None) -> None:
    rng = np.random.default_rng(dim)
    X = rng.normal(size=(2500, dim)) * np.linspace(2, 0.2, dim) + 1  # they share a direction, as pictures do
    copies = rng.choice(2500, 400, replace=False)
    X[copies[:200]] = X[copies[200:]] + 0.05 * rng.normal(size=(200, dim))
    X = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float16)
    unit = X.astype(np.float32) / np.linalg.norm(X.astype(np.float32), axis=1, keepdims=True)
    whole = unit @ unit.T
    expected = {(a, b) for a, b in np.argwhere(np.triu(whole >= 0.99, 1)).tolist() if not asked or {a, b} & {*asked}}
    first, second, scores, crowded = near_pairs(X, 0.99, 500, None if asked is None else np.array(asked))
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == expected and crowded == 0
    assert len(first) == len(expected) and (asked is not None or len(first) > 100)
    np.testing.assert_allclose(scores, whole[first, second], atol=1e-6)
    assert (np.diff(scores) <= 0).all()


def test_of_many_pairs_the_nearest_of_each_are_kept_and_that_is_counted() -> None:
    rng = np.random.default_rng(0)
    X = np.ones((60, 16)) + 0.2 * rng.normal(size=(60, 16))
    unit = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)
    scores = unit @ unit.T
    np.fill_diagonal(scores, -1)
    best = np.argsort(-scores, axis=1)[:, :3]
    expected = {(min(a, b), max(a, b)) for a in range(60) for b in best[a].tolist()}
    first, second, _, crowded = near_pairs(unit, 0.5, 3)
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == expected and crowded == 60


def test_without_thumbnails_the_cosine_stands_alone_and_that_is_said(copied: Store) -> None:
    copied.close()
    (copied.path / "thumbnails.sqlite").unlink()
    found = audit(copied.path, "t", cosine=0.9999)
    across = _one(found, "near_across_parts")
    assert across.severity == "warning"  # nothing confirms it
    assert across.counts["without_thumbnails"] == across.counts["proposed_by_cosine"] == across.counts["pairs"] != 0
    assert "by cosine alone, as thumbnails are absent" in across.told
    assert "no thumbnails to compare" in across.examples[0].what


def test_of_many_pictures_those_of_the_test_part_are_asked_first(copied: Store) -> None:
    found = audit(copied, "t", max_queries=8, progress=None)
    across = _one(found, "near_across_parts")
    assert (across.counts["pictures_asked"], across.counts["pictures"], across.counts["across_test"]) == (8, 32, 8)
    assert "neighbours of 8 of 32 pictures were looked at" in across.told


def _filled(tmp_path: Path, name: Callable[[int, int], str], side: Callable[[int], int]) -> Store:
    """120 pictures of noise, of 40 patients in two classes that nothing in the pictures tells apart."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(120):
        kind = number // 3 % 2
        path = tmp_path / "made" / name(number, kind)
        path.parent.mkdir(parents=True, exist_ok=True)
        size = side(kind)
        Image.fromarray(rng.integers(0, 255, (size, 12, 3), np.uint8)).save(path)
        rows.append((name(number, kind), ("healthy", "ill")[kind], f"P{number // 3}", rng.integers(20, 80)))
    with (tmp_path / "made.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "label", "patient", "age"), *rows])
    store = Store.create(tmp_path / "made.vecs")
    ingest(store, tmp_path / "made", encoder="fake:16", thumbnails=False)
    label(store, tmp_path / "made.csv", task="t", key="file", value="label", columns=["patient", "age"])
    return store


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    store = _filled(tmp_path, lambda n, kind: f"{n}.png", lambda kind: 12)
    found = audit(store)
    assert {one.severity for one in found.findings} == {"fine"}
    assert found.counts == {"problem": 0, "warning": 0, "not checked": 0, "fine": len(found.findings)}
    assert all(not one.do for one in found.findings if one.check != "units_across_parts")
    assert _one(found, "label_from_metadata").counts["auc"] == pytest.approx(0.5, abs=0.15)
    found.raise_for_problems()
    assert audit(store, strict=True) == found


def test_a_size_per_class_is_a_problem(tmp_path: Path) -> None:
    store = _filled(tmp_path, lambda n, kind: f"{n}.png", lambda kind: 12 + 4 * kind)
    found = audit(store, "t")
    size = _one(found, "label_from_image_size")
    assert (size.severity, size.counts["auc"], size.about) == ("problem", 1.0, "image size")
    with pytest.raises(ProblemsFound, match=r"found 1 problem \(labels told from image size: AUC 1.00"):
        audit(store, "t", strict=True)


@pytest.mark.parametrize(
    ("name", "severity"),
    [
        (lambda n, kind: f"{('berlin', 'paris')[kind]}/{n}.png", "problem"),
        (lambda n, kind: f"{('healthy', 'Ill')[kind]}/{n}.png", "fine"),
        (lambda n, kind: f"{n}.{('png', 'bmp')[kind]}", "problem"),
        (lambda n, kind: f"p{n // 3}/{n}.png", "fine"),
    ],
    ids=["a folder per class", "folders named like classes", "an extension per class", "a folder per patient"],
)
def test_a_place_per_class_is_a_problem(tmp_path: Path, name: Callable[[int, int], str], severity: str) -> None:
    store = _filled(tmp_path, name, lambda kind: 12)
    origin = _one(audit(store, near_duplicates=False), "label_from_origin")
    assert origin.severity == severity
    assert bool(origin.do) == (severity == "problem")


def test_a_site_in_a_column_is_an_origin_and_an_identifier_is_nothing(tmp_path: Path) -> None:
    store = _filled(tmp_path, lambda n, kind: f"{n}.png", lambda kind: 12)
    rows = [("file", "Manufacturer", "note", "Study_UID")]
    rows += [(f"{n}.png", ("GE", "Philips")[n // 3 % 2], f"free text {n}", f"1.2.{n}") for n in range(120)]
    with (tmp_path / "more.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    columns = ["Manufacturer", "note", "Study_UID"]
    label(store, tmp_path / "more.csv", task="other", key="file", value="Manufacturer", columns=columns)
    found = audit(store, "t", near_duplicates=False)
    origin, metadata = _one(found, "label_from_origin"), _one(found, "label_from_metadata")
    assert (origin.severity, origin.about) == ("problem", "Manufacturer")
    assert (metadata.severity, metadata.about) == ("fine", "age")
    # The label itself is no shortcut to itself.
    assert "Manufacturer" not in _one(audit(store, "other", near_duplicates=False), "label_from_origin").about


def test_several_labels_contradict_each_other_only_where_both_are_known(colour_store: Store) -> None:
    ids = colour_store.items().ids.tolist()
    with colour_store.write("test", {}) as tx:  # three items of one picture
        (content,) = {c for (c,) in tx.sql("SELECT content FROM states WHERE item = ?", (ids[0],))}
        for item in ids[1:3]:
            tx.end("states", "item = ?", (item,))
            tx.add("states", [{"item": item, "content": content, "decoder": "test"}])
    labels = [Label(ids[0], "A", 1.0, "train"), Label(ids[1], "A", 0.0, "test"), Label(ids[0], "B", 1.0, "train")]
    labels += [Label(ids[2], "B", 1.0, "test")]
    colour_store.add_task("many", "multi-label", ["A", "B"], labels, {})
    found = audit(colour_store, "many", near_duplicates=False)
    assert _one(found, "identical_with_other_labels").counts == {"pictures": 1, "items": 3}
    assert _one(found, "identical_across_parts").counts["across_test"] == 1
    without = [one for one in labels if one.name == "B"]
    colour_store.add_task("many", "multi-label", ["A", "B"], without, {})
    assert _one(audit(colour_store, "many", near_duplicates=False), "identical_with_other_labels").severity == "fine"


# How it is asked


def test_every_task_is_looked_at_unless_one_is_named(colour_store: Store, colour_labels: Path) -> None:
    label(colour_store, colour_labels, task="more", key="file", value="sex", split_column="part")
    found = audit(colour_store.path, near_duplicates=False)
    assert found.tasks == ["colour", "more"]
    per_task = [one.check for one in found.findings if one.task == "more"]
    assert per_task and sorted(per_task) == sorted(one.check for one in found.findings if one.task == "colour")
    assert {one.task for one in audit(colour_store, "MORE", near_duplicates=False).findings} == {None, "more"}
    ranks = ["problem", "warning", "not checked", "fine"]
    assert [ranks.index(one.severity) for one in found.findings] == sorted(
        ranks.index(one.severity) for one in found.findings
    )
    assert json.loads(json.dumps(found.to_dict()))["findings"][0]["check"] == found.findings[0].check


def test_a_group_column_of_any_name_is_looked_at_and_none_is_told(colour_store: Store, colour_labels: Path) -> None:
    label(colour_store, colour_labels, task="colour", key="file", value="label", split_column="part")
    found = audit(colour_store, "colour", group="age", near_duplicates=False)
    assert found.group_column == "age"
    assert [_one(found, "units_across_parts", name).title for name in ("age", "patient")] == [
        "groups of age across parts",
        "patients across parts",
    ]
    alone = audit(colour_store, "colour", group="none", near_duplicates=False)
    told = _one(alone, "group_column")
    assert (told.severity, told.do) == ("warning", "leave --group away, or --group patient")
    assert _one(alone, "identical_across_groups").severity == "not checked"


def test_no_picture_is_opened_and_nothing_is_written(
    colour_store: Store, names_opened: Callable[[], AbstractContextManager[list[str]]], colour_archive: Path
) -> None:
    commit = colour_store.commit
    with names_opened() as names:
        audit(colour_store)
        Path(__file__).read_bytes()  # an audit may find all it needs in memory: the listener is seen to listen
    assert __file__ in names and not [name for name in names if str(colour_archive) in name]
    assert colour_store.refresh().commit == commit
    with Store(colour_store.path, at=commit) as earlier:
        assert audit(earlier, near_duplicates=False).commit == commit


def test_a_store_without_vectors_or_labels_is_audited_as_far_as_it_goes(
    tmp_path: Path, colour_store: Store, colour_archive: Path
) -> None:
    empty = audit(Store.create(tmp_path / "empty.vecs"))
    assert (empty.items, empty.space, empty.tasks) == (0, None, [])
    ids = colour_store.items().ids.tolist()
    colour_store.add_task("few", "binary", ["n", "y"], [Label(ids[0], "y", 1.0, None)], {})
    few = audit(colour_store, "few", near_duplicates=False)
    told = _one(few, "label_from_metadata")
    assert told.severity == "not checked" and "task 'few'" in told.told
    assert told.told.endswith("; it takes at least two classes")
    ingest(colour_store, colour_archive, encoder="fake:8")
    with pytest.raises(Ambiguous, match="--space NAME"):
        audit(colour_store)
    assert audit(colour_store, space="fake-8").space == "fake-8"


def test_what_does_not_exist_is_refused(colour_store: Store) -> None:
    with pytest.raises(NotFound, match="no task 'absent'; expected one of: colour"):
        audit(colour_store, "absent")
    with pytest.raises(NotFound, match="no column 'absent'"):
        audit(colour_store, "colour", group="absent")
    with pytest.raises(NotFound, match="no space 'absent'"):
        audit(colour_store, "colour", space="absent")
    with pytest.raises(
        UsageError, match="cosine = 2, max_queries = 100000, examples = 5; expected a similarity up to 1"
    ):
        audit(colour_store, cosine=2)


def test_a_task_imported_before_conflicts_were_counted_says_so(colour_store: Store) -> None:
    ids = colour_store.items().ids.tolist()
    labels = [Label(item, "ab"[n % 2], 1.0, None) for n, item in enumerate(ids)]
    colour_store.add_task("old", "binary", ["a", "b"], labels, {"on_conflict": "drop", "table": "t.csv"})
    told = _one(audit(colour_store, "old", near_duplicates=False), "rows_in_conflict")
    assert (told.severity, told.counts) == ("warning", {"items": None})
    assert told.told.startswith("an unknown number of items had rows that disagree; they have no label")
    shutil.rmtree(colour_store.path / "indexes", ignore_errors=True)
