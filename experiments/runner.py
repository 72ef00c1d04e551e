"""Runs the stages of a plan: skips what is complete, claims what is not, records what was done."""

import functools
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.build import prepare_device
from experiments.claims import Claim
from experiments.compose import without_environment
from experiments.console import clock, complete, say
from experiments.custom import SOURCES, sources_of
from experiments.images import Images
from experiments.ranks import devices_of, run_on_devices
from experiments.stage import Job, Log, Machine, Outcome, Parent, Plan, PlannedStage, Stage
from experiments.stopping import StoppedError
from experiments.store import Store, now
from experiments.tracking import Tracker
from ldm import __version__
from ldm.errors import UserError
from ldm.finite import NotFiniteError
from ldm.memory import is_out_of_memory
from ldm.records import RATE, WINDOWS, StageRecord, write_json


class OutOfMemoryError(UserError):
    """A stage needs more memory than there is."""


def machine_of(config: Mapping[str, Any]) -> Machine:
    """What a resolved config says of the machine, none of which is in an identity."""
    trainer = config["trainer"]
    return Machine(
        device=str(config["device"]),
        workers=config["workers"],
        batch=config["samples"]["batch"],
        micro_batch=trainer.get("micro_batch"),
        checkpoint_seconds=trainer["checkpoint_seconds"],
        compile=config.get("compile", "never"),
    )


def job_of(stage: Stage, plan: Plan, store: Store, log: Log, claim: Claim | None = None) -> Job:
    """The job of a stage of a plan, all that it hangs on being complete; `claim`: under which it is to be made."""
    planned = plan.stages[stage.name]
    return Job(
        stage=stage,
        planned=planned,
        folder=store.place(stage.name, planned.identity, claim),
        parents={ancestor.name: _parent(ancestor, store) for ancestor in plan.needed((stage.name,))[:-1]},
        machine=machine_of(plan.config),
        label=stage.line(plan.axes),
        log=log,
        image_sets=Images(plan.config["data"], store, plan.config["workers"]),
        still_ours=claim.check if claim else lambda: None,
    )


def _parent(planned: PlannedStage, store: Store) -> Parent:
    record = store.record(planned.name, planned.identity)
    if record is None:
        raise RuntimeError(f"{planned.name} {planned.identity} is not complete")
    return Parent(record, planned.settings, functools.partial(store.file, record))


def run_stages(
    stages: Sequence[Stage], plan: Plan, wanted: Sequence[PlannedStage], store: Store, tracker: Tracker
) -> int:
    """Completes the wanted stages of a plan in order and returns how many were computed here.

    Raises: whatever a stage raises, after its traceback was kept in the store; later stages are not begun.
    """
    computed, known = 0, {stage.name: stage for stage in stages}
    for planned in wanted:
        try:
            computed += _complete(known[planned.name], plan, store, tracker)
        finally:
            tracker.settle()  # where no other process waits for the claim
    return computed


def _complete(stage: Stage, plan: Plan, store: Store, tracker: Tracker) -> bool:
    """Completes one stage of a plan; whether it was computed here."""
    planned = plan.stages[stage.name]
    if store.is_complete(planned.name, planned.identity):
        return False
    waiting = f"{stage.line(plan.axes)}  waits: another process works on it"
    with store.claim(f"{planned.name}/{planned.identity}", functools.partial(say, waiting)) as claim:
        if store.is_complete(planned.name, planned.identity):
            return False
        try:
            _run_stage(stage, plan, store, tracker, claim)
        except BaseException as error:
            if claim.is_lost():  # whatever failed then: what it worked with is another process's now
                shutil.rmtree(store.place(planned.name, planned.identity, claim), ignore_errors=True)
                claim.check()
            if not isinstance(error, KeyboardInterrupt | StoppedError):
                store.fail(planned.name, planned.identity, error, plan.config["command"])
            raise
        return True


