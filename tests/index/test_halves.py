"""Products with rows of float16 where they lie, and the exact answers that are taken from them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vecstore.index import coded
from vecstore.index.base import HalfArray, unit_rows
from vecstore.index.coded import CodedIndex
from vecstore.index.exact import ExactIndex
from vecstore.index.halves import largest, pair_products
from vecstore.index.kinds import open_index
from vecstore.records import BoolArray, FloatArray, IntArray


@pytest.fixture(scope="module", autouse=True)
def few_are_scanned_too() -> Iterator[None]:
    """So few vectors as here would be compared in another way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coded, "FEW_ALLOWED", 0)
        yield


def _rows(n: int, dim: int, seed: int) -> FloatArray:
    rows = np.random.default_rng(seed).standard_normal((n, dim))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 300),
    dim=st.integers(1, 70),
    asked=st.integers(1, 5),
    seed=st.integers(0, 99),
    share=st.floats(0, 1),
)
def test_they_are_the_products_that_numpy_makes(n: int, dim: int, asked: int, seed: int, share: float) -> None:
    half, queries = _rows(n, dim, seed).astype(np.float16), _rows(asked, dim, seed + 1)
    expected = queries @ half.astype(np.float32).T
    rng = np.random.default_rng(seed)
    many = rng.integers(0, 9, asked)
    owner, rows = np.repeat(np.arange(asked), many), rng.integers(0, n, many.sum())
    np.testing.assert_allclose(pair_products(half, queries, rows, many), expected[owner, rows], atol=1e-5)
    may = rng.random(n) < share
    for allowed in (may, None) if may.any() else (None,):
        able = np.full(n, True) if allowed is None else allowed
        count = int(rng.integers(1, able.sum() + 1))
        scores, found = largest(half, queries, count, allowed)
        assert able[found].all() and all(len(set(row)) == count for row in found.tolist())
        best = -np.sort(-np.where(able, expected, -np.inf), axis=1)[:, :count]
        np.testing.assert_allclose(scores, best, atol=1e-5)
        np.testing.assert_allclose(np.take_along_axis(expected, found, axis=1), scores, atol=1e-5)
        assert (np.diff(scores, axis=1) <= 0).all()


def _far(n: int, dim: int) -> FloatArray:
    """Queries that are like nothing among rows around one direction."""
    queries = _rows(n, dim, 5)
    queries[:, 0] = -1
    return np.asarray(queries / np.linalg.norm(queries, axis=1, keepdims=True), np.float32)


@pytest.fixture(scope="module")
def half() -> HalfArray:
    rows = 0.3 * _rows(4000, 24, 0)
    rows[:, 0] += 1
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float16)


@pytest.mark.parametrize("asked", [1, 3, coded.SCANNED_QUERIES, coded.SCANNED_QUERIES + 1])
@pytest.mark.parametrize("share", [None, 0.02, 0.6])
def test_a_query_unlike_all_is_answered_as_exactly_as_by_an_exact_index(
    half: HalfArray, asked: int, share: float | None
) -> None:
    ids = np.arange(4000)
    index, exact = CodedIndex.build(ids, half), ExactIndex.build(ids, half)
    may = None if share is None else np.random.default_rng(1).random(4000) < share
    queries = _far(asked, 24)
    for k in (1, 10, 500):
        expected = exact.search(queries, k, may)
        answers = [index.whole(queries, k, may)]
        if share is None:  # under a filter a low score says nothing
            answers.append(index.search(queries, k))
        for found in answers:
            np.testing.assert_array_equal(found[0], expected[0])
            np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("asked", [2, 20])
@pytest.mark.parametrize("toward", [0.9, -1.0])
def test_more_equal_scores_than_are_fetched_come_by_id(asked: int, toward: float) -> None:
    """Of vectors of one direction, the longer as stored are fetched: those with the lowest ids are found all the same.

    A query longer than 1, as far as is allowed, is beyond -1 from those opposite: ties that clamping makes.
    """
    rows = np.zeros((3000, 16), np.float32)
    rows[:, 0] = np.linspace(0.994, 1.006, 3000) if toward > 0 else np.linspace(1.002, 0.998, 3000)
    if toward > 0:
        rows[2500:] = _rows(500, 16, 2)
    half, ids = rows.astype(np.float16), np.arange(3000)
    index, exact = CodedIndex.build(ids, half), ExactIndex.build(ids, half)
    queries = np.zeros((asked, 16), np.float32)
    queries[:, 0] = toward
    queries[:, 1] = np.sqrt(1 - toward**2)
    queries *= np.float32(1.009)
    got, expected = index.whole(queries, 20), exact.search(queries, 20)
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])
    assert (got[0] == np.arange(20)).all()


def test_vectors_that_do_not_lie_side_by_side_are_copied(half: HalfArray) -> None:
    wide = np.zeros((4000, 60), np.float16)
    wide[:, 3:51:2] = half
    queries = _far(3, 24)
    expected = ExactIndex.build(np.arange(4000), half).search(queries, 5)
    for given_so in (wide[:, 3:51:2], np.asfortranarray(half)):
        got = CodedIndex.build(np.arange(4000), given_so).whole(queries, 5)
        np.testing.assert_array_equal(got[0], expected[0])
    with pytest.raises(ValueError, match="side by side"):
        largest(wide[:, 3:51:2], queries, 5, None)


