"""What a stage is, what it is handed, and what it hands back. Names no stage and imports nothing but the records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ldm.records import Cost, LeftOut, ResultRow, StageRecord, StageShape

if TYPE_CHECKING:
    from experiments.conditions import DataFacts, Vocabulary
    from experiments.counts import Counts
    from ldm.data.contract import ImageCache, Split

Settings = Mapping[str, Any]


def _no_label(axes: Settings) -> str:
    return ""


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline: what it hangs on, what its identity hashes, and the function that does its work.

    name: of its folder in the store. parents: the stages whose artifacts it reads, of which a plan may lack some.
    version: of its code, raised by hand when the same settings give other numbers (guarded by golden numbers).
    axes: those that its rows depend on, in the order in which labels name them.
    until: the values of `until=` that ask for it; what it needs comes with it.
    settings(config, facts): what its identity hashes, of a resolved config and facts of the images; None where no plan
    for this config holds it. run(job): does the work. label(axes): what a line about it says behind its name.
    defaults: settings, by dotted path, that are left out of the identity at these values, so that an option that is
    new keeps what stores hold. is_result: whether its rows are about a candidate, which is missed without them.
    names_cell: whether its identity at training seed 0 is the name of the cell. needs(config): which of its parents it
    reads under a config, all that the plan has where None. estimate(settings, counts): its work, where networks do it.
    notes(stage, plans, store): what to say before these plans are run with the store in that folder.
    divides(settings): whether its work is divided over the devices of a job, where that has several; never where None.
    Its `run` is then called once for each device, as `ldm.ranks.these` tells it, and the first alone writes.
    """

    name: str
    parents: tuple[str, ...]
    version: int
    axes: tuple[str, ...]
    until: tuple[str, ...]
    settings: Callable[[Settings, DataFacts], Settings | None]
    run: Callable[[Job], Outcome]
    label: Callable[[Settings], str] = _no_label
    defaults: Settings = field(default_factory=dict)
    is_result: bool = False
    names_cell: bool = False
    needs: Callable[[Settings], tuple[str, ...]] | None = None
    estimate: Callable[[Settings, Counts], Estimate | None] | None = None
    notes: Callable[[Stage, Sequence[Plan], Path], list[str]] | None = None
    divides: Callable[[Settings], bool] | None = None

    @property
    def shape(self) -> StageShape:
        """What analysis needs to know of it."""
        return StageShape(self.axes, self.parents, self.is_result)

    def line(self, axes: Settings) -> str:
        """What a line about the stage of a cell with these axes begins with."""
        text = self.label(axes)
        return f"{self.name:<14} {text}" if text else self.name


