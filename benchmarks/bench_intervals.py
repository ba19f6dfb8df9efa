"""How often 95 % intervals hold the truth where rows come in groups, by simulation; and how wrong rows alone are.

    python benchmarks/bench_intervals.py [--quick]

Each draw is a test part of `groups` patients with a number of pictures each; scores have a part that a patient's
pictures share. The true AUC is known in closed form. Three intervals are counted: resampled by group, as vecstore
does; resampled by row; and DeLong's, which also takes rows for independent.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from common import timed, write
from scipy.stats import norm

from vecstore.probes.comparison import compared
from vecstore.probes.conformal import prediction_sets
from vecstore.probes.delong import delong
from vecstore.probes.measures import measure

SETTINGS = {
    "one picture each": (200, 1, 0.0),
    "4 pictures each, half of the variance shared": (200, 4, 0.5),
    "10 pictures each, half of the variance shared": (100, 10, 0.5),
    "10 pictures each, nearly all shared": (100, 10, 0.9),
    "50 groups of 1 to 19, half shared": (50, 10, 0.5),
}
"""Groups, mean pictures a group, and the share of the variance that a group's pictures have in common."""

GAP = 1.2
"""Between the means of sick and well, in standard deviations of a score."""

MEASURES = ("auc", "auprc", "accuracy", "balanced_accuracy", "f1")


