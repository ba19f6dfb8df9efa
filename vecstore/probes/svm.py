"""Linear support vector machine with the squared hinge loss, and probabilities by Platt scaling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit

from vecstore.probes.inputs import Training
from vecstore.probes.linear import LinearProbe
from vecstore.records import DoubleArray, IntArray, TaskKind

if TYPE_CHECKING:
    from vecstore.probes.sweep import LossName

LEAST_SLOPE = 1e-3  # of log-odds per spread of margins: what cannot be told apart must not turn the order around


class SVMProbe(LinearProbe):
    """L2-regularised linear SVM, one against the rest, strength chosen as in `LogisticProbe`.

    Margins are calibrated by Platt scaling on out-of-fold margins, and the scaling is folded into `coef_` and
    `intercept_`: a margin is the log-odds of its class, so `predict`, `decision_function` and `predict_proba` agree.
    Of several classes the probabilities are normalised to sum to 1.

    Parameters
    ----------
    strengths, folds, class_weight, scale, seed, nested, scoring, device
        As in `LogisticProbe`; the default strengths are 1e-5 to 10, because the squared hinge bends eight times as
        much as the logistic loss.

    Attributes
    ----------
    classes_, kind_, coef_, intercept_, C_, edge_, strengths_, cv_scores_, cv_auc_, oof_, folds_, n_iter_, converged_
        As in `LogisticProbe`.
    device_ : str

    Notes
    -----
    Platt (1999), Probabilistic outputs for support vector machines, with his smoothed targets.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(60, 4))
    >>> SVMProbe(folds=3).fit(X, X[:, 0] > 0).predict(X[:3])
    array([ True, False, False])
    """

    _default_strengths = tuple(np.logspace(-5, 1, 10))

    def __init__(
        self,
        strengths: Sequence[float] | DoubleArray | None = None,
        folds: int = 5,
        class_weight: str | Mapping[Any, float] | None = None,
        scale: str = "standard",
        seed: int = 0,
        nested: bool = False,
        scoring: str = "auc",
        device: str = "auto",
    ) -> None:
        self.strengths = strengths
        self.folds = folds
        self.class_weight = class_weight
        self.scale = scale
        self.seed = seed
        self.nested = nested
        self.scoring = scoring
        self.device = device

    def _loss(self, kind: TaskKind) -> LossName:
        return "squared_hinge"

    def _probabilities(self, margins: DoubleArray) -> DoubleArray:
        if self.kind_ == "binary":
            return np.hstack([expit(-margins), expit(margins)])
        chances = expit(margins)
        if self.kind_ == "multi-label":
            return np.asarray(chances)
        return np.asarray(chances / np.maximum(chances.sum(axis=1, keepdims=True), np.finfo(float).tiny))

    def _calibration(
        self, margins: DoubleArray, rows: IntArray, data: Training, by_class: DoubleArray
    ) -> tuple[DoubleArray, DoubleArray]:
        truth = data.truth()[:, rows]
        weights = np.broadcast_to(data.weights * by_class, (len(truth), len(data.weights)))[:, rows]
        pairs = [_platt(*column) for column in zip(margins, truth, weights, strict=True)]
        slopes, offsets = np.array(pairs).T
        return slopes, offsets


def _platt(margins: DoubleArray, truth: DoubleArray, weights: DoubleArray) -> tuple[float, float]:
    """Slope and offset that make margins log-odds, by Newton's method with step halving."""
    known = ~np.isnan(truth)
    margins, yes, weights = margins[known], truth[known] == 1, weights[known]
    if not weights.sum() > 0:  # a label that no row here is known to have or not
        return LEAST_SLOPE, 0.0
    positive, negative = weights[yes].sum(), weights[~yes].sum()
    aim = np.where(yes, (positive + 1) / (positive + 2), 1 / (negative + 2))
    middle = np.average(margins, weights=weights)
    spread = np.sqrt(np.average((margins - middle) ** 2, weights=weights)) or 1.0
    design = np.stack([(margins - middle) / spread, np.ones(len(margins))], axis=1)
    at = np.array([0.0, np.log((positive + 1) / (negative + 1))])

    def cost(point: DoubleArray) -> float:
        z = design @ point
        return float(weights @ (np.logaddexp(0, z) - aim * z))

    for _ in range(100):
        chance = expit(design @ at)
        gradient = design.T @ (weights * (chance - aim))
        hessian = (design * (weights * chance * (1 - chance))[:, None]).T @ design + 1e-12 * np.eye(2)
        step, now, length = np.linalg.solve(hessian, gradient), cost(at), 1.0
        while cost(at - length * step) > now and length > 1e-10:
            length /= 2
        at = at - length * step
        if np.abs(gradient @ step) <= 1e-14 * max(now, 1.0):
            break
    slope = max(float(at[0]), LEAST_SLOPE) / spread
    return float(slope), float(at[1] - slope * middle)
