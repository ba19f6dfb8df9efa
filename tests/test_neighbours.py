"""Search: the answer is that of an exact search over the snapshot, whatever the index is worth."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vecstore.encoders import open_encoder
from vecstore.errors import (
    Ambiguous,
    EncoderError,
    NotFound,
    PictureError,
    PredicateRefused,
    SpaceMismatch,
    UsageError,
)
from vecstore.index.base import Index
from vecstore.ingest import ingest
from vecstore.neighbours import searcher
from vecstore.records import FloatArray, Hit
from vecstore.search import SearchResult, search
from vecstore.store import Store

Paint = Callable[[Path, str, int], None]


def _unit(rows: FloatArray) -> FloatArray:
    unit: FloatArray = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    return unit


def _vectors(store: Store) -> dict[int, FloatArray]:
    items = store.items()
    rows = _unit(store.vectors(store.space(), items.contents))
    return dict(zip(items.ids.tolist(), rows, strict=True))


def _expected(store: Store, query: FloatArray, may: set[int], k: int) -> list[int]:
    """Item ids by cosine (rounded as float32 is), then id: said once more in plain Python."""
    scored = [(-round(float(row @ query), 6), item) for item, row in _vectors(store).items() if item in may]
    return [item for _, item in sorted(scored)[:k]]


def _ids(result: SearchResult) -> list[int]:
    return [hit.item_id for hit in result.hits]


def _patients(store: Store) -> dict[int, Any]:
    return store.column("patient")


def _more(store: Store, root: Path, paint: Paint, count: int, name: str = "more") -> list[int]:
    """Ingest new pictures; their ids."""
    before = set(store.items().ids.tolist())
    for number in range(count):
        paint(root / name / f"{number}.png", "green", 7000 + number)
    ingest(store, root / name, encoder="fake:64", thumbnails=False)
    return sorted(set(store.items().ids.tolist()) - before)


# Against brute force


@pytest.mark.parametrize("k", [1, 7, 60])
def test_hits_are_those_of_brute_force(colour_store: Store, k: int) -> None:
    patients, vectors = _patients(colour_store), _vectors(colour_store)
    for item in (1, 17, 63):
        may = {other for other in vectors if patients[other] != patients[item]}
        result = search(colour_store, item, k)
        assert _ids(result) == _expected(colour_store, vectors[item], may, k)
        assert [hit.rank for hit in result.hits] == list(range(1, k + 1))
        scores = [hit.score for hit in result.hits]
        assert scores == sorted(scores, reverse=True) and all(-1 <= score <= 1 for score in scores)
        exact = [float(vectors[hit.item_id] @ vectors[item]) for hit in result.hits]
        np.testing.assert_allclose(scores, exact, atol=1e-6)
        assert (result.kind, result.exact, result.pixels_read, result.searched) == ("item", True, 0, 60)


def test_the_query_and_its_group_are_left_out_unless_asked_for(colour_store: Store) -> None:
    patients = _patients(colour_store)
    left_out = search(colour_store, 5, 60)
    assert (left_out.group_column, left_out.excluded) == ("patient", 3)
    assert patients[5] not in {patients[item] for item in _ids(left_out)}
    whole = search(colour_store, 5, 63, include_own=True)
    assert _ids(whole)[0] == 5 and whole.hits[0].score == pytest.approx(1, abs=1e-6)
    assert (whole.excluded, whole.group_column, whole.searched) == (0, None, 63)
    alone = search(colour_store, 5, 62, group="none")
    assert (alone.excluded, len(alone.hits), 5 in _ids(alone)) == (1, 62, False)
    by_sex = search(colour_store, 5, 10, group="SEX")
    sexes = colour_store.column("sex")
    assert by_sex.group_column == "sex" and by_sex.excluded == sum(sex == sexes[5] for sex in sexes.values())
    assert {hit.metadata["sex"] for hit in by_sex.hits} == {"F", "M"} - {sexes[5]}


def test_filters_fill_k_where_they_can_and_say_where_they_can_not(colour_store: Store) -> None:
    ages, patients, vectors = colour_store.column("age"), _patients(colour_store), _vectors(colour_store)
    may = {i for i in vectors if ages[i] >= 50 and patients[i] != patients[1]}  # type: ignore[operator]
    full = search(colour_store, 1, 20, where="age >= 50")
    assert _ids(full) == _expected(colour_store, vectors[1], may, 20) and full.notes == []
    few = search(colour_store, 1, 20, where="age = 45")
    assert len(few.hits) == 3 and few.notes == ["3 of 20: no more items fit"] and few.searched == 3
    none = search(colour_store, 1, 20, where="age = 45 and sex = 'X'")
    assert none.hits == [] and none.notes == ["0 of 20: no more items fit"]
    by_label = search(colour_store, 1, 10, where="colour = 'blue'")
    assert {hit.labels["colour"] for hit in by_label.hits} == {"blue"}
    suspicious = search(colour_store, 1, 3, where="patient > 5")
    assert suspicious.notes[0] == "a text column is compared with a number: patient > 5"
    with pytest.raises(PredicateRefused, match="there is no column weight"):
        search(colour_store, 1, 3, where="weight > 5")


def test_equal_scores_are_ordered_by_item_id(bare_store: Store, tmp_path: Path, paint: Paint) -> None:
    # Many items of one content, more than k, and the first of them with the highest ids of all.
    for number in range(12):
        paint(tmp_path / "same" / f"{number}.png", "red", 4242)
    paint(tmp_path / "same" / "query.png", "red", 4243)
    ingest(bare_store, tmp_path / "same", encoder="fake:64", thumbnails=False)
    same = sorted(set(bare_store.items().ids.tolist()) - set(range(1, 64)))
    query = int(same[-1])
    result = search(bare_store, query, 5, where="source = 'same'")
    assert _ids(result) == same[:5] and len({hit.score for hit in result.hits}) == 1
    assert _ids(search(bare_store, same[3], 4, include_own=True)) == same[:4]


def test_identical_pictures_are_the_query_itself(bare_store: Store, tmp_path: Path, paint: Paint) -> None:
    for number in range(3):
        paint(tmp_path / "same" / f"{number}.png", "red", 4242)
    ingest(bare_store, tmp_path / "same", encoder="fake:64", thumbnails=False)
    result = search(bare_store, 64, 60)
    assert result.excluded == 3 and not {64, 65, 66} & set(_ids(result))


@pytest.mark.parametrize(
    ("k", "fact"), [(64, "k = 64 is more than the 63 items of the store"), (0, "k = 0"), (-1, "k = -1")]
)
def test_k_is_from_one_to_the_number_of_items(bare_store: Store, k: int, fact: str) -> None:
    with pytest.raises(UsageError) as caught:
        search(bare_store, 1, k)
    assert caught.value.fact == fact and caught.value.exit_code == 2


def test_fewer_items_than_the_default_are_all_found(tmp_path: Path, paint: Paint) -> None:
    for number in range(4):
        paint(tmp_path / "few" / f"{number}.png", "red", number)
    with Store.create(tmp_path / "few.vecs") as store:
        ingest(store, tmp_path / "few", encoder="fake:64", thumbnails=False)
        assert sorted(_ids(search(store, 1, include_own=True))) == [1, 2, 3, 4]
        with pytest.raises(UsageError, match="k = 10 is more than the 4 items"):
            search(store, 1, 10)


def test_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    with Store.create(tmp_path / "empty.vecs") as store, pytest.raises(NotFound, match="holds no vectors yet"):
        search(store, 1)


# What the store has become since the index was built


def _index_folder(store: Store) -> Path:
    return store.path / "indexes" / str(store.space().id)


def _built(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the indexes that are built from here on."""
    from vecstore.index.exact import ExactIndex

    sizes: list[int] = []
    build = ExactIndex.build.__func__  # type: ignore[attr-defined]

    def counting(cls: type[Index], ids: Any, vectors: Any) -> Index:
        sizes.append(len(ids))
        built: Index = build(cls, ids, vectors)
        return built

    monkeypatch.setattr(ExactIndex, "build", classmethod(counting))
    return sizes


