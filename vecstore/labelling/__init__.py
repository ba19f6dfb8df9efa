"""A table of labels and a store become a task: which rows mean which items, and what the values mean."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

from vecstore.errors import DataError, LabelConflict, NotFound, UsageError
from vecstore.labelling.joining import canonical, joining_rule, key_text
from vecstore.records import LabelTable, Split, TaskKind, Value
from vecstore.store import Items, Label, Store, Task
from vecstore.store.columns import PATIENT_COLUMNS, PSEUDONYMS, of_names
from vecstore.tables import ColumnType, convert, is_integer, is_real, read_table

POSITIVE = frozenset({"1", "true", "yes"})
NEGATIVE = frozenset({"0", "false", "no"})
UNCERTAIN = ("-1", "u", "uncertain")
"""What means "uncertain" in columns of 0 and 1 unless told otherwise; -1 is CheXpert's."""
_SPLITS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_EXAMPLES = 5
Conflict = Literal["error", "first", "any", "drop"]
Policy = Literal["ignore", "ones", "zeros"]
"""What an uncertain label becomes: unknown, positive or negative (U-Ignore, U-Ones and U-Zeros of Irvin et al., 2019,
"CheXpert: a large chest radiograph dataset with uncertainty labels and expert comparison")."""


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
        Item columns taken from the table, by their names in the store.
    differing_values : dict
        Column to number of items whose rows disagreed on it; the first value counts.
    columns_widened : dict
        Columns of the store that could not hold every value of the table, and the type they have now.
    examples : dict
        A few of the unmatched rows and unlabelled items.
    uncertain : int
        Cells, of rows that fit an item, that say "uncertain".
    uncertain_policy : {"ignore", "ones", "zeros"}
        What they became: unknown, positive or negative.
    notes : list of str
        What a user should look at: rows that another rule would have joined, how patients' ids are stored.
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
    columns_widened: dict[str, str] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    uncertain: int = 0
    uncertain_policy: str = "ignore"
    notes: list[str] = field(default_factory=list)


