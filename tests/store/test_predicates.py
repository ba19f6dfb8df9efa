"""`where`: what is allowed finds what Python finds; what is not is refused by name."""

from __future__ import annotations

import operator
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vecstore.errors import PredicateRefused
from vecstore.store import Label, Store, predicate
from vecstore.store.catalog import connect

if TYPE_CHECKING:
    from tests.store.conftest import Kit

ROWS: dict[str, dict[str, Any]] = {
    "a.png": {"age": 30, "sex": "F", "Modality": "DX", "dose": 0.5, "two words": 1, "note": "it's; a 'b' -- c"},
    "b.png": {"age": 65, "sex": "M", "Modality": "DX", "dose": 1.5, "two words": 2, "note": "100%"},
    "c.png": {"age": 70, "sex": "F", "Modality": "CT", "dose": 2.0, "two words": 3, "note": "[x]"},
    "d/e.png": {"age": None, "sex": None, "Modality": "CR", "dose": None, "two words": 4, "note": "?"},
    "f.png": {"age": 90, "sex": "M", "Modality": "DX", "dose": 9.0, "two words": 5, "note": "Ä"},
}
ITEMS = {item: {"item": item, **row} for item, row in enumerate(ROWS.values(), 1)}


def fill(store: Store, kit: Kit) -> None:
    kit.add(store, ROWS, metadata=lambda name: ROWS[name])
    labels = [Label(i, str(int(i > 2)), 1.0, None) for i in (1, 2, 3, 5)]
    store.add_task("pneumonia", "binary", ["0", "1"], labels, {}, positive="1")
    several = [Label(1, "mass", 1.0, None), Label(1, "nodule", 1.0, None), Label(2, "mass", 0.0, None)]
    store.add_task("Chest findings", "multi-label", ["mass", "nodule"], several, {})


