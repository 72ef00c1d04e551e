"""Networks that torch compiles, which joins their small operators; what they give changes by rounding alone."""

import contextlib
import importlib.util
import logging
import warnings
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


@contextlib.contextmanager
def compiled(networks: Sequence[nn.Module], policy: str, device: str, calls: int) -> Iterator[bool]:
    """Within it the networks are compiled, if the policy says so, as they are first called; gives whether they are.

    Each shape of a batch is compiled anew. Where that cannot be done, `auto` goes on without, which is logged.
    What hooks onto a layer within is not seen by a compiled network.
    Raises: UserError where `always` cannot be done; by the first call.
    """
    is_so = is_compiled(policy, device, calls)
    try:
        if is_so:
            for network in networks:
                _compile(network, policy)
        yield is_so
    finally:
        for network in networks:
            network._compiled_call_impl = None  # as before `compile`, for which torch has no opposite
        if is_so:
            torch.compiler.reset()  # what was compiled is of no further use, and counts against a limit of torch's


def _compile(network: nn.Module, policy: str) -> None:
    # Tables that are kept from call to call are computed within what is compiled, which is as well.
    warnings.filterwarnings("ignore", message="Dynamo detected a call to a `functools.lru_cache`")
    network.compile(dynamic=False)
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
        return network(*given, **named)

    network._compiled_call_impl = attempt
