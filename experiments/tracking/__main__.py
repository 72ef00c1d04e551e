"""W&B and a store: push its runs, pull the records of a project, save the workspace or the report of a project."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from experiments.cli import exit_code
from experiments.commands.ledger import chosen_sweeps, existing_store
from experiments.console import say
from experiments.tracking.mirrored import pull, push
from experiments.tracking.tracker import finished
from experiments.tracking.wandb_runs import silent_wandb
from ldm.errors import UserError

PROJECT = "ldm-tradeoffs"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0, or 2 with one sentence where the user can mend it."""
    command = argparse.ArgumentParser(prog="python -m experiments.tracking", description=__doc__)
    kinds = command.add_subparsers(dest="kind", required=True)
    for name, said in {
        "push": "rebuild all runs of a store in a project",
        "workspace": "save the workspace of a project whose runs come from a store",
        "report": "save the report of a project whose runs come from a store",
    }.items():
        of_store = kinds.add_parser(name, help=said)
        of_store.add_argument("--store", type=Path, default=Path("store"), help="folder of run.py (default: store)")
        of_store.add_argument("--sweep", metavar="ID|all", default="all", help="the sweep (default: all)")
        of_store.add_argument("--project", default=PROJECT, help=f"of W&B (default: {PROJECT})")
    back = kinds.add_parser("pull", help="read the records of a project's runs into a new folder")
    back.add_argument("project", help="of W&B")
    back.add_argument("--into", type=Path, required=True, metavar="DIR", help="the folder to write")
    for each in kinds.choices.values():
        each.add_argument("--entity", help="of W&B (default: your own)")
    options = command.parse_args(arguments)
    return exit_code(lambda: {"push": _push, "pull": _pull}.get(options.kind, _save)(options))


def _push(options: argparse.Namespace) -> int:
    store = existing_store(options.store, is_read_only=True)
    written = push(store, chosen_sweeps(store, options.sweep), options.project, options.entity)
    say(f"{written} runs written to {options.project}; the others are there already")
    return 0


def _pull(options: argparse.Namespace) -> int:
    records, sweeps = pull(options.project, options.entity, options.into)
    say(f"{records} records and {sweeps} sweep{'s' * (sweeps != 1)} of {options.project} read into {options.into}")
    return 0


def _save(options: argparse.Namespace) -> int:
    """Saves a dashboard, whose package not everyone has."""
    silent_wandb()
    try:
        from experiments.tracking.dashboard import metrics_of, save_report, save_workspace
    except ModuleNotFoundError as error:
        raise UserError(f"{options.kind} needs a package: pip install -e '.[dashboard]'") from error
    store = existing_store(options.store, is_read_only=True)
    cells = [cell for sweep in chosen_sweeps(store, options.sweep) for cell in sweep.cells]
    metrics = metrics_of(record for cell in cells for record in finished(store, cell.stages))
    save = save_workspace if options.kind == "workspace" else save_report
    say(f"{options.kind} saved: {save(options.project, options.entity, metrics)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
