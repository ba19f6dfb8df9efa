"""Weights files: what fits, what does not, and what must not run."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from vecstore.encoders import open_encoder
from vecstore.encoders.weights import load_state, read_state
from vecstore.errors import EncoderError, UsageError


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_checkpoints_of_training_loops_are_unwrapped(
    wrapper: str | None, prefix: str, network: nn.Module, tmp_path: Path
) -> None:
    state: dict[str, Any] = {prefix + key: value for key, value in network.state_dict().items()}
    torch.save({wrapper: state, "epoch": 7} if wrapper else state, tmp_path / "w.pt")
    found = read_state(tmp_path / "w.pt")
    assert found.keys() == network.state_dict().keys()


def test_safetensors_are_known_by_their_look(network: nn.Module, tmp_path: Path) -> None:
    save_file(network.state_dict(), tmp_path / "odd.pth")
    torch.testing.assert_close(read_state(tmp_path / "odd.pth"), network.state_dict(), rtol=0, atol=0)


class _Dropper:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mknod, (str(self.path),)


@pytest.mark.parametrize("how", ["torch", "bare pickle"])
@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18", "open_clip:RN50"])
def test_a_checkpoint_with_code_in_it_is_refused_and_does_not_run(how: str, name: str, tmp_path: Path) -> None:
    file, dropped = tmp_path / "evil.pth", tmp_path / "dropped"
    content = {"state_dict": {"conv1.weight": _Dropper(dropped)}}
    if how == "torch":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    with pytest.raises(EncoderError, match=r"evil\.pth is refused: reading it would run code"):
        open_encoder(name, weights=file, device="cpu")
    assert not dropped.exists()


@pytest.mark.parametrize("content", [b"", b"GIF89a not weights", b"PK\x03\x04 torn", b"version https://git-lfs"])
def test_files_that_are_no_weights_say_so(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(EncoderError, match=r"x\.pth (can't be read as weights|is refused)"):
        read_state(tmp_path / "x.pth")


def test_a_torn_safetensors_file_says_so(network: nn.Module, tmp_path: Path) -> None:
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    whole = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(whole[:-40])
    with pytest.raises(EncoderError, match="is a damaged safetensors file"):
        read_state(tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", 50) + b"{" + b" " * 80)
    with pytest.raises(EncoderError, match="is a damaged safetensors file"):
        read_state(tmp_path / "w.safetensors")


@pytest.mark.parametrize("content", [torch.zeros(3), {"state_dict": {}}, {"lr": 0.1}, [1, 2]])
def test_a_checkpoint_without_named_tensors_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(EncoderError, match=r"w.pt holds no named tensors; expected a state dict"):
        read_state(tmp_path / "w.pt")


def test_keys_that_do_not_fit_are_named(network: nn.Module) -> None:
    state = dict(network.state_dict())
    state["0.extra"] = torch.zeros(1)
    del state["0.weight"], state["1.running_mean"]
    state["0.bias"] = torch.zeros(9)
    with pytest.raises(EncoderError) as caught:
        load_state(network, state, Path("some.pth"))
    assert str(caught.value) == (
        "some.pth does not fit: 2 missing (0.weight, 1.running_mean); 1 unexpected (0.extra); "
        "1 of another shape (0.bias); expected 8 tensors such as 0.bias, 0.weight; "
        "check that the weights belong to this architecture"
    )


def test_only_the_first_few_wrong_keys_are_named(network: nn.Module) -> None:
    state = {f"x{i}": torch.zeros(1) for i in range(40)}
    with pytest.raises(EncoderError, match=r"40 unexpected \(x0, x1, x10, …\)"):
        load_state(network, {**network.state_dict(), **state}, Path("some.pth"))


def test_counters_that_old_checkpoints_lack_may_be_missing(network: nn.Module) -> None:
    state = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    load_state(network, state, Path("old.pth"))


def test_another_architectures_weights_are_refused(resnet_file: Path) -> None:
    with pytest.raises(EncoderError, match=r"resnet18\.pth does not fit: \d+ missing \(layer"):
        open_encoder("torchvision:resnet34", weights=resnet_file, device="cpu")


def test_a_finetuned_classifier_of_another_width_does_not_matter(tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(num_classes=3).state_dict(), tmp_path / "three.pth")
    assert open_encoder("torchvision:resnet18", weights=tmp_path / "three.pth", device="cpu").passport.dim == 512
    assert open_encoder("timm:resnet18", weights=tmp_path / "three.pth", device="cpu").passport.dim == 512


def test_weights_that_are_no_file_are_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="are not a file; expected a safetensors file or a checkpoint"):
        open_encoder("torchvision:resnet18", weights=tmp_path)
