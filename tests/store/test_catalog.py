"""Settings, tables, versions, columns and digests of the catalog, rule by rule of FORMAT.md."""

from __future__ import annotations

import hashlib
import hmac
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from vecstore.errors import (
    Ambiguous,
    DataError,
    NotAStore,
    NotFound,
    NotWritable,
    StoreDamaged,
    StoreError,
    StoreTooNew,
)
from vecstore.records import DecodeRule
from vecstore.store import Label, Store
from vecstore.store.append import known_items
from vecstore.store.catalog import APPLICATION_ID, connect

if TYPE_CHECKING:
    from tests.store.conftest import Kit

SCHEMA = Path(__file__).resolve().parents[2] / "vecstore" / "store" / "schema.sql"


# Settings and tables


def test_the_file_says_what_it_is(store: Store, kit: Kit) -> None:
    assert kit.plain(store.path, "PRAGMA application_id") == [(APPLICATION_ID,)]
    assert APPLICATION_ID.to_bytes(4, "big") == b"vecs"
    assert kit.plain(store.path, "PRAGMA user_version") == [(1,)]
    assert kit.plain(store.path, "PRAGMA journal_mode") == [("delete",)]


def test_every_connection_has_the_settings(store: Store) -> None:
    expected = {"synchronous": 3, "temp_store": 2, "secure_delete": 1, "foreign_keys": 1, "trusted_schema": 0}
    with closing(connect(store.catalog.path, "rw")) as connection:
        found = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in expected}
        assert connection.execute("PRAGMA busy_timeout").fetchone()[0] == 60_000
    assert found == expected


def test_the_tables_are_those_of_the_schema_and_strict(store: Store, kit: Kit) -> None:
    script = re.sub(r"--[^\n]*\n", "\n", SCHEMA.read_text())
    expected = {" ".join(text.split()) for text in script.split(";") if text.strip()}
    found = {" ".join(text.split()) for (text,) in kit.plain(store.path, "SELECT sql FROM sqlite_master") if text}
    assert found - {"CREATE TABLE sqlite_sequence(name,seq)"} == expected
    tables = kit.plain(store.path, "PRAGMA table_list")
    assert {name for _, name, kind, _, _, strict in tables if kind == "table" and not strict} == {
        "sqlite_schema",
        "sqlite_sequence",
        "sqlite_temp_schema",
    }


def test_a_wrong_type_is_refused_by_the_tables_themselves(store: Store, kit: Kit) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="cannot store TEXT value in INTEGER column contents"):
        kit.plain(store.path, "INSERT INTO contents VALUES (1, randomblob(16), 'x', 1)")


def test_meta_holds_the_format_the_rule_and_secrets(store: Store) -> None:
    meta = store.catalog.meta
    assert sorted(meta) == ["decode_rule", "format", "next_content", "oldest", "store_id", "store_secret"]
    assert (meta["format"], meta["oldest"], len(meta["store_secret"]), len(meta["store_id"])) == (1, 1, 32, 32)
    assert store.rule == DecodeRule()


def test_the_decode_rule_is_kept(tmp_path: Path) -> None:
    rule = DecodeRule(frames="all", window="none", max_pixels=5)
    Store.create(tmp_path / "a", rule).close()
    with Store(tmp_path / "a") as store:
        assert store.rule == rule
        assert store.log()[0]["arguments"]["decode_rule"]["frames"] == "all"


def test_keys_are_keyed_hashes_of_source_and_locator(store: Store, kit: Kit) -> None:
    kit.add(store, ["a.png"], source="Brust")
    ((key,),) = kit.plain(store.path, "SELECT key FROM items")
    secret = store.catalog.meta["store_secret"]
    assert key == hmac.new(secret, b"item\0brust\0a.png", hashlib.sha256).digest()[:16]
    assert store.pseudonym("4711") == hmac.new(secret, b"patient\x004711", hashlib.sha256).hexdigest()[:16]


