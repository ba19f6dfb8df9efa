"""A table of labels and a store become a task: which rows mean which items, and what the values mean."""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vecstore.errors import Ambiguous, DataError, LabelConflict, NotFound, UsageError
from vecstore.records import LabelTable, Split, TaskKind, Value
from vecstore.store import Items, Label, Store
from vecstore.tables import convert, read_table

POSITIVE = frozenset({"1", "true", "yes"})
NEGATIVE = frozenset({"0", "false", "no"})
_SPLITS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_EXAMPLES = 5
Conflict = Literal["error", "first", "any", "drop"]


@dataclass(slots=True)
class LabelResult:
    """What an import did; the names are the contract of `--json`.

    Attributes
    ----------
    task, kind : str
    classes : list of str
        For a binary task the last is the positive one.
    rule : str
        How rows were joined to items.
    matched : int
        Items that have a label now.
    unmatched_rows : int
        Rows that fit no item.
    unlabelled_items : int
        Items of the store without a label.
    empty_rows : int
        Rows that fit an item but have no value (or one that is ignored).
    counts : dict
        Items per class.
    conflicts : int
        Items whose rows disagreed, resolved as asked.
    columns : list of str
        Item columns taken from the table.
    differing_values : dict
        Column to number of items whose rows disagreed on it; the first value counts.
    examples : dict
        A few of the unmatched rows and unlabelled items.
    """

    task: str
    kind: str
    classes: list[str]
    rule: str
    matched: int = 0
    unmatched_rows: int = 0
    unlabelled_items: int = 0
    empty_rows: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    conflicts: int = 0
    columns: list[str] = field(default_factory=list)
    differing_values: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)


