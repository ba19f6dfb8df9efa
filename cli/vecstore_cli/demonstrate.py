"""`vecstore demo`."""

from __future__ import annotations

from dataclasses import asdict

import click

from vecstore_cli._shared import command, echo_facts, echo_json, echo_table, json_option, progress


@click.command()
@click.option(
    "--medmnist", metavar="NAME|FILE", help="A MedMNIST set by name (downloaded) or by file, instead of DICOM files."
)
@click.option(
    "--folder", type=click.Path(), default="vecstore-demo", show_default=True, help="For the store and the pages."
)
@json_option
@command
def demo(medmnist: str | None, folder: str, as_json: bool) -> None:
    """Embed real pictures, train a classifier, find similar cases, write two pages.

    \b
      vecstore demo
      vecstore demo --medmnist breastmnist
    """
    from vecstore.demo import demo as run

    result = run(folder, medmnist=medmnist, progress=progress(quiet=as_json))
    record = result.record
    pages = {name: str(path.resolve()) for name, path in result.pages.items()}
    if as_json:
        echo_json(
            {
                "ingest": asdict(result.ingested),
                "record": record.to_dict(),
                "pages": pages,
                "published": result.published,
            }
        )
        return
    ingested = result.ingested
    held = ingested.added + ingested.present
    failed = ingested.failed + ingested.failed_before
    click.echo(f"\n{held} pictures in the store, {failed} could not be decoded; {ingested.embedded} embedded now")
    click.echo("(identical pictures, such as one file in several encodings, are embedded once)")
    auc = "not defined" if record.auc is None else f"{record.auc:.3f}"
    interval = "" if record.auc_interval is None else " ({:.3f}-{:.3f})".format(*record.auc_interval)
    click.echo(f"{record.task}: AUC {auc}{interval}, {record.part}, {record.n} pictures")
    if result.published is not None:
        click.echo(f"published: ResNet-18 trained on the same pictures {result.published:.3f} (MedMNIST v2, test AUC)")
    for note in record.notes:
        click.echo(f"note: {note}")
    shown = result.hits.hits[:5]
    click.echo(f"\nsimilar to {result.hits.query}: the first {len(shown)} of {len(result.hits.hits)}")
    rows = [asdict(hit) | dict(hit.labels) for hit in shown]
    echo_table(rows, ["rank", "score", "locator", record.task])
    click.echo("")
    echo_facts([("store", str(result.store)), *pages.items()])
