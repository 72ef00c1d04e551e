"""What is random in a training step: a function of the step alone, divided over ranks without changing."""

import pytest
import torch

from ldm.diffusion.times import LogitNormalTimes, UniformTimes
from ldm.randomness import generator
from ldm.training.draws import DRAWS, PhiloxDraws, Place, TorchDraws

BATCH, SHAPE = 6, (2, 3, 3)


def place(first: int = 0, stop: int = BATCH, seed: int = 3, step: int = 5) -> Place:
    return Place(seed, step, BATCH, slice(first, stop), "cpu")


def everything(draws) -> dict[str, torch.Tensor]:
    return {
        "indices": draws.indices(1000),
        "posterior": draws.noise(SHAPE),
        "noise": draws.noise(SHAPE),
        "levels": draws.levels(UniformTimes(), 1000),
        "dropped": draws.dropped(0.5),
    }


@pytest.mark.parametrize("kind", DRAWS)
def test_a_step_is_drawn_alike_each_time_and_unlike_others(kind):
    one, again = (everything(DRAWS[kind](place())) for _ in range(2))
    for name, values in one.items():
        assert len(values) == BATCH
        assert torch.equal(values, again[name])
    for other in (place(step=6), place(seed=4)):
        found = everything(DRAWS[kind](other))
        assert not any(torch.equal(one[name], found[name]) for name in ("indices", "posterior", "noise", "levels"))
    assert not torch.equal(one["posterior"], one["noise"])


@pytest.mark.parametrize("kind", DRAWS)
@pytest.mark.parametrize("parts", [[(0, 3), (3, 6)], [(0, 1), (1, 3), (3, 6)]])
def test_ranks_draw_their_items_of_the_same_batch(kind, parts):
    whole = everything(DRAWS[kind](place()))
    divided = [everything(DRAWS[kind](place(*part))) for part in parts]
    for name, values in whole.items():
        assert torch.equal(torch.cat([each[name] for each in divided]), values)


def test_those_of_torch_are_one_stream_of_its_generator():
    """Numbers of earlier versions, which drew them in this order."""
    stream, found = generator(3, "step", 5), everything(TorchDraws(place()))
    assert torch.equal(found["indices"], torch.randint(1000, (BATCH,), generator=stream))
    assert torch.equal(found["posterior"], torch.randn((BATCH, *SHAPE), generator=stream))
    assert torch.equal(found["noise"], torch.randn((BATCH, *SHAPE), generator=stream))
    assert torch.equal(found["levels"], torch.randint(1000, (BATCH,), generator=stream))
    assert torch.equal(found["dropped"], torch.rand(BATCH, generator=stream) < 0.5)


def test_those_of_philox_depend_on_no_order_but_that_of_noises():
    one, other = PhiloxDraws(place()), PhiloxDraws(place())
    found = everything(one)
    assert torch.equal(other.dropped(0.5), found["dropped"])
    assert torch.equal(other.noise(SHAPE), found["posterior"])
    assert torch.equal(other.indices(1000), found["indices"])


@pytest.mark.parametrize("times", [UniformTimes(), LogitNormalTimes(0.5, 0.8)])
def test_levels_are_drawn_as_often_as_their_density_says(times):
    n = 40_000
    large = Place(0, 0, n, slice(0, n), "cpu")
    levels = PhiloxDraws(large).levels(times, 10)
    expected = times.probabilities(10) if isinstance(times, LogitNormalTimes) else torch.full((10,), 0.1)
    shares = torch.bincount(levels, minlength=10) / n
    assert torch.all((shares - expected).abs() < 5 * (expected * (1 - expected) / n).sqrt())


def test_so_many_conditions_are_dropped():
    n = 40_000
    large = Place(0, 0, n, slice(0, n), "cpu")
    assert float(PhiloxDraws(large).dropped(0.1).double().mean()) == pytest.approx(0.1, abs=5 * (0.09 / n) ** 0.5)
    assert not PhiloxDraws(large).dropped(0.0).any()
    assert PhiloxDraws(large).dropped(1.0).all()
