"""Search: our kinds of index beside raw faiss and its peers, quality beside speed, in one run.

    python benchmarks/bench_search.py [--quick] [--only single,batch,filters,graph,tail,peers,databases,store,gpu]
                                      [--n 100000] [--real STORE ...] [--threads 1]

Made vectors are clustered and of unit length, in two spectra: the variance of dimension i falls as 1/i ("flat") or as
1/i² ("steep"), with three quarters as much spread within the 2,000 clusters as between them; "hard" is "flat" with as
much within as between, for batches and neighbours only. `--real` takes stores of one encoder, whose vectors are joined.
Recall is against brute force over 1,000 queries that are not in the index; ties count. Parts are merged into one result
file. "gpu" needs torch with CUDA and nothing else: exact search by torch alone, beside the rate at which the same card
copies memory.
"""

from __future__ import annotations

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from common import RESULTS, rounds, timed, write

if TYPE_CHECKING:
    from vecstore.index.coded import CodedIndex
    from vecstore.index.exact import ExactIndex

PARTS = ("single", "batch", "filters", "graph", "tail", "peers", "databases", "store", "gpu")
K = 10
SINGLE = 20
"""Queries asked one by one in a round."""
RECALLED = 200
"""Of them, for recall."""
MANY = (30, 100)
"""More hits, of which recall is taken too."""

MEASURED = (
    "import json, resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode;"
    " used = resource.getrusage(resource.RUSAGE_CHILDREN);"
    " print(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss]), file=sys.stderr); sys.exit(code)"
)
"""Runs a command and says what it took: a small process between, whose memory is not counted as the command's."""

Floats = npt.NDArray[np.float32]


def clustered(n: int, dim: int, power: float, within: float, queries: int) -> tuple[Floats, Floats]:
    """Unit vectors around 2,000 centres, as float16 holds them; and queries. `within`: spread about the centres."""
    rng = np.random.default_rng(0)
    spread = (np.arange(1, dim + 1) ** (-power / 2)).astype(np.float32)
    centres = rng.standard_normal((2000, dim), dtype=np.float32)
    rotation = np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32)

    def draw(m: int) -> Floats:
        rows = np.empty((m, dim), np.float32)
        for start in range(0, m, 100_000):
            size = min(100_000, m - start)
            block = centres[rng.integers(0, 2000, size)] + within * rng.standard_normal((size, dim), dtype=np.float32)
            block = (block * spread) @ rotation
            rows[start : start + size] = block / np.linalg.norm(block, axis=1, keepdims=True)
        return rows

    return draw(n), draw(queries)


MADE = {"flat": (1.0, 0.75), "steep": (2.0, 0.75), "hard": (1.0, 1.0)}
"""Fall of the variance, and spread within clusters."""


