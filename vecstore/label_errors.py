"""`label_errors`: the labels of a task that are most probably wrong, with the pictures that speak against them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.dataset import Dataset, Groups, class_counts, dataset, group_codes, group_column
from vecstore.dataset.levels import PARTS, value_text
from vecstore.embedding import pictures_opened
from vecstore.errors import DataError, UsageError
from vecstore.neighbours import Neighbour, Searcher, searcher
from vecstore.probes import make
from vecstore.probes.confident import Confidence, confident
from vecstore.records import BoolArray, DoubleArray, Hit, IntArray
from vecstore.rescoring import repainted
from vecstore.store import Items, Store, using
from vecstore.store.catalog import visible
from vecstore.trained import Probe, load, spaces_of

NEIGHBOURS = 4
"""Nearest cases of either class that are shown of each suspect."""

_HOLDS, _NOT = "yes", "no"

_STRENGTHS = tuple(np.logspace(-4, 2, 7).tolist())


@dataclass(frozen=True, slots=True)
class Suspect:
    """A label that is probably wrong.

    Attributes
    ----------
    rank : int
        From 1, the most doubtful first.
    item_id : int
    source, locator : str
        At a level, of the unit's first picture.
    label : str
        Of a multi-label task, which of its labels is in doubt; else empty.
    given, suggested : str
        The class it has, and the one it should perhaps have; of a multi-label task "yes" and "no".
    probability_given, probability_suggested : float
        What a model says that had not seen the picture, 0 to 1. Suspects are ranked by the first.
    margin : float
        The first minus the highest of another class, brought to 0 to 1.
    part : {"", "train", "val", "test"}
        Of the official split.
    group : str
        Value in the group column; empty where it has none.
    pictures : int
        Of the unit, at a level; else 1.
    nearest_suggested, nearest_given : list of Hit
        The most similar pictures of other groups with either label; their score is the cosine.
    """

    rank: int
    item_id: int
    source: str
    locator: str
    label: str
    given: str
    suggested: str
    probability_given: float
    probability_suggested: float
    margin: float
    part: str = ""
    group: str = ""
    pictures: int = 1
    nearest_suggested: list[Hit] = field(default_factory=list)
    nearest_given: list[Hit] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LabelErrors:
    """What `label_errors` found.

    Attributes
    ----------
    task, kind : str
    classes : list of str
    n : int
        Labels that were looked at; of a multi-label task every known one of every item counts.
    items : int
        Items they are of; at a level: units.
    found : int
        Suspects in all, of which the first are in `suspects`.
    share : float
        Estimated share of wrong labels, 0 to 1; of a multi-label task the mean over labels.
    suspects : list of Suspect
    pairs : list of dict
        "given", "suggested" (and "label") and "count": how often each was doubted in favour of which, the most first.
    counts : dict of str to int
        Items per class.
    predictions : str
        Where the probabilities come from.
    model_id : int or None
        None where a model was fitted for this alone, and not stored.
    model, space, encoder : str
    group_column, level : str or None
    notes : list of str
    commit, seed : int
    pixels_read : int
        Pictures opened on the way: 0.
    """

    task: str
    kind: str
    classes: list[str]
    n: int
    items: int
    found: int
    share: float
    suspects: list[Suspect]
    pairs: list[dict[str, Any]]
    counts: dict[str, int]
    predictions: str
    model_id: int | None
    model: str
    space: str
    encoder: str
    group_column: str | None
    level: str | None
    notes: list[str]
    commit: int
    seed: int
    pixels_read: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def label_errors(
    store: Store | str | os.PathLike[str],
    task: str,
    *,
    model: int | None = None,
    space: str | Sequence[str] | None = None,
    group: str | None = None,
    where: str | None = None,
    top: int = 50,
    neighbours: int = NEIGHBOURS,
    seed: int = 0,
) -> LabelErrors:
    """Find labels that are probably wrong by confident learning, from predictions of models that had not seen them.

    The predictions are those the newest model of the task was scored with: out of fold, and on the official test part
    by the model itself. Where there is no model of the newest labels, or `space`, `group` or `where` are given, a
    logistic regression is cross-validated by group on the stored vectors, and not stored.

    Parameters
    ----------
    store : Store or path
    task : str
    model : int, optional
        A model by its id: the labels it was trained on are looked at.
    space, group, where : optional
        As of `train`; not with `model`.
    top : int
        Suspects that are returned.
    neighbours : int
        Nearest cases of either class that are added to each.
    seed : int
        Of the folds, where a model is fitted.

    Returns
    -------
    LabelErrors
        Nothing is written.

    Raises
    ------
    NotFound, Ambiguous, PredicateRefused, StoreDamaged
    UsageError
        A model, and what is for a new one.
    DataError
        Nothing can be learned, or a model without predictions of what it was trained on.

    Notes
    -----
    Confident learning after Northcutt, Jiang & Chuang (2021) says which are suspects; they are ranked by the
    probability of the class they have (self-confidence), which found more planted errors than the margin.

    Examples
    --------
    >>> import vecstore as vs
    >>> found = vs.label_errors("chest.vecs", "pneumonia")             # doctest: +SKIP
    >>> [(one.locator, one.given, one.suggested) for one in found.suspects[:3]]  # doctest: +SKIP
    """
    if top < 0 or neighbours < 0:
        raise UsageError(f"top = {top}, neighbours = {neighbours}", expected="numbers from 0")
    anew = not (space is None and group is None and where is None)
    if model is not None and anew:
        raise UsageError(
            f"model {model}, and a space, group or where for a new one",
            expected="one of them",
            do="leave --space, --group and --where away: a model knows its own",
        )
    with using(store) as opened:
        before = pictures_opened()
        found = None if anew else _stored(opened, task, model)
        if found is None:
            found = _fitted(opened, task, space, group, where, seed)
        return _result(opened, found, top, neighbours, seed, before)


@dataclass(slots=True)
class _Predicted:
    """Labels, and what models said of them that had not seen them; rows are those of `data`."""

    data: Dataset
    probabilities: DoubleArray
    told: str
    model: str
    notes: list[str]
    model_id: int | None = None
    group: str | None = None

    @property
    def known(self) -> BoolArray:
        """Rows with a prediction."""
        return np.asarray(np.isfinite(self.probabilities).all(axis=1), np.bool_)


def _stored(store: Store, task: str, model: int | None) -> _Predicted | None:
    """Predictions of a stored model; None where none was asked for and there is none of the newest labels."""
    newest = store.refresh().task(task)
    if model is None and not any(one.task.id == newest.id for one in store.models(newest.name)):
        return None
    probe = load(store, task, model)
    assert probe.model is not None
    record = probe.record
    group = record.group
    if group is None and group_column(store) != record.group_column:
        group = record.group_column or "none"
    data = dataset(
        store,
        probe.model.task,
        space=spaces_of(store, probe),
        group=group,
        where=record.where,
        classes=record.classes,
        level=record.level,
        pool=record.pool or "mean",
        on_conflict="drop" if record.on_conflict == "error" else record.on_conflict,
    )
    notes = []
    if probe.model.task.id != newest.id:
        notes.append(
            f"the task was imported again since (commit {newest.added_in}); looked at are the labels the model was"
            f" trained on (commit {probe.model.task.added_in})"
        )
    probabilities = np.full((len(data), len(data.classes)), np.nan)
    told = [_fill(probabilities, data.items, probe.items, probe.probabilities, record.part)]
    if record.part == "test":
        apart = _apart(probe)
        learned = None if apart is None else _learned(store, probe, data, len(apart))
        if apart is None or learned is None:
            notes.append("only the test part has predictions: items of training have gone since; train again for all")
        else:
            told.append(_fill(probabilities, data.items, learned, apart, "out-of-fold"))
    changed = _changed(store, probe, data.items)
    if changed.any():
        probabilities[changed] = np.nan
        notes.append(f"{int(changed.sum())} items have another picture than in training and are left out")
    made = _Predicted(data, probabilities, " and ".join(told[::-1]), record.model, notes, probe.model.id, group)
    return _checked(made)


def _fill(whole: DoubleArray, items: IntArray, some: IntArray, values: npt.NDArray[Any], what: str) -> str:
    """Write rows of some items where they belong; items that are not there any more are passed over."""
    places = np.searchsorted(items, some)
    places[places == len(items)] = 0
    here = items[places] == some
    whole[places[here]] = np.asarray(values, np.float64)[here]
    return f"{what} ({int(here.sum())})"


def _apart(probe: Probe) -> DoubleArray | None:
    """Out-of-fold predictions of the training part, calibrated as those of the test part are; None if not kept."""
    if probe.out_of_fold is not None:
        return probe.out_of_fold.probabilities
    kept: DoubleArray | None = getattr(probe.estimator, "oof_", None)
    return kept


def _learned(store: Store, probe: Probe, data: Dataset, n: int) -> IntArray | None:
    """The rows a model was trained on, in the order of its n out-of-fold predictions; None if that can't be told."""
    assert probe.model is not None
    seen = np.array(sorted(store.seen(probe.model)), np.int64)
    rows = seen
    if data.units is not None:  # a unit is known by its first picture
        units = data.units
        numbers = np.unique(units.rows[np.isin(units.items, seen)])
        rows = units.items[units.first()][numbers]
    return rows if len(rows) == n else None


