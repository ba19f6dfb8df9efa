"""A packed network computes what it replaces; one that can't be packed is left as it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from vecstore.encoders import open_encoder
from vecstore.encoders.packing import Flow, InFloat32, PackedAttention, PackedConv, PackedLinear, fast_copy
from vecstore.encoders.placement import Placement, place
from vecstore.encoders.resize import Fit
from vecstore.encoders.torch_encoder import Pixels, TorchEncoder, _fastest
from vecstore.errors import EncoderError, PictureError, UsageError
from vecstore.records import Passport

CPU = torch.device("cpu")
Shake = Callable[[nn.Module, int], nn.Module]


def count(network: nn.Module, *kinds: type[nn.Module]) -> int:
    return sum(isinstance(module, kinds) for module in network.modules())


@pytest.mark.parametrize(
    "name",
    ["torchvision resnet18", "torchvision resnet50", "torchvision mobilenet_v3_small", "timm tf_efficientnet_lite0",
     "timm test_vit", "timm test_convnext", "timm densenet121", "timm resnetv2_50", "timm resnet10t",
     "timm test_efficientnet"],
)  # fmt: skip
def test_a_packed_copy_computes_the_same_for_any_batch_size(name: str, shake: Shake) -> None:
    library, architecture = name.split()
    torch.manual_seed(0)
    if library == "timm":
        network = timm.create_model(architecture, pretrained=False, num_classes=0)
    else:
        network = torchvision.models.get_model(architecture, weights=None)
    network = shake(network, 0).eval()
    side = 160 if architecture == "test_vit" else 96
    pictures = torch.randn(5, 3, side, side)
    flow = Flow(network, pictures[:2])
    with torch.inference_mode():
        packed = fast_copy(network, flow, torch.float32)
        expected = network(pictures)
        found = packed(pictures)
    scale = expected.abs().max().item()
    torch.testing.assert_close(found, expected, atol=2e-4 * scale, rtol=1e-3)
    assert count(packed, PackedConv, PackedLinear, PackedAttention) > 0


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_batch_norms_and_activations_disappear_from_a_packed_network(shake: Shake, compute: str) -> None:
    if compute == "bfloat16" and place("cpu").dtype != torch.bfloat16:
        pytest.skip("this processor has no bfloat16: oneDNN packs none for it")
    network = shake(timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0), 0).eval()
    flow = Flow(network, torch.randn(1, 3, 64, 64))
    with torch.inference_mode():
        packed = fast_copy(network, flow, getattr(torch, compute))
    assert count(packed, nn.BatchNorm2d, nn.Conv2d, nn.ReLU6) == 0
    assert count(network, nn.BatchNorm2d) == 49  # the original is left alone


class _Branching(nn.Module):
    """The convolution's output is used beside the batch norm: folding would change it unseen."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        made: Tensor = self.act(self.norm(x)) + torch.sin(3 * x)
        return made.mean((2, 3))


class _Peeking(nn.Module):
    """It reads its layer's weights, which a packed layer does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.conv(x.to(self.conv.weight.dtype))
        return made.amax((2, 3))


@pytest.mark.parametrize("kind", [_Branching, _Peeking])
def test_a_network_that_packing_would_change_or_break_is_left_plain(kind: type[nn.Module], shake: Shake) -> None:
    torch.manual_seed(0)
    network = shake(kind(), 3).eval()
    example = torch.rand(2, 3, 40, 40)
    flow = Flow(network, example)
    with torch.inference_mode():
        made, placement = _fastest(network, Placement(CPU, torch.float32), example, flow)
        torch.testing.assert_close(made(example), flow.output)
    assert placement.dtype == torch.float32
    assert count(made, PackedConv) == 0


class _Cancelling(nn.Module):
    """Differences of large numbers: bfloat16 has nothing left of them."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean((2, 3))
        return torch.cat([(x + 1000) - 1000, x[:, :1]], 1)


