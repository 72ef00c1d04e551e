"""The launcher that Hydra finds: submits a sweep's jobs to Slurm, and waits until they have ended.

What it works with is imported when it works: Hydra reads all its plugins for --help, too, which needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from experiments.sweep import Due


class SlurmLauncher(Launcher):
    """Who would rather not wait submits with `python -m experiments.submit`, which has the same settings."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `launch`. Raises: UserError for a setting that cannot be."""
        from experiments.submissions import resources_of

        self.config = config
        self.resources = resources_of(OmegaConf.to_container(config.hydra.launcher, resolve=True))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """As Hydra calls it, without any order. Raises: UserError where Slurm refuses the jobs."""
        from experiments.sweep import Due

        self.launch_in_order([Due(tuple(overrides)) for overrides in job_overrides])
        return [JobReturn(overrides, status=JobStatus.COMPLETED) for overrides in job_overrides]

    def launch_in_order(self, jobs: Sequence[Due]) -> None:
        """Submits all jobs, each behind those it waits for, and returns when they have ended, as the store tells.

        Raises: UserError where Slurm refuses them.
        """
        from experiments.store import Store
        from experiments.submissions import run_all, tasks_due
        from experiments.sweep import sweep_handed

        store, tasks = Store(Path(self.config.store)), tasks_due(jobs)
        sweep = sweep_handed(tasks[0].overrides)
        run_all(store, sweep, tasks, self.resources, [job.ended for job in jobs])
