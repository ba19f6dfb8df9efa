"""The nearest neighbours of every vector among all the others, where a few may be missed: each pair is looked at once.

Asking an index row by row computes every product twice, over all dimensions. Here rows are put in the order of their
cells, a first look at the nearest cells tells how near a neighbour of each row has to be, and then cells are
multiplied with cells over a few principal components: what comes within a margin of either row's bound is scored from
the vectors themselves. Margin, components and the pairs of cells that are left out are chosen on held-out rows against
the exact answer, and the recall is measured on others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import faiss as _faiss
import numpy as np
import numpy.typing as npt

from vecstore.errors import DataError, UsageError
from vecstore.index.base import HalfArray, best, clamped, single, unit_rows
from vecstore.index.coded import principal
from vecstore.index.exact import all_of, float32_error, rescored
from vecstore.index.halves import pair_products
from vecstore.index.recall import Recall, exact_neighbours, measured
from vecstore.records import BoolArray, DoubleArray, FloatArray, IntArray, Progress, Silent

faiss: Any = _faiss

FEWEST = 4096
"""Vectors below which an exact comparison is as fast."""

CELL_ROWS = 400
"""Rows of a cell, on the mean: large enough for a product, small enough to be left out."""

MOST_ROWS = 4 * CELL_ROWS
"""Rows of a cell beyond which it is taken in parts."""

FIRST_COMPONENTS = 64
FIRST_CELLS = 1 / 32
FIRST_PER_HIT = 2
"""Components, share of the cells, and candidates for each neighbour of the first look."""

COMPONENTS = (64, 96, 128, 192, 256, 384, 512)
SHARES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.125, 0.09, 0.0625)
"""Components, and shares of the pairs of cells, that are weighed against each other."""

HELD_OUT = (400, 1000)
"""Rows whose exact neighbours are known, the second for a recall of `SHARP` and more: half choose, half measure."""

SHARP = 0.995

SAMPLE = 20_000
"""Random rows that components are learned from."""

SURVEY = (128, 8192)
"""Of them, and of all rows: pairs of which those are counted that would have to be scored."""

RESCORING = 0.4e-6
PER_FLOP = 1 / 70e9
PER_PAIR = 0.5e-9
"""Seconds of one core for a pair that is scored, for a multiplication and an addition each, for a comparison."""

SPARE = 4
"""Neighbours kept beyond `k` until they are scored in float64."""

PENDING = 8_000_000
"""Scored pairs that are kept apart before they are merged."""

DENSE = 0.02
"""Share of a pair of cells beyond which whole vectors are multiplied: cheaper than scoring what came through."""

_TOGETHER = 8
"""Rows scored in float64 at a time."""


@dataclass(slots=True)
class _Rows:
    """Vectors in the order of their cells, and what is known of their neighbours so far."""

    half: HalfArray
    inverse: FloatArray
    starts: IntArray
    centres: FloatArray
    cell: IntArray
    near: IntArray = field(default_factory=lambda: np.empty((0, 0), np.int64))
    scores: FloatArray = field(default_factory=lambda: np.empty((0, 0), np.float32))

    def take(self, rows: IntArray) -> FloatArray:
        """Vectors as they are compared."""
        return unit_rows(self.half[rows])

    def of_cell(self, cell: int) -> FloatArray:
        """Vectors of a cell to the precision of float32."""
        part = slice(self.starts[cell], self.starts[cell + 1])
        return single(self.half[part]) * self.inverse[part, None]

    def scored(self, begin: int, many: IntArray, others: IntArray) -> FloatArray:
        """Products of rows from `begin` on with others, the first `many[0]` with the first row and so on: float32."""
        part = slice(begin, begin + len(many))
        queries = single(self.half[part]) * self.inverse[part, None]
        return pair_products(self.half, queries, others, many) * self.inverse[others]


@dataclass(frozen=True, slots=True)
class _Design:
    """How the pairs are looked at: chosen by `_chosen`."""

    components: int
    margin: float
    share: float


def all_pairs(
    vectors: HalfArray, k: int, recall: float, seed: int = 0, progress: Progress | None = None
) -> tuple[IntArray, FloatArray, Recall]:
    """The `k` nearest other rows of every row.

    Parameters
    ----------
    vectors : ndarray of shape (n, dim), float16
        Of unit length.
    k : int
        From 1 to n - 1.
    recall : float
        Share of the exact neighbours that is to be found, above 0 and below 1.
    seed : int
    progress : Progress, optional
        Told of rows.

    Returns
    -------
    near : ndarray of shape (n, k), int64
        Row numbers, the nearest first, equal scores by row.
    scores : ndarray of shape (n, k), float32
        Inner products in float64, rounded and clamped, as of every `Index`.
    reached : Recall
        As measured on held-out rows.

    Raises
    ------
    UsageError
        A recall or a `k` outside its range.
    DataError
        Fewer than `FEWEST` vectors of which none is another's copy: they are compared exactly in no time.
    """
    told, n = progress or Silent(), len(vectors)
    if not 0 < recall < 1 or not 1 <= k < n:
        raise UsageError(
            f"a recall of {recall}, and {k} neighbours of {n} rows",
            expected="a recall between 0 and 1, and from 1 to n - 1 neighbours",
            do="compare all with an exact index for a recall of 1",
        )
    first, copy_of = _distinct(vectors)
    m = len(first)
    if m < FEWEST or m <= k + SPARE:
        raise DataError(
            f"{m} different vectors, {k} neighbours", expected=f"at least {FEWEST}, and more than {k + SPARE}"
        )
    rng = np.random.default_rng([seed, 2])
    vectors = vectors if m == n else vectors[first]
    sample = np.sort(rng.choice(m, min(m, SAMPLE), replace=False))
    directions = principal(unit_rows(vectors[sample]), min(vectors.shape[1], max(COMPONENTS)))
    rows, order = _in_cells(vectors, directions[:FIRST_COMPONENTS], k, rng)
    held = np.sort(rng.choice(m, min(HELD_OUT[recall >= SHARP], m // 8), replace=False))
    weighed = _Weighed(rows, directions, held, exact_neighbours(rows.take, m, held, rows.take(held), k), rng)
    design = weighed.chosen(recall)
    _look(rows, directions[: design.components], weighed.kept(design.share), design.margin, told)
    near, scores = _ended(rows, order, k)
    if m < n:
        near, scores = _with_copies(vectors, near, scores, first, copy_of)
    return near, scores, weighed.recall(design)


def _distinct(vectors: HalfArray, weights: npt.NDArray[np.uint64] | None = None) -> tuple[IntArray, IntArray]:
    """First row of each different vector, ascending; and for every row which of these it equals."""
    if weights is None:
        weights = np.random.default_rng(0).integers(1, 1 << 62, vectors.shape[1], np.uint64)
    digests = np.empty(len(vectors), np.uint64)
    for start in range(0, len(vectors), 1024):  # sums wrap around; equal vectors have equal ones
        bits = np.ascontiguousarray(vectors[start : start + 1024]).view(np.uint16)
        digests[start : start + 1024] = bits.astype(np.uint64) @ weights
    _, found, same = np.unique(digests, return_index=True, return_inverse=True)
    for start in range(0, len(vectors), SAMPLE):
        part = slice(start, start + SAMPLE)
        if not np.array_equal(vectors[part], vectors[found[same[part]]]):  # two with one digest: compare them all
            _, found, same = np.unique(vectors.view(np.uint16), axis=0, return_index=True, return_inverse=True)
            break
    order = np.argsort(found)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return found[order].astype(np.int64), place[same.ravel()]


def _with_copies(
    vectors: HalfArray, near: IntArray, scores: FloatArray, first: IntArray, copy_of: IntArray
) -> tuple[IntArray, FloatArray]:
    """Neighbours of different vectors as neighbours of all rows, copies among them."""
    k = near.shape[1]
    members = np.split(np.argsort(copy_of, kind="stable"), np.cumsum(np.bincount(copy_of))[:-1])
    alone = np.bincount(copy_of, minlength=len(first)) == 1
    simple = alone & alone[near].all(axis=1)
    all_near, all_scores = first[near][copy_of], scores[copy_of]
    for group in np.flatnonzero(~simple).tolist():
        own = unit_rows(vectors[group : group + 1]).astype(np.float64)
        rows = np.concatenate([members[group], *(members[other] for other in near[group].tolist())])
        many = [len(members[group]), *(len(members[other]) for other in near[group].tolist())]
        values = np.repeat(np.concatenate([clamped((own * own).sum(axis=1)), scores[group]]), many)
        order = np.lexsort((rows, -values))
        rows, values = rows[order], values[order]
        for row in members[group].tolist():
            others = np.flatnonzero(rows != row)[:k]
            all_near[row], all_scores[row] = rows[others], values[others]
    return all_near, all_scores


def _in_cells(vectors: HalfArray, directions: FloatArray, k: int, rng: np.random.Generator) -> tuple[_Rows, IntArray]:
    """Rows in the order of their cells, with their best neighbours in the cells nearest to each; and that order."""
    n = len(vectors)
    cells = max(1, n // CELL_ROWS)
    projected, inverse = _projected(vectors, directions)
    coded = faiss.index_factory(len(directions), f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)  # for its cells alone
    coded.cp.min_points_per_centroid = 1
    coded.train(projected[np.sort(rng.choice(n, min(n, max(SAMPLE, 64 * cells)), replace=False))])
    cell = coded.quantizer.search(projected, 1)[1][:, 0]
    order = np.argsort(cell, kind="stable")
    projected, half, inverse = projected[order], vectors[order], inverse[order]
    starts, cell_of = _bounded(cell[order], cells)
    centres = faiss.downcast_index(coded.quantizer).reconstruct_n(0, cells)[cell[order][starts]]
    rows = _Rows(half, inverse, np.append(starts, n), centres, cell_of)
    width = k + SPARE
    found = _first_look(projected, rows.starts, centres, max(FIRST_PER_HIT * k, width))
    real = found >= 0
    scores = np.full(found.shape, -np.inf, np.float32)
    for start in range(0, n, SAMPLE):
        part = slice(start, start + SAMPLE)
        scores[part][real[part]] = rows.scored(start, np.count_nonzero(real[part], axis=1), found[part][real[part]])
    top = np.argsort(-scores, axis=1, kind="stable")[:, :width]
    rows.near, rows.scores = np.take_along_axis(found, top, axis=1), np.take_along_axis(scores, top, axis=1)
    return rows, order


def _first_look(projected: FloatArray, starts: IntArray, centres: FloatArray, count: int) -> IntArray:
    """The best `count` of each row by its components in the cells nearest to its own; -1 where they have no more."""
    n, cells = len(projected), len(centres)
    sizes = np.diff(starts)
    probe = min(cells, max(round(cells * FIRST_CELLS), 1 + 4 * count // CELL_ROWS, 2))
    found = np.full((n, count + 1), -1, np.int64)
    for cell in range(cells):
        similar = centres @ centres[cell]
        similar[cell] = np.inf
        near = np.argsort(-similar, kind="stable")
        near = near[: max(probe, int(np.searchsorted(np.cumsum(sizes[near]), count, "right")) + 1)]
        members = np.concatenate([np.arange(starts[one], starts[one + 1]) for one in near])
        some = projected[starts[cell] : starts[cell + 1]]
        width = min(count + 1, len(members))
        places = all_of(projected[members])(some, width)[1]
        found[starts[cell] : starts[cell + 1], :width] = np.where(places >= 0, members[places], -1)
    found[found == np.arange(n)[:, None]] = -1
    return found


def _bounded(cell: IntArray, cells: int) -> tuple[IntArray, IntArray]:
    """Where cells start, those of very many rows in parts and those of none left out; and the part of every row."""
    sizes = np.bincount(cell, minlength=cells)
    begins = np.cumsum(sizes) - sizes
    parts = [np.arange(begin, begin + size, MOST_ROWS) for begin, size in zip(begins, sizes, strict=True) if size]
    starts = np.concatenate(parts)
    return starts, np.searchsorted(starts, np.arange(len(cell)), "right") - 1


def _projected(vectors: HalfArray, directions: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Components of unit rows, float32; and the reciprocals of their lengths as they are stored."""
    found, inverse = np.empty((len(vectors), len(directions)), np.float32), np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), SAMPLE):
        part = slice(start, start + SAMPLE)
        wide = single(vectors[part])
        inverse[part] = 1 / np.sqrt(np.einsum("nd,nd->n", wide, wide))
        found[part] = (wide @ directions.T) * inverse[part, None]
    return found, inverse


