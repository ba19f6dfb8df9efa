"""What is known of pictures beside their pixels, as a matrix: to see what can be told without looking at them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from vecstore.records import BoolArray, DoubleArray, IntArray, Value
from vecstore.store import Store


def size_features(store: Store, contents: IntArray) -> DoubleArray:
    """Logarithms of width, height and their ratio.

    Parameters
    ----------
    store : Store
    contents : ndarray of shape (n,), int64

    Returns
    -------
    ndarray of shape (n, 3), float64
        (n, 0) where all pictures are of one size, or sizes are not known.
    """
    sizes = {content: (w, h) for content, w, h in store.rows("SELECT id, width, height FROM contents")}
    pairs = [sizes.get(content, (None, None)) for content in contents.tolist()]
    known = [pair for pair in pairs if None not in pair]
    if len(set(known)) < 2:
        return np.empty((len(pairs), 0))
    wide, high = np.array([pair if None not in pair else known[0] for pair in pairs], np.float64).T
    return np.stack([np.log(wide), np.log(high), np.log(wide / high)], axis=1)


def value_features(values: Sequence[Value], rare: int = 1, most: int | None = None) -> DoubleArray:
    """A column of metadata: its numbers, or a feature per word, and whether there is a value.

    Parameters
    ----------
    values : sequence of n values
        None where there is none; numbers get their mean there.
    rare : int
        Words of fewer rows share one feature.
    most : int, optional
        So many words at most; the rarer ones too.

    Returns
    -------
    ndarray of shape (n, n_features), float64
        (n, 0) of a column without values.

    Examples
    --------
    >>> value_features(["F", "M", None])
    array([[1., 0., 0.],
           [0., 1., 0.],
           [0., 0., 1.]])
    """
    missing: BoolArray = np.array([value is None for value in values], np.bool_)
    if missing.all():
        return np.empty((len(values), 0))
    if all(value is None or isinstance(value, int | float) for value in values):
        numbers = np.array([np.nan if value is None else float(value) for value in values])
        columns = [np.where(missing, np.nanmean(numbers), numbers)]
    else:
        counts = Counter(str(value) for value in values if value is not None)
        words = sorted(word for word, n in counts.most_common(most) if n >= rare)
        number = {word: place for place, word in enumerate(words)}
        codes = np.array([-1 if value is None else number.get(str(value), len(words)) for value in values])
        columns = [(codes == place).astype(np.float64) for place in range(len(words) + (len(words) < len(counts)))]
    if missing.any():
        columns.append(missing.astype(np.float64))
    return np.stack(columns, axis=1)


def known_features(
    store: Store, items: IntArray, contents: IntArray, columns: Sequence[str]
) -> tuple[DoubleArray, list[str]]:
    """Sizes of pictures and some columns, side by side.

    Parameters
    ----------
    store : Store
    items, contents : ndarray of shape (n,), int64
    columns : sequence of str

    Returns
    -------
    ndarray of shape (n, n_features), float64
        Without features that are everywhere the same.
    list of str
        What they were made of.
    """
    size = size_features(store, contents)
    parts, used = ([size], ["image size"]) if size.shape[1] else ([], [])
    for name in columns:
        values = store.column(name, items)
        made = value_features([values.get(item) for item in items.tolist()])
        if made.shape[1]:
            parts.append(made)
            used.append(name)
    whole = np.hstack(parts) if parts else np.empty((len(items), 0))
    return whole[:, whole.std(axis=0) > 0], used
