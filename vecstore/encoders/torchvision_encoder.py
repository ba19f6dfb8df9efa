"""`torchvision:ARCH/WEIGHTS`: torchvision's classifiers without their last linear layer.

Preprocessing is what the weights enum says. `torchvision:ARCH` with `--weights FILE` (own weights of that
architecture) takes the preprocessing of the architecture's first published weights, IMAGENET1K_V1 where there are
such; the passport records it. `+stages` after the name pools stages instead (see `stages.py`).
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torchvision
from torch import nn

from vecstore.encoders.configs import listed
from vecstore.encoders.hub import from_url, torch_checkpoints
from vecstore.encoders.placement import place
from vecstore.encoders.resize import Fit
from vecstore.encoders.stages import OPTION, PooledOutputs, Stages, asked, quarters, unknown
from vecstore.encoders.torch_encoder import Pixels, TorchEncoder
from vecstore.encoders.weights import load_state, read_state
from vecstore.errors import EncoderError, NotFound, UsageError
from vecstore.files import sha256_file
from vecstore.records import Passport

_HEADS = ("fc", "classifier", "heads", "head")

_BUILD = {
    # Published with TensorFlow's scaling, which torchvision switches on when it loads the weights itself.
    "googlenet": {"transform_input": True, "aux_logits": False, "init_weights": False},
    "inception_v3": {"transform_input": True, "aux_logits": False, "init_weights": False},
}


def make(name: str, weights: Path | None, device: str | None, compute: str | None) -> TorchEncoder:
    """Open a torchvision classifier as an encoder."""
    plain, staged = asked(name)
    architecture, slash, member = plain.removeprefix("torchvision:").partition("/")
    published = _published(architecture)
    if slash:
        chosen = _member(architecture, member, published)
    elif weights is not None:
        chosen = published.get("IMAGENET1K_V1") or next(iter(published.values()))
    else:
        raise UsageError(
            f"{name} names no weights", expected=_listed(architecture, published), do="or give a file with --weights"
        )
    placement = place(device, compute)
    file = weights or from_url(chosen.url, torch_checkpoints(), plain)
    network: nn.Module = torchvision.models.get_model(architecture, weights=None, **_BUILD.get(architecture, {}))
    head = _remove_head(architecture, network)
    load_state(network, read_state(file), file, lambda key: key.startswith((f"{head}.", "aux", "AuxLogits")))
    pixels = _pixels(chosen.transforms())
    stages = _stages(architecture, network) if staged else None

    def passport(dim: int) -> Passport:
        return Passport(
            encoder=f"torchvision:{architecture}{slash}{member}{OPTION if stages else ''}",
            library="torchvision",
            model=architecture,
            weights_sha256=sha256_file(file),
            revision=member,
            # torchvision states one for its code only; some weights have their own (SWAG: CC-BY-NC-4.0).
            licence=str(chosen.meta.get("license", "")) if slash else "",
            input_size=pixels.size,
            resize=str(pixels.fit),
            mean=pixels.mean,
            std=pixels.std,
            pooling=str(stages) if stages else f"what enters {head}",
            dim=dim,
        )

    return TorchEncoder(PooledOutputs(network, stages) if stages else network, pixels, placement, passport)


def _stages(architecture: str, network: nn.Module) -> Stages:
    """Where the stem and the stages of an architecture end; the last stage is left out."""
    if isinstance(network, torchvision.models.ResNet):
        return Stages(("maxpool", "layer1", "layer2", "layer3"))
    if isinstance(network, torchvision.models.RegNet):
        return Stages(("stem", *(f"trunk_output.block{number}" for number in (1, 2, 3))))
    if isinstance(network, torchvision.models.DenseNet):
        return Stages(("features.pool0", *(f"features.denseblock{number}" for number in (1, 2, 3))))
    if isinstance(network, torchvision.models.EfficientNet):  # the last two are stage 7 and the head
        return Stages(tuple(f"features.{place}" for place in range(len(network.features) - 2)))
    if isinstance(network, torchvision.models.ConvNeXt):  # stem, stage, downsampling, stage …
        return Stages(tuple(f"features.{place}" for place in (0, 1, 3, 5)))
    if isinstance(network, torchvision.models.VisionTransformer):
        depth = len(network.encoder.layers)
        return Stages(
            tuple(f"encoder.layers.encoder_layer_{path.partition('.')[2]}" for path in quarters("", depth)), prefix=1
        )
    raise unknown(f"torchvision:{architecture}", "a ResNet, ResNeXt, RegNet, DenseNet, EfficientNet, ConvNeXt or ViT")


def _published(architecture: str) -> dict[str, Any]:
    """The members of an architecture's weights enum, by name, without the alias DEFAULT."""
    models = torchvision.models.list_models(module=torchvision.models)
    if architecture not in models:
        near = get_close_matches(architecture, models, n=3)
        raise NotFound(
            f"torchvision has no classifier {architecture!r}",
            expected=f"one of {len(models)}, such as {', '.join(near or ['resnet50', 'vit_b_16'])}",
        )
    return {member.name: member for member in torchvision.models.get_model_weights(architecture)}


def _member(architecture: str, name: str, published: dict[str, Any]) -> Any:
    if name == "DEFAULT":
        raise UsageError(
            f"torchvision:{architecture}/DEFAULT means other weights in other versions",
            expected=_listed(architecture, published),
        )
    if name not in published:
        raise NotFound(
            f"torchvision has no weights {name!r} of {architecture}", expected=_listed(architecture, published)
        )
    return published[name]


def _listed(architecture: str, published: dict[str, Any]) -> str:
    return listed([f"torchvision:{architecture}/{name}" for name in published])


def _remove_head(architecture: str, network: nn.Module) -> str:
    """Take the last linear layer out, and say where it was. What comes before it in a classifier stays."""
    linear: list[str] = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear or linear[-1].partition(".")[0] not in _HEADS:
        raise EncoderError(
            f"torchvision's {architecture} does not end in a linear layer",
            expected="a classifier whose last layer can be taken off, such as resnet50",
        )
    network.set_submodule(linear[-1], nn.Identity())
    return linear[-1]


def _pixels(transforms: Any) -> Pixels:
    """What `ImageClassification` does, the preset that all classifiers have."""
    crop, scale = transforms.crop_size[0], transforms.resize_size[0]
    fit = Fit("shortest", (crop, crop), (scale, scale), transforms.interpolation.value)
    return Pixels(fit, (crop, crop), tuple(transforms.mean), tuple(transforms.std))
