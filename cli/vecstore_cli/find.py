"""Verbs that take something out: search, export."""

from __future__ import annotations

import csv
import sys
from dataclasses import asdict

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


@click.command()
@store_argument
@click.argument("query", required=False)
@click.option("--text", metavar="TEXT", help="Describe what is looked for, in a CLIP space.")
@click.option("-k", "k", type=int, help="How many [10, or as many as there are].")
@click.option("--where", metavar="SQL", help="An expression over the item columns: \"sex = 'F' and age >= 60\".")
@space_option
@click.option("--group", metavar="COLUMN", help="Column whose value excludes the query's own group; none: no groups.")
@click.option("--include-own", is_flag=True, help="Also find the query itself and its own group.")
@click.option("--encoder", metavar="NAME", help="How to open the space's encoder, where its own name does not find it.")
@encoder_options
@at_option
@click.option("--html", type=click.Path(), metavar="FILE", help="Write a page with pictures.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV instead of a table.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object per row instead of a table.")
@command
def search(
    store: str,
    query: str | None,
    text: str | None,
    k: int | None,
    where: str | None,
    space: str | None,
    group: str | None,
    include_own: bool,
    encoder: str | None,
    weights: str | None,
    device: str | None,
    at: int | None,
    html: str | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Find cases similar to QUERY: a picture, an item's id or locator, or a .npy file with a vector.

    The query's own item and group (patient …) are left out.

    \b
      vecstore search chest.vecs query.png -k 10 --where "sex = 'F' and age >= 60"
      vecstore search chest.vecs 17 --html similar.html
    """
    from vecstore.files import output_file
    from vecstore.pages import write_similar_page
    from vecstore.search import search as run
    from vecstore.store import Store

    if html:
        output_file(html)  # refused before any work
    with Store(store, at) as opened:
        result = run(
            opened,
            query,
            k,
            text=text,
            where=where,
            space=space,
            group=group,
            include_own=include_own,
            encoder=encoder,
            weights=weights,
            device=device,
            thumbnails=html is not None,
        )
        if html:
            write_similar_page(opened, result, html)
    for note in result.notes:
        click.echo(f"note: {note}", err=True)
    rows = [asdict(hit) for hit in result.hits]
    if as_json:
        for row in rows:
            echo_json(row)
    elif as_csv:
        names = ["rank", "item_id", "score", "source", "locator"]
        columns = sorted({name for row in rows for name in row["metadata"]})
        tasks = sorted({name for row in rows for name in row["labels"]})
        writer = csv.writer(sys.stdout, lineterminator="\n")
        taken = {name.casefold() for name in (*names, *columns)}
        writer.writerow([*names, *columns, *(f"label_{t}" if t.casefold() in taken else t for t in tasks)])
        for row in rows:
            cells = [row["metadata"].get(name, "") for name in columns] + [
                row["labels"].get(name, "") for name in tasks
            ]
            writer.writerow([*(row[name] for name in names), *cells])
    else:
        echo_table(
            [row | row["labels"] for row in rows], ["rank", "item_id", "score", "source", "locator", *_tasks(rows)]
        )
        own = f"; {result.excluded} of its own group left out" if result.excluded else ""
        click.echo(f"{result.query}: {len(rows)} of {result.searched} items{own}", err=True)
        if html:
            click.echo(html)


def _tasks(rows: list[dict[str, dict[str, str]]]) -> list[str]:
    return sorted({name for row in rows for name in row["labels"]})


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
