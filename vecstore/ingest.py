"""`ingest`: bring a store in step with an archive. Run it again after anything: it does only what is left."""

from __future__ import annotations

import os
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from vecstore.embedding import NOT_FINITE, Job, Outcome, Pipeline
from vecstore.encoders import open_encoder
from vecstore.encoders.base import Encoder
from vecstore.errors import Ambiguous, ArchiveError, NotAStore, StoreBusy, StoreError, UsageError, VecstoreError
from vecstore.files import locator_part
from vecstore.labelling import import_source_labels
from vecstore.records import BoolArray, DecodeRule, IntArray, Progress, Raw, Silent, Value, batched
from vecstore.sources import open_source
from vecstore.sources.base import Source
from vecstore.store import Space, Store
from vecstore.store.append import (
    Batch,
    Known,
    Picture,
    Refusal,
    append,
    count_items,
    known_contents,
    known_items,
    sample_items,
)
from vecstore.store.columns import PSEUDONYMS, RESERVED_COLUMNS, fit

_T = TypeVar("_T")
COMMIT_PICTURES = 4096
COMMIT_SECONDS = 30.0
FIRST_SECONDS = 5.0
_LOOK_UP = 1024
_SAMPLE = 32
_REFUSALS_TOLD = 20
"""Refused files named while a run goes on; all of them are rows of `vecstore failures`."""
_RACY_NS = 2_000_000_000
"""A file changed this shortly before it was read may change again within the same tick of its clock."""


@dataclass(slots=True)
class IngestResult:
    """What one run did; the names are the contract of `--json`.

    Attributes
    ----------
    source : str
    spaces : list of str
    added : int
        Items that are new or changed.
    present : int
        Items that were there already, unchanged.
    failed : int
        Items that this run could not decode or embed.
    failed_before : int
        Items that failed in an earlier run, unchanged since, not tried again.
    embedded : int
        Vectors computed.
    gone : int
        Items that the archive no longer lists; they stay in the store.
    passed_over : int
        Files that are not pictures and do not claim to be.
    task : str or None
        The task made from labels that the archive brings.
    notes : list of str
        What was done otherwise than one might expect: columns of another type, labels under another name.
    commit : int
    seconds : float
    """

    source: str
    spaces: list[str] = field(default_factory=list)
    added: int = 0
    present: int = 0
    failed: int = 0
    failed_before: int = 0
    embedded: int = 0
    gone: int = 0
    passed_over: int = 0
    task: str | None = None
    notes: list[str] = field(default_factory=list)
    commit: int = 0
    seconds: float = 0.0


