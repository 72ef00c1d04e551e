"""Training of the denoising model: a state that can be saved at any step, and a generator that advances it."""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ldm.conditioning.contract import Conditioning
from ldm.data.fields import Draw
from ldm.denoiser.blocks import TimeEmbedding
from ldm.diffusion.model import DenoisingModel
from ldm.diffusion.times import UNIFORM, TimeDensity
from ldm.memory import give_back_unused, is_out_of_memory, moved
from ldm.randomness import Noise, numpy_generator
from ldm.ranks import ALONE, Ranks
from ldm.training.draws import DRAWS, Place
from ldm.training.ema import ExponentialMovingAverage
from ldm.training.muon import Muon
from ldm.training.power_ema import PowerAverage
from ldm.training.rate import learning_rate_factor
from ldm.training.representation import RepresentationTerm
from ldm.training.step import StepReport

logger = logging.getLogger(__name__)

T = TypeVar("T")


class TrainingLatents(Protocol):
    """Where batches of normalised latents come from."""

    def __len__(self) -> int: ...

    def latents(self, indices: Tensor, noise: Noise) -> Tensor:
        """Normalised latents on the training device, those of a KL first stage drawn with `noise`.

        Shapes: indices (N,); result (N, C, h, w).
        """
        ...

    def fields(self, indices: Tensor, draw: Draw) -> Mapping[str, Tensor]:
        """The fields that the conditioning reads, on the training device; `draw(i)` gives batch item i's randomness.

        Shapes: indices (N,); each field (N, ...).
        """
        ...


@runtime_checkable
class ShowsImages(Protocol):
    """What latents have besides whose images are at hand, as those of which hidden features are aligned."""

    def pixels(self, indices: Tensor) -> Tensor:
        """The images themselves, on the training device. Shapes: indices (N,); result (N, 3, H, W) in [-1, 1]."""
        ...


@runtime_checkable
class HoldsLatents(Protocol):
    """What latents have besides that may lie on the device, all of them."""

    held: Tensor | None

    def let_go(self) -> None:
        """Gives that memory back."""
        ...