@dataclass(frozen=True)
class Estimate:
    """The work of a stage before it is done; None: not known.

    `images`: handled, with the `work` of them all, in FLOPs or, of counts in seconds, in seconds. `batch` of what is
    trained; None: nothing. `memory`: bytes of its tensors, roughly.
    """

    images: int | None
    work: float | None
    batch: int | None = None
    memory: int | None = None


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a plan: its settings, the identities of its parents, and its own."""

    name: str
    identity: str
    settings: Settings
    parents: Mapping[str, str]


@dataclass(frozen=True)
class Plan:
    """All stages of one cell, parents first.

    `axes`: what distinguishes cells in tables. `config`: the full resolved config, for the record and for what runs
    stages, never for a stage. `notes`: sentences that the user should read.
    """

    cell: str
    axes: Settings
    stages: Mapping[str, PlannedStage]
    config: Settings
    notes: tuple[str, ...]

    def needed(self, targets: Iterable[str]) -> list[PlannedStage]:
        """The targets, as far as the plan holds them, and all that they hang on, parents first."""
        wanted = {name for name in targets if name in self.stages}
        for name in reversed(list(self.stages)):
            if name in wanted:
                wanted.update(self.stages[name].parents)
        return [stage for name, stage in self.stages.items() if name in wanted]


@dataclass(frozen=True)
class Machine:
    """Where a stage runs, which changes no number beyond rounding.

    device: "cpu" or "cuda". workers: threads that decode images, None = all cores. batch: images sampled at a time.
    micro_batch: images whose gradients are computed at a time in training, None = the whole batch.
    compile: whether denoisers are compiled, of `ldm.training.compiled.COMPILES`.
    """

    device: str
    workers: int | None
    batch: int
    micro_batch: int | None
    checkpoint_seconds: float
    compile: str = "never"


@dataclass(frozen=True)
class Parent:
    """A finished artifact that a stage hangs on: its record, and the settings that it was planned with.

    `file(name)` is the path of one of its files, whose content has been checked against the record.
    """

    record: StageRecord
    settings: Settings
    file: Callable[[str], Path]


class Log(Protocol):
    """Where a stage logs while it runs."""

    def log(self, images_seen: int, values: Mapping[str, float]) -> None:
        """Values at that many images seen."""

    def image(self, path: Path) -> None:
        """A picture of the stage that lies on disk, called as its file is."""


class ImageSets(Protocol):
    """The images of a plan, by split; `resolution` is the side of training images in pixels."""

    @property
    def resolution(self) -> int: ...

    def open(
        self, split: Split, annotations: Iterable[str] = (), size: tuple[int, int] | None = None
    ) -> ImageCache: ...

    def fingerprints(self, split: Split, annotations: Iterable[str] = ()) -> Iterable[str]: ...

    def vocabulary(self, annotations: Iterable[str]) -> Vocabulary: ...


@dataclass(frozen=True)
class Job:
    """One stage at work: what its identity hashes, and nothing else that can change a number.

    `parents` holds all that the stage hangs on, parents of parents included. `still_ours` stops a job that another
    process took over, since this one gave no sign of life; to be called before what is to be gone on from is written.
    """

    stage: Stage
    planned: PlannedStage
    folder: Path
    parents: Mapping[str, Parent]
    machine: Machine
    label: str
    log: Log
    image_sets: ImageSets
    still_ours: Callable[[], None] = lambda: None

    @property
    def settings(self) -> Settings:
        """What the stage's identity hashes."""
        return self.planned.settings

    @property
    def device(self) -> str:
        """ "cpu" or "cuda"."""
        return self.machine.device

    @property
    def resolution(self) -> int:
        """The side of the training images in pixels."""
        return self.image_sets.resolution

    def parent(self, name: str) -> Parent:
        """The ancestor of that stage name. Raises: RuntimeError where the stage does not hang on one."""
        if name not in self.parents:
            raise RuntimeError(f"stage {self.stage.name} reads {name}, on which it does not hang here")
        return self.parents[name]

    def images(self, split: Split, annotations: Iterable[str] = (), size: tuple[int, int] | None = None) -> ImageCache:
        """The decoded images of a split with these annotations, of another (height, width) where `size` is given.

        Raises: RuntimeError where the identity of this stage, parents included, does not hold their content.
        """
        self._demand(split, annotations)
        return self.image_sets.open(split, annotations, size)

    def vocabulary(self, annotations: Iterable[str]) -> Vocabulary:
        """How many classes of each kind the training images have, of these annotations, without decoding any."""
        self._demand("train", annotations)
        return self.image_sets.vocabulary(annotations)

    def _demand(self, split: Split, annotations: Iterable[str]) -> None:
        hashed = set(_texts(self.settings))
        for parent in self.parents.values():
            hashed.update(_texts(parent.settings))
        if not hashed.issuperset(self.image_sets.fingerprints(split, annotations)):
            raise RuntimeError(f"stage {self.stage.name} reads {split} images that its identity does not hold")


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value of mappings and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


@dataclass(frozen=True)
class Outcome:
    """What a stage hands to its record."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[ResultRow] = ()
    left_out: Sequence[LeftOut] = ()
    protocols: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)


def until_choices(stages: Iterable[Stage]) -> tuple[str, ...]:
    """The values of `until=`, in the order of the stages that they name."""
    asked = {value for stage in stages for value in stage.until}
    return tuple(stage.name for stage in stages if stage.name in asked)


def targets(stages: Iterable[Stage], until: str) -> tuple[str, ...]:
    """The stages that `until=` asks for."""
    return tuple(stage.name for stage in stages if until in stage.until)