def import_table(
    store: Store,
    table: Any,
    task: str,
    *,
    key: str | None = None,
    value: str | Sequence[str] | None = None,
    column: str | None = None,
    split_column: str | None = None,
    columns: str | Sequence[str] = (),
    positive: str | None = None,
    ignore: str | Sequence[str] = (),
    uncertain: str | Sequence[str] | None = None,
    uncertain_policy: Policy = "ignore",
    delimiter: str | None = None,
    on_conflict: Conflict = "error",
    source: str | None = None,
    add: bool = False,
) -> LabelResult:
    """Make a task; see `vecstore.label` for the parameters."""
    _check_name(task)
    if on_conflict not in get_args(Conflict):
        raise UsageError(f"on_conflict={on_conflict!r}", "error, first, any or drop", "--on-conflict first")
    if uncertain_policy not in get_args(Policy):
        raise UsageError(f"uncertain_policy={uncertain_policy!r}", "ignore, ones or zeros", "--uncertain-policy ignore")
    items = store.refresh().items(source=source)
    if source is not None and not len(items):
        raise NotFound(f"{store.path} has no source {source!r}", do=f"see: vecstore info {store.path}")
    before = store.task(task) if add else None
    positive = canonical(positive) or None
    if column is not None:
        if table is not None or key is not None or value is not None or columns:
            raise UsageError(
                "--column takes the labels from an item column", "no table, --key, --value or --columns with it"
            )
        rows = _Rows.of_column(store, items, column, split_column)
    else:
        rows = _Rows.of_table(store, items, table, key, _names(value), split_column, _names(columns))
    form = _form(rows.values, delimiter, positive)
    ignored = {canonical(text) for text in _names(ignore)}
    unsure = _Unsure.of(form, uncertain, uncertain_policy)
    if unsure.policy != "ignore" and form == "one":
        unsure = unsure.of_classes(rows, ignored, positive, before)
    per_item = rows.merge(items, _Reading(form, frozenset(ignored), unsure, delimiter), on_conflict, positive)
    if not per_item:
        fitting = rows.total - rows.unmatched
        if fitting and not rows.conflicts:  # the keys are right
            held = (
                f"the columns {', '.join(rows.values)} are" if form == "flags" else f"the column {rows.values[0]!r} is"
            )
            raise DataError(
                f"no row of {rows.name} gives an item a label: {fitting} of {rows.total} keys fit (rule: {rows.rule}),"
                f" but {held} empty there{' (or ignored, or uncertain)' if ignored or unsure.values else ''}",
                expected="labels in the rows whose keys fit",
                do="name the column that holds them: --value COLUMN",
            )
        raise DataError(
            f"no row of {rows.name} gives an item a label ({rows.total} rows, rule: {rows.rule})",
            expected=f"keys such as {', '.join(map(repr, items.locators[:3]))}",
            do="name the column that holds the path, base name or id: --key COLUMN",
        )
    if before is None:
        kind, classes, chosen = _classes(per_item, form, rows.values, positive, rows.name)
        old: list[Label] = []
    else:
        _check_extends(before, per_item, form, rows.values, positive, rows.name)
        kind, classes, chosen = before.kind, before.classes, before.positive
        old = [label for label in _all_labels(store, before) if label.item not in per_item]
    labels = [*old, *_labels(per_item, form, rows.values, kind, classes)]
    labelled = {label.item for label in labels} & set(store.items().ids.tolist())
    missing = [
        locator for item, locator in zip(items.ids.tolist(), items.locators, strict=True) if item not in labelled
    ]
    provenance = {
        "table": rows.name,
        "rule": rows.rule,
        "key": key,
        "value": list(rows.values),
        "split_column": split_column,
        "positive": positive,
        "ignore": sorted(ignored),
        "uncertain": sorted(unsure.values),
        "uncertain_policy": uncertain_policy,
        "delimiter": delimiter,
        "on_conflict": on_conflict,
        "conflicts": rows.conflicts,
        "source": source,
        "columns": list(rows.columns),
        "add": add,
    }
    counts = {"matched": len(labelled), "unmatched_rows": rows.unmatched, "unlabelled_items": len(missing)}
    store.add_task(
        task,
        kind,
        classes,
        labels,
        provenance,
        positive=chosen,
        columns=rows.columns,
        origin=rows.name,
        counts=counts,
    )
    return LabelResult(
        task,
        kind,
        classes,
        rows.rule,
        matched=len(labelled),
        unmatched_rows=rows.unmatched,
        unlabelled_items=len(missing),
        empty_rows=rows.empty,
        counts=dict(Counter(label.name for label in labels if label.value > 0)),
        conflicts=rows.conflicts,
        columns=_stored_names(store, rows.columns, rows.name),
        differing_values=rows.differing,
        columns_widened=store.log()[-1]["counts"].get("columns_widened", {}),
        examples={"unmatched_rows": rows.unmatched_examples, "unlabelled_items": missing[:_EXAMPLES]},
        uncertain=rows.uncertain,
        uncertain_policy=uncertain_policy,
        notes=[*rows.notes, *_identity_notes(rows.columns), *_fraction_notes(kind, classes)],
    )


def _fraction_notes(kind: TaskKind, classes: Sequence[str]) -> list[str]:
    """Measured values that were taken for classes."""
    if kind != "multi-class" or not all(map(is_real, classes)) or all(map(is_integer, classes)):
        return []
    told = f"the {len(classes)} classes are numbers with fractions"
    return [f"{told}: if they are measured, import bands of them instead"]


def _identity_notes(columns: Iterable[str]) -> list[str]:
    """How what names a patient is stored."""
    notes = []
    for column in columns:
        if column.casefold() == PSEUDONYMS:
            notes.append(f"{column} is stored as pseudonyms")
        elif of_names(PATIENT_COLUMNS, [column]):
            notes.append(f"{column} is stored as it stands (named PatientID it would be stored as pseudonyms)")
    return notes


