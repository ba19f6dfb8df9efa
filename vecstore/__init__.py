"""Embed an imaging archive once; then train probes and find similar cases without its pixels.

>>> import vecstore as vs
>>> store = vs.create("chest.vecs")                                # doctest: +SKIP
>>> vs.ingest(store, "archive/", encoder="bundled")                # doctest: +SKIP
>>> vs.label(store, "findings.csv", task="pneumonia", key="path", value="label")  # doctest: +SKIP
>>> probe = vs.train(store, "pneumonia", group="patient_id")       # doctest: +SKIP
>>> vs.search(store, "query.png", k=10).hits                       # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vecstore.audit import Audit as Audit
    from vecstore.audit import audit as audit
    from vecstore.clusters import Clusters as Clusters
    from vecstore.clusters import clusters as clusters
    from vecstore.compare import Comparison as Comparison
    from vecstore.compare import compare as compare
    from vecstore.curve import LearningCurve as LearningCurve
    from vecstore.curve import learning_curve as learning_curve
    from vecstore.dataset import Dataset as Dataset
    from vecstore.dataset import dataset as dataset
    from vecstore.embedding_map import EmbeddingMap as EmbeddingMap
    from vecstore.embedding_map import embedding_map as embedding_map
    from vecstore.encoders import open_encoder as open_encoder
    from vecstore.errors import VecstoreError as VecstoreError
    from vecstore.evaluate import evaluate as evaluate
    from vecstore.export import export as export
    from vecstore.export_model import export_model as export_model
    from vecstore.graph import NeighborGraph as NeighborGraph
    from vecstore.graph import neighbors as neighbors
    from vecstore.indexes import IndexInfo as IndexInfo
    from vecstore.indexes import index_build as index_build
    from vecstore.indexes import index_info as index_info
    from vecstore.indexes import index_update as index_update
    from vecstore.info import info as info
    from vecstore.ingest import IngestResult as IngestResult
    from vecstore.ingest import ingest as ingest
    from vecstore.label import label as label
    from vecstore.label_errors import LabelErrors as LabelErrors
    from vecstore.label_errors import label_errors as label_errors
    from vecstore.labelling import LabelResult as LabelResult
    from vecstore.predict import Prediction as Prediction
    from vecstore.predict import predict as predict
    from vecstore.reporting import Report as Report
    from vecstore.reporting import report as report
    from vecstore.search import SearchResult as SearchResult
    from vecstore.search import search as search
    from vecstore.search import search_many as search_many
    from vecstore.search_eval import SearchEvaluation as SearchEvaluation
    from vecstore.search_eval import search_eval as search_eval
    from vecstore.store.store import Store as Store
    from vecstore.train import train as train
    from vecstore.trained import Probe as Probe
    from vecstore.zeroshot import ZeroShot as ZeroShot
    from vecstore.zeroshot import zero_shot as zero_shot

    create = Store.create

    def open(path: Any, at: int | None = None) -> Store: ...


__version__ = "0.1.0"

_HOMES = {
    "Audit": "audit",
    "Clusters": "clusters",
    "Comparison": "compare",
    "Dataset": "dataset",
    "EmbeddingMap": "embedding_map",
    "IndexInfo": "indexes",
    "IngestResult": "ingest",
    "LabelErrors": "label_errors",
    "LabelResult": "labelling",
    "LearningCurve": "curve",
    "NeighborGraph": "graph",
    "Prediction": "predict",
    "Probe": "trained",
    "Report": "reporting",
    "SearchEvaluation": "search_eval",
    "SearchResult": "search",
    "Store": "store.store",
    "VecstoreError": "errors",
    "ZeroShot": "zeroshot",
    "audit": "audit",
    "clusters": "clusters",
    "compare": "compare",
    "create": "store.store",
    "dataset": "dataset",
    "embedding_map": "embedding_map",
    "evaluate": "evaluate",
    "export": "export",
    "export_model": "export_model",
    "index_build": "indexes",
    "index_info": "indexes",
    "index_update": "indexes",
    "info": "info",
    "ingest": "ingest",
    "label": "label",
    "label_errors": "label_errors",
    "learning_curve": "curve",
    "neighbors": "graph",
    "open": "store.store",
    "open_encoder": "encoders",
    "predict": "predict",
    "report": "reporting",
    "search": "search",
    "search_eval": "search_eval",
    "search_many": "search",
    "train": "train",
    "zero_shot": "zeroshot",
}
"""Where each public name lives. It is loaded when it is first used, so that `import vecstore` costs nothing."""

__all__ = [
    "Audit",
    "Clusters",
    "Comparison",
    "Dataset",
    "EmbeddingMap",
    "IndexInfo",
    "IngestResult",
    "LabelErrors",
    "LabelResult",
    "LearningCurve",
    "NeighborGraph",
    "Prediction",
    "Probe",
    "Report",
    "SearchEvaluation",
    "SearchResult",
    "Store",
    "VecstoreError",
    "ZeroShot",
    "audit",
    "clusters",
    "compare",
    "create",
    "dataset",
    "embedding_map",
    "evaluate",
    "export",
    "export_model",
    "index_build",
    "index_info",
    "index_update",
    "info",
    "ingest",
    "label",
    "label_errors",
    "learning_curve",
    "neighbors",
    "open",
    "open_encoder",
    "predict",
    "report",
    "search",
    "search_eval",
    "search_many",
    "train",
    "zero_shot",
]


class _Package(types.ModuleType):
    """The package itself: a verb is a function here although a module has its name.

    Importing `vecstore.train` binds the module to the package's attribute `train`; the function wins.
    """

    def __getattribute__(self, name: str) -> Any:
        homes = super().__getattribute__("__dict__").get("_HOMES", {})
        if name not in homes:
            return super().__getattribute__(name)
        module = importlib.import_module(f"vecstore.{homes[name]}")
        return getattr(module, {"create": "create_store", "open": "open_store"}.get(name, name))

    def __dir__(self) -> list[str]:
        return [*__all__, "__version__"]


sys.modules[__name__].__class__ = _Package
