"""Every family on a CUDA device: the vectors are those of the processor, and an ingest goes through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vecstore.encoders.base import Encoder
from vecstore.records import FloatArray, UInt8Array

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")


def _embed(encoder: Encoder, pictures: list[UInt8Array]) -> FloatArray:
    return encoder.encode([encoder.prepare(picture) for picture in pictures])


def _least_cosine(a: FloatArray, b: FloatArray) -> float:
    return float((a.astype(np.float64) * b).sum(axis=1).min())


def test_vectors_are_those_of_the_processor(case: Any, pictures: list[UInt8Array]) -> None:
    exact = _embed(case.open(compute="float32"), pictures)
    on_gpu = case.open(device="cuda", compute="float32")
    assert _least_cosine(_embed(on_gpu, pictures), exact) >= 0.9999
    fast = case.open(device="cuda")
    assert _least_cosine(_embed(fast, pictures), exact) >= 0.999
    assert fast.passport == on_gpu.passport  # one space, wherever it was computed


def test_a_vector_does_not_depend_on_its_neighbours(case: Any, pictures: list[UInt8Array]) -> None:
    encoder = case.open(device="cuda", compute="float32")
    prepared = [encoder.prepare(picture) for picture in pictures[:6]]
    together = encoder.encode(prepared)
    alone = np.concatenate([encoder.encode([one]) for one in prepared])
    many = encoder.encode(prepared * 40)[-len(prepared) :]
    assert _least_cosine(together, alone) >= 0.9999
    assert _least_cosine(together, many) >= 0.9999


def test_an_archive_is_embedded_on_the_device_and_says_so(tmp_path: Path, colour_archive: Path) -> None:
    import vecstore as vs

    on_gpu = vs.create(tmp_path / "gpu.vecs")
    assert vs.ingest(on_gpu, colour_archive, device="cuda").embedded > 0
    assert "on cuda:0" in str(on_gpu.log()[-1]["arguments"]["compute"])
    on_cpu = vs.create(tmp_path / "cpu.vecs")
    vs.ingest(on_cpu, colour_archive, device="cpu")
    vectors = [store.vectors(store.space(), store.embedded(store.space())) for store in (on_gpu, on_cpu)]
    assert _least_cosine(*vectors) >= 0.999
