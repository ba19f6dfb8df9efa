"""`report`: everything a reviewer asks of one model, as a page, as JSON and as a model card."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vecstore.audit import MAX_QUERIES, audit
from vecstore.dataset import Dataset, dataset, group_codes, group_column
from vecstore.dataset.levels import value_text
from vecstore.embedding import pictures_opened
from vecstore.errors import DataError
from vecstore.evaluate import asked_columns, judged
from vecstore.familiar import archive
from vecstore.files import make_folder, output_file, write_file
from vecstore.label_errors import label_errors
from vecstore.neighbours import searcher
from vecstore.pages import pictures_of
from vecstore.probes.assessing import COVERAGE
from vecstore.probes.bands import N_BOOT, curves
from vecstore.probes.curves import RULES, learning_curve
from vecstore.probes.estimates import number
from vecstore.probes.measures import SENSITIVITY, SPECIFICITY, decided
from vecstore.probes.subgroups import MIN_CELL
from vecstore.records import BoolArray, IntArray, Progress, Silent
from vecstore.report.card import model_card
from vecstore.report.full import items_shown, report_page
from vecstore.report.words import SHUFFLED, balanced_by_chance, caveats, summary
from vecstore.rescoring import Rescored, training_group
from vecstore.store import Store, using
from vecstore.store.catalog import library_versions
from vecstore.trained import Probe, spaces_of

MANY = 20_000
"""Items beyond which near-duplicates, similarity and the learning curve rest on a part of them, and that is said."""

NEAR_QUERIES = FAMILIAR_ROWS = 500
CURVE_ROWS = 4_000
"""Rows learned from, and judged on, at most in the learning curve and with shuffled labels; groups are kept whole."""

CLASS_GROUPS = 50
"""Groups of each class that are among them whatever chance says."""

RESAMPLES = 1000, 200
"""Of groups, for all intervals; the second of many rows, where intervals are narrow."""

ENCODER_FACTS = ("encoder", "library", "model", "weights_sha256", "revision", "resize", "pooling")
"""Of a passport, what a paper states of an encoder."""

SHUFFLES = 5
NEIGHBOURS = 3
MOST_MATRIX = 50
"""Classes up to which a confusion matrix is kept."""

USUAL = (
    "sex gender patientsex age patientage ageyears view viewposition laterality side manufacturer scanner"
    " site hospital institution institutionname modality ethnicity race skintype fitzpatrick"
).split()
"""Columns that make subgroups where none are asked for."""

MOST_VALUES = 12
"""Different texts up to which such a column does."""


@dataclass(frozen=True, slots=True)
class Report:
    """What `report` wrote.

    Attributes
    ----------
    content : dict
        All of it, plain values as in JSON.
    html, json, card : Path
        The files.
    probe : Probe
        The model as it was judged: what `evaluate` returns of it.
    """

    content: dict[str, Any]
    html: Path
    json: Path
    card: Path
    probe: Probe

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the content, and the files' names."""
        return self.content | {"files": [self.html.name, self.json.name, self.card.name]}


