"""Tables that users bring: delimiters, encodings, types, and what is refused."""

from __future__ import annotations

import csv
import datetime
import decimal
from pathlib import Path
from typing import Any

import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vecstore.errors import UsageError
from vecstore.tables import ColumnType, Table, read_table


def table(folder: Path, text: str | bytes, name: str = "t.csv") -> Table:
    """A table from the content of a file."""
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_table(path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(tmp_path: Path, delimiter: str) -> None:
    lines = [["file", "note", "age"], ["a b.png", "x, y; z", "7"], ["c.png", "", "8"]]
    path = tmp_path / "t.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter=delimiter).writerows(lines)
    found = read_table(path)
    assert found.columns == ("file", "note", "age")
    assert list(found.rows()) == [("a b.png", "x, y; z", "7"), ("c.png", None, "8")]
    assert list(found.typed_rows()) == [("a b.png", "x, y; z", 7), ("c.png", None, 8)]


def test_a_table_of_one_column_is_a_table(tmp_path: Path) -> None:
    assert list(table(tmp_path, "path\na b.png\nc;d.png\n").rows()) == [("a b.png",), ("c;d.png",)]
    assert list(table(tmp_path, "path").rows()) == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "-2", ""], "INTEGER"),
        (["001", "2"], "TEXT"),
        (["+1"], "TEXT"),
        (["1", "2.50", "1e-05"], "REAL"),
        (["12E4", "98E2"], "TEXT"),
        (["1.5", "nan"], "TEXT"),
        (["1.5", "inf"], "TEXT"),
        (["1.2.840"], "TEXT"),
        (["NA", "3"], "TEXT"),
        (["9223372036854775807"], "INTEGER"),
        (["9223372036854775808"], "TEXT"),
        (["1_000"], "TEXT"),
        (["٣"], "TEXT"),
        (["1e999"], "TEXT"),
        (["1.5", "12345678901234567890"], "TEXT"),
        (["", ""], "TEXT"),
        ([" 7", "8 "], "INTEGER"),
        (["-0"], "REAL"),
    ],
)
def test_a_column_is_a_number_only_if_every_value_survives(
    tmp_path: Path, values: list[str], expected: ColumnType
) -> None:
    found = table(tmp_path, "x,y\n" + "".join(f"{value},-\n" for value in values))
    assert found.types() == {"x": expected, "y": "TEXT"}
    kinds = {type(row[0]) for row in found.typed_rows() if row[0] is not None}
    assert kinds <= {{"INTEGER": int, "REAL": float, "TEXT": str}[expected]}


def test_the_messiest_real_table_is_read(shared: Path) -> None:
    """Line breaks and quotes in cells, and a last column without name."""
    found = read_table(shared / "cxr_covid" / "metadata_source.csv")
    assert len(found.columns) == 29
    assert found.columns[-1] == "column_29"
    with (shared / "cxr_covid" / "metadata_source.csv").open(encoding="utf-8", newline="") as file:
        expected = [tuple(cell or None for cell in row) for row in list(csv.reader(file))[1:]]
    assert list(found.rows()) == expected
    odir = read_table(shared / "fundus_odir" / "full_df_selected_patients.csv")
    assert odir.column("Normal") == odir.columns.index("Normal")  # "Normal " in the file
    assert odir.types()["Patient Age"] == "INTEGER"


def test_ids_that_are_not_all_numbers_stay_text(shared: Path) -> None:
    types = read_table(shared / "cxr_covid" / "labels.csv").types()
    assert types["patientid"] == "TEXT"  # 311a
    assert read_table(shared / "derm_ham10000" / "labels.csv").types()["age"] in ("INTEGER", "REAL")


def test_columns_are_found_in_any_case_and_missing_ones_listed(tmp_path: Path) -> None:
    found = table(tmp_path, "Path,age,AGE\n")
    assert (found.column("path"), found.column("age"), found.column("AGE")) == (0, 1, 2)
    with pytest.raises(UsageError, match=r"t\.csv: no column 'Age'; expected one of: Path, age, AGE"):
        found.column("Age")


def test_short_rows_are_filled_and_long_ones_refused(tmp_path: Path) -> None:
    assert list(table(tmp_path, "a,b\n1\n\n2,3,\n").rows()) == [("1", None), ("2", "3")]
    with pytest.raises(UsageError, match=r"t\.csv, line 3: 3 cells; expected 2 as in the header"):
        list(table(tmp_path, "a,b\n1,2\n1,2,3\n").rows())


