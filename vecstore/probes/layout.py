"""What a fitted probe consists of, said once by its class, so that one reader and one writer serve all models.

A new model is a class with a `layout`, in a file of its own, and a line in `vecstore.probes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Array:
    """An array of a fitted probe.

    Attributes
    ----------
    *axes : str
        Names of its axes. Axes of one name have one length. Known beforehand are "features", "classes" and "outputs"
        (1 for a binary task, else one per class).
    dtype : str
        As NumPy names it.
    finite : bool
        Whether every value must be finite.
    or_axes : tuple of str
        Other axes that will do.
    """

    axes: tuple[str, ...]
    dtype: str
    finite: bool
    or_axes: tuple[str, ...]

    def __init__(self, *axes: str, dtype: str = "float64", finite: bool = False, or_axes: tuple[str, ...] = ()) -> None:
        for name, value in (("axes", axes), ("dtype", dtype), ("finite", finite), ("or_axes", or_axes)):
            object.__setattr__(self, name, value)

    def wrong(self, array: npt.NDArray[Any], sizes: dict[str, int]) -> str:
        """What is wrong with an array, or nothing; lengths seen for the first time are added to `sizes`."""
        axes = self.or_axes if self.or_axes and array.ndim == len(self.or_axes) else self.axes
        if array.dtype != np.dtype(self.dtype):
            return f"is of {array.dtype}"
        if array.ndim != len(axes) or any(
            sizes.setdefault(axis, size) != size for axis, size in zip(axes, array.shape, strict=True)
        ):
            return f"has shape {array.shape}, not {tuple(sizes.get(axis, axis) for axis in axes)}"
        return "is not finite" if self.finite and not np.isfinite(array).all() else ""


@dataclass(frozen=True, slots=True)
class Layout:
    """All that is kept of a fitted probe beside its parameters and classes.

    Attributes
    ----------
    arrays : mapping of attribute to Array
    values : frozenset of str
        Attributes that are plain values; "kind_" and "n_features_in_" always are.
    """

    arrays: Mapping[str, Array]
    values: frozenset[str]

    def __init__(self, arrays: Mapping[str, Array], values: tuple[str, ...] = ()) -> None:
        object.__setattr__(self, "arrays", dict(arrays))
        object.__setattr__(self, "values", frozenset(values) | {"kind_", "n_features_in_"})


OUT_OF_FOLD = {"oof_": Array("rows", "classes"), "folds_": Array("rows", dtype="int64")}
"""What every probe has."""

LINEAR = Layout(
    {
        "coef_": Array("outputs", "features", finite=True),
        "intercept_": Array("outputs", finite=True),
        "strengths_": Array("strengths"),
        "cv_scores_": Array("strengths"),
        "cv_auc_": Array("strengths"),
        **OUT_OF_FOLD,
    },
    ("C_", "n_iter_", "converged_", "edge_", "device_"),
)
