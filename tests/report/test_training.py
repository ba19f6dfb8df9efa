"""The page of a trained probe."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, roc_auc_score

from vecstore.errors import DataError
from vecstore.report.training import training_page

Check = Callable[..., Any]
Case = tuple[dict[str, Any], Any, Any]


def _case(kind: str, n: int = 300, classes: int = 3) -> Case:
    """A record with labels and predictions that are right more often than not."""
    rng = np.random.default_rng(0)
    names = ["normal", "pneumonia"] if kind == "binary" else [f"class {i}" for i in range(classes)]
    if kind == "multi-label":
        y = rng.integers(0, 2, (n, classes))
        probabilities = 1 / (1 + np.exp(-(2 * y - 1 + rng.standard_normal((n, classes)))))
        areas = {name: float(roc_auc_score(y[:, i], probabilities[:, i])) for i, name in enumerate(names)}
    else:
        y = np.arange(n) % len(names)
        logits = rng.standard_normal((n, len(names))) + 1.5 * np.eye(len(names))[y]
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        shown = [1] if kind == "binary" else range(classes)
        areas = {names[i]: float(roc_auc_score(y == i, probabilities[:, i])) for i in shown}
    record = {
        "task": "pneumonia",
        "kind": kind,
        "classes": names,
        "counts": {name: 1000 + i for i, name in enumerate(names)},
        "space": "lite0",
        "encoder": "bundled",
        "model": "probe",
        "parameters": {"strength": 0.1, "folds": 5},
        "part": "test",
        "n": n,
        "groups": 213,
        "group_column": "patient_id",
        "auc": 0.9412,
        "auc_interval": [0.912, 0.963],
        "auc_per_class": areas,
        "auc_interval_per_class": {name: [0.8, 0.9] for name in areas},
        "accuracy": 0.861,
        "accuracy_interval": [0.82, 0.9],
        "balanced_accuracy": 0.858,
        "balanced_accuracy_interval": None,
        "notes": ["12 training pictures of 9 patients were left out."],
        "commit": 12,
        "store": "chest.vecs",
        "where": "age >= 60",
        "versions": {"numpy": "2.0"},
    }
    return record, y, probabilities


KINDS = ["binary", "multi-class", "multi-label"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_input_gives_the_same_bytes_whatever_the_users_style(kind: str) -> None:
    first = training_page(*_case(kind))
    with mpl.rc_context(
        {"font.size": 30, "axes.grid": False, "svg.fonttype": "path", "axes.labelsize": 40, "ytick.labelsize": 3}
    ):
        styled = dict(mpl.rcParams)
        assert training_page(*_case(kind)) == first
        assert dict(mpl.rcParams) == styled
    assert training_page(*_case(kind)) == first


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_is_self_contained(kind: str, assert_self_contained: Check) -> None:
    html = training_page(*_case(kind))
    assert_self_contained(html)
    assert "http" not in html.replace('meta http-equiv="', "")


@pytest.mark.parametrize("kind", KINDS)
def test_figures_take_colours_and_fonts_from_the_page(kind: str) -> None:
    figures = "".join(re.findall(r"<svg.*?</svg>", training_page(*_case(kind)), re.DOTALL))
    assert figures.count("<svg") == 2
    assert "var(--c0)" in figures
    assert not re.search(r"#[0-9a-f]{6}|font-family|font:|DejaVu", figures)


def test_the_summary_is_one_quotable_sentence(parse: Check) -> None:
    text = parse(training_page(*_case("binary"))).text
    assert "AUC 0.94 (95 % CI 0.91–0.96) on 300 test pictures of 213 patients." in text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"part": "out-of-fold", "group_column": "lesion_id"},
            "of 213 lesions, each scored by a model that had not seen its group.",
        ),
        (
            {"part": "out-of-fold", "group_column": None},
            "on 300 pictures, each scored by a model that had not seen it.",
        ),
        ({"group_column": "site", "groups": 1}, "on 300 test pictures of 1 group (site)."),
        ({"auc_interval": None}, "AUC 0.94 on 300 test pictures"),
        ({"auc": None, "auc_interval": None}, "AUC not defined on 300 test pictures"),
        ({"auc": 0.99996, "auc_interval": [0.9951, 1.0]}, "AUC 0.999 (95 % CI 0.995–1.00) on"),
    ],
)
def test_the_summary_says_what_was_evaluated(changes: dict[str, Any], sentence: str, parse: Check) -> None:
    record, y, probabilities = _case("binary")
    assert sentence in parse(training_page({**record, **changes}, y, probabilities)).text


def test_facts_notes_and_classes_are_in_the_page(parse: Check) -> None:
    text = parse(training_page(*_case("binary"))).text
    for part in (
        "Balanced accuracy 0.86",
        "Accuracy 0.86 95 % CI 0.82–0.90",
        "Please note 12 training pictures of 9 patients were left out.",
        "Parameters strength 0.1, folds 5",
        "Groups patient_id",
        "Filter age >= 60",
        "Commit 12",
        "Versions numpy 2.0",
        "normal 1\u202f000 150 –",
    ):
        assert " ".join(part.split()) in text
    assert "Date" not in text


@pytest.mark.parametrize("kind", ["multi-class", "multi-label"])
def test_every_class_has_its_auc_and_interval(kind: str, parse: Check) -> None:
    record, y, probabilities = _case(kind)
    text = parse(training_page(record, y, probabilities)).text
    for name, area in record["auc_per_class"].items():
        assert re.search(rf"{name} 1 00\d \d+ {area:.2f} 0\.80–0\.90", text)


def test_the_confusion_matrix_has_the_counts(parse: Check) -> None:
    record, y, probabilities = _case("multi-class")
    text = parse(training_page(record, y, probabilities)).text
    for name, row in zip(record["classes"], confusion_matrix(y, probabilities.argmax(axis=1)), strict=True):
        cells = " ".join(f"{n} {100 * n / row.sum():.0f} %" for n in row)
        assert re.search(rf"{name} ?{cells}".replace(" ", " ?"), text)


def test_twenty_classes_keep_their_curves_apart_and_drop_the_matrix(parse: Check) -> None:
    html = training_page(*_case("multi-class", n=600, classes=20))
    assert "true class" not in parse(html).text
    swatches = [i["style"] for i in parse(html).of("i") if i.get("class") == "swatch"][:20]
    assert len(set(swatches)) == 20


def test_a_positive_probability_alone_is_enough_for_a_binary_task() -> None:
    record, y, probabilities = _case("binary")
    both = probabilities.astype(np.float32)
    both[:, 0] = 1 - both[:, 1]
    whole = training_page(record, y, both)
    assert training_page(record, y, both[:, 1]) == whole
    assert training_page(record, y, both[:, 1:]) == whole


def test_a_minimal_record_makes_a_page(assert_self_contained: Check, parse: Check) -> None:
    record = {"task": "t", "kind": "binary", "classes": ["a", "b"], "n": 2}
    html = training_page(record, [0, 1], [0.2, 0.7])
    assert_self_contained(html)
    assert "AUC not defined on 2 pictures." in parse(html).text


@pytest.mark.parametrize("kind", KINDS)
def test_one_class_only_or_no_picture_at_all_makes_a_page_without_a_curve(kind: str, parse: Check) -> None:
    record, y, probabilities = _case(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = training_page({**record, "auc": None}, np.zeros_like(y), probabilities)
        none = training_page({**record, "n": 0}, y[:0], probabilities[:0])
    if kind != "multi-class":
        assert "Sensitivity" not in one
    assert "Sensitivity" not in none
    assert "Histogram" not in none
    assert parse(none).of("svg") == []


def test_any_text_is_shown_and_none_is_obeyed(parse: Check, assert_self_contained: Check) -> None:
    nasty = "<script>alert(1)</script>\"' onload=x $\\frac{1}{2}$ Befund: 肺炎 [x] </svg>"
    record, y, probabilities = _case("binary")
    record |= dict.fromkeys(("task", "space", "encoder", "store", "group_column", "where"), nasty)
    record |= {"classes": [nasty, nasty + "2"], "notes": [nasty], "versions": {nasty: nasty}}
    html = training_page(record, y, probabilities)
    assert_self_contained(html)
    text = parse(html).text
    assert text.count(nasty) >= 10
    assert f"is {nasty}2" in text


def test_a_hundred_thousand_pictures_make_a_small_page() -> None:
    record, y, probabilities = _case("multi-class", n=100_000, classes=8)
    assert len(training_page(record, y, probabilities)) < 300_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"record": {"task": "t"}}, "the record has no kind, classes, n; expected at least task, kind, classes, n"),
        ({"y": np.zeros(5)}, r"labels of shape \(5,\) and probabilities of shape \(300, 2\) for 300 pictures"),
        ({"probabilities": np.zeros((300, 3))}, r"expected \(300,\) and \(300, 2\)"),
        ({"probabilities": np.full((300, 2), np.nan)}, "probabilities that are not from 0 to 1"),
        ({"probabilities": np.full((300, 2), 1.5)}, "probabilities that are not from 0 to 1"),
        ({"y": np.full(300, 2)}, "labels from 2 to 2; expected class indices from 0 to 1"),
        ({"y": np.full(300, -1)}, "labels from -1 to -1"),
        ({"y": np.full(300, 0.5)}, "labels from 0.5 to 0.5"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    record, y, probabilities = _case("binary")
    with pytest.raises(DataError, match=message):
        training_page(**{"record": record, "y": y, "probabilities": probabilities, **change})


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_sticks_out_at_any_width(kind: str, width: int, measure: Check) -> None:
    record, y, probabilities = _case(kind, classes=11)
    record |= {"where": "c" * 200, "notes": ["n" * 200], "store": "s" * 100}
    record["classes"] = ["x" * 70, *record["classes"][1:]]
    seen = measure(training_page(record, y, probabilities), width)
    assert seen == {"title": "Classifier report: pneumonia", "inner": width, "faults": []}
