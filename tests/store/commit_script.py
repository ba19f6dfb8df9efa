"""One commit in a process of its own, for `test_crash.py`: forked from a process that has imported everything.

Protocol on standard input: a line `create PATH` or `append PATH`. A child is forked, says its process id and
waits for one more byte, so that a tracer can be put on it; when it has ended, its exit status is printed.
"""

from __future__ import annotations

import ctypes
import hashlib
import os

import numpy as np

from vecstore.records import Value
from vecstore.store import Store
from vecstore.store.append import Batch, Picture, Refusal, append, known_items

PR_SET_PTRACER = 0x59616D61  # where only ancestors may trace, a process can allow everybody


def make_batch(space: int, dim: int) -> Batch:
    """Twenty pictures and one file that is none."""
    batch = Batch("archive", "folder")
    hashes = [hashlib.md5(b"crash %d" % i).digest() for i in range(20)]
    for i, content in enumerate(hashes):
        metadata: dict[str, Value] = {"age": 40 + i, "sex": "FM"[i % 2]}
        batch.pictures.append(Picture(f"{i}.png", 5, i, hashlib.sha256(content).digest(), "x", content, 8, 8, metadata))
        batch.thumbnails[content] = b"\xff\xd8" + content
    batch.refusals.append(Refusal("bad.png", 1, 1, "decode", "cannot identify it"))
    vectors = np.random.default_rng(0).standard_normal((20, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    batch.vectors[space] = (hashes, vectors.astype(np.float16))
    return batch


def add(path: str) -> None:
    """What an ingest does: leave out what is known, append the rest."""
    with Store(path) as store:
        space = store.space()
        batch = make_batch(space.id, space.dim)
        known = known_items(store, "archive", [*(p.locator for p in batch.pictures), "bad.png"])
        batch.pictures = [p for p in batch.pictures if p.locator not in known]
        batch.refusals = [r for r in batch.refusals if r.locator not in known]
        if batch.pictures or batch.refusals:
            append(store, batch, {space.id: space}, {"source": "archive"})


def serve() -> None:
    """Answer commands until the input ends."""
    for line in iter(_line, b""):
        verb, _, path = line.decode().strip().partition(" ")
        child = os.fork()
        if child == 0:
            ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
            os.write(1, b"%d\n" % os.getpid())
            os.read(0, 1)
            if verb == "create":
                Store.create(path).close()
            else:
                add(path)
            os._exit(0)
        os.write(1, b"ended %d\n" % os.waitpid(child, 0)[1])


def _line() -> bytes:
    """A line byte by byte: what follows it is the child's."""
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return b""
        line += byte
    return line


if __name__ == "__main__":
    serve()
