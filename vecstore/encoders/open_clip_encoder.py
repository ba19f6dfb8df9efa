"""`open_clip:ARCH/TAG`, `open_clip:hf-hub:ORG/REPO`, `open_clip:local-dir:PATH`, `open_clip:ARCH` with `--weights`.

Preprocessing is the tag's or the configuration's own. Own weights of a bare architecture take what all tags of that
architecture agree on; where they don't agree, a tag must be named, because a wrong mean and std would go unnoticed.
Pictures and texts share the space. Nothing is asked of a hub for a text. `+stages` after the name pools blocks of the
image tower instead (see `stages.py`); such a space has no texts.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
from open_clip.tokenizer import HFTokenizer
from open_clip.transform import PreprocessCfg
from torch import Tensor, nn

from vecstore.encoders.base import unit_rows
from vecstore.encoders.configs import building, find_weights, listed, open_folder, read_config
from vecstore.encoders.hub import from_hugging_face, from_url
from vecstore.encoders.placement import Placement, place
from vecstore.encoders.resize import Fit, Mode
from vecstore.encoders.stages import OPTION, PooledOutputs, Stages, asked, quarters, unknown
from vecstore.encoders.torch_encoder import Pixels, TorchEncoder
from vecstore.encoders.weights import weights_errors
from vecstore.errors import EncoderError, NotFound, PackageMissing, UsageError
from vecstore.files import canonical_json, sha256_file
from vecstore.records import FloatArray, Passport

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
LOCAL_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)
_TEXT_BATCH = 64


@dataclass(frozen=True, slots=True)
class _Spec:
    """What a name stands for: both towers, the preprocessing, and a file."""

    name: str
    model: Mapping[str, Any]
    described: str
    preprocess: Mapping[str, Any]
    file: Path
    revision: str = ""
    folder: Path | None = None


def make(name: str, weights: Path | None, device: str | None, compute: str | None) -> TorchEncoder:
    """Open a CLIP model as an encoder."""
    name, staged = asked(name)
    rest = name.removeprefix("open_clip:")
    placement = place(device, compute)
    if rest.startswith("local-dir:"):
        spec = _from_folder(rest.removeprefix("local-dir:"), weights)
    elif rest.startswith("hf-hub:"):
        spec = _from_hub(name, rest.removeprefix("hf-hub:"), weights)
    else:
        spec = _from_registry(name, rest, weights)
    if staged:
        visual = _build(spec).get_submodule("visual")
        stages = _stages(spec.name, visual)
        pixels = _tower_pixels(spec, visual)
        pooled = PooledOutputs(visual, stages)
        return TorchEncoder(pooled, pixels, placement, lambda dim: _passport(spec, pixels, stages, dim))
    return OpenClipEncoder(spec, _build(spec), placement)


def _passport(spec: _Spec, pixels: Pixels, stages: Stages | None, dim: int) -> Passport:
    return Passport(
        encoder=spec.name + (OPTION if stages else ""),
        library="open_clip",
        model=spec.described,
        weights_sha256=sha256_file(spec.file),
        revision=spec.revision,
        licence=str(spec.preprocess.get("license") or ""),
        input_size=pixels.size,
        resize=str(pixels.fit),
        mean=pixels.mean,
        std=pixels.std,
        pooling=str(stages) if stages else "the image tower's",
        dim=dim,
    )


def _stages(name: str, visual: Any) -> Stages:
    """Where to read an image tower: a transformer's blocks, or a ResNet's stages but the last."""
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    if isinstance(blocks, nn.ModuleList) and getattr(visual.transformer, "batch_first", True):
        return Stages(quarters("transformer.resblocks", len(blocks)), prefix=1)
    if isinstance(visual, open_clip.modified_resnet.ModifiedResNet):
        return Stages(("avgpool", "layer1", "layer2", "layer3"))
    raise unknown(name, "an image tower of open_clip's own: a ViT or a ResNet (timm's: use timm: for the tower alone)")


class OpenClipEncoder(TorchEncoder):
    """The image tower packed for the device; the text tower in float32, because texts are few."""

    def __init__(self, spec: _Spec, model: nn.Module, placement: Placement) -> None:
        visual = model.get_submodule("visual")
        pixels = _tower_pixels(spec, visual)
        super().__init__(_ImageTower(visual), pixels, placement, lambda dim: _passport(spec, pixels, None, dim))
        model.set_submodule("visual", nn.Identity())  # this encoder has its own form of it
        self._spec = spec
        self.logit_scale = float(model.get_parameter("logit_scale").detach().exp())
        self._text: Any = model.to(placement.device).eval().requires_grad_(False)
        self._tokenizer: Any = None

    def encode_text(self, texts: Sequence[str]) -> FloatArray:
        """Vectors of texts; see `Encoder.encode_text`.

        Raises
        ------
        PackageMissing, EncoderError
            The model's tokenizer needs a package or files that are not here.
        """
        if self._tokenizer is None:
            self._tokenizer = _tokenizer(self._spec)
        vectors = torch.empty((0, self.passport.dim))
        with torch.inference_mode():
            for start in range(0, len(texts), _TEXT_BATCH):
                tokens = self._tokenizer(list(texts[start : start + _TEXT_BATCH])).to(self._placement.device)
                vectors = torch.cat([vectors, self._text.encode_text(tokens).float().cpu()])
        made: FloatArray = vectors.numpy()
        return unit_rows(made)


class _ImageTower(nn.Module):
    """The pooled output alone; some towers also return their positions' outputs."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
        if isinstance(blocks, nn.ModuleList) and _reads_class_token(visual, blocks[-1]):
            blocks[-1] = ClassTokenBlock(blocks[-1])
        self.visual = visual

    def forward(self, x: Tensor) -> Tensor:
        """(n, 3, height, width) to (n, dim)."""
        made: Tensor | tuple[Tensor, ...] = self.visual(x)
        return made[0] if isinstance(made, tuple) else made


