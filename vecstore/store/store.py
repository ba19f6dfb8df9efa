"""`Store`: one handle on catalog, shards, thumbnails and models, at one commit.

Reading shows the snapshot at `Store.commit`. Writing is in `vecstore.store.append` (pictures and
vectors) and in the methods that end in a commit here (tasks, columns, models).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakValueDictionary, ref

import numpy as np
import numpy.typing as npt

from vecstore.errors import Ambiguous, NotFound, NotWritable, StoreDamaged, StoreError
from vecstore.files import canonical_json, make_folder, os_errors, sync_folder, write_file
from vecstore.records import DecodeRule, IntArray, Passport, Split, TaskKind, Value
from vecstore.store import predicate
from vecstore.store.catalog import Catalog, Transaction, in_pieces, quoted, visible
from vecstore.store.columns import PSEUDONYMS, RESERVED_COLUMNS, describe
from vecstore.store.thumbnails import Thumbnails

_SWEEP_SECONDS = 24 * 3600
_RANGE = 100_000  # item ids read in one piece: SQLite builds some MB of text
_CHUNK = 500  # values in one IN list; SQLite allows far more, but each text is compiled once


@dataclass(frozen=True, slots=True)
class Space:
    """All vectors made under one fingerprint."""

    id: int
    name: str
    dim: int
    passport: Passport
    added_in: int

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the passport."""
        return self.passport.fingerprint


@dataclass(frozen=True, slots=True)
class ShardRow:
    """A registered shard, as the catalog knows it."""

    id: int
    sha256: bytes
    rows: int
    bytes: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Items:
    """Items of a snapshot, by ascending id: `ids` and `contents` are ndarrays of shape (n,), int64."""

    ids: IntArray
    contents: IntArray
    sources: list[str]
    locators: list[str]

    def __len__(self) -> int:
        return len(self.ids)


def _in_order(items: Items) -> Items:
    """Items by ascending id, which SQLite mostly keeps within an aggregate, but does not promise."""
    if (np.diff(items.ids) > 0).all():
        return items
    order = np.argsort(items.ids)
    sources, locators = ([values[row] for row in order.tolist()] for values in (items.sources, items.locators))
    return Items(items.ids[order], items.contents[order], sources, locators)


@dataclass(frozen=True, slots=True)
class Task:
    """A named set of labels: one import."""

    id: int
    name: str
    kind: TaskKind
    classes: list[str]
    positive: str | None
    provenance: dict[str, Any]
    added_in: int


class Label(NamedTuple):
    """One row of a task: `value` is 1 where the class holds, 0 where it does not."""

    item: int
    name: str
    value: float
    split: Split | None


@dataclass(frozen=True, slots=True)
class Model:
    """A registered model; its files are in `models/<sha256>/`."""

    id: int
    task: Task
    space: int
    sha256: bytes
    record: dict[str, Any]
    added_in: int


class _Values(dict[int, Value]):
    """Values by item id, of a kind that can be held weakly."""


