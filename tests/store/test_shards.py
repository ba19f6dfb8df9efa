"""Shards: their format on disk, damage of every kind, and taking vectors out again."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vecstore.errors import DataError, NotFound, StoreDamaged
from vecstore.records import FloatArray
from vecstore.store import Store
from vecstore.store import shards as module
from vecstore.store.append import append
from vecstore.store.shards import ShardFile, cast_rows, check_vectors, iter_vectors, read_column, schema, write_shard

if TYPE_CHECKING:
    from tests.store.conftest import Kit


def unit(rows: int, dim: int, seed: int = 0) -> FloatArray:
    vectors = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def hashes_of(contents: np.ndarray[Any, Any]) -> list[bytes]:
    return [hashlib.md5(str(i).encode()).digest() for i in contents.tolist()]


def written(folder: Path, rows: int, dim: int, first: int = 1) -> tuple[Path, ShardFile]:
    contents = np.arange(first, first + rows)
    shard = write_shard(folder, contents, hashes_of(contents), unit(rows, dim).astype(np.float16))
    return folder / f"{shard.sha256.hex()}.parquet", shard


def read(path: Path, shard: ShardFile, dim: int) -> tuple[bytes, bytes, list[bytes]]:
    """Every byte of a shard's three columns."""
    blocks = [(i.tobytes(), v.tobytes()) for i, v in iter_vectors(path, dim, shard.rows, shard.bytes)]
    hashes = read_column(path, "hash", dim, shard.rows, shard.bytes).to_pylist()
    return b"".join(i for i, _ in blocks), b"".join(v for _, v in blocks), hashes


# The file


def test_the_file_is_plain_parquet_in_groups_of_8192(tmp_path: Path) -> None:
    path, shard = written(tmp_path, 20_000, 4)
    file = pq.ParquetFile(path)
    groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
    assert [group.num_rows for group in groups] == [8192, 8192, 3616]
    for group in groups:
        for column in (group.column(i) for i in range(3)):
            assert column.compression == "UNCOMPRESSED"
            assert column.dictionary_page_offset is None
            assert not column.is_stats_set
            assert set(column.encodings) <= {"PLAIN", "RLE"}
    kinds = [(c.name, c.physical_type, c.length, c.max_definition_level) for c in map(file.schema.column, range(3))]
    assert kinds == [
        ("content", "INT64", 0, 0),
        ("hash", "FIXED_LEN_BYTE_ARRAY", 16, 0),
        ("vector", "FIXED_LEN_BYTE_ARRAY", 8, 0),
    ]
    assert file.schema_arrow.equals(schema(4))
    assert (shard.first, shard.last, shard.rows, shard.bytes) == (1, 20_000, 20_000, path.stat().st_size)
    assert path.name == f"{hashlib.sha256(path.read_bytes()).hexdigest()}.parquet"


def test_rows_are_sorted_by_content_and_equal_input_is_an_equal_file(tmp_path: Path) -> None:
    contents = np.array([30, 10, 20])
    vectors = unit(3, 4).astype(np.float16)
    shard = write_shard(tmp_path, contents, hashes_of(contents), vectors)
    order = np.array([1, 2, 0])
    again = write_shard(tmp_path, contents[order], hashes_of(contents[order]), vectors[order])
    assert shard == again
    path = tmp_path / f"{shard.sha256.hex()}.parquet"
    expected = (np.array([10, 20, 30]).tobytes(), vectors[order].tobytes(), hashes_of(contents[order]))
    assert read(path, shard, 4) == expected
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("vectors", "reason"),
    [
        (np.ones((2, 4), np.float16), "2 of 2 vectors are not finite or not of unit length; expected unit vectors"),
        (np.full((2, 4), np.nan, np.float16), "2 of 2 vectors"),
        (np.array([[1, 0], [np.inf, 0]], np.float16), "1 of 2 vectors"),
        (np.array([[1, 0], [0, 0]], np.float16), "1 of 2 vectors"),
        (np.array([[1, 0]], np.float16), "2 contents, 2 hashes and 1 vectors; expected as many of each"),
    ],
)
def test_what_is_not_a_unit_vector_is_refused(tmp_path: Path, vectors: Any, reason: str) -> None:
    contents = np.array([1, 2])
    with pytest.raises(DataError, match=reason):
        write_shard(tmp_path / "s", contents, hashes_of(contents), vectors)
    assert not (tmp_path / "s").exists()


def test_wrong_hashes_and_repeated_contents_are_refused(tmp_path: Path) -> None:
    vectors = unit(2, 4).astype(np.float16)
    with pytest.raises(DataError, match="hashes of 16 bytes"):
        write_shard(tmp_path, np.array([1, 2]), [b"short", b"x" * 16], vectors)
    with pytest.raises(DataError, match="a content twice in one shard"):
        write_shard(tmp_path, np.array([7, 7]), hashes_of(np.array([7, 7])), vectors)
    with pytest.raises(DataError, match="at least one"):
        write_shard(tmp_path, np.array([], np.int64), [], vectors[:0])
    assert list(tmp_path.iterdir()) == []


