"""The one command: format, lint, types, tests. CI runs the same file.

python tests/check.py            everything
python tests/check.py -k store   arguments go to pytest
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str]) -> int:
    """Run each step; the first that fails ends it."""
    steps = [
        ["ruff", "format", "--check", "."],
        ["ruff", "check", "."],
        ["mypy"],
        # A file per process, as many as there are processors; so each computes in one thread.
        ["pytest", "-n", "auto", "--dist", "loadfile", "--durations=15", *arguments],
    ]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for step in steps:
        print(f"\n== {' '.join(step)}", flush=True)
        done = subprocess.run([sys.executable, "-m", *step], cwd=ROOT, check=False)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
