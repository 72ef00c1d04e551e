"""Small image sets and first stages to train on, and the comparison of training states."""

import functools
from collections.abc import Callable, Iterator

import pytest
import small_first_stages
import torch
from torch import Tensor
from two_ranks import TwoRanks

from ldm.data.contract import ImageCache
from ldm.training.first_stage import FirstStageTraining


@pytest.fixture(scope="session")
def pictures() -> ImageCache:
    """Twelve images of two classes."""
    return small_first_stages.halves()


@pytest.fixture
def first_stage_training(pictures) -> Callable[..., FirstStageTraining]:
    """Builds the training of a tiny first stage; `start` seeds its random weights, `changes` are settings."""
    return functools.partial(small_first_stages.first_stage_training, pictures)


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[TwoRanks]:
    """Calls a function in this process and in another, as two ranks."""
    ranks = TwoRanks()
    yield ranks
    ranks.end()


def _leaves(value, path=""):
    if isinstance(value, dict):
        for key in value:
            yield from _leaves(value[key], f"{path}/{key}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{path}/{number}")
    else:
        yield path, value


@pytest.fixture
def differences() -> Callable[[dict, dict], list[str]]:
    """The paths at which two nested states differ in any bit."""

    def compare(one: dict, other: dict) -> list[str]:
        left, right = dict(_leaves(one)), dict(_leaves(other))
        unequal = [
            path
            for path in left.keys() & right.keys()
            if not (
                torch.equal(left[path], right[path]) if isinstance(left[path], Tensor) else left[path] == right[path]
            )
        ]
        return sorted([*unequal, *(left.keys() ^ right.keys())])

    return compare
