"""`vecstore index` (build, update, info), `search-eval` and `neighbors`: what lies behind a search, and beyond it."""

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
    progress,
    space_option,
    store_argument,
)

metric_option = click.option(
    "--metric",
    default="cosine",
    show_default=True,
    metavar="cosine|standard|whitened",
    help="What is compared by its cosine: the vectors, standardised features, or whitened principal components.",
)


@click.group()
def index() -> None:
    """Build, update or describe the index that search uses.

    Search is exact and needs none of this; an index makes it faster, and says how much of the exact answer it finds.
    Each of them takes --json.

    \b
      vecstore index build chest.vecs
      vecstore index build chest.vecs --recall 0.98 --memory 8GB
      vecstore index update chest.vecs
      vecstore index info chest.vecs
    """


@index.command()
@store_argument
@space_option
@click.option("--kind", metavar="exact|coded|cells", help="Instead of choosing by number and spectrum of the vectors.")
@click.option(
    "--recall", type=float, default=0.99, show_default=True, help="Share of the exact ten best that has to be found."
)
@click.option("--memory", metavar="SIZE", help="What the index may keep in memory, e.g. 8GB.")
@metric_option
@json_option
@command
def build(
    store: str, space: str | None, kind: str | None, recall: float, memory: str | None, metric: str, as_json: bool
) -> None:
    """Choose an index, build it, and measure what it finds.

    exact compares all vectors; coded finds candidates by short codes, scored exactly then; cells does so in the parts
    of the space near the query, for millions. What does not reach --recall is not kept. An index serves searches of its
    own --metric.

    \b
      vecstore index build chest.vecs
      vecstore index build chest.vecs --recall 0.999 --memory 2GB
      vecstore index build chest.vecs --metric standard
    """
    from vecstore.indexes import index_build

    told = progress()
    _show(
        index_build(store, space=space, kind=kind, recall=recall, memory=memory, metric=metric, progress=told), as_json
    )


@index.command()
@store_argument
@space_option
@metric_option
@json_option
@command
def update(store: str, space: str | None, metric: str, as_json: bool) -> None:
    """Add newer vectors to the index, without building it again.

    \b
      vecstore index update chest.vecs
    """
    from vecstore.indexes import index_update

    _show(index_update(store, space=space, metric=metric, progress=progress()), as_json)


@index.command()
@store_argument
@space_option
@metric_option
@json_option
@command
def info(store: str, space: str | None, metric: str, as_json: bool) -> None:
    """Say what the index is, what it covers, and its measured recall.

    \b
      vecstore index info chest.vecs
    """
    from vecstore.indexes import index_info

    _show(index_info(store, space=space, metric=metric), as_json)


