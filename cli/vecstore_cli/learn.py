"""Verbs that learn from labels: train, evaluate, compare, predict."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import click

from vecstore.probes import CLASSES
from vecstore_cli._shared import (
    MOST_LISTED,
    command,
    echo_facts,
    echo_json,
    echo_newest,
    echo_table,
    echo_written,
    json_option,
    listed,
    progress,
    shares_by_class,
    split_commas,
    store_argument,
)

if TYPE_CHECKING:
    from vecstore.predict import Prediction
    from vecstore.reporting import Report
    from vecstore.trained import Probe


_report_option = click.option(
    "--report",
    type=click.Path(),
    metavar="FILE|FOLDER",
    help="Also write the report of `vecstore report`: a page, its JSON and a model card. That takes about as long again"
    " as training a logistic regression: it audits, and learns again and again.",
)


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
@click.option(
    "--calibrate",
    type=click.Choice(["none", "temperature", "platt", "isotonic"]),
    default="none",
    show_default=True,
    help="Make probabilities mean what they say; learned from out-of-fold predictions, saved with the model.",
)
@_report_option
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
    calibrate: str,
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
    from vecstore.store import Store
    from vecstore.train import train as run

    if report:
        from vecstore.reporting import ready_files  # draws: half a second that a number does not need

        ready_files(report)  # refused before any work
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
            progress=progress(),
            calibrate=calibrate,
        )
        if not (report and as_json):
            _show(probe, as_json)  # before the report, which takes longer
        if report:
            from vecstore.reporting import report as write

            assert probe.model is not None
            found = write(opened, task, report, model=probe.model.id, progress=progress(as_json))
            if as_json:
                _show(probe, as_json, found)
            else:
                echo_written(found)


@click.command()
@store_argument
@click.argument("task")
@click.option("--model", type=int, metavar="ID", help="A model by its id; the newest by default.")
@click.option(
    "--subgroup",
    multiple=True,
    metavar="COLUMN[=EDGES]",
    help="Also by the values of an item column (sex), numbers in bands (age, or age=40,60); again for several. With"
    " --report by default sex, age, view, site, manufacturer and the like, where there are such columns.",
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
@_report_option
@json_option
@command
def evaluate(
    store: str,
    task: str,
    model: int | None,
    subgroup: tuple[str, ...],
    min_cell: int,
    specificity: float,
    sensitivity: float,
    prevalence: tuple[str, ...],
    ordinal: str | None,
    coverage: float,
    report: str | None,
    as_json: bool,
) -> None:
    """Score a stored model of TASK again, from stored vectors, and judge it in all ways.

    Intervals are 95 %, by resampling groups. Thresholds are chosen on out-of-fold predictions, never on the test part.

    \b
      vecstore evaluate chest.vecs pneumonia
      vecstore evaluate chest.vecs pneumonia --subgroup sex --subgroup age=40,60 --prevalence 0.05
      vecstore evaluate chest.vecs pneumonia --report pneumonia.html
    """
    options: dict[str, Any] = {
        "model": model,
        "min_cell": min_cell,
        "specificity": specificity,
        "sensitivity": sensitivity,
        "prevalence": shares_by_class(prevalence),
        "ordinal": split_commas(ordinal) or None,
        "coverage": coverage,
    }
    if report:
        from vecstore.reporting import report as write

        found = write(store, task, report, subgroup=subgroup or None, progress=progress(as_json), **options)
        _show(found.probe, as_json, found)
        return
    from vecstore.evaluate import evaluate as run

    _show(run(store, task, subgroup=subgroup, **options), as_json)


@click.command()
@store_argument
@click.argument("task")
@click.option(
    "--models",
    metavar="ID,ID",
    help="Models by their ids; by default the newest of each kind of model and space.",
)
@click.option(
    "--metric",
    type=click.Choice(["auc", "auprc", "accuracy", "balanced_accuracy", "f1", "brier", "log_loss"]),
    default="auc",
    show_default=True,
    help="What every two models are compared by.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the bootstrap.")
@json_option
@command
def compare(store: str, task: str, models: str | None, metric: str, seed: int, as_json: bool) -> None:
    """Put models of TASK side by side on the same rows, and say whose difference excludes 0.

    Groups are resampled, the same ones for every model. Told is whether the 95 % interval of a difference excludes 0,
    also after Holm's correction for the number of pairs. Where each group has one row, DeLong's paired test stands
    beside.

    \b
      vecstore compare chest.vecs pneumonia
      vecstore compare chest.vecs pneumonia --metric brier
    """
    from vecstore.compare import compare as run
    from vecstore.errors import UsageError

    try:
        chosen = [int(one) for one in split_commas(models)] or None
    except ValueError:
        raise UsageError(f"--models {models}", "ids of models, as numbers", "--models 1,2") from None
    found = run(store, task, models=chosen, metric=metric, seed=seed).to_dict()
    if as_json:
        echo_json(found)
        return
    what = f"units of {found['level']}" if found["level"] else "rows"
    rows = f"{found['n']} {what} in {found['groups']} groups, {found['part']}"
    click.echo(f"{found['task']}: {len(found['models'])} models on the same {rows}")
    columns = ("auc", "auprc", "accuracy", "balanced_accuracy", "f1", "brier")
    told = []
    for one in found["models"]:
        about = {"model": f"{one['model_id']} {one['model']}", "space": " + ".join(one["spaces"])}
        if any(other["calibration"] for other in found["models"]):
            about |= {"calibrated by": one["calibration"] or "nothing"}
        told.append(about | {name: _estimate(one["scores"][name]) for name in columns})
    echo_table(told)
    for pair in found["pairs"]:
        click.echo(_pair(pair, found["metric"]))
    for note in found["notes"]:
        click.echo(f"note: {_shortened(note)}")


_LEAST_P = 0.00105
"""Of 2,000 resamples none on the other side of 0."""


def _pair(pair: dict[str, Any], metric: str) -> str:
    """One difference as a sentence."""
    if pair["value"] is None or pair["interval"] is None:
        return f"{pair['first']} less {pair['second']}: {metric} is not defined"
    low, high = pair["interval"]
    text = f"{pair['first']} less {pair['second']}: {metric} {pair['value']:+.3f} ({low:+.3f} to {high:+.3f})"
    least = "≤ " if pair["p"] < _LEAST_P else ""  # as small as resampling can tell
    text += f", p {least}{pair['p']:.3f}, Holm {least}{pair['p_holm']:.3f}"
    tests = [f"{name} p {test['p']:.3f}" for name, test in pair["delong"].items() if test and test["p"] is not None]
    text += f", DeLong {listed(tests)}" if tests else ""
    return f"{text}: {'excludes 0, after Holm too' if pair['real'] else 'not shown to differ'}"


def _show(probe: Probe, as_json: bool, report: Report | None = None) -> None:
    """Its figures, and the files of a report."""
    record = probe.record.to_dict() | {"model_id": probe.model.id if probe.model else None}
    found = None if probe.assessment is None else probe.assessment.to_dict()
    if as_json:
        if found is not None:
            record |= {"assessment": found}
        if report is not None:
            record |= {"files": report.to_dict()["files"]}
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
    blind, even = _by_chance(record)
    echo_facts(
        [
            ("accuracy", _number(record["accuracy"]) + _interval(record["accuracy_interval"]) + blind),
            (
                "balanced accuracy",
                _number(record["balanced_accuracy"]) + _interval(record["balanced_accuracy_interval"]) + even,
            ),
            ("AUC per class", listed(f"{name} {_number(auc)}" for name, auc in record["auc_per_class"].items())),
            ("trained on", f"{trained}: {counts}"),
            ("level", f"{record['level']}, vectors pooled by {record['pool']}" if record["level"] else ""),
            ("groups", record["group_column"] or "no column known; identical pictures are kept together"),
            ("model", made),
            ("calibrated by", _calibrated(record["calibration"])),
            *([] if found is None else _assessed(found)),
            ("pixels read", str(record["pixels_read"])),
        ]
    )
    if found is not None:
        _tables(found)
    for note in [*record["notes"], *([] if found is None else found["notes"])]:
        click.echo(f"note: {_shortened(note)}")
    if report is not None:
        echo_written(report)


def _calibrated(told: Mapping[str, Any] | None) -> str:
    """The method, and what it changed on the evaluated rows."""
    if told is None:
        return ""
    if "before" not in told:  # trained by an earlier version
        return str(told["method"])
    titles = (("auc", "AUC"), ("brier", "Brier score"), ("log_loss", "log-loss"))
    changes = [f"{title} {_number(told['before'][name])} to {_number(told['after'][name])}" for name, title in titles]
    return f"{told['method']}: {', '.join(changes)}"


def _by_chance(record: Mapping[str, Any]) -> tuple[str, str]:
    """What an answer without a look at the picture would reach: accuracy and balanced accuracy."""
    if record["kind"] == "multi-label":
        return " (mean over labels; of each label, yes above 0.5)", "; 0.500 by chance"
    counts = record["counts"]
    name, most = max(counts.items(), key=lambda entry: entry[1])
    present = sum(count > 0 for count in counts.values())
    if present < 2:
        return f"; all are {name}", "; one class only: nothing to tell apart"
    return f"; always {name}: {most / sum(counts.values()):.3f}", f"; {1 / present:.3f} by chance"


_OVERALL = (
    ("auprc", "AUPRC"),
    ("f1", "F1"),
    ("quadratic_kappa", "quadratic kappa"),
)


def _assessed(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Further lines of `evaluate`."""
    overall, calibration, sets = found["measures"]["overall"], found["calibration"], found["sets"]
    lines = [(title, _estimate(overall[name])) for name, title in _OVERALL if name in overall]
    brier = f"{_estimate(calibration['brier'])}, of the class shares {calibration['brier_of_prior']:.3f}"
    lines.append(("Brier score", brier))
    curves = calibration["per_class"] if calibration["top"] is None else {"most probable class": calibration["top"]}
    told = listed(f"{name} {curve['ece']:.3f}" for name, curve in curves.items())
    lines.append(("calibration error", f"{told} ({calibration['bins']} bins of equal width)"))
    if sets is not None:
        share = f"{_estimate(sets['covered'])} at {sets['coverage']:g}"
        lines.append(("prediction sets", f"hold the truth {share}; one class in {sets['answered']:.0%}"))
    return lines


