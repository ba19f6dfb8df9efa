"""Export: vectors with their items, for other tools."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vecstore.errors import Ambiguous, DataError, NotWritable, PredicateRefused, UsageError
from vecstore.export import export
from vecstore.ingest import ingest
from vecstore.label import label
from vecstore.store import Store

Paint = Callable[[Path, str, int], None]


def test_parquet_has_a_row_per_item_with_metadata_and_vector(colour_store: Store, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    told = export(colour_store, path)
    assert told == {"path": str(path), "rows": 63, "dim": 64, "space": "fake-64"}
    items = colour_store.items()
    expected = colour_store.vectors(colour_store.space(), items.contents)
    table = pq.read_table(path)
    assert table.column_names == ["item_id", "source", "locator", "age", "patient", "sex", "vector"]
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 64)
    frame = pl.read_parquet(path)
    assert frame["item_id"].to_list() == items.ids.tolist() and frame["locator"].to_list() == items.locators
    np.testing.assert_array_equal(np.array(frame["vector"].to_list(), np.float32), expected)
    patients = colour_store.column("patient")
    assert pd.read_parquet(path)["patient"].tolist() == [patients[i] for i in items.ids.tolist()]
    assert frame["age"].dtype == pl.Int64
    assert path.stat().st_mode & 0o777 == 0o600


def test_npz_has_arrays_of_equal_length_and_no_pickle(colour_store: Store, tmp_path: Path) -> None:
    export(colour_store, tmp_path / "out.npz", where="age >= 50")
    items = colour_store.items("age >= 50")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["item_id", "locator", "source", "vector"]
        assert arrays["item_id"].tolist() == items.ids.tolist() and len(items) == 33
        assert arrays["locator"].tolist() == items.locators and set(arrays["source"]) == {"colours"}
        assert arrays["vector"].dtype == np.float32
        np.testing.assert_array_equal(arrays["vector"], colour_store.vectors(colour_store.space(), items.contents))


def test_a_column_named_like_ours_is_renamed(colour_store: Store, tmp_path: Path) -> None:
    names = colour_store.items().locators
    table = pl.DataFrame({"file": names, "label": ["a", "b"] * 31 + ["a"], "vector": ["x"] * 63, "item_id": ["y"] * 63})
    label(colour_store, table, task="t", key="file", value="label", columns=["vector", "item_id"])
    export(colour_store, tmp_path / "out.parquet")
    columns = pq.read_table(tmp_path / "out.parquet")
    assert set(columns["column_vector"].to_pylist()) == {"x"} and set(columns["column_item_id"].to_pylist()) == {"y"}


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("out.csv", "unknown format"),
        ("out", "unknown format"),
        ("no/such/out.npz", "its folder does not exist"),
        ("folder.parquet", "a folder has this name"),
    ],
)
def test_an_output_that_can_not_be_written_is_refused(bare_store: Store, tmp_path: Path, name: str, fact: str) -> None:
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(UsageError, match=fact) as caught:
        export(bare_store, tmp_path / name)
    assert caught.value.expected and caught.value.do and caught.value.exit_code == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_said(bare_store: Store, tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(NotWritable):
        export(bare_store, tmp_path / "locked" / "out.npz")


def test_nothing_to_export_and_what_does_not_fit_is_refused(colour_store: Store, tmp_path: Path) -> None:
    target = tmp_path / "out.npz"
    target.write_bytes(b"before")
    with pytest.raises(DataError, match="no item to export"):
        export(colour_store, target, where="age > 1000")
    with pytest.raises(PredicateRefused):
        export(colour_store, target, where="nope = 1")
    assert target.read_bytes() == b"before" and sorted(tmp_path.glob("tmp-*")) == []


def test_a_space_is_named_where_there_are_several(bare_store: Store, tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "more" / "1.png", "red", 5)
    ingest(bare_store, tmp_path / "more", encoder="fake:24", thumbnails=False)
    with pytest.raises(Ambiguous, match="name it: --space NAME"):
        export(bare_store, tmp_path / "out.npz")
    assert export(bare_store, tmp_path / "out.npz", space="fake-24")["rows"] == 1


def test_an_earlier_commit_is_exported_as_it_was(bare_store: Store, tmp_path: Path, paint: Paint) -> None:
    then = bare_store.commit
    export(bare_store, tmp_path / "a.npz")
    paint(tmp_path / "more" / "1.png", "red", 5)
    ingest(bare_store, tmp_path / "more", encoder="fake:64", thumbnails=False)
    with Store(bare_store.path, at=then) as before:
        assert export(before, tmp_path / "b.npz")["rows"] == 63
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        np.testing.assert_array_equal(a["vector"], b["vector"])
    assert export(bare_store, tmp_path / "c.npz")["rows"] == 64
