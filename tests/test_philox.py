"""Random numbers by their place: known answers, one stream however it is asked, and the distributions."""

import math

import pytest
import torch
from scipy import stats

from ldm.philox import LOW, Stream, philox

# Of the authors' own list, kat_vectors of Random123: counter, key, words.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((LOW,) * 4, (LOW, LOW), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
STREAM = Stream(123456789012345678, (7, 2))


def by_hand(counter: list[int], key: tuple[int, int]) -> list[int]:
    """The paper's rounds in Python's integers, which have no largest."""
    a, b, c, d = counter
    left, right = key
    for _ in range(10):
        first, second = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = second // 2**32 ^ b ^ left, second % 2**32, first // 2**32 ^ d ^ right, first % 2**32
        left, right = (left + 0x9E3779B9) % 2**32, (right + 0xBB67AE85) % 2**32
    return [a, b, c, d]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_blocks_are_the_authors_known_answers(counter, key, words):
    found = philox(tuple(torch.tensor([number]) for number in counter), key)
    assert found[0].tolist() == list(words)
    assert by_hand(list(counter), key) == list(words)


def test_words_are_those_of_the_counter_of_their_place():
    seed, (step, purpose) = STREAM.seed, STREAM.stream
    expected = [w for block in range(4) for w in by_hand([block, 0, step, purpose], (seed % 2**32, seed // 2**32))]
    assert STREAM.words(0, 16).tolist() == expected
    far = 4 * (2**32 + 5)
    assert STREAM.words(far, 4).tolist() == by_hand([5, 1, step, purpose], (seed % 2**32, seed // 2**32))


@pytest.mark.parametrize("name", ["words", "integers", "uniforms", "normals"])
def test_any_part_of_a_stream_is_had_without_the_rest(name):
    rest = (1000,) if name == "integers" else ()
    whole = getattr(STREAM, name)(0, 41, *rest)
    assert len(whole) == 41
    for first, count in [(0, 41), (1, 3), (2, 7), (5, 1), (40, 1), (3, 38), (8, 0)]:
        assert torch.equal(getattr(STREAM, name)(first, count, *rest), whole[first : first + count])


def test_streams_differ_by_seed_and_by_either_number():
    streams = [Stream(seed, (a, b)) for seed in (0, 1, 2**40) for a in (0, 1) for b in (0, 1)]
    assert len({tuple(stream.words(0, 4).tolist()) for stream in streams}) == len(streams)


@pytest.mark.parametrize("high", [1, 2, 1000, 1_281_167, 2**31 - 1])
def test_integers_are_64_random_bits_times_their_range(high):
    words = STREAM.words(0, 200).tolist()
    expected = [(words[2 * i] * 2**32 + words[2 * i + 1]) * high // 2**64 for i in range(100)]
    assert STREAM.integers(0, 100, high).tolist() == expected


def test_uniforms_are_53_random_bits():
    words = STREAM.words(0, 200).tolist()
    expected = [(words[2 * i] * 2**32 + words[2 * i + 1] >> 11) / 2**53 for i in range(100)]
    assert STREAM.uniforms(0, 100).tolist() == expected


def test_normals_are_those_of_box_and_muller_to_1e_6():
    words = STREAM.words(0, 200_000).view(-1, 2).double()
    radius, angle = (-2 * torch.log((words[:, 0] + 0.5) / 2**32)).sqrt(), 2 * math.pi * words[:, 1] / 2**32
    expected = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=1).flatten()
    found = STREAM.normals(0, 200_000)
    assert found.dtype == torch.float32
    # Where a logarithm is near 0, float32 holds its argument to 2^-24, and the radius to the root of twice that.
    near_zero = radius.repeat_interleave(2) < 0.1
    assert float((found - expected).abs()[~near_zero].max()) < 2e-6
    assert float((found - expected).abs().max()) < (2 * 2.0**-24) ** 0.5


def test_the_largest_normals_are_finite(monkeypatch):
    """Of the words that give the ends of the logarithm."""
    ends = torch.tensor([0, 0, LOW, LOW, 0, LOW, LOW, 0])
    monkeypatch.setattr(Stream, "words", lambda self, first, count: ends[:count])
    found = STREAM.normals(0, 8)
    assert bool(torch.isfinite(found).all())
    assert float(found.abs().max()) == pytest.approx(math.sqrt(2 * 33 * math.log(2)))


def test_numbers_are_distributed_as_they_say():
    """Kolmogorov and Smirnov, over numbers and over neighbours."""
    n = 100_000
    normal, uniform = STREAM.normals(0, n).double(), STREAM.uniforms(0, n)
    assert stats.kstest(normal.numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(uniform.numpy(), "uniform").pvalue > 1e-3
    for values, lag in [(normal, 1), (normal, 2), (uniform, 1), (normal.square(), 1)]:
        centred = values - values.mean()
        assert abs(float((centred[lag:] * centred[:-lag]).mean() / centred.square().mean())) < 4 / n**0.5
    counts = torch.bincount(STREAM.integers(0, n, 7), minlength=7)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_integers_and_nearly_the_same_normals():
    there = Stream(STREAM.seed, STREAM.stream, "cuda")
    for name, rest in (("words", ()), ("integers", (1_281_167,)), ("uniforms", ())):
        assert torch.equal(getattr(there, name)(3, 100_001, *rest).cpu(), getattr(STREAM, name)(3, 100_001, *rest))
    assert float((there.normals(3, 100_001).cpu() - STREAM.normals(3, 100_001)).abs().max()) < 2e-6
