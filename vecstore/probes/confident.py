"""Confident learning: which labels are probably wrong, from probabilities that a model gave rows it had not seen.

After Northcutt, Jiang & Chuang (2021), "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70. A row
is a suspect where a class other than its own is at least as probable as it is on average for rows of that class, and
where its own is not the most probable, as cleanlab has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.errors import DataError
from vecstore.records import BoolArray, DoubleArray, IntArray

_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Confidence:
    """What probabilities say of labels.

    Attributes
    ----------
    labels : ndarray of shape (n,), int64
        The given classes.
    guess : ndarray of shape (n,), int64
        The class each row is confidently counted for; -1 where no class is probable enough.
    suspect : ndarray of shape (n,), bool
        Rows that are confidently counted for another class than their own, which is not the most probable.
    joint : ndarray of shape (n_classes, n_classes), int64
        Rows by given class and by guess: the confident joint, uncalibrated.
    thresholds : ndarray of shape (n_classes,), float64
        Mean probability of each class over the rows labelled so; infinite of a class without rows.
    own : ndarray of shape (n,), float64
        Probability of the given class (self-confidence), 0 to 1: low where the label is doubtful.
    margin : ndarray of shape (n,), float64
        That, minus the highest probability of another class, brought to 0 to 1: low where the label is doubtful.
    suggested : ndarray of shape (n,), float64
        Probability of the guess; that of the most probable other class where there is none or it is the given one.
    """

    labels: IntArray
    guess: IntArray
    suspect: BoolArray
    joint: IntArray
    thresholds: DoubleArray
    own: DoubleArray
    margin: DoubleArray
    suggested: DoubleArray

    def ranking(self) -> IntArray:
        """Rows from the most to the least doubtful: suspects first, by `own`; ndarray of shape (n,), int64."""
        return np.lexsort((np.arange(len(self.own)), self.own, ~self.suspect)).astype(np.int64)

    @property
    def share(self) -> float:
        """Estimated share of wrong labels: the joint brought to the sizes of the given classes, off its diagonal."""
        counted = self.joint.sum(axis=1)
        right = np.divide(np.diag(self.joint), counted, out=np.ones(len(counted)), where=counted > 0)
        return float(1 - right[self.labels].mean()) if len(self.guess) else 0.0


def confident(y: npt.ArrayLike, probabilities: npt.ArrayLike) -> Confidence:
    """Compare labels with out-of-fold probabilities.

    Parameters
    ----------
    y : array-like of shape (n,), int
        Index of each row's given class.
    probabilities : array-like of shape (n, n_classes), float
        Of a model that had not seen the row.

    Returns
    -------
    Confidence

    Raises
    ------
    DataError
        Shapes that do not fit, or probabilities that are not finite.

    Examples
    --------
    >>> found = confident([0, 0, 0, 1, 1], [[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.3, 0.7], [0.2, 0.8]])
    >>> found.suspect, found.ranking()[:1], found.joint
    (array([False, False,  True, False, False]), array([2]), array([[2, 1],
           [0, 1]]))
    """
    labels, p = np.asarray(y).astype(np.int64), np.asarray(probabilities, np.float64)
    _check(labels, p)
    rows, classes = np.arange(len(labels)), p.shape[1]
    held = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, p[rows, labels], classes)
    thresholds = np.divide(sums, held, out=np.full(classes, np.inf), where=held > 0)
    able: BoolArray = p >= thresholds - _ROUNDING
    guess = np.where(able.any(axis=1), np.where(able, p, -1.0).argmax(axis=1), -1)
    joint = np.zeros((classes, classes), np.int64)
    np.add.at(joint, (labels[guess >= 0], guess[guess >= 0]), 1)
    own = p[rows, labels]
    # A rare class is "probable enough" at a few hundredths: a row that is surest of its own is no suspect.
    suspect = (guess >= 0) & (guess != labels) & (p.argmax(axis=1) != labels)
    rest = p.copy()
    rest[rows, labels] = -1.0
    other = rest.argmax(axis=1)
    return Confidence(
        labels,
        guess.astype(np.int64),
        suspect,
        joint,
        thresholds,
        own,
        (own - rest[rows, other] + 1) / 2,
        np.where(suspect, p[rows, guess], rest[rows, other]),
    )


def _check(labels: IntArray, p: npt.NDArray[Any]) -> None:
    if p.ndim != 2 or labels.shape != (len(p),) or p.shape[1] < 2:
        raise DataError(
            f"labels of shape {labels.shape} and probabilities of shape {p.shape}",
            expected="a class index per row, and a column per class, at least two",
            do="pass the output of predict_proba",
        )
    if len(p) and not (np.isfinite(p).all() and labels.min() >= 0 and labels.max() < p.shape[1]):
        raise DataError(
            "probabilities that are not finite, or labels that are no column",
            expected=f"numbers from 0 to 1, and indices from 0 to {p.shape[1] - 1}",
            do="leave out rows without a prediction",
        )
