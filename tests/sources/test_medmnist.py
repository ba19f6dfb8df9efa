"""MedMNIST files: images one at a time, labels as a task."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vecstore.errors import ArchiveError, PictureError
from vecstore.sources import open_source
from vecstore.sources import window as window_module

BREAST = {"train": 546, "val": 78, "test": 156}


def save(path: Path, **arrays: Any) -> Path:
    """An .npz of these arrays."""
    np.savez_compressed(path, **arrays)
    return path


def sound(n: int = 3, **changes: Any) -> dict[str, Any]:
    """Arrays as a MedMNIST file has them, some changed."""
    return {"train_images": np.zeros((n, 4, 5), np.uint8), "train_labels": np.arange(n)[:, None]} | changes


@pytest.mark.parametrize("name", ["breastmnist", "breastmnist_resaved", "retinamnist"])
def test_images_are_those_of_the_arrays(shared: Path, name: str) -> None:
    path = shared / "medmnist" / f"{name}.npz"
    source = open_source(path)
    assert (source.kind, source.name) == ("medmnist", name)
    raws = list(source.list())
    with np.load(path) as arrays:
        expected = [image for split in BREAST for image in arrays[f"{split}_images"]]
        shape = arrays["train_images"].shape[1:]
    assert len(raws) == len(expected)
    assert all(np.array_equal(raw.read(), image) for raw, image in zip(raws, expected, strict=True))
    assert {raw.size for raw in raws} == {int(np.prod(shape))}
    assert {raw.mtime_ns for raw in raws} == {path.stat().st_mtime_ns}
    image = raws[0].read()
    assert isinstance(image, np.ndarray)
    assert image.flags.writeable


def test_the_documented_twin_is_found_by_its_locator(shared: Path) -> None:
    source = open_source(shared / "medmnist" / "breastmnist.npz")
    wanted = ["train/00115", "test/00076", "train/99999", "train/115", "nowhere/00001", "train/000115"]
    found = {raw.locator: raw.read() for raw in source.find(wanted)}
    assert found.keys() == {"train/00115", "test/00076"}
    assert np.array_equal(found["train/00115"], found["test/00076"])


def test_labels_are_a_task_with_its_split(shared: Path) -> None:
    tables = {}
    for name in ("breastmnist", "breastmnist_resaved", "retinamnist"):
        source = open_source(shared / "medmnist" / f"{name}.npz")
        table = source.labels()
        assert table is not None
        assert list(table.locators) == [raw.locator for raw in source.list()]
        tables[name] = table
    breast = tables["breastmnist"]
    assert (breast.task, breast.kind, list(breast.classes)) == ("breastmnist", "binary", ["0", "1"])
    assert {split: list(breast.splits).count(split) for split in BREAST} == BREAST  # type: ignore[arg-type]
    at = list(breast.locators).index
    assert (breast.values[at("train/00115")], breast.values[at("test/00076")]) == (("0",), ("1",))
    flat = tables["breastmnist_resaved"]
    assert (flat.values, flat.splits) == (breast.values, breast.splits)
    retina = tables["retinamnist"]
    assert (retina.kind, list(retina.classes)) == ("multi-class", ["0", "1", "2", "3", "4"])
    assert [sum(v == (c,) for v in retina.values) for c in "01234"] == [714, 186, 326, 282, 92]


def test_several_columns_are_several_labels(tmp_path: Path) -> None:
    labels = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0]], np.uint8)
    table = open_source(save(tmp_path / "chestmnist_224.npz", **sound(train_labels=labels))).labels()
    assert table is not None
    assert (table.task, table.kind, list(table.classes)) == ("chestmnist", "multi-label", ["0", "1", "2"])
    assert list(table.values) == [("1", "2"), (), ("0",)]


def test_a_file_with_some_of_the_splits_is_enough(tmp_path: Path) -> None:
    source = open_source(save(tmp_path / "x.npz", **sound(), val_images=np.zeros((2, 4, 5), np.uint8)))
    assert [raw.locator for raw in source.list()] == ["train/00000", "train/00001", "train/00002"]


def test_images_are_not_unpacked_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 255, (400, 128, 128), np.uint8)
    path = save(tmp_path / "x.npz", **sound(400, train_images=images))
    read = []
    original = window_module.Window._next

    def counted(self: window_module.Window) -> bytes:
        read.append(1)
        return original(self)

    monkeypatch.setattr(window_module.Window, "_next", counted)
    raws = list(open_source(path).list())
    assert read == []
    assert np.array_equal(raws[0].read(), images[0])
    assert len(read) == 1  # one of seven mebibytes
    random.Random(1).shuffle(raws)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda raw: np.array_equal(raw.read(), images[int(raw.locator[6:])]), raws))


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"x": np.zeros(3), "y": np.zeros(3)}, "not a MedMNIST file; it holds x, y; expected train_images"),
        (sound(train_images=np.zeros((3, 9, 9, 9), np.uint8)), "expected 2-D images"),
        (sound(train_images=np.array([None] * 3)), "train_images of shape (3,) and type object"),
        (sound(train_labels=np.zeros((2, 1), np.int64)), "train_labels of shape (2, 1) and type int64 for 3"),
        (sound(train_labels=np.zeros((3, 1))), "type float64 for 3 images; expected whole numbers"),
        (sound(train_labels=np.array([[None]] * 3)), "train_labels can't be read: Object arrays"),
        (sound(test_images=np.zeros((1, 4, 5), np.uint8), test_labels=np.zeros((1, 2), int)), "different widths"),
    ],
)
def test_other_files_are_refused_with_what_they_hold(tmp_path: Path, arrays: dict[str, Any], reason: str) -> None:
    source = open_source(save(tmp_path / "x.npz", **arrays))
    with pytest.raises(ArchiveError) as refused:
        list(source.list()) and source.labels()
    assert reason in str(refused.value)


def test_a_file_that_is_no_npz_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"nothing")
    with pytest.raises(ArchiveError, match=r"x\.npz: damaged: .*; expected an \.npz file"):
        list(open_source(tmp_path / "x.npz").list())


def test_a_file_that_went_away_is_named_without_its_path(tmp_path: Path) -> None:
    raws = list(open_source(save(tmp_path / "x.npz", **sound())).list())
    (tmp_path / "x.npz").rename(tmp_path / "gone.npz")
    with pytest.raises(PictureError, match=r"its \.npz can't be opened") as refused:
        raws[0].read()
    assert str(tmp_path) not in str(refused.value)