def report(
    store: Store | str | os.PathLike[str],
    task: str,
    path: str | os.PathLike[str] = "report.html",
    *,
    model: int | None = None,
    subgroup: Sequence[str] | Mapping[str, Sequence[float] | None] | None = None,
    min_cell: int = MIN_CELL,
    specificity: float = SPECIFICITY,
    sensitivity: float = SENSITIVITY,
    prevalence: float | Mapping[str, float] | None = None,
    ordinal: Sequence[str] | None = None,
    coverage: float = COVERAGE,
    pictures: bool = True,
    curve: bool = True,
    near_duplicates: bool = True,
    top: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Judge a trained model in every way a reviewer asks for, and write it down.

    Three files: a self-contained page, the same content as JSON, and a model card in Markdown. The same store, model
    and arguments give the same bytes. No picture of the archive is opened; those shown are the store's thumbnails.

    Parameters
    ----------
    store : Store or path
    task : str
    path : path
        Of the page; `report.json` and `model-card.md` lie beside it. A folder, made if it is not there, gets a
        `report.html`. Beside `x.html` lie `x.json` and `x-model-card.md`.
    model : int, optional
        A model by its id; the newest of the task by default.
    subgroup, min_cell, specificity, sensitivity, prevalence, ordinal, coverage
        As of `evaluate`. By default subgroups are those of columns like sex, age, view, manufacturer or site.
    pictures : bool
        Whether thumbnails are shown.
    curve : bool
        Whether a learning curve is made, and the floor with shuffled labels: both learn again and again.
    near_duplicates : bool
        Whether the audit looks for them.
    top : int
        Mistakes, and suspected label errors, that are shown.
    seed : int
        Of everything beyond the scores, whose seed is the model's.
    progress : Progress, optional

    Returns
    -------
    Report

    Raises
    ------
    NotFound, StoreDamaged
    DataError, UsageError
        As of `evaluate`; or no folder to write to.
    DiskFull, NotWritable

    Examples
    --------
    >>> import vecstore as vs
    >>> vs.report("chest.vecs", "pneumonia", "pneumonia/").content["summary"]  # doctest: +SKIP
    """
    if top < 0:
        raise DataError(f"top = {top}", expected="a number from 0", do="--top 8")
    files = ready_files(path)
    told = progress or Silent()
    with using(store) as opened:
        opened.refresh()
        before = pictures_opened()
        told.say("scores")
        # What is held no part reads again: items, labels, and columns that several look at.
        items = opened.items()
        tasks = [one.task for one in opened.models(opened.task(task).name) if model in (None, one.id)]
        held: list[Any] = [opened.label_arrays(one) for one in tasks[-1:]]
        by_name = group_column(opened)
        held += [] if by_name is None else [opened.column(by_name)]
        asked = _usual_columns(opened, task, held) if subgroup is None else asked_columns(subgroup)
        many = len(items) > MANY
        again = judged(
            opened,
            task,
            model,
            asked,
            min_cell=min_cell,
            specificity=specificity,
            sensitivity=sensitivity,
            prevalence=prevalence,
            ordinal=ordinal,
            coverage=coverage,
            n_boot=RESAMPLES[many],
        )
        look = _Look(opened, again, seed, top, many)
        content: dict[str, Any] = {"format": 1, "made_by": "vecstore", **look.facts()}
        content["curves"] = look.curves()
        content["confusion"] = look.confusion()
        told.say("audit")
        content["audit"] = look.audit(near_duplicates)
        told.say("floors and learning curve")
        content |= look.floors(curve, content["audit"])
        told.say("mistakes and label errors")
        content["mistakes"] = look.mistakes()
        content["label_errors"] = look.label_errors()
        content["familiar"] = look.familiar(coverage)
        options = {
            "model": again.probe.model.id if again.probe.model else None,
            "subgroup": [] if subgroup is None else [_asked_text(*one) for one in asked],
            "min-cell": min_cell if min_cell != MIN_CELL else None,
            "specificity": specificity if specificity != SPECIFICITY else None,
            "sensitivity": sensitivity if sensitivity != SENSITIVITY else None,
            "prevalence": _prevalence_texts(prevalence),
            "ordinal": ",".join(ordinal) if ordinal else None,
            "coverage": coverage if coverage != COVERAGE else None,
            "no-pictures": not pictures,
            "no-curve": not curve,
            "no-near-duplicates": not near_duplicates,
            "top": top,
            "seed": seed,
        }
        content["manifest"] = look.manifest(_command("report", opened.path.name, task, options))
        content["pixels_read"] = pictures_opened() - before
        plain: dict[str, Any] = _plain(content)
        plain["summary"], plain["caveats"] = summary(plain), caveats(plain)
        told.say("page")
        shown = pictures_of(opened, items_shown(plain)) if pictures else {}
        del items, held
    page = report_page(plain, shown, pictures)
    text = json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    for file, data in zip(files, (page, text, model_card(plain)), strict=True):
        write_file(file, data.encode())
    return Report(plain, *files, again.probe)


def report_files(path: str | os.PathLike[str]) -> tuple[Path, Path, Path]:
    """Page, JSON and card that `report` would write to a path.

    Examples
    --------
    >>> [file.name for file in report_files("x.html")]
    ['x.html', 'x.json', 'x-model-card.md']
    """
    target = Path(path)
    if target.is_dir() or target.suffix.lower() not in (".html", ".htm"):
        target = target / "report.html"
    card = "model-card.md" if target.stem == "report" else f"{target.stem}-model-card.md"
    return target, target.with_suffix(".json"), target.with_name(card)


def ready_files(path: str | os.PathLike[str]) -> tuple[Path, Path, Path]:
    """The same, refused before any work where they can't be written; the folder is made.

    Raises
    ------
    UsageError
        No folder to write to, or a folder of this name.
    """
    files = report_files(path)
    if files[0] != Path(path) and not Path(path).exists():
        output_file(Path(path))  # its folder has to be there
        make_folder(Path(path))
    for file in files:
        output_file(file)
    return files


class _Look:
    """What the parts of one report share."""

    def __init__(self, store: Store, again: Rescored, seed: int, top: int, many: bool) -> None:
        self.store, self.again, self.seed, self.top, self.many = store, again, seed, top, many
        self.probe, self.record = again.probe, again.probe.record
        assert again.probe.model is not None
        self.model = again.probe.model
        self.kind = self.model.task.kind
        self.group = training_group(store, self.record)
        self._data: Dataset | None = None

    def facts(self) -> dict[str, Any]:
        """The record, and everything `evaluate` found."""
        record = self.record.to_dict()
        record.pop("seconds")
        grouped = group_codes(self.store, self.store.items(), self.group)
        used = np.isin(self.store.items().ids, self.probe.items)
        record["stand_ins"] = [column for column, rows in grouped.fallbacks if (rows & used).any()]
        assert self.probe.assessment is not None
        # Always the commonest class; of several labels always the commoner answer to each.
        y = np.asarray(self.probe.y, np.float64)
        if self.kind == "multi-label":
            shares = [float(known.mean()) for known in (label[~np.isnan(label)] for label in y.T) if len(known)]
            majority = float(np.mean([max(share, 1 - share) for share in shares])) if shares else None
        else:
            majority = float(np.bincount(y.astype(np.int64)).max() / len(y)) if len(y) else None
        return {
            "task": self.record.task,
            "record": record,
            "assessment": self.probe.assessment.to_dict(),
            "encoders": [
                {name: getattr(space.passport, name) for name in ENCODER_FACTS}
                for space in spaces_of(self.store, self.probe)
            ],
            "flow": {
                "items": len(self.store.items()),
                "labelled": len(np.unique(self.store.label_arrays(self.model.task)[0])),
            },
            "groups_per_class": self._groups_per_class(),
            "chance": {
                "auc": 0.5,
                "accuracy": majority,
                "balanced_accuracy": balanced_by_chance(record),
            },
        }

    def _groups_per_class(self) -> dict[str, int]:
        """Groups with evaluated rows of each class."""
        y, classes = np.asarray(self.probe.y), self.record.classes
        sides = y.T == 1 if y.ndim == 2 else y == np.arange(len(classes))[:, None]
        return {name: len(np.unique(self.again.groups[side])) for name, side in zip(classes, sides, strict=True)}

    def curves(self) -> dict[str, Any]:
        """ROC and precision-recall with bands."""
        probe = self.probe
        found = curves(
            probe.y,
            probe.probabilities,
            self.record.classes,
            self.kind,
            self.again.groups,
            n_boot=min(N_BOOT, RESAMPLES[self.many]),
            seed=self.record.seed,
        )
        return found.to_dict()

    def confusion(self) -> dict[str, Any] | None:
        """Counts by true and most probable class."""
        classes = self.record.classes
        if self.kind == "multi-label" or len(classes) > MOST_MATRIX:
            return None
        table = np.zeros((len(classes), len(classes)), np.int64)
        np.add.at(table, (np.asarray(self.probe.y, np.int64), self.probe.probabilities.argmax(axis=1)), 1)
        return {"classes": classes, "counts": table.tolist()}

    def audit(self, near_duplicates: bool) -> dict[str, Any]:
        """Findings on the store as it is now."""
        found = audit(
            self.store,
            self.record.task,
            group=self.record.group,
            space=self.record.space,
            near_duplicates=near_duplicates,
            examples=2,
            seed=self.seed,
            max_queries=NEAR_QUERIES if self.many else MAX_QUERIES,
        ).to_dict()
        notes = []
        if self.many:
            notes.append(f"intervals are of {RESAMPLES[1]} resamples, those of training of {RESAMPLES[0]}")
            if near_duplicates:
                notes.append(
                    f"near-duplicates were looked for of {NEAR_QUERIES} pictures, those of the test part first"
                )
        return found | {"notes": notes}

    def floors(self, curve: bool, audited: Mapping[str, Any]) -> dict[str, Any]:
        """What is reached without looking at a picture, or without a truth; and how many labels are needed."""
        told = []
        for finding in audited["findings"]:
            if finding["check"].startswith("label_from_"):
                counts = finding["counts"]
                bounds = None if counts.get("auc") is None else [counts["auc_low"], counts["auc_high"]]
                how = finding["about"] or finding["told"]
                if finding["severity"] == "not checked":
                    how = "not checked: see Data and leakage"
                title = finding["title"].replace("labels told from ", "").capitalize()
                told.append({"name": title, "auc": counts.get("auc"), "interval": bounds, "how": how})
        if not curve:
            return {"floors": told, "learning_curve": {"left_out": "it was not asked for"}}
        try:
            few = _Few.of(self.data(), self.seed)
            shuffled = few.shuffled(self.seed)
            found = few.learning_curve(self.record.model, self.seed)
        except DataError as error:
            return {"floors": told, "learning_curve": {"left_out": error.fact}}
        how = f"mean and range of {len(shuffled)} deals; groups keep their labels together"
        areas = [value for value in shuffled if value is not None]
        mean = sum(areas) / len(areas) if areas else None
        bounds = [min(areas), max(areas)] if areas else None
        told.insert(0, {"name": SHUFFLED, "auc": mean, "interval": bounds, "how": how})
        return {"floors": told, "learning_curve": found}

    def mistakes(self) -> list[dict[str, Any]]:
        """The surest wrong answers, with the nearest cases the model was trained on."""
        probe, classes = self.probe, self.record.classes
        chosen = self._wrong()[: self.top]
        if not chosen:
            return []
        space = spaces_of(self.store, probe)[0]
        engine = searcher(self.store, space)
        items = engine.items
        codes = group_codes(self.store, items, self.group)
        values = {} if codes.column is None else self.store.column(codes.column)
        allowed = np.isin(items.ids, np.fromiter(self.store.seen(self.model), np.int64))
        shown = probe.items[[row for row, *_ in chosen]]
        places = np.searchsorted(items.ids, shown)
        kin = [items.ids[codes.codes == codes.codes[place]] for place in places.tolist()]
        hits: list[list[Any]] = [[] for _ in chosen]
        here = np.isin(items.contents[places], engine.contents)
        if here.any():
            vectors = engine.vectors(self.store, space, items.contents[places[here]])
            asked = [own for own, has in zip(kin, here.tolist(), strict=True) if has]
            for place, found in zip(
                np.flatnonzero(here).tolist(), engine.find(vectors, NEIGHBOURS, allowed, asked), strict=True
            ):
                hits[place] = found
        labels = self.store.labels_of([hit.item for row in hits for hit in row])
        where = {int(item): at for at, item in enumerate(items.ids.tolist())}
        pictures = None if probe.rows is None else np.bincount(probe.rows, minlength=len(probe.items))
        told = []
        for rank, (row, column, truth, guess, chance, held) in enumerate(chosen, 1):
            item = int(probe.items[row])
            group = values.get(item)
            told.append(
                {
                    "rank": rank,
                    "item_id": item,
                    "source": items.sources[where[item]],
                    "locator": items.locators[where[item]],
                    "unit": self.again.names[row] if self.record.level else "",
                    "label": classes[column] if column is not None else "",
                    "truth": truth,
                    "predicted": guess,
                    "probability": chance,
                    "probability_truth": held,
                    "group": "" if group is None else value_text(group),
                    "pictures": 1 if pictures is None else int(pictures[row]),
                    "nearest": [
                        {
                            "item_id": hit.item,
                            "score": round(float(hit.score), 6),
                            "source": items.sources[where[hit.item]],
                            "locator": items.locators[where[hit.item]],
                            "label": labels.get(hit.item, {}).get(self.record.task, ""),
                        }
                        for hit in hits[rank - 1]
                    ],
                }
            )
        return told

    def _wrong(self) -> list[tuple[int, int | None, str, str, float, float]]:
        """Row, label, truth, answer and their probabilities, the surest first."""
        y, chances, classes = self.probe.y, self.probe.probabilities, self.record.classes
        calls = decided(chances, self.kind)
        if self.kind == "multi-label":
            truth = np.asarray(y, np.float64)
            sure = np.where(calls, chances, 1 - chances)
            wrong = ~np.isnan(truth) & (calls != (truth == 1))
            rows, columns = np.nonzero(wrong)
            order = np.lexsort((columns, rows, -sure[rows, columns]))[: self.top]
            names = ("absent", "present")
            return [
                (
                    int(rows[i]),
                    int(columns[i]),
                    names[int(truth[rows[i], columns[i]])],
                    names[int(calls[rows[i], columns[i]])],
                    float(sure[rows[i], columns[i]]),
                    float(1 - sure[rows[i], columns[i]]),
                )
                for i in order.tolist()
            ]
        held = np.asarray(y, np.int64)
        guess = chances.argmax(axis=1)
        rows = np.flatnonzero(guess != held)
        order = rows[np.lexsort((rows, -chances[rows, guess[rows]]))][: self.top]
        return [
            (
                row,
                None,
                classes[held[row]],
                classes[guess[row]],
                float(chances[row, guess[row]]),
                float(chances[row, held[row]]),
            )
            for row in order.tolist()
        ]

    def label_errors(self) -> dict[str, Any]:
        """Suspected label errors; or why none can be told."""
        try:
            found = label_errors(
                self.store,
                self.record.task,
                model=self.model.id,
                top=self.top,
                neighbours=NEIGHBOURS,
                seed=self.seed,
            )
        except DataError as error:
            return {"left_out": error.fact}
        return found.to_dict()

    def familiar(self, coverage: float) -> dict[str, Any]:
        """How many evaluated rows have no similar case among those trained on."""
        try:
            known = archive(
                self.store, self.probe, coverage, self.seed, FAMILIAR_ROWS if self.many else 5 * FAMILIAR_ROWS
            )
            rows = np.arange(len(self.probe.items))
            if self.many and len(rows) > FAMILIAR_ROWS:
                rows = np.sort(np.random.default_rng(self.seed).permutation(len(rows))[:FAMILIAR_ROWS])
            data = self.data()
            rows = rows[np.isin(self.probe.items[rows], data.items)]
            vectors = np.asarray(data.vectors(np.isin(data.items, self.probe.items[rows])), np.float32)
            similarity = known.similarity(vectors, [self.again.names[row] for row in rows.tolist()])
        except DataError as error:
            return {"left_out": error.fact}
        strange = known.rule.unfamiliar(similarity)
        errors = np.zeros(len(rows), np.bool_)
        if self.kind != "multi-label":
            guess = self.probe.probabilities[rows].argmax(axis=1)
            errors = guess != np.asarray(self.probe.y, np.int64)[rows]
        return {
            "coverage": coverage,
            "least": known.rule.least,
            "n": len(rows),
            "unfamiliar": int(strange.sum()),
            "error_rate": _share(errors[~strange]) if self.kind != "multi-label" else None,
            "error_rate_unfamiliar": _share(errors[strange]) if self.kind != "multi-label" else None,
        }

    def data(self) -> Dataset:
        """What the model was trained and judged on, as the store is now."""
        if self._data is None:
            record = self.record
            self._data = dataset(
                self.store,
                self.model.task,
                space=spaces_of(self.store, self.probe),
                group=self.group,
                where=record.where,
                classes=record.classes,
                level=record.level,
                pool=record.pool or "mean",
                on_conflict="drop" if record.on_conflict == "error" else record.on_conflict,
            )
        return self._data

    def manifest(self, command: str) -> dict[str, Any]:
        """How all of it was made."""
        record, store = self.record, self.store
        entry = next((one for one in store.log() if one["commit"] == self.model.added_in), None)
        arguments = {} if entry is None else dict(entry["arguments"])
        arguments.pop("task", None)
        if arguments.get("classes"):
            arguments["classes"] = ",".join(str(name).replace(",", "\\,") for name in arguments["classes"])
        renamed = {name.replace("_", "-"): value for name, value in arguments.items()}
        return {
            "store": store.path.name,
            "snapshot_commit": store.commit,
            "items": len(store.items()),
            "model_id": self.model.id,
            "model_sha256": self.model.sha256.hex(),
            "trained_at_commit": record.commit,
            "trained": None if entry is None else entry["time"],
            "labels_commit": self.model.task.added_in,
            "spaces": record.spaces,
            "encoders": record.encoders,
            "fingerprints": record.fingerprints,
            "seed": record.seed,
            "report_seed": self.seed,
            "versions_trained": record.versions,
            "versions_report": dict(sorted(library_versions().items())),
            "train_command": _command("train", store.path.name, record.task, renamed),
            "report_command": command,
        }


@dataclass(frozen=True, slots=True)
class _Few:
    """Rows for what is learned again and again: all, or some whole groups of many."""

    X: npt.NDArray[np.float32]
    y: npt.NDArray[Any]
    groups: IntArray
    test: BoolArray | None
    notes: list[str]

    @classmethod
    def of(cls, data: Dataset, seed: int) -> _Few:
        """Of a data set."""
        keep = _some(data.y, data.groups, ~data.test, seed)
        official = bool(data.test.any())
        if official:
            keep |= _some(data.y, data.groups, data.test, seed)
        notes = []
        if not keep.all():
            notes.append(f"learned from and judged on {int(keep.sum())} of {len(data)} rows, of groups drawn by chance")
        test = data.test[keep] if official else None
        return cls(np.asarray(data.vectors(keep), np.float32), data.y[keep], data.groups[keep], test, notes)

    def shuffled(self, seed: int) -> list[float | None]:
        """AUC of probes that learned labels which were dealt anew."""
        found = []
        for deal in range(SHUFFLES):
            generator = np.random.default_rng([seed, deal])
            numbers = np.unique(self.groups, return_inverse=True)[1]
            takers, givers = (generator.permutation(int(numbers.max()) + 1)[numbers] for _ in range(2))
            y = np.empty_like(self.y)
            y[np.argsort(takers, kind="stable")] = self.y[np.argsort(givers, kind="stable")]
            try:
                points = learning_curve(
                    self.X, y, self.groups, test=self.test, per_class=[len(y) + 1], repeats=1, seed=seed + deal
                )
            except DataError:  # a class has gone to one side only
                continue
            found.append(number(points[-1].auc))
        return found

    def learning_curve(self, model: str, seed: int) -> dict[str, Any]:
        """AUC by labelled groups per class."""
        wide = self.y.ndim == 2 or int(np.max(self.y)) > 3
        rule = model if model in RULES else "probe"
        points = learning_curve(
            self.X,
            self.y,
            self.groups,
            test=self.test,
            per_class=(1, 4, 16, 64) if wide else (1, 2, 4, 8, 16, 32, 64, 128),
            repeats=3 if wide else 5,
            model=rule,
            seed=seed,
        )
        return {
            "rule": RULES[rule],
            "part": "held-out" if self.test is None else "test",
            "points": [{name: getattr(point, name) for name in point.__dataclass_fields__} for point in points],
            "notes": self.notes,
        }


def _some(y: npt.NDArray[Any], groups: IntArray, part: BoolArray, seed: int) -> BoolArray:
    """All rows of a part, or those of some of its groups: some of every class, the others by chance."""
    rows = np.flatnonzero(part)
    if len(rows) <= CURVE_ROWS:
        return part.copy()
    numbers = np.unique(groups[rows], return_inverse=True)[1]
    order = np.random.default_rng(seed).permutation(int(numbers.max()) + 1)
    held = y[rows]
    sides = held.T == 1 if held.ndim == 2 else held == np.arange(int(held.max()) + 1)[:, None]
    first = [order[np.isin(order, np.unique(numbers[side]))][:CLASS_GROUPS] for side in sides]
    ranked = np.concatenate([*first, order])
    _, places = np.unique(ranked, return_index=True)
    ranked = ranked[np.sort(places)]
    sizes = np.cumsum(np.bincount(numbers)[ranked])
    chosen = ranked[: max(1, int(np.searchsorted(sizes, CURVE_ROWS, side="right")))]
    keep = np.zeros(len(y), np.bool_)
    keep[rows[np.isin(numbers, chosen)]] = True
    return keep


def _usual_columns(store: Store, task: str, held: list[Any]) -> list[tuple[str, list[float] | None]]:
    """Columns like sex or site, but not the one that the labels came from; their values are added to what is held."""
    source = store.task(task).provenance.get("value") or ()
    own = {name.casefold() for name in ([source] if isinstance(source, str) else source)}
    found: list[tuple[str, list[float] | None]] = []
    for name, kind in store.columns().items():
        if name.casefold() not in own and name.casefold().replace("_", "").replace(" ", "") in USUAL:
            values = store.column(name)
            known = set(values.values())
            if len(known) > 1 and (kind != "TEXT" or len(known) <= MOST_VALUES):
                found.append((name, None))
                held.append(values)
    return found


def _asked_text(name: str, edges: Sequence[float] | None) -> str:
    return name if edges is None else f"{name}={','.join(f'{edge:g}' for edge in edges)}"


def _prevalence_texts(prevalence: float | Mapping[str, float] | None) -> list[str]:
    if prevalence is None:
        return []
    return [f"{k}={v:g}" for k, v in prevalence.items()] if isinstance(prevalence, Mapping) else [f"{prevalence:g}"]


def _command(verb: str, store: str, task: str, options: Mapping[str, Any]) -> str:
    """A command line: options that were not given are left out."""
    words = ["vecstore", verb, store, task]
    for name, value in options.items():
        if value is True:
            words.append(f"--{name}")
        elif value is not None and value is not False:
            for one in value if isinstance(value, (list, tuple)) else [value]:
                words += [f"--{name}", str(one)]
    return " ".join(shlex.quote(word) for word in words)


def _share(rows: BoolArray) -> float | None:
    return float(rows.mean()) if len(rows) else None


def _plain(value: Any) -> Any:
    """A value as JSON has it; what is no finite number is None."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value
