"""Datasets: groups, official parts, small classes, and what scikit-learn is handed."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_score

from vecstore.dataset import Dataset, class_counts, dataset, group_column
from vecstore.errors import Ambiguous, DataError, NotFound, PredicateRefused
from vecstore.ingest import ingest
from vecstore.label import label
from vecstore.records import DecodeRule
from vecstore.search import search
from vecstore.store import Store

Paint = Callable[[Path, str, int], None]
Opened = Callable[[str], Store]


def _label(store: Store, rows: Iterable[Sequence[Any]], header: Sequence[str], **options: Any) -> None:
    table = pl.DataFrame(list(rows), schema=list(header), orient="row")
    label(store, table, **({"task": "t", "key": "file", "value": "label"} | options))


def _by_group(data: Dataset) -> list[set[str]]:
    """Groups as sets of locators, sorted."""
    locators = dict(zip(data.store.items().ids.tolist(), data.store.items().locators, strict=True))
    found: dict[int, set[str]] = {}
    for item, group in zip(data.items.tolist(), data.groups.tolist(), strict=True):
        found.setdefault(group, set()).add(locators[item])
    return sorted(found.values(), key=sorted)


def test_arrays_are_what_scikit_learn_takes(colour_store: Store) -> None:
    data = dataset(colour_store, "colour")
    X, y, groups = data.arrays()
    assert [X.shape, y.shape, groups.shape] == [(63, 64), (63,), (63,)]
    assert [X.dtype.name, y.dtype.name, groups.dtype.name] == ["float32", "int64", "int64"]
    np.testing.assert_allclose(np.linalg.norm(X, axis=1), 1, atol=1e-3)
    assert data.classes == ["blue", "green", "red"] and len(data) == 63 and not data.test.any()
    locators = dict(zip(colour_store.items().ids.tolist(), colour_store.items().locators, strict=True))
    assert all(data.classes[c] in locators[i] for i, c in zip(data.items.tolist(), y.tolist(), strict=True))
    assert len(np.unique(groups)) == 21 and (data.items[1:] > data.items[:-1]).all()
    scores = cross_val_score(LogisticRegression(C=100), X, y, groups=groups, cv=StratifiedGroupKFold(3))
    assert scores.mean() > 0.8


def test_several_labels_are_columns_with_nan_where_nothing_is_known(colour_store: Store) -> None:
    names = colour_store.items().locators
    rows = [(n, i % 2, None if i % 3 else 1 if i % 2 else 0) for i, n in enumerate(names)]
    _label(colour_store, rows, ("file", "A", "B"), value=["A", "B"])
    data = dataset(colour_store, "t")
    assert data.y.shape == (63, 2) and data.y.dtype == np.float64
    assert np.isnan(data.y[:, 1].astype(float)).sum() == 42
    assert class_counts(data) == {"A": 31, "B": 10}


def test_rows_without_any_label_that_is_left_are_left_out(colour_store: Store) -> None:
    names = colour_store.items().locators
    rows = [(n, i % 2, None) if i < 60 else (n, None, 1) for i, n in enumerate(names)]
    _label(colour_store, rows, ("file", "A", "B"), value=["A", "B"])
    data = dataset(colour_store, "t")
    assert (data.classes, data.y.shape) == (["A"], (60, 1))
    assert data.notes == ["left out, with or without the label in fewer than 5 groups: B (0)"]


# Groups


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (["case", "age"], None),
        (["lesion_id", "Patient_ID", "patient"], "Patient_ID"),
        (["patientid", "subject"], "patientid"),
        (["StudyInstanceUID", "lesion_id"], "lesion_id"),
        (["participant", "SUBJECT"], "SUBJECT"),
        (["study_date", "subject_id"], "subject_id"),  # MIMIC
        (["Patient Age", "Patient ID"], "Patient ID"),  # ChestX-ray14
        (["lesion_id", "mrn"], "mrn"),
        (["StudyInstanceUID"], "StudyInstanceUID"),
    ],
)
def test_the_group_column_is_the_first_of_the_known_names(
    bare_store: Store, columns: list[str], expected: str | None
) -> None:
    names = bare_store.items().locators
    rows = [(n, "xy"[i % 2], *["g"] * len(columns)) for i, n in enumerate(names)]
    _label(bare_store, rows, ("file", "label", *columns), columns=columns)
    assert group_column(bare_store) == expected
    assert dataset(bare_store, "t", min_groups=1).group_column == expected


def test_a_group_column_can_be_named_in_any_case_or_refused(colour_store: Store) -> None:
    assert dataset(colour_store, "colour", group="AGE").group_column == "age"
    none = dataset(colour_store, "colour", group="none")
    assert none.group_column is None and len(np.unique(none.groups)) == 63
    with pytest.raises(NotFound, match="has no column 'ward'; expected one of: age, patient, sex"):
        dataset(colour_store, "colour", group="ward")


def test_an_item_without_group_is_its_own_and_counted(bare_store: Store) -> None:
    names = bare_store.items().locators
    rows = [(n, n.partition("/")[2].partition("_")[0], None if i < 4 else n[:3]) for i, n in enumerate(names)]
    _label(bare_store, rows, ("file", "label", "patient"), columns=["patient"])
    data = dataset(bare_store, "t")
    assert "4 items without patient: each is a group of its own" in data.notes
    assert len(np.unique(data.groups)) == 4 + 20


def test_without_a_patient_the_next_column_says_who_belongs_together(bare_store: Store) -> None:
    names = bare_store.items().locators
    # The first patient's pictures have a study each for two, and only one of them has the patient.
    patient = [n[:3] if i >= 6 or i == 0 else None for i, n in enumerate(names)]
    study = ["1.2" if i < 3 else "1.3" if i < 5 else None for i in range(len(names))]
    rows = [(n, n.partition("/")[2].partition("_")[0], p, s) for n, p, s in zip(names, patient, study, strict=True)]
    _label(
        bare_store,
        rows,
        ("file", "label", "PatientID", "StudyInstanceUID"),
        columns=["PatientID", "StudyInstanceUID"],
    )
    data = dataset(bare_store, "t")
    assert data.group_column == "PatientID"
    assert "4 items without PatientID are grouped by StudyInstanceUID" in data.notes
    assert "1 items without PatientID: each is a group of its own" in data.notes
    found = _by_group(data)
    assert {*names[:3]} in found and {*names[3:5]} in found and {names[5]} in found
    assert len(found) == 3 + 19
    # A column that was asked for is the only one.
    asked = dataset(bare_store, "t", group="PatientID")
    assert "5 items without PatientID: each is a group of its own" in asked.notes


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("films")
    (root / "films").mkdir()
    for film in range(12):
        base = np.random.default_rng(film).integers(0, 200, (24, 24, 3), np.uint8)
        frames = [Image.fromarray(base + np.uint8(step)) for step in range(4)]
        frames[0].save(root / "films" / f"{film}.tif", save_all=True, append_images=frames[1:])
    with Store.create(root / "s.vecs", DecodeRule(frames="all")) as store:
        ingest(store, root / "films", encoder="fake:64", thumbnails=False)
        rows = [(f"{film}.tif", "ab"[film % 2], f"P{film}" if film else None) for film in range(12)]
        _label(store, rows, ("file", "label", "patient"), columns=["patient"])
    return root / "s.vecs"


@pytest.mark.parametrize("group", [None, "none", "patient"])
def test_frames_of_a_file_are_one_group(films: Path, group: str | None) -> None:
    with Store(films) as store:
        found = _by_group(dataset(store, "t", group=group))
        assert found == sorted(({f"{film}.tif#{n}" for n in range(1, 5)} for film in range(12)), key=sorted)


def test_a_search_by_a_frame_leaves_out_its_file(films: Path) -> None:
    with Store(films) as store:
        first = int(store.items().ids[store.items().locators.index("3.tif#1")])
        result = search(store, first, 44, group="none")
        assert result.excluded == 4 and len(result.hits) == 44
        assert not any(hit.locator.startswith("3.tif") for hit in result.hits)


def _with_copies(store: Store, root: Path, paint: Paint) -> None:
    """Twelve pictures of six patients in a source of their own; P1's second is P2's first."""
    for number in range(12):
        paint(root / "x" / f"P{number // 2}_{number % 2}.png", "red", 500 + number)
    (root / "x" / "P2_0.png").write_bytes((root / "x" / "P1_1.png").read_bytes())
    ingest(store, root / "x", encoder="fake:64", thumbnails=False)


def test_groups_that_share_a_picture_are_one(bare_store: Store, tmp_path: Path, paint: Paint) -> None:
    _with_copies(bare_store, tmp_path, paint)
    rows = [(f"P{n // 2}_{n % 2}.png", "ab"[n // 2 % 2], f"P{n // 2}") for n in range(12)]
    _label(bare_store, rows, ("file", "label", "patient"), columns=["patient"])
    merged = _by_group(dataset(bare_store, "t", min_groups=1))
    assert {"P1_0.png", "P1_1.png", "P2_0.png", "P2_1.png"} in merged and len(merged) == 5
    # Without a column, identical pictures are still one group.
    alone = _by_group(dataset(bare_store, "t", group="none", min_groups=1))
    assert {"P1_1.png", "P2_0.png"} in alone and len(alone) == 11


def test_groups_are_one_even_if_the_shared_picture_has_no_label(
    bare_store: Store, tmp_path: Path, paint: Paint
) -> None:
    _with_copies(bare_store, tmp_path, paint)
    rows = [(f"P{n // 2}_{n % 2}.png", "ab"[n // 2 % 2], f"P{n // 2}") for n in range(12)]
    _label(bare_store, rows, ("file", "label", "patient"), columns=["patient"])
    _label(
        bare_store, (r for r in rows if r[0] not in ("P1_1.png", "P2_0.png")), ("file", "label", "patient"), task="u"
    )
    assert {"P1_0.png", "P2_1.png"} in _by_group(dataset(bare_store, "u", min_groups=1))
    some = dataset(bare_store, "t", min_groups=1, where="locator not in ('P1_1.png', 'P2_0.png')")
    assert {"P1_0.png", "P2_1.png"} in _by_group(some)


# Parts


def _dropped(items: int, groups: int) -> str:
    what = f"{items} training items were dropped, of {groups} groups (or identical pictures)"
    return f"official split: {what} that are also in the test part"


def _parts(store: Store, parts: Callable[[str, int], str]) -> None:
    """Each picture's part by its patient and view."""
    rows = []
    for name in store.items().locators:
        colour, patient, view = name.partition("/")[2].removesuffix(".png").split("_")
        rows.append((name, colour, parts(f"P{patient}", int(view))))
    _label(store, rows, ("file", "label", "part"), split_column="part")


