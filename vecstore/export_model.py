"""`export_model`: a trained classifier for programs that have no vecstore."""

from __future__ import annotations

import os
from typing import Any

from vecstore.errors import UsageError
from vecstore.files import output_file, write_file
from vecstore.probes import handed
from vecstore.store import Store, using
from vecstore.trained import load

WRITERS = {".onnx": handed.onnx_bytes, ".npz": handed.weights_npz, ".json": handed.weights_json}
"""Formats by the ending of the file's name."""


def export_model(
    store: Store | str | os.PathLike[str], task: str, path: str | os.PathLike[str], *, model: int | None = None
) -> dict[str, Any]:
    """Write the newest model of a task, or one by its id, to a file.

    Parameters
    ----------
    store : Store or path
    task : str
    path : path
        Ending in `.onnx` (a graph from `vectors`, float32, to `probabilities`; models probe, svm and mlp), `.npz`
        (arrays `coef`, `intercept` and `classes`, and `about`, JSON) or `.json` (the same as one text; models probe
        and svm). In all of them: classes, space, fingerprint, and how it is applied.
    model : int, optional

    Returns
    -------
    dict
        "path", "format", "task", "model", "model_id", "classes", "dim", "space", "fingerprint", "bytes".

    Raises
    ------
    UsageError
        Another ending, or no folder to write to.
    DataError
        A model, or a calibration, that this format can't hold.
    PackageMissing
        ONNX without the package `onnx`.
    NotFound, StoreDamaged, DiskFull, NotWritable
    """
    target = output_file(path)
    writer = WRITERS.get(target.suffix.lower())
    if writer is None:
        raise UsageError(
            f"{target}: unknown format", expected=f"a name ending in {', '.join(WRITERS)}", do="rename the output"
        )
    with using(store) as at_hand:
        probe = load(at_hand, task, model)
        record = probe.record
        model_id = None if probe.model is None else probe.model.id
        facts: dict[str, Any] = {
            "task": record.task,
            "kind": record.kind,
            "model": record.model,
            "model_id": model_id,
            "space": record.space,
            "encoder": record.encoder,
            "fingerprint": record.fingerprint,
            "commit": record.commit,
            "auc": record.auc,
            "part": record.part,
        }
        # What else decides which vectors it takes: rows of several spaces side by side, or of pooled pictures.
        facts |= {name: told for name in ("spaces", "level", "pool") if (told := getattr(record, name, None))}
        if record.calibration is not None:
            facts["calibration"] = record.calibration
        data = writer(probe.estimator, record.classes, facts, probe.calibrator)
        write_file(target, data)
        return {
            "path": str(target),
            "format": target.suffix.lower().removeprefix("."),
            "task": record.task,
            "model": record.model,
            "model_id": model_id,
            "classes": record.classes,
            "dim": int(probe.estimator.n_features_in_),
            "space": record.space,
            "fingerprint": record.fingerprint,
            "bytes": len(data),
        }
