"""A random forest, grown by scikit-learn and kept as the arrays of its trees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.probes.choice import ChosenProbe, Target, positive_numbers
from vecstore.probes.layout import OUT_OF_FOLD, Array, Layout
from vecstore.records import BoolArray, DoubleArray, IntArray

SPLITS = (2, 5, 10, 20, 50)
PATHS = 1 << 20  # rows times trees followed at a time


class ForestProbe(ChosenProbe):
    """A random forest: scikit-learn's `RandomForestClassifier`.

    Parameters
    ----------
    trees : int
        Trees of the forest.
    splits : sequence of int, optional
        Sizes to choose from of the smallest node that is still divided (`min_samples_split`); 2 to 50 by default.
        One forest per fold, grown to the end and cut back, gives all of them; only the chosen one is grown again.
    folds : int
        At most; fewer when the rarest class is in fewer groups.
    max_samples : int
        Rows that a tree is grown from, at most: drawn anew for each tree, with replacement, as always.
    seed : int
        Of the folds and of the trees.
    n_jobs : int, optional
        Threads that grow trees, as in scikit-learn; all processors by default.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    kind_ : {"binary", "multi-class", "multi-label"}
    split_ : int
        Chosen: of those within 0.001 of the best mean AUC the size with the least squared error.
    splits_ : ndarray of shape (n_splits,), int64
    cv_auc_ : ndarray of shape (n_splits,), float64
        Mean over folds of the AUC on the fold left out.
    feature_ : ndarray of shape (n_nodes,), int32
        Which feature a node compares; -1 for a leaf. Trees are one behind the other.
    threshold_ : ndarray of shape (n_nodes,), float64
        Rows go left where the feature, as float32, is at most this.
    left_, right_ : ndarray of shape (n_nodes,), int32
        Nodes below.
    value_ : ndarray of shape (n_nodes, n_columns), float64
        Share of each class at a node; for two classes of the second alone.
    roots_ : ndarray of shape (n_forests, n_trees), int32
        First node of each tree. One forest gives all columns; where some labels of several are unknown, there is one
        per label.
    oof_ : ndarray of shape (n, n_classes), float64
        Out-of-fold probabilities; for each fold in the setting that is best on the other folds, so no row has a say
        in how it is scored itself.
    folds_ : ndarray of shape (n,), int64

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(60, 4))
    >>> ForestProbe(trees=20, folds=3).fit(X, X[:, 0] > 0).predict(X[:3])
    array([ True, False, False])
    """

    layout = Layout(
        {
            "splits_": Array("settings", dtype="int64"),
            "cv_auc_": Array("settings"),
            "feature_": Array("nodes", dtype="int32"),
            "threshold_": Array("nodes", finite=True),
            "left_": Array("nodes", dtype="int32"),
            "right_": Array("nodes", dtype="int32"),
            "value_": Array("nodes", "columns", finite=True),
            "roots_": Array("forests", "trees", dtype="int32"),
            **OUT_OF_FOLD,
        },
        ("split_",),
    )

    def __init__(
        self,
        trees: int = 200,
        splits: Sequence[int] | None = None,
        max_samples: int = 20_000,
        folds: int = 5,
        seed: int = 0,
        n_jobs: int | None = -1,
    ) -> None:
        self.trees = trees
        self.splits = splits
        self.max_samples = max_samples
        self.folds = folds
        self.seed = seed
        self.n_jobs = n_jobs

    def fault(self) -> str:
        """What is wrong with arrays of the right shapes, or nothing: every path must end."""
        outputs = self.roots_.shape[0] * self.value_.shape[1]
        wanted = 1 if self.kind_ == "binary" else len(self.classes_)
        if outputs != wanted:
            return f"value_ gives {outputs} columns, not {wanted}"
        nodes, inner = len(self.feature_), np.flatnonzero(self.feature_ >= 0)
        below = np.stack([self.left_[inner], self.right_[inner]])
        if (self.feature_ < -1).any() or (self.feature_ >= self.n_features_in_).any():
            return f"feature_ names features beyond the {self.n_features_in_} there are"
        if (below <= inner).any() or (below >= nodes).any() or (self.roots_ < 0).any() or (self.roots_ >= nodes).any():
            return "left_, right_ or roots_ lead out of the trees"
        return ""

    def _settings(self, n: int) -> list[int]:
        splits = SPLITS if self.splits is None else self.splits
        positive_numbers({"trees": self.trees, "splits": splits, "max_samples": self.max_samples})
        self.splits_ = np.unique(np.maximum(np.asarray(splits).astype(np.int64), 2))
        return [int(size) for size in self.splits_]

    def _chances(self, X: npt.NDArray[Any], target: Target, held: npt.NDArray[Any]) -> Iterator[DoubleArray]:
        if not len(X):
            yield from [np.full((len(held), len(target.columns)), 0.5)] * len(self.splits_)
            return
        trees = _Trees(self._grown(X, target, 2), target)
        for size in self.splits_:
            yield trees.chances(held, trees.size < size)

    def _learn(self, features: npt.NDArray[Any], targets: Sequence[Target], setting: int) -> None:
        self.split_ = setting
        forests = [_Trees(self._grown(features[t.known], t, setting), t) for t in targets]
        starts = np.cumsum([0] + [len(forest.feature) for forest in forests])
        shifted = [(forest, int(start)) for forest, start in zip(forests, starts[:-1], strict=True)]
        self.feature_ = np.concatenate([forest.feature for forest, _ in shifted])
        self.threshold_ = np.concatenate([forest.threshold for forest, _ in shifted])
        self.left_ = np.concatenate([forest.left + start for forest, start in shifted]).astype(np.int32)
        self.right_ = np.concatenate([forest.right + start for forest, start in shifted]).astype(np.int32)
        self.value_ = np.concatenate([forest.value for forest, _ in shifted])
        self.roots_ = np.stack([forest.roots + start for forest, start in shifted]).astype(np.int32)

    def _predicted(self, X: npt.NDArray[Any]) -> DoubleArray:
        leaf = self.feature_ < 0
        nodes = self.feature_, self.threshold_, self.left_, self.right_, leaf
        return np.hstack([_mean_leaf(X, nodes, self.value_, roots) for roots in self.roots_])

    def _grown(self, X: npt.NDArray[Any], target: Target, size: int) -> Any:
        from sklearn.ensemble import RandomForestClassifier

        settings = {"min_samples_split": size, "random_state": self.seed, "n_jobs": self.n_jobs}
        if len(X) > self.max_samples:
            settings["max_samples"] = self.max_samples
        forest = RandomForestClassifier(self.trees, **settings)
        return forest.fit(X, target.y)


class _Trees:
    """All trees of a fitted forest as arrays, one behind the other."""

    def __init__(self, forest: Any, target: Target) -> None:
        trees = [estimator.tree_ for estimator in forest.estimators_]
        counts = [tree.node_count for tree in trees]
        self.roots = np.cumsum([0, *counts[:-1]])
        offsets = np.repeat(self.roots, counts)
        left = np.concatenate([tree.children_left for tree in trees])
        inner = left >= 0
        self.left = np.where(inner, left + offsets, 0)
        self.right = np.where(inner, np.concatenate([tree.children_right for tree in trees]) + offsets, 0)
        self.feature = np.where(inner, np.concatenate([tree.feature for tree in trees]), -1).astype(np.int32)
        self.threshold = np.where(inner, np.concatenate([tree.threshold for tree in trees]), 0.0)
        self.size = np.concatenate([tree.n_node_samples for tree in trees])
        shares = np.concatenate([tree.value for tree in trees])
        shares = shares / shares.sum(axis=2, keepdims=True)
        self.value = _columns(shares, forest.classes_, target)

    def chances(self, X: npt.NDArray[Any], cut: BoolArray) -> DoubleArray:
        """Outputs of shape (n, n_columns) where paths end at leaves and at nodes that are cut."""
        leaf = (self.feature < 0) | cut
        return _mean_leaf(X, (self.feature, self.threshold, self.left, self.right, leaf), self.value, self.roots)


def _columns(shares: DoubleArray, classes: Any, target: Target) -> DoubleArray:
    """Shares per node, output and class present in the fold, as shares per node and output."""
    if target.y.ndim == 2:
        known = [np.flatnonzero(np.asarray(sides) == 1) for sides in classes]
        return np.stack(
            [shares[:, i, at[0]] if len(at) else np.zeros(len(shares)) for i, at in enumerate(known)], axis=1
        )
    whole = np.zeros((len(shares), target.sides))
    whole[:, np.asarray(classes, np.int64)] = shares[:, 0]
    return whole if len(target.columns) == target.sides else np.ascontiguousarray(whole[:, 1:])


def _mean_leaf(X: npt.NDArray[Any], nodes: tuple[Any, ...], value: DoubleArray, roots: IntArray) -> DoubleArray:
    """Mean over trees of what stands at the end of each row's path, of shape (n, n_columns)."""
    feature, threshold, left, right, leaf = nodes
    rows = np.ascontiguousarray(X, np.float32)
    out = np.empty((len(rows), value.shape[1]))
    block = max(1, PATHS // len(roots))
    for start in range(0, len(rows), block):
        part = rows[start : start + block]
        at = np.tile(roots, len(part)).astype(np.int64)
        row = np.repeat(np.arange(len(part)), len(roots))
        going = np.flatnonzero(~leaf[at])
        while len(going):
            here = at[going]
            goes_left = part[row[going], feature[here]] <= threshold[here]
            at[going] = np.where(goes_left, left[here], right[here])
            going = going[~leaf[at[going]]]
        out[start : start + block] = value[at].reshape(len(part), len(roots), -1).mean(axis=1)
    return out
