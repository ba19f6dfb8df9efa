"""Patients, studies and pictures on both sides of a split, and labels that contradict each other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vecstore.audit.findings import Finding, Labelled, Severity, Shown, bundles, counted
from vecstore.dataset import Groups
from vecstore.dataset.groups import numbered
from vecstore.dataset.levels import LEVEL_COLUMNS, PARTS, level_column, value_text
from vecstore.errors import NotFound
from vecstore.records import BoolArray, IntArray
from vecstore.store import Items, Store

_TRAIN, _VAL, _TEST = (1 << PARTS.index(part) for part in PARTS[1:])

_PLURAL = {"patient": "patients", "study": "studies", "series": "series", "lesion": "lesions"}


def unit_columns(store: Store, group: str | None) -> list[tuple[str, str]]:
    """Columns whose equal values must not be divided: (what they are, their name); the group column first."""
    found: dict[str, str] = {}
    if group is not None:
        found[group] = f"groups of {group}"
    for level in LEVEL_COLUMNS:
        try:
            column = level_column(store, level)
        except NotFound:
            continue
        if found.get(column, "groups").startswith("groups"):
            found[column] = _PLURAL[level]
    return [(what, column) for column, what in found.items()]


def crossing(bits: IntArray) -> tuple[BoolArray, BoolArray]:
    """Which codes are in the test part and in another one; and which in train and val, and not in test."""
    test = (bits & _TEST > 0) & (bits & (_TRAIN | _VAL) > 0)
    return test, (bits & _TEST == 0) & (bits & (_TRAIN | _VAL) == _TRAIN | _VAL)


def units_across_parts(store: Store, labelled: Labelled, shown: Shown, group: str | None) -> Iterator[Finding]:
    """A finding per level: patients, studies, series, lesions, or the group column asked for."""
    task = labelled.task.name
    columns = unit_columns(store, group)
    for what, column in columns:
        title = f"{what} across parts"
        values = store.column(column, shown.items.ids[labelled.places])
        told = [values.get(int(item)) for item in shown.items.ids[labelled.places].tolist()]
        known = np.array([value is not None for value in told], np.bool_)
        codes = np.where(known, numbered(told), -1)
        counts: dict[str, int | float | None] = {"groups": len(np.unique(codes[known]))}
        if not labelled.has_parts:
            differing = np.flatnonzero(labelled.disagreeing(codes))
            several = np.flatnonzero(np.bincount(codes[known], minlength=1) > 1)
            counts |= {"with_several_items": len(several), "with_several_labels": len(differing)}
            yield Finding(
                "units_across_parts",
                "fine",
                title,
                f"no official split; {len(several)} of {counts['groups']} {what} have several pictures,"
                f" {len(differing)} of them with different labels: a split by picture would divide them",
                task,
                column,
                counts,
                shown.examples(
                    (value_text(told[int(np.flatnonzero(codes == code)[0])]), places)
                    for code, places in zip(
                        differing[: shown.most].tolist(),
                        bundles(codes, labelled.places, differing[: shown.most]),
                        strict=True,
                    )
                ),
                f"split by {column}, as vecstore's folds do (train --group {column})",
            )
            continue
        test, val = crossing(labelled.parts_of(codes))
        chosen = np.flatnonzero(test if test.any() else val)
        here = np.isin(codes, np.flatnonzero(test | val))
        counts |= {"across_test": int(test.sum()), "across_train_and_val": int(val.sum()), "items": int(here.sum())}
        yield Finding(
            "units_across_parts",
            _severity(test, val),
            title,
            f"of {counts['groups']} {what} {counts['across_test']} are in the test part and in another one,"
            f" {counts['across_train_and_val']} in train and val",
            task,
            column,
            counts,
            shown.examples(
                (value_text(told[int(np.flatnonzero(codes == code)[0])]), places)
                for code, places in zip(
                    chosen[: shown.most].tolist(), bundles(codes, labelled.places, chosen[: shown.most]), strict=True
                )
            ),
            _split_advice(test, val, f"rows of {what} that are in the test part"),
        )
    if not columns:
        yield Finding(
            "units_across_parts",
            "not checked",
            "groups across parts",
            "the store has no column of patients, studies or lesions",
            task,
            do="import one: vecstore label STORE TABLE … --columns patient_id; then --group patient_id",
        )


def _severity(test: BoolArray, val: BoolArray) -> Severity:
    return "problem" if test.any() else "warning" if val.any() else "fine"


def _split_advice(test: BoolArray, val: BoolArray, what: str) -> str:
    if test.any():
        return f"scores on this split are too good unless {what} are left out of training, as vecstore train does"
    if val.any():
        return "choices made on the val part are too good; vecstore joins it to training and cross-validates by group"
    return ""


def identical_across_parts(labelled: Labelled, shown: Shown) -> Finding:
    """Pictures of the same pixels in several parts."""
    contents = shown.items.contents[labelled.places]
    codes = np.unique(contents, return_inverse=True)[1].astype(np.int64)
    bits = labelled.parts_of(codes)
    test, val = crossing(bits)
    title, task = "identical pictures across parts", labelled.task.name
    several = np.bincount(codes, minlength=1) > 1
    counts: dict[str, int | float | None] = {
        "identical_groups": int(several.sum()),
        "identical_items": int(several[codes].sum()) if len(codes) else 0,
    }
    if not labelled.has_parts:
        told = (
            f"no official split; {counts['identical_items']} items are copies ({counts['identical_groups']} pictures)"
        )
        return Finding("identical_across_parts", "fine", title, told, task, counts=counts)
    across = test | val
    counts |= {
        "across_test": int(test.sum()),
        "across_train_and_val": int(val.sum()),
        "items": int(across[codes].sum()),
    }
    chosen = np.flatnonzero(test if test.any() else val)[: shown.most]
    return Finding(
        "identical_across_parts",
        _severity(test, val),
        title,
        f"in the test part and in another one: {counted(int(test.sum()), 'picture')},"
        f" in train and val: {int(val.sum())} ({counts['items']} items)",
        task,
        counts=counts,
        examples=shown.examples(("identical", places) for places in bundles(codes, labelled.places, chosen)),
        do=_split_advice(test, val, "copies of test pictures"),
    )


def identical_with_other_labels(labelled: Labelled, shown: Shown) -> Finding:
    """Pictures of the same pixels whose labels contradict each other."""
    codes = np.unique(shown.items.contents[labelled.places], return_inverse=True)[1].astype(np.int64)
    differing = np.flatnonzero(labelled.disagreeing(codes))
    here = int(np.isin(codes, differing).sum())
    return Finding(
        "identical_with_other_labels",
        "problem" if len(differing) else "fine",
        "identical pictures, different labels",
        f"{counted(len(differing), 'picture')} with different labels ({here} items)",
        labelled.task.name,
        counts={"pictures": len(differing), "items": here},
        examples=shown.examples(
            ("identical", places) for places in bundles(codes, labelled.places, differing[: shown.most])
        ),
        do="look at them and correct the label table, or leave them out" if len(differing) else "",
    )


def identical_across_groups(items: Items, groups: Groups, values: IntArray, shown: Shown) -> Finding:
    """Pictures of the same pixels that belong to different patients.

    Parameters
    ----------
    values : ndarray of shape (n,), int64
        Number of each item's value in the group column; -1 where it has none.
    """
    title = "identical pictures in different groups"
    if groups.column is None:
        told, do = "no group column", "name one: --group COLUMN"
        return Finding("identical_across_groups", "not checked", title, told, do=do)
    codes = np.unique(items.contents, return_inverse=True)[1].astype(np.int64)
    known = values >= 0
    low, high = np.full(int(codes.max(initial=-1)) + 1, len(values)), np.full(int(codes.max(initial=-1)) + 1, -1)
    np.minimum.at(low, codes[known], values[known])
    np.maximum.at(high, codes[known], values[known])
    chosen = np.flatnonzero((high > low) & (high >= 0))
    here = int(np.isin(codes, chosen).sum())
    return Finding(
        "identical_across_groups",
        "warning" if len(chosen) else "fine",
        title,
        f"{counted(len(chosen), 'picture')} of several groups ({here} items)",
        about=groups.column,
        counts={"pictures": len(chosen), "items": here},
        examples=shown.examples(
            ("identical", places) for places in bundles(codes, np.arange(len(items)), chosen[: shown.most])
        ),
        do="one patient under two ids, or a copy: vecstore makes them one group; correct the table"
        if len(chosen)
        else "",
    )


def group_column(groups: Groups, known: list[str], values: IntArray) -> Finding:
    """Whether it is known what must not be divided.

    Parameters
    ----------
    known : list of str
        Columns that could say so.
    values : ndarray of shape (n,), int64
        As of `identical_across_groups`.
    """
    title, n = "group column", len(values)
    if groups.column is None:
        told = "no column says which pictures are of one patient: each stands for itself"
        do = "if some are of one patient, scores are too good: import the column, or name it: --group COLUMN"
        if known:
            told = f"--group none: the column {known[0]} is there, and not used"
            do = f"leave --group away, or --group {known[0]}"
        return Finding("group_column", "warning", title, told, counts={"items": n}, do=do)
    count = len(np.unique(values[values >= 0]))
    missing = int(groups.missing.sum())
    told = f"{groups.column}: {count} groups of {n} items"
    if missing:
        told += f"; {counted(missing, 'item')} without a value"
    return Finding(
        "group_column",
        "warning" if missing else "fine",
        title,
        told,
        about=groups.column,
        counts={"groups": count, "items": n, "without_group": missing},
        do="complete the column: without it each picture is a group of its own, on any side of a fold"
        if missing
        else "",
    )


def rows_in_conflict(labelled: Labelled) -> Finding:
    """Whether rows of the label table disagreed, and what was done about it."""
    told = labelled.task.provenance
    rule, n = told.get("on_conflict"), told.get("conflicts")
    title, name = "conflicting rows of the label table", labelled.task.name
    if rule in (None, "error") or n == 0:
        return Finding("rows_in_conflict", "fine", title, "no item has rows that disagree", name, counts={"items": 0})
    count = "an unknown number of items" if n is None else counted(int(n), "item")
    done = {"first": "the first row counts", "any": "the positive class counts", "drop": "they have no label"}
    return Finding(
        "rows_in_conflict",
        "warning",
        title,
        f"{count} had rows that disagree; {done.get(str(rule), str(rule))} (--on-conflict {rule})",
        name,
        about=str(told.get("table", "")),
        counts={"items": None if n is None else int(n)},
        do="correct the table: a label that depends on the order of rows is no label",
    )
