"""`Store.items` reads by ranges of ids: nothing is lost, and every value stays with its item."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vecstore.errors import StoreDamaged
from vecstore.store import Items, Store
from vecstore.store import store as module

ODD = ["a,b.png", 'quote".png', "new\nline.png", "back\\slash.png", "ö/日本.png", "tab\t.png", "x.zip!y.png", "s.dcm#3"]


@pytest.mark.parametrize("length", [1, 3, 1000])
def test_items_of_several_sources_come_by_id_with_their_own_names(
    kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    monkeypatch.setattr(module, "_RANGE", length)
    with kit.create(tmp_path / "s.vecs") as store:
        assert len(store.items()) == 0
        kit.add(store, ODD)
        one = store.refresh().items()
        assert (one.locators, one.sources) == (ODD, ["archive"] * len(ODD))
        kit.add(store, ["a,b.png", "second.png"], source="Other", contents={"second.png": ODD[2]})
        items = store.refresh().items()
        expected = kit.plain(
            store.path,
            "SELECT s.item, s.content, src.name, i.locator FROM states s JOIN items i ON i.id = s.item"
            " JOIN sources src ON src.id = i.source ORDER BY s.item",
        )
        rows = list(zip(items.ids.tolist(), items.contents.tolist(), items.sources, items.locators, strict=True))
        assert rows == expected and len(rows) == len(ODD) + 2
        assert items.contents[-1] == items.contents[2]
        some = store.items(where="locator like '%.png'", source="archive")
        assert some.locators == ODD[:-1] and set(some.sources) == {"archive"}
        np.testing.assert_array_equal(some.ids, items.ids[:-3])
        assert store.items(source="OTHER").locators == ["a,b.png", "second.png"]


def test_a_range_without_items_is_passed_over(kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RANGE", 2)
    with kit.create(tmp_path / "s.vecs") as store:
        kit.add(store, [f"{n}.png" for n in range(9)])
        kit.add(store, ["last.png"])
        commit = store.refresh().commit
        kit.plain(store.path, "UPDATE states SET removed_in = ? WHERE item BETWEEN 3 AND 6", commit)
        assert store.items().locators == ["0.png", "1.png", "6.png", "7.png", "8.png", "last.png"]
    with Store(tmp_path / "s.vecs", at=commit - 1) as before:
        assert before.items().locators == [f"{n}.png" for n in range(9)]


def test_items_that_sqlite_hands_out_in_another_order_are_put_in_order() -> None:
    given = Items(np.array([3, 1, 2]), np.array([30, 10, 20]), ["c", "a", "b"], ["z", "x", "y"])
    found = module._in_order(given)
    assert (found.ids.tolist(), found.contents.tolist()) == ([1, 2, 3], [10, 20, 30])
    assert (found.sources, found.locators) == (["a", "b", "c"], ["x", "y", "z"])
    assert module._in_order(found) is found


@pytest.mark.parametrize("sources", [1, 2])
def test_an_item_of_a_source_that_is_not_there_is_damage(kit: Any, tmp_path: Path, sources: int) -> None:
    with kit.create(tmp_path / "s.vecs") as store:
        for number in range(sources):
            kit.add(store, ["a.png", "b.png"], source=f"source{number}")
        kit.plain(store.path, "PRAGMA foreign_keys = OFF")
        kit.plain(store.path, "UPDATE items SET source = 77 WHERE locator = 'b.png' AND source = 1")
        with pytest.raises(StoreDamaged, match="items of a source 77 that is not there; expected a source for every"):
            store.refresh().items()


def test_all_pieces_are_of_one_moment(kit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RANGE", 2)
    with kit.create(tmp_path / "s.vecs") as store:
        kit.add(store, [f"{n}.png" for n in range(6)])
        real, tried = Store.rows, []

        def meddled(self: Store, text: str, **values: Any) -> Any:
            found = real(self, text, **values)
            if values.get("first") == 2:
                with closing(sqlite3.connect(self.path / "catalog.sqlite", timeout=0)) as other:
                    try:
                        other.execute("DELETE FROM states WHERE item IN (1, 4)")
                        other.commit()
                    except sqlite3.OperationalError as error:
                        tried.append(str(error))
            return found

        monkeypatch.setattr(Store, "rows", meddled)
        assert store.refresh().items().locators == [f"{n}.png" for n in range(6)]
        assert tried == ["database is locked"]
