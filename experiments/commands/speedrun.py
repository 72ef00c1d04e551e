"""How soon samples reach a fixed distance: python -m experiments.speedrun [KEY=VALUE ...] [--out DIR] [--table].

Images, extractor and distance are fixed by `+experiment=speedrun`; all else may be chosen. A run begins with raw images
and an empty store, and its clock stops when the samples are there; they are measured after that. An entry is three runs
of seeds 0, 1, 2 one after the other, and reaches the target where each of them does. docs/speedrun.md has the rules.
"""

import argparse
import dataclasses
import math
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from experiments.build import resolve_device
from experiments.claims import hold
from experiments.cli import assigned, exit_code
from experiments.commands.ledger import ROOT
from experiments.compose import composed
from experiments.conditions import conditions_of
from experiments.console import clock, say
from experiments.custom import is_custom, load, sources_of
from experiments.runner import environment, processor
from experiments.store import Store, now
from experiments.workers import cores
from ldm.errors import UserError
from ldm.intact import file_hash
from ldm.records import ResultRow, content_hash, read_sealed, sealed, write_json

EXPERIMENT: Final = "+experiment=speedrun"
METRIC, BELOW = "kd_efficientnet_lite2_colour", 1.75
"""The distance of samples and the target: below every Gaussian of latents, and below decoded images at f = 32."""

SEEDS: Final = (0, 1, 2)
FIXED: Final = ("data", "metrics")
"""Groups of settings that no entry chooses."""

CODE: Final = ("ldm", "experiments", "conf")
"""Folders of what a run is computed with: the runs of another state of them are of another entry."""

OURS: Final = ("seed", "ae.seed", "store", "until", "tracker", "tracker.mode", "report", "experiment")
"""Settings that this command gives each run."""

ASKED_FOR: Final = ("class",)
"""Conditions that say little of held-out images."""


@dataclass(frozen=True)
class Run:
    """One run against the clock: seconds from its start to its samples, and how far those are from held-out images."""

    overrides: tuple[str, ...]
    seed: int
    machine: str
    seconds: float
    value: float
    ci_low: float
    ci_high: float
    n: int
    protocol: str
    begun: str
    program: str
    torch: str

    @property
    def entry(self) -> tuple[tuple[str, ...], str, str, str, str]:
        """What runs of one entry share."""
        return self.overrides, self.machine, self.protocol, self.program, self.torch


