"""Make `format1.vecs.zip`: a small store of format 1 with a row in every table. Run once; the result is kept.

python tests/golden/make_format1.py [TARGET.zip]
"""

from __future__ import annotations

import hashlib
import sqlite3
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vecstore.records import Passport, Value
from vecstore.store import Label, Space, Store
from vecstore.store.append import Batch, Picture, Refusal, append


def content(number: int) -> bytes:
    return hashlib.md5(b"golden %d" % number).digest()


def vectors(numbers: Sequence[int], dim: int) -> npt.NDArray[np.float16]:
    """Cosines of multiples: anybody can compute them."""
    rows = np.cos(np.outer(numbers, np.arange(1, dim + 1)))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    halves: npt.NDArray[np.float16] = rows.astype(np.float16)
    return halves


def add(
    store: Store,
    spaces: Sequence[Space],
    pictures: Mapping[str, tuple[int, Mapping[str, Value]]],
    failing: Sequence[str] = (),
    embed: Sequence[int] = (),
) -> None:
    batch = Batch("chest", "folder")
    for name, (number, metadata) in pictures.items():
        sha256 = hashlib.sha256(name.encode()).digest()
        batch.pictures.append(Picture(name, 9, number, sha256, "Pillow 11", content(number), 28, 27, metadata))
    batch.refusals += [Refusal(name, 1, 1, "decode", "cannot identify it") for name in failing]
    for space in spaces:
        batch.vectors[space.id] = ([content(n) for n in embed], vectors(embed, space.dim))
    batch.thumbnails[content(2)] = b"\xff\xd8thumb"
    append(store, batch, {space.id: space for space in spaces}, {"archive": "chest", "source": "chest"})


def passport(name: str, dim: int) -> Passport:
    return Passport(name, "vecstore", name, "none", "", "", (8, 8), "squash", (0.5,), (0.25,), "none", dim)


def fill(store: Store) -> None:
    first = store.add_space("first", passport("first", 8), {})
    pictures: dict[str, tuple[int, Mapping[str, Value]]] = {
        "a.png": (1, {"age": 60, "sex": "F"}),
        "b.png": (2, {"age": 45, "sex": "M"}),
        "größe/c.png": (3, {"sex": "F"}),
    }
    add(store, [first], pictures, failing=["bad.png"], embed=[1, 2, 3])
    add(store, [first], {"a.png": (4, {"age": 61}), "d.zip!e.dcm": (2, {"PatientID": "f4c1"})}, embed=[4])
    second = store.add_space("second", passport("second", 4), {})
    add(store, [second], {"d.zip!e.dcm": (2, {"age": 45})}, failing=["bad.png"], embed=[4, 2, 3])
    store.add_task("sick", "binary", ["no", "yes"], [Label(1, "no", 1.0, None)], {"table": "t.csv"}, positive="yes")
    labels = [Label(1, "yes", 1.0, "train"), Label(2, "no", 1.0, "val"), Label(5, "yes", 1.0, "test")]
    columns: dict[str, dict[int, Value]] = {"dose": {1: 0.5}, "ward": {3: "Ä1"}}
    task = store.add_task("sick", "binary", ["no", "yes"], labels, {"rule": "path"}, positive="yes", columns=columns)
    files = {"model.safetensors": b"\x00\x01\x02", "model.json": b"{}"}
    store.add_model(task, first, files, {"model": "probe", "auc": 0.875, "n": 3}, np.array([1, 2, 5]))


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "format1.vecs"
        Store.create(path).close()
        # A known secret and id, before anything is keyed with them.
        with closing(sqlite3.connect(path / "catalog.sqlite")) as db, db:
            db.execute("UPDATE meta SET value = ? WHERE name = 'store_secret'", (bytes(range(32)),))
            db.execute("UPDATE meta SET value = ? WHERE name = 'store_id'", ("0123456789abcdef" * 2,))
        with Store(path) as store:
            fill(store)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for entry in sorted(path.rglob("*")):
                if entry.is_file():
                    info = zipfile.ZipInfo(str(entry.relative_to(folder)), (2000, 1, 1, 0, 0, 0))
                    archive.writestr(info, entry.read_bytes(), zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("format1.vecs.zip"))
