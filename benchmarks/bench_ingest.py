"""Pictures per second from files to a store, against a plain script on the same files.

    python benchmarks/bench_ingest.py ARCHIVE.zip [--quick] [--device cuda] [--count 1000] [--turns 2]

Where more pictures are asked for than the archive has, it is gone through again turned and mirrored, so that no two
have the same pixels (a GPU needs thousands to show its rate).

The plain script is what one writes in an afternoon: Pillow, torchvision's transforms, a DataLoader with a worker
per processor, the network in float32, `numpy.save`. Each run is a process of its own, in turn with the others;
imports are not counted, building the network is. The answers are compared first: the cosine between the two
scripts' vectors of the same picture, where both pool the same layer (ResNet-50 and ViT-B/32; the bundled encoder
pools other layers than the plain script's last one).
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from common import peak_mib, write
from PIL import Image

from vecstore.encoders.base import Encoder
from vecstore.records import FloatArray, UInt8Array

ENCODERS = {
    "bundled": "bundled",
    "resnet50": "torchvision:resnet50",
    "vit_b_32": "open_clip:ViT-B-32",
}


def random_weights(name: str, folder: Path) -> Path | None:
    """Random weights on disk, so that both scripts load the same file; None for the bundled encoder."""
    import torch

    torch.manual_seed(0)
    path = folder / f"{name}.pt"
    if name == "resnet50":
        import torchvision

        torch.save(torchvision.models.resnet50(weights=None).state_dict(), path)
    elif name == "vit_b_32":
        import open_clip

        torch.save(open_clip.create_model("ViT-B-32", pretrained=None).state_dict(), path)
    else:
        return None
    return path


def plain_model(name: str, weights: Path | None) -> tuple[Any, Any]:
    """The network and its transform, as their libraries give them."""
    import torch
    import torchvision
    from torchvision import transforms

    state = None if weights is None else torch.load(weights, weights_only=True)
    if name == "resnet50":
        model = torchvision.models.resnet50(weights=None)
        model.load_state_dict(state)
        model.fc = torch.nn.Identity()
        return model.eval(), torchvision.models.ResNet50_Weights.IMAGENET1K_V1.transforms()
    if name == "vit_b_32":
        import open_clip

        whole, _, transform = open_clip.create_model_and_transforms("ViT-B-32", pretrained=None)
        whole.load_state_dict(state)
        return whole.visual.eval(), transform
    import timm

    normalise = transforms.Normalize([0.5] * 3, [0.5] * 3)
    squash = transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    return model.eval(), transforms.Compose([squash, transforms.ToTensor(), normalise])


class _Files:
    """What a DataLoader reads from."""

    def __init__(self, paths: list[Path], transform: Any) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Any:
        from PIL import Image

        return self.transform(Image.open(self.paths[i]).convert("RGB"))


def run_plain(name: str, archive: Path, out: Path, weights: Path | None, device: str) -> dict[str, Any]:
    """The plain script."""
    import torch
    from torch.utils.data import DataLoader

    started = time.perf_counter()
    model, transform = plain_model(name, weights)
    model.to(device)
    paths = sorted(path for path in archive.rglob("*") if path.is_file())
    workers = len(os.sched_getaffinity(0))
    files: Any = _Files(paths, transform)
    loader: Any = DataLoader(files, batch_size=32, num_workers=workers)
    parts = []
    with torch.inference_mode():
        for batch in loader:
            vectors = model(batch.to(device)).flatten(1).float()
            parts.append(vectors.cpu().numpy())
    vectors = np.concatenate(parts)
    np.save(out / "plain.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    return {"seconds": time.perf_counter() - started, "pictures": len(paths)}


def run_ours(name: str, archive: Path, out: Path, weights: Path | None, device: str) -> dict[str, Any]:
    """Our ingest, with the time inside `append` taken on the way."""
    import vecstore as vs
    import vecstore.ingest
    from vecstore.store.append import append

    written = 0.0

    def clocked(*args: Any, **kwargs: Any) -> dict[str, int]:
        nonlocal written
        start = time.perf_counter()
        counts = append(*args, **kwargs)
        written += time.perf_counter() - start
        return counts

    setattr(sys.modules["vecstore.ingest"], "append", clocked)  # noqa: B010 - it is not exported
    started = time.perf_counter()
    result = vs.ingest(out / "ours.vecs", archive, encoder=ENCODERS[name], weights=weights, device=device)
    seconds = time.perf_counter() - started
    store = vs.open(out / "ours.vecs")
    items = store.items()
    order = np.argsort(np.array(items.locators))
    np.save(out / "ours.npy", store.vectors(store.space(), items.contents[order]))
    return {
        "seconds": seconds,
        "pictures": result.added,
        "embedded": result.embedded,
        "write_share": written / seconds,
        "peak_mib": peak_mib(),
    }


class _Keeping(Encoder):
    """Prepares as an encoder does, and keeps what it is given to encode."""

    def __init__(self, encoder: Encoder) -> None:
        self.passport, self.compute, self.batch_size = encoder.passport, encoder.compute, encoder.batch_size
        self.kept: list[UInt8Array] = []
        self._encoder = encoder

    def prepare(self, picture: UInt8Array) -> UInt8Array:
        """As the encoder does."""
        return self._encoder.prepare(picture)

    def encode(self, prepared: Sequence[UInt8Array]) -> FloatArray:
        """No vectors: zeros."""
        self.kept.extend(prepared)
        return np.zeros((len(prepared), self.passport.dim), np.float32)


def run_stages(name: str, archive: Path, weights: Path | None, device: str) -> dict[str, Any]:
    """Each stage alone: decoding (with hash, thumbnail and resizing), and the encoder on prepared pictures."""
    from vecstore.embedding import Job, Pipeline
    from vecstore.encoders import open_encoder
    from vecstore.records import DecodeRule
    from vecstore.sources import open_source

    encoder = open_encoder(ENCODERS[name], weights=weights, device=device)
    keeping = _Keeping(encoder)
    started = time.perf_counter()
    pipeline = Pipeline([keeping], DecodeRule())
    count = sum(1 for _ in pipeline.outcomes(Job(raw) for raw in open_source(archive).list()))
    pipeline.flush()  # what is fewer than a batch is kept too
    decode_s = time.perf_counter() - started
    prepared = keeping.kept
    size = encoder.batch_size
    encoder.encode(prepared[:size])
    started = time.perf_counter()
    for start in range(0, len(prepared), size):
        encoder.encode(prepared[start : start + size])
    encode_s = time.perf_counter() - started
    return {
        "decode_per_s": round(count / decode_s, 1),
        "encode_per_s": round(len(prepared) / encode_s, 1),
        "compute": encoder.compute,
        "batch_size": size,
    }


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a process of its own, forked where the libraries are imported and nothing has run."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
        return pool.submit(function, *arguments).result()


def unpack(archive: Path, folder: Path, count: int) -> Path:
    """`count` pictures as files: the archive's first ones, then turned and mirrored copies of them."""
    target = folder / "files"
    target.mkdir()
    with zipfile.ZipFile(archive) as packed:
        names = [name for name in sorted(packed.namelist()) if not name.endswith("/")]
        files = {name.replace("/", "_"): packed.read(name) for name in names[:count]}
    for name, data in files.items():
        (target / name).write_bytes(data)

    def turn(job: tuple[int, str]) -> None:
        way, name = job
        with Image.open(io.BytesIO(files[name])) as image:
            image.transpose(Image.Transpose(way)).save(target / f"{way}_{Path(name).stem}.jpg", quality=90)

    # Transpose has seven members, 0 to 6; with the pictures as they are that makes eight.
    jobs = [(way, name) for way in range(7) for name in files][: max(0, count - len(files))]
    with ThreadPoolExecutor() as pool:
        list(pool.map(turn, jobs))
    return target


