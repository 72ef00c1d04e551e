"""The program from Python: run a study, read its results, ask which cell to take, and use the networks of a cell.

It binds together what the commands do, and is the one module that knows both the stages and their analysis; nothing
imports it. Images are float tensors (N, 3, H, W) in [-1, 1]. What the caller can mend is a `UserError` of one sentence.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from analysis import style
from analysis.answer import answers
from analysis.ask import said as in_sentences
from analysis.ask import share
from analysis.budgets import read
from analysis.collect import Study, grid_of, read_study
from analysis.columns import UNPRINTED
from analysis.figures import FIGURES, figures_of
from analysis.headline import drawable
from analysis.store import chosen_sweeps
from experiments import artifacts, build
from experiments.cli import assigned
from experiments.commands.ledger import ROOT, existing_store
from experiments.commands.timing import finished_job, this_machine
from experiments.conditions import AskedConditions, said
from experiments.console import reporting
from experiments.generate import images_of
from experiments.pictures import to_uint8
from experiments.stage import Job
from experiments.stages.samples import asked_again, sampled
from experiments.store import Store
from ldm import records
from ldm.data.contract import SPLITS, Split
from ldm.errors import UserError, nearest
from ldm.first_stage.contract import FirstStage

__all__ = ["Cell", "Recommendation", "Results", "UserError", "as_pixels", "ask", "figure", "load", "run"]

Condition = str | int | Sequence[str] | Sequence[int]


def run(overrides: Sequence[str], store: str | Path = "store") -> "Results":
    """Runs a cell, or the grid that the values span, as `python run.py -m OVERRIDES` does, and reads its results.

    It runs in a process of its own, whose lines are printed here. What the store holds already is not computed again;
    after an interruption the same call goes on.

    Raises: UserError where the settings cannot work, with run.py's sentence, or where cells failed.
    """
    _check_overrides(overrides)
    command = [sys.executable, str(ROOT / "run.py"), "-m", *overrides, assigned("store", str(store))]
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line.strip())
        except BaseException:
            process.send_signal(signal.SIGTERM)  # a second Ctrl-C, where the terminal sent one, would not let it save
            process.stdout.read()  # what it says while it saves must find somebody who reads
            process.wait()
            raise
    if process.returncode:
        raise UserError(_why(lines, process.returncode))
    # Sweeps are named by their time and by the process that ran them.
    [*_, latest] = sorted((Path(store) / "sweeps").glob(f"*-{process.pid}-*.json"))
    return load(store, latest.stem)


def _check_overrides(overrides: Sequence[str]) -> None:
    if isinstance(overrides, str):
        raise UserError(f"overrides are a list of texts, such as ['{overrides}']")
    flags = [item for item in overrides if item.startswith("-")]
    if flags:
        raise UserError(f"'{flags[0]}' is no override: give KEY=VALUE, with commas between the values of a sweep")


def _why(lines: Sequence[str], code: int) -> str:
    """What a run that failed said last, without the mark that it is an error."""
    if code < 0:
        return f"run.py was ended by signal {-code}: the same call goes on from its last checkpoint"
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else next((line for line in reversed(lines) if line), f"run.py ended with code {code}")


def load(store: str | Path, sweep: str | None = None, device: str = "auto") -> "Results":
    """The results of a sweep of a store (None: the latest, "all": every sweep), read from records alone.

    `device`, "auto", "cpu" or "cuda", is where the networks of cells are put when they are used.

    Raises: UserError where there is no such store or sweep, or no such device.
    """
    root, device = Path(store), build.resolve_device(device)
    build.prepare_device(device)
    grid = grid_of(chosen_sweeps(root, sweep))
    found = existing_store(root, is_read_only=not os.access(root, os.W_OK))
    cells: dict[tuple[str, ...], Cell] = {}
    for cell in (cell for one in grid.sweeps for cell in one.cells):
        stages = [stage for stage in grid.stages if stage in cell.stages]
        cells.setdefault(tuple(cell.stages.values()), Cell(grid.labels.label(cell, stages[-1]), cell, found, device))
    name = "all" if sweep == "all" else grid.sweeps[0].sweep
    return Results(root, name, tuple(cells.values()))


@dataclass(frozen=True, eq=False)
class Results:
    """A sweep of a store: its cells, and what was measured of them."""

    store: Path
    sweep: str
    cells: tuple["Cell", ...]

    @cached_property
    def study(self) -> Study:
        """All that tables and figures are made of. Raises: UserError where nothing is finished."""
        return read_study(self.store, self.sweep)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """`results.csv`: a row a measured value, with its axes, interval, n, protocol and cost (docs/numbers.md).

        Raises: UserError where nothing is finished.
        """
        return self.study.frame.drop(columns=list(UNPRINTED))

    def cell(self, name: str) -> "Cell":
        """The one cell whose name or id begins so, such as "KL f=8". Raises: UserError where none or several do."""
        found = [cell for cell in self.cells if cell.name.startswith(name) or cell.id.startswith(name)]
        if len(found) != 1:
            names = [cell.name for cell in found or self.cells]
            begins = "several cells begin" if found else "no cell begins"
            raise UserError(f"{begins} with '{name}': there are {', '.join(names)}")
        return found[0]


@dataclass(frozen=True, eq=False)
class Cell:
    """A point of the grid, whose networks can be used when its stages are finished.

    `name` says what sets it apart, `record` what the sweep's file holds of it: axes, overrides, identities of stages.
    """

    name: str
    record: records.Cell
    store: Store
    device: str

    @property
    def id(self) -> str:
        """As column `cell` of the results has it."""
        return self.record.cell

    @cached_property
    def first_stage(self) -> FirstStage:
        """The autoencoder, ready for use (docs/architecture.md, Contracts).

        Raises: UserError where it is not finished, or its file is damaged.
        """
        return artifacts.first_stage_of(self._job("samples", "latents", "reconstruction"))

    def images(self, n: int, split: Split = "heldout") -> Tensor:
        """The first n images of a split, or as many as there are. Shapes: (n, 3, H, W).

        Raises: UserError where that is no number of images, or there is no such split.
        """
        _check_number(n)
        if split not in SPLITS:
            raise UserError(f"'{split}' is no split{nearest(str(split), SPLITS)} (there are {', '.join(SPLITS)})")
        images = self._job("samples", "latents", "reconstruction").image_sets.open(split)
        return images.batch(range(min(n, len(images))))

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Latents of images as the decoder takes them, of a KL posterior the mean; not yet scaled for diffusion.

        Shapes: (N, 3, H, W) -> (N, C, H / f, W / f), on the CPU. Raises: UserError for what are no such images.
        """
        model = self.first_stage
        _check_images(images, model.factor)
        packed = model.pack(model.encode(images.float().to(self.device, memory_format=torch.channels_last)))
        return model.latent(packed).cpu()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images of latents as `encode` gives them; a first stage with codes quantises them first.

        Shapes: (N, C, h, w) -> (N, 3, f h, f w), on the CPU. Raises: UserError for what are no such latents.
        """
        model = self.first_stage
        if not _are_floats(latents, model.channels):
            raise UserError(
                f"latents are float tensors (N, {model.channels}, h, w) here, and these are {_described(latents)}"
            )
        return model.decode(latents.float().to(self.device)).cpu()

    @torch.no_grad()
    def sample(self, n: int, seed: int | None = None, condition: Condition | None = None) -> Tensor:
        """New images, with the sampler, the steps and the guidance of the cell. Shapes: (n, 3, H, W).

        `seed`: image i depends on (seed, i) alone; None takes that of the cell, and with it the images that it was
        measured by. `condition`: None takes conditions as frequent as the cell has them; a text is the name of a class
        or a caption, a number the position of an image (of the split that the cell takes conditions of) whose condition
        is taken; of several, sample i is given the i-th, from the first on again when all are given.

        Raises: UserError where the cell has no finished samples, or its model has no such condition.
        """
        _check_number(n)
        job = self._job("samples")
        own = asked_again(job, n, job.settings["sampler"]["seed"] if seed is None else seed)
        asked = own if condition is None else _with_condition(job, own, condition)
        with reporting(job.label, n) as reporter:
            images = torch.cat(list(images_of(sampled(job, asked), reporter, 0)))
        return images / 127.5 - 1

    def _job(self, *stages: str) -> Job:
        """The job of the first of these stages that is finished. Raises: UserError where none is."""
        for stage in stages:
            record = self.store.record(stage, self.record.stages.get(stage, ""))
            if record is not None:
                return finished_job(self.store, self.record, record, this_machine(self.device))
        raise UserError(
            f"{self.name} has no finished {stages[0]} in {self.store.root}: `python -m experiments.ledger` says why, "
            "and running the sweep again makes them"
        )


def _check_number(n: int) -> None:
    if n < 1:
        raise UserError(f"n={n} is no number of images: give 1 or more")


def _are_floats(value: object, channels: int) -> bool:
    """Whether a caller gave a float tensor (N, channels, H, W)."""
    return isinstance(value, Tensor) and value.ndim == 4 and value.shape[1] == channels and value.is_floating_point()


def _check_images(images: Tensor, factor: int) -> None:
    if not _are_floats(images, 3):
        raise UserError(
            f"images are float tensors (N, 3, H, W) in [-1, 1] here, and these are {_described(images)}: bytes become "
            "such by images / 127.5 - 1"
        )
    if any(side % factor for side in images.shape[2:]):
        raise UserError(f"the sides of these images, {_described(images)}, are no multiples of f={factor}")


def _described(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"of type {type(value).__name__} (torch.as_tensor makes tensors of arrays)"
    return f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"


def _with_condition(job: Job, own: AskedConditions, condition: Condition) -> AskedConditions:
    """The conditions of a sample set, but for what is asked for."""
    is_one = isinstance(condition, str) or not isinstance(condition, Iterable)
    asked: list[object] = [condition] if is_one else list(condition)  # type: ignore[arg-type]
    each = [asked[i % len(asked)] for i in range(len(own.indices))] if asked else []
    texts = [one for one in each if isinstance(one, str)]
    places = [int(one) for one in each if isinstance(one, Integral)]
    images, conditioning = own.fields.images, job.parent("diffusion").settings["conditioning"]
    if not own.fields.makers:
        raise UserError("this model is unconditional: give no condition")
    if texts and len(texts) == len(each):
        return replace(own, said=said(conditioning, texts, images.classes, job.device))
    if places and len(places) == len(each) and all(0 <= place < len(images) for place in places):
        return replace(own, indices=places)
    raise UserError(
        f"condition={condition!r} is none: give texts, or positions of images from 0 to {len(images) - 1}, or None"
    )


def as_pixels(images: Tensor) -> NDArray[np.uint8]:
    """Images as bytes, for `matplotlib.pyplot.imshow` or PIL. Shapes: (N, 3, H, W) in [-1, 1] -> (N, H, W, 3)."""
    _check_images(images, 1)
    return to_uint8(images).permute(0, 2, 3, 1).numpy()


def figure(results: Results, name: str, metric: str | None = None) -> Figure:
    """A figure of `plot_tradeoffs.py`, such as "quality_vs_f", for `savefig` or a notebook.

    `metric`: the one that figures of sample quality draw, as the results name it (None: the headline).

    Raises: UserError for a figure or metric that there is not, or for which nothing was measured.
    """
    if name not in FIGURES:
        raise UserError(f"'{name}' is no figure{nearest(name, FIGURES)} (there are {', '.join(FIGURES)})")
    if metric is not None and metric not in (known := drawable(results.study.frame)):
        raise UserError(f"metric '{metric}' is none of {', '.join(known)}{nearest(metric, known)}")
    study = replace(results.study, metric=metric)
    drawn = figures_of(study)
    if name not in drawn:
        raise UserError(f"nothing was measured for the figure '{name}'; this sweep has {', '.join(drawn)}")
    with matplotlib.rc_context(style.RC):  # type: ignore[arg-type]
        return drawn[name](study)


@dataclass(frozen=True)
class Recommendation:
    """Which cell to take, None where none can be recommended, and why, in the sentences of `analysis/ask.py`."""

    cell: Cell | None
    text: str

    def __str__(self) -> str:
        return self.text


def ask(results: Results, *budgets: str, metric: str | None = None, within: str = "5%") -> Recommendation:
    """Which cell to take: the best that keeps all budgets, such as "5 images/s" or "2 h training" (docs/choosing.md).

    `metric` as the results name it, or short: "kd", "fd", "precision", ... (None: the headline). `within`: how far off
    the best the cheaper cells may be that the text names.

    Raises: UserError for a budget, metric or share that cannot be read.
    """
    found = answers(results.study, metric, read(budgets), share(within))
    best = next((one.best.cell for one in found if one.best is not None and one.best.cell is not None), None)
    chosen = [cell for cell in results.cells if best is not None and cell.record.stages == best.stages]
    return Recommendation(chosen[0] if chosen else None, in_sentences(results.study, found, results.store))
