"""Everything vecstore raises on purpose.

    VecstoreError                 exit 1
    ├── UsageError                exit 2   the call is wrong: a name, a column, a flag
    │   ├── NotFound                       a task, space, column, item or model that is not there
    │   ├── Ambiguous                      several fit, and guessing would be silent
    │   ├── LabelConflict                  one item, two labels
    │   └── PredicateRefused               a `where` that is not an expression over the columns
    ├── ArchiveError              exit 1   the archive: absent, empty, or not the one known by this name
    ├── PictureError              exit 1   one picture: becomes a failure row, never ends a run
    │   └── NotAPicture                    content that is no picture, under a name that claims none
    ├── EncoderError              exit 1   an encoder can't be had
    │   ├── WeightsMissing                 weights that nobody may download now
    │   ├── PackageMissing                 an optional library is not installed
    │   └── SpaceMismatch                  vectors of another fingerprint
    ├── DataError                 exit 1   labels or vectors that nothing can be learned from
    ├── ProblemsFound             exit 5   a strict audit found a problem in the data
    └── StoreError                exit 1
        ├── NotAStore                      no catalog there
        ├── StoreTooNew                    a later format than this version reads
        ├── StoreBusy                      another process is writing
        ├── NotWritable                    read-only medium, permission, or a store opened at a commit
        ├── DiskFull                       no space left; the store is as it was
        └── StoreDamaged          exit 4   bytes are not what the catalog says

A message names the fact, what was expected, and the next step, in this order.
"""

from __future__ import annotations


class VecstoreError(Exception):
    """Base of all errors raised on purpose.

    Parameters
    ----------
    fact : str
        What was found.
    expected : str
        What would have been right.
    do : str
        The next step, as a command or a flag where there is one.
    **facts
        The same facts for a program; they become attributes.

    Examples
    --------
    >>> str(VecstoreError("no task 'cough'", expected="one of: pneumonia", do="see: vecstore info"))
    "no task 'cough'; expected one of: pneumonia; see: vecstore info"
    """

    exit_code = 1

    def __init__(self, fact: str, expected: str = "", do: str = "", **facts: object) -> None:
        parts = [fact, f"expected {expected}" if expected else "", do]
        super().__init__("; ".join(part for part in parts if part))
        self.fact, self.expected, self.do = fact, expected, do
        self.facts = facts
        for name, value in facts.items():
            setattr(self, name, value)


class UsageError(VecstoreError):
    """The call is wrong; nothing was changed."""

    exit_code = 2


class NotFound(UsageError):
    """A task, space, column, item or model that the store does not have."""


class Ambiguous(UsageError):
    """Several things fit; choosing one silently would be a guess."""


class LabelConflict(UsageError):
    """Rows of a label table give one item different labels."""


class PredicateRefused(UsageError):
    """A `where` text that is not an expression over the metadata columns."""


class ArchiveError(VecstoreError):
    """The archive is absent, empty, or not the one known by this name."""


class PictureError(VecstoreError):
    """One picture can't be decoded or embedded; it becomes a failure row."""


class NotAPicture(PictureError):
    """Content that is no picture, under a name that does not claim to be one."""


class EncoderError(VecstoreError):
    """An encoder can't be had."""


class WeightsMissing(EncoderError):
    """Weights are not on this machine and must not or can't be downloaded."""


class PackageMissing(EncoderError):
    """An optional library is not installed."""


class SpaceMismatch(EncoderError):
    """Vectors, model and encoder do not have the same fingerprint."""


class DataError(VecstoreError, ValueError):
    """Labels or vectors that nothing can be learned from; also a ValueError, as scikit-learn's users expect."""


class ProblemsFound(VecstoreError):
    """A strict audit found something that makes a score wrong; `findings` has what."""

    exit_code = 5


class StoreError(VecstoreError):
    """The store can't be used as asked; it is as it was."""


class NotAStore(StoreError):
    """There is no catalog at this path."""


class StoreTooNew(StoreError):
    """The store was written in a later format."""


class StoreBusy(StoreError):
    """Another process holds the catalog longer than we wait."""


class NotWritable(StoreError):
    """A read-only medium, a missing permission, or a store opened at an earlier commit."""


class DiskFull(StoreError):
    """No space is left on the device."""


class StoreDamaged(StoreError):
    """Bytes on disk are not what the catalog says."""

    exit_code = 4