def _tables(found: dict[str, Any]) -> None:
    """Per class, per threshold, per subgroup."""
    measures = found["measures"]
    stated = "stated" if measures["prevalence_stated"] else "evaluated"
    rows = []
    for name, figures in list(measures["per_class"].items())[:MOST_LISTED]:
        share = measures["prevalence"][name]
        about = {"class": name, f"{stated} prevalence": "" if share is None else f"{share:.3g}", "threshold": ""}
        rows.append(about | {figure: _estimate(value) for figure, value in figures.items()})
        for point in measures["points"].get(name, ()):
            other = ("sensitivity", "specificity", "ppv", "npv")
            told = {figure: _estimate(point[figure]) for figure in other}
            rows.append(
                {"class": f"  chosen for {point['fixed']} {point['at']:g}", "threshold": _thresholds(point)} | told
            )
    echo_table(rows)
    for part in found["subgroups"]:
        cells = []
        hidden = [str(cell["value"]) for cell in part["cells"] if cell["suppressed"]]
        for cell in part["cells"]:
            if cell["suppressed"]:
                continue
            told = {"n": str(cell["n"]), "groups": str(cell["groups"])}
            figures = {name: "" if cell[key] is None else _estimate(cell[key]) for name, key in _CELL}
            cells.append({part["column"]: cell["value"]} | told | figures)
        echo_table(cells)
        if hidden:
            values = "1 value is" if len(hidden) == 1 else f"{len(hidden)} values are"
            few = f"in fewer than {part['min_cell']} groups: {listed(hidden)}"
            click.echo(f"{part['column']}: {values} suppressed, {few}")
        if part["missing"]:
            click.echo(f"note: {part['missing']} rows have no {part['column']}, or several")


