"""The rival: a ResNet-18 trained from scratch, the conventional way, on one hold-out split of each set.

    python benchmarks/rival.py prepare DATA rival.npz             pictures, labels and splits in one file
    python benchmarks/rival.py train rival.npz --out rival.json   on a GPU at 224 pixels, else at 28 or 80

`train` needs torch, torchvision, NumPy, SciPy, scikit-learn and Pillow, and no store: the file may go to a machine with
a GPU. All test labels are in it, and nothing but the final scores looks at them.

The recipe: ResNet-18 (torchvision's; 3 × 3 stem without pooling below 64 pixels), random weights. Random resized crop
(50 to 100 % of the area), rotation, mirroring where anatomy allows, brightness, contrast and saturation. Warm-up of a
twentieth of the steps, then cosine. Loss weighted by class; several labels: binary cross entropy, unknown labels
masked. A moving average of the weights is validated after each epoch; the epoch with the best AUC on the validation
part (of equals, the least loss) is kept; training ends early when there was none for a third of the epochs. AdamW and
SGD are both tried with the first seed, and the one that validates better makes the other seeds.
"""

from __future__ import annotations

import argparse
import base64
import copy
import io
import json
import math
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - the customary name
import torchvision
from common import commit, machine, versions
from PIL import Image
from torch import Tensor, nn

from vecstore.probes.metrics import evaluate
from vecstore.records import FloatArray, IntArray, TaskKind, UInt8Array