def data_sets(arguments: argparse.Namespace) -> Iterator[tuple[str, npt.NDArray[np.float16], Floats]]:
    """Name, vectors as a store holds them, and queries of unit length that are not among them."""
    from vecstore.index.base import halved, unit_rows

    for name in MADE:
        if name not in (arguments.sets or name).split(","):
            continue
        rows, queries = clustered(arguments.n, arguments.dim, *MADE[name], arguments.queries)
        yield name, halved(rows), unit_rows(halved(queries))
    parts = []
    for path in arguments.real:
        from vecstore.store import Store

        with Store(path) as store:
            space = store.spaces()[0]
            parts.append(halved(store.vectors(space, store.embedded(space))))
    if parts:
        vectors = np.concatenate(parts)
        order = np.random.default_rng(0).permutation(len(vectors))
        asked = min(arguments.queries, len(vectors) // 5)
        yield "real", vectors[np.sort(order[asked:])], unit_rows(vectors[order[:asked]])


class Bench:
    """One data set with its raw faiss index and its exact answer."""

    def __init__(self, vectors: npt.NDArray[np.float16], queries: Floats) -> None:
        import faiss

        from vecstore.index.base import unit_rows
        from vecstore.index.exact import ExactIndex

        self.vectors, self.queries, self.n = vectors, queries, len(vectors)
        self.rows = unit_rows(vectors)
        self.flat: Any = faiss.IndexFlatIP(vectors.shape[1])
        self.flat.add(self.rows)
        self.exact = ExactIndex.build(np.arange(self.n), vectors)
        self.truth = self.exact.search(queries, K)
        self._chosen: dict[tuple[float, str | None], CodedIndex] = {}
        self.build_s: dict[tuple[float, str | None], float] = {}

    def chosen(self, recall: float, kind: str | None = None) -> CodedIndex | ExactIndex:
        """The index that would be built for these vectors: the first plan that reaches the recall."""
        from vecstore.index.choice import choose, spectrum
        from vecstore.index.coded import CodedIndex
        from vecstore.index.kinds import KINDS

        if (recall, kind) not in self._chosen:
            sample = spectrum(self.rows[np.random.default_rng(0).choice(self.n, min(self.n, 20_000), replace=False)])
            for plan in choose(self.n, self.rows.shape[1], sample, recall, kind=kind):
                maker, start = KINDS[plan.kind], time.process_time()
                if not issubclass(maker, CodedIndex):
                    return self.exact
                index = maker.build(np.arange(self.n), self.vectors, plan.design, recall)
                self.build_s[recall, kind] = round(time.process_time() - start, 2)
                if index.recall is None or index.recall.value >= recall:
                    break
            self._chosen[recall, kind] = index
        return self._chosen[recall, kind]

    def recall(self, scores: Floats, truth: Floats | None = None) -> float:
        """Share of hits that are as good as the exact ones."""
        last = (self.truth[1] if truth is None else truth)[: len(scores), K - 1 : K]
        return round(float((scores >= last).mean()), 5)

    def scores_of(self, found: npt.NDArray[np.int64]) -> Floats:
        """Exact scores of a peer's hits of the first queries."""
        products = np.einsum(
            "qkd,qd->qk", self.rows[found].astype(np.float64), self.queries[: len(found)].astype(np.float64)
        )
        return np.where(found >= 0, products.astype(np.float32), -np.inf).astype(np.float32)


def part_single(bench: Bench, times: int) -> dict[str, Any]:
    """One query at a time, at a recall of 0.998: the index that is built soonest, and the one that is chosen."""
    indexes = {"coded": bench.chosen(0.998, "coded"), "chosen": bench.chosen(0.998)}
    one_by_one = [np.ascontiguousarray(query[None]) for query in bench.queries[:SINGLE]]
    searches: dict[str, Callable[[], Any]] = {"faiss_flat": lambda: [bench.flat.search(q, K) for q in one_by_one]}
    searches["exact"] = lambda: [bench.exact.search(query, K) for query in one_by_one]
    searches |= {
        name: (lambda index=index: [index.search(query, K) for query in one_by_one])  # type: ignore[misc]
        for name, index in indexes.items()
    }
    asked = rounds(searches, times)
    flat = asked["faiss_flat"]["cpu_s"]
    told: dict[str, Any] = {
        "ms_cpu": {name: round(taken["cpu_s"] / SINGLE * 1000, 3) for name, taken in asked.items()},
        "exact_over_flat": round(asked["exact"]["cpu_s"] / flat, 3),
    }
    for name, index in indexes.items():
        many = [np.concatenate([index.search(q[None], k)[1] for q in bench.queries[:RECALLED]]) for k in MANY]
        truths = [bench.exact.search(bench.queries[:RECALLED], k)[1] for k in MANY]
        told[name] = {
            "recall_of_more": {
                str(k): round(float((found >= truth[:, -1:]).mean()), 5)
                for k, found, truth in zip(MANY, many, truths, strict=True)
            },
            "times_faster": round(flat / asked[name]["cpu_s"], 2),
            "recall": bench.recall(index.search(bench.queries, K)[1]),
            **_told(index),
            "build_cpu_s": bench.build_s.get((0.998, "coded" if name == "coded" else None)),
        }
    return told


def _told(index: Any) -> dict[str, Any]:
    """What an index says of itself."""
    if index.exact:
        return {"index": "exact"}
    settings = {key: index.settings[key] for key in ("per_hit", "nprobe", "reach")}
    return {"index": f"{index.kind}: {index.design}", "recall_told": str(index.recall), **settings}


def part_batch(bench: Bench, times: int) -> dict[str, Any]:
    """A thousand queries in one call, at a recall of 0.99."""
    from vecstore.index.cells import CellsIndex
    from vecstore.index.choice import choose, spectrum
    from vecstore.index.coded import CodedIndex

    sample = spectrum(bench.rows[np.random.default_rng(0).choice(bench.n, min(bench.n, 20_000), replace=False)])
    plans = [plan for plan in choose(bench.n, bench.rows.shape[1], sample, kind="cells") if plan.kind == "cells"]
    plans += [plan for plan in choose(bench.n, bench.rows.shape[1], sample, kind="coded") if plan.kind == "coded"]
    told: dict[str, Any] = {"spectrum": {"effective": round(sample.effective, 1), "within": sample.within}}
    searches: dict[str, Callable[[], Any]] = {"faiss_flat": lambda: bench.flat.search(bench.queries, K)}
    searches["exact"] = lambda: bench.exact.search(bench.queries, K)
    for plan in plans:
        maker = CellsIndex if plan.kind == "cells" else CodedIndex
        start = time.process_time()
        index = maker.build(np.arange(bench.n), bench.vectors, plan.design, 0.99)
        name = f"{plan.kind}: {plan.design}"
        told[name] = {
            "build_cpu_s": round(time.process_time() - start, 2),
            "estimated_s": round(plan.seconds, 2),
            "recall": bench.recall(index.search(bench.queries, K)[1]),
            "recall_told": str(index.recall),
            "settings": {key: index.settings[key] for key in ("per_hit", "nprobe")},
        }
        searches[name] = lambda index=index: index.search(bench.queries, K)  # type: ignore[misc]
    taken = rounds(searches, times)
    for name, seconds in taken.items():
        told.setdefault(name, {})["ms_cpu_per_query"] = round(seconds["cpu_s"] / len(bench.queries) * 1000, 4)
        told[name]["times_faster"] = round(taken["faiss_flat"]["cpu_s"] / seconds["cpu_s"], 2)
    return told


def part_filters(bench: Bench, times: int) -> dict[str, Any]:
    """One query and many, with filters that keep 1 %, 10 % and 50 %."""
    index = bench.chosen(0.99)
    masks = {str(share): np.random.default_rng(1).random(bench.n) < share for share in (0.01, 0.1, 0.5)}
    for mask in masks.values():
        mask.setflags(write=False)  # as a searcher keeps them
    told: dict[str, Any] = _told(index)
    for count in (1, len(bench.queries)):
        asked = [bench.queries] if count > 1 else [query[None] for query in bench.queries[:SINGLE]]

        def search(mask: npt.NDArray[np.bool_] | None, asked: list[Floats] = asked) -> None:
            for one in asked:
                index.search(one, K, mask)

        searches: dict[str, Callable[[], Any]] = {"none": partial(search, None)}
        searches |= {name: partial(search, mask) for name, mask in masks.items()}
        taken = rounds(searches, times)
        for name, seconds in taken.items():
            entry = told.setdefault(name, {})
            entry[f"{count}_queries_over_unfiltered"] = round(seconds["cpu_s"] / taken["none"]["cpu_s"], 2)
    for name, mask in masks.items():
        truth = bench.exact.search(bench.queries, K, mask)[1]
        single = [index.search(query[None], K, mask) for query in bench.queries[:RECALLED]]
        for many, found in (
            (1, [np.concatenate(part) for part in zip(*single, strict=True)]),
            (len(bench.queries), index.search(bench.queries, K, mask)),
        ):
            told[name][f"{many}_queries_recall"] = bench.recall(found[1], truth)
            told[name][f"{many}_queries_always_k"] = bool((found[0] >= 0).all())
    return told


def part_graph(bench: Bench, times: int) -> dict[str, Any]:
    """Ten neighbours of every stored vector, itself left out; faiss's time is that of 2,000 of them, in proportion."""
    from vecstore.index.pairs import all_pairs

    rows = np.sort(np.random.default_rng(2).choice(bench.n, min(2000, bench.n), replace=False))
    asked = np.ascontiguousarray(bench.rows[rows])
    truth = bench.exact.search(asked, K + 1)[1][:, K]
    told: dict[str, Any] = {}
    for recall in (0.97, 0.9999):
        before = timed(lambda: bench.flat.search(asked, K + 1))[1]
        start = time.process_time()
        _, scores, reached = all_pairs(bench.vectors, K, recall)
        taken = time.process_time() - start
        after = timed(lambda: bench.flat.search(asked, K + 1))[1]
        flat = (before + after) / 2 * bench.n / len(rows)
        told[str(recall)] = {
            "times_faster": round(flat / taken, 2),
            "recall": round(float((scores[rows] >= truth[:, None]).mean()), 5),
            "recall_told": str(reached),
            "cpu_s": round(taken, 1),
            "faiss_flat_cpu_s": round(flat, 1),
        }
    return told


def part_tail(bench: Bench, times: int) -> dict[str, Any]:
    """A search right after 980 new vectors (the queries that are not asked), beside the same without them."""
    from vecstore.index.exact import ExactIndex

    told: dict[str, Any] = {}
    fresh = bench.queries[SINGLE:]
    tail = ExactIndex.build(bench.n + np.arange(len(fresh)), fresh)
    one_by_one = [np.ascontiguousarray(query[None]) for query in bench.queries[:SINGLE]]
    for name, index in (("exact", bench.exact), ("chosen", bench.chosen(0.99))):
        taken = rounds(
            {
                "without": lambda index=index: [index.search(one, K) for one in one_by_one],  # type: ignore[misc]
                "with": lambda index=index: [tail.beside(index.search(one, K), one, K) for one in one_by_one],  # type: ignore[misc]
            },
            times,
        )
        told[name] = {"over_without": round(taken["with"]["cpu_s"] / taken["without"]["cpu_s"], 3)}
    return told


def part_peers(bench: Bench, times: int) -> dict[str, Any]:
    """Graph indexes tuned to a recall of 0.99 on half of the queries; what is not installed is named."""
    told: dict[str, Any] = {}
    for name, module in (
        ("faiss HNSW", "faiss"),
        ("hnswlib", "hnswlib"),
        ("usearch", "usearch.index"),
    ):
        try:
            library = importlib.import_module(module)
        except ImportError:
            told[name] = "not installed"
            continue
        maker = {"faiss HNSW": _faiss_hnsw, "hnswlib": _hnswlib, "usearch": _usearch}[name]
        start = time.process_time()
        search = maker(library, bench)
        built = time.process_time() - start
        half = len(bench.queries) // 2
        for effort in (16, 32, 64, 128, 256, 512):
            found = search(bench.queries[:half], effort)
            if bench.recall(bench.scores_of(found)) >= 0.99:
                break
        rest = bench.queries[half:]
        taken = rounds(
            {"flat": lambda rest=rest: bench.flat.search(rest, K), "peer": lambda: search(rest, effort)},  # type: ignore[misc]  # noqa: B023
            times,
        )
        scores = bench.scores_of(search(bench.queries, effort))
        told[name] = {
            "build_cpu_s": round(built, 2),
            "effort": effort,
            "recall": bench.recall(scores),
            "times_faster": round(taken["flat"]["cpu_s"] / taken["peer"]["cpu_s"], 2),
        }
    return told


def part_databases(bench: Bench, times: int) -> dict[str, Any]:
    """Vector databases with filters that keep 50 %, 10 % and 1 %; single queries, wall time. See `search_peers`."""
    from search_peers import measure

    index = bench.chosen(0.99)
    return measure(bench.rows, bench.queries, lambda query, mask: index.search(query, K, mask)[0])


def _faiss_hnsw(faiss: Any, bench: Bench) -> Callable[[Floats, int], npt.NDArray[np.int64]]:
    index = faiss.IndexHNSWFlat(bench.rows.shape[1], 24, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 100
    index.add(bench.rows)

    def search(queries: Floats, effort: int) -> npt.NDArray[np.int64]:
        found: npt.NDArray[np.int64] = index.search(queries, K, params=faiss.SearchParametersHNSW(efSearch=effort))[1]
        return found

    return search


def _hnswlib(hnswlib: Any, bench: Bench) -> Callable[[Floats, int], npt.NDArray[np.int64]]:
    index = hnswlib.Index("ip", bench.rows.shape[1])
    index.init_index(bench.n, ef_construction=100, M=24)
    index.add_items(bench.rows)

    def search(queries: Floats, effort: int) -> npt.NDArray[np.int64]:
        index.set_ef(effort)
        return np.asarray(index.knn_query(queries, K)[0], np.int64)

    return search


def _usearch(usearch: Any, bench: Bench) -> Callable[[Floats, int], npt.NDArray[np.int64]]:
    index = usearch.Index(ndim=bench.rows.shape[1], metric="ip", dtype="f16", connectivity=24, expansion_add=100)
    index.add(np.arange(bench.n), bench.rows)

    def search(queries: Floats, effort: int) -> npt.NDArray[np.int64]:
        index.expansion_search = effort
        return np.asarray(index.search(queries, K).keys, np.int64).reshape(len(queries), K)

    return search


def part_store(bench: Bench, times: int) -> dict[str, Any]:
    """A store of these vectors: building its index, the first query from the command line, a predicate."""
    import shutil
    import tempfile

    from bench_store import fill

    from vecstore.store import Store

    folder = Path(tempfile.mkdtemp(prefix="bench-search-"))
    try:
        fill(folder / "store.vecs", bench.vectors)[0].close()

        def call(*arguments: str) -> dict[str, Any]:
            start = time.perf_counter()
            command = [sys.executable, "-c", MEASURED, sys.executable, "-m", "vecstore_cli", *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
            wall = time.perf_counter() - start
            if done.returncode:
                raise SystemExit(f"{' '.join(arguments)}: {done.stderr}")
            cpu, peak = json.loads(done.stderr.splitlines()[-1])
            return {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2), "peak_mib": round(peak / 1024)}

        built = call("index", "build", "store.vecs")
        files = [path for path in (folder / "store.vecs" / "indexes").rglob("*") if path.is_file()]

        def read() -> None:
            for path in files:
                with path.open("rb") as file:
                    while file.read(1 << 24):
                        pass

        first = [call("search", "store.vecs", "7", "-k", "10", "--json") for _ in range(3)]
        reading = min(timed(read)[0] for _ in range(3))
        bare = min(call("info", "store.vecs", "--json")["wall_s"] for _ in range(3))
        with Store(folder / "store.vecs") as store:
            taken = min(timed(lambda: store.select("item % 10 = 0"))[0] for _ in range(3))
        best = min(first, key=lambda one: one["wall_s"])
        return {
            "index_build": built,
            "index_mib": round(sum(path.stat().st_size for path in files) / 2**20),
            "first_query": best,
            "reading_the_index_s": round(reading, 2),
            "info_s": bare,
            "goal: at most 1.5 x reading + 1 s": round(1.5 * reading + 1, 2),
            "predicate_s": round(taken, 3),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def part_gpu(n: int, dim: int, quick: bool) -> dict[str, Any]:
    """Exact search by torch on one GPU: float16 vectors in its memory, products block by block, the best kept."""
    try:
        import torch
    except ImportError:
        return {"missing": "torch is not installed"}
    if not torch.cuda.is_available():
        return {"missing": "no CUDA device"}
    n = 200_000 if quick else n
    device = torch.device("cuda")
    generator = torch.Generator(device).manual_seed(0)
    rows = torch.empty((n, dim), dtype=torch.float16, device=device)
    for start in range(0, n, 500_000):
        block = torch.randn((min(500_000, n - start), dim), generator=generator, device=device)
        rows[start : start + len(block)] = torch.nn.functional.normalize(block)

    def seconds(work: Callable[[], Any], repeat: int = 5) -> float:
        work()
        taken = []
        for _ in range(repeat):
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            begin.record()
            work()
            end.record()
            torch.cuda.synchronize()
            taken.append(float(begin.elapsed_time(end)) / 1000)
        return statistics.median(taken)

    def search(queries: Any, size: int) -> tuple[Any, Any]:
        best: tuple[Any, Any] | None = None
        for start in range(0, n, size):
            scores, found = torch.topk(queries @ rows[start : start + size].T, min(K, n - start), dim=1)
            found = found + start
            if best is not None:
                scores, found = torch.cat([best[0], scores], 1), torch.cat([best[1], found], 1)
                scores, order = torch.topk(scores, K, dim=1)
                found = torch.gather(found, 1, order)
            best = scores, found
        assert best is not None
        return best

    def copy_rate() -> float:
        """Bytes read and written a second by a copy within the card."""
        source = rows[: max(1, n // 2)]
        target = torch.empty_like(source)
        return 2 * source.numel() * 2 / seconds(lambda: target.copy_(source))

    copied = copy_rate()
    torch.cuda.empty_cache()
    told: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device),
        "torch": str(torch.__version__),
        "n": n,
        "dim": dim,
        "copy_gb_s": round(copied / 1e9, 1),
    }
    for count in (1, 10, 100, 1000):
        queries = torch.nn.functional.normalize(torch.randn((count, dim), generator=generator, device=device)).half()
        # Scores of a block take at most 4 GB.
        size = max(65_536, min(n, 2_000_000_000 // count))
        taken = seconds(lambda queries=queries, size=size: search(queries, size))  # type: ignore[misc]
        read = n * dim * 2 / taken
        told[f"{count}_queries"] = {
            "ms": round(taken * 1000, 3),
            "queries_per_s": round(count / taken, 1),
            "share_of_copy_rate": round(read / copied, 3),
            "tflop_s": round(2 * n * dim * count / taken / 1e12, 1),
        }
    # The answer is right: a few queries once more in float64.
    check = torch.nn.functional.normalize(torch.randn((3, dim), generator=generator, device=device)).half()
    _, found = search(check, 1_000_000)
    exact = torch.cat([check.double() @ rows[s : s + 250_000].double().T for s in range(0, n, 250_000)], 1)
    truth = torch.topk(exact, K, dim=1).values[:, -1:]
    told["recall_of_float16_products"] = round(float((torch.gather(exact, 1, found) >= truth).float().mean()), 4)
    return told


def main() -> None:
    """Run the parts that were asked for and merge them into the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small, printed and not kept")
    parser.add_argument("--only", default=",".join(part for part in PARTS if part != "gpu"))
    parser.add_argument("--n", type=int, default=None, help="vectors [100000; 10000000 for gpu; 5000 with --quick]")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sets", default=None, help="of flat, steep, hard, real [all]")
    parser.add_argument("--real", nargs="*", default=[], metavar="STORE")
    arguments = parser.parse_args()
    parts = [part for part in PARTS if part in arguments.only.split(",")]
    if unknown := set(arguments.only.split(",")) - set(PARTS):
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
    result: dict[str, Any] = {}
    if "gpu" in parts:
        result["gpu"] = part_gpu(arguments.n or 10_000_000, arguments.dim, arguments.quick)
        parts.remove("gpu")
    if parts:
        import faiss

        faiss.omp_set_num_threads(arguments.threads)
        arguments.n = arguments.n or (5000 if arguments.quick else 100_000)
        if arguments.quick:
            arguments.queries, arguments.dim = min(arguments.queries, 100), min(arguments.dim, 64)
        times = 2 if arguments.quick else 5
        tasks = {
            "single": part_single,
            "batch": part_batch,
            "filters": part_filters,
            "graph": part_graph,
            "tail": part_tail,
            "peers": part_peers,
            "databases": part_databases,
            "store": part_store,
        }
        for name, vectors, queries in data_sets(arguments):
            bench = Bench(vectors, queries)
            for part in parts:
                if name == "hard" and part not in ("batch", "graph"):
                    continue
                key = f"n={bench.n}, dim={vectors.shape[1]}, threads={arguments.threads}"
                told = tasks[part](bench, times)
                result.setdefault(part, {})[f"{name}, {key}"] = told
                print(part, name, key, json.dumps(told), flush=True)
    kept = RESULTS / "search.json"
    if kept.is_file() and not arguments.quick:
        before = json.loads(kept.read_text(encoding="utf-8"))
        for part in PARTS:
            if isinstance(before.get(part), dict):
                result[part] = {**before[part], **result.get(part, {})}
    write(
        "search",
        result,
        ["faiss-cpu", "numpy", "usearch", "hnswlib", "lancedb", "milvus-lite", "pymilvus", "duckdb"],
        arguments.quick,
    )


if __name__ == "__main__":
    main()