def test_test_stays_and_training_pictures_of_its_patients_are_dropped(colour_store: Store) -> None:
    # P0 and P1 have their last picture in the test part.
    _parts(
        colour_store,
        lambda p, view: "test" if p in ("P18", "P19", "P20") or (p in ("P0", "P1") and view == 2) else "train",
    )
    data = dataset(colour_store, "t")
    assert int(data.test.sum()) == 9 + 2
    assert len(data) == 63 - 4
    assert data.notes == [_dropped(4, 2)]
    assert not np.isin(data.groups[data.test], data.groups[~data.test]).any()


def test_val_joins_training_and_items_in_no_part_are_left_out(colour_store: Store) -> None:
    parts = {"P0": "val", "P1": "", "P18": "test", "P19": "test", "P20": "test"}
    _parts(colour_store, lambda p, _: parts.get(p, "train"))
    data = dataset(colour_store, "t")
    assert (len(data), int(data.test.sum())) == (60, 9)
    assert data.notes == [
        "3 labelled items are in no part of the official split and left out",
        "the official val part joins training for choosing and refit",
    ]


def test_parts_without_a_test_part_are_evaluated_out_of_fold(colour_store: Store) -> None:
    _parts(colour_store, lambda _, view: "val" if view else "train")
    data = dataset(colour_store, "t")
    assert len(data) == 63 and not data.test.any()
    assert data.notes == ["the labels name parts but no test part: they are evaluated out of fold"]


