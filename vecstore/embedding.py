"""From an archive to vectors: read, decode, prepare in threads; encode in batches in the caller's thread.

What `ingest`, `predict` and `search` share. Nothing else in vecstore opens a picture; `pictures_opened`
counts, so that a verb can say and a test can prove that it opened none.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from vecstore.decode import base as decode
from vecstore.encoders.base import Encoder
from vecstore.errors import ArchiveError, NotAPicture, PictureError
from vecstore.records import DecodeRule, FloatArray, Raw, UInt8Array, Value, batched
from vecstore.sources import open_source

_TOGETHER = 4096
"""New pictures that share one pipeline."""
_opened = 0
_opened_lock = threading.Lock()


def pictures_opened() -> int:
    """How many pictures this process has opened so far."""
    return _opened


@dataclass(frozen=True, slots=True)
class Job:
    """One picture file to be opened.

    Attributes
    ----------
    raw : Raw
    known_sha256 : bytes or None
        SHA-256 the file had before. If it still has it, and `complete`, it is not decoded.
    known_hashes : mapping of locator to content hash
        With unchanged bytes a content is not recomputed, whatever a newer decoder would make of it.
    complete : bool
        Whether every asked-for space has these contents.
    """

    raw: Raw
    known_sha256: bytes | None = None
    known_hashes: Mapping[str, bytes] = field(default_factory=dict)
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Shot:
    """One decoded frame of a file; `hash` is its content hash, 16 bytes."""

    locator: str
    hash: bytes
    width: int
    height: int
    decoder: str
    metadata: Mapping[str, Value]
    thumbnail: bytes | None


@dataclass(slots=True)
class Outcome:
    """What became of a job: shots, or a failure, or neither (passed over, or unchanged).

    `opened_ns` is the time just before its bytes were read.
    """

    job: Job
    opened_ns: int = 0
    sha256: bytes | None = None
    shots: list[Shot] = field(default_factory=list)
    stage: str = ""
    reason: str = ""
    passed_over: bool = False
    unchanged: bool = False
    prepared: list[tuple[int, bytes, UInt8Array]] = field(default_factory=list)


class Pipeline:
    """Decodes each picture once for several encoders.

    Parameters
    ----------
    encoders : sequence of Encoder
    rule : DecodeRule
    lacking : callable
        Content hash to the positions of those encoders that still need it. Called from worker threads.
    thumbnails : bool
        Whether shots carry one.
    workers : int, optional
        Threads that read and decode; as many as there are processors.
    """

    def __init__(
        self,
        encoders: Sequence[Encoder],
        rule: DecodeRule,
        lacking: Callable[[bytes], Sequence[int]] | None = None,
        thumbnails: bool = True,
        workers: int | None = None,
    ) -> None:
        self._encoders = encoders
        self._rule = rule
        self._lacking = lacking or (lambda _: range(len(encoders)))
        self._thumbnails = thumbnails
        self._workers = workers or _processors()
        # Changed only in the caller's thread and in the order of the jobs, so that a content is encoded
        # with the first picture that has it, whichever thread was faster.
        self._claimed: set[tuple[int, bytes]] = set()
        self._waiting: list[list[tuple[bytes, UInt8Array]]] = [[] for _ in encoders]
        self._done: list[list[tuple[list[bytes], FloatArray]]] = [[] for _ in encoders]

    def outcomes(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Outcomes in the order of the jobs; encoders run on the way.

        Memory is bounded: only so many files are in flight as keep the encoders busy.
        """
        source = iter(jobs)
        ahead = 2 * self._workers + max((encoder.batch_size for encoder in self._encoders), default=0)
        with ThreadPoolExecutor(self._workers, thread_name_prefix="decode") as pool:
            flying: deque[Future[Outcome]] = deque()
            try:
                while True:
                    flying.extend(pool.submit(self._open, job) for job in islice(source, ahead - len(flying)))
                    if not flying:
                        return
                    outcome = flying.popleft().result()
                    self._claim(outcome)
                    for position, encoder in enumerate(self._encoders):
                        while len(self._waiting[position]) >= encoder.batch_size:
                            self._encode(position, encoder.batch_size)
                    yield outcome
            finally:
                for future in flying:
                    future.cancel()

    def _claim(self, outcome: Outcome) -> None:
        """Queue a picture for the encoders that nobody before it was queued for; none of a file that failed."""
        for position, content, prepared in () if outcome.reason else outcome.prepared:
            if (position, content) not in self._claimed:
                self._claimed.add((position, content))
                self._waiting[position].append((content, prepared))
        outcome.prepared.clear()

    def flush(self) -> list[tuple[list[bytes], FloatArray]]:
        """Vectors since the last flush: per encoder the content hashes and a float32 ndarray of shape (n, dim).

        A row that could not be normalised is NaN.
        """
        for position in range(len(self._encoders)):
            while self._waiting[position]:
                self._encode(position, self._encoders[position].batch_size)
        results = []
        for encoder, parts in zip(self._encoders, self._done, strict=True):
            hashes = [content for group, _ in parts for content in group]
            empty = np.empty((0, encoder.passport.dim), np.float32)
            results.append((hashes, np.concatenate([vectors for _, vectors in parts]) if parts else empty))
        self._done = [[] for _ in self._encoders]
        return results

    def release(self, flushed: Sequence[tuple[list[bytes], FloatArray]]) -> None:
        """Forget claims on contents that are in the store by now; `lacking` knows them."""
        for position, (hashes, _) in enumerate(flushed):
            self._claimed.difference_update((position, content) for content in hashes)

    def _encode(self, position: int, count: int) -> None:
        batch, self._waiting[position] = self._waiting[position][:count], self._waiting[position][count:]
        vectors = self._encoders[position].encode([prepared for _, prepared in batch])
        self._done[position].append(([content for content, _ in batch], vectors))

    def _open(self, job: Job) -> Outcome:
        """Everything before the encoder, in a worker thread."""
        global _opened
        outcome = Outcome(job, time.time_ns())
        with _opened_lock:
            _opened += 1
        try:
            outcome.stage = "read"
            data = job.raw.read()
            outcome.sha256 = hashlib.sha256(data if isinstance(data, bytes) else data.tobytes()).digest()
            same = job.known_sha256 == outcome.sha256
            if same and job.complete:
                outcome.unchanged = True
                return outcome
            outcome.stage = "decode"
            for frame in decode.frames(data, self._rule):
                locator = job.raw.locator if frame.number is None else f"{job.raw.locator}#{frame.number}"
                content = job.known_hashes.get(locator) if same else None
                content = content or decode.content_hash(frame.picture)
                self._take(outcome, locator, content, frame.picture, frame.decoder, frame.metadata)
            outcome.stage = ""
        except NotAPicture:
            outcome.passed_over = True
        except PictureError as error:
            outcome.reason = str(error)
        except OSError as error:
            outcome.reason = f"can't be read: {error.strerror or error}"
        return outcome

    def _take(
        self,
        outcome: Outcome,
        locator: str,
        content: bytes,
        picture: UInt8Array,
        decoder: str,
        metadata: Mapping[str, Value],
    ) -> None:
        for position in self._lacking(content):
            if (position, content) not in self._claimed:
                outcome.prepared.append((position, content, self._encoders[position].prepare(picture)))
        height, width = picture.shape[:2]
        thumbnail = decode.thumbnail(picture) if self._thumbnails else None
        outcome.shots.append(Shot(locator, content, width, height, decoder, metadata, thumbnail))