def _all_labels(store: Store, task: Task) -> list[Label]:
    """Labels of a task, those on items that have no picture at the moment too: they may have one again."""
    rows = store.rows(
        "SELECT item, class, value, split FROM labels WHERE task = :task ORDER BY item, class", task=task.id
    )
    return [Label(*row) for row in rows]


def import_source_labels(
    store: Store, source: str, table: LabelTable, say: Callable[[str], None] = lambda _: None
) -> str | None:
    """Labels that an archive brings itself, as a task; returns its name, or None where there is nothing to do.

    An import of this source is made again when items have appeared that it lacks. Where the name belongs
    to labels from elsewhere, the task is named after the source; `say` is told.
    """
    provenance = {"table": f"labels in {source}", "rule": "exact locator"}
    items = store.refresh().items(source=source)
    ids = dict(zip(items.locators, items.ids.tolist(), strict=True))
    known = {task.name.casefold(): task for task in store.tasks()}
    ours = {
        name.casefold()
        for name, text in store.rows("SELECT name, provenance FROM tasks")
        if json.loads(text).get("table") == provenance["table"]
    }
    for chosen in (table.task, source):
        task = known.get(chosen.casefold())
        if task is None:
            break
        if chosen.casefold() in ours:
            # Relabelled since by the user: theirs stays.
            labelled = {label.item for label in store.labels(task)}
            if task.provenance.get("table") != provenance["table"] or labelled.issuperset(
                ids[locator] for locator in table.locators if locator in ids
            ):
                return None
            break
    else:
        say(
            f"the tasks {table.task!r} and {source!r} are there from elsewhere; the labels of {source!r} were not"
            " imported: ingest it under another --source"
        )
        return None
    if chosen != table.task:
        say(f"the task {table.task!r} is there from elsewhere; the labels of {source!r} are the task {chosen!r}")
    labels = []
    for locator, values, split in zip(table.locators, table.values, table.splits, strict=True):
        if locator not in ids:
            continue
        if table.kind == "multi-label":
            labels += [Label(ids[locator], name, float(name in values), split) for name in table.classes]
        else:
            labels.append(Label(ids[locator], values[0], 1.0, split))
    if not labels:
        return None
    store.add_task(
        chosen,
        table.kind,
        table.classes,
        labels,
        provenance,
        positive=table.classes[-1] if table.kind == "binary" else None,
        counts={"matched": len({label.item for label in labels})},
    )
    return chosen


def _check_name(task: str) -> None:
    if not task.strip() or any(c in task for c in "/\\\x00\n"):
        raise UsageError(f"task name {task!r}", expected="a name without slashes and line breaks", do="--task NAME")


_Form = Literal["one", "names", "flags"]
"""How a row says its label: one text; several names in a text; or columns of 0 and 1."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One row that fits an item.

    Once it was read, `texts` is one class; sorted names; or "1", "0" or "" (not known) per column.
    """

    texts: tuple[str, ...]
    split: Split | None


@dataclass(frozen=True, slots=True)
class _Unsure:
    """Which cells say "uncertain", and what they are read as: "" is unknown."""

    values: frozenset[str]
    policy: Policy
    becomes: str = ""

    @classmethod
    def of(cls, form: _Form, values: str | Sequence[str] | None, policy: Policy) -> _Unsure:
        """What was asked for; in columns of 0 and 1 some values mean it by themselves."""
        given = UNCERTAIN if values is None and form == "flags" else _names(values)
        names = frozenset(canonical(value).lower() for value in given) - {""}
        if policy != "ignore" and form == "names":
            raise UsageError(
                f"--uncertain-policy {policy} with names in a cell",
                expected="columns of 0 and 1, or one column of two values, where a value says that it is uncertain",
                do="leave --uncertain-policy away: an uncertain cell is then unlabelled",
            )
        if policy != "ignore" and not names:
            raise UsageError(
                f"--uncertain-policy {policy} without a value that means uncertain",
                expected="the values that mean it",
                do="name them: --uncertain VALUE",
            )
        return cls(names, policy, {"ignore": "", "ones": "1", "zeros": "0"}[policy])

    def of_classes(self, rows: _Rows, ignored: set[str], positive: str | None, before: Task | None) -> _Unsure:
        """The same for one column, where ones and zeros are the task's own two values."""
        if before is not None:
            names = before.classes if before.kind == "binary" else []
        else:
            found = {entry.texts[0] for entries in rows.entries.values() for entry in entries} - ignored - {""}
            certain = sorted((text for text in found if text.lower() not in self.values), key=_number_first)
            names = list(_two(certain, positive)) if len(certain) == 2 or positive is not None else certain
        if len(names) != 2:
            raise UsageError(
                f"--uncertain-policy {self.policy} for a task with {len(names)} certain classes"
                f" ({', '.join(names) or 'none'})",
                expected="a task of two classes, one of them positive, or columns of 0 and 1",
                do="leave --uncertain-policy away, or name the positive value: --positive VALUE",
            )
        return _Unsure(self.values, self.policy, names[self.policy == "ones"])

    def held(self, texts: Iterable[str]) -> int:
        """How many of some cells say it."""
        return sum(text.lower() in self.values for text in texts)


