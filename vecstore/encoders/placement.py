"""Where and in which type a network computes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vecstore.errors import EncoderError, UsageError

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Placement:
    """A device, the type to compute in, and whether that type was asked for by name."""

    device: torch.device
    dtype: torch.dtype
    asked: bool = False

    def __str__(self) -> str:
        device = self.device.type if self.device.index is None else f"{self.device.type}:{self.device.index}"
        return f"{str(self.dtype).removeprefix('torch.')} on {device}"

    @property
    def on_cpu(self) -> bool:
        """Whether it is the processor."""
        return self.device.type == "cpu"


def place(device: str | None = None, compute: str | None = None) -> Placement:
    """Choose a device and a type.

    Parameters
    ----------
    device : str, optional
        "cpu", "cuda", "cuda:1", "mps"; by default the first GPU, else the processor.
    compute : str, optional
        "float32", "bfloat16", "float16"; by default what the device multiplies fast: float16 on a GPU with tensor
        cores, bfloat16 on a processor that has it, else float32.

    Returns
    -------
    Placement

    Raises
    ------
    UsageError
        No such device or type.
    EncoderError
        The device is not on this machine.

    Examples
    --------
    >>> str(place("cpu", "float32"))
    'float32 on cpu'
    """
    chosen = _device(device)
    if compute is None:
        return Placement(chosen, _fast_type(chosen))
    if compute not in _TYPES:
        raise UsageError(f"no computing type {compute!r}", expected=f"one of: {', '.join(_TYPES)}")
    return Placement(chosen, _TYPES[compute], asked=True)


def _device(name: str | None) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(
            f"no device {name!r}", expected="auto, cpu, cuda, cuda:N or mps", do="check --device"
        ) from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise EncoderError(
            f"the device {name} is not on this machine", expected=f"one of: {_present()}", do="use --device auto"
        )
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else torch.device(device.type)


def _present() -> str:
    names = ["cpu"]
    if torch.cuda.is_available():
        names += [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return ", ".join(names + (["mps"] if torch.backends.mps.is_available() else []))


def _fast_type(device: torch.device) -> torch.dtype:
    """The shortest type the hardware multiplies; where it only emulates one, float32 is faster and exact."""
    if device.type == "cuda":
        return torch.float16 if torch.cuda.get_device_capability(device)[0] >= 7 else torch.float32
    mkldnn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if device.type != "cpu" or not mkldnn:
        return torch.float32
    # Underscored, but torch has no public question; where an older version lacks one, float32 is chosen.
    questions = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return torch.bfloat16 if any(question() for question in questions if question is not None) else torch.float32
