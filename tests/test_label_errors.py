"""Label errors: planted ones are found, from whatever predictions there are, and shown beside similar cases."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from vecstore.errors import DataError, NotFound, UsageError
from vecstore.ingest import ingest
from vecstore.label import label
from vecstore.label_errors import LabelErrors, _concentrated, label_errors
from vecstore.pages import write_suspects_page
from vecstore.records import Split
from vecstore.store import Label, Store
from vecstore.train import train

COLOURS = ["blue", "green", "red"]
SHADES = {"blue": (90, 90, 170), "green": (90, 170, 90), "red": (170, 90, 90)}
WRONG = 4  # of the 63 pictures, each of another patient


@pytest.fixture(scope="session")
def clear_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 63 pictures of 21 patients whose colour can't be mistaken."""
    folder = tmp_path_factory.mktemp("clear") / "colours"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for patient in range(21):
        for view in range(3):
            noise = rng.normal(SHADES[COLOURS[patient % 3]], 40, (12, 12, 3))
            name = f"{COLOURS[patient % 3]}_{patient}_{view}.png"
            Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8)).save(folder / name)
    return folder


@pytest.fixture(scope="session")
def _clear_store(tmp_path_factory: pytest.TempPathFactory, clear_archive: Path) -> Path:
    path = tmp_path_factory.mktemp("clear") / "clear.vecs"
    with Store.create(path) as store:
        ingest(store, clear_archive, encoder="fake:64")
        names = [path.name for path in sorted(clear_archive.iterdir())]
        rows = {"file": names, "label": [name.partition("_")[0] for name in names]}
        rows["patient"] = [f"P{name.split('_')[1]}" for name in names]
        label(store, pd.DataFrame(rows), task="colour", key="file", value="label", columns=["patient"])
    return path


@pytest.fixture
def clear_store(tmp_path: Path, _clear_store: Path) -> Iterator[Store]:
    """A store of `clear_archive` with the task `colour` and the column patient, its own copy."""
    with Store(shutil.copytree(_clear_store, tmp_path / "clear.vecs")) as store:
        yield store


def _colours(store: Store) -> dict[int, str]:
    """The colour each picture really has, by its file's name."""
    items = store.items()
    return {
        item: locator.rpartition("/")[2].partition("_")[0]
        for item, locator in zip(items.ids.tolist(), items.locators, strict=True)
    }


def _part(patient: object) -> Split:
    """A third of the patients are the test part."""
    return "test" if int(str(patient)[1:]) // 3 % 3 == 2 else "train"