@dataclass(frozen=True, slots=True)
class _Reading:
    """How the cells of a row are read."""

    form: _Form
    ignored: frozenset[str]
    unsure: _Unsure
    delimiter: str | None

    def __call__(self, texts: tuple[str, ...]) -> tuple[str, ...]:
        """The cells of a row as `_Entry` has them; a value that is ignored is as empty."""
        kept = tuple("" if text in self.ignored else self._sure(text) for text in texts)
        if self.form == "names":
            named = {canonical(part) for text in kept for part in text.split(self.delimiter)}
            return tuple(sorted(named - self.ignored - {""}))
        if self.form == "flags":
            return tuple("1" if t.lower() in POSITIVE else "0" if t.lower() in NEGATIVE else t for t in kept)
        return kept

    def _sure(self, text: str) -> str:
        return self.unsure.becomes if text.lower() in self.unsure.values else text


class _Rows:
    """The table, joined to items."""

    def __init__(self, name: str, rule: str, values: Sequence[str]) -> None:
        self.name, self.rule, self.values = name, rule, tuple(values)
        self.entries: dict[int, list[_Entry]] = defaultdict(list)
        self.columns: dict[str, dict[int, Value]] = {}
        self.differing: dict[str, int] = {}
        self.total = self.unmatched = self.empty = self.conflicts = self.uncertain = 0
        self.unmatched_examples: list[str] = []
        self.notes: list[str] = []

    @classmethod
    def of_column(cls, store: Store, items: Items, column: str, split_column: str | None) -> _Rows:
        """An item column as the label, and another one as the part."""
        column = store.column_name(column)
        rows = cls(f"column {column}", "item column", [column])
        splits = store.column(split_column, items.ids) if split_column else {}
        for item, value in store.column(column, items.ids).items():
            rows.entries[item].append(_Entry((canonical(value),), _split(splits.get(item), rows.name)))
            rows.total += 1
        return rows

    @classmethod
    def of_table(
        cls,
        store: Store,
        items: Items,
        source: Any,
        key: str | None,
        values: Sequence[str],
        split_column: str | None,
        columns: Sequence[str],
    ) -> _Rows:
        """A file or a frame, joined by its key column."""
        if source is None or not key or not values:
            raise UsageError(
                "a label table needs --key and --value",
                expected="the column that names the picture, and the one that holds the label",
                do="or take an item column: --column NAME",
            )
        table = read_table(source)
        name = Path(source).name if isinstance(source, (str, os.PathLike)) else type(source).__name__
        key_column, _, target = key.partition("=")
        key_at, value_at = table.column(key_column), [table.column(column) for column in values]
        split_at = table.column(split_column) if split_column else None
        if len(set(value_at)) < len(value_at):
            raise UsageError(f"{name}: a label column is named twice", expected="each once", do="check --value")
        at_of = {table.columns[at]: at for at in map(table.column, columns)}
        patients = _pseudonyms(store)
        held = {column.casefold(): kind for column, kind in store.columns().items()}
        body = list(table.rows())
        types = {column: table.type_of(at, (row[at] for row in body)) for column, at in at_of.items()}
        keys = [key_text(row[key_at]) for row in body]
        rule, missed = joining_rule(store, items, keys, key_column, target)
        rows = cls(name, rule.name, [table.columns[at] for at in value_at])
        rows.notes += missed
        rows.columns = {column: {} for column in types}
        differing: dict[str, set[int]] = defaultdict(set)
        texts = zip(*(_canonical_texts(row[at] for row in body) for at in value_at), strict=True)
        made: dict[tuple[tuple[str, ...], Split | None], _Entry] = {}
        for row, text, labels in zip(body, keys, texts, strict=True):
            rows.total += 1
            found = rule.find(text)
            if not found:
                rows.unmatched += 1
                if len(rows.unmatched_examples) < _EXAMPLES:
                    rows.unmatched_examples.append(text)
                continue
            split = None if split_at is None else _split(row[split_at], name)
            entry = made.get((labels, split)) or made.setdefault((labels, split), _Entry(labels, split))
            for item in found:
                rows.entries[item].append(entry)
                for column, at in at_of.items():
                    if column.casefold() == PSEUDONYMS:
                        cell = patients(row[at])
                    else:
                        cell = _cell(row[at], types[column], held.get(column.casefold(), types[column]))
                    if cell is not None and rows.columns[column].setdefault(item, cell) != cell:
                        differing[column].add(item)
        rows.differing = {column: len(found) for column, found in differing.items()}
        return rows

    def merge(self, items: Items, reading: _Reading, on_conflict: Conflict, positive: str | None) -> dict[int, _Entry]:
        """One entry per item; disagreeing rows are an error unless a rule was asked for."""
        merged: dict[int, _Entry] = {}
        conflicts: dict[int, list[_Entry]] = {}
        known: dict[_Entry, _Entry] = {}
        for entry in {id(entry): entry for entries in self.entries.values() for entry in entries}.values():
            known[entry] = _Entry(reading(entry.texts), entry.split)
        if reading.form == "flags":
            self._check_flags(known.values())
        unsure = {entry: reading.unsure.held(entry.texts) for entry in known}
        for item, entries in self.entries.items():
            self.uncertain += sum(unsure[entry] for entry in entries)
            useful = [entry for entry in map(known.__getitem__, entries) if any(entry.texts)]
            self.empty += len(entries) - len(useful)
            if not useful:
                continue
            if len(useful) == 1 or len(set(useful)) == 1:
                merged[item] = useful[0]
                continue
            conflicts[item] = useful
            if on_conflict == "first":
                merged[item] = useful[0]
            elif on_conflict == "any":
                texts = _union([entry.texts for entry in useful], reading.form, positive, self.name)
                merged[item] = _Entry(texts, self._one_split(items, item, useful))
        if conflicts and on_conflict == "error":
            raise LabelConflict(
                f"{self.name}: {len(conflicts)} items have rows that disagree (joined by {self.rule}):"
                f" {self._examples(items, conflicts)}",
                expected="one label per item",
                do=f"choose: --on-conflict {_resolving(conflicts.values(), reading.form, positive)}"
                + ("; or is another column the picture's path or id? --key COLUMN" if "column" in self.rule else ""),
                items=list(conflicts),
            )
        self.conflicts = len(conflicts)
        return merged

    def _check_flags(self, entries: Iterable[_Entry]) -> None:
        bad = sorted({text for entry in entries for text in entry.texts} - {"1", "0", ""})
        if bad:
            raise UsageError(
                f"{self.name}: {', '.join(bad[:_EXAMPLES])} in the columns {', '.join(self.values)}",
                expected="0 or 1 (or true/false, yes/no, empty) where several columns are labels",
                do="give one column, or say what a value means: --ignore VALUE, --uncertain VALUE",
            )

    def _one_split(self, items: Items, item: int, entries: Sequence[_Entry]) -> Split | None:
        """The part that all rows of an item name; two parts have no union."""
        if len({entry.split for entry in entries}) > 1:
            raise LabelConflict(
                f"{self.name}: rows of one item name different parts: {self._examples(items, {item: entries})}",
                expected="one part per item",
                do="choose: --on-conflict first or drop",
                items=[item],
            )
        return entries[0].split

    def _examples(self, items: Items, conflicts: Mapping[int, Sequence[_Entry]]) -> str:
        locators = dict(zip(items.ids.tolist(), items.locators, strict=True))
        shown = []
        for item, entries in islice(conflicts.items(), _EXAMPLES):
            told = sorted({self._told(entry) for entry in entries})
            shown.append(f"{locators[item]} ({' / '.join(told)})")
        return ", ".join(shown) + (" …" if len(conflicts) > _EXAMPLES else "")

    def _told(self, entry: _Entry) -> str:
        texts = entry.texts
        if len(self.values) > 1:
            texts = tuple(name for name, text in zip(self.values, texts, strict=True) if text == "1") or ("none",)
        return ";".join(texts) + (f" ({entry.split})" if entry.split else "")


