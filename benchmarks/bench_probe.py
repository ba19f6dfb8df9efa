"""The sweep of linear probes against scikit-learn's and PyTorch's solvers, paired in the same run.

    python benchmarks/bench_probe.py [--quick] [--only binary,multinomial,multilabel,threads,scaling,gpu,cli]
                                     [--peer-models N] [--device cpu|cuda]

A run of some parts keeps the others' results; each part says at which commit it ran. CPU-seconds of one thread unless
a part says otherwise. The gap of an objective is relative, to the same model polished by Newton's method in float64
(conjugate gradients inside, the Gram matrix as preconditioner); that reference is itself checked against
scikit-learn's newton-cholesky in float64 at a tight tolerance. Peers get the features centred, as ours centres them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
os.environ.setdefault("MKL_NUM_THREADS", os.environ["OMP_NUM_THREADS"])

import numpy as np
import numpy.typing as npt
import torch
from common import RESULTS, commit, peak_mib, rounds, timed, write
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import roc_auc_score

from vecstore.probes import LogisticProbe
from vecstore.records import DoubleArray, FloatArray, IntArray

THREADS = int(os.environ["OMP_NUM_THREADS"])
torch.set_num_threads(THREADS)
STRENGTHS = np.logspace(-4, 4, 10)
FOLDS = 5
PARTS = ("binary", "multinomial", "multilabel", "threads", "scaling", "gpu", "cli")


def vectors(n: int, d: int, kind: npt.DTypeLike = np.float32, seed: int = 0) -> npt.NDArray[Any]:
    """Unit vectors with a decaying spectrum in 50 clusters, shape (n, d)."""
    rng = np.random.default_rng(seed)
    spectrum = ((1 + np.arange(d)) ** -0.5).astype(np.float32)
    centers = rng.standard_normal((50, d), dtype=np.float32) * spectrum + 0.5 * spectrum[0]
    made = np.empty((n, d), kind)
    for start in range(0, n, 8192):
        size = min(8192, n - start)
        block = rng.standard_normal((size, d), dtype=np.float32) * spectrum + centers[rng.integers(0, 50, size)]
        made[start : start + size] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return made


def labels(X: npt.NDArray[Any], outputs: int, several: bool = False, seed: int = 1) -> IntArray:
    """Noisy labels: a class per row, or with `several` that many indicators of unequal frequency."""
    rng = np.random.default_rng(seed)
    way = rng.standard_normal((X.shape[1], 1 if outputs == 2 else outputs)).astype(np.float32)
    scores = np.concatenate([X[i : i + 8192].astype(np.float32) @ way for i in range(0, len(X), 8192)])
    scores = 2 * (scores - scores.mean(axis=0)) / scores.std(axis=0)
    found: IntArray
    if several:
        found = (scores + rng.logistic(size=scores.shape) > np.linspace(0, 4, outputs)).astype(np.int64)
    elif outputs == 2:
        found = (scores[:, 0] + rng.logistic(size=len(X)) > 0.5).astype(np.int64)
    else:
        found = (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)
    return found


class Reference:
    """Objectives in float64, and where Newton's method takes them.

    Parameters
    ----------
    X : ndarray of shape (n, d)
    y : ndarray of shape (n,), int64
    softmax : bool
        Over all classes, or a sigmoid for class 1.
    """

    def __init__(self, X: FloatArray, y: IntArray, softmax: bool = False) -> None:
        self.X = X.astype(np.float64)
        self.hot = np.eye(int(y.max()) + 1)[y] if softmax else y[:, None].astype(np.float64)
        self.softmax = softmax
        values, self.basis = np.linalg.eigh(self.X.T @ self.X)
        self.values = np.maximum(values, 0)

    def _chances(self, margins: DoubleArray) -> DoubleArray:
        if not self.softmax:
            return 1 / (1 + np.exp(-np.clip(margins, -700, 700)))
        shares = np.exp(margins - margins.max(axis=1, keepdims=True))
        return np.asarray(shares / shares.sum(axis=1, keepdims=True))

    def objective(self, coef: DoubleArray, intercept: DoubleArray, C: float) -> float:
        """For coef of shape (k, d) and intercept of shape (k,)."""
        margins = self.X @ coef.T.astype(np.float64) + intercept
        if self.softmax:
            top = margins.max(axis=1)
            loss = top + np.log(np.exp(margins - top[:, None]).sum(axis=1)) - (margins * self.hot).sum(axis=1)
        else:
            loss = np.logaddexp(0, -(2 * self.hot - 1) * margins)[:, 0]
        return float(loss.sum() + (coef.astype(np.float64) ** 2).sum() / (2 * C))

    def best(self, coef: DoubleArray, intercept: DoubleArray, C: float) -> float:
        """The least objective, by Newton's method from a solution that is nearly there."""
        coef, intercept = coef.astype(np.float64).copy(), np.asarray(intercept, np.float64).copy()
        found = self.objective(coef, intercept, C)
        for _ in range(3):
            chances = self._chances(self.X @ coef.T + intercept)
            gradient = self._with(chances - self.hot) + np.c_[coef / C, np.zeros(len(coef))]
            step = self._solved(chances, gradient, C)
            made = self.objective(coef - step[:, :-1], intercept - step[:, -1], C)
            if made >= found:
                break
            coef, intercept, found = coef - step[:, :-1], intercept - step[:, -1], made
        return found

    def _with(self, residual: DoubleArray) -> DoubleArray:
        return np.asarray(np.c_[residual.T @ self.X, residual.sum(axis=0)])

    def _solved(self, chances: DoubleArray, gradient: DoubleArray, C: float) -> DoubleArray:
        """Hessian⁻¹ gradient by preconditioned conjugate gradients."""
        level = (chances * (1 - chances)).mean(axis=0)[:, None]

        def hessian(way: DoubleArray) -> DoubleArray:
            along = self.X @ way[:, :-1].T + way[:, -1]
            bent = chances * along
            bent -= chances * bent.sum(axis=1, keepdims=True) if self.softmax else chances * bent
            return np.asarray(self._with(bent) + np.c_[way[:, :-1] / C, np.zeros(len(way))])

        def near(of: DoubleArray) -> DoubleArray:
            inside = (of[:, :-1] @ self.basis) / (level * self.values + 1 / C)
            return np.asarray(np.c_[inside @ self.basis.T, of[:, -1:] / (level * len(self.X))])

        step, left = np.zeros_like(gradient), gradient.copy()
        z = near(left)
        way, product = z.copy(), float((left * z).sum())
        first = product
        for _ in range(60):
            image = hessian(way)
            pace = product / float((way * image).sum())
            step += pace * way
            left -= pace * image
            z = near(left)
            before, product = product, float((left * z).sum())
            if product <= 1e-8 * first:
                break
            way = z + product / before * way
        return step