def _changed(store: Store, probe: Probe, items: IntArray) -> BoolArray:
    """Which items have another picture than when the model was trained."""
    if not repainted(store, probe.record.commit):
        return np.zeros(len(items), np.bool_)
    text = f"SELECT item, content FROM states WHERE {visible()}"
    before, now = dict(store.rows(text, at=probe.record.commit)), dict(store.rows(text))
    return np.array([now.get(item) != before.get(item, now.get(item)) for item in items.tolist()], np.bool_)


def _fitted(
    store: Store, task: str, space: str | Sequence[str] | None, group: str | None, where: str | None, seed: int
) -> _Predicted:
    """Predictions of a logistic regression, cross-validated by group over all labelled items."""
    data = dataset(store, task, space=space, group=group, where=where)
    # A grid that does not widen: where there is little to learn, it would go on and on.
    probe: Any = make("probe", seed=seed, nested=True, strengths=_STRENGTHS)
    probe.fit(data.vectors(), data.y, groups=data.groups)
    told = f"out-of-fold ({len(data)}) of a logistic regression made for this"
    return _checked(_Predicted(data, np.asarray(probe.oof_, np.float64), told, "probe", [], None, group))


def _checked(made: _Predicted) -> _Predicted:
    lacking = int((~made.known).sum())
    if lacking == len(made.data):
        raise DataError(
            f"task {made.data.task.name!r}: no item has a prediction of a model that had not seen it",
            expected="out-of-fold or test predictions",
            do="train again, and leave --model away",
        )
    if lacking:
        made.notes.append(f"{lacking} labelled items have no prediction of a model that had not seen them")
    made.notes[:0] = made.data.notes
    return made