class Store:
    """A store at a commit.

    Parameters
    ----------
    path : str or path-like
        The store's folder.
    at : int, optional
        Show the store as it was at this commit; such a handle can't write.

    Raises
    ------
    NotAStore, StoreTooNew, StoreDamaged, NotFound
    """

    def __init__(self, path: str | os.PathLike[str], at: int | None = None) -> None:
        self.path = Path(path)
        self.catalog = Catalog(self.path / "catalog.sqlite")
        try:
            self.rule = DecodeRule(**json.loads(self.catalog.meta["decode_rule"]))
        except (ValueError, TypeError) as error:
            self.catalog.close()
            raise StoreDamaged(
                f"{self.catalog.path}: its decode rule can't be read ({error})",
                expected="the JSON of a rule",
                do="restore it from a copy",
            ) from error
        self.thumbnails = Thumbnails(self.path / "thumbnails.sqlite")
        self.fixed = at is not None
        self._items: tuple[int, ref[Items]] | None = None
        self._columns: WeakValueDictionary[tuple[int, str], _Values] = WeakValueDictionary()
        self._labels: tuple[int, int, list[ref[npt.NDArray[Any]]]] | None = None
        self.commit = self.catalog.last_commit()
        if at is not None:
            oldest = int(self.catalog.meta["oldest"])
            if not oldest <= at <= self.commit:
                self.close()
                raise NotFound(
                    f"{self.path} has no commit {at}",
                    expected=f"{oldest} to {self.commit}",
                    do=f"see: vecstore log {self.path}",
                )
            self.commit = at

    @classmethod
    def create(cls, path: str | os.PathLike[str], rule: DecodeRule | None = None) -> Store:
        """Make a new store.

        Raises
        ------
        StoreError
            Something is there already.
        NotWritable, DiskFull
        """
        folder = Path(path)
        catalog = folder / "catalog.sqlite"
        if folder.exists():
            # What a creation leaves that was killed halfway may be finished; anything else is not ours.
            names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else {"a file"}
            ours = not catalog.is_file() or Catalog.unfinished(catalog)
            if not ours or names - {"catalog.sqlite", "catalog.sqlite-journal"}:
                raise StoreError(
                    f"{folder} exists already",
                    expected="a path where nothing is",
                    do=f"open it, or choose another path; to add to a store: vecstore ingest ARCHIVE --store {folder}",
                )
        make_folder(folder)
        with os_errors(str(folder)):
            rule_json = canonical_json(asdict(rule or DecodeRule()))
            Catalog.create(catalog, {"decode_rule": rule_json}, {"decode_rule": json.loads(rule_json)})
        return cls(folder)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, commit={self.commit})"

    def close(self) -> None:
        """Close the files; the handle is not to be used again."""
        self.catalog.close()
        self.thumbnails.close()

    def refresh(self) -> Store:
        """Move to the newest commit, unless the handle was opened at one."""
        if not self.fixed:
            self.commit = self.catalog.last_commit()
        return self

    def rows(self, text: str, **values: Any) -> list[tuple[Any, ...]]:
        """Rows of a query over the catalog at this snapshot (`:at` is the commit)."""
        return self.catalog.rows(text, {"at": self.commit, **values})

    def write(self, verb: str, arguments: Mapping[str, Any], waiting: Callable[[], None] | None = None) -> _Writing:
        """A transaction; when its block ends the handle shows the new commit."""
        if self.fixed:
            raise NotWritable(
                f"{self.path} was opened at commit {self.commit}",
                expected="the newest state",
                do="open it without at=",
            )
        return _Writing(self, verb, arguments, waiting)

    def secret(self, text: str) -> bytes:
        """First 16 bytes of HMAC-SHA-256 with the store's secret: a name that can't be guessed back."""
        return hmac.digest(self.catalog.meta["store_secret"], text.encode(), "sha256")[:16]

    def item_key(self, source: str, locator: str) -> bytes:
        """The key of an item: 16 bytes over source (case-folded, as names of sources compare) and locator."""
        return self.secret(f"item\x00{source.casefold()}\x00{locator}")

    def pseudonym(self, patient: str) -> str:
        """What is stored in place of a patient's id: 16 hex digits, the same for the same id in this store."""
        return self.secret(f"patient\x00{patient}").hex()[:16]

    # Spaces and vectors

    def spaces(self) -> list[Space]:
        """Every space of the snapshot, oldest first."""
        rows = self.rows("SELECT id, name, dim, passport, added_in FROM spaces WHERE added_in <= :at ORDER BY id")
        return [Space(i, name, dim, Passport.from_dict(json.loads(text)), added) for i, name, dim, text, added in rows]

    def space(self, name: str | None = None) -> Space:
        """A space by name, or the only one.

        Raises
        ------
        NotFound, Ambiguous
        """
        spaces = self.spaces()
        names = ", ".join(space.name for space in spaces)
        if name is None:
            if len(spaces) == 1:
                return spaces[0]
            if not spaces:
                raise NotFound(
                    f"{self.path} holds no vectors yet",
                    expected="at least one space",
                    do="run: vecstore ingest ARCHIVE --store STORE",
                )
            raise Ambiguous(
                f"{self.path} has {len(spaces)} spaces",
                expected=f"one of: {names}",
                do="name it: --space NAME",
            )
        for space in spaces:
            if space.name.casefold() == name.casefold():
                return space
        raise NotFound(
            f"{self.path} has no space {name!r}",
            expected=f"one of: {names or 'none yet'}",
            do="name it: --space NAME",
        )

    def add_space(self, name: str, passport: Passport, arguments: Mapping[str, Any]) -> Space:
        """The space of a passport; made if its fingerprint is new.

        Raises
        ------
        Ambiguous
            The name belongs to vectors of another fingerprint.
        """
        if known := _space_of(self.refresh().spaces(), name, passport):
            return known
        row = {
            "name": name,
            "fingerprint": passport.fingerprint,
            "passport": passport.to_json(),
            "dim": passport.dim,
            "layout": "one-per-content",  # also the default of the table, but a digest is taken of what is given
        }
        with suppress(_MadeMeanwhileError), self.write("ingest", arguments) as tx:
            self.commit = tx.commit
            if _space_of(self.spaces(), name, passport):
                raise _MadeMeanwhileError
            tx.add("spaces", [row])
            tx.counts["space"] = name
        return self.add_space(name, passport, arguments)

    def shards(self, space: Space) -> list[ShardRow]:
        """Registered shards of a space at this snapshot, lowest id first."""
        rows = self.rows(
            f"SELECT id, sha256, rows, bytes, first, last FROM shards WHERE space = :space AND {visible()} ORDER BY id",
            space=space.id,
        )
        return [ShardRow(*row) for row in rows]

    def shard_path(self, space: Space, sha256: bytes) -> Path:
        """Where a shard lies."""
        return self.path / "shards" / str(space.id) / f"{sha256.hex()}.parquet"

    def embedded(self, space: Space, shards: Sequence[ShardRow] | None = None) -> IntArray:
        """Contents that have a vector in a space: ndarray of shape (n,), int64, ascending, without repetition."""
        from vecstore.store.shards import read_contents

        rows = self.shards(space) if shards is None else shards
        parts = [read_contents(self.shard_path(space, s.sha256), space.dim, s.rows, s.bytes) for s in rows]
        contents = np.sort(np.concatenate(parts)) if parts else np.empty(0, np.int64)
        return contents[np.diff(contents, prepend=-1) > 0]  # `np.unique` hashes first, which takes ten times as long

    def vectors(
        self, space: Space | Sequence[Space], contents: IntArray, dtype: npt.DTypeLike = np.float32
    ) -> npt.NDArray[Any]:
        """Vectors of contents.

        Parameters
        ----------
        space : Space or sequence of Space
            Of several spaces the vectors stand side by side, in this order: unit length each, so that every space
            has the same share of a row's length, whatever its dimension.
        contents : ndarray of shape (n,), int64
            Content ids, in any order, repetition allowed.
        dtype : {float32, float16}
            float16 is how a shard holds them: half the memory, and no cast.

        Returns
        -------
        ndarray of shape (n, dim), float32 or float16
            Unit rows, in the order asked for; `dim` is the sum over the spaces.

        Raises
        ------
        NotFound
            A content has no vector in this space.
        StoreDamaged
            A shard is missing or fails its checksums.
        """
        from vecstore.store.reading import take

        return take(self, [space] if isinstance(space, Space) else space, contents, dtype)

    # Items and their metadata

    def items(self, where: str | None = None, source: str | None = None) -> Items:
        """Items with a content at this snapshot, optionally only those that fit a predicate or belong to a source.

        All of them are read once as long as somebody holds them.
        """
        if where is None and source is None and self._items is not None and self._items[0] == self.commit:
            held = self._items[1]()
            if held is not None:
                return held
        if where is not None or source is not None:
            found = self.items()
            keep = np.ones(len(found), np.bool_)
            if where is not None:
                keep &= np.isin(found.ids, self.select(where), assume_unique=True)
            if source is not None:
                keep &= np.array([name.casefold() == source.casefold() for name in found.sources], np.bool_)
            rows = np.flatnonzero(keep).tolist()
            sources, locators = ([values[row] for row in rows] for values in (found.sources, found.locators))
            return Items(found.ids[keep], found.contents[keep], sources, locators)
        found = self._read_items()
        self._items = self.commit, ref(found)
        return found

    def _read_items(self) -> Items:
        """All items, a range of ids at a time: SQLite joins values to one text twice as fast as rows are fetched."""
        ids, contents = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        sources: list[str] = []
        locators: list[str] = []
        with self.catalog.reading():
            names = dict(self.rows("SELECT id, name FROM sources"))
            source = "group_concat(source)" if len(names) > 1 else "min(source) || ',' || max(source)"
            last = self.rows("SELECT max(item) FROM states")[0][0]
            for first in range(0, (last or 0) + 1, _RANGE):
                count, *texts, json_text = self.rows(
                    f"SELECT count(*), group_concat(item), group_concat(content), {source}, json_group_array(locator)"
                    " FROM (SELECT s.item, s.content, i.source, i.locator FROM states s JOIN items i ON i.id = s.item"
                    " WHERE s.item >= :first AND s.item < :first + :range"
                    f" AND {visible('s')} ORDER BY s.item)",
                    first=first,
                    range=_RANGE,
                )[0]
                if not count:
                    continue
                items, of_items, named = (np.fromstring(text, np.int64, sep=",") for text in texts)
                try:
                    known = [names[one] for one in named.tolist()]
                except KeyError as error:
                    raise StoreDamaged(
                        f"{self.path}: items of a source {error} that is not there",
                        expected="a source for every item",
                        do="restore catalog.sqlite from a copy",
                    ) from None
                ids.append(items)
                contents.append(of_items)
                sources += known if len(names) > 1 else known[:1] * count
                locators += json.loads(json_text)
        return _in_order(Items(np.concatenate(ids), np.concatenate(contents), sources, locators))

    def select(self, where: str) -> IntArray:
        """Ids of items that fit a predicate over the metadata columns (and tasks).

        Returns
        -------
        ndarray of shape (n,), int64
            Ascending.

        Raises
        ------
        PredicateRefused
        """
        columns = self.columns()
        taken = {name.casefold() for name in (*columns, *RESERVED_COLUMNS)}
        tasks = {task.name: task.id for task in self.tasks() if task.name.casefold() not in taken}
        return predicate.select(self.catalog.path, where, self.commit, columns, tasks)

    def where_warnings(self, where: str) -> list[str]:
        """What is seldom meant: a text column compared with a number, a patient's id instead of its pseudonym."""
        types = {"item": "INTEGER", "source": "TEXT", "locator": "TEXT"}
        types |= {task.name: "TEXT" for task in self.tasks()} | self.columns()
        tokens = predicate.check_text(where, list(types))
        told = [f"a text column is compared with a number: {one}" for one in predicate.numbers_as_text(tokens, types)]
        named = [token for token in tokens if token.strip('"').casefold() == PSEUDONYMS in map(str.casefold, types)]
        if named:
            told.append(f"{named[0]} holds pseudonyms, and no ids of patients as files have them: Store.pseudonym(id)")
        return told

    def columns(self) -> dict[str, str]:
        """Metadata columns of the snapshot: name to "TEXT", "INTEGER" or "REAL"."""
        return dict(self.rows("SELECT name, type FROM columns WHERE added_in <= :at ORDER BY added_in, name"))

    def column_name(self, name: str) -> str:
        """The name of a column as it is written in the store; letter case is ignored.

        Raises
        ------
        NotFound
        """
        columns = self.columns()
        for known in columns:
            if known.casefold() == name.casefold():
                return known
        raise NotFound(
            f"{self.path} has no column {name!r}",
            expected=f"one of: {', '.join(columns) or 'none yet'}",
            do="columns come from DICOM files, a manifest, or: vecstore label ... --columns",
        )

    def column(self, name: str, ids: IntArray | None = None) -> dict[int, Value]:
        """Non-empty values of a column by item id; `ids` is an ndarray of shape (n,), int64: only of these.

        All of them, which are not to be changed, are read once as long as somebody holds them.
        """
        known = self.column_name(name)
        found = self._columns.get((self.commit, known))
        if found is None:
            column = quoted(known)
            rows = self.rows(
                f"SELECT m.item, m.{column} FROM metadata m JOIN states s ON s.item = m.item"
                f" WHERE m.{column} IS NOT NULL AND {visible('m')} AND {visible('s')}"
            )
            found = self._columns[self.commit, known] = _Values(rows)
        if ids is None:
            return found
        wanted = set(ids.tolist())
        return {item: value for item, value in found.items() if item in wanted}

    def metadata(self, ids: Iterable[int]) -> dict[int, dict[str, Value]]:
        """Non-empty metadata of a few items, by item id."""
        columns = list(self.columns())
        found: dict[int, dict[str, Value]] = {}
        names = ", ".join(["item", *map(quoted, columns)])
        for chunk in _chunks(ids):
            for row in self.rows(f"SELECT {names} FROM metadata WHERE item IN ({chunk}) AND {visible()}"):
                found[row[0]] = {k: v for k, v in zip(columns, row[1:], strict=True) if v is not None}
        return found

    # Tasks and labels

    def tasks(self) -> list[Task]:
        """Every task of the snapshot, by name."""
        return [_task(row) for row in self.rows(f"{_TASK_SQL} WHERE {visible()} ORDER BY name")]

    def task(self, name: str) -> Task:
        """A task by name.

        Raises
        ------
        NotFound
        """
        tasks = self.tasks()
        for task in tasks:
            if task.name.casefold() == name.casefold():
                return task
        raise NotFound(
            f"{self.path} has no task {name!r}",
            expected=f"one of: {', '.join(t.name for t in tasks) or 'none yet'}",
            do="make one: vecstore label STORE TABLE --task NAME --key COLUMN --value COLUMN",
        )

    def labels(self, task: Task) -> list[Label]:
        """Labels of a task on items that have a content at this snapshot, by item and class."""
        rows = self.rows(
            "SELECT l.item, l.class, l.value, l.split FROM labels l JOIN states s ON s.item = l.item"
            f" WHERE l.task = :task AND {visible('s')} ORDER BY l.item, l.class",
            task=task.id,
        )
        return [Label(*row) for row in rows]

    def label_arrays(self, task: Task) -> tuple[IntArray, IntArray, npt.NDArray[np.float64], IntArray]:
        """The same labels as columns, not to be changed; read once as long as somebody holds them.

        Returns
        -------
        items, classes : ndarray of shape (n,), int64
            By item; classes as positions in `task.classes`.
        values : ndarray of shape (n,), float64
        parts : ndarray of shape (n,), int64
            0 where there is none, 1 train, 2 val, 3 test.
        """
        if self._labels is not None and self._labels[:2] == (self.commit, task.id):
            held = [one() for one in self._labels[2]]
            if all(one is not None for one in held):
                return held[0], held[1], held[2], held[3]  # type: ignore[return-value]
        position = {name: i for i, name in enumerate(task.classes)}
        rows = self.rows(
            "SELECT l.item, l.class, l.value, CASE l.split WHEN 'train' THEN 1 WHEN 'val' THEN 2 WHEN 'test' THEN 3"
            f" ELSE 0 END FROM labels l JOIN states s ON s.item = l.item WHERE l.task = :task AND {visible('s')}"
            " ORDER BY l.item, l.class",
            task=task.id,
        )
        items, classes, values, parts = zip(*rows, strict=True) if rows else ((), (), (), ())
        found = (
            np.array(items, np.int64),
            np.fromiter((position[name] for name in classes), np.int64, len(classes)),
            np.array(values, np.float64),
            np.array(parts, np.int64),
        )
        for column in found:
            column.setflags(write=False)
        self._labels = self.commit, task.id, [ref(column) for column in found]
        return found

    def add_task(
        self,
        name: str,
        kind: TaskKind,
        classes: Sequence[str],
        labels: Iterable[Label],
        provenance: Mapping[str, Any],
        *,
        positive: str | None = None,
        columns: Mapping[str, Mapping[int, Value]] | None = None,
        origin: str = "labels",
        verb: str = "label",
        counts: Mapping[str, Any] | None = None,
    ) -> Task:
        """Import a task (an older one of this name ends) and, with it, columns of the label table."""
        with self.write(verb, provenance) as tx:
            for old, known in tx.sql("SELECT id, name FROM tasks WHERE removed_in IS NULL"):
                if known.casefold() == name.casefold():  # SQLite folds the case of ASCII letters only
                    tx.end("tasks", "id = ?", (old,))
            row = {
                "name": name,
                "kind": kind,
                "classes": canonical_json(list(classes)),
                "positive": positive,
                "provenance": canonical_json(provenance),
            }
            (task,) = tx.add("tasks", [row])
            items, names, values, splits = zip(*rows, strict=True) if (rows := list(labels)) else ((), (), (), ())
            told = {"task": [task] * len(rows), "item": items, "class": names, "value": values, "split": splits}
            tx.add_columns("labels", told)
            described = (
                (item, {column: value}) for column, of in (columns or {}).items() for item, value in of.items()
            )
            describe(tx, described, origin)
            tx.counts |= {**(counts or {}), "task": name}
        return self.task(name)

    def labels_of(self, ids: Iterable[int]) -> dict[int, dict[str, str]]:
        """Labels of a few items: item id to task to class (several labels joined by ";")."""
        found: dict[int, dict[str, str]] = {}
        for chunk in _chunks(ids):
            for item, task, name in self.rows(
                "SELECT l.item, t.name, l.class FROM labels l"
                " JOIN tasks t ON t.id = l.task JOIN states s ON s.item = l.item"
                f" WHERE l.item IN ({chunk}) AND l.value > 0 AND {visible('t')} AND {visible('s')}"
                " ORDER BY l.item, t.name, l.class"
            ):
                known = found.setdefault(item, {})
                known[task] = f"{known[task]};{name}" if task in known else name
        return found

    def hashes_of(self, items: Iterable[int]) -> dict[int, bytes]:
        """Content hashes of a few items that have a picture at this snapshot, by item id."""
        found: dict[int, bytes] = {}
        for chunk in _chunks(items):
            found |= dict(
                self.rows(
                    "SELECT s.item, c.hash FROM states s JOIN contents c ON c.id = s.content"
                    f" WHERE s.item IN ({chunk}) AND {visible('s')}"
                )
            )
        return found

    def contents_of(self, hashes: Sequence[bytes]) -> list[int]:
        """Ids of those contents that the store has, of some hashes."""
        text = "SELECT hash, id FROM contents WHERE hash IN ({})"
        known = dict(in_pieces(self.catalog.rows, text, dict.fromkeys(hashes)))
        return [known[content] for content in hashes if content in known]

    # Failures, log, models

    def failures(self) -> list[dict[str, Any]]:
        """What could not be embedded, and why."""
        rows = self.rows(
            "SELECT i.id, src.name, i.locator, sp.name, f.stage, f.reason, f.attempts, f.commit_id FROM failures f"
            " JOIN items i ON i.id = f.item JOIN sources src ON src.id = i.source"
            " LEFT JOIN spaces sp ON sp.id = f.space"
            " ORDER BY src.name, i.locator"
        )
        names = ("item_id", "source", "locator", "space", "stage", "reason", "attempts", "commit")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def log(self) -> list[dict[str, Any]]:
        """Every commit up to the snapshot, oldest first."""
        rows = self.rows(
            "SELECT id, time, verb, arguments, versions, counts, seconds FROM commits WHERE id <= :at ORDER BY id"
        )
        return [
            {
                "commit": i,
                "time": when,
                "verb": verb,
                "arguments": json.loads(arguments),
                "counts": json.loads(counts),
                "seconds": seconds,
                "versions": json.loads(libraries),
            }
            for i, when, verb, arguments, libraries, counts, seconds in rows
        ]

    def add_model(
        self,
        task: Task,
        space: Space,
        files: Mapping[str, bytes],
        record: Mapping[str, Any],
        seen: IntArray,
        arguments: Mapping[str, Any] | None = None,
    ) -> Model:
        """Write a model's files, then register it with the items it saw.

        Parameters
        ----------
        task : Task
        space : Space
        files : mapping of name to bytes
        record : mapping
        seen : ndarray of shape (n,), int64
            Ids of those items.
        arguments : mapping, optional
            What the log shows.
        """
        digest = hashlib.sha256(
            canonical_json({name: hashlib.sha256(data).hexdigest() for name, data in files.items()}).encode()
        ).digest()
        folder = self.path / "models" / digest.hex()
        _write_folder(folder, files)
        told = arguments or {"task": task.name, "space": space.name, "model": record.get("model")}
        with self.write("train", told) as tx:
            _write_folder(folder, files)  # a sweep may have come between; now it can't
            row = {"task": task.id, "space": space.id, "sha256": digest, "record": canonical_json(record)}
            (model,) = tx.add("models", [row])
            tx.add_columns("seen", {"model": [model] * len(seen), "item": seen.tolist()})
            tx.counts |= {"task": task.name, "auc": record.get("auc"), "n": record.get("n")}
        return next(m for m in self.models() if m.id == model)

    def models(self, task: str | None = None) -> list[Model]:
        """Registered models, oldest first; of one task (any of its imports), or all."""
        tasks = {row[0]: _task(row) for row in self.rows(_TASK_SQL)}
        rows = self.rows(f"SELECT id, task, space, sha256, record, added_in FROM models WHERE {visible()} ORDER BY id")
        models = [Model(i, tasks[t], space, sha, json.loads(record), added) for i, t, space, sha, record, added in rows]
        return [m for m in models if task is None or m.task.name.casefold() == task.casefold()]

    def seen(self, model: Model) -> set[int]:
        """Ids of the items that a model was trained on."""
        return {item for (item,) in self.rows("SELECT item FROM seen WHERE model = :model", model=model.id)}

    def model_files(self, model: Model) -> dict[str, bytes]:
        """The files of a model, after their digest was compared with the catalog's.

        Raises
        ------
        StoreDamaged
        """
        from vecstore.store.reading import read_model

        return read_model(self.path / "models" / model.sha256.hex(), model.sha256)

    def sweep(self) -> int:
        """Remove files that no commit names and that are older than a day; returns how many.

        The age is taken by the file system's own clock, which may differ from ours. A writer that is about
        to register a file holds the lock while it looks whether the file is there; so does a sweep.
        """
        if self.fixed or not self.catalog.writable:
            return 0
        patterns = ("shards/*/*", "models/*", "indexes/*/tmp-*", "tmp-*")
        places = [entry for pattern in patterns for entry in self.path.glob(pattern)]
        if not places:
            return 0
        removed = 0
        with self.catalog.locked() as locked:
            known = {sha.hex() for (sha,) in self.rows("SELECT sha256 FROM shards UNION SELECT sha256 FROM models")}
            unnamed = [entry for entry in places if entry.stem not in known] if locked else []
            now = _file_system_time(self.path) if unnamed else 0.0
            for entry in unnamed:
                with suppress(FileNotFoundError):
                    if now - entry.stat().st_mtime > _SWEEP_SECONDS:
                        _remove(entry)
                        removed += 1
        return removed