def _thresholds(point: Mapping[str, Any]) -> str:
    """The probability from which on a row is positive; one per fold: the range of them."""
    known = [one for one in point["thresholds"] if one is not None]
    ends = [f"{end:.3g}" for end in (min(known), max(known))] if known else ["none"]
    return ends[0] if ends[0] == ends[-1] else " to ".join(ends)


_CELL = (("auc", "auc"), ("auc, less the rest's", "gap"))


def _estimate(value: dict[str, Any]) -> str:
    """A figure and its interval."""
    return "-" if value["value"] is None else _number(value["value"]) + _interval(value["interval"])


_LONGEST_NOTE = 400


def _shortened(note: str) -> str:
    """A note that names a hundred classes is cut for a person."""
    if len(note) <= _LONGEST_NOTE:
        return note
    return f"{note[:_LONGEST_NOTE].rpartition(',')[0] or note[:_LONGEST_NOTE]} … (all of it: --json)"


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _interval(interval: list[float] | None) -> str:
    if interval is None:
        return ""
    between = " to " if interval[0] < 0 else "-"
    return f" ({interval[0]:.3f}{between}{interval[1]:.3f})"


def _classes_told(names: tuple[str, ...] | None) -> str:
    """A set of classes in a cell: an empty one is no missing value."""
    return "" if names is None else ";".join(names) or "{}"


