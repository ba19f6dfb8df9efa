"""How often 95 % intervals hold the truth where rows come in groups, by simulation; and how wrong rows alone are.

    python benchmarks/bench_intervals.py [--quick]

Each draw is a test part of `groups` patients with a number of pictures each; scores have a part that a patient's
pictures share. The true AUC is known in closed form. Three intervals are counted: resampled by group, as vecstore
does; resampled by row; and DeLong's, which also takes rows for independent. Test parts of one class are left out.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
from common import timed, write
from scipy.stats import norm

from vecstore.probes.comparison import compared
from vecstore.probes.conformal import prediction_sets
from vecstore.probes.delong import delong
from vecstore.probes.measures import measure

GAP = 1.2
"""Between the means of sick and well, in standard deviations of a score."""


@dataclass(frozen=True)
class Setting:
    """Groups, mean pictures a group, the share of the variance that a group's pictures have in common, sick groups."""

    groups: int
    size: int
    shared: float
    sick: float = 0.5
    gap: float = GAP
    uneven: bool = False


SETTINGS = {
    "one picture each": Setting(200, 1, 0.0),
    "4 pictures each, half of the variance shared": Setting(200, 4, 0.5),
    "10 pictures each, half of the variance shared": Setting(100, 10, 0.5),
    "10 pictures each, nearly all shared": Setting(100, 10, 0.9),
    "50 groups of 1 to 19, half shared": Setting(50, 10, 0.5, uneven=True),
    "10 % sick": Setting(200, 3, 0.5, 0.1),
    "10 % sick of 100 groups, AUC 0.96": Setting(100, 3, 0.5, 0.1, 2.5),
    "40 groups, AUC 0.96": Setting(40, 3, 0.5, 0.5, 2.5),
    "20 groups": Setting(20, 3, 0.5),
}

MEASURES = ("auc", "auprc", "accuracy", "balanced_accuracy", "f1", "sensitivity", "specificity", "ppv")
PER_CLASS = ("sensitivity", "specificity", "ppv")


def draw(setting: Setting, rng: np.random.Generator) -> tuple[Any, Any, Any]:
    """Labels (the same for a whole group), probabilities, and groups."""
    n = setting.groups
    sizes = rng.integers(1, 2 * setting.size, n) if setting.uneven else np.full(n, setting.size)
    codes = np.repeat(np.arange(n), sizes)
    sick = (rng.random(n) < setting.sick).astype(np.int64)[codes]  # patients come as they come: how many are varies
    own, common = rng.normal(size=len(codes)), rng.normal(size=n)[codes]
    noise = np.sqrt(setting.shared) * common + np.sqrt(1 - setting.shared) * own
    return sick, 1 / (1 + np.exp(-(setting.gap * (sick - 0.5) + noise))), codes


def truths(setting: Setting) -> dict[str, float]:
    """What figures of infinitely many groups are: scores are normal."""
    auc, right = float(norm.cdf(setting.gap / np.sqrt(2))), float(norm.cdf(setting.gap / 2))
    grid = np.linspace(-9, 9, 200_001)
    hits = setting.sick * norm.sf(grid, setting.gap / 2)
    false = (1 - setting.sick) * norm.sf(grid, -setting.gap / 2)
    auprc = float(np.trapezoid(hits / (hits + false) * norm.pdf(grid, setting.gap / 2), grid))
    ppv = setting.sick * right / (setting.sick * right + (1 - setting.sick) * (1 - right))
    shares = dict.fromkeys(("accuracy", "balanced_accuracy", "sensitivity", "specificity"), right)
    return {"auc": auc, "auprc": auprc, "f1": 2 * ppv * right / (ppv + right), "ppv": ppv} | shares


def coverage(name: str, draws: int, n_boot: int, seed: int) -> dict[str, Any]:
    """Shares of draws whose interval holds the truth, of those that have an interval."""
    setting = SETTINGS[name]
    true, place = truths(setting), list(SETTINGS).index(name)
    told = (*(f"by group: {m}" for m in MEASURES), "by row: auc", "DeLong: auc")
    held: dict[str, list[bool]] = {one: [] for one in told}
    widths: dict[str, list[float]] = {one: [] for one in told}
    for at in range(draws):
        y, p, codes = draw(setting, np.random.default_rng([seed, place, at]))
        if y.min() == y.max():
            continue
        grouped = measure(y, p, ["well", "sick"], "binary", codes, n_boot=n_boot, seed=at)
        by_row = measure(y, p, ["well", "sick"], "binary", None, n_boot=n_boot, seed=at).overall
        figures = grouped.overall | {one: grouped.per_class["sick"][one] for one in PER_CLASS}
        intervals = {f"by group: {one}": figures[one].interval for one in MEASURES}
        intervals |= {"by row: auc": by_row["auc"].interval, "DeLong: auc": delong(p, y == 1).interval()}
        for one, interval in intervals.items():
            if interval is not None:
                held[one].append(interval[0] <= true[one.split(": ")[1]] <= interval[1])
                widths[one].append(interval[1] - interval[0])
    return {
        "groups": setting.groups,
        "rows_per_group": setting.size,
        "shared_variance": setting.shared,
        "sick": setting.sick,
        "truth": {one: round(value, 6) for one, value in true.items()},
        "coverage": {one: round(float(np.mean(values)), 4) for one, values in held.items()},
        "mean_width": {one: round(float(np.mean(values)), 4) for one, values in widths.items()},
        "without_interval": {one: draws - len(values) for one, values in held.items() if len(values) < draws},
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
            setting = Setting(100, 10, 0.9, uneven=True)
            y, p, codes = draw(setting, rng)
            rule = prediction_sets(y, np.stack([1 - p, p], axis=1), "binary", wanted, codes)
            new_y, new_p, new = draw(setting, rng)
            inside = rule(np.stack([1 - new_p, new_p], axis=1))[np.arange(len(new_y)), new_y]
            reached[at] = (np.bincount(new, inside) / np.bincount(new)).mean()
        told[str(wanted)] = round(float(reached.mean()), 4)
    return told


def speed(rows: int) -> dict[str, float]:
    """Wall and CPU seconds of every measure of a binary task with 1000 resamples."""
    y, p, codes = draw(Setting(rows, 1, 0.0), np.random.default_rng(0))
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
            outside = {one: share for one, share in row["coverage"].items() if not 0.93 <= share <= 0.97}
            print(f"{name}: not within 93 to 97 %: {outside or 'none'}")
    write(
        "intervals",
        {
            "what": "share of simulated test parts whose 95 % interval holds the true figure",
            "draws": draws,
            "resamples": n_boot,
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