@dataclass(frozen=True)
class Entry:
    """The runs of one entry."""

    runs: tuple[Run, ...]

    @property
    def is_whole(self) -> bool:
        """Whether all seeds were run."""
        return {run.seed for run in self.runs} >= set(SEEDS)

    @property
    def is_reached(self) -> bool:
        """Whether each run reached the target."""
        return self.is_whole and all(run.value <= BELOW for run in self.runs)

    @property
    def seconds(self) -> float:
        """The mean over its runs."""
        return statistics.fmean(run.seconds for run in self.runs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is left of an entry and prints the table; 0, or 2 with one sentence where the user can mend it."""
    options = _parser().parse_args(arguments)
    return exit_code(lambda: _speedrun(options))


def _parser() -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(prog="python -m experiments.speedrun", description=__doc__)
    command.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings of the entry, as run.py takes them"
    )
    command.add_argument("--out", type=Path, default=Path("speedrun"), help="where runs are kept (default: speedrun)")
    command.add_argument("--table", action="store_true", help="print the table of what was run, and run nothing")
    return command


def _speedrun(options: argparse.Namespace) -> int:
    if not options.table:
        overrides = checked(options.overrides)
        folder = options.out / content_hash(
            [*overrides, machine(overrides), program(overrides), environment()["torch"]]
        )
        # The same command given twice would remove what the other one is timing.
        with hold(folder, "claim", lambda: say("another process runs this entry: waiting for it")):
            for seed in SEEDS:
                if (run := _finished(folder / f"{seed}")) is None:
                    say(f"seed {seed}: the clock runs")
                    run = against_the_clock(overrides, seed, folder / f"{seed}")
                say(f"seed {seed}: {METRIC} {run.value:.3g} after {clock(run.seconds)}", style="bold")
    print(table(entries(options.out)))
    return 0


def checked(overrides: Sequence[str]) -> tuple[str, ...]:
    """The settings of an entry, the scale among them. Raises: UserError where the rules do not allow them."""
    keys = [each.partition("=")[0].lstrip("+~") for each in overrides]
    for each, key in zip(overrides, keys, strict=True):
        if key in OURS or key.startswith("-"):
            raise UserError(f"{each}: this command itself gives the runs their {key.lstrip('-')}; leave it out")
    chosen = (*overrides, *([] if "scale" in keys else ["scale=cpu"]))
    values, fixed = composed([EXPERIMENT, *chosen]), composed([EXPERIMENT, "scale=cpu"])
    for group in FIXED:
        if changed := [key for key in fixed[group] if values[group].get(key) != fixed[group][key]]:
            raise UserError(
                f"{group}.{changed[0]} is fixed by {EXPERIMENT}, so that entries are measured alike; leave it out"
            )
    for group in ("ae", "denoiser"):
        if "path" in values[group]:
            raise UserError(f"{group}=pretrained was trained before the clock ran: choose one that a run trains")
    if is_custom(values["ae"]) and getattr(load(values["ae"]["target"], "ae.target").part, "is_trained", False):
        raise UserError(
            f"ae.target={values['ae']['target']} comes trained, before the clock ran: choose one that a run trains"
        )
    if told := [name for name in conditions_of(values) if name not in ASKED_FOR]:
        raise UserError(
            f"conditioning={told[0]} tells samples how the held-out images look that they are compared with: choose "
            "conditioning=class or conditioning=none"
        )
    if values["trainer"]["devices"] != 1:
        raise UserError(f"trainer.devices={values['trainer']['devices']}: an entry is of one device; leave it out")
    return chosen


def machine(overrides: Sequence[str]) -> str:
    """What the entry is timed on: entries of two machines are not compared."""
    if resolve_device(composed([EXPERIMENT, *overrides])["device"]) == "cuda":
        return f"one {environment()['processor']}"
    return f"{cores()} cores of {processor()}"


def program(overrides: Sequence[str]) -> str:
    """The version of the program and a hash of its code, that of the user's own parts included."""
    files = sorted(path for folder in CODE for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml"))
    sources = {path.relative_to(ROOT).as_posix(): file_hash(path) for path in files}
    own = sources_of(composed([EXPERIMENT, *overrides]))
    return f"{environment()['program']} {content_hash([sources, own], digits=8)}"


def against_the_clock(overrides: tuple[str, ...], seed: int, folder: Path) -> Run:
    """Runs an entry with a seed, from an empty store; what an earlier run left there that did not end is removed.

    Raises: UserError where it fails.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    store = folder / "store"
    given = [EXPERIMENT, *overrides, f"ae.seed={seed}", "tracker.mode=disabled", "report=false"]
    command = [sys.executable, str(ROOT / "run.py"), *given, assigned("store", str(store))]
    known, code = environment(), program(overrides)  # of what begins now, whatever is edited meanwhile
    begun, started = now(), time.monotonic()
    _run([*command, "until=samples"], seed)
    seconds = time.monotonic() - started
    _run([*command, "until=evaluation"], seed)
    row = _distance(Store(store))
    run = Run(
        overrides=overrides,
        seed=seed,
        machine=machine(overrides),
        seconds=seconds,
        value=row.value,
        ci_low=_known(row.ci_low),
        ci_high=_known(row.ci_high),
        n=row.n,
        protocol=row.protocol,
        begun=begun,
        program=code,
        torch=known["torch"],
    )
    write_json(folder / "run.json", sealed(dataclasses.asdict(run)))
    return run


def _run(command: Sequence[str], seed: int) -> None:
    code = subprocess.run(command, check=False).returncode
    if code:
        raise UserError(f"the run of seed {seed} ended with code {code}; given again, this command begins it anew")


def _distance(store: Store) -> ResultRow:
    """The target's metric, of the one cell that the store holds."""
    for path in (store.root / "evaluation").glob("*/record.json"):
        record = store.record("evaluation", path.parent.name)
        for row in record.rows if record is not None else ():
            if row.metric == METRIC:
                return row
    raise UserError(f"{store.root} holds no {METRIC} of samples")


def _known(bound: float | None) -> float:
    return math.nan if bound is None else bound


def _finished(folder: Path) -> Run | None:
    """What was kept of a run, None where it did not end."""
    try:
        known = {key: value for key, value in read_sealed(folder / "run.json").items() if key in _FIELDS}
        return Run(**{**known, "overrides": tuple(known["overrides"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


_FIELDS: Final = {field.name for field in dataclasses.fields(Run)}


def entries(out: Path) -> list[Entry]:
    """What was run, machine by machine: those that reached the target first, the soonest first."""
    runs: dict[Any, list[Run]] = {}
    for path in sorted(out.glob("*/*/run.json")):
        if run := _finished(path.parent):
            runs.setdefault(run.entry, []).append(run)
    found = [Entry(tuple(sorted(own, key=lambda run: run.seed))) for own in runs.values()]
    return sorted(found, key=lambda entry: (entry.runs[0].machine, not entry.is_reached, entry.seconds))


def table(found: Sequence[Entry]) -> str:
    """The entries as Markdown."""
    header = ["machine", "from raw images to samples", METRIC, "n, protocol", f"all at most {BELOW:g}", "command"]
    lines = [header, ["---"] * len(header)]
    for entry in found:
        runs = entry.runs
        span = f" ({clock(min(r.seconds for r in runs))} to {clock(max(r.seconds for r in runs))})"
        distances = ", ".join(f"{run.value:.3g} [{run.ci_low:.3g}, {run.ci_high:.3g}]" for run in runs)
        reached = ("yes" if entry.is_reached else "no") if entry.is_whole else f"{len(runs)} of {len(SEEDS)} seeds"
        command = shlex.join(["python", "-m", "experiments.speedrun", *runs[0].overrides])
        lines.append(
            [
                runs[0].machine,
                clock(entry.seconds) + span,
                distances,
                f"{runs[0].n}, {runs[0].protocol}",
                reached,
                f"`{command}`",
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
