"""How long a report of 100,000 items takes beyond training, and how long a browser takes to open it.

    python benchmarks/bench_report.py [--quick]

Vectors and labels are made; no two items share a group, which is the most a bootstrap can have to do. Every picture has
the same small thumbnail. The command is run in its own process, with all cores; it is run twice, because the first
builds the index that the second finds. Chromium is asked for the time from navigation to the end of loading, pictures
decoded; where it is not installed that is left out.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_store import fill, unit_vectors
from common import write
from PIL import Image

import vecstore as vs

ROOT = Path(__file__).resolve().parents[1]
CLASSES = ("no finding", "finding", "other")


def made(folder: Path, n: int, dim: int, classes: int) -> None:
    """A store with labels of a direction in the vectors, metadata and thumbnails."""
    vectors = unit_vectors(n, dim)
    store, _ = fill(folder / "store.vecs", vectors)
    rng = np.random.default_rng(1)
    margins = vectors.astype(np.float32) @ rng.standard_normal((dim, classes)).astype(np.float32)
    labels = (margins + rng.standard_normal(margins.shape)).argmax(axis=1)
    ages, sexes = rng.integers(18, 90, n), rng.integers(0, 2, n)
    rows = "".join(
        f"{i}.png,{CLASSES[label]},{age},{'FM'[sex]}\n"
        for i, (label, age, sex) in enumerate(zip(labels.tolist(), ages.tolist(), sexes.tolist(), strict=True))
    )
    (folder / "labels.csv").write_text("path,finding,age,sex\n" + rows, encoding="utf-8")
    picture = io.BytesIO()
    Image.linear_gradient("L").resize((224, 224)).save(picture, "JPEG")
    hashes = list(store.hashes_of(store.items().ids.tolist()).values())
    store.thumbnails.put(dict.fromkeys(hashes, picture.getvalue()))
    store.close()


def call(folder: Path, *arguments: str) -> dict[str, float]:
    """Wall and CPU seconds of a command."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    command = [sys.executable, "-m", "vecstore_cli", *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr}")
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2)}


def opened(page: Path, folder: Path) -> dict[str, Any]:
    """Seconds until the page is there, of five openings at two widths."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        return {"left_out": "no chromium"}
    sys.path.insert(0, str(ROOT))
    from tests.browser import Browser

    browser = Browser(program, folder / "profile" / "chromium")
    found: dict[str, Any] = {}
    for width in (1280, 390):
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            browser.open(page, width).close()
            seconds.append(time.perf_counter() - start)
        found[f"{width} px"] = {"median_s": round(statistics.median(seconds), 3), "worst_s": round(max(seconds), 3)}
    browser.close()
    return found


def measure(n: int, dim: int, classes: int) -> dict[str, Any]:
    """Training, and two reports after it."""
    folder = Path(tempfile.mkdtemp(prefix="bench-report-"))
    (folder / "profile").mkdir()
    try:
        made(folder, n, dim, classes)
        table = ("--key", "path", "--value", "finding", "--columns", "age,sex")
        call(folder, "label", "store.vecs", "labels.csv", "--task", "finding", *table)
        found: dict[str, Any] = {"n": n, "dim": dim, "classes": classes}
        found["train"] = call(folder, "train", "store.vecs", "finding", "--group", "none")
        found["report, first"] = call(folder, "report", "store.vecs", "finding", "--out", "report.html")
        first = [(folder / name).read_bytes() for name in ("report.html", "report.json", "model-card.md")]
        found["report, again"] = call(folder, "report", "store.vecs", "finding", "--out", "report.html")
        again = [(folder / name).read_bytes() for name in ("report.html", "report.json", "model-card.md")]
        found["same bytes"] = first == again
        found["bytes"] = {"html": len(first[0]), "json": len(first[1]), "card": len(first[2])}
        found["auc"] = json.loads(first[1])["record"]["auc"]
        found["opening"] = opened(folder / "report.html", folder)
        return found
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Measure and write `results/bench_report.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small store; nothing is written")
    asked = parser.parse_args()
    n, dim = (2_000, 64) if asked.quick else (100_000, 512)
    result = {
        "what": f"`vecstore report`, {n} vectors of {dim} dimensions, each a group of its own",
        "goals": {"report beyond training": "under 20 s", "opening": "under 2 s"},
        "load before": [round(one, 2) for one in os.getloadavg()],
        "runs": [measure(n, dim, classes) for classes in (2, 3)],
    }
    write("bench_report", result, ["numpy", "scikit-learn", "matplotlib", "jinja2"], asked.quick)


if __name__ == "__main__":
    assert vs.__version__
    main()
