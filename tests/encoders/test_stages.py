"""`+stages`: the vector is what the stages hold, packed or not, and is another space's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from vecstore.encoders import open_encoder
from vecstore.encoders.base import Encoder
from vecstore.encoders.packing import Flow, PackedConv, PackedLinear, fast_copy
from vecstore.encoders.stages import PooledOutputs, Stages
from vecstore.errors import EncoderError
from vecstore.records import UInt8Array

Shake = Callable[[nn.Module, int], nn.Module]


def by_hand(x: Tensor) -> list[Tensor]:
    """(n, positions, channels) to means and deviations."""
    return [x.mean(1), x.std(1, correction=0)]


def test_a_resnets_vector_is_made_of_its_stem_and_three_stages(
    cases: dict[str, Any], opened: Callable[..., Encoder], resnet_file: Path, pictures: list[UInt8Array]
) -> None:
    encoder = opened(cases["torchvision stages"], compute="float32")
    network = torchvision.models.resnet18(weights=None)
    state = torch.load(resnet_file, weights_only=True)["state_dict"]
    network.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    network.eval()
    prepared = encoder.prepare(pictures[0])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        x = ((torch.from_numpy(prepared) / 255 - mean) / std).permute(2, 0, 1)[None]
        x = network.maxpool(network.relu(network.bn1(network.conv1(x))))
        parts = by_hand(x.flatten(2).transpose(1, 2))
        for stage in (network.layer1, network.layer2, network.layer3):
            x = stage(x)
            parts += by_hand(x.flatten(2).transpose(1, 2))
    expected = torch.cat(parts, 1).numpy()[0]
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(encoder.encode([prepared])[0], expected, atol=2e-5)


def test_a_transformers_vector_is_made_of_four_blocks_without_the_class_token(
    cases: dict[str, Any], opened: Callable[..., Encoder], pictures: list[UInt8Array]
) -> None:
    encoder = opened(cases["timm stages"], compute="float32")
    torch.manual_seed(1)  # as the folder was written
    network: Any = timm.create_model("test_vit", pretrained=False).eval()
    prepared = encoder.prepare(pictures[0])
    mean, std = (torch.tensor(network.pretrained_cfg[key]) for key in ("mean", "std"))
    with torch.inference_mode():
        x = ((torch.from_numpy(prepared) / 255 - mean) / std).permute(2, 0, 1)[None]
        made = network.forward_intermediates(x, intermediates_only=True, output_fmt="NLC")
    parts = [moment for block in (1, 2, 4, 5) for moment in by_hand(made[block])]
    expected = torch.cat(parts, 1).numpy()[0]
    expected /= np.linalg.norm(expected)
    np.testing.assert_allclose(encoder.encode([prepared])[0], expected, atol=2e-5)


def test_stages_are_another_space_and_the_passport_says_which(cases: dict[str, Any]) -> None:
    plain, staged = (cases[name].open().passport for name in ("torchvision", "torchvision stages"))
    assert plain.fingerprint != staged.fingerprint
    assert plain.weights_sha256 == staged.weights_sha256
    assert staged.encoder == "torchvision:resnet18+stages"
    assert staged.pooling == "mean and std of maxpool, layer1, layer2, layer3"


@pytest.mark.parametrize(
    ("architecture", "paths"),
    [("resnet18", ("maxpool", "layer1", "layer3")), ("convnext_tiny", ("features.0", "features.1"))],
)
def test_a_packed_copy_is_read_at_its_own_stages(architecture: str, paths: tuple[str, ...], shake: Shake) -> None:
    torch.manual_seed(0)
    network = shake(torchvision.models.get_model(architecture, weights=None), 0)
    pooled = PooledOutputs(network, Stages(paths)).eval()
    pictures = torch.randn(3, 3, 64, 64)
    packed = fast_copy(pooled, Flow(pooled, pictures), torch.float32)
    with torch.inference_mode():
        expected = pooled(pictures)
        with_others = packed(torch.randn(2, 3, 64, 64))
        found = packed(pictures)
    torch.testing.assert_close(found, expected, atol=2e-4 * expected.abs().max().item(), rtol=1e-3)
    assert with_others.shape[0] == 2
    assert any(isinstance(module, PackedConv | PackedLinear) for module in packed.modules())


def test_what_follows_the_last_stage_is_not_computed() -> None:
    network = torchvision.models.resnet18(weights=None).eval()
    ran: list[str] = []
    for path in ("layer3", "layer4"):
        network.get_submodule(path).register_forward_pre_hook(lambda *_, path=path: ran.append(path))
    with torch.inference_mode():
        PooledOutputs(network, Stages(("layer1", "layer3")))(torch.zeros(1, 3, 64, 64))
    assert ran == ["layer3"]


def test_a_stage_that_no_longer_runs_is_not_passed_over() -> None:
    pooled = PooledOutputs(torchvision.models.resnet18(weights=None).eval(), Stages(("maxpool", "layer1")))
    pooled.network.set_submodule("maxpool", nn.Identity())
    with torch.inference_mode(), pytest.raises(RuntimeError, match="a stage of the network did not run"):
        pooled(torch.zeros(1, 3, 64, 64))


@pytest.mark.parametrize(
    "architecture", ["regnet_y_400mf", "densenet121", "efficientnet_b0", "convnext_tiny", "vit_b_32", "resnext50_32x4d"]
)
def test_torchvisions_families_have_stages(architecture: str) -> None:
    from vecstore.encoders.torchvision_encoder import _stages

    with torch.device("cpu" if "regnet" in architecture else "meta"):
        network = torchvision.models.get_model(architecture, weights=None)
    stages = _stages(architecture, network)
    assert 4 <= len(stages.paths) <= 7
    assert all(isinstance(network.get_submodule(path), nn.Module) for path in stages.paths)


def test_where_the_stages_are_not_known_the_message_says_what_is(tmp_path: Path) -> None:
    file = tmp_path / "mobile.pth"
    torch.save(torchvision.models.mobilenet_v3_small(weights=None).state_dict(), file)
    with pytest.raises(EncoderError, match=r"the stages of torchvision:mobilenet_v3_small are not known") as caught:
        open_encoder("torchvision:mobilenet_v3_small+stages", weights=file, device="cpu")
    assert "leave +stages out" in str(caught.value)
