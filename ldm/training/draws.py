"""What is random in a step of a training: a pure function of (seed, step), drawn in one of two ways."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ldm.diffusion.times import TimeDensity
from ldm.memory import moved
from ldm.philox import Stream
from ldm.randomness import Noise, derived_seed, generator


@dataclass(frozen=True)
class Place:
    """A step of a training, and what of its batch is this rank's: the `items` of `batch`."""

    seed: int
    step: int
    batch: int
    items: slice
    device: torch.device | str


class StepDraws(Protocol):
    """The random numbers of a rank's items of a batch, N of them; to be asked in the order in which they stand here."""

    def indices(self, count: int) -> Tensor:
        """Which of `count` training images they are, int64 (N,), on the CPU, where their conditions are read."""
        ...

    @property
    def noise(self) -> Noise:
        """Shape of one image to normal noise (N, *shape) on the device; each call gives other noise."""
        ...

    def levels(self, times: TimeDensity, steps: int) -> Tensor:
        """Indices of noise levels, int64 (N,)."""
        ...

    def dropped(self, share: float) -> Tensor:
        """Whose condition is dropped, bool (N,)."""
        ...


class TorchDraws:
    """By torch's generator on the CPU, for the whole batch, of which a rank takes its items; devices then agree."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.draw = generator(place.seed, "step", place.step)

    def indices(self, count: int) -> Tensor:
        """See `StepDraws`."""
        return torch.randint(count, (self.place.batch,), generator=self.draw)[self.place.items]

    def noise(self, shape: tuple[int, ...]) -> Tensor:
        """See `StepDraws`."""
        whole = torch.randn((self.place.batch, *shape), generator=self.draw)
        return moved(whole[self.place.items], self.place.device)

    def levels(self, times: TimeDensity, steps: int) -> Tensor:
        """See `StepDraws`; on the CPU."""
        return times.draw(self.place.batch, steps, self.draw)[self.place.items]

    def dropped(self, share: float) -> Tensor:
        """See `StepDraws`; on the CPU."""
        return (torch.rand(self.place.batch, generator=self.draw) < share)[self.place.items]


class PhiloxDraws:
    """By a counter, where they are used: a rank draws its own items alone, and a GPU waits for no CPU."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.seed = derived_seed(place.seed, "philox")
        self.noises = 0

    def indices(self, count: int) -> Tensor:
        """See `StepDraws`."""
        return self._stream(_INDICES, "cpu").integers(self.place.items.start, self._own, count)

    def noise(self, shape: tuple[int, ...]) -> Tensor:
        """See `StepDraws`."""
        size = torch.Size(shape).numel()
        drawn = self._stream(_NOISES + self.noises).normals(self.place.items.start * size, self._own * size)
        self.noises += 1
        return drawn.view(-1, *shape)

    def levels(self, times: TimeDensity, steps: int) -> Tensor:
        """See `StepDraws`; on the device."""
        return times.at(self._stream(_LEVELS).uniforms(self.place.items.start, self._own), steps)

    def dropped(self, share: float) -> Tensor:
        """See `StepDraws`; on the device."""
        return self._stream(_DROPPED).uniforms(self.place.items.start, self._own) < share

    @property
    def _own(self) -> int:
        return int(self.place.items.stop - self.place.items.start)

    def _stream(self, purpose: int, device: torch.device | str | None = None) -> Stream:
        return Stream(self.seed, (self.place.step, purpose), device or self.place.device)


_INDICES, _LEVELS, _DROPPED, _NOISES = range(4)
"""Purposes; those of noise follow each other without end."""

DRAWS: Mapping[str, Callable[[Place], StepDraws]] = {"torch": TorchDraws, "philox": PhiloxDraws}
"""By the name that `trainer.noise` gives."""