class _Weighed:
    """What would be missed, and what it would cost, on held-out rows whose neighbours are known."""

    def __init__(
        self, rows: _Rows, directions: FloatArray, held: IntArray, truth: IntArray, rng: np.random.Generator
    ) -> None:
        self._n, self._dim = len(rows.half), rows.half.shape[1]
        k = truth.shape[1]
        self._rank = _ranks(rows.centres @ rows.centres.T)
        queries = rows.take(held)
        bound = rows.scores[held, k - 1].astype(np.float64)
        bounds = np.minimum(bound[:, None], rows.scores[truth, k - 1])  # a pair is kept for either of its rows
        self._known = (truth[:, :, None] == rows.near[held][:, None, :]).any(axis=2)
        self._pairs = self._rank[rows.cell[held][:, None], rows.cell[truth]] / self._rank.size
        some = np.sort(rng.choice(len(held), min(len(held), SURVEY[0]), replace=False))
        others = np.sort(rng.choice(self._n, min(self._n, SURVEY[1]), replace=False))
        self._met = self._rank[rows.cell[held[some]][:, None], rows.cell[others]] / self._rank.size
        wide, sought = queries @ directions.T, rows.take(truth.ravel()) @ directions.T
        every = rows.take(others) @ directions.T
        self._gaps: dict[int, DoubleArray] = {}
        self._over: dict[int, DoubleArray] = {}
        for components in [c for c in COMPONENTS if c < len(directions)] + [len(directions)]:
            asked = wide[:, :components]
            part = sought[:, :components].reshape(*truth.shape, components)
            self._gaps[components] = bounds - np.einsum("qkp,qp->qk", part, asked)
            self._over[components] = bound[some, None] - asked[some] @ every[:, :components].T

    def _missed(self, components: int, margin: float, share: float, half: int) -> BoolArray:
        """Which neighbours of half of the rows are not found."""
        out = (self._pairs[half::2] >= share) | (self._gaps[components][half::2] > margin)
        missed: BoolArray = out & ~self._known[half::2]
        return missed

    def chosen(self, recall: float) -> _Design:
        """The design that costs least of those that reach the recall, and a little more on half of the rows.

        Where none does, the one that misses least.
        """
        options: list[tuple[float, _Design]] = []
        may_miss = int(0.7 * (1 - recall) * self._known[0::2].size)
        for components, gaps in self._gaps.items():
            for share in SHARES:
                left = may_miss - int(np.count_nonzero(self._missed(components, np.inf, share, 0)))
                if left < 0:
                    break
                unknown = np.sort(gaps[0::2][~self._known[0::2] & (self._pairs[0::2] < share)])[::-1]
                # Of few that were missed at most, little is known of the next: a tenth is added.
                margin = float(unknown[left] + 0.1 * abs(unknown[left])) if left < len(unknown) else 0.0
                options.extend(
                    (self._cost(components, wider, share), _Design(components, wider, share))
                    for wider in (margin, margin + 0.25 * abs(margin), margin + abs(margin))
                )
        options.sort(key=lambda option: option[0])
        for _, design in options:
            if self.recall(design).value >= recall:
                return design
        return max((design for _, design in options), key=lambda design: self.recall(design).value)

    def _cost(self, components: int, margin: float, share: float) -> float:
        """Seconds of one core for a row."""
        over = (self._over[components] <= margin) & (self._met < share)
        survivors = np.count_nonzero(over) / over.size * self._n
        products = share * self._n / 2 * (2 * components * PER_FLOP + 2 * PER_PAIR)
        # What either row wants is scored once: of a pair that one wants, the other one mostly wants it too.
        return float(products + self._dim * components * 2 * PER_FLOP + 0.7 * survivors * RESCORING)

    def recall(self, design: _Design) -> Recall:
        """Measured on the other half."""
        missed = self._missed(design.components, design.margin, design.share, 1)
        return measured(1 - missed.mean(axis=1), missed.shape[1], self._n)

    def kept(self, share: float) -> BoolArray:
        """Which pairs of cells are looked at."""
        kept: BoolArray = self._rank < share * self._rank.size
        return kept


