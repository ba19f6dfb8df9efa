"""DeLong's variance on the data of the paper, and against its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from vecstore.probes.delong import delong, paired_test
from vecstore.probes.measures import measure

# Ovarian cancer with bowel obstruction: albumin, total protein, K-G score (10 less what is in the table), and whether
# surgery helped. Data of DeLong, DeLong & Clarke-Pearson (1988) as in SAS/STAT's example "Comparing Receiver
# Operating Characteristic Curves"; so are the published figures below.
PATIENTS = np.array(
    """3.0 5.8 10 0 3.2 6.3 5 1 3.9 6.8 3 1 2.8 4.8 6 0 3.2 5.8 3 1 0.9 4.0 5 0 2.5 5.7 8 0 1.6 5.6 5 1 3.8 5.7 5 1
    3.7 6.7 6 1 3.2 5.4 4 1 3.8 6.6 6 1 4.1 6.6 5 1 3.6 5.7 5 1 4.3 7.0 4 1 3.6 6.7 4 0 2.3 4.4 6 1 4.2 7.6 4 0
    4.0 6.6 6 0 3.5 5.8 6 1 3.8 6.8 7 1 3.0 4.7 8 0 4.5 7.4 5 1 3.7 7.4 5 1 3.1 6.6 6 1 4.1 8.2 6 1 4.3 7.0 5 1
    4.3 6.5 4 1 3.2 5.1 5 1 2.6 4.7 6 1 3.3 6.8 6 0 1.7 4.0 7 0 3.7 6.1 5 1 3.3 6.3 7 1 4.2 7.7 6 1 3.5 6.2 5 1
    2.9 5.7 9 0 2.1 4.8 7 1 2.8 6.2 8 0 4.0 7.0 7 1 3.3 5.7 6 1 3.7 6.9 5 1 3.6 6.6 5 1""".split(),
    float,
).reshape(-1, 4)
ALBUMIN, PROTEIN, SCORE, HELPED = PATIENTS[:, 0], PATIENTS[:, 1], 10 - PATIENTS[:, 2], PATIENTS[:, 3] == 1


@pytest.mark.parametrize(
    ("scores", "area", "error", "interval"),
    [
        (SCORE, 0.7258, 0.1028, (0.5243, 0.9273)),
        (ALBUMIN, 0.7366, 0.0927, (0.5549, 0.9182)),
        (PROTEIN, 0.6478, 0.1000, (0.4518, 0.8439)),
    ],
)
def test_areas_and_errors_are_the_published_ones(
    scores: Any, area: float, error: float, interval: tuple[float, float]
) -> None:
    found = delong(scores, HELPED)
    assert round(float(found.auc[0]), 4) == area
    assert round(float(np.sqrt(found.covariance[0, 0])), 4) == error
    low, high = found.interval() or (0.0, 0.0)
    assert (round(low, 4), round(high, 4)) == interval


@pytest.mark.parametrize(
    ("scores", "difference", "interval", "chi_square", "p"),
    [
        (PROTEIN, -0.0780, (-0.2830, 0.1271), 0.5554, 0.4561),
        (ALBUMIN, 0.0108, (-0.1761, 0.1976), 0.0127, 0.9102),
    ],
)
def test_the_paired_test_is_the_published_one(
    scores: Any, difference: float, interval: tuple[float, float], chi_square: float, p: float
) -> None:
    found = paired_test(scores, SCORE, HELPED)
    assert found is not None and found.z is not None and found.p is not None and found.interval is not None
    assert round(found.difference, 4) == difference
    assert tuple(round(end, 4) for end in found.interval) == interval
    assert round(found.z**2, 4) == chi_square and round(found.p, 4) == p


def _by_definition(rows: Any, positive: Any) -> tuple[Any, Any]:
    """Every pair of a positive and a negative row, as the paper writes it."""
    x, y = rows[:, positive], rows[:, ~positive]
    wins = (x[:, :, None] > y[:, None, :]) + 0.5 * (x[:, :, None] == y[:, None, :])
    v10, v01 = wins.mean(axis=2), wins.mean(axis=1)
    return wins.mean(axis=(1, 2)), np.cov(v10) / x.shape[1] + np.cov(v01) / y.shape[1]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 3))
def test_midranks_give_what_pairs_give(seed: int, decimals: int) -> None:
    rng = np.random.default_rng(seed)
    positive = np.r_[True, True, False, False, rng.random(30) < 0.4]
    rows = rng.normal(size=(3, 34)).round(decimals)
    areas, covariance = _by_definition(rows, positive)
    found = delong(rows, positive)
    np.testing.assert_allclose(found.auc, areas, atol=1e-12)
    np.testing.assert_allclose(found.covariance, covariance, atol=1e-12)
    np.testing.assert_allclose(found.auc, [roc_auc_score(positive, row) for row in rows], atol=1e-12)


def test_an_area_of_ratings_with_ties_is_the_published_one() -> None:
    """109 CT images rated 1 to 5, 58 normal and 51 abnormal cases: Hanley & McNeil (1982), Radiology 143, 29."""
    ratings = np.repeat([1, 2, 3, 4, 5] * 2, [33, 6, 6, 11, 2, 3, 2, 2, 11, 33])
    found = delong(ratings, np.arange(109) >= 58)
    assert round(float(found.auc[0]), 3) == 0.893
    assert np.sqrt(found.covariance[0, 0]) == pytest.approx(0.032, abs=0.002)  # theirs, by another formula


def test_what_ranks_alike_has_no_p_and_one_row_of_a_class_no_variance() -> None:
    found = paired_test(ALBUMIN, 2 * ALBUMIN, HELPED)
    assert found is not None and (found.difference, found.z, found.p) == (0.0, None, None)
    assert paired_test([1, 2, 3], [3, 2, 1], [True, False, False]) is None
    assert delong([1, 2, 3], [True, False, False]).interval() is None
    assert delong([1, 2, 3, 4], [False, False, True, True]).interval() is None  # an area of 1 is not known exactly
    assert np.isnan(delong([1, 2], [True, True]).auc).all()


def test_delongs_interval_stands_where_each_group_has_one_row_only() -> None:
    chance = (ALBUMIN - ALBUMIN.min()) / np.ptp(ALBUMIN)
    alone = measure(HELPED.astype(int), chance, ["no", "yes"], "binary", n_boot=20)
    assert alone.delong["yes"] == pytest.approx((0.5549, 0.9182), abs=5e-5)
    grouped = measure(HELPED.astype(int), chance, ["no", "yes"], "binary", np.arange(len(chance)) // 2, n_boot=20)
    assert grouped.delong == {}
