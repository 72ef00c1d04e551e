"""Networks that torch compiles, which joins their small operators; what they give changes by rounding alone."""

import contextlib
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from torch import nn

from ldm.errors import UserError

logger = logging.getLogger(__name__)

COMPILES: Final = ("auto", "always", "never")

WORTH: Final = 5_000
"""Calls of a network from which on it is compiled by `auto`: a minute or two must be won back."""


def is_compiled(policy: str, device: str, calls: int) -> bool:
    """Whether networks that are called so often are compiled under a policy of `COMPILES`.

    `auto` does so on a GPU alone, where torch has the compiler that it needs (Triton): on a CPU compiling takes longer
    than most trainings of a size for CPUs, and wins a few percent.
    """
    if policy != "auto":
        return policy == "always"
    return device == "cuda" and calls >= WORTH and has_compiler()


def has_compiler() -> bool:
    """Whether torch has what it compiles for a GPU with."""
    return importlib.util.find_spec("triton") is not None


class Compiled:
    """Networks that are compiled, as long as none turned out not to be."""

    def __init__(self) -> None:
        self.networks: list[nn.Module] = []

    def __bool__(self) -> bool:
        return bool(self.networks)


@contextlib.contextmanager
def compiled(networks: Sequence[nn.Module], policy: str, device: str, calls: int) -> Iterator[Compiled]:
    """Within it the networks are compiled, if the policy says so, as they are first called; gives those that are.

    Each shape of a batch is compiled anew. Where that cannot be done, `auto` goes on without, which is logged.
    Dropout draws what it draws otherwise. What hooks onto a layer within is not seen by a compiled network.
    Raises: UserError where `always` cannot be done; by the first call.
    """
    found = Compiled()
    if not (networks and is_compiled(policy, device, calls)):
        yield found
        return
    with _as_it_is_needed():
        try:
            for network in networks:
                _compile(network, policy, found)
            yield found
        finally:
            for network in networks:
                network._compiled_call_impl = None  # as before `compile`, for which torch has no opposite
            torch.compiler.reset()  # what was compiled is of no further use, and counts against a limit of torch's


@contextlib.contextmanager
def _as_it_is_needed() -> Iterator[None]:
    """The backward pass is compiled with the forward one, where what fails can be caught; dropout is torch's own."""
    from torch._functorch import config as autograd  # takes seconds
    from torch._inductor import config as inductor

    whole = {"force_non_lazy_backward_lowering": True}
    with (
        autograd.patch(whole) if hasattr(autograd, *whole) else contextlib.nullcontext(),
        inductor.patch(fallback_random=True),
    ):
        yield


def _compile(network: nn.Module, policy: str, found: Compiled) -> None:
    network.compile(dynamic=False)
    found.networks.append(network)
    call: Any = network._compiled_call_impl

    def attempt(*given: Any, **named: Any) -> Any:
        from torch._dynamo.exc import TorchDynamoException  # takes seconds, and is here by now

        try:
            return call(*given, **named)
        except TorchDynamoException as error:
            cause = getattr(error, "inner_exception", error)
            first = str(cause).strip().partition("\n")[0]
            if policy == "always":
                raise UserError(
                    f"compile=always: torch cannot compile {type(network).__name__} here ({first}); "
                    "install a C++ compiler, or on a GPU Triton, or give compile=never"
                ) from error
            logger.warning("%s is not compiled, since torch cannot: %s", type(network).__name__, first)
        network._compiled_call_impl = None
        found.networks.remove(network)
        return network(*given, **named)

    network._compiled_call_impl = attempt
