"""Search against NumPy: whatever is added, changed, gone, relabelled, indexed, filtered and excluded."""

from __future__ import annotations

import hashlib
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from vecstore.index import coded
from vecstore.index.base import clamped, unit_rows
from vecstore.indexes import index_build, index_update
from vecstore.records import FloatArray, Passport
from vecstore.search import search, search_many
from vecstore.store import Label, Store
from vecstore.store.append import Batch, Picture, Refusal, append

DIM = 6
QUICK = settings(
    stateful_step_count=14, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
)
NAMES = st.lists(st.sampled_from("abcdefghijkl"), min_size=1, max_size=6, unique=True)


def _vector(content: str) -> FloatArray:
    """Two in three contents have exactly the vector of many others, the rest nearly: ties abound."""
    seed = int(hashlib.md5(content.encode()).hexdigest(), 16)
    rng = np.random.default_rng(seed % 2)
    row = rng.standard_normal(DIM)
    if not seed % 3:
        row += 0.001 * np.random.default_rng(seed).standard_normal(DIM)
    return (row / np.linalg.norm(row)).astype(np.float16).astype(np.float32)


class Searches(RuleBasedStateMachine):
    """The model: item name to content and patient; labels by name."""

    exact = True
    questions = 3

    @initialize()
    def create(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store.create(self.folder / "a.vecs")
        passport = Passport("made", "none", "made", "none", "", "", (1, 1), "none", (0.0,), (1.0,), "none", DIM)
        self.store.add_space("made", passport, {})
        self.contents: dict[str, str] = {}
        self.patients: dict[str, str] = {}
        self.labels: dict[str, str] = {}
        self.steps = 0

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

    @rule(names=NAMES, version=st.integers(0, 2), patient=st.sampled_from("PPPQRS"))
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

    @rule(kind=st.sampled_from(["exact", "coded", "cells"]), names=NAMES, version=st.integers(0, 2))
    def update(self, kind: str, names: list[str], version: int) -> None:
        """In one step: a search between them could make the index anew, and leave nothing to add."""
        self.build(kind, "cosine")
        self.add_or_change(names, version, "U")
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

    @invariant()
    def answers_are_those_of_numpy(self) -> None:
        """After every step, so that every kind of search meets every state: a rule of its own was seldom drawn."""
        if not getattr(self, "contents", None):
            return
        self.steps += 1
        rng = random.Random(self.steps * 101 + len(self.contents))
        for _ in range(self.questions):
            self._ask(rng)

    def _ask(self, rng: random.Random) -> None:
        ids = self._ids()
        assert set(ids) == set(self.contents)
        names = sorted(ids, key=lambda name: ids[name])
        # Scores by their definition, to the bit, so that what is found of equal ones can be told in advance.
        rows = unit_rows(np.array([_vector(self.contents[name]) for name in names], np.float16))
        query = rng.choice(names)
        label = rng.choice([None, "yes", "no"]) if self.labels else None
        some = rng.sample(names, rng.randint(0, len(names))) if rng.random() < 0.3 else None
        farthest, unique = rng.random() < 0.3, rng.random() < 0.3
        by, include_own = rng.choice([None, None, "patient"]), rng.random() < 0.5
        k = rng.randint(1, rng.choice([2, min(len(names), 12)])) if len(names) > 1 else 1
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
        mine = rows[[names.index(query)]]
        mine = mine / np.linalg.norm(mine, axis=1, keepdims=True)
        products = clamped((rows.astype(np.float64) * mine).sum(axis=1))
        scores = {name: float(products[names.index(name)]) for name in may}
        result = search(self.store, ids[query], k, **options)
        found = [(hit.locator, hit.score) for hit in result.hits]
        sign = 1 if farthest else -1
        ranked = sorted(may, key=lambda name: (sign * scores[name], ids[name]))
        keys = [self.patients] * (by is not None) + [self.contents] * unique
        taken: set[tuple[int, str]] = set()
        kept = []
        for name in ranked:
            own = {(place, key[name]) for place, key in enumerate(keys)}
            if not own & taken:
                kept.append(name)
                taken |= own
        ranked = kept
        if self.exact or farthest:
            assert found == [(name, scores[name]) for name in ranked[:k]]
        else:
            # A hit may be missing, but not its place; scores and their order are those of the exact search.
            assert len(found) == min(k, len(ranked))
            assert all(scores.get(name) == score for name, score in found)
            assert found == sorted(found, key=lambda hit: (sign * hit[1], ids[hit[0]]))
            for key in keys:
                assert len({key[name] for name, _ in found}) == len(found)
        assert result.searched == len(may)
        assert [one.rank for one in result.hits] == list(range(1, len(found) + 1))
        many = search_many(self.store, [ids[query], ids[names[0]]], k, **options)
        assert many[0].hits == result.hits

    def _groups(self) -> dict[str, str]:
        """Patients, those that share a picture as one."""
        groups = {name: self.patients[name] for name in self.contents}
        before: dict[str, str] = {}
        while groups != before:
            before = dict(groups)
            of_content: dict[str, set[str]] = {}
            for name, content in self.contents.items():
                of_content.setdefault(content, set()).add(groups[name])
            first = {group: group for group in groups.values()}
            for together in of_content.values():
                for group in together:
                    first[group] = min(first[group], *together)
            groups = {name: first[group] for name, group in groups.items()}
        return groups

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)


class Guesses(Searches):
    """The same over more items, and indexes that look at no more candidates than they must."""

    exact = False
    questions = 2

    @initialize()
    def create(self) -> None:
        super().create()
        for number in range(0, 60, 2):
            names = {f"{n:02}": f"{n:02}/0" for n in (number, number + 1)}
            self._append(names, [], f"X{number}")
            self.contents |= names
            self.patients |= dict.fromkeys(names, f"X{number}")
        index_build(self.store, kind="coded")

    @rule(kind=st.sampled_from(["coded", "cells"]), metric=st.just("cosine"))
    def build(self, kind: str | None, metric: str) -> None:
        index_build(self.store, kind=kind, metric=metric)


def test_search_finds_what_numpy_finds() -> None:
    run_state_machine_as_test(Searches, settings=settings(QUICK, max_examples=14))


def test_an_approximate_search_has_right_scores_and_is_never_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of so few vectors codes would be compared with all: here they name one candidate for each hit."""
    monkeypatch.setattr(coded, "PER_HIT", (1,))
    monkeypatch.setattr(coded, "K", 1)
    monkeypatch.setattr(coded, "FEW_ALLOWED", 0)
    monkeypatch.setattr(coded, "ROWS_PER_CANDIDATE", 1)
    calibrate = coded.CodedIndex._calibrate

    def far_reaching(self: coded.CodedIndex, *more: Any) -> None:
        calibrate(self, *more)
        self.settings["reach"] = 1e9

    monkeypatch.setattr(coded.CodedIndex, "_calibrate", far_reaching)
    asked: list[int] = []
    candidates = coded.CodedIndex._candidates

    def counted(self: coded.CodedIndex, queries: FloatArray, *more: Any) -> Any:
        asked.append(len(queries))
        return candidates(self, queries, *more)

    monkeypatch.setattr(coded.CodedIndex, "_candidates", counted)
    run_state_machine_as_test(Guesses, settings=settings(QUICK, max_examples=4))
    assert len(asked) > 20
