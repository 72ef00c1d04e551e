"""Finite scalar quantisation against its formula, level by level in float64."""

import itertools
import math

import numpy as np
import pytest
import torch
from small_first_stage import small

from ldm.errors import UserError
from ldm.first_stage import FIRST_STAGES, ScalarQuantiser
from ldm.first_stage.build import filled_options
from ldm.first_stage.fsq import LEVELS, levels_for

SHAPES = [(8, 8, 8), (5, 4, 3), (7, 5, 5, 5, 5), (3,), (6, 9)]


def latents(channels, seed=0, n=500):
    """Of all sizes, zero among them."""
    draw = torch.Generator().manual_seed(seed)
    z = 3 * torch.randn(n, channels, 2, 3, generator=draw, dtype=torch.float64)
    z[0] = 0
    return z


def by_hand(z, levels):
    """The formula of the docstring, one number at a time: the value before rounding, and the code."""
    half, offset = (levels - 1) * 1.001 / 2, 0.5 if levels % 2 == 0 else 0.0
    before = half * math.tanh(z + math.atanh(offset / half)) - offset
    return before / (levels // 2), round(before) / (levels // 2)


@pytest.mark.parametrize("levels", SHAPES)
def test_bounded_and_quantised_are_the_formula(levels):
    vq, z = ScalarQuantiser(levels), latents(len(levels))
    raw = vq.bounded(z)
    quantised = vq(raw).latent
    expected = np.array(
        [[[by_hand(float(x), n) for x in z[i, c].flatten()] for c, n in enumerate(levels)] for i in range(50)]
    )
    np.testing.assert_allclose(raw[:50].flatten(2).numpy(), expected[..., 0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(quantised[:50].flatten(2).numpy(), expected[..., 1], rtol=1e-6, atol=1e-12)
    assert quantised.dtype == torch.float64


@pytest.mark.parametrize("levels", SHAPES)
def test_zero_stays_zero_and_the_ends_of_the_range_are_levels(levels):
    vq = ScalarQuantiser(levels)
    ends = torch.tensor([-50.0, 0.0, 50.0], dtype=torch.float64).view(3, 1, 1, 1).expand(3, len(levels), 1, 1)
    raw = vq.bounded(ends)
    assert raw[1].abs().max() < 1e-12
    steps = (vq(raw).latent * torch.tensor([n // 2 for n in levels]).view(1, -1, 1, 1)).round().flatten(1).tolist()
    assert steps == [[-(n // 2) for n in levels], [0] * len(levels), [(n - 1) // 2 for n in levels]]


@pytest.mark.parametrize("levels", SHAPES)
def test_codes_are_all_combinations_and_their_numbers_a_bijection(levels):
    vq = ScalarQuantiser(levels)
    numbers = torch.arange(vq.codes)
    codes = vq.embed(numbers.view(1, 1, -1))
    assert codes.shape == (1, len(levels), 1, math.prod(levels))
    each = [[(k - n // 2) / (n // 2) for k in range(n)] for n in levels]
    # The first channel runs fastest.
    expected = torch.tensor([code[::-1] for code in itertools.product(*each[::-1])])
    torch.testing.assert_close(codes[0, :, 0].T, expected, rtol=1e-6, atol=0)
    assert torch.equal(vq.nearest(codes).flatten(), numbers)


@pytest.mark.parametrize("levels", SHAPES)
def test_every_code_is_reached_from_an_encoder_without_bounds(levels):
    vq = ScalarQuantiser(levels)
    each = []
    for n in levels:
        half, offset = (n - 1) * 1.001 / 2, 0.5 if n % 2 == 0 else 0.0
        each.append([math.atanh((k - n // 2 + offset) / half) - math.atanh(offset / half) for k in range(n)])
    z = torch.tensor(list(itertools.product(*each)), dtype=torch.float64).T[None, :, None]
    assert torch.equal(vq.nearest(vq.bounded(z)).unique(), torch.arange(vq.codes))


@pytest.mark.parametrize("levels", SHAPES)
def test_the_nearest_code_is_that_of_a_search_also_beyond_the_range(levels):
    vq = ScalarQuantiser(levels)
    raw = torch.randn(1, len(levels), 20, 20, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    codes = vq.embed(torch.arange(vq.codes).view(1, 1, -1))[0, :, 0].double()
    distance = (raw.flatten(2)[0].T[:, None] - codes.T[None]).square().sum(2)
    assert torch.equal(vq.nearest(raw).flatten(), distance.argmin(1))


def test_the_gradient_is_that_of_the_value_before_rounding():
    levels = (8, 5)
    vq, z = ScalarQuantiser(levels), latents(2, seed=1, n=4).requires_grad_()
    raw = vq.bounded(z)
    straight_through = raw + (vq(raw).latent - raw).detach()
    weight = torch.randn(z.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    (weight * straight_through).sum().backward()
    shift = torch.tensor([math.atanh(0.5 / (7 * 1.001 / 2)), 0.0]).double().view(1, 2, 1, 1)
    slope = torch.tensor([7 * 1.001 / 2 / 4, 4 * 1.001 / 2 / 2]).double().view(1, 2, 1, 1)
    torch.testing.assert_close(
        z.grad, weight * slope * (1 - torch.tanh(z.detach() + shift) ** 2), rtol=1e-6, atol=1e-12
    )


def test_levels_fit_the_codes_of_a_codebook():
    table = {2**8: (8, 6, 5), 2**9: (8, 8, 8), 2**10: (8, 5, 5, 5), 2**12: (7, 5, 5, 5, 5)}
    table |= {2**14: (8, 8, 8, 6, 5), 2**16: (8, 8, 8, 5, 5, 5)}
    assert {codes: levels_for(codes) for codes in table} == table
    for power in range(6, 17):
        assert math.prod(levels_for(2**power)) / 2**power == pytest.approx(1, abs=0.07)
    assert all(level >= 5 for levels in LEVELS for level in levels)


def group(**changes):
    return {"regulariser": "fsq", "channels": None, "levels": None, **changes}


def test_channels_are_the_number_of_levels_and_others_are_refused():
    filled = filled_options(group(), {"codes": 512, "latent_channels": 4}.get)
    assert (filled["channels"], filled["levels"]) == (3, [8, 8, 8])
    assert filled_options(group(levels=[8, 5, 5], channels=3), {"codes": 512}.get)["channels"] == 3
    with pytest.raises(UserError, match=r"ae\.channels=4 does not fit ae\.levels=\[8, 8, 8\], which are those of 3"):
        filled_options(group(channels=4), {"codes": 512}.get)
    with pytest.raises(UserError, match=r"ae\.channels=3 does not fit ae\.levels=\[8, 8\]"):
        small("fsq", 4, options={"levels": [8, 8]})
    with pytest.raises(UserError, match=r"ae\.levels=\[\d.*\] gives 43046721 codes, more than"):
        filled_options(group(levels=[9] * 8), {}.get)
    with pytest.raises(UserError, match=r"ae\.levels=\[2, 8\] is no list of whole numbers from 3 on"):
        filled_options(group(levels=[2, 8]), {}.get)


def test_the_cache_holds_what_is_not_yet_rounded():
    model = small("fsq", 4).eval()
    with torch.no_grad():
        model.to_latent.weight.mul_(10)
        packed = model.pack(model.encode(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))))
    assert packed.abs().max() <= 1.1
    assert (packed - model.quantise(packed).latent).abs().max() > 0.05
    assert not any("quantiser" in name for name in model.state_dict())
    assert FIRST_STAGES["fsq"].penalties == {}
