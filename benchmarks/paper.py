"""The paper's experiment: frozen vectors and simple classifiers, their floors, and a network trained from scratch.

    python benchmarks/paper.py DATA [--work DIR] [--encoder NAME --weights FILE]... [--only SETS] [--part PART]

DATA is the folder of the sets (see `paper_sets.py`). Everything goes through `vecstore.ingest`, `label` and `train`;
the stores are kept in DIR, so that a second run embeds nothing. The rival is trained by `rival.py` (on a GPU if there
is one) and read from `results/paper_rival.json`. Every figure goes to `results/paper.json`; `--only` and `--part` renew
some of them.

Parts: `scores` (every encoder and model), `floors` (shuffled labels, pixels, random weights, metadata), `holdout` (the
split of the rival), `recipe` (what to pool: inner cross-validation on development parts, the test parts unseen) and
`stages` (what `+stages` costs with other networks, random weights; not of a set).
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import floors
import numpy as np
import numpy.typing as npt
import paper_sets
import rival
from common import RESULTS, rounds, write
from paper_sets import TEST, VAL, Set

import vecstore as vs
from vecstore.probes import MODELS, LogisticProbe
from vecstore.probes.auc import Ranking, resamples
from vecstore.probes.metrics import Scores, evaluate
from vecstore.records import DoubleArray, IntArray, TaskKind

PARTS = ("scores", "floors", "holdout", "recipe", "stages")
PACKAGES = ["torch", "torchvision", "timm", "open_clip_torch", "numpy", "scikit-learn"]

PUBLISHED = {
    "source": "MedMNIST v2 (Yang et al., Scientific Data 2023), table of AUCs; compared with second-hand copies of it: "
    "pneumonia, retina, and for breast ResNet-18 (28) and Google AutoML Vision; the rest cited and not compared",
    "columns": [
        "ResNet-18 (28)",
        "ResNet-18 (224)",
        "ResNet-50 (28)",
        "ResNet-50 (224)",
        "auto-sklearn",
        "AutoKeras",
        "Google AutoML Vision",
    ],
    "auc": {
        "BreastMNIST": [0.901, 0.891, 0.857, 0.866, 0.836, 0.871, 0.919],
        "PneumoniaMNIST": [0.944, 0.956, 0.948, 0.962, 0.942, 0.947, 0.991],
        "RetinaMNIST": [0.717, 0.710, 0.726, 0.716, 0.690, 0.719, 0.750],
    },
}
GOALS = {"BreastMNIST": 0.926, "PneumoniaMNIST": 0.963, "RetinaMNIST": 0.737}

RECIPES = {
    "last layer, mean": "last",
    "stem and stages 0-5, mean and std": "stages",
    "the same, with the mirrored picture": "mirrored",
    "the same and the last layer": "both",
    "stages, mean alone": "mean",
    "stages, std alone": "std",
    "without stem and stage 0": "late",
}
_WIDTHS = (32, 16, 24, 40, 80, 112, 192)
"""Channels of the stem and of stages 0 to 5; each gives its means, then its deviations."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An encoder of this run: its name, its weights if given, and the space it makes."""

    name: str
    weights: Path | None
    space: str


class Timer:
    """Wall and CPU seconds of a block."""

    def __enter__(self) -> Timer:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu


class Bench:
    """One set: its store, its task, and everything that is asked of them.

    Parameters
    ----------
    data, work : Path
        Folder of all sets, and of the stores.
    one : Set
    """

    def __init__(self, data: Path, work: Path, one: Set) -> None:
        self.one, self._data, self.work = one, data, work
        self._path = work / f"{one.store}.vecs"

    def embed(self, asked: Asked) -> dict[str, Any]:
        """Embed the set, unless the store has the space; what it cost then is kept beside the store.

        A run that went on where another was ended embeds fewer `pictures` than the store then has (`of`).
        """
        costs = self.work / "embedding.json"
        known = json.loads(costs.read_text(encoding="utf-8")) if costs.is_file() else {}
        key = f"{self.one.store} {asked.space}"
        with Timer() as timer:
            done = vs.ingest(
                self._path,
                paper_sets.archive(self._data, self.one),
                encoder=asked.name,
                space=asked.space,
                weights=asked.weights,
                thumbnails=False,
            )
        if done.embedded:
            known[key] = {
                "pictures": done.embedded,
                "of": len(self.store.embedded(self.store.space(asked.space))),
                "seconds": round(timer.wall, 1),
                "cpu_seconds": round(timer.cpu, 1),
                "dim": self.store.space(asked.space).passport.dim,
            }
            costs.write_text(json.dumps(known, indent=1), encoding="utf-8")
        paper_sets.labelled(self.store, self._data, self.one)
        if key not in known:
            raise SystemExit(
                f"{self._path}: embedded by a run that was ended before it could say at what cost; delete it"
            )
        found: dict[str, Any] = known[key]
        return found

    @property
    def store(self) -> vs.Store:
        """The newest state."""
        return vs.open(self._path)

    def dataset(self, space: str) -> vs.Dataset:
        """Labelled items with their vectors of a space."""
        return vs.dataset(self.store, self.one.task, space=space)

    def train(self, space: str, model: str, task: str | None = None, **how: Any) -> tuple[dict[str, Any], vs.Probe]:
        """Train through the library; what the table says of it, and the probe."""
        with Timer() as timer:
            probe = vs.train(self.store, task or self.one.task, model=model, space=space, **how)
        assert probe.record.pixels_read == 0
        told = _of(probe) | {"seconds": round(timer.wall, 2), "cpu_seconds": round(timer.cpu, 2)}
        return told, probe

    def trained(self, space: str, model: str) -> tuple[dict[str, Any], vs.Probe] | None:
        """The newest model of a kind as the store has it, scored again on the official test part; None if none."""
        found = [
            known.id
            for known in self.store.models(self.one.task)
            if known.record["model"] == model and known.record["space"] == space and known.record["part"] == "test"
        ]
        if not found:
            return None
        probe = vs.evaluate(self.store, self.one.task, model=found[-1])
        seconds = probe.record.seconds
        return _of(probe) | {"seconds": round(sum(seconds.values()), 2)}, probe