def _ranks(similar: FloatArray) -> IntArray:
    """Pairs of cells from the most similar, a cell's own first; the same number from both sides."""
    cells = len(similar)
    both = np.maximum(similar, similar.T)
    both[np.arange(cells), np.arange(cells)] = np.inf
    ranks = np.empty(cells * cells, np.int64)
    ranks[np.argsort(-both.ravel(), kind="stable")] = np.arange(cells * cells)
    square = ranks.reshape(cells, cells)
    return np.minimum(square, square.T)


def _look(rows: _Rows, directions: FloatArray, kept: BoolArray, margin: float, told: Progress) -> None:
    """Multiply cells with cells, score what comes near enough, and keep the best."""
    projected, _ = _projected(rows.half, directions)
    k = rows.scores.shape[1] - SPARE
    bound = rows.scores[:, k - 1].copy()
    floor = bound - np.float32(margin)
    pending: list[tuple[IntArray, IntArray, FloatArray]] = []
    told.begin("rows", len(rows.half))
    for cell in range(len(rows.starts) - 1):
        pending.extend(_of_cell(rows, projected, kept, floor, bound, cell))
        if sum(len(some[0]) for some in pending) > PENDING:
            _merge(rows, pending)
            bound, pending = rows.scores[:, k - 1].copy(), []
        told.step(int(rows.starts[cell + 1] - rows.starts[cell]))
    _merge(rows, pending)
    told.end()


