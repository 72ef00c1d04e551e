import numpy as np
import pytest

from ldm.metrics.kernel import gaussian, kernel_distance


def embeddings(n, seed, shift=0.0):
    return np.random.default_rng(seed).normal(size=(n, 6)) + shift


def naive_cmmd(a, b):
    """The published definition, pair by pair, without the pairs of an item with itself."""

    def kernel(x, y):
        x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
        return 1000 * np.exp(-np.sum((x - y) ** 2) / (2 * 10**2))

    within = [np.mean([kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)]
    return sum(within) - 2 * np.mean([kernel(x, y) for x in a for y in b])


def test_gaussian_kernel_distance_is_cmmd():
    a, b = embeddings(23, 0), embeddings(31, 1, shift=0.5)
    assert kernel_distance(a, b, blocks=5, kernel=gaussian)[0] == pytest.approx(naive_cmmd(a, b), rel=1e-9)


def test_lengths_of_embeddings_do_not_count():
    a, b = embeddings(40, 2), embeddings(40, 3)
    scaled = a * np.random.default_rng(4).uniform(0.1, 10, size=(40, 1))
    found = [kernel_distance(x, b, blocks=5, kernel=gaussian)[0] for x in (a, scaled)]
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_unbiased_at_equal_distributions():
    values = [kernel_distance(embeddings(30, i), embeddings(30, 500 + i), 5, gaussian)[0] for i in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300)
