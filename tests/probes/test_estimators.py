"""What scikit-learn asks of any estimator, and what all probes share."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import vecstore.probes as probes
from vecstore.errors import DataError, NotFound
from vecstore.probes import ForestProbe, KNNProbe, LogisticProbe, MLPProbe, SVMProbe
from vecstore.probes.linear import LinearProbe

from .conftest import Cases, QuickForest, QuickMLP

ALL = [LogisticProbe, SVMProbe, KNNProbe, QuickMLP, QuickForest]
LINEAR = [LogisticProbe, SVMProbe]


def expected_failures(estimator: BaseEstimator) -> dict[str, str]:
    if not isinstance(estimator, LinearProbe):
        return {}
    reason = (
        "its data has a class in one distinct row, and a strength can't be chosen without two; "
        "test_weights_count_as_repetition checks the same on data with enough rows"
    )
    return {"check_sample_weight_equivalence_on_dense_data": reason}


@pytest.mark.filterwarnings("ignore:.*SCIPY_ARRAY_API.*")
@parametrize_with_checks(  # type: ignore[untyped-decorator]
    [LogisticProbe(), SVMProbe(), KNNProbe(), QuickMLP(folds=2), QuickForest(folds=2)],
    expected_failed_checks=expected_failures,
)
def test_scikit_learn_contract(estimator: BaseEstimator, check: Any) -> None:
    check(estimator)


@pytest.mark.parametrize("probe", LINEAR)
def test_weights_count_as_repetition(probe: Any, cases: Cases) -> None:
    X, y, _ = cases(60, 5, 3)
    weight = np.random.default_rng(1).integers(0, 4, 60)
    weighted = probe().fit(X, y, sample_weight=weight)
    order = np.random.default_rng(2).permutation(weight.sum())
    repeated = probe().fit(np.repeat(X, weight, axis=0)[order], np.repeat(y, weight)[order])
    assert weighted.C_ == repeated.C_
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-6)


@pytest.mark.parametrize("probe", LINEAR)
def test_rows_without_weight_are_in_no_fold_and_have_no_prediction(probe: Any, cases: Cases) -> None:
    X, y, groups = cases()
    weight = np.ones(200)
    weight[:10] = 0
    fit = probe().fit(X, y, sample_weight=weight, groups=groups)
    assert (fit.folds_[:10] == -1).all() and (fit.folds_[10:] >= 0).all()
    assert np.isnan(fit.oof_[:10]).all() and np.isfinite(fit.oof_[10:]).all()


@pytest.mark.parametrize("probe", ALL)
@pytest.mark.parametrize("k", [2, 3])
def test_folds_keep_groups_whole_and_out_of_fold_rows_are_probabilities(probe: Any, k: int, cases: Cases) -> None:
    X, y, groups = cases(k=k)
    fit = probe().fit(X, y, groups=groups)
    assert all(len(np.unique(fit.folds_[groups == g])) == 1 for g in np.unique(groups))
    assert fit.oof_.shape == (200, k)
    np.testing.assert_allclose(fit.oof_.sum(axis=1), 1)
    assert 0.7 < np.nanmax(fit.cv_auc_) < 1
    assert fit.classes_.tolist() == list(range(k))


@pytest.mark.parametrize("probe", ALL)
def test_text_classes_come_back(probe: Any, cases: Cases) -> None:
    X, y, _ = cases(k=3)
    names = np.array(["nv", "bkl", "mel"])[y]
    fit = probe().fit(X, names)
    assert fit.classes_.tolist() == ["bkl", "mel", "nv"]
    assert (fit.predict(X) == names).mean() > 0.7


@pytest.mark.parametrize("probe", ALL)
def test_equal_vectors_are_never_on_both_sides(probe: Any, cases: Cases) -> None:
    X, y, _ = cases(60)
    fit = probe().fit(np.repeat(X, 2, axis=0), np.repeat(y, 2))
    assert (fit.folds_[::2] == fit.folds_[1::2]).all()


@pytest.mark.parametrize("probe", ALL)
def test_several_labels_with_unknown_ones(probe: Any) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 8))
    y = (X[:, :3] + 0.5 * rng.normal(size=(300, 3)) > [0, 0.5, 1]).astype(float)
    truth = y.copy()
    y[rng.random((300, 3)) < 0.3] = np.nan
    fit = probe().fit(X[:200], y[:200])
    assert fit.kind_ == "multi-label"
    chances = fit.predict_proba(X[200:])
    assert chances.shape == (100, 3) and fit.oof_.shape == (200, 3)
    assert ((chances > 0.5) == truth[200:]).mean() > 0.75
    assert (fit.predict(X[200:]) == (chances > 0.5)).all()


@pytest.mark.parametrize("probe", ALL)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda X, y, g: (X, y * 0, g), r"only one class \(0\); expected rows of at least 2 classes"),
        (lambda X, y, g: (np.where(np.isclose(X, X[3, 1]), np.nan, X), y, g), "contains NaN"),
        (lambda X, y, g: (np.where(np.isclose(X, X[3, 1]), np.inf, X), y, g), "contains infinity"),
        (lambda X, y, g: (X[:0], y[:0], g[:0]), r"0 sample\(s\)"),
        (lambda X, y, g: (X, y[:-1], g), "inconsistent numbers of samples"),
        (lambda X, y, g: (X, y, g[:-1]), r"200 vectors and groups of shape \(199,\)"),
        (lambda X, y, g: (X, y, y), "class 0 is in 1 groups"),
        (lambda X, y, g: (X, np.stack([y, y * 0], axis=1), g), "label 1 has no positive row"),
        (lambda X, y, g: (X, np.stack([y, y * 2], axis=1), g), "values beside 0, 1 and NaN"),
    ],
)
def test_what_nothing_can_be_learned_from_is_said(probe: Any, spoil: Any, message: str, cases: Cases) -> None:
    X, y, groups = spoil(*cases())
    with pytest.raises(DataError, match=message):
        probe().fit(X, y, groups=groups)


@pytest.mark.parametrize("probe", ALL)
def test_vectors_of_another_width_are_refused(probe: Any, cases: Cases) -> None:
    X, y, _ = cases()
    with pytest.raises(DataError, match=r"X has 5 features, but .* is expecting 12"):
        probe().fit(X, y).predict(X[:, :5])


@pytest.mark.parametrize("probe", ALL)
def test_constant_vectors_predict_the_prior(probe: Any) -> None:
    y = np.r_[np.zeros(30), np.ones(10)]
    fit = probe().fit(np.ones((40, 3)), y, groups=np.arange(40))
    chances = fit.predict_proba(np.ones((2, 3)))
    np.testing.assert_allclose(chances, [[0.75, 0.25]] * 2, atol=0.1)


@pytest.mark.parametrize("probe", ALL)
def test_probes_work_in_scikit_learn(probe: Any, cases: Cases) -> None:
    X, y, _ = cases()
    scores = cross_val_score(make_pipeline(StandardScaler(), probe()), X, y, cv=3, scoring="roc_auc")
    assert scores.min() > 0.8


def test_models_are_made_by_name() -> None:
    models = probes.MODELS
    assert models == {
        "probe": LogisticProbe,
        "svm": SVMProbe,
        "knn": KNNProbe,
        "mlp": MLPProbe,
        "forest": ForestProbe,
    }
    assert isinstance(probes.make("svm", seed=3), SVMProbe)
    with pytest.raises(NotFound, match="no model 'boosting'; expected one of: probe, svm, knn, mlp, forest"):
        probes.make("boosting")
    with pytest.raises(AttributeError, match="no attribute 'boosting'"):
        getattr(probes, "boosting")  # noqa: B009


def test_every_public_name_is_there() -> None:
    assert all(hasattr(probes, name) for name in probes.__all__)


def test_labels_that_are_missing_or_can_not_be_ordered_are_said() -> None:
    X = np.random.default_rng(0).normal(size=(30, 4))
    y = np.where(X[:, 0] > 0, "a", "b").astype(object)
    y[:3] = None
    with pytest.raises(DataError, match="3 of 30 labels are missing; expected a label per row"):
        LogisticProbe(folds=3).fit(X, y)
    y[:3] = 1
    with pytest.raises(DataError, match="labels of the types int, str; expected numbers or texts"):
        LogisticProbe(folds=3).fit(X, y)


@pytest.mark.parametrize("weight", [-1, 0, float("nan"), "a"])
@pytest.mark.parametrize("kind", [LogisticProbe, SVMProbe])
def test_a_class_weight_is_a_positive_number(kind: type[LinearProbe], weight: Any) -> None:
    X = np.random.default_rng(0).normal(size=(30, 4))
    with pytest.raises(DataError, match=r"class_weight of False is .*; expected a positive number"):
        kind(folds=3, class_weight={False: weight}).fit(X, X[:, 0] > 0)


def test_float16_keeps_what_float32_keeps() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(200, 8))
    y = noise[:, 0] + 0.5 * rng.normal(size=200) > 0
    X = (1 + 0.007 * noise).astype(np.float16)
    half, single = (LogisticProbe(folds=3).fit(X.astype(kind), y) for kind in (np.float16, np.float32))
    assert half.cv_auc_.max() > 0.9
    np.testing.assert_allclose(half.cv_auc_, single.cv_auc_, atol=1e-3)


def test_a_label_known_in_one_fold_only_is_calibrated() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 8))
    Y = (X[:, :3] + rng.normal(size=(200, 3)) > 0).astype(float)
    Y[:, 2] = np.nan
    Y[:10, 2] = [0, 1] * 5
    probe = SVMProbe(nested=True).fit(X, Y, groups=np.arange(200) // 10)
    assert np.isfinite(probe.predict_proba(X)).all()


def test_the_network_sees_its_rows_in_another_order_in_each_pass() -> None:
    from sklearn.neural_network import MLPClassifier

    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    y = X[:, 0] > 0
    probe = QuickMLP(alphas=[0.01], epochs=[6], batch_size=8, folds=3).fit(X, y, groups=np.arange(60))
    # A run of scikit-learn's own, over the same standardised features.
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    theirs = MLPClassifier(
        (probe.hidden,), alpha=0.01, batch_size=8, learning_rate_init=probe.rate, random_state=np.random.RandomState(0)
    )
    for _ in range(6):
        theirs.partial_fit(Z, y.astype(int), classes=[0, 1])
    np.testing.assert_allclose(probe.predict_proba(X), theirs.predict_proba(Z), atol=1e-9)
    fixed = MLPClassifier((probe.hidden,), alpha=0.01, batch_size=8, learning_rate_init=probe.rate, random_state=0)
    for _ in range(6):
        fixed.partial_fit(Z, y.astype(int), classes=[0, 1])
    assert np.abs(fixed.predict_proba(Z) - theirs.predict_proba(Z)).max() > 1e-6


def test_more_neighbours_than_there_are_are_refused() -> None:
    X = np.random.default_rng(0).normal(size=(60, 4))
    groups = np.r_[np.zeros(40), np.arange(1, 21)]
    with pytest.raises(DataError, match=r"k=50: rows of the largest group or fold have only \d+ others"):
        KNNProbe(k=50).fit(X, X[:, 0] > 0, groups=groups)


def test_a_probe_whose_fit_failed_is_not_fitted() -> None:
    X = np.random.default_rng(0).normal(size=(30, 4))
    probe = LogisticProbe(class_weight={False: -1})
    with pytest.raises(DataError):
        probe.fit(X, X[:, 0] > 0)
    with pytest.raises(NotFittedError):
        probe.predict(X)