class _Writing:
    """The block of `Store.write`."""

    def __init__(
        self, store: Store, verb: str, arguments: Mapping[str, Any], waiting: Callable[[], None] | None
    ) -> None:
        self._store = store
        self._context = store.catalog.write(verb, arguments, waiting)

    def __enter__(self) -> Transaction:
        self._transaction = self._context.__enter__()
        return self._transaction

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._context.__exit__(kind, error, trace)
        if error is None:
            self._store.commit = self._transaction.commit


_TASK_SQL = "SELECT id, name, kind, classes, positive, provenance, added_in FROM tasks"


def _task(row: tuple[Any, ...]) -> Task:
    i, name, kind, classes, positive, provenance, added = row
    return Task(i, name, kind, json.loads(classes), positive, json.loads(provenance), added)


class _MadeMeanwhileError(Exception):
    """Another process made the space between our look and our transaction, which is undone."""


def _space_of(spaces: Iterable[Space], name: str, passport: Passport) -> Space | None:
    for space in spaces:
        if space.fingerprint == passport.fingerprint:
            return space
        if space.name.casefold() == name.casefold():
            raise Ambiguous(
                f"the space {space.name!r} holds vectors of another fingerprint"
                f" ({_difference(space.passport, passport)})",
                expected="a name that is free",
                do="name the new one: --space NAME",
            )
    return None


