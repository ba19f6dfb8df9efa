"""Encoders."""

from __future__ import annotations

import os

from vecstore.encoders.base import Encoder


def open_encoder(
    name: str, *, weights: str | os.PathLike[str] | None = None, device: str | None = None, compute: str | None = None
) -> Encoder:
    """Open an encoder by name."""
    from vecstore.encoders.fake import FakeEncoder

    return FakeEncoder(int(name.partition(":")[2] or 64))
