"""What crosses the layers: frozen records and the few types they are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from vecstore.files import canonical_json

Value = str | int | float | None
"""A metadata value. Its Python type is its column's type: TEXT, INTEGER or REAL."""

UInt8Array = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

Split = Literal["train", "val", "test"]
TaskKind = Literal["binary", "multi-class", "multi-label"]


@dataclass(frozen=True, slots=True)
class Raw:
    """One entry of an archive's listing; nothing has been opened yet.

    Attributes
    ----------
    locator : str
        Where it is, relative to the archive: NFC, `/`, a packed member after `!`.
    size, mtime_ns : int or None
        Bytes, and modification time in nanoseconds; what a second run compares.
        None where the archive does not say.
    read : callable
        Returns the undecoded bytes, or an array where the archive holds arrays
        (uint8 of shape (height, width) or (height, width, 3)).
        Raises `NotAPicture` for content to be passed over, `PictureError` if unreadable.
    metadata : mapping
        What the source itself knows (manifest columns).
    """

    locator: str
    size: int | None
    mtime_ns: int | None
    read: Callable[[], bytes | npt.NDArray[Any]]
    metadata: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded picture of a file.

    Attributes
    ----------
    number : int or None
        Counted from 1 where all frames were asked for and the file has several, else None.
    picture : ndarray of shape (height, width, 3), uint8
    metadata : mapping
        What the file says about itself (DICOM keywords).
    decoder : str
        Library and version that made the pixels, for the record.
    """

    number: int | None
    picture: UInt8Array
    metadata: Mapping[str, Value]
    decoder: str


@dataclass(frozen=True, slots=True)
class DecodeRule:
    """How pixels become pictures; belongs to the store and is fixed when it is created.

    Attributes
    ----------
    frames : {"first", "all"}
        Which frames or pages of a file become items.
    window : {"first", "none"}
        DICOM: the first window of the file (or VOI LUT), or the full range of values.
    max_pixels : int
        Width × height beyond which a picture is refused as a decompression bomb; by default where
        Pillow itself refuses.
    version : int
        Raised when the meaning of the rule changes.
    """

    frames: Literal["first", "all"] = "first"
    window: Literal["first", "none"] = "first"
    max_pixels: int = 178_956_970
    version: int = 1

    def file_of(self, locator: str) -> str:
        """A locator without its frame, where all frames of a file are items.

        >>> DecodeRule("all").file_of("ct/1.dcm#12"), DecodeRule().file_of("ct/1.dcm#12")
        ('ct/1.dcm', 'ct/1.dcm#12')
        """
        stem, mark, number = locator.rpartition("#")
        return stem if self.frames == "all" and mark and number.isdigit() else locator


@dataclass(frozen=True, slots=True)
class Passport:
    """All that determines an encoder's output. Its hash is the fingerprint of a space.

    Attributes
    ----------
    encoder : str
        The name that opens it again, e.g. "torchvision:resnet50/IMAGENET1K_V2"; never an absolute path.
    library, model : str
        Who computes it, and which architecture there.
    weights_sha256 : str
        Hex digest of the weights file; "none" for encoders without weights.
    revision, licence : str
        As stated by the weights' publisher; empty where unknown.
    input_size : tuple of (int, int)
        Height and width in pixels after resizing and cropping.
    resize : str
        The rule that gets there, interpolation included, e.g. "squash bicubic".
    mean, std : tuple of float
        Per channel, on a 0 to 1 scale.
    pooling : str
        Which layers are read, and how positions are pooled.
    dim : int
        Length of the vector.
    """

    encoder: str
    library: str
    model: str
    weights_sha256: str
    revision: str
    licence: str
    input_size: tuple[int, int]
    resize: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pooling: str
    dim: int

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no blanks; the text that is hashed."""
        return canonical_json(asdict(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Passport:
        """Inverse of `to_json` after parsing; lists become tuples again."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of `to_json()`, 32 bytes."""
        return hashlib.sha256(self.to_json().encode()).digest()


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Labels that a source itself brings (MedMNIST): one row per item.

    Attributes
    ----------
    task : str
    kind : {"binary", "multi-class", "multi-label"}
    classes : sequence of str
        In order; for a binary task the last is the positive one.
    locators : sequence of str
    values : sequence of sequence of str
        The classes that hold for each item; one for a binary or multi-class task.
    splits : sequence of {"train", "val", "test"}
    """

    task: str
    kind: TaskKind
    classes: Sequence[str]
    locators: Sequence[str]
    values: Sequence[Sequence[str]]
    splits: Sequence[Split]


@dataclass(frozen=True, slots=True)
class Hit:
    """One similar case.

    Attributes
    ----------
    rank : int
        From 1.
    item_id : int
    score : float
        Cosine similarity, -1 to 1.
    source, locator : str
    metadata : mapping
    labels : mapping of task to class
    predictions : mapping of class to probability
        Of a probe, where one was asked for.
    in_training : bool or None
        Where one was asked for: whether the probe was trained on this picture, so that its prediction flatters it.
    """

    rank: int
    item_id: int
    score: float
    source: str
    locator: str
    metadata: Mapping[str, Value] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    predictions: Mapping[str, float] = field(default_factory=dict)
    in_training: bool | None = None


class Progress(Protocol):
    """Who is told how long work is going. The command line shows a bar; a library call is silent."""

    def begin(self, what: str, total: int | None) -> None:
        """Start counting `what`, up to `total` where that is known; called again, only the total is news."""

    def step(self, n: int = 1) -> None:
        """Count `n` more."""

    def say(self, text: str) -> None:
        """One line worth reading."""

    def end(self) -> None:
        """Stop counting."""


class Silent:
    """A `Progress` that says nothing."""

    def begin(self, what: str, total: int | None) -> None:
        """Do nothing."""

    def step(self, n: int = 1) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""


def batched(values: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` consecutive values; the last may be shorter.

    >>> list(batched(iter("abcde"), 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    chunk: list[Any] = []
    for value in values:
        chunk.append(value)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
