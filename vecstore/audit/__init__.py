"""`audit`: the ways in which a score on this store may be wrong, looked for before anyone else finds them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vecstore.audit import leaks, shortcuts, twins
from vecstore.audit.findings import SEVERITIES, Example, Finding, Labelled, Member, Severity, Shown, counted, reason
from vecstore.dataset import Dataset, Groups, dataset, group_codes, group_column
from vecstore.dataset.groups import numbered
from vecstore.dataset.levels import PARTS
from vecstore.embedding import pictures_opened
from vecstore.errors import DataError, NotFound, ProblemsFound, UsageError
from vecstore.records import BoolArray, IntArray, Progress, Silent
from vecstore.store import Items, Space, Store, Task, using

__all__ = ["Audit", "Example", "Finding", "Member", "Severity", "audit"]

MAX_QUERIES = 100_000
"""Of more pictures, the near-duplicates of this many are looked for: those of test parts first."""


@dataclass(frozen=True, slots=True)
class Audit:
    """What `audit` found.

    Attributes
    ----------
    store : str
        Its folder's name.
    tasks : list of str
    group_column : str or None
    space : str or None
        Whose vectors propose near-duplicates; None where there are none.
    findings : list of Finding
        Every check that was made, the worst first.
    items, commit : int
    pixels_read : int
        Pictures of the archive opened on the way: 0. Near-duplicates are confirmed on the store's thumbnails.
    """

    store: str
    tasks: list[str]
    group_column: str | None
    space: str | None
    findings: list[Finding]
    items: int
    commit: int
    pixels_read: int = 0
    counts: dict[str, int] = field(init=False)
    """Findings per severity."""

    def __post_init__(self) -> None:
        found = Counter(finding.severity for finding in self.findings)
        object.__setattr__(self, "counts", {severity: found[severity] for severity in SEVERITIES})

    @property
    def problems(self) -> list[Finding]:
        """Findings that make a score wrong, or a label."""
        return [finding for finding in self.findings if finding.severity == "problem"]

    def raise_for_problems(self) -> None:
        """Fail if there is a problem.

        Raises
        ------
        ProblemsFound
        """
        if self.problems:
            told = "; ".join(f"{finding.title}: {finding.told}" for finding in self.problems)
            raise ProblemsFound(
                f"the audit of {self.store} found {counted(len(self.problems), 'problem')} ({told})",
                expected="none, under --strict",
                do="see what to do: vecstore audit STORE",
                findings=self.problems,
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        told = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "findings"}
        return told | {"findings": [finding.to_dict() for finding in self.findings]}


def audit(
    store: Store | str | os.PathLike[str],
    task: str | None = None,
    *,
    group: str | None = None,
    space: str | None = None,
    strict: bool = False,
    near_duplicates: bool = True,
    cosine: float = twins.COSINE,
    max_queries: int = MAX_QUERIES,
    examples: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> Audit:
    """Look for what makes a score wrong: leaks between parts, copies, contradicting labels, shortcuts.

    Checked are patients, studies, series and lesions on both sides of the official split; identical pictures across
    parts, groups and labels; near-duplicates by the cosine of their vectors, confirmed by a hash of their thumbnails;
    labels that can be told from metadata alone, from image size, or from source, folder and site, by cross-validation
    by group. No picture of the archive is opened, and nothing is written.

    Parameters
    ----------
    store : Store or path
    task : str, optional
        Only this one; every task of the store by default.
    group : str, optional
        Column that must not be divided; found by its name otherwise. "none": every item for itself.
    space : str, optional
        Whose vectors, where the store has several.
    strict : bool
        Raise if there is a problem.
    near_duplicates : bool
        Whether they are looked for: it is what takes time.
    cosine : float
        From which on vectors propose a near-duplicate, up to 1.
    max_queries : int
        Of more pictures, near-duplicates of so many are looked for: those of a test part first, others by chance.
    examples : int
        Shown of each finding.
    seed : int
    progress : Progress, optional

    Returns
    -------
    Audit

    Raises
    ------
    NotFound, Ambiguous, UsageError
    ProblemsFound
        With `strict`.

    Examples
    --------
    >>> import vecstore as vs
    >>> found = vs.audit("chest.vecs", "pneumonia")                    # doctest: +SKIP
    >>> [(one.severity, one.title, one.told) for one in found.problems]  # doctest: +SKIP
    """
    if not -1 <= cosine <= 1 or max_queries < 1 or examples < 0:
        raise UsageError(
            f"cosine = {cosine}, max_queries = {max_queries}, examples = {examples}",
            expected="a similarity up to 1, and numbers from 1 and 0",
        )
    with using(store) as opened:
        before = pictures_opened()
        opened.refresh()
        tasks = opened.tasks() if task is None else [opened.task(task)]
        chosen = _space(opened, space)
        look = _Look(opened, chosen, group, examples, seed, progress or Silent())
        labelled = [Labelled.of(opened, one, look.items) for one in tasks]
        look.progress.say(f"groups: {look.groups.column or 'none known'}")
        found = list(look.of_store())
        near = look.near(labelled, cosine, max_queries) if near_duplicates else None
        if near is not None:
            found.append(look.near_across_groups(near))
        for one in labelled:
            found += look.of_task(one, near)
        found += [] if near_duplicates else [_NOT_ASKED]
        ranked = sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))
        result = Audit(
            opened.path.name,
            [one.name for one in tasks],
            look.groups.column,
            None if chosen is None else chosen.name,
            ranked,
            len(look.items),
            opened.commit,
            pictures_opened() - before,
        )
    if strict:
        result.raise_for_problems()
    return result


_NOT_ASKED = Finding(
    "near_across_groups", "not checked", "near-duplicates", "they were not asked for", do="leave near_duplicates=True"
)


def _space(store: Store, name: str | None) -> Space | None:
    """The space asked for or the only one; None where there are no vectors yet."""
    return None if name is None and not store.spaces() else store.space(name)


class _Look:
    """What all checks of one store share."""

    def __init__(
        self, store: Store, space: Space | None, group: str | None, most: int, seed: int, progress: Progress
    ) -> None:
        self.store, self.space, self.group, self.most, self.seed = store, space, group, most, seed
        self.progress = progress
        self.items: Items = store.items()
        self.groups: Groups = group_codes(store, self.items, group)
        column = self.groups.column
        self.values = {} if column is None else store.column(column)
        told = [self.values.get(item) for item in self.items.ids.tolist()]
        known = np.array([value is not None for value in told], np.bool_)
        self.numbers: IntArray = np.where(known, numbered(told), -1)

    def shown(self, labelled: Labelled | None) -> Shown:
        """Who makes examples."""
        return Shown(self.items, self.values, labelled, self.most)

    def of_store(self) -> Iterator[Finding]:
        """Checks that need no labels."""
        known = [column for _, column in leaks.unit_columns(self.store, None)]
        by_name = group_column(self.store)
        yield leaks.group_column(self.groups, [by_name] if by_name else known, self.numbers)
        yield leaks.identical_across_groups(self.items, self.groups, self.numbers, self.shown(None))

    def near(self, labelled: list[Labelled], cosine: float, most: int) -> twins.Twins | None:
        """Near-duplicates; None where there is nothing to compare."""
        if self.space is None or len(self.store.embedded(self.space)) < 2:
            return None
        first: BoolArray = np.zeros(len(self.items), np.bool_)
        for one in labelled:
            first[one.places[one.parts == PARTS.index("test")]] = True
        return twins.find_twins(
            self.store, self.space, first, cosine=cosine, most=most, seed=self.seed, progress=self.progress
        )

    def near_across_groups(self, near: twins.Twins) -> Finding:
        """Near-duplicates that folds can divide."""
        assert self.space is not None
        codes = self.groups.codes
        return twins.near_across_groups(near, codes, self.groups.column, self.shown(None), self.space.name)

    def of_task(self, labelled: Labelled, near: twins.Twins | None) -> Iterator[Finding]:
        """Checks of labels and parts."""
        shown = self.shown(labelled)
        asked = None if self.group in (None, "none") else self.store.column_name(str(self.group))
        yield from leaks.units_across_parts(self.store, labelled, shown, asked)
        yield leaks.identical_across_parts(labelled, shown)
        yield leaks.identical_with_other_labels(labelled, shown)
        yield leaks.rows_in_conflict(labelled)
        if near is not None and self.space is not None:
            yield twins.near_across_parts(near, labelled, self.items.contents, shown, self.space.name)
            yield twins.near_with_other_labels(near, labelled, self.items.contents, shown, self.space.name)
        data, why = self._data(labelled.task)
        yield from shortcuts.shortcuts(self.store, data, why, labelled.task.name, self._ours(labelled.task))

    def _data(self, task: Task) -> tuple[Dataset | None, str]:
        """What a probe would be trained on; or why it can't be."""
        if self.space is None:
            return None, "no item has a vector yet"
        try:
            return dataset(self.store, task, space=self.space, group=self.group), ""
        except (DataError, NotFound) as error:
            return None, reason(error)

    def _ours(self, task: Task) -> frozenset[str]:
        """Columns that are no metadata: groups, the label itself, its part, paths."""
        told = task.provenance
        names = [column for _, column in leaks.unit_columns(self.store, None)]
        names += [self.groups.column or "", *(told.get("value") or ()), str(told.get("split_column") or "")]
        names += [str(told.get("key") or "").partition("=")[0], task.name, *task.classes]
        names += ["path", "file", "filename", "file_name", "image", "image_id", "split"]
        return frozenset(name.casefold() for name in names)
