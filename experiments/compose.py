"""From composed configs to plain values: those of run.py, and those that the command-line tools compose themselves."""

import copy
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from experiments import build
from experiments.schema import CONF, check_keys
from experiments.settings import WHOLE, check_settings, leaf_values
from experiments.stage import until_choices
from experiments.stages import STAGES
from ldm.errors import UserError, nearest


def composed(overrides: Sequence[str], conf: Path = CONF, needs_path: bool = True) -> dict[str, Any]:
    """The plain values that run.py would work with under these overrides.

    With `needs_path=False` images without a data.path are let through, their path None.

    Raises: UserError, or an error of Hydra or OmegaConf (see `experiments.cli.sentence_for`), where they cannot be.
    """
    config = copy.deepcopy(_composed(tuple(overrides), conf))
    if not needs_path and OmegaConf.is_missing(config.data, "path"):
        config.data.path = None
    return plain(config, "")


def swept(overrides: Sequence[str], conf: Path = CONF) -> dict[str, list[str]]:
    """What an experiment among the overrides sweeps, and they do not set themselves: the values by key."""
    sweeper = _composed(tuple(overrides), conf).hydra.sweeper
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


@functools.lru_cache(maxsize=1)
def _composed(overrides: tuple[str, ...], conf: Path) -> DictConfig:
    """The last one is kept: what an experiment sweeps is often asked for just before its settings."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


def settings_only(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a plan is made of."""
    return {key: value for key, value in values.items() if key != "overrides"}


def plain(config: DictConfig, command: str) -> dict[str, Any]:
    """A composed config as plain values, with the machine's decisions made and its keys checked."""
    check_keys(config)
    gone = [group for group in WHOLE if group not in config]
    if gone:
        instead = "; tracker.mode=disabled tracks nothing" if gone == ["tracker"] else ""
        raise UserError(f"every run needs the group {gone[0]}: leave ~{gone[0]} out{instead}")
    overrides = _overrides(config)
    values: dict[str, Any] = OmegaConf.to_container(  # type: ignore[assignment]
        OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]),
        resolve=True,
        throw_on_missing=True,
    )
    check_settings(values)
    choices = until_choices(STAGES)
    if values["until"] not in choices:
        raise UserError(
            f"until={values['until']} is no stage{nearest(str(values['until']), choices)} (one of {', '.join(choices)})"
        )
    # What the environment gave may be a secret, and is not to stand in records.
    values[FROM_ENVIRONMENT] = [key for key, value in leaf_values(_unresolved(config)) if "${oc.env:" in str(value)]
    values["device"] = build.resolve_device(values["device"])
    values["precision"] = build.resolve_precision(values["precision"], values["device"])
    return {**values, "command": command, "overrides": overrides}


FROM_ENVIRONMENT = "from_environment"
REDACTED = "(from the environment)"


def _unresolved(config: DictConfig) -> dict[str, Any]:
    found: dict[str, Any] = OmegaConf.to_container(config, resolve=False)  # type: ignore[assignment]
    return {key: value for key, value in found.items() if key != "hydra"}


def without_environment(config: Mapping[str, Any]) -> dict[str, Any]:
    """A plain config with what variables of the environment gave taken out, for records."""
    hidden = config.get(FROM_ENVIRONMENT, ())

    def shown(value: Any, key: str) -> Any:
        if key in hidden:
            return REDACTED
        if isinstance(value, Mapping):
            return {name: shown(inner, f"{key}.{name}" if key else str(name)) for name, inner in value.items()}
        return value

    found: dict[str, Any] = shown(config, "")
    return found


def _overrides(config: DictConfig) -> list[str]:
    if "hydra" not in config:
        return []
    return [override for override in config.hydra.overrides.task if not override.startswith("sweep.")]
