"""`vecstore clusters` and `vecstore map`: what an archive consists of, without a label."""

from __future__ import annotations

from typing import Any

import click

from vecstore_cli._shared import (
    at_option,
    command,
    echo_facts,
    echo_json,
    echo_table,
    json_option,
    space_option,
    store_argument,
)
from vecstore_cli.indexing import metric_option


@click.command()
@store_argument
@click.option("--count", type=int, metavar="N", help="How many [chosen by their silhouettes].")
@space_option
@metric_option
@click.option("--where", metavar="SQL", help="Only items that fit an expression over item columns and tasks.")
@click.option("--task", metavar="NAME", help="Say which classes of a task the clusters hold.")
@click.option("--examples", type=int, default=5, show_default=True, help="Central items shown of each cluster.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random samples and first centres.")
@click.option("--output", type=click.Path(), metavar="FILE", help="Write the cluster of every item as CSV.")
@at_option
@json_option
@command
def clusters(store: str, at: int | None, as_json: bool, **options: Any) -> None:
    """Divide items into clusters by their vectors: what an unlabelled archive consists of.

    Without --count it is the number with the best silhouette, if that is at least 0.5; else the most with half of it.
    The first example of a cluster is its medoid. The CSV is a label table (--key locator --value cluster), with which
    clusters become a task.

    \b
      vecstore clusters chest.vecs
      vecstore clusters chest.vecs --count 6 --task pneumonia --output clusters.csv
    """
    from vecstore.clusters import clusters as run
    from vecstore.store import Store

    with Store(store, at) as opened:
        found = run(opened, **options)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        names = ("item_id", "source", "locator", "score")
        echo_json(
            {
                "items": len(found.ids),
                "count": len(found.clusters),
                "space": found.space,
                "metric": found.metric,
                "commit": found.commit,
                "silhouettes": found.silhouettes,
                "clusters": [
                    {
                        "cluster": one.number,
                        "size": one.size,
                        "examples": [dict(zip(names, example, strict=True)) for example in one.examples],
                        "labelled": one.labelled,
                        "label": one.label,
                        "purity": one.purity,
                    }
                    for one in found.clusters
                ],
                "task": found.task,
                "purity": found.purity,
                "chance": found.chance,
                "mutual_information": found.mutual_information,
                "output": options["output"],
                "notes": found.notes,
            }
        )
        return
    tried = ", ".join(f"{count}: {value:.3f}" for count, value in found.silhouettes.items())
    told = "" if found.purity is None else f"{found.purity:.3f}; {found.chance:.3f} by the most frequent class alone"
    echo_facts(
        [
            ("items", f"{len(found.ids)} in {len(found.clusters)} clusters"),
            ("silhouette", tried),
            (f"purity by {found.task}", told),
            ("mutual information", found.mutual_information),
            ("clusters", options["output"]),
        ]
    )
    rows = []
    for one in found.clusters:
        row: dict[str, Any] = {"cluster": one.number, "items": one.size, "share": one.size / len(found.ids)}
        if found.task is not None:
            row |= {found.task: one.label, "purity": one.purity}
        rows.append(row | {"examples": " ".join(str(item) for item, *_ in one.examples)})
    echo_table(rows)


@click.command()
@store_argument
@click.argument("output", type=click.Path())
@space_option
@click.option("--method", default="pca", show_default=True, metavar="pca|umap", help="How vectors come to be places.")
@click.option(
    "--color", multiple=True, metavar="COLUMN|task:NAME", help="What to colour by; repeatable [labels and columns]."
)
@click.option("--where", metavar="SQL", help="Only items that fit an expression over item columns and tasks.")
@click.option("--limit", type=int, default=2000, show_default=True, help="Of more items, a random sample is shown.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of that sample, and of UMAP.")
@at_option
@json_option
@command
def map(store: str, output: str, color: tuple[str, ...], at: int | None, as_json: bool, **options: Any) -> None:
    """Draw all items as one HTML page, alike ones near each other; hover to see the pictures.

    Colour by a column, a task's labels (task:NAME), source, or cluster (of `vecstore clusters`). UMAP needs the package
    umap-learn. The page holds the thumbnails (4 to 8 kB each): treat it as you treat the pictures.

    \b
      vecstore map chest.vecs map.html
      vecstore map chest.vecs map.html --color task:pneumonia --color age --where "age >= 60"
    """
    from vecstore.embedding_map import embedding_map
    from vecstore.store import Store

    with Store(store, at) as opened:
        found = embedding_map(opened, output, color=color, **options)
    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        echo_json(
            {
                "path": found.path,
                "items": len(found.ids),
                "of": found.of,
                "method": found.method,
                "explained": found.explained,
                "space": found.space,
                "commit": found.commit,
                "colors": found.colors,
                "thumbnails": found.thumbnails,
                "bytes": found.bytes,
                "notes": found.notes,
            }
        )
        return
    click.echo(
        f"{found.path}: {len(found.ids)} of {found.of} items, {found.thumbnails} thumbnails, {found.bytes / 1e6:.1f} MB"
    )
    if found.thumbnails:
        click.echo("it holds pictures of patients: treat this file as you treat the pictures", err=True)
