"""Clusters of a store's items: sizes, central examples, labels beside them, and the table that becomes a task."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score

from vecstore.clusters import clusters
from vecstore.errors import DataError, NotFound, UsageError
from vecstore.ingest import ingest
from vecstore.label import label
from vecstore.store import Store

Paint = Callable[[Path, str, int], None]


def test_every_item_is_in_a_cluster_with_its_score(colour_store: Store) -> None:
    found = clusters(colour_store, 4, examples=3)
    items = colour_store.items()
    np.testing.assert_array_equal(found.ids, items.ids)
    assert [one.size for one in found.clusters] == np.bincount(found.numbers)[1:].tolist()
    assert sum(one.size for one in found.clusters) == 63 and list(found.silhouettes) == [4]
    vectors = colour_store.vectors(colour_store.space(), items.contents).astype(np.float64)
    for one in found.clusters:
        members = np.flatnonzero(found.numbers == one.number)
        mean = vectors[members].mean(axis=0)
        np.testing.assert_allclose(found.scores[members], vectors[members] @ mean / np.linalg.norm(mean), atol=1e-3)
        best = members[np.argsort(-found.scores[members], kind="stable")[:3]]
        assert [item for item, *_ in one.examples] == items.ids[best].tolist()
        assert one.examples[0][1:3] == ("colours", items.locators[best[0]])
    assert (found.space, found.metric, found.commit) == ("fake-64", "cosine", colour_store.commit)
    assert found.purity is None and found.clusters[0].label is None


def test_labels_are_told_beside_clusters_and_chance(colour_store: Store) -> None:
    found = clusters(colour_store, task="colour")
    truth = np.array([colour_store.labels_of([int(i)])[int(i)]["colour"] for i in found.ids])
    most = 0
    for one in found.clusters:
        names, counts = np.unique(truth[found.numbers == one.number], return_counts=True)
        assert one.labelled == one.size and one.purity == counts.max() / one.size
        assert one.label in names[counts == counts.max()]
        most += counts.max()
    assert found.purity == pytest.approx(most / 63) and found.chance == pytest.approx(21 / 63)
    assert found.mutual_information == pytest.approx(adjusted_mutual_info_score(truth, found.numbers))
    best = max(found.silhouettes.values())
    assert best < 0.5 and len(found.clusters) == max(n for n, v in found.silhouettes.items() if v >= best / 2)
    (note,) = found.notes
    told = f"(best silhouette {best:.3f}; clear ones have 0.5 or more)"
    assert note.startswith(f"no number of clusters stands out {told}")
    assert f"{len(found.clusters)} is the largest whose silhouette is at least half of that" in note
    assert found.task == "colour" and not clusters(colour_store, 4).notes


def test_labels_of_some_items_and_several_labels_each(colour_store: Store, tmp_path: Path) -> None:
    locators = colour_store.items().locators
    table = tmp_path / "t.csv"
    table.write_text("file,A,B\n" + "".join(f"{name},1,{i % 2}\n" for i, name in enumerate(locators[:10])))
    label(colour_store, table, task="ab", key="file", value=["A", "B"])
    found = clusters(colour_store, 1, task="ab")
    (one,) = found.clusters
    assert (one.labelled, one.label, one.purity) == (10, "A", 1.0)
    assert (found.purity, found.chance, found.mutual_information) == (1.0, 1.0, None)
    parts = clusters(colour_store, 8, task="ab").clusters
    assert sum(part.labelled for part in parts) == 10
    assert all((part.label is None) == (part.labelled == 0) for part in parts)
    with pytest.raises(DataError, match="none of 3 items has a label of 'ab'"):
        clusters(colour_store, 2, task="ab", where="patient = 'P20'")


def test_of_identical_pictures_one_is_an_example(bare_store: Store, tmp_path: Path, paint: Paint) -> None:
    for number in range(5):
        paint(tmp_path / "same" / f"{number}.png", "red", 4242 + number // 4)
    ingest(bare_store, tmp_path / "same", encoder="fake:64", thumbnails=False)
    found = clusters(bare_store, 1, where="source = 'same'")
    (one,) = found.clusters
    assert one.size == 5 and sorted(item for item, *_ in one.examples) == [64, 68]
    few = clusters(bare_store, 4, where="source = 'same'")
    assert [one.size for one in few.clusters] == [4, 1]
    assert few.notes == ["2 of 4 clusters: there are no more different pictures"]


def test_the_table_is_read_by_label(colour_store: Store, tmp_path: Path) -> None:
    found = clusters(colour_store.path, 3, output=tmp_path / "clusters.csv", metric="standard")
    with (tmp_path / "clusters.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["item_id"]) for row in rows] == found.ids.tolist()
    assert [int(row["cluster"]) for row in rows] == found.numbers.tolist() and found.metric == "standard"
    np.testing.assert_allclose([float(row["score"]) for row in rows], found.scores, atol=1e-6)
    made = label(colour_store, tmp_path / "clusters.csv", task="cluster", key="locator", value="cluster")
    assert (made.matched, made.classes) == (63, ["1", "2", "3"])
    again = clusters(colour_store, 3, metric="standard", task="cluster")
    assert again.purity == 1.0 and again.mutual_information == pytest.approx(1.0)


def test_what_makes_no_clusters_is_refused(colour_store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="64 clusters of 63 items; expected 1 to 63; give another --count"):
        clusters(colour_store, 64)
    with pytest.raises(UsageError, match="0 clusters of 63 items"):
        clusters(colour_store, 0)
    with pytest.raises(DataError, match="1 items to cluster; expected at least two; ingest more, or widen --where"):
        clusters(colour_store, where="item = 5")
    with pytest.raises(UsageError, match="examples = 0; expected at least 1"):
        clusters(colour_store, examples=0)
    with pytest.raises(NotFound, match="no task 'cough'"):
        clusters(colour_store, task="cough")
    with pytest.raises(UsageError, match="its folder does not exist"):
        clusters(colour_store, output=tmp_path / "absent" / "x.csv")
