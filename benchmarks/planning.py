"""python -m benchmarks.planning [--each]: how long it takes to plan a sweep of 1,000 cells of embedded images."""

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from experiments.compose import composed_grid, plain
from experiments.main import planned_point
from experiments.schema import CONF
from experiments.store import Store
from experiments.sweep import distinct

AXES = {
    "ae": ("kl", "vq"),
    "ae.f": (2, 4, 8, 16, 32),
    "sampler.steps": (10, 20, 50, 100, 200),
    "guidance.scale": (1, 2, 3, 5),
    "seed": range(5),
}


def main(argv: Sequence[str]) -> int:
    """Composes and plans all points, in this process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.planning", description=__doc__)
    parser.add_argument("--each", action="store_true", help="Hydra composes each point, as it was before")
    parser.add_argument("--cells", type=int, default=1000, help="the first so many (%(default)s)")
    options = parser.parse_args(argv)
    each = [[f"{key}={value}" for value in values] for key, values in AXES.items()]
    with tempfile.TemporaryDirectory() as folder, initialize_config_dir(str(CONF), version_base="1.3"):
        fixed = ("scale=cpu", "device=cpu", "precision=fp32", f"store={folder}")
        grid = [(*fixed, *point) for point in itertools.product(*each)][: options.cells]

        def composed(point: Sequence[str]) -> DictConfig:
            return compose("config", list(point), return_hydra_config=True)

        started, used = time.perf_counter(), time.process_time()
        values = (
            [plain(composed(point), "") for point in grid] if options.each else [*composed_grid(grid, composed, "")]
        )
        composing = time.perf_counter() - started
        store = Store(Path(folder))
        cells = distinct([planned_point(*point, store) for point in zip(grid, values, strict=True)])
        seconds, processor = time.perf_counter() - started, time.process_time() - used
    print(f"{len(cells):,} cells: {composing:.1f} s to compose, {seconds:.1f} s in all, {processor:.1f} s of processor")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
