"""The ladder in the eyes of extractors whose answers are known."""

import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ldm.metrics.damage import DAMAGES, STRENGTHS
from ldm.metrics.kernel import kernel_distance
from ldm.metrics.ladder import HELD, OPEN, ORDER_CHECKS, REVERSED, Ladder, climb, damages, halves, kendall_tau


def coloured(n: int, seed: int = 1, side: int = 8) -> Tensor:
    """Plain colours near grey with fine texture."""
    draws = torch.Generator().manual_seed(seed)
    colours = torch.randint(90, 166, (n, 3, 1, 1), generator=draws)
    return (colours + torch.randint(-8, 9, (n, 3, side, side), generator=draws)).to(torch.uint8)


def means(images: Tensor) -> NDArray:
    return ((images.double().mean(dim=(2, 3)) - 128) / 32).numpy()


def textures(images: Tensor) -> NDArray:
    """How much neighbours differ, in each channel; blind to colour."""
    x = images.double()
    return ((x[..., 1:] - x[..., :-1]).abs().mean(dim=(2, 3)) / 16).numpy()


@pytest.fixture(scope="module")
def by_means() -> Ladder:
    return climb(means, coloured(100), coloured(100, 2), torch.arange(100) % 10)


def row(ladder: Ladder, name: str) -> tuple[float, tuple[bool, ...]]:
    [found] = [row for row in ladder.rows if row.damage.name == name]
    return found.tau, found.apart


def test_tau_counts_pairs_that_rise_and_that_fall():
    assert kendall_tau([1, 2, 3, 4]) == 1
    assert kendall_tau([4, 3, 2, 1]) == -1
    assert kendall_tau([1, 1, 1]) == 0
    assert kendall_tau([1, 3, 2]) == pytest.approx(1 / 3)


def test_halves_are_disjoint_and_random():
    reference, damaged = halves(21, 0)
    assert len(reference) == len(damaged) == 10
    assert len({*reference, *damaged}) == 20
    assert halves(21, 0) == (reference, damaged)
    assert halves(21, 1) != (reference, damaged)


def test_mean_colours_see_saturation_and_are_blind_to_shuffling(by_means: Ladder):
    tau, apart = row(by_means, "saturation")
    assert tau > 0.8
    assert apart[-2:] == (True, True)
    assert row(by_means, "patches") == (0, (False,) * 5)
    assert row(by_means, "fields")[1][-1]


def test_textures_see_noise_and_contrast():
    ladder = climb(textures, coloured(100), coloured(100, 2))
    assert row(ladder, "noise") == (1, (True,) * 5)
    assert row(ladder, "contrast") == (1, (True,) * 5)
    assert ladder.checks[1] == REVERSED  # a shuffled texture is the same texture
    assert ladder.tau == pytest.approx(sum(row.tau for row in ladder.rows) / 9)
    assert ladder.apart == pytest.approx(sum(sum(row.apart) for row in ladder.rows) / 45)


def test_the_order_is_that_of_the_extractor(by_means: Ladder):
    assert by_means.checks == (HELD, OPEN, HELD, HELD)  # means see colours, and neither patches nor blur
    assert by_means.held == 3


def test_rungs_are_the_kernel_distances_of_the_damaged_images(by_means: Ladder):
    reference, images = coloured(100), coloured(100, 2)
    assert by_means.floor.distance.value == kernel_distance(means(images), means(reference))[0]
    for damage in by_means.rows:
        for rung in damage.rungs:
            damaged = damage.damage(images, rung.strength, 0, torch.arange(100) % 10)
            assert rung.n == len(damaged)
            assert rung.distance.value == pytest.approx(kernel_distance(means(damaged), means(reference))[0], rel=1e-9)
            assert rung.distance.low < rung.distance.value < rung.distance.high


def test_what_damage_left_alone_is_seen_once():
    seen: list[int] = []

    def counted(images: Tensor) -> NDArray:
        seen.append(len(images))
        return means(images)

    climb(counted, coloured(40, side=32), coloured(40, 2, side=32), torch.arange(40) % 10)
    assert len(seen) == 2 + 8 * 5  # missing classes and copies show nothing new
    assert sorted(seen)[:5] == [1, 2, 4, 8, 16]  # fields


def test_without_labels_no_class_can_miss():
    ladder = climb(means, coloured(40), coloured(40, 2))
    assert [row.damage for row in ladder.rows] == list(damages(False))
    assert set(DAMAGES.values()) - set(damages(False)) == {DAMAGES["classes"]}


def test_order_checks_name_what_there_is():
    for check in ORDER_CHECKS:
        for name, strength in (check.worse, check.better):
            assert name in DAMAGES
            assert strength in STRENGTHS
    assert ORDER_CHECKS[0].title == "plain fields instead 0.4 of the images above blur 1 px"
