"""Coded sizes: every stream is read back, and sizes meet entropies, cross-entropies and KL rates."""

import math

import numpy as np
import pytest
import torch

from ldm.metrics.entropy_coding import (
    LARGEST_SYMBOL,
    coded_size,
    decoded,
    dequantised,
    encoded,
    index_model,
    latent_model,
    matched_steps,
    quantised,
)
from ldm.metrics.rate import LatentMoments, index_crossentropy, kl_fitted

RANDOM = np.random.default_rng(0)
CODES, N, SIDE = 512, 200, 8
FREQUENCY = RANDOM.dirichlet(np.full(CODES, 0.3))


@pytest.fixture(scope="module")
def indices():
    return RANDOM.choice(CODES, size=(N, SIDE, SIDE), p=FREQUENCY)


@pytest.fixture(scope="module")
def counts():
    return np.bincount(RANDOM.choice(CODES, size=100_000, p=FREQUENCY), minlength=CODES)


def test_indices_are_read_back(indices, counts):
    model = index_model(counts)
    words = encoded(indices, model).get_compressed()
    assert (decoded(words, indices.size, model) == indices.ravel()).all()


def test_the_size_of_indices_is_their_named_rate(indices, counts):
    named = index_crossentropy(indices, counts, SIDE**2 * 16).sum() * SIDE**2 * 16
    size = coded_size(indices, index_model(counts))
    assert size.together == pytest.approx(named, rel=1e-3)
    # By itself each pays for whole bytes and the coder's last state, at most 5 bytes.
    alone = size.alone - index_crossentropy(indices, counts, 1)
    assert (size.alone % 8 == 0).all()
    assert (alone > -1).all()
    assert (alone <= 40).all()


def test_codes_never_seen_in_training_can_be_coded():
    model = index_model(np.array([100, 0, 0, 0]))
    symbols = np.array([[3, 3, 0, 1]])
    assert (decoded(encoded(symbols, model).get_compressed(), 4, model) == symbols.ravel()).all()
    # Each at half a count among 102, and not at what the coder keeps for the impossible.
    assert coded_size(np.full((1, 1000), 3), model).together == pytest.approx(1000 * math.log2(102 / 0.5), rel=0.01)


STD, MEAN = torch.tensor([1.0, 0.3], dtype=torch.float64), torch.tensor([5.0, -1.0], dtype=torch.float64)


def latents(n=N):
    drawn = torch.randn(n, 2, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return MEAN.view(1, 2, 1, 1) + STD.view(1, 2, 1, 1) * drawn


def test_quantised_latents_are_read_back_to_half_a_step():
    step = torch.tensor([0.1, 0.01], dtype=torch.float64)
    steps = quantised(latents(), MEAN, step)
    model = latent_model(STD, step, SIDE**2).of_images(N)
    read = decoded(encoded(steps, model).get_compressed(), steps.numel(), model)
    back = dequantised(torch.from_numpy(read).view(steps.shape), MEAN, step)
    error = (back - latents()).abs().amax((0, 2, 3))
    assert (error <= step / 2 + 1e-12).all()
    assert (error > 0.49 * step).all()


@pytest.mark.parametrize("share", [0.01, 0.25])
def test_the_size_of_fine_steps_is_the_differential_entropy(share):
    """h(z) - log2(step) bits a latent (Cover and Thomas 2006, theorem 8.3.1)."""
    size = coded_size(quantised(latents(), MEAN, share * STD), latent_model(STD, share * STD, SIDE**2))
    expected = math.log2(math.sqrt(2 * math.pi * math.e) / share)
    assert size.together / latents().numel() == pytest.approx(expected, rel=0.01)


def test_matched_steps_cost_a_quarter_of_a_bit_more_than_the_kl_rate():
    within = torch.tensor([0.02, 0.01], dtype=torch.float64) ** 2
    step = matched_steps(within)
    logvar = within.log().view(1, 2, 1, 1).expand(N, 2, SIDE, SIDE)
    named = kl_fitted(latents(), logvar, LatentMoments(MEAN, STD**2 + within), 1).sum() / latents().numel()
    size = coded_size(quantised(latents(), MEAN, step), latent_model(STD, step, SIDE**2))
    gap = size.together / latents().numel() - named
    assert gap == pytest.approx(math.log2(2 * math.pi * math.e / 12) / 2, abs=0.02)
    rounding = dequantised(quantised(latents(), MEAN, step), MEAN, step) - latents()
    assert rounding.var((0, 2, 3)).tolist() == pytest.approx(within.tolist(), rel=0.05)


def test_latents_out_of_reach_are_refused():
    far = torch.full((1, 2, 1, 1), 1.0 + MEAN[0], dtype=torch.float64)
    with pytest.raises(ValueError, match=f"the coder covers {LARGEST_SYMBOL}"):
        quantised(far, MEAN, torch.full((2,), 1e-5, dtype=torch.float64))
