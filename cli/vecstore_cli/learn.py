"""Verbs that learn from labels: train, evaluate, predict."""

from __future__ import annotations

import csv
import sys
from typing import TYPE_CHECKING, Any

import click

from vecstore.probes import CLASSES
from vecstore_cli._shared import (
    command,
    echo_facts,
    echo_json,
    encoder_options,
    json_option,
    space_option,
    split_commas,
    store_argument,
)

if TYPE_CHECKING:
    from vecstore.trained import Probe


@click.command()
@store_argument
@click.argument("task")
@click.option(
    "--model",
    type=click.Choice(list(CLASSES)),
    default="probe",
    show_default=True,
    help="Logistic regression, linear SVM, nearest neighbours, one hidden layer, or a random forest.",
)
@space_option
@click.option(
    "--group",
    metavar="COLUMN",
    help="Column that is never split (patient …); found by its name by default; none: every item for itself.",
)
@click.option("--where", metavar="SQL", help="Only items that fit an expression over the item columns.")
@click.option("--min-groups", type=int, default=5, show_default=True, help="Leave out classes in fewer groups.")
@click.option("--classes", metavar="A,B", help="Only these classes.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of folds and bootstrap.")
@click.option("--report", type=click.Path(), metavar="FILE", help="Write a short HTML report.")
@json_option
@command
def train(
    store: str,
    task: str,
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
    """Train a classifier for TASK on stored vectors, and score it by group.

    On the official test part where the task has one, else out of fold. No picture is opened.

    \b
      vecstore train chest.vecs pneumonia
      vecstore train chest.vecs pneumonia --model knn --group patient_id --report pneumonia.html
    """
    from vecstore.files import output_file
    from vecstore.pages import write_training_page
    from vecstore.store import Store
    from vecstore.train import train as run

    if report:
        output_file(report)  # refused before any work
    with Store(store) as opened:
        probe = run(
            opened,
            task,
            model=model,
            space=space,
            group=group,
            where=where,
            min_groups=min_groups,
            classes=split_commas(classes) or None,
            seed=seed,
        )
        if report:
            write_training_page(opened, probe, report)
    _show(probe, as_json)


@click.command()
@store_argument
@click.argument("task")
@click.option("--model", type=int, metavar="ID", help="A model by its id; the newest by default.")
@click.option("--report", type=click.Path(), metavar="FILE", help="Write a short HTML report.")
@json_option
@command
def evaluate(store: str, task: str, model: int | None, report: str | None, as_json: bool) -> None:
    """Score a stored model of TASK again, from stored vectors.

    \b
      vecstore evaluate chest.vecs pneumonia
    """
    from vecstore.evaluate import evaluate as run
    from vecstore.files import output_file
    from vecstore.pages import write_training_page
    from vecstore.store import Store

    if report:
        output_file(report)  # refused before any work
    with Store(store) as opened:
        probe = run(opened, task, model=model)
        if report:
            write_training_page(opened, probe, report)
    _show(probe, as_json)


def _show(probe: Probe, as_json: bool) -> None:
    record = probe.record.to_dict() | {"model_id": probe.model.id if probe.model else None}
    if as_json:
        echo_json(record)
        return
    where = f"{record['part']}: {record['n']} items in {record['groups']} groups"
    click.echo(f"{record['task']}: AUC {_number(record['auc'])}{_interval(record['auc_interval'])} {where}")
    echo_facts(
        [
            ("accuracy", _number(record["accuracy"]) + _interval(record["accuracy_interval"])),
            (
                "balanced accuracy",
                _number(record["balanced_accuracy"]) + _interval(record["balanced_accuracy_interval"]),
            ),
            ("AUC per class", ", ".join(f"{name} {_number(auc)}" for name, auc in record["auc_per_class"].items())),
            (
                "trained on",
                f"{record['trained_on']} items in {record['training_groups']} groups, {record['training_counts']}",
            ),
            ("groups", record["group_column"] or "no column known; identical pictures are kept together"),
            ("model", f"{record['model']} {record['model_id']} in space {record['space']}, {record['parameters']}"),
            ("pixels read", str(record["pixels_read"])),
        ]
    )
    for note in record["notes"]:
        click.echo(f"note: {note}")


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _interval(interval: list[float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.3f}-{interval[1]:.3f})"


@click.command()
@store_argument
@click.argument("task")
@click.argument("images", nargs=-1, type=click.Path())
@click.option("--where", metavar="SQL", help="Which items of the store, where no images are given.")
@click.option("--model", type=int, metavar="ID", help="A model by its id; the newest by default.")
@click.option("--encoder", metavar="NAME", help="How to open the model's encoder, where its own name does not find it.")
@encoder_options
@click.option("--json", "as_json", is_flag=True, help="One JSON object per row instead of CSV.")
@command
def predict(
    store: str,
    task: str,
    images: tuple[str, ...],
    where: str | None,
    model: int | None,
    encoder: str | None,
    weights: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Apply the newest model of TASK to new IMAGES, or to every item of the store.

    CSV on standard output: item, predicted class, probability per class; for items of the store also whether the
    model was trained on them. A picture that can't be read has a row without values, and its reason on standard error.

    \b
      vecstore predict chest.vecs pneumonia new1.png new2.png
      vecstore predict chest.vecs pneumonia --where "age >= 60" > predictions.csv
    """
    from vecstore.errors import UsageError
    from vecstore.predict import predict as run
    from vecstore.store import Store
    from vecstore.trained import load

    if images and where is not None:
        raise UsageError("--where chooses items of the store", "it without new images", "leave one of them away")
    failed = trained = 0
    with Store(store) as opened:
        probe = load(opened, task, model)
        classes = probe.record.classes
        writer = csv.writer(sys.stdout, lineterminator="\n")
        rows = run(opened, probe, images or None, where=where, encoder=encoder, weights=weights, device=device)
        stored = not images
        header = ["item", *(["item_id"] if stored else []), "class", *(f"probability_{name}" for name in classes)]
        header += ["in_training"] if stored else []
        if not as_json:
            writer.writerow(header)
        for row in rows:
            if row.reason:
                failed += 1
                click.echo(f"{row.item}: {row.reason}", err=True)
            trained += row.in_training
            if as_json:
                told: dict[str, Any] = {"item": row.item, "item_id": row.item_id, "class": row.predicted}
                told |= {"probabilities": row.probabilities, "in_training": row.in_training, "reason": row.reason}
                echo_json(told)
            else:
                cells = [f"{row.probabilities[name]:.6g}" if row.probabilities else "" for name in classes]
                cells += [("no", "yes")[row.in_training]] if stored else []
                writer.writerow([row.item, *([row.item_id] if stored else []), row.predicted, *cells])
    if trained:
        click.echo(
            f"note: the model was trained on {trained} of these items, so their predictions flatter it; its honest"
            f" figures: vecstore evaluate {store} {task}",
            err=True,
        )
    if failed:
        raise SystemExit(3)
