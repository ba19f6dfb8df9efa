"""The page of a report: everything that is known of a model, on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from vecstore.report.figures import COLOURS, MOST_BANDS, band_figure, curve_figure, dash, reliability_figure
from vecstore.report.page import clean, data_uri, interval, number, phrase, probability, render, share
from vecstore.report.similar import parted
from vecstore.report.words import TO_FILL_IN, flow, kin, missed, only_class, percent, quoted, signed, unit

MOST_CLASSES = 12
"""Classes up to which a confusion matrix can be read, and curves drawn."""

_CELL, _LETTER, _HALF = 62, 8, 460
"""Widths in CSS pixels: a cell of the matrix, a letter of its headings, and half of a page at its widest."""

FEW_BAND = 5
"""Groups of a class below which its curve has no band: it would fill the plot."""

_SEVERITIES = {"problem": "Problem", "warning": "Warning", "not checked": "Not checked", "fine": "Fine"}


def report_page(told: Mapping[str, Any], thumbnails: Mapping[int, bytes], pictures: bool = True) -> str:
    """Make one HTML file of a report.

    Parameters
    ----------
    told : mapping
        What `vecstore.report` writes as JSON.
    thumbnails : mapping of item id to JPEG bytes
        Items without one get a placeholder.
    pictures : bool
        Whether pictures, or their placeholders, are shown at all.

    Returns
    -------
    str
        The same text for the same input. It opens nothing from elsewhere and runs no script.
    """
    record, found = told["record"], told["assessment"]
    uris = {item: data_uri(jpeg) for item, jpeg in thumbnails.items()}
    one, several = unit(record)
    return render(
        "report.html",
        {
            "title": f"Report: {clean(told['task'])}",
            "task": told["task"],
            "summary": told["summary"],
            "made": _made(told),
            "caveats": told["caveats"],
            "tiles": _tiles(told),
            "one": one,
            "several": several,
            "groups": kin(record, (one, several))[1],
            "binary": record["kind"] == "binary",
            "roc": _curves(told, "roc"),
            "precision_recall": _curves(told, "precision-recall"),
            "undrawn": max(0, len(told["curves"]["roc"]) - MOST_CLASSES),
            "bands": _bands(told),
            "classes": _class_rows(told),
            "measures": _measure_rows(found["measures"], record["kind"] != "binary"),
            "overall": _overall(found["measures"]),
            "points": _points(found["measures"]),
            "prevalence_stated": found["measures"]["prevalence_stated"],
            "calibration": _calibration(found["calibration"], record),
            "confusion": _confusion(told["confusion"]),
            "subgroups": [_subgroup(part) for part in found["subgroups"] if _tells(part)],
            "untold": [clean(part["column"]) for part in found["subgroups"] if not _tells(part)],
            "min_cell": max([part["min_cell"] for part in found["subgroups"]], default=0),
            "sets": _sets(found["sets"]),
            "familiar": _familiar(told["familiar"]),
            "floors": _floors(told),
            "curve": _curve(told["learning_curve"]),
            "findings": [_finding(finding) for finding in told["audit"]["findings"]],
            "mistakes": [_mistake(one, uris) for one in told["mistakes"]],
            "suspects": _suspects(told["label_errors"], uris),
            "pictures": pictures,
            "made_notes": _notes(told),
            "to_fill_in": TO_FILL_IN,
            "flow": flow(told),
            "facts": _facts(told),
        },
    )


def items_shown(told: Mapping[str, Any]) -> list[int]:
    """Ids of all items whose pictures the page shows."""
    found: dict[int, None] = {}
    for one in [*told["mistakes"], *told["label_errors"].get("suspects", [])]:
        near = [*one.get("nearest", []), *one.get("nearest_suggested", []), *one.get("nearest_given", [])]
        for item in (one["item_id"], *(hit["item_id"] for hit in near)):
            found.setdefault(int(item))
    return list(found)


def estimate(value: Mapping[str, Any] | None) -> tuple[str, str]:
    """A figure and its interval, as text."""
    return (
        ("–", "") if value is None or value["value"] is None else (share(value["value"]), interval(value["interval"]))
    )


def _made(told: Mapping[str, Any]) -> str:
    manifest = told["manifest"]
    when = f"trained {manifest['trained'][:10]}, " if manifest["trained"] else ""
    return f"Model {manifest['model_id']}, {when}{manifest['store']} at commit {manifest['snapshot_commit']}"


def _tiles(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The headline figures on a scale from 0 to 1, with what guessing reaches."""
    record, overall, chance = told["record"], told["assessment"]["measures"]["overall"], told["chance"]
    prevalence = [one for one in told["assessment"]["measures"]["prevalence"].values() if one is not None]
    single = len(prevalence) == 1
    own = {
        key: {"value": record[key], "interval": record[f"{key}_interval"]}
        for key in ("auc", "balanced_accuracy", "accuracy")
    }
    rows = [
        ("AUC-ROC", own["auc"], chance["auc"], "guessing"),
        ("Balanced accuracy", own["balanced_accuracy"], chance["balanced_accuracy"], "guessing"),
        ("Accuracy", own["accuracy"], None if only_class(record) else chance["accuracy"], _majority(record)[0]),
        ("AUPRC", overall["auprc"], prevalence[0] if single and record["kind"] == "binary" else None, "prevalence"),
    ]
    tiles = []
    for name, figure, floor, floor_name in rows:
        if figure["value"] is not None:
            low, high = figure["interval"] or (figure["value"], figure["value"])
            tiles.append(
                {
                    "name": name,
                    "value": share(figure["value"]),
                    "bounds": interval(figure["interval"]),
                    "at": f"{100 * figure['value']:.1f}",
                    "low": f"{100 * low:.1f}",
                    "width": f"{100 * (high - low):.1f}",
                    "floor": None if floor is None else f"{100 * floor:.1f}",
                    "floor_told": _floor_told(record, floor, floor_name),
                }
            )
    return tiles


