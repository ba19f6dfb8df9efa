"""How long `audit` takes on 100,000 pictures, what it needs in memory, and how many planted copies it finds.

    python benchmarks/bench_audit.py [--quick]

Vectors, labels and parts are made; three pictures a patient, and one vector in a hundred is nearly another one's. The
audit runs in a process of its own, on one core (Linux).
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from bench_store import fill, unit_vectors
from common import write
from PIL import Image

import vecstore as vs
from vecstore.audit.twins import COSINE

DIM = 512
PLANTED = 0.01
"""Share of the vectors that are another one's, but for a little."""

AUDITED = """
import json, re, sys, time
from pathlib import Path
import vecstore as vs
cpu = time.process_time()
found = vs.audit(sys.argv[1])
cpu = time.process_time() - cpu
(near,) = [one for one in found.findings if one.check == "near_across_groups"]
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(json.dumps({"cpu_s": round(cpu, 1), "peak_mib": int(peak[1]) // 1024, "near": near.counts}))
"""
"""Peak memory as the kernel counts it since the program began: what `getrusage` tells is also that of the parent."""


def made(folder: Path, n: int) -> int:
    """A store of n pictures; returns how many pairs were planted that are within the cosine."""
    rng = np.random.default_rng(1)
    vectors = unit_vectors(n, DIM).astype(np.float32)
    count = round(PLANTED * n)
    both = rng.permutation(n)[: 2 * count]
    first, second = both[:count], both[count:]
    vectors[second] = vectors[first] + 0.004 * rng.standard_normal((count, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    held = vectors.astype(np.float16).astype(np.float32)
    cosines = np.einsum("ij,ij->i", held[first], held[second])
    cosines /= np.linalg.norm(held[first], axis=1) * np.linalg.norm(held[second], axis=1)
    store, _ = fill(folder / "store.vecs", vectors.astype(np.float16))
    labels = vectors @ rng.standard_normal(DIM).astype(np.float32) + rng.standard_normal(n) > 0
    ages, sexes, sites = rng.integers(18, 90, n), rng.integers(0, 2, n), rng.integers(0, 5, n)
    parts, names = ("train", "val", "test"), ("no", "yes")
    rows = "".join(
        f"{i}.png,{names[int(labels[i])]},{ages[i]},{'FM'[sexes[i]]},P{i // 3},S{sites[i]},{parts[i // 3 % 3]}\n"
        for i in range(n)
    )
    (folder / "labels.csv").write_text("path,finding,age,sex,patient,site,part\n" + rows, encoding="utf-8")
    picture = io.BytesIO()
    Image.linear_gradient("L").resize((224, 224)).save(picture, "JPEG")
    hashes = list(store.hashes_of(store.items().ids.tolist()).values())
    store.thumbnails.put(dict.fromkeys(hashes, picture.getvalue()))
    columns = ["age", "sex", "patient", "site"]
    table = folder / "labels.csv"
    vs.label(store, table, task="finding", key="path", value="finding", split_column="part", columns=columns)
    store.close()
    return int((cosines >= COSINE).sum())


def measure(n: int) -> dict[str, Any]:
    """One audit."""
    folder = Path(tempfile.mkdtemp(prefix="bench-audit-"))
    try:
        planted = made(folder, n)
        environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        command = [sys.executable, "-c", AUDITED, str(folder / "store.vecs")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        assert told["near"]["pairs"] >= planted, (told, planted)
        return {"n": n, "dim": DIM, "planted_within_cosine": planted, **told}
    finally:
        shutil.rmtree(folder)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few pictures, nothing is kept")
    arguments = parser.parse_args()
    sizes = (2_000,) if arguments.quick else (100_000,)
    write("audit", {"audits": [measure(n) for n in sizes]}, ["numpy", "scikit-learn"], arguments.quick)


if __name__ == "__main__":
    main()