def cpu_s(function: Callable[[], Any]) -> tuple[float, Any]:
    """CPU-seconds of one call, and what it returned."""
    start = time.process_time()
    found = function()
    return round(time.process_time() - start, 3), found


def splits(folds: IntArray, many: int) -> list[tuple[IntArray, IntArray]]:
    """Rows to learn from and rows left out, for the first folds."""
    return [(np.flatnonzero(folds != f), np.flatnonzero(folds == f)) for f in range(many)]


def solved(X: FloatArray, y: IntArray, folds: IntArray, center: DoubleArray) -> Any:
    """The sweep by itself, with the refit on all rows: `Solution`."""
    from vecstore.probes.sweep import Sweep

    left_out = np.vstack([np.zeros(FOLDS, bool), np.eye(FOLDS, dtype=bool)])
    several = y.ndim == 2
    softmax = not several and y.max() > 1
    targets = y.T.astype(np.float32) if several else y[None].astype(np.float32)
    weights = np.ones((1, len(X)))
    return Sweep(X, folds, center, double=False).solve(
        targets, weights, left_out, STRENGTHS, "softmax" if softmax else "logistic"
    )


def worst_gap(
    X: FloatArray, y: IntArray, folds: IntArray, strengths: Sequence[int], many: int, *models: Callable[[int, int], Any]
) -> list[float]:
    """Largest relative gap of each kind of model; each maps (fold, strength) to (coef, intercept), or None."""
    worst = [0.0] * len(models)
    for fold in range(many):
        seen = folds != fold
        reference = Reference(X[seen], y[seen], softmax=bool(y.max() > 1))
        for strength in strengths:
            C = float(STRENGTHS[strength])
            found = [model(fold, strength) for model in models]
            each = [None if one is None else reference.objective(one[0], one[1], C) for one in found]
            best = reference.best(found[0][0], found[0][1], C)
            worst = [w if o is None else max(w, (o - best) / best) for w, o in zip(worst, each, strict=True)]
    return worst


