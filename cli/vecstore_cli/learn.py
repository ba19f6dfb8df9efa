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
    json_option,
    listed,
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
@click.option(
    "--space",
    multiple=True,
    metavar="NAME",
    help="Which vectors, where the store has several spaces; given twice, those of both side by side.",
)
@click.option(
    "--level",
    metavar="LEVEL",
    help="Classify units, not pictures: patient, study, series, lesion, or any column whose equal values are one unit.",
)
@click.option(
    "--pool",
    type=click.Choice(["auto", "mean", "max", "unit-mean"]),
    default="auto",
    show_default=True,
    help="How the vectors of a unit become one; auto: what is best in cross-validation.",
)
@click.option(
    "--on-conflict",
    type=click.Choice(["error", "first", "any", "drop"]),
    default="error",
    show_default=True,
    help="Units whose pictures disagree in label or official part.",
)
@click.option(
    "--metric",
    type=click.Choice(["auc", "log_loss", "accuracy", "balanced_accuracy"]),
    default="auc",
    show_default=True,
    help="What strength and pooling are chosen by.",
)
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
    space: tuple[str, ...],
    level: str | None,
    pool: str,
    on_conflict: str,
    metric: str,
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

    With --level a unit counts once, however many pictures it has; folds and intervals are still by group.

    \b
      vecstore train chest.vecs pneumonia
      vecstore train chest.vecs pneumonia --model knn --group patient_id --report pneumonia.html
      vecstore train chest.vecs pneumonia --level patient
    """
    from vecstore.files import output_file
    from vecstore.store import Store
    from vecstore.train import train as run

    if report:
        output_file(report)  # refused before any work
    with Store(store) as opened:
        probe = run(
            opened,
            task,
            model=model,
            space=list(space) or None,
            level=level,
            pool=pool,
            on_conflict=on_conflict,
            metric=metric,
            group=group,
            where=where,
            min_groups=min_groups,
            classes=split_commas(classes) or None,
            seed=seed,
        )
        if report:
            from vecstore.pages import write_training_page  # draws: half a second that a number does not need

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
    from vecstore.store import Store

    if report:
        output_file(report)  # refused before any work
    with Store(store) as opened:
        probe = run(opened, task, model=model)
        if report:
            from vecstore.pages import write_training_page  # draws: half a second that a number does not need

            write_training_page(opened, probe, report)
    _show(probe, as_json)


def _show(probe: Probe, as_json: bool) -> None:
    record = probe.record.to_dict() | {"model_id": probe.model.id if probe.model else None}
    if as_json:
        echo_json(record)
        return
    rows = f"{record['n']} items"
    if record["level"]:
        rows = f"{record['n']} units of {record['level']} ({record['pictures']} pictures)"
    where = f"{record['part']}: {rows} in {record['groups']} groups"
    counts = listed(f"{name} {number}" for name, number in record["training_counts"].items())
    spaces = " + ".join(record["spaces"])
    made = f"{record['model']} {record['model_id']} in space {spaces}, {record['parameters']}"
    trained = f"{record['trained_on']} {'units' if record['level'] else 'items'} in {record['training_groups']} groups"
    click.echo(f"{record['task']}: AUC {_number(record['auc'])}{_interval(record['auc_interval'])} {where}")
    echo_facts(
        [
            ("accuracy", _number(record["accuracy"]) + _interval(record["accuracy_interval"])),
            (
                "balanced accuracy",
                _number(record["balanced_accuracy"]) + _interval(record["balanced_accuracy_interval"]),
            ),
            ("AUC per class", listed(f"{name} {_number(auc)}" for name, auc in record["auc_per_class"].items())),
            ("trained on", f"{trained}: {counts}"),
            ("level", f"{record['level']}, vectors pooled by {record['pool']}" if record["level"] else ""),
            ("groups", record["group_column"] or "no column known; identical pictures are kept together"),
            ("model", made),
            ("pixels read", str(record["pixels_read"])),
        ]
    )
    for note in record["notes"]:
        click.echo(f"note: {_shortened(note)}")


_LONGEST_NOTE = 400


def _shortened(note: str) -> str:
    """A note that names a hundred classes is cut for a person."""
    if len(note) <= _LONGEST_NOTE:
        return note
    return f"{note[:_LONGEST_NOTE].rpartition(',')[0] or note[:_LONGEST_NOTE]} … (all of it: --json)"


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
@click.option(
    "--encoder",
    multiple=True,
    metavar="NAME",
    help="How to open the model's encoder, where its own name does not find it; of several spaces one each.",
)
@click.option(
    "--weights",
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help="Weights file of the encoder (safetensors or checkpoint); of several spaces one each, '' for none.",
)
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1 …; the best there is by default.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per row instead of CSV.")
@command
def predict(
    store: str,
    task: str,
    images: tuple[str, ...],
    where: str | None,
    model: int | None,
    encoder: tuple[str, ...],
    weights: tuple[str, ...],
    device: str | None,
    as_json: bool,
) -> None:
    """Apply the newest model of TASK to new IMAGES, or to every item of the store.

    CSV on standard output: item, predicted class, probability per class; for items of the store also whether the
    model was trained on them. A model of a level gives a row per unit of the store: its value and number of pictures;
    of new images each is scored by itself. A picture that can't be read, or has no vector
    in the store, has a row without values, and its reason on standard error.

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
        rows = run(
            opened,
            probe,
            images or None,
            where=where,
            encoder=list(encoder) or None,
            weights=list(weights) or None,
            device=device,
        )
        level = probe.record.level
        if level and images:
            click.echo(f"note: the model is of the level {level}; each new picture is scored by itself", err=True)
        first = ["item"] if images else ["unit", "pictures"] if level else ["item", "item_id"]
        header = [*first, "class", *(f"probability_{name}" for name in classes)]
        header += [] if images else ["in_training"]
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
                told["pictures"] = row.pictures
                echo_json(told)
            else:
                cells = [f"{row.probabilities[name]:.6g}" if row.probabilities else "" for name in classes]
                cells += [] if images else [("no", "yes")[row.in_training]]
                second: list[int | None] = [] if images else [row.pictures if level else row.item_id]
                writer.writerow([row.item, *second, row.predicted, *cells])
    if trained:
        what = "units" if level else "items"
        click.echo(
            f"note: the model was trained on {trained} of these {what}, so their predictions flatter it; its honest"
            f" figures: vecstore evaluate {store} {task}",
            err=True,
        )
    if failed:
        raise SystemExit(3)
