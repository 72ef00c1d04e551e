"""Submits a cell, or with -m a grid, to Slurm and leaves: python -m experiments.submit [-m] [KEY=VALUE ...].

It is planned here, once. Each stage is a job that starts when its parents' jobs have succeeded. Nothing waits on the
login node: python -m experiments.ledger shows how far it is. What a job asks for stands under hydra.launcher
(conf/hydra/launcher/slurm.yaml), such as hydra.launcher.partition=NAME.
"""

import argparse
import functools
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from experiments import shortlist, submissions
from experiments.cli import exit_code, spanned, with_scale
from experiments.commands.ledger import existing_store
from experiments.console import say
from experiments.harmless import check_harmless
from experiments.main import plan_grid, say_work
from experiments.schema import CONF
from experiments.store import Store
from experiments.submissions import Submission, resources_of, say_tally, tasks_of
from experiments.sweep import shell_word
from ldm.errors import UserError, nearest

LAUNCHER = "hydra.launcher."


def submit(arguments: Sequence[str], is_grid: bool) -> int:
    """Plans what the overrides ask for, and submits what the store lacks of it; 0.

    Raises: UserError where a point cannot work, or Slurm refuses its jobs.
    """
    check_harmless(["submit", *arguments])
    overrides = with_scale(["submit", *arguments])[1:]
    command = shlex.join(["python", "-m", "experiments.submit", *(["-m"] if is_grid else []), *overrides])
    loader, config = _composed(overrides)
    resources = resources_of(_launcher(config))
    asked = list(config.hydra.overrides.task)
    grid = spanned(asked, config.hydra.sweeper.params or {}, loader) if is_grid else [asked]
    planned = plan_grid(grid, functools.partial(_point, loader, config), command, is_here=False)
    if shortlist.chooses(planned.cells):
        raise UserError(
            "a shortlist chooses while its sweep runs, and submitted jobs are all known before: leave shortlist.keep "
            "out, or run the sweep itself with hydra/launcher=slurm"
        )
    say_work(planned)
    if planned.values["device"] == "cpu" and resources.gpus_per_node:
        say(
            f"note: each job has {resources.gpus_per_node} GPU and computes on the CPU, as this machine would: "
            "device=cuda scale=gpu computes on it",
            style="yellow",
        )
    tasks = tasks_of(planned.cells, planned.asked, planned.store, planned.sweep)
    of_launcher = tuple(override for override in overrides if override.startswith(LAUNCHER))
    submissions.write(planned.store, Submission(planned.sweep, of_launcher, tasks, os.getcwd()))
    _submit(planned.store, planned.sweep, tasks, resources)
    return 0


def retry(store: Store, sweep: str, launcher: Sequence[str]) -> int:
    """Submits what a submission lacks and is not in the queue, with what its jobs asked for unless told otherwise; 0.

    Raises: UserError for other overrides, or where Slurm refuses.
    """
    if others := [override for override in launcher if not override.startswith(LAUNCHER)]:
        raise UserError(
            f"{others[0]} cannot be given with --retry, which submits what was planned: only {LAUNCHER}KEY=VALUE can"
        )
    asked = submissions.read(store, sweep)
    _, config = _composed([*asked.launcher, *launcher])
    _submit(store, sweep, asked.tasks, resources_of(_launcher(config)), asked.folder)
    return 0


def cancel(store: Store, sweep: str) -> int:
    """Takes a submission's jobs back; those that run save first; 0. Raises: UserError where Slurm does not answer."""
    count = submissions.take_back(store, sweep)
    say(f"took back {count} jobs of sweep {sweep}; what they made stays, and what they were at goes on from there")
    return 0


def _submit(
    store: Store, sweep: str, tasks: Sequence[submissions.Task], resources: Any, folder: str | None = None
) -> None:
    place = f"--store {shell_word(str(store.root))} --sweep {sweep}"
    try:
        tally = submissions.submit(store, sweep, tasks, resources, folder)
    except UserError as error:
        done = sum(job.sweep == sweep and job.job is not None for job in submissions.submitted(store).values())
        if not done:
            raise
        raise UserError(
            f"{error}; {done} of {len(tasks)} jobs were submitted before: python -m experiments.submit --retry {place} "
            "submits the others, with --cancel instead it takes them back"
        ) from error
    say_tally(tally, sweep)
    say(f"  python -m experiments.ledger {place}            # how far it is")
    say(f"  python -m experiments.submit --retry {place}    # submits what failed or is missing")
    say(f"  python -m experiments.submit --cancel {place}   # takes its jobs back")


def _composed(overrides: Sequence[str]) -> tuple[ConfigLoader, DictConfig]:
    """The loader of Hydra's configs, and what run.py would see of these overrides before they are a grid."""
    if chosen := [override for override in overrides if override.startswith("hydra/launcher=")]:
        raise UserError(f"{chosen[0]} is for python run.py; this command submits to Slurm: leave it out")
    GlobalHydra.instance().clear()
    initialize_config_dir(str(CONF), version_base="1.3")
    loader = GlobalHydra.instance().config_loader()
    return loader, loader.load_configuration("config", ["hydra/launcher=slurm", *overrides], RunMode.MULTIRUN)


def _point(loader: ConfigLoader, config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    return loader.load_sweep_config(config, list(overrides))


def _launcher(config: DictConfig) -> Any:
    return OmegaConf.to_container(config.hydra.launcher, resolve=True)


def _chosen(store: Store, which: str | None) -> str:
    """The submission of that id, or the latest. Raises: UserError where there is none."""
    known = submissions.names(store)
    if not known:
        raise UserError(f"nothing was submitted from {store.root}; give another folder with --store DIR")
    if which is not None and which not in known:
        raise UserError(f"--sweep {which} was not submitted{nearest(which, known)}; the latest is {known[-1]}")
    return which or known[-1]


def _run(options: argparse.Namespace) -> int:
    if not (options.retry or options.cancel):
        if options.store or options.sweep:
            raise UserError("--store and --sweep are for --retry and --cancel; give the folder with store=DIR")
        return submit(options.overrides, options.multirun)
    store = existing_store(options.store or Path("store"))
    sweep = _chosen(store, options.sweep)
    if options.retry:
        return retry(store, sweep, options.overrides)
    return cancel(store, sweep)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns 0, 2 for what the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.submit", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as of run.py, and hydra.launcher.KEY=VALUE")
    parser.add_argument("-m", "--multirun", action="store_true", help="the overrides span a grid")
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--retry", action="store_true", help="submit what a submission lacks and is not in the queue")
    again.add_argument("--cancel", action="store_true", help="take a submission's jobs back")
    parser.add_argument("--store", type=Path, metavar="DIR", help="of --retry and --cancel (default: store)")
    parser.add_argument("--sweep", metavar="ID", help="of --retry and --cancel (default: the latest submission)")
    return exit_code(functools.partial(_run, parser.parse_intermixed_args(arguments)))