def _of(probe: vs.Probe) -> dict[str, Any]:
    record = probe.record
    return {
        "auc": _rounded(record.auc),
        "auc_interval": [_rounded(v) for v in record.auc_interval or ()],
        "accuracy": _rounded(record.accuracy),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _told(scores: Scores) -> dict[str, Any]:
    return {"auc": _rounded(scores.auc), "auc_interval": [_rounded(v) for v in scores.auc_interval or ()]}


def scores(bench: Bench, asked: list[Asked]) -> dict[str, Any]:
    """Every encoder and model on a set: official test part, or out of fold."""
    found: dict[str, Any] = {"encoders": {}}
    for encoder in asked:
        cost = bench.embed(encoder)
        models = {}
        for model in MODELS:
            models[model], probe = bench.train(encoder.space, model)
            record = probe.record
        found["encoders"][encoder.space] = {"encoder": encoder.name, "embedding": cost, "models": models}
    return found | {
        "kind": record.kind,
        "classes": record.classes,
        "part": record.part,
        "n": record.n,
        "groups": record.groups,
        "group_column": record.group_column,
        "trained_on": record.trained_on,
        "notes": record.notes,
    }


def floor_scores(bench: Bench, asked: list[Asked]) -> dict[str, Any]:
    """What the scores have to beat, by the same probe on the same parts."""
    bench.embed(asked[0])
    data = bench.dataset(asked[0].space)
    found: dict[str, Any] = {}
    for name in ("pixels", "random"):
        space = f"floor-{name}"
        bench.embed(Asked(f"floor:{name}", None, space))
        found["raw pixels, 32 × 32" if name == "pixels" else f"random weights, {asked[0].space}"] = bench.train(
            space, "probe"
        )[0]
    for encoder in asked[1:]:
        space = f"random-{encoder.space}"
        file = floors.random_weights(encoder.name, bench.work)
        bench.embed(Asked(encoder.name, file, space))
        found[f"random weights, {encoder.space}"] = bench.train(space, "probe")[0]
    y = floors.shuffled(data)
    # No grid that widens: where there is nothing to find, it would without end.
    found["shuffled labels"] = _fitted(data, data.vectors(), y, strengths=np.logspace(-4, 2, 10))
    known, used = floors.metadata(bench.store, data, bench.one.known)
    if known.shape[1]:
        found["metadata alone"] = _fitted(data, known, data.y) | {"columns": used}
    return found


def _fitted(
    data: vs.Dataset, X: npt.NDArray[np.floating[Any]], y: npt.NDArray[np.generic], **how: Any
) -> dict[str, Any]:
    """The probe on any matrix, judged as `train` judges."""
    development = ~data.test
    official = bool(data.test.any())
    probe = LogisticProbe(nested=not official, **how)
    probe.fit(X[development], y[development], groups=data.groups[development])
    rows = data.test if official else development
    made = probe.predict_proba(X[rows]) if official else probe.oof_
    return _told(evaluate(y[rows], made, data.classes, data.task.kind, data.groups[rows]))


def holdout(bench: Bench, asked: list[Asked], against: dict[str, Any] | None) -> dict[str, Any]:
    """The split of the rival: every encoder and model, and the difference to the rival, resample by resample."""
    store, found = bench.store, {}
    for encoder in asked:
        bench.embed(encoder)
        data = bench.dataset(encoder.space)
        parts = paper_sets.holdout(store, data)
        split = paper_sets.split_digest(store, data, parts)
        if against is not None and against["split"] != split:
            raise SystemExit(f"{bench.one.name}: the rival was trained on another split; prepare and train it again")
        official = bool(data.test.any())
        task = bench.one.task if official else paper_sets.holdout_task(store, data, parts)
        rows = np.flatnonzero(parts == TEST)
        models: dict[str, Any] = {}
        for model in MODELS:
            known = bench.trained(encoder.space, model) if official else None
            how = {"classes": data.classes, "group": _group(data)}
            models[model], probe = known or bench.train(encoder.space, model, task, **how)
            if not np.array_equal(probe.items, data.items[rows]):
                raise SystemExit(f"{bench.one.name}: the test part of the vectors is not the rival's")
            if against is not None:
                models[model]["minus_rival"] = _against(data, rows, probe.probabilities, against)
        fewer = paper_sets.holdout_task(store, data, parts, np.flatnonzero(parts != VAL))
        models["probe"]["auc_without_val"] = bench.train(
            encoder.space, "probe", fewer, classes=data.classes, group=_group(data)
        )[0]["auc"]
        found[encoder.space] = models
    return {"n": {name: int((parts == k).sum()) for k, name in enumerate(("train", "val", "test"))}, "encoders": found}


def _group(data: vs.Dataset) -> str:
    return data.group_column or "none"


def _against(data: vs.Dataset, rows: IntArray, ours: DoubleArray, against: dict[str, Any]) -> dict[str, Any]:
    """AUC of the vectors minus the rival's mean over seeds, with the interval over the same resamples of groups."""
    theirs = [rival.unpack(text, len(data.classes)).astype(np.float64) for text in against["predictions"]]
    y, groups = data.y[rows], np.unique(data.groups[rows], return_inverse=True)[1].astype(np.int64)
    kind = data.task.kind
    blocks = [
        _areas(y, ours, kind, groups, drawn) - np.mean([_areas(y, one, kind, groups, drawn) for one in theirs], axis=0)
        for drawn in (np.ones((1, int(groups.max()) + 1)), *resamples(groups, 1000, 0))
    ]
    resampled = np.concatenate(blocks[1:])
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return {"auc": round(float(blocks[0][0]), 4), "interval": [round(float(low), 4), round(float(high), 4)]}


def _areas(
    y: npt.NDArray[np.generic], made: DoubleArray, kind: TaskKind, groups: IntArray, drawn: DoubleArray
) -> DoubleArray:
    """Mean AUC under each resample."""
    columns = range(made.shape[1] - 1, made.shape[1]) if kind == "binary" else range(made.shape[1])
    areas = []
    for k in columns:
        truth = y[:, k].astype(np.float64) if y.ndim == 2 else (y == k).astype(np.float64)
        known = ~np.isnan(truth)
        areas.append(Ranking(made[known, k], truth[known] == 1)(drawn[:, groups[known]]))
    found = np.stack(areas)
    with np.errstate(invalid="ignore"):  # a resample without one class has no AUC, as in `evaluate`
        means: DoubleArray = np.nansum(found, axis=0) / (~np.isnan(found)).sum(axis=0)
    return means


def recipe(bench: Bench) -> dict[str, Any]:
    """What to pool, by cross-validation inside the development part of the hold-out split."""
    spaces = {"stages": "bundled", "last": "floor:last", "mirrored": "floor:mirrored"}
    vectors = {}
    for key, name in spaces.items():
        asked = Asked(name, None, name.replace(":", "-"))
        bench.embed(asked)
        data = bench.dataset(asked.space)
        if key == "stages":
            parts = paper_sets.holdout(bench.store, data)
            rows = np.flatnonzero(parts != TEST)
            items = data.items[rows]
        vectors[key] = data.vectors()[np.searchsorted(data.items, items)]
    stages = vectors["stages"]
    edges = np.cumsum([0, *np.repeat(_WIDTHS, 2)])
    column = np.arange(stages.shape[1])
    block = np.searchsorted(edges, column, side="right") - 1
    vectors["mean"], vectors["std"] = stages[:, block % 2 == 0], stages[:, block % 2 == 1]
    vectors["late"] = stages[:, block >= 4]
    vectors["both"] = np.concatenate([stages, vectors["last"]], axis=1)
    data = bench.dataset("bundled")
    y, groups = data.y[rows], data.groups[rows]
    found = {}
    for name, key in RECIPES.items():
        probe = LogisticProbe(nested=True).fit(vectors[key], y, groups=groups)
        found[name] = _told(evaluate(y, probe.oof_, data.classes, data.task.kind, groups)) | {
            "dim": vectors[key].shape[1]
        }
    return found


def stages_cost(work: Path) -> dict[str, Any]:
    """What `+stages` costs beside what the network itself pools: pictures per CPU-second of one thread, in turns."""
    pictures = list(np.random.default_rng(0).integers(0, 256, (32, 256, 256, 3), dtype=np.uint8))
    found = {}
    for name in ("torchvision:resnet50/IMAGENET1K_V2", "open_clip:ViT-B-32/laion2b_s34b_b79k"):
        file = floors.random_weights(name, work)
        encoders = {key: vs.open_encoder(key, weights=file, device="cpu") for key in (name, f"{name}+stages")}
        prepared = [encoders[name].prepare(picture) for picture in pictures]
        calls = {key: functools.partial(encoder.encode, prepared) for key, encoder in encoders.items()}
        times = rounds(calls, 3)
        plain, staged = (times[key]["cpu_s"] for key in encoders)
        found[name] = {
            "compute": [encoder.compute for encoder in encoders.values()],
            "dim": encoders[name].passport.dim,
            "stages_dim": encoders[f"{name}+stages"].passport.dim,
            "per_s": round(len(prepared) / plain, 1),
            "stages_per_s": round(len(prepared) / staged, 1),
            "share": round(staged / plain, 3),
        }
        file.unlink()
    return found


def summary(sets: dict[str, Any]) -> dict[str, Any]:
    """The goals, each with its figures."""
    full = {name: row for name, row in sets.items() if "encoders" in row}
    if not full:
        return {}
    best, probe, knn = {}, [], []
    for name, row in full.items():
        models = {(s, m): v["auc"] for s, e in row["encoders"].items() for m, v in e["models"].items()}
        (space, model), area = max(models.items(), key=lambda entry: entry[1])
        best[name] = {"auc": area, "space": space, "model": model}
        probe.append(row["encoders"]["bundled"]["models"]["probe"]["auc"])
        knn.append(row["encoders"]["bundled"]["models"]["knn"]["auc"])
    told: dict[str, Any] = {
        "best": best,
        "probe mean": round(float(np.mean(probe)), 4),
        "kNN mean": round(float(np.mean(knn)), 4),
        "kNN within 0.01 of the probe": bool(np.mean(knn) >= np.mean(probe) - 0.01),
        "MedMNIST goals": {
            name: {"goal": goal, "best": best[name]["auc"], "met": best[name]["auc"] >= goal}
            for name, goal in GOALS.items()
            if name in best
        },
    }
    judged = {name: row for name, row in sets.items() if "rival" in row and "holdout" in row}
    if judged:
        told["at least the rival"] = {}
        for name, row in judged.items():
            models = {(s, m): v["auc"] for s, e in row["holdout"]["encoders"].items() for m, v in e.items()}
            (space, model), area = max(models.items(), key=lambda entry: entry[1])
            told["at least the rival"][name] = {
                "rival": row["rival"]["auc"],
                "best": area,
                "space": space,
                "model": model,
                "met": area >= row["rival"]["auc"],
            }
    return told


class _Weights(argparse.Action):
    """`--weights` belongs to the `--encoder` before it."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if not namespace.encoder:
            parser.error("--weights comes after the --encoder it belongs to")
        namespace.weights[namespace.encoder[-1]] = values


def main() -> None:
    """Parse, run the parts, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, help="where the stores are kept; a temporary folder by default")
    parser.add_argument("--encoder", action="append", default=[], help="beside bundled; several may be given")
    parser.add_argument("--weights", action=_Weights, type=Path, default={}, help="file for the encoder before it")
    parser.add_argument("--only", help="beginnings of sets' names, divided by commas")
    parser.add_argument("--part", help=f"of: {', '.join(PARTS)}; divided by commas, all by default")
    parser.add_argument("--rival", type=Path, default=RESULTS / "paper_rival.json", help="what rival.py wrote")
    parser.add_argument("--quick", action="store_true", help="one small set, nothing is kept")
    arguments = parser.parse_args()
    wanted = set((arguments.part or ",".join(PARTS)).split(","))
    if not wanted <= set(PARTS):
        parser.error(f"--part: one or more of {', '.join(PARTS)}")
    chosen = paper_sets.chosen("mini" if arguments.quick else arguments.only)  # refused before any work
    work = arguments.work or Path(tempfile.mkdtemp(prefix="paper-"))
    work.mkdir(parents=True, exist_ok=True)
    floors.register()
    asked = [Asked("bundled", None, "bundled")]
    asked += [Asked(name, arguments.weights.get(name), _space(name)) for name in arguments.encoder]
    result = _before(arguments.quick)
    rivals = json.loads(arguments.rival.read_text(encoding="utf-8")) if arguments.rival.is_file() else None
    try:
        if "stages" in wanted and not arguments.quick:
            result["stages_cost"] = stages_cost(work)
            _write(result, rivals, arguments.quick)
        for one in () if wanted == {"stages"} else chosen:
            bench = Bench(arguments.data.resolve(), work, one)
            row = result["sets"].setdefault(one.name, {})
            against = rivals["sets"].get(one.name) if rivals else None
            for part in PARTS:
                if part in wanted - {"stages"}:
                    with Timer() as timer:
                        row.update(_part(part, bench, asked, against))
                    row.setdefault("cpu_seconds", {})[part] = round(timer.cpu, 1)
                    print(f"{one.name}: {part}, {timer.cpu:.0f} CPU-seconds, {timer.wall:.0f} s", flush=True)
            if against is not None:
                row["rival"] = {key: value for key, value in against.items() if key != "predictions"}
            _write(result, rivals, arguments.quick)
    finally:
        if arguments.work is None:
            shutil.rmtree(work, ignore_errors=True)


