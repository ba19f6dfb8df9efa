"""The exact index: what it finds, in which order, and that nothing else can change it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vecstore.errors import DataError, UsageError
from vecstore.index.base import merge
from vecstore.index.exact import BLOCK_ROWS, FEW_ALLOWED, FEW_EXCLUDED, FEW_QUERIES, SPARE, ExactIndex
from vecstore.records import FloatArray, IntArray

Check = Callable[..., Any]
Case = tuple[IntArray, FloatArray, FloatArray, int, IntArray | None]


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set faiss's threads; set back afterwards."""
    before = faiss.omp_get_max_threads()
    yield faiss.omp_set_num_threads
    faiss.omp_set_num_threads(before)


@st.composite
def tied_cases(draw: st.DrawFn) -> Case:
    """Few distinct vectors, many times each, some one last bit apart or a little too long; any filter."""
    dim = draw(st.sampled_from([1, 2, 3, 8, 40]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pool = rng.choice([-1.0, 0.0, 1.0, 0.5], size=(draw(st.integers(1, 6)), dim))
    pool[np.abs(pool).sum(axis=1) == 0, 0] = 1
    pool = pool / np.linalg.norm(pool, axis=1, keepdims=True)
    n = draw(st.integers(0, 90))
    vectors = pool[rng.integers(0, len(pool), n)].astype(np.float32)
    nudged = rng.random((n, dim)) < draw(st.sampled_from([0.0, 0.3]))
    vectors = np.where(nudged, np.nextafter(vectors, np.float32(2)), vectors)
    vectors *= rng.choice(np.array([1, 1.004, 0.997], dtype=np.float32), size=(n, 1))
    queries = pool[rng.integers(0, len(pool), draw(st.integers(0, 30)))].astype(np.float32)
    ids = rng.permutation(3 * n)[:n].astype(np.int64)
    share = draw(st.sampled_from([None, 0.0, 0.1, 0.9, 1.0]))
    allowed = None if share is None else rng.permutation(3 * n)[: int(share * 3 * n)].astype(np.int64)
    return ids, vectors, queries, draw(st.integers(1, 100)), allowed


@settings(max_examples=200, deadline=None)
@given(case=tied_cases())
def test_hits_equal_brute_force_with_ties_and_filters(case: Case, brute_force: Check, same_hits: Check) -> None:
    ids, vectors, queries, k, allowed = case
    got = ExactIndex.build(ids, vectors).search(queries, k, allowed)
    same_hits(got, brute_force(ids, vectors, queries, k, allowed))


@pytest.mark.parametrize("n_queries", [1, FEW_QUERIES + 1, 40])
@pytest.mark.parametrize(
    "n_allowed", [0, 1, 3, FEW_ALLOWED, FEW_ALLOWED + 500, 9000 - FEW_EXCLUDED - 1, 9000 - 3, 9000, None]
)
def test_every_way_of_filtering_gives_the_same_hits(
    n_allowed: int | None, n_queries: int, unit_rows: Check, brute_force: Check, same_hits: Check
) -> None:
    vectors, queries = unit_rows(9000, 6), unit_rows(n_queries, 6, seed=1)
    ids = np.random.default_rng(2).permutation(20_000)[:9000]
    allowed = None if n_allowed is None else np.random.default_rng(3).permutation(ids)[:n_allowed]
    got = ExactIndex.build(ids, vectors).search(queries, 5, allowed)
    some = [0, n_queries - 1]
    expected = brute_force(ids, vectors, queries[some], 5, allowed)
    same_hits((got[0][some], got[1][some]), expected)


def test_a_filter_that_needs_several_copied_blocks_is_exact(unit_rows: Check, same_hits: Check) -> None:
    n = 3 * BLOCK_ROWS
    vectors, queries = unit_rows(n, 4), unit_rows(FEW_QUERIES + 2, 4, seed=1)
    ids = np.arange(n)
    allowed = ids[ids % 10 < 7]
    alone = ExactIndex.build(allowed, vectors[allowed])
    same_hits(ExactIndex.build(ids, vectors).search(queries, 50, allowed), alone.search(queries, 50))


@pytest.mark.parametrize("allowed", [None, np.arange(1, 30_000, 2), np.arange(5, 30_000)])
def test_thousands_of_equal_scores_are_resolved_by_id(allowed: IntArray | None) -> None:
    vectors = np.zeros((30_000, 3), dtype=np.float32)
    vectors[:, 0] = 1
    ids = np.random.default_rng(0).permutation(30_000)
    found, scores = ExactIndex.build(ids, vectors).search(vectors[:2], 4, allowed)
    expected = np.arange(4) if allowed is None else np.sort(allowed)[:4]
    np.testing.assert_array_equal(found, [expected, expected])
    np.testing.assert_array_equal(scores, np.ones((2, 4)))


def test_scores_clamped_to_minus_one_are_ties_as_well() -> None:
    # Rows beyond -1 that faiss ranks last, and does not even fetch, have the lowest ids.
    lengths = np.repeat([1.004, 1.002], [200, SPARE])
    vectors = -lengths[:, None].astype(np.float32)
    found, scores = ExactIndex.build(np.arange(len(vectors)), vectors).search(np.ones((1, 1), np.float32), 3)
    assert found.tolist() == [[0, 1, 2]]
    assert scores.tolist() == [[-1, -1, -1]]


def test_near_ties_beyond_the_spare_candidates_are_found(brute_force: Check, same_hits: Check) -> None:
    # All within float32's own error of one another, so faiss's order among them means nothing.
    rng = np.random.default_rng(0)
    base = rng.standard_normal(256)
    rows = base / np.linalg.norm(base) + 1e-7 * rng.standard_normal((20 * SPARE, 256))
    vectors = rows.astype(np.float32)
    query = (base / np.linalg.norm(base))[None, :].astype(np.float32) * np.float32(0.995)
    ids = rng.permutation(len(vectors))
    got = ExactIndex.build(ids, vectors).search(query, 7)
    same_hits(got, brute_force(ids, vectors, query, 7))


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_threads_batch_and_order_of_rows_do_not_change_a_bit(
    share: float, threads: Callable[[int], None], unit_rows: Check, same_hits: Check
) -> None:
    vectors, queries = unit_rows(12_000, 96), unit_rows(64, 96, seed=1)
    ids = np.arange(12_000)
    allowed = ids[: int(share * len(ids))]
    threads(1)
    one = ExactIndex.build(ids, vectors).search(queries, 20, allowed)
    threads(2)
    order = np.random.default_rng(2).permutation(12_000)
    shuffled = ExactIndex.build(ids[order], vectors[order])
    same_hits(shuffled.search(queries, 20, allowed[::-1]), one)
    for q in (0, 31, 63):
        alone = shuffled.search(queries[q : q + 1], 20, allowed)
        same_hits(alone, (one[0][q : q + 1], one[1][q : q + 1]))


def test_k_beyond_what_exists_is_padded(unit_rows: Check) -> None:
    index = ExactIndex.build(np.array([5, 2]), unit_rows(2, 4))
    found, scores = index.search(unit_rows(3, 4, seed=1), 4)
    assert found.shape == scores.shape == (3, 4)
    assert set(found[0, :2]) == {2, 5}
    np.testing.assert_array_equal(found[:, 2:], -1)
    np.testing.assert_array_equal(scores[:, 2:], -np.inf)


def test_an_empty_index_finds_nothing() -> None:
    index = ExactIndex.build(np.empty(0, np.int64), np.empty((0, 4), np.float32))
    for allowed in (None, np.array([1, 2])):
        found, scores = index.search(np.eye(4, dtype=np.float32), 2, allowed)
        np.testing.assert_array_equal(found, -np.ones((4, 2)))
        np.testing.assert_array_equal(scores, np.full((4, 2), -np.inf))


def test_no_queries_give_no_hits(unit_rows: Check) -> None:
    found, scores = ExactIndex.build(np.arange(5), unit_rows(5, 4)).search(np.empty((0, 4), np.float32), 3)
    assert found.shape == scores.shape == (0, 3)


def test_a_vector_finds_itself_with_a_score_of_at_most_one(unit_rows: Check) -> None:
    vectors = unit_rows(50, 16).astype(np.float16).astype(np.float32) * np.float32(1.003)
    found, scores = ExactIndex.build(np.arange(50), vectors).search(vectors, 1)
    np.testing.assert_array_equal(found[:, 0], np.arange(50))
    assert scores.max() == 1


def test_ids_of_the_filter_may_repeat_and_be_unknown(unit_rows: Check, same_hits: Check) -> None:
    vectors = unit_rows(10, 4)
    index = ExactIndex.build(np.arange(10, 20), vectors)
    messy = np.array([99, 12, 3, 12, 19, -5])
    same_hits(index.search(vectors[:2], 3, messy), index.search(vectors[:2], 3, np.array([12, 19])))


def test_the_index_keeps_its_own_copy_of_the_vectors(unit_rows: Check, same_hits: Check) -> None:
    vectors, ids = unit_rows(10, 4), np.arange(10)
    index = ExactIndex.build(ids, vectors)
    queries = vectors[:3].copy()
    before = index.search(queries, 3)
    vectors[:], ids[:] = 0, 7
    same_hits(index.search(queries, 3), before)


def _with(value: float) -> FloatArray:
    rows = np.eye(3, dtype=np.float32)
    rows[1] = [value, 0, 0]
    return rows


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        (np.arange(3), _with(np.nan), r"row 1 has length nan \(1 such of 3\); expected finite vectors of unit"),
        (np.arange(3), _with(np.inf), "row 1 has length inf"),
        (np.arange(3), _with(0), "row 1 has length 0 "),
        (np.arange(3), _with(1.02), "row 1 has length 1.02 .*divide each row by its length"),
        (np.array([4, 1, 4]), _with(1), "id 4 is given more than once; expected one vector per id"),
        (np.array([4, -1, 3]), _with(1), "id -1; expected ids from 0"),
        (np.arange(2), _with(1), r"ids of shape \(2,\) and type int64 for 3 vectors; expected \(3,\) integers"),
        (np.arange(3) / 2, _with(1), "type float64"),
        (np.arange(3), np.ones(3, np.float32), r"row vectors of shape \(3,\); expected \(n, dim\)"),
        (np.arange(3), np.ones((3, 0), np.float32), r"row vectors of shape \(3, 0\)"),
    ],
)
def test_what_can_not_be_indexed_is_refused(ids: Any, vectors: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ExactIndex.build(ids, vectors)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ([[np.nan, 0, 1]], "query 0 has length nan"),
        ([[0, 0, 0]], "query 0 has length 0"),
        ([[1, 0]], r"query vectors of shape \(1, 2\); expected \(n, 3\)"),
        ([1, 0, 0], r"query vectors of shape \(3,\)"),
    ],
)
def test_what_can_not_be_searched_for_is_refused(query: Any, message: str) -> None:
    index = ExactIndex.build(np.arange(3), np.eye(3, dtype=np.float32))
    with pytest.raises(DataError, match=message):
        index.search(np.array(query, dtype=np.float32), 1)


