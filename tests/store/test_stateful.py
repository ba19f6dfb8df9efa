"""A store against a dict: append, change, relabel, fail, reopen, look back."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

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

from vecstore.store import Label, Store

if TYPE_CHECKING:
    from tests.store.conftest import Kit

NAMES = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=4, unique=True)


class Archive(RuleBasedStateMachine):
    """The model: name to (content, metadata); labels by name; and a copy of both for each commit."""

    kit: ClassVar[Kit]

    @initialize()
    def create(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = self.kit.create(self.folder / "a.vecs")
        self.pictures: dict[str, bytes] = {}
        self.metadata: dict[str, dict[str, Any]] = {}
        self.labels: dict[str, str] = {}
        self.past: dict[int, Any] = {}
        self.remember()

    def remember(self) -> None:
        rows = {name: (content, self.metadata.get(name, {})) for name, content in self.pictures.items()}
        labels = {name: label for name, label in self.labels.items() if name in self.pictures}
        self.past[self.store.refresh().commit] = (rows, labels)

    @rule(names=NAMES, version=st.integers(0, 2), age=st.one_of(st.none(), st.integers(0, 3)))
    def append(self, names: list[str], version: int, age: int | None) -> None:
        self.kit.add(self.store, names, version=version, metadata=lambda name: {"age": age})
        for name in names:
            self.pictures[name] = self.kit.hash(name, version)
            if age is not None:
                self.metadata[name] = {**self.metadata.get(name, {}), "age": age}
        self.remember()

    @rule(names=NAMES)
    def share_one_content(self, names: list[str]) -> None:
        self.kit.add(self.store, names, contents=dict.fromkeys(names, "shared"))
        for name in names:
            self.pictures[name] = self.kit.hash("shared")
        self.remember()

    @rule(names=NAMES)
    def no_longer_decodes(self, names: list[str]) -> None:
        self.kit.add(self.store, [], failing=names)
        for name in names:
            self.pictures.pop(name, None)
        self.remember()

    @precondition(lambda self: self.pictures)
    @rule(labels=st.lists(st.sampled_from(["yes", "no"]), min_size=7, max_size=7), ward=st.sampled_from("AB"))
    def relabel(self, labels: list[str], ward: str) -> None:
        items = self.store.refresh().items()
        ids = dict(zip(items.locators, items.ids.tolist(), strict=True))
        self.labels = dict(zip(sorted(ids), labels, strict=False))
        rows = [Label(ids[name], label, 1.0, None) for name, label in self.labels.items()]
        columns = {"ward": dict.fromkeys(ids.values(), ward)}
        self.store.add_task("t", "binary", ["no", "yes"], rows, {}, columns=columns)
        for name in ids:
            self.metadata[name] = {**self.metadata.get(name, {}), "ward": ward}
        self.remember()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = Store(self.folder / "a.vecs")

    @invariant()
    def every_commit_shows_what_it_showed(self) -> None:
        for commit, (rows, labels) in list(self.past.items())[-3:]:
            with Store(self.folder / "a.vecs", at=commit) as then:
                items = then.items()
                ids = items.ids.tolist()
                hashes, metadata = then.hashes_of(ids), then.metadata(ids)
                named = dict(zip(ids, items.locators, strict=True))
                assert {named[i]: (hashes[i], metadata.get(i, {})) for i in ids} == rows
                assert {named[i]: tasks["t"] for i, tasks in then.labels_of(ids).items()} == labels
                vectors = then.vectors(then.space(), items.contents)
                expected = [self.kit.vector(hashes[i]).astype("<f2").astype("<f4").tobytes() for i in ids]
                assert [row.tobytes() for row in vectors] == expected

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.kit.check(self.folder / "a.vecs")
            shutil.rmtree(self.folder)


def test_a_store_does_what_a_dict_does(kit: Kit) -> None:
    Archive.kit = kit
    quick = settings(
        max_examples=12, stateful_step_count=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    run_state_machine_as_test(Archive, settings=quick)
