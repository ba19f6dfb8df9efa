"""From tables and stores to tasks: joining rules, label values, conflicts, and real tables with their traps."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pydicom.data import get_testdata_file

from vecstore.errors import Ambiguous, DataError, LabelConflict, NotFound, NotWritable, UsageError, VecstoreError
from vecstore.ingest import ingest
from vecstore.label import label
from vecstore.labelling import LabelResult
from vecstore.records import DecodeRule
from vecstore.store import Store

Paint = Callable[[Path, str, int], None]
NAMES = ("a/one.png", "a/two.png", "b/x3.png", "b/x4.png")


@pytest.fixture(scope="session")
def _four(tmp_path_factory: pytest.TempPathFactory, paint: Paint) -> Path:
    root = tmp_path_factory.mktemp("four")
    for number, name in enumerate(NAMES):
        paint(root / "archive" / name, "red", number)
    with Store.create(root / "four.vecs") as store:
        ingest(store, root / "archive", encoder="fake:64", thumbnails=False)
    return root / "four.vecs"


@pytest.fixture
def four(tmp_path: Path, _four: Path) -> Iterator[Store]:
    """Four pictures: a/one, a/two, b/x3, b/x4."""
    with Store(shutil.copytree(_four, tmp_path / "four.vecs")) as store:
        yield store


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write rows as a table: (header, rows, name, delimiter, encoding) to its path."""

    def table(rows: Sequence[Sequence[Any]], name: str = "labels.csv", delimiter: str = ",", bom: bool = False) -> Path:
        path = tmp_path / name
        with path.open("w", encoding="utf-8-sig" if bom else "utf-8", newline="") as file:
            csv.writer(file, delimiter=delimiter).writerows(rows)
        return path

    return table


def _state(store: Store) -> tuple[int, str]:
    return store.catalog.last_commit(), hashlib.sha256((store.path / "catalog.sqlite").read_bytes()).hexdigest()


def _refused(store: Store, kind: type[VecstoreError], *args: Any, **kwargs: Any) -> VecstoreError:
    """The error of an import that must leave the store as it was, to the byte."""
    before = _state(store)
    with pytest.raises(kind) as caught:
        label(store, *args, **kwargs)
    assert _state(store) == before
    assert type(caught.value) is kind
    return caught.value


def _classes(store: Store, task: str) -> dict[str, str]:
    """Locator to the class of a single-label task."""
    locators = dict(zip(store.items().ids.tolist(), store.items().locators, strict=True))
    return {locators[x.item]: x.name for x in store.labels(store.task(task)) if x.value > 0}


def _matrix(store: Store, task: str) -> dict[str, dict[str, float]]:
    locators = dict(zip(store.items().ids.tolist(), store.items().locators, strict=True))
    found: dict[str, dict[str, float]] = {}
    for x in store.labels(store.task(task)):
        found.setdefault(locators[x.item], {})[x.name] = x.value
    return found


ROWS = [("path", "kind"), *zip(NAMES, ("x", "y", "x", "y"), strict=True)]
EXPECTED = dict(ROWS[1:])


# Formats


@pytest.mark.parametrize(
    ("name", "delimiter", "bom"),
    [("l.csv", ",", False), ("l.csv", ",", True), ("l.csv", ";", True), ("l.csv", "\t", False), ("l.tsv", "\t", False)],
)
def test_a_text_table_is_read_whatever_divides_it(
    four: Store, write: Callable[..., Path], name: str, delimiter: str, bom: bool
) -> None:
    result = label(four, write(ROWS, name, delimiter, bom), task="t", key="path", value="kind")
    assert (result.matched, result.rule, result.kind) == (4, "exact locator", "binary")
    assert _classes(four, "t") == EXPECTED


def test_frames_and_parquet_are_read_like_text(four: Store, tmp_path: Path) -> None:
    columns = {name: list(values) for name, values in zip(ROWS[0], zip(*ROWS[1:], strict=True), strict=True)}
    frame = pd.DataFrame(columns)
    frame.to_parquet(tmp_path / "l.parquet")
    for table in (frame, pl.DataFrame(columns), pa.table(columns), tmp_path / "l.parquet"):
        label(four, table, task="t", key="path", value="kind")
        assert _classes(four, "t") == EXPECTED


def test_a_table_that_is_none_is_refused_and_nothing_changed(four: Store, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_bytes(b"")
    error = _refused(four, UsageError, tmp_path / "empty.csv", task="t", key="path", value="kind")
    assert str(error) == "empty.csv: the file is empty; expected a table with a header line"
    assert _refused(four, UsageError, tmp_path / "absent.csv", task="t", key="path", value="kind").exit_code == 2


def test_a_missing_column_is_named_with_those_that_there_are(four: Store, write: Callable[..., Path]) -> None:
    for wrong in ({"key": "nope"}, {"value": "nope"}, {"split_column": "nope"}, {"columns": ["nope"]}):
        error = _refused(four, UsageError, write(ROWS), task="t", **({"key": "path", "value": "kind"} | wrong))
        assert str(error) == "labels.csv: no column 'nope'; expected one of: path, kind"


@pytest.mark.parametrize("wrong", [{"key": None}, {"value": None}, {"key": ""}, {"value": []}])
def test_a_table_needs_key_and_value(four: Store, write: Callable[..., Path], wrong: dict[str, Any]) -> None:
    error = _refused(four, UsageError, write(ROWS), task="t", **({"key": "path", "value": "kind"} | wrong))
    assert "needs --key and --value" in str(error) and "--column NAME" in error.do


@pytest.mark.parametrize("name", ["", "  ", "a/b", "a\nb"])
def test_a_task_name_that_can_be_no_name_is_refused(four: Store, write: Callable[..., Path], name: str) -> None:
    assert "task name" in str(_refused(four, UsageError, write(ROWS), task=name, key="path", value="kind"))


def test_a_store_opened_at_a_commit_takes_no_labels(four: Store, write: Callable[..., Path]) -> None:
    with Store(four.path, at=four.commit) as fixed:
        assert "was opened at commit" in str(
            _refused(fixed, NotWritable, write(ROWS), task="t", key="path", value="kind")
        )


# Joining rules


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        (NAMES, "exact locator"),
        ([f"./{name}" for name in NAMES], "exact locator"),
        ([name.replace("/", "\\") for name in NAMES], "exact locator"),
        ([f"archive/{name}" for name in NAMES], "locator without a leading folder"),
        ([name.partition("/")[2] for name in NAMES], "locator without a leading folder"),
        ([f"/data/x/y/{name}" for name in NAMES], "base name"),
        ([f"/y/{name}".replace(".png", ".dcm") for name in NAMES], "stem"),
        ([name.partition("/")[2].removesuffix(".png") for name in NAMES], "stem"),
        ([name.replace(".png", ".DCM") for name in NAMES], "stem"),
    ],
)
def test_rows_are_joined_by_the_first_rule_that_fits(
    four: Store, write: Callable[..., Path], keys: Sequence[str], rule: str
) -> None:
    rows = [("path", "kind"), *zip(keys, EXPECTED.values(), strict=True)]
    result = label(four, write(rows), task="t", key="path", value="kind")
    assert (result.rule, result.matched, result.unmatched_rows) == (rule, 4, 0)
    assert _classes(four, "t") == EXPECTED