def path(
    X: FloatArray, y: IntArray, cv: list[Any], solver: str, tol: float, max_iter: int, strengths: Any = STRENGTHS
) -> Any:
    """scikit-learn's path over the strengths, each fold warm from the strength before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", FutureWarning)
        made = LogisticRegressionCV(
            Cs=strengths, cv=cv, solver=solver, scoring="roc_auc_ovr", tol=tol, max_iter=max_iter, refit=True
        )
        return made.fit(X, y)


def binary(n: int, d: int, peer_models: int, quick: bool) -> dict[str, Any]:
    """5 folds × 10 strengths."""
    X = vectors(n, d)
    y = labels(X, 2)
    probe = LogisticProbe(strengths=STRENGTHS, scale="none").fit(X, y)
    folds, center = probe.folds_, X.mean(axis=0, dtype=np.float64)
    repeat = 1 if quick else 3
    times = rounds(
        {
            "LogisticProbe.fit, all in": lambda: LogisticProbe(strengths=STRENGTHS, scale="none").fit(X, y),
            "sweep alone": lambda: solved(X, y, folds, center),
        },
        repeat,
    )
    found = solved(X, y, folds, center)
    centered = X - center.astype(np.float32)
    many = min(FOLDS, -(-peer_models // len(STRENGTHS)))
    cv = splits(folds, many)
    peers: dict[str, Any] = {}
    paths = {}
    for peer, (solver, tol, max_iter) in {
        "newton-cholesky path": ("newton-cholesky", 1e-4, 100),
        "lbfgs path, defaults": ("lbfgs", 1e-4, 100),
    }.items():
        taken, paths[peer] = cpu_s(lambda s=solver, t=tol, m=max_iter: path(centered, y, cv, s, t, m))  # type: ignore[misc]
        # Models of all folds and the refit, from those of some folds and the refit.
        share = (FOLDS * len(STRENGTHS) + 1) / (many * len(STRENGTHS) + 1)
        peers[peer] = {"cpu_s_run": taken, "cpu_s": round(taken * share, 2), "extrapolated": many < FOLDS}
    train = cv[0][0]
    one = LogisticRegression(C=1.0, solver="newton-cholesky")
    peers["newton-cholesky, one model"] = {"cpu_s": cpu_s(lambda: one.fit(centered[train], y[train]))[0]}

    def of_path(peer: str) -> Callable[[int, int], Any]:
        key = next(iter(paths[peer].coefs_paths_))
        coefs = paths[peer].coefs_paths_[key]
        return lambda f, s: (coefs[f, s][None, :-1], coefs[f, s][-1:]) if f < len(coefs) else None

    strengths = range(len(STRENGTHS)) if not quick else (0, 9)
    names = list(paths)
    gaps = worst_gap(
        centered, y, folds, strengths, many, lambda f, s: (found.coef[f + 1, s], found.intercept[f + 1, s]),
        *(of_path(peer) for peer in names),
    )  # fmt: skip
    for peer, gap in zip(names, gaps[1:], strict=True):
        peers[peer]["largest_gap"] = float(f"{gap:.2g}")
        scores = paths[peer].scores_[next(iter(paths[peer].scores_))]
        peers[peer]["best_auc"] = round(float(scores.mean(axis=0).max()), 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exact = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12, max_iter=1000)
        exact.fit(centered[train].astype(np.float64), y[train])
    reference = Reference(centered[train], y[train])
    polished = reference.best(exact.coef_.astype(np.float64), exact.intercept_, 1.0)
    peers |= torch_lbfgs(centered[train], y[train], reference, polished)
    ours = times["LogisticProbe.fit, all in"]["cpu_s"]
    return {
        "what": f"binary, {n} x {d}, {FOLDS} folds x {len(STRENGTHS)} strengths, refit; CPU-seconds of one thread",
        "ours": times,
        "largest_gap": float(f"{gaps[0]:.2g}"),
        "best_auc": round(float(probe.cv_auc_.max()), 6),
        "iterations": int(found.iterations.max()),
        "converged": bool(found.converged.all()),
        "peers": peers,
        "reference_against_newton_cholesky_float64": float(
            f"{(reference.objective(exact.coef_, exact.intercept_, 1.0) - polished) / polished:.2g}"
        ),
        "goals": {
            "at least 100 x newton-cholesky path": round(peers["newton-cholesky path"]["cpu_s"] / ours, 1),
            "at least 12 x lbfgs path, defaults": round(peers["lbfgs path, defaults"]["cpu_s"] / ours, 1),
            "largest gap at most 1e-6": float(f"{gaps[0]:.2g}"),
        },
    }


def torch_lbfgs(X: FloatArray, y: IntArray, reference: Reference, best: float, C: float = 1.0) -> dict[str, Any]:
    """PyTorch's L-BFGS on one model of the sweep; and whether cuML is there."""
    features, target = torch.from_numpy(X), torch.from_numpy(y).float()
    weight, intercept = torch.zeros(X.shape[1], requires_grad=True), torch.zeros(1, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, intercept], max_iter=500, tolerance_grad=1e-3, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> torch.Tensor:
        solver.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            features @ weight + intercept, target, reduction="sum"
        )
        loss = loss + weight @ weight / (2 * C)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    taken, _ = cpu_s(lambda: solver.step(closure))  # type: ignore[no-untyped-call]
    coef, at = weight.detach().numpy()[None], intercept.detach().numpy()
    gap = (reference.objective(coef, at, C) - best) / best
    return {
        "torch.optim.LBFGS, one model": {"cpu_s": taken, "gap": float(f"{gap:.2g}"), "models": 1},
        "cuML": _installed("cuml"),
    }


