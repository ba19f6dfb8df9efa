"""Codes in cells: only the cells nearest to a query are looked at, for archives of hundreds of thousands and more."""

from __future__ import annotations

from typing import ClassVar

from vecstore.index.coded import CodedIndex, Design


class CellsIndex(CodedIndex):
    """A `CodedIndex` in many cells (IVF)."""

    kind: ClassVar[str] = "cells"
    default: ClassVar[Design] = Design(cells=512)
