"""What `evaluate`, `compare` and `predict --coverage` print."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from vecstore_cli.learn import _by_chance, _classes_told, _interval

Call = Callable[..., Result]


def test_evaluate_prints_figures_thresholds_and_subgroups(vecstore: Call, place: Path) -> None:
    store = place / "chest.vecs"
    options = ("--subgroup", "sex", "--subgroup", "age=50", "--min-cell", 9, "--prevalence", "0.05")
    done = vecstore("evaluate", store, "pneumonia", *options)
    assert done.exit_code == 0, done.output
    for text in (
        "AUPRC",
        "Brier score",
        "prediction sets",
        "chosen for specificity 0.9",
        "threshold",
        "stated prevalence",
        "sex",
        "< 50",
    ):
        assert text in done.stdout, text
    found = json.loads(vecstore("evaluate", store, "pneumonia", *options, "--json").stdout)["assessment"]
    assert set(found) == {"measures", "calibration", "sets", "subgroups", "notes"}
    assert found["measures"]["prevalence"] == {"pneumonia": 0.05}
    assert [cell["value"] for cell in found["subgroups"][1]["cells"]] == ["< 50", ">= 50"]
    hidden = json.loads(vecstore("evaluate", store, "pneumonia", *options[:2], "--min-cell", 100, "--json").stdout)
    cells = hidden["assessment"]["subgroups"][0]["cells"]
    assert [(cell["n"], cell["auc"], cell["suppressed"]) for cell in cells] == [(None, None, True)] * 2
    text = vecstore("evaluate", store, "pneumonia", *options[:2], "--min-cell", 100).stdout
    assert "sex: 2 values are suppressed, in fewer than 100 groups: F, M\n" in text


def test_intervals_and_empty_sets_can_be_read() -> None:
    assert _interval([-0.484, -0.2]) == " (-0.484 to -0.200)" and _interval([-0.053, 0.122]) == " (-0.053 to 0.122)"
    assert _interval([0.1, 0.2]) == " (0.100-0.200)" and _interval(None) == ""
    assert [_classes_told(names) for names in (None, (), ("a", "b"))] == ["", "{}", "a;b"]


def test_of_one_class_nothing_is_reached_by_chance() -> None:
    one = {"kind": "binary", "counts": {"normal": 0, "pneumonia": 9}}
    assert _by_chance(one) == ("; all are pneumonia", "; one class only: nothing to tell apart")
    two = {"kind": "multi-class", "counts": {"a": 6, "b": 2, "c": 0}}
    assert _by_chance(two) == ("; always a: 0.750", "; 0.500 by chance")


def test_compare_says_which_differences_are_real(vecstore: Call, store: Path) -> None:
    assert vecstore("train", store, "pneumonia", "--model", "knn", "--calibrate", "platt").exit_code == 0
    done = vecstore("compare", store, "pneumonia")
    assert done.exit_code == 0, done.output
    assert "2 models on the same 60 rows in 20 groups, out-of-fold" in done.stdout
    assert re.search(r"^1 less 2: auc .*, p 1.000, Holm 1.000: not shown to differ$", done.stdout, re.M), done.stdout
    brier = vecstore("compare", store, "pneumonia", "--metric", "brier").stdout
    assert re.search(r"^1 less 2: .*, p ≤ 0.001, Holm ≤ 0.001: excludes 0, after Holm too$", brier, re.M), brier
    head, *models = done.stdout.splitlines()[1:4]
    assert "calibrated by" in head and sorted(line.split()[3] for line in models) == ["nothing", "platt"]
    info = json.loads(vecstore("info", store, "--json").stdout)["models"]
    assert [(one["level"], one["calibration"]) for one in info] == [(None, None), (None, "platt")]
    for verb in ("predict", "label-errors"):
        assert "model 2 (knn), the newest of 2; another: --model ID\n" in vecstore(verb, store, "pneumonia").stderr
        assert "newest" not in vecstore(verb, store, "pneumonia", "--model", 1).stderr
    found = json.loads(vecstore("compare", store, "pneumonia", "--models", "1,2", "--json").stdout)
    assert {one["model_id"]: one["calibration"] for one in found["models"]} == {1: None, 2: "platt"}
    assert {"first", "second", "value", "interval", "p", "p_holm", "real", "delong"} == set(found["pairs"][0])


def test_predict_adds_columns_where_a_coverage_is_asked_for(vecstore: Call, place: Path) -> None:
    arguments = ("predict", place / "chest.vecs", "pneumonia", place / "query.png", "--coverage", "0.8")
    (row,) = csv.DictReader(vecstore(*arguments).stdout.splitlines())
    assert list(row)[-3:] == ["set", "similarity", "unfamiliar"]
    assert set(row["set"].split(";")) - {"{}"} <= {"normal", "pneumonia"} and row["unfamiliar"] in ("yes", "no")
    told = json.loads(vecstore(*arguments, "--json").stdout)
    assert (";".join(told["set"]) or "{}") == row["set"] and told["unfamiliar"] == (row["unfamiliar"] == "yes")
    plain = vecstore("predict", place / "chest.vecs", "pneumonia", place / "query.png")
    assert "set" not in plain.stdout.splitlines()[0].split(",")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "--prevalence", "often"), "--prevalence often; expected a share, or CLASS=SHARE"),
        (("evaluate", "--ordinal", "pneumonia,normal"), "the order pneumonia, normal for a binary task"),
        (("compare", "--models", "one"), "--models one; expected ids of models, as numbers"),
        (("compare",), "1 model of task 'pneumonia' to compare"),
        (("predict", "--coverage", "1"), "coverage=1.0; expected more than 0 and less than 1"),
    ],
)
def test_what_can_not_be_is_told_in_a_line(
    vecstore: Call, place: Path, arguments: tuple[str, ...], message: str
) -> None:
    verb, *options = arguments
    done = vecstore(verb, place / "chest.vecs", "pneumonia", *options)
    assert done.exit_code in (1, 2) and message in done.stderr
