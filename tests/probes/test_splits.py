"""Groups are never divided, classes are in every fold, and what is impossible is said."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vecstore.errors import DataError
from vecstore.probes import grouped_folds, merge_groups
from vecstore.probes.splits import identical_rows, numbered


def divided(folds: np.ndarray, groups: np.ndarray) -> int:
    return sum(len(np.unique(folds[groups == group])) > 1 for group in np.unique(groups))


def test_groups_that_share_a_content_through_a_chain_become_one() -> None:
    merged = merge_groups(["p1", "p2", "p3", "p4", "p2", "p3"], [10, 20, 30, 40, 10, 20])
    assert merged.tolist() == [0, 0, 0, 1, 0, 0]


def test_merging_agrees_with_plain_union_find() -> None:
    rng = np.random.default_rng(0)
    groups, contents = rng.integers(0, 300, 500), rng.integers(0, 400, 500)
    parent = {("g", g): ("g", g) for g in groups.tolist()} | {("c", c): ("c", c) for c in contents.tolist()}

    def root(x: tuple[str, int]) -> tuple[str, int]:
        return x if parent[x] == x else root(parent[x])

    for g, c in zip(groups.tolist(), contents.tolist(), strict=True):
        parent[root(("g", g))] = root(("c", c))
    roots = [root(("g", g)) for g in groups.tolist()]
    merged = merge_groups(groups, contents)
    expected = merge_groups([f"{kind}{number}" for kind, number in roots])
    assert merged.tolist() == expected.tolist()


def test_merging_refuses_arrays_of_two_lengths() -> None:
    with pytest.raises(DataError, match="2 groups and 3 contents"):
        merge_groups([1, 2], [1, 2, 3])


def test_a_million_rows_merge_so_that_neither_groups_nor_contents_are_divided() -> None:
    rng = np.random.default_rng(0)
    groups, contents = rng.integers(0, 2 * 10**6, 10**6), rng.integers(0, 2 * 10**6, 10**6)
    merged = merge_groups(groups, contents)
    for values in (groups, contents):
        order = np.argsort(values, kind="stable")
        same = values[order][1:] == values[order][:-1]
        assert (merged[order][1:] == merged[order][:-1])[same].all()
    assert len(np.unique(merged)) > 1000


def test_equal_rows_have_equal_numbers_that_follow_a_permutation() -> None:
    rng = np.random.default_rng(0)
    X = rng.integers(0, 2, (200, 4)).astype(np.float32)
    X[0, 0] = -0.0
    numbers = identical_rows(X)
    expected = np.unique(X + 0.0, axis=0, return_inverse=True)[1]
    assert (numbers[:, None] == numbers).tolist() == (expected[:, None] == expected).tolist()
    order = rng.permutation(200)
    assert identical_rows(X[order]).tolist() == numbers[order].tolist()


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_divided_and_classes_are_balanced(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 200, 600)
    y = rng.choice(3, 600, p=[0.7, 0.25, 0.05])
    folds = grouped_folds(y, groups, 5, seed)
    assert divided(folds, groups) == 0
    assert np.unique(folds).tolist() == [0, 1, 2, 3, 4]
    share = np.array([[np.mean(folds[y == k] == f) for k in range(3)] for f in range(5)])
    assert np.abs(share[:, :2] - 0.2).max() < 0.03
    assert np.abs(share[:, 2] - 0.2).max() < 0.12


def test_the_same_seed_gives_the_same_folds_and_another_seed_others() -> None:
    y, groups = np.arange(100) % 2, np.arange(100)
    assert grouped_folds(y, groups, 5, 1).tolist() == grouped_folds(y, groups, 5, 1).tolist()
    assert grouped_folds(y, groups, 5, 1).tolist() != grouped_folds(y, groups, 5, 2).tolist()


def test_fewer_folds_where_the_rarest_class_has_fewer_groups() -> None:
    y = np.array([0] * 20 + [1] * 6)
    groups = np.r_[np.arange(20), [50, 50, 51, 51, 52, 52]]
    folds = grouped_folds(y, groups, 5)
    assert folds.max() == 2
    assert all((y[folds == f] == 1).sum() == 2 for f in range(3))


def test_a_class_in_one_group_is_named_with_its_number_of_groups() -> None:
    with pytest.raises(DataError, match=r"class mel is in 1 groups \(groups per class: nv: 3, mel: 1\)"):
        grouped_folds([0, 0, 0, 1, 1], [1, 2, 3, 4, 4], names=["nv", "mel"])


def test_a_class_that_no_row_has_is_named() -> None:
    with pytest.raises(DataError, match="class c is in 0 groups"):
        grouped_folds([0, 1, 0, 1], [1, 2, 3, 4], names=["a", "b", "c"])


def test_one_fold_is_refused() -> None:
    with pytest.raises(DataError, match="1 folds; expected at least 2"):
        grouped_folds([0, 1], [0, 1], n_folds=1)


def test_each_label_has_both_sides_in_each_fold_and_a_rare_one_does_not_lower_their_number() -> None:
    rng = np.random.default_rng(0)
    y = (rng.random((300, 4)) < [0.5, 0.2, 0.1, 0.0]).astype(float)
    y[[7, 9], 3] = 1
    y[rng.random((300, 4)) < 0.1] = np.nan
    groups = rng.integers(0, 150, 300)
    folds = grouped_folds(y, groups, 5)
    assert divided(folds, groups) == 0
    assert folds.max() == 4
    for f in range(5):
        for label in range(3):
            assert {0.0, 1.0} <= set(y[folds == f, label])


def test_a_hundred_thousand_rows_in_fifty_thousand_groups_make_even_folds() -> None:
    rng = np.random.default_rng(0)
    y, groups = rng.integers(0, 5, 100_000), rng.integers(0, 50_000, 100_000)
    folds = grouped_folds(y, groups)
    assert np.ptp(np.bincount(folds)) < 100


@pytest.mark.parametrize("kind", ["float", "object", "mixed", "pandas"])
def test_every_missing_group_is_its_own(kind: str) -> None:
    names = [None if i % 3 == 0 else i // 2 for i in range(60)]
    values: object
    if kind == "float":
        values = np.array([np.nan if name is None else name for name in names])
    elif kind == "pandas":
        values = pd.Series(names, dtype="Int64")
    elif kind == "object":
        values = np.array([None if name is None else str(name) for name in names], object)
    else:
        values = np.array([name if i % 2 else None if name is None else str(name) for i, name in enumerate(names)])
    codes = numbered(values)
    missing = np.array([name is None for name in names])
    assert len(set(codes[missing])) == missing.sum() and not set(codes[missing]) & set(codes[~missing])
    assert sorted(set(codes)) == list(range(len(set(codes))))
    if kind != "mixed":
        assert len(set(codes[~missing])) == len({name for name in names if name is not None})
    y = np.arange(60) % 2
    folds = grouped_folds(y, values, 3)
    assert np.bincount(folds).max() <= 22  # those without a group are not in one fold
