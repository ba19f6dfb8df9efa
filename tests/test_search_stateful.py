"""Search against NumPy: whatever is added, changed, gone, relabelled, indexed, filtered and excluded."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from vecstore.indexes import index_build, index_update
from vecstore.records import FloatArray, Passport
from vecstore.search import search, search_many
from vecstore.store import Label, Store
from vecstore.store.append import Batch, Picture, Refusal, append

DIM = 6
NAMES = st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=6, unique=True)


def _vector(content: str) -> FloatArray:
    """Contents of one number modulo 5 have nearly, modulo 3 exactly, the same vector as others: ties abound."""
    seed = int(hashlib.md5(content.encode()).hexdigest(), 16)
    rng = np.random.default_rng(seed % 5)
    row = rng.standard_normal(DIM)
    if seed % 3:
        row += 0.001 * np.random.default_rng(seed).standard_normal(DIM)
    return (row / np.linalg.norm(row)).astype(np.float16).astype(np.float32)


class Searches(RuleBasedStateMachine):
    """The model: item name to content, patient and age; labels by name."""

    @initialize()
    def create(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store.create(self.folder / "a.vecs")
        passport = Passport("made", "none", "made", "none", "", "", (1, 1), "none", (0.0,), (1.0,), "none", DIM)
        self.store.add_space("made", passport, {})
        self.contents: dict[str, str] = {}
        self.patients: dict[str, str] = {}
        self.labels: dict[str, str] = {}

    def _append(self, contents: dict[str, str], failing: list[str], patient: str) -> None:
        space = self.store.refresh().space()
        hashes = {content: hashlib.md5(content.encode()).digest() for content in contents.values()}
        batch = Batch("made", "folder")
        for name, content in contents.items():
            batch.pictures.append(Picture(name, 1, 1, None, "made", hashes[content], 1, 1, {"patient": patient}))
        batch.refusals += [Refusal(name, 1, 1, "decode", "cannot identify it") for name in failing]
        rows = np.array([_vector(content) for content in hashes], np.float16).reshape(-1, DIM)
        batch.vectors[space.id] = ([*hashes.values()], rows)
        append(self.store, batch, {space.id: space}, {})

    @rule(names=NAMES, version=st.integers(0, 2), patient=st.sampled_from(["P", "Q", "R"]))
    def add_or_change(self, names: list[str], version: int, patient: str) -> None:
        contents = {name: f"{name}/{version}" for name in names}
        self._append(contents, [], patient)
        self.contents |= contents
        self.patients |= dict.fromkeys(names, patient)

    @rule(names=NAMES, patient=st.sampled_from(["P", "Q"]))
    def share_a_picture(self, names: list[str], patient: str) -> None:
        self._append(dict.fromkeys(names, "shared"), [], patient)
        self.contents |= dict.fromkeys(names, "shared")
        self.patients |= dict.fromkeys(names, patient)

    @rule(names=NAMES)
    def no_longer_decodes(self, names: list[str]) -> None:
        self._append({}, names, "P")
        for name in names:
            self.contents.pop(name, None)

    @precondition(lambda self: self.contents)
    @rule(labels=st.lists(st.sampled_from(["yes", "no"]), min_size=12, max_size=12))
    def relabel(self, labels: list[str]) -> None:
        ids = self._ids()
        self.labels = dict(zip(sorted(ids), labels, strict=False))
        rows = [Label(ids[name], label, 1.0, None) for name, label in self.labels.items()]
        self.store.add_task("t", "binary", ["no", "yes"], rows, {})

    @rule(kind=st.sampled_from(["exact", "coded", "cells", None]), metric=st.just("cosine"))
    def build(self, kind: str | None, metric: str) -> None:
        index_build(self.store, kind=kind, metric=metric)

    @rule()
    def update(self) -> None:
        index_update(self.store)

    @rule()
    def lose_the_index(self) -> None:
        shutil.rmtree(self.folder / "a.vecs" / "indexes", ignore_errors=True)

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store(self.folder / "a.vecs")

    def _ids(self) -> dict[str, int]:
        items = self.store.refresh().items()
        return dict(zip(items.locators, items.ids.tolist(), strict=True))

    @precondition(lambda self: self.contents)
    @rule(data=st.data())
    def ask(self, data: Any) -> None:
        ids = self._ids()
        assert set(ids) == set(self.contents)
        names = sorted(ids, key=lambda name: ids[name])
        rows = np.array([_vector(self.contents[name]) for name in names], np.float64)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        query = data.draw(st.sampled_from(names), "query")
        label = data.draw(st.sampled_from([None, "yes", "no"]), "label") if self.labels else None
        some = data.draw(st.none() | st.lists(st.sampled_from(names)), "ids")
        farthest, unique = data.draw(st.booleans(), "farthest"), data.draw(st.booleans(), "unique")
        by, include_own = data.draw(st.sampled_from([None, "patient"]), "by"), data.draw(st.booleans(), "own")
        k = data.draw(st.integers(1, len(names)), "k")
        options: dict[str, Any] = {
            "where": None if label is None else f"t = '{label}'",
            "ids": None if some is None else [ids[name] for name in some],
            "farthest": farthest,
            "unique": unique,
            "by": by,
            "include_own": include_own,
        }
        groups = self._groups()
        may = [
            name
            for name in names
            if (label is None or self.labels.get(name) == label)
            and (some is None or name in some)
            and (include_own or groups[name] != groups[query])
        ]
        mine = rows[names.index(query)]
        scores = {name: float(np.float32(rows[names.index(name)] @ mine)) for name in may}
        result = search(self.store, ids[query], k, **options)
        found = [(hit.locator, hit.score) for hit in result.hits]
        assert {name for name, _ in found} <= set(may)
        # Scores are right to a float's last bits; equal ones (to the bit) are in the order of the ids.
        for name, score in found:
            assert abs(score - scores[name]) < 1e-6
        sign = 1 if farthest else -1
        assert [hit.item_id for hit in result.hits] == [
            hit.item_id for hit in sorted(result.hits, key=lambda hit: (sign * hit.score, hit.item_id))
        ]
        ranked = sorted(may, key=lambda name: (sign * round(scores[name], 5), ids[name]))
        for key in [self.patients] * (by is not None) + [self.contents] * unique:
            kept: dict[str, str] = {}
            for name in sorted(ranked, key=lambda name: sign * scores[name]):
                kept.setdefault(key[name], name)
            ranked = [name for name in ranked if name in kept.values()]
        assert len(found) == min(k, len(ranked))
        np.testing.assert_allclose(
            [score for _, score in found],
            sorted((scores[name] for name in ranked), reverse=not farthest)[: len(found)],
            atol=1e-6,
        )
        many = search_many(self.store, [ids[query], ids[names[0]]], k, **options)
        assert many[0].hits == result.hits

    def _groups(self) -> dict[str, str]:
        """Patients, those that share a picture as one."""
        groups = {name: self.patients[name] for name in self.contents}
        for _ in groups:
            for content in set(self.contents.values()):
                members = [name for name in groups if self.contents[name] == content]
                together = {groups[name] for name in members}
                groups = {name: min(together) if group in together else group for name, group in groups.items()}
        return groups

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)


def test_search_finds_what_numpy_finds() -> None:
    quick = settings(
        max_examples=15,
        stateful_step_count=14,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Searches, settings=quick)