@pytest.mark.parametrize("key", ["item", "item_id"])
def test_rows_are_joined_by_item_id(four: Store, key: str) -> None:
    table = pd.DataFrame({key: four.items().ids, "kind": list(EXPECTED.values())})
    result = label(four, table, task="t", key=key, value="kind")
    assert result.rule == "item id"
    assert _classes(four, "t") == EXPECTED


def test_the_first_rule_that_fits_is_taken_for_all_rows_and_the_others_are_counted(
    four: Store, write: Callable[..., Path]
) -> None:
    rows = [("path", "kind"), ("a/one.png", "x"), ("b/x3.png", "y"), ("two.png", "y"), ("x3.png", "x"), ("x4.png", "y")]
    result = label(four, write(rows), task="t", key="path", value="kind")
    assert (result.rule, result.matched, result.unmatched_rows) == ("exact locator", 2, 3)
    assert result.examples["unmatched_rows"] == ["two.png", "x3.png", "x4.png"]
    assert _classes(four, "t") == {"a/one.png": "x", "b/x3.png": "y"}


@pytest.mark.parametrize("keys", [("c/one.png", "c/two.png"), ("c/one", "c/two"), ("z/c/one.png", "z/c/two.png")])
def test_a_key_never_joins_a_picture_of_another_folder(
    four: Store, write: Callable[..., Path], keys: tuple[str, str]
) -> None:
    table = write([("path", "kind"), (keys[0], "x"), (keys[1], "y")])
    error = _refused(four, DataError, table, task="t", key="path", value="kind")
    assert "no row of labels.csv gives an item a label (2 rows" in error.fact


def test_rows_of_another_folder_are_unmatched_beside_rows_that_fit(four: Store, write: Callable[..., Path]) -> None:
    others = [(name.replace("a/", "c/").replace("b/", "d/"), "x") for name in NAMES]
    result = label(four, write([*ROWS, *others]), task="t", key="path", value="kind")
    assert (result.rule, result.matched, result.unmatched_rows) == ("exact locator", 4, 4)
    assert _classes(four, "t") == EXPECTED


def test_two_folders_of_a_table_can_not_both_be_a_flat_archive(
    tmp_path: Path, paint: Paint, write: Callable[..., Path]
) -> None:
    for number in range(4):
        paint(tmp_path / "train" / f"{number}.png", "red", number)
    with Store.create(tmp_path / "s.vecs") as store:
        ingest(store, tmp_path / "train", encoder="fake:64", thumbnails=False)
        rows = [(f"{part}/{n}.png", "xy"[n % 2]) for part in ("train", "test") for n in range(4)]
        table = write([("path", "kind"), *rows])
        error = _refused(store, Ambiguous, table, task="t", key="path", value="kind")
        assert "the keys 'train/0.png' and 'test/0.png' both fit 0.png" in error.fact
        absolute = write([("path", "kind"), *((f"/data/{path}", kind) for path, kind in rows)])
        result = label(store, absolute, task="t", key="path", value="kind")
        assert (result.rule, result.matched, result.unmatched_rows) == ("base name", 4, 4)


def test_rows_are_joined_by_an_item_column_and_one_row_labels_all_its_items(
    colour_store: Store, write: Callable[..., Path]
) -> None:
    rows = [("patient", "fate"), *((f"P{n}", "good" if n % 2 else "bad") for n in range(21))]
    result = label(colour_store, write(rows), task="fate", key="patient", value="fate")
    assert (result.rule, result.matched, result.counts) == ("column patient", 63, {"bad": 33, "good": 30})
    renamed = write([("case no", "fate"), *rows[1:]])
    again = label(colour_store, renamed, task="again", key="case no=PATIENT", value="fate")
    assert (again.rule, again.counts) == ("column patient", result.counts)
    error = _refused(colour_store, NotFound, renamed, task="x", key="case no=nope", value="fate")
    assert "no column 'nope'" in str(error) and "patient" in error.expected


def test_a_number_joins_a_number_however_it_is_written(colour_store: Store) -> None:
    table = pd.DataFrame({"age": [40.0, 41.0, None], "kind": ["x", "y", "x"]})
    result = label(colour_store, table, task="t", key="age", value="kind")
    assert (result.rule, result.matched, result.unmatched_rows) == ("column age", 6, 1)


def test_a_patient_id_finds_the_pseudonym_that_stands_for_it(tmp_path: Path, write: Callable[..., Path]) -> None:
    (tmp_path / "archive").mkdir()
    for name in ("CT_small.dcm", "MR_small.dcm"):
        shutil.copy(get_testdata_file(name), tmp_path / "archive" / name)
    with Store.create(tmp_path / "dicom.vecs") as store:
        ingest(store, tmp_path / "archive", encoder="fake:64", thumbnails=False)
        assert "1CT1" not in store.column("PatientID").values()
        rows = [("id", "kind"), ("1CT1", "ct"), ("4MR1", "mr"), ("unheard of", "mr")]
        for key in ("id=PatientID", "PatientID"):
            table = write([(key.partition("=")[0], "kind"), *rows[1:]])
            result = label(store, table, task="t", key=key, value="kind")
            assert (result.rule, result.matched, result.unmatched_rows) == ("column PatientID", 2, 1)
            assert _classes(store, "t") == {"CT_small.dcm": "ct", "MR_small.dcm": "mr"}
        before = store.column("PatientID")
        known = dict(zip(store.items().locators, before.values(), strict=True))
        # A table's own column PatientID says the same, whether it has the ids or what was exported of them.
        for ids in (("1CT1", "4MR1"), tuple(known.values())):
            own = zip(known, ("ct", "mr"), ids, strict=True)
            table = write([("path", "kind", "patientid"), *own])
            label(store, table, task="u", key="path", value="kind", columns="patientid")
            assert store.column("PatientID") == before
        assert b"1CT1" not in (store.path / "catalog.sqlite").read_bytes()


