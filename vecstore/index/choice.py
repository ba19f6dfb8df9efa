"""Which index: from the number of vectors, their length and spectrum, and the memory and recall that are asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vecstore.errors import UsageError
from vecstore.index.coded import Design
from vecstore.records import FloatArray

EXACT_BELOW = 20_000
"""Vectors that a scan compares in about two milliseconds (d = 512): codes would save nothing that is felt."""

CELLS_FROM = 250_000
"""Vectors from which on looking at every code is what takes the time, also where many directions are needed."""

KINDS = ("exact", "coded", "cells")

GB = 1_000_000_000


def size_of(n: int) -> str:
    """Bytes as a person reads them.

    >>> size_of(2_050_000_000), size_of(3_900_000), size_of(1000)
    ('2.05 GB', '3.9 MB', '1 kB')
    """
    for unit, name, digits in ((GB, "GB", 2), (10**6, "MB", 1)):
        if n >= unit:
            return f"{n / unit:.{digits}f} {name}"
    return f"{n / 1000:.0f} kB"


@dataclass(frozen=True, slots=True)
class Spectrum:
    """How the variance of vectors is spread over directions.

    Attributes
    ----------
    effective : float
        Directions that carry it: the participation ratio (Σλ)²/Σλ² of the variances about the mean.
    within : dict of int to float
        Share of the squared length within so many principal components.
    """

    effective: float
    within: dict[int, float]


def spectrum(vectors: FloatArray) -> Spectrum:
    """The spectrum of a random sample of unit vectors, of shape (n, dim), float32."""
    n, dim = vectors.shape
    moments = vectors.T @ vectors / max(n, 1)
    shares = np.linalg.eigvalsh(moments.astype(np.float64))[::-1]
    mean = vectors.mean(axis=0, dtype=np.float64)
    spread = moments - np.outer(mean, mean)
    total = float(np.trace(spread))
    effective = total**2 / float((spread * spread).sum()) if total > 0 else 0.0
    return Spectrum(effective, {m: float(shares[:m].sum() / shares.sum()) for m in (64, 128, 192, 256) if m < dim})


@dataclass(frozen=True, slots=True)
class Plan:
    """What to build, and why.

    Attributes
    ----------
    kind : {"exact", "coded", "cells"}
    design : Design or None
        None for "exact".
    why : str
    seconds : float
        Estimated time of building on one core, reading the vectors not included.
    bytes : int
        Estimated size on disk.
    memory : int
        Bytes that searching keeps in memory; what is mapped from the file is not counted.
    """

    kind: str
    design: Design | None
    why: str
    seconds: float
    bytes: int
    memory: int

    def __str__(self) -> str:
        what = self.kind if self.design is None else f"{self.kind} ({self.design})"
        return (
            f"{what}: {self.why}; about {max(self.seconds, 0.1):.1f} s to build, {size_of(self.bytes)} on disk,"
            f" {size_of(self.memory)} in memory"
        )


def choose(
    n: int, dim: int, sample: Spectrum | None, recall: float = 0.99, memory: int | None = None, kind: str | None = None
) -> list[Plan]:
    """Plans in the order in which they are to be tried; the last one is exact.

    Parameters
    ----------
    n, dim : int
    sample : Spectrum or None
        None where only an exact index comes into question.
    recall : float
        Share of the exact hits that has to be found, above 0 and up to 1; 1 is an exact index.
    memory : int, optional
        Bytes that an index may keep in memory.
    kind : {"exact", "coded", "cells"}, optional
        Instead of choosing.

    Raises
    ------
    UsageError
        A recall outside its range, an unknown kind, or no index that fits into the memory.
    """
    if not 0 < recall <= 1:
        raise UsageError(f"recall {recall}", expected="above 0 and at most 1", do="--recall 0.99")
    if kind is not None and kind not in KINDS:
        raise UsageError(f"kind {kind!r}", expected=f"one of: {', '.join(KINDS)}", do="leave --kind away to choose")
    exact = _exact(n, dim, recall, kind)
    plans = [] if sample is None else _coded(n, dim, sample)
    if kind == "exact" or (kind is None and (n < EXACT_BELOW or recall == 1)):
        plans = []
    elif kind is not None:
        plans = [plan for plan in plans if plan.kind == kind]
    elif n < CELLS_FROM:
        plans = [plan for plan in plans if plan.kind == "coded" or (plan.design and plan.design.code == "half")]
    plans.append(exact)
    fitting = [plan for plan in plans if memory is None or plan.memory <= memory]
    if not fitting:
        least = min(plans, key=lambda plan: plan.memory)
        raise UsageError(
            f"no index of {n} vectors of length {dim} fits into {size_of(memory or 0)}",
            expected=f"at least {size_of(least.memory)} ({least.kind})",
            do="give more --memory, or ask for less --recall",
        )
    return fitting


def _exact(n: int, dim: int, recall: float, kind: str | None) -> Plan:
    size = n * (4 * dim + 8)
    if kind == "exact":
        why = "as asked for"
    elif recall == 1:
        why = "nothing may be missed"
    elif n < EXACT_BELOW:
        why = f"{n} vectors are compared in about {max(1, round(n * dim * 4 / 2.5e10 * 1000))} ms"
    else:
        why = "the last resort"
    return Plan("exact", None, why, n * dim * 8e-9, size, size)


def _coded(n: int, dim: int, sample: Spectrum) -> list[Plan]:
    """Codes in one cell and in many; of the many, the code that the spectrum speaks for first."""
    told = f"variance in {sample.effective:.0f} of {dim} directions"
    designs = [("coded", Design("rabitq"), f"one bit a dimension finds candidates on any spectrum ({told})")]
    cells = int(2 ** round(np.log2(max(16.0, min(2.0 * np.sqrt(n), n / 64)))))
    few = next((m for m in (64, 128) if m < dim and sample.within.get(m, 0.0) > 0.98), None)
    steep = few is not None or dim <= 128
    many = [
        ("cells", Design("rabitq", 0, cells), f"codes of each cell's differences suit a steep spectrum ({told})"),
        (
            "cells",
            Design("pq", 256 if dim > 256 else 0, cells),
            f"two bits a dimension suit a flat spectrum ({told})",
        ),
    ]
    designs = (many if steep else many[::-1]) + designs
    if few is not None:
        why = f"{few} directions have {sample.within[few]:.1%} of the squared length, which suits one query and many"
        designs = [("cells", Design("half", few, max(1, cells // 2)), why), *designs]
    plans = []
    for kind, design, why in designs:
        kept = design.project or dim
        seconds = n * dim * 1.5e-8 + (dim**2 * 20_000 * 4e-11 if design.project else 0.0)
        if design.cells > 1:
            seconds += 10 * 64 * design.cells * design.cells * kept * 4e-11 + n * design.cells * kept * 4e-11
        if design.code == "pq":
            seconds += n * kept * 2e-8 + 0.5
        memory = n * design.bytes_per_row(dim)
        plans.append(Plan(kind, design, why, seconds, memory + n * (12 + 2 * dim), memory))
    return plans
