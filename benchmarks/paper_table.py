"""The paper's tables, made from `results/paper.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MODELS = {"probe": "logistic regression", "svm": "linear SVM", "knn": "kNN", "mlp": "MLP", "forest": "forest"}
NEAR = 0.05
"""A floor this near to the score takes most of its meaning away."""


def paper(result: Mapping[str, Any]) -> str:
    """All of it as Markdown: scores and floors, the rival, published figures, the recipe, and what it does not show.

    Parameters
    ----------
    result : mapping
        `results/paper.json`; parts that were not run are left out, and named.
    """
    sets: Mapping[str, Mapping[str, Any]] = result["sets"]
    parts = [
        _scores(sets),
        _floors_told(sets),
        _rival(result, sets),
        _published(result, sets),
        _encoders(sets),
        _recipe(sets),
        _stages(result),
        _not_run(result, sets),
    ]
    return "\n\n".join(part for part in parts if part)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def _auc(entry: Mapping[str, Any] | None, *, interval: bool = False) -> str:
    if not entry or entry.get("auc") is None:
        return "–"
    text = _number(entry["auc"])
    return f"{text} ({_span(entry['auc_interval'])})" if interval and entry.get("auc_interval") else text


def _number(value: float) -> str:
    """Three places, without the nought before the point."""
    return f"{value:.3f}".replace("0.", ".", 1)


def _signed(value: float) -> str:
    return ("+" if value >= 0 else "−") + _number(abs(value))


def _span(values: Sequence[float]) -> str:
    return f"{_number(min(values))}–{_number(max(values))}"


def _of_bundled(row: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = row["encoders"]["bundled"]["models"]
    return found


def _floor(row: Mapping[str, Any], start: str) -> Mapping[str, Any] | None:
    found = [value for name, value in row.get("floors", {}).items() if name.startswith(start)]
    return found[0] if found else None


_FLOORS = ("raw pixels", "random weights, bundled", "metadata", "shuffled")


def _models(sets: Mapping[str, Mapping[str, Any]]) -> list[str]:
    known = {model for row in sets.values() if "encoders" in row for model in _of_bundled(row)}
    return [*(model for model in MODELS if model in known), *sorted(known - MODELS.keys())]


def _scores(sets: Mapping[str, Mapping[str, Any]]) -> str:
    full = {name: row for name, row in sets.items() if "encoders" in row}
    if not full:
        return ""
    models = _models(sets)
    rows = []
    for name, row in full.items():
        found = _of_bundled(row)
        best = max(found[model]["auc"] for model in models if model in found)
        cells = []
        for model in models:
            text = _auc(found.get(model), interval=model == "probe")
            cells.append(f"**{text}**" if found.get(model) and found[model]["auc"] == best else text)
        floors = [_auc(_floor(row, floor)) for floor in _FLOORS]
        rows.append([name, f"{row['part']}, {row['n']}", *cells, *floors])
    means = [
        _number(sum(_of_bundled(row)[model]["auc"] for row in full.values()) / len(full))
        if all(model in _of_bundled(row) for row in full.values())
        else "–"
        for model in models
    ]
    rows.append(["mean", "", *means, *("" for _ in _FLOORS)])
    header = ["AUC", "evaluated on", *(MODELS.get(model, model) for model in models)]
    header += ["floor: pixels", "floor: random weights", "floor: metadata", "floor: shuffled"]
    return (
        "Frozen vectors of the bundled encoder (95 % interval over groups), and the same logistic regression on what "
        "has no business to know: 32 × 32 pixels, the same network with random weights, metadata, shuffled labels.\n\n"
        + _table(header, rows)
    )


def _floors_told(sets: Mapping[str, Mapping[str, Any]]) -> str:
    """Which scores a floor comes near to, or reaches."""
    lines = []
    for name, row in sets.items():
        if "encoders" not in row or "floors" not in row:
            continue
        probe = _of_bundled(row)["probe"]
        near = []
        for what, entry in row["floors"].items():
            if what.startswith("shuffled") or entry["auc"] is None:
                continue
            if entry["auc"] >= probe["auc_interval"][0] or entry["auc"] >= probe["auc"] - NEAR:
                columns = f" ({', '.join(entry['columns'])})" if entry.get("columns") else ""
                near.append(f"{what}{columns} {_number(entry['auc'])}")
        if near:
            lines.append(f"- {name} ({_number(probe['auc'])}): {'; '.join(near)}")
    if not lines:
        return ""
    head = (
        f"What the floors do to the claim: on these sets one lies within {NEAR} of the probe's AUC or inside its "
        "interval, so that much of the score may be owed to something else than what the network learned:"
    )
    return head + "\n\n" + "\n".join(lines)


def _rival(result: Mapping[str, Any], sets: Mapping[str, Mapping[str, Any]]) -> str:
    judged = {name: row for name, row in sets.items() if "holdout" in row}
    if not judged or not any("rival" in row for row in judged.values()):
        return ""
    rows = []
    for name, row in judged.items():
        rival = row.get("rival")
        found = [(e, m, v) for e, models in row["holdout"]["encoders"].items() for m, v in models.items()]
        space, model, best = max(found, key=lambda entry: entry[2]["auc"])
        probe = row["holdout"]["encoders"]["bundled"]["probe"]
        cost = None
        if "encoders" in row:  # on an official split the model is the one of the scores, trained there
            fitting = probe.get("cpu_seconds") or _of_bundled(row)["probe"]["cpu_seconds"]
            cost = _cost(row["encoders"]["bundled"]["embedding"]) + fitting
        label = MODELS.get(model, model) + ("" if space == "bundled" else f", {space}")
        cells = [name, str(row["holdout"]["n"]["test"]), _auc(probe), f"{_auc(best)} ({label})"]
        if rival is None:
            rows.append([*cells, "not run", "", "", ""])
            continue
        gap = best["minus_rival"]
        seeds = rival["auc_seeds"]
        told = _number(rival["auc"]) + (f" ({_span(seeds)})" if len(seeds) > 1 else "")
        rows.append(
            [
                *cells,
                f"{told}, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}, {rival['size']} px",
                f"{_signed(gap['auc'])} ({_signed(gap['interval'][0])} to {_signed(gap['interval'][1])})",
                f"{cost:.0f} s" if cost is not None else "–",
                f"{rival['seconds_of_one']:.0f} s",
            ]
        )
    about = result["rival"]
    place = about.get("device", "cpu")
    jobs = f", {about['jobs']} sets at a time" if about.get("jobs", 1) > 1 else ""
    header = ["AUC on the hold-out part", "n", "logistic regression", "best model", "ResNet-18 from scratch"]
    header += ["best − ResNet-18", "CPU, embedding and probe", f"one training ({place})"]
    met = result.get("goals", {}).get("at least the rival", {})
    won = [name for name, entry in met.items() if entry["met"]]
    lost = [name for name, entry in met.items() if not entry["met"]]
    told = f"The best frozen-vector AUC is at least the rival's on {len(won)} of {len(met)} sets"
    told += f"; not on {', '.join(lost)}." if lost else "."
    return (
        "A network trained the conventional way, on one hold-out split of each set (official, or a third of the "
        f"groups), and the frozen vectors on the same one. The rival: {about.get('recipe', '')} Trained on one "
        f"{place}{jobs}. The best of several models is chosen by the same test part, for the vectors only.\n\n"
        f"{_table(header, rows)}\n\n{told}"
    )


def _cost(embedding: Mapping[str, Any]) -> float:
    """CPU-seconds for all pictures of the store."""
    return float(embedding["cpu_seconds"] * embedding["of"] / embedding["pictures"])


def _published(result: Mapping[str, Any], sets: Mapping[str, Mapping[str, Any]]) -> str:
    published = result["published"]
    rows = []
    for name, values in published["auc"].items():
        row = sets.get(name, {})
        if "encoders" not in row:
            continue
        found = _of_bundled(row)
        model = max(found, key=lambda model: found[model]["auc"])
        ours = [_auc(found["probe"]), f"{_auc(found[model])} ({MODELS.get(model, model)})"]
        rows.append([name, *ours, _auc(row.get("rival")), *(_number(value) for value in values)])
    if not rows:
        return ""
    header = ["test AUC", "our probe", "our best model", "our ResNet-18", *published["columns"]]
    return f"Beside what was published. Source: {published['source']}.\n\n{_table(header, rows)}"


def _encoders(sets: Mapping[str, Mapping[str, Any]]) -> str:
    spaces = sorted({space for row in sets.values() for space in row.get("encoders", {})})
    if len(spaces) < 2:
        return ""
    rows = []
    for name, row in sets.items():
        if "encoders" in row:
            found = row["encoders"]
            rows.append([name, *(_auc(found[s]["models"]["probe"]) if s in found else "–" for s in spaces)])
    return "Logistic regression, by encoder.\n\n" + _table(["AUC", *spaces], rows)


def _recipe(sets: Mapping[str, Mapping[str, Any]]) -> str:
    tried = {name: row["recipe"] for name, row in sets.items() if "recipe" in row}
    if not tried:
        return ""
    recipes = list(next(iter(tried.values())))
    rows = []
    for recipe in recipes:
        areas = [row[recipe]["auc"] for row in tried.values()]
        dim = next(iter(tried.values()))[recipe]["dim"]
        rows.append([recipe, str(dim), *(_number(area) for area in areas), _number(sum(areas) / len(areas))])
    return (
        "What to pool from the bundled network, by cross-validation inside the development parts (the test parts "
        "unseen).\n\n" + _table(["out-of-fold AUC", "dim", *tried, "mean"], rows)
    )


def _stages(result: Mapping[str, Any]) -> str:
    cost = result.get("stages_cost")
    if not cost:
        return ""
    rows = [
        [name, str(row["dim"]), str(row["stages_dim"]), f"{row['per_s']:.1f}", f"{row['stages_per_s']:.1f}",
         f"{row['share']:.2f}"]
        for name, row in cost.items()
    ]  # fmt: skip
    header = ["random weights", "dim", "dim, +stages", "pictures per CPU-second", "with +stages", "cost, of the plain"]
    return (
        "`+stages` carries the recipe to other networks. Measured for its cost, with random weights; what it gains "
        "with real ones is not known here.\n\n" + _table(header, rows)
    )


def _not_run(result: Mapping[str, Any], sets: Mapping[str, Mapping[str, Any]]) -> str:
    """Said plainly."""
    lines = []
    if result.get("spaces", []) == ["bundled"]:
        lines.append(
            "encoders other than the bundled one (ResNet-50, CLIP …): no weights were at hand; "
            "`--encoder NAME --weights FILE` adds them"
        )
    if result.get("sets_not_run"):
        lines.append(f"sets: {', '.join(result['sets_not_run'])}")
    lacking = [model for model in MODELS if model not in _models(sets)]
    if lacking:
        lines.append(f"models: {', '.join(MODELS[model] for model in lacking)}")
    for what, key in (("scores", "encoders"), ("floors", "floors"), ("hold-out", "holdout"), ("rival", "rival"),
                      ("recipe", "recipe")):  # fmt: skip
        without = [name for name, row in sets.items() if key not in row]
        if without:
            lines.append(f"{what}: {', '.join(without)}")
    few = [name for name, row in sets.items() if len(row.get("rival", {}).get("auc_seeds", [1, 2])) < 2]
    if few:
        lines.append(f"more than one seed of the rival: {', '.join(few)}")
    return "Not run: " + "; ".join(lines) + "." if lines else ""
