"""The average of weights: its half-life in closed form, and the ramp at the start."""

import pytest
import torch
from torch import nn

from ldm.training.ema import ExponentialMovingAverage


def constant(value: float) -> nn.Linear:
    layer = nn.Linear(3, 2).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(value)
    return layer


def averaged(ema: ExponentialMovingAverage) -> float:
    values = torch.cat([p.flatten() for p in ema.module.parameters()])
    assert (values == values[0]).all()
    return float(values[0])


@pytest.mark.parametrize("batch", [1, 5, 32])
def test_after_a_half_life_half_of_the_past_is_left(batch):
    ema = ExponentialMovingAverage(constant(0.0), half_life=160, ramp=1e9)
    for step in range(1, 320 // batch + 1):
        ema.update(constant(1.0), batch, step * batch)
        assert averaged(ema) == pytest.approx(1 - 0.5 ** (step * batch / 160), rel=1e-12)


def test_while_it_ramps_up_the_half_life_is_a_share_of_the_images_seen():
    """With half-life r k b after step k, what the first weights still count is 2^(-sum 1 / (r k))."""
    ema = ExponentialMovingAverage(constant(1.0), half_life=1e12, ramp=0.5)
    harmonic = 0.0
    for step in range(1, 20):
        ema.update(constant(0.0), 7, 7 * step)
        harmonic += 1 / (0.5 * step)
        assert averaged(ema) == pytest.approx(0.5**harmonic, rel=1e-9)


def test_the_ramp_ends_at_the_half_life():
    ema = ExponentialMovingAverage(constant(0.0), half_life=100, ramp=0.05)
    ema.update(constant(1.0), 10, 1_000)  # 5 % of 1000 images = a half-life of 50
    assert averaged(ema) == pytest.approx(1 - 0.5 ** (10 / 50))
    ema = ExponentialMovingAverage(constant(0.0), half_life=100, ramp=0.05)
    ema.update(constant(1.0), 10, 50_000)
    assert averaged(ema) == pytest.approx(1 - 0.5 ** (10 / 100))


def test_buffers_are_taken_as_they_are_and_the_source_is_left_alone():
    source = nn.BatchNorm1d(2)
    ema = ExponentialMovingAverage(source, half_life=10, ramp=1e9)
    source.running_mean.fill_(3.0)
    source.num_batches_tracked.fill_(7)
    with torch.no_grad():
        source.weight.fill_(2.0)
    ema.update(source, 10, 10)
    assert ema.module.running_mean.tolist() == [3.0, 3.0]
    assert int(ema.module.num_batches_tracked) == 7
    assert ema.module.weight.tolist() == [1.5, 1.5]
    assert source.weight.tolist() == [2.0, 2.0]
    assert source.training
    assert not ema.module.training
    assert not any(p.requires_grad for p in ema.module.parameters())