# Classes and filters


def test_classes_in_few_groups_are_left_out_and_listed(colour_store: Store) -> None:
    names = colour_store.items().locators
    kind = {"p00": "rare", "p01": "rare", "p02": "few", "p03": "few", "p04": "few"}
    rows = [(n, kind.get(n[:3], n.partition("/")[2].partition("_")[0])) for n in names]
    _label(colour_store, rows, ("file", "label"))
    data = dataset(colour_store, "t")
    assert data.classes == ["blue", "green", "red"]
    assert data.notes == ["left out, in fewer than 5 groups: few (3), rare (2)"]
    assert len(data) == 63 - 15
    assert [data.classes[i] for i in np.unique(data.y)] == data.classes
    assert dataset(colour_store, "t", min_groups=3).classes == ["blue", "few", "green", "red"]
    assert dataset(colour_store, "t", min_groups=0).classes == ["blue", "few", "green", "rare", "red"]
    asked = dataset(colour_store, "t", classes=["red", "rare"])
    assert (asked.classes, class_counts(asked)) == (["rare", "red"], {"rare": 6, "red": 15})


def test_a_class_only_in_the_test_part_is_left_out(colour_store: Store) -> None:
    _parts(colour_store, lambda p, _: "test" if int(p[1:]) % 3 == 0 else "train")  # every red patient
    data = dataset(colour_store, "t", min_groups=0)
    assert (data.classes, data.notes) == (["blue", "green"], ["left out, in fewer than 1 groups: red (0)"])