def test_new_vectors_are_found_at_once_beside_the_saved_index(
    bare_store: Store, tmp_path: Path, paint: Paint, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = _built(monkeypatch)
    search(bare_store, 1, 5)
    search(bare_store, 2, 5)
    assert sizes == [63]
    new = _more(bare_store, tmp_path, paint, 4)
    vectors = _vectors(bare_store)
    for item in (1, new[0], new[3]):
        assert _ids(search(bare_store, item, 66)) == _expected(bare_store, vectors[item], set(vectors) - {item}, 66)
    assert sizes == [63, 4]  # the tail, once for the snapshot
    _more(bare_store, tmp_path, paint, 20, "many")
    search(bare_store, 1, 5)
    search(bare_store, 1, 5)
    assert sizes == [63, 4, 83]  # more than a tenth is new: built again (four pictures were known)


def test_changed_and_broken_pictures_are_never_found(tmp_path: Path, paint: Paint) -> None:
    for number in range(8):
        paint(tmp_path / "a" / f"{number}.png", "red", number)
    with Store.create(tmp_path / "s.vecs") as store:
        ingest(store, tmp_path / "a", encoder="fake:64", thumbnails=False)
        old = store.vectors(store.space(), store.items().contents)
        search(store, 1, 7)
        paint(tmp_path / "a" / "0.png", "blue", 99)
        (tmp_path / "a" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
        assert ingest(store, tmp_path / "a", encoder="fake:64", thumbnails=False).failed == 1
        assert 2 not in store.items().ids
        for query in old[:2]:
            result = search(store, query, 7)
            assert sorted(_ids(result)) == [1, 3, 4, 5, 6, 7, 8]
            # What the item was is not found any more: the score is that of what it is.
            now = _vectors(store)
            scores = {hit.item_id: hit.score for hit in result.hits}
            assert scores[1] == pytest.approx(float(now[1] @ _unit(query[None])[0]), abs=1e-6)
        with pytest.raises(NotFound, match="the store has no item 2; expected the id of an item with a picture"):
            search(store, 2, 3)


def test_an_earlier_commit_is_searched_as_it_was(bare_store: Store, tmp_path: Path, paint: Paint) -> None:
    then, hits = bare_store.commit, search(bare_store, 1, 62).hits
    _more(bare_store, tmp_path, paint, 30)
    search(bare_store, 1, 5)
    index = _index_folder(bare_store).joinpath("index.json").read_bytes()
    with Store(bare_store.path, at=then) as before:
        assert search(before, 1, 62).hits == hits and search(before, 1, 5).commit == then
        with pytest.raises(UsageError, match="more than the 63 items"):
            search(before, 1, 64)
    assert _index_folder(bare_store).joinpath("index.json").read_bytes() == index  # not replaced by an older one


def _break(folder: Path, how: str, other: Path) -> None:
    (index,), facts = folder.glob("index-*.rows"), folder / "index.json"
    data = bytearray(index.read_bytes())
    if how == "bit flipped":
        data[len(data) // 2] ^= 1
        index.write_bytes(data)
    elif how == "truncated":
        index.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        index.write_bytes(b"")
    elif how == "no json":
        facts.unlink()
    elif how == "json torn":
        facts.write_text(facts.read_text()[:50])
    elif how == "json edited":
        facts.write_text(facts.read_text().replace('"n":63', '"n":62'))
    elif how == "foreign":
        shutil.copytree(other, folder, dirs_exist_ok=True)
    elif how == "digest forged":
        data[-200] ^= 64
        index.write_bytes(data)
        told = json.loads(facts.read_text())
        told["files"]["rows"]["sha256"] = hashlib.sha256(data).hexdigest()
        facts.write_text(json.dumps(told))
    else:
        shutil.rmtree(folder.parent)
        folder.parent.write_bytes(b"a file where the folder was")


@pytest.mark.parametrize(
    "how",
    [
        "bit flipped",
        "truncated",
        "empty",
        "no json",
        "json torn",
        "json edited",
        "foreign",
        "digest forged",
        "no folder",
    ],
)
def test_an_index_that_is_not_what_was_saved_is_built_again(
    bare_store: Store, tmp_path: Path, paint: Paint, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = search(bare_store, 1, 62).hits
    for number in range(63):
        paint(tmp_path / "other" / f"{number}.png", "blue", 8000 + number)
    with Store.create(tmp_path / "other.vecs") as other:
        ingest(other, tmp_path / "other", encoder="fake:64", thumbnails=False)
        search(other, 1, 5)
        _break(_index_folder(bare_store), how, _index_folder(other))
    sizes = _built(monkeypatch)
    assert search(bare_store, 1, 62).hits == expected  # this handle has what it checked when it read it
    assert sizes == []
    assert search(bare_store.path, 1, 62).hits == expected
    assert sizes == [63]
    assert search(bare_store.path, 1, 62).hits == expected
    assert len(sizes) == (2 if how == "no folder" else 1)  # a cache that can't be kept costs time only


def test_a_saved_index_can_be_opened_any_number_of_times(bare_store: Store) -> None:
    # Taking the flat index out of faiss's hands dropped references to its classes: a crash after a few.
    expected = search(bare_store, 1, 5).hits
    for _ in range(40):
        assert search(bare_store.path, 1, 5).hits == expected


def test_one_searcher_answers_many_queries(bare_store: Store) -> None:
    engine, vectors = searcher(bare_store, bare_store.space()), _vectors(bare_store)
    queries = np.stack([vectors[item] for item in (3, 30)]).astype(np.float32)
    found = engine.find(queries, 5, excluded=[[3], [30, 999]])
    for item, hits in zip((3, 30), found, strict=True):
        assert [hit.item for hit in hits] == _expected(bare_store, vectors[item], set(vectors) - {item}, 5)
    assert engine.find(queries, 5, allowed=np.zeros(63, np.bool_)) == [[], []]


def test_a_space_without_vectors_finds_nothing(bare_store: Store) -> None:
    bare_store.add_space("other", open_encoder("fake:16").passport, {})
    result = search(bare_store, np.ones(16, np.float32), 3, space="other")
    assert result.hits == [] and result.notes == ["0 of 3: no more items fit"] and result.searched == 0
    with pytest.raises(NotFound, match="1 of 1 contents have no vector in the space 'other'"):
        search(bare_store, 1, 3, space="other")
    with pytest.raises(Ambiguous, match="has 2 spaces"):
        search(bare_store, 1, 3)


# Queries


def _same(a: list[Hit], b: list[Hit]) -> None:
    assert [hit.item_id for hit in a] == [hit.item_id for hit in b]
    np.testing.assert_allclose([hit.score for hit in a], [hit.score for hit in b], atol=1e-6)


def test_a_query_may_be_an_id_a_locator_a_picture_or_a_vector(
    colour_store: Store, colour_archive: Path, tmp_path: Path
) -> None:
    items = colour_store.items()
    locator = items.locators[4]
    by_id = search(colour_store, 5, 10)
    assert search(colour_store, "5", 10).hits == search(colour_store, np.int64(5), 10).hits == by_id.hits
    assert by_id.query == f"colours: {locator}"
    assert search(colour_store, locator, 10).hits == by_id.hits
    by_picture = search(colour_store, colour_archive / locator, 10, thumbnails=True)
    _same(by_picture.hits, by_id.hits)  # its pixels are in the store: its own group is left out
    assert (by_picture.kind, by_picture.excluded, by_picture.group_column) == ("picture", 3, "patient")
    assert by_picture.pixels_read == 1 and by_picture.thumbnail is not None and by_picture.thumbnail[:2] == b"\xff\xd8"
    vector = colour_store.vectors(colour_store.space(), items.contents[4:5])[0]
    np.save(tmp_path / "q.npy", vector)
    np.save(tmp_path / "q2.npy", 17.0 * vector[None].astype(np.float64))
    by_array = search(colour_store, vector, 10)
    assert (by_array.kind, by_array.excluded, _ids(by_array)[0]) == ("vector", 0, 5)
    for name in ("q.npy", "q2.npy"):
        _same(search(colour_store, str(tmp_path / name), 10).hits, by_array.hits)


def test_a_new_picture_has_no_group_of_its_own(colour_store: Store, tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "new.png", "red", 31337)
    result = search(colour_store, tmp_path / "new.png", 63)
    assert (result.excluded, result.searched, result.pixels_read) == (0, 63, 1)
    encoder = open_encoder("fake:64")
    picture = np.asarray(Image.open(tmp_path / "new.png"))
    query = _unit(encoder.encode([encoder.prepare(picture)]))[0]
    best = _expected(colour_store, query, set(_vectors(colour_store)), 5)
    assert _ids(result)[0] == best[0] and set(_ids(result)[:8]) >= set(best)


def test_a_hit_tells_metadata_and_labels(colour_store: Store) -> None:
    hit = search(colour_store, 1, 1).hits[0]
    patient = _patients(colour_store)[hit.item_id]
    colour = hit.locator.partition("/")[2].partition("_")[0]
    assert hit.metadata["patient"] == patient and set(hit.metadata) == {"patient", "age", "sex"}
    assert hit.labels == {"colour": colour} and hit.source == "colours"


def test_a_locator_in_two_archives_is_asked_for_by_id(bare_store: Store, tmp_path: Path, paint: Paint) -> None:
    name = bare_store.items().locators[0]
    paint(tmp_path / "other" / name, "red", 1)
    ingest(bare_store, tmp_path / "other", encoder="fake:64", thumbnails=False)
    with pytest.raises(Ambiguous) as caught:
        search(bare_store, name, 3)
    assert f"{name} fits 2 items: 1 (colours: {name}), 64 (other: {name})" in caught.value.fact
    assert caught.value.do == "give the item id"


@pytest.mark.parametrize("query", ["nothing.png", "x" * 5000, "a\x00b", "²", "999", 999, -1])
def test_an_unknown_query_says_what_a_query_is(bare_store: Store, query: str | int) -> None:
    with pytest.raises(NotFound) as caught:
        search(bare_store, query, 3)
    assert caught.value.exit_code == 2 and caught.value.expected
    if not str(query).lstrip("-").isascii() or not str(query).lstrip("-").isdigit():
        assert caught.value.expected == "a picture, a .npy file, an item id or a locator"


def test_one_query_at_a_time(bare_store: Store) -> None:
    for arguments in ({}, {"query": 1, "text": "red"}):
        with pytest.raises(UsageError, match="a search needs one query; expected an item id, a picture"):
            search(bare_store, **arguments)  # type: ignore[arg-type]


def test_a_text_needs_a_space_with_a_text_tower(bare_store: Store) -> None:
    with pytest.raises(
        EncoderError, match="the encoder fake:64 has no text tower; expected a space made by an open_clip encoder"
    ):
        search(bare_store, text="a red square")


@pytest.mark.parametrize(
    "vector", [np.ones(63), np.ones((8, 8)), np.zeros(64), np.full(64, np.nan), np.ones((2, 64)), np.ones(())]
)
def test_a_vector_of_another_shape_or_without_direction_is_refused(bare_store: Store, vector: FloatArray) -> None:
    with pytest.raises(SpaceMismatch, match=r"expected \(64,\), finite: the space fake-64"):
        search(bare_store, vector, 3)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY nonsense", b"text"])
def test_a_vector_file_that_is_none_is_refused(bare_store: Store, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "q.npy").write_bytes(content)
    with pytest.raises(UsageError, match=r"q\.npy: .*expected a \.npy file with one vector"):
        search(bare_store, tmp_path / "q.npy", 3)


def test_a_pickle_in_a_vector_file_is_not_run(bare_store: Store, tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UsageError, match="allow_pickle=False"):
        search(bare_store, tmp_path / "q.npy", 3)


def test_a_picture_that_is_none_and_another_encoder_are_refused(
    bare_store: Store, tmp_path: Path, paint: Paint
) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n no more")
    with pytest.raises(PictureError) as caught:
        search(bare_store, tmp_path / "bad.png", 3)
    assert str(tmp_path / "bad.png") in caught.value.fact and caught.value.exit_code == 1
    paint(tmp_path / "new.png", "red", 1)
    with pytest.raises(SpaceMismatch) as mismatch:
        search(bare_store, tmp_path / "new.png", 3, encoder="fake:24")
    fingerprints = [bare_store.space().fingerprint.hex()[:12], open_encoder("fake:24").passport.fingerprint.hex()[:12]]
    assert all(text in mismatch.value.fact for text in fingerprints) and mismatch.value.do


# Real pictures


def test_real_neighbours_are_those_of_brute_force(shared: Path, shared_store: Callable[[str], Store]) -> None:
    store = shared_store("derm_ham10000/images.zip")
    vectors = _vectors(store)
    twins = dict(zip(store.items().locators, store.items().ids.tolist(), strict=True))
    for name, twin in (("ISIC_0024366.jpg", "ISIC_0029861.jpg"), ("ISIC_0024777.jpg", "ISIC_0029938.jpg")):
        result = search(store, name, 25)
        may = set(vectors) - {twins[name], twins[twin]}
        assert _ids(result) == _expected(store, vectors[twins[name]], may, 25)
        assert [hit.item_id for hit in search(store, name, 2, include_own=True).hits] == sorted(
            (twins[name], twins[twin])
        )


def test_the_end_of_a_locator_will_do_where_it_names_one_item(bare_store: Store) -> None:
    locator = bare_store.items().locators[0]
    assert search(bare_store, locator.rpartition("/")[2], k=2).query == f"colours: {locator}"
