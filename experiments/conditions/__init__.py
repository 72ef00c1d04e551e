"""The conditions that a diffusion model can be given, one file each, and what a config asks of them together."""

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from experiments.conditions.asked import AskedConditions
from experiments.conditions.class_label import CLASS_LABEL
from experiments.conditions.condition import BuildContext, ConditionKind, Encode
from experiments.conditions.inpaint import INPAINT
from experiments.conditions.layout import LAYOUT
from experiments.conditions.scores import TaskScore
from experiments.conditions.semantic import SEMANTIC
from experiments.conditions.superres import SUPERRES
from experiments.conditions.text import TEXT
from experiments.data_facts import DataFacts, Vocabulary, vocabulary_of
from ldm.conditioning import CombinedConditioning, Conditioning, Unconditional
from ldm.data.contract import ImageCache
from ldm.data.fields import Fields
from ldm.errors import UserError

__all__ = [
    "CONDITIONS",
    "AskedConditions",
    "BuildContext",
    "ConditionKind",
    "DataFacts",
    "Encode",
    "Vocabulary",
    "annotations_read",
    "chosen_conditions",
    "condition_choices",
    "conditions_of",
    "fields_of",
    "filled_conditioning",
    "has_tokens",
    "larger_maps",
    "leaves_known",
    "probe_options",
    "probed",
    "said",
    "sample_size",
    "side_unit",
    "task_of",
    "task_scores_of",
    "task_weights",
    "tau_theta",
    "vocabulary_of",
]

CONDITIONS: Mapping[str, ConditionKind[Any]] = {
    kind.name: kind for kind in (CLASS_LABEL, TEXT, LAYOUT, SEMANTIC, SUPERRES, INPAINT)
}
"""By name, in the order in which they are named, given and drawn; the keys of the group `conditioning`."""


def conditions_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the conditions in the group `conditioning` of a config or of settings, in a fixed order."""
    return tuple(name for name in CONDITIONS if name in config["conditioning"])


def annotations_read(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The kinds of annotations that the conditions of a config's group `conditioning` read."""
    kinds = (CONDITIONS[name].annotation for name in conditions_of(config))
    return tuple(kind for kind in kinds if kind is not None)


def task_of(config: Mapping[str, Any]) -> str | None:
    """What an image to start from lacks, in words, so that easier and harder tasks are told apart; None without one."""
    words = [kind.task(options) for kind, options in chosen_conditions(config["conditioning"])]
    return "; ".join(task for task in words if task is not None) or None


