"""Vectors, and the order of hits said once more in plain Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest

from vecstore.records import FloatArray, IntArray

Hits = tuple[IntArray, FloatArray]


def _brute_force(
    ids: IntArray, vectors: FloatArray, queries: FloatArray, k: int, allowed: Iterable[int] | None = None
) -> Hits:
    may = set(ids.tolist()) if allowed is None else {int(i) for i in allowed}
    top_ids = np.full((len(queries), k), -1, dtype=np.int64)
    top_scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    for q, query in enumerate(queries.astype(np.float64)):
        scored = []
        for number, vector in zip(ids.tolist(), vectors.astype(np.float64), strict=True):
            if number in may:
                score = float(np.float32((vector * query).sum()))
                scored.append((-max(-1.0, min(1.0, score)), number))
        for place, (score, number) in enumerate(sorted(scored)[:k]):
            top_ids[q, place], top_scores[q, place] = number, -score
    return top_ids, top_scores


@pytest.fixture(scope="session")
def brute_force() -> Callable[..., Hits]:
    """(ids, vectors, queries, k, allowed) to hits, one pair at a time in float64, and Python's sort."""
    return _brute_force


@pytest.fixture(scope="session")
def same_hits() -> Callable[[Hits, Hits], None]:
    """Assert that two results are equal to the bit."""

    def check(got: Hits, expected: Hits) -> None:
        assert got[0].dtype == np.int64
        assert got[1].dtype == np.float32
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1], expected[1])

    return check


@pytest.fixture(scope="session")
def unit_rows() -> Callable[..., FloatArray]:
    """(n, dim, seed) to random unit vectors."""

    def make(n: int, dim: int, seed: int = 0) -> FloatArray:
        rows = np.random.default_rng(seed).standard_normal((n, dim))
        unit: FloatArray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return unit

    return make
