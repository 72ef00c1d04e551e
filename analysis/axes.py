"""The axes of a study: what its cells differ in, by the stages whose rows depend on it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from ldm.records import Choice, StageShape, Sweep

REPEATED = ("seed", "ae_seed", "sampler_seed")
"""Axes whose values are repetitions of one cell: a diffusion model, a first stage, or samples anew."""

AUTO = "auto"
"""The guidance scale of a cell that found its own; its rows have the scale that it found."""

TUNED = "tuned"
"""The guidance rule of such a cell, and the learning-rate rule of one whose learning rate was found."""

RULES = ("guidance_rule", "learning_rate_rule")
"""Axes that say that something was found: beside a cell of which it was, none is a choice, too."""

SOMETIMES_INACTIVE = (*RULES, "eta", "variance", "guidance_interval", "guidance_rescale", "learning_rate_factor")
"""Axes that are empty where the sampler does not read them, there is no guidance, or the learning rate was found; that
is no choice of its own.
"""


@dataclass(frozen=True)
class Axes:
    """The axes of a study in the order in which labels name them.

    `first_stage`: those that make a first stage and its images another one, and not the same one trained or judged
    again. `compression`: those of them that pixels, which have no first stage, have no choice of.
    `choices`: by axis and value, what the sweeps' programs call their parts.
    """

    all: tuple[str, ...]
    first_stage: tuple[str, ...]
    compression: tuple[str, ...]
    choices: Mapping[str, Mapping[str, Choice]] = field(default_factory=dict)

    def titles(self, axis: str) -> dict[str, str]:
        """How the values of an axis are written in figures and tables, of those that have a title."""
        return {value: choice.title for value, choice in self.choices.get(axis, {}).items()}

    def title(self, axis: str, value: object) -> str:
        """How a value of an axis is written in figures and tables: by its own name where it has no title."""
        return self.titles(axis).get(str(value), str(value))

    def own(self, axis: str, value: object) -> tuple[str, ...]:
        """The axes that this value of the axis has, and not all of its values."""
        choice = self.choices.get(axis, {}).get(str(value))
        return () if choice is None else choice.options

    @property
    def settings(self) -> tuple[str, ...]:
        """Those that make a cell another one, and not a repetition of the same."""
        return tuple(axis for axis in self.all if axis not in REPEATED)


def stages_of(sweeps: Iterable[Sweep]) -> dict[str, StageShape]:
    """The stages of all sweeps, parents first: those of the latest, and behind them what only earlier ones had."""
    stages: dict[str, StageShape] = {}
    for sweep in sorted(sweeps, key=lambda sweep: (sweep.created, sweep.sweep), reverse=True):
        for name, shape in sweep.stages.items():
            stages.setdefault(name, shape)
    return stages


def choices_of(sweeps: Iterable[Sweep]) -> dict[str, dict[str, Choice]]:
    """What the programs of all sweeps call their parts; the latest has the say."""
    found: dict[str, dict[str, Choice]] = {}
    for sweep in sorted(sweeps, key=lambda sweep: (sweep.created, sweep.sweep)):
        for axis, named in sweep.choices.items():
            found.setdefault(axis, {}).update(named)
    return found


def axes_of(stages: Mapping[str, StageShape], choices: Mapping[str, Mapping[str, Choice]] = {}) -> Axes:
    """The axes of all stages; the stage that has most of them says their order."""
    by_number = sorted(stages.values(), key=lambda shape: len(shape.axes), reverse=True)
    of_images, of_first_stage = (stages[name].axes if name in stages else () for name in ("reference", "first_stage"))
    return Axes(
        all=tuple(dict.fromkeys(axis for shape in by_number for axis in shape.axes)),
        first_stage=tuple(axis for axis in of_first_stage if axis not in ("extractor", *REPEATED)),
        compression=tuple(
            axis for axis in of_first_stage if axis not in (*of_images, "f", "regulariser", "budget", *REPEATED)
        ),
        choices=choices,
    )


def needed_by(stage: str, stages: Mapping[str, StageShape]) -> list[str]:
    """The stage and all that it hangs on, parents first."""
    wanted = {stage}
    for name in reversed(list(stages)):
        if name in wanted:
            wanted.update(stages[name].parents)
    return [name for name in stages if name in wanted]


def choices(values: "pd.Series") -> int:
    """How many different choices of the axis that the values are of there are."""
    found = {value if is_given(value) else None for value in values.tolist()}
    is_left_out = values.name in SOMETIMES_INACTIVE and not (values.name in RULES and TUNED in found)
    return len(found - {None} if is_left_out else found)


def is_given(value: object) -> bool:
    """Whether an axis has a value in a row."""
    return not (value is None or value is pd.NA or value != value or value == "")
