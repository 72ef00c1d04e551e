"""Training of probes: a state that can be saved at any step, and a generator that advances it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ldm.data.contract import ImageCache
from ldm.errors import UserError
from ldm.memory import moved
from ldm.probes.contract import Probe
from ldm.randomness import generator
from ldm.training.rate import learning_rate_factor
from ldm.training.step import StepReport

WEIGHT_DECAY = 0.05
WARM_UP = 0.05
"""The share of the images over which the learning rate rises; from then on it falls as a half cosine."""


@dataclass(frozen=True)
class ProbeSettings:
    """How long and how to train; `images` counts images seen."""

    seed: int
    images: int
    batch: int
    learning_rate: float

    @property
    def steps(self) -> int:
        """Optimiser steps, the last batch complete."""
        return -(-self.images // self.batch)


class ProbeTraining:
    """A probe, its images and its optimiser at one step; what is random at step k follows from (seed, k)."""

    def __init__(self, probe: Probe, images: ImageCache, settings: ProbeSettings, device: str) -> None:
        self.probe = probe
        self.images = images
        self.settings = settings
        self.device = device
        self.step = 0
        self.usable = torch.tensor(probe.usable(images), dtype=torch.int64)
        if not len(self.usable):
            raise UserError(f"none of the {len(images)} training images can be used for the probe ({probe.metric})")
        self.optimiser = torch.optim.AdamW(
            probe.network.parameters(), lr=settings.learning_rate, weight_decay=WEIGHT_DECAY, fused=True
        )

    def advance(self) -> StepReport:
        """One optimiser step."""
        s = self.settings
        seen = self.step * s.batch
        factor = learning_rate_factor(seen, s.images, round(WARM_UP * s.images), "cosine")
        for group in self.optimiser.param_groups:
            group["lr"] = s.learning_rate * factor
        drawn = torch.randint(len(self.usable), (s.batch,), generator=generator(s.seed, "probe step", self.step))
        indices = self.usable[drawn]
        self.probe.network.train()
        loss = self.probe.loss(
            self.images.batch(indices, device=self.device), moved(self.probe.targets(self.images, indices), self.device)
        )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.step += 1
        return StepReport(self.step, self.step * s.batch, {"loss": loss.detach()})

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to go on bit for bit."""
        return {
            "step": self.step,
            "network": self.probe.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        self.step = state["step"]
        self.probe.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])


class ProbeTrainings:
    """The trainings of several probes, one after another, as one state."""

    def __init__(self, trainings: Mapping[str, ProbeTraining]) -> None:
        self.trainings = trainings

    @property
    def steps(self) -> int:
        """Optimiser steps of all of them."""
        return sum(training.settings.steps for training in self.trainings.values())

    @property
    def images(self) -> int:
        """Images seen by all of them at their ends."""
        return sum(training.settings.steps * training.settings.batch for training in self.trainings.values())

    def state_dict(self) -> dict[str, Any]:
        """The states by name."""
        return {name: training.state_dict() for name, training in self.trainings.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state_dict` gave."""
        for name, training in self.trainings.items():
            training.load_state_dict(state[name])


def train(all_of: ProbeTrainings) -> Iterator[StepReport]:
    """Advances every training to its last step, in order, and yields after every step; counts go on over all."""
    steps = images = 0
    for training in all_of.trainings.values():
        while training.step < training.settings.steps:
            report = training.advance()
            yield StepReport(steps + report.step, images + report.images_seen, report.values)
        steps += training.settings.steps
        images += training.settings.steps * training.settings.batch