def test_long_cells_are_read(tmp_path: Path) -> None:
    text = "x" * 300_000
    assert list(table(tmp_path, f"a,b\n{text},1\n").rows()) == [(text, "1")]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "t.csv: the file is empty; expected a table with a header line"),
        (b" \n ", "t.csv: the file is empty"),
        (b"a,b\nM\xfcller,1\n", "not UTF-8 text (byte 0xFC); expected UTF-8; run: iconv -f latin1 -t utf-8"),
        ("a,b\n".encode("utf-16"), "not UTF-8 text (it is UTF-16)"),
        (b"PK\x03\x04" + b"\0" * 40, "a zip file, perhaps an Excel workbook; expected a CSV"),
        (b"\x89PNG\r\n\x1a\n\0\0", "png; expected a CSV"),
        (b"a,b\n1\0,2\n", "binary content"),
        (b"x,y,x,y,z\n", "column names that occur twice: x, y; expected each name once"),
        (b"a, a\n", "column names that occur twice: a"),
        (b"PAR1" + b"\0" * 40, "damaged Parquet"),
    ],
)
def test_what_is_no_table_is_refused_with_its_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(UsageError) as refused:
        table(tmp_path, content)
    assert reason in str(refused.value)


def test_a_late_byte_that_is_not_utf8_is_refused_when_it_comes(tmp_path: Path) -> None:
    found = table(tmp_path, b"a,b\n" + b"1,2\n" * 100_000 + b"\xe9,2\n")
    with pytest.raises(UsageError, match=r"byte 0xE9"):
        found.types()


def test_absent_files_and_other_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file or directory; expected a table"):
        read_table(tmp_path / "absent.csv")
    with pytest.raises(UsageError, match="a table of type int; expected a CSV"):
        read_table(7)


def frame_columns() -> dict[str, Any]:
    """Columns of every type that a frame may have."""
    return {
        "path": ["a.png", "b.png"],
        "age": [7, None],
        "score": [0.5, float("nan")],
        "flag": [True, False],
        "day": [datetime.date(2024, 2, 29), None],
    }


ROWS = [("a.png", 7, 0.5, True, "2024-02-29"), ("b.png", None, None, False, None)]
TYPES = {"path": "TEXT", "age": "INTEGER", "score": "REAL", "flag": "INTEGER", "day": "TEXT"}


def test_arrow_tables_parquet_and_polars_frames_keep_their_types(tmp_path: Path) -> None:
    arrow = pa.table(frame_columns())
    pq.write_table(arrow, tmp_path / "t.parquet")
    for source in (arrow, polars.DataFrame(frame_columns()), tmp_path / "t.parquet"):
        found = read_table(source)
        assert found.types() == TYPES
        assert list(found.rows()) == ROWS
        assert list(found.rows()) == ROWS  # again
        assert list(found.typed_rows()) == [(*row[:3], int(row[3]), row[4]) for row in ROWS]


def test_pandas_frames_are_read_with_their_named_index() -> None:
    frame = pandas.DataFrame({"path": ["a.png", "b.png"], "label": ["x", None], "n": [1, 2]})
    assert list(read_table(frame).rows()) == [("a.png", "x", 1), ("b.png", None, 2)]
    assert read_table(frame.set_index("path")).column("path") == 2
    assert read_table(frame.iloc[[1]]).columns == ("path", "label", "n")
    codes = read_table(frame.astype({"label": "category"}))
    assert list(codes.rows()) == [("a.png", "x", 1), ("b.png", None, 2)]
    with pytest.raises(UsageError, match="expected one type per column"):
        read_table(pandas.DataFrame({"mixed": [1, "a", b"b"]}, dtype=object))


def test_other_types_become_text_or_numbers() -> None:
    arrow = pa.table(
        {
            "price": [decimal.Decimal("1.50")],
            "list": [[1, 2]],
            "bytes": [b"\x01\xff"],
            "big": pa.array([2**64 - 1], pa.uint64()),
            "time": [datetime.datetime(2024, 1, 2, 3, 4, 5)],
        }
    )
    found = read_table(arrow)
    assert list(found.typed_rows()) == [(1.5, "[1, 2]", "01ff", str(2**64 - 1), "2024-01-02T03:04:05")]
    assert list(found.types().values()) == ["REAL", "TEXT", "TEXT", "TEXT", "TEXT"]
