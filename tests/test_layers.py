"""The layers: a module imports only from lower ones, and heavy libraries stay at home."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = (
    {"errors", "files", "records", "tables"},
    {"sources", "decode", "encoders", "store", "index", "probes", "report"},
    {"embedding", "labelling", "dataset", "neighbours", "trained", "pages"},
    {"ingest", "label", "train", "evaluate", "predict", "search", "export", "info"},
    {"demo"},
    {"vecstore_cli"},
)
HOMES = {
    "sqlite3": {"store"},
    "pyarrow": {"store", "tables"},
    "faiss": {"index"},
    "torch": {"encoders", "probes"},
    "torchvision": {"encoders"},
    "timm": {"encoders"},
    "open_clip": {"encoders"},
    "sklearn": {"probes"},
    "pydicom": {"decode"},
    "jinja2": {"report"},
    "matplotlib": {"report"},
    "click": {"vecstore_cli"},
    "rich": {"vecstore_cli"},
}


def _modules() -> list[tuple[Path, str]]:
    found = [
        (path, path.relative_to(ROOT / "vecstore").parts[0].removesuffix(".py"))
        for path in ROOT.glob("vecstore/**/*.py")
    ]
    return found + [(path, "vecstore_cli") for path in ROOT.glob("cli/vecstore_cli/*.py")]


def _imports(path: Path) -> list[str]:
    """Everything a module imports at run time, anywhere in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    names: list[str] = []
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def _layer(part: str) -> int:
    return next(i for i, parts in enumerate(LAYERS) if part in parts)


@pytest.mark.parametrize(
    ("path", "part"), _modules(), ids=lambda value: value.name if isinstance(value, Path) else value
)
def test_a_module_imports_only_from_lower_layers(path: Path, part: str) -> None:
    if part == "__init__":
        pytest.skip("the package itself loads every public name when it is first used")
    for name in _imports(path):
        pieces = name.split(".")
        if pieces[0] == "vecstore_cli":
            assert part == "vecstore_cli", f"{path.name} imports the command line"
        if pieces[0] != "vecstore" or len(pieces) < 2 or not (ROOT / "vecstore" / pieces[1]).with_suffix("").exists():
            if pieces[0] == "vecstore" and len(pieces) > 1 and (ROOT / "vecstore" / f"{pieces[1]}.py").is_file():
                pass
            else:
                continue
        other = pieces[1]
        assert other == part or _layer(other) < _layer(part) or _layer(part) == 0, f"{path.name} imports {name}"


@pytest.mark.parametrize(
    ("path", "part"), _modules(), ids=lambda value: value.name if isinstance(value, Path) else value
)
def test_a_heavy_library_is_imported_only_at_home(path: Path, part: str) -> None:
    for name in _imports(path):
        library = name.split(".")[0]
        assert part in HOMES.get(library, {part}), f"{path.name} imports {library}, at home in {HOMES[library]}"


@pytest.mark.parametrize(
    "command", [["-c", "import vecstore; vecstore.__all__"], ["-m", "vecstore_cli.main", "--help"]]
)
def test_start_up_loads_no_heavy_library(command: list[str]) -> None:
    if command[0] == "-m":
        command = [
            "-c",
            "import sys; sys.argv = ['vecstore', '--help']\nfrom vecstore_cli.main import cli\ntry: cli()\nexcept SystemExit: pass",
        ]
    script = f"{command[1]}\nimport sys; print('loaded:', *sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'cli'}"},
    )
    loaded = set(done.stderr.split())
    assert "vecstore" in loaded
    heavy = {"numpy", "PIL", "rich", *HOMES} - ({"click"} if "vecstore_cli.main" in loaded else set())
    assert not loaded & heavy
