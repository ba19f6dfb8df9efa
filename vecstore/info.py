"""`info`: what a store holds."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vecstore.store import Store
from vecstore.store.catalog import visible


def info(store: Store) -> dict[str, Any]:
    """Facts about a store at its snapshot.

    Returns
    -------
    dict
        "format", "commit", "last_commit", "items", "contents", "failures", "bytes" (files of the store),
        "decode_rule", and lists of dicts: "sources", "spaces" (with "passport"), "tasks", "models", "columns".
    """
    models = store.models()
    spaces = []
    for space in store.spaces():
        shards = store.shards(space)
        spaces.append(
            {
                "name": space.name,
                "dim": space.dim,
                "vectors": sum(shard.rows for shard in shards),
                "shards": len(shards),
                "bytes": sum(shard.bytes for shard in shards),
                "fingerprint": space.fingerprint.hex(),
                "passport": asdict(space.passport),
            }
        )
    tasks = []
    for task in store.tasks():
        labels = store.labels(task)
        held = Counter(label.name for label in labels if label.value > 0)
        counts = {name: held[name] for name in task.classes}
        tasks.append(
            {"name": task.name, "kind": task.kind, "items": len({label.item for label in labels}), "classes": counts}
        )
    now = visible("s")
    counted = dict(
        store.rows(f"SELECT i.source, count(*) FROM states s JOIN items i ON i.id = s.item WHERE {now} GROUP BY 1")
    )
    sources = store.rows("SELECT id, name, kind FROM sources ORDER BY name")
    return {
        "format": store.catalog.meta["format"],
        "commit": store.commit,
        "last_commit": store.catalog.last_commit(),
        "items": sum(counted.values()),
        "contents": store.rows(f"SELECT count(DISTINCT s.content) FROM states s WHERE {now}")[0][0],
        "failures": len(store.failures()),
        "bytes": _size(store.path),
        "decode_rule": json.loads(store.catalog.meta["decode_rule"]),
        "sources": [{"name": name, "kind": kind, "items": counted.get(key, 0)} for key, name, kind in sources],
        "spaces": spaces,
        "tasks": tasks,
        "models": [
            {
                "id": model.id,
                "task": model.task.name,
                "model": model.record.get("model"),
                "space": " + ".join(model.record.get("spaces") or [str(model.record.get("space"))]),
                "level": model.record.get("level"),
                "calibration": (model.record.get("calibration") or {}).get("method"),
                "auc": model.record.get("auc"),
                "part": model.record.get("part"),
                "n": model.record.get("n"),
                "commit": model.added_in,
            }
            for model in models
        ],
        "columns": [{"name": name, "type": kind} for name, kind in store.columns().items()],
    }


def _size(folder: Path) -> int:
    """Bytes of all files in a folder, while others may be writing there."""
    total = 0
    for entry in folder.rglob("*"):
        with suppress(FileNotFoundError):  # a temporary file that got its final name since
            total += entry.stat().st_size if entry.is_file() else 0
    return total
