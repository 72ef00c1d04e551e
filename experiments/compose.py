"""From composed configs to plain values: those of run.py, and those that the command-line tools compose themselves."""

import copy
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments import build
from experiments.schema import CONF, check_keys, leaf_values
from experiments.settings import WHOLE, check_settings
from experiments.stage import until_choices
from experiments.stages import STAGES
from ldm.errors import UserError, nearest


def composed(overrides: Sequence[str], conf: Path = CONF, needs_path: bool = True) -> dict[str, Any]:
    """The plain values that run.py would work with under these overrides.

    With `needs_path=False` images without a data.path are let through, their path None.

    Raises: UserError, or an error of Hydra or OmegaConf (see `experiments.cli.sentence_for`), where they cannot be.
    """
    return plain(_with_path(copy.deepcopy(_composed(tuple(overrides), conf)), needs_path), "")


def composed_points(points: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """The plain values of points that are given by all of their overrides, images without a data.path let through.

    Raises: as `composed`.
    """

    def compose_point(point: Sequence[str]) -> DictConfig:
        return _with_path(copy.deepcopy(_composed(tuple(point), CONF)), needs_path=False)

    return list(composed_grid(points, compose_point, ""))


def _with_path(config: DictConfig, needs_path: bool) -> DictConfig:
    """The config, in which images that need no path have none where they lack it."""
    if not needs_path and OmegaConf.is_missing(config.data, "path"):
        config.data.path = None
    return config


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


def composed_grid(
    grid: Sequence[Sequence[str]], compose: Callable[[Sequence[str]], DictConfig], command: str
) -> Iterator[dict[str, Any]]:
    """The plain values of each point of a grid, as `plain(compose(point), command)` gives them.

    Hydra composes one point of each combination of choices. Those that differ from it in values alone are that one with
    their values, which is a hundred times as quick; what no point sets they share, and what is another setting's value
    follows that one. Raises: as `plain`.
    """
    known: dict[tuple[str, ...], tuple[dict[str, Any], Mapping[str, str]]] = {}
    for point in grid:
        alike = tuple(override.partition("=")[0] if sets_value(override) else override for override in point)
        if alike in known:
            like, references = known[alike]
            values = functools.reduce(with_override, filter(sets_value, point), like)
            for key, target in references.items():
                values = _with_value(values, key.split("."), _value(values, target))
            values["overrides"] = _of_the_task(point)
            check_settings(values)
        else:
            config = compose(point)
            values = plain(config, command)
            if (followed := _references(config)) is not None:
                known[alike] = values, followed
        yield values


VALUES = ("seed",)
"""Settings in no group from which nothing follows when a config is composed."""


def sets_value(override: str) -> bool:
    """Whether an override gives one setting a value: no choice, nothing added, no mapping, no reference to another."""
    key, equals, value = override.partition("=")
    is_setting = bool(equals) and ("." in key or key in VALUES) and key[0] not in "+~" and "@" not in key
    return is_setting and not value.lstrip().startswith("{") and "${" not in value


def with_override(values: Mapping[str, Any], override: str) -> dict[str, Any]:
    """Plain values with that of an override that sets one; what lies beside it is shared. Raises: KeyError."""
    key, value = _read_override(override)
    return _with_value(values, key.split("."), value)


@functools.lru_cache(maxsize=4096)
def _read_override(override: str) -> tuple[str, Any]:
    parsed = OverridesParser.create().parse_override(override)
    return parsed.key_or_group, parsed.value()


def _with_value(values: Mapping[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    first, *rest = keys
    old = values[first]
    return {**values, first: _with_value(old, rest, value) if rest else copy.copy(value)}


REFERENCE = re.compile(r"\$\{(\w+(?:\.\w+)*)\}")


def _references(config: DictConfig) -> dict[str, str] | None:
    """By setting the one whose value it has, such as `seed: ${ae.seed}`.

    None where one is more than another's value: a text around it, a variable of the environment, or a reference again.
    """
    found = dict[str, str]()
    for key, value in leaf_values(_unresolved(config)):
        if "${" in str(value):
            match = REFERENCE.fullmatch(str(value))
            if match is None:
                return None
            found[key] = match[1]
    return None if any(_is_within(target, key) for target in found.values() for key in found) else found


def _is_within(key: str, other: str) -> bool:
    """Whether one dotted key is the other, or lies in it or around it."""
    return f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")


def _value(values: Mapping[str, Any], key: str) -> Any:
    return functools.reduce(lambda inner, name: inner[name], key.split("."), values)


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


def with_environment(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A plain config of a record with what variables of the environment give now where it was taken out.

    Raises: UserError that names a setting for which they give nothing.
    """
    hidden = [key for key, value in leaf_values(config) if value == REDACTED]
    found = dict(config)
    if hidden:
        try:
            now = dict(leaf_values(composed(overrides, needs_path=False)))
        except (UserError, HydraException, OmegaConfBaseException) as error:
            why = str(error).partition("\n")[0]
            raise UserError(f"{hidden[0]} came from the environment, which does not give it now: {why}") from error
        for key in hidden:
            found = _with_value(found, key.split("."), now[key])
    return found


def _overrides(config: DictConfig) -> list[str]:
    return _of_the_task(config.hydra.overrides.task) if "hydra" in config else []


def _of_the_task(overrides: Sequence[str]) -> list[str]:
    """Without those that only tell a job of a sweep which stage is its own."""
    return [override for override in overrides if not override.startswith("sweep.")]
