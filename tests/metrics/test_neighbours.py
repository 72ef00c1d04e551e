import numpy as np
import pytest

from ldm.metrics import neighbours
from ldm.metrics.neighbours import expected_coverage, neighbourhoods


def cloud(n, seed, d=5, shift=0.0):
    return (np.random.default_rng(seed).normal(size=(n, d)) + shift).astype(np.float32)


def distances(a, b):
    return np.linalg.norm(a[:, None].astype(np.float64) - b[None].astype(np.float64), axis=2)


def by_brute_force(samples, real):
    """The definitions, on whole matrices of distances."""
    across, among_real, among_samples = distances(samples, real), distances(real, real), distances(samples, samples)
    third, fifth = (np.sort(among_real, axis=1)[:, k] for k in (3, 5))
    clipped = np.minimum(fifth, np.sort(fifth)[(len(fifth) - 1) // 2])
    np.fill_diagonal(among_real, np.inf)
    ideal = np.minimum((among_real <= clipped).sum(axis=1), 5).mean() / 5
    counted = np.minimum((across < fifth).sum(axis=0), 5).mean() / 5
    good = np.arange(len(samples) + 1)
    return {
        "precision": (across <= third).any(axis=1).mean(),
        "recall": (across <= np.sort(among_samples, axis=1)[:, 3][:, None]).any(axis=0).mean(),
        "density": (across <= fifth).sum() / 5 / len(samples),
        "coverage": (across <= fifth).any(axis=0).mean(),
        "clipped_density": min(np.minimum((across <= clipped).sum(axis=1), 5).mean() / 5 / ideal, 1),
        "clipped_coverage": np.interp(counted, expected_coverage(good, len(real)), good / len(samples)),
    }


@pytest.mark.parametrize(("n", "m", "shift"), [(300, 401, 0.5), (90, 60, 0.0), (257, 256, 2.0)])
def test_all_six_follow_their_definitions(monkeypatch, n, m, shift):
    monkeypatch.setattr(neighbours, "TILE", 64)
    samples, real = cloud(n, 0, shift=shift), cloud(m, 1)
    expected = by_brute_force(samples, real)
    found = neighbourhoods(samples, real)
    assert {kind: getattr(found, kind) for kind in expected} == pytest.approx(expected, rel=1e-12)


def test_tiles_change_nothing(monkeypatch):
    samples, real = cloud(200, 2, shift=0.3), cloud(150, 3)
    whole = neighbourhoods(samples, real)
    monkeypatch.setattr(neighbours, "TILE", 37)
    assert neighbourhoods(samples, real) == whole


@pytest.mark.parametrize(("good", "m"), [(40, 60), (200, 100), (3, 50)])
def test_expected_coverage_is_what_good_samples_reach(good, m):
    """Any continuous distribution gives the same, so one on a line does."""
    rng = np.random.default_rng(4)
    counted = []
    for _ in range(600):
        real, samples = rng.normal(size=m), rng.normal(size=good)
        radii = np.sort(np.abs(real[:, None] - real), axis=1)[:, 5]
        held = (np.abs(samples[:, None] - real) < radii).sum(axis=0)
        counted.append(np.minimum(held, 5).mean() / 5)
    error = np.std(counted) / np.sqrt(len(counted))
    assert abs(np.mean(counted) - expected_coverage(np.array([good]), m)[0]) < 4 * error


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_clipped_measures_read_as_the_share_of_good_samples(share):
    """The others are far away: what is left is the share that follows the reference."""
    samples, real = cloud(1000, 5), cloud(1000, 6)
    samples[: round(1000 * (1 - share))] += 1000
    found = neighbourhoods(samples, real)
    assert found.clipped_density == pytest.approx(share, abs=0.06)
    assert found.clipped_coverage == pytest.approx(share, abs=0.06)


def test_an_outlier_of_the_reference_lifts_density_but_not_clipped_density():
    """A lone real item far off has a ball as wide as the whole cloud."""
    samples, real = cloud(400, 7, d=3, shift=6.0), cloud(400, 8, d=3)
    lone = real.copy()
    lone[0] = 12
    before, after = neighbourhoods(samples, real), neighbourhoods(samples, lone)
    assert after.density - before.density > 0.15
    assert after.clipped_density == pytest.approx(before.clipped_density, abs=0.01)


def test_too_few_items_are_refused():
    with pytest.raises(ValueError, match="more than 5"):
        neighbourhoods(cloud(5, 9), cloud(50, 10))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_square_of_the_images():
    """50,000 a side would make a matrix of 20 GB; here 20,000 (3.2 GB in float64) in a process of its own."""
    import subprocess
    import sys

    program = (
        "import resource, numpy as np\n"
        "from ldm.metrics.neighbours import neighbourhoods\n"
        "rng = np.random.default_rng(0)\n"
        "a, b = (rng.standard_normal((20_000, 64), dtype=np.float32) for _ in range(2))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "neighbourhoods(a, b)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 400 * 1024  # KiB
