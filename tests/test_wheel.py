"""The wheel alone: installed elsewhere, run from another folder."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel, which sees our dependencies and not our checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
        str(ROOT),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    site = next((folder / "venv").glob("lib/python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python.parent


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {"HOME": str(folder / "home"), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_holds_both_packages_and_their_data(installed: Path, tmp_path: Path) -> None:
    code = "import vecstore, vecstore_cli, pathlib; print(pathlib.Path(vecstore.__file__).parent)"
    done = _run([str(installed / "python"), "-c", code], tmp_path)
    package = Path(done.stdout.strip())
    assert ROOT not in package.parents
    for part in ("py.typed", "store/schema.sql", "store/FORMAT.md"):
        assert (package / part).is_file()
    assert list((package / "report" / "templates").iterdir())


def test_the_installed_command_shows_its_help_from_another_folder(installed: Path, tmp_path: Path) -> None:
    done = _run([str(installed / "vecstore"), "--help"], tmp_path)
    assert done.returncode == 0
    assert "ingest" in done.stdout


def test_the_installed_command_runs_the_demo_from_another_folder(installed: Path, tmp_path: Path) -> None:
    done = _run([str(installed / "vecstore"), "demo", "--json"], tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["ingest"]["added"] > 60
    assert result["record"]["task"] == "modality"
    assert result["record"]["pixels_read"] == 0
    for page in result["pages"].values():
        assert Path(page).read_text().startswith("<!doctype html>")
    again = _run([str(installed / "vecstore"), "demo", "--json"], tmp_path)
    assert json.loads(again.stdout.splitlines()[-1])["ingest"]["embedded"] == 0