def test_classes_and_tasks_that_are_not_there_are_named(colour_store: Store) -> None:
    with pytest.raises(NotFound, match="task 'colour' has no class 'pink'; expected one of: blue, green, red"):
        dataset(colour_store, "colour", classes=["pink"])
    with pytest.raises(NotFound, match="has no task 'cough'; expected one of: colour"):
        dataset(colour_store, "cough")
    with pytest.raises(DataError, match="expected at least two classes") as caught:
        dataset(colour_store, "colour", min_groups=8)
    assert "left out, in fewer than 8 groups: blue (7), green (7), red (7)" in str(caught.value)
    assert isinstance(caught.value, ValueError) and caught.value.exit_code == 1


def test_where_chooses_items(colour_store: Store) -> None:
    data = dataset(colour_store, "colour", where="age < 52 and colour <> 'red'", min_groups=4)
    assert (data.classes, len(data)) == (["blue", "green"], 24)
    with pytest.raises(PredicateRefused, match="there is no column weight"):
        dataset(colour_store, "colour", where="weight > 3")
    with pytest.raises(DataError, match="0 items"):
        dataset(colour_store, "colour", where="age > 1000")


def test_only_chooses_items_before_any_rule(colour_store: Store) -> None:
    ids = colour_store.items().ids
    assert dataset(colour_store, "colour", only=ids[10:50], min_groups=1).items.tolist() == ids[10:50].tolist()


def test_several_spaces_must_be_named_and_items_without_vector_are_counted(
    colour_store: Store, colour_archive: Path, tmp_path: Path
) -> None:
    for patient in ("p00", "p01", "p02"):
        shutil.copytree(colour_archive / patient, tmp_path / "part" / patient)
    ingest(colour_store, tmp_path / "part", encoder="fake:24", thumbnails=False)
    with pytest.raises(Ambiguous, match="has 2 spaces; expected one of: fake-64, fake-24; name it: --space NAME"):
        dataset(colour_store, "colour")
    small = dataset(colour_store, "colour", space="FAKE-24", classes=["red", "blue"])
    assert small.space.dim == 24
    assert "36 labelled items have no vector in the space fake-24" in small.notes


