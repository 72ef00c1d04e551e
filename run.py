"""Trains and measures one cell, or with -m a grid: python run.py [-m] [KEY=VALUE ...]; --help lists the settings."""

import os
import sys
from typing import TYPE_CHECKING

from experiments.written_help import written_help
from ldm.printed import printed

if TYPE_CHECKING:  # Hydra takes longer to import than the help to print
    from omegaconf import DictConfig

result = 0


def main(config: "DictConfig") -> None:
    """Hydra's task: one cell, or one job of a sweep."""
    from omegaconf.errors import OmegaConfBaseException

    from experiments import build
    from experiments.cli import sentence_for
    from experiments.console import say
    from experiments.main import run_one
    from ldm.errors import UserError

    global result
    try:
        result = run_one(config, build.command_line())
    except (UserError, OmegaConfBaseException) as error:
        say(f"error: {sentence_for(error)}", style="bold red")
        result = 2


def run() -> int:
    """Runs Hydra, until it ends or is asked to stop, and returns the exit code."""
    import hydra
    from omegaconf import OmegaConf

    from experiments.cli import CellsFailedError, with_scale
    from experiments.console import say
    from experiments.harmless import check_harmless
    from experiments.overview import help_for, overview

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, who say them in one sentence
    os.environ["LDM_PROCESS"] = str(os.getpid())
    OmegaConf.register_new_resolver("settings_help", overview)
    check_harmless(sys.argv)
    sys.argv = with_scale(sys.argv)
    if (text := help_for(sys.argv[1:])) is not None:
        print(text)
        return 0
    try:
        hydra.main(version_base="1.3", config_path="conf", config_name="config")(main)()
    except CellsFailedError as error:
        say(f"error: {error}", style="bold red")
        return 1
    return result


def start() -> int:
    """Help at once where nothing else is asked for; else as `run`, with signals held back until work is saved."""
    if (text := written_help(sys.argv[1:])) is not None:
        return printed(text)
    from experiments.cli import exit_code
    from experiments.stopping import stop_on_signals, stop_with_parent

    stop_on_signals()
    stop_with_parent()
    return exit_code(run)


if __name__ == "__main__":
    sys.exit(start())
