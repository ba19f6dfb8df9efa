"""Verbs that doubt: audit, label-errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from vecstore_cli._shared import (
    command,
    echo_json,
    echo_table,
    json_option,
    progress,
    space_option,
    store_argument,
)

if TYPE_CHECKING:
    from vecstore.audit import Audit, Finding

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
    default=20_000,
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
