"""What run.py does with composed configs: one cell, one job of a sweep, or a whole grid."""

import contextlib
import dataclasses
import json
import math
import os
import secrets
import shlex
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from experiments import build, published, shortlist
from experiments.cli import CellsFailedError
from experiments.compose import composed_grid, plain, settings_only
from experiments.conditions import annotations_read
from experiments.console import say, whole
from experiments.custom import check_sources, is_custom
from experiments.forecast import Forecast, forecast
from experiments.images import check_larger_images, data_facts
from experiments.packing import AUTO, ON_A_CPU, workers_that_fit
from experiments.plan import make_plan
from experiments.ranks import devices_of
from experiments.report import write_report
from experiments.resolve import with_scale_sizes
from experiments.runner import run_stages
from experiments.scoring import left_out_by_number
from experiments.stage import Plan, targets
from experiments.stage_settings import other_extractors
from experiments.stages import STAGES
from experiments.stopping import StoppedError
from experiments.store import Store, now
from experiments.sweep import Due, Launch, Point, as_sweep, distinct, run_missing, say_lost
from experiments.tracking import Tracker, check_tracking, mode_of
from experiments.workers import cores
from ldm.errors import UserError
from ldm.memory import free_bytes


def run_one(config: DictConfig, command: str) -> int:
    """Runs a single cell, or a sweep's job, and returns the exit code."""
    values = plain(_with_hydra(config), command)
    if values["sweep"]["target"]:
        return 0 if _run_job(values) else 1
    devices_of(values)
    store = Store(Path(values["store"]))
    plan = plan_of(values, store)
    point = Point(tuple(values["overrides"]), plan)
    name = _sweep_name()
    _say_data([values], store)
    _say_notes([plan], values["until"], store, check_tracking(values["tracker"], store.root))
    _say_left_out([plan], values["until"])
    if shortlist.is_asked(values):
        say(f"note: {shortlist.ALONE}", style="yellow")
    store.write_sweep(as_sweep(name, now(), command, [point], values["until"], STAGES))
    wanted = plan.needed(targets(STAGES, values["until"]))
    ahead = _missing({(planned.name, planned.identity) for planned in wanted}, store)
    time_needed = _forecast([plan], ahead, store, 1)
    if time_needed:
        say(str(time_needed))
    _say_threads(time_needed)
    try:
        with whole(_weights(ahead, time_needed)):
            computed = run_stages(STAGES, plan, wanted, store, _tracker(values, store, name))
    except UserError:
        raise
    except Exception as error:
        say(f"{type(error).__name__}: {error}", style="bold red")
        say(f"  the traceback is in the store: python -m experiments.ledger --store {store.root}")
        return 1
    _track_cells([plan], store, values, name)
    _end(store, len(wanted), computed, 1, values, name)
    return 0


@dataclass(frozen=True)
class Grid:
    """A call's grid, planned: all its points, the cells of them that differ, and the stages that they ask for.

    `values`: the plain config of a point; what cannot be swept stands in it.
    """

    sweep: str
    points: Sequence[Point]
    cells: Sequence[Point]
    values: Mapping[str, Any]
    store: Store

    @property
    def asked(self) -> tuple[str, ...]:
        """The stages that `until` asks for."""
        return targets(STAGES, self.values["until"])

    @property
    def stages(self) -> set[tuple[str, str]]:
        """All stages of all cells, by name and identity."""
        return {(planned.name, planned.identity) for cell in self.cells for planned in cell.plan.needed(self.asked)}


def plan_grid(
    grid: Sequence[Sequence[str]], compose: Callable[[Sequence[str]], DictConfig], command: str, is_here: bool
) -> Grid:
    """Plans all points of a grid, says what there is to say of them, and keeps the sweep.

    `is_here`: whether its jobs run on this machine, whose devices must suffice then.

    Raises: UserError where a point cannot work.
    """
    name = _sweep_name()
    settings = list(composed_grid(grid, compose, command))
    if is_here:
        for values in settings:
            devices_of(values)
    if len({values["store"] for values in settings}) > 1:
        raise UserError("store cannot be swept: give one folder, e.g. store=results")
    values, store = settings[-1], Store(Path(settings[-1]["store"]))
    points = [planned_point(point, values, store) for point, values in zip(grid, settings, strict=True)]
    published.check_names(point.plan.config["ae"] for point in points)
    cells, until = distinct(points), values["until"]
    if shortlist.chooses(cells):
        shortlist.check(cells, store)
        until = shortlist.FIRST  # of all cells; what more is asked of some, the choice will say
    elif any(map(shortlist.is_asked, settings)):
        say(f"note: {shortlist.ALONE}", style="yellow")
    _say_data(settings, store)
    tracking = check_tracking(values["tracker"], store.root)
    _say_notes([point.plan for point in cells], values["until"], store, tracking)
    _say_left_out([point.plan for point in cells], values["until"])
    store.write_sweep(as_sweep(name, now(), command, cells, until, STAGES))
    return Grid(name, points, cells, values, store)


