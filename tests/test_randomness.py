"""Randomness is a function of (seed, keys) and of nothing else."""

import torch

from ldm.randomness import SampleNoise, derived_seed, generator


def test_the_seed_of_a_purpose_is_fixed_for_ever():
    """Stores made today must be continued by tomorrow's version, on any machine."""
    assert derived_seed(0, "step", 0) == 7316601067076945981
    assert derived_seed(7, "sample", 123) == 1280118227603207097


def test_seeds_differ_by_seed_key_and_order_of_keys():
    given = [(s, *keys) for s in range(20) for keys in [("a", 1), ("a", 2), ("b", 1), (1, "a"), ("a",), ()]]
    seeds = [derived_seed(*keys) for keys in given]
    assert len(set(seeds)) == len(given)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_generator_does_not_read_or_move_the_global_stream():
    torch.manual_seed(1)
    first = torch.randn(4, generator=generator(3, "step", 5))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    second = torch.randn(4, generator=generator(3, "step", 5))
    assert torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_noise_of_a_sample_depends_neither_on_its_batch_nor_on_the_order():
    whole = SampleNoise(5, range(8))
    together = torch.stack([whole((3, 2, 2)) for _ in range(3)])
    for indices in ([2], [7, 0, 2], range(4, 8)):
        apart = SampleNoise(5, indices)
        drawn = torch.stack([apart((3, 2, 2)) for _ in range(3)])
        assert torch.equal(drawn, together[:, list(indices)])


def test_successive_calls_continue_every_stream():
    once, twice = SampleNoise(5, [3]), SampleNoise(5, [3])
    long = once((32,))
    assert torch.equal(torch.cat([twice((16,)), twice((16,))], dim=1), long)


def test_noise_is_standard_normal_and_differs_between_samples_seeds_and_calls():
    noise = SampleNoise(0, range(64))
    first, second = noise((256,)), noise((256,))
    other = SampleNoise(1, range(64))((256,))
    drawn = torch.cat([first, second, other])
    n = drawn.numel()
    assert abs(float(drawn.mean())) < 5 / n**0.5
    assert abs(float(drawn.var()) - 1) < 5 * (2 / n) ** 0.5
    correlation = torch.corrcoef(drawn).fill_diagonal_(0)
    assert float(correlation.abs().max()) < 6 / 256**0.5


def test_the_dtype_asked_for_is_drawn_not_rounded():
    drawn = SampleNoise(0, [0, 1])((8,), torch.float64)
    assert drawn.dtype == torch.float64
    assert not torch.equal(drawn, drawn.float().double())
