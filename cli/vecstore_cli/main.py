"""The command `vecstore`: parse, one library call, print. Heavy imports happen inside the commands."""

from __future__ import annotations

import os

import click

from vecstore_cli._shared import COMMANDS, Lazy

# Threads of OpenMP wait asleep. Spinning, two of them cost 63 CPU-seconds where 12 do the work (`train`, 477 items)
# once something else runs on their processors. It has to be said before a library brings OpenMP.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

HELP = """Embed an imaging archive once; then train classifiers and find similar cases without its pixels.

\b
  vecstore ingest archive/ --store chest.vecs
  vecstore label chest.vecs findings.csv --task pneumonia --key path --value label
  vecstore train chest.vecs pneumonia
  vecstore search chest.vecs query.png

\b
Exit codes: 0 done, 1 failure, 2 usage, 3 done in part (this run refused some
images), 4 the store is damaged, 5 audit --strict found a problem.
"""


@click.group(
    cls=Lazy,
    commands_in=COMMANDS,
    help=HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="vecstore", prog_name="vecstore")
def cli() -> None:
    """See HELP."""