Settle = Callable[[int], None]
"""What is told how many workers there are to be."""


def run_grid(
    grid: Sequence[Sequence[str]],
    compose: Callable[[Sequence[str]], DictConfig],
    launch: Launch,
    workers: int | str | None = 1,
    settle: Settle = lambda count: None,
) -> None:
    """Runs all points of a grid, stage by stage; `workers`: processes at work on this machine, None: on others.

    Where it is `auto`, `settle` is told their number before anything is launched.
    Where a shortlist is asked for, all first stages come first, and then what hangs on those that were chosen.
    Raises: UserError before anything runs where a point cannot work, or where the launcher is refused what it asks for;
    CellsFailedError at the end where stages failed.
    """
    planned = plan_grid(grid, compose, build.command_line(), workers is not None)
    if shortlist.chooses(planned.cells):
        planned = _shortlisted(planned, launch, workers, settle)
    _run_planned(planned, launch, workers, settle)


def _shortlisted(grid: Grid, launch: Launch, workers: int | str | None, settle: Settle) -> Grid:
    """The part of a grid whose first stages were chosen, after all of them were trained and measured."""
    values = {**grid.values, "until": shortlist.FIRST, "report": False}
    _run_planned(dataclasses.replace(grid, values=values), launch, workers, settle)
    choice = shortlist.settled(grid.cells, grid.store)
    say(shortlist.sentence(choice), style="bold")
    cells = shortlist.of_trained(grid.cells, choice)
    command, until = build.command_line(), grid.values["until"]
    whole_grid = as_sweep(grid.sweep, now(), command, grid.cells, shortlist.FIRST, STAGES)
    grid.store.write_sweep(shortlist.as_cut(whole_grid, as_sweep(grid.sweep, now(), command, cells, until, STAGES)))
    return dataclasses.replace(grid, points=cells, cells=cells)


def _run_planned(planned: Grid, launch: Launch, workers: int | str | None, settle: Settle = lambda count: None) -> None:
    """Runs what a grid asks for. Raises: CellsFailedError at the end where stages failed."""
    cells, values, store, stages = planned.cells, planned.values, planned.store, planned.stages
    ahead = _missing(stages, store)
    at_work = ON_A_CPU if workers == AUTO and values["device"] == "cpu" else workers
    sharing = at_work if isinstance(at_work, int) else 1
    time_needed = None if workers is None else _forecast([cell.plan for cell in cells], ahead, store, sharing)
    say_work(planned, time_needed)
    _say_threads(time_needed)
    if workers == AUTO:
        settle(sharing if at_work != AUTO else _sharing_the_gpu(time_needed))

    def launch_in_sweep(jobs: Sequence[Due]) -> None:
        launch([dataclasses.replace(due, overrides=(*due.overrides, f"sweep.id={planned.sweep}")) for due in jobs])

    weights = _weights(ahead, time_needed)
    plans = [cell.plan for cell in cells]
    try:
        with whole(weights):
            lost = run_missing(cells, planned.asked, store, launch_in_sweep, weights)
    except (KeyboardInterrupt, StoppedError):
        if mode_of(values["tracker"]) != "online":  # which may wait for a server
            with contextlib.suppress(UserError):  # the next call shows what is not shown here, or says why it cannot
                _track_cells(plans, store, values, planned.sweep, STOPPED_SECONDS)
        raise
    left = _missing(stages, store)
    _track_cells(plans, store, values, planned.sweep)
    _end(store, len(stages) - len(left), len(ahead) - len(left), len(cells), values, planned.sweep)
    if lost:
        say_lost(lost, store)
        raise CellsFailedError(f"{len(lost)} of the sweep's stages failed")


