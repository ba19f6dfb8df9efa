"""Tables that users bring: CSV, TSV, Parquet, and pandas, Polars or pyarrow tables.

Rows are streamed. A text file has no types, so a column's type is what all its values survive:
`001` stays text, because it would come back as `1`.
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from vecstore.errors import UsageError
from vecstore.files import SNIFF_BYTES, sniff
from vecstore.records import Value

ColumnType = Literal["TEXT", "INTEGER", "REAL"]
Cell = str | int | float | bool | None
Row = tuple[Cell, ...]

DELIMITERS = ",\t;|"
_SAMPLE_CHARACTERS = 1 << 16
_LONGEST_FIELD = (1 << 31) - 1
_INT64 = 1 << 63
# A mantissa without point needs a signed exponent, as printf writes it: `12E4` is a name, `1e-05` a number.
_REAL = re.compile(r"-?(?:(?:0|[1-9]\d*)(?:\.\d*(?:[eE][+-]?\d+)?|[eE][+-]\d+)?|\.\d+(?:[eE][+-]?\d+)?)")


class Table:
    """A named sequence of rows that can be read more than once.

    Parameters
    ----------
    name : str
        For messages.
    columns : sequence of str
        As in the header, blanks around a name removed; an empty name becomes `column_<n>`.
    open_rows : callable
        Starts a new pass over the rows.
    known : sequence of {"TEXT", "INTEGER", "REAL"}, optional
        Types of the columns, where the format has them; otherwise they are found by reading all rows.

    Raises
    ------
    UsageError
        A column name occurs twice.
    """

    def __init__(
        self,
        name: str,
        columns: Sequence[str],
        open_rows: Callable[[], Iterator[Row]],
        known: Sequence[ColumnType] | None = None,
    ) -> None:
        self.name = name
        self.columns = _named(name, columns)
        self._open_rows = open_rows
        self._types = None if known is None else dict(zip(self.columns, known, strict=True))

    def rows(self) -> Iterator[Row]:
        """All rows as the table has them: text in a CSV; None for an empty cell."""
        return self._open_rows()

    def types(self) -> dict[str, ColumnType]:
        """The type that all values of a column have; TEXT for a column without values.

        Reads a text file once, and remembers.
        """
        if self._types is None:
            guesses = [_Guess() for _ in self.columns]
            for row in self.rows():
                for guess, cell in zip(guesses, row, strict=True):
                    guess.see(cell)
            self._types = {name: guess.type for name, guess in zip(self.columns, guesses, strict=True)}
        return self._types

    def type_of(self, at: int, cells: Iterable[Cell]) -> ColumnType:
        """The type of one column, its cells having been read already."""
        if self._types is not None:
            return self._types[self.columns[at]]
        guess = _Guess()
        for cell in set(cells):  # a text file's cells are texts: equal ones are alike
            guess.see(cell)
        return guess.type

    def typed_rows(self) -> Iterator[tuple[Value, ...]]:
        """All rows with each value in its column's type."""
        types = [self.types()[name] for name in self.columns]
        for row in self.rows():
            yield tuple(convert(cell, kind) for cell, kind in zip(row, types, strict=True))

    def column(self, name: str) -> int:
        """Position of a column, by its exact name or, where that is unique, in any case.

        Raises
        ------
        UsageError
            No such column; lists those that there are.
        """
        if name in self.columns:
            return self.columns.index(name)
        alike = [i for i, column in enumerate(self.columns) if column.lower() == name.strip().lower()]
        if len(alike) == 1:
            return alike[0]
        raise UsageError(f"{self.name}: no column {name!r}", f"one of: {', '.join(self.columns)}")


class _Guess:
    """The type that all values seen so far survive."""

    def __init__(self) -> None:
        self._integer = self._real = True
        self._empty = True

    def see(self, cell: Cell) -> None:
        if cell is None or not (self._integer or self._real):
            return
        self._empty = False
        if isinstance(cell, str):
            text = cell.strip()
            self._integer = self._integer and is_integer(text)
            self._real = self._real and is_real(text)
        elif isinstance(cell, float):
            self._integer = False

    @property
    def type(self) -> ColumnType:
        if self._empty:
            return "TEXT"
        return "INTEGER" if self._integer else "REAL" if self._real else "TEXT"


