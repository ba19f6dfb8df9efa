"""Can labels be told without looking at the pictures: from metadata, from image size, or from where they come from?

Bagged trees are cross-validated by group on what is known beside the pixels. Where that works, a classifier of
pictures may owe its score to the same thing: a scanner's noise, a hospital's marker, a folder per class.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vecstore.audit.findings import Finding, Severity, reason
from vecstore.dataset import Dataset
from vecstore.dataset.groups import numbered
from vecstore.dataset.known import size_features, value_features
from vecstore.errors import DataError
from vecstore.probes.floor import out_of_fold
from vecstore.probes.metrics import evaluate
from vecstore.records import DoubleArray, Value
from vecstore.store import Items, Store

FLAGGED = 0.6
"""AUC from which on a shortcut is told, if its interval is above 0.5 too."""

GRAVE = 0.9
"""AUC from which on size or origin are a problem: pixels carry both."""

MANY = 20_000
"""Rows beyond which fewer resamples do: the interval is narrow."""

RARE, MOST_WORDS = 5, 50
"""Words of a column in fewer items are put together; so are those beyond the most frequent."""

MOST_ALONE = 8
"""Columns that are also judged one by one."""

ORIGIN = re.compile(
    r"manufacturer|model|scanner|device|station|institution|hospital|cent(?:er|re)|^site|_site|^source|vendor", re.I
)
"""Columns that say where a picture was made."""


@dataclass(frozen=True, slots=True)
class Predicted:
    """How well labels are told from something: AUC with its 95 % interval by group."""

    auc: float | None
    low: float
    high: float

    @property
    def flagged(self) -> bool:
        """Better than guessing, and by more than a little."""
        return self.auc is not None and self.auc >= FLAGGED and self.low > 0.5

    def __str__(self) -> str:
        return "not defined" if self.auc is None else f"{self.auc:.2f} ({self.low:.2f}-{self.high:.2f})"


def predicted(features: DoubleArray, data: Dataset, seed: int = 0) -> Predicted:
    """Cross-validate bagged trees of features by group.

    Parameters
    ----------
    features : ndarray of shape (n, n_features), float64
        Rows as those of the data set.

    Raises
    ------
    DataError
        The classes can't be dealt into folds.
    """
    names = [str(name) for name in range(len(data.classes))]
    n_boot = 500 if len(data) <= MANY else 100
    chances = out_of_fold(features, data.y, data.groups, data.classes, seed)
    scores = evaluate(data.y, chances, names, data.task.kind, data.groups, n_boot=n_boot, seed=seed)
    low, high = scores.auc_interval or (0.0, 1.0)
    return Predicted(scores.auc, low, high)


def shortcuts(store: Store, data: Dataset | None, why: str, task: str, ours: frozenset[str]) -> Iterator[Finding]:
    """Findings of the three checks.

    Parameters
    ----------
    data : Dataset or None
        As a probe would be trained on.
    why : str
        Why there is none.
    task : str
    ours : frozenset of str
        Columns that are the group, the label or a part, casefolded.
    """
    if data is None:
        for check, title, _ in _CHECKS:
            yield Finding(check, "not checked", title, why, task, do="label more items")
        return
    columns = [name for name in store.columns() if name.casefold() not in ours]
    values = {name: _values(store, data, name) for name in columns}
    # What differs from item to item names items and tells nothing that could be learned.
    values = {name: told for name, told in values.items() if not _identifies(told)}
    origin = {name: told for name, told in values.items() if ORIGIN.search(name)}
    rest = {name: told for name, told in values.items() if name not in origin}
    places, stripped = _places(store.items(), data)
    for (check, title, do), parts in zip(
        _CHECKS,
        (
            {name: value_features(told, RARE, MOST_WORDS) for name, told in rest.items()},
            {"image size": size_features(store, data.contents)},
            {name: value_features(told, RARE, MOST_WORDS) for name, told in (places | origin).items()},
        ),
        strict=True,
    ):
        yield _finding(check, title, do, parts, data, task, stripped if check == "label_from_origin" else [])


_CHECKS = (
    (
        "label_from_metadata",
        "labels told from metadata alone",
        (
            "report this floor beside the probe's score, and the score within subgroups; a column that is the label by"
            " another name is no finding"
        ),
    ),
    (
        "label_from_image_size",
        "labels told from image size",
        "classes came by different ways: find out how, crop or resample alike, or judge on pictures of one size",
    ),
    (
        "label_from_origin",
        "labels told from source, folder or site",
        (
            "a classifier can learn the place instead of the finding: judge on places it was not trained on"
            " (--group with the site's column), or balance classes per place"
        ),
    ),
)


def _finding(
    check: str, title: str, do: str, parts: dict[str, DoubleArray], data: Dataset, task: str, stripped: list[str]
) -> Finding:
    parts = {name: made[:, made.std(axis=0) > 0] for name, made in parts.items()}
    parts = {name: made for name, made in parts.items() if made.shape[1]}
    about = ", ".join(parts)
    left = f" (folders named like classes or parts are left out: {', '.join(stripped)})" if stripped else ""
    if not parts:
        nothing = (
            "all pictures are of one size" if check == "label_from_image_size" else "nothing differs between items"
        )
        return Finding(check, "fine", title, nothing + left, task)
    try:
        whole = predicted(np.hstack(list(parts.values())), data)
        alone = {}
        if whole.flagged and 1 < len(parts) <= MOST_ALONE:
            alone = {name: predicted(made, data) for name, made in parts.items()}
    except DataError as error:
        return Finding(check, "not checked", title, reason(error), task, about, do="label more items")
    counts: dict[str, int | float | None] = {"auc": whole.auc, "auc_low": whole.low, "auc_high": whole.high}
    counts |= {f"auc of {name}": one.auc for name, one in alone.items()}
    best = sorted(alone.items(), key=lambda entry: -(entry[1].auc or 0))
    told = f"AUC {whole} from {about}{left}"
    if best:
        told += f"; alone: {', '.join(f'{name} {one}' for name, one in best[:4])}"
    severity: Severity = "fine"
    if whole.flagged:
        grave = check != "label_from_metadata" and (whole.auc or 0) >= GRAVE
        severity = "problem" if grave else "warning"
    return Finding(check, severity, title, told, task, about, counts, do=do if whole.flagged else "")


def _values(store: Store, data: Dataset, name: str) -> list[Value]:
    values = store.column(name, data.items)
    return [values.get(item) for item in data.items.tolist()]


def _identifies(values: Sequence[Value]) -> bool:
    """Whether texts are nearly all different: names of items, free text, unique identifiers."""
    texts = [value for value in values if isinstance(value, str)]
    return len(texts) > 0 and len(set(texts)) > len(values) / 2


def _places(items: Items, data: Dataset) -> tuple[dict[str, list[Value]], list[str]]:
    """Source, folder and file extension of each row; and which folders say no more than a class or a part."""
    meant = {_plain(name) for name in data.task.classes} | {"train", "training", "val", "valid", "validation", "dev"}
    meant |= {"test", "testing"}
    stripped: set[str] = set()
    sources: list[Value] = []
    folders: list[Value] = []
    endings: list[Value] = []
    known: dict[str, str] = {"": ""}  # most items are in few folders
    for place in np.searchsorted(items.ids, data.items).tolist():
        locator = items.locators[place].partition("#")[0]
        end = max(locator.rfind("/"), locator.rfind("!")) + 1
        folder, name = locator[:end], locator[end:]
        if folder not in known:
            parts = re.split(r"[/!]", folder)[:-1]
            said = {part for part in parts if _plain(part) in meant}
            stripped |= said
            known[folder] = "/".join(part for part in parts if part not in said)
        sources.append(items.sources[place])
        folders.append(known[folder])
        endings.append(name.rpartition(".")[2].lower() if "." in name else "")
    # A folder of its own for each item or each group says which item it is.
    if len(set(folders)) > min(len(folders), len(np.unique(data.groups))) / 2 and _same(folders, data):
        folders = [""] * len(folders)
    return {"source": sources, "folder": folders, "file extension": endings}, sorted(stripped)


def _same(folders: Sequence[Value], data: Dataset) -> bool:
    """Whether no folder holds more than one group, or nearly so."""
    numbers = numbered(folders)
    pairs = np.unique(np.stack([numbers, data.groups]), axis=1).shape[1]
    return bool(pairs <= 1.2 * len(np.unique(numbers)))


def _plain(text: str) -> str:
    return re.sub(r"[\W_]", "", text.casefold())
