"""Planted label errors on real sets: how many of them the first suspects are.

    python benchmarks/bench_label_errors.py DATA [--work FOLDER] [--sets A,B] [--quick]

A share of the labels is changed to another class by chance, and label errors are looked for from the out-of-fold
predictions of a stored model, as `vecstore label-errors` does. Beside it stand the same predictions ranked by lowest
self-confidence alone, and what a random ranking reaches. The sets' own errors, and cases on which experts would differ,
count as false here: so a precision is a lower bound.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import write
from paper_sets import Set, archive, chosen, labelled, locators

import vecstore as vs
from vecstore.probes.confident import confident
from vecstore.records import BoolArray, IntArray

RATES, SEEDS = (0.02, 0.05, 0.10), (0, 1, 2, 3, 4)


def planted(data: vs.Dataset, rate: float, seed: int) -> tuple[IntArray, BoolArray]:
    """Labels of which a share is another class, by chance; and which are."""
    rng = np.random.default_rng(seed)
    y = data.y.astype(np.int64)
    wrong = np.zeros(len(y), np.bool_)
    wrong[rng.choice(len(y), max(1, round(rate * len(y))), replace=False)] = True
    moved = (y + rng.integers(1, len(data.classes), len(y))) % len(data.classes)
    return np.where(wrong, moved, y), wrong


def measure(store: vs.Store, data: vs.Dataset, rate: float, seed: int) -> dict[str, Any]:
    """One planting."""
    y, wrong = planted(data, rate, seed)
    name = "planted"
    table = pd.DataFrame({"file": locators(store, data.items), "label": [data.classes[k] for k in y.tolist()]})
    positive = data.classes[-1] if data.task.kind == "binary" else None
    vs.label(store, table, task=name, key="file", value="label", positive=positive)
    probe = vs.train(store, name, space=data.space.name, min_groups=1)
    assert probe.record.part == "out-of-fold" and probe.record.classes == data.classes
    assert np.array_equal(probe.items, data.items) and np.array_equal(probe.y, y)
    found = confident(probe.y, probe.probabilities)
    n, suspects = int(wrong.sum()), int(found.suspect.sum())
    ranking = found.ranking()
    told = vs.label_errors(store, name, top=n, neighbours=0)
    assert told.found == suspects
    assert sorted(one.item_id for one in told.suspects) == sorted(data.items[ranking[: min(n, suspects)]].tolist())
    held = probe.probabilities[np.arange(len(y)), y]
    return {
        "rate": rate,
        "seed": seed,
        "planted": n,
        "auc": probe.record.auc,
        "precision": float(wrong[ranking[:n]].mean()),
        "precision_first_half": float(wrong[ranking[: max(1, n // 2)]].mean()),
        "precision_self_confidence": float(wrong[np.argsort(held, kind="stable")[:n]].mean()),
        "precision_margin_alone": float(wrong[np.argsort(found.margin, kind="stable")[:n]].mean()),
        "precision_random": n / len(y),
        "suspects": suspects,
        "suspects_precision": float(wrong[found.suspect].mean()) if suspects else None,
        "suspects_recall": float(found.suspect[wrong].mean()),
        "estimated_share": found.share,
    }


def of_set(data_folder: Path, work: Path, one: Set, quick: bool) -> dict[str, Any]:
    """All plantings of one set."""
    path = work / f"{one.store}.vecs"
    vs.ingest(path, archive(data_folder, one), encoder="fake:64" if quick else "bundled", thumbnails=False)
    with vs.open(path) as store:
        labelled(store, data_folder, one)
        space = "fake-64" if quick else "bundled"
        data = vs.dataset(store, one.task, space=space)
        plain = vs.train(store, one.task, space=space)
        rows = []
        for rate in RATES[-1:] if quick else RATES:
            for seed in SEEDS[:1] if quick else SEEDS:
                rows.append(measure(store, data, rate, seed))
                print(one.name, rows[-1], flush=True)
    names = [name for name in rows[0] if name not in ("rate", "seed")]
    return {
        "n": len(data),
        "classes": len(data.classes),
        "groups": len(np.unique(data.groups)),
        "group_column": data.group_column,
        "auc_as_labelled": plain.record.auc,
        "plantings": rows,
        "mean": [
            {"rate": rate}
            | {
                name: float(np.mean([row[name] for row in rows if row["rate"] == rate and row[name] is not None]))
                for name in names
            }
            for rate in sorted({row["rate"] for row in rows})
        ],
    }


def main() -> None:
    """Run the sets and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", help="beginnings of their names, divided by commas")
    parser.add_argument("--work", type=Path, help="where stores are kept; a temporary folder by default")
    parser.add_argument("--quick", action="store_true", help="one small set with the fake encoder, nothing is kept")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp(prefix="label-errors-"))
    work.mkdir(exist_ok=True)
    default = "Kermany,BUSI,mini-MIAS,BreastMNIST,HAM10000,RetinaMNIST"
    try:
        sets = {
            one.name: of_set(arguments.data.resolve(), work, one, arguments.quick)
            for one in chosen("mini-MIAS" if arguments.quick else arguments.sets or default)
        }
    finally:
        if arguments.work is None:
            shutil.rmtree(work, ignore_errors=True)
    made = {"encoder": "fake:64" if arguments.quick else "bundled", "model": "probe", "sets": sets}
    write("label_errors", made, ["numpy", "scikit-learn", "torch"], arguments.quick)


if __name__ == "__main__":
    main()