def planned_point(overrides: Sequence[str], values: Mapping[str, Any], store: Store) -> Point:
    """A point of a grid with its plan. Raises: UserError where it cannot work."""
    # What the machine decided is handed to every job, so that a login node and its nodes cannot disagree.
    decided = {key: f"{key}={values[key]}" for key in ("device", "precision")}
    kept = [each for each in overrides if decided.get(each.partition("=")[0].lstrip("+"), each) == each]
    return Point((*kept, *(d for d in decided.values() if d not in kept)), plan_of(values, store))


def plan_of(values: Mapping[str, Any], store: Store) -> Plan:
    """The plan of a plain config; the images are looked at, not decoded."""
    settings = settings_only(values)
    facts = data_facts(with_scale_sizes(settings), store)
    plan = make_plan(settings, facts, STAGES)
    check_sources(plan, store)
    build.check_networks(plan.config, facts.vocabulary(annotations_read(plan.config)))
    if not store.is_complete("evaluation", plan.stages["evaluation"].identity):
        check_larger_images(plan.config, store)
        loss = plan.config["ae"].get("loss", {"perceptual": "none", "perceptual_path": None})
        metrics = plan.config["metrics"]
        if not is_custom(metrics):  # which was tried already
            build.check_extractor_weights(metrics["extractor"], metrics["weights"])
        build.check_perceptual_weights(loss["perceptual"], loss["perceptual_path"])
        build.check_teacher_weights(plan.config)
        for judge in other_extractors(plan.config).values():
            build.check_extractor_weights(judge["name"], judge["weights"])
        judges = plan.stages["samples"].settings
        build.check_task_weights(judges.get("clip_model"), metrics["lpips"])
    return plan


def _run_job(values: Mapping[str, Any]) -> bool:
    """A sweep's job: the stage that it was handed, after a check that it plans what the sweep planned; whether it is
    complete now."""
    store, target, expected = Store(Path(values["store"])), values["sweep"]["target"], values["sweep"]["identity"]
    try:
        plan = plan_of(values, store)
    except Exception as reason:  # such as images that are gone since: no kill, and not to be tried again
        if expected is not None:
            store.fail(target, expected, reason, values["command"])
        raise
    try:
        found = plan.stages[target].identity
        if expected not in (None, found):
            error = UserError(
                f"this job was to make {target} {expected} and plans {found}: its images, weights or program are not "
                "those that the sweep was planned with; run the sweep again"
            )
            store.fail(target, expected, error, values["command"])
            raise error
        tracker = _tracker(values, store, values["sweep"]["id"])
        run_stages(STAGES, plan, plan.needed((target,)), store, tracker)
    except Exception as error:  # kept in the store, said at the end of the sweep; the other jobs go on
        say(f"  failed: {type(error).__name__}: {error}", style="red")
        return False
    return True


def _with_hydra(config: DictConfig) -> DictConfig:
    """A task's config with Hydra's own node, which holds its overrides and choices and is taken out before the task."""
    whole = config.copy()
    with open_dict(whole):
        whole.hydra = HydraConfig.get()
    return whole


def _tracker(values: Mapping[str, Any], store: Store, group: str) -> Tracker:
    return Tracker(store.root, values["tracker"], group)


STOPPED_SECONDS = 5.0
"""How long a sweep that was asked to stop may go on showing its finished cells."""


def _track_cells(
    plans: Sequence[Plan], store: Store, values: Mapping[str, Any], name: str, within: float = math.inf
) -> None:
    """Shows the finished cells that are not shown yet; none is begun after so many seconds, the next call shows it."""
    tracker, begun = _tracker(values, store, name), time.monotonic()
    for plan in plans:
        if time.monotonic() - begun > within:
            return
        if store.is_complete("evaluation", plan.stages["evaluation"].identity):
            tracker.cell_run(plan, store)


def _missing(stages: Collection[tuple[str, str]], store: Store) -> set[tuple[str, str]]:
    """The stages, by name and identity, that the store does not hold."""
    return {stage for stage in stages if not store.is_complete(*stage)}


def _forecast(plans: Sequence[Plan], ahead: Collection[tuple[str, str]], store: Store, workers: int) -> Forecast | None:
    try:
        return forecast(plans, ahead, STAGES, lambda plan: data_facts(plan.config["data"], store), workers)
    except RuntimeError as error:  # such as memory that does not suffice: the stage says so where it matters
        say(f"note: how long this takes could not be timed ({error})", style="yellow")
        return None


def _say_threads(found: Forecast | None) -> None:
    if found is not None and found.note is not None:
        say(f"note: {found.note}", style="yellow")