def ingest(
    store: Store | str | os.PathLike[str],
    archive: str | os.PathLike[str],
    *,
    encoder: str | Sequence[str] = "bundled",
    source: str | None = None,
    kind: str | None = None,
    path_column: str | None = None,
    space: str | None = None,
    weights: str | os.PathLike[str] | None = None,
    device: str | None = None,
    frames: Literal["first", "all"] | None = None,
    retry: Literal["no", "also", "only"] = "no",
    verify_content: bool = False,
    thumbnails: bool = True,
    progress: Progress | None = None,
) -> IngestResult:
    """Embed what an archive holds and the store does not.

    Parameters
    ----------
    store : Store or path
        A path is opened, or created when the archive and the encoder are there.
    archive : path
        A folder, a zip or tar, a manifest (CSV, TSV or Parquet), a MedMNIST file, or one picture.
    encoder : str or sequence of str
        Each picture is decoded once for all of them.
    source : str, optional
        The name of the archive in the store; its base name by default.
    kind : str, optional
        Of the source, where what is there should not decide.
    path_column : str, optional
        Of a manifest.
    space : str, optional
        Name of the space, for a single encoder.
    weights : path, optional
        Weights file, for a single encoder.
    device : str, optional
        "cpu", "cuda", "cuda:1"; the best there is by default.
    frames : {"first", "all"}, optional
        Only when the store is created: which frames of a file become items.
    retry : {"no", "also", "only"}
        Whether items that failed before are tried again though their file is unchanged.
    verify_content : bool
        Hash every file instead of trusting size and time, and make thumbnails again that were deleted.
    thumbnails : bool
    progress : Progress, optional

    Returns
    -------
    IngestResult

    Raises
    ------
    ArchiveError
        Nothing there, not one picture, or other files than this source name stands for.
    EncoderError, StoreError, UsageError
        The store is as it was, or as the last commit left it.
    """
    started = time.monotonic()
    progress = progress or Silent()
    names = [encoder] if isinstance(encoder, str) else list(dict.fromkeys(encoder))
    _check_arguments(names, space, weights, frames, retry)
    archive_source = open_source(archive, kind=kind, path_column=path_column)
    listing = _outside(archive_source, archive, store.path if isinstance(store, Store) else store)
    first = next(listing, None)
    if first is None:
        raise ArchiveError(f"{archive}: there are no files in it", expected="pictures", do="check the path")
    opened_encoders = [open_encoder(name, weights=weights, device=device) for name in names]
    # Two names of one encoder are one space.
    encoders = list({encoder.passport.fingerprint: encoder for encoder in opened_encoders}.values())
    opened = not isinstance(store, Store)
    handle = store if isinstance(store, Store) else _open_or_create(store, frames)
    try:
        if frames is not None and frames != handle.rule.frames:
            raise UsageError(
                f"{handle.path} was created with frames={handle.rule.frames}",
                expected="the same rule for all its pictures",
                do="leave --frames away, or make another store",
            )
        run = _Run(
            handle.refresh(), archive_source, source, encoders, space, retry, verify_content, thumbnails, progress
        )
        run.check_archive(archive)
        run.all(chain([first], listing))
        result = run.result
        tried = result.present + result.failed + result.failed_before
        if result.passed_over and not tried and not count_items(handle, result.source):
            raise ArchiveError(
                f"{archive}: none of its {result.passed_over} files is a picture",
                expected="JPEG, PNG, TIFF, DICOM or other pictures",
                do="check the path",
            )
        table = archive_source.labels()
        if table is not None:
            result.task = run.patiently(lambda: import_source_labels(handle, result.source, table, run.note))
        handle.sweep()
        result.commit = handle.commit
        result.seconds = round(time.monotonic() - started, 3)
        return result
    finally:
        if opened:
            handle.close()


def _check_arguments(names: Sequence[str], space: str | None, weights: object, frames: str | None, retry: str) -> None:
    """Refuse a wrong call before anything is opened or made."""
    if not names:
        raise UsageError("no encoder is named", "at least one", "leave it away for the bundled one")
    if len(names) != 1 and (space or weights):
        raise UsageError(
            "--space and --weights belong to one encoder", "one --encoder with them", "run once per encoder"
        )
    for name, value, allowed in (("frames", frames, ("first", "all")), ("retry", retry, ("no", "also", "only"))):
        if value is not None and value not in allowed:
            raise UsageError(f"{name} = {value!r}", f"one of: {', '.join(allowed)}")


def _outside(source: Source, archive: str | os.PathLike[str], store: str | os.PathLike[str]) -> Iterator[Raw]:
    """The listing without the store's own files, where the store lies in the archive."""
    inside = Path(os.path.relpath(os.path.realpath(store), os.path.realpath(archive))).parts
    if not inside:
        raise UsageError(f"{archive}: archive and store are one folder", "two", "give the store another path")
    if inside[0] == ".." or not Path(archive).is_dir():
        return source.list()
    prefix = "/".join(locator_part(part) for part in inside) + "/"
    return (raw for raw in source.list() if not raw.locator.startswith(prefix))


def _open_or_create(path: str | os.PathLike[str], frames: Literal["first", "all"] | None) -> Store:
    """Open what is there, or make it; another process may be making it at the same time, or have died halfway."""
    try:
        return Store(path)
    except NotAStore:
        with suppress(StoreError):
            return Store.create(path, DecodeRule(frames=frames or "first"))
    if (Path(path) / "catalog.sqlite").is_file():
        return Store(path)  # another process was first; or it is something else, and this says so
    return Store.create(path, DecodeRule(frames=frames or "first"))


class _Count:
    """Counts a listing in the background, so that a progress bar can say how much is left."""

    def __init__(self, source: Source) -> None:
        self.total: int | None = None
        self._source, self._stopped = source, False
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()

    def _count(self) -> None:
        number = 0
        with suppress(VecstoreError):  # the run itself meets it too, and says so
            for _ in self._source.list():
                number += 1
                if self._stopped:
                    return
            self.total = number

    def stop(self) -> None:
        """No longer needed."""
        self._stopped = True
        self._thread.join()


