"""Verbs that take something out: search, export."""

from __future__ import annotations

import csv
import sys
from dataclasses import asdict
from typing import Any

import click

from vecstore_cli._shared import (
    at_option,
    command,
    echo_json,
    echo_table,
    encoder_options,
    json_option,
    space_option,
    store_argument,
)
from vecstore_cli.indexing import metric_option


@click.command()
@store_argument
@click.argument("query", nargs=-1)
@click.option(
    "--queries", type=click.Path(), metavar="FILE", help="Many: a .npy matrix, or a text with one on each line."
)
@click.option("--text", metavar="TEXT", help="Describe what is looked for, in a CLIP space.")
@click.option("--like", multiple=True, metavar="QUERY", help="A further example of what is looked for; repeatable.")
@click.option("--unlike", multiple=True, metavar="QUERY", help="An example of what is not looked for; repeatable.")
@click.option("-k", "k", type=int, help="How many [10, or as many as there are].")
@click.option("--where", metavar="SQL", help="An expression over item columns and tasks: \"age >= 60 and dx = 'mel'\".")
@click.option("--ids", metavar="ID,ID|FILE", help="Only these items: their ids, or a file with one on each line.")
@space_option
@metric_option
@click.option("--group", metavar="COLUMN", help="Column whose value excludes the query's own group; none: no groups.")
@click.option("--include-own", is_flag=True, help="Also find the query itself and its own group.")
@click.option("--by", metavar="COLUMN", help="Every value of a column once: the ten most similar patients.")
@click.option("--unique", is_flag=True, help="Of identical pictures only the first.")
@click.option("--farthest", is_flag=True, help="The least similar instead.")
@click.option(
    "--diverse", type=float, default=0.0, metavar="0..1", help="How much hits are to differ from one another."
)
@click.option("--predict", metavar="TASK", help="Add what the newest probe of a task says of every hit.")
@click.option("--encoder", metavar="NAME", help="How to open the space's encoder, where its own name does not find it.")
@encoder_options
@at_option
@click.option("--html", type=click.Path(), metavar="FILE", help="Write a page with pictures.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV instead of a table.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object per row instead of a table.")
@command
def search(
    store: str,
    query: tuple[str, ...],
    queries: str | None,
    text: str | None,
    like: tuple[str, ...],
    unlike: tuple[str, ...],
    at: int | None,
    html: str | None,
    as_csv: bool,
    as_json: bool,
    ids: str | None,
    **wish: Any,
) -> None:
    """Find cases similar to QUERY: a picture, an item's id or locator, or a .npy file with a vector.

    Several are averaged. The query's own item and group (patient …) are left out. --queries answers each of many by
    itself; query_index says in --json and --csv which of them, from 0.

    \b
      vecstore search chest.vecs query.png -k 10 --where "sex = 'F' and age >= 60"
      vecstore search chest.vecs 17 --html similar.html
      vecstore search chest.vecs 17 --unlike 23 --by patient_id --diverse 0.3
      vecstore search chest.vecs --queries queries.txt -k 5 --json
    """
    from vecstore.errors import UsageError
    from vecstore.files import output_file
    from vecstore.search import search as run
    from vecstore.search import search_many
    from vecstore.store import Store

    if html:
        output_file(html)  # refused before any work
    wish["ids"] = None if ids is None else _ids(ids)
    if queries is not None and (query or text or like or unlike or html):
        raise UsageError(
            "--queries is a search for each of its lines",
            expected="no QUERY, --text, --like, --unlike or --html beside it",
            do="put them on lines of the file",
        )
    if as_json and as_csv:
        raise UsageError("--json and --csv", expected="one of them")
    with Store(store, at) as opened:
        if queries is not None:
            results = search_many(opened, queries, **wish)
        else:
            one = run(opened, query or None, text=text, like=like, unlike=unlike, thumbnails=html is not None, **wish)
            results = [one]
        if html:
            from vecstore.pages import write_similar_page  # draws: seconds that an answer does not need

            write_similar_page(opened, results[0], html)
    for note in dict.fromkeys(note for result in results for note in result.notes):
        click.echo(f"note: {note}", err=True)
    rows = [
        ({"query_index": place, "query": result.query} if queries is not None else {})
        | asdict(hit)
        | {"exact": result.exact, "recall": result.recall}
        for place, result in enumerate(results)
        for hit in result.hits
    ]
    trained = sum(bool(row["in_training"]) for row in rows)
    if trained:
        flattered = f"{trained} of the {len(rows)} hits, so its predictions flatter it there (in_training)"
        click.echo(f"note: the model was trained on {flattered}", err=True)
    names = ["rank", "item_id", "score", "source", "locator"]
    if as_json:
        for row in rows:
            echo_json(row)
    elif as_csv:
        columns, cells = _flat(rows, ["query_index", "query", *names] if queries is not None else names)
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([row.get(name, "") for name in columns] for row in cells)
    else:
        columns, cells = _flat(rows, ["query", *names] if queries is not None else names, metadata=False)
        echo_table(cells, columns)
    if not as_json and not as_csv:
        for result in results if queries is None else []:
            whose = "their own groups" if len(query) + len(like) + len(unlike) > 1 else "its own group"
            own = f"; {result.excluded} of {whose} left out" if result.excluded else ""
            click.echo(f"{result.query}: {len(result.hits)} of {result.searched} items{own}", err=True)
        if wish["diverse"]:
            click.echo("ranks are by score less likeness to the hits before (--diverse), not by score alone", err=True)
        if html:
            click.echo(html)
    if results and results[0].recall:
        told = results[0].recall
        click.echo(
            f"approximate: {told['value']:.4f} [{told['low']:.4f}, {told['high']:.4f}] of the exact hits are found;"
            f" all of them after: vecstore index build {store} --kind exact",
            err=True,
        )


