"""Weights & Biases as a mirror of the store: one run a stage execution, one a cell. Our records stay the truth.

Offline by default: runs lie under <store>/wandb and `wandb sync` uploads them. Steps are never given to W&B, which
drops what comes below the last one after a resume; `images_seen` is the axis instead.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from experiments.stage import Log, Plan, PlannedStage
from ldm.errors import UserError
from ldm.records import StageRecord

MODES = ("offline", "online", "disabled")


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


class Tracker:
    """Opens runs in one W&B project, all of one call in one group. Raises UserError for an unknown mode."""

    def __init__(self, store: Path, mode: str, project: str, entity: str | None, group: str) -> None:
        if mode not in MODES:
            raise UserError(f"tracker.mode={mode} is none of {', '.join(MODES)}")
        self.store, self.mode, self.project, self.entity, self.group = store, mode, project, entity, group

    @contextmanager
    def stage_run(self, plan: Plan, stage: PlannedStage) -> Iterator[Run]:
        """The run of one stage execution, ended whether the stage succeeds or not."""
        axes = {key: plan.axes[key] for key in ("f", "regulariser", "channels", "resolution", "data", "scale")}
        config = {**axes, "identity": stage.identity, "stage_config": stage.settings, "config": plan.config}
        tags = [stage.name, f"f={axes['f']}", str(axes["regulariser"]), f"scale={axes['scale']}"]
        with self._run(f"{stage.name}-{stage.identity}", stage.name, config, tags) as run:
            yield run

    def cell_run(self, plan: Plan, name: str, records: Sequence[StageRecord]) -> None:
        """One run for a finished cell with the results of these records, so that tables and parallel coordinates work.

        The costs that stay are those of the last.
        """
        if self.mode == "disabled":
            return
        config = {**plan.axes, "cell": plan.cell, "stages": {s.name: s.identity for s in plan.stages.values()}}
        tags = ["cell", f"f={plan.axes['f']}", str(plan.axes["regulariser"])]
        with self._run(f"cell-{name}", "cell", config, tags) as run:
            for record in records:
                run.finish(record)

    @contextmanager
    def _run(self, name: str, job_type: str, config: Mapping[str, Any], tags: list[str]) -> Iterator[Run]:
        if self.mode == "disabled":
            yield Silent()
            return
        os.environ.setdefault("WANDB_SILENT", "true")
        import wandb

        settings = wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True, init_timeout=120)
        try:
            run = wandb.init(
                project=self.project,
                entity=self.entity,
                id=name,
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
        except wandb.errors.CommError as error:
            raise UserError(
                f"tracker.mode=online, but W&B cannot be reached ({error}); "
                "use tracker.mode=offline and `wandb sync` later"
            ) from error
        run.define_metric("images_seen")
        run.define_metric("*", step_metric="images_seen")
        code = 1
        try:
            yield _WandbRun(run)
            code = 0
        finally:
            run.finish(exit_code=code)
