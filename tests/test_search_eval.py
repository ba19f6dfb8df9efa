"""Similar cases against labels: the measures by hand, chance by simulation, and real pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, ndcg_score

from vecstore.errors import DataError, NotFound, UsageError
from vecstore.index.quality import MEASURES, at_random, grouped_interval, ranked
from vecstore.search_eval import search_eval
from vecstore.store import Store


@pytest.fixture
def case() -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    scores, gains = rng.random((6, 40)), rng.choice([0.0, 0.0, 0.5, 1.0], (6, 40))
    may = rng.random((6, 40)) < 0.8
    gains[5] = 0
    return scores, gains, may


def test_measures_are_those_of_scikit_learn_and_of_their_definitions(case: tuple[Any, Any, Any]) -> None:
    scores, gains, may = case
    found = ranked(scores, gains, may, 7)
    for row in range(5):
        s, g = scores[row][may[row]], gains[row][may[row]]
        first = np.argsort(-s)[:7]
        expected = [
            (g[first] > 0).mean(),
            (g[first] > 0).sum() / (g > 0).sum(),
            average_precision_score(g > 0, s),
            ndcg_score(g[None], s[None], k=7),
        ]
        np.testing.assert_allclose(found[row], expected)
    assert np.isnan(found[5]).all()


def test_chance_is_the_mean_of_random_rankings(case: tuple[Any, Any, Any]) -> None:
    _, gains, may = case
    rng = np.random.default_rng(1)
    simulated = np.mean([ranked(rng.random(gains.shape), gains, may, 7)[:5] for _ in range(3000)], axis=0)
    np.testing.assert_allclose(at_random(gains, may, 7)[:5], simulated, atol=0.02)
    assert np.isnan(at_random(gains, may, 7)[5]).all()


def test_the_interval_is_wider_when_groups_are_large() -> None:
    rng = np.random.default_rng(0)
    of_group = rng.random(40)
    values = np.repeat(of_group, 25)
    alone, grouped = (grouped_interval(values, groups) for groups in (np.arange(1000), np.repeat(np.arange(40), 25)))
    assert grouped[1] - grouped[0] > 3 * (alone[1] - alone[0])
    assert grouped[0] < values.mean() < grouped[1]


def test_a_store_is_judged_metric_by_metric(colour_store: Store) -> None:
    result = search_eval(colour_store, "colour", k=5)
    assert (result.task, result.k, result.queries, result.groups, result.candidates) == ("colour", 5, 63, 21, 63)
    assert result.group_column == "patient" and [one.metric for one in result.metrics] == [
        "cosine",
        "standard",
        "whitened",
    ]
    items, patients = colour_store.items(), colour_store.column("patient")
    labels = colour_store.labels_of(items.ids.tolist())
    rows = colour_store.vectors(colour_store.space(), items.contents).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    hits = []
    for place, item in enumerate(items.ids.tolist()):
        others = [i for i, other in enumerate(items.ids.tolist()) if patients[other] != patients[item]]
        near = sorted(others, key=lambda i: -float(rows[i] @ rows[place]))[:5]
        hits.append(np.mean([labels[int(items.ids[i])] == labels[item] for i in near]))
    cosine = result.metrics[0]
    assert cosine.values["precision"] == pytest.approx(np.mean(hits), abs=1e-9)
    assert cosine.random["precision"] == pytest.approx(18 / 60) and cosine.random["recall"] == pytest.approx(5 / 60)
    for quality in result.metrics:
        for name in MEASURES:
            assert quality.low[name] <= quality.values[name] <= quality.high[name]
        assert set(quality.per_class) == {"red", "green", "blue"}
        assert sum(told["n"] for told in quality.per_class.values()) == 63
    for quality in result.metrics[1:]:
        more, low, high = quality.beyond_cosine["precision"]
        assert more == pytest.approx(quality.values["precision"] - cosine.values["precision"]) and low <= more <= high
    assert cosine.beyond_cosine == {}
    few = search_eval(colour_store.path, "colour", k=5, metric="cosine", max_queries=20)
    assert (few.queries, len(few.metrics)) == (20, 1) and "20 of 63 labelled items are queries" in few.notes[-1]


def test_what_can_not_be_judged_is_refused(colour_store: Store) -> None:
    with pytest.raises(NotFound, match="has no task 'cough'"):
        search_eval(colour_store, "cough")
    with pytest.raises(UsageError, match="metric 'angular'"):
        search_eval(colour_store, "colour", metric="angular")
    with pytest.raises(UsageError, match="k = 0"):
        search_eval(colour_store, "colour", k=0)
    with pytest.raises(UsageError, match="k = 63 of 63 labelled items, of which one is the query; expected 1 to 62"):
        search_eval(colour_store, "colour", k=63)
    assert search_eval(colour_store, "colour", k=62, metric="cosine").k == 62
    with pytest.raises(DataError, match="at least two classes"):
        search_eval(colour_store, "colour", where="patient = 'P1'")


def test_real_pictures_of_a_lesion_find_their_kind(shared: Path, shared_store: Callable[[str], Store]) -> None:
    from vecstore.label import label

    store = shared_store("derm_ham10000/images.zip")
    table = shared / "derm_ham10000" / "labels.csv"
    label(store, table, task="dx", key="file", value="dx", columns=["lesion_id"])
    result = search_eval(store, "dx", metric="cosine")
    quality = result.metrics[0]
    assert result.group_column == "lesion_id" and result.groups < result.queries
    assert quality.low["precision"] > quality.random["precision"]
