"""Verbs that doubt: audit, label-errors, report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vecstore_cli._shared import (
    command,
    echo_json,
    echo_newest,
    echo_table,
    echo_written,
    json_option,
    progress,
    shares_by_class,
    space_option,
    split_commas,
    store_argument,
)

if TYPE_CHECKING:
    from vecstore.audit import Audit, Finding
    from vecstore.label_errors import Suspect

_group = click.option(
    "--group",
    metavar="COLUMN",
    help="Column that is never split (patient …); found by its name by default; none: every item for itself.",
)


@click.command()
@store_argument
@click.argument("task", required=False)
@click.option("--strict", is_flag=True, help="Exit with 5 if there is a problem.")
@_group
@space_option
@click.option(
    "--near-duplicates/--no-near-duplicates", default=True, help="Look for near-duplicates: it is what takes time."
)
@click.option(
    "--cosine", type=float, default=0.98, show_default=True, help="Similarity that proposes a near-duplicate."
)
@click.option(
    "--max-queries",
    type=int,
    default=100_000,
    show_default=True,
    help="Near-duplicates are looked for of so many pictures: those of the test part first.",
)
@click.option("--examples", type=int, default=5, show_default=True, help="Shown of each finding.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of folds and samples.")
@json_option
@command
def audit(store: str, task: str | None, strict: bool, as_json: bool, **options: Any) -> None:
    """Look for what makes a score of TASK (or of every task) wrong, before others find it.

    Patients and pictures on both sides of the split, copies with other labels, near-duplicates (by their vectors, and
    a hash of their thumbnails), and labels that can be told without looking: from metadata, image size, or site. No
    picture of the archive is opened.

    \b
      vecstore audit chest.vecs pneumonia
      vecstore audit chest.vecs --group patient_id --json
    """
    from vecstore.audit import audit as run

    found = run(store, task, progress=progress(as_json), **options)
    if as_json:
        echo_json(found.to_dict())
    else:
        _show(found)
    if strict:
        found.raise_for_problems()


_NAMES = {"problem": "PROBLEM", "warning": "warning", "not checked": "not checked", "fine": "fine"}


def _show(found: Audit) -> None:
    told = ", ".join(f"{n} {_NAMES[severity]}" for severity, n in found.counts.items() if n)
    where = f"{found.store}, commit {found.commit}, {found.items} items"
    click.echo(f"{where}: {told or 'nothing to check'}")
    echo_table(
        [
            {"": _NAMES[one.severity], "check": one.title, "task": one.task or "", "found": one.told}
            for one in found.findings
        ]
    )
    for one in found.findings:
        if one.severity in ("problem", "warning"):
            _examples(one)


def _examples(finding: Finding) -> None:
    of = f" ({finding.task})" if finding.task else ""
    click.echo(f"\n{_NAMES[finding.severity]}: {finding.title}{of}: {finding.told}")
    for example in finding.examples:
        click.echo(f"  {example.what}")
        for member in example.members:
            known = ", ".join(text for text in (member.part, member.label, member.group) if text)
            click.echo(f"    {member.source}: {member.locator}{f' ({known})' if known else ''}")
        if example.more:
            click.echo(f"    and {example.more} more")
    if finding.do:
        click.echo(f"  what to do: {finding.do}")


@click.command("label-errors")
@store_argument
@click.argument("task")
@click.option("--model", type=int, metavar="ID", help="A model by its id; the newest by default.")
@click.option(
    "--space",
    multiple=True,
    metavar="NAME",
    help="Cross-validate a classifier on these vectors instead of taking a stored one's predictions; repeatable.",
)
@_group
@click.option("--where", metavar="SQL", help="Only items that fit an expression over the item columns.")
@click.option("--top", type=int, default=50, show_default=True, metavar="N", help="How many suspects.")
@click.option("--neighbours", type=int, default=4, show_default=True, help="Similar cases of either class of each.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the folds, where a classifier is fitted.")
@click.option("--html", type=click.Path(), metavar="FILE", help="Write a page with pictures.")
@json_option
@command
def label_errors(
    store: str, task: str, space: tuple[str, ...], html: str | None, as_json: bool, **options: Any
) -> None:
    """Find labels of TASK that are probably wrong, by confident learning.

    From predictions of models that had not seen the pictures: those a stored model was scored with, or a new
    classifier's, cross-validated by group. Each suspect comes with similar cases of either class. No picture is opened.

    \b
      vecstore label-errors chest.vecs pneumonia --top 20
      vecstore label-errors chest.vecs pneumonia --html suspects.html
    """
    from vecstore.files import output_file
    from vecstore.label_errors import label_errors as run
    from vecstore.store import Store

    if html:
        output_file(html)  # refused before any work
    with Store(store) as opened:
        found = run(opened, task, space=list(space) or None, **options)
        if options["model"] is None and found.model_id is not None:
            echo_newest(opened, task)
        if html:
            from vecstore.pages import write_suspects_page

            write_suspects_page(opened, found, html)
    if as_json:
        echo_json(found.to_dict())
        return
    echo_table([_row(suspect, bool(found.level)) for suspect in found.suspects])
    shown = f", the first {len(found.suspects)} are shown" if len(found.suspects) < found.found else ""
    click.echo(f"{found.task}: {found.found} of {found.n} labels are suspect{shown}; predictions: {found.predictions}")
    for note in found.notes:
        click.echo(f"note: {note}", err=True)


def _row(suspect: Suspect, level: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"rank": suspect.rank, "item_id": suspect.item_id, "locator": suspect.locator}
    row |= {"pictures": suspect.pictures} if level else {}
    row |= {"label": suspect.label} if suspect.label else {}
    row |= {"given": suspect.given, "p": suspect.probability_given}
    row |= {"suggested": suspect.suggested, "p ": suspect.probability_suggested, "part": suspect.part}
    return row | {"nearest suggested": " ".join(str(hit.item_id) for hit in suspect.nearest_suggested)}


@click.command()
@store_argument
@click.argument("task")
@click.option(
    "--out",
    "output",
    type=click.Path(),
    default="report.html",
    show_default=True,
    metavar="FILE|FOLDER",
    help="The page; its JSON and a model card are written beside it.",
)
@click.option("--model", type=int, metavar="ID", help="A model by its id; the newest by default.")
@click.option(
    "--subgroup",
    multiple=True,
    metavar="COLUMN[=EDGES]",
    help="By the values of an item column (sex), numbers in bands (age=40,60); again for several. By default sex, age,"
    " view, site, manufacturer and the like, where there are such columns.",
)
@click.option("--min-cell", type=int, default=10, show_default=True, help="Suppress subgroups of fewer groups.")
@click.option("--specificity", type=float, default=0.9, show_default=True, help="At which sensitivity is told.")
@click.option("--sensitivity", type=float, default=0.9, show_default=True, help="At which specificity is told.")
@click.option(
    "--prevalence",
    multiple=True,
    metavar="[CLASS=]SHARE",
    help="For PPV and NPV, 0.05 for 5 %; of several classes again for each. By default that of the evaluated rows.",
)
@click.option(
    "--ordinal", metavar="A,B,C", help="Classes from least to most, for quadratic kappa; numbers are ordered anyway."
)
@click.option("--coverage", type=float, default=0.9, show_default=True, help="Of prediction sets.")
@click.option("--pictures/--no-pictures", default=True, help="Show thumbnails of mistakes and suspects.")
@click.option("--curve/--no-curve", default=True, help="Make a learning curve, and the floor with shuffled labels.")
@click.option("--near-duplicates/--no-near-duplicates", default=True, help="Look for near-duplicates in the audit.")
@click.option("--top", type=int, default=8, show_default=True, metavar="N", help="Mistakes and suspects shown.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything beyond the scores.")
@json_option
@command
def report(
    store: str,
    task: str,
    output: str,
    subgroup: tuple[str, ...],
    prevalence: tuple[str, ...],
    ordinal: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Write everything a reviewer asks of a model of TASK: a page, its JSON, and a model card.

    Scores with intervals, curves, calibration, subgroups, the audit, floors, a learning curve, the surest mistakes and
    suspected label errors with their nearest training cases. The same store and options give the same bytes.

    \b
      vecstore report chest.vecs pneumonia
      vecstore report chest.vecs pneumonia --out pneumonia.html --subgroup sex --subgroup age=40,60 --no-pictures
    """
    from vecstore.reporting import report as run

    found = run(
        store,
        task,
        output,
        subgroup=subgroup or None,
        prevalence=shares_by_class(prevalence),
        ordinal=split_commas(ordinal) or None,
        progress=progress(as_json),
        **options,
    )
    if as_json:
        echo_json(found.to_dict())
        return
    click.echo(found.content["summary"])
    for caveat in found.content["caveats"]:
        click.echo(f"note: {caveat}")
    echo_written(found)