class _Run:
    """One ingest: the listing goes in, commits come out."""

    def __init__(
        self,
        store: Store,
        source: Source,
        name: str | None,
        encoders: Sequence[Encoder],
        space: str | None,
        retry: Literal["no", "also", "only"],
        verify_content: bool,
        thumbnails: bool,
        progress: Progress,
    ) -> None:
        self.store, self.source, self.encoders = store, source, encoders
        self.name = _known_name(store, unicodedata.normalize("NFC", name or source.name))
        self.space_name = space
        self.retry, self.verify_content, self.progress = retry, verify_content, progress
        self.thumbnails = thumbnails
        self.result = IngestResult(self.name)
        self.arguments: dict[str, object] = {}
        self.spaces: list[Space] = []
        self.embedded: list[IntArray] = []
        self._shards_seen: list[set[int]] = []
        self.batch = Batch(self.name, source.kind)
        self.pipeline = Pipeline(encoders, store.rule, self._lacking, thumbnails)
        self._present_before = count_items(store, self.name)
        self._listed_before = 0
        self._broken: dict[tuple[int, bytes], str] = {}
        self._pending: dict[str, tuple[str, ...]] = {}
        """Files that were handed to the pipeline and are not committed yet, with their known items."""
        self._booked: list[str] = []
        self._refusals_told = 0
        self._told: dict[int, tuple[str, Mapping[str, Value]]] = {}
        """What the source newly says about known items: item id to locator and metadata."""

    def check_archive(self, archive: str | os.PathLike[str]) -> None:
        """Refuse other files under a known source name; a moved archive is recognised by its bytes."""
        place = self.store.secret(f"place\x00{os.path.realpath(archive)}").hex()
        self.arguments = {
            "archive": Path(os.path.realpath(archive)).name,
            "source": self.name,
            "place": place,
            "encoders": [encoder.passport.encoder for encoder in self.encoders],
            "compute": sorted({encoder.compute for encoder in self.encoders}),
        }
        places = [
            entry["arguments"].get("place")
            for entry in self.store.log()
            if str(entry["arguments"].get("source", "")).casefold() == self.name.casefold()
        ]
        sample = dict(sample_items(self.store, self.name, _SAMPLE))
        if not sample or place in places:
            return
        agree = differ = 0
        pipeline = Pipeline([], self.store.rule, thumbnails=False)
        every = self.store.rule.frames == "all"
        wanted = {name.rpartition("#")[0] if every and "#" in name else name: sha for name, sha in sample.items()}
        jobs = (Job(raw, wanted[raw.locator], complete=True) for raw in self.source.find(list(wanted)))
        for outcome in pipeline.outcomes(jobs):
            agree += outcome.unchanged
            differ += not outcome.unchanged
        if 2 * agree <= len(wanted):
            raise ArchiveError(
                f"the store knows another archive under the name {self.name!r}: of {len(wanted)} of its files"
                f" looked for in {archive}, {agree} are there with the same bytes",
                expected="the same archive, perhaps moved",
                do="give this one a name of its own: --source NAME",
            )
        self.progress.say(f"{self.name}: moved archive, {agree} of {agree + differ} sampled files have the same bytes")

    def all(self, listing: Iterator[Raw]) -> None:
        """Go through the listing and commit as it goes."""
        for encoder in self.encoders:
            name = self.space_name or _safe(encoder.passport.encoder)
            self.spaces.append(self._space(name, encoder))
            self.embedded.append(np.empty(0, np.int64))
            self._shards_seen.append(set())
        self.result.spaces = [space.name for space in self.spaces]
        self._learn()
        count = None if isinstance(self.progress, Silent) or self.source.kind == "tar" else _Count(self.source)
        try:
            self.progress.begin("pictures", None)
            self._go_through(listing, count)
        finally:
            self.progress.end()
            if count is not None:
                count.stop()
        self.result.gone = max(0, self._present_before - self._listed_before)

    def _go_through(self, listing: Iterator[Raw], count: _Count | None) -> None:
        since = started = time.monotonic()
        for outcome in self.pipeline.outcomes(self._jobs(listing)):
            self._book(outcome)
            if count is not None and count.total is not None:
                self.progress.begin("pictures", count.total)
                count = None
            waiting = len(self.batch.pictures) + len(self.batch.refusals) + len(self.batch.touched)
            # Sooner at first: who breaks off after half a minute finds most of it there.
            patience = min(COMMIT_SECONDS, FIRST_SECONDS + (since - started) / 2)
            if waiting >= COMMIT_PICTURES or time.monotonic() - since > patience:
                self._commit()
                since = time.monotonic()
        self._commit()

    def _space(self, name: str, encoder: Encoder) -> Space:
        """The encoder's space; a taken default name gets the start of the fingerprint behind it."""
        try:
            space = self.patiently(lambda: self.store.add_space(name, encoder.passport, self.arguments))
            if self.space_name and space.name.casefold() != self.space_name.casefold():
                raise UsageError(
                    f"the vectors of {encoder.passport.encoder} are in the space {space.name!r} already",
                    expected="one space per fingerprint",
                    do=f"leave --space away, or name that one: --space {space.name}",
                )
            return space
        except Ambiguous:
            if self.space_name:
                raise
            longer = f"{name}-{encoder.passport.fingerprint.hex()[:8]}"
            return self.patiently(lambda: self.store.add_space(longer, encoder.passport, self.arguments))

    def _jobs(self, listing: Iterator[Raw]) -> Iterator[Job]:
        """What has to be opened; the rest is counted."""
        for chunk in batched(listing, _LOOK_UP):
            known = known_items(self.store, self.name, [raw.locator for raw in chunk])
            seen: set[str] = set()
            told: dict[int, tuple[str, Mapping[str, Value]]] = {}
            for listed in chunk:
                raw = replace(listed, metadata=self._kept(listed.metadata)) if listed.metadata else listed
                if raw.locator in seen or raw.locator in self._pending:
                    self.progress.say(f"{raw.locator}: listed twice; the first one counts")
                    continue
                seen.add(raw.locator)
                frames = self._frames(raw, known.get(raw.locator))
                if raw.metadata:
                    told |= {k.item: (locator, raw.metadata) for locator, k in frames.items()}
                job = self._job(raw, frames)
                if job is None:
                    self.progress.step()
                else:
                    self._pending[raw.locator] = tuple(frames)
                    yield job
            self._compare_metadata(told)
            if len(self._told) >= COMMIT_PICTURES:
                self._commit()

    def _frames(self, raw: Raw, first: Known | None) -> dict[str, Known]:
        """Known items of a file: one, or its frames where all frames are items.

        Where both are known, because the file had one frame at one time and several at another, those
        count that belong to the file as it was last seen.
        """
        single = {raw.locator: first} if first else {}
        if self.store.rule.frames != "all" or (first and (first.size, first.mtime_ns) == (raw.size, raw.mtime_ns)):
            return single
        found: dict[str, Known] = {}
        while True:
            name = f"{raw.locator}#{len(found) + 1}"
            known = known_items(self.store, self.name, [name]).get(name)
            # A frame of other bytes is left from a time when the file had more of them.
            if known is None or (found and known.file_sha256 != next(iter(found.values())).file_sha256):
                return found or single
            found[name] = known

    def _job(self, raw: Raw, frames: Mapping[str, Known]) -> Job | None:
        if not frames:
            return None if self.retry == "only" else Job(raw)
        held = {locator: k for locator, k in frames.items() if k.content is not None}
        self._listed_before += len(held)
        asked = {None, *(space.id for space in self.spaces)}
        failed = sum(bool(k.failed & asked) for k in frames.values())
        same = all(
            (k.size, k.mtime_ns) == (raw.size, raw.mtime_ns) and raw.mtime_ns is not None for k in frames.values()
        )
        if self.retry == "only" and not failed:
            self.result.present += len(frames)
            return None
        unread = any(k.unread for k in frames.values())  # a share that was away may be back: tried at every run
        if same and failed and not unread and self.retry == "no" and not any(self._untried(k) for k in held.values()):
            self.result.failed_before += failed
            self.result.present += len(frames) - failed
            return None
        complete = not failed and all(self._complete(k.content) for k in held.values() if k.content is not None)
        hashes = {locator: k.hash for locator, k in held.items() if k.hash is not None}
        if same and complete and not self.verify_content:
            self.result.present += len(frames)
            return None
        if self.thumbnails and self.verify_content and complete:
            complete = self.store.thumbnails.get(list(hashes.values())).keys() >= set(hashes.values())
        sha256 = next((k.file_sha256 for k in held.values()), None)
        return Job(raw, sha256, hashes, complete)

    def _untried(self, known: Known) -> bool:
        """Whether an asked-for space lacks a picture without having failed on it."""
        return any(
            known.content is not None and not _contains(contents, known.content) and space.id not in known.failed
            for space, contents in zip(self.spaces, self.embedded, strict=True)
        )

    def _compare_metadata(self, told: Mapping[int, tuple[str, Mapping[str, Value]]]) -> None:
        """A manifest may say something new of a picture that did not change."""
        if not told:
            return
        types = {name.casefold(): (name, kind) for name, kind in self.store.columns().items()}
        current = self.store.metadata(told)
        for item, (locator, metadata) in told.items():
            row = current.get(item, {})
            named = {self._column(name): value for name, value in metadata.items() if value is not None}
            if any(_differs(row, types, name, value) for name, value in named.items()):
                self._told[item] = (locator, metadata)

    def _kept(self, metadata: Mapping[str, Value]) -> dict[str, Value]:
        """Metadata as it may be stored: whoever says it, a patient's id becomes a pseudonym."""
        kept: dict[str, Value] = {name: value for name, value in metadata.items() if value is not None}
        for name in [name for name in kept if name.strip().casefold() == PSEUDONYMS]:
            kept["PatientID"] = self.store.pseudonym(str(fit(kept.pop(name), "TEXT")))
        return kept

    def _column(self, name: str) -> str:
        """The column that a name of the source leads to: one that would collide with ours has the source in front."""
        clean = name.strip()
        ours = not clean or clean.casefold() in RESERVED_COLUMNS or clean.startswith("sqlite_")
        return f"{self.name}_{clean or 'column'}" if ours else clean

    def _complete(self, content: int) -> bool:
        return all(_contains(known, content) for known in self.embedded)

    def _lacking(self, content: bytes) -> Sequence[int]:
        number = known_contents(self.store, [content]).get(content)
        if number is None:
            return range(len(self.encoders))
        return [i for i, known in enumerate(self.embedded) if not _contains(known, number)]

    def _learn(self) -> None:
        """Read which contents have vectors, from shards that were registered since we last looked."""
        self.store.refresh()
        for position, space in enumerate(self.spaces):
            fresh = [shard for shard in self.store.shards(space) if shard.id not in self._shards_seen[position]]
            if fresh:
                contents = self.store.embedded(space, fresh)
                self.embedded[position] = np.union1d(self.embedded[position], contents)
                self._shards_seen[position].update(shard.id for shard in fresh)

    def _book(self, outcome: Outcome) -> None:
        """Put an outcome into the batch that will be committed next."""
        raw, batch = outcome.job.raw, self.batch
        self.progress.step()
        mtime_ns = raw.mtime_ns
        items = self._pending.get(raw.locator, ())
        self._booked.append(raw.locator)
        if mtime_ns is not None and abs(outcome.opened_ns - mtime_ns) < _RACY_NS:
            mtime_ns = None  # no time equals none: the next scan will hash the file
        reason = outcome.reason or ("no longer a picture" if outcome.passed_over and items else "")
        if reason:
            stage = "decode" if outcome.passed_over else outcome.stage
            batch.refusals += [Refusal(name, raw.size, mtime_ns, stage, reason) for name in items or (raw.locator,)]
            self._tell_refusal(f"{raw.locator}: {reason}")
        elif outcome.passed_over:
            self.result.passed_over += 1
        elif outcome.unchanged:
            known = known_items(self.store, self.name, list(outcome.job.known_hashes))
            self.result.present += len(known)
            batch.touched += [
                (k.item, raw.size, mtime_ns) for k in known.values() if (k.size, k.mtime_ns) != (raw.size, mtime_ns)
            ]
        if outcome.shots and not outcome.reason and raw.locator not in {shot.locator for shot in outcome.shots}:
            batch.forgiven.append(raw.locator)  # it failed as one file, and is several frames now
        for shot in () if outcome.reason else outcome.shots:
            metadata = {**self._kept(shot.metadata), **raw.metadata}
            batch.pictures.append(
                Picture(
                    shot.locator,
                    raw.size,
                    mtime_ns,
                    outcome.sha256,
                    shot.decoder,
                    shot.hash,
                    shot.width,
                    shot.height,
                    metadata,
                )
            )
            if shot.thumbnail is not None:
                batch.thumbnails[shot.hash] = shot.thumbnail

    def _tell_refusal(self, text: str) -> None:
        """Name the first files that are refused; a long list would bury everything else."""
        self._refusals_told += 1
        if self._refusals_told <= _REFUSALS_TOLD:
            self.progress.say(text)
        elif self._refusals_told == _REFUSALS_TOLD + 1:
            self.progress.say(
                f"further refused files are not named here; all of them: vecstore failures {self.store.path}"
            )

    def note(self, text: str) -> None:
        """Say something now and in the result."""
        self.result.notes.append(text)
        self.progress.say(text)

    def patiently(self, write: Callable[[], _T]) -> _T:
        """Write; while another writer holds the store, say so each minute and try again: the work is kept."""
        while True:
            try:
                return write()
            except StoreBusy as error:
                self.progress.say(f"still waiting: {error.fact}")

    def _commit(self) -> None:
        """Encode what is still waiting, leave out what others committed meanwhile, and commit."""
        batch, self.batch = self.batch, Batch(self.name, self.source.kind)
        told, self._told = self._told, {}
        fresh = {picture.locator for picture in batch.pictures}
        batch.described = {item: values for item, (locator, values) in told.items() if locator not in fresh}
        vectors = self.pipeline.flush()
        self._learn()
        for position, (hashes, matrix) in enumerate(vectors):
            known = known_contents(self.store, hashes)
            good: BoolArray = np.isfinite(matrix.sum(axis=1, keepdims=True))[:, 0]
            for row in np.flatnonzero(~good):
                self._broken[position, hashes[row]] = NOT_FINITE
            keep = [
                i
                for i, h in enumerate(hashes)
                if good[i] and not (h in known and _contains(self.embedded[position], known[h]))
            ]
            batch.vectors[self.spaces[position].id] = ([hashes[i] for i in keep], matrix[keep].astype(np.float16))
        for picture in batch.pictures:
            for position, space in enumerate(self.spaces):
                if reason := self._broken.get((position, picture.hash)):
                    size, mtime_ns = picture.size, picture.mtime_ns
                    batch.refusals.append(Refusal(picture.locator, size, mtime_ns, "encode", reason, space.id))
        for locator in self._booked:
            self._pending.pop(locator, None)
        self._booked.clear()
        held = [len(hashes) for hashes, _ in batch.vectors.values()]
        if not (batch.pictures or batch.refusals or batch.touched or batch.described or any(held)):
            return
        spaces = {space.id: space for space in self.spaces}
        counts: dict[str, Any] = self.patiently(
            lambda: append(
                self.store, batch, spaces, self.arguments, lambda: self.progress.say("waiting for another writer")
            )
        )
        self._learn()
        self.pipeline.release(vectors)
        for column, kind in counts.get("columns_widened", {}).items():
            self.note(f"the column {column} is {kind} now: a value did not fit its type")
        self.result.added += counts["added"]
        self.result.present += len(batch.pictures) - counts["added"]
        self.result.failed += len({refusal.locator for refusal in batch.refusals})
        self.result.embedded += counts["embedded"]


def _known_name(store: Store, name: str) -> str:
    """A source's name as the store writes it; letter case is ignored, as in the keys of its items."""
    names = [known for (known,) in store.rows("SELECT name FROM sources ORDER BY id")]
    return next((known for known in names if known.casefold() == name.casefold()), name)


def _contains(ascending: IntArray, value: int) -> bool:
    position = int(np.searchsorted(ascending, value))
    return position < len(ascending) and int(ascending[position]) == value


def _differs(row: Mapping[str, Value], types: Mapping[str, tuple[str, str]], name: str, value: Value) -> bool:
    if name.casefold() not in types:
        return True
    column, kind = types[name.casefold()]
    fitted = fit(value, kind)
    # What does not fit the column's type makes it wider.
    return (fitted is None and value == value) or row.get(column) != fitted


def _safe(name: str) -> str:
    """An encoder's name as the name of a space: letters, digits, dot, dash and underscore.

    >>> _safe("torchvision:resnet50/IMAGENET1K_V2")
    'torchvision-resnet50-IMAGENET1K_V2'
    """
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name).strip("-")
