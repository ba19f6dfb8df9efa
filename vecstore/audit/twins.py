"""Near-duplicates: pictures of different pixels that show the same, by their vectors and a hash of their thumbnails.

Vectors propose, thumbnails confirm. Thumbnails are a cache of the store and no pictures of the archive; where they are
absent, the cosine stands alone, and that is said. Mirrored and turned copies are not looked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from vecstore.audit.findings import Example, Finding, Labelled, Severity, Shown, counted
from vecstore.audit.pairs import near_pairs
from vecstore.dataset.levels import PARTS
from vecstore.decode.likeness import BITS, picture_hash
from vecstore.records import BoolArray, FloatArray, IntArray, Progress
from vecstore.store import Items, Space, Store

COSINE = 0.98
"""From which on two vectors propose a near-duplicate."""

DIFFERENT_BITS = 40
"""Of 256 bits of the picture hash, up to which they confirm it.

Measured with the bundled encoder: of 780 ultrasounds (BUSI) 199 pairs are within it, of
cosine 0.98 and more, and those looked at show the same; of 1,003 chest radiographs (Kermany) none is, and the nearest
pair of different patients differs in 45 bits.
"""

ALONE = 0.996
"""Cosine that is asked for where there is no thumbnail to confirm: beyond that of different radiographs."""

NEIGHBOURS = 32
"""Nearest pictures of each that are looked at, at most."""

_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Twins:
    """Pairs of items whose pictures are nearly, and not exactly, the same.

    Attributes
    ----------
    first, second : ndarray of shape (n,), int64
        Places in the snapshot's items, by cosine, the highest first; of identical pictures the first item.
    scores : ndarray of shape (n,), float32
        Cosine.
    bits : ndarray of shape (n,), int64
        In how many bits of `BITS` the hashes differ; -1 where a thumbnail is absent.
    asked, contents : int
        Pictures whose neighbours were looked at, and all there are.
    proposed, unconfirmed : int
        Pairs the vectors proposed, and those that were taken without two thumbnails to confirm them.
    notes : list of str
    """

    first: IntArray
    second: IntArray
    scores: FloatArray
    bits: IntArray
    asked: int
    contents: int
    proposed: int
    unconfirmed: int
    notes: list[str]


def find_twins(
    store: Store,
    space: Space,
    first: BoolArray,
    *,
    cosine: float = COSINE,
    different_bits: int = DIFFERENT_BITS,
    most: int,
    seed: int,
    progress: Progress,
) -> Twins:
    """Look for near-duplicates of pictures among all pictures.

    Parameters
    ----------
    store : Store
    space : Space
    first : ndarray of shape (n_items,), bool
        Whose items are asked for before others: those of a test part.
    cosine : float
    different_bits : int
    most : int
        Pictures that are asked for, at most; the others by chance.
    seed : int
    progress : Progress
    """
    items = store.items()
    rows = np.flatnonzero(np.isin(items.contents, store.embedded(space)))
    contents, at = np.unique(items.contents[rows], return_index=True)
    places = rows[at]  # the first item of each content
    asked = _asked(contents, np.unique(items.contents[first]), most, seed)
    progress.begin("pictures compared", len(asked))
    vectors = store.vectors(space, contents, np.float16)
    left, right, scores, crowded = near_pairs(vectors, cosine, NEIGHBOURS, asked, seed=seed, step=progress.step)
    del vectors
    progress.end()
    keys = np.sort(np.stack([places[left], places[right]], axis=1), axis=1)
    order = np.lexsort((keys[:, 1], keys[:, 0], -scores))
    keys, scores = keys[order], scores[order]
    bits = _bits(store, items, keys)
    kept = np.where(bits < 0, scores >= max(cosine, ALONE), bits <= different_bits)
    notes = [f"{crowded} pictures have more than {NEIGHBOURS} such neighbours, of which the nearest were looked at"]
    return Twins(
        keys[kept, 0],
        keys[kept, 1],
        scores[kept],
        bits[kept],
        len(asked),
        len(contents),
        len(keys),
        int((kept & (bits < 0)).sum()),
        notes if crowded else [],
    )


def _asked(contents: IntArray, wanted: IntArray, most: int, seed: int) -> IntArray:
    """Which contents are asked for, ascending: those that are wanted before the others, these by chance."""
    order = np.random.default_rng(seed).permutation(len(contents))
    early: BoolArray = np.isin(contents, wanted)
    order = order[np.argsort(~early[order], kind="stable")]
    return np.sort(order[:most])


def _bits(store: Store, items: Items, pairs: IntArray) -> IntArray:
    """In how many bits the hashes of pairs differ; -1 where one has no thumbnail."""
    places = np.unique(pairs)
    packed, known = np.zeros((len(places), BITS // 8), np.uint8), np.zeros(len(places), np.bool_)
    for start in range(0, len(places), _BLOCK):
        ids = items.ids[places[start : start + _BLOCK]].tolist()
        hashes = store.hashes_of(ids)
        pictures = store.thumbnails.get(list(hashes.values()))
        for row, item in enumerate(ids, start):
            encoded = pictures.get(hashes[item])
            if encoded is not None:
                with suppress(OSError):  # a damaged cache entry is as if it were absent
                    packed[row], known[row] = np.packbits(picture_hash(encoded)), True
    at = np.searchsorted(places, pairs)
    told = np.empty(len(pairs), np.int64)
    for start in range(0, len(pairs), _BLOCK):
        one, other = at[start : start + _BLOCK].T
        different = np.bitwise_count(packed[one] ^ packed[other]).sum(axis=1, dtype=np.int64)
        told[start : start + _BLOCK] = np.where(known[one] & known[other], different, -1)
    return told


def _told(twins: Twins, pair: int) -> str:
    bits = int(twins.bits[pair])
    hashed = f"hash differs in {bits} of {BITS} bits" if bits >= 0 else "no thumbnails to compare"
    return f"cosine {twins.scores[pair]:.4f}, {hashed}"


def near_across_parts(twins: Twins, labelled: Labelled, contents: IntArray, shown: Shown, space: str) -> Finding:
    """Near-duplicates of test pictures in training, and of val in train."""
    title, task = "near-duplicates across parts", labelled.task.name
    if not labelled.has_parts:
        return Finding("near_across_parts", "fine", title, "no official split", task, space)
    bits = labelled.parts_of(_codes(labelled, contents))
    numbers = {content: code for code, content in enumerate(np.unique(contents[labelled.places]).tolist())}
    sides = np.array([bits[numbers[content]] if content in numbers else 0 for content in contents.tolist()])
    first, second = sides[twins.first], sides[twins.second]
    train, val, test = (1 << PARTS.index(part) for part in PARTS[1:])
    ahead = (first & test > 0) & (second & (train | val) > 0)
    behind = (second & test > 0) & (first & (train | val) > 0)
    across = ahead | behind
    inner = (first & train > 0) & (second & val > 0) | (second & train > 0) & (first & val > 0)
    inner &= ~across
    exposed = len(np.unique(np.concatenate([contents[twins.first[ahead]], contents[twins.second[behind]]])))
    chosen = np.flatnonzero(across if across.any() else inner)
    severity: Severity = "problem" if _sure(twins, across) else "warning" if (across | inner).any() else "fine"
    counts = _counts(twins) | {"across_test": int(across.sum()), "across_train_and_val": int(inner.sum())}
    counts |= {"test_pictures": exposed, "test_pictures_in_all": int((bits & test > 0).sum())}
    return Finding(
        "near_across_parts",
        severity,
        title,
        f"{exposed} of {counts['test_pictures_in_all']} test pictures have one in another part"
        f" ({counted(int(across.sum()), 'pair')}), in train and val: {int(inner.sum())}{_looked(twins)}",
        task,
        space,
        counts,
        _examples(twins, chosen, shown),
        "look at them; leave the training side out, or keep both in one group" if len(chosen) else "",
    )


def near_with_other_labels(twins: Twins, labelled: Labelled, contents: IntArray, shown: Shown, space: str) -> Finding:
    """Near-duplicates whose labels differ."""
    rows = {content: row for row, content in enumerate(contents[labelled.places].tolist())}
    differ = np.zeros(len(twins.first), np.bool_)
    for pair, (a, b) in enumerate(zip(twins.first.tolist(), twins.second.tolist(), strict=True)):
        one, other = rows.get(int(contents[a])), rows.get(int(contents[b]))
        if one is not None and other is not None:
            left, right = labelled.y[one], labelled.y[other]
            known = ~np.isnan(left) & ~np.isnan(right)
            differ[pair] = bool((left[known] != right[known]).any())
    counts = _counts(twins) | {"pairs_with_other_labels": int(differ.sum())}
    return Finding(
        "near_with_other_labels",
        "warning" if differ.any() else "fine",
        "near-duplicates, different labels",
        f"{counted(int(differ.sum()), 'pair')} with different labels{_looked(twins)}",
        labelled.task.name,
        space,
        counts,
        _examples(twins, np.flatnonzero(differ), shown),
        "look at them: one of the two labels may be wrong (see: vecstore label-errors)" if differ.any() else "",
    )


def near_across_groups(twins: Twins, codes: IntArray, column: str | None, shown: Shown, space: str) -> Finding:
    """Near-duplicates that no group keeps together.

    Parameters
    ----------
    codes : ndarray of shape (n_items,), int64
        Group numbers of all items.
    """
    apart = codes[twins.first] != codes[twins.second]
    what = "of different groups" if column else "that no group keeps together, as none are known"
    return Finding(
        "near_across_groups",
        "warning" if apart.any() else "fine",
        "near-duplicates in different groups",
        f"{counted(int(apart.sum()), 'pair')} {what}{_looked(twins)}",
        about=space,
        counts=_counts(twins) | {"pairs_across_groups": int(apart.sum())},
        examples=_examples(twins, np.flatnonzero(apart), shown),
        do="look at them: folds can divide them, so scores may be too good; a column that names them as one group"
        " (--group) keeps them together"
        if apart.any()
        else "",
    )


def _codes(labelled: Labelled, contents: IntArray) -> IntArray:
    return np.unique(contents[labelled.places], return_inverse=True)[1].astype(np.int64)


def _sure(twins: Twins, chosen: BoolArray) -> bool:
    """Whether a hash confirms any of some pairs."""
    return bool((chosen & (twins.bits >= 0)).any())


def _counts(twins: Twins) -> dict[str, int | float | None]:
    return {
        "pairs": len(twins.first),
        "proposed_by_cosine": twins.proposed,
        "without_thumbnails": twins.unconfirmed,
        "pictures_asked": twins.asked,
        "pictures": twins.contents,
    }


def _looked(twins: Twins) -> str:
    """What a reader must know of how they were looked for."""
    told = []
    if twins.asked < twins.contents:
        told.append(f"neighbours of {twins.asked} of {twins.contents} pictures were looked at")
    if twins.unconfirmed:
        told.append(f"{twins.unconfirmed} by cosine alone, as thumbnails are absent")
    return f" ({'; '.join([*told, *twins.notes])})" if told or twins.notes else ""


def _examples(twins: Twins, chosen: IntArray, shown: Shown) -> list[Example]:
    """The most alike."""

    def pairs() -> Iterator[tuple[str, list[int]]]:
        for pair in chosen[: shown.most].tolist():
            yield _told(twins, pair), [int(twins.first[pair]), int(twins.second[pair])]

    return shown.examples(pairs())