def _reads_class_token(visual: Any, last: Any) -> bool:
    """Whether only the class token of the last block's output is used, and that block is a plain one."""
    plain = isinstance(getattr(last, "attn", None), nn.MultiheadAttention) and not hasattr(last, "ln_1_kv")
    alone = getattr(visual, "attn_pool", None) is None and not getattr(visual, "output_tokens", True)
    return plain and last.attn.batch_first and alone and getattr(visual, "pool_type", "") == "tok"


class ClassTokenBlock(nn.Module):
    """The last block of a vision transformer, for the class token alone: the other positions are never read.

    Saves ten of its twelve matrix products, which is 7 % of a ViT-B/32.

    Parameters
    ----------
    block : Module
        open_clip's ResidualAttentionBlock.
    """

    def __init__(self, block: Any) -> None:
        super().__init__()
        weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
        dim = weight.shape[1]
        self._heads = block.attn.num_heads
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.query.weight, self.query.bias = nn.Parameter(weight[:dim]), nn.Parameter(bias[:dim])
        self.key_value.weight, self.key_value.bias = nn.Parameter(weight[dim:]), nn.Parameter(bias[dim:])
        self.out = nn.Linear(dim, dim)
        self.out.weight, self.out.bias = block.attn.out_proj.weight, block.attn.out_proj.bias
        self.ln_1, self.ls_1 = block.ln_1, block.ls_1
        self.ln_2, self.ls_2, self.mlp = block.ln_2, block.ls_2, block.mlp

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """(n, positions, width) to (n, 1, width)."""
        n, positions, width = x.shape
        normal = self.ln_1(x)
        query = self.query(normal[:, :1]).view(n, 1, self._heads, -1).transpose(1, 2)
        pairs = self.key_value(normal).view(n, positions, 2, self._heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, pairs[0], pairs[1], attn_mask)
        token: Tensor = x[:, :1] + self.ls_1(self.out(mixed.transpose(1, 2).reshape(n, 1, width)))
        widened: Tensor = self.ls_2(self.mlp(self.ln_2(token)))
        return token + widened