def test_only_finite_rows_of_unit_length_are_good() -> None:
    rows = [[1.0, 0.0], [0.6, 0.8], [0.6, 0.81], [np.nan, 1.0], [np.inf, 0.0], [0.0, 0.0]]
    assert check_vectors(np.array(rows, np.float32)).tolist() == [True, True, False, False, False, False]


def test_the_cast_is_exact_for_every_finite_float16() -> None:
    every = np.arange(65536, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)].reshape(-1, 8)
    assert finite.size == 63488
    target = np.empty(finite.shape, np.float32)
    cast_rows(finite, target)
    assert target.tobytes() == finite.astype(np.float32).tobytes()


def test_writing_and_reading_does_not_import_pandas(tmp_path: Path) -> None:
    script = f"""
import sys, numpy as np
from pathlib import Path
from vecstore.store import shards
shard = shards.write_shard(Path({str(tmp_path)!r}), np.array([1]), [b"x" * 16], np.array([[1, 0]], np.float16))
path = Path({str(tmp_path)!r}) / f"{{shard.sha256.hex()}}.parquet"
assert [i.tolist() for i, _ in shards.iter_vectors(path, 2, 1, shard.bytes)] == [[1]]
assert shards.read_contents(path, 2, 1, shard.bytes).tolist() == [1]
sys.exit("pandas" in sys.modules)
"""
    root = str(Path(__file__).resolve().parents[2])
    assert subprocess.run([sys.executable, "-c", script], env={"PYTHONPATH": root}).returncode == 0


# Damage


