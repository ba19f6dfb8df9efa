"""What all commands share: lazy loading, errors and exit codes, JSON, tables and progress."""

from __future__ import annotations

import errno
import functools
import importlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from vecstore.reporting import Report
    from vecstore.store import Store

COMMANDS = {
    "ingest": "fill",
    "label": "fill",
    "info": "show",
    "failures": "show",
    "log": "show",
    "train": "learn",
    "evaluate": "learn",
    "compare": "learn",
    "predict": "learn",
    "audit": "check",
    "label-errors": "check",
    "report": "check",
    "zero-shot": "ask",
    "learning-curve": "ask",
    "search": "find",
    "search-eval": "indexing",
    "neighbors": "indexing",
    "clusters": "explore",
    "map": "explore",
    "index": "indexing",
    "export": "find",
    "export-model": "ask",
    "demo": "demonstrate",
}
"""Command to the module that defines it, in the order of the help page."""

F = TypeVar("F", bound=Callable[..., Any])


class Lazy(click.Group):
    """A group that imports a command's module when the command is used.

    `--help` imports all of them for their one-line helps: so they import heavy libraries inside their commands.
    """

    def __init__(self, *args: Any, commands_in: Mapping[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._modules = dict(commands_in or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Commands in the order of a first use."""
        return list(self._modules)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the module of a command."""
        if name not in self._modules:
            return None
        module = importlib.import_module(f"vecstore_cli.{self._modules[name]}")
        command: click.Command = getattr(module, name.replace("-", "_"))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Name the nearest command where there is none of this name."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            close = difflib.get_close_matches(args[0], list(self._modules), n=2)
            if close:
                raise click.UsageError(f"{error.message} Did you mean {' or '.join(close)}?", ctx) from None
            raise


def command(function: F) -> F:
    """Turn our errors into a message on standard error and their exit code."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        from vecstore.errors import DiskFull, VecstoreError

        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a file name may be no text: then it is shown escaped
                stream.reconfigure(errors="backslashreplace")
        try:
            try:
                return function(*args, **kwargs)
            finally:
                sys.stdout.flush()  # here, where a closed pipe is met in silence
        except VecstoreError as error:
            raise _stopped(str(error), error.exit_code) from error
        except KeyboardInterrupt as error:
            raise _stopped("interrupted; what was committed stays, run it again to go on", 130) from error
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(1) from None
        except MemoryError as error:
            raise _stopped("not enough memory; close other programs, or use a machine with more", 1) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                full = DiskFull("no space left on the device", do="free some space and run it again")
                raise _stopped(str(full), full.exit_code) from error
            raise _stopped(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), 1) from error

    return wrapped  # type: ignore[return-value]


def _stopped(message: str, code: int) -> SystemExit:
    click.echo(f"Error: {message}", err=True)
    return SystemExit(code)


def json_option(function: F) -> F:
    """`--json`: one object on the last line of standard output."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON object on the last line of standard output.")(
        function
    )


def store_argument(function: F) -> F:
    """The store's folder."""
    return click.argument("store", type=click.Path())(function)


def at_option(function: F) -> F:
    """`--at`: the store as it was at a commit."""
    return click.option("--at", type=int, metavar="COMMIT", help="Show the store as it was at this commit.")(function)


def space_option(function: F) -> F:
    """`--space`."""
    return click.option("--space", metavar="NAME", help="Which vectors, where the store has several spaces.")(function)


def encoder_options(function: F) -> F:
    """`--weights` and `--device`."""
    function = click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1 …; the best there is by default.")(
        function
    )
    return click.option(
        "--weights", type=click.Path(), metavar="FILE", help="Weights file of the encoder (safetensors or checkpoint)."
    )(function)


def split_commas(values: str | None) -> list[str]:
    """`A,B` as a list; a comma inside a name is written `\\,`.

    >>> split_commas("patient,age"), split_commas("COVID-19\\\\, ARDS")
    (['patient', 'age'], ['COVID-19, ARDS'])
    """
    if not values:
        return []
    parts = values.replace("\\,", "\0").split(",")
    return [part.replace("\0", ",").strip() for part in parts if part.strip()]


def shares_by_class(texts: tuple[str, ...]) -> float | dict[str, float] | None:
    """One share, or a share per class."""
    from vecstore.errors import UsageError

    found: dict[str, float] = {}
    for text in texts:
        name, _, share = text.rpartition("=")
        try:
            found[name] = float(share)
        except ValueError:
            raise UsageError(f"--prevalence {text}", "a share, or CLASS=SHARE", "--prevalence 0.05") from None
    if not found:
        return None
    return found[""] if list(found) == [""] else found


def echo_json(value: Any) -> None:
    """One line of JSON; what is not a finite number becomes null."""
    ascii_only = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "") != "utf8"
    click.echo(json.dumps(_plain(value), ensure_ascii=ascii_only, default=str, allow_nan=False))


