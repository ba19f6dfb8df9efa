"""Vectors with classes that can be told apart in part, in groups."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from vecstore.probes import ForestProbe, MLPProbe
from vecstore.records import DoubleArray, IntArray

Cases = Callable[..., tuple[DoubleArray, IntArray, IntArray]]

QuickMLP = partial(MLPProbe, hidden=16, alphas=[0.01], epochs=[3, 8], batch_size=16, rate=0.02)
QuickForest = partial(ForestProbe, trees=12, n_jobs=1)
"""With less to choose from and less to grow, for tests that fit often."""


@pytest.fixture
def cases() -> Cases:
    """Makes (X, y, groups): `n` vectors of `d` features in `k` classes, two to a group on average."""

    def make(n: int = 200, d: int = 12, k: int = 2, seed: int = 0) -> tuple[DoubleArray, IntArray, IntArray]:
        rng = np.random.default_rng(seed)
        centers = rng.normal(size=(k, d)) * 0.7
        y = np.arange(n) % k
        return centers[y] + rng.normal(size=(n, d)) + 3, y, rng.integers(0, n // 2, n)

    return make