def _part(part: str, bench: Bench, asked: list[Asked], against: dict[str, Any] | None) -> dict[str, Any]:
    if part == "scores":
        return scores(bench, asked)
    if part == "floors":
        return {"floors": floor_scores(bench, asked)}
    return {"holdout": holdout(bench, asked, against)} if part == "holdout" else {"recipe": recipe(bench)}


def _space(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name).strip("-")


def _before(quick: bool) -> dict[str, Any]:
    """The last result, to be renewed in parts."""
    path = RESULTS / "paper.json"
    last = json.loads(path.read_text(encoding="utf-8")) if path.is_file() and not quick else {}
    return {"sets": last.get("sets", {}), "stages_cost": last.get("stages_cost", {})}


def _write(result: dict[str, Any], rivals: dict[str, Any] | None, quick: bool) -> None:
    order = [one.name for one in paper_sets.SETS if one.name in result["sets"]]
    sets = {name: result["sets"][name] for name in order}
    about = {} if rivals is None else {key: rivals[key] for key in rivals if key not in ("sets", "benchmark")}
    spaces = sorted({space for row in sets.values() for space in row.get("encoders", {})})
    full = {"published": PUBLISHED, "rival": about, "spaces": spaces, "goals": summary(sets), "sets": sets}
    full |= {
        "sets_not_run": [one.name for one in paper_sets.SETS if one.name not in sets],
        "stages_cost": result["stages_cost"],
    }
    write("paper", full, PACKAGES, quick)


if __name__ == "__main__":
    main()
