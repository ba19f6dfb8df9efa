"""Sets hold the truth as often as asked, also where rows of a group are alike; strangers are told."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from vecstore.errors import DataError
from vecstore.probes.assessing import assess
from vecstore.probes.conformal import (
    Cases,
    check_familiarity,
    check_sets,
    familiarity,
    group_quantile,
    nearest,
    prediction_sets,
)
from vecstore.probes.measures import Tuning


def clustered(n_groups: int, k: int, rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """Labels, probabilities and groups of one to ten rows, nearly the same within a group."""
    groups = np.repeat(np.arange(n_groups), rng.integers(1, 11, n_groups))
    y = rng.integers(0, k, n_groups)[groups]
    logits = 1.5 * np.eye(k)[y] + rng.normal(size=(n_groups, k))[groups] + 0.2 * rng.normal(size=(len(y), k))
    return y, softmax(logits, axis=1), groups


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_a_row_of_a_new_group_is_covered_as_often_as_asked(coverage: float) -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(300):
        y, p, groups = clustered(60, 3, rng)
        rule = prediction_sets(y, p, "multi-class", coverage, groups)
        new_y, new_p, new_groups = clustered(40, 3, rng)
        share = np.bincount(new_groups, rule(new_p)[np.arange(len(new_y)), new_y]) / np.bincount(new_groups)
        held.append(share.mean())
    assert np.mean(held) == pytest.approx(coverage + 0.5 / 61, abs=0.012)  # between the promise and 1 / 61 above it


def test_a_quantile_of_groups_of_one_row_is_the_usual_one() -> None:
    rng = np.random.default_rng(0)
    for n, coverage in ((9, 0.9), (99, 0.9), (50, 0.8)):
        scores = rng.normal(size=n)
        rank = int(np.ceil((n + 1) * coverage - 1e-9))
        assert group_quantile(scores, np.arange(n), coverage) == np.sort(scores)[rank - 1]
    assert group_quantile(rng.normal(size=8), np.arange(8), 0.9) == np.inf  # 9 groups are the least for 0.9


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 0.95))
def test_more_coverage_never_takes_a_class_away_and_copies_of_rows_count_once(seed: int, coverage: float) -> None:
    rng = np.random.default_rng(seed)
    y, p, groups = clustered(30, 3, rng)
    one, more = (prediction_sets(y, p, "multi-class", c, groups) for c in (coverage, min(coverage + 0.04, 0.99)))
    assert (more(p) >= one(p)).all()
    rows = np.r_[np.arange(len(y)), np.arange(len(y))]
    assert prediction_sets(y[rows], p[rows], "multi-class", coverage, groups[rows]).least == one.least


def test_too_few_groups_promise_nothing_so_every_class_is_in_the_set() -> None:
    p = np.array([[0.9, 0.1], [0.2, 0.8]])
    rule = prediction_sets([0, 1], p, "binary", 0.9)
    assert rule.least == [0.0] and rule(p).all()


def test_labels_are_present_absent_or_undecided() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random((400, 2)) < 0.4).astype(float)
    p = np.clip(0.35 * y + 0.65 * rng.random((400, 2)), 0, 1)
    y[:50, 1] = np.nan
    rule = prediction_sets(y, p, "multi-label", 0.9)
    present, absent = rule(p), rule.absent(p)
    for k in range(2):
        known = ~np.isnan(y[:, k])
        held = np.where(y[known, k] == 1, present[known, k], absent[known, k])
        assert held.mean() == pytest.approx(0.9, abs=0.01)
    found = check_sets(y, p, ["a", "b"], "multi-label", None, rule, n_boot=20)
    assert found.covered.value == pytest.approx(0.9, abs=0.01) and 1 <= found.size <= 2


@pytest.mark.parametrize("kind", ["binary", "multi-class"])
def test_an_assessment_counts_coverage_on_rows_that_a_rule_does_not_rest_on(kind: Any) -> None:
    rng = np.random.default_rng(1)
    k = 2 if kind == "binary" else 3
    y, p, groups = clustered(400, k, rng)
    folds = groups % 5
    found = assess(y, p, list("abc")[:k], kind, groups, tuning=Tuning(y, p, folds), tuning_groups=groups, n_boot=100)
    assert found.sets is not None and found.sets.covered.value is not None
    assert found.sets.covered.value == pytest.approx(0.9, abs=0.03)
    low, high = found.sets.covered.interval or (0, 0)
    assert low < found.sets.covered.value < high
    assert found.sets.groups < 400  # each fold's rule rests on the others
    json.dumps(found.to_dict(), allow_nan=False)
    held = []
    for fold in range(5):
        rest = folds != fold
        rule = prediction_sets(y[rest], p[rest], kind, 0.9, groups[rest])
        inside = np.flatnonzero(~rest)
        right = rule(p[inside])[np.arange(len(inside)), y[inside]]
        sizes = np.bincount(groups)[groups[inside]]
        held.append((right / sizes).sum())
    assert found.sets.covered.value == pytest.approx(sum(held) / 400, abs=1e-12)


# Unfamiliar


def _nearest_by_hand(queries: Any, base: Any, own: Any, groups: Any) -> list[float]:
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (queries, base)]
    cosines = unit[0] @ unit[1].T
    return [float(np.max(row[groups != mine], initial=-np.inf)) for row, mine in zip(cosines, own, strict=True)]


def test_the_nearest_row_of_another_group_is_found() -> None:
    rng = np.random.default_rng(0)
    base, groups = rng.normal(size=(80, 6)), rng.integers(0, 12, 80)
    queries, own = rng.normal(size=(30, 6)), rng.integers(-1, 13, 30)
    np.testing.assert_allclose(
        nearest(queries, base, own, groups), _nearest_by_hand(queries, base, own, groups), atol=1e-6
    )
    assert np.isneginf(nearest(queries, base, np.zeros(30, np.int64), np.zeros(80, np.int64))).all()


def test_cases_like_those_seen_are_familiar_as_often_as_asked_and_strangers_are_not() -> None:
    rng = np.random.default_rng(0)

    def cases(n_groups: int) -> tuple[Any, Any]:
        groups = np.repeat(np.arange(n_groups), rng.integers(1, 6, n_groups))
        centre = np.r_[6, np.zeros(15)]
        return centre + rng.normal(size=(n_groups, 16))[groups] + 0.1 * rng.normal(size=(len(groups), 16)), groups

    flagged, strangers = [], []
    for _ in range(30):
        X, groups = cases(150)
        rule = familiarity(X, groups, 0.9)
        new, new_groups = cases(60)
        strange = rule.unfamiliar(nearest(new, X))
        flagged.append((np.bincount(new_groups, strange) / np.bincount(new_groups)).mean())
        strangers.append(rule.unfamiliar(nearest(rng.normal(size=(50, 16)), X)).mean())
    assert np.mean(flagged) == pytest.approx(0.1, abs=0.025)
    assert np.mean(strangers) > 0.9
    # Own group seen: near-copies would make every row familiar with itself, and the limit far too high.
    assert familiarity(X, np.arange(len(X)), 0.9).least > rule.least + 0.05


@pytest.mark.parametrize("most", [5000, 200])
def test_groups_with_gaps_between_their_numbers_are_as_others(most: int) -> None:
    """A store has groups that a model was not trained on: a row is not to be found similar to itself."""
    rng = np.random.default_rng(0)
    X, groups = rng.normal(size=(300, 16)), np.repeat(np.arange(100), 3)
    plain = familiarity(X, groups, 0.9, most=most)
    gaps = groups * 3 + 5
    assert familiarity(X, gaps, 0.9, most=most, cases=Cases(X, gaps)) == plain == familiarity(X, gaps, 0.9, most=most)
    assert plain.least < 0.9


def test_a_sample_of_groups_is_enough_for_a_limit() -> None:
    rng = np.random.default_rng(0)
    X, groups = rng.normal(size=(2000, 8)), np.arange(2000) // 2
    whole, part = familiarity(X, groups, 0.9), familiarity(X, groups, 0.9, most=500)
    assert part.rows <= 500 and whole.rows == 2000
    assert part.least == pytest.approx(whole.least, abs=0.02)


@pytest.mark.parametrize("coverage", [0, 1, 1.5])
def test_a_coverage_that_is_no_share_is_refused(coverage: float) -> None:
    with pytest.raises(DataError, match=r"coverage=.*; expected more than 0 and less than 1; pass 0.9"):
        prediction_sets([0, 1], [[0.5, 0.5], [0.1, 0.9]], "binary", coverage)


def test_groups_that_are_too_few_are_refused_and_not_a_wrong_index() -> None:
    rng = np.random.default_rng(0)
    y, p, groups = clustered(10, 2, rng)
    few = groups[:-1]
    for ask in (
        lambda: prediction_sets(y, p, "binary", 0.8, few),
        lambda: check_sets(y, p, ["a", "b"], "binary", few, prediction_sets(y, p, "binary", 0.8, groups)),
        lambda: familiarity(p, few, 0.8),
        lambda: group_quantile(p[:, 0], few, 0.8),
    ):
        with pytest.raises(DataError, match=f"{len(y)} rows and {len(y) - 1} groups; expected a group per row"):
            ask()


def test_a_coverage_that_is_no_share_is_refused_even_where_nothing_rests_on_it() -> None:
    with pytest.raises(DataError, match="coverage=7; expected more than 0 and less than 1"):
        assess(np.array([0, 1]), np.eye(2), ["a", "b"], "binary", np.arange(2), coverage=7, n_boot=0)


def test_rows_unlike_those_that_sets_rest_on_are_told() -> None:
    rng = np.random.default_rng(3)
    y, p, groups = clustered(300, 2, rng)
    new_y, new_p, new_groups = clustered(200, 2, rng)
    like = assess(new_y, new_p, ["a", "b"], "binary", new_groups, tuning=Tuning(y, p), tuning_groups=groups, n_boot=99)
    assert like.notes == []
    turned = np.where((new_groups % 3 == 0)[:, None], new_p[:, ::-1], new_p)  # another scanner, say
    unlike = assess(
        new_y, turned, ["a", "b"], "binary", new_groups, tuning=Tuning(y, p), tuning_groups=groups, n_boot=99
    )
    (note,) = unlike.notes
    assert note.startswith("prediction sets hold the truth in 0.7") and "and not in 0.9: they are unlike those" in note


def test_familiarity_is_checked_on_groups_that_a_rule_does_not_rest_on() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(200), 3)
    X = np.r_[4, np.zeros(15)] + rng.normal(size=(200, 16))[groups] + 0.1 * rng.normal(size=(600, 16))
    found = check_familiarity(X, groups, groups % 5, 0.9, n_boot=200)
    assert found.value == pytest.approx(0.9, abs=0.03)
    low, high = found.interval or (0, 0)
    assert low < 0.9 < high
    held = np.zeros(600)
    for fold in range(5):
        inside = groups % 5 == fold
        rule = familiarity(X[~inside], groups[~inside], 0.9)
        held[inside] = ~rule.unfamiliar(nearest(X[inside], X[~inside]))
    assert found.value == pytest.approx(held.mean(), abs=1e-12)  # groups are of one size