@dataclass(frozen=True, slots=True)
class _Doubts:
    """What is doubted of one label, or of the whole task: rows of the data set, and names of both sides."""

    label: str
    names: list[str]
    rows: IntArray
    found: Confidence
    y: DoubleArray


def _doubts(made: _Predicted) -> list[_Doubts]:
    data, known = made.data, made.known
    if data.y.ndim == 1:
        rows = np.flatnonzero(known)
        labels = data.y.astype(np.int64)
        found = confident(labels[rows], made.probabilities[rows])
        return [_Doubts("", data.classes, rows, found, labels.astype(np.float64))]
    several = []
    for place, name in enumerate(data.classes):
        y = data.y[:, place].astype(np.float64)
        rows = np.flatnonzero(known & ~np.isnan(y))
        chance = made.probabilities[rows, place]
        found = confident(y[rows], np.stack([1 - chance, chance], axis=1))
        several.append(_Doubts(name, [_NOT, _HOLDS], rows, found, y))
    return several


def _result(store: Store, made: _Predicted, top: int, neighbours: int, seed: int, before: int) -> LabelErrors:
    data, doubts = made.data, _doubts(made)
    ranked = [
        (float(one.found.own[row]), which, int(row))
        for which, one in enumerate(doubts)
        for row in np.flatnonzero(one.found.suspect).tolist()
    ]
    ranked.sort(key=lambda entry: (entry[0], int(doubts[entry[1]].rows[entry[2]]), entry[1]))
    pairs = _pairs(doubts)
    look = _Near(store, data, made.group)
    concentrated: list[str] = []
    if data.y.ndim == 1:
        (one,) = doubts
        part = np.array([look.parts.get(item, 0) for item in data.items[one.rows].tolist()], np.int64)
        concentrated = _concentrated(one.names, one.found.labels, one.found.suspect, part)
    return LabelErrors(
        data.task.name,
        data.task.kind,
        data.classes,
        n=sum(len(one.rows) for one in doubts),
        items=int(made.known.sum()),
        found=len(ranked),
        share=float(np.mean([one.found.share for one in doubts])),
        suspects=look.suspects([(doubts[which], row) for _, which, row in ranked[:top]], neighbours),
        pairs=pairs,
        counts=class_counts(data),
        predictions=made.told,
        model_id=made.model_id,
        model=made.model,
        space=" + ".join(space.name for space in data.spaces),
        encoder=" + ".join(space.passport.encoder for space in data.spaces),
        group_column=data.group_column,
        level=None if data.units is None else data.units.column,
        notes=[*made.notes, *look.notes, *concentrated],
        commit=store.commit,
        seed=seed,
        pixels_read=pictures_opened() - before,
    )


