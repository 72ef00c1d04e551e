"""How fast a sweep's cells sample on this machine: python -m experiments.timing [--store DIR] [--sweep ID|all].

A measurement of its own: after a warm-up, one cell at a time, alone on the device, encoding, denoising and decoding
apart. What is timed is the sampler as the sample set was made, in its precision and with its guidance. Results lie in
the store beside the sample sets, one for each machine; `analysis/plot_tradeoffs.py` takes them.
"""

import argparse
import dataclasses
import fcntl
import functools
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments import build
from experiments.artifacts import settled_guidance
from experiments.cli import exit_code
from experiments.commands.ledger import chosen_sweeps, existing_store
from experiments.compose import with_environment
from experiments.console import say
from experiments.generate import Generator, asked_conditions, generate, maps_size, sampling_generator, wait_for
from experiments.runner import environment, job_of, processor
from experiments.stage import Job, Plan, PlannedStage
from experiments.stages import STAGES
from experiments.stages.samples import at_sample_size
from experiments.store import Store, now
from experiments.tracking import Silent
from ldm.errors import UserError
from ldm.records import Cell, Cost, StageRecord, content_hash

STAGE = "timing"
CODE_VERSION = 2
"""Raised when the same sample set would be timed in another way."""

MOST_FOREIGN_CORES = 0.15
"""How much of a core other processes may use meanwhile; the system itself needs a little."""


@dataclass(frozen=True)
class Machine:
    """What a speed belongs to; speeds of two machines are never compared."""

    device: str
    processor: str
    threads: int

    @property
    def name(self) -> str:
        """As figures write it."""
        return self.processor if self.device == "cuda" else f"{self.processor}, {self.threads} threads"


@dataclass(frozen=True)
class Speed:
    """Seconds a batch took, one value a repeat, for each of the three parts, and what others used of the device.

    `foreign_cores`: of a processor; None where the system does not tell. `shared`: a GPU on which others computed.
    """

    encode: tuple[float, ...]
    denoise: tuple[float, ...]
    decode: tuple[float, ...]
    foreign_cores: float | None
    shared: bool = False

    @property
    def is_alone(self) -> bool:
        """Whether the speed is the device's own."""
        return not self.shared and self.foreign_cores is not None and self.foreign_cores <= MOST_FOREIGN_CORES


