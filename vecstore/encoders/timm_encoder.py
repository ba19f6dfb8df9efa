"""`timm:ARCH.TAG`, `timm:hf-hub:ORG/REPO@REVISION`, `timm:local-dir:PATH`, `timm:ARCH` with `--weights FILE`.

Features are timm's own (`num_classes=0`), preprocessing is what the model's configuration says. Own weights of a
bare architecture take the configuration of its first tag; the passport records it. `+stages` after the name pools
stages instead (see `stages.py`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import timm
import timm.data
from torch import nn

from vecstore.encoders.configs import building, find_weights, listed, open_folder, read_config
from vecstore.encoders.hub import from_hugging_face, from_url, torch_checkpoints
from vecstore.encoders.placement import place
from vecstore.encoders.resize import Fit, Mode, interpolations
from vecstore.encoders.stages import OPTION, PooledOutputs, Stages, asked, quarters, unknown
from vecstore.encoders.torch_encoder import Pixels, TorchEncoder
from vecstore.encoders.weights import State, load_state, read_state
from vecstore.errors import EncoderError, NotFound, UsageError
from vecstore.files import canonical_json, sha256_file
from vecstore.records import Passport

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
LOCAL_WEIGHTS = (*WEIGHTS, "pytorch_model.pth", "model.pth")


@dataclass(frozen=True, slots=True)
class _Spec:
    """What a name stands for: an architecture, its configuration, and a file."""

    name: str
    architecture: str
    config: Mapping[str, Any]
    arguments: Mapping[str, Any]
    file: Path
    revision: str = ""


def make(name: str, weights: Path | None, device: str | None, compute: str | None) -> TorchEncoder:
    """Open a timm model as an encoder."""
    name, staged = asked(name)
    rest = name.removeprefix("timm:")
    placement = place(device, compute)
    if rest.startswith("local-dir:"):
        spec = _from_folder(rest.removeprefix("local-dir:"), weights)
    elif rest.startswith("hf-hub:"):
        spec = _from_hub(name, rest.removeprefix("hf-hub:"), weights)
    else:
        spec = _from_registry(name, rest, weights)
    arguments = {**spec.arguments, "num_classes": 0}
    with building(spec.name):
        network: nn.Module = timm.create_model(
            spec.architecture, pretrained=False, pretrained_cfg=dict(spec.config), **arguments
        )
    _load(network, spec)
    settings = timm.data.resolve_data_config(model=network)
    pixels = _pixels(settings, name)
    own_pooling = f"num_classes=0, {getattr(network, 'global_pool', None) or 'default'}".replace("\n", " ")
    stages = _stages(spec.name, network) if staged else None

    def passport(dim: int) -> Passport:
        model = spec.architecture + (f" {canonical_json(spec.arguments)}" if spec.arguments else "")
        return Passport(
            encoder=spec.name + (OPTION if stages else ""),
            library="timm",
            model=model,
            weights_sha256=sha256_file(spec.file),
            revision=spec.revision,
            licence=str(spec.config.get("license") or ""),
            input_size=pixels.size,
            resize=str(pixels.fit),
            mean=pixels.mean,
            std=pixels.std,
            pooling=str(stages) if stages else own_pooling,
            dim=dim,
        )

    return TorchEncoder(PooledOutputs(network, stages) if stages else network, pixels, placement, passport)


def _stages(name: str, network: Any) -> Stages:
    """Where the stages end that timm itself names; the last is left out."""
    modules = [str(entry["module"]) for entry in getattr(network, "feature_info", None) or ()]
    known = "a network that timm names the stages of (feature_info), with channels before positions, or a plain ViT"
    if len(modules) < 2 or getattr(network, "output_fmt", "NCHW") == "NHWC":
        raise unknown(name, known)
    if modules == [f"blocks.{place}" for place in range(len(modules))] and hasattr(network, "num_prefix_tokens"):
        return Stages(quarters("blocks", len(modules)), prefix=int(network.num_prefix_tokens))
    stem = "maxpool" if isinstance(getattr(network, "maxpool", None), nn.Module) else modules[0]
    first = [stem] if modules[0] in ("act1", "conv1", "bn1") else [modules[0]]
    try:
        for path in (*first, *modules[1:-1]):
            network.get_submodule(path)
    except AttributeError:
        raise unknown(name, known) from None
    return Stages((*first, *modules[1:-1]))


def _from_registry(name: str, model: str, weights: Path | None) -> _Spec:
    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        near = get_close_matches(architecture, timm.list_models(), n=3)
        raise NotFound(
            f"timm has no model {architecture!r}",
            expected=f"an architecture such as {', '.join(near or ['resnet18', 'vit_small_patch14_dinov2'])}",
        )
    tags = [known for known in timm.list_pretrained(f"{architecture}.*") if known.partition(".")[0] == architecture]
    choice = listed([f"timm:{known}" for known in tags])
    if tag and model not in tags:
        raise NotFound(f"timm has no weights {model!r}", expected=choice)
    if not tag and weights is None:
        raise UsageError(
            f"{name} names no weights",
            expected=choice,
            do="or give a file with --weights",
        )
    known = timm.get_pretrained_cfg(model)
    config = known.to_dict() if known else {}
    return _Spec(name, architecture, config, {}, weights or _published(name, config), tag)


def _published(name: str, config: Mapping[str, Any]) -> Path:
    """Where timm itself would take the weights from."""
    if config.get("hf_hub_id"):
        repo = str(config["hf_hub_id"])
        # "timm/" stands for "timm/ARCH.TAG".
        repo = repo + name.removeprefix("timm:") if repo.endswith("/") else repo
        named = config.get("hf_hub_filename")
        return from_hugging_face(repo, [str(named)] if named else WEIGHTS, None, name)
    return from_url(str(config["url"]), torch_checkpoints(), name)


def _from_hub(name: str, model: str, weights: Path | None) -> _Spec:
    repo, _, revision = model.partition("@")
    config = from_hugging_face(repo, [CONFIG], revision or None, name, flag=False)
    file = weights or from_hugging_face(repo, WEIGHTS, revision or None, name)
    return _configured(f"timm:hf-hub:{model}", config, file, revision)


def _from_folder(path: str, weights: Path | None) -> _Spec:
    folder = open_folder(path, CONFIG)
    return _configured(
        f"timm:local-dir:{folder.name}", folder / CONFIG, weights or find_weights(folder, LOCAL_WEIGHTS), ""
    )


def _configured(name: str, config: Path, file: Path, revision: str) -> _Spec:
    """A model from the config.json that timm writes."""
    content = read_config(config, name)
    architecture = str(content.get("architecture", ""))
    if not timm.is_model(architecture):
        raise EncoderError(
            f"{config.name} of {name} names the architecture {architecture!r}",
            expected="one that timm has",
            do="update timm, or open the model with the library that made it",
        )
    # Older files keep the configuration at the top level.
    own = content.get("pretrained_cfg") or {key: value for key, value in content.items() if key != "model_args"}
    own = {key: value for key, value in own.items() if key not in ("num_classes", "label_names", "url", "file")}
    return _Spec(name, architecture, own, content.get("model_args") or {}, file, revision)


def _load(network: nn.Module, spec: _Spec) -> None:
    own = network.state_dict().keys()
    heads = spec.config.get("classifier") or ("fc", "head", "classifier")
    prefixes = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))

    def of_head(key: str) -> bool:
        return key.startswith(prefixes) and key not in own

    state = read_state(spec.file)
    if {key for key in state if not of_head(key)} != own:
        state = _converted(network, state)
    load_state(network, state, spec.file, of_head)


def _converted(network: nn.Module, state: State) -> State:
    """As timm renames the keys of an architecture's original checkpoints."""
    convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    return convert(state, network) if convert else state


def _pixels(settings: Mapping[str, Any], name: str) -> Pixels:
    """What timm's `transforms_imagenet_eval` does."""
    if settings["interpolation"] not in interpolations():
        raise EncoderError(f"{name} asks for the interpolation {settings['interpolation']!r}", "a filter of Pillow")
    size: tuple[int, int] = tuple(settings["input_size"][-2:])
    scale = math.floor(size[0] / settings["crop_pct"]), math.floor(size[1] / settings["crop_pct"])
    kept: Mode = "shortest" if scale[0] == scale[1] else "shortest rounded"
    modes: dict[str, Mode] = {"squash": "squash", "border": "longest"}
    mode = modes.get(settings.get("crop_mode") or "center", kept)
    mean, std = tuple(settings["mean"]), tuple(settings["std"])
    fill = tuple(round(255 * value) for value in mean) if mode == "longest" else (0, 0, 0)
    return Pixels(Fit(mode, size, scale, settings["interpolation"], fill), size, mean, std)