def test_ids_of_items_are_never_used_twice(store: Store, kit: Kit) -> None:
    kit.add(store, ["a", "b"])
    with closing(connect(store.catalog.path, "rw")) as connection:
        connection.execute("DELETE FROM items WHERE locator = 'b'")
    kit.add(store, ["c"])
    assert kit.plain(store.path, "SELECT id, locator FROM items") == [(1, "a"), (3, "c")]


def test_ids_of_contents_are_never_used_twice(store: Store, kit: Kit) -> None:
    kit.add(store, ["a", "b"])
    with closing(connect(store.catalog.path, "rw")) as connection:
        connection.execute("DELETE FROM states WHERE content = 2")
        connection.execute("DELETE FROM contents WHERE id = 2")
    kit.add(store, ["c"])
    assert kit.plain(store.path, "SELECT id FROM contents") == [(1,), (3,)]


def test_a_reserved_range_is_nobody_elses(store: Store) -> None:
    with Store(store.path) as other:
        assert [store.catalog.reserve(5), other.catalog.reserve(2), store.catalog.reserve(1)] == [1, 6, 8]


# What can't be opened, or made


def test_a_folder_without_catalog_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(NotAStore, match=r"is not a store \(no catalog.sqlite in it\); expected a folder made by: vec"):
        Store(tmp_path)


def test_another_programs_database_is_neither_opened_nor_changed(tmp_path: Path) -> None:
    file = tmp_path / "a" / "catalog.sqlite"
    file.parent.mkdir()
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE mine (x)")
    before = file.read_bytes()
    with pytest.raises(NotAStore, match="is not a vecstore catalog"):
        Store(file.parent)
    with pytest.raises(StoreError, match="exists already; expected a path where nothing is"):
        Store.create(file.parent)
    assert file.read_bytes() == before


def test_a_store_is_not_made_over_something(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "image.png").write_text("x")
    for path in (store.path, tmp_path / "file", tmp_path / "full"):
        with pytest.raises(StoreError, match="exists already"):
            Store.create(path)


def test_a_store_can_be_made_in_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    Store.create(tmp_path / "empty").close()
    assert Store(tmp_path / "empty").commit == 1


def test_a_later_format_is_refused(store: Store, kit: Kit) -> None:
    kit.plain(store.path, "PRAGMA user_version=2")
    with pytest.raises(StoreTooNew, match="has store format 2; expected format 1 or earlier; upgrade: pip install"):
        Store(store.path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"not a database at all" * 100,
        lambda data: data[:100] + b"\xff" * 500 + data[600:],
        lambda data: data.replace(b'{"frames"', b'{"gramesx'),
        lambda data: data.replace(b'{"frames"', b'{"fram\xff\xff"'),
        lambda data: data.replace(b"next_content", b"text_content"),
        lambda data: data.replace(b"CREATE TABLE meta", b"CREATE TABLE beta"),
    ],
    ids=["truncated", "overwritten", "schema page", "rule", "text", "settings", "tables"],
)
def test_a_damaged_catalog_says_so(store: Store, kit: Kit, damage: Any) -> None:
    kit.add(store, ["a.png"])
    store.close()
    file = store.path / "catalog.sqlite"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(StoreDamaged) as caught, Store(store.path) as damaged:
        damaged.items()
    assert caught.value.exit_code == 4
    assert "restore it from a copy" in str(caught.value)


# Versions