def test_a_dataset_of_an_earlier_commit_is_that_of_then(colour_store: Store, tmp_path: Path, paint: Paint) -> None:
    then = colour_store.commit
    X, y, groups = dataset(colour_store, "colour").arrays()
    for number in range(5):
        paint(tmp_path / "more" / f"{number}.png", "red", 900 + number)
    ingest(colour_store, tmp_path / "more", encoder="fake:64", thumbnails=False)
    rows = [(n, "xy"[i % 2]) for i, n in enumerate(colour_store.items().locators)]
    _label(colour_store, rows, ("file", "label"), task="colour")
    assert len(dataset(colour_store, "colour")) == 68
    with Store(colour_store.path, at=then) as before:
        data = dataset(before, "colour")
        np.testing.assert_array_equal(data.vectors(), X)
        np.testing.assert_array_equal(data.y, y)
        np.testing.assert_array_equal(data.groups, groups)
    with Store(colour_store.path, at=1) as empty, pytest.raises(NotFound, match="has no task 'colour'"):
        dataset(empty, "colour")


def _content_vectors(store: Store) -> dict[bytes, bytes]:
    items = store.items()
    hashes = store.hashes_of(items.ids.tolist())
    vectors = store.vectors(store.space(), items.contents)
    return {hashes[item]: row.tobytes() for item, row in zip(items.ids.tolist(), vectors, strict=True)}


