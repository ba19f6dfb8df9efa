"""MedMNIST files: arrays of images and labels in an .npz, one split after another."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from functools import partial
from math import prod
from pathlib import Path
from typing import IO, Any, ClassVar, NamedTuple, cast, get_args

import numpy as np
import numpy.typing as npt

from vecstore.errors import ArchiveError, PictureError
from vecstore.records import LabelTable, Raw, Split, TaskKind
from vecstore.sources.base import Source, archive_name, cannot_open, unreadable
from vecstore.sources.window import Window

SPLITS: tuple[Split, ...] = get_args(Split)
_SIZE_SUFFIX = re.compile(r"_(28|64|128|224)$")
_LOCATOR = re.compile(r"(train|val|test)/(\d{5,})")


class _Images(NamedTuple):
    """One array of images: where its values are in the unpacked member, and how one is shaped."""

    split: Split
    n: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    window: Window

    @property
    def image_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


class MedMnistSource(Source):
    """A MedMNIST .npz: images as `train/00115`, counted from 0 as in the array; its labels as a task.

    Images are read one at a time from the compressed file: an array of 224-pixel images is larger
    than memory.

    Parameters
    ----------
    path : Path

    Raises
    ------
    ArchiveError
        From `list` and `labels`: not such a file; names the arrays that it has.
    """

    kind: ClassVar[str] = "medmnist"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = archive_name(path, path.suffix)
        self._arrays: dict[Split, _Images] | None = None

    def list(self) -> Iterator[Raw]:
        """Images of train, val and test, in the order of the arrays."""
        time_ns = self._time_ns()
        for images in self._images().values():
            for index in range(images.n):
                yield _raw(images, index, time_ns)

    def find(self, locators: Collection[str]) -> Iterator[Raw]:
        """Images by split and index."""
        time_ns, arrays = self._time_ns(), self._images()
        for locator in dict.fromkeys(locators):
            match = _LOCATOR.fullmatch(locator)
            images = arrays.get(cast(Split, match[1])) if match else None
            if match and images and int(match[2]) < images.n and locator == _locator(images.split, int(match[2])):
                yield _raw(images, int(match[2]), time_ns)

    def labels(self) -> LabelTable:
        """The file's labels under its name without the image size: "breastmnist_224" -> "breastmnist".

        Classes are the numbers as text. Several columns are a multi-label task of 0 and 1.
        """
        locators: list[str] = []
        splits: list[Split] = []
        columns: list[npt.NDArray[Any]] = []
        for split, images in self._images().items():
            columns.append(self._split_labels(split, images.n))
            locators += [_locator(split, i) for i in range(images.n)]
            splits += [split] * images.n
        widths = {labels.shape[1] for labels in columns}
        if len(widths) != 1:
            raise self._refused("label arrays of different widths", "the same number of columns in each split")
        values = np.concatenate(columns)
        kind, classes, held = _task(values)
        return LabelTable(_SIZE_SUFFIX.sub("", self.path.stem), kind, classes, locators, held, splits)

    def _split_labels(self, split: Split, count: int) -> npt.NDArray[Any]:
        with self._open(f"{split}_labels") as stream:
            try:
                labels = np.lib.format.read_array(stream, allow_pickle=False)
            except ValueError as error:
                raise self._refused(f"{split}_labels can't be read: {error}", "whole numbers") from error
        if labels.ndim == 1:
            labels = labels[:, None]
        if labels.ndim != 2 or len(labels) != count or labels.dtype.kind not in "biu":
            raise self._refused(
                f"{split}_labels of shape {labels.shape} and type {labels.dtype} for {count} images",
                "whole numbers, one row per image",
            )
        return labels

    def _images(self) -> dict[Split, _Images]:
        if self._arrays is None:
            keys = self._keys()
            splits = [s for s in SPLITS if f"{s}_images" in keys and f"{s}_labels" in keys]
            if not splits:
                raise self._refused(
                    f"not a MedMNIST file; it holds {', '.join(sorted(keys)) or 'nothing'}",
                    "train_images, train_labels, val_images …",
                )
            self._arrays = {split: self._header(split) for split in splits}
        return self._arrays

    def _keys(self) -> set[str]:
        try:
            with zipfile.ZipFile(self.path) as file:
                return {name.removesuffix(".npy") for name in file.namelist()}
        except zipfile.BadZipFile as error:
            raise self._refused(f"damaged: {error}", "an .npz file") from error
        except OSError as error:
            raise cannot_open(self.path, error) from error

    def _header(self, split: Split) -> _Images:
        with self._open(f"{split}_images") as stream:
            try:
                version = np.lib.format.read_magic(stream)
                read: Callable[..., Any] = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, fortran, dtype = read(stream)
            except ValueError as error:
                raise self._refused(f"{split}_images can't be read: {error}", "an array") from error
            offset = stream.tell()
        color = len(shape) == 4 and shape[3] == 3
        if not (len(shape) == 3 or color) or fortran or dtype.kind not in "biuf":
            raise self._refused(
                f"{split}_images of shape {shape} and type {dtype}",
                "2-D images: (n, height, width) or (n, height, width, 3)",
            )
        window = Window(partial(self._open, f"{split}_images"))
        return _Images(split, shape[0], tuple(shape[1:]), dtype, offset, window)

    def _open(self, key: str) -> IO[bytes]:
        # The member keeps the file open after the archive object is closed.
        try:
            with zipfile.ZipFile(self.path) as file:
                return file.open(f"{key}.npy")
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise self._refused(f"damaged: {error}", "an .npz file") from error
        except OSError as error:
            raise cannot_open(self.path, error) from error

    def _time_ns(self) -> int:
        try:
            return self.path.stat().st_mtime_ns
        except OSError as error:
            raise cannot_open(self.path, error) from error

    def _refused(self, fact: str, expected: str) -> ArchiveError:
        return ArchiveError(f"{self.path}: {fact}", expected)


def _locator(split: Split, index: int) -> str:
    return f"{split}/{index:05d}"


def _raw(images: _Images, index: int, time_ns: int) -> Raw:
    return Raw(_locator(images.split, index), images.image_bytes, time_ns, partial(_read, images, index))


def _read(images: _Images, index: int) -> npt.NDArray[Any]:
    size = images.image_bytes
    try:
        data = images.window.read(images.offset + index * size, size)
    except ArchiveError as error:  # its words hold the archive's path
        raise PictureError("its .npz can't be opened", error.expected, error.do) from error
    except OSError as error:
        raise unreadable(error) from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise PictureError(f"damaged in its .npz: {error}", do="copy the file again") from error
    if len(data) < size:
        raise PictureError("the .npz is cut short", f"{size} bytes per image", "copy the file again")
    return np.frombuffer(data, images.dtype).reshape(images.shape).copy()


def _task(values: npt.NDArray[Any]) -> tuple[TaskKind, list[str], list[tuple[str, ...]]]:
    """Kind, classes, and the classes of each row."""
    if values.shape[1] > 1:
        names = [str(i) for i in range(values.shape[1])]
        held = [tuple(name for name, holds in zip(names, row, strict=True) if holds) for row in values.tolist()]
        return "multi-label", names, held
    classes = [str(int(value)) for value in np.unique(values)]
    kind: TaskKind = "binary" if len(classes) == 2 else "multi-class"
    return kind, classes, [(str(int(value)),) for value in values[:, 0].tolist()]