def test_each_commit_shows_its_own_state(store: Store, kit: Kit) -> None:
    """Ingest, changed file, relabel, new columns, gone and back, correction: and a look at each commit."""
    at: dict[str, int] = {}

    def mark(name: str) -> None:
        at[name] = store.refresh().commit

    kit.add(store, ["a", "b", "c"], metadata=lambda name: {"age": 60})
    mark("ingest")
    kit.add(store, ["a"], version=1)
    mark("changed")
    labels = [Label(1, "yes", 1.0, "train"), Label(2, "no", 1.0, None)]
    store.add_task("sick", "binary", ["no", "yes"], labels, {}, positive="yes")
    mark("labelled")
    store.add_task("SICK", "binary", ["no", "yes"], [Label(1, "no", 1.0, None)], {})
    mark("relabelled")
    kit.add(store, ["b"], metadata=lambda name: {"sex": "F"})
    mark("column")
    kit.add(store, [], failing=["c"])
    mark("gone")
    kit.add(store, ["c"])
    mark("back")
    kit.add(store, ["a"], version=1, metadata=lambda name: {"age": 61})
    mark("corrected")

    seen = {}
    for name, commit in at.items():
        with Store(store.path, commit) as then:
            items = then.items()
            tasks = {task.name: [(label.item, label.name) for label in then.labels(task)] for task in then.tasks()}
            seen[name] = (
                dict(zip(items.locators, items.contents.tolist(), strict=True)),
                tasks,
                list(then.columns()),
                then.column("age"),
                [then.metadata([2])[2]],
            )
    first, changed = {"a": 1, "b": 2, "c": 3}, {"a": 4, "b": 2, "c": 3}
    ages, old = {1: 60, 2: 60, 3: 60}, [{"age": 60}]
    old_task, new_task = {"sick": [(1, "yes"), (2, "no")]}, {"SICK": [(1, "no")]}
    columns, row = ["age", "sex"], [{"age": 60, "sex": "F"}]
    assert seen == {
        "ingest": (first, {}, ["age"], ages, old),
        "changed": (changed, {}, ["age"], ages, old),
        "labelled": (changed, old_task, ["age"], ages, old),
        "relabelled": (changed, new_task, ["age"], ages, old),
        "column": (changed, new_task, columns, ages, row),
        "gone": ({"a": 4, "b": 2}, new_task, columns, {1: 60, 2: 60}, row),
        "back": (changed, new_task, columns, ages, row),
        "corrected": (changed, new_task, columns, ages | {1: 61}, row),
    }
    kit.check(store.path)


def test_a_column_born_now_is_filled_in_place_and_a_correction_begins_a_row(store: Store, kit: Kit) -> None:
    kit.add(store, ["a", "b"], metadata=lambda name: {"age": 60})
    (begun,) = {row[0] for row in kit.plain(store.path, "SELECT added_in FROM metadata")}
    kit.add(store, ["a"], metadata=lambda name: {"sex": "F"})
    assert kit.plain(store.path, "SELECT item, added_in, removed_in, age, sex FROM metadata") == [
        (1, begun, None, 60, "F"),
        (2, begun, None, 60, None),
    ]
    kit.add(store, ["a", "b"], metadata=lambda name: {"sex": "M" if name == "a" else None, "age": 60})
    now = store.refresh().commit
    assert kit.plain(store.path, "SELECT item, added_in, removed_in, age, sex FROM metadata ORDER BY 1, 2") == [
        (1, begun, now, 60, "F"),
        (1, now, None, 60, "M"),
        (2, begun, None, 60, None),
    ]
    kit.check(store.path)


def test_a_header_edit_is_a_new_state_of_the_same_content(store: Store, kit: Kit) -> None:
    kit.add(store, ["a"])
    batch = kit.batch(store.spaces(), ["a"])
    picture = batch.pictures[0]
    batch.pictures = [type(picture)("a", 11, 9, b"\1" * 32, "x", picture.hash, 28, 28)]
    from vecstore.store.append import append

    counts = append(store, batch, {1: store.space()}, {})
    assert counts["added"] == 0
    states = kit.plain(store.path, "SELECT content, hex(file_sha256), removed_in IS NULL FROM states ORDER BY added_in")
    assert [(content, live) for content, _, live in states] == [(1, 0), (1, 1)]


def test_failures_count_attempts_until_the_picture_succeeds(store: Store, kit: Kit) -> None:
    kit.add(store, ["a"], failing=["bad"])
    kit.add(store, [], failing=["bad"])
    assert [(row["locator"], row["attempts"], row["space"]) for row in store.failures()] == [("bad", 2, None)]
    assert known_items(store, "archive", ["bad"])["bad"].failed == {None}
    assert known_items(store, "archive", ["bad"])["bad"].content is None
    kit.add(store, ["bad"])
    assert store.failures() == []


