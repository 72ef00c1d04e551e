"""What run.py --help shows: the groups there are, and the settings of a composed config.

What they may be is read from a file, since the parts that declare it import torch, which takes longer than all else.
It is written by: python -c 'from experiments.overview import *; from experiments.settings import *; write(spelled())'.
It also writes the help (`experiments.written_help`). Run it after any change below conf/, too.
"""

import json
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any, Final

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from experiments.schema import CONF, leaf_values
from experiments.written_help import SPELLED, write_help

NO_SETTINGS: Final = ("hydra", "sweep", "scale")


def write(spelled: Mapping[str, Mapping[str, str]]) -> None:
    """Writes what `experiments.settings.spelled` gives, and the help that is made of it."""
    SPELLED.write_text(json.dumps(spelled, indent=1) + "\n", encoding="utf-8")
    OmegaConf.register_new_resolver("settings_help", overview, replace=True)
    write_help(help_for(["--help"]) or "")


def read() -> dict[str, dict[str, str]]:
    """What was written."""
    found: dict[str, dict[str, str]] = json.loads(SPELLED.read_text(encoding="utf-8"))
    return found


def overview(*, _root_: DictConfig) -> str:
    """The settings of a composed config, a line each: its value, what it may be, and what it is."""
    kept = [str(key) for key in _root_ if key not in NO_SETTINGS]
    plain: dict[str, Any] = OmegaConf.to_container(OmegaConf.masked_copy(_root_, kept))  # type: ignore[assignment]
    known = dict[str, str]()
    chosen = {f"{key}={value}" for key, value in leaf_values(plain)}
    for choice, words in read().items():
        if not choice or choice in chosen:
            known |= words
    lines = (f"{f'{key}={_shown(value)}':<44} {known.get(key, '')}" for key, value in leaf_values(plain, known))
    return "\n".join(line.rstrip() for line in lines)


def help_for(arguments: Sequence[str]) -> str | None:
    """The help that these arguments of run.py ask for; None where they ask for none, or for more than Hydra's groups
    and overrides.

    Hydra would print the same: its way to list the groups copies all sources of settings once for each.
    """
    flags = {argument for argument in arguments if argument.startswith("-")}
    if not flags & {"-h", "--help"} or flags - {"-h", "--help", "-m", "--multirun"}:
        return None
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = [argument for argument in arguments if argument not in flags]
        config = compose("config", overrides, return_hydra_config=True)
    return Template(config.hydra.help.template).substitute(APP_CONFIG_GROUPS=_groups())


def _groups() -> str:
    folders = (path for path in sorted(CONF.iterdir()) if path.is_dir() and path.name != "hydra")
    return "".join(f"{path.name}: {', '.join(sorted(file.stem for file in path.glob('*.yaml')))}\n" for path in folders)


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
