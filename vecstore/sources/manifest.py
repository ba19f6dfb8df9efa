"""A manifest: a table with the paths of pictures and what is known about each."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np

from vecstore.errors import ArchiveError, UsageError
from vecstore.files import locator_part
from vecstore.records import Raw
from vecstore.sources.base import Source, archive_name, read_file
from vecstore.tables import Cell, Table, read_table

PATH_COLUMNS = ("path", "file", "filename", "image", "locator")
"""Names of the column with the paths, in any case; the first that is there."""

_LOOKED_FOR = 20
"""Rows at the start of which one picture at least has to be there."""


class ManifestSource(Source):
    """A CSV, TSV or Parquet file with a path per row; its other columns become typed metadata.

    Paths are relative to the manifest's folder. A picture that is not there is a failure of its own.

    Parameters
    ----------
    path : Path
    path_column : str, optional
        Default: the first of `PATH_COLUMNS` that the table has.

    Raises
    ------
    ArchiveError
        No path column, or from `list`: a row without path, outside the manifest's folder, or with
        a path that another row gives with other values.
    """

    kind: ClassVar[str] = "manifest"

    def __init__(self, path: Path, path_column: str | None = None) -> None:
        self.path = path
        self.name = archive_name(path, path.suffix)
        # Lexically, as the names in the table are: a link to the folder stays one.
        self._folder = os.path.dirname(os.path.abspath(path))  # noqa: PTH100, PTH120
        try:
            self._table = read_table(path)
        except UsageError as error:
            raise ArchiveError(error.fact, error.expected, error.do) from error
        self._column = _path_column(self._table, path_column)

    def list(self) -> Iterator[Raw]:
        """Rows in the order of the table; a row that says again what another said is left out."""
        again = self._check()
        names = self._table.columns
        for number, row in enumerate(self._table.typed_rows()):
            if number in again:
                continue
            relative = self._relative(str(row[self._column]), number)
            known = {name: row[i] for i, name in enumerate(names) if i != self._column}
            yield _raw(os.path.join(self._folder, relative), _locator(relative), known)  # noqa: PTH118

    def _check(self) -> frozenset[int]:
        """Refuse bad paths before anything is read; rows that repeat another whole are returned."""
        # 16 bytes a row: the table itself may be larger than memory.
        paths, rows = array("q"), array("q")
        for number, row in enumerate(self._table.rows()):
            paths.append(hash(self._relative(row[self._column], number)))
            rows.append(hash(row))
        order = np.argsort(paths, kind="stable") if len(paths) else np.zeros(0, np.int64)
        self._check_folder()
        sorted_paths, sorted_rows = np.asarray(paths)[order], np.asarray(rows)[order]
        same = np.flatnonzero(sorted_paths[1:] == sorted_paths[:-1]) + 1
        for i in same.tolist():
            if sorted_rows[i] != sorted_rows[i - 1]:
                first, second = _row_number(int(order[i - 1])), _row_number(int(order[i]))
                raise ArchiveError(
                    f"{self.path}: rows {first} and {second} give one picture different values",
                    "one row per picture",
                    "keep one of them; import a table with several rows per picture by: vecstore label",
                )
        return frozenset(order[same].tolist())

    def _check_folder(self) -> None:
        """Refuse a table of which no picture is where it should be: it lies in another folder."""
        first = list(islice(self._table.rows(), _LOOKED_FOR))
        names = [self._relative(row[self._column], number) for number, row in enumerate(first)]
        if len(names) == _LOOKED_FOR and not any(map(os.path.lexists, (os.path.join(self._folder, n) for n in names))):  # noqa: PTH118
            raise ArchiveError(
                f"{self.path}: none of its first {len(names)} pictures is there, such as {names[0]}",
                f"paths of files below {self._folder}",
                "put the table into the folder that its paths start from, or name their column: --path-column",
            )

    def _relative(self, value: Cell, number: int) -> str:
        """A row's path relative to the manifest's folder."""
        if value is None:
            raise ArchiveError(
                f"{self.path}: row {_row_number(number)} has no {self._table.columns[self._column]}",
                "a path in every row",
            )
        text = str(value)
        if "/" not in text:
            text = text.replace("\\", "/")
        relative = os.path.relpath(os.path.join(self._folder, text), self._folder)  # noqa: PTH118
        if relative.split("/", 1)[0] in ("..", "."):
            raise ArchiveError(
                f"{self.path}: row {_row_number(number)}: {text} is not a file in the manifest's folder",
                "paths of files in it or below it",
                "move the manifest to a folder above all pictures",
            )
        return relative


def _row_number(number: int) -> int:
    """As people count: the header is row 1."""
    return number + 2


def _locator(relative: str) -> str:
    return "/".join(locator_part(part) for part in relative.split("/"))


def _raw(path: str, locator: str, known: dict[str, Cell]) -> Raw:
    try:
        found = os.stat(path)  # noqa: PTH116 - a million of them
    except (OSError, ValueError):
        size = time_ns = None  # its `read` will say why
    else:
        size, time_ns = found.st_size, found.st_mtime_ns
    return Raw(locator, size, time_ns, partial(read_file, path, locator, claimed=True), known)


def _path_column(table: Table, name: str | None) -> int:
    if name is not None:
        try:
            return table.column(name)
        except UsageError as error:
            raise ArchiveError(error.fact, error.expected, "give another --path-column") from error
    lower = [column.lower() for column in table.columns]
    for candidate in PATH_COLUMNS:
        if candidate in lower:
            return lower.index(candidate)
    raise ArchiveError(
        f"{table.name}: no column with paths among {', '.join(table.columns)}",
        f"one named {', '.join(PATH_COLUMNS)}",
        "name it with --path-column",
    )
