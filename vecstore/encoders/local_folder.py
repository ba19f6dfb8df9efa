"""Models in a folder of one's own: a configuration and weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