def test_a_vector_that_fails_again_counts_its_attempts(store: Store, kit: Kit) -> None:
    from vecstore.store.append import Refusal, append

    space = store.space()
    for attempt in (1, 2, 3):
        batch = kit.batch([space], ["a"])
        batch.vectors[space.id] = ([], np.empty((0, space.dim), np.float16))
        batch.refusals.append(Refusal("a", 10, 0, "encode", "not finite", space.id))
        append(store, batch, {space.id: space}, {})
        assert [(row["stage"], row["space"], row["attempts"]) for row in store.failures()] == [
            ("encode", "fake", attempt)
        ]
    assert store.items().locators == ["a"]


def test_an_item_that_no_longer_decodes_has_no_labels_or_metadata(store: Store, kit: Kit) -> None:
    kit.add(store, ["a", "b"], metadata=lambda name: {"age": 60})
    task = store.add_task("t", "binary", ["n", "y"], [Label(1, "y", 1.0, None), Label(2, "y", 1.0, None)], {})
    kit.add(store, [], failing=["a"])
    store.refresh()
    assert [label.item for label in store.labels(task)] == [2]
    assert store.labels_of([1, 2]) == {2: {"t": "y"}}
    assert store.column("age") == {2: 60}
    assert store.select("age = 60").tolist() == [2]


def test_source_names_compare_without_case_beyond_ascii(store: Store, kit: Kit) -> None:
    kit.add(store, ["a"], source="Ärchiv")
    kit.add(store, ["b"], source="ÄRCHIV")
    kit.add(store, ["a"], source="ärchiv")
    assert kit.plain(store.path, "SELECT name FROM sources") == [("Ärchiv",)]
    assert store.items().locators == ["a", "b"]


def test_task_names_compare_without_case_beyond_ascii(store: Store, kit: Kit) -> None:
    kit.add(store, ["a"])
    for name in ("Übung", "ÜBUNG", "übung"):
        store.add_task(name, "binary", ["n", "y"], [Label(1, "y", 1.0, None)], {})
    assert [task.name for task in store.tasks()] == ["übung"]


def test_one_fingerprint_is_one_space_and_one_name_one_fingerprint(store: Store, kit: Kit) -> None:
    assert store.add_space("other", kit.passport(), {}).name == "fake"
    with pytest.raises(Ambiguous, match=r"the space 'fake' holds vectors of another .*model: fake against other.*--sp"):
        store.add_space("FAKE", kit.passport("other"), {})
    assert [space.name for space in store.spaces()] == ["fake"]


def test_a_space_that_another_process_made_meanwhile_is_found(store: Store, kit: Kit) -> None:
    with Store(store.path) as other:
        other.commit, stale = other.commit, other.spaces()
        made = store.add_space("new", kit.passport("new"), {})
        assert [space.name for space in stale] == ["fake"]
        assert other.add_space("anything", kit.passport("new"), {}) == made
    commits = kit.plain(store.path, "SELECT count(*) FROM commits")
    assert commits == [(store.commit,)]


# Columns


def test_columns_take_the_type_that_holds_all_values(store: Store, kit: Kit) -> None:
    values: dict[str, dict[str, Any]] = {
        "a": {"whole": 1, "real": 1, "text": 1, "empty": None},
        "b": {"whole": 2, "real": 2.5, "text": "001", "empty": None},
    }
    kit.add(store, ["a", "b"], metadata=lambda name: values[name])
    assert store.columns() == {"real": "REAL", "text": "TEXT", "whole": "INTEGER"}
    assert store.metadata([1, 2]) == {
        1: {"whole": 1, "real": 1.0, "text": "1"},
        2: {"whole": 2, "real": 2.5, "text": "001"},
    }


