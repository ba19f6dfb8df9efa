"""Approximate search that ends exactly: short codes find candidates, the stored vectors score them.

The codes are faiss's (RaBitQ, product quantisation, scalars of 8 bits or of 16), optionally over fewer principal
components, in one cell or many. What they return is re-scored from the vectors themselves, so a hit has the same score
as in an exact search; only a hit may be missing. How often that happens is measured when the index is built.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import faiss as _faiss
import numpy as np
import numpy.typing as npt

from vecstore.errors import DataError
from vecstore.files import HashingFile
from vecstore.index.base import (
    HalfArray,
    Hits,
    Index,
    allowed_rows,
    best,
    checked_ids,
    checked_k,
    checked_vectors,
    halved,
    no_hits,
    single,
    unit_rows,
)
from vecstore.index.exact import (
    FEW_ALLOWED,
    check_ascending,
    float32_error,
    read_faiss,
    rescored,
    scan_rows,
    useful_candidates,
)
from vecstore.index.halves import largest, pair_products
from vecstore.index.recall import PER_HIT, K, Recall, exact_neighbours, held_out, measured, positions, without
from vecstore.index.together import Cells, nearest
from vecstore.records import BoolArray, FloatArray, IntArray

faiss: Any = _faiss

BLOCK_ROWS = 65_536
"""Rows that are coded at a time: 128 MB at d = 512."""

TRAIN_ROWS = 20_000
"""Random rows that codes and projections are learned from; cells need more, see `_training_rows`."""

RESCORED_QUERIES = 8
"""Queries re-scored at a time: their candidates stay in the processor's cache."""

SCORED_QUERIES = 1024
"""Queries whose candidates are ranked at a time."""

MANY_QUERIES = 16
"""From so many on, a filter that keeps an eighth or less is cheaper as one matrix product over what it keeps."""

OLDEST = (1, 15)
"""The first faiss whose codes were found to hold filters and to come back from a file."""

CODES: Mapping[str, Callable[[int], str]] = {
    "rabitq": lambda dim: "RaBitQfs",
    "pq": lambda dim: f"PQ{max(1, dim // 2)}x4fs",
    "sq8": lambda dim: "SQ8",
    "half": lambda dim: "SQfp16",
}
"""faiss's name of each code, for vectors of a length. rabitq: 1 bit a dimension; pq: 2; sq8: 8; half: 16, a float."""

SCANNED_QUERIES = 8
"""Up to so many are compared with the rows as they are stored; for more the rows are made float32 once for all."""

SCANNED_HITS = 4096
"""More hits are taken block by block: their vectors would be in memory all at once."""

SCANNED_SPARE = 256
"""Candidates fetched beyond `k`, because the rows as they are stored are not quite of length 1."""

TOGETHER_FROM = 16
"""Queries from which on cells of "half" are compared with all their visitors at once."""

REACHES = (12.0, 4.0, 2.0)
"""So many times farther back than ten hits may stand to be looked for by codes, if that finds as many: as tried."""

ROWS_PER_CANDIDATE = 10
"""Rows compared exactly in the time that a candidate is found and scored in."""

CODES_PER_CANDIDATE: Mapping[str, int] = {"rabitq": 50, "pq": 50, "sq8": 50, "half": 150}
"""How many codes are looked at in the time that a candidate is scored in."""


