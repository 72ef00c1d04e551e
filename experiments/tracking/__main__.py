"""W&B and a store: python -m experiments.tracking push --store DIR, or pull PROJECT --into DIR."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.cli import exit_code
from experiments.commands.ledger import chosen_sweeps, existing_store
from experiments.console import say
from experiments.tracking.mirrored import pull, push

PROJECT = "ldm-tradeoffs"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0, or 2 with one sentence where the user can mend it."""
    command = argparse.ArgumentParser(prog="python -m experiments.tracking", description=__doc__)
    kinds = command.add_subparsers(dest="kind", required=True)
    to = kinds.add_parser("push", help="rebuild all runs of a store in a project")
    to.add_argument("--store", type=Path, default=Path("store"), help="folder that run.py wrote (default: store)")
    to.add_argument("--sweep", metavar="ID|all", default="all", help="the sweep to push (default: all)")
    to.add_argument("--project", default=PROJECT, help=f"of W&B (default: {PROJECT})")
    back = kinds.add_parser("pull", help="read the records of a project's runs into a new folder")
    back.add_argument("project", help="of W&B")
    back.add_argument("--into", type=Path, required=True, metavar="DIR", help="the folder to write")
    for each in (to, back):
        each.add_argument("--entity", help="of W&B (default: your own)")
    options = command.parse_args(arguments)
    return exit_code(lambda: _push(options) if options.kind == "push" else _pull(options))


def _push(options: argparse.Namespace) -> int:
    store = existing_store(options.store)
    sweeps = chosen_sweeps(store, options.sweep)
    written = push(store, sweeps, options.project, options.entity)
    say(f"{written} runs written to {options.project}; the others are there already")
    return 0


def _pull(options: argparse.Namespace) -> int:
    records, sweeps = pull(options.project, options.entity, options.into)
    say(f"{records} records and {sweeps} sweep{'s' * (sweeps != 1)} of {options.project} read into {options.into}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