def _run_stage(stage: Stage, plan: Plan, store: Store, tracker: Tracker, claim: Claim) -> None:
    planned, started = plan.stages[stage.name], time.monotonic()
    is_divided = stage.divides is not None and stage.divides(planned.settings)
    devices = devices_of(plan.config) if is_divided else 1
    store.begin(stage.name, planned.identity, claim)
    with tracker.stage_run(plan, planned, stage.axes) as run:
        made_with = _with_sources(planned, plan, store.place(stage.name, planned.identity, claim), tracker)
        try:
            work = functools.partial(_work, stage, plan, store)
            if devices > 1:
                outcome = run_on_devices(work, run, claim, plan.config["device"], devices)
            else:
                outcome = work(run, claim)
            _check_numbers(outcome)
        except NotFiniteError as error:
            raise NotFiniteError(f"{stage.line(plan.axes)}: {error}; {_advice(plan)}") from error
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemoryError(f"{stage.line(plan.axes)}: {_of_memory(error, plan)}") from error
        _check_protocols(outcome, stage.name)
        record = StageRecord(
            stage=stage.name,
            identity=planned.identity,
            config=planned.settings,
            parents=planned.parents,
            facts=outcome.facts,
            rows=tuple(outcome.rows),
            left_out=tuple(outcome.left_out),
            protocols=outcome.protocols,
            cost=outcome.cost,
            environment={
                **environment(),
                **made_with,
                "device": plan.config["device"],
                "devices": devices,
                "config": without_environment(plan.config),
            },
            created=now(),
            axes={axis: plan.axes[axis] for axis in stage.axes if axis in plan.axes},
        )
        claim.check()  # a mirror is a shared place, too
        run.finish(record)
        store.finish(record, claim)
    rate = f"  {record.cost.images_per_second:,.0f} images/s" if record.cost.images else ""
    complete(stage.name, planned.identity)
    say(f"{stage.line(plan.axes)}  done in {clock(time.monotonic() - started)}{rate}{headline(record)}")


def _work(stage: Stage, plan: Plan, store: Store, log: Log, claim: Claim) -> Outcome:
    """What a stage comes to, or this process's share of it."""
    prepare_device(plan.config["device"])
    return stage.run(job_of(stage, plan, store, log, claim))


def _with_sources(planned: PlannedStage, plan: Plan, folder: Path, tracker: Tracker) -> dict[str, Any]:
    """What the record says of the sources of parts of the user's own, where the stage or its images have any.

    What another source left behind in an unfinished artifact is no beginning to go on from, and is removed.
    """
    sources = sources_of(planned.settings, plan.config["data"])
    if not sources:
        return {}
    path = folder / SOURCES
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != sources:
        shutil.rmtree(folder)
        tracker.forget(planned)
    write_json(path, sources)
    return {"sources": sources}


def _check_protocols(outcome: Outcome, stage: str) -> None:
    """No value enters the store without how it was measured: that would be a mistake of the stage."""
    nameless = {row.metric for row in outcome.rows if row.protocol not in outcome.protocols}
    if nameless:
        raise RuntimeError(f"stage {stage} gives no protocol of its rows {', '.join(sorted(nameless))}")


def _check_numbers(outcome: Outcome) -> None:
    """What slipped through as a value that is none is not recorded as measured."""
    none = [row.metric for row in outcome.rows if not math.isfinite(row.value)]
    if none:
        raise NotFiniteError(f"the measured {', '.join(none)} is no number (NaN or infinite)")


def _of_memory(error: BaseException, plan: Plan) -> str:
    """What to do where memory does not suffice."""
    said = str(error).strip().partition("\n")[0]
    where = "of the GPU" if plan.config["device"] == "cuda" else "of this machine"
    return (
        f"the memory {where} does not suffice ({said}); close other programs, sample fewer images at a time "
        f"(samples.batch={max(1, plan.config['samples']['batch'] // 2)}), train with smaller batches "
        "(ae.training.batch, trainer.batch), or choose a smaller scale"
    )


def _advice(plan: Plan) -> str:
    """What to do about numbers that are none."""
    if plan.config["precision"] != "fp32":
        return "try precision=fp32; nothing was recorded as measured"
    return (
        "its training diverged, or its weights are damaged: train again with a lower learning rate, or give other "
        "weights; nothing was recorded as measured"
    )


MOST_SHOWN = 3
"""Of a stage's metrics in the line that says it is done."""


def headline(record: StageRecord) -> str:
    """The one or two numbers of a stage that a person watching wants."""
    rows = {row.metric: row for row in record.rows if row.headline_from is not None and row.group != RATE}
    # Floors are shown where a stage measures nothing else.
    own = [row for row in rows.values() if row.variant in ("", WINDOWS)] or list(rows.values())
    return "".join(f"  {row.metric} {row.value:.4g} (n={row.n})" for row in own[:MOST_SHOWN])


def environment() -> dict[str, Any]:
    """Versions and machine, for the record; nothing of it is in an identity."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "program": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "host": platform.node(),
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
