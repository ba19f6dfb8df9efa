"""Vectors from a store into one float32 matrix, against what others do with the same numbers.

    python benchmarks/bench_store.py [--quick]

Every reader's matrix is compared with the truth before it is timed. Peers that are not installed are
named as such. One thread each, warm page cache, turn by turn; the ratios are of CPU-seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("LANCE_CPU_THREADS", "1")

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from common import rounds, timed, write

import vecstore as vs
from vecstore.records import FloatArray, Passport
from vecstore.store.append import Batch, Picture, append

pa.set_cpu_count(1)
pa.set_io_thread_count(1)

SHARD = 65_536


def unit_vectors(n: int, dim: int) -> npt.NDArray[np.float16]:
    """Unit vectors as float16, shape (n, dim)."""
    vectors = np.random.default_rng(0).standard_normal((n, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float16)


def fill(folder: Path, vectors: npt.NDArray[np.float16]) -> tuple[vs.Store, float]:
    """A store of these vectors in shards as `compact` aims at; returns it and the seconds of writing."""
    store = vs.create(folder)
    dim = vectors.shape[1]
    passport = Passport("made", "none", "made", "none", "", "", (1, 1), "none", (0.0,), (1.0,), "none", dim)
    space = store.add_space("made", passport, {})
    seconds = 0.0
    for start in range(0, len(vectors), SHARD):
        block = vectors[start : start + SHARD]
        hashes = [hashlib.sha256(b"%d" % (start + i)).digest()[:16] for i in range(len(block))]
        pictures = [Picture(f"{start + i}.png", 1, 1, None, "made", h, 1, 1) for i, h in enumerate(hashes)]
        batch = Batch("made", "folder", pictures, vectors={space.id: (hashes, block)})
        seconds += timed(partial(append, store, batch, {space.id: space}, {}))[0]
    return store, seconds


def readers(folder: Path, vectors: npt.NDArray[np.float16]) -> tuple[dict[str, Callable[[], Any]], dict[str, Any]]:
    """Name to a function that returns the float32 matrix; and facts about the files."""
    dim = vectors.shape[1]
    facts: dict[str, Any] = {"bytes": {"vectors": vectors.nbytes}, "write_s": {}}
    found: dict[str, Callable[[], Any]] = {}

    store, facts["write_s"]["vecstore, with catalog"] = fill(folder / "store.vecs", vectors)
    space = store.space()
    contents = store.embedded(space)
    found["vecstore"] = lambda: store.vectors(space, contents)
    facts["bytes"]["vecstore shards"] = sum(shard.bytes for shard in store.shards(space))

    np.save(folder / "vectors.npy", vectors)
    found["np.load, cast by NumPy"] = lambda: np.load(folder / "vectors.npy").astype(np.float32)
    facts["bytes"]["npy"] = (folder / "vectors.npy").stat().st_size
    try:
        import torch

        torch.set_num_threads(1)
        found["np.load, cast by torch"] = lambda: torch.from_numpy(np.load(folder / "vectors.npy")).float().numpy()
    except ImportError:
        facts["torch"] = "not installed"

    flat = pa.array(vectors.astype(np.float32).reshape(-1))
    table = pa.table({"vector": pa.FixedSizeListArray.from_arrays(flat, dim)})
    facts["write_s"]["FixedSizeList, pyarrow's defaults"] = timed(
        lambda: pq.write_table(table, folder / "list.parquet")
    )[0]
    facts["bytes"]["FixedSizeList"] = (folder / "list.parquet").stat().st_size

    def from_list() -> FloatArray:
        column = pq.read_table(folder / "list.parquet", use_threads=False)["vector"].combine_chunks()
        values: FloatArray = column.flatten().to_numpy().reshape(-1, dim)
        return values

    found["Parquet FixedSizeList<float32>, pyarrow's defaults"] = from_list
    _lance(folder, table, found, facts, dim)
    _datasets(folder, vectors, found, facts)
    return found, facts


def _lance(folder: Path, table: pa.Table, found: dict[str, Callable[[], Any]], facts: dict[str, Any], dim: int) -> None:
    try:
        import lancedb
    except ImportError:
        facts["lancedb"] = "not installed"
        return
    made = lancedb.connect(folder / "lance")

    def create() -> None:
        made.create_table("vectors", table)

    facts["write_s"]["LanceDB"] = timed(create)[0]
    opened = made.open_table("vectors")

    def from_lance() -> FloatArray:
        column = opened.to_arrow()["vector"].combine_chunks()
        values: FloatArray = column.flatten().to_numpy().reshape(-1, dim)
        return values

    found["LanceDB, float32"] = from_lance
    facts["bytes"]["LanceDB"] = sum(p.stat().st_size for p in (folder / "lance").rglob("*") if p.is_file())


def _datasets(
    folder: Path, vectors: npt.NDArray[np.float16], found: dict[str, Callable[[], Any]], facts: dict[str, Any]
) -> None:
    try:
        import datasets
    except ImportError:
        facts["datasets"] = "not installed"
        return
    datasets.disable_progress_bars()
    dim = vectors.shape[1]
    features = datasets.Features({"vector": datasets.Sequence(datasets.Value("float32"), length=dim)})
    whole = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float32).reshape(-1)), dim)
    made = datasets.Dataset(pa.table({"vector": whole}).cast(features.arrow_schema))

    def save() -> None:
        made.save_to_disk(folder / "datasets")

    facts["write_s"]["datasets"] = timed(save)[0]
    found["Hugging Face datasets, float32"] = lambda: datasets.load_from_disk(folder / "datasets").with_format("numpy")[
        :
    ]["vector"]
    facts["bytes"]["datasets"] = sum(p.stat().st_size for p in (folder / "datasets").rglob("*") if p.is_file())


def main() -> None:
    """Make the files, compare the answers, time the readers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2,000 vectors, nothing is kept")
    quick = parser.parse_args().quick
    n, dim, repeat = (2_000, 64, 1) if quick else (200_000, 512, 7)
    vectors = unit_vectors(n, dim)
    truth = vectors.astype(np.float32)
    folder = Path(tempfile.mkdtemp(prefix="bench-store-"))
    try:
        functions, facts = readers(folder, vectors)
        for name, function in functions.items():
            if not np.array_equal(function(), truth):
                raise SystemExit(f"{name}: another matrix than was written")
        times = rounds(functions, repeat)
        ours = times["vecstore"]
        best_load = min((t for name, t in times.items() if name.startswith("np.load")), key=lambda t: t["cpu_s"])
        listed = times["Parquet FixedSizeList<float32>, pyarrow's defaults"]
        result = {
            "what": f"read {n} x {dim} vectors into one float32 matrix, one thread",
            "readers": times,
            **facts,
            "goals": {
                "at most 0.6 x np.load + cast, the faster cast (CPU)": round(ours["cpu_s"] / best_load["cpu_s"], 3),
                "at least 6 x faster than FixedSizeList, pyarrow's defaults (CPU)": round(
                    listed["cpu_s"] / ours["cpu_s"], 2
                ),
                "bytes at most 1.05 x the vectors": round(facts["bytes"]["vecstore shards"] / vectors.nbytes, 4),
            },
        }
        write("bench_store", result, ["numpy", "pyarrow", "torch", "lancedb", "datasets"], quick)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
