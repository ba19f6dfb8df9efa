"""Models on the same rows: pairs are paired, and what is called real is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from vecstore.errors import DataError, NotFound
from vecstore.probes import evaluate
from vecstore.probes.comparison import METRICS, compared


def models(noise: tuple[float, ...], n: int = 300, seed: int = 0) -> tuple[Any, list[Any], Any]:
    """Truth, probabilities of models that share most of their noise, and groups of two rows."""
    rng = np.random.default_rng(seed)
    y = np.repeat(rng.integers(0, 2, n // 2), 2)
    shared = np.repeat(rng.normal(size=n // 2), 2)
    made = [1 / (1 + np.exp(-(2 * y - 1 + shared + own * rng.normal(size=n)))) for own in noise]
    return y, [np.stack([1 - p, p], axis=1) for p in made], np.arange(n) // 2


def test_each_model_has_the_scores_it_has_alone() -> None:
    y, probabilities, groups = models((0.1, 1.0))
    told, pairs = compared(y, probabilities, ["n", "y"], "binary", groups, n_boot=200)
    for scores, p in zip(told, probabilities, strict=True):
        assert set(scores) == set(METRICS)
        alone = evaluate(y, p, ["n", "y"], "binary", groups, n_boot=200)
        for name in ("auc", "accuracy", "balanced_accuracy"):
            assert scores[name].value == pytest.approx(getattr(alone, name), abs=1e-12)
        assert scores["auc"].interval == pytest.approx(alone.auc_interval, abs=1e-12)
        assert scores["brier"].value == pytest.approx(brier_score_loss(y, p[:, 1]), abs=1e-12)
        assert scores["log_loss"].value == pytest.approx(log_loss(y, p), abs=1e-12)
    (pair,) = pairs
    areas = [roc_auc_score(y, p[:, 1]) for p in probabilities]
    assert pair.value == pytest.approx(areas[0] - areas[1], abs=1e-12)
    assert pair.delong == {}  # groups have two rows


def test_what_two_models_share_cancels() -> None:
    y, probabilities, groups = models((0.1, 1.0))
    told, (pair,) = compared(y, probabilities, ["n", "y"], "binary", groups, n_boot=500)
    assert pair.interval is not None and pair.real
    first, second = (told[i]["auc"].interval or (0.0, 1.0) for i in (0, 1))
    assert first[0] < second[1]  # the intervals of the two overlap, that of the difference excludes 0
    assert pair.interval[1] - pair.interval[0] < 0.75 * (second[1] - second[0])
    assert pair.interval[0] > 0


def test_equal_models_do_not_differ() -> None:
    y, (p,), groups = models((0.5,))
    for metric in METRICS:
        _, (pair,) = compared(y, [p, p], ["n", "y"], "binary", groups, metric=metric, n_boot=50)
        assert (pair.value, pair.interval, pair.p, pair.real) == (0.0, (0.0, 0.0), 1.0, False)


def test_several_pairs_are_corrected_and_resampled_often_enough() -> None:
    y, probabilities, groups = models((0.1, 0.3, 1.0, 2.0))
    _, pairs = compared(y, probabilities, ["n", "y"], "binary", groups, n_boot=100)
    assert [(one.first, one.second) for one in pairs] == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    for one in pairs:
        assert one.p is not None and one.p_holm is not None and one.p <= one.p_holm <= 1
        assert one.real == (one.p_holm < 0.05 and one.interval is not None and (one.interval[0] > 0))
    assert min(one.p for one in pairs if one.p is not None) == pytest.approx(2 / 481)  # 480 resamples for 6 pairs
    assert {(one.first, one.second) for one in pairs if one.real} >= {(0, 3), (1, 3)}


def test_delongs_test_stands_beside_where_each_group_has_one_row() -> None:
    y, probabilities, _ = models((0.1, 1.0))
    _, (pair,) = compared(y, probabilities, ["n", "y"], "binary", n_boot=2000)
    test = pair.delong["y"]
    assert test is not None and test.interval is not None and pair.interval is not None
    assert test.difference == pytest.approx(pair.value, abs=1e-12)
    np.testing.assert_allclose(test.interval, pair.interval, atol=0.006)  # two ways to the same interval
    _, (other,) = compared(y, probabilities, ["n", "y"], "binary", metric="brier", n_boot=20)
    assert other.delong == {}


def test_a_true_null_is_called_real_as_rarely_as_promised() -> None:
    called = 0
    for seed in range(100):
        y, probabilities, groups = models((0.7, 0.7), n=120, seed=seed)
        _, (pair,) = compared(y, probabilities, ["n", "y"], "binary", groups, n_boot=100, seed=seed)
        called += pair.real
    assert called <= 11  # 5 % of 100, and nearly three standard errors


def test_one_model_or_a_strange_metric_is_refused() -> None:
    y, probabilities, _ = models((0.5,))
    with pytest.raises(DataError, match="1 model; expected at least two"):
        compared(y, probabilities, ["n", "y"], "binary")
    with pytest.raises(NotFound, match="no metric 'youden'; expected one of: auc, auprc"):
        compared(y, probabilities * 2, ["n", "y"], "binary", metric="youden")
