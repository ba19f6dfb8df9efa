"""Curves are scikit-learn's, and their bands hold the truth as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from vecstore.probes import auc
from vecstore.probes.bands import GRID, MOST_BANDS, POINTS, curves


def _made(n: int, seed: int, ties: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    p = 1 / (1 + np.exp(-(rng.normal(size=n) + 1.5 * y - 0.75)))
    return y, np.round(p, ties) if ties is not None else p


@pytest.mark.parametrize("ties", [None, 1])
def test_few_rows_give_the_whole_curve_of_scikit_learn(ties: int | None) -> None:
    y, p = _made(120, 1, ties)
    found = curves(y, p, ["no", "yes"], "binary", n_boot=0)
    x, height, _ = roc_curve(y, p, drop_intermediate=False)
    assert found.roc["yes"] is not None and found.precision_recall["yes"] is not None
    assert np.allclose(found.roc["yes"].x, x) and np.allclose(found.roc["yes"].y, height)
    precision, recall, _ = precision_recall_curve(y, p)
    assert np.allclose(found.precision_recall["yes"].x, recall[:-1][::-1])
    assert np.allclose(found.precision_recall["yes"].y, precision[:-1][::-1])


def test_many_rows_give_few_points_on_the_curve() -> None:
    y, p = _made(20_000, 2)
    curve = curves(y, p, ["no", "yes"], "binary", n_boot=0).roc["yes"]
    assert curve is not None and len(curve.x) <= 2 * POINTS + 1
    assert np.trapezoid(curve.y, curve.x) == pytest.approx(roc_auc_score(y, p), abs=2e-3)


def test_the_band_holds_the_true_curve_and_is_wider_by_group() -> None:
    from scipy.stats import norm

    truth = norm.sf(norm.isf(GRID[5:46]) - 1.5)
    held = []
    for seed in range(60):
        y, p = _made(1000, seed)
        band = curves(y, p, ["no", "yes"], "binary", n_boot=200).roc["yes"]
        assert band is not None
        low, high = np.array(band.low)[5:46], np.array(band.high)[5:46]
        held.append(((low <= truth) & (truth <= high)).mean())
    assert 0.90 <= np.mean(held) <= 0.98  # 0.944 over 150 others
    y, p = _made(100, 3)
    y, p, groups = np.repeat(y, 6), np.repeat(p, 6), np.repeat(np.arange(100), 6)
    wide, narrow = (
        curves(y, p, ["no", "yes"], "binary", by, n_boot=200).roc["yes"] for by in (groups, np.arange(len(y)))
    )
    assert wide is not None and narrow is not None
    assert np.subtract(wide.high, wide.low).mean() > 1.8 * np.subtract(narrow.high, narrow.low).mean()


def test_a_class_on_one_side_only_has_no_curve_and_unknown_labels_are_left_out() -> None:
    y = np.array([[1, 0], [0, 0], [np.nan, 0], [1, 0]])
    found = curves(y, np.full((4, 2), 0.5) + 0.1 * np.arange(4)[:, None], ["a", "b"], "multi-label", n_boot=20)
    assert found.roc["b"] is None and found.roc["a"] is not None
    assert found.roc["a"].y[-1] == 1.0 and len(found.roc["a"].x) == 4


def test_only_the_first_classes_have_bands() -> None:
    rng = np.random.default_rng(0)
    y = np.arange(300) % 15
    p = rng.dirichlet(np.ones(15), 300)
    found = curves(y, p, range(15), "multi-class", n_boot=10)
    assert [bool(one and one.at) for one in found.roc.values()] == [True] * MOST_BANDS + [False] * (15 - MOST_BANDS)


@pytest.mark.parametrize("size", [1, 7, 300_000])
def test_resamples_that_are_kept_are_those_that_are_drawn(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = np.arange(size)
    kept = [block.copy() for block in auc.resamples(codes, 5, 3)]
    assert auc._kept.cache_info().currsize == 1
    again = [block.copy() for block in auc.resamples(codes, 5, 3)]
    monkeypatch.setattr(auc, "KEPT", 0)
    drawn = [block.copy() for block in auc.resamples(codes, 5, 3)]
    for one in (kept, again):
        np.testing.assert_array_equal(np.concatenate(one), np.concatenate(drawn))
    assert np.concatenate(drawn).shape == (5, size) and (np.concatenate(drawn).sum(axis=1) == size).all()
