"""95 % intervals hold the truth in clustered data, and those of rows alone do not: a small simulation.

The full one is `benchmarks/bench_intervals.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from vecstore.probes import evaluate
from vecstore.probes.comparison import compared
from vecstore.probes.delong import delong

GROUPS, ROWS, GAP, DRAWS = 80, 5, 1.2, 200
TRUE_AUC = float(norm.cdf(GAP / np.sqrt(2)))


def clustered(seed: int) -> tuple[Any, Any, Any]:
    """Sick and well patients with five pictures each; half of a score's variance is the patient's."""
    rng = np.random.default_rng([11, seed])
    codes = np.repeat(np.arange(GROUPS), ROWS)
    sick = codes % 2
    noise = np.sqrt(0.5) * (rng.normal(size=GROUPS)[codes] + rng.normal(size=len(codes)))
    return sick, 1 / (1 + np.exp(-(GAP * (sick - 0.5) + noise))), codes


def test_intervals_by_group_hold_the_truth_and_those_by_row_do_not() -> None:
    held = np.zeros((DRAWS, 3))
    for at in range(DRAWS):
        y, p, codes = clustered(at)
        by_group, by_row = (
            evaluate(y, p, ["well", "sick"], "binary", groups, n_boot=150, seed=at).auc_interval
            for groups in (codes, None)
        )
        for column, interval in enumerate((by_group, by_row, delong(p, y == 1).interval())):
            assert interval is not None
            held[at, column] = interval[0] <= TRUE_AUC <= interval[1]
    grouped, alone, rows = held.mean(axis=0)
    assert 0.90 <= grouped <= 0.985  # 0.95, three standard errors of 200 draws about it
    assert alone < 0.80 and rows < 0.80


@pytest.mark.parametrize("n", [120])
def test_delong_and_the_bootstrap_give_the_same_interval_for_independent_rows(n: int) -> None:
    rng = np.random.default_rng(0)
    y = np.arange(n) % 2
    first, second = (1 / (1 + np.exp(-(GAP * (y - 0.5) + rng.normal(size=n)))) for _ in "ab")
    _, (pair,) = compared(y, [first, second], ["well", "sick"], "binary", n_boot=4000)
    test = pair.delong["sick"]
    assert test is not None and test.interval is not None and test.p is not None
    assert pair.interval == pytest.approx(test.interval, abs=0.012)
    assert pair.p == pytest.approx(test.p, abs=0.06)