TRAIN, VAL, TEST = 0, 1, 2
KEPT_SIDE = 256


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is tried.

    Attributes
    ----------
    optimizer : {"AdamW", "SGD"}
    rate : float
        The largest learning rate, after warm-up.
    decay : float
        Weight decay.
    """

    optimizer: str
    rate: float
    decay: float


RECIPES = (Recipe("AdamW", 1e-3, 0.05), Recipe("SGD", 0.05, 5e-4))
AREA, RATIO, JITTER = (0.5, 1.0), (3 / 4, 4 / 3), 0.2
SEEN = 90_000
"""Pictures that a training sees, which gives the epochs: at least 30, at most 120."""


@dataclass(frozen=True, slots=True)
class Part:
    """One set as prepared.

    Attributes
    ----------
    name : str
    kind : {"binary", "multi-class", "multi-label"}
    classes : list of str
    flips, turns
        See `paper_sets.Set`.
    split : str
        See `paper_sets.split_digest`.
    pictures : list of bytes
        PNG or JPEG.
    y, groups, parts : ndarray
        `parts` has 0 for training, 1 for validation, 2 for test.
    """

    name: str
    kind: TaskKind
    classes: list[str]
    flips: str
    turns: float
    split: str
    pictures: list[bytes]
    y: npt.NDArray[Any]
    groups: IntArray
    parts: IntArray


def prepare(data: Path, out: Path, only: str | None, most: int | None) -> None:
    """Write pictures, labels, groups and splits of sets into one file, without pickle.

    Parameters
    ----------
    data : Path
        Folder of all sets.
    out : Path
    only : str, optional
        Beginnings of names.
    most : int, optional
        Groups of each part that are kept, for trying.
    """
    import tempfile

    import paper_sets

    import vecstore as vs
    from vecstore.sources import open_source

    arrays: dict[str, npt.NDArray[Any]] = {}
    about = []
    wanted: dict[str, dict[str, None]] = {}  # per archive, in order: two tasks may share one
    chosen = paper_sets.chosen(only)
    with tempfile.TemporaryDirectory() as folder:
        for one in chosen:
            path = Path(folder) / f"{one.store}.vecs"
            if not path.exists():
                vs.ingest(path, paper_sets.archive(data, one), encoder="fake:8", thumbnails=False)
            store = vs.open(path)
            paper_sets.labelled(store, data, one)
            rows = vs.dataset(store, one.task)
            parts = paper_sets.holdout(store, rows)
            keep = _few(rows.groups, parts, most)
            locators = paper_sets.locators(store, rows.items[keep])
            known = wanted.setdefault(one.store, {})
            known.update(dict.fromkeys(locators))
            numbers = {name: number for number, name in enumerate(known)}
            arrays[f"{one.name}/rows"] = np.array([numbers[name] for name in locators])
            arrays[f"{one.name}/y"] = rows.y[keep]
            arrays[f"{one.name}/groups"] = rows.groups[keep]
            arrays[f"{one.name}/parts"] = parts[keep].astype(np.uint8)
            own = {"flips": one.flips, "turns": one.turns, "kind": rows.task.kind, "classes": rows.classes}
            digest = paper_sets.split_digest(store, rows, parts)
            about.append({"name": one.name, "store": one.store, "split": digest, **own})
            print(one.name, {name: int((parts[keep] == k).sum()) for k, name in enumerate(("train", "val", "test"))})
    for one in {one.store: one for one in chosen}.values():
        found = {raw.locator: raw for raw in open_source(paper_sets.archive(data, one)).find(wanted[one.store])}
        packed = [_packed(found[name].read()) for name in wanted[one.store]]
        arrays[f"{one.store}/bytes"] = np.frombuffer(b"".join(packed), np.uint8)
        arrays[f"{one.store}/ends"] = np.cumsum([len(content) for content in packed])
    arrays["about"] = np.array([json.dumps(entry) for entry in about])
    with out.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB")


def _few(groups: IntArray, parts: IntArray, most: int | None) -> IntArray:
    """Rows of at most so many groups of each part."""
    if most is None:
        return np.arange(len(groups))
    rng = np.random.default_rng(0)
    kept = [rng.permutation(np.unique(groups[parts == part]))[:most] for part in (TRAIN, VAL, TEST)]
    return np.flatnonzero(np.isin(groups, np.concatenate(kept)))


def _packed(raw: bytes | npt.NDArray[Any]) -> bytes:
    """A picture as PNG or JPEG, its shorter side at most 256 pixels."""
    if isinstance(raw, bytes):
        with Image.open(io.BytesIO(raw)) as picture:
            picture.load()
            side = min(picture.size)
            if side <= KEPT_SIDE and picture.format in ("PNG", "JPEG"):
                return raw
            size = [max(KEPT_SIDE, round(length * KEPT_SIDE / side)) for length in picture.size]
            smaller = picture.convert("RGB").resize((size[0], size[1]), Image.Resampling.BICUBIC)
    else:
        smaller = Image.fromarray(raw)
    file = io.BytesIO()
    smaller.save(file, "PNG") if min(smaller.size) < 64 else smaller.save(file, "JPEG", quality=90)
    return file.getvalue()


def prepared(path: Path, only: str | None = None) -> list[Part]:
    """Read what `prepare` wrote; some sets by the beginnings of their names."""
    wanted = [name.strip().casefold() for name in (only or "").split(",") if name.strip()]
    found = []
    with np.load(path, allow_pickle=False) as arrays:
        for entry in map(json.loads, arrays["about"].tolist()):
            name = entry["name"]
            if wanted and not any(name.casefold().startswith(start) for start in wanted):
                continue
            ends = arrays[f"{entry['store']}/ends"].tolist()
            starts = [0, *ends[:-1]]
            content = arrays[f"{entry['store']}/bytes"].tobytes()
            pictures = [content[starts[row] : ends[row]] for row in arrays[f"{name}/rows"].tolist()]
            own = {key: entry[key] for key in ("kind", "classes", "flips", "turns", "split")}
            y, groups, parts = (arrays[f"{name}/{key}"] for key in ("y", "groups", "parts"))
            found.append(Part(name=name, pictures=pictures, y=y, groups=groups, parts=parts.astype(np.int64), **own))
    return found


def pixels(pictures: Sequence[bytes], side: int) -> Tensor:
    """Decoded pictures, squashed to a square where they are larger: uint8 of shape (n, 3, s, s), s at most `side`."""

    def decode(content: bytes) -> UInt8Array:
        with Image.open(io.BytesIO(content)) as picture:
            rgb = picture.convert("RGB")
        own = min(side, max(rgb.size))
        if rgb.size != (own, own):
            rgb = rgb.resize((own, own), Image.Resampling.BICUBIC)
        return np.asarray(rgb)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        decoded = list(pool.map(decode, pictures))
    largest = max(one.shape[0] for one in decoded)
    for number, one in enumerate(decoded):
        if one.shape[0] < largest:
            decoded[number] = np.asarray(Image.fromarray(one).resize((largest, largest), Image.Resampling.BICUBIC))
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).contiguous()


def network(outputs: int, size: int) -> nn.Module:
    """ResNet-18 with random weights; for tiny pictures without the strides of its stem."""
    made: nn.Module = torchvision.models.resnet18(weights=None, num_classes=outputs, zero_init_residual=True)
    if size < 64:
        made.set_submodule("conv1", nn.Conv2d(3, 64, 3, padding=1, bias=False))
        made.set_submodule("maxpool", nn.Identity())
    return made


class Augment:
    """Pictures of a set as input of the network, on its device; random where it trains.

    Parameters
    ----------
    part : Part
    stored : Tensor of shape (n, 3, s, s), uint8
    size : int
        Side of the input.
    """

    def __init__(self, part: Part, stored: Tensor, size: int) -> None:
        self.stored, self.size, self._part = stored, size, part
        rows = torch.from_numpy(np.flatnonzero(part.parts == TRAIN)).to(stored.device)
        some = stored[rows[:2000]].float() / 255
        self._mean = some.mean((0, 2, 3)).view(1, 3, 1, 1)
        self._std = some.std((0, 2, 3)).clamp_min(0.01).view(1, 3, 1, 1)
        self._colour = bool((some[:, 0] - some[:, 2]).abs().mean() > 0.01)

    def __call__(self, rows: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Normalised pictures of shape (b, 3, size, size); augmented if there is a generator."""
        x = self.stored[rows].float().div_(255)
        n, device = len(rows), x.device
        if generator is None:
            if x.shape[-1] != self.size:
                x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", antialias=x.shape[-1] > self.size)
            return x.sub_(self._mean).div_(self._std).contiguous(memory_format=torch.channels_last)

        def drawn(low: float, high: float, *shape: int) -> Tensor:
            return torch.empty(n, *shape).uniform_(low, high, generator=generator).to(device)

        area, ratio = drawn(*AREA), drawn(math.log(RATIO[0]), math.log(RATIO[1])).exp()
        wide, high = (area * ratio).sqrt().clamp_max(1), (area / ratio).sqrt().clamp_max(1)
        across, down = drawn(-1, 1) * (1 - wide), drawn(-1, 1) * (1 - high)
        if "h" in self._part.flips:
            wide = wide * drawn(-1, 1).sign()
        if "v" in self._part.flips:
            high = high * drawn(-1, 1).sign()
        angle = drawn(-1, 1) * math.radians(self._part.turns)
        cos, sin = angle.cos(), angle.sin()
        theta = torch.stack([wide * cos, -high * sin, across, wide * sin, high * cos, down], 1).view(n, 2, 3)
        grid = F.affine_grid(theta, [n, 3, self.size, self.size], align_corners=False)
        x = F.grid_sample(x, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        x = x * drawn(1 - JITTER, 1 + JITTER, 1, 1, 1)
        middle = x.mean((1, 2, 3), keepdim=True)
        x = (x - middle) * drawn(1 - JITTER, 1 + JITTER, 1, 1, 1) + middle
        if self._colour:
            grey = x.mean(1, keepdim=True)
            x = (x - grey) * drawn(1 - JITTER, 1 + JITTER, 1, 1, 1) + grey
        return x.clamp_(0, 1).sub_(self._mean).div_(self._std).contiguous(memory_format=torch.channels_last)


class Loss:
    """Weighted by class; several labels: unknown ones masked."""

    def __init__(self, part: Part, device: torch.device) -> None:
        y = part.y[part.parts == TRAIN]
        self._several = y.ndim == 2
        if self._several:
            positive, negative = (np.nansum(side, axis=0) for side in (y, 1 - y))
            weight = np.clip(negative / np.maximum(positive, 1), 0.1, 10)
        else:
            counts = np.bincount(y.astype(int), minlength=len(part.classes))
            weight = np.clip(len(y) / len(part.classes) / np.maximum(counts, 1), 0.1, 10)
        self._weight = torch.tensor(weight, dtype=torch.float32, device=device)

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Mean loss of a batch."""
        if not self._several:
            return F.cross_entropy(logits, y.long(), self._weight)
        known = ~y.isnan()
        losses = F.binary_cross_entropy_with_logits(
            logits, y.nan_to_num(0).float(), pos_weight=self._weight, reduction="none"
        )
        return (losses * known).sum() / known.sum().clamp_min(1)


def probabilities(part: Part, logits: Tensor) -> FloatArray:
    """Logits of shape (n, classes) as probabilities, float32."""
    made = logits.float().sigmoid() if part.kind == "multi-label" else logits.float().softmax(1)
    values: FloatArray = made.cpu().numpy()
    return values


def auc(part: Part, rows: IntArray, scores: FloatArray) -> float:
    """The metric of all tables, without interval; -1 where a part has one class only."""
    found = evaluate(part.y[rows], scores, part.classes, part.kind, part.groups[rows], n_boot=0).auc
    return -1.0 if found is None else found


def fit(part: Part, recipe: Recipe, size: int, device: torch.device, seed: int, deadline: float) -> dict[str, Any]:
    """Train once; the best epoch's weights score the test part.

    Parameters
    ----------
    part, recipe
    size : int
        Side of the input.
    device : torch.device
    seed : int
    deadline : float
        Of `time.monotonic`; the epoch that runs then is the last.

    Returns
    -------
    dict
        "val_auc", "test" (predictions), "epochs", "best_epoch", "stopped", "seconds", "cpu_seconds".
    """
    wall, cpu = time.monotonic(), time.process_time()
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    stored = pixels(part.pictures, max(32, math.ceil(size * 8 / 7))).to(device)
    y = torch.from_numpy(part.y.astype(np.float32)).to(device)
    train, val, test = (np.flatnonzero(part.parts == k) for k in (TRAIN, VAL, TEST))
    batch = 32 if len(train) < 600 else 64 if len(train) < 3000 else 128
    epochs = min(120, max(30, SEEN // len(train)))
    steps = max(1, len(train) // batch)
    planned = epochs
    inputs, loss_of = Augment(part, stored, size), Loss(part, device)
    model = network(len(part.classes), size).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = _optimizer(model, recipe, device)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, steps * epochs))
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" or _bfloat16_here())
    best: tuple[float, float] = (-math.inf, -math.inf)
    kept, best_epoch, stopped, epoch, done = copy.deepcopy(average.state_dict()), 0, "all epochs", 0, 0
    since = wall

    def logits(rows: IntArray) -> Tensor:
        places = torch.from_numpy(rows).to(device)
        with torch.inference_mode(), autocast:
            return torch.cat([average(inputs(some)).float() for some in _batches(places, 256)])

    while epoch < epochs:
        epoch += 1
        if epoch in (2, 4):  # the first is slower; the schedule is to end in time
            since = time.monotonic() if epoch == 2 else since
            if epoch == 4:
                each = (time.monotonic() - since) / 2
                epochs = max(epoch, min(epochs, epoch - 1 + int((deadline - time.monotonic()) / each)))
        model.train()
        order = torch.from_numpy(train)[torch.randperm(len(train), generator=generator)].to(device)
        for rows in _batches(order[: steps * batch], batch):
            with autocast:
                found = model(inputs(rows, generator))
            loss = loss_of(found.float(), y[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            done += 1
            _follow(average, model, min(0.99, (1 + done) / (10 + done)))
        made = logits(val)
        lost = loss_of(made, y[torch.from_numpy(val).to(device)]).item()
        now = (round(auc(part, val, probabilities(part, made)), 4), -lost)
        if now > best:
            best, best_epoch = now, epoch
            kept = copy.deepcopy(average.state_dict())
        if epoch - best_epoch >= max(10, epochs // 3):
            stopped = "no better epoch"
            break
        if time.monotonic() > deadline:
            stopped = "out of time"
            break
    average.load_state_dict(kept)
    predicted = probabilities(part, logits(test))
    return {
        "seed": seed,
        "recipe": asdict(recipe),
        "val_auc": best[0],
        "test": predicted,
        "epochs": epoch,
        "of_epochs": epochs,
        "planned_epochs": planned,
        "best_epoch": best_epoch,
        "batch": batch,
        "stopped": stopped,
        "seconds": round(time.monotonic() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }


def _batches(rows: Tensor, size: int) -> Iterator[Tensor]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _optimizer(model: nn.Module, recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    """No decay of biases and batch norms."""
    flat = [p for p in model.parameters() if p.ndim < 2]
    deep = [p for p in model.parameters() if p.ndim >= 2]
    groups = [{"params": deep, "weight_decay": recipe.decay}, {"params": flat, "weight_decay": 0.0}]
    fused = device.type == "cuda"
    if recipe.optimizer == "AdamW":
        return torch.optim.AdamW(groups, lr=recipe.rate, fused=fused)
    return torch.optim.SGD(groups, lr=recipe.rate, momentum=0.9, nesterov=True, fused=fused)


def _warm_cosine(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _follow(average: nn.Module, model: nn.Module, keep: float) -> None:
    """Move the average towards the model: batch norms' statistics too."""
    own, new = ([v for v in m.state_dict().values() if v.is_floating_point()] for m in (average, model))
    torch._foreach_lerp_(own, new, 1 - keep)


def _bfloat16_here() -> bool:
    question = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(question and question())


def pack(values: FloatArray) -> str:
    """An array as text: float16, little-endian, base64."""
    return base64.b64encode(values.astype("<f2").tobytes()).decode()


def unpack(text: str, columns: int) -> FloatArray:
    """The array of shape (n, columns) that `pack` wrote, float32."""
    return np.frombuffer(base64.b64decode(text), "<f2").reshape(-1, columns).astype(np.float32)


def train(
    path: Path, name: str, recipes: Sequence[Recipe], seed: int, needs: float = 0, **how: Any
) -> tuple[str, list[dict[str, Any]]]:
    """Train one set with one seed, unless it needs more time than is left; the recipe that validates best first."""
    if time.monotonic() + needs > how["end"]:
        return name, []
    device = torch.device(how["device"])
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_num_threads(max(1, (os.cpu_count() or 2) // how["jobs"]))
    (part,) = [one for one in prepared(path, name) if one.name == name]
    tiny = Image.open(io.BytesIO(part.pictures[0])).size[0] <= 64
    size = how["tiny"] if tiny else how["size"]
    runs = []
    for number, recipe in enumerate(recipes):
        left = how["end"] - time.monotonic()
        if number and left < 0:
            break
        limit = time.monotonic() + min(how["seconds"], max(0.0, left)) / len(recipes)
        runs.append(fit(part, recipe, size, device, seed, limit) | {"size": size})
    return name, sorted(runs, key=lambda run: -run["val_auc"])


def trainings(path: Path, names: Sequence[str], seeds: int, jobs: int, **how: Any) -> Iterator[tuple[str, Any]]:
    """All sets with the first seed, then the others; `jobs` at a time."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        first: dict[Future[Any], str] = {
            pool.submit(train, path, name, RECIPES, 0, jobs=jobs, **how): name for name in names
        }
        pending: set[Future[Any]] = set(first)
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                name, runs = future.result()
                yield name, runs
                if future in first and runs[0]["stopped"] != "out of time":
                    chosen = Recipe(**runs[0]["recipe"])
                    needs = runs[0]["seconds"]
                    for seed in range(1, seeds):
                        pending.add(pool.submit(train, path, name, (chosen,), seed, needs, jobs=jobs, **how))


def summary(part: Part, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One set's runs as JSON: the recipe that validated best, per seed, with the tried ones beside it."""
    rows = np.flatnonzero(part.parts == TEST)
    tried = [run for run in runs if run["seed"] == 0]
    best = max(tried, key=lambda run: run["val_auc"])
    kept = [best, *sorted((run for run in runs if run["seed"]), key=lambda run: run["seed"])]
    scores = [evaluate(part.y[rows], run["test"], part.classes, part.kind, part.groups[rows]) for run in kept]
    areas = [float(s.auc or 0) for s in scores]
    return {
        "n": {name: int((part.parts == k).sum()) for k, name in enumerate(("train", "val", "test"))},
        "split": part.split,
        "groups_in_test": len(np.unique(part.groups[rows])),
        "kind": part.kind,
        "classes": part.classes,
        "size": best["size"],
        "auc": round(float(np.mean(areas)), 4),
        "auc_seeds": [round(area, 4) for area in areas],
        "auc_interval": [round(v, 4) for v in scores[0].auc_interval or ()],
        "accuracy": round(float(np.mean([s.accuracy or 0 for s in scores])), 4),
        "recipe": best["recipe"],
        "tried": [{key: value for key, value in run.items() if key != "test"} for run in runs],
        "seconds_of_one": best["seconds"],
        "cpu_seconds_of_one": best["cpu_seconds"],
        "predictions": [pack(run["test"]) for run in kept],
    }


def main() -> None:
    """Parse, prepare or train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    first = verbs.add_parser("prepare")
    first.add_argument("data", type=Path)
    first.add_argument("file", type=Path)
    first.add_argument("--few", type=int, help="at most so many groups of each part, for trying")
    second = verbs.add_parser("train")
    second.add_argument("file", type=Path)
    second.add_argument("--out", type=Path, required=True)
    second.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    second.add_argument("--size", type=int, help="side of the input; 224 on a GPU, 80 on a processor by default")
    second.add_argument("--tiny", type=int, help="the same for MedMNIST; 224 on a GPU, 28 on a processor")
    second.add_argument("--seeds", type=int, default=1)
    second.add_argument("--jobs", type=int, default=1, help="sets that train at a time")
    second.add_argument("--seconds", type=float, default=1800, help="at most for a set with a seed")
    second.add_argument("--total", type=float, default=1e9, help="at most for all of it")
    second.add_argument("--commit", default="", help="for the record, where git is not")
    for verb in (first, second):
        verb.add_argument("--only", help="beginnings of sets' names, divided by commas")
    arguments = parser.parse_args()
    if arguments.verb == "prepare":
        prepare(arguments.data.resolve(), arguments.file, arguments.only, arguments.few)
        return
    started = time.monotonic()
    on_gpu = arguments.device.startswith("cuda")
    parts = {part.name: part for part in prepared(arguments.file, arguments.only)}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in parts}
    how = {
        "device": arguments.device,
        "size": arguments.size or (224 if on_gpu else 80),
        "tiny": arguments.tiny or (224 if on_gpu else 28),
        "seconds": arguments.seconds,
        "end": started + arguments.total,
    }
    # The largest first, so that none is left alone at the end.
    names = sorted(parts, key=lambda name: -int((parts[name].parts == TRAIN).sum()))
    for name, made in trainings(arguments.file, names, arguments.seeds, arguments.jobs, **how):
        runs[name] += made
        for run in made:
            told = " ".join(f"{key}={run[key]}" for key in ("seed", "val_auc", "epochs", "stopped", "seconds"))
            print(f"{time.monotonic() - started:6.1f} s  {name}: {run['recipe']['optimizer']} {told}", flush=True)
        result = {
            "benchmark": "rival",
            "commit": arguments.commit or commit(),
            "machine": machine(),
            "device": torch.cuda.get_device_name(0) if on_gpu else "cpu",
            "versions": versions("torch", "torchvision", "numpy", "pillow"),
            "seconds": round(time.monotonic() - started, 1),
            "jobs": arguments.jobs,
            "recipe": " ".join(str(__doc__).partition("The recipe: ")[2].split()),
            "sets": {key: summary(parts[key], runs[key]) for key in parts if runs[key]},
        }
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, row in result["sets"].items():
        print(f"{name}: AUC {row['auc']} {row['auc_seeds']}, {row['recipe']['optimizer']}, {row['size']} px")


if __name__ == "__main__":
    main()
