"""Weights & Biases as a mirror of the store: one run a stage execution, one a cell. Our records stay the truth.

Offline by default: runs lie under <store>/wandb and `wandb sync` uploads them. Steps are never given to W&B, which
drops what comes below the last one after a resume; `images_seen` is the axis instead.
"""

import netrc
import os
import shutil
import threading
import time
import urllib.parse
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from experiments.compose import without_environment
from experiments.console import say
from experiments.stage import Log, Plan, PlannedStage
from ldm.errors import UserError
from ldm.first_stage import FIRST_STAGES
from ldm.records import StageRecord

MODES = ("offline", "online", "disabled")
WANDB_WORDS = {"dryrun": "offline", "run": "online", "shared": "online", "disable": "disabled"}
"""Values of WANDB_MODE that are called otherwise here."""

HEADER_BYTES = 7
"""Size of a run file that a kill left before anything was written to it; `wandb sync` stops at such a file."""

LIVE_SECONDS = 120.0
"""A run file this young may still be written to."""

INIT_SECONDS = 60.0
FINISH_SECONDS = 60.0
"""How long the upload of one run may hold up a sweep at its end."""


class Run(Log, Protocol):
    """Where one stage execution is mirrored."""

    def finish(self, record: StageRecord) -> None:
        """The record's results as the run's summary."""


class Silent:
    """Logs nowhere."""

    def log(self, images_seen: int, values: Mapping[str, float]) -> None:
        pass

    def image(self, name: str, path: Path) -> None:
        pass

    def finish(self, record: StageRecord) -> None:
        pass


class _WandbRun:
    def __init__(self, run: Any) -> None:
        self.run = run

    def log(self, images_seen: int, values: Mapping[str, float]) -> None:
        self.run.log({"images_seen": images_seen, **values})

    def image(self, name: str, path: Path) -> None:
        import wandb

        self.run.log({name: wandb.Image(str(path))})

    def finish(self, record: StageRecord) -> None:
        cost = record.cost
        self.run.summary.update(
            {
                **{row.metric: row.value for row in record.rows},
                **{
                    f"cost/{name}": getattr(cost, name)
                    for name in ("seconds", "images_per_second", "flops", "peak_bytes")
                },
                **{f"left_out/{item.metric}": item.reason for item in record.left_out},
            }
        )


def mode_of(given: str) -> str:
    """`tracker.mode`, or what W&B's own variables of the environment say in its place.

    Raises: UserError for an unknown mode.
    """
    if given not in MODES:
        raise UserError(f"tracker.mode={given} is none of {', '.join(MODES)}")
    if os.environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes"):
        return "disabled"
    asked = os.environ.get("WANDB_MODE", given)
    return WANDB_WORDS.get(asked, asked if asked in MODES else given)


def check_tracking(given: str, store: Path) -> list[str]:
    """Notes on how W&B is used, before anything runs; run files that hold nothing are removed.

    Raises: UserError for an unknown mode, and where runs are to be uploaded and nobody has logged in.
    """
    mode = mode_of(given)
    if mode == "online" and not _is_logged_in():
        raise UserError(
            "tracker.mode=online, but nobody has logged in to W&B here: wandb login, or set WANDB_API_KEY, or use "
            "tracker.mode=offline and `wandb sync` later"
        )
    if mode != "disabled":
        _remove_empty_runs(store)
    return [] if mode == given else [f"W&B is {mode}, as WANDB_MODE or WANDB_DISABLED says, not tracker.mode={given}"]


def _is_logged_in() -> bool:
    if any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    host = urllib.parse.urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _remove_empty_runs(store: Path) -> None:
    """Removes the offline runs that a kill left before anything was written: one of them stops `wandb sync`."""
    for file in store.glob("wandb/offline-run-*/*.wandb"):
        stat = file.stat()
        if stat.st_size <= HEADER_BYTES and time.time() - stat.st_mtime > LIVE_SECONDS:
            shutil.rmtree(file.parent, ignore_errors=True)


