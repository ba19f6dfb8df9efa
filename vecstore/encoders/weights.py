"""Weights files: read without running anything in them, and fitted to a network key by key."""

from __future__ import annotations

import pickle
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vecstore.errors import EncoderError

State = dict[str, Tensor]

_WRAPPERS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
"""What training loops put around (DistributedDataParallel, torch.compile)."""


def read_state(path: Path) -> State:
    """Named tensors of a safetensors file or a checkpoint.

    Parameters
    ----------
    path : Path
        A checkpoint may wrap its tensors in "state_dict", "model_state_dict" or "model", and begin their names
        with "module.".

    Raises
    ------
    EncoderError
        It is neither, or it would run code on being read, or it has no tensors.
    """
    with weights_errors(path):
        if _is_safetensors(path):
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    return _tensors(content, path)


def _tensors(content: Any, path: Path) -> State:
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        content = {}
    state = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise EncoderError(
            f"{path.name} holds no named tensors",
            expected="a state dict, alone or under " + ", ".join(map(repr, _WRAPPERS)),
            do="save it with torch.save(model.state_dict(), FILE)",
        )
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _is_safetensors(path: Path) -> bool:
    """By its look: the length of a JSON header, then the header."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and struct.unpack("<Q", head[:8])[0] < path.stat().st_size


@contextmanager
def weights_errors(path: Path) -> Iterator[None]:
    """Turn what readers of weights raise into our errors."""
    try:
        # "looks like a TorchScript archive", "detected pickle protocol 4": the error that follows says it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except pickle.UnpicklingError as error:
        raise EncoderError(
            f"{path.name} is refused: reading it would run code, or it is damaged ({_first_line(error)})",
            expected="tensors alone",
            do="convert it where it is trusted, with safetensors.torch.save_file(model.state_dict(), FILE)",
        ) from error
    except SafetensorError as error:
        raise EncoderError(
            f"{path.name} is a damaged safetensors file ({_first_line(error)})", do="fetch it again"
        ) from error
    except _READERS as error:
        raise EncoderError(
            f"{path.name} can't be read as weights ({_first_line(error)})",
            expected="a safetensors file or a state dict saved by torch.save",
            do="convert TorchScript archives and whole pickled models to a state dict where they are trusted",
        ) from error


_READERS = (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError, AssertionError, struct.error)
"""What torch's reader raises over bytes that are no checkpoint, besides UnpicklingError."""


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].strip()[:200]


def load_state(
    network: nn.Module, state: State, path: Path, ignorable: Callable[[str], bool] = lambda _: False
) -> None:
    """Put tensors into a network, all of them and into all of it.

    Parameters
    ----------
    network : Module
    state : dict of Tensor
    path : Path
        For the message.
    ignorable : callable
        Which keys may be missing or left over: those of the classifier that is cut off.

    Raises
    ------
    EncoderError
        Keys are missing or left over, or have another shape; the first few are named.
    """
    own = network.state_dict()
    # Counters that old checkpoints lack, and that only training reads.
    wanted = {key for key in own if not ignorable(key) and not key.endswith("num_batches_tracked")}
    wrong = {
        "missing": sorted(wanted - state.keys()),
        "unexpected": sorted(key for key in state.keys() - own.keys() if not ignorable(key)),
        "of another shape": sorted(key for key in wanted & state.keys() if own[key].shape != state[key].shape),
    }
    if any(wrong.values()):
        raise EncoderError(
            f"{path.name} does not fit: " + "; ".join(_some(what, keys) for what, keys in wrong.items() if keys),
            expected=f"{len(wanted)} tensors such as {', '.join(sorted(wanted)[:2])}",
            do="check that the weights belong to this architecture",
        )
    chosen = type(own)((key, value) for key, value in state.items() if key in own and not ignorable(key))
    chosen._metadata = own._metadata  # type: ignore[attr-defined]  # layers that changed ask for the version
    network.load_state_dict(chosen, strict=False)


def _some(what: str, keys: list[str]) -> str:
    return f"{len(keys)} {what} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
