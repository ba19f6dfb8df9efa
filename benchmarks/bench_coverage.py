"""How often prediction sets hold the truth, and cases count as familiar, on the shared sets.

    python benchmarks/bench_coverage.py DATA [--work FOLDER] [--sets A,B] [--quick]

A logistic regression on frozen vectors of the bundled encoder. Prediction sets rest on out-of-fold predictions: for an
official test part on those of training, else each fold on those of the others. Familiar is what has a case among those
of other groups that is as similar as is usual: each fold by a rule of the others. Shares are means over groups, with
95 % intervals by resampling groups.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from common import write
from paper_sets import Set, archive, chosen, labelled

import vecstore as vs
from vecstore.probes.conformal import check_familiarity

COVERAGES = (0.8, 0.9, 0.95)


def of_set(data_folder: Path, work: Path, one: Set, quick: bool) -> dict[str, Any]:
    """Both checks of one set."""
    path = work / f"{one.store}.vecs"
    vs.ingest(path, archive(data_folder, one), encoder="fake:64" if quick else "bundled", thumbnails=False)
    with vs.open(path) as store:
        labelled(store, data_folder, one)
        probe = vs.train(store, one.task)
        record, known = probe.record, probe.out_of_fold
        assert known is not None
        data = vs.dataset(store, one.task)
        vectors = data.vectors(~data.test)
        rows = []
        for coverage in COVERAGES:
            assessment = vs.evaluate(store, one.task, coverage=coverage).assessment
            assert assessment is not None and assessment.sets is not None
            sets = assessment.sets
            rows.append(
                {
                    "asked": coverage,
                    "sets": asdict(sets.covered),
                    "one_class": sets.answered,
                    "mean_size": sets.size,
                    "per_class": sets.covered_per_class,
                    "familiar": asdict(check_familiarity(vectors, known.groups, known.folds, coverage)),
                }
            )
            print(one.name, rows[-1], flush=True)
    return {
        "n": record.n,
        "groups": record.groups,
        "group_column": record.group_column,
        "part": record.part,
        "classes": len(record.classes),
        "training": {"n": record.trained_on, "groups": len(np.unique(known.groups))},
        "coverage": rows,
    }


def main() -> None:
    """Run the sets and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", help="beginnings of their names, divided by commas")
    parser.add_argument("--work", type=Path, help="where stores are kept; a temporary folder by default")
    parser.add_argument("--quick", action="store_true", help="one small set with the fake encoder, nothing is kept")
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp(prefix="coverage-"))
    work.mkdir(exist_ok=True)
    try:
        sets = {
            one.name: of_set(arguments.data.resolve(), work, one, arguments.quick)
            for one in chosen("mini-MIAS" if arguments.quick else arguments.sets)
        }
    finally:
        if arguments.work is None:
            shutil.rmtree(work, ignore_errors=True)
    made = {"encoder": "fake:64" if arguments.quick else "bundled", "model": "probe", "sets": sets}
    write("coverage", made, ["numpy", "scikit-learn", "torch"], arguments.quick)


if __name__ == "__main__":
    main()