class Tracker:
    """Opens runs in one W&B project, all of one call in one group. Raises UserError for an unknown mode.

    A server that does not answer costs a limited time, once: from then on runs are kept offline.
    """

    def __init__(self, store: Path, mode: str, project: str, entity: str | None, group: str) -> None:
        self.store, self.mode, self.project, self.entity, self.group = store, mode_of(mode), project, entity, group
        self._ended: list[tuple[Any, int]] = []

    @contextmanager
    def stage_run(self, plan: Plan, stage: PlannedStage, depends_on: Collection[str]) -> Iterator[Run]:
        """The run of one stage execution, ended whether the stage succeeds or not; `depends_on` are its axes."""
        axes = {key: plan.axes[key] for key in ("f", "regulariser", "channels", "resolution", "data", "scale")}
        shown = without_environment(plan.config)
        config = {**axes, "identity": stage.identity, "stage_config": stage.settings, "config": shown}
        tags = [stage.name, f"f={axes['f']}", str(axes["regulariser"]), f"scale={axes['scale']}"]
        name = f"{stage.name} of {_in_words(plan, depends_on)}"
        with self._run(f"{stage.name}-{stage.identity}", name, stage.name, config, tags) as run:
            yield run

    def settle(self) -> None:
        """Ends the runs of finished stages; to be called where no other process waits."""
        ended, self._ended = self._ended, []
        for run, code in ended:
            upload = threading.Thread(target=run.finish, kwargs={"exit_code": code}, daemon=True)
            upload.start()
            upload.join(FINISH_SECONDS)
            if upload.is_alive() and self.mode == "online":
                self._go_on_offline(f"has not taken a run within {FINISH_SECONDS:.0f} s")

    def _go_on_offline(self, why: str) -> None:
        self.mode = "offline"
        say(f"W&B {why}: runs are kept offline from here on, `wandb sync` uploads them later", style="yellow")

    def cell_run(self, plan: Plan, name: str, records: Sequence[StageRecord]) -> None:
        """One run for a finished cell with the results of these records, so that tables and parallel coordinates work.

        The costs that stay are those of the last.
        """
        if self.mode == "disabled":
            return
        config = {**plan.axes, "cell": plan.cell, "stages": {s.name: s.identity for s in plan.stages.values()}}
        tags = ["cell", f"f={plan.axes['f']}", str(plan.axes["regulariser"])]
        with self._run(f"cell-{name}", _in_words(plan, plan.axes), "cell", config, tags) as run:
            for record in records:
                run.finish(record)
        self.settle()

    @contextmanager
    def _run(
        self, identity: str, name: str, job_type: str, config: Mapping[str, Any], tags: list[str]
    ) -> Iterator[Run]:
        if self.mode == "disabled":
            yield Silent()
            return
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        settings = wandb.Settings(
            silent=True, console="off", disable_git=True, x_disable_stats=True, init_timeout=INIT_SECONDS
        )

        def opened() -> Any:
            return wandb.init(
                project=self.project,
                entity=self.entity,
                id=identity,
                name=name,
                group=self.group,
                job_type=job_type,
                tags=tags,
                config=dict(config),
                dir=str(self.store),
                mode=self.mode,  # type: ignore[arg-type]
                resume="allow" if self.mode == "online" else None,
                reinit="create_new",
                settings=settings,
            )

        try:
            run = opened()
        except wandb.errors.Error as error:
            if self.mode != "online":
                raise
            self._go_on_offline(f"cannot be reached ({' '.join(str(error).split())})")
            run = opened()
        run.define_metric("images_seen")
        run.define_metric("*", step_metric="images_seen")
        code = 1
        try:
            yield _WandbRun(run)
            code = 0
        finally:
            self._ended.append((run, code))


def _title(regulariser: str) -> str:
    return FIRST_STAGES[regulariser].labels.title if regulariser in FIRST_STAGES else regulariser


def _in_words(plan: Plan, depends_on: Collection[str]) -> str:
    """A cell as a person names it, as far as these axes go: "KL f=4, ddim 20 steps"."""
    axes = plan.axes
    words = [f"{_title(axes['regulariser'])} f={axes['f']}"]
    if "steps" in depends_on and axes.get("steps"):
        words.append(f"{axes['sampler']} {axes['steps']} steps")
    return ", ".join(
        [*words, *(f"{key} {axes[key]}" for key in ("seed", "ae_seed") if key in depends_on and axes.get(key))]
    )