def _of_cell(
    rows: _Rows, projected: FloatArray, kept: BoolArray, floor: FloatArray, bound: FloatArray, cell: int
) -> Iterator[tuple[IntArray, IntArray, FloatArray]]:
    """Pairs of a cell's rows and those of later cells, of which either is near enough: (row, other, score)."""
    begin, end = int(rows.starts[cell]), int(rows.starts[cell + 1])
    mine, others = [], []
    for other in np.flatnonzero(kept[cell, cell:]).tolist():
        first, last = int(rows.starts[cell + other]), int(rows.starts[cell + other + 1])
        products = projected[begin:end] @ projected[first:last].T
        wanted = (products >= floor[begin:end, None]) | (products >= floor[None, first:last])
        if not other:
            wanted = np.triu(wanted, 1)
        at = np.flatnonzero(wanted)
        if len(at) > DENSE * wanted.size:
            whole = rows.of_cell(cell) @ rows.of_cell(cell + other).T
            wanted = (whole >= bound[begin:end, None]) | (whole >= bound[None, first:last])
            at = np.flatnonzero(np.triu(wanted, 1) if not other else wanted)
            left, right = np.divmod(at, last - first)
            yield from _both(left + begin, right + first, whole.ravel()[at], bound)
        elif len(at):
            left = at // (last - first)
            mine.append(left)
            others.append(at - left * (last - first) + first)
    if mine:
        left, right = np.concatenate(mine), np.concatenate(others)
        order = np.argsort(left.astype(np.uint16), kind="stable")
        left, right = left[order], right[order]
        scores = rows.scored(begin, np.bincount(left, minlength=end - begin), right)
        yield from _both(left + begin, right, scores, bound)


