"""Runs the stages of a plan: skips what is complete, claims what is not, records what was done."""

import functools
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.console import clock, say
from experiments.plan import Plan, Stage
from experiments.store import Store, now
from experiments.tracking import Run, Tracker
from ldm.records import Cost, LeftOut, ResultRow, StageRecord


@dataclass(frozen=True)
class Outcome:
    """What a stage hands to its record."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[ResultRow] = ()
    left_out: Sequence[LeftOut] = ()
    protocols: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)


@dataclass(frozen=True)
class Job:
    """One stage at work: its config, its folder, its parents' records, and where to log.

    `config` is the stage's own; `plan.config` the full one, for settings that do not change numbers (device, workers).
    """

    plan: Plan
    stage: Stage
    store: Store
    run: Run

    @property
    def config(self) -> Mapping[str, Any]:
        """The stage's resolved config."""
        return self.stage.config

    @property
    def folder(self) -> Path:
        """Where the stage writes."""
        return self.store.folder(self.stage.name, self.stage.identity)

    @property
    def device(self) -> str:
        """ "cpu" or "cuda"."""
        return str(self.plan.config["device"])

    def parent_folder(self, name: str) -> Path:
        """The folder of an ancestor of that stage name."""
        return self.store.folder(name, self.plan.stages[name].identity)

    def parent_record(self, name: str) -> StageRecord:
        """The record of an ancestor of that stage name."""
        record = self.store.record(name, self.plan.stages[name].identity)
        if record is None:
            raise RuntimeError(f"{name} {self.plan.stages[name].identity} is not complete")
        return record


def label(plan: Plan, stage: Stage) -> str:
    """What a line about a stage starts with: its name and what sets it apart."""
    axes = plan.axes
    if stage.name in ("reference", "other_references", "training_set"):
        return stage.name
    if stage.name == "probe":
        return f"{stage.name:<14} {axes['conditioning']}"
    text = f"{stage.name:<14} f={axes['f']} {axes['regulariser']}"
    of_samples = ("tuning", "samples", "evaluation", "memorisation")
    if stage.name in ("diffusion", "progress", "likelihood", *of_samples) and axes["conditioning"] != "class":
        text += f" {axes['conditioning']}"
    if stage.name in of_samples:
        text += f" {axes['sampler']} {axes['steps']} steps"
        if axes["guidance_scale"] != 1:
            scale = axes["guidance_scale"]
            text += f" guidance {scale if isinstance(scale, str) else format(scale, 'g')}"
        if (axes["height"], axes["width"]) != (axes["resolution"], axes["resolution"]):
            text += f" {axes['width']}x{axes['height']} px"
    return text


def run_stages(
    plan: Plan, stages: Sequence[Stage], store: Store, tracker: Tracker, work: Callable[[Job], Outcome]
) -> int:
    """Completes the given stages in order and returns how many were computed here.

    Raises: whatever a stage raises, after its traceback was kept in the store; later stages are not begun.
    """
    computed = 0
    for stage in stages:
        if store.is_complete(stage.name, stage.identity):
            continue
        waiting = f"{label(plan, stage)}  waits: another process works on it"
        with store.claim(f"{stage.name}/{stage.identity}", functools.partial(say, waiting)):
            if store.is_complete(stage.name, stage.identity):
                continue
            try:
                _run_stage(plan, stage, store, tracker, work)
            except BaseException as error:
                if not isinstance(error, KeyboardInterrupt):
                    store.fail(stage.name, stage.identity, error, plan.config["command"])
                raise
            computed += 1
    return computed


def _run_stage(plan: Plan, stage: Stage, store: Store, tracker: Tracker, work: Callable[[Job], Outcome]) -> None:
    store.begin(stage.name, stage.identity)
    started = time.monotonic()
    with tracker.stage_run(plan, stage) as run:
        outcome = work(Job(plan, stage, store, run))
        _check_protocols(outcome, stage.name)
        record = StageRecord(
            stage=stage.name,
            identity=stage.identity,
            config=stage.config,
            parents=stage.parents,
            facts=outcome.facts,
            rows=tuple(outcome.rows),
            left_out=tuple(outcome.left_out),
            protocols=outcome.protocols,
            cost=outcome.cost,
            environment={**environment(), "device": plan.config["device"], "config": plan.config},
            created=now(),
        )
        run.finish(record)
        store.finish(record)
    rate = f"  {record.cost.images_per_second:,.0f} images/s" if record.cost.images else ""
    say(f"{label(plan, stage)}  done in {clock(time.monotonic() - started)}{rate}{headline(record)}")


def _check_protocols(outcome: Outcome, stage: str) -> None:
    """No value enters the store without how it was measured: that would be a mistake of the stage."""
    nameless = {row.metric for row in outcome.rows if row.protocol not in outcome.protocols}
    if nameless:
        raise RuntimeError(f"stage {stage} gives no protocol of its rows {', '.join(sorted(nameless))}")


def headline(record: StageRecord) -> str:
    """The one or two numbers of a stage that a person watching wants."""
    shown = re.compile(
        r"(window_)?(psnr|rfd_|kd_|kid|fd_|fid)|(real_)?[a-z]+_(balanced_)?(accuracy|miou)$|superres_psnr|inpaint_known"
        r"|vlb_bits|latent_density"
    )
    rows = {row.metric: row for row in record.rows if shown.match(row.metric)}
    return "".join(f"  {name} {rows[name].value:.4g} (n={rows[name].n})" for name in sorted(rows)[:3])


def environment() -> dict[str, Any]:
    """Versions and machine, for the record; nothing of it is in an identity."""
    import torch

    from ldm import __version__

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "program": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "machine": platform.machine(),
        "processor": gpu or processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


def processor() -> str:
    """The name of the CPU."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