def _sharing_the_gpu(found: Forecast | None) -> int:
    """How many stages the GPU is given at a time, which is said; as on a CPU where not all networks were timed."""
    if found is None or found.peak_bytes is None:
        return ON_A_CPU
    count = workers_that_fit(found.peak_bytes, free_bytes("cuda"), cores())
    say(f"up to {count} stage{'s' * (count != 1)} at a time share the GPU (hydra.launcher.workers={AUTO})")
    return count


def _weights(ahead: Collection[tuple[str, str]], found: Forecast | None) -> dict[tuple[str, str], float]:
    seconds = found.seconds if found else {}
    return {stage: seconds.get(stage, 0.0) for stage in ahead}


def _say_data(configs: Sequence[Mapping[str, Any]], store: Store) -> None:
    """Which images are used, and what their folders were taken to mean."""
    sets = [with_scale_sizes(settings_only(config)) for config in configs]
    for data in {json.dumps(data, sort_keys=True): data for data in sets}.values():
        say(f"data={data['name']}  {data['resolution']} px  {data_facts(data, store).sentence}")


def _say_left_out(plans: Sequence[Plan], until: str) -> None:
    """Which metrics the numbers of images leave out, as the doctor says it."""
    if "evaluation" not in {planned.name for plan in plans for planned in plan.needed(targets(STAGES, until))}:
        return
    facts = data_facts(plans[0].config["data"], Store(Path(plans[0].config["store"])))
    if lost := left_out_by_number(plans[0].config["metrics"], facts):
        say(f"note: too few images for {', '.join(lost)}: left out", style="yellow")


def _say_notes(plans: Sequence[Plan], until: str, store: Store, others: Sequence[str]) -> None:
    notes = [*others, *(note for plan in plans for note in plan.notes)]
    wanted = {planned.name for plan in plans for planned in plan.needed(targets(STAGES, until))}
    for stage in STAGES:
        if stage.notes and stage.name in wanted:
            notes += stage.notes(stage, plans, store.root)
    for note in dict.fromkeys(notes):
        say(f"note: {note}", style="yellow")


def say_work(grid: Grid, time_needed: Forecast | None = None) -> None:
    """How much a grid is, and how much of it is to be done."""
    cells, points, stages = grid.cells, grid.points, grid.stages
    counts = Counter(name for name, _ in stages)
    trained = {_trained_first_stage(cell.plan) for cell in cells if build.is_trained(cell.plan.config["ae"])}
    same = f" ({len(points)} points, f = 1 being the same under every regulariser)" if len(points) > len(cells) else ""
    say(
        f"{len(cells)} cell{'s' * (len(cells) != 1)}{same}: {len(trained)} trained first stages, "
        f"{counts['diffusion']} diffusion models, {counts['samples']} sample sets; "
        f"{len(_missing(stages, grid.store))} of {len(stages)} stages are not in the store yet"
        f"{f', {time_needed}' if time_needed else ''}"
    )


def _trained_first_stage(plan: Plan) -> str:
    """The identity of the training of a plan's first stage, which several that are cut from it share."""
    return plan.stages.get("nested", plan.stages["first_stage"]).identity


def _end(store: Store, stages: int, computed: int, cells: int, values: Mapping[str, Any], sweep: str) -> None:
    """Says what is there, and writes the report of it."""
    say(
        f"{cells} cell{'s' * (cells != 1)}: {stages} stages complete, {computed} computed now. Results: {store.root}",
        style="bold",
    )
    if _wants_report(values):
        write_report(store.root, sweep)
    else:
        say(f"  python analysis/plot_tradeoffs.py --store {shlex.quote(str(store.root))}")
    if values["tracker"]["name"] == "wandb" and mode_of(values["tracker"]) == "offline" and computed:
        runs = shlex.quote(str(store.root / "wandb"))
        say(f"  wandb sync {runs}/offline-run-*    # uploads the runs of W&B, where you want them there")


def _wants_report(values: Mapping[str, Any]) -> bool:
    """Whether the run ends by writing a report; by default where samples were measured whose numbers mean something."""
    wanted: bool | None = values["report"]
    if wanted is not None:
        return wanted
    return values["until"] == "evaluation" and values["scale"]["name"] != "tiny"


def _sweep_name() -> str:
    return f"{now()[:19].replace(':', '').replace('-', '').replace('T', '-')}-{os.getpid()}-{secrets.token_hex(2)}"