def _resolving(conflicts: Iterable[Sequence[_Entry]], form: _Form, positive: str | None) -> str:
    """Which rules can resolve conflicts: two parts have no union, and of one label `any` takes the positive one."""
    told = list(conflicts)
    if any(len({entry.split for entry in entries}) > 1 for entries in told):
        return "first or drop"
    if form != "one" or positive is not None:
        return "first, any or drop"
    if all(any(entry.texts[0].lower() in POSITIVE for entry in entries) for entries in told):
        return "first, any or drop"
    return "first or drop, or any with --positive VALUE"


def _canonical_texts(cells: Iterable[Any]) -> list[str]:
    """`canonical` of a column; equal texts are looked at once."""
    known: dict[str, str] = {}
    found = []
    for cell in cells:
        if not isinstance(cell, str):
            found.append(canonical(cell))
            continue
        text = known.get(cell)
        found.append(known.setdefault(cell, canonical(cell)) if text is None else text)
    return found


def _pseudonyms(store: Store) -> Callable[[Any], Value]:
    """What is stored in place of a patient's id; a value that the column has already is its own pseudonym."""
    known = {canonical(v) for n in store.columns() if n.casefold() == PSEUDONYMS for v in store.column(n).values()}

    def pseudonym(cell: Any) -> Value:
        text = key_text(cell)
        return None if not text else text if text in known else store.pseudonym(text)

    return pseudonym


