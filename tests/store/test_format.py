"""FORMAT.md is true: its code runs, its worked example holds, and stores of released formats open."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from vecstore.records import DecodeRule
from vecstore.store import Label, Store
from vecstore.store.catalog import FORMAT_VERSION, row_digest

if TYPE_CHECKING:
    from tests.store.conftest import Kit

ROOT = Path(__file__).resolve().parents[2]
FORMAT = (ROOT / "vecstore" / "store" / "FORMAT.md").read_text(encoding="utf-8")
GOLDEN = ROOT / "tests" / "golden"


@pytest.mark.parametrize("name", ["plain.vecs", "Röntgen Thorax #1 100%[a] {b}?.vecs", "x'y\"z&*.vecs"])
def test_the_code_on_the_page_reads_a_store_anywhere(tmp_path: Path, kit: Kit, name: str) -> None:
    pictures = [f"{i}.png" for i in range(12)]
    with kit.create(tmp_path / name) as store:
        kit.add(store, pictures, metadata=lambda name: {"age": 60, "sex": "F"})
        store.add_task("t", "binary", ["n", "y"], [Label(1, "y", 1.0, "test")], {})
    blocks = re.findall(r"```python\n(.*?)```", FORMAT, re.S)
    assert len(blocks) == 6
    values: dict[str, Any] = {"store": tmp_path / name}
    exec(compile("\n".join(blocks), "FORMAT.md", "exec"), values)
    expected = np.stack([kit.vector(kit.hash(p)).astype(np.float16) for p in pictures])
    assert values["items"] == [(i + 1, i + 1, "archive", p) for i, p in enumerate(pictures)]
    assert values["vectors"].tobytes() == expected.astype(np.float32).tobytes()
    assert values["contents"].tolist() == list(range(1, 13))
    assert np.array_equal(values["frame"]["vector"].to_numpy(), expected)
    assert values["counted"] == (12, 32)
    assert values["metadata"].loc[3, "age"] == 60
    assert values["labels"].to_dict("records") == [
        {"task": "t", "item": 1, "class": "y", "value": 1.0, "split": "test"}
    ]


def test_the_page_names_every_table_and_the_version() -> None:
    schema = (ROOT / "vecstore" / "store" / "schema.sql").read_text(encoding="utf-8")
    tables = re.findall(r"CREATE TABLE (\w+)", schema)
    assert len(tables) == 16
    assert [name for name in tables if f"| `{name}` |" not in FORMAT] == []
    assert f"# The format of a store, version {FORMAT_VERSION}\n" in FORMAT


def test_the_worked_example_is_what_the_code_computes() -> None:
    number = re.search(r'digest\("labels", row\) == (\d+)', FORMAT)
    assert number is not None
    row = {"task": 1, "item": 7, "class": "yes", "value": 1.0, "split": None}
    assert row_digest("labels", row) == int(number[1])


# Stores of released formats


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    with zipfile.ZipFile(GOLDEN / "format1.vecs.zip") as archive:
        archive.extractall(tmp_path)
    return tmp_path / "format1.vecs"


def test_a_store_of_format_1_holds_what_it_held(golden: Path, kit: Kit) -> None:
    kit.check(golden)
    with Store(golden) as store:
        assert store.commit == 9
        assert store.rule == DecodeRule(frames="first", window="first", max_pixels=200_000_000, version=1)
        assert store.catalog.meta["store_id"] == "0123456789abcdef" * 2
        assert [(s.id, s.name, s.dim, s.fingerprint.hex()[:16]) for s in store.spaces()] == [
            (1, "first", 8, "1388ed7eed0ecfcb"),
            (2, "second", 4, "aff86076255494bf"),
        ]
        items = store.items()
        assert list(zip(items.ids.tolist(), items.sources, items.locators, strict=True)) == [
            (1, "chest", "a.png"),
            (2, "chest", "b.png"),
            (3, "chest", "größe/c.png"),
            (5, "chest", "d.zip!e.dcm"),
        ]
        assert items.contents.tolist() == [4, 2, 3, 2]
        assert store.metadata([1, 2, 3, 4, 5]) == {
            1: {"age": 61, "sex": "F", "dose": 0.5},
            2: {"age": 45, "sex": "M"},
            3: {"sex": "F", "ward": "Ä1"},
            5: {"PatientID": "f4c1", "age": 45},
        }
        assert store.columns() == {
            "PatientID": "TEXT",
            "age": "INTEGER",
            "dose": "REAL",
            "sex": "TEXT",
            "ward": "TEXT",
        }
        for space in store.spaces():
            embedded = store.embedded(space)
            vectors = store.vectors(space, embedded)
            angle = np.outer(embedded, np.arange(1, space.dim + 1))
            expected = np.cos(angle) / np.linalg.norm(np.cos(angle), axis=1, keepdims=True)
            assert np.abs(vectors - expected).max() < 1e-3
            assert embedded.tolist() == ([1, 2, 3, 4] if space.id == 1 else [2, 3, 4])
        (task,) = store.tasks()
        assert (task.name, task.kind, task.classes, task.positive) == ("sick", "binary", ["no", "yes"], "yes")
        assert [(x.item, x.name, x.value, x.split) for x in store.labels(task)] == [
            (1, "yes", 1.0, "train"),
            (2, "no", 1.0, "val"),
            (5, "yes", 1.0, "test"),
        ]
        (model,) = store.models()
        assert model.record == {"model": "probe", "auc": 0.875, "n": 3}
        assert store.model_files(model) == {"model.json": b"{}", "model.safetensors": b"\x00\x01\x02"}
        assert store.rows("SELECT item FROM seen ORDER BY item") == [(1,), (2,), (5,)]
        failures = [(f["locator"], f["stage"], f["space"], f["attempts"], f["reason"]) for f in store.failures()]
        assert failures == [("bad.png", "decode", None, 2, "cannot identify it")]
        assert [entry["verb"] for entry in store.log()] == [
            *("create", "ingest", "ingest", "ingest", "ingest", "ingest", "label", "label", "train")
        ]
        assert store.thumbnails.get([store.hashes_of([2])[2]]) == {store.hashes_of([2])[2]: b"\xff\xd8thumb"}
        assert store.select("sick = 'yes' AND age > 60").tolist() == [1]


def test_a_store_of_format_1_shows_its_past(golden: Path) -> None:
    with Store(golden, at=3) as then:
        assert then.items().contents.tolist() == [1, 2, 3]
        assert then.metadata([1]) == {1: {"age": 60, "sex": "F"}}
        assert then.tasks() == []
    with Store(golden, at=7) as then:
        assert [(x.item, x.name) for x in then.labels(then.task("Sick"))] == [(1, "no")]


def test_a_store_of_format_1_can_be_written(golden: Path, kit: Kit) -> None:
    from vecstore.store.append import append

    with Store(golden) as store:
        space = store.space("first")
        assert append(store, kit.batch([space], ["new.png"], source="chest"), {space.id: space}, {})["added"] == 1
        assert store.items().contents.tolist() == [4, 2, 3, 2, 5]
    kit.check(golden)


def test_the_golden_stores_script_still_runs(tmp_path: Path) -> None:
    target = tmp_path / "again.zip"
    command = [sys.executable, str(GOLDEN / "make_format1.py"), str(target)]
    assert subprocess.run(command, env={"PYTHONPATH": str(ROOT)}).returncode == 0
    with zipfile.ZipFile(target) as made, zipfile.ZipFile(GOLDEN / "format1.vecs.zip") as kept:
        # Shards are named by their bytes, in which pyarrow writes its version.
        folders = [[PurePosixPath(name).parent for name in packed.namelist()] for packed in (made, kept)]
        assert folders[0] == folders[1]
    assert (GOLDEN / "format1.vecs.zip").stat().st_size < 100_000
