"""The launcher that Hydra finds: runs a sweep's jobs as tasks of a Ray cluster, and waits until they have ended.

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


class RayLauncher(Launcher):
    """Tasks may share a GPU, and begin again on another node when theirs dies."""

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `launch`. Raises: UserError for a setting that cannot be, or where Ray is missing."""
        from experiments.ray_tasks import check_installed, resources_of

        check_installed()
        self.config = config
        self.resources = resources_of(OmegaConf.to_container(config.hydra.launcher, resolve=True))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """As Hydra calls it, without any order. Raises: UserError where there is no cluster, or no large node."""
        from experiments.sweep import Due

        self.launch_in_order([Due(tuple(overrides)) for overrides in job_overrides])
        return [JobReturn(overrides, status=JobStatus.COMPLETED) for overrides in job_overrides]

    def launch_in_order(self, jobs: Sequence[Due]) -> None:
        """Runs all jobs, each behind those it waits for, and returns when all have ended.

        Raises: UserError where there is no cluster, or no node for the jobs.
        """
        from experiments.ray_tasks import run
        from experiments.store import Store

        run(Store(Path(self.config.store)), jobs, self.resources)
