"""`learning_curve`: how many labels a task needs, told from those it has."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vecstore.dataset import MIN_GROUPS, dataset
from vecstore.embedding import pictures_opened
from vecstore.errors import UsageError
from vecstore.probes import curves
from vecstore.probes.curves import PER_CLASS, RULES, Point
from vecstore.store import Store, using

WITHIN = 0.01
"""Of the AUC with all labels: the smallest size whose mean AUC is so near is said to be enough."""


@dataclass(frozen=True, slots=True)
class LearningCurve:
    """AUC by number of labelled groups per class.

    Attributes
    ----------
    task, kind : str
    classes : list of str
    space, encoder, fingerprint : str
    model, rule : str
        Which classifier, and with which fixed parameters.
    part : {"test", "held-out"}
        What draws are judged on: the official test part, or a third of the groups, another one for each repeat.
    points : list of Point
        By size; the last has all labels.
    enough : int or None
        The smallest number of groups per class whose mean AUC is within 0.01 of that with all labels; None where
        only all labels are.
    repeats : int
    group_column : str or None
    notes : list of str
    commit, seed : int
    pixels_read : int
        Pictures opened on the way: 0.
    """

    task: str
    kind: str
    classes: list[str]
    space: str
    encoder: str
    fingerprint: str
    model: str
    rule: str
    part: str
    points: list[Point]
    enough: int | None
    repeats: int
    group_column: str | None
    notes: list[str]
    commit: int
    seed: int
    pixels_read: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def learning_curve(
    store: Store | str | os.PathLike[str],
    task: str,
    *,
    per_class: Sequence[int] = PER_CLASS,
    repeats: int = 10,
    model: str = "probe",
    space: str | None = None,
    group: str | None = None,
    where: str | None = None,
    min_groups: int = MIN_GROUPS,
    classes: Sequence[str] | None = None,
    seed: int = 0,
) -> LearningCurve:
    """Learn again and again from few labels of a task, drawn by group, and see how good that is.

    Parameters
    ----------
    store : Store or path
    task : str
    per_class : sequence of int
        Groups (patients …) drawn per class; all their pictures of the class are labelled. Sizes beyond the rarest
        class are left out and noted.
    repeats : int
        Draws per size.
    model : {"probe", "svm", "knn"}
        With fixed parameters: so few labels leave none to choose them on.
    space : str, optional
        Needed where the store has several.
    group : str, optional
        Column that is never split; found by its name otherwise. "none": every item for itself.
    where : str, optional
        Only items that fit a predicate.
    min_groups : int
        Classes in fewer groups are left out and noted.
    classes : sequence of str, optional
        Only these.
    seed : int
        Of the draws.

    Returns
    -------
    LearningCurve
        Nothing is written.

    Raises
    ------
    NotFound, Ambiguous, DataError, PredicateRefused
    UsageError
        Sizes or repeats below 1.
    """
    if repeats < 1 or not per_class or min(per_class) < 1:
        raise UsageError(
            f"per_class {list(per_class)}, repeats {repeats}",
            expected="whole numbers from 1",
            do="--per-class 1,2,4,8 --repeats 10",
        )
    with using(store) as at_hand:
        before = pictures_opened()
        data = dataset(at_hand, task, space=space, group=group, where=where, min_groups=min_groups, classes=classes)
        official = bool(data.test.any())
        points = curves.learning_curve(
            data.vectors(),
            data.y,
            data.groups,
            test=data.test if official else None,
            per_class=per_class,
            repeats=repeats,
            model=model,
            seed=seed,
        )
        notes = list(data.notes)
        # Of a random third the rest may have room for a size at one time and not at another.
        sizes = {point.per_class for point in points}
        if beyond := [size for size in sorted(set(per_class)) if size not in sizes]:
            told = ", ".join(map(str, beyond))
            if len(beyond) == len(set(per_class)):
                raise UsageError(
                    f"per_class {told}: the rarest class has fewer groups to draw from",
                    expected="at least one size that fits",
                    do="--per-class 1,2,4,8",
                )
            notes.append(f"left out, more groups per class than every draw has of the rarest class: {told}")
        return LearningCurve(
            task=data.task.name,
            kind=data.task.kind,
            classes=data.classes,
            space=data.space.name,
            encoder=data.space.passport.encoder,
            fingerprint=data.space.fingerprint.hex(),
            model=model,
            rule=RULES[model],
            part="test" if official else "held-out",
            points=points,
            enough=_enough(points),
            repeats=repeats,
            group_column=data.group_column,
            notes=notes,
            commit=at_hand.commit,
            seed=seed,
            pixels_read=pictures_opened() - before,
        )


def _enough(points: Sequence[Point]) -> int | None:
    """The smallest size from which on every mean AUC is within `WITHIN` of that with all labels."""
    aim = points[-1].auc - WITHIN
    if not np.isfinite(aim):
        return None
    short = [place for place, point in enumerate(points) if not point.auc >= aim]
    return points[short[-1] + 1 if short else 0].per_class
