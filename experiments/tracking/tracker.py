"""What a run of the program shows in which tracker: a run a stage execution, a run a finished cell."""

import importlib.util
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.compose import without_environment
from experiments.schema import leaf_values
from experiments.stage import Plan, PlannedStage
from experiments.store import Store
from experiments.tracking import wandb_runs
from experiments.tracking.runs import CELL, About, Mirror, NoMirror, Once, Run, Silent, made
from experiments.tracking.tensorboard_runs import TensorboardMirror
from experiments.tracking.trackio_runs import TrackioMirror
from experiments.tracking.wandb_runs import WandbMirror
from ldm.errors import UserError
from ldm.first_stage import FIRST_STAGES
from ldm.records import StageRecord, content_hash, write_json

MODES = ("offline", "online", "disabled")

SEEDS = ("seed", "ae_seed", "sampler_seed")
"""Axes of which repetitions of one cell differ."""

NOT_OF_A_RUN = ("scale", "sweep", "shortlist", "tracker")
"""Groups of settings that say nothing of one run: tables for all f, and what a call does with its runs."""

TOLD = "tracking"
"""The folder of a store that holds how far unfinished runs were told, and what runs of cells show, of each tracker."""


def _wandb(store: Path, mode: str, settings: Mapping[str, Any]) -> Mirror:
    return WandbMirror(store, mode, settings["project"], settings["entity"])


def _trackio(store: Path, mode: str, settings: Mapping[str, Any]) -> Mirror:
    return TrackioMirror(store, settings["project"])


def _tensorboard(store: Path, mode: str, settings: Mapping[str, Any]) -> Mirror:
    return TensorboardMirror(store)


def _none(store: Path, mode: str, settings: Mapping[str, Any]) -> Mirror:
    return NoMirror()


@dataclass(frozen=True)
class Kind:
    """A tracker that may be chosen: how its mirror is opened, and the package that it needs, which is its extra."""

    opened: Callable[[Path, str, Mapping[str, Any]], Mirror]
    package: str | None = None


TRACKERS: Mapping[str, Kind] = {
    "wandb": Kind(_wandb),
    "trackio": Kind(_trackio, "trackio"),
    "tensorboard": Kind(_tensorboard, "tensorboard"),
    "none": Kind(_none),
}
"""The trackers by name, as `tracker=` chooses them."""


def mode_of(settings: Mapping[str, Any]) -> str:
    """How the group `tracker` is used: `mode`, or what W&B's own variables say in its place; "disabled" for none.

    Raises: UserError for an unknown tracker or mode.
    """
    name, given = settings["name"], settings["mode"]
    if name not in TRACKERS:
        raise UserError(f"tracker.name={name} is none of {', '.join(TRACKERS)}")
    if given not in MODES:
        raise UserError(f"tracker.mode={given} is none of {', '.join(MODES)}")
    if name == "none":
        return "disabled"
    if name == "wandb":
        return wandb_runs.mode_of(given)
    if given == "online":
        raise UserError(
            f"tracker={name} writes into the store alone: leave tracker.mode=online out, or use tracker=wandb"
        )
    return str(given)


def check_tracking(settings: Mapping[str, Any], store: Path) -> list[str]:
    """Notes on how runs are tracked, before anything runs.

    Raises: UserError for an unknown tracker or mode, one whose package is not installed, and where runs are to be
    uploaded and nobody has logged in.
    """
    mode, package = mode_of(settings), TRACKERS[settings["name"]].package
    if mode != "disabled" and package is not None and importlib.util.find_spec(package) is None:
        raise UserError(f"tracker={settings['name']} needs a package: pip install -e '.[{package}]'")
    return wandb_runs.check(settings["mode"], store) if settings["name"] == "wandb" else []


