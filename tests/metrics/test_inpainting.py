"""Inpainting scores: known pixels, bands of the covered share, and the Frechet distance within them."""

import numpy as np
import pytest
import torch

from ldm.metrics.features import Features
from ldm.metrics.frechet import frechet_distance
from ldm.metrics.inpainting import (
    covered_share,
    distances_by_band,
    frechet_by_band,
    known_error,
    known_metrics,
    mean_filled,
)
from ldm.records import LeftOut


@pytest.fixture
def mask() -> torch.Tensor:
    """The upper half is a hole in the first image, nothing in the second, everything in the third."""
    mask = torch.zeros(3, 1, 4, 4)
    mask[0, :, :2] = 1
    mask[2] = 1
    return mask


def test_only_known_pixels_have_an_error(mask):
    image = torch.full((3, 3, 4, 4), 100, dtype=torch.uint8)
    filled = image.clone()
    filled[0, :, :2] = 7  # within the hole: none of our business
    filled[0, 0, 2:] = 106  # one channel of three: 36 / 3
    filled[1] = 101
    errors = known_error(image, filled, mask)
    assert errors[:2] == pytest.approx([12, 1])
    assert np.isnan(errors[2])
    score = known_metrics(errors)
    assert (score.metric, score.value, score.n) == ("inpaint_known_rmse255", pytest.approx(6.5**0.5), 2)
    assert isinstance(known_metrics(errors[2:]), LeftOut)
    assert covered_share(mask).tolist() == [0.5, 0.0, 1.0]


def test_the_plain_filling_takes_the_mean_of_what_is_known(mask):
    image = torch.randint(0, 256, (3, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    filled = mean_filled(image, mask)
    assert torch.equal(filled[1], image[1])
    assert torch.equal(filled[0, :, 2:], image[0, :, 2:])
    mean = image[0, :, 2:].double().mean(dim=(1, 2)).round().byte()
    assert torch.equal(filled[0, :, :2], mean.view(3, 1, 1).expand(3, 2, 4))
    assert (filled[2] == 128).all()


def test_bands_hold_each_image_once_and_all_images_stand_without_band():
    shares = np.array([0.01, 0.2, 0.21, 0.4, 0.55, 0.6, 0.6, 0.9])
    distances = {"d": np.arange(8.0)}
    values, left_out = distances_by_band(distances, shares)
    found = {value.metric: (value.value, value.n) for value in values}
    assert found == {
        "inpaint_d": (3.5, 8),
        "inpaint_d_mask0_20": (0.5, 2),
        "inpaint_d_mask20_40": (2.5, 2),
        "inpaint_d_mask40_60": (5.0, 3),
    }
    assert [item.metric for item in left_out] == ["inpaint_d_mask60_100"]
    assert "here there are 1" in left_out[0].reason


def test_the_frechet_distance_of_a_band_is_that_of_its_images():
    draw = np.random.default_rng(0)
    shares = np.repeat([0.1, 0.3, 0.5], [40, 30, 10])
    filled = Features(draw.normal(0.5, 1, (80, 6)).astype(np.float32), None)
    originals = Features(draw.normal(0, 1, (80, 6)).astype(np.float32), None)
    values, left_out = frechet_by_band(filled, originals, shares, "inception")
    found = {value.metric: value for value in values}
    for metric, chosen in (
        ("inpaint_fid", slice(None)),
        ("inpaint_fid_mask0_20", slice(0, 40)),
        ("inpaint_fid_mask20_40", slice(40, 70)),
    ):
        expected = frechet_distance(filled.features[chosen], originals.features[chosen])
        assert found[metric].value == pytest.approx(expected, rel=1e-6)
        assert found[metric].ci_low < expected < found[metric].ci_high
    assert [item.metric for item in left_out] == ["inpaint_fid_mask40_60", "inpaint_fid_mask60_100"]


def test_perfect_fillings_have_no_frechet_distance_in_any_order():
    draw = np.random.default_rng(1)
    features = Features(draw.normal(0, 1, (50, 4)).astype(np.float32), None)
    values, _ = frechet_by_band(features, features, np.full(50, 0.3), "e")
    assert [value.metric for value in values] == ["inpaint_fd_e", "inpaint_fd_e_mask20_40"]
    assert [value.value for value in values] == pytest.approx([0, 0], abs=1e-6)