def test_k_below_one_is_refused() -> None:
    index = ExactIndex.build(np.arange(3), np.eye(3, dtype=np.float32))
    with pytest.raises(UsageError, match="k = 0; expected at least 1"):
        index.search(np.eye(3, dtype=np.float32), 0)


@settings(max_examples=50, deadline=None)
@given(case=tied_cases(), cut=st.integers(0, 90))
def test_an_index_and_its_tail_merge_to_the_hits_of_one_index(case: Case, cut: int, same_hits: Check) -> None:
    ids, vectors, queries, k, allowed = case
    whole = ExactIndex.build(ids, vectors).search(queries, k, allowed)
    parts = [ExactIndex.build(ids[part], vectors[part]) for part in (slice(cut), slice(cut, None))]
    same_hits(merge([part.search(queries, k, allowed) for part in parts], k), whole)


def test_hits_of_other_queries_are_not_merged() -> None:
    index = ExactIndex.build(np.arange(3), np.eye(3, dtype=np.float32))
    results = [index.search(np.eye(3, dtype=np.float32)[:n], 1) for n in (1, 2)]
    with pytest.raises(UsageError, match=r"hits of \[1, 2\] queries; expected at least one result"):
        merge(results, 1)
    with pytest.raises(UsageError, match=r"hits of \[\] queries"):
        merge([], 1)


@pytest.mark.parametrize("n_new", [1, 300])
def test_newer_vectors_beside_an_index_are_as_if_they_had_been_in_it(
    n_new: int, unit_rows: Callable[..., FloatArray], same_hits: Callable[..., None]
) -> None:
    old, new, queries = unit_rows(2000, 24), unit_rows(n_new, 24, 1), unit_rows(40, 24, 2)
    new[0] = queries[3]  # certainly among the best of one query, and of most it is not
    main = ExactIndex.build(np.arange(2000), old)
    newer = ExactIndex.build(5000 + np.arange(n_new), new)
    both = ExactIndex.build(np.r_[np.arange(2000), 5000 + np.arange(n_new)], np.concatenate([old, new]))
    for k in (1, 5, 2100):
        same_hits(newer.beside(main.search(queries, k), queries, k), both.search(queries, k))
    assert newer.beside(main.search(queries, 5), queries, 5)[0][3, 0] == 5000
    may = np.arange(n_new) % 2 == 1
    kept = np.r_[np.arange(2000), 5000 + np.flatnonzero(may)]
    same_hits(newer.beside(main.search(queries, 5), queries, 5, may), both.search(queries, 5, kept))