def _cell(cell: Any, kind: ColumnType, held: str) -> Value:
    """A cell in its column's type; one word in a column of numbers does not turn the others into text."""
    value = convert(cell, kind)
    if isinstance(value, str) and held != "TEXT":
        text = value.strip()
        return int(text) if is_integer(text) else float(text) if is_real(text) else value
    return value


def _names(value: str | Sequence[str] | None) -> list[str]:
    """One name, several or none, as a list: a text is one name and not its letters."""
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _form(values: Sequence[str], delimiter: str | None, positive: str | None) -> _Form:
    if len(values) > 1 and delimiter is not None:
        raise UsageError(
            f"--delimiter {delimiter!r} with the columns {', '.join(values)}",
            expected="one column of names, or several of 0 and 1",
            do="leave --delimiter away, or give one column",
        )
    if delimiter == "":
        raise UsageError("--delimiter is empty", expected="what stands between two names", do="--delimiter ';'")
    form: _Form = "names" if delimiter is not None else "flags" if len(values) > 1 else "one"
    if positive is not None and form != "one":
        raise UsageError(
            f"--positive {positive} with several labels per picture",
            expected="one column with one label in a cell",
            do="leave --positive away",
        )
    return form


def _union(texts: Sequence[tuple[str, ...]], form: _Form, positive: str | None, name: str) -> tuple[str, ...]:
    """The union of rows: the positive class if any row has it, any label that a row has."""
    if form == "flags":
        return tuple("1" if "1" in column else "0" if "0" in column else "" for column in zip(*texts, strict=True))
    if form == "names":
        return tuple(sorted({text for entry in texts for text in entry}))
    ones = [entry[0] for entry in texts]
    hits = [t for t in ones if t == positive or (positive is None and t.lower() in POSITIVE)]
    if not hits and positive is None:
        raise UsageError(
            f"{name}: --on-conflict any needs to know the positive class ({', '.join(sorted(set(ones)))})",
            do="name it: --positive VALUE, or choose first or drop",
        )
    return (hits[0] if hits else ones[0],)


