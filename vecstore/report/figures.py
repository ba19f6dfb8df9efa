"""Plots as SVG that is part of the page: its colours and fonts are the page's, so they follow dark mode and print.

Figures hold fixed words and numbers only. Names of classes are in HTML beside them, where they are escaped, wrap,
and need no font of ours.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from vecstore.records import DoubleArray, FloatArray

COLOURS = 8
"""Colours `--c0` to `--c7` of the style sheet."""

CURVE_POINTS = 600
"""Points kept of a curve: more than a plot of this size can show."""

MOST_BANDS = 3
"""Curves up to which their bands are drawn: more of them lie upon each other and hide the curves."""

_INK, _GRID, _PAPER = "#010101", "#020202", "#030303"
_VARIABLES = {_INK: "var(--soft)", _GRID: "var(--line)", _PAPER: "var(--card)"} | {
    f"#0400{i:02x}": f"var(--c{i})" for i in range(COLOURS)
}
"""Colours that stand for variables of the style sheet until the SVG is written."""

_STYLE = {
    "svg.hashsalt": "vecstore",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelpad": 6,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 5,
    "ytick.major.pad": 5,
}

Curve = tuple[DoubleArray, DoubleArray]


def dash(i: int) -> str:
    """Line style of the `i`-th class: colours repeat after `COLOURS`, so the line breaks then."""
    return ("solid", "dashed", "dotted")[i // COLOURS % 3]


def band_figure(
    curves: Sequence[Mapping[str, Any] | None], kind: str, description: str, level: float | None = None
) -> Markup:
    """ROC or precision-recall curves with their bands, one per class.

    Parameters
    ----------
    curves : sequence of mapping or None
        Each with "x", "y", and "at", "low", "high" of its band, 0 to 1, drawn of up to `MOST_BANDS` curves; None where
        a class has no curve but keeps its colour.
    kind : {"roc", "precision-recall"}
    description : str
        What a reader who does not see it is told.
    level : float, optional
        Precision of guessing: a dashed line.

    Returns
    -------
    Markup
        An `<svg>` element.
    """
    with mpl.rc_context():
        axes = _axes(width=4.2, height=4.0)
        guess = (0.0, 1.0) if kind == "roc" else None if level is None else (level, level)
        if guess is not None:
            axes.plot([0, 1], guess, color=_INK, linewidth=0.8, linestyle=(0, (3, 3)))
        for i, curve in enumerate(curves):
            if curve is None:
                continue
            if curve["at"] and len(curves) <= MOST_BANDS:
                band = np.concatenate([curve["low"], curve["high"][::-1]])
                around = np.concatenate([curve["at"], curve["at"][::-1]])
                axes.fill(around, band, color=_colour(i), alpha=0.16, linewidth=0)
            x, y = np.asarray(curve["x"], np.float64), np.asarray(curve["y"], np.float64)
            axes.plot(*_thinned(x, y), color=_colour(i), linewidth=1.8, linestyle=dash(i), clip_on=False, zorder=3)
        labels = ("1 − specificity", "Sensitivity") if kind == "roc" else ("Recall (sensitivity)", "Precision (PPV)")
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel=labels[0], ylabel=labels[1])
        return _svg(axes, description)


def reliability_figure(curves: Sequence[Sequence[Mapping[str, Any]]], description: str) -> Markup:
    """Observed share by predicted probability, one line per class.

    Parameters
    ----------
    curves : sequence of sequence of mapping
        Bins, each with "predicted", "observed" and "interval", 0 to 1.
    description : str

    Returns
    -------
    Markup
        An `<svg>` element.
    """
    with mpl.rc_context():
        axes = _axes(width=4.2, height=4.0)
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=(0, (3, 3)))
        for i, bins in enumerate(curves):
            x, y = [one["predicted"] for one in bins], [one["observed"] for one in bins]
            for one in bins:
                if one["interval"] is not None:
                    at = one["predicted"]
                    axes.plot([at, at], one["interval"], color=_colour(i), linewidth=1.2, alpha=0.55)
            axes.plot(x, y, color=_colour(i), linewidth=1.6, linestyle=dash(i), clip_on=False, zorder=3)
            for at, height in zip(x, y, strict=True):  # a dot of its own each: a marker would be referred to by an id
                axes.plot(
                    [at, at],
                    [height, height],
                    color=_colour(i),
                    linewidth=6,
                    solid_capstyle="round",
                    zorder=4,
                    clip_on=False,
                )
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="Predicted probability", ylabel="Observed share")
        return _svg(axes, description)


def curve_figure(
    sizes: Sequence[int], mean: FloatArray, low: FloatArray, high: FloatArray, whole: float, *, wide: bool = True
) -> Markup:
    """AUC by number of labelled groups per class.

    Parameters
    ----------
    sizes : sequence of int
        Ascending.
    mean, low, high : ndarray of shape (n,), float32
        Mean, worst and best draw of each size.
    whole : float
        AUC with all labels: a dashed line.
    wide : bool
        For a panel of its own; else one of two side by side.

    Returns
    -------
    Markup
        An `<svg>` element.
    """
    with mpl.rc_context():
        axes = _axes(width=6.4, height=3.6) if wide else _axes(width=4.2, height=3.4)
        places = np.arange(len(sizes))
        axes.axhline(whole, color=_INK, linewidth=0.8, linestyle=(0, (3, 3)))
        # A polygon, because `fill_between` refers to a shape by an id, and ids are taken out of a page's figures.
        band = np.concatenate([low, high[::-1]])
        axes.fill(np.concatenate([places, places[::-1]]), band, color=_colour(0), alpha=0.2, linewidth=0, zorder=2)
        axes.plot(places, mean, color=_colour(0), linewidth=1.8, zorder=3)
        if len(sizes) == 1:  # neither a line nor a band is seen: a dot and its range
            axes.plot([0, 0], [low[0], high[0]], color=_colour(0), linewidth=1.2, alpha=0.55)
            axes.plot([0, 0], [mean[0], mean[0]], color=_colour(0), linewidth=6, solid_capstyle="round", zorder=4)
        axes.set(xlabel="Labelled groups per class", ylabel="AUC", xlim=(-0.3, len(sizes) - 0.7))
        axes.set_ylim(min(0.5, float(np.min(low, initial=0.5))), 1)
        axes.set_xticks(places, [str(size) for size in sizes])
        told = ", ".join(f"{size}: {value:.2f}" for size, value in zip(sizes, mean, strict=True))
        return _svg(axes, f"Mean AUC by labelled groups per class, {told}; with all labels {whole:.2f}.")


def _axes(width: float, height: float) -> Axes:
    """Axes of a new figure of this size in inches, with margins that fit the labels; whatever the user's style."""
    mpl.rcdefaults()
    mpl.rcParams.update(_STYLE)
    left, bottom, right, top = 0.52, 0.48, 0.16, 0.14
    figure = Figure(figsize=(width, height), facecolor="none")
    FigureCanvasSVG(figure)
    size = (1 - (left + right) / width, 1 - (bottom + top) / height)
    axes: Axes = figure.add_axes((left / width, bottom / height, *size))
    return axes


