"""Each family gives what its own library gives, and says what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import timm.data
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file

from vecstore.encoders import open_encoder
from vecstore.encoders.torchvision_encoder import _remove_head
from vecstore.encoders.weights import read_state
from vecstore.errors import EncoderError, NotFound, PackageMissing
from vecstore.records import UInt8Array


def close(found: np.ndarray, expected: torch.Tensor) -> None:
    np.testing.assert_allclose(found, torch.nn.functional.normalize(expected.float()).numpy(), atol=2e-5)


def test_torchvision_vectors_are_what_enters_the_last_layer(resnet_file: Path, pictures: list[UInt8Array]) -> None:
    encoder = open_encoder("torchvision:resnet18", weights=resnet_file, device="cpu", compute="float32")
    network = torchvision.models.resnet18(weights=None)
    network.load_state_dict(read_state(resnet_file))
    network.fc = torch.nn.Identity()
    transform = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.transforms()
    with torch.inference_mode():
        expected = network.eval()(torch.stack([transform(Image.fromarray(picture)) for picture in pictures]))
    close(encoder.encode([encoder.prepare(picture) for picture in pictures]), expected)
    assert encoder.passport.encoder == "torchvision:resnet18"
    assert encoder.passport.resize == "shortest to 256x256 bilinear, centre 224x224"
    assert encoder.passport.pooling == "what enters fc"


def test_a_weights_file_beside_a_named_member_takes_that_members_preprocessing(resnet_file: Path) -> None:
    encoder = open_encoder("torchvision:resnet18/IMAGENET1K_V1", weights=resnet_file, device="cpu")
    assert encoder.passport.encoder == "torchvision:resnet18/IMAGENET1K_V1"
    assert encoder.passport.revision == "IMAGENET1K_V1"


@pytest.mark.parametrize(
    ("architecture", "head", "dim"),
    [("resnet50", "fc", 2048), ("mobilenet_v3_small", "classifier.3", 1024), ("convnext_tiny", "classifier.2", 768),
     ("vit_b_32", "heads.head", 768), ("swin_t", "head", 768), ("vgg11", "classifier.6", 4096),
     ("shufflenet_v2_x0_5", "fc", 1024), ("densenet121", "classifier", 1024), ("efficientnet_b0", "classifier.1", 1280),
     ("alexnet", "classifier.6", 4096), ("maxvit_t", "classifier.5", 512)],
)  # fmt: skip
def test_classifiers_of_many_architectures_lose_their_last_layer_only(architecture: str, head: str, dim: int) -> None:
    with torch.device("meta"):  # shapes alone, without weights
        network = torchvision.models.get_model(architecture, weights=None).eval()
        assert _remove_head(architecture, network) == head
        assert network(torch.empty(2, 3, 224, 224)).shape == (2, dim)


@pytest.mark.parametrize("architecture", ["mnasnet0_5", "googlenet"])
def test_architectures_with_peculiar_checkpoints_open(
    architecture: str, tmp_path: Path, pictures: list[UInt8Array]
) -> None:
    torch.manual_seed(0)
    options = {"init_weights": False} if architecture == "googlenet" else {}
    torch.save(torchvision.models.get_model(architecture, weights=None, **options).state_dict(), tmp_path / "w.pth")
    encoder = open_encoder(f"torchvision:{architecture}", weights=tmp_path / "w.pth", device="cpu")
    assert np.isfinite(encoder.encode([encoder.prepare(pictures[0])])).all()


def test_an_architecture_without_a_last_linear_layer_is_refused(resnet_file: Path) -> None:
    with pytest.raises(EncoderError, match="squeezenet1_0 does not end in a linear layer"):
        open_encoder("torchvision:squeezenet1_0", weights=resnet_file)


def test_open_clip_gives_the_librarys_vectors_of_pictures_and_texts(
    clip_folder: Path, pictures: list[UInt8Array]
) -> None:
    encoder = open_encoder(f"open_clip:local-dir:{clip_folder}", device="cpu", compute="float32")
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{clip_folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{clip_folder}")
    texts = ["pneumonia", "a chest X-ray without findings", ""]
    with torch.inference_mode():
        images = model.eval().encode_image(torch.stack([preprocess(Image.fromarray(p)) for p in pictures]))
        words = model.encode_text(tokenizer(texts))
    close(encoder.encode([encoder.prepare(picture) for picture in pictures]), images)
    close(encoder.encode_text(texts), words)
    assert encoder.encode_text([]).shape == (0, 48)
    assert encoder.encode_text(texts * 50).shape == (150, 48)
    assert encoder.passport.encoder == "open_clip:local-dir:tiny-clip"
    assert encoder.passport.mean == (0.5, 0.4, 0.3)


def test_an_open_clip_folder_without_a_configuration_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    shutil.copy(clip_folder / "open_clip_model.safetensors", tmp_path)
    with pytest.raises(
        EncoderError, match=r"has no open_clip_config\.json; expected open_clip_config\.json, which tells"
    ):
        open_encoder(f"open_clip:local-dir:{tmp_path}")


def test_a_folder_with_no_or_several_weights_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    shutil.copy(clip_folder / "open_clip_config.json", tmp_path)
    with pytest.raises(EncoderError, match=r"has no weights files; expected one, or open_clip_model.safetensors"):
        open_encoder(f"open_clip:local-dir:{tmp_path}")
    for name in ("a.pth", "b.pth"):
        (tmp_path / name).touch()
    with pytest.raises(EncoderError, match=r"has 2 weights files \(a\.pth, b\.pth\).*name the file with --weights"):
        open_encoder(f"open_clip:local-dir:{tmp_path}")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "is not a JSON object"),
        ("{}", "has no model_cfg of a CLIP model"),
        (
            '{"model_cfg": {"embed_dim": 8, "vision_cfg": {"nope": 1}, "text_cfg": {}}}',
            "can't be built from its config",
        ),
    ],
)
def test_a_broken_open_clip_configuration_says_what_is_wrong(
    config: str, message: str, clip_folder: Path, tmp_path: Path
) -> None:
    shutil.copy(clip_folder / "open_clip_model.safetensors", tmp_path)
    (tmp_path / "open_clip_config.json").write_text(config)
    with pytest.raises(EncoderError, match=message):
        open_encoder(f"open_clip:local-dir:{tmp_path}")


def test_other_shapes_of_open_clip_weights_are_refused(clip_folder: Path, tmp_path: Path, resnet_file: Path) -> None:
    with pytest.raises(EncoderError, match=r"resnet18\.pth can't be read as weights|does not fit"):
        open_encoder(f"open_clip:local-dir:{clip_folder}", weights=resnet_file)


def test_own_weights_need_a_tag_where_preprocessing_differs_between_tags(resnet_file: Path) -> None:
    with pytest.raises(
        EncoderError, match="published weights of ViT-L-14 differ in their preprocessing; expected one of"
    ):
        open_encoder("open_clip:ViT-L-14", weights=resnet_file)
    with pytest.raises(NotFound, match="open_clip has no model 'mystery'"):
        open_encoder("open_clip:mystery", weights=resnet_file)


def test_a_text_tower_of_an_absent_package_is_refused_when_opened(clip_folder: Path, tmp_path: Path) -> None:
    config = json.loads((clip_folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] = {"hf_model_name": "roberta-base", "hf_tokenizer_name": "roberta-base"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    shutil.copy(clip_folder / "open_clip_model.safetensors", tmp_path)
    with pytest.raises(PackageMissing, match=r"needs the package transformers, .*; run: pip install transformers"):
        open_encoder(f"open_clip:local-dir:{tmp_path}")


def test_timm_folders_give_the_librarys_vectors(vit_folder: Path, pictures: list[UInt8Array]) -> None:
    encoder = open_encoder(f"timm:local-dir:{vit_folder}", device="cpu", compute="float32")
    network = timm.create_model("test_vit", pretrained=False, num_classes=0)
    state = read_state(vit_folder / "model.safetensors")
    network.load_state_dict({key: value for key, value in state.items() if not key.startswith("head.")})
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=network))
    with torch.inference_mode():
        expected = network.eval()(torch.stack([transform(Image.fromarray(picture)) for picture in pictures]))
    close(encoder.encode([encoder.prepare(picture) for picture in pictures]), expected)
    assert encoder.passport.encoder == "timm:local-dir:tiny-vit"
    assert encoder.passport.model.startswith("test_vit")


def test_a_timm_folder_of_an_unknown_architecture_is_refused(vit_folder: Path, tmp_path: Path) -> None:
    shutil.copy(vit_folder / "model.safetensors", tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "resnet_of_the_future"}')
    with pytest.raises(EncoderError, match="names the architecture 'resnet_of_the_future'; expected one that timm has"):
        open_encoder(f"timm:local-dir:{tmp_path}")


def test_the_pooling_is_part_of_the_fingerprint(vit_folder: Path, tmp_path: Path) -> None:
    first = open_encoder(f"timm:local-dir:{vit_folder}", device="cpu").passport
    folder = tmp_path / vit_folder.name
    folder.mkdir()
    config = json.loads((vit_folder / "config.json").read_text())
    config["model_args"] = {**config.get("model_args", {}), "global_pool": "avg", "fc_norm": False}
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copy(vit_folder / "model.safetensors", folder)
    other = open_encoder(f"timm:local-dir:{folder}", device="cpu").passport
    assert other.weights_sha256 == first.weights_sha256
    assert other.fingerprint != first.fingerprint


def test_original_checkpoints_are_renamed_as_timm_does(tmp_path: Path) -> None:
    """DINOv2's own files have names that only timm's converter knows."""
    torch.manual_seed(0)
    network = timm.create_model("vit_small_patch14_dinov2", pretrained=False, img_size=56)
    state = {**network.state_dict(), "mask_token": torch.zeros(1, 384)}
    config = {"architecture": "vit_small_patch14_dinov2", "model_args": {"img_size": 56}, "pretrained_cfg":
              {"input_size": [3, 56, 56], "license": "apache-2.0"}}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(state, tmp_path / "model.safetensors")
    passport = open_encoder(f"timm:local-dir:{tmp_path}", device="cpu").passport
    assert (passport.dim, passport.input_size, passport.licence) == (384, (56, 56), "apache-2.0")