def test_negative_scores_are_bounded_by_the_longest_as_stored() -> None:
    rng = np.random.default_rng(0)
    cosines, lengths = rng.uniform(-0.9, -0.89, 3000), rng.uniform(0.991, 1.009, 3000)
    rows = np.zeros((3000, 8))
    rows[:, 0], rows[:, 1] = lengths * cosines, lengths * np.sqrt(1 - cosines**2)
    index, exact = (kind.build(np.arange(3000), rows.astype(np.float16)) for kind in (CodedIndex, ExactIndex))
    query = np.eye(1, 8, dtype=np.float32)
    np.testing.assert_array_equal(index.whole(query, 20)[0], exact.search(query, 20)[0])


def test_an_opened_index_is_read_where_its_file_is_mapped(half: HalfArray, tmp_path: Path) -> None:
    built = CodedIndex.build(np.arange(4000), half)
    built.save(tmp_path, {})
    opened, _ = open_index(tmp_path)
    assert isinstance(opened, CodedIndex) and not opened._half.flags.writeable
    for found, expected in zip(opened.whole(_far(3, 24), 9), built.whole(_far(3, 24), 9), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_very_many_hits_are_taken_block_by_block(half: HalfArray, monkeypatch: pytest.MonkeyPatch) -> None:
    index, exact = CodedIndex.build(np.arange(4000), half), ExactIndex.build(np.arange(4000), half)
    monkeypatch.setattr(coded, "SCANNED_HITS", 50)
    monkeypatch.setattr(CodedIndex, "_scanned", None)  # it would hold the vectors of all hits
    got, expected = index.whole(_far(2, 24), 51), exact.search(_far(2, 24), 51)
    np.testing.assert_array_equal(got[0], expected[0])


def test_candidates_are_ranked_some_queries_at_a_time(half: HalfArray, monkeypatch: pytest.MonkeyPatch) -> None:
    index, queries = CodedIndex.build(np.arange(4000), half), unit_rows(half[:20])
    expected = index.search(queries, 3)
    monkeypatch.setattr(coded, "SCORED_QUERIES", 3)
    for found, before in zip(index.search(queries, 3), expected, strict=True):
        np.testing.assert_array_equal(found, before)


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_thousand_queries_leave_nothing_behind(half: HalfArray) -> None:
    """What faiss hands out belongs to the caller, of which its wrapper knows nothing: 144 bytes for each call."""
    queries = _far(1, 24)

    def used() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    for _ in range(2000):
        largest(half[:40], queries, 1, None)
    before = used()
    for _ in range(20_000):
        largest(half[:40], queries, 1, None)
    assert used() - before < 1_000_000


def test_a_vector_that_is_short_as_stored_is_found_behind_longer_ones() -> None:
    """What is passed over is not bounded by the last product, but by that of a vector of length 1."""
    half = np.zeros((3000, 8), np.float32)
    cosines, lengths = np.repeat([0.9, 0.8995, 0.893], 1000), np.repeat([0.992, 1.0, 1.0], 1000)
    half[:, 0], half[:, 1] = lengths * cosines, lengths * np.sqrt(1 - cosines**2)
    rows = np.concatenate([half[:1000], half[1000:1030], half[2000:]]).astype(np.float16)
    index, exact = (kind.build(np.arange(len(rows)), rows) for kind in (CodedIndex, ExactIndex))
    query = np.eye(1, 8, dtype=np.float32)
    assert index.whole(query, 20)[0].max() < 1000
    np.testing.assert_array_equal(index.whole(query, 20)[0], exact.search(query, 20)[0])


@settings(max_examples=25, deadline=None)
@given(n=st.integers(300, 900), k=st.integers(1, 40), seed=st.integers(0, 50), lengths=st.floats(0, 0.009))
def test_rows_that_are_not_quite_of_length_one_are_ranked_by_their_score(
    n: int, k: int, seed: int, lengths: float
) -> None:
    rng = np.random.default_rng(seed)
    rows = np.concatenate([_rows(n // 2, 8, seed), np.repeat(_rows(3, 8, seed + 1), n // 5, axis=0)])
    half = (rows * rng.uniform(1 - lengths, 1 + lengths, (len(rows), 1))).astype(np.float16)
    ids: IntArray = rng.permutation(len(rows))
    index, exact = CodedIndex.build(ids, half), ExactIndex.build(ids, half)
    queries = _rows(3, 8, seed + 2)
    may: BoolArray = rng.random(len(rows)) < 0.7
    for allowed in (None, may):
        got, expected = index.whole(queries, k, allowed), exact.search(queries, k, allowed)
        np.testing.assert_array_equal(got[0], expected[0])
        np.testing.assert_array_equal(got[1], expected[1])
