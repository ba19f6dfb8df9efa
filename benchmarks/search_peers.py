"""Vector databases on the vectors and filters of `bench_search.py`: LanceDB, Milvus Lite and DuckDB's VSS extension.

Each gets the vectors, a column of random numbers from 0 to 1 for the filters, and its own index with its own
defaults; how hard it searches is raised until recall@10 reaches 0.99 or its steps are used up. Wall time of single
queries, as one would ask them from Python, beside ours on the same vectors in the same run.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

K = 10
SHARES = (1.0, 0.5, 0.1, 0.01)
"""Of the vectors that a filter keeps; the first is no filter."""

ASKED = 50
"""Queries that recall is taken of."""

Floats = npt.NDArray[np.float32]
Search = Callable[[Floats, float, int], list[int]]
"""A query, the share to keep, and one of the steps of effort, to row numbers."""


@contextmanager
def lancedb(rows: Floats, draws: Floats, folder: Path) -> Iterator[tuple[Search, int, str]]:
    """IVF_PQ, its usual index, re-ranked by the vectors."""
    import lancedb as library
    import pyarrow as pa

    n, dim = rows.shape
    values = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), dim)
    table = library.connect(str(folder / "lance")).create_table(
        "rows", pa.table({"id": np.arange(n), "draw": draws, "vector": values})
    )
    table.create_index(metric="dot", vector_column_name="vector")
    steps = [(20, 5), (20, 20), (60, 20), (120, 50), (300, 50)]

    def search(query: Floats, share: float, effort: int) -> list[int]:
        probes, refine = steps[effort]
        asked = table.search(query).limit(K).nprobes(probes).refine_factor(refine).select(["id"])
        if share < 1:
            asked = asked.where(f"draw < {share}", prefilter=True)
        return list(asked.to_arrow()["id"].to_pylist())

    yield search, len(steps), f"{library.__version__}, IVF_PQ; nprobes, refine_factor {steps}"


@contextmanager
def milvus_lite(rows: Floats, draws: Floats, folder: Path) -> Iterator[tuple[Search, int, str]]:
    """HNSW."""
    import milvus_lite as library
    from pymilvus import DataType, MilvusClient

    n, dim = rows.shape
    client = MilvusClient(str(folder / "milvus.db"))
    schema = client.create_schema(auto_id=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("draw", DataType.FLOAT)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
    index = client.prepare_index_params()
    index.add_index("vector", index_type="HNSW", metric_type="IP", params={"M": 24, "efConstruction": 100})
    client.create_collection("rows", schema=schema, index_params=index)
    for start in range(0, n, 2000):
        part = range(start, min(n, start + 2000))
        client.insert("rows", [{"id": i, "draw": float(draws[i]), "vector": rows[i].tolist()} for i in part])
    client.flush("rows")
    client.load_collection("rows")
    steps = [32, 64, 128, 256, 512]

    def search(query: Floats, share: float, effort: int) -> list[int]:
        found = client.search(
            "rows",
            [query.tolist()],
            filter="" if share == 1 else f"draw < {share}",
            limit=K,
            search_params={"metric_type": "IP", "params": {"ef": steps[effort]}},
        )
        return [int(hit["id"]) for hit in found[0]]

    try:
        yield search, len(steps), f"{library.__version__}, HNSW 24; ef {steps}"
    finally:
        client.close()


@contextmanager
def duckdb_vss(rows: Floats, draws: Floats, folder: Path) -> Iterator[tuple[Search, int, str]]:
    """HNSW of the extension vss, which is downloaded."""
    import duckdb as library
    import pyarrow as pa

    n, dim = rows.shape
    base = library.connect(str(folder / "rows.duckdb"))
    base.execute("INSTALL vss; LOAD vss; SET hnsw_enable_experimental_persistence = true")
    values = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), dim)
    base.register("given", pa.table({"id": np.arange(n), "draw": draws, "vector": values}))
    base.execute(f"CREATE TABLE rows AS SELECT id, draw, vector::FLOAT[{dim}] AS vector FROM given")
    base.execute("CREATE INDEX near ON rows USING HNSW (vector) WITH (metric = 'ip', ef_construction = 100, M = 24)")
    steps = [32, 64, 128, 256, 512]

    def search(query: Floats, share: float, effort: int) -> list[int]:
        base.execute(f"SET hnsw_ef_search = {steps[effort]}")
        keep = "" if share == 1 else f"WHERE draw < {share}"
        text = f"SELECT id FROM rows {keep} ORDER BY array_negative_inner_product(vector, ?::FLOAT[{dim}]) LIMIT {K}"
        return [row[0] for row in base.execute(text, [query.tolist()]).fetchall()]

    yield search, len(steps), f"{library.__version__}, HNSW 24; ef {steps}"


PEERS = {"LanceDB": lancedb, "Milvus Lite": milvus_lite, "DuckDB VSS": duckdb_vss}


def measure(
    rows: Floats, queries: Floats, ours: Callable[[Floats, npt.NDArray[np.bool_] | None], npt.NDArray[np.int64]]
) -> dict[str, Any]:
    """Every database that runs here, and ours; for the others the reason why not."""
    draws = np.random.default_rng(3).random(len(rows)).astype(np.float32)
    masks = {share: None if share == 1 else draws < np.float32(share) for share in SHARES}
    for mask in masks.values():
        if mask is not None:
            mask.setflags(write=False)  # as a searcher keeps them
    truth = {share: _truth(rows, queries[:ASKED], mask) for share, mask in masks.items()}

    def search(query: Floats, share: float, effort: int) -> list[int]:
        return [int(row) for row in ours(query[None], masks[share])[0]]

    told: dict[str, Any] = {"vecstore": _told(search, 1, rows, queries, truth)}
    for name, opened in PEERS.items():
        folder = Path(tempfile.mkdtemp(prefix="search-peer-"))
        try:
            start = time.perf_counter()
            with opened(rows, draws, folder) as (asked, steps, what):
                built = round(time.perf_counter() - start, 1)
                told[name] = {"what": what, "build_wall_s": built} | _told(asked, steps, rows, queries, truth)
        except Exception as error:
            told[name] = {"not measured": f"{type(error).__name__}: {error}"[:200]}
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return told


def _truth(rows: Floats, queries: Floats, mask: npt.NDArray[np.bool_] | None) -> Floats:
    """The score of the last of the exact K."""
    scores = queries @ (rows if mask is None else rows[mask]).T
    last: Floats = np.sort(scores, axis=1)[:, -K]
    return last


def _told(search: Search, steps: int, rows: Floats, queries: Floats, truth: dict[float, Floats]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for share, last in truth.items():
        recall = fewest = 0.0
        for effort in range(steps):
            hits = [search(query, share, effort) for query in queries[:ASKED]]
            good = [
                sum(rows[row] @ query >= floor - 1e-5 for row in some if row >= 0)
                for some, query, floor in zip(hits, queries, last, strict=False)
            ]
            recall, fewest = sum(good) / (K * ASKED), min(map(len, hits))
            if recall >= 0.99:
                break
        taken = []
        for query in queries[:ASKED]:
            start = time.perf_counter()
            search(query, share, effort)
            taken.append(time.perf_counter() - start)
        found["no filter" if share == 1 else f"keeps {share:g}"] = {
            "ms_wall": round(1000 * statistics.median(taken), 2),
            "recall": round(recall, 4),
            "fewest_hits": fewest,
            "effort": effort,
        }
    return found
