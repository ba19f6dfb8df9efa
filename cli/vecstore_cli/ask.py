"""Verbs around a classifier: zero-shot, learning-curve, export-model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click

from vecstore_cli._shared import (
    command,
    echo_facts,
    echo_json,
    echo_table,
    encoder_options,
    json_option,
    space_option,
    split_commas,
    store_argument,
)

_group = click.option(
    "--group",
    metavar="COLUMN",
    help="Column that is never split (patient …); found by its name by default; none: every item for itself.",
)
_where = click.option("--where", metavar="SQL", help="Only items that fit an expression over the item columns.")
_min_groups = click.option(
    "--min-groups", type=int, default=5, show_default=True, help="Leave out classes in fewer groups."
)
_classes = click.option("--classes", metavar="A,B", help="Only these classes.")


@click.command("zero-shot")
@store_argument
@click.argument("task")
@click.option(
    "--prompt",
    "prompt",
    multiple=True,
    metavar="CLASS=TEXT",
    help='What a picture of the class is called; again for several texts, whose mean counts. Of several labels also "not LABEL=TEXT".',  # noqa: E501
)
@click.option(
    "--prompts",
    "file",
    type=click.Path(),
    metavar="FILE",
    help="Prompts as JSON (class to text or texts) or CSV (columns class, prompt).",
)
@click.option(
    "--template",
    multiple=True,
    metavar="TEXT",
    help='Text with {} for the name of a class without prompts: "an x-ray of {}"; again for several.',
)
@space_option
@_group
@_where
@_min_groups
@_classes
@click.option("--encoder", metavar="NAME", help="How to open the space's encoder, where its own name does not find it.")
@encoder_options
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap.")
@json_option
@command
def zero_shot(
    store: str,
    task: str,
    prompt: tuple[str, ...],
    file: str | None,
    template: tuple[str, ...],
    space: str | None,
    group: str | None,
    where: str | None,
    min_groups: int,
    classes: str | None,
    encoder: str | None,
    weights: str | None,
    device: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Classify the pictures of TASK by texts, in a CLIP space, and score that beside the trained classifier.

    On the official test part where the task has one, else on every labelled picture. No picture is opened.

    \b
      vecstore zero-shot chest.vecs pneumonia --prompt normal="a chest x-ray without findings" --prompt pneumonia="a chest x-ray with pneumonia"
      vecstore zero-shot chest.vecs pneumonia --template "a chest x-ray of {}" --template "{} lungs"
    """  # noqa: E501
    from vecstore.errors import UsageError
    from vecstore.store import Store
    from vecstore.zeroshot import zero_shot as run

    if prompt and file:
        raise UsageError("--prompt and --prompts", expected="one of them", do="add the texts to the file")
    with Store(store) as opened:
        found = run(
            opened,
            task,
            file or _by_class(prompt, opened.task(task).classes),
            template=template,
            space=space,
            group=group,
            where=where,
            min_groups=min_groups,
            classes=split_commas(classes) or None,
            encoder=encoder,
            weights=weights,
            device=device,
            seed=seed,
        ).to_dict()
    if as_json:
        echo_json(found)
        return
    click.echo(
        f"{found['task']}: zero-shot AUC {_number(found['auc'])}{_interval(found['auc_interval'])} on {found['part']}:"
        f" {found['n']} items in {found['groups']} groups"
    )
    echo_facts(
        [
            ("trained", _beside(found["probe"])),
            ("accuracy", _number(found["accuracy"]) + _interval(found["accuracy_interval"])),
            ("AUC per class", ", ".join(f"{name} {_number(auc)}" for name, auc in found["auc_per_class"].items())),
            *((f"prompts of {name}", " | ".join(texts)) for name, texts in found["prompts"].items()),
            ("space", f"{found['space']}, cosines times {found['scale']:.4g}"),
            ("pixels read", str(found["pixels_read"])),
        ]
    )
    for note in found["notes"]:
        click.echo(f"note: {note}")


def _by_class(prompts: tuple[str, ...], classes: Sequence[str]) -> dict[str, list[str]]:
    """CLASS=TEXT pairs as lists of texts; of classes with a "=" in their names the longest that fits is meant."""
    from vecstore.errors import UsageError

    found: dict[str, list[str]] = {}
    for one in prompts:
        fitting = [name for known in classes for name in (known, f"not {known}") if one.startswith(f"{name}=")]
        name = max(fitting, key=len, default=one.partition("=")[0])
        mark, text = one[len(name) : len(name) + 1], one[len(name) + 1 :]
        if not mark:
            raise UsageError(f"--prompt {one!r}", expected="CLASS=TEXT", do='--prompt normal="a normal chest x-ray"')
        found.setdefault(name.strip(), []).append(text)
    return found


