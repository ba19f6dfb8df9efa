"""`where`: a SQLite expression over the metadata columns, and nothing else.

Three walls, each enough for most attacks: the text is looked at (strings skipped), the connection is
read-only with an authorizer that knows one view, and a progress handler holds a deadline.
"""

from __future__ import annotations

import difflib
import re
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from vecstore.errors import PredicateRefused
from vecstore.records import IntArray
from vecstore.store.catalog import connect, quoted, sqlite_errors, visible

DEADLINE_SECONDS = 20.0
_STEPS = 1_000
"""Of SQLite's machine, between two looks at the clock: some 60 items, each of which may be slow, of long texts."""
_FUNCTIONS = frozenset(
    "glob lower upper length substr substring instr trim ltrim rtrim abs round coalesce ifnull nullif iif min max "
    "date julianday strftime typeof like".split()
)
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 1_000_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 1,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 0,
}
_FORBIDDEN = (";", "--", "/*", "?", ":", "@", "$", "[", "`", "\x00")
_WORDS = frozenset("select with values from union intersect except pragma attach over exists rowid oid _rowid_".split())
_TOKEN = re.compile(
    r"""(?P<text>'(?:[^']|'')*')|(?P<quoted>"(?:[^"]|"")*")|(?P<open>['"])|(?P<word>[^\W\d]\w*)|(?P<other>\s+|\d[\w.]*|.)""",
    re.S,
)
_COMPARISON = re.compile(r"[<>=!]+")


def check_text(text: str, columns: Sequence[str]) -> list[str]:
    """Look at a predicate before SQLite does.

    Parameters
    ----------
    text : str
    columns : sequence of str
        The columns that may be named.

    Returns
    -------
    list of str
        Its tokens without white space; strings as `''`.

    Raises
    ------
    PredicateRefused
    """
    names = {name.casefold(): name for name in columns}
    if not text.isprintable() and any("\ud800" <= c <= "\udfff" for c in text):
        raise _refused(text.encode("utf-8", "replace").decode(), "it is not valid Unicode")
    depth, tokens = 0, []
    for match in _TOKEN.finditer(text):
        kind, token = match.lastgroup, match.group()
        if kind == "open":
            raise _refused(text, f"a string or name that begins with {token} does not end")
        if kind == "text":
            tokens.append("''")
            continue
        if kind == "quoted":
            name = token[1:-1].replace('""', '"')
            if name.casefold() not in names:
                # SQLite would take it for a string, and silently find nothing.
                raise _refused(
                    text,
                    f'there is no column "{name}"',
                    _near(name, columns) or "text stands in single quotes: 'F'",
                )
            tokens.append(token)
            continue
        if kind == "word" and token.casefold() in _WORDS and token.casefold() not in names:
            raise _refused(text, f"the word {token} is not allowed")
        if kind == "other":
            depth += {"(": 1, ")": -1}.get(token, 0)
            if depth < 0:
                raise _refused(text, "a closing parenthesis without an opening one")
        if not token.isspace():
            tokens.append(token)
    bare = "".join(token for token in re.sub(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"", " ", text))
    for mark in _FORBIDDEN:
        if mark in bare:
            raise _refused(text, f"{mark!r} is not allowed outside a string")
    if depth:
        raise _refused(text, "an opening parenthesis is not closed")
    if not tokens:
        raise _refused(text, "it is empty")
    return tokens


def _refused(text: str, reason: str, do: str = "") -> PredicateRefused:
    return PredicateRefused(
        f"where {text.strip()[:200]!r}: {reason}",
        expected="an expression over the metadata columns, such as: sex = 'F' AND age >= 60",
        do=do or "the columns: vecstore info STORE",
    )


