"""`python -m vecstore_cli`: the command `vecstore` where scripts are not on the path."""

from vecstore_cli.main import cli

cli(prog_name="vecstore")