def _floor_told(record: Mapping[str, Any], floor: float | None, name: str) -> str:
    if floor is not None:
        return f"{name} {share(floor)}"
    return "of one class only" if only_class(record) else "mean over classes"


def _majority(record: Mapping[str, Any]) -> tuple[str, str]:
    """What the floor of accuracy is called, short and long."""
    if record["kind"] == "multi-label":
        return "commoner answers", "Always the commoner answer"
    return "majority class", "Always the majority class"


def _curves(told: Mapping[str, Any], kind: str) -> Markup | None:
    held = told["curves"]["roc" if kind == "roc" else "precision_recall"]
    curves = [
        curve if curve is None or _groups_of(told, name) >= FEW_BAND else {**curve, "at": []}
        for name, curve in list(held.items())[:MOST_CLASSES]
    ]
    if not any(curves):
        return None
    what = "ROC curves: sensitivity against 1 − specificity" if kind == "roc" else "Precision against recall"
    level = None
    if kind != "roc" and len(curves) == 1:
        counts = told["record"]["counts"]
        level = list(counts.values())[-1] / max(1, sum(counts.values()))
    return band_figure(curves, kind, f"{what}. {_bands(told)} {told['summary']}", level)


def _groups_of(told: Mapping[str, Any], name: str) -> int:
    """Groups of the rarer side of a class: those that have it, or those that have others."""
    held = told["groups_per_class"]
    others = sum(n for other, n in held.items() if other != name)
    return int(min(held[name], told["record"]["groups"] if told["record"]["kind"] == "multi-label" else others))


def _bands(told: Mapping[str, Any]) -> str:
    """What the bands are, or why there are none."""
    roc = told["curves"]["roc"]
    if min(len(roc), MOST_CLASSES) > MOST_BANDS:
        return f"Bands are not drawn of more than {MOST_BANDS} curves."
    few = [name for name in roc if _groups_of(told, name) < FEW_BAND]
    if few:
        whose = "The curve has" if len(roc) == 1 else f"Curves of {', '.join(quoted(name) for name in few)} have"
        return f"{whose} no band: it would rest on fewer than {FEW_BAND} groups."
    return f"The bands are pointwise, of {told['curves']['n_boot']} resamples."