def test_a_decomposed_name_in_the_table_finds_the_composed_locator(
    tmp_path: Path, paint: Paint, write: Callable[..., Path]
) -> None:
    names = ["röntgen.png", "cafe\u0301.png"]
    for number, name in enumerate(names):
        paint(tmp_path / "archive" / name, "red", number)
    with Store.create(tmp_path / "s.vecs") as store:
        ingest(store, tmp_path / "archive", encoder="fake:64", thumbnails=False)
        for form in ("NFC", "NFD"):
            rows = [(unicodedata.normalize(form, name), kind) for name, kind in zip(names, "xy", strict=True)]
            result = label(store, write([("path", "kind"), *rows]), task="t", key="path", value="kind")
            assert (result.matched, result.rule) == (2, "exact locator")


def test_members_of_an_archive_in_the_archive_are_found_by_their_own_path(
    tmp_path: Path, paint: Paint, write: Callable[..., Path]
) -> None:
    for number, name in enumerate(("x/1.png", "y/1.png")):
        paint(tmp_path / "packed" / name, "red", number)
    shutil.make_archive(str(tmp_path / "archive" / "set"), "zip", tmp_path / "packed")
    with Store.create(tmp_path / "s.vecs") as store:
        ingest(store, tmp_path / "archive", encoder="fake:64", thumbnails=False)
        assert store.items().locators == ["set.zip!x/1.png", "set.zip!y/1.png"]
        rows = [("path", "kind"), ("x/1.png", "x"), ("y/1.png", "y")]
        result = label(store, write(rows), task="t", key="path", value="kind")
        assert (result.matched, result.rule) == (2, "locator without a leading folder")
        assert _classes(store, "t") == {"set.zip!x/1.png": "x", "set.zip!y/1.png": "y"}


def test_every_frame_of_a_file_gets_the_label_of_the_file(
    tmp_path: Path, shared: Path, write: Callable[..., Path]
) -> None:
    (tmp_path / "archive").mkdir()
    for name in ("multipage.tiff", "plain.jpg"):
        shutil.copy(shared / "messy" / name, tmp_path / "archive" / name)
    with Store.create(tmp_path / "s.vecs", DecodeRule(frames="all")) as store:
        ingest(store, tmp_path / "archive", encoder="fake:64", thumbnails=False)
        frames = [name for name in store.items().locators if name.startswith("multipage")]
        assert len(frames) > 1
        rows = [("path", "kind"), ("multipage", "x"), ("plain", "y")]
        result = label(store, write(rows), task="t", key="path", value="kind")
        assert (result.rule, result.counts) == ("stem", {"x": len(frames), "y": 1})


@pytest.fixture
def alike(tmp_path: Path, paint: Paint) -> Iterator[Store]:
    """a/1.png, b/1.png; c/d/3.png, c/e/3.png; b/2.png, b/2.jpg: base names and stems that stand for two."""
    for number, name in enumerate(("a/1.png", "b/1.png", "b/2.png", "b/2.jpg", "c/d/3.png", "c/e/3.png")):
        paint(tmp_path / "archive" / name, "red", number)
    with Store.create(tmp_path / "alike.vecs") as store:
        ingest(store, tmp_path / "archive", encoder="fake:64", thumbnails=False)
        yield store


@pytest.mark.parametrize(
    ("key", "rule", "examples"),
    [
        ("1.png", "locator without a leading folder", "archive: a/1.png, archive: b/1.png"),
        ("3.png", "base name", "archive: c/d/3.png, archive: c/e/3.png"),
        ("2", "stem", "archive: b/2.jpg, archive: b/2.png"),
    ],
)
def test_a_key_that_fits_two_pictures_is_refused_with_both_of_them(
    alike: Store, write: Callable[..., Path], key: str, rule: str, examples: str
) -> None:
    table = write([("name", "kind"), (key, "x"), ("else", "y")])
    error = _refused(alike, Ambiguous, table, task="t", key="name", value="kind")
    assert f"fits 2 items by {rule}: {examples}" in error.fact
    assert error.do == "name a column with the path relative to the archive: --key COLUMN"


def test_one_locator_in_two_archives_is_refused_until_one_is_named(
    bare_store: Store, tmp_path: Path, paint: Paint, write: Callable[..., Path]
) -> None:
    name = bare_store.items().locators[0]
    paint(tmp_path / "other" / name, "blue", 9)
    paint(tmp_path / "other" / "b.png", "red", 10)
    ingest(bare_store, tmp_path / "other", encoder="fake:64", thumbnails=False)
    table = write([("path", "kind"), (name, "x"), ("b.png", "y")])
    error = _refused(bare_store, Ambiguous, table, task="t", key="path", value="kind")
    assert f"colours: {name}, other: {name}" in error.fact and error.do == "name the archive: --source NAME"
    result = label(bare_store, table, task="t", key="path", value="kind", source="OTHER")
    assert (result.matched, result.unlabelled_items) == (2, 0)
    assert _refused(bare_store, NotFound, table, task="t", key="path", value="kind", source="third").exit_code == 2


def test_rows_that_fit_nothing_and_items_without_row_are_counted_with_examples(
    four: Store, write: Callable[..., Path]
) -> None:
    rows = [*ROWS[:3], ("gone.png", "x"), ("", "y"), ("b/x3.png", "")]
    result = label(four, write(rows), task="t", key="path", value="kind")
    assert (result.matched, result.unmatched_rows, result.unlabelled_items, result.empty_rows) == (2, 2, 2, 1)
    assert result.examples == {"unmatched_rows": ["gone.png", ""], "unlabelled_items": ["b/x3.png", "b/x4.png"]}
    counted = four.log()[-1]["counts"]
    assert {name: counted[name] for name in ("task", "matched", "unmatched_rows", "unlabelled_items")} == {
        "task": "t",
        "matched": 2,
        "unmatched_rows": 2,
        "unlabelled_items": 2,
    }


def test_a_table_that_fits_nothing_is_refused_with_keys_that_would_fit(four: Store, write: Callable[..., Path]) -> None:
    error = _refused(four, DataError, write([("path", "kind"), ("z", "x")]), task="t", key="path", value="kind")
    assert error.exit_code == 1
    assert "no row of labels.csv gives an item a label (1 rows" in error.fact
    assert "'a/one.png'" in error.expected and "--key COLUMN" in error.do