def sample_size(config: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of the samples of a resolved config, in pixels."""
    resolution = config["data"]["resolution"]
    return config["samples"]["height"] or resolution, config["samples"]["width"] or resolution


def larger_maps(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """The size at which images are asked for the conditions of samples; None: at the training size.

    Conditions that are maps must be made at the samples' own size; tokens say the same of any.
    """
    is_larger = config["samples"]["height"] is not None
    has_maps = any(CONDITIONS[name].is_map for name in conditions_of(config))
    return sample_size(config) if is_larger and has_maps else None


def probed(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The conditions of a resolved config that probes ask its samples for; none of larger samples."""
    is_larger = config["samples"]["height"] is not None
    return () if is_larger else tuple(name for name in conditions_of(config) if CONDITIONS[name].probe is not None)


def chosen_conditions(conditioning: Mapping[str, Any]) -> list[tuple[ConditionKind[Any], Any]]:
    """The conditions of a group `conditioning` with their options."""
    return [(kind, kind.options(**conditioning[name])) for name, kind in CONDITIONS.items() if name in conditioning]


def has_tokens(conditioning: Mapping[str, Any]) -> bool:
    """Whether a condition of the group is given by cross-attention."""
    return any(kind.gives_tokens for name, kind in CONDITIONS.items() if name in conditioning)


def leaves_known(conditioning: Mapping[str, Any]) -> bool:
    """Whether a condition of the group leaves pixels known."""
    return any(kind.leaves_known for name, kind in CONDITIONS.items() if name in conditioning)


def side_unit(conditioning: Mapping[str, Any]) -> int:
    """What the sides of samples must be multiples of for the conditions of the group."""
    return math.lcm(*(kind.side_unit(options) for kind, options in chosen_conditions(conditioning)))


def filled_conditioning(
    conditioning: Mapping[str, Any], sizes: Mapping[str, Mapping[str, Any]], facts: DataFacts, data: str
) -> tuple[dict[str, Any], list[str]]:
    """The group with what it leaves open taken from `sizes`, by condition, for the data of that name; and notes.

    Raises: UserError where the data cannot give a condition, or its options are none.
    """
    filled, notes = dict(conditioning), list[str]()
    for name in conditions_of({"conditioning": conditioning}):
        kind = CONDITIONS[name]
        if kind.is_optional and not kind.can_be_given_by(len(facts.classes), facts.annotations):
            del filled[name]
            rest = ", ".join(conditions_of({"conditioning": filled}))
            beside = f" beside {rest}" if rest else ""
            notes.append(f"the data has no {kind.needs}: the diffusion model is trained without them{beside}")
    for name in conditions_of({"conditioning": filled}):
        kind, table = CONDITIONS[name], sizes.get(name, {})
        if not kind.can_be_given_by(len(facts.classes), facts.annotations):
            raise UserError(
                f"conditioning={name} needs {kind.needs}, and data={data} has none; add them, "
                "or choose another conditioning"
            )
        settings = {
            key: copy.deepcopy(table[key]) if value is None and key in table else value
            for key, value in filled[name].items()
        }
        filled[name] = kind.settled(settings)
    for kind, options in chosen_conditions(filled):
        kind.check(options)
    return filled, notes


def probe_options(conditioning: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The arguments that only the probe of this condition has, for the options in the group."""
    kind = CONDITIONS[name]
    return {} if kind.probe is None else kind.probe.options(kind.options(**conditioning[name]))


def tau_theta(conditioning: Mapping[str, Any], context: BuildContext) -> Conditioning:
    """What makes the condition of the fields, with its initial weights. Raises: UserError for what cannot be built."""
    parts = {kind.name: kind.conditioning(options, context) for kind, options in chosen_conditions(conditioning)}
    if len(parts) > 1:
        return CombinedConditioning(parts)
    return next(iter(parts.values()), Unconditional())


def fields_of(conditioning: Mapping[str, Any], images: ImageCache, device: str) -> Fields:
    """What the conditions of a resolved group read of an image set."""
    makers = [kind.fields(options, device) for kind, options in chosen_conditions(conditioning)]
    return Fields(images, {name: maker for made in makers for name, maker in made.items()})


def said(
    conditioning: Mapping[str, Any], words: Sequence[str], classes: Sequence[str], device: str
) -> dict[str, Tensor]:
    """The fields of samples that are asked for in words, one text a sample, of images with these classes.

    Raises: UserError where no condition of the resolved group can be said in words, several can, or these are unknown.
    """
    spoken = [(kind, options) for kind, options in chosen_conditions(conditioning) if kind.said is not None]
    if len(spoken) != 1:
        able = " and ".join(kind.name for kind, _ in spoken) or "nothing"
        raise UserError(
            f"this model is told {able} in words, so '{words[0]}' cannot be asked of it: give the positions of images "
            "whose conditions it is to take, or no condition"
        )
    [(kind, options)] = spoken
    assert kind.said is not None
    return dict(kind.said(options, words, classes, device))


def task_scores_of(conditioning: Mapping[str, Any]) -> list[tuple[TaskScore, Any]]:
    """How samples are measured against the conditions of the group, with the options of each condition.

    The first score of every condition stands before the second of any.
    """
    each = [[(score, options) for score in kind.all_scores] for kind, options in chosen_conditions(conditioning)]
    return [found for turn in itertools.zip_longest(*each) for found in turn if found is not None]


def task_weights(conditioning: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The weights of networks beside probes that measure samples against conditions, where the user gave them."""
    named = {name: key for score, _ in task_scores_of(conditioning) for name, key in score.weights.items()}
    return {name: metrics[key] for name, key in named.items() if metrics[key] is not None}
