"""Logistic regression over embedding vectors, its strength chosen by cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit, softmax

from vecstore.errors import DataError
from vecstore.probes.linear import LinearProbe
from vecstore.records import DoubleArray, TaskKind

if TYPE_CHECKING:
    from vecstore.probes.sweep import LossName


class LogisticProbe(LinearProbe):
    """L2-regularised logistic regression: sigmoid, softmax (or one against the rest), or a sigmoid per label.

    Parameters
    ----------
    strengths : sequence of float, optional
        Values of C to choose from, as in scikit-learn, on features scaled as `scale` says. By default ten from 1e-4
        to 100 (on unscaled unit vectors of a network that is about 1e-3 to 1e4), and more beyond an edge if the
        best is there.
    folds : int
        At most; fewer when the rarest class is in fewer groups.
    class_weight : None, "balanced" or mapping of class to weight
    scale : {"standard", "none"}
        Standard: features have mean 0 and equal spread inside, and rows a mean squared length of 1; folded into
        `coef_` and `intercept_` afterwards, so these are for vectors as given. None: centred only.
    seed : int
        Of the folds.
    several : {"multinomial", "one-vs-rest"}
        How several classes are told apart: one softmax over all, or a model per class against the others whose
        probabilities are brought to the sum 1.
    nested : bool
        Whether the strength is chosen anew for each fold without that fold, so that `oof_` is honest about the
        choice too. Costs about twice as much.
    scoring : {"auc", "log_loss", "accuracy", "balanced_accuracy"}
        What the strength is chosen by, on folds left out. Strengths within 1e-4 of the best are told apart by
        their log-loss.
    device : str
        Where to solve: "auto" (a CUDA card if there is one and the matrix is large enough to pay, else the
        processor), "cpu", "cuda", or as torch names it.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    kind_ : {"binary", "multi-class", "multi-label"}
    coef_ : ndarray of shape (1 or n_classes, d), float64
    intercept_ : ndarray of shape (1 or n_classes,), float64
    C_ : float
        The strength chosen.
    edge_ : {"", "low", "high"}
        Whether scores still rise towards one end of the strengths tried, so that the best may lie beyond.
    cv_scores_ : ndarray of shape (n_strengths,), float64
        Mean over folds of the score on the fold left out; log-loss is negative here, so that more is better.
    strengths_, cv_auc_ : ndarray of shape (n_strengths,), float64
        Values of C tried, ascending, and the mean over folds of the AUC on the fold left out (several classes:
        one-vs-rest, mean over those present in the fold).
    oof_ : ndarray of shape (n, n_classes), float64
        Out-of-fold probabilities; NaN for rows of weight 0.
    folds_ : ndarray of shape (n,), int64
        Fold of each row; -1 for rows of weight 0.
    n_iter_ : int
        Iterations of the slowest model.
    converged_ : bool
        Whether the models of the strength chosen reached their tolerance.
    device_ : str
        Where it was solved.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(60, 4))
    >>> probe = LogisticProbe(folds=3).fit(X, X[:, 0] > 0)
    >>> probe.predict(X[:3]), bool(probe.cv_auc_.max() > 0.9)
    (array([ True, False, False]), True)
    """

    _default_strengths = tuple(np.logspace(-4, 2, 10))

    def __init__(
        self,
        strengths: Sequence[float] | DoubleArray | None = None,
        folds: int = 5,
        class_weight: str | Mapping[Any, float] | None = None,
        scale: str = "standard",
        seed: int = 0,
        nested: bool = False,
        several: str = "multinomial",
        scoring: str = "auc",
        device: str = "auto",
    ) -> None:
        self.strengths = strengths
        self.folds = folds
        self.class_weight = class_weight
        self.scale = scale
        self.seed = seed
        self.nested = nested
        self.several = several
        self.scoring = scoring
        self.device = device

    def _loss(self, kind: TaskKind) -> LossName:
        if self.several not in ("multinomial", "one-vs-rest"):
            raise DataError(
                f"several={self.several!r}", expected="'multinomial' or 'one-vs-rest'", do="choose one of them"
            )
        return "softmax" if kind == "multi-class" and self.several == "multinomial" else "logistic"

    def _probabilities(self, margins: DoubleArray) -> DoubleArray:
        if self.kind_ == "multi-class":
            if self.several == "multinomial":
                return np.asarray(softmax(margins, axis=1))
            shares = expit(margins)
            return np.asarray(shares / shares.sum(axis=1, keepdims=True))
        if self.kind_ == "multi-label":
            return np.asarray(expit(margins))
        return np.hstack([expit(-margins), expit(margins)])
