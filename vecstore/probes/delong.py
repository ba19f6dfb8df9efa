"""DeLong's variance of areas under ROC curves, for rows that are independent of each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata

from vecstore.probes.estimates import LEVEL, Interval
from vecstore.records import BoolArray, DoubleArray

_NO_VARIANCE = 1e-15


@dataclass(frozen=True, slots=True)
class DeLong:
    """Areas of several scores of the same rows.

    Attributes
    ----------
    auc : ndarray of shape (n_scores,), float64
    covariance : ndarray of shape (n_scores, n_scores), float64
        NaN where a class has fewer than two rows.
    """

    auc: DoubleArray
    covariance: DoubleArray

    def interval(self, place: int = 0) -> Interval | None:
        """Of one area, 95 %, within 0 and 1; None where there is no variance, as of an area of 1."""
        return _interval(float(self.auc[place]), float(self.covariance[place, place]), 0.0, 1.0)


@dataclass(frozen=True, slots=True)
class PairedTest:
    """DeLong's test of two areas on the same rows.

    Attributes
    ----------
    difference : float
        First area less the second.
    interval : (float, float) or None
        95 %.
    z, p : float or None
        None where the difference has no variance: the two rank every pair of rows alike.
    """

    difference: float
    interval: Interval | None
    z: float | None
    p: float | None


def delong(scores: npt.ArrayLike, positive: npt.ArrayLike) -> DeLong:
    """Areas under ROC curves and their covariance.

    Parameters
    ----------
    scores : array-like of shape (n,) or (n_scores, n)
        Higher means more likely positive.
    positive : array-like of shape (n,), bool

    Returns
    -------
    DeLong
        NaN where a class has no rows.

    Notes
    -----
    DeLong, DeLong & Clarke-Pearson (1988), Biometrics 44, 837-845, by midranks as in Sun & Xu (2014), IEEE Signal
    Processing Letters 21, 1389-1393: n log n instead of a comparison of every pair.

    Examples
    --------
    >>> found = delong([0.1, 0.4, 0.35, 0.8], [False, False, True, True])
    >>> found.auc, found.covariance
    (array([0.75]), array([[0.125]]))
    """
    rows = np.atleast_2d(np.asarray(scores, np.float64))
    yes: BoolArray = np.asarray(positive, np.bool_)
    m, n = int(yes.sum()), int((~yes).sum())
    if not m or not n:
        return DeLong(np.full(len(rows), np.nan), np.full((len(rows), len(rows)), np.nan))
    # Share of the other class that each row is on the right side of; ties count half.
    wins = np.stack([(rankdata(row)[yes] - rankdata(row[yes])) / n for row in rows])
    losses = np.stack([1 - (rankdata(row)[~yes] - rankdata(row[~yes])) / m for row in rows])
    return DeLong(wins.mean(axis=1), _covariance(wins) / m + _covariance(losses) / n)


def paired_test(first: npt.ArrayLike, second: npt.ArrayLike, positive: npt.ArrayLike) -> PairedTest | None:
    """DeLong's test of two scores of the same rows; None where a class has fewer than two rows.

    Parameters
    ----------
    first, second : array-like of shape (n,)
    positive : array-like of shape (n,), bool
    """
    found = delong(np.stack([np.asarray(first, np.float64), np.asarray(second, np.float64)]), positive)
    if np.isnan(found.covariance).any():
        return None
    difference = float(found.auc[0] - found.auc[1])
    variance = float(found.covariance[0, 0] + found.covariance[1, 1] - 2 * found.covariance[0, 1])
    if variance <= _NO_VARIANCE:
        return PairedTest(difference, None, None, None)
    z = difference / np.sqrt(variance)
    return PairedTest(difference, _interval(difference, variance, -1.0, 1.0), float(z), float(2 * norm.sf(abs(z))))


def _covariance(values: npt.NDArray[Any]) -> DoubleArray:
    if values.shape[1] < 2:
        return np.full((len(values), len(values)), np.nan)
    return np.atleast_2d(np.cov(values))


def _interval(middle: float, variance: float, least: float, most: float) -> Interval | None:
    if np.isnan(variance) or variance <= _NO_VARIANCE:
        return None
    reach = float(norm.ppf((1 + LEVEL) / 2)) * float(np.sqrt(max(variance, 0.0)))
    return max(least, middle - reach), min(most, middle + reach)
