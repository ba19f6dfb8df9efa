"""Models that come with a configuration: folders, config files, and what they get wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vecstore.errors import EncoderError, UsageError


def open_folder(path: str, config: str) -> Path:
    """The folder of a `local-dir:` name.

    Raises
    ------
    UsageError
        There is no such folder.
    EncoderError
        It has no configuration: without one the preprocessing would be a guess.
    """
    folder = Path(path).resolve()
    if not path or not folder.is_dir():
        raise UsageError(f"no folder {path!r}", expected="a folder after local-dir:", do="check the path")
    if not (folder / config).is_file():
        raise EncoderError(
            f"the folder {folder.name} has no {config}",
            expected=f"{config}, which tells the architecture and the preprocessing, beside the weights",
            do="save the model with its configuration",
        )
    return folder


def find_weights(folder: Path, preferred: Sequence[str]) -> Path:
    """The weights in a folder: the first preferred name, else the only file that looks like weights.

    Raises
    ------
    EncoderError
        None, or several.
    """
    for name in preferred:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path for suffix in ("safetensors", "bin", "pth", "pt") for path in folder.glob(f"*.{suffix}"))
    if len(found) == 1:
        return found[0]
    raise EncoderError(
        f"the folder {folder.name} has {len(found) or 'no'} weights files"
        + (f" ({', '.join(path.name for path in found[:4])})" if found else ""),
        expected=f"one, or {preferred[0]}",
        do="name the file with --weights",
    )


def read_config(path: Path, name: str) -> dict[str, Any]:
    """The JSON object in a configuration file.

    Raises
    ------
    EncoderError
        It is not JSON, or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise EncoderError(f"{path.name} of {name} is not JSON ({error})", do="fetch the file again") from error
    if not isinstance(content, dict):
        raise EncoderError(f"{path.name} of {name} is not a JSON object", do="fetch the file again")
    return content


@contextmanager
def building(name: str) -> Iterator[None]:
    """Turn what a library raises about a configuration that it can't build from into ours.

    Raises
    ------
    EncoderError
        An argument is unknown or out of range.
    """
    try:
        yield
    except (TypeError, ValueError, KeyError, AttributeError, AssertionError, RuntimeError) as error:
        raise EncoderError(
            f"{name} can't be built from its configuration ({type(error).__name__}: {str(error).strip()[:200]})",
            expected="the arguments that this version of the library knows",
            do="update the library, or take the configuration that belongs to the weights",
        ) from error


def listed(names: Sequence[str], most: int = 8) -> str:
    """The first of several names, for a message.

    >>> listed(["a", "b", "c"], 2), listed([])
    ('one of: a, b and 1 more', 'weights of your own: none are published')
    """
    if not names:
        return "weights of your own: none are published"
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"one of: {', '.join(names[:most])}{more}"
