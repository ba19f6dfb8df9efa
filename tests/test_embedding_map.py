"""The embedding map of a store: what is on it, what it is coloured by, and how it looks in a browser."""

from __future__ import annotations

import base64
import json
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from sklearn.decomposition import PCA

from vecstore.clusters import clusters
from vecstore.embedding_map import embedding_map
from vecstore.errors import Ambiguous, DataError, NotFound, PackageMissing, PredicateRefused, UsageError
from vecstore.ingest import ingest
from vecstore.label import label
from vecstore.store import Store

if TYPE_CHECKING:
    from tests.browser import Browser


def _data(path: Path) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def _values(field: dict[str, Any]) -> list[Any]:
    if "values" in field:
        return list(field["values"])
    return [None if code < 0 else field["levels"][code] for code in field["codes"]]


def test_every_item_is_where_its_components_are(colour_store: Store, tmp_path: Path) -> None:
    found = embedding_map(colour_store, tmp_path / "map.html")
    items = colour_store.items()
    vectors = colour_store.vectors(colour_store.space(), items.contents).astype(np.float64)
    expected = PCA(2).fit(vectors)
    np.testing.assert_allclose(np.abs(found.places), np.abs(expected.transform(vectors)), atol=2e-3)
    assert found.explained == pytest.approx(expected.explained_variance_ratio_.tolist(), abs=1e-3)
    np.testing.assert_array_equal(found.ids, items.ids)
    assert (found.of, found.method, found.space, found.thumbnails) == (63, "pca", "fake-64", 63)
    assert (found.bytes, found.commit) == ((tmp_path / "map.html").stat().st_size, colour_store.commit)
    data = _data(tmp_path / "map.html")
    span = found.places.max(axis=0) - found.places.min(axis=0)
    assert max(*data["x"], *data["y"]) == 9999
    np.testing.assert_allclose(
        np.array(data["x"]) / 9999 * span.max() + found.places[:, 0].min(), found.places[:, 0], atol=span.max() / 9999
    )
    assert (tmp_path / "map.html").stat().st_mode & 0o777 == 0o600


def test_values_labels_and_thumbnails_are_those_of_the_store(colour_store: Store, tmp_path: Path) -> None:
    found = embedding_map(colour_store, tmp_path / "map.html")
    assert found.colors == ["colour", "cluster", "age", "patient", "sex"]  # one source is nothing to colour by
    data = _data(tmp_path / "map.html")
    fields = {field["name"]: _values(field) for field in data["fields"]}
    ids = found.ids.tolist()
    metadata, labels = colour_store.metadata(ids), colour_store.labels_of(ids)
    assert fields["colour"] == [labels[i]["colour"] for i in ids]
    assert fields["patient"] == [metadata[i]["patient"] for i in ids]
    assert fields["age"] == [metadata[i]["age"] for i in ids]
    assert fields["cluster"] == [str(number) for number in clusters(colour_store).numbers.tolist()]
    assert data["name"] == colour_store.items().locators and data["id"] == ids
    hashes = colour_store.hashes_of(ids)
    stored = colour_store.thumbnails.get(list(hashes.values()))
    shown = [base64.b64decode(uri.removeprefix("data:image/jpeg;base64,")) for uri in data["pictures"]]
    assert [shown[place] for place in data["picture"]] == [stored[hashes[i]] for i in ids]
    page = (tmp_path / "map.html").read_text(encoding="utf-8")
    for text in ("fake-64", "63 items", "fake:64", f"labelled.vecs, commit {colour_store.commit}"):
        assert text in page


