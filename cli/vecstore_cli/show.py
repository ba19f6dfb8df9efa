"""Verbs that only look: info, failures, log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from vecstore_cli._shared import at_option, command, echo_facts, echo_json, echo_table, json_option, store_argument


@click.command()
@store_argument
@at_option
@json_option
@command
def info(store: str, at: int | None, as_json: bool) -> None:
    """What a store holds: items, spaces with passports, tasks, models, sizes, versions.

    \b
      vecstore info chest.vecs
    """
    from vecstore.info import info as run
    from vecstore.store import Store

    with Store(store, at) as opened:
        facts = run(opened)
    if as_json:
        echo_json(facts)
        return
    echo_facts(
        [
            ("store", Path(store).name),
            ("format", facts["format"]),
            ("commit", f"{facts['commit']} of {facts['last_commit']}"),
            ("items", facts["items"]),
            ("contents", f"{facts['contents']} different pictures"),
            ("failures", facts["failures"]),
            ("size", f"{facts['bytes'] / 1e6:.1f} MB"),
            ("frames", facts["decode_rule"]["frames"]),
        ]
    )
    _section("sources", facts["sources"])
    _section("spaces", [{k: v for k, v in space.items() if k != "passport"} for space in facts["spaces"]])
    for space in facts["spaces"]:
        click.echo(f"\npassport of {space['name']}")
        echo_facts((f"  {name}", value) for name, value in space["passport"].items())
    _section("tasks", facts["tasks"])
    _section("models", facts["models"])
    _section("columns", facts["columns"])


def _section(title: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        click.echo(f"\n{title}")
        echo_table(rows)


@click.command()
@store_argument
@json_option
@command
def failures(store: str, as_json: bool) -> None:
    """What could not be embedded, and why.

    \b
      vecstore failures chest.vecs
    """
    from vecstore.store import Store

    with Store(store) as opened:
        rows = opened.failures()
    if as_json:
        echo_json({"failures": rows, "count": len(rows)})
        return
    echo_table(rows, ["item_id", "source", "locator", "stage", "reason", "attempts"])
    click.echo(
        f"{len(rows)} failures" + ("; again: vecstore ingest ARCHIVE --store STORE --only-failures" if rows else "")
    )


_TOLD = (
    *("archive", "source", "table", "task", "space", "model", "key", "value", "column", "columns", "split_column"),
    *("positive", "ignore", "on_conflict", "where", "group", "level", "classes", "metric"),
)
"""Arguments that the log shows to a person; `--json` has all."""


@click.command()
@store_argument
@at_option
@json_option
@command
def log(store: str, at: int | None, as_json: bool) -> None:
    """Every commit: when, which verb, with which arguments, what it changed.

    \b
      vecstore log chest.vecs
    """
    from vecstore.store import Store

    with Store(store, at) as opened:
        rows = opened.log()
    if as_json:
        echo_json({"commits": rows})
        return
    shown = [
        row
        | {
            "arguments": {k: v for k, v in row["arguments"].items() if k in _TOLD and v},
            "counts": {k: v for k, v in row["counts"].items() if not isinstance(v, dict)},
        }
        for row in rows
    ]
    echo_table(shown, ["commit", "time", "verb", "arguments", "counts", "seconds"])
