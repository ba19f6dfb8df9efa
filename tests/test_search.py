"""What a search can be asked for beyond the nearest: many queries, examples, groups, variety, metrics, predictions."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vecstore.encoders import open_encoder
from vecstore.encoders.base import Encoder
from vecstore.errors import DataError, NotFound, PictureError, SpaceMismatch, UsageError
from vecstore.index.metric import Metric
from vecstore.ingest import ingest
from vecstore.label import label
from vecstore.records import FloatArray
from vecstore.search import SearchResult, search, search_many
from vecstore.store import Store
from vecstore.train import train

Paint = Callable[[Path, str, int], None]


def _unit(rows: Any) -> Any:
    return rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=-1, keepdims=True)


def _vectors(store: Store) -> dict[int, FloatArray]:
    items = store.items()
    return dict(zip(items.ids.tolist(), _unit(store.vectors(store.space(), items.contents)), strict=True))


def _ids(result: SearchResult) -> list[int]:
    return [hit.item_id for hit in result.hits]


def _ranked(vectors: dict[int, FloatArray], query: FloatArray, may: Any = None) -> list[int]:
    scored = [(-round(float(row @ query), 6), item) for item, row in vectors.items() if may is None or item in may]
    return [item for _, item in sorted(scored)]


def test_many_queries_in_one_call_are_answered_as_one_by_one(colour_store: Store, tmp_path: Path) -> None:
    locators = colour_store.items().locators
    queries = [1, "17", locators[40], colour_store.vectors(colour_store.space(), colour_store.items().contents[:1])[0]]
    many = search_many(colour_store, queries, 7, where="age > 41")
    assert [_ids(one) for one in many] == [_ids(search(colour_store, query, 7, where="age > 41")) for query in queries]
    assert [one.hits for one in many] == [search(colour_store, query, 7, where="age > 41").hits for query in queries]
    assert [one.kind for one in many] == ["item", "item", "item", "vector"]
    (tmp_path / "queries.txt").write_text(f"1\n17\n\n{locators[40]}\n")
    assert [one.hits for one in search_many(colour_store, tmp_path / "queries.txt", 7, where="age > 41")] == [
        one.hits for one in many[:3]
    ]
    matrix = np.stack([*_vectors(colour_store).values()])
    np.save(tmp_path / "queries.npy", matrix)
    by_vector = search_many(colour_store.path, tmp_path / "queries.npy", 3)
    assert [_ids(one)[0] for one in by_vector] == list(range(1, 64))
    assert [one.hits for one in by_vector] == [one.hits for one in search_many(colour_store, matrix, 3)]
    assert search_many(colour_store, [], 3) == []


def test_queries_that_are_none_are_refused(colour_store: Store, tmp_path: Path) -> None:
    with pytest.raises(SpaceMismatch, match=r"query vectors of shape \(2, 3\); expected \(n, 64\): the space fake-64"):
        search_many(colour_store, np.ones((2, 3)))
    with pytest.raises(NotFound, match="the store has no item 999"):
        search_many(colour_store, [1, 999])
    with pytest.raises(UsageError, match=r"absent\.txt: .*expected a \.npy file, or a text file"):
        search_many(colour_store, tmp_path / "absent.txt")
    for row in (np.full((1, 64), np.nan), np.zeros((1, 64))):
        with pytest.raises(SpaceMismatch, match="not finite or has no length"):
            search_many(colour_store, row)


def test_a_store_may_be_given_by_its_path(colour_store: Store) -> None:
    assert search(str(colour_store.path), 5, 4).hits == search(colour_store, 5, 4).hits


def test_only_some_ids_are_found(colour_store: Store) -> None:
    result = search(colour_store, 1, 4, ids=[50, 20, 30, 999, 20, 2])
    assert set(_ids(result)) == {20, 30, 50} and result.searched == 3  # 2 is of the query's own group
    both = search(colour_store, 1, 1, ids=np.array([20, 30]), where="item = 30")
    assert _ids(both) == [30]
    assert search(colour_store, 1, 1, ids=[]).hits == []


def test_the_farthest_are_those_of_brute_force(colour_store: Store) -> None:
    vectors, patients = _vectors(colour_store), colour_store.column("patient")
    result = search(colour_store, 9, 60, farthest=True)
    may = {item for item in vectors if patients[item] != patients[9]}
    assert _ids(result) == _ranked(vectors, -vectors[9], may)
    scores = [hit.score for hit in result.hits]
    assert scores == sorted(scores)
    assert scores[0] == pytest.approx(float(vectors[9] @ vectors[result.hits[0].item_id]), abs=1e-6)


def test_by_a_column_every_value_is_found_once_by_its_best_item(colour_store: Store) -> None:
    patients, vectors = colour_store.column("patient"), _vectors(colour_store)
    result = search(colour_store, 5, 10, by="patient")
    assert len({patients[item] for item in _ids(result)}) == len(result.hits) == 10
    firsts: dict[Any, int] = {}
    for item in _ranked(vectors, vectors[5]):
        if patients[item] != patients[5]:
            firsts.setdefault(patients[item], item)
    assert _ids(result) == list(firsts.values())[:10]
    few = search(colour_store, 5, 30, by="patient")
    assert len(few.hits) == 20 and few.notes == ["20 of 30: no more items fit"]
    with pytest.raises(NotFound, match="has no column 'weight'"):
        search(colour_store, 5, 3, by="weight")


def test_identical_pictures_are_shown_once_where_asked(bare_store: Store, tmp_path: Path, paint: Paint) -> None:
    for number in range(9):
        paint(tmp_path / "same" / f"{number}.png", "red", 4242)
    ingest(bare_store, tmp_path / "same", encoder="fake:64", thumbnails=False)
    vector = bare_store.vectors(bare_store.space(), bare_store.items().contents[-1:])[0]
    assert _ids(search(bare_store, vector, 9)) == list(range(64, 73))
    unique = _ids(search(bare_store, vector, 9, unique=True))
    assert unique[0] == 64 and not set(range(65, 73)) & set(unique) and len(unique) == 9
    # The first of those that fit.
    assert _ids(search(bare_store, vector, 2, unique=True, where="item > 66"))[0] == 67


def test_examples_for_and_against_are_combined(colour_store: Store) -> None:
    vectors, patients = _vectors(colour_store), colour_store.column("patient")
    for_, against = [1, 20], [40]
    wanted = 2 * (vectors[1] + vectors[20]) / 2 - vectors[40]
    own = {patients[item] for item in (*for_, *against)}
    may = {item for item in vectors if patients[item] not in own}
    expected = _ranked(vectors, _unit(wanted), may)[:12]
    for result in (
        search(colour_store, for_, 12, unlike=against),
        search(colour_store, 1, 12, like=[20], unlike=against),
        search(colour_store, None, 12, like=for_, unlike=["40"]),
    ):
        assert _ids(result) == expected
        assert (result.kind, result.excluded) == ("several", 9)
    mean = search(colour_store, [1, 20], 12)
    may = {item for item in vectors if patients[item] not in {patients[1], patients[20]}}
    assert _ids(mean) == _ranked(vectors, _unit(vectors[1] + vectors[20]), may)[:12]
    with pytest.raises(DataError, match="the examples cancel each other out"):
        search(colour_store, [vectors[1], -vectors[1]])
    with pytest.raises(UsageError, match="a search needs one query"):
        search(colour_store, unlike=[3])


def test_variety_is_bought_with_similarity(colour_store: Store) -> None:
    vectors = _vectors(colour_store)

    def alike(ids: list[int]) -> float:
        rows = np.stack([vectors[item] for item in ids])
        return float((rows @ rows.T)[np.triu_indices(len(ids), 1)].mean())

    near, varied = search(colour_store, 5, 8), search(colour_store, 5, 8, diverse=0.6)
    assert _ids(varied)[0] == _ids(near)[0] and len(set(_ids(varied))) == 8
    assert alike(_ids(varied)) < alike(_ids(near))
    assert sum(hit.score for hit in varied.hits) < sum(hit.score for hit in near.hits)
    # Greedy, by hand: what is worth most given those before it.
    pool = _ids(search(colour_store, 5, 60))
    chosen = pool[:1]
    while len(chosen) < 8:
        worth = {
            i: 0.4 * float(vectors[i] @ vectors[5]) - 0.6 * max(float(vectors[i] @ vectors[c]) for c in chosen)
            for i in pool
            if i not in chosen
        }
        chosen.append(max(worth, key=lambda item: worth[item]))
    assert _ids(varied) == chosen
    for value in (-0.1, 1.0):
        with pytest.raises(UsageError, match="expected from 0 to below 1"):
            search(colour_store, 5, 3, diverse=value)
    with pytest.raises(UsageError, match="not both"):
        search(colour_store, 5, 3, diverse=0.5, farthest=True)


def test_a_probe_says_what_it_thinks_of_every_hit(colour_store: Store) -> None:
    probe = train(colour_store, "colour", group="patient")
    result = search(colour_store, 5, 6, predict="colour")
    items = colour_store.items()
    for hit in result.hits:
        row = np.searchsorted(items.ids, [hit.item_id])
        expected = probe.predict_proba(colour_store.vectors(colour_store.space(), items.contents[row]))[0]
        assert list(hit.predictions) == probe.record.classes
        np.testing.assert_allclose(list(hit.predictions.values()), expected, atol=1e-6)
        assert hit.in_training is True  # scored out of fold: trained on all
    plain = search(colour_store, 5, 1).hits[0]
    assert (plain.predictions, plain.in_training) == ({}, None)
    train(colour_store, "colour", where="patient != 'P5'")
    hits = search(colour_store, 1, 60, group="none", predict="colour").hits
    patients = [hit.metadata["patient"] for hit in hits]
    assert [hit.in_training for hit in hits] == [patient != "P5" for patient in patients] and "P5" in patients
    with pytest.raises(NotFound, match="has no task 'cough'"):
        search(colour_store, 5, 1, predict="cough")


@pytest.mark.parametrize("metric", ["standard", "whitened"])
def test_a_metric_is_fitted_on_the_store_and_searched_exactly(colour_store: Store, metric: str) -> None:
    vectors = _vectors(colour_store)
    rows = np.stack([*vectors.values()])
    centred = rows - rows.mean(axis=0)
    if metric == "standard":
        moved = centred / centred.std(axis=0)
    else:
        values, directions = np.linalg.eigh(centred.T @ centred / len(rows))
        kept = len(rows) // 4
        moved = centred @ directions[:, ::-1][:, :kept] / np.sqrt(values[::-1][:kept])
    space = dict(zip(vectors, _unit(moved), strict=True))
    result = search(colour_store, 5, 8, metric=metric, include_own=True)
    assert result.metric == metric and result.exact and result.hits[0].item_id == 5
    assert result.hits[0].score == pytest.approx(1, abs=1e-6)
    for hit in result.hits:
        assert hit.score == pytest.approx(float(space[hit.item_id] @ space[5]), abs=2e-3)
    # Kept beside the one for cosine, and the same when it is opened again.
    folders = sorted(path.name for path in (colour_store.path / "indexes").iterdir())
    assert folders == [f"1-{metric}"]
    assert search(colour_store.path, 5, 8, metric=metric, include_own=True).hits == result.hits
    (parameters,) = (colour_store.path / "indexes" / folders[0]).glob("metric-*.npy")
    data = bytearray(parameters.read_bytes())
    data[-3] ^= 1
    parameters.write_bytes(data)
    assert search(colour_store.path, 5, 8, metric=metric, include_own=True).hits == result.hits


def test_an_unknown_metric_is_refused(colour_store: Store) -> None:
    with pytest.raises(UsageError, match="metric 'angular'; expected one of: cosine, standard, whitened"):
        search(colour_store, 1, metric="angular")
    with pytest.raises(UsageError, match="a text can't be compared by the metric 'standard'"):
        search(colour_store, text="red", metric="standard")


def test_vectors_without_variance_have_a_metric_too() -> None:
    same = np.tile(np.array([0.6, 0.8, 0.0], np.float32), (20, 1))
    for name in ("standard", "whitened"):
        moved = Metric.fit(name, same).apply(same)
        assert np.isfinite(moved).all() and np.allclose(np.linalg.norm(moved.astype(np.float32), axis=1), 1)


def test_a_filter_is_evaluated_once_for_a_snapshot(
    colour_store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, paint: Paint
) -> None:
    evaluated: list[str] = []
    select = Store.select

    def counting(self: Store, where: str) -> Any:
        evaluated.append(where)
        return select(self, where)

    monkeypatch.setattr(Store, "select", counting)
    first = search(colour_store, 1, 5, where="age > 45")
    assert search(colour_store, 1, 5, where="age > 45").hits == first.hits
    assert evaluated == ["age > 45"]
    paint(tmp_path / "new" / "a.png", "red", 1)
    ingest(colour_store, tmp_path / "new", encoder="fake:64", thumbnails=False)
    search(colour_store, 1, 5, where="age > 45")
    assert evaluated == ["age > 45"] * 2


def test_what_is_not_found_has_no_prediction(colour_store: Store) -> None:
    train(colour_store, "colour", group="patient")
    assert search(colour_store, 5, 3, where="age > 1000", predict="colour").hits == []
    assert search_many(colour_store, [], 3, predict="colour") == []
    with pytest.raises(NotFound, match="has no task 'cough'"):
        search(colour_store, 5, 3, where="age > 1000", predict="cough")


@pytest.mark.parametrize("ids", [[1.5, 30], np.ones(63, np.bool_), [True], ["20"], np.array([20.0])])
def test_ids_that_are_none_are_refused(colour_store: Store, ids: Any) -> None:
    with pytest.raises(UsageError, match=r"ids of type .*; expected item ids, whole numbers; of a mask: store.items"):
        search(colour_store, 1, 3, ids=ids)


def test_ids_may_be_any_iterable(colour_store: Store) -> None:
    for ids in ({20, 30}, (i for i in (20, 30)), np.array([[20, 30]], np.uint8), [20, 30, 10**30, -4]):
        assert set(_ids(search(colour_store, 1, 2, ids=ids))) == {20, 30}
    assert len(search_many(colour_store, [1, 9], 2, ids=iter((20, 30)))[1].hits) == 2


@pytest.mark.parametrize("k", [2.5, "3", True, 0, -1])
def test_k_is_a_whole_number(colour_store: Store, k: Any) -> None:
    with pytest.raises(UsageError, match=f"k = {k!r}; expected a whole number, at least 1; -k 10"):
        search(colour_store, 1, k)
    assert len(search(colour_store, 1, np.int64(2)).hits) == 2  # type: ignore[arg-type]


def test_the_length_of_a_vector_does_not_matter(colour_store: Store) -> None:
    row = _vectors(colour_store)[5]
    expected = search(colour_store, row, 5).hits
    for factor in (1e300, 1e-300, 7):
        assert _ids(search(colour_store, row * factor, 5)) == [hit.item_id for hit in expected]
    others: list[Any] = [np.array(["a"] * 64), np.ones(64, np.complex128), np.full(64, np.inf)]
    for wrong in others:
        with pytest.raises(SpaceMismatch, match="not finite or has no length"):
            search(colour_store, wrong)


def test_of_many_vectors_the_wrong_one_is_named(colour_store: Store, tmp_path: Path) -> None:
    rows = np.ones((5, 64))
    rows[3, 7] = np.nan
    with pytest.raises(SpaceMismatch, match=r"vector 3 has shape \(64,\), and is not finite or has no length"):
        search_many(colour_store, rows)
    rows[3] = 1
    assert [one.query for one in search_many(colour_store, rows, 1)] == [f"vector {n}" for n in range(5)]
    np.save(tmp_path / "short.npy", np.ones(3))
    with pytest.raises(SpaceMismatch, match=r"short\.npy has shape \(3,\)"):
        search_many(colour_store, [1, str(tmp_path / "short.npy")])


def test_a_group_that_no_column_has_is_refused_whatever_the_query(colour_store: Store) -> None:
    for query in (5, np.ones(64)):
        with pytest.raises(NotFound, match="has no column 'patinet'; expected one of: "):
            search(colour_store, query, 3, group="patinet")


def test_every_value_of_a_column_is_found_though_two_share_a_picture(
    bare_store: Store, tmp_path: Path, paint: Paint
) -> None:
    from vecstore.label import label

    for number, who in enumerate("PQR"):
        paint(tmp_path / "same" / f"{who}.png", "red", 4242 if who in "PQ" else number)
    ingest(bare_store, tmp_path / "same", encoder="fake:64", thumbnails=False)
    table = tmp_path / "labels.csv"
    table.write_text("path,label,patient\n" + "".join(f"{who}.png,{who},{who}\n" for who in "PQR"))
    label(bare_store, table, task="t", key="path", value="label", columns=["patient"])
    vector = np.ones(64)
    found = search(bare_store, vector, 3, by="patient", where="source = 'same'")
    assert sorted(str(hit.metadata["patient"]) for hit in found.hits) == ["P", "Q", "R"]
    # Items without a value count for themselves.
    assert len(search(bare_store, vector, 66, by="patient").hits) == 66


def test_pictures_of_many_queries_are_embedded_together(
    colour_store: Store, tmp_path: Path, paint: Paint, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        paint(path, "green", 9000 + number)
    alone = [search(colour_store, path, 4) for path in paths]
    opened: list[str] = []

    def opening(name: str, **options: Any) -> Encoder:
        opened.append(name)
        return open_encoder(name, **options)

    monkeypatch.setattr(importlib.import_module("vecstore.search"), "open_encoder", opening)
    many = search_many(colour_store, [paths[0], 5, *paths[1:], paths[0]], 4)
    assert len(opened) == 1
    assert [many[0].hits, *(one.hits for one in many[2:6])] == [one.hits for one in alone]
    assert many[6].hits == many[0].hits and many[0].query == str(paths[0])
    both = search(colour_store, paths[0], 4, unlike=[paths[1]])
    assert len(opened) == 2 and both.kind == "several"


def test_an_archive_is_no_query(colour_store: Store, tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "a.png", "red", 1)
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as file:
        file.write(tmp_path / "a.png", "a.png")
    with pytest.raises(PictureError, match=r"some\.zip is no picture, but a zip; expected one picture"):
        search(colour_store, tmp_path / "some.zip")


def test_the_picture_of_several_is_that_of_the_first(colour_store: Store) -> None:
    expected = search(colour_store, 40, 1, thumbnails=True).thumbnail
    assert expected is not None
    found = search(colour_store, [40, 20], 1, unlike=[2], thumbnails=True)
    assert found.thumbnail == expected


def test_a_text_is_a_query_by_itself(colour_store: Store) -> None:
    with pytest.raises(UsageError, match="a search needs one query"):
        search(colour_store, text="red", like=[3])
    for nothing in ("", "  "):
        with pytest.raises(UsageError, match="a search needs one query"):
            search(colour_store, text=nothing)


def test_a_list_that_was_written_elsewhere_is_read(colour_store: Store, tmp_path: Path) -> None:
    (tmp_path / "queries.txt").write_bytes(b"\xef\xbb\xbf1\r\n17\r\n")
    assert [one.hits for one in search_many(colour_store, tmp_path / "queries.txt", 3)] == [
        search(colour_store, item, 3).hits for item in (1, 17)
    ]


def test_by_and_unique_together_lose_nobody(bare_store: Store, tmp_path: Path, paint: Callable[..., None]) -> None:
    for name, seed in (("A", 1), ("B1", 1), ("B2", 2)):
        paint(tmp_path / "same" / f"{name}.png", "red", seed)
    ingest(bare_store, tmp_path / "same", encoder="fake:64", thumbnails=False)
    (tmp_path / "t.csv").write_text("path,label,patient\nA.png,x,A\nB1.png,y,B\nB2.png,y,B\n")
    label(bare_store, tmp_path / "t.csv", task="t", key="path", value="label", columns=["patient"])
    query = bare_store.vectors(bare_store.space(), bare_store.items().contents[-3:-2])[0]
    found = search(bare_store, query, 2, by="patient", unique=True, where="source = 'same'")
    # A by the shared picture, and B by its other one: two patients, two pictures.
    assert [hit.locator for hit in found.hits] == ["A.png", "B2.png"]