def _both(
    left: IntArray, right: IntArray, scores: FloatArray, bound: FloatArray
) -> Iterator[tuple[IntArray, IntArray, FloatArray]]:
    """Scored pairs, for those of their rows whose bound they reach."""
    for row, other in ((left, right), (right, left)):
        good = scores >= bound[row]
        if good.any():
            yield row[good], other[good], scores[good]


def _merge(rows: _Rows, pending: list[tuple[IntArray, IntArray, FloatArray]]) -> None:
    """Take scored pairs into what is known of their rows."""
    if not pending:
        return
    row, other, scores = (np.concatenate(parts) for parts in zip(*pending, strict=True))
    new = np.concatenate(
        [
            ~(rows.near[row[start : start + SAMPLE]] == other[start : start + SAMPLE, None]).any(axis=1)
            for start in range(0, len(row), SAMPLE)
        ]
    )
    n, width = rows.near.shape
    row = np.concatenate([np.repeat(np.arange(n), width), row[new]])
    other = np.concatenate([rows.near.ravel(), other[new]])
    scores = np.concatenate([rows.scores.ravel(), scores[new]])
    order = np.lexsort((-scores, row))
    starts = np.searchsorted(row[order], np.arange(n))
    best_of = order[starts[:, None] + np.arange(width)]
    rows.near, rows.scores = other[best_of], scores[best_of]


def _ended(rows: _Rows, order: IntArray, k: int) -> tuple[IntArray, FloatArray]:
    """The best `k` by products in float64, under the numbers that the rows came with."""
    n = len(order)
    near, scores = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
    # What float32 may have put in the wrong order: most often nothing beyond the first `k`.
    error = 2 * float32_error(rows.half.shape[1])
    width = int((rows.scores >= rows.scores[:, k - 1 : k] - error).sum(axis=1).max())
    for start in range(0, n, _TOGETHER):
        part = slice(start, start + _TOGETHER)
        near[order[part]], scores[order[part]] = best(
            *rescored(rows.take, order, rows.take(np.arange(n)[part]), rows.near[part, :width]), k
        )
    return near, scores
