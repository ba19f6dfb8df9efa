"""Names to encoders: one line per family, and the entry-point group for those of third parties."""

from __future__ import annotations

import importlib
import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from vecstore.encoders.base import Encoder
from vecstore.errors import EncoderError, NotFound, PackageMissing, UsageError

GROUP = "vecstore.encoders"
"""Entry points of this group add families: NAME = "package.module:make"; `make` as in `Make`."""

Make = Callable[[str, Path | None, str | None, str | None], Encoder]
"""make(name, weights, device, compute): `name` in full, the family included; None means "choose"."""


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of encoder.

    Attributes
    ----------
    name : str
        The part of an encoder's name before the first colon.
    target : str
        "module:function" of its `Make`.
    example : str
        A full name.
    about : str
        One line.
    """

    name: str
    target: str
    example: str
    about: str


_HERE = "vecstore.encoders"
_OWN = (
    Family("bundled", f"{_HERE}.bundled:make", "bundled", "EfficientNet-Lite0; installed with vecstore, needs no hub"),
    Family("torchvision", f"{_HERE}.torchvision_encoder:make", "torchvision:resnet50/IMAGENET1K_V2", "ImageNet models"),
    Family("open_clip", f"{_HERE}.open_clip_encoder:make", "open_clip:ViT-B-32/laion2b_s34b_b79k", "image and text"),
    Family("timm", f"{_HERE}.timm_encoder:make", "timm:vit_small_patch14_dinov2.lvd142m", "image models of the hub"),
    Family("fake", f"{_HERE}.fake:make", "fake:64", "deterministic and fast, without torch: for tests"),
)

_OPTIONAL = {"torch": "torch", "torchvision": "torchvision", "open_clip": "open_clip_torch", "timm": "timm"}
"""Modules that a family may lack, and what to install."""


def list_encoders() -> list[Family]:
    """All registered families, own ones first.

    Raises
    ------
    EncoderError
        Two registrations of one name.

    Examples
    --------
    >>> [family.name for family in list_encoders()][:4]
    ['bundled', 'torchvision', 'open_clip', 'timm']
    """
    return _families(list(entry_points(group=GROUP)))


def _families(points: list[EntryPoint]) -> list[Family]:
    found = {family.name: family for family in _OWN}
    for point in sorted(points, key=lambda point: point.name):
        by = point.dist.name if point.dist else point.module
        family = Family(point.name, point.value, point.name, f"from the package {by}")
        known = found.setdefault(point.name, family)
        if known.target != family.target:
            raise EncoderError(
                f"two encoders are registered as {point.name!r}: {known.target} and {family.target}",
                expected="one",
                do=f"uninstall one of the packages, or rename its entry point in the group {GROUP}",
            )
    return list(found.values())


def open_encoder(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    device: str | None = None,
    compute: str | None = None,
) -> Encoder:
    """Open an encoder by its name.

    Parameters
    ----------
    name : str
        "bundled", "torchvision:ARCH/WEIGHTS", "open_clip:ARCH/TAG", "open_clip:hf-hub:ORG/REPO",
        "timm:ARCH.TAG", "timm:hf-hub:ORG/REPO@REVISION", "open_clip:local-dir:PATH", "timm:local-dir:PATH",
        "fake:DIM", or one that a third party registered. "+stages" after a torchvision, open_clip or timm name
        pools the network's stages (see `stages.py`), as the bundled encoder does.
    weights : path, optional
        Weights file: safetensors, or a checkpoint that is read without running its code.
    device : str, optional
        "auto" (default), "cpu", "cuda", "cuda:1", "mps".
    compute : str, optional
        "float32", "bfloat16" or "float16"; by default what the device is fast with.

    Returns
    -------
    Encoder

    Raises
    ------
    NotFound
        No such family, architecture or tag; the message lists what there is.
    UsageError
        The name is incomplete, or names "DEFAULT" weights.
    WeightsMissing
        The weights are not here and can't be, or must not be, fetched.
    PackageMissing
        The family's library is not installed.
    EncoderError
        The weights don't fit, or the device is not there.

    Examples
    --------
    >>> open_encoder("fake:64").passport.dim
    64
    """
    families = {family.name: family for family in list_encoders()}
    family = families.get(name.partition(":")[0])
    if family is None:
        raise _unknown(name, families)
    file = _weights_file(weights)
    return _make(family)(name, file, None if device == "auto" else device, compute)


def _unknown(name: str, families: dict[str, Family]) -> NotFound:
    known = [family for family in families.values() if family.name != "fake"]  # it is for tests
    near = get_close_matches(name.partition(":")[0], families, n=1)
    meant = families[near[0]].example if near else _of_architecture(name, known)
    return NotFound(
        f"no encoder {name!r}",
        expected=f"a name like one of: {', '.join(family.example for family in known)}",
        do=f"did you mean {meant}?" if meant else "",
    )


def _of_architecture(name: str, known: Sequence[Family]) -> str:
    """The example of a family whose networks are named like this; "" where there is none.

    >>> _of_architecture("resnet50", list_encoders())
    'torchvision:resnet50/IMAGENET1K_V2'
    """
    networks = {re.split("[/.]", family.example.partition(":")[2])[0]: family.example for family in known}
    near = get_close_matches(re.split("[/.]", name)[0], networks, n=1, cutoff=0.7)
    return networks[near[0]] if near else ""


def _weights_file(weights: str | os.PathLike[str] | None) -> Path | None:
    if weights is None:
        return None
    path = Path(weights)
    if not path.is_file():
        raise UsageError(
            f"the weights {os.fspath(weights)} are not a file",
            expected="a safetensors file or a checkpoint",
            do="check the path after --weights",
        )
    return path


def _make(family: Family) -> Make:
    """Import a family's function; only the absence of a known optional library is turned into advice."""
    module, _, function = family.target.partition(":")
    try:
        with warnings.catch_warnings():  # what libraries say about themselves while being imported
            warnings.simplefilter("ignore")
            make: Make = getattr(importlib.import_module(module), function)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _OPTIONAL:
            raise
        raise PackageMissing(
            f"the encoders {family.name!r} need the package {missing}, which is not installed",
            do=f"run: pip install {_OPTIONAL[missing]}",
        ) from error
    return make