def is_integer(text: str) -> bool:
    """Whether a text is an integer that comes back as the same text and fits 64 bits.

    >>> is_integer("12"), is_integer("012"), is_integer("+1"), is_integer("9" * 19)
    (True, False, False, False)
    """
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 19:
        return False
    return str(int(text)) == text and -_INT64 <= int(text) < _INT64


def is_real(text: str) -> bool:
    """Whether a text is a finite decimal number, and no name or id made of digits.

    >>> is_real("1.50"), is_real("1e-05"), is_real("001"), is_real("12E4"), is_real("nan")
    (True, True, False, False, False)
    >>> is_real("12345678901234567890")
    False
    """
    if not text.isascii() or not _REAL.fullmatch(text) or not math.isfinite(float(text)):
        return False
    # An id of 17 digits and more would come back as another.
    return "." in text or "e" in text.lower() or abs(int(text)) <= 2**53


def convert(cell: Cell, kind: ColumnType) -> Value:
    """A cell as a value of its column's type.

    >>> convert("7", "INTEGER"), convert("7", "REAL"), convert(True, "INTEGER"), convert(None, "TEXT")
    (7, 7.0, 1, None)
    """
    if cell is None:
        return None
    if kind == "INTEGER":
        return int(cell)
    if kind == "REAL":
        return float(cell)
    return cell if isinstance(cell, str) else str(cell)


def read_table(source: Any, name: str | None = None) -> Table:
    """Open a table; rows are read when asked for.

    Parameters
    ----------
    source : str, path, or table
        A CSV (comma, semicolon, tab or bar; UTF-8), TSV or Parquet file, or an object that speaks
        the Arrow stream protocol (`__arrow_c_stream__`): a pandas or Polars frame, a pyarrow table.
        The index of a pandas frame becomes a column if it has a name.
    name : str, optional
        For messages; default: the file's name, or "the table".

    Raises
    ------
    UsageError
        Absent, not readable as a table, not UTF-8, or with a column name twice.
    """
    if hasattr(source, "__arrow_c_stream__"):
        return _arrow_table(name or "the table", source)
    if not isinstance(source, (str, os.PathLike)):
        raise UsageError(
            f"a table of type {type(source).__name__}",
            "a CSV, TSV or Parquet file, or a pandas, Polars or pyarrow table",
        )
    path = Path(source)
    name = name or path.name
    try:
        with path.open("rb") as file:
            head = file.read(SNIFF_BYTES)
    except OSError as error:
        raise UsageError(f"{path}: {(error.strerror or str(error)).lower()}", "a table") from error
    if sniff(head) == "parquet":
        return _parquet_table(name, path)
    _refuse_no_text(name, head)
    return _text_table(name, path)


def _named(table: str, columns: Sequence[str]) -> tuple[str, ...]:
    names = tuple(column.strip() or f"column_{n}" for n, column in enumerate(columns, 1))
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(
            f"{table}: column names that occur twice: {', '.join(twice)}", "each name once", "rename one of them"
        )
    return names


def _refuse_no_text(name: str, head: bytes) -> None:
    if not head.strip():
        raise UsageError(f"{name}: the file is empty", "a table with a header line")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _not_utf8(name, "it is UTF-16", "utf-16")
    kind = sniff(head)
    if kind is not None or b"\0" in head:
        what = "a zip file, perhaps an Excel workbook" if kind == "zip" else kind or "binary content"
        raise UsageError(f"{name}: {what}", "a CSV, TSV or Parquet file", "export it as CSV (UTF-8)")


def _not_utf8(name: str, fact: str, encoding: str) -> UsageError:
    return UsageError(
        f"{name}: not UTF-8 text ({fact})", "UTF-8", f"run: iconv -f {encoding} -t utf-8 {name} > utf8_{name}"
    )