@dataclass(frozen=True)
class DiffusionSettings:
    """How long and how to train; `images` and `warm_up` and `ema_half_life` count images seen.

    `gradient_clip` is the largest norm of the gradient, 0 for none. `ema_share`: of the images seen so far, the longest
    that the EMA's half-life may be, which it always is where `ema_half_life` is infinite. `matrix_rate`: the rate of
    Muon for the network's matrices; 0 = AdamW for all. `times`: how often each noise level is drawn.
    `power_lengths`: of further averages, of which others can be made afterwards. `noise`: of `DRAWS`, what all that is
    random in a step is drawn by.
    """

    seed: int
    images: int
    batch: int
    learning_rate: float
    warm_up: int
    weight_decay: float
    gradient_clip: float
    ema_half_life: float
    condition_dropout: float
    decay: str = "constant"
    ema_share: float = 0.05
    matrix_rate: float = 0
    times: TimeDensity = UNIFORM
    power_lengths: tuple[float, ...] = ()
    micro_batch: int | None = None
    noise: str = "torch"

    @property
    def steps(self) -> int:
        """Optimiser steps, the last batch complete."""
        return -(-self.images // self.batch)


class DiffusionTraining:
    """Denoising model, conditioning, optimiser and EMA at one step; what is random at step k follows from (seed, k).

    With `ranks` each process holds all of it, the same everywhere, and computes the gradients of its share of a batch.
    `micro_batch`: images in one pass, fewer than the settings ask for once memory did not suffice. What aligns hidden
    features (`representation`) is trained beside the model, and is in no average of weights.
    """

    def __init__(
        self,
        model: DenoisingModel,
        conditioning: Conditioning,
        data: TrainingLatents,
        settings: DiffusionSettings,
        ranks: Ranks = ALONE,
        representation: RepresentationTerm | None = None,
    ) -> None:
        self.model = model
        self.conditioning = conditioning
        self.data = data
        self.settings = settings
        self.ranks = ranks
        self.representation = representation
        ranks.check_batch(settings.batch)
        self.step = 0
        self.micro_batch = self._asked
        self.counts = settings.times.weights(model.schedule.steps)
        self.trained = nn.ModuleDict({"denoiser": model.network, "conditioning": conditioning})
        self.ema = ExponentialMovingAverage(self.trained, settings.ema_half_life, settings.ema_share)
        self.averages = {length: PowerAverage(self.trained, length) for length in settings.power_lengths}
        projector = [] if representation is None else [*representation.parameters()]
        self.weights = [*self.trained.parameters(), *projector]
        self.optimisers = self._optimisers()

    @property
    def images_seen(self) -> int:
        """Images seen so far."""
        return self.step * self.settings.batch

    @property
    def smaller_passes(self) -> dict[str, int]:
        """`micro_batch` by name where memory made it smaller than the settings ask for, to be written down."""
        return {"micro_batch": self.micro_batch} if self.micro_batch < self._asked else {}

    @property
    def _asked(self) -> int:
        """Images in one pass as the settings ask for, no more than this rank has of a batch."""
        mine = self.ranks.share(self.settings.batch)
        own = mine.stop - mine.start
        return min(self.settings.micro_batch or own, own)

    def advance(self) -> StepReport:
        """One optimiser step."""
        s = self.settings
        factor = learning_rate_factor(self.images_seen, s.images, s.warm_up, s.decay)
        for name, optimiser in self.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = factor * (s.matrix_rate if name == MUON else s.learning_rate)
        losses = self.that_fits(self.accumulate_gradients)
        # Behind what may be begun again: no rank may wait in one sum while another is in the next.
        self.ranks.sum_gradients(self.weights)
        losses = {name: self.ranks.sum(loss) for name, loss in losses.items()}
        norm = nn.utils.clip_grad_norm_(self.weights, s.gradient_clip or math.inf)
        for optimiser in self.optimisers.values():
            optimiser.step()
        self.step += 1
        self.ema.update(self.trained, s.batch, self.images_seen)
        for average in self.averages.values():
            average.update(self.trained, self.step)
        return StepReport(self.step, self.images_seen, {**losses, "gradient_norm": norm})

    def that_fits(self, gradients: Callable[[], T]) -> T:
        """What `gradients` gives, which computes a step's; from where memory does not suffice, in halved passes.

        Latents that lie on the device leave it first.
        A step is begun again with the same batch and noise, so that no more than rounding changes.
        """
        while True:
            try:
                return gradients()
            except RuntimeError as error:
                held = self.data if isinstance(self.data, HoldsLatents) and self.data.held is not None else None
                if not is_out_of_memory(error) or (self.micro_batch == 1 and held is None):
                    raise
            # Only here are the tensors of the pass that failed, which the error held, no more.
            if held is not None:
                held.let_go()
                give_back_unused()
                logger.warning("memory does not suffice at step %d: latents do not stay on the device", self.step + 1)
                continue
            self.micro_batch = -(-self.micro_batch // 2)
            give_back_unused()
            logger.warning(
                "memory does not suffice at step %d: from here on %d images in one pass (trainer.micro_batch=%d), "
                "the batch stays at %d",
                self.step + 1,
                self.micro_batch,
                self.micro_batch,
                self.settings.batch,
            )

    def accumulate_gradients(self) -> dict[str, Tensor]:
        """Computes the gradients of this rank's items, micro-batch by micro-batch; returns their part of the mean loss.

        What is random is that of this rank's items in the whole batch. Beside the loss of the model stands that of the
        representation, where there is one. Shapes: each ().
        """
        s, mine = self.settings, self.ranks.share(self.settings.batch)
        torch.manual_seed(self.ranks.seed(s.seed, "dropout", self.step))  # layers with dropout use the global stream
        draws = DRAWS[s.noise](Place(s.seed, self.step, s.batch, mine, self.weights[0].device))
        indices = draws.indices(len(self.data))
        x0 = self.data.latents(indices, draws.noise)
        noise = draws.noise(tuple(x0.shape[1:]))
        levels = draws.levels(s.times, self.model.schedule.steps)
        dropped = draws.dropped(s.condition_dropout)
        fields = self.data.fields(indices, lambda item: numpy_generator(s.seed, "fields", self.step, mine.start + item))
        if s.condition_dropout > 0:
            fields = self.conditioning.drop(fields, moved(dropped, x0.device))
        for optimiser in self.optimisers.values():
            optimiser.zero_grad(set_to_none=True)
        micro = self.micro_batch
        term = self.representation
        watched = contextlib.nullcontext if term is None else term.watched
        totals = {name: torch.zeros((), device=x0.device) for name in (LOSS, *([REPRESENTATION] if term else []))}
        for first in range(0, len(x0), micro):
            part = slice(first, first + micro)
            condition = self.conditioning({name: value[part] for name, value in fields.items()})
            times = self.model.schedule.time(levels[part])
            with watched():
                losses = self.model.loss(x0[part], times, noise[part], condition)
            loss = (self._counts_at(levels[part]).to(losses) * losses).sum() / s.batch
            totals[LOSS] += loss.detach()
            if term is not None:
                assert isinstance(self.data, ShowsImages)
                misaligned = term(self.data.pixels(indices[part])).sum() / s.batch
                totals[REPRESENTATION] += misaligned.detach()
                loss = loss + misaligned
            loss.backward()
        return totals

    def _counts_at(self, levels: Tensor) -> Tensor:
        """What the losses at these levels count, where the levels are. Shapes: (N,); (N,)."""
        if self.counts.device != levels.device:
            self.counts = self.counts.to(levels.device)  # once: a GPU would wait for it at each step
        return self.counts[levels]

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to go on bit for bit."""
        return {
            "step": self.step,
            **self.smaller_passes,
            "trained": self.trained.state_dict(),
            "ema": self.ema.module.state_dict(),
            **{f"average {length:g}": average.module.state_dict() for length, average in self.averages.items()},
            **({} if self.representation is None else {REPRESENTATION: self.representation.state_dict()}),
            **{name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.step = state["step"]
        self.micro_batch = min(self.micro_batch, state.get("micro_batch", self.micro_batch))
        self.trained.load_state_dict(state["trained"])
        self.ema.module.load_state_dict(state["ema"])
        for length, average in self.averages.items():
            average.module.load_state_dict(state[f"average {length:g}"])
        if self.representation is not None:
            self.representation.load_state_dict(state[REPRESENTATION])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state[name])

    def _optimisers(self) -> dict[str, Optimizer]:
        """By their names in checkpoints: AdamW for all weights, or for those that are no matrices, beside Muon."""
        s = self.settings
        matrices = [] if s.matrix_rate == 0 else matrices_of(self.model.network)
        taken = set(map(id, matrices))
        others = [weight for weight in self.weights if id(weight) not in taken]
        adam = torch.optim.AdamW(others, lr=s.learning_rate, weight_decay=s.weight_decay, fused=True)
        return {ADAM: adam, **({MUON: Muon(matrices, lr=s.matrix_rate)} if matrices else {})}


LOSS, REPRESENTATION = "loss", "representation"
"""The parts of the loss in logs."""

ADAM, MUON = "optimiser", "muon"
"""The optimisers in checkpoints; the first stood there alone before there were two."""

LEAST_RANK = 16
"""Rows and columns of a matrix from which on Muon steps it; smaller ones touch the latent's few channels."""


def matrices_of(network: nn.Module) -> list[Tensor]:
    """The weights of linear maps and convolutions, as matrices of outputs by inputs, that are not small.

    Without those that embed the noise level: as all embeddings they are left to Adam, and being the largest square ones
    they would take a third of Muon's time.
    """
    embedding = {part for module in network.modules() if isinstance(module, TimeEmbedding) for part in module.modules()}
    layers = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)]
    inner = [layer.weight for layer in layers if layer not in embedding]
    return [weight for weight in inner if min(weight.shape[0], weight[0].numel()) >= LEAST_RANK]


def train(training: DiffusionTraining) -> Iterator[StepReport]:
    """Advances to the last step and yields after every one; a caller may stop, save, and start it again."""
    training.trained.train()
    while training.step < training.settings.steps:
        yield training.advance()
