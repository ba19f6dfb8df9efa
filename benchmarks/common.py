"""What the benchmarks share: paired timing, the machine, versions, and results as JSON."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Processor, cores, memory and system."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }


def commit() -> str:
    """The commit that is measured; "+" where the working tree differs from it.

    A copy without its history is told by the environment variable BENCHMARK_COMMIT.
    """
    if told := os.environ.get("BENCHMARK_COMMIT"):
        return told
    root = Path(__file__).parents[1]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--", "vecstore", "cli", "benchmarks/*.py")
    return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")


def versions(*names: str) -> dict[str, str]:
    """Versions of installed packages."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def timed(function: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def rounds(functions: Mapping[str, Callable[[], Any]], repeat: int) -> dict[str, dict[str, Any]]:
    """Call each function in turn, `repeat` times round, after one round that does not count.

    Turns, not blocks: when the machine slows down, it slows down for all.

    Returns
    -------
    dict
        Name to "wall_s" and "cpu_s" (medians) and "wall_range_s".
    """
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for turn in range(repeat + 1):
        for name, function in functions.items():
            seconds = timed(function)
            if turn:
                taken[name].append(seconds)
    return {
        name: {
            "wall_s": round(statistics.median(wall for wall, _ in times), 4),
            "cpu_s": round(statistics.median(cpu for _, cpu in times), 4),
            "wall_range_s": [round(min(wall for wall, _ in times), 4), round(max(wall for wall, _ in times), 4)],
        }
        for name, times in taken.items()
    }


def peak_mib() -> float:
    """Peak resident memory of this process, MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 if sys.platform != "darwin" else 1024**2), 1)


def write(name: str, result: Mapping[str, Any], packages: Sequence[str], quick: bool) -> Path | None:
    """Write a result with machine, versions and commit; a quick run is printed and not kept.

    Where parts are measured in several environments, the version of a peer that is not in this one stays.
    """
    path = RESULTS / f"{name}.json"
    told = versions("vecstore", *packages)
    if path.is_file() and not quick:
        before = json.loads(path.read_text(encoding="utf-8")).get("versions", {})
        told |= {one: before[one] for one, number in told.items() if number == "not installed" and one in before}
    full = {
        "benchmark": name,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "versions": told,
        **result,
    }
    text = json.dumps(full, indent=1, ensure_ascii=False)
    print(text)
    if quick:
        return None
    RESULTS.mkdir(exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
    return path