class Tracker:
    """Opens runs in the tracker that the group `tracker` chooses, all of one call in one group.

    Raises: UserError for an unknown tracker or mode.
    """

    def __init__(self, store: Path, settings: Mapping[str, Any], group: str) -> None:
        self.store, self.group, mode = store, group, mode_of(settings)
        kind = TRACKERS["none" if mode == "disabled" else settings["name"]]
        self.is_silent = kind is TRACKERS["none"]
        self.mirror = kind.opened(store, mode, settings)
        where = content_hash([settings["project"], settings["entity"]], 6)
        self.told = store / TOLD / f"{settings['name']}-{where}"

    @contextmanager
    def stage_run(self, plan: Plan, stage: PlannedStage, depends_on: Collection[str]) -> Iterator[Run]:
        """The run of one stage execution, ended whether the stage succeeds or not; `depends_on` are its axes."""
        about = about_stage(stage, plan.axes, without_environment(plan.config), depends_on, self.group)
        with self.mirror.run(about) as run:
            if self.is_silent:
                yield run
            else:
                once = Once(run, self.told / about.identity)
                yield once
                once.forget()

    def forget(self, stage: PlannedStage) -> None:
        """To be called where an unfinished artifact is discarded: what is made in its place is told from its start."""
        for told in (self.store / TOLD).glob("*"):
            Once(Silent(), told / f"{stage.name}-{stage.identity}").forget()

    def settle(self) -> None:
        """Ends the runs of finished stages; to be called where no other process waits."""
        self.mirror.settle()

    def cell_run(self, plan: Plan, store: Store) -> None:
        """One run for a finished cell with the results of all its stages, so that tables and scatter plots work.

        A run that shows the same records is left as it is.
        """
        if self.is_silent:
            return
        stages = {planned.name: planned.identity for planned in plan.stages.values()}
        about, records = about_cell(plan.cell, plan.axes, stages, self.group), finished(store, stages)
        place, shown = self.told / about.identity, made(records)
        if place.exists() and place.read_text(encoding="utf-8") == json.dumps(shown):
            return
        with self.mirror.run(about) as run:
            show(run, store, records)
        self.settle()
        write_json(place, shown)


def finished(store: Store, stages: Mapping[str, str]) -> list[StageRecord]:
    """The records of those of the stages, given by their identities, that are finished."""
    found = (store.record(stage, identity) for stage, identity in stages.items())
    return [record for record in found if record is not None]


def show(run: Run, store: Store, records: Sequence[StageRecord]) -> None:
    """The pictures and the results of finished stages in a run."""
    for record in records:
        for path in sorted(store.folder(record.stage, record.identity).glob("*.png")):
            run.image(path)
    run.finish(*records)


def about_stage(
    stage: PlannedStage, axes: Mapping[str, Any], config: Mapping[str, Any], depends_on: Collection[str], group: str
) -> About:
    """What the run of a stage is of; `config`: the full one, without what the environment gave."""
    own = {axis: axes[axis] for axis in depends_on if axes.get(axis) is not None}
    return About(
        identity=f"{stage.name}-{stage.identity}",
        name=f"{stage.name} of {in_words(axes, depends_on)}",
        job_type=stage.name,
        group=group,
        config={**_grouped(axes, own), "identity": stage.identity, **flat(config)},
        tags=(stage.name, *_tags(own)),
    )


def about_cell(cell: str, axes: Mapping[str, Any], stages: Mapping[str, str], group: str) -> About:
    """What the run of a finished cell is of, which its evaluation names; `cell`: the same without the seed."""
    own = {axis: value for axis, value in axes.items() if value is not None}
    parts = {f"stages/{stage}": one for stage, one in stages.items()}
    return About(
        identity=f"cell-{stages['evaluation']}",
        name=in_words(axes, axes),
        job_type=CELL,
        group=group,
        config={**_grouped(axes, own), "cell": cell, **parts},
        tags=(CELL, *_tags(own)),
    )


def _grouped(axes: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The axes of a run, and under `repetition_of` a text that runs share which differ in seeds alone."""
    apart = {axis: value for axis, value in own.items() if axis not in SEEDS}
    words = in_words(axes, [axis for axis in own if axis not in SEEDS])
    return {**own, "repetition_of": f"{words} ({content_hash(apart, 6)})"}


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config by keys such as "ae/f", none within another, so that runs can be grouped by each."""
    found = ((key, value) for key, value in leaf_values(config) if "." in key)
    return {key.replace(".", "/"): value for key, value in found if key.partition(".")[0] not in NOT_OF_A_RUN}


def _tags(axes: Mapping[str, Any]) -> tuple[str, ...]:
    named = {"f": "f={}", "regulariser": "{}", "scale": "scale={}"}
    return tuple(form.format(axes[axis]) for axis, form in named.items() if axis in axes)


def _title(regulariser: str) -> str:
    return FIRST_STAGES[regulariser].labels.title if regulariser in FIRST_STAGES else regulariser


def in_words(axes: Mapping[str, Any], depends_on: Collection[str]) -> str:
    """A cell as a person names it, as far as these axes go: "KL f=4, ddim 20 steps"."""
    words = [f"{_title(axes['regulariser'])} f={axes['f']}"]
    if "steps" in depends_on and axes.get("steps"):
        words.append(f"{axes['sampler']} {axes['steps']} steps")
    return ", ".join(
        [*words, *(f"{key} {axes[key]}" for key in ("seed", "ae_seed") if key in depends_on and axes.get(key))]
    )