def memory(name: str, files: Path, folder: Path, weights: Path | None, device: str) -> dict[str, float]:
    """Peak memory of an ingest of a quarter of the pictures, and of all of them."""
    quarter = folder / "quarter"
    quarter.mkdir()
    paths = sorted(files.iterdir())
    for path in paths[: len(paths) // 4]:
        shutil.copy(path, quarter)
    peaks = {}
    for label, archive in (("quarter", quarter), ("all", files)):
        out = folder / f"memory-{label}"
        out.mkdir()
        peaks[f"{label}_mib"] = apart(run_ours, name, archive, out, weights, device)["peak_mib"]
    return peaks


def measure(name: str, files: Path, folder: Path, repeat: int, device: str) -> dict[str, Any]:
    """One encoder: answers compared, then both scripts in turn."""
    place = folder / name
    place.mkdir()
    weights = apart(random_weights, name, place)
    scripts = {"ours": run_ours, "plain": run_plain}
    runs: dict[str, list[dict[str, Any]]] = {kind: [] for kind in scripts}
    for turn in range(repeat):
        for kind, script in scripts.items():
            out = place / f"{kind}-{turn}"
            out.mkdir()
            runs[kind].append(apart(script, name, files, out, weights, device))
            print(f"{name}, {kind}: {runs[kind][-1]}", file=sys.stderr, flush=True)
    ours, plain = (np.load(place / f"{kind}-0" / f"{kind}.npy") for kind in runs)
    rate = {kind: statistics.median(run["pictures"] / run["seconds"] for run in found) for kind, found in runs.items()}
    result = {
        "ours_per_s": round(rate["ours"], 1),
        "plain_per_s": round(rate["plain"], 1),
        "ratio": round(statistics.median(p["seconds"] / o["seconds"] for o, p in zip(*runs.values(), strict=True)), 2),
        "write_share": round(statistics.median(run["write_share"] for run in runs["ours"]), 4),
        "stages": apart(run_stages, name, files, weights, device),
    }
    if ours.shape == plain.shape:
        result["lowest_cosine"] = round(float((ours * plain).sum(axis=1).min()), 5)
    result["share_of_encoder_rate"] = round(rate["ours"] / result["stages"]["encode_per_s"], 3)
    return result


def main() -> None:
    """Measure every encoder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--quick", action="store_true", help="16 pictures, one encoder and turn, nothing is kept")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--encoders", default=",".join(ENCODERS))
    parser.add_argument("--device")
    arguments = parser.parse_args()
    # Before any clock starts: both scripts would import these.
    import open_clip  # noqa: F401
    import timm  # noqa: F401
    import torch
    import torchvision  # noqa: F401

    import vecstore.embedding
    import vecstore.ingest  # noqa: F401

    # Asked in another process: a forked one can't use a device that its parent has touched.
    device = arguments.device or ("cuda" if apart(torch.cuda.is_available) else "cpu")
    folder = Path(tempfile.mkdtemp(prefix="bench-ingest-"))
    try:
        files = unpack(arguments.archive, folder, 16 if arguments.quick else arguments.count)
        pictures = sum(1 for _ in files.iterdir())
        turns = 1 if arguments.quick else arguments.turns
        encoders = ["bundled"] if arguments.quick else arguments.encoders.split(",")
        rows = {name: measure(name, files, folder, turns, device) for name in encoders}
        goals = {
            "at least 2.5 x the plain script": {name: row["ratio"] for name, row in rows.items()},
            "write at most 0.03 of the time": {name: row["write_share"] for name, row in rows.items()},
        }
        if device == "cpu" and "bundled" in rows:
            rows["bundled"]["memory"] = memory("bundled", files, folder, None, device)
            goals["memory flat: MiB for a quarter and all of the pictures"] = rows["bundled"]["memory"]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    hardware = torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"
    result = {
        "what": "pictures per second, from files to a store or a matrix",
        "device": hardware,
        "pictures": pictures,
        "encoders": rows,
        "goals": goals,
    }
    name = "bench_ingest" if hardware == "cpu" else "bench_ingest_gpu"
    write(name, result, ["torch", "torchvision", "timm", "open_clip_torch", "pillow"], arguments.quick)


if __name__ == "__main__":
    main()
