"""The layers: a module imports only from lower ones, and heavy libraries stay at home."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from vecstore.store import Store

ROOT = Path(__file__).resolve().parents[1]
LAYERS = (
    {"errors", "files", "records", "tables"},
    {"sources", "decode", "encoders", "store", "index", "probes", "report"},
    {"embedding", "labelling", "dataset", "neighbours", "trained", "pages"},
    {"rescoring", "familiar"},  # what several verbs start from
    {
        "compare",
        "ingest",
        "label",
        "train",
        "evaluate",
        "predict",
        "search",
        "export",
        "info",
        "zeroshot",
        "curve",
        "export_model",
        "search_eval",
        "indexes",
        "graph",
        "audit",
        "label_errors",
        "clusters",
        "embedding_map",
    },
    {"reporting"},  # joins verbs
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
    "sklearn": {"probes", "report", "index"},
    "umap": {"index"},
    "pydicom": {"decode"},
    "jinja2": {"report"},
    "matplotlib": {"report"},
    "onnx": {"probes"},
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


def _name(value: object) -> str:
    return value.name if isinstance(value, Path) else str(value)


each_module = pytest.mark.parametrize(("path", "part"), [m for m in _modules() if m[1] != "__init__"], ids=_name)


@each_module
def test_a_module_imports_only_from_lower_layers(path: Path, part: str) -> None:
    for name in _imports(path):
        top, _, rest = name.partition(".")
        other = "vecstore_cli" if top == "vecstore_cli" else rest.partition(".")[0]
        if top in ("vecstore", "vecstore_cli") and any(other in parts for parts in LAYERS):
            both_base = _layer(other) == _layer(part) == 0
            assert other == part or _layer(other) < _layer(part) or both_base, f"{path.name} imports {name}"


@each_module
def test_a_heavy_library_is_imported_only_at_home(path: Path, part: str) -> None:
    for name in _imports(path):
        library = name.split(".")[0]
        assert part in HOMES.get(library, {part}), f"{path.name} imports {library}, at home in {HOMES[library]}"


def _run(script: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'cli'}"}
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)


HELP = "from vecstore_cli.main import cli\ntry: cli(['--help'])\nexcept SystemExit: pass"


@pytest.mark.parametrize(
    ("script", "own"), [("import vecstore; vecstore.__all__", "vecstore"), (HELP, "vecstore_cli.fill")]
)
def test_start_up_loads_no_heavy_library(script: str, own: str) -> None:
    loaded = set(_run(f"{script}\nimport sys; print(*sorted(sys.modules), file=sys.stderr)").stderr.split())
    assert own in loaded
    assert not loaded & ({"numpy", "PIL", *HOMES} - {"click" if own != "vecstore" else ""})


def test_a_search_without_a_page_draws_and_learns_nothing(colour_store: Store) -> None:
    call = f"try: cli(['search', {str(colour_store.path)!r}, '1', '-k', '3', '--json'])\nexcept SystemExit: pass"
    script = f"from vecstore_cli.main import cli\n{call}\nimport sys; print(*sorted(sys.modules), file=sys.stderr)"
    done = _run(script)
    assert len(done.stdout.splitlines()) == 3
    loaded = set(done.stderr.split())
    assert "faiss" in loaded and not loaded & {"torch", "sklearn", "matplotlib", "jinja2", "timm", "pandas"}


def test_start_up_is_quick() -> None:
    clock = "from time import process_time as now; a = now(); import vecstore, vecstore_cli.main; print(now() - a)"
    seconds = min(float(_run(clock).stdout) for _ in range(3))
    assert seconds < 0.3  # CPU-seconds, the limit of the design; it takes a tenth of it
