"""Classifiers over embedding vectors, their folds and their figures: arrays in, scikit-learn estimators out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vecstore.errors import NotFound

if TYPE_CHECKING:
    from vecstore.probes.knn import KNNProbe
    from vecstore.probes.logistic import LogisticProbe
    from vecstore.probes.metrics import Scores, evaluate
    from vecstore.probes.saved import from_files, to_files
    from vecstore.probes.splits import grouped_folds, merge_groups
    from vecstore.probes.svm import SVMProbe

    Probe = LogisticProbe | SVMProbe | KNNProbe
    MODELS: dict[str, type[Probe]]

__all__ = [
    "MODELS",
    "KNNProbe",
    "LogisticProbe",
    "SVMProbe",
    "Scores",
    "evaluate",
    "from_files",
    "grouped_folds",
    "make",
    "merge_groups",
    "to_files",
]

_HOMES = {
    "KNNProbe": "knn",
    "LogisticProbe": "logistic",
    "SVMProbe": "svm",
    "Scores": "metrics",
    "evaluate": "metrics",
    "from_files": "saved",
    "grouped_folds": "splits",
    "merge_groups": "splits",
    "to_files": "saved",
}
_CLASSES = {"probe": "LogisticProbe", "svm": "SVMProbe", "knn": "KNNProbe"}


def make(name: str, **params: Any) -> Probe:
    """A new probe by the name users know.

    Parameters
    ----------
    name : {"probe", "svm", "knn"}
        Logistic regression, linear SVM, or nearest neighbours.
    **params
        Of the class.

    Raises
    ------
    NotFound
        Another name.
    """
    if name not in _CLASSES:
        raise NotFound(f"no model {name!r}", expected=f"one of: {', '.join(_CLASSES)}", do="pass model='probe'")
    probe: Probe = getattr(import_module(__name__), _CLASSES[name])(**params)
    return probe


def __getattr__(name: str) -> Any:
    if name == "MODELS":
        return {model: __getattr__(kind) for model, kind in _CLASSES.items()}
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
