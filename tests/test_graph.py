"""Neighbours of every item: against scikit-learn, near-duplicates, outliers, and the file others read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import load_npz
from sklearn.neighbors import NearestNeighbors

from vecstore.errors import DataError, UsageError
from vecstore.graph import neighbors
from vecstore.ingest import ingest
from vecstore.records import Passport
from vecstore.store import Store
from vecstore.store.append import Batch, Picture, append

Paint = Callable[[Path, str, int], None]


def test_the_graph_is_that_of_scikit_learn(colour_store: Store, tmp_path: Path) -> None:
    found = neighbors(colour_store, 7, output=tmp_path / "graph.npz")
    items = colour_store.items()
    rows = colour_store.vectors(colour_store.space(), items.contents).astype(np.float64)
    expected = NearestNeighbors(n_neighbors=7, metric="cosine").fit(rows).kneighbors_graph(mode="distance")
    np.testing.assert_array_equal(found.ids, items.ids)
    np.testing.assert_allclose(found.graph.toarray(), expected.toarray(), atol=1e-6)
    assert (found.k, found.exact, found.recall, found.commit) == (7, True, None, colour_store.commit)
    read = load_npz(tmp_path / "graph.npz")
    assert (read != found.graph).nnz == 0
    with np.load(tmp_path / "graph.npz") as file:
        np.testing.assert_array_equal(file["item_ids"], items.ids)
    assert (np.diff(found.graph.indptr) == 7).all()
    assert all((np.diff(found.graph.data[row * 7 : row * 7 + 7]) >= 0).all() for row in range(63))
    mean = found.graph.sum(axis=1).A1 / 7 if hasattr(found.graph.sum(axis=1), "A1") else found.graph.sum(axis=1) / 7
    assert found.outliers[0][0] == items.ids[int(np.argmax(mean))] and len(found.outliers) == 20


def test_identical_and_nearly_identical_pictures_are_grouped(bare_store: Store, tmp_path: Path, paint: Paint) -> None:
    for number in range(4):
        paint(tmp_path / "same" / f"{number}.png", "red", 4242)
    ingest(bare_store, tmp_path / "same", encoder="fake:64", thumbnails=False)
    found = neighbors(bare_store.path, 5, duplicates=0.9999)
    assert found.duplicates == [[64, 65, 66, 67]]
    assert neighbors(bare_store, 5, duplicates=-1).duplicates == [list(range(1, 68))]
    some = neighbors(bare_store, 100, where="source = 'same'", duplicates=1.0)
    assert some.ids.tolist() == [64, 65, 66, 67] and some.k == 3 and some.graph.shape == (4, 4)
    np.testing.assert_allclose(some.graph.data, 0, atol=1e-6)


def test_bunches_of_more_than_k_alike_pictures_are_one_group(tmp_path: Path) -> None:
    """Every picture's k nearest are of its own bunch; what joins the bunches is further down."""
    rng = np.random.default_rng(0)
    angles = np.concatenate([np.zeros(9), np.full(9, 0.1), np.full(4, 1.0)])  # cosines 0.995 and 0.62 between them
    rows = np.column_stack([np.cos(angles), np.sin(angles), 0.003 * rng.standard_normal((len(angles), 4))])
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    passport = Passport("made", "none", "made", "none", "", "", (1, 1), "none", (0.0,), (1.0,), "none", 6)
    with Store.create(tmp_path / "made.vecs") as store:
        space = store.add_space("made", passport, {})
        hashes = [bytes([number]) * 16 for number in range(len(rows))]
        pictures = [Picture(f"{n:02}.png", 1, 1, None, "made", h, 1, 1, {}) for n, h in enumerate(hashes)]
        append(store, Batch("made", "folder", pictures, vectors={space.id: (hashes, rows)}), {space.id: space}, {})
        for k in (1, 3, 5):
            found = neighbors(store.refresh(), k, duplicates=0.99)
            assert found.duplicates == [list(range(1, 19)), list(range(19, 23))]
            assert found.graph.nnz == k * len(rows)


def test_with_a_recall_few_neighbours_are_missed_and_it_is_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n, dim = 5000, 24
    rows = rng.standard_normal((40, dim))[rng.integers(0, 40, n)] + rng.standard_normal((n, dim))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    passport = Passport("made", "none", "made", "none", "", "", (1, 1), "none", (0.0,), (1.0,), "none", dim)
    with Store.create(tmp_path / "made.vecs") as store:
        space = store.add_space("made", passport, {})
        hashes = [number.to_bytes(16, "big") for number in range(n)]
        pictures = [
            Picture(f"{n:04}.png", 1, 1, None, "made", hashes[0 if n % 500 == 7 else n], 1, 1, {}) for n in range(n)
        ]
        append(store, Batch("made", "folder", pictures, vectors={space.id: (hashes, rows)}), {space.id: space}, {})
        store.refresh()
        exact = neighbors(store, 10, recall=1.0)
        found = neighbors(store, 10, recall=0.97, output=tmp_path / "graph.npz")
        assert exact.exact and exact.recall is None and not found.exact and found.recall is not None
        assert found.recall["value"] >= 0.95 and found.recall["low"] < found.recall["value"]
        truth, near = (one.graph.indices.reshape(n, 10) for one in (exact, found))
        assert np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(truth, near, strict=True)]) >= 0.97
        assert found.duplicates == exact.duplicates == [[1, *range(8, n, 500)]]  # one picture under eleven names
        far = found.graph.data.reshape(n, 10)
        assert (np.diff(far, axis=1) >= 0).all() and (far[7] < 1e-6).all()
        np.testing.assert_allclose(far[near == truth], exact.graph.data.reshape(n, 10)[near == truth], atol=1e-6)
        # Of few items nothing is to be saved.
        few = neighbors(store, 10, recall=0.97, where="item <= 2000")
        assert few.exact and few.recall is None and len(few.ids) == 2000


@pytest.mark.parametrize("recall", [0.0, 1.5, float("nan")])
def test_a_recall_that_is_no_share_is_refused(bare_store: Store, recall: float) -> None:
    with pytest.raises(UsageError, match=rf"recall {recall}; expected above 0 and at most 1; --recall 0\.97"):
        neighbors(bare_store, 3, recall=recall)


def test_what_makes_no_graph_is_refused(bare_store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="k = 0"):
        neighbors(bare_store, 0)
    with pytest.raises(DataError, match="1 items to compare; expected at least two"):
        neighbors(bare_store, 3, where="item = 5")
    with pytest.raises(UsageError, match="its folder does not exist"):
        neighbors(bare_store, 3, output=tmp_path / "absent" / "graph.npz")