def _ids(text: str) -> list[int]:
    """Item ids from `1,2,3` or a file with them, between commas or on lines."""
    from pathlib import Path

    from vecstore.errors import UsageError

    path = Path(text)
    try:
        told = path.read_text(encoding="utf-8-sig") if path.is_file() else text
        return [int(part) for part in told.replace(",", " ").split()]
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--ids {text}: {error}", expected="ids with commas between, or a file with one on each line"
        ) from error


def _flat(
    rows: list[dict[str, Any]], names: list[str], metadata: bool = True
) -> tuple[list[str], list[dict[str, Any]]]:
    """Rows with a column for each metadata column, task and class, none of which takes the place of another."""
    columns = list(names)
    taken = {name.casefold() for name in names}

    def added(name: str, other: str) -> str:
        name = other if name.casefold() in taken else name
        taken.add(name.casefold())
        columns.append(name)
        return name

    known = sorted({name for row in rows for name in row["metadata"]}) if metadata else []
    tasks = sorted({name for row in rows for name in row["labels"]})
    classes = list(dict.fromkeys(name for row in rows for name in row["predictions"]))
    places = [("metadata", name, added(name, f"column_{name}")) for name in known]
    places += [("labels", name, added(name, f"label_{name}")) for name in tasks]
    places += [("predictions", name, added(f"p_{name}", f"probability_{name}")) for name in classes]
    trained = added("in_training", "trained_on_it") if classes else ""
    flat = []
    for row in rows:
        cells = {name: row[name] for name in names}
        cells |= {column: row[what][name] for what, name, column in places if name in row[what]}
        flat.append(cells | ({trained: ("no", "yes")[bool(row["in_training"])]} if trained else {}))
    return columns, flat


@click.command()
@store_argument
@click.argument("output", type=click.Path())
@space_option
@click.option("--where", metavar="SQL", help="Only items that fit an expression over the item columns.")
@at_option
@json_option
@command
def export(store: str, output: str, space: str | None, where: str | None, at: int | None, as_json: bool) -> None:
    """Write vectors with their items to OUTPUT (.parquet or .npz).

    Vectors of patients' pictures are personal data; treat the file as you treat the pictures.

    \b
      vecstore export chest.vecs vectors.parquet
    """
    from vecstore.export import export as run
    from vecstore.store import Store

    with Store(store, at) as opened:
        result = run(opened, output, space=space, where=where)
    if as_json:
        echo_json(result)
    else:
        click.echo(f"{result['path']}: {result['rows']} rows of {result['dim']} dimensions, space {result['space']}")
        click.echo(
            "vectors of patients' pictures are personal data: treat this file as you treat the pictures", err=True
        )
