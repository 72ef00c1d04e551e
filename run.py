"""Trains and measures one cell, or with -m a grid: python run.py [-m] [KEY=VALUE ...]; --help lists the settings."""

import os
import sys

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.cli import sentence_for, with_scale
from experiments.console import console, say
from ldm.errors import UserError

exit_code = 0


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    """Hydra's task: one cell, or one job of a sweep."""
    from experiments import build
    from experiments.main import run_one

    global exit_code
    try:
        exit_code = run_one(config, build.command_line())
    except (UserError, OmegaConfBaseException) as error:
        say(f"error: {sentence_for(error)}", style="bold red")
        exit_code = 2


def run() -> int:
    """Runs Hydra and turns what goes wrong into one sentence and an exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, who say them in one sentence
    # Threads that wait for each other spin only briefly: as fast on an idle machine, and several times as fast on one
    # that also does something else. Read when torch is first imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ["LDM_PROCESS"] = str(os.getpid())
    from experiments.main import CellsFailedError
    from experiments.settings import overview

    OmegaConf.register_new_resolver("settings_help", overview)

    try:
        sys.argv = with_scale(sys.argv)
        main()
    except CellsFailedError as error:
        say(f"error: {error}", style="bold red")
        return 1
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        say(f"error: {sentence_for(error)}", style="bold red")
        return 2
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from the last checkpoint")
        return 130
    return exit_code


if __name__ == "__main__":
    sys.exit(run())