def _plant(store: Store, name: str = "colour", split: bool = False) -> set[int]:
    """Import colours of which a few are wrong; returns their items."""
    right = _colours(store)
    items = sorted(right)
    wrong = set(items[4 :: len(items) // WRONG][:WRONG])
    labels = []
    patient = store.column("patient")
    for item in items:
        colour = COLOURS[(COLOURS.index(right[item]) + 1) % 3] if item in wrong else right[item]
        part = _part(patient[item]) if split else None
        labels.append(Label(item, colour, 1.0, part))
    store.add_task(name, "multi-class", COLOURS, labels, {})
    return wrong


def _items(found: LabelErrors) -> list[int]:
    return [suspect.item_id for suspect in found.suspects]


def test_wrong_labels_are_found_and_the_right_ones_suggested(clear_store: Store) -> None:
    wrong = _plant(clear_store)
    found = label_errors(clear_store, "colour")
    assert found.model_id is None and "of a logistic regression made for this" in found.predictions
    assert set(_items(found)[:WRONG]) == wrong
    right = _colours(clear_store)
    for rank, suspect in enumerate(found.suspects[:WRONG], 1):
        assert (suspect.rank, suspect.suggested, suspect.label) == (rank, right[suspect.item_id], "")
        assert suspect.given == COLOURS[(COLOURS.index(suspect.suggested) + 1) % 3]
        assert 0 <= suspect.probability_given < suspect.probability_suggested <= 1
        assert 0 <= suspect.margin < 0.5
    assert (found.n, found.items, found.kind, found.pixels_read) == (63, 63, "multi-class", 0)
    assert found.found == len(found.suspects) == sum(pair["count"] for pair in found.pairs)
    assert sum(found.counts.values()) == 63


def test_suspects_that_concentrate_in_a_part_and_class_are_noted() -> None:
    # 110 normal ones of the test part, 500 of training, 400 others.
    given = np.repeat([0, 0, 1, 1], [110, 500, 100, 300])
    part = np.repeat([3, 1, 3, 1], [110, 500, 100, 300])
    suspect = np.zeros(len(given), np.bool_)
    suspect[:18] = suspect[200:203] = True
    (note,) = _concentrated(["normal", "ill"], given, suspect, part)
    assert note == (
        "18 of 21 suspects are labelled normal in the test part: 18 of 110 there, 3 of 900 elsewhere; first see what"
        " sets these labels or pictures apart"
    )
    nowhere = np.zeros(len(given), np.int64)  # labels without parts
    (note,) = _concentrated(["normal", "ill"], given, suspect, nowhere)
    assert note.startswith("21 of 21 suspects are labelled normal: 21 of 610 there, 0 of 400 elsewhere")
    suspect[:] = np.arange(len(given)) % 50 == 0
    assert _concentrated(["normal", "ill"], given, suspect, part) == []
    suspect[:] = np.arange(len(given)) < 4  # too few to say
    assert _concentrated(["normal", "ill"], given, suspect, part) == []


def test_calibrated_predictions_are_calibrated_in_every_part(clear_store: Store) -> None:
    _plant(clear_store, split=True)
    probe = train(clear_store, "colour", calibrate="platt")
    assert probe.record.part == "test" and probe.out_of_fold is not None and probe.model is not None
    seen = sorted(clear_store.seen(probe.model))
    stated = dict(zip(seen, probe.out_of_fold.probabilities.tolist(), strict=True))
    stated |= dict(zip(probe.items.tolist(), probe.probabilities.tolist(), strict=True))
    found = label_errors(clear_store, "colour", top=63)
    assert "train" in {suspect.part for suspect in found.suspects}
    for suspect in found.suspects:
        assert suspect.probability_given == stated[suspect.item_id][COLOURS.index(suspect.given)]


def test_similar_cases_are_of_either_class_and_never_of_the_own_group(clear_store: Store) -> None:
    wrong = _plant(clear_store)
    found = label_errors(clear_store, "colour", top=WRONG, neighbours=3)
    patient = clear_store.column("patient")
    labels = {one.item: one.name for one in clear_store.labels(clear_store.task("colour"))}
    for suspect in found.suspects:
        assert suspect.item_id in wrong and suspect.group == patient[suspect.item_id]
        for hits, name in ((suspect.nearest_suggested, suspect.suggested), (suspect.nearest_given, suspect.given)):
            assert [hit.rank for hit in hits] == [1, 2, 3]
            assert {labels[hit.item_id] for hit in hits} == {name} == {hit.labels["colour"] for hit in hits}
            assert patient[suspect.item_id] not in {patient[hit.item_id] for hit in hits}
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    none = label_errors(clear_store, "colour", top=2, neighbours=0)
    assert [suspect.nearest_given for suspect in none.suspects] == [[], []]
    assert len(none.suspects) == 2 < none.found


@pytest.mark.parametrize("model", ["probe", "knn"])
def test_the_predictions_of_a_stored_model_are_taken(clear_store: Store, model: str) -> None:
    wrong = _plant(clear_store)
    probe = train(clear_store, "colour", model=model)
    assert probe.model is not None
    found = label_errors(clear_store, "colour")
    assert (found.model_id, found.model, found.predictions) == (probe.model.id, model, "out-of-fold (63)")
    chance = dict(zip(probe.items.tolist(), probe.probabilities.tolist(), strict=True))
    for suspect in found.suspects:
        place = COLOURS.index(suspect.given)
        assert suspect.probability_given == pytest.approx(chance[suspect.item_id][place])
    assert len(wrong & set(_items(found)[:WRONG])) >= WRONG - 1
    assert found == label_errors(clear_store, "colour", model=probe.model.id)
    anew = label_errors(clear_store, "colour", group="patient")
    assert anew.model_id is None


@pytest.mark.parametrize("model", ["probe", "knn"])
def test_with_a_test_part_both_parts_have_predictions(clear_store: Store, model: str) -> None:
    wrong = _plant(clear_store, split=True)
    probe = train(clear_store, "colour", model=model)
    assert probe.record.part == "test"
    found = label_errors(clear_store, "colour")
    n = probe.record.n
    assert found.predictions == f"out-of-fold ({63 - n}) and test ({n})" and found.items == 63
    assert len(wrong & set(_items(found)[:WRONG])) >= WRONG - 1
    parts = {one.item: one.split for one in clear_store.labels(clear_store.task("colour"))}
    assert {suspect.part for suspect in found.suspects} == {parts[item] for item in _items(found)}
    # Whoever trained on an item has gone: what is left can't be put in order.
    assert probe.model is not None
    with clear_store.write("test", {}) as tx:
        tx.sql("DELETE FROM seen WHERE item = ?", (min(clear_store.seen(probe.model)),))
    left = label_errors(clear_store, "colour")
    assert (left.items, left.predictions) == (n, f"test ({n})")
    assert any("only the test part has predictions" in note for note in left.notes)
    assert any("have no prediction of a model that had not seen them" in note for note in left.notes)


def test_a_label_of_several_is_doubted_alone(clear_store: Store) -> None:
    right = _colours(clear_store)
    items = sorted(right)
    wrong = {(items[7], "green"), (items[31], "red"), (items[50], "blue")}
    labels = [
        Label(item, colour, float((right[item] == colour) != ((item, colour) in wrong)), None)
        for item in items
        for colour in COLOURS
        if (item, colour) != (items[0], "red")
    ]
    clear_store.add_task("many", "multi-label", COLOURS, labels, {})
    found = label_errors(clear_store, "many")
    assert (found.n, found.items) == (3 * 63 - 1, 63)
    first = {(suspect.item_id, suspect.label) for suspect in found.suspects[:3]}
    assert first == wrong
    for suspect in found.suspects[:3]:
        holds = right[suspect.item_id] == suspect.label
        assert (suspect.given, suspect.suggested) == (("no", "yes") if holds else ("yes", "no"))
        assert {hit.labels[f"many: {suspect.label}"] for hit in suspect.nearest_given} == {suspect.given}
    assert {pair["label"] for pair in found.pairs} <= set(COLOURS)


def test_at_a_level_units_are_suspect(clear_store: Store) -> None:
    right = _colours(clear_store)
    patient = clear_store.column("patient")
    labels = [
        Label(item, COLOURS[(COLOURS.index(colour) + (patient[item] == "P7")) % 3], 1.0, None)
        for item, colour in right.items()
    ]
    clear_store.add_task("colour", "multi-class", COLOURS, labels, {})
    train(clear_store, "colour", level="patient", pool="mean")
    found = label_errors(clear_store, "colour")
    assert (found.level, found.items) == ("patient", 21)
    first = found.suspects[0]
    assert (first.group, first.pictures) == ("P7", 3)
    split = [one._replace(split=_part(patient[one.item])) for one in labels]
    clear_store.add_task("colour", "multi-class", COLOURS, split, {})
    train(clear_store, "colour", level="patient", pool="mean")
    both = label_errors(clear_store, "colour")
    assert both.items == 21 and both.suspects[0].group == "P7"
    assert re.fullmatch(r"out-of-fold \(15\) and test \(6\)", both.predictions)


def test_a_model_of_older_labels_is_only_taken_when_it_is_named(clear_store: Store) -> None:
    wrong = _plant(clear_store)
    probe = train(clear_store, "colour")
    assert probe.model is not None
    right = _colours(clear_store)
    labels = [Label(item, colour, 1.0, None) for item, colour in right.items()]
    clear_store.add_task("colour", "multi-class", COLOURS, labels, {})
    now = label_errors(clear_store, "colour")
    assert now.model_id is None and not wrong & {s.item_id for s in now.suspects if s.margin < 0.2}
    then = label_errors(clear_store, "colour", model=probe.model.id)
    assert then.model_id == probe.model.id and set(_items(then)[:WRONG]) & wrong
    assert any("was imported again since" in note for note in then.notes)


def test_a_picture_that_changed_since_is_left_out(
    clear_store: Store, clear_archive: Path, tmp_path: Path, paint: Callable[[Path, str, int], None]
) -> None:
    train(clear_store, "colour")
    copy = shutil.copytree(clear_archive, tmp_path / "colours")
    changed = clear_store.items().locators[0]
    paint(copy / changed, "blue", 999)
    ingest(clear_store, copy, encoder="fake:64")
    found = label_errors(clear_store, "colour")
    assert found.items == 62
    assert "1 items have another picture than in training and are left out" in found.notes


def test_nothing_is_opened_or_written(
    clear_store: Store, names_opened: Callable[[], AbstractContextManager[list[str]]], clear_archive: Path
) -> None:
    train(clear_store, "colour")
    commit = clear_store.commit
    with names_opened() as names:
        found = label_errors(clear_store.path, "colour")
    assert not [name for name in names if str(clear_archive) in name]
    assert clear_store.refresh().commit == commit == found.commit
    told = json.loads(json.dumps(found.to_dict()))
    assert set(told) == set(LabelErrors.__dataclass_fields__)


def test_a_clean_task_has_no_doubtful_label(clear_store: Store) -> None:
    found = label_errors(clear_store, "colour")
    assert not [suspect for suspect in found.suspects if suspect.probability_given < 0.1]
    assert found.share < 0.2


def test_what_can_not_be_answered_is_refused(clear_store: Store) -> None:
    train(clear_store, "colour", model="knn")
    with pytest.raises(NotFound, match="no task 'absent'"):
        label_errors(clear_store, "absent")
    with pytest.raises(NotFound, match="no model 9 of task 'colour'"):
        label_errors(clear_store, "colour", model=9)
    with pytest.raises(UsageError, match="top = -1, neighbours = 4; expected numbers from 0"):
        label_errors(clear_store, "colour", top=-1)
    with pytest.raises(UsageError, match=r"model 1, and a space, group or where .*; leave --space, --group"):
        label_errors(clear_store, "colour", model=1, group="patient")
    ids = clear_store.items().ids.tolist()
    clear_store.add_task("few", "binary", ["n", "y"], [Label(ids[0], "y", 1.0, None)], {})
    with pytest.raises(DataError, match="at least two classes"):
        label_errors(clear_store, "few")


def test_the_page_has_every_suspect_with_its_pictures(clear_store: Store, tmp_path: Path) -> None:
    _plant(clear_store)
    found = label_errors(clear_store, "colour", top=3, neighbours=2)
    write_suspects_page(clear_store, found, tmp_path / "a.html")
    write_suspects_page(clear_store, found, tmp_path / "b.html")
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert page == (tmp_path / "b.html").read_text(encoding="utf-8")
    assert page.count('<li class="card">') == 3 and page.count("data:image/jpeg") == 3 * (1 + 2 + 2)
    shown: list[Any] = [hit for s in found.suspects for hit in (s, *s.nearest_suggested, *s.nearest_given)]
    assert all(one.locator.rpartition("/")[2] in page for one in shown)
    assert "clear.vecs" in page and str(tmp_path) not in page
    assert not re.search(r"(src|href)=[\"'](?!data:|#)", page)
    with pytest.raises(UsageError, match="its folder does not exist"):
        write_suspects_page(clear_store, found, tmp_path / "no" / "a.html")


def test_out_of_several_spaces_one_is_named(clear_store: Store, clear_archive: Path) -> None:
    ingest(clear_store, clear_archive, encoder="fake:16")
    wrong = _plant(clear_store)
    found = label_errors(clear_store, "colour", space=["fake-64", "fake-16"])
    assert found.space == "fake-64 + fake-16"
    assert "similar cases are those of the space fake-64" in found.notes
    assert len(wrong & set(_items(found)[:WRONG])) >= WRONG - 1
    assert np.isfinite([suspect.margin for suspect in found.suspects]).all()
