"""From archive to AUC on nine real sets, through the command line alone.

    python benchmarks/shared_sets.py DATA [--quick]

DATA is a folder with one subfolder per set (`images.zip` and `labels.csv`, or MedMNIST files). The commands
that are run are kept in the result, so that every row of the table can be made by hand.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import write

MODELS = ("probe", "svm", "knn")
SETS: dict[str, tuple[str, str, str]] = {
    "Kermany chest X-ray": (
        "cxr_kermany",
        "pneumonia",
        "--key file --value label --split-column split --columns patient",
    ),
    "COVID chest X-ray": (
        "cxr_covid",
        "finding",
        "--key file --value finding --columns patientid,age,sex,view --ignore todo,Unknown",
    ),
    "HAM10000": ("derm_ham10000", "dx", "--key file --value dx --columns lesion_id,age,sex,localization"),
    "ODIR": ("fundus_odir", "findings", "--key file --value N,D,G,C,A,H,M,O --columns patient_id,eye,age,sex"),
    "mini-MIAS": ("mammo_mias", "tissue", "--key file --value tissue --columns patient,side"),
    "BUSI": ("us_busi", "diagnosis", "--key file --value label"),
    "BreastMNIST": ("medmnist/breastmnist.npz", "breastmnist", ""),
    "PneumoniaMNIST": ("medmnist/pneumoniamnist.npz", "pneumoniamnist", ""),
    "RetinaMNIST": ("medmnist/retinamnist.npz", "retinamnist", ""),
}


def run(arguments: list[str]) -> dict[str, Any]:
    """One verb with `--json`; its last line as a dict."""
    done = subprocess.run(
        [sys.executable, "-m", "vecstore_cli", *arguments, "--json"], capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 3):
        raise SystemExit(f"vecstore {shlex.join(arguments)}: {done.returncode}\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(data: Path, folder: Path, name: str, encoder: str) -> dict[str, Any]:
    """All of one set."""
    part, task, label = SETS[name]
    archive = data / part if part.endswith(".npz") else data / part / "images.zip"
    store = folder / f"{task}.vecs"
    commands = [["ingest", str(archive), "--store", str(store), "--encoder", encoder]]
    if label:
        commands.append(["label", str(store), str(data / part / "labels.csv"), "--task", task, *shlex.split(label)])
    started = time.perf_counter()
    results = [run(command) for command in commands]
    row: dict[str, Any] = {
        "pictures": results[0]["added"],
        "ingest_s": round(time.perf_counter() - started, 1),
        "models": {},
    }
    for model in MODELS:
        command = ["train", str(store), task, "--model", model]
        commands.append(command)
        started = time.perf_counter()
        record = run(command)
        kept = (
            "auc",
            "auc_interval",
            "accuracy",
            "part",
            "n",
            "groups",
            "group_column",
            "trained_on",
            "notes",
            "pixels_read",
        )
        row["models"][model] = {key: record[key] for key in kept} | {"train_s": round(time.perf_counter() - started, 1)}
    row["commands"] = [
        "vecstore " + shlex.join(command).replace(str(data), "DATA").replace(f"{folder}/", "") for command in commands
    ]
    return row


def main() -> None:
    """Run the sets, write the result, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--encoder", default="bundled")
    parser.add_argument("--quick", action="store_true", help="one small set, nothing is kept")
    arguments = parser.parse_args()
    names = ["mini-MIAS"] if arguments.quick else list(SETS)
    folder = Path(tempfile.mkdtemp(prefix="shared-sets-"))
    try:
        rows = {name: measure(arguments.data.resolve(), folder, name, arguments.encoder) for name in names}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    write(
        "shared_sets",
        {"encoder": arguments.encoder, "sets": rows},
        ["torch", "timm", "numpy", "scikit-learn"],
        arguments.quick,
    )
    if not arguments.quick:
        print("now: python benchmarks/tables.py")


if __name__ == "__main__":
    main()
