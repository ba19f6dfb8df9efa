"""Random access to a stream that can only be read forwards (compressed data)."""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import IO

KEEP_BYTES = 64 << 20
"""What readers who ask slightly out of order find without a second pass."""
_CHUNK_BYTES = 1 << 20


class Window:
    """Reads at any offset; asking in about rising order costs one pass.

    The last bytes that went by are kept, for threads that overtake each other. An offset before
    them starts from the beginning. Thread-safe.

    Parameters
    ----------
    open_stream : callable
        Opens the stream at its beginning.
    keep_bytes : int
        How much is kept.
    """

    def __init__(self, open_stream: Callable[[], IO[bytes]], keep_bytes: int = KEEP_BYTES) -> None:
        self._open = open_stream
        self._keep = keep_bytes
        self._lock = threading.Lock()
        self._stream: IO[bytes] | None = None
        self._close: Callable[[], object] = lambda: None
        self._chunks: deque[bytes] = deque()
        self._start = self._end = 0

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`; fewer only where the stream ends."""
        with self._lock:
            if self._stream is None or offset < self._start:
                self._rewind()
            out = bytearray()
            position = self._start
            for chunk in self._chunks:
                out += _part(chunk, position, offset, size)
                position += len(chunk)
            while self._end < offset + size:
                chunk = self._next()
                if not chunk:
                    break
                out += _part(chunk, self._end - len(chunk), offset, size)
            return bytes(out)

    def _rewind(self) -> None:
        self._close()
        stream = self._open()
        self._stream = stream
        # Closes when this window is no longer used; holds the stream, so nothing is left open before.
        self._close = weakref.finalize(self, stream.close)
        self._chunks.clear()
        self._start = self._end = 0

    def _next(self) -> bytes:
        chunk = self._stream.read(_CHUNK_BYTES) if self._stream else b""
        self._chunks.append(chunk)
        self._end += len(chunk)
        while self._end - self._start > self._keep and len(self._chunks) > 1:
            self._start += len(self._chunks.popleft())
        return chunk


def _part(chunk: bytes, position: int, offset: int, size: int) -> bytes:
    """What of a chunk at `position` lies within `size` bytes from `offset`."""
    return chunk[max(0, offset - position) : max(0, offset + size - position)]