def test_vectors_do_not_depend_on_order_and_batches(
    bare_store: Store, colour_archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vecstore import ingest as verb  # noqa: F401  (the module below is what is patched)
    from vecstore.encoders.fake import FakeEncoder

    rows = [(str(p.relative_to(colour_archive)),) for p in colour_archive.rglob("*.png")]
    np.random.default_rng(0).shuffle(rows)
    manifest = colour_archive / "shuffled.csv"
    try:
        with manifest.open("w", newline="") as file:
            csv.writer(file).writerows([("path",), *rows])
        monkeypatch.setattr(FakeEncoder, "batch_size", 7)
        with Store.create(tmp_path / "other.vecs") as other:
            ingest(other, manifest, encoder="fake:64", thumbnails=False)
            assert _content_vectors(other) == _content_vectors(bare_store)
    finally:
        manifest.unlink()


# Real sets


@pytest.fixture(scope="session")
def facts(shared: Path) -> dict[str, Any]:
    """Counts of the real sets."""
    found: dict[str, Any] = json.loads((shared / "facts.json").read_text(encoding="utf-8"))
    return found


def test_patient_codes_in_both_parts_leave_training(shared: Path, facts: dict[str, Any], shared_store: Opened) -> None:
    store, table = shared_store("cxr_kermany/images.zip"), shared / "cxr_kermany" / "labels.csv"
    label(store, table, task="pneumonia", key="file", value="label", split_column="split", columns=["patient"])
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    both = set(facts["cxr_kermany"]["patient_numbers_in_both_splits"])
    dropped = sum(row["split"] == "train" and row["patient"] in both for row in rows)
    data = dataset(store, "pneumonia")
    assert len(both) == 39
    assert int(data.test.sum()) == 313 and len(data) == 1003 - dropped
    assert (data.group_column, data.classes) == ("patient", ["NORMAL", "PNEUMONIA"])
    assert data.notes == [_dropped(dropped, 39)]
    together = next(group for group in _by_group(data) if "test/NORMAL/NORMAL2-IM-0095-0001.jpeg" in group)
    assert "test/NORMAL/NORMAL2-IM-0096-0001.jpeg" in together  # one picture under two patient codes


def test_a_picture_of_two_patients_makes_them_one_group(shared: Path, shared_store: Opened) -> None:
    store = shared_store("cxr_covid/images.zip")
    options: dict[str, Any] = {"task": "finding", "key": "file", "value": "finding", "columns": ["patientid"]}
    label(store, shared / "cxr_covid" / "labels.csv", **options, ignore=["todo", "Unknown"])
    data = dataset(store, "finding", min_groups=1)
    patients = store.column("patientid")
    known = {patients[item] for item in data.items.tolist()}
    both = {store.pseudonym("78"), store.pseudonym("201")} <= known
    assert data.group_column == "patientid" and len(np.unique(data.groups)) == len(known) - both
    large = dataset(store, "finding")
    sizes = Counter(large.y.tolist())
    assert len(large.classes) == len(sizes) < len(data.classes)
    assert any(note.startswith("left out, in fewer than 5 groups:") and "Lipoid" in note for note in large.notes)


def test_lesions_and_patients_are_the_groups_of_their_sets(shared: Path, shared_store: Opened) -> None:
    skin = shared_store("derm_ham10000/images.zip")
    label(skin, shared / "derm_ham10000" / "labels.csv", task="dx", key="file", value="dx", columns=["lesion_id"])
    data = dataset(skin, "dx")
    assert (data.group_column, len(np.unique(data.groups)), len(data)) == ("lesion_id", 812, 1190)
    eyes = shared_store("fundus_odir/images.zip")
    table = shared / "fundus_odir" / "labels.csv"
    label(eyes, table, task="eyes", key="file", value=list("NDGCAHMO"), columns=["patient_id"])
    data = dataset(eyes, "eyes")
    assert (data.group_column, len(np.unique(data.groups)), data.y.shape) == ("patient_id", 288, (527, 8))


def test_one_picture_in_two_classes_is_one_group(shared: Path, shared_store: Opened) -> None:
    store = shared_store("us_busi/images.zip")
    label(store, shared / "us_busi" / "labels.csv", task="t", key="file", value="label")
    data = dataset(store, "t")
    assert data.group_column is None and len(np.unique(data.groups)) == 779
    assert {"benign/benign (433).jpg", "malignant/malignant (145).jpg"} in _by_group(data)


@pytest.mark.parametrize(
    ("name", "dropped"), [("breastmnist", 1), ("breastmnist_resaved", 1), ("pneumoniamnist", 0), ("retinamnist", 0)]
)
def test_official_parts_of_medmnist_lose_what_is_also_in_test(
    facts: dict[str, Any], shared_store: Opened, name: str, dropped: int
) -> None:
    store, parts = shared_store(f"medmnist/{name}.npz"), facts[f"medmnist/{name}"]["splits"]
    data = dataset(store, name)
    n = {part: told["images"][0] for part, told in parts.items()}
    assert int(data.test.sum()) == n["test"] and int((~data.test).sum()) == n["train"] + n["val"] - dropped
    items = store.items()
    held = {
        locator for locator, item in zip(items.locators, items.ids, strict=True) if item in set(data.items.tolist())
    }
    assert ("train/00115" in held) == (not dropped) or "breast" not in name
    told = [note for note in data.notes if "dropped" in note]
    assert told == ([_dropped(1, 1)] if dropped else [])
    assert "the official val part joins training for choosing and refit" in data.notes


def test_an_error_names_ten_classes_and_how_many_more(colour_store: Store) -> None:
    rows = [(name, f"c{i:02d}") for i, name in enumerate(colour_store.items().locators)]
    _label(colour_store, rows, ("file", "label"))
    with pytest.raises(
        DataError, match=r"left out, in fewer than 5 groups: c00 \(1\), .*c09 \(1\) and 53 more\)"
    ) as told:
        dataset(colour_store, "t")
    assert len(str(told.value)) < 400
    with pytest.raises(NotFound, match=r"one of: c00, .*c09 and 53 more; "):
        dataset(colour_store, "t", classes=["c99"])