def test_keys_that_fit_rows_without_a_label_are_told(four: Store, write: Callable[..., Path]) -> None:
    rows = [("path", "kind", "more"), (NAMES[0], "", "0"), (NAMES[1], "none", ""), ("z", "x", "1")]
    fact = "no row of labels.csv gives an item a label: 2 of 3 keys fit (rule: exact locator), but the column 'kind' is"
    error = _refused(four, DataError, write(rows), task="t", key="path", value="kind", ignore="none")
    assert error.fact == f"{fact} empty there (or ignored, or uncertain)"
    assert error.do == "name the column that holds them: --value COLUMN"
    error = _refused(four, DataError, write([*rows[:2], rows[3]]), task="t", key="path", value="kind")
    assert error.fact == f"{fact.replace('2 of 3', '1 of 2')} empty there"


# Values


def _values(store: Store, values: Sequence[Any], **options: Any) -> LabelResult:
    table = pl.DataFrame({"path": list(NAMES), "kind": list(values)}, strict=False)
    return label(store, table, task="t", key="path", value="kind", **options)


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        ([0, 1, 1, 0], "binary", ["0", "1"]),
        ([1.0, 0.0, 1.0, None], "binary", ["0", "1"]),
        (["1.0", "0", "1", "0.0"], "binary", ["0", "1"]),
        ([True, False, True, False], "binary", ["false", "true"]),
        (["yes", "no", "no", "yes"], "binary", ["no", "yes"]),
        (["yes", "absent", "absent", "zz"], "multi-class", ["absent", "yes", "zz"]),
        (["TRUE", "zz", "zz", "zz"], "binary", ["zz", "TRUE"]),
        (["10", "9", "9", "1"], "multi-class", ["1", "9", "10"]),
        (["benign", "malignant", "benign", "malignant"], "binary", ["benign", "malignant"]),
    ],
)
def test_values_are_canonical_and_the_positive_class_is_last(
    four: Store, values: Sequence[Any], kind: str, classes: list[str]
) -> None:
    result = _values(four, values)
    assert (result.kind, result.classes) == (kind, classes)
    assert four.task("t").positive == (classes[-1] if kind == "binary" else None)


def test_a_positive_value_makes_all_others_negative(four: Store) -> None:
    result = _values(four, ["a", "b", "c", "c"], positive="b")
    assert (result.kind, result.classes, result.counts) == ("binary", ["not b", "b"], {"not b": 3, "b": 1})
    assert _values(four, ["a", "b", "a", "a"], positive="a").classes == ["b", "a"]
    assert _values(four, [1.0, 2.0, 2.0, 3.0], positive="2.0").counts == {"not 2": 2, "2": 2}
    with pytest.raises(NotFound, match="no item has the value 'z'; expected one of: a, b"):
        _values(four, ["a", "b", "a", "a"], positive="z")


def _flags(store: Store, a: Sequence[Any], b: Sequence[Any], **options: Any) -> LabelResult:
    table = pl.DataFrame({"path": list(NAMES), "A": list(a), "B": list(b)}, strict=False)
    return label(store, table, task="t", key="path", value=["A", "B"], **options)


@pytest.mark.parametrize(
    ("policy", "of_uncertain"), [("ignore", {}), ("ones", {"A": 1.0}), ("zeros", {"A": 0.0})], ids=lambda v: str(v)
)
@pytest.mark.parametrize("word", [-1.0, "u", "Uncertain"])
def test_uncertain_labels_are_unknown_positive_or_negative_as_asked(
    four: Store, policy: str, of_uncertain: dict[str, float], word: object
) -> None:
    texts = [str(word), "1", "0", ""]
    result = _flags(four, texts, [0, 1, str(word), None], uncertain_policy=policy)
    known = {"ignore": {}, "ones": {"B": 1.0}, "zeros": {"B": 0.0}}[policy]
    assert _matrix(four, "t") == {
        NAMES[0]: of_uncertain | {"B": 0.0},
        NAMES[1]: {"A": 1.0, "B": 1.0},
        NAMES[2]: {"A": 0.0} | known,
    }
    assert (result.uncertain, result.uncertain_policy, result.matched, result.empty_rows) == (2, policy, 3, 1)
    told = four.task("t").provenance
    assert (told["uncertain"], told["uncertain_policy"]) == (["-1", "u", "uncertain"], policy)


def test_uncertain_values_can_be_named_and_then_no_other_means_it(four: Store) -> None:
    result = _flags(four, ["maybe", "1", "0", "1"], [0, 1, 1, 0], uncertain="Maybe", uncertain_policy="zeros")
    assert (result.uncertain, _matrix(four, "t")[NAMES[0]]) == (1, {"A": 0.0, "B": 0.0})
    error = _refused(
        four,
        UsageError,
        pl.DataFrame({"path": list(NAMES), "A": ["-1", "1", "0", "1"], "B": [0, 1, 1, 0]}),
        task="t",
        key="path",
        value=["A", "B"],
        uncertain="maybe",
    )
    assert error.fact == "DataFrame: -1 in the columns A, B"
    assert error.do == "give one column, or say what a value means: --ignore VALUE, --uncertain VALUE"
    # What is ignored is not uncertain.
    assert _flags(four, ["-1", "1", "0", "1"], [0, 1, 1, 0], ignore="-1", uncertain_policy="ones").counts["A"] == 2
    assert NAMES[0] in _matrix(four, "t") and "A" not in _matrix(four, "t")[NAMES[0]]


def test_an_uncertain_row_does_not_contradict_a_certain_one(four: Store) -> None:
    table = pl.DataFrame({"path": [*NAMES, NAMES[0]], "A": [1, 0, 1, 0, -1], "B": [0, 1, 0, 1, 0]})
    error = _refused(four, LabelConflict, table, task="t", key="path", value=["A", "B"], uncertain_policy="zeros")
    assert "1 items have rows that disagree (joined by exact locator): a/one.png" in error.fact
    result = label(four, table, task="t", key="path", value=["A", "B"], uncertain_policy="ones")
    assert (result.conflicts, _matrix(four, "t")[NAMES[0]]) == (0, {"A": 1.0, "B": 0.0})


