"""Nearest neighbours by cosine after a whitening that never sees a label; votes weighted by similarity.

A raw cosine on pooled network features is ruled by a few features of large spread. Giving every feature, or every
leading principal component, equal spread brings the neighbours level with a linear probe (`PERFORMANCE.md`, "What
one small frozen network can do").
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from vecstore.errors import DataError
from vecstore.probes.auc import weighted_auc
from vecstore.probes.inputs import Training, checked_vectors, data_errors, indicator, training
from vecstore.probes.layout import OUT_OF_FOLD, Array, Layout
from vecstore.probes.linear import nan_mean
from vecstore.records import DoubleArray, IntArray

KS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200)
TEMPERATURES = (0.02, 0.05, 0.1, 0.2, 0.5)
SMALL = 1 << 18  # values of a feature matrix up to which float64 costs nothing worth saving
SCORES = 1 << 23  # similarities held at a time
VOTES = 1 << 20  # votes weighed at a time


class KNNProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """k nearest neighbours by cosine similarity.

    Parameters
    ----------
    k : int, optional
        Neighbours that vote; by default chosen from 1 to 200 by cross-validated AUC.
    temperature : float, optional
        Of softmax votes exp((cosine - best cosine) / temperature); by default chosen together with k.
    weights : {"softmax", "similarity", "uniform"}
        What a neighbour's vote counts. Similarity: the cosine, negatives 0.
    whiten : {"standard", "pca", "none"}
        What is done, labels unseen, before the cosine: every feature gets equal spread, the leading principal
        components do, or nothing. PCA is level with standard on a thousand rows and worse on a few hundred.
    components : int
        At most so many principal components.
    folds : int
        At most; fewer when the rarest class is in fewer groups.
    seed : int
        Of the folds.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    kind_ : {"binary", "multi-class", "multi-label"}
    k_ : int
    temperature_ : float
    ks_ : ndarray of shape (n_ks,), int64
    temperatures_ : ndarray of shape (n_temperatures,), float64
    cv_auc_ : ndarray of shape (n_temperatures, n_ks), float64
        Mean over folds of the AUC on the fold left out.
    center_ : ndarray of shape (d,), float64
    projection_ : ndarray of shape (d,) or (d, n_components), float64
        What centred vectors are multiplied by before they are brought to unit length.
    prior_ : ndarray of shape (n_outputs,), float64
        Share of each class, for rows without a vote.
    oof_ : ndarray of shape (n, n_classes), float64
        Out-of-fold probabilities; for each fold at the k and temperature that are best on the other folds, so no row
        has a say in how it is scored itself.
    folds_ : ndarray of shape (n,), int64

    Notes
    -----
    The training vectors are part of a fitted probe but not of a saved one: `attach` gives them back.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(60, 4))
    >>> KNNProbe(folds=3).fit(X, X[:, 0] > 0).predict(X[:3])
    array([ True, False, False])
    """

    layout = Layout(
        {
            "center_": Array("features", finite=True),
            "projection_": Array("features", "components", finite=True, or_axes=("features",)),
            "prior_": Array("outputs", finite=True),
            "ks_": Array("ks", dtype="int64"),
            "temperatures_": Array("temperatures"),
            "cv_auc_": Array("temperatures", "ks"),
            **OUT_OF_FOLD,
        },
        ("k_", "temperature_"),
    )

    def __init__(
        self,
        k: int | None = None,
        temperature: float | None = None,
        weights: str = "softmax",
        whiten: str = "standard",
        components: int = 128,
        folds: int = 5,
        seed: int = 0,
    ) -> None:
        self.k = k
        self.temperature = temperature
        self.weights = weights
        self.whiten = whiten
        self.components = components
        self.folds = folds
        self.seed = seed

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def fit(self, X: npt.ArrayLike, y: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> Self:
        """Learn the whitening, choose k and temperature, and keep the vectors.

        Parameters
        ----------
        X : array-like of shape (n, d)
            Finite.
        y : array-like of shape (n,) or (n, n_labels)
            A class per row; or for several labels 0, 1, or NaN for unknown.
        groups : array-like of shape (n,), optional
            What a fold must not divide. By default each row is its own group, equal rows together.

        Returns
        -------
        self

        Raises
        ------
        DataError
            No rows, one class only, a class in a single group, vectors that are not finite, arrays that do not fit
            each other, or parameters out of range.
        """
        data = training(self, X, y, None, groups, self.folds, self.seed)
        self._check_parameters(len(data.X))
        self.classes_, self.kind_ = data.classes, data.kind
        self.center_, self.projection_ = _whitening(data.X, self.whiten, self.components)
        self._keep(data.X, data.y)
        known = ~np.isnan(self._truth)
        self.prior_ = np.where(known, self._truth, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        self._choose(data)
        return self

    def attach(self, X: npt.ArrayLike, y: npt.ArrayLike) -> Self:
        """Give a loaded probe its training vectors back.

        Parameters
        ----------
        X : array-like of shape (n, d)
            The vectors it was fitted on, in the same order.
        y : array-like of shape (n,) or (n, n_labels)
            Their labels.

        Returns
        -------
        self

        Raises
        ------
        DataError
            Labels the probe does not know, or arrays that do not fit each other or the probe.
        """
        vectors = checked_vectors(self, X)
        if self.kind_ == "multi-label":
            with data_errors():
                self._keep(vectors, indicator(y, len(vectors)))
            return self
        labels = np.asarray(y)
        if len(labels) != len(vectors) or not np.isin(labels, self.classes_).all():
            raise DataError(
                f"{len(vectors)} vectors with {len(labels)} labels, or labels the probe does not know",
                expected=f"a label per vector, of {self.classes_.tolist()}",
                do="attach what the probe was trained on",
            )
        self._keep(vectors, np.searchsorted(self.classes_, labels))
        return self

    def predict_proba(self, X: npt.ArrayLike) -> DoubleArray:
        """Shares of the votes, of shape (n, n_classes); of several labels each by itself, else summing to 1.

        Raises
        ------
        DataError
            Vectors that are not finite or of another width, or a loaded probe without its vectors.
        """
        check_is_fitted(self, "k_")
        vectors = checked_vectors(self, X)
        if not hasattr(self, "_vectors"):
            raise DataError(
                "this probe was loaded without its training vectors", expected="attach(X, y) first", do="call attach"
            )
        queries = _whitened(vectors, self.center_, self.projection_, self._vectors.dtype)
        shares = np.empty((len(queries), len(self._truth)))
        k = min(self.k_, len(self._vectors))
        for rows, scores, found in _nearest(queries, self._vectors, k):
            votes = _votes(scores, self.weights, self.temperature_)
            shares[rows] = _shares(votes, self._truth[:, found], [k], self.prior_)[:, 0].T
        return self._as_probabilities(shares)

    def predict(self, X: npt.ArrayLike) -> npt.NDArray[Any]:
        """The most probable class of each row; of several labels 0 or 1 each, of shape (n, n_labels)."""
        chances = self.predict_proba(X)
        if self.kind_ == "multi-label":
            return (chances > 0.5).astype(np.int64)
        return np.asarray(self.classes_[chances.argmax(axis=1)])

    def _keep(self, X: npt.NDArray[Any], y: npt.NDArray[Any]) -> None:
        dtype = np.float64 if X.size <= SMALL else np.float32
        self._vectors = _whitened(X, self.center_, self.projection_, np.dtype(dtype))
        if self.kind_ == "multi-label":
            self._truth = np.ascontiguousarray(y.T, dtype=np.float64)
        elif self.kind_ == "binary":
            self._truth = (y == 1).astype(np.float64)[None, :]
        else:
            self._truth = (y == np.arange(len(self.classes_))[:, None]).astype(np.float64)

    def _choose(self, data: Training) -> None:
        """One list of neighbours per row, none of its own fold, serves every k and temperature."""
        n_folds = int(data.folds.max()) + 1
        reach = len(data.y) - int(np.bincount(data.folds).max())
        ks = [k for k in KS if k <= reach] if self.k is None else [min(self.k, reach)]
        softmax = self.weights == "softmax"
        given = (1.0,) if not softmax else TEMPERATURES if self.temperature is None else (float(self.temperature),)
        shares = np.empty((len(given), len(ks), len(data.y), len(self._truth)))
        for fold in range(n_folds):
            inside, outside = np.flatnonzero(data.folds == fold), np.flatnonzero(data.folds != fold)
            for rows, scores, found in _nearest(self._vectors[inside], self._vectors[outside], ks[-1]):
                labels = self._truth[:, outside[found]]
                for i, temperature in enumerate(given):
                    votes = _votes(scores, self.weights, temperature)
                    shares[i][:, inside[rows]] = _shares(votes, labels, ks, self.prior_).transpose(1, 2, 0)
        self.ks_, self.temperatures_ = np.array(ks), np.array(given)
        areas = _fold_areas(shares, self._truth, data)
        self.cv_auc_ = nan_mean(areas, 0)
        best = _smoothest_best(self.cv_auc_)
        self.temperature_ = float(given[best[0]])
        self.k_ = int(ks[best[1]]) if self.k is None else int(self.k)
        out_of_fold = np.empty(shares.shape[2:])
        for fold in range(n_folds):
            inside = data.folds == fold
            out_of_fold[inside] = shares[_smoothest_best(nan_mean(np.delete(areas, fold, axis=0), 0))][inside]
        self.oof_ = self._as_probabilities(out_of_fold)
        self.folds_ = data.folds

    def _as_probabilities(self, shares: DoubleArray) -> DoubleArray:
        return np.hstack([1 - shares, shares]) if self.kind_ == "binary" else np.ascontiguousarray(shares)

    def _check_parameters(self, n: int) -> None:
        for name, allowed in (
            ("weights", ("softmax", "similarity", "uniform")),
            ("whiten", ("standard", "pca", "none")),
        ):
            if getattr(self, name) not in allowed:
                raise DataError(f"{name}={getattr(self, name)!r}", expected=f"one of {allowed}", do="pass one of these")
        if self.k is not None and not 1 <= self.k <= n:
            raise DataError(f"k={self.k} for {n} rows", expected=f"1 to {n}", do="pass a smaller k, or none")
        if self.temperature is not None and not self.temperature > 0:
            raise DataError(f"temperature={self.temperature}", expected="more than 0", do="pass 0.1, or none")
        if self.components < 1:
            raise DataError(f"components={self.components}", expected="at least 1", do="pass 128")


def _smoothest_best(auc: DoubleArray) -> tuple[int, int]:
    """Where the table is highest; of equals the largest temperature and k, which is also the answer without any AUC."""
    table = np.nan_to_num(auc, nan=0.0)
    row, column = np.argwhere(table >= table.max() - 1e-9)[-1]
    return int(row), int(column)


def _whitening(X: npt.NDArray[Any], rule: str, components: int) -> tuple[DoubleArray, DoubleArray]:
    """Center, and scales (d,) or a matrix (d, c); directions without spread get 0 or are left out."""
    d = X.shape[1]
    if rule == "none":
        return np.zeros(d), np.ones(d)
    center = X.mean(axis=0, dtype=np.float64)
    noise = 10 * np.finfo(X.dtype).eps * np.abs(center)
    if rule == "standard":
        square = sum((((part - center) ** 2).sum(axis=0) for part in _parts(X)), np.zeros(d))
        spread = np.sqrt(square / len(X))
        return center, np.where(spread > noise, 1 / np.where(spread > 0, spread, 1), 0)
    scatter = sum(((part - center).T @ (part - center) for part in _parts(X)), np.zeros((d, d))) / len(X)
    values, vectors = np.linalg.eigh(scatter)
    values, vectors = values[::-1][:components], vectors[:, ::-1][:, :components]
    # An eigenvector's sign is arbitrary: its largest entry is made positive.
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    kept = values > max(np.finfo(X.dtype).eps * d * values.max(), (noise**2).sum())
    if not kept.any():
        return center, np.zeros((d, 1))
    return center, vectors[:, kept] / np.sqrt(values[kept])


def _whitened(
    X: npt.NDArray[Any], center: DoubleArray, projection: DoubleArray, dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    """Centred, projected and brought to unit length; a vector of no length stays 0."""
    width = projection.shape[1] if projection.ndim == 2 else len(projection)
    out = np.empty((len(X), width), dtype)
    for start in range(0, len(X), 4096):
        part = X[start : start + 4096].astype(np.float64) - center
        part = part @ projection if projection.ndim == 2 else part * projection
        length = np.sqrt((part**2).sum(axis=1, keepdims=True))
        out[start : start + 4096] = part / np.where(length > 0, length, 1)
    return out


def _parts(X: npt.NDArray[Any]) -> Iterator[DoubleArray]:
    return (X[start : start + 4096].astype(np.float64) for start in range(0, len(X), 4096))


def _nearest(
    queries: npt.NDArray[Any], base: npt.NDArray[Any], k: int
) -> Iterator[tuple[slice, DoubleArray, IntArray]]:
    """Blocks of queries with their k highest cosines, descending, and the rows of `base` these belong to."""
    import torch

    matrix = torch.from_numpy(base).T
    block = max(1, SCORES // max(len(base), 1))
    for start in range(0, len(queries), block):
        rows = slice(start, min(start + block, len(queries)))
        scores, found = torch.topk(torch.from_numpy(queries[rows]) @ matrix, k, dim=1)
        yield rows, scores.numpy().astype(np.float64), found.numpy()


def _votes(scores: DoubleArray, weights: str, temperature: float) -> DoubleArray:
    if weights == "softmax":
        return np.asarray(np.exp((scores - scores[:, :1]) / temperature))
    return np.maximum(scores, 0) if weights == "similarity" else np.ones_like(scores)


def _shares(votes: DoubleArray, labels: DoubleArray, ks: list[int], prior: DoubleArray) -> DoubleArray:
    """Share of the votes of the first k neighbours, of shape (n_outputs, n_ks, n_queries).

    Parameters
    ----------
    votes : ndarray of shape (n_queries, K), float64
    labels : ndarray of shape (n_outputs, n_queries, K), float64
        0, 1 or NaN for unknown, which does not vote.
    ks : list of int
        Ascending, at most K.
    prior : ndarray of shape (n_outputs,)
        For queries without a vote.
    """
    out = np.empty((len(labels), len(ks), len(votes)))
    starts = [0, *ks[:-1]]
    for label, (output, column) in enumerate(zip(out, labels, strict=True)):
        known = ~np.isnan(column)
        counted = np.where(known, votes, 0)[:, : ks[-1]]
        total = np.cumsum(np.add.reduceat(counted, starts, axis=1), axis=1)
        yes = np.cumsum(np.add.reduceat(counted * (column[:, : ks[-1]] == 1), starts, axis=1), axis=1)
        output[:] = np.where(total > 0, yes / np.where(total > 0, total, 1), prior[label]).T
    return out


def _fold_areas(shares: DoubleArray, truth: DoubleArray, data: Training) -> DoubleArray:
    """The (macro) AUC on each fold for each temperature and k, of shape (n_folds, n_temperatures, n_ks)."""
    n_temperatures, n_ks = shares.shape[:2]
    areas = []
    for fold in range(int(data.folds.max()) + 1):
        columns = []
        for output, column in enumerate(truth):
            known = np.flatnonzero((data.folds == fold) & ~np.isnan(column))
            scores = shares[:, :, known, output].reshape(n_temperatures * n_ks, -1).T
            columns.append(weighted_auc(scores, column[known] == 1))
        areas.append(nan_mean(np.array(columns), 0))
    return np.array(areas).reshape(-1, n_temperatures, n_ks)
