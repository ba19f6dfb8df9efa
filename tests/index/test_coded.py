"""Approximate kinds: what they find is scored exactly, what they may miss is measured, and filters hold."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vecstore.errors import DataError, UsageError
from vecstore.files import write_file
from vecstore.index import coded
from vecstore.index.base import HalfArray, IndexUnusable, halved, seal, single, unit_rows
from vecstore.index.cells import CellsIndex
from vecstore.index.coded import CodedIndex, Design
from vecstore.index.exact import ExactIndex
from vecstore.index.kinds import open_index
from vecstore.index.recall import measured
from vecstore.records import FloatArray

Check = Callable[..., Any]
N, DIM = 6000, 32
DESIGNS = [
    (CodedIndex, Design()),
    (CodedIndex, Design("pq", 16)),
    (CodedIndex, Design("sq8")),
    (CellsIndex, Design(cells=16)),
    (CellsIndex, Design("sq8", 24, 16)),
]
each_design = pytest.mark.parametrize(("kind", "design"), DESIGNS, ids=lambda value: str(getattr(value, "kind", value)))


def _clustered(n: int, seed: int, power: float = 1.0) -> FloatArray:
    """Unit vectors around 50 centres, the variance of dimension i falling as 1/i**power, as float16 holds them."""
    rng = np.random.default_rng(seed)
    spread = np.arange(1, DIM + 1) ** (-power / 2)
    centres = np.random.default_rng(99).standard_normal((50, DIM))
    rows = (centres[rng.integers(0, 50, n)] + 0.7 * rng.standard_normal((n, DIM))) * spread
    unit: FloatArray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
    return unit


@pytest.fixture(scope="module")
def vectors() -> FloatArray:
    return _clustered(N, 0)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of one test would wait for those of another program."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


@pytest.fixture(scope="module")
def built(vectors: FloatArray) -> Callable[[type[CodedIndex], Design], CodedIndex]:
    """An index of `vectors`, made once for all tests."""
    return functools.cache(lambda kind, design: kind.build(np.arange(N), vectors, design, 0.97))


@pytest.fixture(scope="module")
def queries() -> FloatArray:
    return unit_rows(_clustered(60, 1).astype(np.float16))


@pytest.fixture(scope="module")
def exact(vectors: FloatArray) -> ExactIndex:
    return ExactIndex.build(np.arange(N), vectors.astype(np.float16))


def _recall(found: Any, truth: Any) -> float:
    """Share of hits at least as good as the last exact one: ties are fair."""
    return float((found[1] >= truth[1][:, -1:]).mean())


@each_design
def test_hits_are_scored_as_in_an_exact_search_and_recall_is_what_was_measured(
    kind: type[CodedIndex], design: Design, built: Check, queries: FloatArray, exact: ExactIndex
) -> None:
    index = built(kind, design)
    found, truth = index.search(queries, 10), exact.search(queries, 10)
    all_ids, all_scores = exact.search(queries[:5], N)
    for query in range(5):
        scores = dict(zip(all_ids[query].tolist(), all_scores[query].tolist(), strict=True))
        assert [scores[i] for i in found[0][query].tolist()] == found[1][query].tolist()  # to the bit
        assert list(zip(-found[1][query], found[0][query], strict=True)) == sorted(
            zip(-found[1][query], found[0][query], strict=True)
        )
    assert index.recall is not None and index.recall.value >= 0.97
    assert index.recall.low <= index.recall.value <= index.recall.high
    assert _recall(found, truth) >= 0.95
    assert (index.exact, exact.exact) == (False, True)


@each_design
@pytest.mark.parametrize("share", [0.0005, 0.01, 0.3, 0.95])
def test_a_filter_gives_k_hits_that_it_allows(
    kind: type[CodedIndex], design: Design, share: float, built: Check, queries: FloatArray, exact: ExactIndex
) -> None:
    index = built(kind, design)
    may = np.random.default_rng(5).random(N) < share
    may[:3] = True
    for some in (queries[:3], queries):
        found, truth = index.search(some, 10, may), exact.search(some, 10, may)
        assert may[found[0][found[0] >= 0]].all()
        assert ((found[0] >= 0).sum(axis=1) == min(10, may.sum())).all()
        assert _recall(found, truth) >= 0.93
    by_id = index.search(queries, 10, np.random.default_rng(6).permutation(np.flatnonzero(may)))
    np.testing.assert_array_equal(by_id[0], index.search(queries, 10, may)[0])


@each_design
def test_recall_holds_for_more_hits_and_for_what_a_filter_leaves(
    kind: type[CodedIndex], design: Design, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hits that stand farther back among all are harder to tell apart by codes: more candidates, and more cells."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal(
        (1000, DIM)
    )  # of some 20 vectors each: the first ten hits are easily told from others

    def some(n: int) -> HalfArray:
        rows = centres[rng.integers(0, 1000, n)] + 0.35 * rng.standard_normal((n, DIM))
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float16)

    rows, queries = some(20_000), unit_rows(some(60))
    index, exact = kind.build(np.arange(20_000), rows, design, 0.97), ExactIndex.build(np.arange(20_000), rows)
    monkeypatch.setattr(coded, "FEW_ALLOWED", 0)
    monkeypatch.setattr(coded, "ROWS_PER_CANDIDATE", 1)
    for k, share in ((10, None), (15, None), (20, None), (40, None), (100, None), (10, 0.05), (10, 0.2), (10, 0.6)):
        may = None if share is None else np.random.default_rng(3).random(20_000) < share
        found = np.concatenate([index.search(query[None], k, may)[1] for query in queries])
        assert _recall((None, found), exact.search(queries, k, may)) >= 0.96, (k, share)


def test_what_is_kept_of_a_filter_is_never_that_of_another(
    built: Check, queries: FloatArray, exact: ExactIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = built(CellsIndex, Design("sq8", 24, 16))
    monkeypatch.setitem(index.settings, "reach", 4.0)
    monkeypatch.setattr(coded, "ROWS_PER_CANDIDATE", 1)
    changing = np.arange(N) % 2 == 0
    index.search(queries, 10, changing)
    assert index._kept is not None
    changing[:-1] = True  # the same array, with another content
    assert _recall(index.search(queries, 10, changing), exact.search(queries, 10, changing)) >= 0.95
    for remainder in (0, 1, 0):
        fixed = np.arange(N) % 2 == remainder
        fixed.setflags(write=False)
        for _ in range(2):
            assert (index.search(queries[:2], 10, fixed)[0] % 2 == remainder).all()
            assert index._kept.may is fixed


def test_a_filter_far_from_the_query_is_answered_in_full(vectors: FloatArray, exact: ExactIndex) -> None:
    # What is allowed lies in other cells than those nearest to the query.
    index = CellsIndex.build(np.arange(N), vectors, Design(cells=16), 0.97)
    query = vectors[:1] / np.linalg.norm(vectors[:1])
    far = np.argsort(vectors @ query[0])[: N // 2]
    found, truth = index.search(query, 40, far), exact.search(query, 40, far)
    assert (found[0] >= 0).all() and set(found[0][0]) <= set(far)
    assert len(found[0][0]) == len(truth[0][0]) == 40


def test_a_faiss_that_passes_over_a_filter_is_not_believed(
    built: Check, queries: FloatArray, exact: ExactIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, may = built(CodedIndex, Design()), np.arange(N) % 2 == 0
    candidates = CodedIndex._candidates
    monkeypatch.setattr(
        CodedIndex, "_candidates", lambda self, asked, count, probe, _: candidates(self, asked, count, probe, None)
    )
    for got, expected in zip(index.search(queries, 10, may), exact.search(queries, 10, may), strict=True):
        np.testing.assert_array_equal(got, expected)


@each_design
def test_a_saved_one_gives_the_same_hits_and_tells_what_it_measured(
    kind: type[CodedIndex], design: Design, built: Check, queries: FloatArray, tmp_path: Path
) -> None:
    made = built(kind, design)
    made.save(tmp_path, {"fingerprint": "x"})
    opened, covers = open_index(tmp_path)
    assert isinstance(opened, kind) and covers == {"fingerprint": "x"}
    for k in (1, 10, 300):
        for got, expected in zip(opened.search(queries, k), made.search(queries, k), strict=True):
            np.testing.assert_array_equal(got, expected)
    assert (opened.recall, opened.design, opened.facts) == (made.recall, design, made.facts)
    told = json.loads((tmp_path / "index.json").read_text())["facts"]
    assert told["recall"]["k"] == 10 and told["recall"]["n"] == N and told["asked"] == 0.97


@pytest.mark.parametrize("shuffled", [False, True], ids=["above", "between"])
@pytest.mark.parametrize("saved", [False, True])
def test_new_vectors_are_added(
    shuffled: bool, saved: bool, vectors: FloatArray, queries: FloatArray, exact: ExactIndex, tmp_path: Path
) -> None:
    ids = np.random.default_rng(0).permutation(N) if shuffled else np.arange(N)
    first = CodedIndex.build(ids[:5000], vectors[ids[:5000]], recall=0.97)
    if saved:
        first.save(tmp_path, {})
        opened, _ = open_index(tmp_path)
        assert isinstance(opened, CodedIndex)
        first = opened
    index = first.extended(ids[5000:], vectors[ids[5000:]])
    np.testing.assert_array_equal(index.ids, np.arange(N))
    found, truth = index.search(queries, 10), exact.search(queries, 10)
    assert _recall(found, truth) >= 0.95
    newest = unit_rows(vectors[5000:5050].astype(np.float16))
    assert (index.search(newest, 1)[0][:, 0] == np.arange(5000, 5050)).mean() > 0.95
    assert index.recall is not None and index.recall.n == N


def test_any_flipped_byte_is_found(vectors: FloatArray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CodedIndex.build(np.arange(300), vectors[:300], Design("rabitq", 16)).save(tmp_path, {})
    monkeypatch.setattr(faiss, "read_index", None)
    paths = sorted(tmp_path.iterdir())
    assert {path.suffix for path in paths} == {".faiss", ".basis", ".rows", ".json"}
    for path in paths:
        whole = path.read_bytes()
        for place in np.linspace(0, len(whole) - 1, 60).astype(int):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            with pytest.raises(IndexUnusable):
                open_index(tmp_path)
            path.write_bytes(whole[:place])
            with pytest.raises(IndexUnusable):
                open_index(tmp_path)
        path.write_bytes(whole)


@pytest.mark.parametrize("changes", [{"n": 299}, {"dim": 31}, {"facts": {"design": {"code": "x"}}}, {"facts": {}}])
def test_a_sealed_description_of_something_else_is_refused(
    changes: dict[str, object], vectors: FloatArray, tmp_path: Path
) -> None:
    CodedIndex.build(np.arange(300), vectors[:300]).save(tmp_path, {})
    facts = json.loads((tmp_path / "index.json").read_text())
    del facts["seal"]
    write_file(tmp_path / "index.json", seal({**facts, **changes}).encode())
    with pytest.raises(IndexUnusable):
        open_index(tmp_path)


@pytest.mark.parametrize("n", [0, 1, 5, 130])
def test_few_vectors_are_answered_exactly(n: int, vectors: FloatArray, queries: FloatArray, tmp_path: Path) -> None:
    index = CodedIndex.build(np.arange(n), vectors[:n])
    index.save(tmp_path, {})
    truth = ExactIndex.build(np.arange(n), vectors[:n].astype(np.float16)).search(queries, 7)
    for asked in (index, open_index(tmp_path)[0]):
        for got, expected in zip(asked.search(queries, 7), truth, strict=True):
            np.testing.assert_array_equal(got, expected)
    assert (index.recall is None) == (n < 128)


def test_what_can_not_be_coded_or_searched_for_is_refused(vectors: FloatArray) -> None:
    for value in (np.nan, np.inf, 0.0):
        bad = vectors[:200].copy()
        bad[150] = value
        with pytest.raises(DataError, match="row"):
            CodedIndex.build(np.arange(200), bad)
    with pytest.raises(DataError, match="id 3 is given more than once"):
        CodedIndex.build(np.array([3, 3]), vectors[:2])
    index = CodedIndex.build(np.arange(200), vectors[:200])
    with pytest.raises(DataError, match="query 0 has length nan"):
        index.search(np.full((1, DIM), np.nan, np.float32), 1)
    with pytest.raises(DataError, match=r"query vectors of shape \(1, 3\); expected \(n, 32\)"):
        index.search(np.ones((1, 3), np.float32), 1)
    with pytest.raises(UsageError, match="k = 0"):
        index.search(vectors[:1], 0)
    with pytest.raises(UsageError, match=r"a filter of shape \(3,\) for 200 vectors"):
        index.search(unit_rows(vectors[:1].astype(np.float16)), 1, np.ones(3, np.bool_))


def test_a_recall_that_can_not_be_reached_is_told(vectors: FloatArray) -> None:
    index = CodedIndex.build(np.arange(N), vectors, Design("pq", 2), 0.999999)
    assert index.recall is not None and index.recall.value < 0.999999
    assert index.settings["per_hit"] == 128 and index.settings["asked"] == 0.999999


def test_the_interval_of_a_recall_holds_the_truth_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        recall = measured(rng.binomial(10, rng.beta(60, 1.5, 100)) / 10, 10, 1000)
        inside += recall.low <= 60 / 61.5 <= recall.high
    assert inside >= 180


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=40))
def test_casts_are_those_of_numpy(values: list[float]) -> None:
    wide = np.array([values], np.float32)
    np.testing.assert_array_equal(halved(wide), wide.astype(np.float16))
    np.testing.assert_array_equal(single(halved(wide)), wide.astype(np.float16).astype(np.float32))


def test_a_row_is_brought_to_length_one_whatever_lies_beside_it(vectors: FloatArray) -> None:
    half = vectors.astype(np.float16)
    together = unit_rows(half)
    as_before = half.astype(np.float32)
    as_before /= np.linalg.norm(as_before, axis=1, keepdims=True)
    np.testing.assert_array_equal(together, as_before)
    for row in (0, 1, 300, N - 1):
        np.testing.assert_array_equal(unit_rows(half[row : row + 1])[0], together[row])
    np.testing.assert_array_equal(unit_rows(half[:12].reshape(3, 4, DIM)).reshape(12, DIM), together[:12])
