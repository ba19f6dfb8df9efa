"""Which items the rows of a table mean: one rule per import, the first that fits."""

from __future__ import annotations

import math
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from vecstore.errors import Ambiguous
from vecstore.files import PICTURE_SUFFIXES
from vecstore.store import Items, Store
from vecstore.store.columns import PSEUDONYMS

_EXAMPLES = 5


def canonical(value: Any) -> str:
    """A label value as text: an integer-valued float is an integer, missing is empty.

    Examples
    --------
    >>> canonical(1.0), canonical(True), canonical(" Nodule "), canonical(float("nan")), canonical("1.0")
    ('1', 'true', 'Nodule', '', '1')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return "" if math.isnan(value) else str(int(value)) if value.is_integer() else repr(value)
    text = str(value).strip()
    if text.endswith(".0") and text[:-2].lstrip("-").isdigit():
        return text[:-2]
    return "" if text.lower() in ("nan", "<na>", "nat") else text


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to find items.

    Attributes
    ----------
    name : str
    index : callable
        Gives items by what they are looked up as: a mapping of str to list of int, made when it is first asked for.
    keys : callable
        As what a cell is looked up; the first that finds something counts.
    fits : callable or None
        Whether a cell's own folders let it mean an item that its key finds.
    several : bool
        Whether one row may mean several files.
    """

    name: str
    index: Callable[[], Mapping[str, list[int]]]
    keys: Callable[[str], Iterable[str]]
    fits: Callable[[str, int], bool] | None = None
    several: bool = False
    _known: dict[str, list[int]] = field(default_factory=dict)

    def find(self, text: str) -> list[int]:
        """The items a cell means."""
        known = self._known.get(text)
        if known is None:
            known = self._known[text] = self._found(text)
        return known

    def _found(self, text: str) -> list[int]:
        index = self.index()
        for key in self.keys(text):
            found = index.get(key, [])
            if self.fits is not None:
                found = [item for item in found if self.fits(text, item)]
            if found:
                return found
        return []


_NONE = Rule("none fits", dict, lambda _: ())


def joining_rule(store: Store, items: Items, keys: Sequence[str], column: str, target: str) -> tuple[Rule, list[str]]:
    """The first joining rule that fits any row (one that finds nothing where none does), and what it misses.

    Parameters
    ----------
    store : Store
    items : Items
    keys : sequence of str
        The cells of the key column.
    column, target : str
        The key column's name, and the item column it was said to be ("" where none was).

    Raises
    ------
    Ambiguous
        Rows of the table name something that stands for several items, or several rows in different folders mean
        one item.
    NotFound
        The store has no column `target`.
    """
    rules = [] if target else _by_locator(store, items, column)
    named = [c for c in store.columns() if c.casefold() == (target or column).casefold()]
    if target and not named:
        store.column_name(target)
    if named:
        values = store.column(named[0], items.ids)
        pairs = [(canonical(value), item) for item, value in values.items()]
        pseudonym = store.pseudonym if named[0].casefold() == PSEUDONYMS else None
        rules.append(
            Rule(
                f"column {named[0]}",
                _later(pairs),
                lambda text: (canonical(text), *([pseudonym(text)] if pseudonym and text else [])),
                several=True,
            )
        )
    cells = list(dict.fromkeys(keys))
    chosen = next((rule for rule in rules if any(map(rule.find, cells))), _NONE)
    if not chosen.several:
        _refuse_ambiguous(store, items, chosen, cells)
    left = [cell for cell in cells if cell and not chosen.find(cell)]
    notes = []
    if left and chosen is not _NONE:
        others = [(sum(bool(rule.find(cell)) for cell in left), rule.name) for rule in rules if rule is not chosen]
        most, name = max(others, default=(0, ""))
        if most:
            notes.append(
                f"{len(left)} of {len(cells)} keys fit no item by {chosen.name}, of which {most} would by {name}; one"
                " rule joins all rows: write the keys alike"
            )
    return chosen, notes