def _beside(probe: Mapping[str, Any] | None) -> str:
    if probe is None:
        return "no model of these classes with predictions for these pictures"
    return (
        f"{probe['model']} {probe['model_id']} in space {probe['space']}: AUC {_number(probe['auc'])}"
        f"{_interval(probe['auc_interval'])} {probe['part']}; zero-shot on the same {probe['n']} items"
        f" {_number(probe['zero_shot_auc'])}"
    )


def _number(value: float | None) -> str:
    return "not defined" if value is None or value != value else f"{value:.3f}"


def _interval(interval: list[float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.3f}-{interval[1]:.3f})"


@click.command("learning-curve")
@store_argument
@click.argument("task")
@click.option(
    "--per-class",
    default="1,2,4,8,16,32,64,128,256",
    show_default=True,
    metavar="N,N",
    help="Groups (patients …) labelled per class.",
)
@click.option("--repeats", type=int, default=10, show_default=True, help="Draws per size.")
@click.option(
    "--model",
    type=click.Choice(["probe", "svm", "knn"]),
    default="probe",
    show_default=True,
    help="Logistic regression, linear SVM, or nearest neighbours, with fixed parameters.",
)
@space_option
@_group
@_where
@_min_groups
@_classes
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draws.")
@click.option("--report", type=click.Path(), metavar="FILE", help="Write an HTML page with a plot.")
@json_option
@command
def learning_curve(
    store: str,
    task: str,
    per_class: str,
    repeats: int,
    model: str,
    space: str | None,
    group: str | None,
    where: str | None,
    min_groups: int,
    classes: str | None,
    seed: int,
    report: str | None,
    as_json: bool,
) -> None:
    """How many labels TASK needs: classifiers learned from few groups per class, drawn again and again.

    Judged on the official test part where the task has one, else on a third of the groups. Nothing is stored.

    \b
      vecstore learning-curve chest.vecs pneumonia
      vecstore learning-curve chest.vecs pneumonia --per-class 1,2,4 --repeats 20 --model knn --report curve.html
    """
    from vecstore.curve import WITHIN
    from vecstore.curve import learning_curve as run
    from vecstore.errors import UsageError
    from vecstore.files import output_file
    from vecstore.pages import write_curve_page
    from vecstore.store import Store

    if report:
        output_file(report)  # refused before any work
    try:
        sizes = [int(size) for size in split_commas(per_class)]
    except ValueError as error:
        raise UsageError(f"--per-class {per_class}", expected="whole numbers", do="--per-class 1,2,4,8") from error
    with Store(store) as opened:
        curve = run(
            opened,
            task,
            per_class=sizes,
            repeats=repeats,
            model=model,
            space=space,
            group=group,
            where=where,
            min_groups=min_groups,
            classes=split_commas(classes) or None,
            seed=seed,
        )
        if report:
            write_curve_page(opened, curve, report)
    found = curve.to_dict()
    if as_json:
        echo_json(found)
        return
    echo_table(
        [
            {"groups per class": point["per_class"] or "all", "items": f"{point['rows']:.0f}"}
            | {name: f"{point[name]:.3f}" for name in ("auc", "sd", "low", "high")}
            | {"draws": point["draws"]}
            for point in found["points"]
        ]
    )
    enough = found["enough"]
    whole = found["points"][-1]["auc"]
    click.echo(
        f"within {WITHIN} of the AUC with all labels ({_number(whole)}): "
        + (f"from {enough} groups per class on" if enough else "only with all of them, so more may help")
    )
    echo_facts(
        [("rule", found["rule"]), ("judged on", found["part"]), ("groups", found["group_column"] or "none known")]
    )
    for note in found["notes"]:
        click.echo(f"note: {note}")


@click.command("export-model")
@store_argument
@click.argument("task")
@click.argument("output", type=click.Path())
@click.option("--model", type=int, metavar="ID", help="A model by its id; the newest by default.")
@json_option
@command
def export_model(store: str, task: str, output: str, model: int | None, as_json: bool) -> None:
    """Write the newest classifier of TASK to OUTPUT: .onnx, or .npz or .json with plain weights.

    For programs without vecstore. Its input are unit vectors of the model's space.

    \b
      vecstore export-model chest.vecs pneumonia pneumonia.onnx
      vecstore export-model chest.vecs pneumonia pneumonia.json
    """
    from vecstore.export_model import export_model as run
    from vecstore.store import Store

    with Store(store) as opened:
        found = run(opened, task, output, model=model)
    if as_json:
        echo_json(found)
    else:
        click.echo(
            f"{found['path']}: {found['model']} {found['model_id']} of {found['task']}, {found['dim']} dimensions to"
            f" {', '.join(found['classes'])}; vectors of the space {found['space']}"
        )
