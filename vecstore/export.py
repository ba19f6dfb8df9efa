"""`export`: vectors with their items, for other tools."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from vecstore.errors import DataError, UsageError
from vecstore.files import output_file, write_file
from vecstore.store import Store, using
from vecstore.store.shards import write_export


def export(
    store: Store | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    space: str | None = None,
    where: str | None = None,
) -> dict[str, Any]:
    """Write a row per item: id, source, locator, metadata (Parquet only) and vector.

    Parameters
    ----------
    store : Store or path
    path : path
        Ending in `.parquet` (`vector` is a fixed-size list of float32) or `.npz` (arrays `item_id` int64,
        `source` and `locator` text, `vector` float32 of shape (n, dim)).
    space : str, optional
        Needed where the store has several.
    where : str, optional
        Only items that fit a predicate.

    Returns
    -------
    dict
        "path", "rows", "dim", "space".

    Raises
    ------
    UsageError
        Another ending, or no folder to write to.
    NotFound, PredicateRefused, DiskFull, NotWritable
    """
    target = output_file(path)
    if target.suffix.lower() not in (".parquet", ".npz"):
        raise UsageError(
            f"{target}: unknown format", expected="a name ending in .parquet or .npz", do="rename the output"
        )
    with using(store) as opened:
        return _exported(opened, target, space, where)


def _exported(store: Store, target: Path, space: str | None, where: str | None) -> dict[str, Any]:
    chosen = store.refresh().space(space)
    items = store.items(where)
    keep = np.flatnonzero(np.isin(items.contents, store.embedded(chosen)))
    if not len(keep):
        raise DataError("no item to export", expected="at least one with a vector", do="check --where and --space")
    ids, vectors = items.ids[keep], store.vectors(chosen, items.contents[keep])
    sources, locators = ([values[i] for i in keep.tolist()] for values in (items.sources, items.locators))
    if target.suffix.lower() == ".npz":
        arrays: dict[str, Any] = {
            "item_id": ids,
            "source": np.array(sources),
            "locator": np.array(locators),
            "vector": vectors,
        }
        write_file(target, lambda file: np.savez(_Seekless(file), **arrays))
    else:
        rows = store.metadata(ids.tolist())
        columns: dict[str, list[Any]] = {"source": sources, "locator": locators}
        for name in store.columns():
            columns[name if name not in ("item_id", "vector") else f"column_{name}"] = [
                rows.get(i, {}).get(name) for i in ids.tolist()
            ]
        write_export(target, vectors, ids, columns)
    return {"path": str(target), "rows": len(ids), "dim": chosen.dim, "space": chosen.name}


class _Seekless:
    """A file that only takes bytes: zip then writes its members' sizes behind them."""

    def __init__(self, file: Any) -> None:
        self.write, self.flush = file.write, file.flush

    def read(self, *_: int) -> bytes:
        """Nothing can be read; NumPy asks whether it could."""
        raise OSError("write-only")