def _colour(i: int) -> str:
    return f"#0400{i % COLOURS:02x}"


def _thinned(x: DoubleArray, y: DoubleArray) -> Curve:
    if len(x) <= CURVE_POINTS:
        return x, y
    keep = np.unique(np.linspace(0, len(x) - 1, CURVE_POINTS).round().astype(int))
    return x[keep], y[keep]


def _svg(axes: Axes, description: str) -> Markup:
    """The figure as an element of an HTML page: no prologue, names, ids, fonts or colours of its own."""
    file = io.StringIO()
    axes.figure.canvas.print_figure(
        file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    text = file.getvalue()
    text = text[text.index("<svg") :]
    view = re.search(r'viewBox="([^"]+)"', text)
    text = re.sub(r"<svg[^>]*>", "", text, count=1)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r'<defs>\s*<clipPath.*?</defs>|\s(?:id|clip-path)="[^"]*"', "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*(?:; )?", "", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"#0[1-4][0-9a-f]{4}", lambda found: _VARIABLES[found[0]], text)
    text = re.sub(r"\s*\n\s*", "\n", text)
    opening = f'<svg class="figure" role="img" viewBox="{view[1] if view else ""}" aria-label="{escape(description)}">'
    return Markup(opening + text)  # numbers and words of ours, and a description that is escaped
