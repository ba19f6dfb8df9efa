"""Probes as two files: arrays as safetensors, everything else as JSON. Nothing in them is executed on reading.

`model.json` holds ``format`` (1, or 2 with ``calibration``: see `Calibrator.to_dict`), ``model`` (a name of `MODELS`),
``params``, ``classes``, ``values``, the ``sha256`` of `model.safetensors`, and the caller's ``record``. The same probe
and record give the same bytes.
A saved kNN probe holds its parameters and whitening, no vectors: see `KNNProbe.attach`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save
from sklearn.utils.validation import check_is_fitted

from vecstore import probes
from vecstore.errors import DataError, StoreDamaged, StoreTooNew
from vecstore.files import canonical_json

if TYPE_CHECKING:
    from vecstore.probes import Probe
    from vecstore.probes.calibration import Calibrator
    from vecstore.probes.layout import Layout

PLAIN, FORMAT = 1, 2
"""Raised when a reader of the format before could not read a file, or would read it wrongly: a probe with a
calibrator is of format 2, one without is written as before."""

TENSORS, HEAD = "model.safetensors", "model.json"


def to_files(probe: Probe, record: Mapping[str, Any], calibrator: Calibrator | None = None) -> dict[str, bytes]:
    """A fitted probe as files.

    Parameters
    ----------
    probe : one of `MODELS`
        Fitted.
    record : mapping
        What the caller wants to keep with it; plain JSON values.
    calibrator : Calibrator, optional
        What its probabilities go through.

    Returns
    -------
    dict of file name to bytes
        ``model.safetensors`` and ``model.json``.

    Raises
    ------
    DataError
        Classes or parameters that JSON can't hold, or a probe of another class.
    sklearn.exceptions.NotFittedError
        The probe is not fitted.
    """
    name = next((name for name, kind in probes.CLASSES.items() if type(probe).__name__ == kind), None)
    if name is None or type(probe) is not probes.model_class(name):
        raise DataError(
            f"a {type(probe).__name__}", expected=f"one of {', '.join(probes.CLASSES)}", do="save it yourself"
        )
    check_is_fitted(probe, "folds_")
    arrays = {key: np.ascontiguousarray(getattr(probe, key)) for key in probe.layout.arrays}
    tensors = save(arrays)
    try:
        head = canonical_json(
            {
                "format": PLAIN if calibrator is None else FORMAT,
                "model": name,
                "params": {key: _to_json(value) for key, value in probe.get_params().items()},
                "classes": _classes_to_json(probe.classes_),
                "values": {key: _to_json(getattr(probe, key)) for key in sorted(probe.layout.values)},
                "sha256": hashlib.sha256(tensors).hexdigest(),
                "record": dict(record),
                **({} if calibrator is None else {"calibration": calibrator.to_dict()}),
            }
        )
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the record or a parameter can't be written as JSON: {error}", expected="plain values", do="convert them"
        ) from error
    return {TENSORS: tensors, HEAD: head.encode()}


def from_files(files: Mapping[str, bytes]) -> tuple[Probe, dict[str, Any]]:
    """A probe and its record from what `to_files` made.

    Parameters
    ----------
    files : mapping of file name to bytes

    Returns
    -------
    probe, record
        A kNN probe predicts after `attach`.

    Raises
    ------
    StoreTooNew
        Written in a later format.
    StoreDamaged
        A file is missing, the two do not belong together, or arrays are not of the shape the probe has.
    """
    missing = [name for name in (TENSORS, HEAD) if name not in files]
    if missing:
        raise _damaged(f"no {missing[0]}")
    head = _head(files[HEAD])
    if hashlib.sha256(files[TENSORS]).hexdigest() != head["sha256"]:
        raise _damaged(f"{TENSORS} is not the file that {HEAD} was written with")
    try:
        arrays = load(files[TENSORS])
        kind = getattr(probes, probes.CLASSES[head["model"]])
        probe = kind(**{key: _from_json(value) for key, value in head["params"].items()})
        classes, values = _classes_from_json(head["classes"]), head["values"]
        if set(values) != kind.layout.values:
            raise _damaged(f"{HEAD} lacks values of a {head['model']}")
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _damaged(f"{HEAD} or {TENSORS} can't be read: {error}") from error
    _check_arrays(arrays, head["model"], kind.layout, len(classes), values)
    probe.classes_ = classes
    for key, value in {**arrays, **values}.items():
        setattr(probe, key, value)
    fault = probe.fault() if hasattr(probe, "fault") else ""
    if fault:
        raise _damaged(fault)
    return probe, dict(head["record"])


def calibrator_of(files: Mapping[str, bytes]) -> Calibrator | None:
    """The calibrator that `to_files` was given; None where there was none.

    Raises
    ------
    StoreTooNew, StoreDamaged
    """
    from vecstore.probes.calibration import Calibrator

    if HEAD not in files:
        raise _damaged(f"no {HEAD}")
    head = _head(files[HEAD])
    if head["format"] == PLAIN:
        return None
    try:
        return Calibrator.from_dict(head["calibration"], len(head["classes"]["values"]))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(f"the calibration in {HEAD} can't be used: {error}") from error


def _head(data: bytes) -> dict[str, Any]:
    try:
        head = json.loads(data)
        version = head["format"]
        if isinstance(version, int) and version > FORMAT:
            raise StoreTooNew(
                f"a model of format {version}", expected=f"at most {FORMAT}", do="pip install --upgrade vecstore"
            )
        if version not in (PLAIN, FORMAT) or {"model", "params", "classes", "values", "sha256", "record"} - set(head):
            raise _damaged(f"{HEAD} lacks parts of format {PLAIN}")
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(f"{HEAD} can't be read: {error}") from error
    return dict(head)


def _check_arrays(
    arrays: Mapping[str, npt.NDArray[Any]], name: str, layout: Layout, n_classes: int, values: Mapping[str, Any]
) -> None:
    """Every array is there, of its type, and sizes of one name agree with each other and with the values."""
    if set(arrays) != set(layout.arrays):
        raise _damaged(f"{TENSORS} holds {sorted(arrays)}, a {name} has {sorted(layout.arrays)}")
    sizes = {"classes": n_classes, "outputs": 1 if values["kind_"] == "binary" else n_classes}
    sizes["features"] = values["n_features_in_"]
    for key, rule in layout.arrays.items():  # in this order, so that the same damage is told the same way
        wrong = rule.wrong(arrays[key], sizes)
        if wrong:
            raise _damaged(f"{key} {wrong}")


def _classes_to_json(classes: npt.NDArray[Any]) -> dict[str, Any]:
    values = classes.tolist()
    if classes.dtype.kind not in "biufUO" or not all(isinstance(value, bool | int | float | str) for value in values):
        raise DataError(f"classes of {classes.dtype}", expected="numbers or text", do="name the classes as text")
    return {"dtype": "str" if classes.dtype.kind == "U" else classes.dtype.name, "values": values}


def _classes_from_json(value: Mapping[str, Any]) -> npt.NDArray[Any]:
    if value["dtype"] not in ("str", "object", "bool") and np.dtype(value["dtype"]).kind not in "iuf":
        raise ValueError(f"classes of {value['dtype']}")
    return np.array(value["values"], dtype=value["dtype"])


def _to_json(value: Any) -> Any:
    """Plain JSON; mappings become pairs, because their keys may be numbers."""
    if isinstance(value, Mapping):
        return {"pairs": [[_to_json(key), _to_json(one)] for key, one in value.items()]}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return [_to_json(one) for one in value] if isinstance(value, list | tuple) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value["pairs"])
    return value


def _damaged(fact: str) -> StoreDamaged:
    return StoreDamaged(fact, expected="the two files that one training wrote", do="restore them, or train again")