def _from_registry(name: str, model: str, weights: Path | None) -> _Spec:
    architecture, slash, tag = model.partition("/")
    config = open_clip.get_model_config(architecture) if architecture in open_clip.list_models() else None
    if config is None:
        near = get_close_matches(architecture, open_clip.list_models(), n=3)
        raise NotFound(
            f"open_clip has no model {architecture!r}",
            expected=f"an architecture such as {', '.join(near or ['ViT-B-32', 'ViT-L-14'])}",
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    choice = listed([f"open_clip:{architecture}/{known}" for known in tags])
    if slash and tag not in tags:
        raise NotFound(f"open_clip has no weights {tag!r} of {architecture}", expected=choice)
    if not slash and weights is None:
        raise UsageError(f"{name} names no weights", expected=choice, do="or give a file with --weights")
    chosen = open_clip.get_pretrained_cfg(architecture, tag) if slash else _agreed(architecture, tags, choice)
    described = architecture
    if chosen.get("quick_gelu") and not config.get("quick_gelu"):
        # open_clip only warns, and then computes with another activation than the weights were trained with.
        config, described = {**config, "quick_gelu": True}, f"{architecture} quick_gelu"
    file = weights or _published(name, chosen)
    return _Spec(f"open_clip:{model}", config, described, chosen, file, tag)


def _agreed(architecture: str, tags: Sequence[str], choice: str) -> Mapping[str, Any]:
    """The preprocessing that all tags of an architecture share."""
    defaults = asdict(PreprocessCfg())
    found = [
        {key: value for key, value in open_clip.get_pretrained_cfg(architecture, tag).items() if key in defaults}
        for tag in tags
    ]
    if any(one != found[0] for one in found):
        raise EncoderError(
            f"the published weights of {architecture} differ in their preprocessing",
            expected=choice,
            do="name the one whose preprocessing your weights were trained with, beside --weights",
        )
    return found[0] if found else {}


def _published(name: str, chosen: Mapping[str, Any]) -> Path:
    """Where open_clip itself would take the weights from."""
    if chosen.get("hf_hub"):
        repo, _, filename = str(chosen["hf_hub"]).rpartition("/")
        return from_hugging_face(repo, [filename] if filename else WEIGHTS, None, name)
    return from_url(str(chosen["url"]), Path.home() / ".cache" / "clip", name)


def _from_hub(name: str, model: str, weights: Path | None) -> _Spec:
    repo, _, revision = model.partition("@")
    config = from_hugging_face(repo, [CONFIG], revision or None, name, flag=False)
    file = weights or from_hugging_face(repo, WEIGHTS, revision or None, name)
    return _configured(f"open_clip:hf-hub:{model}", config, file, revision, None)


def _from_folder(path: str, weights: Path | None) -> _Spec:
    folder = open_folder(path, CONFIG)
    file = weights or find_weights(folder, LOCAL_WEIGHTS)
    return _configured(f"open_clip:local-dir:{folder.name}", folder / CONFIG, file, "", folder)


def _configured(name: str, config: Path, file: Path, revision: str, folder: Path | None) -> _Spec:
    """A model from the open_clip_config.json that open_clip writes."""
    content = read_config(config, name)
    model = content.get("model_cfg")
    if not (isinstance(model, Mapping) and {"embed_dim", "vision_cfg", "text_cfg"} <= model.keys()):
        raise EncoderError(
            f"{CONFIG} of {name} has no model_cfg of a CLIP model",
            expected="embed_dim, vision_cfg and text_cfg in it",
            do="take the file that open_clip wrote beside the weights",
        )
    return _Spec(name, model, canonical_json(model), content.get("preprocess_cfg") or {}, file, revision, folder)


def _build(spec: _Spec) -> nn.Module:
    """Both towers with their weights; `create_model` would also log, download and initialise in passing."""
    config: dict[str, Any] = deepcopy(dict(spec.model))
    text = config["text_cfg"]
    if "hf_model_name" in text:
        _need_transformers(spec.name)
        text["hf_model_pretrained"] = False
    if "timm_model_name" in config["vision_cfg"]:
        config["vision_cfg"]["timm_model_pretrained"] = False
    custom = config.pop("custom_text", False) or "hf_model_name" in text
    kind = open_clip.CLIP if not custom else open_clip.CustomTextCLIP
    with building(spec.name):
        model: nn.Module = (open_clip.CoCa if custom and "multimodal_cfg" in config else kind)(**config)
    with weights_errors(spec.file):
        open_clip.load_checkpoint(model, str(spec.file), strict=True, weights_only=True)
    return model


def _tokenizer(spec: _Spec) -> Any:
    """The model's own tokenizer, from what is on this machine."""
    text = spec.model["text_cfg"]
    settings = {"context_length": text.get("context_length", 77), **(text.get("tokenizer_kwargs") or {})}
    named = text.get("hf_tokenizer_name")
    if not named:
        return open_clip.SimpleTokenizer(**settings)
    _need_transformers(spec.name)
    source = str(spec.folder) if spec.folder else named
    try:
        return HFTokenizer(source, tokenizer_mode=text.get("tokenizer_mode"), local_files_only=True, **settings)
    except (OSError, ValueError) as error:
        raise EncoderError(
            f"the tokenizer {named} of {spec.name} is not on this machine",
            expected="its files in the cache of the hub, or in the folder of the model",
            do=f"run, where the hub can be reached: hf download {named}",
        ) from error


def _need_transformers(name: str) -> None:
    if importlib.util.find_spec("transformers") is None:
        raise PackageMissing(
            f"the text tower of {name} needs the package transformers, which is not installed",
            do="run: pip install transformers",
        )


def _tower_pixels(spec: _Spec, visual: Any) -> Pixels:
    return _pixels(spec.preprocess, getattr(visual, "image_size", None))


def _pixels(preprocess: Mapping[str, Any], own_size: Any) -> Pixels:
    """What open_clip's `image_transform` does for inference."""
    settings = asdict(PreprocessCfg())
    settings.update({key: value for key, value in preprocess.items() if key in settings and value is not None})
    size = own_size if own_size is not None else settings["size"]
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[-1]))
    modes: dict[str, Mode] = {"longest": "longest", "squash": "squash"}
    mode = modes.get(settings["resize_mode"], "shortest" if height == width else "shortest rounded")
    fill: int = settings["fill_color"] if mode == "longest" else 0
    # As there: whatever is not bilinear is bicubic, and so is the shorter side of an input that is not square.
    linear = settings["interpolation"] == "bilinear" and mode != "shortest rounded"
    interpolation = "bilinear" if linear else "bicubic"
    fit = Fit(mode, (height, width), interpolation=interpolation, fill=(fill, fill, fill))
    return Pixels(fit, (height, width), tuple(settings["mean"]), tuple(settings["std"]))
