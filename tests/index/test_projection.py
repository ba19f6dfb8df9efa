"""Vectors in a plane: scikit-learn's components, UMAP where it is installed, and a clear word where not."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from vecstore.errors import DataError, PackageMissing, UsageError
from vecstore.index.projection import plane
from vecstore.records import FloatArray


def _rows(n: int, dim: int = 16, seed: int = 0) -> FloatArray:
    rows = np.random.default_rng(seed).normal(size=(n, dim)) * (np.arange(dim, 0, -1) / dim)
    unit: FloatArray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


@pytest.mark.parametrize("n", [8, 200])
def test_components_are_those_of_scikit_learn(n: int) -> None:
    rows = _rows(n)
    places, explained = plane(rows)
    expected = PCA(2, svd_solver="full").fit(rows.astype(np.float64))
    theirs = expected.transform(rows.astype(np.float64))
    np.testing.assert_allclose(np.abs(places), np.abs(theirs), atol=1e-9)
    assert explained == pytest.approx(expected.explained_variance_ratio_.tolist())
    np.testing.assert_array_equal(places, plane(rows)[0])


def test_what_does_not_differ_is_in_one_place() -> None:
    places, explained = plane(np.tile(_rows(1), (5, 1)))
    assert places.shape == (5, 2) and not places.any() and explained == [0.0, 0.0]
    line, _ = plane(np.array([[1.0], [-1.0], [1.0]], np.float32))
    assert line[:, 0].tolist() == pytest.approx([2 / 3, -4 / 3, 2 / 3]) and not line[:, 1].any()


def test_what_makes_no_map_is_refused() -> None:
    with pytest.raises(DataError, match="2 items for a map; expected at least three"):
        plane(_rows(2))
    with pytest.raises(UsageError, match="method 'tsne'; expected one of: pca, umap; --method pca"):
        plane(_rows(9), "tsne")


def test_umap_is_named_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)  # what importing an absent package comes to
    with pytest.raises(PackageMissing, match="the package umap-learn; pip install umap-learn, or --method pca"):
        plane(_rows(9), "umap")


def test_umap_keeps_neighbours_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")  # compiling takes a minute, so few points as Python take seconds
    centres = np.eye(3, 16) * 3
    rows = np.repeat(centres, 8, axis=0) + np.random.default_rng(0).normal(0, 0.3, (24, 16))
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    places, explained = plane(unit, "umap")
    assert places.shape == (24, 2) and np.isfinite(places).all() and explained is None
    near = NearestNeighbors(n_neighbors=3).fit(places).kneighbors(return_distance=False)
    assert (near // 8 == np.arange(24)[:, None] // 8).mean() > 0.9
    np.testing.assert_array_equal(places, plane(unit, "umap")[0])
