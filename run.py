"""Trains and measures one cell, or with -m a grid: python run.py [-m] [KEY=VALUE ...]; --help lists the settings."""

import os
import sys

import hydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.cli import CellsFailedError, exit_code, sentence_for, with_scale
from experiments.console import say
from experiments.harmless import check_harmless
from experiments.overview import help_for, overview
from experiments.stopping import stop_on_signals, stop_with_parent
from ldm.errors import UserError

result = 0


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    """Hydra's task: one cell, or one job of a sweep."""
    from experiments import build
    from experiments.main import run_one

    global result
    try:
        result = run_one(config, build.command_line())
    except (UserError, OmegaConfBaseException) as error:
        say(f"error: {sentence_for(error)}", style="bold red")
        result = 2


def run() -> int:
    """Runs Hydra, until it ends or is asked to stop, and returns the exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, who say them in one sentence
    # Threads that wait for each other spin only briefly: as fast on an idle machine, and several times as fast on one
    # that also does something else. Read when torch is first imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ["LDM_PROCESS"] = str(os.getpid())
    OmegaConf.register_new_resolver("settings_help", overview)
    check_harmless(sys.argv)
    sys.argv = with_scale(sys.argv)
    if (text := help_for(sys.argv[1:])) is not None:
        print(text)
        return 0
    try:
        main()
    except CellsFailedError as error:
        say(f"error: {error}", style="bold red")
        return 1
    return result


if __name__ == "__main__":
    stop_on_signals()
    stop_with_parent()
    sys.exit(exit_code(run))
