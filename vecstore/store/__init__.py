"""The store: SQLite catalog, Parquet shards, models and thumbnails in one folder. FORMAT.md is its specification."""

from __future__ import annotations

from vecstore.store.store import Items, Label, Model, ShardRow, Space, Store, Task, using

__all__ = ["Items", "Label", "Model", "ShardRow", "Space", "Store", "Task", "using"]
