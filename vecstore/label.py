"""`label`: a table of labels becomes a task."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from vecstore.labelling import Conflict, LabelResult, Policy, import_table
from vecstore.store import Store, using


def label(
    store: Store | str | os.PathLike[str],
    table: Any = None,
    *,
    task: str,
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
    """Import labels.

    Parameters
    ----------
    store : Store or path
    table : path, or pandas, Polars or PyArrow table, optional
        CSV, TSV or Parquet. Not needed with `column`.
    task : str
        A task of this name is replaced.
    key : str, optional
        The table's column that names the picture: by path relative to the archive, path without a leading folder,
        unique base name, unique stem (the cell may end in the suffix of another picture format), item id, or the
        item column of the same name ("A=B": table column A is item column B). The first of these that fits any row
        is the rule of the whole import, and named in the result; rows that it does not fit are counted. A cell with
        folders is joined by base name or stem only where they agree with those of the picture.
    value : str or sequence of str, optional
        The column with the label; several columns of 0 and 1 make a multi-label task.
    column : str, optional
        An item column as the label, instead of a table.
    split_column : str, optional
        The column with the official part: train, val or test; with `column`, an item column.
    columns : str or sequence of str
        Further columns of the table that become item columns. What a column PatientID holds is stored as
        pseudonyms, as of DICOM files.
    positive : str, optional
        The positive value; with more than two values, all others are negative.
    ignore : str or sequence of str
        Values that mean "not labelled".
    uncertain : str or sequence of str, optional
        Values that mean "uncertain", letter case ignored. Of several columns of 0 and 1 by default -1, "u" and
        "uncertain".
    uncertain_policy : {"ignore", "ones", "zeros"}
        What an uncertain label is taken for: unknown, positive, or negative (CheXpert's U-Ignore, U-Ones and U-Zeros;
        Irvin et al., 2019). An empty cell is unknown under each.
    delimiter : str, optional
        Several labels in one cell, divided by this: a multi-label task.
    on_conflict : {"error", "first", "any", "drop"}
        What to do with items whose rows disagree.
    source : str, optional
        Only items of this archive.
    add : bool
        Extend the task instead of replacing it.

    Returns
    -------
    LabelResult

    Raises
    ------
    NotFound, Ambiguous, LabelConflict, DataError, UsageError
        Nothing was changed.
    """
    with using(store) as opened:
        return import_table(
            opened,
            table,
            task,
            key=key,
            value=value,
            column=column,
            split_column=split_column,
            columns=columns,
            positive=positive,
            ignore=ignore,
            uncertain=uncertain,
            uncertain_policy=uncertain_policy,
            delimiter=delimiter,
            on_conflict=on_conflict,
            source=source,
            add=add,
        )