def _plain(value: Any) -> Any:
    """A value as JSON has it: NumPy's numbers and arrays as Python's, NaN and infinities as None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value


def echo_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Rows in columns as wide as they need, numbers to the right; cut to the terminal's width when there is one."""
    if not rows:
        return
    names = list(columns or rows[0])
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(name), *(len(row[i]) for row in cells)) for i, name in enumerate(names)]
    numeric = [all(isinstance(row.get(name), (int, float)) or row.get(name) is None for row in rows) for name in names]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for line in [names, *cells]:
        text = "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        )
        text = text.rstrip()
        click.echo(f"{text[: room - 1]}…" if 0 < room < len(text) else text)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) >= 1e-4 else f"{value:.2g}"
    if isinstance(value, Mapping):
        return " ".join(f"{k}={_cell(v)}" for k, v in value.items())
    return str(value).replace("\n", " ")


def echo_facts(facts: Iterable[tuple[str, Any]]) -> None:
    """Name and value on a line each."""
    rows = [(name, _cell(value)) for name, value in facts if value not in (None, "", [], {})]
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        click.echo(f"{name.ljust(width)}  {value}")


MOST_LISTED = 12
"""Entries of a list that a person is shown; JSON has all of them."""


def listed(entries: Iterable[str]) -> str:
    """A list for a person: a task of 161 classes fills no screen.

    >>> listed(["a 1", "b 2"]), listed(str(n) for n in range(14))
    ('a 1, b 2', '0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 2 more')
    >>> listed(["a, b 1", "c 2"])
    'a, b 1; c 2'
    """
    told = list(entries)
    more = len(told) - MOST_LISTED
    between = "; " if any("," in entry for entry in told) else ", "
    return between.join(told[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


class Lines:
    """Progress as plain lines on standard error, at most one every ten seconds."""

    def __init__(self, every_seconds: float = 10.0) -> None:
        self._every = every_seconds
        self._what = ""
        self._total: int | None = None
        self._done = 0

    def begin(self, what: str, total: int | None) -> None:
        """Start counting; again: the total is known now."""
        self._total = total
        if self._what != what:
            self._what, self._done = what, 0
            self._start = self._last = time.monotonic()

    def step(self, n: int = 1) -> None:
        """Count."""
        self._done += n
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            self._print(now)

    def _print(self, now: float) -> None:
        rate = self._done / max(now - self._start, 1e-9)
        left = f", {(self._total - self._done) / rate:.0f} s left" if self._total and rate else ""
        of = f" of {self._total}" if self._total else ""
        click.echo(f"{self._done}{of} {self._what}, {rate:.1f}/s{left}", err=True)

    def say(self, text: str) -> None:
        """One line."""
        click.echo(text, err=True)

    def end(self) -> None:
        """Ready for the next count."""
        self._what = ""


class Bar:
    """Progress as a bar with rate and time left, on a terminal's standard error."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None

    def begin(self, what: str, total: int | None) -> None:
        """Show the bar; again: the total is known now."""
        if self._bar is not None:
            self._bar.update(self._task, total=total, left="left" if total else "")
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[left]}"),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(what, total=total, rate="", left="left" if total else "")
        self._start, self._done = time.monotonic(), 0
        try:
            self._bar.start()
        except BaseException:
            # Interrupted halfway, which rich's own `stop` is not made for: it leaves the cursor hidden.
            with suppress(IndexError):
                self._bar.stop()
            self._bar.console.show_cursor(True)
            self._bar = None
            raise

    def step(self, n: int = 1) -> None:
        """Advance."""
        self._done += n
        rate = self._done / max(time.monotonic() - self._start, 1e-9)
        self._bar.update(self._task, advance=n, rate=f"{rate:.1f}/s")

    def say(self, text: str) -> None:
        """A line above the bar."""
        if self._bar is None:
            click.echo(text, err=True)
        else:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def end(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


class Quiet(Lines):
    """Nothing at all."""

    def step(self, n: int = 1) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""


def echo_newest(store: Store, task: str) -> None:
    """Which of several models is taken where none was named; on standard error."""
    models = store.models(store.task(task).name)
    if len(models) > 1:
        told = f"{models[-1].id} ({models[-1].record['model']})"
        click.echo(f"model {told}, the newest of {len(models)}; another: --model ID", err=True)


def echo_written(report: Report) -> None:
    """The files of a report."""
    click.echo(f"written: {report.html}, {report.json.name}, {report.card.name}")


def progress(quiet: bool = False) -> Lines | Bar:
    """A bar on a terminal, plain lines elsewhere."""
    if quiet:
        return Quiet()
    return Bar() if sys.stderr.isatty() else Lines()
