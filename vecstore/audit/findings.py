"""What an audit says: a finding per check, each with its examples, as plain records for a table, a page or JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from vecstore.dataset.levels import PARTS, value_text
from vecstore.errors import VecstoreError
from vecstore.records import BoolArray, DoubleArray, IntArray
from vecstore.store import Items, Store, Task

Severity = Literal["problem", "warning", "not checked", "fine"]
"""Problem: a score is wrong, or a label is. Warning: it may be. The worst first."""

SEVERITIES: tuple[Severity, ...] = get_args(Severity)

MOST_MEMBERS = 6
"""Items of one example that are shown."""


@dataclass(frozen=True, slots=True)
class Member:
    """An item in an example.

    Attributes
    ----------
    item_id : int
    source, locator : str
    part : {"", "train", "val", "test"}
        Of the official split.
    label : str
        Of the task; several joined by ";".
    group : str
        Its value in the group column; empty where it has none.
    """

    item_id: int
    source: str
    locator: str
    part: str = ""
    label: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class Example:
    """Items that show a finding.

    Attributes
    ----------
    what : str
        What they have in common: a patient, "identical", or how alike they are.
    members : list of Member
        At most `MOST_MEMBERS`.
    more : int
        Members that are not shown.
    """

    what: str
    members: list[Member]
    more: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found.

    Attributes
    ----------
    check : str
        A stable name, e.g. "identical_across_parts".
    severity : {"problem", "warning", "not checked", "fine"}
    title : str
        The check in words.
    told : str
        One sentence with the numbers.
    task : str or None
        Whose labels or parts were looked at; None for a check of the whole store.
    about : str
        Which column or vectors were looked at, where that matters.
    counts : dict of str to int or float
        The numbers of the sentence.
    examples : list of Example
    do : str
        The next step; empty where all is fine.
    """

    check: str
    severity: Severity
    title: str
    told: str
    task: str | None = None
    about: str = ""
    counts: dict[str, int | float | None] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)
    do: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Labelled:
    """The labels of a task on the items of a snapshot.

    Attributes
    ----------
    task : Task
    places : ndarray of shape (n,), int64
        Where the labelled items are in the snapshot's items, ascending.
    y : ndarray of shape (n, n_classes), float64
        1 where a class holds, 0 where not, NaN where that is not known.
    parts : ndarray of shape (n,), int64
        Index into `PARTS`.
    """

    task: Task
    places: IntArray
    y: DoubleArray
    parts: IntArray

    @classmethod
    def of(cls, store: Store, task: Task, items: Items) -> Labelled:
        """Read them."""
        ids, classes, values, parts = store.label_arrays(task)
        found, row = np.unique(ids, return_inverse=True)
        y = np.full((len(found), len(task.classes)), np.nan if task.kind == "multi-label" else 0.0)
        y[row, classes] = values
        part = np.zeros(len(found), np.int64)
        part[row] = parts
        return cls(task, np.searchsorted(items.ids, found).astype(np.int64), y, part)

    def __len__(self) -> int:
        return len(self.places)

    @property
    def has_test(self) -> bool:
        """Whether there is an official test part."""
        return bool((self.parts == PARTS.index("test")).any())

    @property
    def has_parts(self) -> bool:
        """Whether there are at least two official parts."""
        return len(np.unique(self.parts[self.parts > 0])) > 1

    def text(self, row: int) -> str:
        """A label for people."""
        held = [name for name, value in zip(self.task.classes, self.y[row], strict=True) if value == 1]
        return ";".join(held) or "none"

    def parts_of(self, codes: IntArray) -> IntArray:
        """Which parts have some of each of k codes: ndarray of shape (k,), int64, of bits 1 << part."""
        bits = np.zeros(int(codes.max(initial=-1)) + 1, np.int64)
        placed = (self.parts > 0) & (codes >= 0)
        np.bitwise_or.at(bits, codes[placed], 1 << self.parts[placed])
        return bits

    def disagreeing(self, codes: IntArray) -> BoolArray:
        """Which of k codes have rows whose known labels differ: ndarray of shape (k,), bool."""
        size = int(codes.max(initial=-1)) + 1
        differ = np.zeros(size, np.bool_)
        for column in self.y.T:
            known = ~np.isnan(column) & (codes >= 0)
            sides = np.zeros(size, np.int64)
            np.bitwise_or.at(sides, codes[known], np.where(column[known] == 1, 2, 1))
            differ |= sides == 3
        return differ


@dataclass(slots=True)
class Shown:
    """Makes examples of places: what is known of an item, in the words of one task.

    Attributes
    ----------
    items : Items
    groups : mapping of item to value
        Of the group column.
    labelled : Labelled or None
    most : int
        Examples of one finding.
    """

    items: Items
    groups: Mapping[int, Any]
    labelled: Labelled | None
    most: int
    _rows: dict[int, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.labelled is not None:
            self._rows = {place: row for row, place in enumerate(self.labelled.places.tolist())}

    def member(self, place: int) -> Member:
        """One item."""
        item = int(self.items.ids[place])
        group = self.groups.get(item)
        told = ("", "")
        row = self._rows.get(place)
        if row is not None and self.labelled is not None:
            told = PARTS[int(self.labelled.parts[row])], self.labelled.text(row)
        return Member(
            item,
            self.items.sources[place],
            self.items.locators[place],
            told[0],
            told[1],
            "" if group is None else value_text(group),
        )

    def examples(self, bundles: Iterable[tuple[str, Sequence[int]]]) -> list[Example]:
        """The first few of (what, places); of each the first few items, of every part at least one."""
        found: list[Example] = []
        for what, places in bundles:
            if len(found) == self.most:
                break
            chosen = self._chosen(list(places))
            found.append(Example(what, [self.member(place) for place in chosen], len(places) - len(chosen)))
        return found

    def _chosen(self, places: list[int]) -> list[int]:
        """A few places, so that what differs between them (part, label, group) is seen."""
        if len(places) <= MOST_MEMBERS:
            return places
        told = [self.member(place) for place in places]
        kinds: dict[tuple[str, str, str], int] = {}
        for place, member in zip(places, told, strict=True):
            kinds.setdefault((member.part, member.label, member.group), place)
        first = list(kinds.values())[:MOST_MEMBERS]
        rest = [place for place in places if place not in set(first)]
        return sorted(first + rest[: MOST_MEMBERS - len(first)])


def counted(n: int, noun: str, plural: str = "") -> str:
    """A number and its noun.

    >>> counted(1, "picture"), counted(12, "study", "studies")
    ('1 picture', '12 studies')
    """
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def reason(error: VecstoreError) -> str:
    """Why a check could not be made.

    >>> reason(VecstoreError("task 'dx': 16 items, in the classes: US", expected="at least two classes", do="--x"))
    "task 'dx': 16 items, in the classes: US; it takes at least two classes"
    """
    return f"{error.fact}; it takes {error.expected}" if error.expected else error.fact


def bundles(codes: IntArray, places: IntArray, chosen: IntArray) -> list[list[int]]:
    """Places of each of the chosen codes.

    Parameters
    ----------
    codes, places : ndarray of shape (n,), int64
    chosen : ndarray of shape (k,), int64
    """
    order = np.argsort(codes, kind="stable")
    starts = np.searchsorted(codes[order], chosen, side="left")
    stops = np.searchsorted(codes[order], chosen, side="right")
    return [places[order[a:b]].tolist() for a, b in zip(starts.tolist(), stops.tolist(), strict=True)]
