"""Processes that work on one thing together: which items of a batch are whose, and what they add up.

Nothing here starts a process. Whoever does begins torch.distributed in each, and `these` says what it began. The one
collective is a sum, which every backend has on every device and which gives all ranks the same bits.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ldm.errors import UserError
from ldm.memory import moved
from ldm.randomness import derived_seed


@dataclass(frozen=True)
class Ranks:
    """This process, the one of number `rank` among `count`."""

    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def share(self, total: int) -> slice:
        """The items of this rank among `total`; those of all ranks follow each other and differ by one at most."""
        return slice(self.rank * total // self.count, (self.rank + 1) * total // self.count)

    def seed(self, seed: int, *keys: int | str) -> int:
        """As `derived_seed`, of its own on each rank, and on the first what it is on a lone one."""
        return derived_seed(seed, *keys) if self.is_first else derived_seed(seed, *keys, "rank", self.rank)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks of tensors of one shape. Shapes: any; result alike, the tensor itself of a lone rank."""
        if self.count == 1:
            return values
        return _summed(values.detach().clone(memory_format=torch.contiguous_format))

    def sum_gradients(self, weights: Iterable[Tensor], factor: float = 1.0) -> None:
        """Puts in the place of each weight's gradient the sum over ranks of `factor` times theirs.

        A weight without a gradient on every rank keeps none, as it would where one process computes all.
        """
        if self.count == 1:
            return
        trained = [weight for weight in weights if weight.requires_grad]
        for _, group in groupby(sorted(trained, key=_kind), key=_kind):
            self._sum_alike(list(group), factor)

    def _sum_alike(self, weights: Sequence[Tensor], factor: float) -> None:
        """As `sum_gradients`, of weights of one dtype and device: all gradients in one tensor, and which there are."""
        has = [weight.grad is not None for weight in weights]
        # In the order of the shape: that in memory may differ between ranks.
        flat = [w.new_zeros(w.numel()) if w.grad is None else w.grad.reshape(-1) for w in weights]
        flags = moved(torch.tensor(has, dtype=weights[0].dtype), weights[0].device)
        whole = torch.cat([*flat, flags]).detach().mul_(factor)
        *summed, had = _summed(whole).split([*map(len, flat), len(has)])
        somewhere = has if all(has) else had.tolist()  # which waits for the device
        for weight, total, is_given in zip(weights, summed, somewhere, strict=True):
            if weight.grad is not None:
                weight.grad.copy_(total.view(weight.shape))
            elif is_given:
                weight.grad = total.view(weight.shape).clone()

    def mean_of(self, values: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
        """The sum over ranks of `factor` times each value: their mean, where factors are shares. Shapes: all ()."""
        if self.count == 1:
            return dict(values)
        numbers = self.sum(factor * torch.stack([value.detach().double() for value in values.values()]))
        return dict(zip(values, numbers.unbind(), strict=True))

    def sum_number(self, number: float, device: str) -> float:
        """The sum of a number over ranks, by way of their devices."""
        return number if self.count == 1 else float(self.sum(torch.tensor(number, dtype=torch.float64, device=device)))

    def check_batch(self, batch: int) -> None:
        """Raises: UserError where a rank would have no item of a batch."""
        if batch < self.count:
            raise UserError(
                f"a batch of {batch} cannot be divided over {self.count} devices: give larger batches (trainer.batch, "
                "ae.training.batch) or fewer trainer.devices"
            )

    def wait(self) -> None:
        """Returns when all ranks have come here."""
        if self.count > 1:
            dist.barrier()


ALONE = Ranks()
"""One process that computes everything."""


def these() -> Ranks:
    """This process among those that torch.distributed was begun for; alone where it was not."""
    if not (dist.is_available() and dist.is_initialized()):
        return ALONE
    return Ranks(dist.get_rank(), dist.get_world_size())


def _summed(total: Tensor) -> Tensor:
    """The sum over ranks, in the place of the tensor."""
    dist.all_reduce(total)
    return total


def _kind(weight: Tensor) -> str:
    return f"{weight.dtype} {weight.device}"


@dataclass(frozen=True)
class Part:
    """The items of a batch of `total` that this rank computes."""

    ranks: Ranks
    total: int

    @property
    def items(self) -> slice:
        """Which."""
        return self.ranks.share(self.total)

    @property
    def weight(self) -> float:
        """How many, over all."""
        return (self.items.stop - self.items.start) / self.total


_at_work: ContextVar[Part | None] = ContextVar("part of a batch", default=None)


@contextmanager
def part_of_batch(ranks: Ranks, total: int) -> Iterator[Part]:
    """What is computed within is a rank's part of a batch of `total`: networks that look across the batch read it here.

    Each rank's loss is the mean over its own items, and gradients are summed with the part's weight.
    """
    part = Part(ranks, total)
    token = _at_work.set(part if ranks.count > 1 else None)
    try:
        yield part
    finally:
        _at_work.reset(token)


def batch_mean(mean: Tensor) -> Tensor:
    """The mean over the whole batch, given that over this rank's items, with the gradient of the whole batch's loss.

    Shapes: any; result alike, `mean` itself where a batch is not divided.
    """
    part = _at_work.get()
    if part is None:
        return mean
    averaged: Tensor = _BatchMean.apply(mean, part.ranks, part.weight)
    return averaged


def batch_sum(values: Tensor) -> Tensor:
    """The sum over the whole batch, given that over this rank's items; without a gradient. Shapes: as `batch_mean`."""
    part = _at_work.get()
    return values if part is None else part.ranks.sum(values)


def batch_is_divided() -> bool:
    """Whether what is computed now is a part of a batch."""
    return _at_work.get() is not None


def batch_size(items: int) -> int:
    """The number of items of the whole batch, of which this rank has `items`."""
    part = _at_work.get()
    return items if part is None else part.total


@torch.no_grad()
def whole_batch(items: Tensor) -> Tensor:
    """Something of all items of the batch, given that of this rank's, in order. Shapes: (n, ...) to (N, ...)."""
    part = _at_work.get()
    if part is None:
        return items
    whole = items.new_zeros(part.total, *items.shape[1:])
    whole[part.items] = items
    return part.ranks.sum(whole)


class _BatchMean(torch.autograd.Function):
    """sum_r w_r m_r of the ranks' means m_r and weights w_r.

    The loss is sum_r w_r l_r, so that its gradient by m_r is w_r times sum_s w_s dl_s/dmean. Of that the w_r comes
    last, when gradients are summed over ranks.
    """

    @staticmethod
    def forward(context: Any, mean: Tensor, ranks: Ranks, weight: float) -> Tensor:
        context.ranks, context.weight = ranks, weight
        return ranks.sum(weight * mean)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return context.ranks.sum(context.weight * gradients[0]), None, None
