"""Many queries at once over cells: the same rows as faiss finds one by one."""

from __future__ import annotations

from typing import Any

import faiss as _faiss
import numpy as np
import pytest

from vecstore.index import together
from vecstore.index.cells import CellsIndex
from vecstore.index.coded import Design
from vecstore.index.together import Cells, nearest
from vecstore.records import FloatArray, IntArray

faiss: Any = _faiss  # its type stubs lack what its Python layer adds


def _cells(rows: FloatArray, cells: int) -> Any:
    coded = faiss.index_factory(rows.shape[1], f"IVF{cells},SQfp16", faiss.METRIC_INNER_PRODUCT)
    coded.by_residual = False
    coded.train(rows)
    coded.add(rows)
    return coded


def _one_by_one(coded: Any, queries: FloatArray, count: int, probe: int, may: Any = None) -> IntArray:
    selector = None if may is None else faiss.IDSelectorBatch(np.flatnonzero(may))
    parameters = faiss.SearchParametersIVF(nprobe=probe, sel=selector)
    found: IntArray = coded.search(queries, count, params=parameters)[1]
    return found


def _agree(got: IntArray, expected: IntArray) -> float:
    return float(
        np.mean(
            [
                len(np.intersect1d(a[a >= 0], b[b >= 0])) / max(1, (b >= 0).sum())
                for a, b in zip(got, expected, strict=True)
            ]
        )
    )


@pytest.fixture(scope="module")
def rows() -> FloatArray:
    rng = np.random.default_rng(0)
    made = rng.standard_normal((40, 32))[rng.integers(0, 40, 4000)] + rng.standard_normal((4000, 32))
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float32)


@pytest.mark.parametrize(("count", "probe"), [(1, 1), (10, 4), (100, 7), (300, 32)])
@pytest.mark.parametrize("filtered", [False, True])
def test_it_finds_what_faiss_finds_one_by_one(rows: FloatArray, count: int, probe: int, filtered: bool) -> None:
    coded, queries = _cells(rows[50:], 32), rows[:50]
    may = np.random.default_rng(1).random(3950) < 0.3 if filtered else None
    got, expected = nearest(Cells(coded, may), queries, count, probe), _one_by_one(coded, queries, count, probe, may)
    assert got.shape == expected.shape == (50, count)
    assert _agree(got, expected) > 0.995  # float16 makes ties, which either may break
    assert _agree(got[:, : count // 2 + 1], expected[:, : count // 2 + 1]) > 0.97  # in the same order
    np.testing.assert_array_equal((got >= 0).sum(axis=1), (expected >= 0).sum(axis=1))
    if may is not None:
        assert may[got[got >= 0]].all()


def test_more_rounds_and_smaller_products_find_the_same(rows: FloatArray, monkeypatch: pytest.MonkeyPatch) -> None:
    coded = _cells(rows, 16)
    once = nearest(Cells(coded, None), rows[:300], 20, 4)
    monkeypatch.setattr(together, "TOGETHER", 64)
    monkeypatch.setattr(together, "PRODUCTS", 500)
    assert _agree(nearest(Cells(coded, None), rows[:300], 20, 4), once) > 0.999


def test_a_filter_that_leaves_nothing_finds_nothing(rows: FloatArray) -> None:
    assert (nearest(Cells(_cells(rows, 16), np.zeros(4000, np.bool_)), rows[:20], 5, 16) == -1).all()


def test_cells_of_equal_rows_give_as_many_as_are_wanted(rows: FloatArray) -> None:
    same = np.repeat(rows[:1], 2000, axis=0)
    found = nearest(Cells(_cells(np.concatenate([same, rows]), 16), None), rows[:30], 7, 16)
    assert (found >= 0).all()
    assert (found[0] < 2001).all()
    assert all(len(set(row)) == 7 for row in found.tolist())


@pytest.mark.parametrize("n_queries", [3, 60])
def test_an_index_of_halves_answers_with_exact_scores(
    rows: FloatArray, n_queries: int, unit_rows: Any, tmp_path: Any
) -> None:
    index = CellsIndex.build(np.arange(4000), rows, Design("half", 16, 32), 0.95)
    assert index.recall is not None
    assert index.recall.value >= 0.95
    ids, scores = index.search(rows[:n_queries], 10)
    assert (ids[:, 0] == np.arange(n_queries)).all()
    exact = rows[:n_queries].astype(np.float64) @ rows.T.astype(np.float64)
    np.testing.assert_allclose(scores, np.take_along_axis(exact, ids, axis=1), atol=1e-3)
    truth = -np.sort(-exact, axis=1)[:, 9:10]
    assert (scores >= truth - 1e-3).mean() > 0.9
    may = np.arange(4000) % 4 == 1
    filtered, _ = index.search(rows[:n_queries], 10, may)
    assert (filtered % 4 == 1).all()
    index.save(tmp_path / "i", {})
    from vecstore.index.kinds import open_index

    again, _ = open_index(tmp_path / "i")
    np.testing.assert_array_equal(again.search(rows[:n_queries], 10)[0], ids)
    more = again.extended(np.arange(4000, 4100), unit_rows(100, 32))
    assert len(more.ids) == 4100
    assert more.search(unit_rows(100, 32)[:1], 1)[0] == [[4000]]
