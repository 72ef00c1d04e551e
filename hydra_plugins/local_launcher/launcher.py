"""The launcher that Hydra finds: hands a sweep's jobs to worker processes that last as long as the sweep."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn, JobRuntime, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from experiments.console import say
from experiments.packing import AUTO, ON_A_CPU, whole_number
from experiments.workers import Turn, Workers, cores

if TYPE_CHECKING:
    from experiments.sweep import Due


class LocalLauncher(Launcher):
    """`workers` processes, each with `threads` threads (null: its share of the cores).

    With `auto` their number is settled once the sweep is planned.
    """

    def __init__(self, workers: int | str, threads: int | None = None) -> None:
        self.count, self.threads = workers, threads
        self.workers: Workers | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `launch`. Raises: UserError where there are no workers or no threads."""
        self.config = config
        self.hydra_context = hydra_context
        if self.count != AUTO:
            self.settle(self.count)
        # The decorated function, which stands under this name in the main module; what Hydra hands over does not.
        self.task = getattr(sys.modules[task_function.__module__], task_function.__qualname__)

    def settle(self, count: int | str) -> None:
        """So many workers from here on, none being at work. Raises: UserError where it is no number."""
        count = whole_number(count)
        if self.workers is not None:
            if self.workers.count == count:
                return
            self.workers.end()
        share = max(1, cores() // max(count, 1))
        self.workers = Workers(count, share if self.threads is None else self.threads)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Runs jobs that wait for none; whether they did their work, the store tells."""
        from experiments.sweep import Due  # Hydra reads its plugins for --help, too, which needs no torch

        errors = self.launch_in_order([Due(tuple(overrides)) for overrides in job_overrides], initial_job_idx)
        return [
            JobReturn(overrides, status=JobStatus.FAILED if error else JobStatus.COMPLETED)
            for overrides, error in zip(job_overrides, errors, strict=True)
        ]

    def launch_in_order(self, jobs: Sequence[Due], initial_job_idx: int = 0) -> list[str | None]:
        """Runs jobs, each as soon as those have ended that it waits for, and returns when all have ended.

        Of each, why it did not succeed; whether it did its work, the store tells.
        """
        setup_globals()
        calls = [
            functools.partial(_run, self.task, self.config, job.overrides, number, self.hydra_context)
            for number, job in enumerate(jobs, initial_job_idx)
        ]
        if self.workers is None:
            self.settle(ON_A_CPU)
        assert self.workers is not None
        errors = self.workers.run(calls, [Turn(job.after, job.may_begin, job.ended) for job in jobs])
        for job, error in zip(jobs, errors, strict=True):
            if error:
                say(f"  failed: {' '.join(job.overrides)}: {error}", style="red")
        return errors


def _run(
    task: TaskFunction, sweep: DictConfig, overrides: Sequence[str], number: int, hydra_context: HydraContext
) -> None:
    """One job in a worker, composed there. Raises: what the task raises."""
    setup_globals()
    config = hydra_context.config_loader.load_sweep_config(sweep, list(overrides))
    with open_dict(config):
        config.hydra.job.id = config.hydra.job.num = number
    JobRuntime.instance().set("name", config.hydra.job.name)
    _ = run_job(task, config, "hydra.sweep.dir", "hydra.sweep.subdir", hydra_context).return_value