@dataclass(frozen=True, slots=True)
class Design:
    """How an approximate index is made.

    Attributes
    ----------
    code : {"rabitq", "pq", "sq8", "half"}
    project : int
        Principal components that are coded, randomly rotated; 0: all dimensions as they are.
    cells : int
        Cells of a coarse quantiser (IVF); 1: every code is looked at.
    """

    code: str = "rabitq"
    project: int = 0
    cells: int = 1

    def __str__(self) -> str:
        first = f"{self.project} principal components, " if self.project else ""
        cells = f"{self.cells} cells, " if self.cells > 1 else ""
        return f"{first}{cells}{self.code} codes" if self.code != "half" else f"{first}{cells}in float16"

    def bytes_per_row(self, dim: int) -> int:
        """Bytes of memory for each vector, its number included, the vector itself not."""
        kept = self.project or dim
        return {"rabitq": kept // 8 + 8, "pq": kept // 4, "sq8": kept, "half": 2 * kept}[self.code] + 8


@dataclass(frozen=True, slots=True)
class _Filter:
    """Which rows may be found, as bits, and of each cell."""

    may: BoolArray
    bits: npt.NDArray[np.uint8]
    cells: Cells


class CodedIndex(Index):
    """Codes of all vectors, and the vectors in float16 to score what the codes find.

    Examples
    --------
    >>> rows = np.random.default_rng(0).standard_normal((500, 16)).astype(np.float32)
    >>> rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    >>> index = CodedIndex.build(np.arange(500), rows)
    >>> index.search(rows[:1], k=1)[0], index.recall.value > 0.98
    (array([[0]]), True)
    """

    kind: ClassVar[str] = "coded"
    engine: ClassVar[str] = f"faiss {faiss.__version__}"
    exact: ClassVar[bool] = False
    default: ClassVar[Design] = Design()

    def __init__(
        self,
        ids: IntArray,
        half: HalfArray,
        inverse: FloatArray,
        coded: Any,
        basis: FloatArray | None,
        design: Design,
        settings: Mapping[str, Any],
    ) -> None:
        self._ids, self._half, self._inverse = ids, half, inverse
        self._coded, self._basis, self.design = coded, basis, design
        self.settings = dict(settings)
        self._kept: _Filter | None = None

    @classmethod
    def build(
        cls,
        ids: IntArray,
        vectors: FloatArray | HalfArray,
        design: Design | None = None,
        recall: float = 0.99,
        seed: int = 0,
    ) -> Self:
        """Make an index of vectors; see `Index.build`.

        Parameters
        ----------
        ids : ndarray of shape (n,), int64
        vectors : ndarray of shape (n, dim), float16 or float32
            float32 is rounded to float16, as a store holds it.
        design : Design, optional
        recall : float
            Share of the exact hits that searching has to find: its parameters are chosen so, where they can be.
            `recall` of the index says what was reached.
        seed : int
            Of the samples that are learned from.
        """
        half = np.ascontiguousarray(halved(vectors))
        numbers = checked_ids(ids, len(half))
        checked_vectors(np.empty((0, *half.shape[1:]), np.float32), None, "row")  # its shape
        order = np.argsort(numbers)
        if (order[1:] < order[:-1]).any():
            half, numbers = half[order], numbers[order]
        chosen = design or cls.default
        index = cls(numbers, half, np.empty(len(half), np.float32), None, None, chosen, {})
        index._fill(recall, seed)
        return index

    # Building

    def _fill(self, asked: float, seed: int) -> None:
        """Learn the codes from a random sample, code every row, choose the parameters of a search."""
        n, dim = self._half.shape
        if n == 0:
            return
        rng = np.random.default_rng([seed, 0])
        kept = min(self.design.project, dim)
        cells = max(1, min(self.design.cells, n // 40))
        others = np.setdiff1d(np.arange(n), held_out(n, seed), assume_unique=True)
        sample = np.sort(rng.choice(others, min(len(others), max(TRAIN_ROWS, 64 * cells)), replace=False))
        training = checked_vectors(single(self._half[sample]), dim, "row")
        if kept:
            self._basis = _basis(training, kept, rng)
            training = training @ self._basis.T
        _check_version()
        name = f"IVF{cells},{CODES[self.design.code](kept or dim)}"
        try:
            coded = faiss.index_factory(kept or dim, name, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise DataError(
                f"faiss {faiss.__version__} does not know the index {name}",
                expected=f"a version with {self.design.code} codes",
                do="pip install -U faiss-cpu, or use an exact index",
            ) from error
        if self.design.code == "half":
            coded.by_residual = False
        coded.cp.min_points_per_centroid = 1
        coded.cp.seed = seed + 1
        try:
            coded.train(training)
        except RuntimeError as error:
            raise DataError(
                f"{n} vectors are too few for {self.design}", expected="some thousands", do="use an exact index"
            ) from error
        self._coded = coded
        self._code(0)
        self._calibrate(asked, seed)

    def _code(self, start: int) -> None:
        """Add the rows from `start` on to the codes."""
        for first in range(start, len(self._half), BLOCK_ROWS):
            block = self._half[first : first + BLOCK_ROWS]
            wide = checked_vectors(single(block), None, "row")
            inverse = 1 / np.sqrt(np.einsum("nd,nd->n", wide, wide))
            wide *= inverse[:, None]
            self._inverse[first : first + len(block)] = inverse
            self._coded.add(wide if self._basis is None else wide @ self._basis.T)

    def _calibrate(self, asked: float, seed: int) -> None:
        """Choose cells visited and candidates re-scored on half of the held-out queries, measure on the others."""
        n = len(self._ids)
        rows = held_out(n, seed)
        if len(rows) < 16:  # nothing to learn from: re-score as many as will do for so few
            self.settings = {"per_hit": PER_HIT[-1], "nprobe": self._coded.nlist, "recall": None, "asked": asked}
            return
        queries = self._take(rows)
        far = exact_neighbours(self._take, n, rows, queries, min(n - 1, int(K * REACHES[0])))
        truth = far[:, :K]
        near = np.einsum("qkd,qd->qk", self._take(truth), queries)
        # Half as far again from the usual as the farthest of them: hardly any query of their kind is beyond.
        lowest = [round(float(score), 6) for score in 1.5 * near.min(axis=0) - 0.5 * np.median(near, axis=0)]
        # More than asked for, half-way to 1, so that the other half, and queries to come, reach it too.
        aim = asked + 0.5 * (1 - asked)
        most = PER_HIT[-1]
        seen: dict[int, Any] = {}  # by cells visited: where the true neighbours stand among the candidates

        def share(probe: int, per_hit: int, half: int) -> Any:
            if probe not in seen:
                seen[probe] = self._places(queries, rows, truth, probe)
            return (seen[probe][half::2] < K * per_hit).mean(axis=1)

        cells = self._coded.nlist
        powers = [1 << step for step in range(cells.bit_length())]
        probes = sorted({*powers, *(3 * power // 2 for power in powers if 2 < 3 * power // 2 <= cells), cells})
        chosen, least = (cells, most), np.inf

        def weigh(probe: int) -> bool:
            """Whether so many cells reach the recall; the cheapest that do are chosen."""
            nonlocal chosen, least
            reaching = next((per_hit for per_hit in PER_HIT if share(probe, per_hit, 0).mean() >= aim), None)
            if reaching is None:
                return False
            cost = probe / cells * n + CODES_PER_CANDIDATE[self.design.code] * K * reaching
            if cost < least:
                chosen, least = (probe, reaching), cost
            return True

        enough = 0
        for probe in probes:
            enough += weigh(probe)
            if enough == 2:  # more cells only cost more
                break
        below = max((probe for probe in seen if probe < chosen[0]), default=0)
        if chosen[0] - below > 1:
            weigh((below + chosen[0]) // 2)
        probe, per_hit = chosen
        reached = measured(share(probe, per_hit, 1), K, n)
        while reached.value < asked:
            # More candidates, unless what is missing is in cells that are not visited.
            if per_hit < most and share(probe, most, 1).mean() > reached.value:
                per_hit = PER_HIT[PER_HIT.index(per_hit) + 1]
            elif probe < cells:
                probe = next(more for more in probes if more > probe)
            else:
                break
            reached = measured(share(probe, per_hit, 1), K, n)
        self.settings = {"per_hit": per_hit, "nprobe": probe, "recall": reached.to_dict(), "asked": asked}
        self.settings["reach"] = self._reach(queries[::2], rows[::2], far[::2], asked)
        self.settings["lowest"] = lowest  # score of the first, second … hit below which a query is unlike them

    def _reach(self, queries: FloatArray, rows: IntArray, far: IntArray, asked: float) -> float:
        """How many times farther back than ten hits may stand that are found as often as was asked for."""
        projected = self._projected(queries)
        for farther in REACHES:
            k = int(K * farther)
            count = self._count(k, farther)
            if ROWS_PER_CANDIDATE * count >= len(self._ids):
                continue
            found = self._candidates(projected, count + 1, self._probe(projected, farther))
            places = positions(far[:, :k], without(found, rows, count))
            if np.isfinite(places).mean() >= asked:
                return farther
        return 1.0

    def _places(self, queries: FloatArray, rows: IntArray, truth: IntArray, probe: int) -> Any:
        """Where the true neighbours of held-out queries stand among the candidates: few are looked at if they do."""
        places = np.full(truth.shape, np.inf)
        asked = self._projected(queries)
        pending = np.arange(len(rows))
        for per_hit in (PER_HIT[len(PER_HIT) // 2], PER_HIT[-1]):
            count = min(K * per_hit + 1, len(self._ids))
            found = self._candidates(asked[pending], count, probe)
            places[pending] = positions(truth[pending], without(found, rows[pending], count - 1))
            pending = pending[np.isinf(places[pending]).any(axis=1) & (found[:, -1] >= 0)]
            if not len(pending):
                break
        return places

    # What it is

    @property
    def ids(self) -> IntArray:
        """All ids, ascending: ndarray of shape (n,), int64."""
        return self._ids

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return int(self._half.shape[1])

    def take(self, ids: IntArray) -> FloatArray:
        """Vectors of ids; see `Index.take`."""
        return self._take(np.searchsorted(self._ids, ids))

    @property
    def recall(self) -> Recall | None:
        """What was measured; None for an index of too few vectors to measure anything."""
        told = self.settings.get("recall")
        return Recall(**told) if told else None

    @property
    def facts(self) -> dict[str, Any]:
        """Design and settings."""
        return {"design": asdict(self.design), **self.settings}

    def extended(self, ids: IntArray, vectors: FloatArray | HalfArray) -> Self:
        """An index that also has further vectors; see `Index.extended`.

        Codes are kept where the new ids are above the old; otherwise all are made again.
        """
        half = halved(vectors)
        numbers = checked_ids(ids, len(half))
        asked = float(self.settings.get("asked", 0.99))
        both = np.concatenate([self._ids, numbers])
        if self._coded is None or (len(numbers) and numbers.min() <= self._ids[-1]):
            return type(self).build(both, np.concatenate([self._half, half]), self.design, asked)
        order = np.argsort(numbers)
        start = len(self._ids)
        inverse = np.concatenate([self._inverse, np.empty(len(half), np.float32)])
        self._ids, self._half = checked_ids(both, len(both)), np.concatenate([self._half, half[order]])
        self._ids[start:] = numbers[order]
        self._inverse, self._kept = inverse, None
        self._code(start)
        self._calibrate(asked, 0)
        return self

    # Searching

    def search(self, queries: FloatArray, k: int, allowed: IntArray | BoolArray | None = None) -> Hits:
        """Find the `k` nearest vectors of each query; see `Index.search`. A hit may be missing, a score is exact."""
        wanted, k = checked_vectors(queries, self.dim, "query"), checked_k(k)
        n = len(self._ids)
        may = allowed_rows(self._ids, allowed) if n else None
        many = n if may is None else int(np.count_nonzero(may))
        if many == 0 or len(wanted) == 0:
            return no_hits(len(wanted), k)
        # Recall was measured of ten hits among all. The last of `k` among a share of all stands so many times farther
        # back, where there are more that the codes can't tell apart.
        farther = max(k, K) / K * n / many
        count = min(self._count(max(k, K), farther), many)
        selective = may is not None and len(wanted) >= MANY_QUERIES and many <= n // 8
        few = many <= max(FEW_ALLOWED // 2, ROWS_PER_CANDIDATE * count)
        if few or selective or farther > self.settings.get("reach", 1.0):
            return self._scan(wanted, k, may)
        asked, kept = self._projected(wanted), None if may is None else self._filter(may)
        rows = self._candidates(asked, count, self._probe(asked, farther, kept), kept)
        if may is not None and not may[rows[rows >= 0]].all():
            return self._scan(wanted, k, may)  # faiss 1.13 passes over the filter of these codes without a word
        found = self._rescored(wanted, rows, k)
        again = (rows >= 0).sum(axis=1) < min(k, many)
        lowest = self.settings.get("lowest")
        if lowest and may is None:
            # Farther from everything than the queries that recall was measured on: it says nothing of this one.
            place = min(k, len(lowest)) - 1
            again |= found[1][:, place] < lowest[place]
        if again.any():
            found[0][again], found[1][again] = self._scan(wanted[again], k, may)
        return found

    def whole(self, queries: FloatArray, k: int, allowed: IntArray | BoolArray | None = None) -> Hits:
        """All vectors compared; see `Index.whole`."""
        wanted, k = checked_vectors(queries, self.dim, "query"), checked_k(k)
        n = len(self._ids)
        may = allowed_rows(self._ids, allowed) if n else None
        if n == 0 or len(wanted) == 0 or (may is not None and not may.any()):
            return no_hits(len(wanted), k)
        return self._scan(wanted, k, may)

    def _scan(self, queries: FloatArray, k: int, may: BoolArray | None) -> Hits:
        """The exact answer among the rows that may be found."""
        rows = np.arange(len(self._ids)) if may is None else np.flatnonzero(may)
        if len(queries) <= RESCORED_QUERIES and len(rows) <= FEW_ALLOWED:
            return self._rescored(queries, np.broadcast_to(rows, (len(queries), len(rows))), k)
        if len(queries) <= SCANNED_QUERIES and k <= SCANNED_HITS:
            return self._scanned(queries, k, may, rows)
        return scan_rows(self._take, self._ids, queries, k, rows)

    def _scanned(self, queries: FloatArray, k: int, may: BoolArray | None, rows: IntArray) -> Hits:
        """The same for few queries: products with the rows as they are stored, and proof that they found the best."""
        count = min(k + SCANNED_SPARE, len(rows))
        raw, near = largest(self._half, np.ascontiguousarray(queries), count, may)
        found = self._rescored(queries, near, k)
        if count == len(rows):
            return found
        # What was passed over has at most the last product, and scores that times the reciprocal of its length.
        last = raw[:, -1].astype(np.float64)
        most = np.maximum(last * self._inverse.max(), last * self._inverse.min()) + 2 * float32_error(self.dim)
        unsure = (most >= found[1][:, -1]) | (found[1][:, -1] <= -1)  # clamping makes ties at -1
        if unsure.any():
            found[0][unsure], found[1][unsure] = scan_rows(self._take, self._ids, queries[unsure], k, rows)
        return found

    def _take(self, rows: IntArray) -> FloatArray:
        """Vectors as they are compared; rows of any shape."""
        return unit_rows(self._half[rows])

    def _projected(self, queries: FloatArray) -> FloatArray:
        """Queries as codes are compared with them."""
        return np.ascontiguousarray(queries if self._basis is None else queries @ self._basis.T)

    def _candidates(self, asked: FloatArray, count: int, probe: int, kept: _Filter | None = None) -> IntArray:
        """Row numbers (n_queries, count), the best by their codes first; -1 where there are no more."""
        if self.design.code == "half" and len(asked) >= TOGETHER_FROM:
            return nearest(Cells(self._coded, None) if kept is None else kept.cells, asked, count, probe)
        selector = None if kept is None else faiss.IDSelectorBitmap(kept.bits)
        parameters = faiss.SearchParametersIVF(nprobe=probe, sel=selector)
        rows: IntArray = self._coded.search(asked, count, params=parameters)[1]
        return rows

    def _filter(self, may: BoolArray) -> _Filter:
        """What is derived from a filter; of one that nobody can change it is kept, until another one comes."""
        if self._kept is None or self._kept.may is not may or may.flags.writeable:
            self._kept = _Filter(may, np.packbits(may, bitorder="little"), Cells(self._coded, may))
        return self._kept

    def _count(self, k: int, farther: float) -> int:
        """Candidates for `k` hits that stand `farther` back than those that were measured."""
        exponent = 0.5 if self.design.code == "half" else 1.0
        return int(np.ceil(self.settings["per_hit"] * k * farther**exponent))

    def _probe(self, asked: FloatArray, farther: float, kept: _Filter | None = None) -> int:
        """Cells to visit for hits that stand `farther` back than those that were measured.

        √farther times as many as then. Of a filter, as many cells as have such a share of what it allows: more, where
        that is elsewhere than the query.
        """
        usual, cells = int(self.settings["nprobe"]), int(self._coded.nlist)
        if kept is None or cells == 1:
            return min(cells, int(np.ceil(usual * np.sqrt(farther))))
        order = np.argsort(-(asked @ kept.cells.centres.T), axis=1, kind="stable")
        seen = np.cumsum(kept.cells.sizes[order], axis=1)
        needed = usual / cells * np.sqrt(farther) * int(kept.cells.sizes.sum())
        return min(cells, max(usual, 1 + int((seen < needed).sum(axis=1).max())))

    def _rescored(self, queries: FloatArray, rows: IntArray, k: int) -> Hits:
        """The best `k` of the candidates by the vectors themselves: in float32 first, what is near in float64."""
        found = no_hits(len(queries), k)
        error = 2 * float32_error(self.dim)
        for first in range(0, len(queries), SCORED_QUERIES):
            asked, some = queries[first : first + SCORED_QUERIES], rows[first : first + SCORED_QUERIES]
            known = np.maximum(some, 0)
            many = np.full(len(some), some.shape[1])
            near = pair_products(self._half, np.ascontiguousarray(asked), known.ravel(), many).reshape(some.shape)
            near *= self._inverse[known]
            near[some < 0] = -np.inf
            order = np.argsort(-near, axis=1, kind="stable")
            near, some = np.take_along_axis(near, order, axis=1), np.take_along_axis(some, order, axis=1)
            for start in range(0, len(asked), RESCORED_QUERIES):
                part = slice(start, start + RESCORED_QUERIES)
                useful = useful_candidates(near[part], k, error)
                hits = best(*rescored(self._take, self._ids, asked[part], some[part, :useful]), k)
                place = slice(first + start, first + start + len(hits[0]))
                found[0][place], found[1][place] = hits
        return found

    # Files

    def _files(self) -> dict[str, Callable[[HashingFile], None]]:
        return {"faiss": self._write_codes, "basis": self._write_basis, "rows": self._write_rows}

    def _write_codes(self, file: HashingFile) -> None:
        if self._coded is not None:
            faiss.write_index(self._coded, faiss.PyCallbackIOWriter(file.write))

    def _write_basis(self, file: HashingFile) -> None:
        if self._basis is not None:
            file.write(np.ascontiguousarray(self._basis, "<f4").data)

    def _write_rows(self, file: HashingFile) -> None:
        """Ids (int64), reciprocals of the rows' lengths (float32), rows (float16): each in one piece."""
        if not len(self._ids):
            return
        file.write(np.ascontiguousarray(self._ids, "<i8").data)
        file.write(np.ascontiguousarray(self._inverse, "<f4").data)
        for start in range(0, len(self._half), BLOCK_ROWS):
            file.write(np.ascontiguousarray(self._half[start : start + BLOCK_ROWS], "<f2").data)

    @classmethod
    def _read(cls, files: Mapping[str, memoryview], facts: Mapping[str, Any]) -> Self:
        if tuple(map(int, faiss.__version__.split(".")[:2])) < OLDEST:
            raise ValueError(f"faiss {faiss.__version__} is too old for it")
        n, dim, told = facts["n"], facts["dim"], dict(facts["facts"])
        design = Design(**told.pop("design"))
        if design.code not in CODES or (n and {"per_hit", "nprobe"} - set(told)):
            raise ValueError(f"codes {design.code!r}, settings {', '.join(told) or 'none'}")
        data = files["rows"]
        if len(data) != n * (12 + 2 * dim):
            raise ValueError(f"{len(data)} bytes of rows")
        ids = np.frombuffer(data, "<i8", n)
        inverse = np.frombuffer(data, "<f4", n, 8 * n)
        half = np.frombuffer(data, "<f2", n * dim, 12 * n).reshape(n, dim)
        check_ascending(ids)
        kept = min(design.project, dim)
        basis = np.frombuffer(files["basis"], "<f4").reshape(kept, dim) if kept and n else None
        coded = read_faiss(files["faiss"]) if n else None
        if coded is not None and (not isinstance(coded, faiss.IndexIVF) or (coded.ntotal, coded.d) != (n, kept or dim)):
            raise ValueError(f"a {type(coded).__name__} of {coded.ntotal} codes of length {coded.d}")
        return cls(ids, half, inverse, coded, basis, design, told)


def _check_version() -> None:
    """Refuse a faiss whose fast-scan codes are not to be relied on: 1.13 ignores filters, and crashes reading them.

    Raises
    ------
    DataError
    """
    if tuple(map(int, faiss.__version__.split(".")[:2])) < OLDEST:
        raise DataError(
            f"faiss {faiss.__version__} is too old for codes",
            expected=f"{'.'.join(map(str, OLDEST))} or later",
            do="pip install -U faiss-cpu, or use an exact index",
        )


def principal(training: FloatArray, kept: int) -> FloatArray:
    """Leading principal directions of unit vectors, the first the widest: (kept, dim).

    Not centred: then inner products of projections are those of the vectors, but for what is left out.
    """
    moments = training.T @ training / len(training)
    _, directions = np.linalg.eigh(moments.astype(np.float64))
    return np.ascontiguousarray(directions[:, ::-1][:, :kept].T, np.float32)


def _basis(training: FloatArray, kept: int, rng: np.random.Generator) -> FloatArray:
    """Principal directions, randomly rotated among themselves so that each carries as much: (kept, dim)."""
    rotation, _ = np.linalg.qr(rng.standard_normal((kept, kept)))
    return np.asarray(rotation @ principal(training, kept), np.float32)
