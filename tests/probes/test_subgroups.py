"""Parts of the rows: their own AUC, the gap to the rest, and silence about small ones."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from vecstore.errors import DataError
from vecstore.probes.estimates import Rests, percentiles, replicates
from vecstore.probes.subgroups import subgroups

N = 400


def rows(seed: int = 0) -> tuple[Any, Any, Any, list[Any]]:
    """Worse for men than for women; a few of a third value."""
    rng = np.random.default_rng(seed)
    sex = rng.choice(["F", "M"], N)
    sex[:5] = "X"
    y = rng.integers(0, 2, N)
    chance = 1 / (1 + np.exp(-((y - 0.5) * np.where(sex == "M", 1, 4) + rng.normal(size=N))))
    return y, chance, np.arange(N) // 2, sex.tolist()


def _judge(values: Any, **options: Any) -> Any:
    y, chance, groups, _ = rows()
    return subgroups(y, chance, ["n", "y"], "binary", groups, options.pop("column", "sex"), values, **options)


def test_each_value_has_its_auc_and_its_gap_to_the_rest() -> None:
    y, chance, groups, sex = rows()
    sex[10] = None
    found = subgroups(y, chance, ["n", "y"], "binary", groups, "sex", sex, n_boot=300)
    cells: dict[str, Any] = {cell.value: cell for cell in found.cells}
    assert list(cells) == ["F", "M", "X"] and found.missing == 1 and found.edges is None
    is_f, is_m = (np.array([one == which for one in sex]) for which in "FM")
    areas = [roc_auc_score(y[part], chance[part]) for part in (is_f, is_m)]
    assert [cells[one].auc.value for one in "FM"] == pytest.approx(areas, abs=1e-12)
    assert cells["F"].gap.value == pytest.approx(areas[0] - areas[1], abs=1e-12)
    low, high = cells["F"].gap.interval
    assert 0 < low < cells["F"].gap.value < high
    assert cells["M"].gap.interval == pytest.approx((-high, -low), abs=1e-12)
    exact = (is_f.sum(), len(np.unique(groups[is_f])))
    assert (cells["F"].n, cells["F"].groups) == tuple(10 * round(n / 10) for n in exact)  # X is suppressed
    everyone = {cell.value: cell for cell in _judge(sex, min_cell=2).cells}
    assert (everyone["F"].n, everyone["F"].groups) == exact
    json.dumps(found.to_dict(), allow_nan=False)


def test_gaps_are_resampled_by_groups_that_both_sides_share() -> None:
    y, chance, groups, sex = rows()
    found = subgroups(y, chance, ["n", "y"], "binary", groups, "sex", sex, n_boot=40, seed=5)
    kept: list[Any] = []

    def spy(drawn: Any) -> dict[str, Any]:
        kept.append(drawn.copy())
        return {}

    replicates(spy, N // 2, 40, seed=5)
    gaps = []
    for weights in np.concatenate(kept[1:]):
        repeated = np.repeat(np.arange(N), weights[groups].astype(int))
        parts = [[i for i in repeated.tolist() if sex[i] == which] for which in "FM"]
        gaps.append(np.subtract(*(roc_auc_score(y[part], chance[part]) for part in parts)))
    assert found.cells[0].gap is not None
    rests = [
        Rests.sides(*(len({int(groups[i]) for i in range(N) if sex[i] == which and y[i] == side}) for side in (0, 1)))
        for which in "FM"
    ]
    expected = percentiles(np.array(gaps), min(one.groups for one in rests))
    assert found.cells[0].gap.interval == pytest.approx(expected, abs=1e-12)


def test_small_cells_are_suppressed_and_take_no_part_in_a_gap() -> None:
    *_, sex = rows()
    found = _judge(sex)
    small = found.cells[2]
    assert (small.value, small.n, small.groups, small.auc, small.gap, small.suppressed) == ("X", *[None] * 4, True)
    assert found.cells[0].gap.value == -found.cells[1].gap.value
    assert not _judge(sex, min_cell=2).cells[2].suppressed
    assert all(cell.suppressed for cell in _judge(sex, min_cell=500).cells)


def test_the_count_of_a_suppressed_cell_can_not_be_worked_out() -> None:
    *_, sex = rows()
    left = set()
    for hidden in range(1, 8):
        values = ["X"] * hidden + [one if one != "X" else "F" for one in sex[hidden:]]
        found = _judge(values, n_boot=0)
        left.add(N - found.missing - sum(cell.n or 0 for cell in found.cells))
        assert found.notes[-1].startswith("counts are rounded to 10: those of a suppressed cell could be worked out")
    assert len(left) < 3  # seven counts of X, and hardly a difference to see
    assert _judge(["F", "M"] * (N // 2), n_boot=0).notes == []


def test_ages_are_cut_in_bands_other_numbers_at_quartiles_and_few_kinds_not_at_all() -> None:
    ages = [float(i % 90) for i in range(N)]
    found = _judge(ages, column="patient_age")
    assert found.edges == [18, 40, 60, 80]
    assert [cell.value for cell in found.cells] == ["< 18", "18 to < 40", "40 to < 60", "60 to < 80", ">= 80"]
    assert sum(cell.n for cell in found.cells) == N
    kv = _judge([50 + i % 40 for i in range(N)], column="KVP")
    assert kv.edges == [59.8, 69.5, 79.2] and [cell.n for cell in kv.cells] == [100] * 4
    assert [cell.value for cell in _judge([float(i % 3) for i in range(N)], column="view").cells] == ["0", "1", "2"]
    own = _judge(ages, column="age", edges=[65])
    assert [cell.value for cell in own.cells] == ["< 65", ">= 65"] and own.cells[0].n == sum(age < 65 for age in ages)


def test_stray_blanks_make_no_value_of_their_own() -> None:
    places = [("Riccione, Italy", " Riccione, Italy ", "Rimini")[i % 3] for i in range(N)]
    assert [cell.value for cell in _judge(places, column="location").cells] == ["Riccione, Italy", "Rimini"]


def test_several_classes_are_the_mean_over_those_with_rows_on_both_sides() -> None:
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 3, 300), rng.random((300, 3))
    site = ["a" if i % 2 else "b" for i in range(300)]
    y[np.array(site) == "a"] %= 2  # no third class there
    found = subgroups(y, p, list("xyz"), "multi-class", None, "site", site, n_boot=20)
    here = np.array(site) == "a"
    expected = np.mean([roc_auc_score(y[here] == k, p[here, k]) for k in (0, 1)])
    assert found.cells[0].auc is not None
    assert found.cells[0].auc.value == pytest.approx(expected, abs=1e-12)


def test_a_cell_of_one_class_has_no_auc_and_that_is_said() -> None:
    y, chance, groups, _ = rows()
    found = subgroups(y, chance, ["n", "y"], "binary", groups, "side", ["L" if v else "R" for v in y], n_boot=5)
    assert [cell.auc.value for cell in found.cells if cell.auc] == [None, None]
    assert found.notes == ["L: no AUC, a class has no rows there", "R: no AUC, a class has no rows there"]


def test_edges_of_text_or_that_do_not_rise_are_refused() -> None:
    *_, sex = rows()
    with pytest.raises(DataError, match="sex holds text and can't be cut at 40; expected a column of numbers"):
        _judge(sex, edges=[40])
    with pytest.raises(DataError, match="edges 60, 40 of age; expected numbers that rise; --subgroup age=40,60"):
        _judge([1.0] * N, column="age", edges=[60, 40])


def test_a_number_that_is_none_is_no_value() -> None:
    found = _judge([float("nan"), *[50.0] * (N - 1)], column="age")
    assert [(cell.value, cell.n) for cell in found.cells] == [("40 to < 60", N - 1)] and found.missing == 1


def test_bands_of_long_numbers_have_names_of_their_own() -> None:
    dates = [20200101.0 + i % 90 for i in range(N)]
    found = _judge(dates, column="StudyDate", edges=[20200110, 20200111.5, 20200130])
    assert [cell.value for cell in found.cells] == [
        "< 20200110",
        "20200110 to < 20200111.5",
        "20200111.5 to < 20200130",
        ">= 20200130",
    ]
    assert found.cells[1].n == sum(20200110 <= date < 20200111.5 for date in dates)
    assert sum(cell.n for cell in found.cells) == N


@pytest.mark.parametrize(
    ("options", "fact"), [({"edges": [float("nan")]}, "edges nan"), ({"min_cell": 0}, "min_cell=0")]
)
def test_an_edge_that_is_no_number_and_cells_of_none_are_refused(options: Any, fact: str) -> None:
    with pytest.raises(DataError, match=fact):
        _judge([1.0] * N, column="age", **options)