def _installed(module: str) -> str:
    try:
        __import__(module)
    except ImportError:
        return "not installed"
    return "installed"


def multinomial(n: int, d: int, peer_models: int, quick: bool) -> dict[str, Any]:
    """7 classes, one softmax."""
    X = vectors(n, d)
    y = labels(X, 7)
    made = LogisticProbe(strengths=STRENGTHS, scale="none")
    taken, probe = cpu_s(lambda: made.fit(X, y))
    folds, center = probe.folds_, X.mean(axis=0, dtype=np.float64)
    alone, found = cpu_s(lambda: solved(X, y, folds, center))
    centered = X - center.astype(np.float32)
    checked = (2, 5, 8) if not quick else (5,)
    many = min(FOLDS, -(-peer_models // len(STRENGTHS)))
    peers: dict[str, Any] = {}
    mine = worst_gap(centered, y, folds, checked, 1, lambda f, s: (found.coef[f + 1, s], found.intercept[f + 1, s]))[0]
    # All strengths of all folds take hours: with few --peer-models, some of the first fold stand for them.
    some = list(checked) if many < FOLDS else list(range(len(STRENGTHS)))
    share = (FOLDS * len(STRENGTHS) + 1) / (many * len(some) + 1)  # each with its refit
    for tol in (1e-4, 1e-6):
        cost, peer = cpu_s(
            lambda t=tol: path(centered, y, splits(folds, many), "lbfgs", t, 1000, STRENGTHS[some])  # type: ignore[misc]
        )
        coefs = np.stack([peer.coefs_paths_[key] for key in sorted(peer.coefs_paths_)], axis=2)
        gap = worst_gap(
            centered, y, folds, checked, 1,
            lambda f, s: (found.coef[f + 1, s], found.intercept[f + 1, s]),
            lambda f, s, c=coefs: (c[f, some.index(s)][:, :-1], c[f, some.index(s)][:, -1]),  # type: ignore[misc]
        )[1]  # fmt: skip
        peers[f"LogisticRegressionCV(lbfgs), tol={tol:g}"] = {
            "cpu_s_run": cost, "cpu_s": round(cost * share, 1), "extrapolated": many < FOLDS,
            "largest_gap": float(f"{gap:.2g}"), "iterations": int(np.max(peer.n_iter_)), "at_most": 1000,
            "best_auc": round(float(peer.scores_[next(iter(peer.scores_))].mean(axis=0).max()), 6),
        }  # fmt: skip
        if gap <= max(mine, 1e-7):
            break
    last = list(peers.values())[-1]
    return {
        "what": f"7 classes, softmax, {n} x {d}, {FOLDS} folds x {len(STRENGTHS)} strengths; CPU-seconds of one thread",
        "ours": {"LogisticProbe.fit, all in": {"cpu_s": taken}, "sweep alone": {"cpu_s": alone}},
        "largest_gap": float(f"{mine:.2g}"),
        "gap_of": f"fold 0, strengths number {list(checked)}",
        "best_auc": round(float(probe.cv_auc_.max()), 6),
        "iterations": int(found.iterations.max()),
        "peers": peers,
        "goals": {"at least 50 x LogisticRegressionCV(lbfgs) at the same gap": round(last["cpu_s"] / taken, 1)},
    }


def multilabel(n: int, d: int, peer_models: int, quick: bool) -> dict[str, Any]:
    """14 labels, a model each."""
    X = vectors(n, d)
    y = labels(X, 14, several=True)
    made = LogisticProbe(strengths=STRENGTHS, scale="none")
    taken, probe = cpu_s(lambda: made.fit(X, y))
    folds, center = probe.folds_, X.mean(axis=0, dtype=np.float64)
    alone, found = cpu_s(lambda: solved(X, y, folds, center))
    centered = X - center.astype(np.float32)
    many = min(14 * FOLDS, -(-peer_models // len(STRENGTHS)))
    pairs = [(label, fold) for fold in range(FOLDS) for label in (0, 13, *range(1, 13))][:many]
    peers: dict[str, float] = {}
    for solver in ("newton-cholesky", "lbfgs"):
        cost = 0.0
        for label, fold in pairs:
            split = splits(folds, FOLDS)[fold]
            cost += cpu_s(lambda one=label, s=split, how=solver: path(centered, y[:, one], [s], how, 1e-4, 100))[0]  # type: ignore[misc]
        peers[solver] = cost
    gaps = [
        worst_gap(
            centered, y[:, label], folds, (2, 5, 8) if not quick else (5,), 1,
            lambda f, s, one=label: (found.coef[f + 1, s, [one]], found.intercept[f + 1, s, [one]]),  # type: ignore[misc]
        )[0]
        for label in (0, 13)
    ]  # fmt: skip
    # Each path that was run has a refit; in full there is one for a label.
    share = 14 * (FOLDS * len(STRENGTHS) + 1) / (many * (len(STRENGTHS) + 1))
    full = {f"LogisticRegressionCV({k}) per label": round(v * share, 1) for k, v in peers.items()}
    return {
        "what": f"14 labels, {n} x {d}, {FOLDS} folds x {len(STRENGTHS)} strengths; CPU-seconds of one thread",
        "ours": {"LogisticProbe.fit, all in": {"cpu_s": taken}, "sweep alone": {"cpu_s": alone}},
        "largest_gap": float(f"{max(gaps):.2g}"),
        "gap_of": "labels 0 and 13 (the most and the least frequent), fold 0",
        "best_auc": round(float(probe.cv_auc_.max()), 6),
        "peers": {k: {"cpu_s": v, "extrapolated": many < 14 * FOLDS, "paths_run": many} for k, v in full.items()},
        "goals": {"at least 140 x LogisticRegressionCV per label": {k: round(v / taken, 1) for k, v in full.items()}},
    }


def threads(n: int, d: int, peer_models: int, quick: bool) -> dict[str, Any]:
    """Wall seconds by threads, each in a process of its own."""
    walls = {count: min(_child(n, d, "float32", count)["wall_s"] for _ in range(1 if quick else 3)) for count in (1, 2)}
    return {
        "what": f"LogisticProbe.fit, binary, {n} x {d}; wall seconds, the best of {1 if quick else 3}",
        "wall_s": walls,
        "goals": {"two threads at least 1.7 x one": round(walls[1] / walls[2], 2)},
    }


def scaling(n: int, d: int, peer_models: int, quick: bool) -> dict[str, Any]:
    """Time and peak memory by number of rows, float16, each in a process of its own."""
    sizes = (2_000, 4_000) if quick else (10_000, 30_000, 100_000, 300_000, 1_000_000)
    runs = {size: _child(size, d, "float16", THREADS) for size in sizes}
    first, last = runs[sizes[-2]], runs[sizes[-1]]
    return {
        "what": f"LogisticProbe.fit, binary, n x {d} in float16, {FOLDS} folds x {len(STRENGTHS)} strengths",
        "runs": runs,
        "goals": {
            f"{sizes[-1]} x {d} within 6144 MiB": last["peak_mib"],
            f"growth of CPU-seconds by row from {sizes[-2]} to {sizes[-1]}, near 1": round(
                last["cpu_s"] / first["cpu_s"] * sizes[-2] / sizes[-1], 2
            ),
        },
    }


def _child(n: int, d: int, kind: str, count: int, device: str = "cpu") -> dict[str, Any]:
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(count))
    command = [sys.executable, __file__, "--child", str(n), str(d), kind, device]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def child(n: int, d: int, kind: str, device: str) -> None:
    """Fit once and print time and peak memory."""
    X = vectors(n, d, kind)
    y = labels(X, 2)
    before = peak_mib()
    made = LogisticProbe(strengths=STRENGTHS, scale="none", device=device)
    wall, cpu = timed(lambda: made.fit(X, y, groups=np.arange(n)))
    print(
        json.dumps(
            {
                "wall_s": round(wall, 2), "cpu_s": round(cpu, 2), "peak_mib": peak_mib(), "peak_mib_before": before,
                "matrix_mib": round(X.nbytes / 2**20, 1), "best_auc": round(float(made.cv_auc_.max()), 6),
                "converged": made.converged_, "device": made.device_,
            }
        )
    )  # fmt: skip


def gpu(n: int, d: int, peer_models: int, quick: bool) -> dict[str, Any]:
    """The whole sweep on a card, and the share of its measured matrix rate."""
    from vecstore.probes.sweep import Sweep

    if not torch.cuda.is_available():
        raise SystemExit("no CUDA card that torch sees; expected one for --only gpu; run it on a machine with one")
    n = 20_000 if quick else 1_000_000
    X = vectors(n, d, np.float16)
    y = labels(X, 2)
    folds = np.random.default_rng(0).permutation(n) % FOLDS
    center = np.concatenate([X[i : i + 8192].sum(axis=0, dtype=np.float64)[None] for i in range(0, n, 8192)]).sum(0) / n
    left_out = np.vstack([np.zeros(FOLDS, bool), np.eye(FOLDS, dtype=bool)])
    torch.set_num_threads(os.cpu_count() or 1)

    def card_rate(kind: torch.dtype) -> float:
        A = torch.randn(8192, 8192, device="cuda").to(kind)
        A @ A
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(5):
            A @ A
        torch.cuda.synchronize()
        return 5 * 2 * 8192**3 / (time.perf_counter() - start) / 1e12

    rates = {"float32": card_rate(torch.float32), "bfloat16": card_rate(torch.bfloat16)}
    runs, columns = [], 0
    for _ in range(3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        sweep = Sweep(X, folds, center, double=False, device="cuda")
        torch.cuda.synchronize()
        ready = time.perf_counter()
        found = sweep.solve(y[None].astype(np.float32), np.ones((1, n)), left_out, STRENGTHS)
        torch.cuda.synchronize()
        runs.append({"ready_s": round(ready - start, 3), "solve_s": round(time.perf_counter() - ready, 3)})
        columns = int(found.iterations[0].sum() + (FOLDS - 1) / FOLDS * found.iterations[1:].sum())
        del sweep
    solve = min(run["solve_s"] for run in runs)
    rate = columns * 4.0 * n * d / solve / 1e12
    fit_wall, _ = timed(lambda: LogisticProbe(strengths=STRENGTHS, scale="none", device="cuda").fit(
        X, y, groups=np.arange(n)))  # fmt: skip
    some = np.flatnonzero(folds == 0)[: min(n, 100_000)]
    held = found.held_out[1, 0][5, 0][: len(some)]
    return {
        "what": f"binary, {n} x {d} in float16, {FOLDS} folds x {len(STRENGTHS)} strengths, on one card",
        "card": torch.cuda.get_device_name(),
        "runs": runs,
        "fit_all_in_wall_s": round(fit_wall, 2),
        "matrix_rate_tflops": {k: round(v, 1) for k, v in rates.items()},
        "products_tflops": round(rate, 2),
        "share_of_float32_rate": round(rate / rates["float32"], 3),
        "peak_card_mib": round(torch.cuda.max_memory_allocated() / 2**20),
        "auc_of_fold_0": round(float(roc_auc_score(y[some], held)), 6),
        "converged": bool(found.converged.all()),
        "peers": {"cuML": _installed("cuml")},
    }


def cli(n: int, d: int, peer_models: int, quick: bool) -> dict[str, Any]:
    """Label table to result from the command line, over a store of vectors."""
    from bench_store import fill

    n, d = (2_000, 64) if quick else (100_000, 512)
    folder = Path(tempfile.mkdtemp(prefix="bench-probe-"))
    X = vectors(n, d, np.float16)
    fill(folder / "store.vecs", X)
    rows = "".join(f"{i}.png,{'yes' if one else 'no'}\n" for i, one in enumerate(labels(X, 2)))
    (folder / "labels.csv").write_text("path,finding\n" + rows, encoding="utf-8")
    del X
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}

    def call(*arguments: str) -> dict[str, Any]:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        command = [sys.executable, "-m", "vecstore_cli", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=folder)
        wall = time.perf_counter() - start
        if done.returncode:
            raise SystemExit(f"{' '.join(arguments)}: {done.stderr}")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2), "output": done.stdout}

    call("info", "store.vecs")
    labelled = call("label", "store.vecs", "labels.csv", "--task", "finding", "--key", "path", "--value", "finding")
    trained = call("train", "store.vecs", "finding", "--json")
    started = min(call("--help")["wall_s"] for _ in range(3))
    imports = (
        "import vecstore, vecstore_cli.main, vecstore.train, vecstore.probes.logistic, vecstore.probes.sweep, pyarrow"
    )
    start_up = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", imports], env=environment, check=True)
        start_up.append(time.perf_counter() - start)
    seconds = json.loads(trained.pop("output")).get("seconds", {})
    labelled.pop("output")
    whole = labelled["wall_s"] + trained["wall_s"]
    return {
        "what": f"`vecstore label` + `vecstore train`, {n} vectors of {d} dimensions, {cores} cores",
        "label": labelled,
        "train": trained,
        "seconds_in_train": seconds,
        "help_wall_s": started,
        "start_up_wall_s": round(min(start_up), 2),
        "goals": {
            "under 10 s in all": round(whole, 2),
            "reading the vectors under 5 %": round(seconds.get("read", float("nan")) / whole, 4),
            "start-up under 1.5 s": round(min(start_up), 2),
        },
    }


def main() -> None:
    """Run the parts asked for, and keep the results of the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small, nothing is kept")
    parser.add_argument("--only", default="binary,multinomial,multilabel,threads,scaling,cli", help="parts, by commas")
    parser.add_argument("--peer-models", type=int, default=10**6, help="models of the slow peers that are really run")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="cuda: the part gpu alone")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(int(asked.child[0]), int(asked.child[1]), asked.child[2], asked.child[3])
        return
    wanted = ["gpu"] if asked.device == "cuda" else asked.only.split(",")
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; expected some of: {', '.join(PARTS)}")
    target = "bench_probe_gpu" if wanted == ["gpu"] else "bench_probe"
    kept = RESULTS / f"{target}.json"
    parts = json.loads(kept.read_text(encoding="utf-8")).get("parts", {}) if kept.is_file() and not asked.quick else {}
    n, d, models = (3_000, 32, 10) if asked.quick else (100_000, 768, asked.peer_models)
    for part in wanted:
        print(f"{part} …", file=sys.stderr)
        parts[part] = {"commit": commit(), **globals()[part](n, d, models, asked.quick)}
        packages = ["numpy", "scipy", "scikit-learn", "torch"]
        write(target, {"parts": dict(sorted(parts.items()))}, packages, asked.quick)


if __name__ == "__main__":
    main()
