"""`vecstore index`: build, update, info."""

from __future__ import annotations

from typing import Any

import click

from vecstore_cli._shared import command, echo_facts, echo_json, json_option, progress, space_option, store_argument

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

    \b
      vecstore index build chest.vecs --recall 0.99
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
