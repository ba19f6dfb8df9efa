"""Probes for other programs: onnxruntime and plain NumPy get the probabilities that the probe gives."""

from __future__ import annotations

import builtins
import io
import json
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from vecstore.errors import DataError, PackageMissing
from vecstore.probes import KNNProbe, LogisticProbe, SVMProbe
from vecstore.probes.handed import IR, OPSET, onnx_bytes, weights_json, weights_npz

from .conftest import Cases, QuickForest, QuickMLP

FACTS = {"task": "pneumonia", "fingerprint": "ab12", "auc": 0.9}
LINEAR = [LogisticProbe, SVMProbe, lambda: LogisticProbe(several="one-vs-rest")]


def fitted(probe: Any, kind: str, cases: Cases) -> tuple[Any, Any, list[str]]:
    """A probe on unit vectors, as a store has them; those vectors as float32; names of its classes."""
    X, y, groups = cases(k=3)
    X = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
    labels: Any = {"binary": y % 2, "classes": y, "labels": np.stack([y == 0, y == 1], axis=1).astype(float)}[kind]
    if kind == "labels":
        labels[::7, 0] = np.nan
    names = {"binary": ["normal", "pneumonia"], "classes": ["a", "b", "ü"], "labels": ["a", "b"]}[kind]
    return probe().fit(X, labels, groups=groups), X, names


@pytest.mark.parametrize("probe", [*LINEAR, QuickMLP])
@pytest.mark.parametrize("kind", ["binary", "classes", "labels"])
def test_onnxruntime_gives_the_same_probabilities(probe: Any, kind: str, cases: Cases) -> None:
    fit, X, names = fitted(probe, kind, cases)
    written = onnx_bytes(fit, names, FACTS)
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    (found,) = session.run(["probabilities"], {"vectors": X})
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, fit.predict_proba(X), atol=2e-6)
    assert session.run(None, {"vectors": X[:1]})[0].shape == (1, len(names))
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == names and json.loads(about["vecstore"]) == FACTS


def test_a_linear_probe_is_one_gemm_and_a_link(cases: Cases) -> None:
    for kind, operators in (
        ("binary", ["Gemm", "Neg", "Concat", "Sigmoid"]),
        ("classes", ["Gemm", "Softmax"]),
        ("labels", ["Gemm", "Sigmoid"]),
    ):
        fit, _, names = fitted(LogisticProbe, kind, cases)
        model = onnx.load_from_string(onnx_bytes(fit, names, FACTS))
        assert [node.op_type for node in model.graph.node] == operators
        assert (model.ir_version, [(one.domain, one.version) for one in model.opset_import]) == (IR, [("", OPSET)])


def test_large_weights_of_small_spreads_stay_exact_enough(cases: Cases) -> None:
    X, y, groups = cases()
    X = (5 + 0.01 * X).astype(np.float32)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    fit = LogisticProbe().fit(X, y, groups=groups)
    assert np.abs(fit.coef_).max() > 100
    session = onnxruntime.InferenceSession(onnx_bytes(fit, ["a", "b"], {}), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"vectors": X})[0], fit.predict_proba(X), atol=1e-3)


@pytest.mark.parametrize("probe", LINEAR)
@pytest.mark.parametrize("kind", ["binary", "classes", "labels"])
def test_the_lines_that_come_with_the_weights_apply_them(probe: Any, kind: str, cases: Cases) -> None:
    fit, X, names = fitted(probe, kind, cases)
    told = json.loads(weights_json(fit, names, FACTS))
    assert {"task", "fingerprint", "auc", "classes", "link", "input", "apply", "coef", "intercept"} <= told.keys()
    assert told["classes"] == names and len(told["apply"]) == 3
    with np.load(io.BytesIO(weights_npz(fit, names, FACTS)), allow_pickle=False) as arrays:
        about = json.loads(str(arrays["about"]))
        assert arrays["classes"].tolist() == names
        assert about == {name: value for name, value in told.items() if name not in ("coef", "intercept")}
        for coef, intercept in ((told["coef"], told["intercept"]), (arrays["coef"], arrays["intercept"])):
            place: dict[str, Any] = {"np": np, "vectors": X, "coef": coef, "intercept": intercept}
            exec("\n".join(about["apply"]), place)
            np.testing.assert_allclose(place["p"], fit.predict_proba(X), atol=1e-12)


def test_what_is_no_matrix_product_is_refused(cases: Cases) -> None:
    for probe in (KNNProbe, QuickForest):
        fit, _, names = fitted(probe, "binary", cases)
        with pytest.raises(
            DataError, match=r"no matrix product; expected probe, svm or mlp; train one: vecstore train"
        ):
            onnx_bytes(fit, names, FACTS)
    fit, _, names = fitted(QuickMLP, "binary", cases)
    for write in (weights_json, weights_npz):
        with pytest.raises(
            DataError, match=r"a MLPProbe can't be written so.* expected the linear models probe and svm"
        ):
            write(fit, names, FACTS)


def test_a_missing_library_is_named(cases: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    fit, _, names = fitted(LogisticProbe, "binary", cases)
    real = builtins.__import__

    def absent(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "onnx":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(PackageMissing, match=r"needs the package onnx, which is not installed; run: pip install"):
        onnx_bytes(fit, names, FACTS)
