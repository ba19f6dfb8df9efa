"""Verbs that fill a store: ingest, label."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from vecstore_cli._shared import (
    command,
    echo_facts,
    echo_json,
    encoder_options,
    json_option,
    listed,
    progress,
    split_commas,
    store_argument,
)

if TYPE_CHECKING:
    from vecstore.labelling import LabelResult


@click.command()
@click.argument("archive", type=click.Path())
@click.option("--store", required=True, type=click.Path(), help="The store's folder; made if it is not there.")
@click.option(
    "--encoder",
    "encoders",
    multiple=True,
    metavar="NAME",
    help="bundled (default), torchvision:…, open_clip:…, timm:…; repeatable.",
)
@click.option("--source", metavar="NAME", help="Name of the archive in the store [its base name].")
@click.option(
    "--kind",
    metavar="KIND",
    help="folder, zip, tar, manifest, medmnist or file, where what is there should not decide.",
)
@click.option("--path-column", metavar="COLUMN", help="Column of a manifest that holds the path.")
@click.option("--space", metavar="NAME", help="Name of the space, for one encoder.")
@encoder_options
@click.option(
    "--frames",
    type=click.Choice(["first", "all"]),
    help="Frames or pages of a file that become items; fixed when the store is made [first].",
)
@click.option(
    "--retry-failures",
    "retry",
    flag_value="also",
    default="no",
    help="Try failed items again though their files are unchanged.",
)
@click.option("--only-failures", "retry", flag_value="only", help="Try failed items again and nothing else.")
@click.option(
    "--verify-content",
    is_flag=True,
    help="Hash every file instead of trusting size and time; deleted thumbnails come back.",
)
@click.option("--no-thumbnails", is_flag=True, help="Keep no small pictures for pages.")
@click.option("--quiet", is_flag=True, help="No progress.")
@json_option
@command
def ingest(
    archive: str,
    store: str,
    encoders: tuple[str, ...],
    source: str | None,
    kind: str | None,
    path_column: str | None,
    space: str | None,
    weights: str | None,
    device: str | None,
    frames: str | None,
    retry: str,
    verify_content: bool,
    no_thumbnails: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Embed what ARCHIVE holds and the store does not.

    ARCHIVE is a folder, a zip or tar, a manifest (CSV, TSV, Parquet), a MedMNIST .npz, or one picture.
    Killed at any moment it can be run again; a second run embeds nothing.

    \b
      vecstore ingest archive/ --store chest.vecs
      vecstore ingest images.zip --store chest.vecs --encoder bundled --encoder torchvision:resnet50/IMAGENET1K_V2
    """
    from vecstore.ingest import ingest as run

    result = run(
        store,
        archive,
        encoder=list(encoders) or "bundled",
        source=source,
        kind=kind,
        path_column=path_column,
        space=space,
        weights=weights,
        device=device,
        frames=frames,  # type: ignore[arg-type]
        retry=retry,  # type: ignore[arg-type]
        verify_content=verify_content,
        thumbnails=not no_thumbnails,
        progress=progress(quiet),
    )
    if as_json:
        echo_json(asdict(result))
    else:
        rate = f" ({result.embedded / result.seconds:.1f}/s)" if result.embedded and result.seconds else ""
        click.echo(
            f"{result.source}: {result.added} added, {result.present} present, {result.failed} failed,"
            f" {result.embedded} embedded{rate}"
        )
        echo_facts(
            [
                (
                    "gone",
                    f"{result.gone} items are no longer in the archive; they stay in the store" if result.gone else "",
                ),
                (
                    "failed before",
                    f"{result.failed_before}, not tried again (--retry-failures)" if result.failed_before else "",
                ),
                ("passed over", f"{result.passed_over} files that are not pictures" if result.passed_over else ""),
                ("task", f"{result.task}, from labels in the archive" if result.task else ""),
                ("notes", "; ".join(result.notes)),
            ]
        )
        if result.failed:
            click.echo(f"why: vecstore failures {store}", err=True)
    if result.failed:
        raise SystemExit(3)


