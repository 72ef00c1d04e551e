"""Unknown keys are errors: what an experiment file adds must exist in the groups it chooses from."""

from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from experiments.written_help import CONF
from ldm.errors import UserError, nearest


def check_keys(config: DictConfig) -> None:
    """Raises UserError for a key that the chosen groups do not have, naming the nearest that they have.

    Hydra itself refuses unknown keys on the command line, but not inside an experiment file.
    """
    choices = config.hydra.runtime.choices if "hydra" in config else {}
    added = [override for override in config.hydra.overrides.task if override.startswith("+")] if choices else []
    if not choices.get("experiment") and not added:
        return
    chosen = {k: _choice(v) for k, v in choices.items() if "/" not in k and v is not None and k != "experiment"}
    known = _settings_of(tuple(sorted(chosen.items())))
    for key in leaves(OmegaConf.to_container(config, resolve=False)):
        of_a_class = ".options." in key  # of the user's own, which checks them (`experiments.custom`)
        if key != "hydra" and not key.startswith("hydra.") and not of_a_class and key not in known:
            is_added = any(override.lstrip("+").partition("=")[0] == key for override in added)
            origin = "added with +" if is_added else f"set by experiment={choices['experiment']}"
            raise UserError(f"'{key}', {origin}, is no setting{nearest(key, known)}")


def _choice(value: Any) -> str:
    """What is chosen of a group as an override says it: a name, or a list of names that are given together."""
    return value if isinstance(value, str) else f"[{','.join(value)}]"


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """The dotted names of all keys below `value`, inner nodes included."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            here = f"{path}.{key}" if path else str(key)
            yield here
            yield from leaves(inner, here)


def leaf_values(config: Mapping[str, Any], ends: Collection[str] = (), prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values by dotted key; one under a key of `ends` is not looked into."""
    for name, value in config.items():
        if isinstance(value, Mapping) and name != "options" and f"{prefix}{name}" not in ends:
            yield from leaf_values(value, ends, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@lru_cache
def _settings_of(choices: tuple[tuple[str, str], ...]) -> frozenset[str]:
    running = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            composed = compose("config", [f"{group}={name}" for group, name in choices])
    finally:
        GlobalHydra.instance().hydra = running
    return frozenset(leaves(OmegaConf.to_container(composed, resolve=False)))