def canonical(value: Any) -> str:
    """A label value as text: an integer-valued float is an integer, missing is empty.

    Examples
    --------
    >>> canonical(1.0), canonical(True), canonical(" Nodule "), canonical(float("nan")), canonical("1.0")
    ('1', 'true', 'Nodule', '', '1')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return "" if math.isnan(value) else str(int(value)) if value.is_integer() else repr(value)
    text = str(value).strip()
    if text.endswith(".0") and text[:-2].lstrip("-").isdigit():
        return text[:-2]
    return "" if text.lower() in ("nan", "<na>", "nat") else text


def import_table(
    store: Store,
    table: Any,
    task: str,
    *,
    key: str | None = None,
    value: str | Sequence[str] | None = None,
    column: str | None = None,
    split_column: str | None = None,
    columns: Sequence[str] = (),
    positive: str | None = None,
    ignore: Sequence[str] = (),
    delimiter: str | None = None,
    on_conflict: Conflict = "error",
    source: str | None = None,
    add: bool = False,
) -> LabelResult:
    """Make a task; see `vecstore.label` for the parameters."""
    _check_name(task)
    items = store.refresh().items(source=source)
    if source is not None and not len(items):
        raise NotFound(f"{store.path} has no source {source!r}", do=f"see: vecstore info {store.path}")
    ignored = {canonical(v) for v in ignore}
    if column is not None:
        if table is not None or key is not None or value is not None:
            raise UsageError("--column takes the labels from an item column", "no table, --key or --value with it")
        rows = _Rows.of_column(store, items, column)
    else:
        rows = _Rows.of_table(store, items, table, key, value, split_column, columns)
    multi = delimiter is not None or len(rows.values) > 1
    per_item = rows.merge(items, ignored, delimiter, on_conflict, positive)
    if not per_item:
        raise DataError(
            f"no row of {rows.name} gives an item a label ({rows.total} rows, rule: {rows.rule})",
            expected=f"keys such as {', '.join(map(repr, items.locators[:3]))}",
            do="name the column that holds the path, base name or id: --key COLUMN",
        )
    kind, classes, chosen = _classes(per_item, multi, rows.values, positive, rows.name)
    labels = _labels(per_item, kind, classes)
    old: list[Label] = []
    if add:
        before = store.task(task)
        if (before.kind, set(classes)) != (kind, set(before.classes)) and not set(classes) <= set(before.classes):
            raise UsageError(
                f"the table is {kind} with the classes {', '.join(classes)}",
                expected=f"{before.kind} with {', '.join(before.classes)}, as task {task!r} has",
                do="import without --add to replace the task",
            )
        kind, classes, chosen = before.kind, before.classes, before.positive
        labels = _labels(per_item, kind, classes)
        old = [label for label in store.labels(before) if label.item not in per_item]
    result = LabelResult(task, kind, classes, rows.rule, unmatched_rows=rows.unmatched, empty_rows=rows.empty)
    labelled = set(per_item) | {label.item for label in old}
    missing = [
        locator for item, locator in zip(items.ids.tolist(), items.locators, strict=True) if item not in labelled
    ]
    result.matched, result.unlabelled_items = len(labelled), len(missing)
    result.counts = dict(Counter(label.name for label in [*old, *labels] if label.value > 0))
    result.conflicts, result.columns = rows.conflicts, list(rows.columns)
    result.differing_values = rows.differing
    result.examples = {"unmatched_rows": rows.unmatched_examples, "unlabelled_items": missing[:_EXAMPLES]}
    provenance = {
        "table": rows.name,
        "rule": rows.rule,
        "key": key,
        "value": list(rows.values),
        "split_column": split_column,
        "on_conflict": on_conflict,
        "add": add,
    }
    counts = {"matched": result.matched, "unmatched_rows": rows.unmatched, "unlabelled_items": len(missing)}
    store.add_task(
        task,
        kind,
        classes,
        [*old, *labels],
        provenance,
        positive=chosen,
        columns=rows.columns,
        origin=rows.name,
        counts=counts,
    )
    return result


def import_source_labels(store: Store, source: str, table: LabelTable) -> str | None:
    """Labels that an archive brings itself; a task of this name that is there already stays as it is."""
    if any(task.name.casefold() == table.task.casefold() for task in store.refresh().tasks()):
        return None
    items = store.items(source=source)
    ids = dict(zip(items.locators, items.ids.tolist(), strict=True))
    labels = []
    for locator, values, split in zip(table.locators, table.values, table.splits, strict=True):
        if locator not in ids:
            continue
        if table.kind == "multi-label":
            labels += [Label(ids[locator], name, float(name in values), split) for name in table.classes]
        else:
            labels.append(Label(ids[locator], values[0], 1.0, split))
    store.add_task(
        table.task,
        table.kind,
        table.classes,
        labels,
        {"table": f"labels in {source}", "rule": "exact locator"},
        positive=table.classes[-1] if table.kind == "binary" else None,
        counts={"matched": len({label.item for label in labels})},
    )
    return table.task


def _check_name(task: str) -> None:
    if not task.strip() or any(c in task for c in "/\\\x00\n"):
        raise UsageError(f"task name {task!r}", expected="a name without slashes and line breaks", do="--task NAME")


@dataclass(slots=True)
class _Entry:
    """One row that fits an item."""

    texts: tuple[str, ...]
    split: Split | None


class _Rows:
    """The table, joined to items."""

    def __init__(self, name: str, rule: str, values: Sequence[str]) -> None:
        self.name, self.rule, self.values = name, rule, tuple(values)
        self.entries: dict[int, list[_Entry]] = defaultdict(list)
        self.columns: dict[str, dict[int, Value]] = {}
        self.differing: dict[str, int] = {}
        self.total = self.unmatched = self.empty = self.conflicts = 0
        self.unmatched_examples: list[str] = []

    @classmethod
    def of_column(cls, store: Store, items: Items, column: str) -> _Rows:
        """An item column as the label."""
        column = store.column_name(column)
        rows = cls(f"column {column}", "item column", [column])
        for item, value in store.column(column, items.ids).items():
            rows.entries[item].append(_Entry((canonical(value),), None))
            rows.total += 1
        return rows

    @classmethod
    def of_table(
        cls,
        store: Store,
        items: Items,
        source: Any,
        key: str | None,
        value: str | Sequence[str] | None,
        split_column: str | None,
        columns: Sequence[str],
    ) -> _Rows:
        """A file or a frame, joined by its key column."""
        if source is None or key is None or value is None:
            raise UsageError(
                "a label table needs --key and --value",
                expected="the column that names the picture, and the one that holds the label",
                do="or take an item column: --column NAME",
            )
        table = read_table(source)
        values = [value] if isinstance(value, str) else list(value)
        name = Path(source).name if isinstance(source, (str, os.PathLike)) else type(source).__name__
        key_column, _, target = key.partition("=")
        asked = [key_column, *values, *([split_column] if split_column else []), *columns]
        position = {column: table.column(column) for column in asked}
        body = list(table.rows())
        keys = [canonical(row[position[key_column]]) for row in body]
        rule, lookup = _rule(store, items, keys, key_column, target)
        rows = cls(name, rule, values)
        types = {column: table.types()[table.columns[position[column]]] for column in columns}
        rows.columns = {column: {} for column in columns}
        differing: dict[str, set[int]] = defaultdict(set)
        for row, text in zip(body, keys, strict=True):
            rows.total += 1
            found = lookup(text)
            if not found:
                rows.unmatched += 1
                if len(rows.unmatched_examples) < _EXAMPLES:
                    rows.unmatched_examples.append(text)
                continue
            split = _split(row[position[split_column]], name) if split_column else None
            entry = _Entry(tuple(canonical(row[position[column]]) for column in values), split)
            for item in found:
                rows.entries[item].append(entry)
                for column, kind in types.items():
                    cell = convert(row[position[column]], kind)
                    if cell is not None and rows.columns[column].setdefault(item, cell) != cell:
                        differing[column].add(item)
        rows.differing = {column: len(found) for column, found in differing.items()}
        return rows

    def merge(
        self, items: Items, ignored: set[str], delimiter: str | None, on_conflict: Conflict, positive: str | None
    ) -> dict[int, _Entry]:
        """One entry per item; disagreeing rows are an error unless a rule was asked for."""
        merged: dict[int, _Entry] = {}
        conflicts: list[int] = []
        for item, entries in self.entries.items():
            useful = []
            for entry in entries:
                texts = tuple("" if text in ignored else text for text in entry.texts)
                if any(texts):
                    useful.append(_Entry(_set_of(texts, delimiter), entry.split))
                else:
                    self.empty += 1
            if not useful:
                continue
            if all(entry == useful[0] for entry in useful):
                merged[item] = useful[0]
                continue
            conflicts.append(item)
            if on_conflict == "first":
                merged[item] = useful[0]
            elif on_conflict == "any":
                merged[item] = _any(useful, positive, delimiter is not None or len(self.values) > 1, self.name)
        if conflicts and on_conflict == "error":
            raise LabelConflict(
                f"{self.name}: {len(conflicts)} items have rows that disagree: {self._examples(items, conflicts)}",
                expected="one label per item",
                do="choose: --on-conflict first, any or drop",
                items=conflicts,
            )
        self.conflicts = len(conflicts)
        return merged

    def _examples(self, items: Items, conflicts: Sequence[int]) -> str:
        locators = dict(zip(items.ids.tolist(), items.locators, strict=True))
        shown = []
        for item in conflicts[:_EXAMPLES]:
            told = {
                " ".join(entry.texts) + (f" ({entry.split})" if entry.split else "") for entry in self.entries[item]
            }
            shown.append(f"{locators[item]} ({' / '.join(sorted(told))})")
        return ", ".join(shown) + (" …" if len(conflicts) > _EXAMPLES else "")


def _set_of(texts: tuple[str, ...], delimiter: str | None) -> tuple[str, ...]:
    """With a delimiter, the sorted set of names in one text."""
    if delimiter is None:
        return texts
    names = {part.strip() for text in texts for part in text.split(delimiter)}
    return tuple(sorted(names - {""}))


def _any(entries: Sequence[_Entry], positive: str | None, multi: bool, name: str) -> _Entry:
    """The union of rows: the positive class if any row has it, any label that a row has."""
    split = entries[0].split
    if any(entry.split != split for entry in entries):
        raise LabelConflict(f"{name}: rows of one item name different splits", do="choose: --on-conflict first or drop")
    if multi:
        columns = zip(*(entry.texts for entry in entries), strict=False)
        if len({len(entry.texts) for entry in entries}) == 1 and all(
            text.lower() in POSITIVE | NEGATIVE | {""} for entry in entries for text in entry.texts
        ):
            return _Entry(tuple("1" if any(t.lower() in POSITIVE for t in c) else "0" for c in columns), split)
        return _Entry(tuple(sorted({text for entry in entries for text in entry.texts})), split)
    texts = [entry.texts[0] for entry in entries]
    hits = [t for t in texts if t == positive or (positive is None and t.lower() in POSITIVE)]
    if not hits and positive is None:
        raise UsageError(
            f"{name}: --on-conflict any needs to know the positive class ({', '.join(sorted(set(texts)))})",
            do="name it: --positive VALUE, or choose first or drop",
        )
    return _Entry((hits[0] if hits else texts[0],), split)


def _split(value: Any, name: str) -> Split | None:
    text = canonical(value)
    if not text:
        return None
    if text.lower() not in _SPLITS:
        raise UsageError(f"{name}: the split {text!r}", expected="train, val or test", do="check --split-column")
    return _SPLITS[text.lower()]


def _classes(
    per_item: Mapping[int, _Entry], multi: bool, values: Sequence[str], positive: str | None, name: str
) -> tuple[TaskKind, list[str], str | None]:
    """Kind, classes in order, and the positive class of a binary task."""
    if multi and len(values) > 1:
        bad = {t for entry in per_item.values() for t in entry.texts if t.lower() not in POSITIVE | NEGATIVE | {""}}
        if bad:
            raise UsageError(
                f"{name}: {', '.join(sorted(bad)[:_EXAMPLES])} in the columns {', '.join(values)}",
                expected="0 or 1 (or true/false, yes/no, empty) where several columns are labels",
                do="give one column, or ignore a value: --ignore VALUE",
            )
        return "multi-label", list(values), None
    names = sorted({text for entry in per_item.values() for text in entry.texts}, key=_number_first)
    if multi:
        return "multi-label", names, None
    if positive is not None:
        if positive not in names:
            raise NotFound(
                f"{name}: no item has the value {positive!r}",
                expected=f"one of: {', '.join(names)}",
                do="--positive VALUE",
            )
        if len(names) > 1:
            rest = [n for n in names if n != positive]
            return "binary", [rest[0] if len(rest) == 1 else f"not {positive}", positive], positive
    if len(names) < 2:
        raise DataError(
            f"{name}: every labelled item has the value {names[0]!r}",
            expected="at least two classes",
            do="check --value",
        )
    if len(names) == 2:
        hits = [n for n in names if n.lower() in POSITIVE]
        chosen = hits[0] if len(hits) == 1 else names[-1]
        return "binary", [next(n for n in names if n != chosen), chosen], chosen
    return "multi-class", names, None


def _number_first(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text


def _labels(per_item: Mapping[int, _Entry], kind: TaskKind, classes: Sequence[str]) -> list[Label]:
    labels = []
    for item, entry in sorted(per_item.items()):
        if kind != "multi-label":
            name = entry.texts[0] if entry.texts[0] in classes else classes[0]
            labels.append(Label(item, name, 1.0, entry.split))
        elif len(entry.texts) == len(classes) and all(t.lower() in POSITIVE | NEGATIVE | {""} for t in entry.texts):
            told = zip(classes, entry.texts, strict=True)
            labels += [Label(item, n, float(t.lower() in POSITIVE), entry.split) for n, t in told if t]
        else:
            labels += [Label(item, n, float(n in entry.texts), entry.split) for n in classes]
    return labels


# Joining rows to items

_Lookup = Callable[[str], Sequence[int]]


def _rule(store: Store, items: Items, keys: Sequence[str], column: str, target: str) -> tuple[str, _Lookup]:
    """The joining rule that fits most rows, the first of equals, and its look-up.

    Raises
    ------
    Ambiguous
        Rows of the table name something that stands for several items.
    """
    ids = items.ids.tolist()
    bare = [_file_part(store, locator) for locator in items.locators]
    candidates: list[tuple[str, Mapping[str, list[int]], bool]] = []
    if not target:
        candidates = [
            ("exact locator", _index(bare, ids), False),
            ("locator without a leading folder", _index([b.partition("/")[2] for b in bare], ids), False),
            ("base name", _index([_base(b) for b in bare], ids), False),
            ("stem", _index([_base(b).rpartition(".")[0] or _base(b) for b in bare], ids), False),
        ]
        if column.lower() in ("item", "item_id"):
            candidates.append(("item id", _index(map(str, ids), ids), True))
    named = [c for c in store.columns() if c.casefold() == (target or column).casefold()]
    if target and not named:
        store.column_name(target)
    if named:
        candidates.append((f"column {named[0]}", _index_column(store, items, named[0]), True))
    best_rule, best_index, many, best = "", candidates[0][1], False, -1
    for rule, index, several in candidates:
        hits = sum(_key(rule, text) in index for text in keys)
        if hits > best:
            best_rule, best_index, many, best = rule, index, several, hits
    if not many:
        _refuse_ambiguous(store, items, best_rule, best_index, keys)
    patient = best_rule == "column PatientID"
    return best_rule, lambda text: best_index.get(
        _key(best_rule, text), best_index.get(store.pseudonym(text), []) if patient and text else []
    )


def _key(rule: str, text: str) -> str:
    """A cell as the rule looks it up: paths with `/`, without a leading `./`."""
    if rule.startswith("column") or rule == "item id":
        return text
    text = text.replace("\\", "/").removeprefix("./")
    return text if rule in ("exact locator", "locator without a leading folder") else _base(text)


def _refuse_ambiguous(
    store: Store, items: Items, rule: str, index: Mapping[str, list[int]], keys: Sequence[str]
) -> None:
    where = dict(zip(items.ids.tolist(), zip(items.sources, items.locators, strict=True), strict=True))
    wanted = {_key(rule, text) for text in keys}
    for name, found in index.items():
        files = {(where[item][0], _file_part(store, where[item][1])) for item in found}
        if len(files) > 1 and name in wanted:
            several_sources = len({source for source, _ in files}) > 1
            told = ", ".join(f"{source}: {locator}" for source, locator in sorted(files)[:_EXAMPLES])
            raise Ambiguous(
                f"the key {name!r} fits {len(files)} items by {rule}: {told}",
                expected="keys that name one picture each",
                do="name the archive: --source NAME"
                if several_sources
                else "use the path relative to the archive as the key",
            )


def _index(names: Iterable[str], ids: Sequence[int]) -> dict[str, list[int]]:
    index: dict[str, list[int]] = defaultdict(list)
    for name, item in zip(names, ids, strict=True):
        if name:
            index[name].append(item)
    return dict(index)


def _index_column(store: Store, items: Items, column: str) -> dict[str, list[int]]:
    values = store.column(column, items.ids)
    return _index([canonical(v) for v in values.values()], list(values))


def _base(path: str) -> str:
    return path.rpartition("/")[2].rpartition("!")[2] if "!" in path else path.rpartition("/")[2]


def _file_part(store: Store, locator: str) -> str:
    """A locator without its frame, where all frames of a file are items."""
    stem, mark, number = locator.rpartition("#")
    return stem if store.rule.frames == "all" and mark and number.isdigit() else locator