def test_uncertain_values_of_one_column_take_the_tasks_own_two_classes(four: Store) -> None:
    values = ["sick", "well", "maybe", "well"]
    assert _values(four, values, uncertain="maybe").counts == {"sick": 1, "well": 2}
    ones = _values(four, values, uncertain="maybe", uncertain_policy="ones", positive="sick")
    assert (ones.classes, ones.counts, ones.uncertain) == (["well", "sick"], {"well": 2, "sick": 2}, 1)
    zeros = _values(four, values, uncertain="maybe", uncertain_policy="zeros", positive="sick")
    assert zeros.counts == {"well": 3, "sick": 1}
    assert _values(four, [1, 0, -1, 0], uncertain="-1", uncertain_policy="ones").counts == {"1": 2, "0": 2}
    more = pl.DataFrame({"path": [NAMES[3]], "kind": ["-1"]})
    options: dict[str, Any] = {"key": "path", "value": "kind", "uncertain": "-1", "add": True}
    label(four, more, task="t", uncertain_policy="ones", **options)
    assert _classes(four, "t")[NAMES[3]] == "1"


@pytest.mark.parametrize(
    ("values", "options", "fact"),
    [
        (
            ["a", "b", "c", "u"],
            {"uncertain": "u", "uncertain_policy": "ones"},
            "--uncertain-policy ones for a task with 3 certain classes (a, b, c)",
        ),
        (
            ["a", "a", "u", "u"],
            {"uncertain": "u", "uncertain_policy": "zeros"},
            "--uncertain-policy zeros for a task with 1 certain classes (a)",
        ),
        (
            ["a", "b", "a", "b"],
            {"uncertain_policy": "ones"},
            "--uncertain-policy ones without a value that means uncertain",
        ),
        (
            ["a;b", "b", "a", "u"],
            {"delimiter": ";", "uncertain": "u", "uncertain_policy": "ones"},
            "--uncertain-policy ones with names in a cell",
        ),
        (["a", "b", "a", "b"], {"uncertain_policy": "half"}, "uncertain_policy='half'"),
    ],
)
def test_a_policy_that_says_nothing_is_refused(
    four: Store, values: list[str], options: dict[str, str], fact: str
) -> None:
    table = pl.DataFrame({"path": list(NAMES), "kind": values})
    error = _refused(four, UsageError, table, task="t", key="path", value="kind", **options)
    assert error.fact == fact and error.expected


def test_uncertain_cells_of_names_are_unlabelled(four: Store) -> None:
    result = _values(four, ["a;b", "b", "a", "u"], delimiter=";", uncertain="u")
    assert (result.classes, result.matched, result.uncertain, result.empty_rows) == (["a", "b"], 3, 1, 1)


def test_ignored_values_are_as_empty(four: Store) -> None:
    result = _values(four, ["a", "b", "todo", "Unknown"], ignore=["todo", "Unknown"])
    assert (result.matched, result.empty_rows, result.unlabelled_items, result.classes) == (2, 2, 2, ["a", "b"])
    # A text is one value, not its letters.
    assert _values(four, ["a", "b", "o", "todo"], ignore="todo").classes == ["a", "b", "o"]


def test_one_class_is_no_task(four: Store) -> None:
    before = _state(four)
    with pytest.raises(DataError, match="every labelled item has the value 'x'; expected at least two classes"):
        _values(four, ["x", "x", None, "x"])
    assert _state(four) == before


def test_several_columns_are_a_label_each_and_empty_is_not_known(four: Store, write: Callable[..., Path]) -> None:
    rows = [
        ("path", "A", "B"),
        (NAMES[0], "1", "0"),
        (NAMES[1], "1.0", ""),
        (NAMES[2], "yes", "FALSE"),
        (NAMES[3], "", ""),
    ]
    result = label(four, write(rows), task="t", key="path", value=["A", "B"])
    assert (result.kind, result.classes, result.counts, result.empty_rows) == ("multi-label", ["A", "B"], {"A": 3}, 1)
    assert _matrix(four, "t") == {
        NAMES[0]: {"A": 1, "B": 0},
        NAMES[1]: {"A": 1},
        NAMES[2]: {"A": 1, "B": 0},
    }


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"value": ["A", "C"]}, "2 in the columns A, C"),
        ({"value": ["A", "a"]}, "a label column is named twice"),
        ({"value": ["A", "B"], "delimiter": ";"}, "--delimiter ';' with the columns A, B"),
        ({"value": ["A", "B"], "positive": "1"}, "--positive 1 with several labels per picture"),
        ({"value": "A", "delimiter": ""}, "--delimiter is empty"),
        ({"value": "A", "on_conflict": "last"}, "on_conflict='last'"),
    ],
)
def test_what_several_labels_can_not_be_is_refused(
    four: Store, write: Callable[..., Path], options: dict[str, Any], fact: str
) -> None:
    rows = [("path", "A", "B", "C"), (NAMES[0], "1", "0", "2"), (NAMES[1], "0", "1", "0")]
    error = _refused(four, UsageError, write(rows), task="t", key="path", **options)
    assert fact in str(error) and error.expected


def test_a_delimiter_makes_a_set_of_names(four: Store) -> None:
    result = _values(four, ["a;b", "b; a;b", "", "c;todo"], delimiter=";", ignore=["todo"])
    assert (result.kind, result.classes, result.empty_rows) == ("multi-label", ["a", "b", "c"], 1)
    assert result.counts == {"a": 2, "b": 2, "c": 1}
    assert _matrix(four, "t")[NAMES[3]] == {"a": 0, "b": 0, "c": 1}


def test_names_that_look_like_flags_are_names_after_a_delimiter(four: Store) -> None:
    _values(four, ["0;1", "1", "0", "0"], delimiter=";")
    assert _matrix(four, "t") == {
        NAMES[0]: {"0": 1, "1": 1},
        NAMES[1]: {"0": 0, "1": 1},
        NAMES[2]: {"0": 1, "1": 0},
        NAMES[3]: {"0": 1, "1": 0},
    }


def test_parts_are_normalised_and_others_refused(four: Store, write: Callable[..., Path]) -> None:
    parts = ("Training", "dev", "TEST", "")
    rows = [("path", "kind", "part"), *((*row, part) for row, part in zip(ROWS[1:], parts, strict=True))]
    label(four, write(rows), task="t", key="path", value="kind", split_column="part")
    found = {x.item: x.split for x in four.labels(four.task("t"))}
    places = dict(zip(four.items().locators, four.items().ids.tolist(), strict=True))
    assert [found[places[name]] for name in NAMES] == ["train", "val", "test", None]
    rows[1] = (*ROWS[1], "fold 3")
    error = _refused(four, UsageError, write(rows), task="t", key="path", value="kind", split_column="part")
    assert str(error) == "labels.csv: the split 'fold 3'; expected train, val or test; check --split-column"


# Conflicts


DISAGREEING = [("path", "kind"), *ROWS[1:], (NAMES[0], "y"), (NAMES[1], "y"), (NAMES[2], "")]


