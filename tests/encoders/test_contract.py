"""What every family must do, run by each of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vecstore.encoders import list_encoders, open_encoder
from vecstore.encoders.base import Encoder
from vecstore.encoders.placement import place
from vecstore.errors import EncoderError
from vecstore.records import FloatArray, Passport, UInt8Array

Opened = Callable[..., Encoder]


def cosines(a: FloatArray, b: FloatArray) -> FloatArray:
    found: FloatArray = np.einsum("ij,ij->i", a.astype(np.float64), b.astype(np.float64)).astype(np.float32)
    return found


def embed(encoder: Encoder, pictures: list[UInt8Array]) -> FloatArray:
    return encoder.encode([encoder.prepare(picture) for picture in pictures])


def test_every_family_is_covered(cases: dict[str, Any]) -> None:
    assert {family.name for family in list_encoders()} == {name.partition(" ")[0] for name in cases}


def test_vectors_have_the_passports_length_and_unit_norm(case: Any, opened: Opened, pictures: list[UInt8Array]) -> None:
    encoder = opened(case)
    vectors = embed(encoder, pictures)
    assert vectors.shape == (len(pictures), case.dim) == (len(pictures), encoder.passport.dim)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_no_pictures_give_no_vectors(case: Any, opened: Opened) -> None:
    assert opened(case).encode([]).shape == (0, case.dim)


def test_prepared_pictures_have_the_size_that_the_passport_names(
    case: Any, opened: Opened, pictures: list[UInt8Array]
) -> None:
    encoder = opened(case)
    prepared = encoder.prepare(pictures[0])
    assert prepared.dtype == np.uint8
    assert prepared.shape == (*encoder.passport.input_size, 3)


def test_a_vector_does_not_depend_on_order_neighbours_or_batch_size(
    case: Any, opened: Opened, pictures: list[UInt8Array]
) -> None:
    encoder = opened(case, compute="float32")
    prepared = [encoder.prepare(picture) for picture in pictures[:6]]
    together = encoder.encode(prepared)
    alone = np.concatenate([encoder.encode([one]) for one in prepared])
    backwards = encoder.encode(prepared[::-1])[::-1]
    many = encoder.encode(prepared * 6)
    assert cosines(together, alone).min() >= 0.9999
    assert cosines(together, backwards).min() >= 0.9999
    for start in range(0, len(many), len(prepared)):
        assert cosines(together, many[start : start + len(prepared)]).min() >= 0.9999


def test_different_pictures_have_different_vectors(case: Any, opened: Opened, pictures: list[UInt8Array]) -> None:
    vectors = embed(opened(case), pictures[:4])
    assert (vectors @ vectors.T)[np.triu_indices(4, 1)].max() < 0.9999


def test_a_second_instance_gives_the_same_vectors_and_fingerprint(
    case: Any, opened: Opened, pictures: list[UInt8Array]
) -> None:
    first, second = opened(case), case.open()
    assert first.passport == second.passport
    assert first.passport.fingerprint == second.passport.fingerprint
    np.testing.assert_allclose(embed(first, pictures[:4]), embed(second, pictures[:4]), atol=1e-5)


def test_other_weights_are_another_fingerprint(case: Any, opened: Opened) -> None:
    if not case.other:
        pytest.skip("this family has one set of weights")
    first, other = opened(case), case.open(**case.other)
    assert first.passport.fingerprint != other.passport.fingerprint
    differing = {key for key, value in asdict(first.passport).items() if value != asdict(other.passport)[key]}
    assert differing == {"weights_sha256"}


def test_a_passport_survives_json_and_holds_no_path(case: Any, opened: Opened) -> None:
    passport = opened(case).passport
    text = passport.to_json()
    assert Passport.from_dict(json.loads(text)) == passport
    for hidden in (str(Path.home()), "/tmp", str(case.weights), "site-packages"):
        assert hidden not in text


def test_equal_weights_elsewhere_have_an_equal_passport(case: Any, opened: Opened, tmp_path: Path) -> None:
    if case.weights is not None:
        copied = tmp_path / "renamed.bin"
        shutil.copy(case.weights, copied)
        moved = open_encoder(case.name, weights=copied, device="cpu")
    elif "local-dir:" in case.name:
        family, _, place = case.name.partition("local-dir:")
        folder, plus, option = place.partition("+")
        shutil.copytree(folder, tmp_path / "deeper" / Path(folder).name)
        deeper = tmp_path / "deeper" / Path(folder).name
        moved = open_encoder(f"{family}local-dir:{deeper}{plus}{option}", device="cpu")
    else:
        pytest.skip("this family's weights have no place of their own")
    assert moved.passport == opened(case).passport


def test_bfloat16_stays_close_to_float32_on_real_pictures(
    case: Any, opened: Opened, real_pictures: list[UInt8Array]
) -> None:
    if place("cpu").dtype != torch.bfloat16:
        pytest.skip("this processor has no bfloat16, and float32 is used on it")
    exact, fast = opened(case, compute="float32"), opened(case, compute="bfloat16")
    assert cosines(embed(exact, real_pictures), embed(fast, real_pictures)).min() >= 0.999


def test_prepare_is_safe_in_threads_and_leaves_its_input_alone(
    case: Any, opened: Opened, pictures: list[UInt8Array]
) -> None:
    encoder = opened(case)
    before = [picture.copy() for picture in pictures]
    expected = [encoder.prepare(picture) for picture in pictures]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(encoder.prepare, pictures * 4))
    for position, prepared in enumerate(found):
        np.testing.assert_array_equal(prepared, expected[position % len(pictures)])
    for picture, copy in zip(pictures, before, strict=True):
        np.testing.assert_array_equal(picture, copy)


def test_prepare_takes_pictures_that_are_read_only_or_views_and_returns_its_own(
    case: Any, opened: Opened, pictures: list[UInt8Array]
) -> None:
    encoder = opened(case)
    flipped = pictures[2][:, ::-1]
    flipped.flags.writeable = False
    prepared = encoder.prepare(flipped)
    np.testing.assert_array_equal(prepared, encoder.prepare(flipped.copy()))
    same_size = np.zeros(prepared.shape, np.uint8)
    assert not np.shares_memory(encoder.prepare(same_size), same_size)


def test_a_uniform_picture_has_a_vector(case: Any, opened: Opened) -> None:
    black = embed(opened(case), [np.zeros((50, 40, 3), np.uint8), np.full((50, 40, 3), 255, np.uint8)])
    assert np.isfinite(black).all()


def test_texts_are_refused_with_the_encoders_that_can(case: Any, opened: Opened) -> None:
    encoder = opened(case)
    if case.name.startswith("open_clip") and not case.name.endswith("+stages"):
        assert encoder.encode_text(["a chest X-ray"]).shape == (1, case.dim)
        return
    with pytest.raises(EncoderError, match="has no text tower; expected a space made by an open_clip encoder"):
        encoder.encode_text(["a chest X-ray"])