def _text_table(name: str, path: Path) -> Table:
    csv.field_size_limit(_LONGEST_FIELD)  # of the process; the default refuses a long report
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            sample = file.read(_SAMPLE_CHARACTERS)
            delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(sample, complete=not file.read(1))
            file.seek(0)
            header = next(csv.reader(file, delimiter=delimiter), [])
    except UnicodeDecodeError as error:
        raise _not_utf8(name, _where(error), "latin1") from error
    except csv.Error as error:
        raise UsageError(f"{name}: header line: {error}", "a table with a header line") from error
    columns = _named(name, header)

    def rows() -> Iterator[Row]:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter)
            try:
                next(reader, None)
                for cells in reader:
                    if cells:
                        yield _row(name, reader.line_num, cells, len(columns))
            except UnicodeDecodeError as error:
                raise _not_utf8(name, _where(error), "latin1") from error
            except csv.Error as error:
                raise UsageError(f"{name}, line {reader.line_num}: {error}", "a well-formed CSV file") from error

    return Table(name, columns, rows)


def _where(error: UnicodeDecodeError) -> str:
    return f"byte 0x{error.object[error.start]:02X}"


def _delimiter(sample: str, *, complete: bool) -> str:
    """The one that divides the first lines into equally many columns, and the most of them."""

    def fit(delimiter: str) -> tuple[bool, int]:
        try:
            rows = [row for row in csv.reader(sample.splitlines(keepends=True), delimiter=delimiter) if row]
        except csv.Error:
            return (False, 0)
        if not complete and len(rows) > 1:
            rows.pop()  # cut off in the middle
        width = len(rows[0]) if rows else 0
        return (width > 1 and all(len(row) == width for row in rows), width)

    # `max` takes the first of equals: the comma.
    return max(DELIMITERS, key=fit)


def _row(name: str, line: int, cells: list[str], width: int) -> Row:
    if len(cells) > width and any(cells[width:]):
        raise UsageError(
            f"{name}, line {line}: {len(cells)} cells",
            f"{width} as in the header",
            "quote cells that hold the delimiter",
        )
    padded = cells[:width] + [""] * (width - len(cells))
    return tuple(cell or None for cell in padded)


def _parquet_table(name: str, path: Path) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
    except (pa.ArrowException, OSError) as error:
        raise UsageError(f"{name}: damaged Parquet: {error}", "a Parquet file") from error

    def batches() -> Iterator[Any]:
        with pq.ParquetFile(path) as file:
            try:
                yield from file.iter_batches()
            except (pa.ArrowException, OSError) as error:
                raise UsageError(f"{name}: damaged Parquet: {error}", "a Parquet file") from error

    return _of_batches(name, schema, batches)


def _arrow_table(name: str, source: Any) -> Table:
    import pyarrow as pa

    try:
        schema = pa.RecordBatchReader.from_stream(source).schema
    except pa.ArrowException as error:
        # Mostly a pandas column of mixed types, which Arrow refuses by name.
        raise UsageError(f"{name}: {error}", "one type per column") from error
    return _of_batches(name, schema, lambda: pa.RecordBatchReader.from_stream(source))


def _of_batches(name: str, schema: Any, batches: Callable[[], Iterator[Any]]) -> Table:
    kept = [i for i, column in enumerate(schema.names) if not re.fullmatch(r"__index_level_\d+__", column)]

    def rows() -> Iterator[Row]:
        for batch in batches():
            columns = [batch.column(i).to_pylist() for i in kept]
            for cells in zip(*columns, strict=True):
                yield tuple(_cell(cell) for cell in cells)

    known = [_arrow_type(schema.field(i).type) for i in kept]
    return Table(name, [schema.names[i] for i in kept], rows, known)


def _arrow_type(kind: Any) -> ColumnType:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_boolean(kind) or (pa.types.is_integer(kind) and kind != pa.uint64()):
        return "INTEGER"
    return "REAL" if pa.types.is_floating(kind) or pa.types.is_decimal(kind) else "TEXT"


def _cell(value: Any) -> Cell:
    """A cell of an Arrow column: scalars as they are, dates in ISO form, the rest as JSON."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return value or None
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    if isinstance(value, (list, dict)):
        return json.dumps(value, default=str, ensure_ascii=False)
    if isinstance(value, bytes):
        return value.hex()
    return float(value) if type(value).__name__ == "Decimal" else str(value)
