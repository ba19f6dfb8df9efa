"""The sets of the paper's experiment: how each is labelled, what else is known of it, and one hold-out split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

import vecstore as vs
from vecstore.probes.splits import grouped_folds
from vecstore.records import IntArray

TRAIN, VAL, TEST = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Set:
    """A task on an archive.

    Attributes
    ----------
    name : str
        As the tables call it.
    archive : str
        Folder with `images.zip` and `labels.csv`, or a MedMNIST file.
    task : str
    value : str
        Column with the label; several, divided by commas, make a multi-label task.
    columns : str
        Further columns, for groups and metadata.
    known : tuple of str
        Those that say something of the patient or the picture and not of its finding.
    flips : str
        Along which axes a mirrored picture is as possible: "", "h" or "hv".
    turns : float
        By how many degrees a picture may be turned, each way.
    split_column, ignore : str
    """

    name: str
    archive: str
    task: str
    value: str = ""
    columns: str = ""
    known: tuple[str, ...] = ()
    flips: str = ""
    turns: float = 10
    split_column: str = ""
    ignore: str = ""

    @property
    def store(self) -> str:
        """Of the archive: two tasks may share one."""
        return Path(self.archive).stem


# Chests are not mirrored: the heart lies on the left.
SETS = (
    Set("Kermany chest X-ray", "cxr_kermany", "pneumonia", "label", "patient", split_column="split"),
    Set(
        "COVID chest X-ray, finding",
        "cxr_covid",
        "finding",
        "finding",
        "patientid,age,sex,view",
        known=("age", "sex", "view"),
        ignore="todo,Unknown",
    ),
    Set(
        "COVID chest X-ray, view",
        "cxr_covid",
        "view",
        "view",
        "patientid,age,sex",
        known=("age", "sex"),
        ignore="?",
    ),
    Set(
        "HAM10000",
        "derm_ham10000",
        "dx",
        "dx",
        "lesion_id,age,sex,localization",
        known=("age", "sex", "localization"),
        flips="hv",
        turns=180,
    ),
    Set(
        "ODIR",
        "fundus_odir",
        "findings",
        "N,D,G,C,A,H,M,O",
        "patient_id,eye,age,sex",
        known=("eye", "age", "sex"),
        flips="h",
    ),
    Set("mini-MIAS", "mammo_mias", "tissue", "tissue", "patient,side", known=("side",), flips="h"),
    Set("BUSI", "us_busi", "diagnosis", "label", flips="h"),
    Set("BreastMNIST", "medmnist/breastmnist.npz", "breastmnist", flips="h"),
    Set("PneumoniaMNIST", "medmnist/pneumoniamnist.npz", "pneumoniamnist"),
    Set("RetinaMNIST", "medmnist/retinamnist.npz", "retinamnist", flips="h"),
)


def chosen(names: str | None) -> list[Set]:
    """Sets by the beginnings of their names, divided by commas; all by default."""
    wanted = [name.strip().casefold() for name in (names or "").split(",") if name.strip()]
    found = [one for one in SETS if not wanted or any(one.name.casefold().startswith(name) for name in wanted)]
    if not found:
        raise SystemExit(f"no set begins with {names!r}; there are: {', '.join(one.name for one in SETS)}")
    return found


def archive(data: Path, one: Set) -> Path:
    """The archive of a set in the folder of all sets."""
    path = data / one.archive
    return path if path.suffix == ".npz" else path / "images.zip"


def labelled(store: vs.Store, data: Path, one: Set) -> None:
    """Import a set's labels, unless the store has them."""
    if not one.value or one.task in {task.name for task in store.refresh().tasks()}:
        return
    vs.label(
        store,
        data / one.archive / "labels.csv",
        task=one.task,
        key="file",
        value=one.value.split(",") if "," in one.value else one.value,
        columns=one.columns.split(",") if one.columns else (),
        split_column=one.split_column or None,
        ignore=one.ignore.split(",") if one.ignore else (),
    )


def locators(store: vs.Store, ids: IntArray) -> list[str]:
    """Where items are in their archive: ids of shape (n,) to n texts."""
    items = store.items()
    return [items.locators[place] for place in np.searchsorted(items.ids, ids).tolist()]


def holdout(store: vs.Store, data: vs.Dataset, seed: int = 0) -> IntArray:
    """One split of a data set: the official test part, or a third of the groups.

    Validation is the official part where there is one, else a fifth of what is not test. No group is divided.

    Returns
    -------
    ndarray of shape (n,), int64
        `TRAIN`, `VAL` or `TEST`.
    """
    test = data.test.copy()
    if not test.any():
        test = grouped_folds(data.y, data.groups, 3, seed) == 0
    parts = np.where(test, TEST, TRAIN)
    official = {label.item for label in store.labels(data.task) if label.split == "val"}
    val = np.isin(data.items, sorted(official)) & ~test
    if not val.any():
        rest = np.flatnonzero(~test)
        val[rest[grouped_folds(data.y[rest], data.groups[rest], 5, seed) == 0]] = True
    else:
        # A picture that the official parts share is validated on, and not trained on.
        leaking = np.isin(data.groups, data.groups[val]) & (parts == TRAIN)
        val |= leaking
    parts[val] = VAL
    return parts.astype(np.int64)


def split_digest(store: vs.Store, data: vs.Dataset, parts: IntArray) -> str:
    """What tells whether two splits are the same: SHA-256 over locators, labels and parts."""
    lines = zip(locators(store, data.items), data.y.tolist(), parts.tolist(), strict=True)
    return hashlib.sha256("\n".join(map(repr, lines)).encode()).hexdigest()


def holdout_task(store: vs.Store, data: vs.Dataset, parts: IntArray, rows: IntArray | None = None) -> str:
    """Register a hold-out split in the store as a task of its own, so that `train` scores on its test part.

    Parameters
    ----------
    store : Store
    data : Dataset
    parts : ndarray of shape (n,), int64
    rows : ndarray of shape (m,), int64, optional
        Only these rows of the data set.

    Returns
    -------
    str
        The task's name.
    """
    everything = np.arange(len(data)) if rows is None else rows
    name = f"{data.task.name} hold-out" + ("" if rows is None else " train")
    table: dict[str, list[str]] = {"file": locators(store, data.items[everything])}
    table |= {"part": ["test" if part == TEST else "train" for part in parts[everything].tolist()]}
    y = data.y[everything]
    value: str | list[str] = "label"
    if y.ndim == 2:
        value = list(data.classes)
        for column, label in enumerate(data.classes):
            table[label] = ["" if v != v else str(int(v)) for v in y[:, column].tolist()]
    else:
        table["label"] = [data.classes[k] for k in y.astype(int).tolist()]
    positive = data.classes[-1] if data.task.kind == "binary" else None
    vs.label(store, pd.DataFrame(table), task=name, key="file", value=value, split_column="part", positive=positive)
    return name
