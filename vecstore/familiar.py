"""Whether a picture has a similar case among those a model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vecstore.dataset import group_as_trained, group_codes, level_column, make_units
from vecstore.errors import DataError
from vecstore.probes.conformal import Cases, Familiarity, familiarity
from vecstore.probes.pooling import pooled
from vecstore.probes.splits import merge_groups
from vecstore.records import DoubleArray, IntArray
from vecstore.store import Space, Store
from vecstore.trained import Probe, spaces_of


@dataclass(frozen=True, slots=True)
class Archive:
    """What a model was trained on, to look for similar cases in.

    Attributes
    ----------
    rule : Familiarity
    cases : Cases
        Vectors and groups of the items, or at a level of the units, that the model saw.
    by_name : dict of str to int
        Group of each item (by its id as text) or unit of the store.
    """

    rule: Familiarity
    cases: Cases
    by_name: dict[str, int]

    def similarity(self, vectors: npt.NDArray[np.float32], names: Sequence[str] | None = None) -> DoubleArray:
        """Cosine to the most similar case, of shape (n,); of items of the store among cases of other groups."""
        if names is None:
            return self.cases.nearest(vectors)
        own = np.array([self.by_name.get(name, -1) for name in names], np.int64)
        return self.cases.nearest(vectors, own)


def archive(store: Store, probe: Probe, coverage: float, seed: int = 0, most: int = 5000) -> Archive:
    """Read what a model was trained on, and learn how similar its cases are across groups, from `most` of them.

    Raises
    ------
    DataError
        Nothing of what it was trained on is left, or the model is not in the store.
    NotFound
    """
    if probe.model is None:
        raise DataError("a probe that is not in the store", expected="a registered one", do="load it from the store")
    spaces, record = spaces_of(store, probe), probe.record
    items = store.items()
    seen = np.isin(items.ids, np.fromiter(store.seen(probe.model), np.int64))
    for space in spaces:
        seen &= np.isin(items.contents, store.embedded(space))
    if not seen.any():
        raise DataError(
            f"none of the items that model {probe.model.id} was trained on is left in {store.path}",
            expected="some of them",
            do=f"train it again: vecstore train {store.path} {record.task}",
        )
    codes = group_codes(store, items, group_as_trained(store, record.group, record.group_column)).codes
    if record.level is None:
        names = [str(item) for item in items.ids.tolist()]
        vectors = _vectors(store, spaces, items.contents[seen])
        groups = codes[seen]
    else:
        column = level_column(store, record.level)
        every = make_units(store, column, items, np.arange(len(items)))
        codes = merge_groups(codes, every.rows)[every.first()]
        names = every.names
        mine = make_units(store, column, items, np.flatnonzero(seen))
        widths = [space.dim for space in spaces]
        members = store.vectors(spaces, mine.contents, np.float16)
        vectors = pooled(members, mine.rows, len(mine.names), str(record.pool), widths).astype(np.float32)
        number = dict(zip(names, codes.tolist(), strict=True))
        groups = np.array([number[name] for name in mine.names], np.int64)
    by_name = dict(zip(names, codes.tolist(), strict=True))
    cases = Cases(vectors, groups)
    return Archive(familiarity(vectors, groups, coverage, most=most, seed=seed, cases=cases), cases, by_name)


def _vectors(store: Store, spaces: Sequence[Space], contents: IntArray) -> npt.NDArray[np.float32]:
    return np.asarray(store.vectors(spaces, contents), np.float32)
