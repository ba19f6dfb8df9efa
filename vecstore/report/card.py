"""A model card in Markdown: what a model is, what it was trained on, how good it is, and where it must not be used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vecstore.report.page import clean, interval, number, share
from vecstore.report.words import TO_FILL_IN, flow, kin, only_class, percent, unit

_MARKED = re.compile(r"([\\`*_\[\]<>|#])")


_USE = (
    "Research on pictures like those it was evaluated on. It is not a medical device, and its answers are no diagnosis."
)


def model_card(told: Mapping[str, Any]) -> str:
    """Make the Markdown of a report.

    Parameters
    ----------
    told : mapping
        What `vecstore.report` writes as JSON.

    Returns
    -------
    str
        The same text for the same input.
    """
    record, made, measures = told["record"], told["manifest"], told["assessment"]["measures"]
    several = unit(record)[1]
    lines = [f"# {_text(told['task'])}", "", _text(told["summary"]), ""]
    lines += ["## Model", ""]
    lines += [
        f"- Classifier: {_text(record['model'])} on frozen features of {_text(' and '.join(record['encoders']))}",
        f"- Task: {record['kind']}; classes: {'; '.join(_text(name) for name in record['classes'])}",
        f"- Model {made['model_id']} of {_text(made['store'])}, trained at commit {made['trained_at_commit']}"
        + (f" on {made['trained'][:10]}" if made["trained"] else ""),
        f"- SHA-256 of the model: `{made['model_sha256']}`",
        *(f"- Encoder: {_text(_encoder(one))}" for one in told["encoders"]),
        f"- Fingerprint of the encoder: {', '.join(f'`{one}`' for one in made['fingerprints'])}",
        f"- Calibration: {record['calibration']['method'] if record['calibration'] else 'none'}",
        "",
        "## Intended use",
        "",
        _USE,
        "",
        "## Data",
        "",
        f"| Class | Trained on, {several} | Evaluated, {several} | Evaluated, {kin(record, unit(record))[1]} |",
        "|---|---:|---:|---:|",
    ]
    for name in record["classes"]:
        trained, evaluated = (int(record[key].get(name, 0)) for key in ("training_counts", "counts"))
        held = number(told["groups_per_class"].get(name, 0))
        lines.append(f"| {_text(name)} | {number(trained)} | {number(evaluated)} | {held} |")
    groups = record["group_column"] or "not known"
    part = "the official test part" if record["part"] == "test" else "out of fold, by cross-validation over groups"
    lines += ["", f"{flow(told)}."]
    lines += ["", f"Groups that are never divided: {_text(groups)}. Evaluated: {part}.", "", "## Performance", ""]
    lines += ["95 % intervals are made by resampling groups.", ""]
    lines += ["| | Value | 95 % CI | Chance |", "|---|---:|---:|---:|"]
    names = {"auc": "AUC-ROC", "auprc": "AUPRC", "balanced_accuracy": "Balanced accuracy", "accuracy": "Accuracy"}
    for key, title in (names | {"f1": "F1", "quadratic_kappa": "Quadratic kappa"}).items():
        if key in measures["overall"]:
            one, chance = measures["overall"][key], told["chance"].get(key)
            bounds = interval(one["interval"])
            if key == "auprc" and record["kind"] == "binary":
                chance = next(iter(measures["prevalence"].values()))
            if only_class(record):
                chance = None
            lines.append(f"| {title} | {share(one['value'])} | {bounds} | {'' if chance is None else share(chance)} |")
    lines += ["", "| Class | AUC | Sensitivity | Specificity | PPV | NPV |", "|---|---:|---:|---:|---:|---:|"]
    for name, values in measures["per_class"].items():
        cells = [_estimate(values[key]) for key in ("auc", "sensitivity", "specificity", "ppv", "npv")]
        lines.append(f"| {_text(name)} | {' | '.join(cells)} |")
    brier = told["assessment"]["calibration"]["brier"]
    prior = told["assessment"]["calibration"]["brier_of_prior"]
    alone = "" if only_class(record) else f"; of the class shares alone {share(prior)}"
    lines += ["", f"Brier score {_estimate(brier)}{alone}.", ""]
    if told["assessment"]["subgroups"]:
        lines += ["## Subgroups", "", f"| Column | Value | {several.capitalize()} | AUC |", "|---|---|---:|---:|"]
        for group in told["assessment"]["subgroups"]:
            for cell in group["cells"]:
                shown = "too few to tell" if cell["suppressed"] else _estimate(cell["auc"])
                n = "" if cell["n"] is None else number(cell["n"])
                lines.append(f"| {_text(group['column'])} | {_text(cell['value'])} | {n} | {shown} |")
        lines.append("")
    lines += ["## Before you rely on it", ""]
    lines += [f"- {_text(one)}" for one in told["caveats"]] or ["- Nothing was found that would forbid it."]
    sets = told["assessment"]["sets"]
    if sets:
        held, answered = percent(sets["covered"]["value"]), percent(sets["answered"])
        told_of = f"Prediction sets of {percent(sets['coverage'])} coverage hold the truth in {held}"
        lines += ["", f"{told_of} and are one answer in {answered}."]
    lines += ["", "## To be filled in by the authors", "", "vecstore does not know these; a reader needs them.", ""]
    lines += [f"- {name} ({asked}): not known" for name, asked in TO_FILL_IN]
    lines += ["", "## How it was made", "", "```", made["train_command"], made["report_command"], "```", ""]
    versions = ", ".join(f"{name} {value}" for name, value in made["versions_trained"].items())
    lines += [f"Seed {made['seed']}. Versions: {_text(versions)}.", ""]
    return "\n".join(lines)


def _encoder(one: Mapping[str, Any]) -> str:
    return (
        f"{one['encoder']}: {one['model']} of {one['library']}, weights SHA-256 {one['weights_sha256']}, pictures"
        f" brought to size by {one['resize']}"
    )


def _estimate(value: Mapping[str, Any] | None) -> str:
    if value is None or value["value"] is None:
        return "–"
    bounds = interval(value["interval"])
    return f"{share(value['value'])} ({bounds})" if bounds else share(value["value"])


def _text(value: object) -> str:
    """A value that Markdown shows as it is, on one line.

    >>> _text("a|b\\n*c*")
    'a\\\\|b \\\\*c\\\\*'
    """
    return _MARKED.sub(r"\\\1", " ".join(clean(value).split()))
