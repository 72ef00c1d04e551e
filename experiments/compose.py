"""A cell's settings outside run.py: what the command-line tools compose, check, and say when it cannot be."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.cli import sentence_for
from experiments.console import say
from experiments.schema import CONF
from ldm.errors import UserError


def composed(overrides: Sequence[str], conf: Path = CONF, needs_path: bool = True) -> dict[str, Any]:
    """The plain values that run.py would work with under these overrides.

    With `needs_path=False` images without a data.path are let through, their path None.

    Raises: UserError, or an error of Hydra or OmegaConf (see `experiments.cli.sentence_for`), where they cannot be.
    """
    from experiments.main import plain

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        config = compose("config", list(overrides), return_hydra_config=True)
    if not needs_path and OmegaConf.is_missing(config.data, "path"):
        config.data.path = None
    return plain(config, "")


def swept(overrides: Sequence[str], conf: Path = CONF) -> dict[str, list[str]]:
    """What an experiment among the overrides sweeps, and they do not set themselves: the values by key."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        sweeper = compose("config", list(overrides), return_hydra_config=True).hydra.sweeper
    given = {override.partition("=")[0].lstrip("+") for override in overrides}
    parser = OverridesParser.create()
    asked = [parser.parse_override(f"{key}={values}") for key, values in (sweeper.get("params") or {}).items()]
    return {
        override.key_or_group: list(override.sweep_string_iterator())
        if override.is_sweep_override()
        else [override.get_value_element_as_str()]
        for override in asked
        if override.key_or_group not in given
    }


def without(overrides: Sequence[str], key: str) -> list[str]:
    """The overrides but those of one key, whether set, added or forced."""
    return [override for override in overrides if override.partition("=")[0].lstrip("+") != key]


def exit_code(work: Callable[[], int]) -> int:
    """What `work` returns, or 2 after one sentence about what the user can mend."""
    try:
        return work()
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        say(f"error: {sentence_for(error)}", style="bold red")
        return 2


def settings_only(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a plan is made of."""
    return {key: value for key, value in values.items() if key != "overrides"}