@dataclass(frozen=True, slots=True)
class NewPicture:
    """A picture that is not in the store: `vector` is a float32 ndarray of shape (dim,), or None with a `reason`.

    Of several encoders it holds their vectors side by side.
    """

    name: str
    hash: bytes
    vector: FloatArray | None
    thumbnail: bytes | None
    reason: str = ""


def embed_new(
    encoder: Encoder | Sequence[Encoder], rule: DecodeRule, paths: Sequence[str | os.PathLike[str]]
) -> Iterator[NewPicture]:
    """Vectors of new pictures, in order; a path may also be a folder, a zip or any other archive.

    A picture is decoded once, however many encoders there are.

    Yields
    ------
    NewPicture
        One per picture; what can't be embedded has a reason and no vector.

    Raises
    ------
    ArchiveError
        The only path is not there; of several, it is a row with a reason.
    """
    encoders = encoder if isinstance(encoder, Sequence) else [encoder]
    for chunk in batched(_named_jobs(paths), _TOGETHER):
        pipeline = Pipeline(encoders, rule)
        found: list[tuple[str, Shot | None, str]] = []
        outcomes = pipeline.outcomes(job for _, _, job in chunk)
        for (name, alone, job), outcome in zip(chunk, outcomes, strict=True):
            if outcome.reason or (outcome.passed_over and alone):
                found.append((name, None, outcome.reason or "not a picture"))
                continue
            found += [(name + shot.locator[len(job.raw.locator) :], shot, "") for shot in outcome.shots]
        by_hash = [dict(zip(hashes, vectors, strict=True)) for hashes, vectors in pipeline.flush()]
        for name, taken, reason in found:
            if taken is None:
                yield NewPicture(name, b"", None, None, reason)
                continue
            vector = np.concatenate([vectors[taken.hash] for vectors in by_hash])
            good = bool(np.isfinite(vector).all())
            yield NewPicture(name, taken.hash, vector if good else None, taken.thumbnail, "" if good else NOT_FINITE)


def _named_jobs(paths: Sequence[str | os.PathLike[str]]) -> Iterator[tuple[str, bool, Job]]:
    """Entries of several archives: how the caller names each, whether it was given by itself, and its job."""
    for path in paths:
        try:
            source = open_source(path)
        except ArchiveError as error:
            if len(paths) == 1 and not Path(path).is_file():
                raise
            # One of the pictures that were asked for is none: the others are still wanted.
            reason = str(error).removeprefix(f"{os.fspath(path)}: ")
            yield os.fspath(path), True, Job(Raw("", None, None, partial(_refuse, reason)))
            continue
        alone = source.kind == "file"
        for raw in source.list():
            yield os.fspath(path) if alone else str(Path(path) / raw.locator), alone, Job(raw)


def _refuse(reason: str) -> bytes:
    raise PictureError(reason)


def _processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2


NOT_FINITE = "the encoder's vector is not finite or has no length"
