"""Neighbours of all rows by products of cells: against brute force, and what is told of it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from vecstore.errors import DataError, UsageError
from vecstore.index import pairs
from vecstore.index.base import HalfArray, halved, single, unit_rows
from vecstore.index.exact import ExactIndex
from vecstore.index.pairs import all_pairs
from vecstore.records import FloatArray, IntArray, Silent


def _vectors(n: int, dim: int = 96, power: float = 1.5, seed: int = 0) -> HalfArray:
    """Clustered unit vectors whose variance falls from direction to direction."""
    rng = np.random.default_rng(seed)
    spread = np.arange(1, dim + 1) ** (-power / 2)
    rows = (rng.standard_normal((60, dim))[rng.integers(0, 60, n)] + rng.standard_normal((n, dim))) * spread
    return halved((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))


def _exact(vectors: HalfArray, k: int) -> tuple[IntArray, FloatArray]:
    """The same by an exact index: the row itself dropped, wherever it stands."""
    ids, scores = ExactIndex.build(np.arange(len(vectors)), vectors).search(unit_rows(vectors), k + 1)
    own = np.arange(len(vectors))[:, None]
    keep = np.argsort(ids == own, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(ids, keep, axis=1), np.take_along_axis(scores, keep, axis=1)


@pytest.fixture(scope="module")
def vectors() -> HalfArray:
    return _vectors(6000)


@pytest.mark.parametrize("asked", [0.9, 0.97, 0.999])
def test_the_recall_that_was_asked_for_is_reached_and_told(vectors: HalfArray, asked: float) -> None:
    near, scores, told = all_pairs(vectors, 10, asked)
    truth, exact = _exact(vectors, 10)
    reached = (scores >= exact[:, -1:]).mean()
    assert reached >= asked
    assert told.low - 0.002 <= reached
    assert told.value >= asked - 0.01
    assert (told.k, told.n) == (10, 6000)
    # What is found has the exact score, to the bit, in the order of scores and then rows.
    hit = near == truth
    assert hit.mean() > 0.8
    np.testing.assert_array_equal(scores[hit], exact[hit])
    down = np.diff(scores, axis=1)
    assert (down <= 0).all()
    assert (np.diff(near, axis=1)[down == 0] > 0).all()
    assert not (near == np.arange(6000)[:, None]).any()
    assert all(len(set(row)) == 10 for row in near[::100].tolist())


def test_the_same_vectors_give_the_same_answer(vectors: HalfArray) -> None:
    first, second = all_pairs(vectors, 5, 0.97), all_pairs(vectors, 5, 0.97)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_pairs_merged_in_many_rounds_are_those_merged_in_one(
    vectors: HalfArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, _, _ = all_pairs(vectors, 5, 0.99)
    monkeypatch.setattr(pairs, "PENDING", 1000)
    often, _, _ = all_pairs(vectors, 5, 0.99)
    np.testing.assert_array_equal(near, often)


def test_cells_in_which_most_pairs_come_near_are_multiplied_whole(
    vectors: HalfArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "DENSE", 0.0)
    _, scores, _ = all_pairs(vectors, 10, 0.97)
    assert (scores >= _exact(vectors, 10)[1][:, -1:]).mean() >= 0.97


def test_copies_are_neighbours_of_each_other_by_row() -> None:
    vectors = _vectors(5000)
    rng = np.random.default_rng(3)
    copied = vectors.copy()
    copied[4000:4040] = vectors[7]  # forty of one picture: more than neighbours are asked for
    copied[4900:] = vectors[rng.integers(100, 4000, 100)]
    near, scores, _ = all_pairs(copied, 10, 0.999)
    truth, exact = _exact(copied, 10)
    assert near[7].tolist() == list(range(4000, 4010)) == truth[7].tolist()
    assert near[4005].tolist() == [7, *range(4000, 4005), *range(4006, 4010)] == truth[4005].tolist()
    assert (scores >= exact[:, -1:]).mean() >= 0.999
    ten_found = (scores >= exact[:, -1:]).all(axis=1) & (np.diff(exact, axis=1) < 0).all(axis=1)
    np.testing.assert_array_equal(near[ten_found], truth[ten_found])


def test_two_vectors_with_one_digest_are_told_apart() -> None:
    vectors = _vectors(300)
    vectors[200] = vectors[3]
    first, copy_of = pairs._distinct(vectors, np.zeros(96, np.uint64))
    assert first.tolist() == [row for row in range(300) if row != 200]
    np.testing.assert_array_equal(vectors[first[copy_of]], vectors)
    for found, expected in zip(pairs._distinct(vectors), (first, copy_of), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_many_vectors_that_are_nearly_one_are_compared_with_all() -> None:
    rng = np.random.default_rng(0)
    one = rng.standard_normal(64)
    blank = one + 0.003 * rng.standard_normal((1200, 64))
    rows = np.concatenate([blank, rng.standard_normal((3000, 64))])
    vectors = halved((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    _, scores, _ = all_pairs(vectors, 10, 0.95)
    assert (scores >= _exact(vectors, 10)[1][:, -1:]).mean() >= 0.95


@pytest.mark.parametrize(("k", "recall"), [(0, 0.9), (6000, 0.9), (5, 1.0), (5, 0.0), (5, float("nan"))])
def test_a_k_and_a_recall_outside_their_ranges_are_refused(vectors: HalfArray, k: int, recall: float) -> None:
    with pytest.raises(UsageError, match=f"a recall of {recall}, and {k} neighbours of 6000 rows"):
        all_pairs(vectors, k, recall)


def test_few_vectors_are_left_to_an_exact_index() -> None:
    few = _vectors(pairs.FEWEST - 1)
    with pytest.raises(DataError, match=f"{pairs.FEWEST - 1} different vectors, 5 neighbours"):
        all_pairs(few, 5, 0.9)


def test_progress_is_told_of_every_row(vectors: HalfArray) -> None:
    class Told(Silent):
        rows = 0

        def step(self, n: int = 1) -> None:
            self.rows += n

    told = Told()
    all_pairs(vectors, 5, 0.9, progress=told)
    assert told.rows == 6000


def test_a_cell_of_very_many_rows_is_taken_in_parts() -> None:
    starts, cell_of = pairs._bounded(np.repeat([0, 2, 3], [5, 2 * pairs.MOST_ROWS + 1, 7]), 4)
    assert starts.tolist() == [0, 5, 5 + pairs.MOST_ROWS, 5 + 2 * pairs.MOST_ROWS, 6 + 2 * pairs.MOST_ROWS]
    assert np.bincount(cell_of).tolist() == [5, pairs.MOST_ROWS, pairs.MOST_ROWS, 1, 7]


def test_what_is_scored_quickly_is_within_float32_of_the_product(vectors: HalfArray) -> None:
    wide = single(vectors)
    inverse = (1 / np.linalg.norm(wide, axis=1)).astype(np.float32)
    none = np.empty(0, np.int64)
    rows = pairs._Rows(vectors, inverse, none, np.empty((0, 0), np.float32), none)
    got = rows.scored(3, np.array([2, 0, 3]), np.array([5, 6, 1, 2, 4]))
    unit = unit_rows(vectors).astype(np.float64)
    expected = [unit[3] @ unit[5], unit[3] @ unit[6], unit[5] @ unit[1], unit[5] @ unit[2], unit[5] @ unit[4]]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_the_first_look_is_exact_where_all_cells_are_looked_at(
    vectors: HalfArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = unit_rows(vectors[:900])
    starts = np.array([0, 100, 101, 500, 900])
    centres = np.stack([rows[a:b].mean(axis=0) for a, b in pairwise(starts.tolist())])
    products = rows @ rows.T
    np.fill_diagonal(products, -np.inf)
    seen = []
    for share in (1.0, 0.0):
        monkeypatch.setattr(pairs, "FIRST_CELLS", share)
        found = pairs._first_look(rows, starts, centres, 30)
        assert found.shape == (900, 31) and (found != np.arange(900)[:, None]).all()
        assert ((found >= 0).sum(axis=1) >= 30).all()
        assert all(len(set(row)) == 31 for row in found.tolist())
        reached = np.take_along_axis(products, np.maximum(found, 0), axis=1)
        reached[found < 0] = -np.inf
        best = -np.sort(-products, axis=1)[:, :30]
        seen.append(float((-np.sort(-reached, axis=1)[:, :30] >= best - 1e-5).mean()))
    assert seen[0] == 1 > seen[1]