def _near(name: str, columns: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, columns, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else ""


def numbers_as_text(tokens: Sequence[str], types: Mapping[str, str]) -> list[str]:
    """Comparisons of a text column with a number, which SQLite answers without looking at the digits' value.

    >>> numbers_as_text(["age", ">", "=", "60", "AND", "age", "IN", "(", "7", ")"], {"age": "TEXT"})
    ['age >= 60', 'age IN ( 7']
    """
    kinds = {name.casefold(): kind for name, kind in types.items()}
    glued: list[str] = []
    for token in tokens:
        if glued and _COMPARISON.fullmatch(glued[-1]) and _COMPARISON.fullmatch(token):
            glued[-1] += token
        else:
            glued.append(token)
    shape = "".join(_letter(token, kinds) for token in glued)
    return [" ".join(glued[slice(*match.span())]) for match in _TEXT_AGAINST_NUMBER.finditer(shape)]


_TEXT_AGAINST_NUMBER = re.compile(r"c!?o!?s?n|c!?i\(s?n|noc")


def _letter(token: str, kinds: Mapping[str, str]) -> str:
    """What a token is: c(olumn of text), n(umber), o(perator), s(ign), i(n), !(not), a parenthesis, or a dot."""
    if kinds.get(token.strip('"').casefold()) == "TEXT":
        return "c"
    if _COMPARISON.fullmatch(token) or token.casefold() in ("is", "between"):
        return "o"
    if token[0].isdigit():
        return "n"
    return {"in": "i", "not": "!", "-": "s", "+": "s", "(": "("}.get(token.casefold(), ".")


def select(catalog: Path, text: str, at: int, columns: Mapping[str, str], tasks: Mapping[str, int]) -> IntArray:
    """Items that are visible at a commit and fit a predicate.

    Parameters
    ----------
    catalog : Path
        The SQLite file.
    text : str
        The predicate.
    at : int
        The commit.
    columns : mapping of name to {"TEXT", "INTEGER", "REAL"}
        Metadata columns.
    tasks : mapping of name to id
        Tasks whose labels can be named like columns.

    Returns
    -------
    ndarray of shape (n,), int64
        Item ids, ascending.

    Raises
    ------
    PredicateRefused
        The text is not an expression over the columns, or takes longer than `DEADLINE_SECONDS`.
    """
    known = ["item", "source", "locator", *columns, *tasks]
    words = {token.strip('"').replace('""', '"').casefold() for token in check_text(text, known)}
    taken = {name.casefold() for name in ("item", "source", "locator", *columns)}
    named = {name: task for name, task in tasks.items() if name.casefold() in words - taken}
    deadline = time.monotonic() + DEADLINE_SECONDS
    with sqlite_errors(catalog), closing(connect(catalog, "ro")) as connection:
        for task in named.values():
            connection.execute(f"CREATE TEMP TABLE labels_{task} (item INTEGER PRIMARY KEY, classes TEXT)").close()
            connection.execute(
                f"INSERT INTO labels_{task} SELECT item, group_concat(class, ';') FROM labels"
                " WHERE task = ? AND value > 0 GROUP BY item",
                (task,),
            ).close()
        connection.execute(f"CREATE TEMP VIEW visible AS {_view(at, list(columns), named)}").close()
        connection.execute("PRAGMA query_only=ON").close()
        for limit, value in _LIMITS.items():
            connection.setlimit(limit, value)
        connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
        connection.set_authorizer(_authorizer())
        try:
            with closing(connection.execute(f"SELECT item FROM visible WHERE (\n{text}\n)")) as cursor:
                rows = cursor.fetchall()
        except (
            sqlite3.OperationalError,
            sqlite3.DatabaseError,
            sqlite3.ProgrammingError,
            sqlite3.DataError,
        ) as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (
                sqlite3.SQLITE_BUSY,
                sqlite3.SQLITE_CORRUPT,
                sqlite3.SQLITE_IOERR,
            ):
                raise
            raise _explained(text, str(error), known) from error
    return np.sort(np.fromiter((row[0] for row in rows), np.int64, len(rows)))


def _view(at: int, columns: Sequence[str], tasks: Mapping[str, int]) -> str:
    """The one view: a row per visible item, a column per metadata column and per task that is named."""
    parts = ["s.item AS item", "src.name AS source", "i.locator AS locator"]
    parts += [f"m.{quoted(name)} AS {quoted(name)}" for name in columns]
    parts += [f"labels_{task}.classes AS {quoted(name)}" for name, task in tasks.items()]
    joins = [f" LEFT JOIN labels_{task} ON labels_{task}.item = s.item" for task in tasks.values()]
    states, metadata = (visible(alias).replace(":at", str(int(at))) for alias in ("s", "m"))
    return (
        f"SELECT {', '.join(parts)} FROM states s JOIN items i ON i.id = s.item JOIN sources src ON src.id = i.source"
        f" LEFT JOIN metadata m ON m.item = s.item AND {metadata}{''.join(joins)} WHERE {states}"
    )


_VIEWED = frozenset({"visible", "states", "items", "sources", "metadata"})


def _authorizer() -> Callable[[int, str | None, str | None, str | None, str | None], int]:
    """Allow our one SELECT and the view's own, reading through the view, and harmless functions."""
    ours_seen = False

    def authorize(action: int, first: str | None, second: str | None, database: str | None, inner: str | None) -> int:
        nonlocal ours_seen
        if action == sqlite3.SQLITE_SELECT:
            allowed = inner == "visible" or not ours_seen
            ours_seen = ours_seen or inner is None
        elif action == sqlite3.SQLITE_READ:
            # A joined table of which no column is needed is reported with an empty column and no view.
            joined = second == "" and (first in _VIEWED or str(first).startswith("labels_"))
            allowed = inner == "visible" or first == "visible" or joined
        else:
            allowed = action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _FUNCTIONS
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    return authorize


_MOST_NAMED = 12


def _explained(text: str, error: str, known: Sequence[str]) -> PredicateRefused:
    if match := re.match(r"no such column: (.*)", error):
        name, more = match[1], len(known) - _MOST_NAMED
        there = f"{', '.join(known[:_MOST_NAMED])}{f' and {more} more' if more > 0 else ''}"
        do = _near(name, known) or f"text needs quotes: '{name}'"
        return _refused(text, f"there is no column {name}", f"{do}; there are: {there}")
    if error == "interrupted":
        return _refused(text, f"it takes longer than {DEADLINE_SECONDS:.0f} s")
    return _refused(text, error)