def test_rows_that_disagree_are_refused_with_both_values(four: Store, write: Callable[..., Path]) -> None:
    error = _refused(four, LabelConflict, write(DISAGREEING), task="t", key="path", value="kind")
    assert error.fact == "labels.csv: 1 items have rows that disagree (joined by exact locator): a/one.png (x / y)"
    assert error.do == "choose: --on-conflict first or drop, or any with --positive VALUE" and error.exit_code == 2
    assert error.facts["items"] == [1]
    table = write(DISAGREEING)
    error = _refused(four, LabelConflict, table, task="t", key="path", value="kind", positive="y")
    assert error.do == "choose: --on-conflict first, any or drop"
    flags = [("path", "kind"), *((name, {"x": "0", "y": "yes"}.get(kind, kind)) for name, kind in DISAGREEING[1:])]
    error = _refused(four, LabelConflict, write(flags), task="t", key="path", value="kind")
    assert error.do == "choose: --on-conflict first, any or drop"


def test_conflicts_are_resolved_as_asked(four: Store, write: Callable[..., Path]) -> None:
    table = write(DISAGREEING)
    found = {}
    for rule in ("first", "drop", "any"):
        positive = "y" if rule == "any" else None
        result = label(four, table, task="t", key="path", value="kind", on_conflict=rule, positive=positive)
        assert (result.conflicts, result.empty_rows) == (1, 1)
        found[rule] = _classes(four, "t").get(NAMES[0])
    assert found == {"first": "x", "drop": None, "any": "y"}
    error = _refused(four, UsageError, table, task="t", key="path", value="kind", on_conflict="any")
    assert error.do == "name it: --positive VALUE, or choose first or drop"


def test_measured_values_that_become_classes_are_noted(four: Store, write: Callable[..., Path]) -> None:
    def notes(*values: str) -> list[str]:
        table = write([("path", "kind"), *zip(NAMES, values, strict=False)])
        return label(four, table, task="t", key="path", value="kind").notes

    told = "the 3 classes are numbers with fractions: if they are measured, import bands of them instead"
    assert notes("0.15", "0.25", "1") == [told]
    assert notes("1", "2", "3") == notes("0.5", "2", "x") == notes("0.5", "1.5") == []


def test_any_takes_every_label_that_a_row_has(four: Store, write: Callable[..., Path]) -> None:
    rows = [("path", "A", "B", "C"), (NAMES[0], "1", "0", ""), (NAMES[0], "0", "no", ""), (NAMES[1], "0", "1", "1")]
    label(four, write(rows), task="t", key="path", value=["A", "B", "C"], on_conflict="any")
    assert _matrix(four, "t") == {NAMES[0]: {"A": 1, "B": 0}, NAMES[1]: {"A": 0, "B": 1, "C": 1}}
    names = [("path", "names"), (NAMES[0], "a;b"), (NAMES[0], "c"), (NAMES[1], "a")]
    label(four, write(names), task="t", key="path", value="names", delimiter=";", on_conflict="any")
    assert _matrix(four, "t")[NAMES[0]] == {"a": 1, "b": 1, "c": 1}


def test_equal_values_in_other_words_do_not_conflict(four: Store, write: Callable[..., Path]) -> None:
    rows = [("path", "A", "B"), (NAMES[0], "1", "no"), (NAMES[0], "true", "0.0"), (NAMES[1], "0", "1")]
    assert label(four, write(rows), task="t", key="path", value=["A", "B"]).conflicts == 0


def test_two_parts_of_one_item_conflict_and_have_no_union(four: Store, write: Callable[..., Path]) -> None:
    rows = [("path", "kind", "part"), (NAMES[0], "1", "train"), (NAMES[0], "1", "test"), (NAMES[1], "0", "train")]
    options: dict[str, Any] = {"task": "t", "key": "path", "value": "kind", "split_column": "part"}
    error = _refused(four, LabelConflict, write(rows), **options)
    assert "a/one.png (1 (test) / 1 (train))" in str(error) and error.do == "choose: --on-conflict first or drop"
    error = _refused(four, LabelConflict, write(rows), **options, on_conflict="any")
    assert "name different parts: a/one.png" in str(error) and error.do == "choose: --on-conflict first or drop"
    assert label(four, write(rows), **options, on_conflict="first").matched == 2


# Columns


def test_columns_keep_the_type_that_all_their_values_have(four: Store, write: Callable[..., Path]) -> None:
    rows = [
        ("path", "kind", "id", "age", "mm", "source"),
        *((*row, f"00{n}", str(50 + n), f"{n}.5", "x") for n, row in enumerate(ROWS[1:])),
    ]
    table = write(rows)
    result = label(four, table, task="t", key="path", value="kind", columns=["id", "AGE", "mm", "source"])
    assert four.columns() == {"age": "INTEGER", "id": "TEXT", "labels.csv_source": "TEXT", "mm": "REAL"}
    assert result.columns == ["id", "age", "mm", "labels.csv_source"]
    assert sorted(map(str, four.column("id").values())) == ["000", "001", "002", "003"]
    assert len(four.select("age > 51 and mm < 3")) == 1


def test_a_single_column_may_be_given_as_text(four: Store, write: Callable[..., Path]) -> None:
    table = write([(*row, "z") for row in ROWS])
    assert label(four, table, task="t", key="path", value="kind", columns="z").columns == ["z"]


def test_rows_that_differ_in_a_column_are_counted_and_the_first_value_stays(
    four: Store, write: Callable[..., Path]
) -> None:
    rows = [
        ("path", "kind", "age"),
        (NAMES[0], "x", "50"),
        (NAMES[0], "x", "60"),
        (NAMES[1], "y", ""),
        (NAMES[1], "y", "7"),
    ]
    result = label(four, write(rows), task="t", key="path", value="kind", columns=["age"])
    assert result.differing_values == {"age": 1}
    assert set(four.column("age").values()) == {7, 50}


def test_values_that_do_not_fit_the_type_of_a_column_widen_it_and_that_is_told(
    four: Store, write: Callable[..., Path]
) -> None:
    ages = [("path", "kind", "age"), *((*row, "50") for row in ROWS[1:])]
    assert label(four, write(ages), task="t", key="path", value="kind", columns=["age"]).columns_widened == {}
    ages[1] = (*ROWS[1], "unknown")
    result = label(four, write(ages), task="t", key="path", value="kind", columns=["age"])
    assert result.columns_widened == {"age": "TEXT"}
    assert list(four.column("age").values()) == ["unknown", "50", "50", "50"]


