"""Silence for the libraries that decode, in the thread that decodes and nowhere else.

A library's remark about one file belongs in that file's failure row or nowhere: among ten thousand
files it is noise, and where warnings are errors it would end the run. `warnings.catch_warnings`
replaces the filters of the whole process and is not safe between threads, so the filter is
installed once and decides by the thread that warns.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGERS = ("pydicom", "pydicom.pixels.decoders.base", "pydicom.pixels.utils", "tifffile", "PIL.TiffImagePlugin")
_thread = threading.local()


class _InThisThread(type):
    """Makes every warning category a subclass of `DuringDecoding` while this thread decodes."""

    def __subclasscheck__(cls, subclass: type) -> bool:
        return getattr(_thread, "depth", 0) > 0


class DuringDecoding(Warning, metaclass=_InThisThread):
    """The category that the filter names; never raised itself."""


def _not_decoding(_record: logging.LogRecord) -> bool:
    return getattr(_thread, "depth", 0) == 0


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore warnings and log records of the decoding libraries in this thread.

    Examples
    --------
    >>> import warnings
    >>> with quiet():
    ...     warnings.warn("a remark about one file", stacklevel=1)
    """
    filters = warnings.filters
    if not filters or filters[0][2] is not DuringDecoding:
        # Again whenever another filter came before it; an equal one is moved, not repeated.
        warnings.simplefilter("ignore", DuringDecoding)
    _thread.depth = getattr(_thread, "depth", 0) + 1
    try:
        yield
    finally:
        _thread.depth -= 1


for _name in _LOGGERS:
    logging.getLogger(_name).addFilter(_not_decoding)
