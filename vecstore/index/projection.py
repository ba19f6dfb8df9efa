"""Vectors laid out in a plane: principal components, or UMAP where its package is installed."""

from __future__ import annotations

import warnings

import numpy as np

from vecstore.errors import DataError, PackageMissing, UsageError
from vecstore.records import DoubleArray, FloatArray

METHODS = ("pca", "umap")

_NEIGHBOURS = 15


def plane(vectors: FloatArray, method: str = "pca", seed: int = 0) -> tuple[DoubleArray, list[float] | None]:
    """Lay vectors out in a plane.

    Parameters
    ----------
    vectors : ndarray of shape (n, dim), float32
    method : {"pca", "umap"}
    seed : int
        Of UMAP; principal components need none.

    Returns
    -------
    places : ndarray of shape (n, 2), float64
        One unit of length for both axes.
    explained : list of float, or None
        Share of the variance on each axis, 0 to 1; None of UMAP, whose axes have no meaning.

    Raises
    ------
    UsageError
        Another method.
    PackageMissing
        UMAP is not installed.
    DataError
        Fewer than three vectors.
    """
    if method not in METHODS:
        raise UsageError(f"method {method!r}", expected=f"one of: {', '.join(METHODS)}", do="--method pca")
    if len(vectors) < 3:
        raise DataError(
            f"{len(vectors)} items for a map", expected="at least three", do="ingest more, or widen --where"
        )
    return _components(vectors) if method == "pca" else (_umap(vectors, seed), None)


def _components(vectors: FloatArray) -> tuple[DoubleArray, list[float]]:
    from sklearn.decomposition import PCA

    wide = vectors.astype(np.float64)
    if vectors.shape[1] < 2 or not wide.var(axis=0).any():
        return np.column_stack([wide[:, 0] - wide[:, 0].mean(), np.zeros(len(wide))]), [0.0, 0.0]
    found = PCA(2, svd_solver="full" if len(wide) < wide.shape[1] else "covariance_eigh").fit(wide)
    return found.transform(wide), [float(part) for part in found.explained_variance_ratio_]


def _umap(vectors: FloatArray, seed: int) -> DoubleArray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its import: that some optional library is absent
        try:
            import umap
        except ImportError as error:
            raise PackageMissing(
                "UMAP is not installed", expected="the package umap-learn", do="pip install umap-learn, or --method pca"
            ) from error
        # One thread: with several, the same seed gives other places each time.
        made = umap.UMAP(n_neighbors=min(_NEIGHBOURS, len(vectors) - 1), metric="cosine", random_state=seed, n_jobs=1)
        return np.asarray(made.fit_transform(vectors), np.float64)
