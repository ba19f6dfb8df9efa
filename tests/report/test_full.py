"""The page of a report, from what `vecstore.report` writes as JSON: the same bytes, any text, any width."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from vecstore.probes.assessing import Column, assess
from vecstore.probes.bands import curves
from vecstore.probes.measures import Tuning
from vecstore.probes.metrics import evaluate
from vecstore.report.card import model_card
from vecstore.report.full import MOST_CLASSES, report_page
from vecstore.report.page import share
from vecstore.report.words import balanced_by_chance, caveats, summary

if TYPE_CHECKING:
    from tests.browser import Browser

Check = Callable[..., Any]
Told = dict[str, Any]
KINDS = ["binary", "multi-class", "multi-label"]


def _predictions(kind: str, n: int, classes: int) -> tuple[list[str], Any, Any]:
    """Names, labels, and predictions that are right more often than not."""
    rng = np.random.default_rng(0)
    y: Any
    names = ["normal", "pneumonia"] if kind == "binary" else [f"class {i}" for i in range(classes)]
    if kind == "multi-label":
        y = rng.integers(0, 2, (n, classes)).astype(np.float64)
        return names, y, 1 / (1 + np.exp(-(2 * y - 1 + rng.standard_normal((n, classes)))))
    y = np.arange(n) % len(names)
    logits = rng.standard_normal((n, len(names))) + 1.5 * np.eye(len(names))[y]
    return names, y, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def _case(
    kind: str, n: int = 300, classes: int = 3, *, y: Any = None, n_boot: int = 20, names: Any = None, **record: Any
) -> Told:
    """What `vecstore.report` tells, with real figures; `y` in place of the labels that were predicted well."""
    own, labels, probabilities = _predictions(kind, n, classes)
    names, labels = own if names is None else names, labels if y is None else y
    groups = np.arange(n) // 2
    scores = evaluate(labels, probabilities, names, kind, groups, n_boot=n_boot).to_dict()  # type: ignore[arg-type]
    tuning = Tuning(labels, probabilities, np.arange(n) % 3)
    columns = [Column("sex", ["FM"[i // 2 % 2] for i in range(n)]), Column("site", ["A", "B", "C", None] * (n // 4))]
    found = assess(labels, probabilities, names, kind, groups, tuning=tuning, columns=columns, n_boot=n_boot)  # type: ignore[arg-type]
    positive = np.nansum(labels == 1, axis=0) if kind == "multi-label" else np.bincount(labels, minlength=len(names))
    counts = dict(zip(names, positive.tolist(), strict=True))
    made = {
        "task": "pneumonia",
        "classes": names,
        "counts": counts,
        "training_counts": {name: 1000 + i for i, name in enumerate(names)},
        "space": "lite0",
        "encoders": ["bundled"],
        "model": "probe",
        "parameters": {"C": 0.1, "folds": 5},
        "part": "test",
        "trained_on": 3000,
        "training_groups": 1500,
        "group_column": "patient_id",
        "stand_ins": [],
        "level": None,
        "pool": None,
        "pictures": n,
        "where": None,
        "calibration": None,
        "notes": ["12 training pictures of 9 patients were left out."],
        "seed": 0,
    }
    fields = {key: scores[key] for key in scores if key not in ("notes", "calibration")}
    table = (
        None if kind == "multi-label" else confusion_matrix(labels, probabilities.argmax(1), labels=range(len(names)))
    )
    finding = {"check": "identical_across_parts", "severity": "problem", "title": "pictures in both parts", "told": "2"}
    example = {"what": "one picture", "members": [{"locator": "a.png", "part": "test", "label": "x", "group": ""}]}
    hit = {"item_id": 2, "score": 0.98765, "source": "archive", "locator": "b/near.png", "label": names[0]}
    card = {"rank": 1, "item_id": 1, "source": "archive", "locator": "a/sure.png", "label": "", "group": "P1"}
    wrong = {"predicted": names[1], "probability": 0.93, "truth": names[0], "probability_truth": 0.001}
    doubt = {"given": names[0], "suggested": names[1], "probability_given": 0.1, "probability_suggested": 0.9}
    kin = {"nearest_suggested": [hit], "nearest_given": []}
    point = {"rows": 12.0, "auc": 0.7, "low": 0.6, "high": 0.8, "draws": 5}
    told: Told = {
        "task": "pneumonia",
        "record": made | {"kind": kind} | fields | record,
        "assessment": found.to_dict(),
        "encoders": [
            {"encoder": "bundled", "library": "timm", "model": "lite0", "weights_sha256": "ef" * 32}
            | {"revision": "1", "resize": "squash", "pooling": "mean"}
        ],
        "flow": {"items": 1234, "labelled": 1200},
        "groups_per_class": dict.fromkeys(names, 75),
        "chance": {"auc": 0.5, "accuracy": 0.5, "balanced_accuracy": balanced_by_chance(made | {"kind": kind})},
        "curves": curves(labels, probabilities, names, kind, groups, n_boot=n_boot).to_dict(),  # type: ignore[arg-type]
        "confusion": None if table is None else {"classes": names, "counts": table.tolist()},
        "audit": {"findings": [finding | {"do": "leave them out", "examples": [example | {"more": 3}]}], "notes": []},
        "floors": [{"name": "Shuffled labels", "auc": 0.51, "interval": [0.4, 0.6], "how": "5 deals"}],
        "learning_curve": {
            "rule": "a fixed rule",
            "part": "test",
            "points": [point | {"per_class": size} for size in (1, 2, None)],
            "notes": [],
        },
        "mistakes": [card | wrong | {"unit": "", "pictures": 1, "nearest": [hit]}],
        "label_errors": {
            "suspects": [card | doubt | kin | {"pictures": 1}],
            "found": 4,
            "n": n,
            "share": 0.01,
            "predictions": "out-of-fold",
            "notes": [],
        },
        "familiar": {"coverage": 0.9, "least": 0.5, "n": n, "unfamiliar": 3, "error_rate": 0.1}
        | {"error_rate_unfamiliar": None},
        "manifest": {
            "store": "chest.vecs",
            "snapshot_commit": 12,
            "items": 1234,
            "model_id": 7,
            "model_sha256": "ab" * 32,
            "trained_at_commit": 11,
            "trained": "2026-01-02T03:04:05Z",
            "labels_commit": 3,
            "spaces": ["lite0"],
            "encoders": ["bundled"],
            "fingerprints": ["cd" * 32],
            "seed": 0,
            "report_seed": 0,
            "versions_trained": {"numpy": "2.0"},
            "versions_report": {"numpy": "2.0"},
            "train_command": "vecstore train chest.vecs pneumonia",
            "report_command": "vecstore report chest.vecs pneumonia",
        },
        "pixels_read": 0,
    }
    told["summary"], told["caveats"] = summary(told), caveats(told)
    return told


@pytest.fixture(scope="module", params=KINDS)
def told(request: pytest.FixtureRequest) -> Told:
    """Of each kind of task; not to be changed."""
    return _case(request.param)


def test_the_same_input_gives_the_same_bytes_whatever_the_users_style(told: Told) -> None:
    first = report_page(told, {})
    with mpl.rc_context(
        {"font.size": 30, "axes.grid": False, "svg.fonttype": "path", "axes.labelsize": 40, "ytick.labelsize": 3}
    ):
        styled = dict(mpl.rcParams)
        assert report_page(told, {}) == first
        assert dict(mpl.rcParams) == styled
    assert report_page(_case(told["record"]["kind"]), {}) == first


def test_the_page_is_self_contained(told: Told, assert_self_contained: Check, jpeg: bytes) -> None:
    html = report_page(told, {1: jpeg})
    assert_self_contained(html)
    assert "http" not in html.replace('meta http-equiv="', "")


def test_figures_take_colours_and_fonts_from_the_page(told: Told) -> None:
    figures = "".join(re.findall(r"<svg.*?</svg>", report_page(told, {}), re.DOTALL))
    assert figures.count("<svg") == 4
    assert "var(--c0)" in figures
    assert not re.search(r"#[0-9a-f]{6}|font-family|font:|DejaVu", figures)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "with AUC {} (95 % CI {}), on 300 test pictures of 150 patients, none of which it was trained on."),
        (
            {"part": "out-of-fold", "group_column": "lesion_id"},
            "on 300 pictures of 150 lesions, each scored by a model that had not seen its lesion.",
        ),
        (
            {"part": "out-of-fold", "group_column": None},
            "on 300 pictures, each scored by a model that had not seen it.",
        ),
        ({"group_column": "site", "groups": 1}, "on 300 test pictures of 1 group, none"),
        (
            {"group_column": "PatientID", "stand_ins": ["StudyInstanceUID"]},
            "on 300 test pictures of 150 groups (PatientID, else StudyInstanceUID), none of which it was trained on.",
        ),
        ({"auc_interval": None}, "with AUC {}, on 300 test pictures"),
        ({"auc": None, "auc_interval": None}, "with an AUC that is not defined, on 300 test pictures"),
        ({"auc": 0.99996, "auc_interval": [0.9951, 1.0]}, "AUC 0.999 (95 % CI 0.995–1.00), on"),
    ],
)
def test_the_summary_says_what_was_evaluated(changes: dict[str, Any], sentence: str, parse: Check) -> None:
    told = _case("binary", **changes)
    auc, bounds = told["record"]["auc"], told["record"]["auc_interval"]
    figures = (share(auc), "" if bounds is None else f"{share(bounds[0])}–{share(bounds[1])}")
    assert sentence.format(*figures) in parse(report_page(told, {})).text


def test_the_card_has_what_each_figure_is_compared_with() -> None:
    told = _case("binary")
    prevalence = told["assessment"]["measures"]["prevalence"]["pneumonia"]
    (row,) = [line for line in model_card(told).splitlines() if line.startswith("| AUPRC |")]
    assert row.endswith(f"| {share(prevalence)} |")


def test_facts_notes_and_classes_are_in_the_page(parse: Check) -> None:
    told = _case("binary", where="age >= 60")
    told["assessment"]["subgroups"][0]["notes"] = [">= 80: no AUC, a class has no rows there"]
    text = parse(report_page(told, {})).text
    for part in (
        "Notes 12 training pictures of 9 patients were left out.",
        "Parameters C 0.1, folds 5",
        "Groups patient_id",
        "Filter age >= 60",
        "commit 12; trained at commit 11",
        "Versions, training numpy 2.0",
        "Calibration none",
        "≥ 80: no AUC, a class has no rows there",
        "normal 1 000 150 75 50 %",
        "Pictures per class. 1 234 items in the store, 1 200 with a label (34 without); trained on 3 000 pictures,",
        "Architecture lite0 of timm Weights, SHA-256 ef",
        "To be filled in by the authors What a reader needs and vecstore does not know. Reference standard Not known:",
        "Command of training vecstore train chest.vecs pneumonia",
    ):
        assert part in text
    assert "Versions, report" not in text
    for key, name in (("auc", "AUC-ROC"), ("balanced_accuracy", "Balanced accuracy"), ("accuracy", "Accuracy")):
        low, high = told["record"][f"{key}_interval"]
        assert f"{name} {share(told['record'][key])} 95 % CI {share(low)}–{share(high)}" in text


@pytest.mark.parametrize("kind", ["multi-class", "multi-label"])
def test_every_class_has_its_auc_and_interval(kind: str, parse: Check) -> None:
    told = _case(kind)
    text = parse(report_page(told, {})).text
    for name, values in told["assessment"]["measures"]["per_class"].items():
        low, high = values["auc"]["interval"]
        assert f"{name} {share(values['auc']['value'])} {share(low)}–{share(high)}" in text


def test_the_confusion_matrix_has_the_counts(parse: Check) -> None:
    told = _case("multi-class")
    text = parse(report_page(told, {})).text
    for name, row in zip(told["record"]["classes"], told["confusion"]["counts"], strict=True):
        assert f"{name} " + " ".join(f"{n} {100 * n / sum(row):.0f} %" for n in row) in text


def test_neither_all_nor_none_is_claimed(parse: Check) -> None:
    told = _case("binary")
    told["confusion"]["counts"] = [[202, 1], [0, 110]]
    told["mistakes"][0] |= {"probability": 0.99997, "probability_truth": 0.00003}
    text = parse(report_page(told, {})).text
    assert "normal 202 > 99 % 1 < 1 % pneumonia 0 0 % 110 100 %" in text
    assert "Answer pneumonia > 0.999 Truth normal < 0.001" in text


def test_many_classes_keep_their_curves_apart_and_drop_the_matrix(parse: Check) -> None:
    told = _case("multi-class", n=600, classes=20)
    page = parse(report_page(told, {}))
    assert "true class" not in page.text and f"{20 - MOST_CLASSES} more classes are not drawn" in page.text
    swatches = [i["style"] for i in page.of("i") if i.get("class") == "swatch"]
    assert len(set(swatches)) == MOST_CLASSES and len(swatches) >= MOST_CLASSES
    assert all(f"class {i} " in page.text for i in range(20))


@pytest.mark.parametrize("kind", KINDS)
def test_one_class_only_makes_a_page_without_a_score(kind: str, parse: Check) -> None:
    labels = np.zeros((300, 3)) if kind == "multi-label" else np.zeros(300, np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = _case(kind, y=labels)
        page = parse(report_page(told, {}))
    assert told["record"]["auc"] is None and "an AUC that is not defined" in page.text
    assert "Sensitivity against" not in page.text and "AUC-ROC 0" not in page.text
    assert "an AUC that is not defined" in model_card(told)
    if kind == "multi-label":
        return
    only = told["record"]["classes"][0]
    first = f"All evaluated pictures are “{only}”: nothing can be said of how well classes are told apart."
    assert told["caveats"][0].startswith(first) and first in model_card(told)
    assert balanced_by_chance(told["record"]) is None
    assert "imbalanced" not in page.text and "guessing 0.50" not in page.text and "class shares" not in page.text
    if kind == "multi-class":  # of all rows: nothing to be precise about
        assert told["assessment"]["measures"]["per_class"][only]["auprc"]["value"] is None


def test_labels_that_are_not_known_leave_the_others_their_figures(parse: Check) -> None:
    labels = _predictions("multi-label", 300, 3)[1]
    labels[::2, 1] = np.nan
    labels[:, 2] = np.nan
    text = parse(report_page(_case("multi-label", y=labels), {})).text
    assert re.search(r"class 0 0\.\d\d 0", text) and re.search(r"class 1 0\.\d\d 0", text) and "class 2 – –" in text


def test_few_groups_and_rare_classes_are_told_before_all_else(parse: Check) -> None:
    labels = np.array([0] * 24 + [1] * 6)
    told = _case("binary", n=32, y=np.r_[labels, 0, 0])
    told["record"]["counts"] = {"normal": 26, "pneumonia": 6}
    told["caveats"] = caveats(told)
    assert told["caveats"][0].startswith("Only 16 patients were evaluated. The figures are weak")
    assert told["caveats"][1] == "What is said of rare classes rests on hardly any pictures: “pneumonia” 6."
    text = parse(report_page(told, {})).text
    assert f"Before you rely on it {told['caveats'][0]} {told['caveats'][1]} The audit found a problem" in text
    # Cells of fewer than 10 patients each: a line, and no table of them.
    assert "Every value is in fewer than 10 groups, so nothing is told by sex or site ." in text
    assert "too few to tell" not in text


def test_bands_that_hide_more_than_they_show_are_not_drawn(parse: Check) -> None:
    def bands(told: Told) -> tuple[int, str]:
        html = report_page(told, {})
        figures = re.findall(r"<svg.*?</svg>", html, re.DOTALL)[:2]
        return sum(figure.count("opacity: 0.16") for figure in figures), parse(html).text

    drawn, text = bands(_case("multi-class", n=60))
    assert drawn == 6 and "The bands are pointwise, of 20 resamples." in text
    drawn, text = bands(_case("multi-class", n=80, classes=4))
    assert drawn == 0 and "Bands are not drawn of more than 3 curves." in text
    few = _case("binary", n=60)
    few["groups_per_class"] = {"normal": 30, "pneumonia": 4}
    drawn, text = bands(few)
    assert drawn == 0 and "The curve has no band: it would rest on fewer than 5 groups." in text


def test_one_size_of_a_learning_curve_is_seen() -> None:
    told = _case("binary", n=60)
    told["learning_curve"]["points"] = told["learning_curve"]["points"][:1] + told["learning_curve"]["points"][-1:]
    figure = re.findall(r"<svg.*?</svg>", report_page(told, {}), re.DOTALL)[-1]
    assert figure.count("stroke-linecap: round") == 1 and "1: 0.70; with all labels 0.70." in figure


def test_thresholds_that_are_hardly_anything_are_not_written_out(parse: Check) -> None:
    told = _case("binary", n=60)
    told["assessment"]["measures"]["points"]["pneumonia"][0]["thresholds"] = [3e-14, 0.1234]
    told["assessment"]["measures"]["points"]["pneumonia"][1]["thresholds"] = [0.9999]
    text = parse(report_page(told, {})).text
    assert "specificity ≥ 0.9 < 0.001–0.123" in text and "sensitivity ≥ 0.9 > 0.999" in text


def test_what_does_not_hold_is_told_before_the_figures(parse: Check) -> None:
    told = _case("binary")
    measures, calibration = told["assessment"]["measures"], told["assessment"]["calibration"]
    point = next(one for one in measures["points"]["pneumonia"] if one["fixed"] == "specificity")
    calibration["per_class"]["pneumonia"] |= {"slope": 0.9, "slope_interval": (0.8, 1.0)}
    point["specificity"] = {"value": 0.85, "interval": [0.8, 0.91]}
    told["floors"].append({"name": "Location", "auc": 0.55, "interval": None, "how": "a forest"})
    heard = "\n".join(caveats(told))
    assert "carry over" not in heard and "Probabilities do not mean" not in heard
    assert "Location, without a look at what pictures show, reaches an AUC of 0.55; this model 0." in heard
    assert "In this model that is mended" not in heard and "not reached" not in parse(report_page(told, {})).text

    point["specificity"] = {"value": 0.3, "interval": [0.222, 0.392]}
    calibration |= {"log_loss": {"value": 0.723, "interval": None}, "log_loss_of_prior": 0.648}
    calibration["per_class"]["pneumonia"] |= {"slope": 0.531, "slope_interval": (0.4, 0.66), "intercept": -4.9}
    told["floors"][-1]["auc"] = 0.99
    told["record"]["notes"] = ["official split: 112 training items were dropped, of 39 groups"]
    told["caveats"] = caveats(told)
    heard = "\n".join(told["caveats"])
    for sentence in (
        (
            "Operating points do not carry over to what was evaluated: the threshold for specificity 0.9 reaches 0.30"
            " (95 % CI 0.22–0.39)."
        ),
        (
            "their log-loss, 0.723, is worse than 0.648 of always saying the class shares; their slope is 0.53 (95 % CI"
            " 0.40 to 0.66), not 1"
        ),
        "reaches an AUC of 0.99; this model 0.",
        "nothing shows that its score is owed to what pictures show.",
        "In this model that is mended: 112 training items were dropped, of 39 groups.",
    ):
        assert sentence in heard
    text = parse(report_page(told, {})).text
    assert "specificity ≥ 0.9 not reached" in text and "0.53 0.40 to 0.66 −4.90" in text and "Shift" in text
    assert "slope is held at 1" in text and "Log-loss of the class shares 0.648" in text
    assert all(caveat.replace("“", "")[:40] in model_card(told).replace("“", "") for caveat in told["caveats"][1:])


def test_any_text_is_shown_and_none_is_obeyed(parse: Check, assert_self_contained: Check) -> None:
    nasty = "<script>alert(1)</script>\"' onload=x $\\frac{1}{2}$ Befund: 肺炎 [x] </svg>"
    told = _case("binary", names=[nasty, nasty + "2"], where=nasty, group_column=nasty, notes=[nasty])
    told["task"], told["manifest"]["store"], told["manifest"]["versions_trained"] = nasty, nasty, {nasty: nasty}
    told["mistakes"][0] |= {"locator": nasty, "group": nasty, "truth": nasty}
    told["audit"]["findings"][0] |= {"told": nasty, "title": nasty}
    told["assessment"]["subgroups"][0] |= {"column": nasty}
    told["summary"], told["caveats"] = summary(told), caveats(told)
    html = report_page(told, {})
    assert_self_contained(html)
    page = parse(html)
    assert page.text.count(nasty) >= 15
    assert page.of("script") == [] and f"“{nasty}2”" in page.text


def test_a_hundred_thousand_pictures_make_a_small_page() -> None:
    assert len(report_page(_case("multi-class", n=100_000, n_boot=2), {})) < 300_000


@pytest.mark.parametrize("names", [list("abcdef"), ["melanoma", "naevus", "keratosis", "vascular lesion"], ["a", "b"]])
def test_no_column_of_the_matrix_is_cut_off(names: list[str], browser: Browser, tmp_path: Path) -> None:
    kind = "binary" if len(names) == 2 else "multi-class"
    (tmp_path / "x.html").write_text(report_page(_case(kind, classes=len(names), names=names), {}), encoding="utf-8")
    page = browser.open(tmp_path / "x.html", 1200)
    hidden = "[...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth)"
    assert max(page.evaluate(hidden)) == 0
    page.close()
    page = browser.open(tmp_path / "x.html", 390)  # where something is hidden, a shade at the end says so
    assert max(page.evaluate(hidden)) > 0
    shades = "getComputedStyle(document.querySelector('.scroll')).backgroundAttachment"
    assert page.evaluate(shades) == "local, local, scroll, scroll"
    page.close()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_sticks_out_at_any_width(kind: str, measure: Check, jpeg: bytes) -> None:
    names = ["x" * 70, "normal"] if kind == "binary" else ["x" * 70, *(f"class {i}" for i in range(10))]
    told = _case(kind, n=440, classes=11, names=names, where="c" * 200, notes=["n" * 200])
    html = report_page(told, {1: jpeg})
    for width in (320, 390, 1280):
        assert measure(html, width) == {"title": "Report: pneumonia", "inner": width, "faults": []}
