"""A fitted probe for other programs: as an ONNX graph, or as plain weights with the three lines that apply them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.errors import DataError, PackageMissing
from vecstore.probes.calibration import Calibrator
from vecstore.records import DoubleArray

OPSET, IR = 17, 8
"""Of the graphs: what onnxruntime 1.13 and later read."""

INPUT, OUTPUT = "vectors", "probabilities"

_LINKS = {
    "sigmoid": "p = 1 / (1 + np.exp(-z)); p = np.hstack([1 - p, p])",
    "sigmoid per label": "p = 1 / (1 + np.exp(-z))",
    "softmax": "p = np.exp(z - z.max(axis=1, keepdims=True)); p /= p.sum(axis=1, keepdims=True)",
    "sigmoid, brought to sum 1": "p = 1 / (1 + np.exp(-z)); p /= p.sum(axis=1, keepdims=True)",
}
"""How margins become probabilities, and the line of NumPy that does it."""


def onnx_bytes(
    probe: Any, classes: Sequence[str], facts: Mapping[str, Any], calibrator: Calibrator | None = None
) -> bytes:
    """A linear probe or a network as an ONNX graph: `vectors` float32 (n, d) to `probabilities` float32 (n, n_classes).

    Parameters
    ----------
    probe : LogisticProbe, SVMProbe or MLPProbe
        Fitted.
    classes : sequence of str
        Names of the columns.
    facts : mapping
        Plain values that go into the graph's metadata, as JSON.
    calibrator : Calibrator, optional
        Becomes part of the last weights.

    Returns
    -------
    bytes

    Raises
    ------
    DataError
        A model that is no matrix product, or a calibration that weights can't hold.
    PackageMissing
        The library `onnx` is not installed.
    """
    link, layers = _link(probe), _layers(probe)
    slope, offset = _folded(calibrator, link)
    layers[-1] = (layers[-1][0] * slope, layers[-1][1] * slope + offset)
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ModuleNotFoundError as error:
        raise PackageMissing(
            "writing ONNX needs the package onnx, which is not installed", do="run: pip install 'vecstore[onnx]'"
        ) from error
    nodes, weights, at = [], [], INPUT
    for i, (matrix, bias) in enumerate(layers):
        last = i == len(layers) - 1
        weights += [
            numpy_helper.from_array(np.ascontiguousarray(matrix, np.float32), f"weights_{i}"),
            numpy_helper.from_array(np.asarray(bias, np.float32), f"bias_{i}"),
        ]
        nodes.append(helper.make_node("Gemm", [at, f"weights_{i}", f"bias_{i}"], ["margins" if last else f"sums_{i}"]))
        if not last:
            nodes.append(helper.make_node("Relu", [f"sums_{i}"], [f"units_{i}"]))
        at = f"units_{i}"
    if link == "softmax":
        nodes.append(helper.make_node("Softmax", ["margins"], [OUTPUT], axis=1))
    elif link == "sigmoid per label":
        nodes.append(helper.make_node("Sigmoid", ["margins"], [OUTPUT]))
    elif link == "sigmoid":
        nodes += [
            helper.make_node("Neg", ["margins"], ["negative"]),
            helper.make_node("Concat", ["negative", "margins"], ["both"], axis=1),
            helper.make_node("Sigmoid", ["both"], [OUTPUT]),
        ]
    else:
        weights.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
        nodes += [
            helper.make_node("Sigmoid", ["margins"], ["chances"]),
            helper.make_node("ReduceSum", ["chances", "axis"], ["total"], keepdims=1),
            helper.make_node("Div", ["chances", "total"], [OUTPUT]),
        ]
    graph = helper.make_graph(
        nodes,
        "vecstore_probe",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", layers[0][0].shape[0]])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n", len(classes)])],
        weights,
        doc_string=_ABOUT,
    )
    model = helper.make_model(
        graph, producer_name="vecstore", ir_version=IR, opset_imports=[helper.make_opsetid("", OPSET)]
    )
    helper.set_model_props(model, {"classes": json.dumps(list(classes)), "vecstore": json.dumps(dict(facts))})
    onnx.checker.check_model(model)
    written: bytes = model.SerializeToString()
    return written


_ABOUT = "Unit vectors of the space named in the metadata, as vecstore stores them, to a probability per class."


def weights_json(
    probe: Any, classes: Sequence[str], facts: Mapping[str, Any], calibrator: Calibrator | None = None
) -> bytes:
    """A linear probe as JSON; errors as `weights_npz`."""
    told = _weights(probe, classes, facts, calibrator)
    arrays = {name: value.tolist() for name, value in told.items() if isinstance(value, np.ndarray)}
    return (json.dumps(told | arrays, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def weights_npz(
    probe: Any, classes: Sequence[str], facts: Mapping[str, Any], calibrator: Calibrator | None = None
) -> bytes:
    """A linear probe as a NumPy archive: `coef` (1 or n_classes, d), `intercept`, `classes`, and `about` as JSON.

    Raises
    ------
    DataError
        A model that is not linear, or a calibration that weights can't hold.
    """
    told = _weights(probe, classes, facts, calibrator)
    arrays: dict[str, Any] = {name: value for name, value in told.items() if isinstance(value, np.ndarray)}
    about = {name: value for name, value in told.items() if name not in arrays}
    file = io.BytesIO()
    np.savez(file, **arrays, classes=np.array(list(classes)), about=np.array(json.dumps(about, ensure_ascii=False)))
    return file.getvalue()


def _weights(
    probe: Any, classes: Sequence[str], facts: Mapping[str, Any], calibrator: Calibrator | None
) -> dict[str, Any]:
    if not hasattr(probe, "coef_"):
        raise _refused(probe, "the linear models probe and svm")
    link = _link(probe)
    slope, offset = _folded(calibrator, link)
    return {
        "format": "vecstore weights 1",
        **facts,
        "classes": list(classes),
        "link": link,
        "input": (
            f"{probe.coef_.shape[1]} numbers: unit vectors as the space stores them (x /= |x| if yours are not); of"
            " several spaces side by side in the order named, of a level pooled as named"
        ),
        "apply": ["x = np.atleast_2d(vectors)", "z = x @ np.array(coef).T + np.array(intercept)", _LINKS[link]],
        "coef": np.asarray((probe.coef_.T * slope).T, np.float64),
        "intercept": np.asarray(probe.intercept_ * slope + offset, np.float64),
    }


def _folded(calibrator: Calibrator | None, link: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """What margins are multiplied by, and what is added, so that the link gives calibrated probabilities.

    A temperature divides margins, except where probabilities are brought to sum 1 after the link; slopes and offsets
    are of log-odds, which are the margins of one class or of labels.
    """
    if calibrator is None:
        return np.ones(1), np.zeros(1)
    if calibrator.method == "temperature" and link != "sigmoid, brought to sum 1":
        return np.array([1 / calibrator.parameters["temperature"]]), np.zeros(1)
    if calibrator.method == "platt" and link in ("sigmoid", "sigmoid per label"):
        return np.array(calibrator.parameters["slope"]), np.array(calibrator.parameters["offset"])
    raise DataError(
        f"a calibration by {calibrator.method} of this model can't be written as weights",
        expected="temperature (not of a svm with several classes), or platt of one class or of labels",
        do="train it with --calibrate temperature or none",
    )


def _link(probe: Any) -> str:
    if probe.kind_ == "binary":
        return "sigmoid"
    if probe.kind_ == "multi-label":
        return "sigmoid per label"
    softmax = hasattr(probe, "hidden_") or getattr(probe, "several", "") == "multinomial"
    return "softmax" if softmax else "sigmoid, brought to sum 1"


def _layers(probe: Any) -> list[tuple[DoubleArray, npt.NDArray[Any]]]:
    """Matrices (inputs, outputs) and biases, the first layer first."""
    if hasattr(probe, "coef_"):
        return [(probe.coef_.T, probe.intercept_)]
    if hasattr(probe, "hidden_"):
        networks, units, columns = probe.output_.shape
        # One network per label: side by side, each output sees its own units alone.
        last = np.zeros((networks * units, networks * columns))
        for i, output in enumerate(probe.output_):
            last[i * units : (i + 1) * units, i * columns : (i + 1) * columns] = output
        return [
            (np.hstack(list(probe.hidden_)), probe.hidden_bias_.ravel()),
            (last, probe.output_bias_.ravel()),
        ]
    raise _refused(probe, "probe, svm or mlp")


def _refused(probe: Any, allowed: str) -> DataError:
    return DataError(
        f"a {type(probe).__name__} can't be written so: its predictions are no matrix product",
        expected=allowed,
        do="train one: vecstore train STORE TASK --model probe",
    )
