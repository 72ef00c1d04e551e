"""The sweeper that Hydra finds: composes the grid, and hands its points to `experiments.sweep` with a launcher."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class StagedSweeper(Sweeper):
    """First stages, then latents, diffusion, samples: each identity once, under any launcher.

    `params` are sweeps that an experiment file asks for, by key; the same key on the command line wins.
    """

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `sweep`."""
        self.config = config
        self.hydra_context = hydra_context
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Runs the grid that the command line spans."""
        from experiments.cli import spanned
        from experiments.main import run_grid
        from experiments.sweep import in_waves

        grid = spanned(arguments, self.params, self.hydra_context.config_loader)
        compose = self.hydra_context.config_loader.load_sweep_config
        jobs = 0

        def launch(job_overrides: Sequence[Sequence[str]]) -> None:
            nonlocal jobs
            self.launcher.launch(job_overrides, initial_job_idx=jobs)
            jobs += len(job_overrides)

        # Ours takes the order itself; to Hydra's launchers what may run together is handed wave by wave.
        in_order = getattr(self.launcher, "launch_in_order", None) or in_waves(launch)
        settle = getattr(self.launcher, "settle", lambda count: None)
        run_grid(grid, lambda point: compose(self.config, list(point)), in_order, self._workers(), settle)

    def _workers(self) -> int | str | None:
        """How many processes of this machine the launcher's jobs run in, or `auto`; None where they run elsewhere."""
        chosen = self.config.hydra.runtime.choices["hydra/launcher"]
        return {"basic": 1, "local": self.config.hydra.launcher.get("workers")}.get(chosen)
