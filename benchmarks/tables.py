"""The README's tables, made from the results; a test compares them.

python benchmarks/tables.py            writes them into the README
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paper_table

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
MODELS = ("probe", "svm", "knn")
NAMES = {"bundled": "bundled EfficientNet-Lite0", "resnet50": "ResNet-50", "vit_b_32": "ViT-B/32 (open_clip)"}


def _table(header: list[str], rows: list[list[str]], right: int = 1) -> str:
    rule = ["---", *("---:" if right else "---" for _ in header[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])


def _where(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return f"{machine['processor']}, {machine['cores']} cores, {result['date']}, commit {result['commit']}"


def shared_sets(result: dict[str, Any]) -> str:
    """AUC per set and model."""
    rows = []
    for name, row in result["sets"].items():
        probe = row["models"]["probe"]
        cells = []
        for model in MODELS:
            found = row["models"][model]
            low, high = found["auc_interval"]
            cells.append(f"{found['auc']:.3f} ({low:.3f}–{high:.3f})")
        part = f"{probe['part']}, {probe['n']} of {row['pictures']}"
        rows.append([name, f"`{_task(row)}`", part, probe["group_column"] or "none known", *cells])
    header = ["set", "task", "evaluated on", "groups", "logistic regression", "linear SVM", "kNN"]
    text = _table(header, rows, right=0)
    told = [f"- {name}: {note}" for name, row in result["sets"].items() for note in row["models"]["probe"]["notes"]]
    notes = "\n".join(["What `train` says of the pictures it leaves out:", "", *told])
    return f"AUC with 95 % interval, encoder `{result['encoder']}`.\n\n{text}\n\n{notes}"


def _task(row: dict[str, Any]) -> str:
    """The task that a row's last command trains for."""
    words = shlex.split(row["commands"][-1])
    return words[words.index("train") + 2]


def _judged(name: str, value: float) -> str:
    """A goal "at most 0.6 x …" or "at least 6 x …" beside what was measured."""
    found = re.search(r"\b(at most|at least) ([\d.e-]+)", name)
    assert found is not None, name
    bound = float(found[2])
    met = value <= bound if found[1] == "at most" else value >= bound
    return f"{name}: {value}, {'met' if met else '**missed**'}"


def bench_store(result: dict[str, Any]) -> str:
    """Readers side by side."""
    ours = result["readers"]["vecstore"]
    rows = []
    for name, times in result["readers"].items():
        ratio = times["cpu_s"] / ours["cpu_s"]
        rows.append([name, f"{times['wall_s']:.2f} s", f"{times['cpu_s']:.2f} s", f"{ratio:.1f}×"])
    goals = "; ".join(_judged(name, value) for name, value in result["goals"].items())
    text = _table(["reader", "wall", "CPU", "CPU, of ours"], rows)
    return f"{result['what'].capitalize()} ({_where(result)}).\n\n{text}\n\nGoals: {goals}."


def bench_ingest(result: dict[str, Any]) -> str:
    """Pictures per second, per encoder."""
    rows = []
    for name, row in result["encoders"].items():
        stages = row["stages"]
        rows.append(
            [
                NAMES[name],
                f"{row['ours_per_s']}",
                f"{row['plain_per_s']}",
                f"{row['ratio']}×",
                f"{stages['decode_per_s']}",
                f"{stages['encode_per_s']}",
                f"{100 * row['write_share']:.1f} %",
            ]
        )
    header = ["encoder", "vecstore /s", "plain script /s", "ratio", "decoding alone /s", "encoder alone /s", "writing"]
    text = (
        f"{result['pictures']} chest radiographs of 224 × 224 from files to vectors, on {result['device']}"
        f" ({_where(result)}).\n\n{_table(header, rows)}"
    )
    text += (
        "\n\nThe ratio is the median over runs in pairs. Goal 2.5×: "
        + "; ".join(
            f"{NAMES[name]} {'met' if row['ratio'] >= 2.5 else '**missed**'}"
            for name, row in result["encoders"].items()
        )
        + "."
    )
    memory = result["goals"].get("memory flat: MiB for a quarter and all of the pictures")
    if memory is None:
        return text
    quarter, whole = memory["quarter_mib"], memory["all_mib"]
    return f"{text}\n\nPeak memory: {quarter:.0f} MiB for a quarter of the pictures, {whole:.0f} MiB for all."


def paper(result: dict[str, Any]) -> str:
    """The paper's experiment; see `paper_table`."""
    return paper_table.paper(result).strip()


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "shared_sets": shared_sets,
    "bench_store": bench_store,
    "bench_ingest": bench_ingest,
    "paper": paper,
}


def filled(readme: str) -> str:
    """The README's text with every table made anew from its result."""
    for name, make in TABLES.items():
        path = RESULTS / f"{name}.json"
        start, end = f"<!-- table: {name} -->\n", "<!-- end -->"
        if path.is_file() and start in readme:
            before, _, rest = readme.partition(start)
            _, _, after = rest.partition(end)
            readme = before + start + make(json.loads(path.read_text(encoding="utf-8"))) + "\n" + end + after
    return readme


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
