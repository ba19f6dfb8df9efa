"""The words of a report: its summary sentence, and what to know before relying on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vecstore.report.page import clean, count, interval, number, share

FEW_GROUPS = 50
"""Groups below which an interval is said to rest on few."""

FEW_CASES = 20
"""Evaluated rows of a class below which it is said to rest on few."""

MOST_NAMED = 5
"""Such classes that are named."""

SLOPES = 0.7, 1.4
"""Calibration slopes beyond which probabilities are said to be off, where their interval excludes 1."""

IMBALANCED = 0.6
"""Share of the most frequent class from which on it is told beside accuracy."""

TO_FILL_IN = (
    ("Reference standard", "what the labels rest on, who set them, how many readers, what they were shown"),
    ("Source and setting", "hospitals, dates, scanners, how pictures were chosen"),
    ("Eligibility", "who was included and excluded, and how many"),
    ("Intended use", "for whom, at which step of care, with which threshold"),
    ("External validation", "figures of other hospitals or of a later time"),
    ("Ethics", "approval, consent, data protection, funding, conflicts of interest"),
)
"""What TRIPOD+AI and CLAIM ask for and no store knows."""

SHUFFLED = "Shuffled labels"
"""Name of the floor that learned labels dealt anew."""

_DROPPED = "official split: "
"""How a note on training items begins that were dropped for those of the test part."""

_MENDED = ("units_across_parts", "identical_across_parts")
"""Findings of the audit that such a drop mends."""

_MODELS = {
    "probe": "A logistic regression",
    "svm": "A linear SVM",
    "knn": "A nearest-neighbour classifier",
    "mlp": "A small neural network",
    "forest": "A random forest",
}

_NOUNS = (
    ("patient", ("patient", "patients")),
    ("lesion", ("lesion", "lesions")),
    ("stud", ("study", "studies")),
    ("series", ("series", "series")),
    ("exam", ("exam", "exams")),
)


def nouns(column: str | None, otherwise: tuple[str, str]) -> tuple[str, str]:
    """What a column's values are called, one and several.

    >>> nouns("patient_id", ("picture", "pictures")), nouns(None, ("picture", "pictures"))
    (('patient', 'patients'), ('picture', 'pictures'))
    """
    for part, found in _NOUNS:
        if column and part in column.casefold():
            return found
    return otherwise


def unit(record: Mapping[str, Any]) -> tuple[str, str]:
    """What is evaluated, one and several."""
    level = record.get("level")
    return nouns(level, ("picture", "pictures") if level is None else (f"unit of {level}", f"units of {level}"))


def kin(record: Mapping[str, Any], otherwise: tuple[str, str]) -> tuple[str, str]:
    """What is never divided, one and several: groups, where values of another column stand in for missing ones."""
    if record["group_column"] is None:
        return otherwise
    return ("group", "groups") if record["stand_ins"] else nouns(record["group_column"], ("group", "groups"))


def quoted(name: object) -> str:
    """A class's name, so that commas and blanks in it belong to it.

    >>> quoted("no finding")
    '“no finding”'
    """
    return f"“{clean(name)}”"


def percent(value: float) -> str:
    """A share in percent without decimals, unless it would claim all or none.

    >>> percent(0.731), percent(0.9996), percent(1.0), percent(0.0004)
    ('73 %', '99.9 %', '100 %', '0.1 %')
    """
    if 0 < value < 0.005 or 0.995 <= value < 1:
        return f"{min(max(100 * value, 0.1), 99.9):.1f} %"
    return f"{100 * value:.0f} %"


def signed(value: float) -> str:
    """A difference with its sign.

    >>> signed(-0.104), signed(0.0)
    ('−0.10', '0.00')
    """
    told = f"{value:+.2f}".replace("-", "−")
    return "0.00" if told[1:] == "0.00" else told


def flow(told: Mapping[str, Any]) -> str:
    """From the items of the store to those that count."""
    record, found = told["record"], told["flow"]
    without = found["items"] - found["labelled"]
    evaluated = number(int(record["n"]))
    return (
        f"{count(found['items'], 'item')} in the store, {number(found['labelled'])} with a label"
        f" ({number(without)} without); trained on {number(int(record['trained_on']))} {unit(record)[1]}, evaluated"
        f" {evaluated}"
    )


def only_class(record: Mapping[str, Any]) -> str | None:
    """The class of all evaluated rows, where there is but one: nothing can be told apart there."""
    present = [name for name, n in record["counts"].items() if n > 0]
    return present[0] if record["kind"] != "multi-label" and len(present) == 1 else None


def balanced_by_chance(record: Mapping[str, Any]) -> float | None:
    """Balanced accuracy of always the same answer: one over the classes that were evaluated; None of a single one.

    >>> balanced_by_chance({"kind": "multi-class", "counts": {"a": 5, "b": 2, "c": 3, "d": 0}}).__round__(3)
    0.333
    """
    if record["kind"] == "multi-label":
        return 0.5
    present = sum(n > 0 for n in record["counts"].values())
    return 1 / present if present > 1 else None


def summary(told: Mapping[str, Any]) -> str:
    """What was predicted, from what, how well, and on whom: to be quoted alone."""
    record = told["record"]
    classes, kind = record["classes"], record["kind"]
    what = f"finds {count(len(classes), 'label')}"
    if kind == "binary":
        what = f"tells {quoted(classes[1])} from {quoted(classes[0])}"
    elif kind == "multi-class":
        what = f"tells {number(len(classes))} classes apart"
    one, several = unit(record)
    spaces = " and ".join(clean(name) for name in record["encoders"])
    shown = count(int(record["n"]), f"test {one}" if record["part"] == "test" else one, f"{_test(record)}{several}")
    if record.get("level"):
        shown += f" ({count(int(record['pictures']), 'picture')})"
    column = record["group_column"]
    group, groups = kin(record, ("group", "groups"))
    if column and groups != several:
        shown += f" of {count(int(record['groups']), group, groups)}"
        if record["stand_ins"]:
            shown += f" ({', else '.join(clean(name) for name in (column, *record['stand_ins']))})"
    scored = "each scored by a model that had not seen "
    scored += f"its {group}" if column and groups != several else "it"
    how = f", {scored}" if record["part"] != "test" else ", none of which it was trained on"
    auc = "an AUC that is not defined"
    if record["auc"] is not None:
        mean = {"binary": "AUC", "multi-class": "mean one-vs-rest AUC", "multi-label": "mean AUC"}[kind]
        bounds = record["auc_interval"]
        auc = f"{mean} {share(record['auc'])}" + (f" (95 % CI {interval(bounds)})" if bounds else "")
    model = _MODELS.get(record["model"], f"A model ({clean(record['model'])})")
    return f"{model} on frozen image features ({spaces}) {what} with {auc}, on {shown}{how}."


def _test(record: Mapping[str, Any]) -> str:
    return "test " if record["part"] == "test" else ""


def caveats(told: Mapping[str, Any]) -> list[str]:
    """What a reader must know before relying on the numbers, the gravest first."""
    record = told["record"]
    several = unit(record)[1]
    only = only_class(record)
    found = []
    if only is not None:
        found.append(
            f"All evaluated {several} are {quoted(only)}: nothing can be said of how well classes are told apart."
            " Accuracy is but the share of them that is found."
        )
    found += _few(record)
    dropped = [note.removeprefix(_DROPPED) for note in record["notes"] if note.startswith(_DROPPED)]
    for finding in told["audit"]["findings"]:
        if finding["severity"] == "problem":
            found.append(f"The audit found a problem: {clean(finding['title'])}: {clean(finding['told'])}.")
            if dropped and finding["check"] in _MENDED:
                found[-1] += f" In this model that is mended: {clean(dropped[0])}."
    if record["group_column"] is None:
        found.append(
            f"Which {several} belong to one patient is not known, so each counts for itself. If patients have several,"
            " the score is too high and its interval too narrow."
        )
    found += _floor_caveats(told)
    found += _points_missed(told)
    found += _miscalibrated(told)
    warned = [clean(one["title"]) for one in told["audit"]["findings"] if one["severity"] == "warning"]
    if warned:
        found.append(f"The audit warns of: {'; '.join(warned)}. See Data and leakage.")
    chance = told["chance"]["accuracy"]
    single = record["kind"] != "multi-label" and only is None
    if single and chance is not None and chance >= IMBALANCED and record["accuracy"] is not None:
        most = max(record["counts"], key=lambda name: record["counts"][name])
        found.append(
            f"Classes are imbalanced: {percent(chance)} of the {several} are {quoted(most)}, so always saying so is"
            f" right that often. Accuracy is {percent(record['accuracy'])}; balanced accuracy"
            f" {percent(record['balanced_accuracy'] or 0)}, where guessing has"
            f" {percent(told['chance']['balanced_accuracy'])}."
        )
    found += _gaps(told)
    sets = told["assessment"]["sets"]
    if sets and sets["covered"]["interval"] and sets["covered"]["interval"][1] < sets["coverage"]:
        found.append(
            f"Prediction sets hold the truth in {percent(sets['covered']['value'])}, not in the"
            f" {percent(sets['coverage'])} that were asked for."
        )
    if record["part"] != "test":
        found.append(
            f"There is no test part of its own: {several} were scored in cross-validation by models like the one that"
            " is saved."
        )
    return found


def _few(record: Mapping[str, Any]) -> list[str]:
    """What rests on hardly anybody."""
    one, several = unit(record)
    noun = kin(record, (one, several))
    found = []
    if record["groups"] < FEW_GROUPS:
        found.append(
            f"Only {count(int(record['groups']), *noun)} {'was' if record['groups'] == 1 else 'were'} evaluated. The"
            " figures are weak: on others they may be far from these, and intervals rest on few."
        )
    rare = [name for name in record["classes"] if 0 < record["counts"].get(name, 0) < FEW_CASES]
    if rare:
        told = [f"{quoted(name)} {number(int(record['counts'][name]))}" for name in rare[:MOST_NAMED]]
        more = f" and {len(rare) - MOST_NAMED} more" if len(rare) > MOST_NAMED else ""
        found.append(f"What is said of rare classes rests on hardly any {several}: {', '.join(told)}{more}.")
    return found


def _floor_caveats(told: Mapping[str, Any]) -> list[str]:
    own, bounds, found = told["record"]["auc"], told["record"]["auc_interval"], []
    known = [floor for floor in told["floors"] if floor["auc"] is not None]
    for floor in known:
        if floor["name"] == SHUFFLED and floor["auc"] > 0.6:
            still = f"With shuffled labels the AUC is still {share(floor['auc'])}"
            found.append(f"{still}: something other than their meaning is being learned, or there are very few rows.")
    blind = [floor for floor in known if floor["name"] != SHUFFLED]
    if not blind or own is None:
        return found
    most = max(blind, key=lambda floor: float(floor["auc"]))
    reached = f"{clean(most['name'])}, without a look at what pictures show, reaches an AUC of {share(most['auc'])}"
    if most["auc"] >= own:
        found.append(f"{reached}; this model {share(own)}: nothing shows that its score is owed to what pictures show.")
    elif bounds and most["auc"] >= bounds[0]:
        found.append(f"{reached}; this model hardly more, {share(own)}: its score may be owed to that.")
    else:
        found.append(
            f"{reached}; this model {share(own)}. That much of its score may be owed to other than the finding."
        )
    return found


def missed(point: Mapping[str, Any]) -> bool:
    """Whether an operating point falls short of what its threshold was chosen for, beyond chance."""
    figure = point[point["fixed"]]
    return bool(figure["value"] is not None and figure["interval"] and figure["interval"][1] < point["at"])


def _points_missed(told: Mapping[str, Any]) -> list[str]:
    per_class = told["assessment"]["measures"]["points"]
    several = len(per_class) > 1
    off = [
        (f"the threshold of {quoted(name)}" if several else "the threshold", point)
        for name, points in per_class.items()
        for point in points
        if missed(point)
    ]
    if not off:
        return []
    parts = []
    for whose, point in off[:MOST_NAMED]:
        figure = point[point["fixed"]]
        reached = f"{share(figure['value'])} (95 % CI {interval(figure['interval'])})"
        parts.append(f"{whose} for {point['fixed']} {point['at']:g} reaches {reached}")
    more = f"; and {len(off) - MOST_NAMED} more" if len(off) > MOST_NAMED else ""
    sentence = f"{'; '.join(parts)}{more}."
    return [
        f"Operating points do not carry over to what was evaluated: {sentence} Choose thresholds anew on such data."
    ]


def _miscalibrated(told: Mapping[str, Any]) -> list[str]:
    found, record = told["assessment"]["calibration"], told["record"]
    if only_class(record) is not None:
        return []
    faults = []
    for key, name in (("log_loss", "log-loss"), ("brier", "Brier score")):
        own, prior = found[key]["value"], found[f"{key}_of_prior"]
        if own is not None and own > prior:
            faults.append(f"their {name}, {own:.3f}, is worse than {prior:.3f} of always saying the class shares")
    curves = {"the most probable class": found["top"]} if found["top"] else found["per_class"]
    slopes = []
    for name, curve in curves.items():
        slope, bounds = curve["slope"], curve["slope_interval"]
        if bounds and not SLOPES[0] <= slope <= SLOPES[1] and not bounds[0] <= 1 <= bounds[1]:
            of = "" if len(curves) == 1 else f" of {quoted(name)}"
            told_bounds = f"{bounds[0]:.2f} to {bounds[1]:.2f}".replace("-", "−")
            slopes.append(f"{slope:.2f}".replace("-", "−") + f"{of} (95 % CI {told_bounds})")
    if slopes:
        more = f" and {len(slopes) - MOST_NAMED} more" if len(slopes) > MOST_NAMED else ""
        rule = "below 1 they are too sure, above 1 not sure enough"
        faults.append(f"their slope is {', '.join(slopes[:MOST_NAMED])}{more}, not 1 ({rule})")
    return [f"Probabilities do not mean what they say: {'; '.join(faults)}."] if faults else []


def _gaps(told: Mapping[str, Any]) -> list[str]:
    found = []
    for part in told["assessment"]["subgroups"]:
        for cell in part["cells"]:
            gap = cell["gap"]
            if gap and gap["value"] is not None and gap["interval"] and gap["interval"][1] < 0:
                low, high = gap["interval"]
                found.append(
                    f"It is worse for {clean(part['column'])} {quoted(cell['value'])}: the AUC differs from the others'"
                    f" by {signed(gap['value'])} (95 % CI {signed(low)} to {signed(high)})."
                )
    return found
