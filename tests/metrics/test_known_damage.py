"""Known damage: closed forms, exact shares, the identity at no strength, errors that grow with strength."""

import pytest
import torch
from torch import Tensor

from ldm.metrics.damage import (
    DAMAGES,
    LUMA,
    STRENGTHS,
    Damage,
    blurred,
    contrasted,
    hue_turned,
    noisy,
    pasted,
    repeated,
    saturated,
    shuffled,
    with_fields,
    without_classes,
)

DAMAGE_CASES = pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
PIXELWISE = [damage for name, damage in DAMAGES.items() if name not in ("patches", "classes")]


def pictures(n: int = 20, side: int = 32, low: int = 0, high: int = 256) -> Tensor:
    return torch.randint(low, high, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


LABELS = torch.arange(20) % 10


def luma(images: Tensor) -> Tensor:
    return torch.einsum("c,nchw->nhw", torch.tensor(LUMA), images.float())


def changed(before: Tensor, after: Tensor) -> int:
    return int((before != after).flatten(1).any(dim=1).sum())


@DAMAGE_CASES
def test_a_damage_is_a_function_of_what_it_is_given(damage: Damage) -> None:
    images = pictures()
    before = images.clone()
    first, again, other = (damage(images, 3, seed, LABELS) for seed in (0, 0, 1))
    assert first.dtype == torch.uint8
    assert torch.equal(images, before)
    assert torch.equal(first, again)
    is_random = damage.name not in ("blur", "contrast", "hue", "saturation")
    assert (first.shape != other.shape or not torch.equal(first, other)) is is_random


@DAMAGE_CASES
def test_strength_0_is_the_identity(damage: Damage) -> None:
    assert torch.equal(damage(pictures(), 0, 0, LABELS), pictures())


@pytest.mark.parametrize(
    ("change", "neutral"),
    [
        (blurred, 0),
        (noisy, 0),
        (contrasted, 1),
        (hue_turned, 0),
        (hue_turned, 360),
        (saturated, 1),
        (shuffled, 32),
        (pasted, 0),
        (repeated, 0),
        (with_fields, 0),
    ],
)
def test_a_neutral_amount_is_the_identity(change, neutral) -> None:
    assert torch.equal(change(pictures(), neutral), pictures())


@pytest.mark.parametrize("damage", PIXELWISE, ids=[damage.name for damage in PIXELWISE])
def test_the_error_grows_with_strength(damage: Damage) -> None:
    images = pictures(40)
    errors = [(damage(images, s).float() - images.float()).square().mean().item() for s in (0, *STRENGTHS)]
    assert errors == sorted(set(errors))


@DAMAGE_CASES
def test_amounts_in_pixels_grow_with_the_side(damage: Damage) -> None:
    for strength in STRENGTHS:
        assert damage.amount(strength, 64) == damage.amount(strength, 32) * (2 if damage.unit == "px" else 1)


def test_blur_keeps_the_mean_and_what_is_plain() -> None:
    plain = torch.full((1, 3, 16, 24), 77, dtype=torch.uint8)
    assert torch.equal(blurred(plain, 3.0), plain)
    images = pictures()
    means = [x.float().mean(dim=(2, 3)) for x in (images, blurred(images, 2.0))]
    torch.testing.assert_close(*means, atol=0.1, rtol=0)


def test_blur_of_a_point_is_the_gaussian() -> None:
    point = torch.zeros(1, 3, 33, 33, dtype=torch.uint8)
    point[:, :, 16, 16] = 255
    row = blurred(point, 1.0)[0, 0, 16].float()
    assert row[16] == pytest.approx(255 / (2 * torch.pi), abs=1)
    assert row[18] / row[16] == pytest.approx(torch.exp(torch.tensor(-2.0)).item(), abs=0.03)
    assert torch.equal(row, row.flip(0))


def test_noise_has_its_deviation() -> None:
    grey = torch.full((8, 3, 64, 64), 128, dtype=torch.uint8)
    assert noisy(grey, 16.0).float().std().item() == pytest.approx(16, rel=0.02)


def test_contrast_spreads_about_the_mean_grey() -> None:
    image = torch.full((1, 3, 4, 4), 100, dtype=torch.uint8)
    image[:, :, :2] = 140
    after = contrasted(image, 2.0)
    assert after.unique().tolist() == [80, 160]


def test_hue_is_turned_and_luma_stays() -> None:
    images = pictures(low=100, high=156)  # so that nothing is clipped
    for degrees in (30, 90, 180):
        torch.testing.assert_close(luma(hue_turned(images, degrees)), luma(images), atol=1, rtol=0)
    back = hue_turned(hue_turned(images, 120), 240)
    assert (back.float() - images.float()).abs().max() <= 2
    grey = torch.full((1, 3, 4, 4), 99, dtype=torch.uint8)
    assert torch.equal(hue_turned(grey, 77), grey)


def test_saturation_keeps_luma_and_grey() -> None:
    images = pictures(low=110, high=146)
    torch.testing.assert_close(luma(saturated(images, 2.0)), luma(images), atol=1, rtol=0)
    grey = saturated(images, 0.0)
    assert (grey.amax(1).int() - grey.amin(1).int()).max() == 0


@pytest.mark.parametrize(("height", "width", "side"), [(32, 32, 4), (32, 32, 1), (24, 32, 8), (19, 22, 4)])
def test_shuffled_patches_are_the_same_patches(height: int, width: int, side: int) -> None:
    images = torch.arange(height * width, dtype=torch.float64).reshape(1, 1, height, width).expand(3, 3, -1, -1)
    after = shuffled(images, side)
    assert all(
        torch.equal(x.flatten().sort().values, y.flatten().sort().values) for x, y in zip(after, images, strict=True)
    )
    assert not torch.equal(after[0], after[1])
    inside = after[0, 0, :side, :side]
    assert torch.equal(inside - inside[0, 0], images[0, 0, :side, :side])


def test_a_pasted_block_is_that_of_the_next_image() -> None:
    images = torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1).expand(5, 3, 16, 16)
    after = pasted(images, 0.25)
    for index in range(5):
        assert (after[index, 0] == (index + 1) % 5).sum() == 16
        assert (after[index, 0] == index).sum() == 240


@pytest.mark.parametrize(("share", "count"), [(0.05, 1), (0.1, 2), (0.4, 8), (1.0, 19)])
def test_shares_are_exact(share: float, count: int) -> None:
    images = pictures()
    assert changed(images, with_fields(images, share)) == count
    after = repeated(images, share)
    assert changed(images, after) == count
    assert len(after.flatten(1).unique(dim=0)) == 20 - count


def test_fields_are_plain_and_saturated() -> None:
    images = pictures()
    fields = [x for x, y in zip(with_fields(images, 0.5), images, strict=True) if not torch.equal(x, y)]
    for field in fields:
        colour = field[:, 0, 0]
        assert torch.equal(field, colour[:, None, None].expand_as(field))
        assert (colour.min(), colour.max()) == (0, 255)
    assert len(torch.stack(fields).flatten(1).unique(dim=0)) == 10


def test_missing_classes_are_missing_and_the_rest_stays() -> None:
    images = pictures()
    after = without_classes(images, 0.5, labels=LABELS)
    kept = [index for index in range(20) if any(torch.equal(images[index], x) for x in after)]
    assert len(after) == 10
    assert len({int(LABELS[index]) for index in kept}) == 5
    with pytest.raises(ValueError, match="labels"):
        without_classes(images, 0.5)