def test_an_item_column_can_be_the_label_and_another_the_part(colour_store: Store, colour_labels: Path) -> None:
    result = label(colour_store, task="sex", column="SEX")
    assert (result.rule, result.kind, result.classes, result.matched) == ("item column", "binary", ["F", "M"], 63)
    label(colour_store, colour_labels, task="c", key="file", value="label", columns=["part"])
    label(colour_store, task="sex", column="sex", split_column="part")
    assert Counter(x.split for x in colour_store.labels(colour_store.task("sex"))) == {"train": 45, "test": 18}
    for wrong in ({"table": colour_labels}, {"key": "file"}, {"value": "sex"}, {"columns": ["age"]}):
        assert "no table" in str(_refused(colour_store, UsageError, task="t", column="sex", **wrong))
    assert "no column 'nope'" in str(_refused(colour_store, NotFound, task="t", column="nope"))


# Importing again


def test_an_import_replaces_the_task_and_the_old_one_stays_in_its_snapshot(four: Store) -> None:
    _values(four, ["x", "y", "x", "y"])
    first = four.commit
    _values(four, ["u", "v", "w", None])
    assert four.commit == first + 1
    assert set(_classes(four, "t").values()) == {"u", "v", "w"}
    with Store(four.path, at=first) as before:
        assert _classes(before, "t") == EXPECTED
        assert before.task("t").classes == ["x", "y"]


def _add(store: Store, name: str, value: str, **options: Any) -> LabelResult:
    table = pl.DataFrame({"path": [name], "kind": [value]})
    return label(store, table, task="T", key="path", value="kind", add=True, **options)


def test_add_extends_a_task_even_by_one_class_alone(four: Store) -> None:
    _values(four, ["x", "y", None, None])
    result = _add(four, NAMES[2], "x")
    assert (result.matched, result.unlabelled_items, result.classes, result.kind) == (3, 1, ["x", "y"], "binary")
    assert _classes(four, "t") == {NAMES[0]: "x", NAMES[1]: "y", NAMES[2]: "x"}
    assert result.counts == {"x": 2, "y": 1}


def test_add_keeps_labels_of_items_without_a_picture_at_the_moment(
    tmp_path: Path, paint: Paint, write: Callable[..., Path]
) -> None:
    for number, name in enumerate(NAMES):
        paint(tmp_path / "archive" / name, "red", number)
    with Store.create(tmp_path / "s.vecs") as store:
        ingest(store, tmp_path / "archive", encoder="fake:64", thumbnails=False)
        label(store, write(ROWS[:4]), task="t", key="path", value="kind")
        whole = (tmp_path / "archive" / NAMES[0]).read_bytes()
        (tmp_path / "archive" / NAMES[0]).write_bytes(whole[:60])
        ingest(store, tmp_path / "archive", encoder="fake:64", thumbnails=False)
        assert NAMES[0] not in store.items().locators
        result = label(store, write([ROWS[0], ROWS[4]]), task="t", key="path", value="kind", add=True)
        assert result.matched == 3
        (tmp_path / "archive" / NAMES[0]).write_bytes(whole)
        ingest(store, tmp_path / "archive", encoder="fake:64", thumbnails=False, retry="also")
        assert _classes(store, "t") == EXPECTED


def test_add_knows_what_is_not_the_positive_class(four: Store) -> None:
    _values(four, ["a", "b", "c", None], positive="b")
    _add(four, NAMES[3], "something new")
    assert _classes(four, "t") == {NAMES[0]: "not b", NAMES[1]: "b", NAMES[2]: "not b", NAMES[3]: "not b"}


def test_add_takes_columns_in_any_order_and_number(four: Store) -> None:
    table = pl.DataFrame({"path": NAMES[:2], "A": [1, 0], "B": [0, 1]})
    label(four, table, task="t", key="path", value=["A", "B"])
    more = pl.DataFrame({"path": NAMES[2:3], "A": [1], "B": [0]})
    label(four, more, task="t", key="path", value=["B", "A"], add=True)
    label(
        four,
        pl.DataFrame({"path": NAMES[3:], "names": ["A;B"]}),
        task="t",
        key="path",
        value="names",
        delimiter=";",
        add=True,
    )
    assert _matrix(four, "t") == {
        NAMES[0]: {"A": 1, "B": 0},
        NAMES[1]: {"A": 0, "B": 1},
        NAMES[2]: {"A": 1, "B": 0},
        NAMES[3]: {"A": 1, "B": 1},
    }


@pytest.mark.parametrize("options", [{}, {"delimiter": ";"}, {"positive": "z"}])
def test_add_refuses_what_the_task_has_no_place_for(four: Store, options: dict[str, str]) -> None:
    _values(four, ["x", "y", None, None])
    table = pl.DataFrame({"path": [NAMES[2]], "kind": ["z"]})
    error = _refused(four, UsageError, table, task="t", key="path", value="kind", add=True, **options)
    assert "has the classes z" in error.fact
    assert error.expected == "binary with x, y, as task 't' has"
    assert error.do == "import without --add to replace the task"


def test_add_needs_a_task(four: Store) -> None:
    table = pl.DataFrame({"path": [NAMES[2]], "kind": ["z"]})
    assert "no task 't'" in str(_refused(four, NotFound, table, task="t", key="path", value="kind", add=True))


def test_the_task_remembers_how_it_was_made(four: Store) -> None:
    _values(four, ["x", "y", "todo", "z"], ignore=["todo"], positive="x", source="archive")
    told = four.task("t").provenance
    assert told == {
        "table": "DataFrame",
        "rule": "exact locator",
        "key": "path",
        "value": ["kind"],
        "split_column": None,
        "positive": "x",
        "ignore": ["todo"],
        "uncertain": [],
        "uncertain_policy": "ignore",
        "delimiter": None,
        "on_conflict": "error",
        "source": "archive",
        "columns": [],
        "add": False,
        "conflicts": 0,
    }


# Real tables


@pytest.fixture(scope="session")
def facts(shared: Path) -> dict[str, Any]:
    """Counts of the real sets."""
    found: dict[str, Any] = json.loads((shared / "facts.json").read_text(encoding="utf-8"))
    return found


Opened = Callable[[str], Store]