def test_a_network_that_bfloat16_spoils_computes_in_float32_unless_asked() -> None:
    example = torch.rand(2, 3, 8, 8)
    flow = Flow(_Cancelling(), example)
    with torch.inference_mode():
        _, placement = _fastest(_Cancelling(), Placement(CPU, torch.bfloat16), example, flow)
        _, asked = _fastest(_Cancelling(), Placement(CPU, torch.bfloat16, asked=True), example, flow)
    assert placement.dtype == torch.float32
    assert asked.dtype == torch.bfloat16


class _Means(nn.Module):
    """Mean colour, not a number where it is very bright."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean((2, 3))
        return torch.where(x > 0.9, torch.nan, x)


def _encoder(network: nn.Module, compute: str = "float32") -> TorchEncoder:
    pixels = Pixels(Fit("squash", (8, 8)), (8, 8), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def passport(dim: int) -> Passport:
        return Passport("t", "t", "t", "none", "", "", (8, 8), "", (0.0,), (1.0,), "", dim)

    return TorchEncoder(network, pixels, place("cpu", compute), passport)


class _Large(nn.Module):
    """Mean colour times a number that takes bright pictures beyond float16."""

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = x.mean((2, 3)) * 100_000
        return made


def test_a_picture_beyond_float16_is_computed_again_in_float32() -> None:
    encoder = _encoder(_Large(), "float16")
    assert encoder.compute == "float16 on cpu"
    faint, bright = (np.full((8, 8, 3), level, np.uint8) for level in (20, 250))
    faint[..., 0] = bright[..., 0] = 10
    vectors = encoder.encode([faint, bright])
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(vectors, _encoder(_Large()).encode([faint, bright]), atol=1e-3)


def test_a_vector_that_is_not_finite_or_zero_comes_back_as_nan_and_spares_its_neighbours() -> None:
    grey, white, black = (np.full((8, 8, 3), value, np.uint8) for value in (100, 255, 0))
    vectors = _encoder(_Means()).encode([grey, white, black, grey])
    np.testing.assert_allclose(vectors[[0, 3]], 3**-0.5, atol=1e-6)
    assert np.isnan(vectors[[1, 2]]).all()


def test_a_network_without_one_vector_per_picture_is_refused() -> None:
    with pytest.raises(EncoderError, match=r"output has the shape \(3, 3, 8, 8\); expected one vector per picture"):
        _encoder(nn.Identity())


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 4), (0, 8, 3)])
def test_what_is_no_colour_picture_is_a_picture_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(PictureError, match="expected shape \\(height, width, 3\\) and type uint8"):
        _encoder(_Means()).prepare(np.zeros(shape, np.uint8))


def test_a_device_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(EncoderError, match="the device cuda:99 is not on this machine; expected one of: cpu"):
        place("cuda:99")
    with pytest.raises(UsageError, match="no device 'quantum'; expected auto, cpu, cuda"):
        place("quantum")
    with pytest.raises(UsageError, match="no computing type 'int4'; expected one of: float32, bfloat16, float16"):
        place("cpu", "int4")


def test_auto_means_any_device_and_the_passport_does_not_depend_on_the_type() -> None:
    automatic = open_encoder("bundled", device="auto")
    exact = open_encoder("bundled", device="cpu", compute="float32")
    assert exact.compute == "float32 on cpu"
    assert automatic.passport == exact.passport


def test_a_part_in_float32_keeps_its_weights_whatever_the_rest_becomes() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), InFloat32(nn.Conv2d(4, 4, 1)))
    before = [values.clone() for values in network[1].parameters()]
    network.to(torch.bfloat16).to(memory_format=torch.channels_last)
    assert [values.dtype for values in network.parameters()] == [torch.bfloat16] * 2 + [torch.float32] * 2
    torch.testing.assert_close(list(network[1].parameters()), before, rtol=0, atol=0)
    assert network(torch.zeros(1, 3, 2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16