def test_a_value_that_does_not_fit_widens_its_column_in_every_version(store: Store, kit: Kit) -> None:
    kit.add(store, ["a", "b", "c"], metadata=lambda name: {"age": 60, "sex": "f"})
    kit.add(store, ["a"], metadata=lambda name: {"age": 61})
    whole = store.commit
    kit.add(store, ["b"], metadata=lambda name: {"age": 60.5})
    assert store.log()[-1]["counts"]["columns_widened"] == {"age": "REAL"}
    assert store.columns() == {"age": "REAL", "sex": "TEXT"}
    assert store.column("age") == {1: 61.0, 2: 60.5, 3: 60.0}
    kit.check(store.path)
    real = store.commit
    kit.add(store, ["c"], metadata=lambda name: {"age": "sixty"})
    assert store.column("age") == {1: "61", 2: "60.5", 3: "sixty"}
    for at, expected in ((whole, {1: "61", 2: "60", 3: "60"}), (real, {1: "61", 2: "60.5", 3: "60"})):
        with Store(store.path, at) as earlier:
            assert earlier.column("age") == expected
            assert set(earlier.column("sex").values()) == {"f"}
    kit.check(store.path)
    kit.add(store, ["a"], metadata=lambda name: {"age": 62.0})
    assert store.column("age")[1] == "62"
    kit.check(store.path)


def test_an_integer_that_a_float_would_round_makes_a_column_text(store: Store, kit: Kit) -> None:
    kit.add(store, ["a"], metadata=lambda name: {"number": 2**53 + 1})
    kit.add(store, ["b"], metadata=lambda name: {"number": 0.5})
    assert store.column("number") == {1: "9007199254740993", 2: "0.5"}
    kit.check(store.path)


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (float("nan"), "REAL", None),
        (2**70, "TEXT", str(2**70)),
        (-0.0, "REAL", 0.0),
        ("a\udc80b", "TEXT", "a?b"),
        (float("inf"), "REAL", float("inf")),
        ("x\0y", "TEXT", "x\0y"),
    ],
)
def test_odd_values_are_stored_or_left_out_with_a_true_digest(
    store: Store, kit: Kit, value: Any, kind: str, expected: Any
) -> None:
    plain_value = {"TEXT": "t", "REAL": 0.5, "INTEGER": 5}[kind]
    kit.add(store, ["b", "a"], metadata=lambda name: {"x": plain_value if name == "b" else value, "y": 1})
    assert store.columns()["x"] == ("TEXT" if kind == "TEXT" else "REAL" if kind == "REAL" else "INTEGER")
    assert store.metadata([2])[2].get("x") == expected
    kit.check(store.path)


@pytest.mark.parametrize(
    ("wanted", "name"),
    [
        ("item", "archive_item"),
        ("RowID", "archive_RowID"),
        ("added_in", "archive_added_in"),
        ("", "archive_column"),
        ("  age ", "age"),
        ("source", "archive_source"),
        ('a"b', 'a"b'),
        ("select", "select"),
        ("a\0b", "ab"),
        ("size", "size"),
        ("Größe in cm", "Größe in cm"),
        ("sqlite_x", "sqlite_x"),
        ("oid", "archive_oid"),
    ],
)
def test_names_of_ours_get_the_archive_in_front_and_others_stay(store: Store, kit: Kit, wanted: str, name: str) -> None:
    kit.add(store, ["a"], metadata=lambda _: {wanted: 5})
    kit.add(store, ["a"], metadata=lambda _: {wanted: 6})
    assert store.columns() == {name: "INTEGER"}
    assert store.column(name) == {1: 6}
    quoted = '"' + name.replace('"', '""') + '"'
    assert store.select(f"{quoted} = 6").tolist() == [1]
    kit.check(store.path)


def test_column_names_compare_without_case(store: Store, kit: Kit) -> None:
    kit.add(store, ["a"], metadata=lambda _: {"Age": 5})
    kit.add(store, ["b"], metadata=lambda _: {"AGE": 6})
    assert store.columns() == {"Age": "INTEGER"}
    assert store.column("aGe") == {1: 5, 2: 6}
    with pytest.raises(NotFound, match=r"has no column 'ages'; expected one of: Age; columns come from DICOM files"):
        store.column("ages")