def _show(found: Any, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        echo_json(asdict(found))
        return
    recall = "1, nothing can be missed"
    if found.kind != "exact":
        recall = (
            "not measured: too few vectors"
            if found.recall is None
            else f"{found.recall:.4f} [{found.recall_low:.4f}, {found.recall_high:.4f}] of the exact"
            f" {found.recall_k} best, on {found.recall_queries} held-out queries"
        )
    echo_facts(
        [
            ("space", found.space),
            ("metric", found.metric),
            ("kind", found.kind),
            ("design", found.design),
            ("why", found.why),
            ("not enough", "; ".join(found.tried)),
            ("vectors", f"{found.covered} of {found.vectors}, {found.dim} dimensions"),
            ("recall", recall),
            ("size", f"{found.bytes / 1e6:.1f} MB"),
            ("commit", f"{found.commit}, the store is at {found.newest}"),
        ]
    )


@click.command("search-eval")
@store_argument
@click.option("--task", required=True, metavar="NAME", help="Whose labels say what is similar.")
@click.option("-k", "k", type=int, default=10, show_default=True, help="Hits that are looked at.")
@click.option("--metric", metavar="cosine|standard|whitened", help="Only this one; all of them side by side otherwise.")
@space_option
@click.option("--group", metavar="COLUMN", help="Column whose value keeps a query's own group out; none: no groups.")
@click.option("--where", metavar="SQL", help="Only items that fit an expression over item columns and tasks.")
@click.option("--max-queries", type=int, default=2000, show_default=True, help="Of more items, a random sample asks.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of that sample.")
@at_option
@json_option
@command
def search_eval(store: str, task: str, at: int | None, as_json: bool, **options: Any) -> None:
    """Judge similar cases by labels: is what is found of the query's class?

    Every labelled item is a query, and its own group is never found. Beside each measure stands what a random ranking
    reaches.

    \b
      vecstore search-eval chest.vecs --task pneumonia
    """
    from dataclasses import asdict

    from vecstore.search_eval import search_eval as run
    from vecstore.store import Store

    with Store(store, at) as opened:
        result = run(opened, task, **options)
    if as_json:
        echo_json(asdict(result))
        return
    for note in result.notes:
        click.echo(f"note: {note}", err=True)
    rows = []
    for quality in result.metrics:
        for name, value in quality.values.items():
            place = f"@{result.k}" if name != "map" else ""
            rows.append(
                {
                    "metric": quality.metric,
                    "measure": f"{name}{place}",
                    "all": value,
                    "95 %": f"{quality.low[name]:.3f} to {quality.high[name]:.3f}",
                    "random": quality.random[name],
                    "beyond cosine": _difference(quality.beyond_cosine.get(name)),
                }
                | {cls: told["values"][name] for cls, told in quality.per_class.items()}
            )
    echo_table(rows)
    grouped = f", {result.groups} groups by {result.group_column}" if result.group_column else ""
    click.echo(f"{result.queries} queries{grouped}; {result.candidates} items can be found", err=True)


@click.command()
@store_argument
@click.option("-k", "k", type=int, default=10, show_default=True, help="Neighbours of each item.")
@space_option
@metric_option
@click.option("--where", metavar="SQL", help="Only items that fit an expression over item columns and tasks.")
@click.option(
    "--recall",
    type=float,
    help="Share of the exact neighbours that is enough, e.g. 0.97: for a hundred thousand items several times faster."
    " By default as much as the store's index finds, which is all unless an approximate one was built.",
)
@click.option(
    "--duplicates",
    type=float,
    default=0.99,
    show_default=True,
    help="Similarity from which on two are near-duplicates.",
)
@click.option("--outliers", type=int, default=20, show_default=True, help="How many outliers are listed.")
@click.option("--output", type=click.Path(), metavar="FILE", help="Write the graph, for scipy.sparse.load_npz.")
@at_option
@json_option
@command
def neighbors(store: str, at: int | None, as_json: bool, **options: Any) -> None:
    """Find the nearest neighbours of every item: near-duplicates, outliers, and the graph for other tools.

    The graph is a CSR matrix of distances (1 - cosine), as scipy.sparse.load_npz reads it; item_ids in the same file
    are the ids of its rows.

    \b
      vecstore neighbors chest.vecs --output graph.npz
      vecstore neighbors chest.vecs --duplicates 0.98 --where "age >= 60"
      vecstore neighbors chest.vecs --recall 0.97 --output graph.npz
    """
    from vecstore.graph import neighbors as run
    from vecstore.index.recall import Recall
    from vecstore.store import Store

    with Store(store, at) as opened:
        found = run(opened, **options, progress=progress(as_json))

    def told(item: int) -> dict[str, Any]:
        source, locator = found.places[item]
        return {"item_id": item, "source": source, "locator": locator}

    for note in found.notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        echo_json(
            {
                "items": len(found.ids),
                "k": found.k,
                "space": found.space,
                "metric": found.metric,
                "exact": found.exact,
                "recall": found.recall,
                "commit": found.commit,
                "duplicates": [[told(item) for item in group] for group in found.duplicates],
                "outliers": [told(item) | {"distance": distance} for item, distance in found.outliers],
                "output": options["output"],
                "notes": found.notes,
            }
        )
        return
    together = sum(len(group) for group in found.duplicates)
    told_by = f"{found.metric} >= {options['duplicates']:g}, by vectors alone; audit also compares thumbnails"
    echo_facts(
        [
            ("items", f"{len(found.ids)}, {found.k} neighbours each"),
            ("found", "exactly" if found.recall is None else str(Recall(**found.recall))),
            ("near-duplicates", f"{together} items in {len(found.duplicates)} groups ({told_by})"),
            ("graph", options["output"]),
        ]
    )
    near = [
        {"near-duplicates": number} | told(item)
        for number, group in enumerate(found.duplicates[:_GROUPS], 1)
        for item in group[:_MEMBERS]
    ]
    alone = [{"outlier": rank} | told(item) | {"distance": far} for rank, (item, far) in enumerate(found.outliers, 1)]
    for rows in (near, alone):
        if rows:
            click.echo()
        echo_table(rows)
    shown = len(near)
    if shown < together:
        click.echo(f"{shown} of {together} near-duplicates are listed; all of them: --json", err=True)


_GROUPS, _MEMBERS = 20, 20
"""Near-duplicates that a person is shown; JSON has all of them."""


def _difference(told: list[float] | None) -> str:
    return f"{told[0]:+.3f} [{told[1]:+.3f}, {told[2]:+.3f}]" if told else ""