@click.command()
@store_argument
@click.argument("table", type=click.Path(), required=False)
@click.option("--task", required=True, metavar="NAME", help="A task of this name is replaced.")
@click.option(
    "--key", metavar="COLUMN", help="Column that names the picture: path, base name, stem, item id, or an item column."
)
@click.option(
    "--value",
    "values",
    metavar="COLUMN[,COLUMN]",
    help="Column with the label; several columns of 0 and 1 are a multi-label task.",
)
@click.option("--column", metavar="COLUMN", help="Take an item column as the label; no table.")
@click.option("--split-column", metavar="COLUMN", help="Column with the official part: train, val, test.")
@click.option("--columns", metavar="COLUMN,…", help="Further columns that become item columns.")
@click.option("--positive", metavar="VALUE", help="The positive value; all others are negative.")
@click.option("--ignore", metavar="VALUE,…", help="Values that mean 'not labelled' (a comma inside a value: \\,).")
@click.option(
    "--uncertain",
    metavar="VALUE,…",
    help="Values that mean 'uncertain' [in several columns of 0 and 1: -1, u, uncertain].",
)
@click.option(
    "--uncertain-policy",
    type=click.Choice(["ignore", "ones", "zeros"]),
    default="ignore",
    show_default=True,
    help="What an uncertain label is taken for: unknown, positive, or negative.",
)
@click.option("--delimiter", metavar="CHAR", help="Several labels in one cell, divided by this: a multi-label task.")
@click.option(
    "--on-conflict",
    type=click.Choice(["error", "first", "any", "drop"]),
    default="error",
    show_default=True,
    help="Items whose rows disagree.",
)
@click.option("--source", metavar="NAME", help="Only items of this archive.")
@click.option("--add", is_flag=True, help="Extend the task instead of replacing it.")
@json_option
@command
def label(
    store: str,
    table: str | None,
    task: str,
    key: str | None,
    values: str | None,
    column: str | None,
    split_column: str | None,
    columns: str | None,
    positive: str | None,
    ignore: str | None,
    uncertain: str | None,
    uncertain_policy: str,
    delimiter: str | None,
    on_conflict: str,
    source: str | None,
    add: bool,
    as_json: bool,
) -> None:
    """Import labels from TABLE (CSV, TSV, Parquet), or from an item column.

    \b
      vecstore label chest.vecs findings.csv --task pneumonia --key path --value label --columns patient,age,sex
      vecstore label eyes.vecs labels.csv --task findings --key file --value N,D,G,C,A,H,M,O --columns patient_id
      vecstore label ct.vecs --task modality --column Modality

    Of columns of 0 and 1, -1 means uncertain, and an empty cell not labelled: neither counts for or against a class,
    unless --uncertain-policy takes the uncertain ones for positive or negative.
    """
    from vecstore.label import label as run
    from vecstore.store import Store

    with Store(store) as opened:
        result = run(
            opened,
            table,
            task=task,
            key=key,
            value=split_commas(values) or None,
            column=column,
            split_column=split_column,
            columns=split_commas(columns),
            positive=positive,
            ignore=split_commas(ignore),
            uncertain=None if uncertain is None else split_commas(uncertain),
            uncertain_policy=uncertain_policy,  # type: ignore[arg-type]
            delimiter=delimiter,
            on_conflict=on_conflict,  # type: ignore[arg-type]
            source=source,
            add=add,
        )
    if as_json:
        echo_json(asdict(result))
        return
    click.echo(f"{result.task}: {result.kind}, {result.matched} items labelled, joined by {result.rule}")
    echo_facts(
        [
            ("classes", listed(f"{name} {result.counts.get(name, 0)}" for name in result.classes)),
            ("rows without an item", _examples(result.unmatched_rows, result.examples["unmatched_rows"])),
            ("items without a label", _examples(result.unlabelled_items, result.examples["unlabelled_items"])),
            ("rows without a value, or with an ignored one", result.empty_rows or ""),
            ("uncertain labels", _uncertain(result)),
            ("conflicts", f"{result.conflicts}, resolved: {on_conflict}" if result.conflicts else ""),
            ("item columns", listed(result.columns)),
            (
                "differing rows",
                listed(f"{c}: {n} items, first value kept" for c, n in result.differing_values.items()),
            ),
            ("columns widened", ", ".join(f"{c} to {kind}" for c, kind in result.columns_widened.items())),
        ]
    )
    for note in result.notes:
        click.echo(f"note: {note}")


def _uncertain(result: LabelResult) -> str:
    """How many there were, and what became of them."""
    became = {"ignore": "ignored, as if not labelled", "ones": "taken for 1", "zeros": "taken for 0"}
    return f"{result.uncertain}, {became[result.uncertain_policy]}" if result.uncertain else ""


def _examples(count: int, examples: list[str]) -> str:
    return f"{count} ({', '.join(examples)}{' …' if count > len(examples) else ''})" if count else ""