def test_a_thousand_columns_and_no_more(store: Store, kit: Kit) -> None:
    kit.add(store, ["a"], metadata=lambda _: {f"c{i}": i for i in range(1000)})
    assert len(store.columns()) == 1000
    assert store.select("c999 = 999 AND c0 = 0").tolist() == [1]
    commit = store.refresh().commit
    with pytest.raises(DataError, match="more than 1000 metadata columns; choose them"):
        kit.add(store, ["b"], metadata=lambda _: {"one more": 1})
    assert (store.refresh().commit, store.items().locators) == (commit, ["a"])


def test_numpy_numbers_are_bound_as_numbers(store: Store, kit: Kit) -> None:
    kit.add(store, ["a"], metadata=lambda _: {"n": 1})
    label: Any = Label(np.int64(1), "y", np.float32(1), None)  # type: ignore[arg-type]
    store.add_task("t", "binary", ["n", "y"], [label], {})
    model = store.add_model(store.task("t"), store.space(), {"a": b"b"}, {}, np.array([1], np.int64))
    assert kit.plain(store.path, "SELECT typeof(item), typeof(value) FROM labels") == [("integer", "real")]
    assert kit.plain(store.path, "SELECT model, item, typeof(item) FROM seen") == [(model.id, 1, "integer")]
    kit.check(store.path)


# Digests


def test_digests_agree_with_the_rows_after_everything(store: Store, kit: Kit) -> None:
    kit.add(store, [f"{i}.png" for i in range(30)], metadata=lambda name: {"age": 40, "size": 1.5, "p": "x"})
    kit.add(store, ["0.png", "1.png"], version=1, failing=["bad", "2.png"])
    kit.add(store, ["3.png"], metadata=lambda name: {"age": 41, "new": "ü"})
    kit.add(store, ["4.png"], metadata=lambda name: {"born": 1.0})
    store.add_space("second", kit.passport("second"), {})
    kit.add(store, ["5.png"])
    columns: Any = {"ward": {1: "A", 2: "B", 7: 3}, "age": {5: 99}}
    labels = [Label(i, "y" if i % 2 else "n", 1, "train") for i in range(1, 20)]
    task = store.add_task("t", "binary", ["n", "y"], labels, {"x": 1}, positive="y", columns=columns)
    store.add_model(task, store.space("fake"), {"m.json": b"{}"}, {"auc": 0.5}, np.arange(1, 9))
    store.add_task("t", "binary", ["n", "y"], labels[:3], {"x": 2}, positive="y", columns={"ward": {1: "C"}})
    kit.check(store.path)
    names = {name for _, name in kit.booked(store.path)}
    assert names == {
        *("sources", "items", "contents", "states", "columns", "metadata", "spaces", "shards", "tasks", "labels"),
        *("models", "seen", "commits", "states-", "metadata-", "tasks-"),
    }


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("UPDATE labels SET class = 'n' WHERE item = 1", "labels"),
        ("UPDATE labels SET value = 0.0 WHERE item = 1", "labels"),
        ("DELETE FROM labels WHERE item = 2", "labels"),
        ("UPDATE metadata SET age = age + 1 WHERE item = 1", "metadata"),
        ("UPDATE metadata SET size = 3 WHERE item = 1", "metadata"),
        ("UPDATE states SET content = 2 WHERE item = 1", "states"),
        ("UPDATE states SET removed_in = added_in + 1 WHERE item = 1", "states-"),
        ("UPDATE contents SET hash = randomblob(16) WHERE id = 1", "contents"),
        ("UPDATE items SET locator = 'z' WHERE id = 1", "items"),
        ("UPDATE commits SET counts = '{}' WHERE id = 3", "commits"),
        ("UPDATE spaces SET dim = 17", "spaces"),
    ],
)
def test_a_changed_value_is_found_by_its_digest(store: Store, kit: Kit, statement: str, expected: str) -> None:
    kit.add(store, ["a", "b"], metadata=lambda name: {"age": 60, "size": 2})
    store.add_task("t", "binary", ["n", "y"], [Label(1, "y", 1.0, None), Label(2, "y", 1.0, None)], {})
    kit.check(store.path)
    kit.plain(store.path, statement)
    assert kit.plain(store.path, "PRAGMA integrity_check") == [("ok",)]
    assert [text.split(" of ")[0] for text in kit.disagreements(store.path)] == [expected]


