"""Classes by texts: open_clip's own arithmetic, the same rows and metrics as `evaluate`, and clear refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import polars as pl
import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score

from vecstore.curve import learning_curve
from vecstore.dataset import dataset
from vecstore.encoders import open_encoder
from vecstore.errors import EncoderError, NotFound, SpaceMismatch, UsageError
from vecstore.export_model import export_model
from vecstore.ingest import ingest
from vecstore.label import label
from vecstore.store import Store
from vecstore.train import train
from vecstore.zeroshot import zero_shot

TINY = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
PROMPTS: dict[str, str | list[str]] = {
    "red": ["a red picture", "something red"],
    "green": "a green picture",
    "blue": ["blue", "the sea", "sky"],
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A small CLIP with random weights, saved as open_clip does, and itself."""
    folder = tmp_path_factory.mktemp("clip") / "tiny"
    folder.mkdir()
    torch.manual_seed(4)
    model = open_clip.CLIP(**TINY).eval()
    model.logit_scale.data.fill_(2.9)  # not where it starts
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": {}}))
    return folder, model


@pytest.fixture(scope="module")
def _made(
    clip: tuple[Path, Any], colour_archive: Path, colour_labels: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("zero") / "colours.vecs"
    with Store.create(path) as store:
        ingest(store, colour_archive, encoder=f"open_clip:local-dir:{clip[0]}", thumbnails=False)
        ingest(store, colour_archive, encoder="fake:64", thumbnails=False)
        label(store, colour_labels, task="colour", key="file", value="label", columns=["patient"])
        label(store, colour_labels, task="split", key="file", value="label", split_column="part")
    return path


@pytest.fixture
def store(_made: Path, tmp_path: Path) -> Iterator[Store]:
    with Store(shutil.copytree(_made, tmp_path / "colours.vecs")) as opened:
        yield opened


@pytest.fixture
def options(clip: tuple[Path, Any]) -> dict[str, Any]:
    return {"space": "open_clip-local-dir-tiny", "encoder": f"open_clip:local-dir:{clip[0]}", "device": "cpu"}


def theirs(model: Any, vectors: Any, classes: dict[str, list[str]]) -> np.ndarray:
    """Zero-shot classification as open_clip's own documentation writes it."""
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    with torch.no_grad():
        weights = []
        for texts in classes.values():
            embedded = torch.nn.functional.normalize(model.encode_text(tokenizer(texts)), dim=-1).mean(dim=0)
            weights.append(embedded / embedded.norm())
        logits = model.logit_scale.exp() * torch.from_numpy(vectors) @ torch.stack(weights, dim=1)
        return np.asarray(logits.softmax(dim=-1).numpy())


def test_probabilities_are_open_clips(store: Store, clip: tuple[Path, Any], options: dict[str, Any]) -> None:
    found = zero_shot(store, "colour", PROMPTS, **options)
    data = dataset(store, "colour", space=options["space"])
    asked = {name: [texts] if isinstance(texts, str) else texts for name, texts in PROMPTS.items()}
    expected = theirs(clip[1], data.vectors(), {name: asked[name] for name in data.classes})
    np.testing.assert_allclose(found.probabilities, expected, atol=2e-6)
    assert found.probabilities.std() > 0.01
    assert found.scale == pytest.approx(np.exp(2.9), rel=1e-6)
    assert (found.classes, found.prompts["green"]) == (["blue", "green", "red"], ["a green picture"])
    areas = [roc_auc_score(data.y == i, expected[:, i]) for i in range(3)]
    assert found.scores["auc"] == pytest.approx(np.mean(areas), abs=1e-9)
    assert (found.part, found.scores["n"], found.scores["groups"], found.pixels_read) == ("all", 63, 21, 0)
    assert found.probe is None


def test_from_pixels_to_probabilities_as_open_clip_goes(
    store: Store, clip: tuple[Path, Any], options: dict[str, Any], colour_archive: Path
) -> None:
    from PIL import Image

    transform = open_clip.image_transform(32, is_train=False)
    found = zero_shot(store, "colour", PROMPTS, **options)
    items = store.items()
    pictures = [transform(Image.open(colour_archive / name).convert("RGB")) for name in items.locators]
    with torch.no_grad():
        vectors = torch.nn.functional.normalize(clip[1].encode_image(torch.stack(pictures)), dim=-1).numpy()
    asked = {name: [texts] if isinstance(texts, str) else texts for name, texts in PROMPTS.items()}
    expected = theirs(clip[1], vectors, {name: asked[name] for name in found.classes})
    np.testing.assert_allclose(found.probabilities, expected, atol=0.02)  # bfloat16 and float16 on the way
    assert np.abs(found.probabilities - expected).mean() < 0.003


def test_the_official_test_part_is_scored_beside_the_trained_probe(store: Store, options: dict[str, Any]) -> None:
    assert zero_shot(store, "split", PROMPTS, **options).probe is None
    probe = train(store, "split", space="fake-64")
    found = zero_shot(store, "split", PROMPTS, **options)
    assert (found.part, found.scores["n"], found.counts) == ("test", 18, {"blue": 6, "green": 6, "red": 6})
    np.testing.assert_array_equal(found.items, probe.items)
    assert found.probe is not None and probe.model is not None
    told = {name: found.probe[name] for name in ("model_id", "model", "space", "part", "n", "auc")}
    assert told == {
        "model_id": probe.model.id,
        "model": "probe",
        "space": "fake-64",
        "part": "test",
        "n": 18,
        "auc": probe.record.auc,
    }
    assert found.probe["zero_shot_auc"] == found.scores["auc"]
    assert zero_shot(store, "split", PROMPTS, classes=["red", "blue"], **options).probe is None


def test_templates_stand_in_for_classes_without_prompts(store: Store, options: dict[str, Any]) -> None:
    by_template = zero_shot(store, "colour", template=["a {} picture", "{}, {}"], **options)
    assert by_template.prompts["red"] == ["a red picture", "red, red"]
    mixed = zero_shot(store, "colour", {"red": "crimson"}, template="{}", **options)
    assert mixed.prompts == {"blue": ["blue"], "green": ["green"], "red": ["crimson"]}


def test_several_labels_are_asked_with_and_without(
    store: Store, clip: tuple[Path, Any], options: dict[str, Any]
) -> None:
    names = store.items().locators
    rows = [(n, int("red" in n), "" if i % 5 == 0 else int("blue" in n)) for i, n in enumerate(names)]
    table = pl.DataFrame(rows, schema=["file", "warm", "cold"], orient="row", strict=False)
    label(store, table, task="t", key="file", value=["warm", "cold"])
    prompts = {"warm": "red", "not warm": "not red", "cold": "blue", "not cold": ["red", "green"]}
    found = zero_shot(store, "t", prompts, **options)
    data = dataset(store, "t", space=options["space"])
    for i, name in enumerate(data.classes):
        pair = {key: [prompts[key]] if isinstance(prompts[key], str) else prompts[key] for key in (name, f"not {name}")}
        expected = theirs(clip[1], data.vectors(), pair)[:, 0]  # type: ignore[arg-type]
        np.testing.assert_allclose(found.probabilities[:, i], expected, atol=2e-6)
    with pytest.raises(
        UsageError, match=r'no prompt for: not warm, not cold; .* and of "not LABEL" for pictures without'
    ):
        zero_shot(store, "t", {"warm": "red", "cold": "blue"}, **options)


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_prompts_come_from_a_file(store: Store, options: dict[str, Any], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"prompts.{suffix}"
    if suffix == "json":
        path.write_text(json.dumps(PROMPTS))
    else:
        rows = [
            (name, text) for name, texts in PROMPTS.items() for text in ([texts] if isinstance(texts, str) else texts)
        ]
        pl.DataFrame(rows, schema=["class", "prompt"], orient="row").write_csv(path)
    from_file, given = zero_shot(store, "colour", path, **options), zero_shot(store, "colour", PROMPTS, **options)
    assert from_file.prompts == given.prompts
    np.testing.assert_array_equal(from_file.probabilities, given.probabilities)


def test_a_prompt_of_a_table_keeps_every_character(store: Store, options: dict[str, Any], tmp_path: Path) -> None:
    texts = {"red": "a red\u2028picture", "green": "two\nlines", "blue": 'the "sea", calm'}
    rows = [f'{name},"{text.replace(chr(34), 2 * chr(34))}"' for name, text in texts.items()]
    path = tmp_path / "prompts.csv"
    path.write_text("\r\n".join(["class,prompt", *rows]), encoding="utf-8", newline="")
    found = zero_shot(store, "colour", path, **options)
    assert found.prompts == {name: [text] for name, text in sorted(texts.items())}


def test_what_can_not_be_asked_is_said(store: Store, options: dict[str, Any], tmp_path: Path) -> None:
    def refused(kind: type[Exception], message: str, *arguments: Any, **more: Any) -> None:
        with pytest.raises(kind, match=message):
            zero_shot(store, "colour", *arguments, **(options | more))

    refused(UsageError, r'no prompt for: blue, green, red; .*; --prompt "blue=TEXT", or --template')
    refused(UsageError, "no prompt for: blue; expected at least one for each class", {"red": "r", "green": "g"})
    refused(NotFound, r"has no class 'pink'; expected prompts for: blue, green, red", {"pink": "p"})
    refused(UsageError, r"the prompts of 'red' are \[' '\]; expected texts", {"red": " "})
    refused(UsageError, "the template 'a picture' has no \\{\\}; expected as in", template="a picture")
    refused(UsageError, r"nothing.json can't be read", tmp_path / "nothing.json")
    (tmp_path / "bad.json").write_text("{")
    refused(UsageError, r"bad.json is no JSON", tmp_path / "bad.json")
    (tmp_path / "list.json").write_text("[1]")
    refused(UsageError, "the prompts are no mapping", tmp_path / "list.json")
    (tmp_path / "bad.csv").write_text("name,text\na,b\n")
    refused(UsageError, "has the columns name, text; expected the columns class and prompt", tmp_path / "bad.csv")
    (tmp_path / "comma.csv").write_text("class,prompt\nred,a red one\nblue,the sea, calm\n")
    refused(UsageError, r'comma.csv, line 3: more cells than columns; .*: blue,"the sea, calm"', tmp_path / "comma.csv")
    refused(EncoderError, "of the space fake-64 has no text tower", PROMPTS, space="fake-64", encoder="fake:64")
    refused(SpaceMismatch, r"has the fingerprint .* the space", PROMPTS, space="fake-64")


def test_no_picture_is_opened(
    store: Store,
    options: dict[str, Any],
    colour_archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names_opened: Callable[[], AbstractContextManager[list[str]]],
) -> None:
    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("a picture was decoded")

    monkeypatch.setattr("vecstore.decode.base.frames", forbidden)
    train(store, "split", space="fake-64")
    with names_opened() as names:
        assert zero_shot(store, "split", PROMPTS, **options).pixels_read == 0
        assert learning_curve(store, "split", space="fake-64", per_class=[1], repeats=1).pixels_read == 0
        export_model(store, "split", tmp_path / "m.onnx")
    assert any(name.endswith("model.safetensors") for name in names)
    assert not [name for name in names if str(colour_archive) + "/" in name or "thumbnails.sqlite" in name]


def test_an_encoder_tells_its_scale(clip: tuple[Path, Any]) -> None:
    assert open_encoder(f"open_clip:local-dir:{clip[0]}", device="cpu").logit_scale == pytest.approx(np.exp(2.9))
    assert open_encoder("fake").logit_scale == 100