def test_any_flipped_byte_is_found_or_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page checksums do not cover headers and footer; order and number of rows do the rest."""
    monkeypatch.setattr(module, "ROW_GROUP", 20)
    path, shard = written(tmp_path, 60, 8)
    data = path.read_bytes()
    expected = read(path, shard, 8)
    hit = tmp_path / "hit.parquet"
    found = 0
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= (0x01, 0x08, 0x80, 0xFF)[position % 4]
        hit.write_bytes(changed)
        try:
            assert read(hit, shard, 8) == expected, f"byte {position} was not noticed"
        except StoreDamaged:
            found += 1
    assert found > 0.7 * len(data)


def test_damage_has_an_exit_code_of_its_own() -> None:
    assert StoreDamaged("x").exit_code == 4


def test_a_flip_in_any_page_of_any_column_names_the_file(tmp_path: Path) -> None:
    path, shard = written(tmp_path, 9000, 128)
    data = path.read_bytes()
    metadata = pq.ParquetFile(path).metadata
    hit = tmp_path / "hit.parquet"
    positions = []
    for group in range(metadata.num_row_groups):
        for column in range(3):
            chunk = metadata.row_group(group).column(column)
            end = chunk.data_page_offset + chunk.total_compressed_size
            positions += np.linspace(chunk.data_page_offset + 64, end - 1, 8).astype(int).tolist()
    assert len(positions) == 48
    for position in positions:
        changed = bytearray(data)
        changed[position] ^= 1
        hit.write_bytes(changed)
        with pytest.raises(StoreDamaged, match=r"hit\.parquet can't be read: .*; expected pages that agree .*restore"):
            read(hit, shard, 128)


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, 0.99, -8, -1])
def test_a_truncated_shard_is_refused(tmp_path: Path, keep: float) -> None:
    path, shard = written(tmp_path, 100, 8)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if 0 < keep < 1 else int(keep)])
    with pytest.raises(StoreDamaged, match=rf"has \d+ bytes; expected {len(data)}; restore it from a copy"):
        read(path, shard, 8)


def test_another_file_in_place_of_a_shard_is_refused(tmp_path: Path) -> None:
    path, shard = written(tmp_path / "a", 100, 8)
    wider, _ = written(tmp_path / "b", 100, 16)
    longer, _ = written(tmp_path / "c", 200, 8)
    table = pa.table({"content": [1], "vector": [b"x"]})
    pq.write_table(table, tmp_path / "alien.parquet")
    for other in (wider, longer, tmp_path / "alien.parquet"):
        data = other.read_bytes()
        other.write_bytes(data)
        with pytest.raises(StoreDamaged, match="is not what the catalog says; expected 100 rows, 8 dimensions"):
            list(iter_vectors(other, 8, shard.rows, len(data)))
    path.unlink()
    with pytest.raises(StoreDamaged, match="is missing; expected a shard of 100 vectors; restore"):
        read(path, shard, 8)


def test_rows_out_of_order_are_refused(tmp_path: Path) -> None:
    columns = [pa.array([2, 1], pa.int64()), pa.array([b"x" * 16] * 2, pa.binary(16))]
    table = pa.Table.from_arrays([*columns, pa.array([b"12345678"] * 2, pa.binary(8))], schema=schema(4))
    pq.write_table(table, tmp_path / "x.parquet", store_schema=False)
    size = (tmp_path / "x.parquet").stat().st_size
    with pytest.raises(StoreDamaged, match="rows that are out of order"):
        list(iter_vectors(tmp_path / "x.parquet", 4, 2, size))


def test_a_folder_in_place_of_a_shard_is_damage(store: Store, kit: Kit) -> None:
    kit.add(store, ["a"])
    (shard,) = (store.path / "shards").glob("1/*")
    shard.unlink()
    shard.mkdir()
    with pytest.raises(StoreDamaged, match="restore it from a copy"):
        store.vectors(store.space(), np.array([1]))


# Through the store


def test_vectors_come_in_any_order_with_repetitions(store: Store, kit: Kit) -> None:
    names = [f"{i}" for i in range(50)]
    for start in range(0, 50, 20):
        kit.add(store, names[start : start + 20])
    space = store.space()
    items = store.items()
    asked = np.random.default_rng(0).integers(0, 50, 200)
    vectors = store.vectors(space, items.contents[asked])
    expected = np.stack([kit.vector(kit.hash(items.locators[i])).astype(np.float16) for i in asked])
    assert vectors.dtype == np.float32
    assert vectors.tobytes() == expected.astype(np.float32).tobytes()
    assert store.vectors(space, items.contents[:0]).shape == (0, 16)
    assert store.embedded(space).tolist() == list(range(1, 51))


def test_a_content_without_vector_is_named_with_the_way_to_get_it(store: Store, kit: Kit) -> None:
    kit.add(store, ["a"])
    with pytest.raises(NotFound, match=r"2 of 3 contents have no vector in the space 'fake'.*--encoder fake:fake"):
        store.vectors(store.space(), np.array([5, 1, 0]))


def test_of_two_vectors_of_a_content_the_lowest_shard_counts(store: Store, kit: Kit) -> None:
    kit.add(store, ["a", "b"])
    space = store.space()
    batch = kit.batch([space], ["a", "b", "c"])
    hashes, vectors = batch.vectors[space.id]
    batch.vectors[space.id] = (hashes, np.roll(vectors, 1, axis=1))
    append(store, batch, {space.id: space}, {})
    assert [(shard.rows, shard.first, shard.last) for shard in store.shards(space)] == [(2, 1, 2), (3, 1, 3)]
    found = store.vectors(space, np.array([1, 2, 3]))
    mine = np.stack([kit.vector(kit.hash(name)) for name in "abc"]).astype(np.float16)
    assert found[:2].tobytes() == mine[:2].astype(np.float32).tobytes()
    assert found[2].tobytes() == np.roll(mine[2], 1).astype(np.float32).tobytes()
    assert store.embedded(space).tolist() == [1, 2, 3]


def test_vectors_of_another_length_cannot_enter_a_space(store: Store, kit: Kit) -> None:
    space = store.space()
    batch = kit.batch([space], ["a"])
    batch.vectors[space.id] = (batch.vectors[space.id][0], unit(1, 8).astype(np.float16))
    with pytest.raises(DataError, match=r"vectors of shape \(1, 8\) for the space 'fake'; expected rows of 16 numbers"):
        append(store, batch, {space.id: space}, {})
    assert list(store.path.glob("shards/*/*")) == []


def test_a_refused_batch_leaves_no_file(store: Store, kit: Kit) -> None:
    space = store.space()
    batch = kit.batch([space], ["a"], metadata=lambda _: {f"c{i}": 1 for i in range(1001)})
    with pytest.raises(DataError):
        append(store, batch, {space.id: space}, {})
    assert list(store.path.glob("shards/*/*")) == []
    assert store.items().locators == []


def test_a_damaged_shard_is_not_read_by_the_store(store: Store, kit: Kit) -> None:
    kit.add(store, ["a", "b"])
    (shard,) = store.path.glob("shards/1/*")
    data = bytearray(shard.read_bytes())
    position = bytes(data).index(kit.vector(kit.hash("b")).astype(np.float16).tobytes())
    data[position + 3] ^= 4
    shard.write_bytes(data)
    with pytest.raises(StoreDamaged, match="can't be read"):
        store.vectors(store.space(), np.array([1]))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    batches=st.lists(st.lists(st.integers(0, 30), max_size=8, unique=True), min_size=1, max_size=4),
    asked=st.lists(st.integers(0, 30), max_size=20),
)
def test_what_goes_in_comes_out(kit: Kit, batches: list[list[int]], asked: list[int]) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        with kit.create(folder / "a.vecs") as store:
            for batch in batches:
                kit.add(store, [str(i) for i in batch])
            there = {name for batch in batches for name in batch}
            space = store.space()
            known = dict(zip(store.items().locators, store.items().contents.tolist(), strict=True))
            assert sorted(known) == sorted(map(str, there))
            contents = np.array([known[str(i)] for i in asked if i in there], np.int64)
            vectors = store.vectors(space, contents)
            expected = [kit.vector(kit.hash(str(i))).astype(np.float16) for i in asked if i in there]
            assert vectors.astype(np.float16).tobytes() == b"".join(v.tobytes() for v in expected)
            kit.check(store.path)
    finally:
        shutil.rmtree(folder)