def _split(value: Any, name: str) -> Split | None:
    text = canonical(value)
    if not text:
        return None
    if text.lower() not in _SPLITS:
        raise UsageError(f"{name}: the split {text!r}", expected="train, val or test", do="check --split-column")
    return _SPLITS[text.lower()]


def _classes(
    per_item: Mapping[int, _Entry], form: _Form, columns: Sequence[str], positive: str | None, name: str
) -> tuple[TaskKind, list[str], str | None]:
    """Kind, classes in order, and the positive class of a binary task."""
    if form == "flags":
        return "multi-label", list(columns), None
    names = sorted(_all_texts(per_item), key=_number_first)
    if form == "names":
        return "multi-label", names, None
    if positive is not None and positive not in names:
        raise NotFound(
            f"{name}: no item has the value {positive!r}",
            expected=f"one of: {', '.join(names)}",
            do="--positive VALUE",
        )
    if len(names) < 2:
        raise DataError(
            f"{name}: every labelled item has the value {names[0]!r}",
            expected="at least two classes",
            do="check --value",
        )
    if positive is None and len(names) > 2:
        return "multi-class", names, None
    negative, chosen = _two(names, positive)
    return "binary", [negative, chosen], chosen


def _two(names: Sequence[str], positive: str | None) -> tuple[str, str]:
    """The negative and the positive class of some values, two where the positive one is not named."""
    if positive is None:
        hits = [n for n in names if n.lower() in POSITIVE]
        positive = hits[0] if len(hits) == 1 else names[-1]
    rest = [n for n in names if n != positive]
    return (rest[0] if len(rest) == 1 else _other(positive)), positive


def _check_extends(
    before: Task, per_item: Mapping[int, _Entry], form: _Form, columns: Sequence[str], positive: str | None, name: str
) -> None:
    """Refuse to add what a task has no place for."""
    names = set(columns) if form == "flags" else _all_texts(per_item)
    single = before.kind != "multi-label"
    fits = names <= set(before.classes) or (single and before.classes[0] == _other(before.positive))
    if not fits or (single and form != "one") or positive not in (None, before.positive):
        told = "" if positive in (None, before.positive) else f", the positive one {positive}"
        raise UsageError(
            f"{name} has the classes {', '.join(sorted(names, key=_number_first))}{told}",
            expected=f"{before.kind} with {', '.join(before.classes)}, as task {before.name!r} has",
            do="import without --add to replace the task",
        )


def _all_texts(per_item: Mapping[int, _Entry]) -> set[str]:
    return {text for entry in per_item.values() for text in entry.texts}


def _other(positive: str | None) -> str:
    """The name of all classes but the positive one."""
    return f"not {positive}"


def _number_first(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text


def _labels(
    per_item: Mapping[int, _Entry], form: _Form, columns: Sequence[str], kind: TaskKind, classes: Sequence[str]
) -> list[Label]:
    labels = []
    for item, entry in sorted(per_item.items()):
        if kind != "multi-label":
            name = entry.texts[0] if entry.texts[0] in classes else classes[0]
            labels.append(Label(item, name, 1.0, entry.split))
        elif form == "flags":
            told = zip(columns, entry.texts, strict=True)
            labels += [Label(item, name, float(text), entry.split) for name, text in told if text]
        else:
            labels += [Label(item, name, float(name in entry.texts), entry.split) for name in classes]
    return labels


def _stored_names(store: Store, columns: Iterable[str], origin: str) -> list[str]:
    """Columns by the names the store gave them: one of ours gets the table's name in front."""
    known = {name.casefold(): name for name in store.columns()}
    return [known.get(name.casefold()) or known[f"{origin}_{name}".casefold()] for name in columns]
