"""Classifiers over embedding vectors, their folds and their figures: arrays in, scikit-learn estimators out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vecstore.errors import NotFound

if TYPE_CHECKING:
    from vecstore.probes.forest import ForestProbe
    from vecstore.probes.knn import KNNProbe, leave_one_group_out
    from vecstore.probes.logistic import LogisticProbe
    from vecstore.probes.metrics import Scores, evaluate
    from vecstore.probes.mlp import MLPProbe
    from vecstore.probes.saved import from_files, to_files
    from vecstore.probes.splits import grouped_folds, merge_groups
    from vecstore.probes.svm import SVMProbe

    Probe = LogisticProbe | SVMProbe | KNNProbe | MLPProbe | ForestProbe
    MODELS: dict[str, type[Probe]]

__all__ = [
    "CLASSES",
    "MODELS",
    "ForestProbe",
    "KNNProbe",
    "LogisticProbe",
    "MLPProbe",
    "SVMProbe",
    "Scores",
    "evaluate",
    "from_files",
    "grouped_folds",
    "leave_one_group_out",
    "make",
    "merge_groups",
    "model_class",
    "to_files",
]

_HOMES = {
    "ForestProbe": "forest",
    "KNNProbe": "knn",
    "LogisticProbe": "logistic",
    "MLPProbe": "mlp",
    "SVMProbe": "svm",
    "Scores": "metrics",
    "evaluate": "metrics",
    "from_files": "saved",
    "grouped_folds": "splits",
    "leave_one_group_out": "knn",
    "merge_groups": "splits",
    "to_files": "saved",
}
CLASSES = {
    "probe": "LogisticProbe",
    "svm": "SVMProbe",
    "knn": "KNNProbe",
    "mlp": "MLPProbe",
    "forest": "ForestProbe",
}
"""Names of models as users know them, and their classes; known without loading any of them."""


def make(name: str, **params: Any) -> Probe:
    """A new probe by the name users know.

    Parameters
    ----------
    name : {"probe", "svm", "knn", "mlp", "forest"}
        Logistic regression, linear SVM, nearest neighbours, a network with one hidden layer, or a random forest.
    **params
        Of the class.

    Raises
    ------
    NotFound
        Another name.
    """
    return model_class(name)(**params)


def model_class(name: str) -> type[Probe]:
    """The class of a model by the name users know.

    Raises
    ------
    NotFound
        Another name.
    """
    if name not in CLASSES:
        raise NotFound(f"no model {name!r}", expected=f"one of: {', '.join(CLASSES)}", do="pass model='probe'")
    kind: type[Probe] = __getattr__(CLASSES[name])
    return kind


def __getattr__(name: str) -> Any:
    if name == "MODELS":
        return {model: __getattr__(kind) for model, kind in CLASSES.items()}
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
