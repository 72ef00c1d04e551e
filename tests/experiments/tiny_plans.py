"""Plans of composed settings for made-up images, so that planning is tested without any data."""

import copy
import functools
import operator
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.compose import composed, settings_only
from experiments.conditions import DataFacts
from experiments.plan import make_plan
from experiments.runner import machine_of
from experiments.stage import ImageSets, Job, Parent, Plan, Stage
from experiments.stages import STAGES
from experiments.tracking import Silent
from ldm.records import StageRecord

ON_REQUEST = {
    *("other_references", "coding", "predictors", "likelihood", "learning_rate", "tuning", "sampler_check"),
    *("training_set", "memorisation", "level_error", "averaging", "nested"),
}
"""Stages that a plan holds only where its config asks for them."""

MUST_BE_GIVEN = (".path", ".target", ".name")
"""Ends of keys that some groups have no value for, without which they cannot be composed."""

FACTS = DataFacts("train", "heldout", 64, 40, ("cat", "dog", "eel"))


@lru_cache
def _settings(choices: tuple[str, ...]) -> dict[str, Any]:
    return settings_only(composed(choices))


def settings_of(*overrides: str, scale: str = "tiny") -> dict[str, Any]:
    """Composed settings, a copy of one's own; values are set after composing, which takes long."""
    values = [override for override in overrides if is_value(override)]
    choices = tuple(override for override in overrides if override not in values)
    settings = copy.deepcopy(_settings((f"scale={scale}", "device=cpu", "precision=fp32", *choices)))
    set_values(settings, values)
    return settings


def is_value(override: str) -> bool:
    """Whether an override sets a value that a group has: no choice, nothing that is added, no mapping to be merged."""
    key, _, value = override.partition("=")
    return "." in key and key[0] not in "+~" and not value.startswith("{") and not key.endswith(MUST_BE_GIVEN)


def set_values(settings: dict[str, Any], overrides: Iterable[str]) -> None:
    """Sets values in composed settings as Hydra reads them. Raises: KeyError for one that the groups do not have."""
    parser = OverridesParser.create()
    for override in overrides:
        parsed = parser.parse_override(override)
        *groups, last = parsed.key_or_group.split(".")
        group = functools.reduce(operator.getitem, groups, settings)
        if last not in group:
            raise KeyError(override)
        group[last] = parsed.value()


def plan_of(*overrides: str, scale: str = "tiny", facts: DataFacts = FACTS) -> Plan:
    """The plan of these overrides."""
    return planned(settings_of(*overrides, scale=scale), facts)


def planned(settings: Mapping[str, Any], facts: DataFacts = FACTS) -> Plan:
    """The plan of composed settings."""
    return make_plan(settings, facts, STAGES)


def job_for(plan: Plan, name: str, images: ImageSets, facts: Mapping[str, Any]) -> Job:
    """The job of a stage of a plan whose ancestors are finished, all with the same facts in their records."""
    parents = {
        planned.name: Parent(
            StageRecord(planned.name, planned.identity, planned.settings, planned.parents, facts),
            planned.settings,
            Path(planned.name).joinpath,
        )
        for planned in plan.needed((name,))[:-1]
    }
    machine = machine_of(plan.config)
    return Job(stage_named(name), plan.stages[name], Path(name), parents, machine, name, Silent(), images)


def stage_named(name: str) -> Stage:
    """The stage of that name."""
    [found] = [stage for stage in STAGES if stage.name == name]
    return found


def identities(plan: Plan) -> dict[str, str]:
    """The identity of each stage."""
    return {name: stage.identity for name, stage in plan.stages.items()}


def changed(one: Plan, other: Plan) -> set[str]:
    """The stages in whose identity two plans differ."""
    a, b = identities(one), identities(other)
    return {name for name in a | b if a.get(name) != b.get(name)}


def reversed_keys(value: Any) -> Any:
    """The same mapping with all its keys in the opposite order."""
    if isinstance(value, Mapping):
        return {key: reversed_keys(value[key]) for key in reversed(list(value))}
    return value