def _begun(rows: Iterator[Prediction]) -> Iterator[Prediction]:
    """The same rows, after the work up to the first of them was done."""
    first = list(islice(rows, 1))
    return chain(first, rows)


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
@click.option(
    "--coverage",
    type=float,
    metavar="SHARE",
    help="Add the set of classes that holds the truth so often, and whether there is no similar case in the archive.",
)
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
    coverage: float | None,
    as_json: bool,
) -> None:
    """Apply the newest model of TASK to new IMAGES, or to every item of the store.

    CSV on standard output: item, predicted class, probability per class; for items of the store also whether the
    model was trained on them. A model of a level gives a row per unit of the store: its value and number of pictures;
    of new images each is scored by itself. A picture that can't be read, or has no vector
    in the store, has a row without values, and its reason on standard error. Give
    many files at once: opening the network takes longer than a picture.

    With --coverage 0.9 the column `set` holds the true class in 90 % of new pictures (of new patients); several
    classes in it, or none ({}), mean that the model can't tell. `unfamiliar` says that no case it was trained on is as
    similar as such cases are to each other across patients.

    \b
      vecstore predict chest.vecs pneumonia new1.png new2.png
      vecstore predict chest.vecs pneumonia --where "age >= 60" > predictions.csv
      vecstore predict chest.vecs pneumonia new1.png --coverage 0.9
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
        if model is None:
            echo_newest(opened, task)
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
            coverage=coverage,
        )
        level = probe.record.level
        if level and images:
            click.echo(f"note: the model is of the level {level}; each new picture is scored by itself", err=True)
        first = ["item"] if images else ["unit", "pictures"] if level else ["item", "item_id"]
        header = [*first, "class", *(f"probability_{name}" for name in classes)]
        header += [] if images else ["in_training"]
        labels = probe.record.kind == "multi-label"
        header += [] if coverage is None else ["set", *(["absent"] if labels else []), "similarity", "unfamiliar"]
        rows = _begun(rows)  # what is refused is refused before the header: no empty table is left of it
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
                if coverage is not None:
                    told |= {"set": row.set, "similarity": row.similarity, "unfamiliar": row.unfamiliar}
                    told |= {"absent": row.absent} if labels else {}
                echo_json(told)
            else:
                cells = [f"{row.probabilities[name]:.6g}" if row.probabilities else "" for name in classes]
                cells += [] if images else [("no", "yes")[row.in_training]]
                if coverage is not None:
                    cells += [_classes_told(row.set), *([_classes_told(row.absent)] if labels else [])]
                    cells += ["" if row.similarity is None else f"{row.similarity:.4f}"]
                    cells += ["" if row.unfamiliar is None else ("no", "yes")[row.unfamiliar]]
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