def test_what_a_scan_sees_is_not_part_of_the_digests(store: Store, kit: Kit) -> None:
    kit.add(store, ["a"])
    kit.plain(store.path, "UPDATE items SET size = 99, mtime_ns = 5")
    assert kit.disagreements(store.path) == []


# Snapshots


def test_a_handle_shows_its_snapshot_until_it_is_refreshed(store: Store, kit: Kit) -> None:
    kit.add(store, ["a"])
    with Store(store.path) as reader, Store(store.path, at=store.commit) as fixed:
        kit.add(store, ["b"])
        assert reader.items().locators == fixed.items().locators == ["a"]
        assert len(reader.embedded(reader.space())) == 1
        assert reader.refresh().items().locators == ["a", "b"]
        assert fixed.refresh().items().locators == ["a"]


@pytest.mark.parametrize("at", [0, -1, 3, 99])
def test_a_commit_that_is_not_there_is_named_with_those_that_are(store: Store, at: int) -> None:
    with pytest.raises(NotFound, match=rf"has no commit {at}; expected 1 to 2; see: vecstore log"):
        Store(store.path, at=at)


def test_a_commit_below_the_oldest_is_refused(store: Store, kit: Kit) -> None:
    kit.plain(store.path, "UPDATE meta SET value = 2 WHERE name = 'oldest'")
    with pytest.raises(NotFound, match="has no commit 1; expected 2 to 2"):
        Store(store.path, at=1)


def test_a_handle_at_a_commit_cannot_write(store: Store, kit: Kit) -> None:
    with (
        Store(store.path, at=2) as fixed,
        pytest.raises(NotWritable, match=r"was opened at commit 2; expected the newest state; open it without at="),
    ):
        kit.add(fixed, ["a"])
    assert list((store.path / "shards").glob("*/*")) == []


def test_an_exception_undoes_all_of_a_commit(store: Store, kit: Kit) -> None:
    kit.add(store, ["a"])
    before = kit.dump(store.path)
    with pytest.raises(sqlite3.IntegrityError):
        store.add_task("t", "binary", ["y"], [Label(1, "y", 1.0, None), Label(999, "y", 1.0, None)], {})
    assert kit.dump(store.path) == before
    kit.add(store, ["b"])
    assert [entry["commit"] for entry in store.log()] == [1, 2, 3, 4]


# Models


def test_a_model_is_its_files_and_is_checked_when_it_is_read(store: Store, kit: Kit) -> None:
    kit.add(store, ["a"])
    task = store.add_task("t", "binary", ["n", "y"], [Label(1, "y", 1.0, None)], {})
    files = {"model.safetensors": b"1234", "model.json": b"{}"}
    model = store.add_model(task, store.space(), files, {"auc": 0.75}, np.array([1]))
    assert store.add_model(task, store.space(), files, {"auc": 0.75}, np.array([1])).sha256 == model.sha256
    assert store.model_files(model) == files
    assert [m.record for m in store.models("T")] == [{"auc": 0.75}] * 2
    folder = store.path / "models" / model.sha256.hex()
    assert sorted(entry.name for entry in (store.path / "models").iterdir()) == [folder.name]
    (folder / "model.json").write_bytes(b"[]")
    with pytest.raises(StoreDamaged, match="its files are not those that were registered; train the model again"):
        store.model_files(model)
    (folder / "model.json").unlink()
    (folder / "model.safetensors").unlink()
    folder.rmdir()
    with pytest.raises(StoreDamaged, match="is missing; expected the files of a model"):
        store.model_files(model)