def this_machine(device: str) -> Machine:
    """The machine as records know it."""
    found = environment()
    return Machine(device, found["processor"] if device == "cuda" else processor(), found["threads"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Times what this machine has not timed yet; 0, or 2 with one sentence where the user can mend it."""
    options = _parser().parse_args(arguments)
    return exit_code(lambda: _time_all(options))


def _parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(prog="python -m experiments.timing", description=__doc__)
    command.add_argument("--store", type=Path, default=Path("store"), help="folder that run.py wrote (default: store)")
    command.add_argument("--sweep", metavar="ID|all", help="sweep to time, or all of them (default: the latest)")
    command.add_argument("--batch", type=int, help="images at a time (default: as the sample sets were made)")
    command.add_argument(
        "--repeats", type=int, default=3, help="times each batch is made after the warm-up (default: 3)"
    )
    command.add_argument("--device", default="auto", help="auto | cpu | cuda")
    command.add_argument(
        "--allow-busy", action="store_true", help="time although others use the machine, and mark the result"
    )
    return command


def _time_all(options: argparse.Namespace) -> int:
    if options.repeats < 1 or (options.batch is not None and options.batch < 1):
        raise UserError("--repeats and --batch are whole numbers from 1 on")
    store = existing_store(options.store)
    device = build.resolve_device(options.device)
    build.prepare_device(device)
    machine = this_machine(device)
    cells = {
        c.stages["samples"]: c for s in chosen_sweeps(store, options.sweep) for c in s.cells if "samples" in c.stages
    }
    done, missing = 0, 0
    with alone(device, options.allow_busy) as shared:
        for identity, cell in cells.items():
            record = store.record("samples", identity)
            if record is None:
                missing += 1
                continue
            job = finished_job(store, cell, record, machine)
            batch = min(options.batch or record.facts["batch"], record.config["n_samples"])
            key = timing_identity(identity, machine, batch, options.repeats)
            before = store.record(STAGE, key)
            if before is not None and (before.facts["is_alone"] or options.allow_busy):
                continue
            speed = dataclasses.replace(measure(job, batch, options.repeats), shared=shared)
            _check_alone(speed, job.label, options.allow_busy)
            found = timing_record(key, record, machine, batch, speed)
            store.finish(found)
            done += 1
            say(f"{job.label}  {found.cost.images_per_second:,.1f} images/s{_parts(speed, batch)}")
    say(
        f"{done} of {len(cells)} sample sets timed now on {machine.name}"
        + (f"; {missing} are not made yet" if missing else "")
    )
    return 0


def timing_identity(samples: str, machine: Machine, batch: int, repeats: int) -> str:
    """One timing for each sample set, machine and batch."""
    return content_hash([STAGE, CODE_VERSION, samples, dataclasses.asdict(machine), batch, repeats])


def follows(record: StageRecord) -> bool | None:
    """Whether a timing's identity follows from what its record says; None for one that is older than its settings."""
    try:
        config, machine = record.config, Machine(**record.config["machine"])
        known = timing_identity(record.parents["samples"], machine, config["batch"], config["repeats"])
    except (KeyError, TypeError):
        return None
    return known == record.identity


def timing_record(identity: str, samples: StageRecord, machine: Machine, batch: int, speed: Speed) -> StageRecord:
    """What analysis reads: medians by part as cost of one batch, all repeats among the facts."""
    parts = {name: statistics.median(getattr(speed, name)) for name in ("encode", "denoise", "decode")}
    guidance = samples.config["guidance"]
    return StageRecord(
        stage=STAGE,
        identity=identity,
        config={
            "batch": batch,
            "repeats": len(speed.denoise),
            "machine": dataclasses.asdict(machine),
            **{key: samples.config[key] for key in ("sampler", "precision")},
            "guidance": {**guidance, "scale": samples.facts.get("guidance_scale", guidance["scale"])},
        },
        parents={"samples": samples.identity},
        facts={**dataclasses.asdict(speed), "machine": machine.name, "is_alone": speed.is_alone},
        cost=Cost(parts["denoise"] + parts["decode"], batch, parts=parts),
        environment={**environment(), "device": machine.device},
        created=now(),
    )


def finished_job(store: Store, cell: Cell, samples: StageRecord, machine: Machine) -> Job:
    """The job of a finished sample set on this machine, from its records alone.

    Raises: UserError where an artifact that it is made of is gone, or a setting that came from the environment.
    """
    stages = {}
    for name, identity in cell.stages.items():
        record = store.record(name, identity)
        if record is not None:
            stages[name] = PlannedStage(name, identity, record.config, record.parents)
    wanted = {samples.stage}
    for name in reversed(stages):
        if name in wanted:
            wanted.update(stages[name].parents)
    if gone := sorted(wanted - stages.keys()):
        raise UserError(
            f"the {gone[0]} that {samples.stage} {samples.identity} was made of is gone from {store.root}: run the "
            "sweep again, which makes it anew"
        )
    config = {**with_environment(samples.environment["config"], cell.overrides), "device": machine.device}
    [stage] = [stage for stage in STAGES if stage.name == samples.stage]
    return job_of(stage, Plan(cell.cell, cell.axes, stages, config, ()), store, Silent())


@torch.inference_mode()
def measure(job: Job, batch: int, repeats: int) -> Speed:
    """Times one batch after making it once, and watches what others do to the machine meanwhile."""
    config, diffusion = job.settings, job.parent("diffusion")
    source = at_sample_size(sampling_generator(job), config, job.resolution)
    size = maps_size(config, diffusion.settings["conditioning"], job.resolution)
    asked = asked_conditions(job, batch, config["sampler"]["seed"], size)
    sampler, guidance = (
        build.sampler(config["sampler"], source.model.schedule),
        build.guidance(settled_guidance(job)),
    )

    def sampled() -> tuple[float, float]:
        settings, pasted = config["sampler"], config["paste_known"]
        [made] = generate(source, sampler, settings, guidance, asked, range(batch), batch, pasted)
        return made.denoise_seconds, made.decode_seconds

    originals = asked.originals(range(batch)).to(job.device).float() / 127.5 - 1
    images = originals.contiguous(memory_format=torch.channels_last)
    encoded = functools.partial(_encode_seconds, source, images)
    sampled(), encoded()
    with foreign_load(job.device) as load:
        generated = [sampled() for _ in range(repeats)]
        encoding = [encoded() for _ in range(repeats)]
    denoise, decode = zip(*generated, strict=True)
    return Speed(tuple(encoding), denoise, decode, load.cores)


def _encode_seconds(source: Generator, images: torch.Tensor) -> float:
    started = time.monotonic()
    source.first_stage.pack(source.first_stage.encode(images))
    wait_for(source.device)
    return time.monotonic() - started


@dataclass
class Load:
    """Cores that other processes kept busy while it was watched; None where the system does not tell."""

    cores: float | None = None


@contextmanager
def foreign_load(device: str) -> Iterator[Load]:
    """Watches the machine: on a GPU, where the processor only feeds it, no one else's use of cores counts."""
    load, started = Load(), time.monotonic()
    busy, own = _busy_seconds(), _own_seconds()
    yield load
    after = _busy_seconds()
    if device == "cuda":
        load.cores = 0.0
    elif busy is not None and after is not None:
        others = (after - busy) - (_own_seconds() - own)
        load.cores = max(0.0, others / (time.monotonic() - started))


def _busy_seconds() -> float | None:
    """Seconds that all cores of this machine have worked since it started; None where that is not told (not Linux)."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    except (OSError, ValueError, IndexError):
        return None
    idle = fields[3] + fields[4]
    # Guests' time is counted in that of users already.
    return (sum(fields[:8]) - idle) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    found = os.times()
    return found.user + found.system + found.children_user + found.children_system


@contextmanager
def alone(device: str, allow_busy: bool = False) -> Iterator[bool]:
    """Holds the device against other timings of this program; gives whether someone else computes on a GPU.

    Raises: UserError for such a GPU, unless `allow_busy`.
    """
    shared = device == "cuda" and bool(_gpu_users())
    if shared and not allow_busy:
        raise UserError(
            "other processes compute on this GPU, so a speed measured now would not be its own: wait for them, or give "
            "--allow-busy, which marks the result"
        )
    with open(Path(tempfile.gettempdir()) / f"ldm-timing-{device}-{os.getuid()}.lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waits: another timing is at work on this device")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield shared


def _gpu_users() -> list[str]:
    """Processes with work on a GPU before we have any there; none where the driver's tool is missing."""
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-compute-apps=pid", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.stdout.split()


def _check_alone(speed: Speed, what: str, allow_busy: bool) -> None:
    if allow_busy:
        return
    if speed.foreign_cores is None:
        raise UserError(
            "this system does not tell whether others use the machine; give --allow-busy, which marks the result"
        )
    if speed.foreign_cores > MOST_FOREIGN_CORES:
        raise UserError(
            f"other processes used {speed.foreign_cores:.1f} cores while '{' '.join(what.split())}' was timed: stop "
            "them and call again (finished timings remain), or give --allow-busy, which marks the result"
        )


def _parts(speed: Speed, batch: int) -> str:
    shown: dict[str, Any] = {n: statistics.median(getattr(speed, n)) / batch for n in ("encode", "denoise", "decode")}
    return "  ms an image: " + ", ".join(f"{name} {1000 * value:.2f}" for name, value in shown.items())