@pytest.fixture(scope="module")
def filled(kit: Kit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store that is only read."""
    with kit.create(tmp_path_factory.mktemp("where") / "a.vecs") as store:
        fill(store, kit)
        yield store


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("sex = 'F'", [1, 3]),
        ("SEX = 'F' AND AGE >= 60", [3]),
        ("Modality = 'DX' and age >= 60", [2, 5]),
        ("modality IN ('CT', 'CR')", [3, 4]),
        ("Modality NOT IN ('CT', 'CR') OR item = 4", [1, 2, 4, 5]),
        ("age IS NULL", [4]),
        ("age IS NOT NULL AND NOT sex = 'M'", [1, 3]),
        ("age BETWEEN 65 AND 70", [2, 3]),
        ("age > '65'", [3, 5]),
        ("sex LIKE 'f'", [1, 3]),
        ("note LIKE '%\\%' ESCAPE '\\'", [2]),
        ("locator GLOB 'd/*'", [4]),
        ("glob('[ab]*', locator)", [1, 2]),
        ("source = 'archive' AND item < 3", [1, 2]),
        ("upper(sex) || lower('X') = 'Fx'", [1, 3]),
        ("length(note) = 1", [4, 5]),
        ("substr(locator, 1, 2) = 'd/'", [4]),
        ("substring(locator, 1, 1) = 'a'", [1]),
        ("instr(locator, 'png') = 3", [1, 2, 3, 5]),
        ("trim('  F ') = sex AND ltrim(' F') = sex AND rtrim('F ') = sex", [1, 3]),
        ("abs(age - 67) < 4", [2, 3]),
        ("round(dose) = 2", [2, 3]),
        ("coalesce(age, 0) = 0", [4]),
        ("ifnull(age, 1) = 1 OR nullif(age, 30) IS NULL", [1, 4]),
        ("iif(age > 60, sex = 'F', sex = 'X')", [3]),
        ("min(age, 66) = 66 AND max(dose, 3) = 3", [3]),
        ("typeof(dose) = 'null'", [4]),
        (
            "date('2020-01-31') = '2020-01-31' AND julianday('2000-01-01') > 0 AND strftime('%Y', '2020-01-01')='2020'",
            5,
        ),
        ("CASE WHEN age > 60 THEN sex = 'M' ELSE 0 END", [2, 5]),
        ("CAST(age AS TEXT) = '70'", [3]),
        ("sex COLLATE NOCASE = 'f'", [1, 3]),
        ('"two words" = 3', [3]),
        ('"age" = 70', [3]),
        ("note = 'it''s; a ''b'' -- c'", [1]),
        ("note = '[x]' OR note = '?'", [3, 4]),
        ("note = ':a @b $c `d` /* e */ ( \"x\"'", []),
        ("(age = 30) OR ((age = 65))", [1, 2]),
        ("age\n=\n70", [3]),
        ("0x1F = 31 AND age = 7e1", [3]),
        ("age - -5 = 75", [3]),
        ("dose / 2 > 0.9 AND age % 7 = 0", [3]),
        ("1", 5),
        ("item = 2", [2]),
        ("pneumonia = '1'", [3, 5]),
        ("pneumonia = 1", [3, 5]),
        ("pneumonia IS NULL", [4]),
        ("pneumonia = '0' OR pneumonia = '1' OR pneumonia = 'x' OR PNEUMONIA IS NULL", 5),
        ("coalesce(pneumonia, \"Chest findings\", 'none') = 'none'", [4]),
        ("\"Chest findings\" = 'mass;nodule'", [1]),
        ("\"chest FINDINGS\" LIKE '%nodule%' AND pneumonia = '0'", [1]),
        ("(" * 40 + "age" + ")" * 40 + " = 70", [3]),
        (" AND ".join(["age > 60"] * 150), [2, 3, 5]),
        ("item IN (" + ",".join(map(str, range(2, 9000))) + ")", [2, 3, 4, 5]),
    ],
)
def test_an_expression_over_the_columns_finds_its_items(filled: Store, where: str, expected: Any) -> None:
    assert filled.select(where).tolist() == (list(range(1, expected + 1)) if isinstance(expected, int) else expected)
    assert filled.items(where).ids.tolist() == filled.select(where).tolist()


REFUSED = [
    ("", "it is empty"),
    ("   ", "it is empty"),
    ("(SELECT 1)", "the word SELECT is not allowed"),
    ("item IN (SELECT item FROM visible)", "the word SELECT"),
    ("EXISTS (SELECT 1)", "the word EXISTS"),
    ("item = (WITH RECURSIVE r(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM r) SELECT 1)", "the word WITH"),
    ("1) UNION SELECT 1 WHERE (1", "a closing parenthesis without an opening one"),
    ("1 UNION SELECT id FROM items", "the word UNION"),
    ("1) or (1", "a closing parenthesis without an opening one"),
    ("(1", "an opening parenthesis is not closed"),
    ("1))", "a closing parenthesis"),
    ("age = 1 FROM labels", "the word FROM"),
    ("sqlite_master = 1", "there is no column sqlite_master"),
    ("item IN sqlite_master", "prohibited|not authorized|denied"),
    ("item IN labels", "prohibited|not authorized|denied"),
    ("item IN visible", "prohibited|not authorized|denied|columns"),
    ("labels.item = 1", "there is no column labels.item"),
    ("main.labels.item = 1", "there is no column main.labels.item"),
    ("item IN pragma_table_info('items')", "not authorized|prohibited|denied|no such"),
    ("item IN json_each('[1]')", "vtable constructor failed|not authorized|no such table"),
    ("item IN generate_series(1, 5)", "no such table|not authorized|prohibited"),
    ("json('{}') = 1", "not authorized to use function: json"),
    ("note -> 'x' = 1", "not authorized to use function: ->"),
    ("randomblob(1000000000) IS NULL", "not authorized to use function: randomblob"),
    ("zeroblob(1000000000) IS NULL", "not authorized to use function: zeroblob"),
    ("random() > 0", "not authorized to use function: random"),
    ("printf('%.*c', 100000000, 'x') = ''", "not authorized to use function: printf"),
    ("format('%d', 1) = ''", "not authorized to use function: format"),
    ("hex(note) = ''", "not authorized to use function: hex"),
    ("quote(note) = ''", "not authorized to use function: quote"),
    ("replace(note, 'a', 'b') = ''", "not authorized to use function: replace"),
    ("char(65) = 'A'", "not authorized to use function: char"),
    ("load_extension('x')", "not authorized to use function: load_extension"),
    ("readfile('/etc/passwd') = ''", "no such function: readfile"),
    ("sqlite_version() = ''", "not authorized to use function: sqlite_version"),
    ("last_insert_rowid() = 1", "not authorized to use function: last_insert_rowid"),
    ("changes() = 1", "not authorized to use function: changes"),
    ("CURRENT_TIMESTAMP > ''", "not authorized to use function: CURRENT_TIMESTAMP"),
    ("note REGEXP 'x'", "no such function: REGEXP"),
    ("note MATCH 'x'", "MATCH"),
    ("count(*) > 0", "not authorized|misuse"),
    ("group_concat(note) = ''", "not authorized|misuse"),
    ("max(age) = 90", "misuse of aggregate"),
    ("row_number() OVER () = 1", "the word OVER"),
    ("rowid = 1", "the word rowid"),
    ("_rowid_ = 1", "the word _rowid_"),
    ("oid = 1", "the word oid"),
    ("(" * 300 + "1" + ")" * 300, "Expression tree|depth|parser stack"),
    (" AND ".join(["1"] * 300), "Expression tree is too large|depth"),
    ("NOT " * 300 + "1", "Expression tree|depth|parser stack"),
    ("age = 1;", "';' is not allowed outside a string"),
    ("1; DROP TABLE items", "';' is not allowed"),
    ("1 -- x", "'--' is not allowed"),
    ("1 /* x */", "'/\\*' is not allowed"),
    ("age = ?", r"'\?' is not allowed"),
    ("age = ?1", r"'\?' is not allowed"),
    ("age = :a", "':' is not allowed"),
    ("age = @a", "'@' is not allowed"),
    ("age = $a", r"'\$' is not allowed"),
    ("[age] = 1", r"'\[' is not allowed"),
    ("`age` = 1", "'`' is not allowed"),
    ("age = 1\0", "is not allowed"),
    ('sex = "F"', 'there is no column "F"; .*text stands in single quotes'),
    ('"aeg" = 1', 'there is no column "aeg"; .*did you mean age'),
    ("modalty = 'DX'", "there is no column modalty; .*did you mean Modality"),
    ("sex = F", "there is no column F; .*text needs quotes: 'F'; there are: item, source, locator, .*sex"),
    ("sex = 'F", "a string or name that begins with ' does not end"),
    ('"sex = 1', 'a string or name that begins with " does not end'),
    ("note LIKE '" + "%a" * 200 + "'", "LIKE or GLOB pattern too complex"),
    ("note GLOB '" + "*a" * 200 + "'", "LIKE or GLOB pattern too complex"),
    ("item IN (" + ",".join(["1"] * 60_000) + ")", "too large|too big|too long"),
    ("ATTACH 'x' AS y", "the word ATTACH"),
    ("PRAGMA table_info(items)", "the word PRAGMA"),
    ("VALUES (1)", "the word VALUES"),
    ("age = = 1", "syntax error"),
    ("age === 1", "syntax error"),
    ("RAISE(ABORT, 'x')", "RAISE|syntax"),
    ("abs(-9223372036854775807 - 1) = 1", "integer overflow"),
    ("added_in = 1", "there is no column added_in"),
    ("sex = '\udc80'", "it is not valid Unicode"),
    ("age NOTNULL ORDER BY age", "syntax error"),
    ("age = 1 LIMIT 1", "syntax error"),
    ("age = 1 GROUP BY age", "syntax error"),
]


@pytest.mark.parametrize(("where", "reason"), REFUSED, ids=[repr(where)[:40] for where, _ in REFUSED])
def test_anything_else_is_refused(filled: Store, where: str, reason: str) -> None:
    with pytest.raises(PredicateRefused) as caught:
        filled.select(where)
    message = str(caught.value)
    assert caught.value.exit_code == 2
    assert re.search(reason, message, re.S), message
    assert message.startswith("where ")
    assert "expected an expression over the metadata columns, such as: sex = 'F' AND age >= 60; " in message


class Unguarded:
    """The second wall alone: the same connection, without a look at the text."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(predicate, "check_text", lambda text, columns: [])


@pytest.mark.parametrize(
    "where",
    [
        "item IN (SELECT item FROM visible)",
        "EXISTS (SELECT 1 FROM labels)",
        "(SELECT count(*) FROM sqlite_master) > 0",
        "(SELECT value FROM meta WHERE name = 'store_secret') IS NOT NULL",
        "1) UNION SELECT id FROM items WHERE (1",
        "1) UNION ALL SELECT item FROM labels --",
        "item = (WITH RECURSIVE r(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM r) SELECT max(x) FROM r)",
        "item IN (VALUES (1))",
        "item IN (SELECT 1 UNION SELECT 2)",
        "1); DROP TABLE items; --",
        "max(age) OVER () = 1",
        "item IN (SELECT item FROM pragma_table_info('items'))",
        "item IN (SELECT name FROM pragma_compile_options)",
        "(SELECT sql FROM main.sqlite_schema LIMIT 1) > ''",
        "(SELECT count(*) FROM temp.sqlite_master) > 0",
        "item IN (SELECT item FROM labels_1)",
        "item IN (SELECT s.item FROM visible s JOIN labels l ON l.item = s.item)",
        "1); ATTACH DATABASE '/tmp/other' AS other; --",
        "1); PRAGMA writable_schema = ON; --",
        "1); CREATE TABLE x (y); --",
        "1); SELECT load_extension('x'); --",
        "load_extension('x') IS NULL",
        "readfile('/etc/passwd') IS NULL",
        "writefile('/tmp/x', 'y') IS NULL",
        "edit(note) IS NULL",
        "fts3_tokenizer('simple') IS NULL",
        "item IN (WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x FROM r) SELECT x FROM r)",
    ],
)
def test_the_authorizer_refuses_what_the_text_wall_would_miss(
    filled: Store, kit: Kit, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    Unguarded(monkeypatch)
    before = kit.dump(filled.path)
    with pytest.raises((PredicateRefused, sqlite3.Warning)):
        filled.select(where)
    assert kit.dump(filled.path) == before


def test_a_column_named_like_a_keyword_opens_no_door(store: Store, kit: Kit) -> None:
    kit.add(store, ["a"], metadata=lambda _: {"select": 1, "with": 2, "exists": 3, "over": 4, "union": 5})
    assert store.select('"select" = 1 AND "with" = 2 AND "exists" = 3 AND over = 4').tolist() == [1]
    for where in ("item IN (select item from visible)", "exists (select 1)", "max(item) over () = 1"):
        with pytest.raises(PredicateRefused):
            store.select(where)


def test_a_long_running_expression_meets_the_deadline(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    many = ", ".join(f"item * {i} % 7" for i in range(120))
    where = " AND ".join([f"max({many}) >= 0"] * 40)
    assert len(filled.select(where)) == 5
    monkeypatch.setattr(predicate, "DEADLINE_SECONDS", 0.0)
    with pytest.raises(PredicateRefused, match="it takes longer than 0 s"):
        filled.select(where)


def test_the_clock_is_looked_at_every_few_items(store: Store, kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    kit.add(store, [f"{n}.png" for n in range(200)])
    monkeypatch.setattr(predicate, "DEADLINE_SECONDS", 0.0)
    with pytest.raises(PredicateRefused, match="it takes longer than 0 s"):  # few steps, each of which may be slow
        store.select("length(locator) > 0")


def test_nothing_can_be_written_through_a_predicate(filled: Store) -> None:
    before = (filled.path / "catalog.sqlite").read_bytes()
    filled.select("age > 1")
    for where, _ in REFUSED[:20]:
        with pytest.raises(PredicateRefused):
            filled.select(where)
    assert (filled.path / "catalog.sqlite").read_bytes() == before
    assert sorted(entry.name for entry in filled.path.iterdir()) == ["catalog.sqlite", "shards"]


def test_a_predicate_sees_its_snapshot(store: Store, kit: Kit) -> None:
    fill(store, kit)
    commit = store.commit
    kit.add(store, ["a.png", "g.png"], metadata=lambda _: {"age": 70, "new": "x"})
    with Store(store.path, at=commit) as then:
        assert then.select("age = 70").tolist() == [3]
        with pytest.raises(PredicateRefused, match="there is no column new"):
            then.select("new = 'x'")
    assert store.refresh().select("age = 70").tolist() == [1, 3, 6]
    assert store.select("new = 'x'").tolist() == [1, 6]


def test_a_column_comes_before_a_task_of_the_same_name(store: Store, kit: Kit) -> None:
    fill(store, kit)
    store.add_task("SEX", "binary", ["n", "y"], [Label(1, "y", 1.0, None)], {})
    assert store.select("sex = 'F'").tolist() == [1, 3]


@pytest.mark.parametrize(
    ("where", "warnings"),
    [
        ("sex > 60", ["sex > 60"]),
        ("60 <= sex", ["60 <= sex"]),
        ("sex BETWEEN 1 AND 2", ["sex BETWEEN 1"]),
        ("sex NOT IN (1, 2)", ["sex NOT IN ( 1"]),
        ("sex IS NOT 5 AND note = -5.5", ["sex IS NOT 5", "note = - 5.5"]),
        ('"note" <> 001', ['"note" <> 001']),
        ("pneumonia = 1 OR locator = 3", ["pneumonia = 1", "locator = 3"]),
        ("age > 60 AND sex = 'F' AND dose = 1 AND item = 3", []),
        ("sex = '60' OR length(sex) = 1", []),
    ],
)
def test_text_against_a_number_is_warned_about(filled: Store, where: str, warnings: list[str]) -> None:
    told = [f"a text column is compared with a number: {one}" for one in warnings]
    assert filled.where_warnings(where) == told


def test_a_patients_id_is_not_its_pseudonym(store: Store) -> None:
    with closing(connect(store.catalog.path, "rw")) as db:
        db.execute("ALTER TABLE metadata ADD COLUMN PatientID TEXT")
        db.execute("INSERT INTO columns VALUES ('PatientID', 'TEXT', 's', 1)")
    (told,) = store.refresh().where_warnings("patientid = 'P1'")
    assert told == "patientid holds pseudonyms, and no ids of patients as files have them: Store.pseudonym(id)"
    assert store.where_warnings("locator = 'patientid'") == []


def test_a_predicate_works_on_many_items_quickly(store: Store) -> None:
    with closing(connect(store.catalog.path, "rw")) as db:
        db.execute("BEGIN")
        db.execute("INSERT INTO sources VALUES (1, 's', 'folder')")
        db.execute("ALTER TABLE metadata ADD COLUMN age INTEGER")
        db.execute("INSERT INTO columns VALUES ('age', 'INTEGER', 's', 2)")
        db.execute(
            "WITH RECURSIVE n(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 50000)"
            " INSERT INTO contents SELECT i, CAST(printf('%016d', i) AS BLOB), 1, 1 FROM n"
        )
        db.execute("INSERT INTO items SELECT id, hash, 1, 'x' || id, 1, 1 FROM contents")
        db.execute("INSERT INTO states SELECT id, id, NULL, 'x', 2, NULL FROM contents")
        db.execute("INSERT INTO metadata SELECT id, 2, NULL, id % 100 FROM contents")
        db.execute("COMMIT")
    started = time.process_time()
    assert len(store.select("age >= 60")) == 20_000
    assert time.process_time() - started < 0.5


COMPARE = {"=": operator.eq, "<>": operator.ne, "<": operator.lt, ">=": operator.ge}
COLUMNS = {"age": st.integers(0, 100), "sex": st.sampled_from(["F", "M", "'"]), "dose": st.floats(0, 10, width=16)}


def comparisons() -> st.SearchStrategy[Any]:
    def of(column: str) -> st.SearchStrategy[Any]:
        return st.tuples(st.just(column), st.sampled_from(sorted(COMPARE)), COLUMNS[column])

    simple = st.one_of(*map(of, COLUMNS))
    return st.recursive(
        simple,
        lambda inner: st.one_of(
            st.tuples(st.just("NOT"), inner), st.tuples(st.sampled_from(["AND", "OR"]), inner, inner)
        ),
        max_leaves=6,
    )


def as_sql(tree: Any) -> str:
    if tree[0] == "NOT":
        return f"NOT ({as_sql(tree[1])})"
    if tree[0] in ("AND", "OR"):
        return f"({as_sql(tree[1])}) {tree[0]} ({as_sql(tree[2])})"
    column, sign, value = tree
    return f"{column} {sign} " + ("'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value))


def in_python(tree: Any, row: dict[str, Any]) -> bool | None:
    """Three-valued logic, as SQL has it."""
    if tree[0] == "NOT":
        inner = in_python(tree[1], row)
        return None if inner is None else not inner
    if tree[0] in ("AND", "OR"):
        sides = [in_python(side, row) for side in tree[1:]]
        decisive = tree[0] == "OR"
        return decisive if decisive in sides else None if None in sides else not decisive
    column, sign, value = tree
    return None if row[column] is None else bool(COMPARE[sign](row[column], value))


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(tree=comparisons())
def test_a_predicate_finds_what_a_python_filter_finds(filled: Store, tree: Any) -> None:
    expected = [item for item, row in ITEMS.items() if in_python(tree, row)]
    assert filled.select(as_sql(tree)).tolist() == expected


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=st.lists(st.sampled_from([*"age sx=<>'\"()-;[]?:@$`%,.*/\\|1F\n", "item", "IN", "select", "LIKE"])))
def test_any_text_is_answered_or_refused(filled: Store, text: list[str]) -> None:
    try:
        found = filled.select("".join(text))
    except PredicateRefused:
        return
    assert set(found.tolist()) <= set(ITEMS)