def draw(groups: int, size: int, shared: float, uneven: bool, rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """Labels (the same for a whole group), probabilities, and groups."""
    sizes = rng.integers(1, 2 * size, groups) if uneven else np.full(groups, size)
    codes = np.repeat(np.arange(groups), sizes)
    sick = rng.integers(0, 2, groups)[codes]  # patients come as they come: how many are sick varies too
    noise = np.sqrt(shared) * rng.normal(size=groups)[codes] + np.sqrt(1 - shared) * rng.normal(size=len(codes))
    return sick, 1 / (1 + np.exp(-(GAP * (sick - 0.5) + noise))), codes


def truths() -> dict[str, float]:
    """What figures of infinitely many groups are: scores are normal, and classes equally many."""
    auc = float(norm.cdf(GAP / np.sqrt(2)))
    right = float(norm.cdf(GAP / 2))
    grid = np.linspace(-9, 9, 200_001)
    hits, false = norm.sf(grid, GAP / 2), norm.sf(grid, -GAP / 2)
    precision = hits / (hits + false)
    auprc = float(np.trapezoid(precision * norm.pdf(grid, GAP / 2), grid))
    return {"auc": auc, "auprc": auprc, "accuracy": right, "balanced_accuracy": right, "f1": right}


def coverage(setting: str, draws: int, n_boot: int, seed: int) -> dict[str, Any]:
    """Shares of draws whose interval holds the truth."""
    groups, size, shared = SETTINGS[setting]
    true = truths()
    held = {
        name: np.zeros(draws, bool) for name in (*(f"by group: {m}" for m in MEASURES), "by row: auc", "DeLong: auc")
    }
    widths = {name: np.zeros(draws) for name in ("by group: auc", "by row: auc", "DeLong: auc")}
    for at in range(draws):
        y, p, codes = draw(
            groups, size, shared, "1 to 19" in setting, np.random.default_rng([seed, list(SETTINGS).index(setting), at])
        )
        by_group = measure(y, p, ["well", "sick"], "binary", codes, n_boot=n_boot, seed=at).overall
        by_row = measure(y, p, ["well", "sick"], "binary", None, n_boot=n_boot, seed=at).overall
        intervals = {f"by group: {name}": by_group[name].interval for name in MEASURES}
        intervals |= {"by row: auc": by_row["auc"].interval, "DeLong: auc": delong(p, y == 1).interval()}
        for name, interval in intervals.items():
            assert interval is not None
            held[name][at] = interval[0] <= true[name.split(": ")[1]] <= interval[1]
            if name in widths:
                widths[name][at] = interval[1] - interval[0]
    return {
        "groups": groups,
        "rows_per_group": size,
        "shared_variance": shared,
        "coverage": {name: round(float(values.mean()), 4) for name, values in held.items()},
        "mean_width": {name: round(float(values.mean()), 4) for name, values in widths.items()},
    }


def differences(draws: int, n_boot: int, seed: int) -> dict[str, Any]:
    """How often two equally good models are said to differ, and how often the interval of a difference holds it."""
    groups, size = 150, 4
    called = np.zeros(draws, bool)
    held = np.zeros(draws, bool)
    for at in range(draws):
        rng = np.random.default_rng([seed, 101, at])
        codes = np.repeat(np.arange(groups), size)
        y = rng.integers(0, 2, groups)[codes]
        common = rng.normal(size=groups)[codes] * np.sqrt(0.5)
        own = [np.sqrt(0.25) * rng.normal(size=groups)[codes] + np.sqrt(0.25) * rng.normal(size=len(y)) for _ in "ab"]
        scores = [1 / (1 + np.exp(-(GAP * (y - 0.5) + common + noise))) for noise in own]
        _, (pair,) = compared(y, scores, ["well", "sick"], "binary", codes, n_boot=n_boot, seed=at)
        assert pair.interval is not None
        called[at], held[at] = pair.real, pair.interval[0] <= 0 <= pair.interval[1]
    return {"false_alarms": round(float(called.mean()), 4), "coverage": round(float(held.mean()), 4)}


def sets(draws: int, seed: int) -> dict[str, Any]:
    """Coverage of prediction sets for new groups, weighed by group and by row."""
    told = {}
    for wanted in (0.8, 0.9, 0.95):
        reached = np.zeros(draws)
        for at in range(draws):
            rng = np.random.default_rng([seed, 102, at])
            y, p, codes = draw(100, 10, 0.9, True, rng)
            rule = prediction_sets(y, np.stack([1 - p, p], axis=1), "binary", wanted, codes)
            new_y, new_p, new = draw(100, 10, 0.9, True, rng)
            inside = rule(np.stack([1 - new_p, new_p], axis=1))[np.arange(len(new_y)), new_y]
            reached[at] = (np.bincount(new, inside) / np.bincount(new)).mean()
        told[str(wanted)] = round(float(reached.mean()), 4)
    return told


def speed(rows: int) -> dict[str, float]:
    """Wall and CPU seconds of every measure of a binary task with 1000 resamples."""
    y, p, codes = draw(rows, 1, 0.0, False, np.random.default_rng(0))
    wall, cpu = timed(lambda: measure(y, p, ["well", "sick"], "binary", codes))
    return {"rows": rows, "resamples": 1000, "wall_s": round(wall, 2), "cpu_s": round(cpu, 2)}


def main() -> None:
    """Simulate, check against what is promised, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few draws, nothing is kept")
    parser.add_argument("--draws", type=int, default=1000)
    arguments = parser.parse_args()
    draws, n_boot = (40, 200) if arguments.quick else (arguments.draws, 400)
    found = {name: coverage(name, draws, n_boot, seed=0) for name in SETTINGS}
    if not arguments.quick:
        for name, row in found.items():
            error = 2 * np.sqrt(0.05 * 0.95 / draws)  # of the simulation itself
            assert 0.93 - error <= row["coverage"]["by group: auc"] <= 0.97 + error, (name, row)
    write(
        "intervals",
        {
            "what": "share of simulated test parts whose 95 % interval holds the true figure",
            "draws": draws,
            "resamples": n_boot,
            "gap": GAP,
            "truth": {name: round(value, 6) for name, value in truths().items()},
            "settings": found,
            "two_equal_models": differences(draws, n_boot, seed=0),
            "prediction_sets": sets(draws, seed=0),
            "speed": speed(5000 if arguments.quick else 100_000),
        },
        ["numpy", "scipy"],
        arguments.quick,
    )


if __name__ == "__main__":
    main()