def test_the_same_store_gives_the_same_bytes(colour_store: Store, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        embedding_map(colour_store.path, tmp_path / name, limit=20, seed=3)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_of_many_items_a_random_sample_is_shown_and_said(colour_store: Store, tmp_path: Path) -> None:
    path = tmp_path / "map.html"
    found = embedding_map(colour_store, path, limit=10, where="age > 45", color=["cluster", "task:colour"])
    assert (len(found.ids), found.of, found.thumbnails, found.colors) == (10, 45, 10, ["cluster", "colour"])
    assert "10 of 45 items, a random sample (seed 0)" in path.read_text() and "age &gt; 45" in path.read_text()
    other = embedding_map(colour_store, path, limit=10, where="age > 45", seed=1)
    assert set(other.ids.tolist()) != set(found.ids.tolist()) and (np.diff(other.ids) > 0).all()
    # Clusters are those of all items that fit, whichever are shown.
    whole = clusters(colour_store, where="age > 45")
    places = np.searchsorted(whole.ids, found.ids)
    embedding_map(colour_store, path, limit=10, where="age > 45", color=["cluster"])
    assert _values(_data(path)["fields"][0]) == [str(n) for n in whole.numbers[places].tolist()]


def test_what_is_named_can_be_coloured_by_in_that_order(colour_store: Store, tmp_path: Path) -> None:
    path = tmp_path / "map.html"
    assert embedding_map(colour_store, path, color=["AGE", "source", "colour", "age"]).colors == [
        "age",
        "source",
        "colour",
    ]
    options = re.findall(r'<option value="(\d+)">(.*?)</option>', path.read_text())
    assert options == [("0", "age"), ("1", "source"), ("2", "colour")]
    assert "cluster" not in [field["name"] for field in _data(path)["fields"]]  # not asked for, not computed
    with pytest.raises(
        NotFound, match="named 'agee'; expected one of: age, patient, sex, task:colour, source, cluster"
    ):
        embedding_map(colour_store, path, color=["agee"])


def test_a_store_without_thumbnails_and_labels_has_its_map(bare_store: Store, tmp_path: Path) -> None:
    (bare_store.path / "thumbnails.sqlite").unlink()
    found = embedding_map(bare_store.path, tmp_path / "map.html")
    assert (found.thumbnails, found.colors) == (0, ["cluster"])
    assert set(_data(tmp_path / "map.html")["picture"]) == {-1}


def test_clusters_that_became_a_task_are_not_found_anew(colour_store: Store, tmp_path: Path) -> None:
    found = clusters(colour_store, 2, output=tmp_path / "c.csv")
    label(colour_store, tmp_path / "c.csv", task="cluster", key="locator", value="cluster")
    made = embedding_map(colour_store, tmp_path / "map.html")
    assert made.colors == ["cluster", "colour", "age", "patient", "sex"]
    assert embedding_map(colour_store, tmp_path / "map.html", color=["cluster"]).colors == ["cluster"]
    assert _values(_data(tmp_path / "map.html")["fields"][0]) == [str(number) for number in found.numbers.tolist()]


def test_several_sources_are_told_apart(bare_store: Store, tmp_path: Path, colour_archive: Path) -> None:
    shutil.copytree(colour_archive / "p00", tmp_path / "more")
    ingest(bare_store, tmp_path / "more", encoder="fake:64")
    found = embedding_map(bare_store, tmp_path / "map.html")
    assert found.colors == ["cluster", "source"] and found.thumbnails == 63  # the same pictures, once each
    assert _data(tmp_path / "map.html")["source"]["levels"] == ["colours", "more"]


def test_what_makes_no_map_is_refused_before_any_work(
    colour_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "map.html"
    with pytest.raises(UsageError, match="its folder does not exist"):
        embedding_map(colour_store, tmp_path / "absent" / "map.html")
    with pytest.raises(UsageError, match="limit = 2; expected at least 3; --limit 2000"):
        embedding_map(colour_store, path, limit=2)
    with pytest.raises(UsageError, match="method 'tsne'; expected one of: pca, umap"):
        embedding_map(colour_store, path, method="tsne")
    with pytest.raises(DataError, match="2 items for a map; expected at least three; ingest more, or widen --where"):
        embedding_map(colour_store, path, where="item < 3")
    with pytest.raises(PredicateRefused):
        embedding_map(colour_store, path, where="agee > 3")
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(PackageMissing, match=r"UMAP is not installed; .*pip install umap-learn"):
        embedding_map(colour_store, path, method="umap")
    assert not path.exists()


def test_of_several_spaces_one_is_named(bare_store: Store, colour_archive: Path, tmp_path: Path) -> None:
    ingest(bare_store, colour_archive, encoder="fake:16")
    with pytest.raises(Ambiguous, match="2 spaces; expected one of: fake-64, fake-16"):
        embedding_map(bare_store, tmp_path / "map.html")
    assert embedding_map(bare_store, tmp_path / "map.html", space="fake-16").space == "fake-16"


@pytest.mark.parametrize("width", [1280, 390])
def test_hovering_over_an_item_shows_its_own_thumbnail(
    browser: Browser, colour_store: Store, tmp_path: Path, width: int
) -> None:
    path = tmp_path / "map.html"
    embedding_map(colour_store, path, color=["colour", "age"])
    data = _data(path)
    page = browser.open(path, width)
    page.evaluate("document.querySelector('#map').focus()")
    page.press("ArrowRight")
    spot = page.centre("#ring")
    page.press("Escape")
    page.hover(*spot)
    shown = page.evaluate("document.querySelector('#tip').innerText")
    item = data["id"].index(int(re.search(r"item\s+(\d+)", shown)[1]))  # type: ignore[index]
    assert data["name"][item].rpartition("/")[2] in shown and _values(data["fields"][0])[item] in shown
    source, wide = page.evaluate(
        "(i => i.decode().then(() => [i.src, i.naturalWidth]))(document.querySelector('#tip img'))"
    )
    assert (source, wide) == (data["pictures"][data["picture"][item]], 12)
    assert page.faults() == [] and page.requests == [path.resolve().as_uri()]
    page.close()


def test_every_column_that_differs_can_be_coloured_by_and_a_dozen_are_shown(
    colour_store: Store, tmp_path: Path
) -> None:
    names = [f"A{number:02}" for number in range(15)]
    rows = [
        [locator, "xy"[row % 2], "same", *(f"{name}{row % 3}" for name in names), f"free text {row}"]
        for row, locator in enumerate(colour_store.items().locators)
    ]
    table = tmp_path / "more.csv"
    head = ["file", "label", "AA", *names, "ABC", "AUID"]
    table.write_text("\n".join(",".join(row) for row in [head, *([*row, f"1.2.{row[0]}"] for row in rows)]))
    label(colour_store, table, task="t", key="file", value="label", columns=head[2:])
    found = embedding_map(colour_store, tmp_path / "map.html")
    assert set(found.colors) == {"colour", "t", "cluster", "patient", "age", "sex", *names, "ABC"}
    fields = {field["name"]: field for field in _data(tmp_path / "map.html")["fields"]}
    shown = [name for name, field in fields.items() if field["what"] == "column" and not field.get("aside")]
    # Not what is the same for all or different for each, though the alphabet has it first.
    assert len(shown) == 12 and not {"AA", "ABC"} & set(shown) and "AUID" not in fields
