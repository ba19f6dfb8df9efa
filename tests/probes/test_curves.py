"""Few labels: what is drawn, what is learned from it, and what it is judged on."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from vecstore.errors import DataError, NotFound
from vecstore.probes import curves
from vecstore.probes.curves import learning_curve

from .conftest import Cases


@pytest.mark.parametrize("model", ["probe", "svm", "knn"])
@pytest.mark.parametrize("k", [2, 3])
def test_more_labels_are_better_and_draws_differ_less(model: str, k: int, cases: Cases) -> None:
    X, y, groups = cases(600, k=k)
    points = learning_curve(X, y, groups, per_class=(1, 4, 32), repeats=8, model=model)
    assert [point.per_class for point in points] == [1, 4, 32, None]
    areas = [point.auc for point in points]
    assert areas == sorted(areas) and 0.5 < areas[0] < areas[2] - 0.05
    assert points[0].sd > points[2].sd > 0
    assert all(point.low <= point.auc <= point.high and point.draws == 8 for point in points)


def test_a_point_is_scikit_learns_on_the_rows_drawn(cases: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, groups = cases()
    test = groups % 3 == 0
    drawn: list[Any] = []
    real = curves._draws

    def watched(*arguments: Any) -> Any:
        for size, rows in real(*arguments):
            drawn.append((size, rows))
            yield size, rows

    monkeypatch.setattr(curves, "_draws", watched)
    points = {point.per_class: point for point in learning_curve(X, y, groups, test=test, per_class=(3,), repeats=4)}
    scaled = (X - X[~test].mean(axis=0)) / X[~test].std(axis=0) / np.sqrt(12)
    areas = []
    for size, rows in drawn:
        assert not (rows & test).any()
        fit = LogisticRegression(C=10, max_iter=1000).fit(scaled[rows], y[rows])
        area = roc_auc_score(y[test], fit.decision_function(scaled[test]))
        if size is None:
            assert rows.sum() == (~test).sum() == points[None].rows
            assert points[None].auc == pytest.approx(area, abs=1e-3)
        else:
            for side in (0, 1):
                mine = np.unique(groups[rows & (y == side)])
                assert len(mine) == 3  # and of each group every row of the class
                assert (rows & (y == side)).sum() == (np.isin(groups, mine) & (y == side) & ~test).sum()
            areas.append(area)
    assert len(areas) == points[3].draws == 4 and points[None].draws == 1
    assert points[3].auc == pytest.approx(np.mean(areas), abs=1e-3)
    assert points[3].sd == pytest.approx(np.std(areas, ddof=1), abs=1e-3)


def test_a_larger_draw_holds_the_smaller_one(cases: Cases) -> None:
    _, y, groups = cases()
    sides = curves._sides(y)
    drawn = [rows for _, rows in curves._draws(sides, groups, (1, 2, 8), np.random.default_rng(0))]
    for small, large in pairwise(drawn):
        assert (small <= large).all() and small.sum() < large.sum()


def test_several_labels_with_unknown_ones() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 8))
    y = (X[:, :2] + 0.3 * rng.normal(size=(400, 2)) > [0, 0.5]).astype(float)
    y[rng.random((400, 2)) < 0.3] = np.nan
    points = learning_curve(X, y, np.arange(400) // 2, per_class=(2, 16), repeats=4)
    assert points[-1].auc > 0.95 and points[0].auc < points[1].auc


def test_sizes_that_the_rarest_class_has_not_are_left_out(cases: Cases) -> None:
    X, y, groups = cases(60)
    y[:] = 0
    y[:10] = 1
    groups = np.arange(60)
    points = learning_curve(X, y, groups, per_class=(2, 64, 4), repeats=3)
    assert [point.per_class for point in points] == [2, 4, None]


def test_the_same_seed_gives_the_same_curve(cases: Cases) -> None:
    X, y, groups = cases()
    one, two, other = (learning_curve(X, y, groups, per_class=(2,), repeats=2, seed=seed) for seed in (1, 1, 2))
    assert one == two != other


def test_what_can_not_be_drawn_is_said(cases: Cases) -> None:
    X, y, groups = cases()
    with pytest.raises(NotFound, match="no learning curve of the model 'forest'; expected one of: probe, svm, knn"):
        learning_curve(X, y, groups, model="forest")
    for wrong in ({"repeats": 0}, {"per_class": ()}, {"per_class": (0, 1)}):
        with pytest.raises(DataError, match="expected numbers from 1"):
            learning_curve(X, y, groups, **wrong)
    with pytest.raises(DataError, match="a class has no group outside the part that is judged on"):
        learning_curve(X, y, groups, test=y == 1)


def test_every_repeat_is_judged_on_other_groups() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(300), rng.integers(1, 7, 300))  # of many sizes, so that no two are alike
    y = (rng.random((len(groups), 14)) < 0.1).astype(float)
    sides = curves._sides(y)
    parts = [curves._third(y, sides, groups, 0, repeat) for repeat in range(10)]
    held = [set(groups[part]) for part in parts]
    assert all(not held[i] & set(groups[~part]) for i, part in enumerate(parts))
    assert all((sides & part).any(axis=1).all() and (sides & ~part).any(axis=1).all() for part in parts)
    overlaps = [len(a & b) / len(a | b) for i, a in enumerate(held) for b in held[:i]]
    assert np.mean(overlaps) == pytest.approx(0.2, abs=0.05)  # as of independent thirds
    sizes = [len(one) for one in held]
    assert min(sizes) == max(sizes) == 100