@pytest.mark.parametrize("name", ["cxr_kermany", "derm_ham10000", "us_busi"])
def test_a_real_table_is_imported_by_path(shared: Path, facts: dict[str, Any], shared_store: Opened, name: str) -> None:
    store, known = shared_store(f"{name}/images.zip"), facts[name]
    result = label(store, shared / name / "labels.csv", task="t", key="file", value=known["label_column"])
    assert (result.rule, result.matched, result.unmatched_rows) == ("exact locator", known["images"], 0)
    assert result.counts == known["rows_with_image_per_label"]


def test_the_whole_table_of_an_excerpt_is_joined_by_stem(shared: Path, shared_store: Opened) -> None:
    store = shared_store("derm_ham10000/images.zip")
    table = shared / "derm_ham10000" / "HAM10000_metadata.csv"
    result = label(store, table, task="dx", key="image_id", value="dx", columns=["lesion_id", "age", "sex"])
    assert (result.rule, result.matched, result.unmatched_rows) == ("stem", 1190, 8825)
    assert (store.columns()["age"], len(store.column("age")), len(set(store.column("lesion_id").values()))) == (
        "INTEGER",
        1185,
        812,
    )


def test_names_with_blanks_and_brackets_need_their_word(
    shared: Path, shared_store: Opened, write: Callable[..., Path]
) -> None:
    store = shared_store("us_busi/images.zip")
    with (shared / "us_busi" / "labels.csv").open(newline="") as file:
        rows = [(row["file"], row["label"]) for row in csv.DictReader(file)]
    cut = write([("name", "label"), *((path.rpartition("/")[2], kind) for path, kind in rows)])
    assert label(store, cut, task="t", key="name", value="label").matched == 780
    bare = write([("name", "label"), *((path[path.index("(") :], kind) for path, kind in rows)])
    assert "no row of labels.csv" in str(_refused(store, DataError, bare, task="u", key="name", value="label"))


def test_open_findings_are_no_diagnoses_and_a_class_may_have_a_comma(
    shared: Path, facts: dict[str, Any], shared_store: Opened
) -> None:
    store, known = shared_store("cxr_covid/images.zip"), facts["cxr_covid"]
    result = label(
        store,
        shared / "cxr_covid" / "labels.csv",
        task="finding",
        key="file",
        value="finding",
        columns=["patientid", "age", "sex", "view"],
        ignore=["todo", "Unknown"],
    )
    counts = known["rows_with_image_per_label"]
    assert result.counts == {name: n for name, n in counts.items() if name not in ("todo", "Unknown")}
    assert result.counts["COVID-19, ARDS"] == 12
    assert (result.unmatched_rows, result.empty_rows) == (known["rows_without_image"], counts["todo"] + 1)
    assert result.unlabelled_items == len(known["images_without_row"]) + counts["todo"] + 1
    stands_for = {store.pseudonym("311a"), store.pseudonym("311b")}
    assert store.columns()["patientid"] == "TEXT" and stands_for <= set(store.column("patientid").values())
    assert len(set(store.column("patientid").values())) == 360


def test_items_without_a_row_are_listed(shared: Path, facts: dict[str, Any], shared_store: Opened) -> None:
    store = shared_store("cxr_covid/images.zip")
    result = label(store, shared / "cxr_covid" / "labels.csv", task="finding", key="file", value="finding")
    assert result.examples["unlabelled_items"] == facts["cxr_covid"]["images_without_row"]
    assert (result.unlabelled_items, result.matched) == (4, 605)
    # The source's own names mean the same pictures; those in other formats are no exact locators, and counted.
    again = label(store, shared / "cxr_covid" / "labels.csv", task="again", key="filename", value="finding")
    assert (again.rule, again.matched) == ("exact locator", 305)
    assert _classes(store, "again").items() <= _classes(store, "finding").items()


EYES = list("NDGCAHMO")
PER_LABEL = {"N": 101, "D": 174, "G": 77, "C": 71, "A": 78, "H": 52, "M": 61, "O": 85}


def test_eight_columns_and_one_joined_column_say_the_same(shared: Path, shared_store: Opened) -> None:
    store, table = shared_store("fundus_odir/images.zip"), shared / "fundus_odir" / "labels.csv"
    columns = label(store, table, task="columns", key="file", value=EYES, columns=["patient_id"])
    joined = label(store, table, task="joined", key="file", value="patient_labels", delimiter=";")
    assert columns.counts == joined.counts == PER_LABEL
    assert (columns.kind, columns.matched, columns.unmatched_rows) == ("multi-label", 527, 49)
    assert (joined.matched, joined.unmatched_rows, sorted(joined.classes)) == (527, 49, sorted(EYES))
    assert _matrix(store, "columns") == _matrix(store, "joined")
    assert len(set(store.column("patient_id").values())) == 288


def test_a_picture_that_is_benign_and_malignant_is_refused_by_name(shared: Path, shared_store: Opened) -> None:
    store, table = shared_store("mammo_mias/images.zip"), shared / "mammo_mias" / "labels.csv"
    error = _refused(store, LabelConflict, table, task="severity", key="file", value="severity")
    assert error.fact == "labels.csv: 1 items have rows that disagree (joined by exact locator): mdb144.png (B / M)"
    dropped = label(store, table, task="severity", key="file", value="severity", on_conflict="drop")
    worst = label(store, table, task="severity", key="file", value="severity", on_conflict="any", positive="M")
    assert (dropped.matched, worst.matched, dropped.empty_rows) == (114, 115, 207)
    assert _classes(store, "severity")["mdb144.png"] == "M"


def test_several_rows_of_a_picture_that_agree_are_one_label(shared: Path, shared_store: Opened) -> None:
    store, table = shared_store("mammo_mias/images.zip"), shared / "mammo_mias" / "labels.csv"
    for value, classes in (("tissue", 3), ("abnormality", 7)):
        result = label(store, table, task=value, key="file", value=value, columns=["patient", "x"])
        assert (result.matched, result.unmatched_rows, len(result.classes)) == (322, 0, classes)
    assert result.differing_values == {"x": 7}
    assert result.counts["NORM"] == 207


@pytest.mark.parametrize("name", ["breastmnist", "breastmnist_resaved", "pneumoniamnist", "retinamnist"])
def test_a_medmnist_file_brings_its_task_and_parts(facts: dict[str, Any], shared_store: Opened, name: str) -> None:
    store, known = shared_store(f"medmnist/{name}.npz"), facts[f"medmnist/{name}"]["splits"]
    task = store.task(name)
    found = Counter((x.split, x.name) for x in store.labels(task))
    assert found == {(part, kind): n for part, told in known.items() for kind, n in told["counts"].items()}
    assert (task.kind, task.positive) == (("binary", "1") if name != "retinamnist" else ("multi-class", None))
