"""The public names: exactly these, described, and usable whatever was imported before."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vecstore
import vecstore as vs

ROOT = Path(__file__).resolve().parents[1]
VERBS = (
    "create",
    "open",
    "ingest",
    "label",
    "train",
    "evaluate",
    "predict",
    "search",
    "export",
    "zero_shot",
    "learning_curve",
    "export_model",
    "audit",
    "label_errors",
    "compare",
    "report",
    "dataset",
    "open_encoder",
    "clusters",
    "embedding_map",
)
ARRAY = re.compile(r"\bndarray\b|\b(?:UInt8|Float|Double|Int|Bool)Array\b")


def test_all_is_sorted_and_each_of_its_names_is_there() -> None:
    assert vecstore.__all__ == sorted(vecstore.__all__)
    for name in vecstore.__all__:
        assert getattr(vecstore, name) is not None


def test_nothing_else_is_public() -> None:
    code = "import vecstore; print(*sorted(n for n in dir(vecstore) if not n.startswith('_')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    incidental = {"Any", "TYPE_CHECKING", "annotations", "importlib", "sys", "types"}
    assert set(done.stdout.split()) - incidental == set(vecstore.__all__)


def test_type_checkers_are_told_of_every_public_name() -> None:
    source = (ROOT / "vecstore" / "__init__.py").read_text()
    block = source[source.index("if TYPE_CHECKING:") : source.index("__version__")]
    told = set(re.findall(r" as (\w+)$", block, re.M)) | set(re.findall(r"^    (?:def )?(\w+)(?: =|\()", block, re.M))
    assert set(vecstore.__all__) == told


@pytest.mark.parametrize("name", vecstore.__all__)
def test_every_public_name_is_described(name: str) -> None:
    described = getattr(vecstore, name)
    assert (inspect.getdoc(described) or "").strip(), name
    if isinstance(described, type):
        for method, value in vars(described).items():
            if not method.startswith("_") and isinstance(value, (types.FunctionType, classmethod, property)):
                assert (inspect.getdoc(value) or "").strip(), f"{name}.{method}"


def _signatures() -> Iterator[tuple[str, Any]]:
    """Public functions, classes and methods with their qualified names."""
    for name in vecstore.__all__:
        described = getattr(vecstore, name)
        yield name, described
        if isinstance(described, type):
            for method, value in vars(described).items():
                if not method.startswith("_") and isinstance(value, (types.FunctionType, classmethod)):
                    yield f"{name}.{method}", getattr(described, method)


@pytest.mark.parametrize(
    ("name", "described"), list(_signatures()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_public_array_states_its_shape(name: str, described: Any) -> None:
    if isinstance(described, type) and dataclasses.is_dataclass(described):
        hints = [str(field.type) for field in dataclasses.fields(described)]
    elif isinstance(described, type):
        return
    else:
        hints = [str(hint) for hint in inspect.get_annotations(described).values()]
    arrays = sum(bool(ARRAY.search(hint)) for hint in hints)
    shapes = len(re.findall(r"shape \(", inspect.getdoc(described) or ""))
    assert shapes >= min(arrays, 1), f"{name}: {arrays} array arguments, {shapes} shapes told"


@pytest.mark.parametrize("name", vecstore.__all__)
def test_an_array_in_a_public_docstring_has_a_shape(name: str) -> None:
    for line in (inspect.getdoc(getattr(vecstore, name)) or "").splitlines():
        if re.search(r"\bndarrays?\b", line):
            assert "shape (" in line, f"{name}: {line}"


def test_verbs_are_functions_whatever_was_imported() -> None:
    lines = ["import vecstore"]
    lines += [
        f"import vecstore.{verb}" for verb in ("ingest", "label", "train", "evaluate", "predict", "search", "export")
    ]
    lines += ["import vecstore.dataset, vecstore.store.store, vecstore.encoders"]
    lines += [f"assert callable(vecstore.{verb}), {verb!r}" for verb in VERBS]
    lines += [f"from vecstore import {verb} as v; assert callable(v), {verb!r}" for verb in VERBS]
    lines += ["from vecstore.train import train; assert train is vecstore.train"]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_a_verb_has_the_same_name_and_its_options_on_the_command_line() -> None:
    import click

    from vecstore_cli.main import cli

    renamed = {
        "encoders": "encoder",
        "values": "value",
        "images": "images",
        "output": "path",
        "prompt": "prompts",
        "file": "prompts",
    }
    for verb in (
        *VERBS[2:9],
        "zero_shot",
        "learning_curve",
        "export_model",
        "audit",
        "label_errors",
        "compare",
        "report",
    ):
        command = cli.get_command(click.Context(cli), verb.replace("_", "-"))
        assert command is not None
        options = {renamed.get(p.name or "", p.name) for p in command.params} - {"as_json", "as_csv", "html", "report"}
        options -= {"at", "quiet", "help"}
        arguments = set(inspect.signature(getattr(vs, verb)).parameters)
        only_here = arguments - options - {"progress", "thumbnails", "probe"}
        only_there = options - arguments - {"no_thumbnails", "task", "queries"}  # `--queries` is `search_many`
        assert (only_here, only_there) == (set(), set()), verb


def test_a_store_is_made_opened_and_opened_at_a_commit(tmp_path: Path) -> None:
    from vecstore.errors import NotFound, NotWritable

    with vs.create(tmp_path / "x.vecs") as store:
        assert isinstance(store, vs.Store)
        first = store.commit
        with store.write("note", {}) as tx:
            tx.counts["n"] = 1
        assert store.commit == first + 1
    with vs.open(tmp_path / "x.vecs") as store:
        assert store.commit == first + 1
    with vs.open(tmp_path / "x.vecs", at=first) as old:
        assert (old.commit, old.fixed) == (first, True)
        with pytest.raises(NotWritable):
            old.write("note", {})
    with pytest.raises(NotFound, match=r"no commit 99; expected 1 to 2"):
        vs.open(tmp_path / "x.vecs", at=99)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="serach"):
        _ = vecstore.serach  # type: ignore[attr-defined]