def _class_rows(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    record = told["record"]
    return [
        {
            "name": clean(name),
            "trained": number(int(record["training_counts"].get(name, 0))),
            "evaluated": number(int(record["counts"].get(name, 0))),
            "share": percent(record["counts"].get(name, 0) / max(1, record["n"])),
            "groups": number(told["groups_per_class"].get(name, 0)),
        }
        for name in record["classes"]
    ]


_SHOWN = ("auc", "auprc", "sensitivity", "specificity", "ppv", "npv", "f1")


def _measure_rows(measures: Mapping[str, Any], several: bool) -> list[dict[str, Any]]:
    return [
        {
            "name": clean(name),
            "colour": i % COLOURS if several and i < MOST_CLASSES else None,
            "dash": dash(i),
            "values": [estimate(values[key]) for key in _SHOWN],
            "delong": interval(measures["delong"].get(name)),
            "prevalence": "–" if measures["prevalence"][name] is None else percent(measures["prevalence"][name]),
        }
        for i, (name, values) in enumerate(measures["per_class"].items())
    ]


def _overall(measures: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What is not in the tiles."""
    at = {point["fixed"]: f"{point['at']:g}" for points in measures["points"].values() for point in points}
    names = {
        "f1": "F1",
        "quadratic_kappa": "Quadratic kappa",
        "sensitivity_at_specificity": f"Sensitivity, thresholds for specificity {at.get('specificity', '')}",
        "specificity_at_sensitivity": f"Specificity, thresholds for sensitivity {at.get('sensitivity', '')}",
    }
    if len(measures["per_class"]) == 1:
        return []
    return [(title, *estimate(measures["overall"][key])) for key, title in names.items() if key in measures["overall"]]


def _points(measures: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, points in measures["points"].items():
        for point in points:
            known = [one for one in point["thresholds"] if one is not None]
            ends = [probability(end) for end in (min(known), max(known))] if known else ["none"]
            told = ends[0] if ends[0] == ends[-1] else "–".join(ends)
            rows.append(
                {
                    "name": clean(name),
                    "rule": f"{point['fixed']} ≥ {point['at']:g}",
                    "threshold": told,
                    "missed": missed(point),
                    "values": [estimate(point[key]) for key in ("sensitivity", "specificity", "ppv", "npv")],
                }
            )
    return rows


def _calibration(found: Mapping[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    per_class = dict(list(found["per_class"].items())[:MOST_CLASSES])
    top = found["top"]
    drawn = [top["curve"]] if top else [one["curve"] for one in per_class.values()]
    several = len(per_class) > 1 and not top
    calibrated = record["calibration"]
    return {
        "figure": reliability_figure(drawn, "Observed share by predicted probability; the diagonal is perfect."),
        "about": (
            "Of the most probable class: how often it is right, by its probability."
            if top
            else "How often each label holds, by its probability."
            if several
            else "How often the positive class holds, by its probability."
        ),
        "swatches": several,
        "facts": [
            ("Brier score", *estimate(found["brier"])),
            *([] if only_class(record) else [("Brier score of the class shares", share(found["brier_of_prior"]), "")]),
            ("Log-loss", f"{found['log_loss']['value']:.3f}" if found["log_loss"]["value"] is not None else "–", ""),
            *(
                []
                if only_class(record)
                else [("Log-loss of the class shares", f"{found['log_loss_of_prior']:.3f}", "")]
            ),
            *([("ECE of the most probable class", f"{top['ece']:.3f}", "")] if top else []),
            ("Calibration", calibrated["method"] if calibrated else "none", ""),
        ],
        "rows": [
            {
                "name": clean(name),
                "colour": i % COLOURS if several else None,
                "dash": dash(i),
                "ece": f"{one['ece']:.3f}",
                "slope": _slope(one),
                "intercept": "–" if one["intercept"] is None else signed(one["intercept"]),
            }
            for i, (name, one) in enumerate(per_class.items())
        ],
        "bins": found["bins"],
    }


def _slope(one: Mapping[str, Any]) -> tuple[str, str]:
    if one["slope"] is None:
        return "–", ""
    bounds = one["slope_interval"]
    told = f"{bounds[0]:.2f} to {bounds[1]:.2f}" if bounds else ""
    return f"{one['slope']:.2f}".replace("-", "−"), told.replace("-", "−")


def _confusion(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if found is None or len(found["classes"]) > MOST_CLASSES:
        return None
    names = [clean(name) for name in found["classes"]]
    table = np.array(found["counts"], np.int64)
    parts = table / np.maximum(1, table.sum(axis=1, keepdims=True))
    rows = [
        (
            name,
            [
                (number(int(n)), f"{100 * part:.0f}", _of_row(part), i == j)
                for j, (n, part) in enumerate(zip(*both, strict=True))
            ],
        )
        for i, (name, *both) in enumerate(zip(names, table, parts, strict=True))
    ]
    # A column is as wide as the longest word of its heading; all of them have to fit half the page, or get all of it.
    widths = [max(_CELL, _LETTER * max(map(len, name.split()), default=0) + 12) for name in names]
    return {"names": names, "rows": rows, "wide": max(max(widths), 2 * _CELL) + sum(widths) > _HALF}


def _of_row(part: float) -> str:
    """A cell's share of its row, unless it would claim all or none."""
    return "< 1 %" if 0 < part < 0.005 else "> 99 %" if 0.995 <= part < 1 else f"{100 * part:.0f} %"


def _tells(part: Mapping[str, Any]) -> bool:
    """Whether any of its cells is told."""
    return not all(cell["suppressed"] for cell in part["cells"])


def _subgroup(part: Mapping[str, Any]) -> dict[str, Any]:
    rows = []
    intervals = [cell["auc"]["interval"] for cell in part["cells"] if cell["auc"] and cell["auc"]["interval"]]
    start = min([0.5, *(np.floor(10 * low) / 10 for low, _ in intervals)])
    span = 1 - start
    for cell in part["cells"]:
        auc, gap = cell["auc"], cell["gap"]
        row: dict[str, Any] = {"value": clean(cell["value"]).replace(">= ", "≥ "), "suppressed": cell["suppressed"]}
        if not cell["suppressed"]:
            row |= {"n": number(cell["n"]), "groups": number(cell["groups"]), "auc": estimate(auc), "scale": None}
            if auc and auc["value"] is not None:
                low, high = auc["interval"] or (auc["value"], auc["value"])
                places = [f"{100 * (one - start) / span:.1f}" for one in (auc["value"], low)]
                row["scale"] = {"at": places[0], "low": places[1], "width": f"{100 * (high - low) / span:.1f}"}
            told = ("–", "")
            if gap and gap["value"] is not None:
                bounds = gap["interval"]
                told = signed(gap["value"]), f"{signed(bounds[0])} to {signed(bounds[1])}" if bounds else ""
            row["gap"] = told
            row["real"] = bool(gap and gap["interval"] and (gap["interval"][1] < 0 or gap["interval"][0] > 0))
        rows.append(row)
    return {
        "column": clean(part["column"]),
        "rows": rows,
        "start": f"{start:.1f}",
        "min_cell": part["min_cell"],
        "missing": number(part["missing"]) if part["missing"] else "",
        "notes": [clean(note).replace(">= ", "≥ ") for note in part["notes"]],
    }


def _sets(found: Mapping[str, Any] | None) -> list[tuple[str, str, str]] | None:
    if found is None:
        return None
    return [
        ("Asked for", percent(found["coverage"]), ""),
        ("Truth in the set", *_percents(found["covered"])),
        ("One answer", percent(found["answered"]), ""),
        ("No answer fits", percent(found["empty"]), ""),
        ("Mean size", f"{found['size']:.2f}", ""),
    ]


def _percents(value: Mapping[str, Any]) -> tuple[str, str]:
    bounds = value["interval"]
    told = f"{percent(bounds[0])} to {percent(bounds[1])}" if bounds else ""
    return percent(value["value"]), told


def _familiar(found: Mapping[str, Any]) -> list[tuple[str, str]] | str:
    if "left_out" in found:
        return str(found["left_out"])
    rows = [
        ("Looked at", number(found["n"])),
        (
            "No similar case in training",
            f"{number(found['unfamiliar'])} ({percent(found['unfamiliar'] / max(1, found['n']))})",
        ),
        ("Cosine below which a case is unlike any", f"{found['least']:.3f}"),
    ]
    for key, title in (
        ("error_rate", "Wrong among familiar ones"),
        ("error_rate_unfamiliar", "Wrong among unlike ones"),
    ):
        if found[key] is not None:
            rows.append((title, percent(found[key])))
    return rows


def _floors(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    record, chance = told["record"], told["chance"]
    auc = {"value": record["auc"], "interval": record["auc_interval"]}
    rows: list[dict[str, Any]] = [
        {"name": "This model", "auc": estimate(auc), "how": "stored image features", "own": True}
    ]
    for floor in told["floors"]:
        shown = (share(floor["auc"]), interval(floor["interval"])) if floor["auc"] is not None else ("–", "")
        rows.append({"name": clean(floor["name"]), "auc": shown, "how": clean(floor["how"]), "own": False})
    rows.append({"name": "Guessing", "auc": (share(chance["auc"]), ""), "how": "by definition", "own": False})
    if chance["accuracy"] is not None and only_class(record) is None:
        how = f"accuracy {share(chance['accuracy'])}, balanced accuracy {share(chance['balanced_accuracy'])}"
        rows.append({"name": _majority(record)[1], "auc": ("0.50", ""), "how": how, "own": False})
    return rows


def _curve(found: Mapping[str, Any]) -> dict[str, Any] | str:
    if "left_out" in found:
        return str(found["left_out"])
    points = found["points"]
    drawn = [one for one in points if one["per_class"] is not None and one["auc"] is not None]
    mean, low, high = (np.array([one[name] for one in drawn], np.float32) for name in ("auc", "low", "high"))
    whole = points[-1]["auc"]
    figure = None
    if drawn and whole is not None:
        figure = curve_figure([one["per_class"] for one in drawn], mean, low, high, whole, wide=False)
    return {
        "figure": figure,
        "rows": [
            {
                "size": "all" if one["per_class"] is None else number(one["per_class"]),
                "rows": number(round(one["rows"])),
                "auc": share(one["auc"]),
                "bounds": f"{share(one['low'])}–{share(one['high'])}" if one["draws"] > 1 else "",
            }
            for one in points
        ],
        "rule": found["rule"],
        "part": "the test part" if found["part"] == "test" else "groups held out, others for each draw",
        "notes": found["notes"],
    }


def _finding(finding: Mapping[str, Any]) -> dict[str, Any]:
    examples = [
        {
            "what": clean(example["what"]),
            "members": [
                " · ".join(clean(text) for text in (one["locator"], one["part"], one["label"], one["group"]) if text)
                for one in example["members"]
            ],
            "more": example["more"],
        }
        for example in finding["examples"]
    ]
    loud = finding["severity"] in ("problem", "warning")
    return {
        "severity": _SEVERITIES[finding["severity"]],
        "tone": finding["severity"].replace(" ", "-"),
        "title": clean(finding["title"]),
        "told": clean(finding["told"]),
        "do": clean(finding["do"]) if finding["do"] else "",
        "examples": examples if loud else [],
    }


def _mistake(one: Mapping[str, Any], uris: Mapping[int, str | None]) -> dict[str, Any]:
    bars = [("said", one["predicted"], one["probability"]), ("truth", one["truth"], one["probability_truth"])]
    return _card(one, uris, bars, [("Nearest cases it was trained on", one["nearest"], True)])


def _suspects(found: Mapping[str, Any], uris: Mapping[int, str | None]) -> dict[str, Any] | str:
    if "left_out" in found:
        return str(found["left_out"])
    cards = []
    for one in found["suspects"]:
        bars = [
            ("label", one["given"], one["probability_given"]),
            ("suggested", one["suggested"], one["probability_suggested"]),
        ]
        rows = [
            (f"Nearest cases labelled “{clean(one['suggested'])}”", one["nearest_suggested"], False),
            (f"Nearest cases labelled “{clean(one['given'])}”", one["nearest_given"], False),
        ]
        cards.append(_card(one, uris, bars, rows))
    return {
        "cards": cards,
        "found": number(found["found"]),
        "n": number(found["n"]),
        "share": percent(found["share"]),
        "predictions": clean(found["predictions"]),
    }


def _card(
    one: Mapping[str, Any],
    uris: Mapping[int, str | None],
    bars: Sequence[tuple[str, str, float]],
    rows: Sequence[tuple[str, Sequence[Mapping[str, Any]], bool]],
) -> dict[str, Any]:
    folder, name = parted(clean(one["locator"]))
    where = [part for part in (clean(one["source"]), folder, clean(one["group"]) if one["group"] else "") if part]
    if one["pictures"] != 1:
        where.append(f"{number(one['pictures'])} pictures, the first is shown")
    return {
        "rank": one["rank"],
        "name": clean(one["unit"]) if one.get("unit") else name,
        "whole": clean(one["locator"]),
        "where": where,
        "label": clean(one["label"]) if one["label"] else "",
        "picture": uris.get(one["item_id"]),
        "bars": [
            {
                "what": what,
                "name": clean(told),
                "value": probability(chance),
                "percent": f"{100 * chance:.1f}",
            }
            for what, told, chance in bars
        ],
        "rows": [
            {
                "title": title,
                "hits": [
                    {
                        "picture": uris.get(hit["item_id"]),
                        "whole": f"{clean(hit['source'])}: {clean(hit['locator'])}",
                        "name": parted(clean(hit["locator"]))[1],
                        "score": f"{hit['score']:.3f}",
                        "label": clean(hit["label"]) if labelled and hit["label"] else "",
                    }
                    for hit in hits
                ],
            }
            for title, hits, labelled in rows
            if hits
        ],
    }


def _notes(told: Mapping[str, Any]) -> list[str]:
    """Everything that was left out, or chosen, once each."""
    notes = [*told["record"]["notes"], *told["assessment"]["notes"], *told["audit"]["notes"]]
    notes += told["label_errors"].get("notes", [])
    return list(dict.fromkeys(clean(note) for note in notes))


def _facts(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    record, made = told["record"], told["manifest"]
    rows: list[tuple[str, Any]] = [
        ("Task", f"{record['task']} ({record['kind']}), labels imported at commit {made['labels_commit']}"),
        ("Classifier", record["model"]),
        ("Parameters", record["parameters"]),
        ("Trained on", f"{number(record['trained_on'])} rows in {number(record['training_groups'])} groups"),
        (
            "Groups",
            ", else ".join([record["group_column"], *record["stand_ins"]]) if record["group_column"] else "none known",
        ),
        ("Level", f"{record['level']}, pooled by {record['pool']}" if record["level"] else None),
        ("Filter", record["where"]),
        ("Encoders", record["encoders"]),
        ("Architecture", [f"{one['model']} of {one['library']}" for one in told["encoders"]]),
        ("Weights, SHA-256", [one["weights_sha256"] for one in told["encoders"]]),
        ("Brought to size by", [one["resize"] for one in told["encoders"]]),
        ("Fingerprints", [one[:16] for one in made["fingerprints"]]),
        ("Store", f"{made['store']}, {number(made['items'])} items"),
        ("Snapshot", f"commit {made['snapshot_commit']}; trained at commit {made['trained_at_commit']}"),
        ("Model", f"{made['model_id']}, SHA-256 {made['model_sha256']}"),
        ("Trained", made["trained"]),
        ("Seeds", f"{made['seed']} (training and scores), {made['report_seed']} (report)"),
        ("Pictures opened", told["pixels_read"]),
        ("Versions, training", made["versions_trained"]),
    ]
    if made["versions_report"] != made["versions_trained"]:
        rows.append(("Versions, report", made["versions_report"]))
    rows += [("Command of training", made["train_command"]), ("Command of this report", made["report_command"])]
    return [(title, phrase(value)) for title, value in rows if value not in (None, "", [], {})]
