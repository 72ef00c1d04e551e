"""The plan of a cell without running it: python -m experiments.describe [KEY=VALUE ...] [--json|--config]."""

import contextlib
import itertools
import json
import math
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from experiments import build
from experiments.budget import images_at, network_calls
from experiments.call_memory import count_call_memory
from experiments.cli import exit_code, with_scale
from experiments.compose import composed, composed_points, settings_only, swept
from experiments.conditions import CONDITIONS, annotations_read, conditions_of, sample_size
from experiments.console import clock, say
from experiments.counts import (
    Counts,
    DenoiserCounts,
    FirstStageCounts,
    ImageCounts,
    count_denoiser,
    count_first_stage,
    count_sample_decoding,
    process_bytes,
    sampled_latent_shape,
)
from experiments.data_facts import DataFacts, Vocabulary
from experiments.forecast import forecast
from experiments.images import data_facts
from experiments.packing import workers_that_fit
from experiments.plan import make_plan
from experiments.resolve import with_scale_sizes
from experiments.runner import environment, machine_of
from experiments.scoring import reference_images
from experiments.stage import Estimate, Plan, Stage, targets
from experiments.stages import STAGES
from experiments.stages.samples import SHOWN
from experiments.store import Store
from experiments.workers import cores
from ldm.data.contract import Annotation
from ldm.errors import UserError
from ldm.memory import free_bytes
from ldm.records import StageRecord, is_store

USAGE = """usage: python -m experiments.describe [KEY=VALUE ...] [--json|--config]

The plan of one cell without running it, for the same overrides as run.py takes: its stages and which of them the store
holds, parameters, FLOPs, memory, and the time where a record of this store allows an estimate. Of what an experiment
sweeps, the first value is taken where the command line gives none.

  --json     one object instead of tables
  --config   the settings with every null filled in, as YAML: what the defaults stand for"""

FLAGS = ("--json", "--config")
NOT_SETTINGS = ("command", "sweep")
"""Entries of a resolved config that nobody sets."""


ALIKE = 4.0
"""Within this factor of work an image, networks reach similar FLOPs a second."""


@dataclass(frozen=True)
class StageLine:
    """One stage of the plan; None = not known: `identity` without the images, the rest where nothing tells."""

    stage: str
    identity: str | None
    is_complete: bool | None
    images: int | None
    flops: float | None
    seconds: float | None
    seconds_from: str