_FEWEST, _TIMES = 5, 3.0
"""Suspects from which on, and how many times as often as elsewhere, they are said to concentrate."""


def _concentrated(names: Sequence[str], given: IntArray, suspect: BoolArray, part: IntArray) -> list[str]:
    """Whether most suspects are of one official part, one class, or one class of one part: then look there first.

    Parameters
    ----------
    names : sequence of str
        Of the classes.
    given, suspect, part : ndarray of shape (n,)
        Index into `names`; whether the label is doubted; index into `PARTS`.
    """
    official = [(f"in the {PARTS[p]} part", part == p) for p in np.unique(part[part > 0]).tolist()]
    places = list(official)
    for at, name in enumerate(names):
        places.append((f"labelled {name}", given == at))
        places += [(f"labelled {name} {where}", (given == at) & here) for where, here in official]
    best, note = _TIMES, ""
    for where, here in places:
        inside, outside = int(suspect[here].sum()), int(suspect[~here].sum())
        if here.all() or not here.any() or inside < _FEWEST or inside <= outside:
            continue
        # One more of either kind, so that none elsewhere is not infinitely many times.
        times = (inside + 1) / (here.sum() + 2) / ((outside + 1) / ((~here).sum() + 2))
        if times >= best:
            best = times
            note = (
                f"{inside} of {inside + outside} suspects are {where}: {inside} of {int(here.sum())} there,"
                f" {outside} of {int((~here).sum())} elsewhere; first see what sets these labels or pictures apart"
            )
    return [note] if note else []