def _difference(old: Passport, new: Passport) -> str:
    a, b = asdict(old), asdict(new)
    return ", ".join(f"{k}: {a[k]} against {b[k]}" for k in a if a[k] != b[k])[:300]


def _chunks(ids: Iterable[int]) -> Iterable[str]:
    numbers = [str(int(i)) for i in ids]
    return (",".join(numbers[i : i + _CHUNK]) for i in range(0, len(numbers), _CHUNK))


def _write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """A folder of files that is there whole or not at all; one that is there already stays."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    temporary = folder.parent / f"tmp-{os.getpid()}-{os.urandom(6).hex()}"
    try:
        make_folder(temporary)
        for name, data in files.items():
            write_file(temporary / name, data)
        with os_errors(str(folder)):
            if not folder.is_dir():
                temporary.rename(folder)
                sync_folder(folder.parent)
    finally:
        with suppress(OSError):
            _remove(temporary)


def _remove(entry: Path) -> None:
    """Remove a file, or a folder of files."""
    if not entry.is_dir():
        entry.unlink()
        return
    for inner in entry.iterdir():
        inner.unlink()
    entry.rmdir()


def _file_system_time(folder: Path) -> float:
    probe = folder / f"tmp-{os.getpid()}-clock"
    os.close(os.open(probe, os.O_CREAT | os.O_WRONLY, 0o600))
    os.utime(probe)
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


@contextmanager
def using(store: Store | str | os.PathLike[str]) -> Iterator[Store]:
    """A store as it is, or one that is opened from its path and closed behind the block.

    Raises
    ------
    NotAStore, StoreTooNew, StoreDamaged
    """
    if isinstance(store, Store):
        yield store
        return
    with Store(store) as opened:
        yield opened


def create_store(path: str | os.PathLike[str], rule: DecodeRule | None = None) -> Store:
    """Make a new store.

    Parameters
    ----------
    path : path
        Where nothing is yet.
    rule : DecodeRule, optional
        How pixels become pictures; fixed for the life of the store.

    Returns
    -------
    Store

    Raises
    ------
    StoreError
        Something is there already; `vecstore.open` opens a store, `vecstore.ingest` takes a path and does either.
    NotWritable, DiskFull
    """
    return Store.create(path, rule)


def open_store(path: str | os.PathLike[str], at: int | None = None) -> Store:
    """Open a store at its newest commit, or look at it as it was at an earlier one.

    Parameters
    ----------
    path : path
    at : int, optional
        A commit's number (`Store.log`); such a handle can't write.

    Returns
    -------
    Store
        Has `failures()`, `log()`, `items()`, `tasks()`, `spaces()` and closes as a context manager.

    Raises
    ------
    NotAStore, StoreTooNew, StoreDamaged, NotFound
    """
    return Store(path, at)