@dataclass(frozen=True)
class Description:
    """All that is said of a cell; `facts` None where its images cannot be opened, `decode` = FLOPs for one sample."""

    plan: Plan
    facts: DataFacts | None
    first_stage: FirstStageCounts
    denoiser: DenoiserCounts
    calls: int
    decode: float
    estimates: Mapping[str, Estimate]
    stages: Sequence[StageLine]
    notes: Sequence[str]

    @property
    def parameters(self) -> dict[str, int | None]:
        """By part; "denoiser" is the network alone, "bottleneck" the 1x1 convolutions and the codebook."""
        return {
            "denoiser": self.denoiser.denoiser,
            "conditioning": self.denoiser.conditioning,
            **self.first_stage.parameters,
        }

    @property
    def sampled_latent_shape(self) -> tuple[int, int, int]:
        """Of a sample; `first_stage.latent_shape` is that of a training image."""
        return sampled_latent_shape(self.plan.config, self.first_stage.latent_shape[0])

    @property
    def flops_per_image(self) -> dict[str, float | None]:
        """By what is done to one image, one multiply-add being 2."""
        step = self.first_stage.step
        return {
            "first_stage_step": step.work if step else None,
            "diffusion_step": self.denoiser.step.work,
            "encode": self.first_stage.encode,
            "network_call": self.denoiser.call,
            "sampling": self.calls * self.denoiser.call,
            "decode": self.decode,
        }

    @property
    def trainings(self) -> dict[str, dict[str, int]]:
        """Batch, steps, and images seen of what is trained."""
        return {
            name: {"batch": found.batch, "steps": found.images // found.batch, "images_seen": found.images}
            for name, found in self.estimates.items()
            if found.batch is not None and found.images is not None
        }

    @property
    def memory(self) -> dict[str, int | None]:
        """Bytes, roughly, of the tensors of stages, the most at a time; None where weights are not on this machine."""
        return {name: found.memory for name, found in self.estimates.items()}

    @property
    def process_memory(self) -> dict[str, int | None]:
        """Bytes, roughly, of the processes of stages on a CPU; on a GPU none, where the tensors alone count."""
        if self.plan.config["device"] != "cpu":
            return {}
        return {name: process_bytes(found) for name, found in self.estimates.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; bytes and seconds are estimates."""
        facts = self.facts
        return {
            "cell": self.plan.cell if facts else None,
            "axes": dict(self.plan.axes),
            "data": {
                "train_images": facts.train_images if facts else None,
                "heldout_images": facts.heldout_images if facts else None,
                "classes": len(facts.classes) if facts else None,
            },
            "parameters": self.parameters,
            "latent_shape": list(self.first_stage.latent_shape),
            "flops_per_image": self.flops_per_image,
            "training": self.trainings,
            "sampling": {
                "images": self.plan.config["metrics"]["n_samples"],
                "network_calls": self.calls,
                "size": list(sample_size(self.plan.config)),
                "latent_shape": list(self.sampled_latent_shape),
            },
            "memory_bytes": dict(self.memory),
            "process_memory_bytes": dict(self.process_memory),
            "stages": [asdict(line) for line in self.stages],
            "notes": list(self.notes),
        }


def describe(values: Mapping[str, Any], store: Store) -> Description:
    """The description of composed values; the store tells what is complete and how fast this machine was."""
    settings = settings_only(values)
    facts, declared, notes = _facts(settings, store)
    plan = make_plan(settings, facts or declared.as_facts(), STAGES)
    config = plan.config
    first_stage = count_first_stage(config["ae"], config["data"]["resolution"])
    is_known = facts is not None or declared.tells(conditions_of(config))
    known = (facts or declared.as_facts()).vocabulary(annotations_read(config))
    denoiser = count_denoiser(config, first_stage.latent_shape, known, is_known)
    calls = network_calls(config)
    if build.is_trained(config["ae"]) and first_stage.step is None:
        notes = [
            *notes,
            f"first-stage steps are not counted: the weights of {config['ae']['loss']['perceptual']} are not here",
        ]
    decode = count_sample_decoding(config)
    images = facts.train_images if facts else None
    milestones = config["trainer"]["milestones"]
    memory = count_call_memory(config, first_stage.latent_shape[0], known)
    counts = Counts(
        first_stage,
        denoiser,
        calls,
        decode,
        images,
        machine_of(config),
        len(milestones),
        memory,
        _image_counts(config, facts, known),
    )
    estimates = {
        stage.name: found
        for stage in STAGES
        if stage.estimate and stage.name in plan.stages
        for found in [stage.estimate(plan.stages[stage.name].settings, counts)]
        if found is not None
    }
    needed = [planned.name for planned in plan.needed(targets(STAGES, config["until"]))]
    nothing = Estimate(None, None)
    lines = [_line(plan, name, estimates.get(name, nothing), store, facts is not None) for name in needed]
    if milestones:
        seen = images_at(milestones, config["trainer"]["images"], config["trainer"]["batch"])
        notes = [*notes, f"quality over training is measured after {', '.join(f'{n:,}' for n in seen)} images"]
    notes = [*notes, *plan.notes, *_notes(STAGES, needed, plan, store), *_sharing(config["device"], estimates.values())]
    return Description(plan, facts, first_stage, denoiser, calls, decode, estimates, lines, notes)


def _image_counts(config: Mapping[str, Any], facts: DataFacts | None, known: Vocabulary) -> ImageCounts:
    n = config["metrics"]["n_samples"]
    found = ImageCounts(
        samples=n,
        kept=n if config["samples"]["keep"] == "images" else min(n, SHOWN),
        resolution=config["data"]["resolution"],
        known=known,
    )
    if facts is None:
        return found
    reference = reference_images(config["metrics"], facts)
    return replace(found, train=facts.train_images, heldout=facts.heldout_images, reference=reference)


def described(overrides: Sequence[str]) -> Description:
    """The description of the cell that overrides name, the first of an experiment's sweep where they leave it open."""
    grid = swept(overrides)
    point = [f"{key}={values[0]}" for key, values in grid.items()]
    values = composed([*overrides, *point], needs_path=False)
    with _store(Path(values["store"])) as store:
        description = describe(values, store)
    if not point:
        return description
    note = f"the experiment sweeps {', '.join(grid)}: this is {' '.join(point)}; name another on the command line"
    return replace(description, notes=[note, *description.notes])


def time_needed(overrides: Sequence[str]) -> str | None:
    """How long all cells that the overrides name would take here, in words; None where there is little to train."""
    grid = swept(overrides)
    points = itertools.product(*([f"{key}={value}" for value in values] for key, values in grid.items()))
    configs = composed_points([(*overrides, *point) for point in points])
    with _store(Path(configs[0]["store"])) as store:
        facts = data_facts(with_scale_sizes(settings_only(configs[0])), store)
        plans = [make_plan(settings_only(values), facts, STAGES) for values in configs]
        asked = targets(STAGES, configs[0]["until"])
        stages = {(stage.name, stage.identity) for plan in plans for stage in plan.needed(asked)}
        missing = {stage for stage in stages if not store.is_complete(*stage)}
        found = forecast(plans, missing, STAGES, lambda plan: facts)
    cells = f"the {len(plans)} cells of the sweep" if grid else "this cell"
    return f"{cells}, as far as the store lacks them: {found}" if found else None


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns 0, or 2 for what the user can mend."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(given):
        say(USAGE)
        return 0
    overrides = [argument for argument in given if argument not in FLAGS]
    return exit_code(lambda: _run(overrides, set(given) & set(FLAGS)))


def filled_config(config: Mapping[str, Any]) -> str:
    """A resolved config as YAML; of the scale's tables, from which it was filled, only the name."""
    shown = {key: value for key, value in config.items() if key not in NOT_SETTINGS}
    return OmegaConf.to_yaml(OmegaConf.create({**shown, "scale": config["scale"]["name"]}))


def _run(overrides: Sequence[str], flags: Set[str]) -> int:
    # Standard output is the JSON's alone.
    with contextlib.redirect_stdout(sys.stderr) if flags else contextlib.nullcontext():
        description = described(with_scale(["describe", *overrides])[1:])
    if "--json" in flags:
        print(json.dumps(description.to_json(), indent=1))
    elif "--config" in flags:
        print(filled_config(description.plan.config), end="")
    else:
        _print(description)
        if description.facts is not None and (said := time_needed(with_scale(["describe", *overrides])[1:])):
            say(f"\n{said}", style="bold")
    return 0


@contextlib.contextmanager
def _store(root: Path) -> Iterator[Store]:
    """The store at `root`, or an empty one for the moment where there is none: describing leaves nothing behind."""
    if root.exists() and (is_store(root) or not root.is_dir()):
        yield Store(root, is_read_only=not os.access(root, os.W_OK))
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Store(Path(folder))


_UNDECLARED = "without the number of classes"


@dataclass(frozen=True)
class Declared:
    """How many classes of each kind a data config declares, for where its images cannot be opened; None = not told."""

    classes: int | None
    box_classes: int | None
    semantic_classes: int | None

    def as_facts(self) -> DataFacts:
        """Facts of images nobody has seen, with every annotation; what is not declared stands at two classes."""
        annotations = {
            kind.annotation: Annotation("", _numbered(getattr(self, kind.vocabulary)) if kind.vocabulary else ())
            for kind in CONDITIONS.values()
            if kind.annotation
        }
        return DataFacts("", "", 0, 0, _numbered(self.classes), annotations, annotations)

    def tells(self, conditions: Sequence[str]) -> bool:
        """Whether the sizes of these conditions are known."""
        asked = (CONDITIONS[kind].vocabulary for kind in conditions)
        return all(getattr(self, name) is not None for name in asked if name)


def declared_of(data: Mapping[str, Any]) -> Declared:
    """What a group `data` declares of images that need not be there."""
    return Declared(data.get("classes"), data.get("box_classes"), data.get("semantic_classes"))


def _numbered(count: int | None) -> tuple[str, ...]:
    return tuple(map(str, range(2 if count is None else count)))


def _facts(settings: Mapping[str, Any], store: Store) -> tuple[DataFacts | None, Declared, list[str]]:
    """What is known of the images, what their config declares of them, and what to say of it."""
    data = settings["data"]
    declared = declared_of(data)
    try:
        return data_facts(with_scale_sizes(settings), store), declared, []
    except UserError as error:
        known = f"{declared.classes} classes as data.classes declares" if declared.classes is not None else _UNDECLARED
        return None, declared, [f"the images cannot be opened, counted {known}: {error}"]


def _notes(stages: Sequence[Stage], needed: Sequence[str], plan: Plan, store: Store) -> Iterator[str]:
    """What stages say of a plan before it is run."""
    for stage in stages:
        if stage.notes and stage.name in needed:
            yield from stage.notes(stage, [plan], store.root)


def _sharing(device: str, estimates: Iterable[Estimate]) -> Iterator[str]:
    """How many such stages a GPU holds side by side; nothing on a CPU, or where no stage's memory is known."""
    known = [found.memory for found in estimates if found.memory is not None]
    if device == "cuda" and known:
        count = workers_that_fit(max(known), free_bytes(device), cores())
        yield f"hydra/launcher=local would have {count} such stage{'s' * (count != 1)} share the GPU as it is now"


def _line(plan: Plan, name: str, work: Estimate, store: Store, is_known: bool) -> StageLine:
    images, flops = work.images, work.work
    identity = plan.stages[name].identity
    record = store.record(name, identity) if is_known else None
    measured = (record.cost.seconds, "measured") if record is not None else None
    seconds, source = measured or _estimate(plan, name, images, flops, store)
    return StageLine(
        name, identity if is_known else None, record is not None if is_known else None, images, flops, seconds, source
    )


def _estimate(plan: Plan, name: str, images: int | None, flops: float | None, store: Store) -> tuple[float | None, str]:
    """Seconds by the FLOPs a second of the most similar record that this machine made; None where there is none."""
    if not images or not flops:
        return None, "unknown"
    here = environment()
    wanted = {"device": plan.config["device"], "processor": here["processor"]}
    records = [
        record
        for record in _records(store, name)
        if record.cost.flops > 0
        and record.cost.seconds > 0
        and all(record.environment.get(key) == value for key, value in wanted.items())
        and record.environment.get("config", {}).get("precision") == plan.config["precision"]
    ]
    if not records:
        return None, "unknown"
    each = flops / images
    nearest = min(records, key=lambda record: _fold(record, each))
    fold = _fold(nearest, each)
    rough = f" (very rough: an image there costs {fold:.2g} times more or less)" if fold > ALIKE else ""
    return flops * nearest.cost.seconds / nearest.cost.flops, f"rate of {name} {nearest.identity}{rough}"


def _fold(record: StageRecord, each: float) -> float:
    """By what factor, 1 or more, the record's FLOPs an image differ from `each`."""
    ratio = record.cost.flops / record.cost.images / each
    return max(ratio, 1 / ratio)


def _records(store: Store, stage: str) -> Iterator[StageRecord]:
    folder = store.root / stage
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        record = store.record(stage, path.name)
        if record is not None and record.cost.images:
            yield record


OFF_BY_DEFAULT = ("shift", "times", "sampler_shift", "guidance_guide", "ema_length")
"""Axes that are shown where they are given."""


def _print(found: Description) -> None:
    axes, facts = found.plan.axes, found.facts
    shown = (
        "data",
        "resolution",
        "scale",
        "f",
        "regulariser",
        "channels",
        "conditioning",
        "sampler",
        "steps",
        "guidance_scale",
        "seed",
    )
    say(f"cell {found.plan.cell if facts else '(unknown without the images)'}", style="bold")
    given = [axis for axis in OFF_BY_DEFAULT if axes.get(axis) not in (None, "none")]
    say("  " + "  ".join(f"{axis}={axes[axis]}" for axis in (*shown, *given)))
    if facts:
        say(
            f"  {facts.train_images:,} training images, {facts.heldout_images:,} held out, {len(facts.classes)} classes"
        )
    for note in found.notes:
        say(f"note: {note}", style="yellow")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    for title, columns, rows in _tables(found):
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for position, column in enumerate(columns):
            table.add_column(
                column, justify="left" if position == 0 or column in ("identity", "state", "from") else "right"
            )
        for row in rows:
            table.add_row(*row)
        console.print(f"\n[bold]{title}[/]")
        console.print(table)


def _tables(found: Description) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
    """Title, columns and rows of what is printed."""
    memory = {name: bytes for name, bytes in (found.process_memory or found.memory).items() if bytes is not None}
    stages = [
        (
            line.stage,
            line.identity or "-",
            {True: "complete", False: "to do", None: "-"}[line.is_complete],
            f"{line.images:,}" if line.images is not None else "",
            _si(line.flops, "FLOP") if line.flops is not None else "",
            _si(memory[line.stage], "B") if line.stage in memory else "",
            clock(line.seconds) if line.seconds is not None else "",
            line.seconds_from,
        )
        for line in found.stages
    ]
    yield "Stages", ("stage", "identity", "state", "images", "work", "memory", "time", "from"), stages
    parameters = [(name, f"{n:,}" if n is not None else "unknown") for name, n in found.parameters.items()]
    yield "Parameters", ("part", "parameters"), parameters
    shape = " x ".join(map(str, found.first_stage.latent_shape))
    sampled = " x ".join(map(str, found.sampled_latent_shape))
    of_samples = "" if sampled == shape else f", of samples {sampled}"
    flops = [(name.replace("_", " "), _si(value, "FLOP")) for name, value in found.flops_per_image.items()]
    yield f"Work for one image (latent {shape}{of_samples}; {found.calls} network calls)", ("what", "work"), flops
    trainings = [
        (name, f"{t['images_seen']:,}", f"{t['batch']:,}", f"{t['steps']:,}", _si(found.memory[name], "B"))
        for name, t in found.trainings.items()
    ]
    if trainings:
        yield "Trainings", ("what", "images seen", "batch", "steps", "memory of its tensors"), trainings


def _si(value: float | None, unit: str) -> str:
    """A number with three digits and a prefix, e.g. 30.6 MFLOP."""
    if value is None:
        return "unknown"
    power = min(6, int(math.log10(value) // 3)) if value >= 1 else 0
    return f"{value / 1000**power:.3g} {('', 'k', 'M', 'G', 'T', 'P', 'E')[power]}{unit}"