def _pairs(doubts: Sequence[_Doubts]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for one in doubts:
        joint = one.found.joint
        for given, suggested in zip(*np.nonzero(joint), strict=True):
            if given != suggested:
                about = {"label": one.label} if one.label else {}
                told = {"given": one.names[given], "suggested": one.names[suggested]}
                found.append({**about, **told, "count": int(joint[given, suggested])})
    return sorted(found, key=lambda pair: -pair["count"])


class _Near:
    """Finds the nearest cases of either class, and puts suspects into words."""

    def __init__(self, store: Store, data: Dataset, group: str | None) -> None:
        self.store, self.data = store, data
        self.engine: Searcher = searcher(store, data.space)
        self.items: Items = self.engine.items
        self.groups: Groups = group_codes(store, self.items, group)
        self.values = {} if self.groups.column is None else store.column(self.groups.column)
        labels = store.label_arrays(data.task)
        self.parts = dict(zip(labels[0].tolist(), labels[3].tolist(), strict=True))
        self.notes = list(self.engine.notes)
        if len(data.spaces) > 1:
            self.notes.append(f"similar cases are those of the space {data.space.name}")

    def suspects(self, chosen: Sequence[tuple[_Doubts, int]], k: int) -> list[Suspect]:
        """Suspects by rank, with their neighbours."""
        suggested = self._hits(chosen, k, own=False)
        given = self._hits(chosen, k, own=True)
        return [
            self._suspect(rank, doubts, row, suggested[rank - 1], given[rank - 1])
            for rank, (doubts, row) in enumerate(chosen, 1)
        ]

    def _suspect(self, rank: int, doubts: _Doubts, row: int, suggested: list[Hit], given: list[Hit]) -> Suspect:
        found, at = doubts.found, int(doubts.rows[row])
        item = int(self.data.items[at])
        place = int(np.searchsorted(self.items.ids, item))
        group = self.values.get(item)
        units = self.data.units
        return Suspect(
            rank,
            item,
            self.items.sources[place],
            self.items.locators[place],
            doubts.label,
            doubts.names[int(found.labels[row])],
            doubts.names[int(found.guess[row])],
            float(found.own[row]),
            float(found.suggested[row]),
            float(found.margin[row]),
            PARTS[self.parts.get(item, 0)],
            "" if group is None else value_text(group),
            1 if units is None else int(units.counts()[at]),
            suggested,
            given,
        )

    def _hits(self, chosen: Sequence[tuple[_Doubts, int]], k: int, own: bool) -> list[list[Hit]]:
        """Nearest cases of the given class, or of the suggested one: for each class at once."""
        out: list[list[Hit]] = [[] for _ in chosen]
        wanted: dict[tuple[str, int], list[int]] = {}
        for place, (doubts, row) in enumerate(chosen):
            side = (doubts.found.labels if own else doubts.found.guess)[row]
            wanted.setdefault((doubts.label, int(side)), []).append(place)
        for (label, side), places in wanted.items() if k else ():
            doubts = chosen[places[0]][0]
            have = self.data.items[doubts.y == side]
            allowed = np.isin(self.items.ids, have)
            rows = [int(chosen[place][0].rows[chosen[place][1]]) for place in places]
            vectors = self.engine.vectors(self.store, self.data.space, self.data.contents[rows])
            found = self.engine.find(vectors, k, allowed, [self._kin(row) for row in rows])
            name = doubts.names[side]
            told = {f"{self.data.task.name}: {label}" if label else self.data.task.name: name}
            for place, hits in zip(places, found, strict=True):
                out[place] = [self._hit(rank, hit, told) for rank, hit in enumerate(hits, 1)]
        return out

    def _kin(self, row: int) -> IntArray:
        """Items of the same group."""
        place = int(np.searchsorted(self.items.ids, self.data.items[row]))
        kin: IntArray = self.items.ids[self.groups.codes == self.groups.codes[place]]
        return kin

    def _hit(self, rank: int, hit: Neighbour, labels: dict[str, str]) -> Hit:
        place = int(np.searchsorted(self.items.ids, hit.item))
        where = self.items.sources[place], self.items.locators[place]
        return Hit(rank, hit.item, hit.score, *where, labels=labels)
