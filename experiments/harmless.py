"""What would have Hydra call something of its own choosing while it composes is refused before it does.

Values that name a class (`_target_`), callbacks and log handlers are all that Hydra makes objects of beside launcher
and sweeper, which it takes from its plugins alone. Experiment files are handed around, so they are looked through too.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf

from experiments.schema import CONF, leaves
from ldm.errors import UserError

TARGET: Final = "_target_"
CALLED: Final = ("hydra.callbacks", "hydra.job_logging", "hydra.hydra_logging")
"""What Hydra makes objects of, or hands to logging, which does."""

IN_EXPERIMENTS: Final = ("hydra.mode", "hydra.sweeper", "hydra.sweeper.params")
"""All that an experiment file may say of Hydra itself, and what lies below the last."""

PACKAGE = re.compile(r"#\s*@package\s+(\S+)")


def check_harmless(argv: Sequence[str], conf: Path = CONF) -> None:
    """Raises: UserError for an override that names something to call, or an experiment file that does."""
    for argument in argv[1:]:
        key, equals, value = argument.partition("=")
        key = key.lstrip("+~")
        if not equals and not argument.startswith(("+", "~")):
            continue
        if TARGET in argument or any(_is_below(key.replace("/", "."), called) for called in CALLED):
            raise UserError(
                f"{key!r} would have Hydra call what the value names: leave it out; a class of your own is given as "
                "GROUP=custom GROUP.target=package.module:Class"
            )
        if key == "experiment":
            for name in re.findall(r"[\w/.-]+", value):
                for folder in (conf, *_folders(argv)):
                    _check_file(folder / "experiment" / f"{name.removesuffix('.yaml')}.yaml")


def _is_below(key: str, root: str) -> bool:
    return key == root or key.startswith((f"{root}.", f"{root}@"))


def _folders(argv: Sequence[str]) -> Iterator[Path]:
    """Other folders of settings that are given with --config-dir."""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        option, equals, value = argument.partition("=")
        if option in ("--config-dir", "-cd"):
            yield Path(value if equals else following)


def _check_file(path: Path) -> None:
    """Raises: UserError where an experiment file is no YAML, or says more of Hydra than what it sweeps."""
    if not path.is_file():
        return  # which Hydra says
    try:
        text = path.read_text(encoding="utf-8")
        content: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except Exception as error:  # of the YAML parser, of OmegaConf, of the encoding
        said = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as a file of settings ({said}); correct it") from error
    said_of_hydra = [key for key in leaves(content) if _is_below(key, "hydra") and key != "hydra"]
    unusual = [key for key in leaves(content) if TARGET in key] + [
        key for key in said_of_hydra if key not in IN_EXPERIMENTS and not key.startswith(f"{IN_EXPERIMENTS[-1]}.")
    ]
    package = PACKAGE.search(text)
    if package and package.group(1) not in ("_global_", "_group_"):
        unusual.append(package.group())
    defaults = content.get("defaults", []) if isinstance(content, dict) else []
    unusual += [str(entry) for entry in defaults if re.search(r"hydra[./@](?!launcher|sweeper)", str(entry))]
    if unusual:
        raise UserError(
            f"{path} says {unusual[0]!r}, with which Hydra could be made to call anything: an experiment sets "
            "settings, hydra.mode and hydra.sweeper.params"
        )