def _by_locator(store: Store, items: Items, column: str) -> list[Rule]:
    """The rules that compare a cell with locators or ids, the most exact first."""
    ids = items.ids.tolist()
    bare = [store.rule.file_of(locator) for locator in items.locators]
    places = cache(lambda: dict(zip(ids, zip(items.sources, bare, strict=True), strict=True)))
    whole = _later(zip(bare, ids, strict=True))
    # A leading folder is taken from the key or from the locator: from both, other pictures would be found.
    without = _later((name, item) for path, item in zip(bare, ids, strict=True) for name in _shortened(path))
    bases = _later((_base(path), item) for path, item in zip(bare, ids, strict=True))
    stems = _later((_stem(_base(path)), item) for path, item in zip(bare, ids, strict=True))

    def fits(text: str, item: int) -> bool:
        return _folders_agree(_path(text), *places()[item])

    rules = [
        Rule("exact locator", whole, lambda text: (text, _path(text))),
        Rule("locator without a leading folder", without, lambda text: (_path(text),)),
        Rule("locator without a leading folder", whole, lambda text: _shortened(_path(text))),
        Rule("base name", bases, lambda text: (_base(_path(text)),), fits),
        Rule("stem", stems, _stems, fits),
    ]
    if column.lower() in ("item", "item_id"):
        index = _later(zip(map(str, ids), ids, strict=True))
        rules.append(Rule("item id", index, lambda text: (canonical(text),), several=True))
    return rules


def _refuse_ambiguous(store: Store, items: Items, rule: Rule, cells: Iterable[str]) -> None:
    where = dict(zip(items.ids.tolist(), zip(items.sources, items.locators, strict=True), strict=True))
    meant: dict[int, str] = {}
    for cell in cells:
        found = rule.find(cell)
        files = sorted({(where[i][0], store.rule.file_of(where[i][1])) for i in found}) if len(found) > 1 else []
        if len(files) > 1:
            told = ", ".join(f"{source}: {locator}" for source, locator in files[:_EXAMPLES])
            raise Ambiguous(
                f"the key {cell!r} fits {len(files)} items by {rule.name}: {told}",
                expected="keys that name one picture each",
                do="name the archive: --source NAME"
                if len({source for source, _ in files}) > 1
                else "name a column with the path relative to the archive: --key COLUMN",
            )
        for item in found:
            other = meant.setdefault(item, cell)
            if other is not cell and _folder(_path(other)) != _folder(_path(cell)):
                raise Ambiguous(
                    f"the keys {other!r} and {cell!r} both fit {where[item][1]} by {rule.name}",
                    expected="one folder for each picture",
                    do="name a column with the path relative to the archive: --key COLUMN",
                )


def _folders_agree(path: str, source: str, locator: str) -> bool:
    """Whether the folders of a key, if it has any, are those a locator ends in, or lead to its whole path.

    A locator without a folder lies in its archive, whose name then must be the key's last folder.

    >>> [_folders_agree(key, "set.zip", "a/b/1.png") for key in ("1.png", "b/1.png", "/x/a/b/1.png", "c/1.png")]
    [True, True, True, False]
    >>> [_folders_agree(key, "set.zip", "1.png") for key in ("/x/set/1.png", "/x/test/1.png")]
    [True, False]
    """
    asked, known = (text.replace("!", "/").split("/")[:-1] for text in (path, locator))
    if not asked:
        return True
    if not known:
        return asked[-1].casefold() in (source.casefold(), _stem(source).casefold())
    shorter = min(len(asked), len(known))
    return asked[-shorter:] == known[-shorter:]


def _later(names: Iterable[tuple[str, int]]) -> Callable[[], Mapping[str, list[int]]]:
    """An index that is made once, when it is first asked for."""
    return cache(lambda: _index(names))


def _index(names: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    index: dict[str, list[int]] = defaultdict(list)
    for name, item in names:
        if name:
            index[name].append(item)
    return dict(index)


def key_text(cell: Any) -> str:
    """A key cell as text; `1.0` is a name here, where a file has it."""
    return cell.strip() if isinstance(cell, str) else canonical(cell)


def _path(text: str) -> str:
    """A path as locators are written: NFC, with `/`, without a leading `./`."""
    return unicodedata.normalize("NFC", text).replace("\\", "/").removeprefix("./")


def _shortened(path: str) -> list[str]:
    """A path without its first folder, or without the archive it is packed in."""
    slash, mark = path.find("/"), path.find("!")
    ends = {path.rfind("!"), -1 if 0 <= mark < slash else slash}
    return [path[at + 1 :] for at in sorted(ends) if at >= 0]


def _folder(path: str) -> str:
    return path[: len(path) - len(_base(path))]


def _base(path: str) -> str:
    return path.rpartition("/")[2].rpartition("!")[2]


def _stem(base: str) -> str:
    return base.rpartition(".")[0] or base


def _stems(text: str) -> tuple[str, str]:
    """What a cell may mean as a stem: itself, or what it is without the suffix of another picture format."""
    base = _base(_path(text))
    stem, dot, suffix = base.rpartition(".")
    return base, stem if dot + suffix.lower() in PICTURE_SUFFIXES else base
