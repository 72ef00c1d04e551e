"""Super-resolution scores: closed forms, scikit-image, and what an exact or a consistent output must give."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

from ldm.metrics.reconstruction import image_errors
from ldm.metrics.superres import consistency, consistency_error, enlarged, superres_metrics
from ldm.metrics.values import BICUBIC
from ldm.records import LeftOut


def by_name(values):
    return {value.metric: value for value in values}


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (5, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_errors_are_those_of_scikit_image_under_names_of_their_own(images):
    other = images.flip(0)
    other[2] = 255 - images[2]
    values, left_out = superres_metrics(image_errors(images, other), {"distance": np.array([0.0, 1, 2, 3, 4])})
    found = by_name(values)
    expected = [
        peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=255) for a, b in zip(images, other, strict=True)
    ]
    assert found["superres_psnr"].value == pytest.approx(np.mean(expected), rel=1e-12)
    assert (found["superres_distance"].value, found["superres_distance"].n) == (2.0, 5)
    assert all(name.startswith("superres_") for name in found)
    assert left_out == []
    assert "bicubic_superres_ssim" in by_name(superres_metrics(image_errors(images, other), {}, BICUBIC)[0])


def test_exact_outputs_have_no_psnr(images):
    _, left_out = superres_metrics(image_errors(images, images), {})
    assert [item.metric for item in left_out] == ["superres_psnr"]
    assert isinstance(consistency(np.zeros(5)), LeftOut)


def test_consistency_is_the_psnr_of_the_low_resolution():
    low = torch.rand(4, 3, 8, 8, dtype=torch.float64) - 0.5
    score = consistency(consistency_error(low + 0.1, low))
    assert score.value == pytest.approx(20 * np.log10(255 / 12.75), rel=1e-9)
    assert score.n == 4
    mixed = consistency(np.array([0.0, 1.0, 1.0]))
    assert (mixed.value, mixed.n) == (pytest.approx(20 * np.log10(255)), 2)


def test_enlargement_keeps_flat_images_and_stays_within_range():
    flat = torch.full((1, 3, 4, 4), 0.2)
    assert (enlarged(flat, (16, 16)) == round(1.2 * 127.5)).all()
    edges = torch.where(torch.arange(8).view(1, 1, 1, 8) < 4, -1.0, 1.0).expand(1, 3, 8, 8)
    large = enlarged(edges, (32, 32))
    assert large.shape == (1, 3, 32, 32)
    assert (large[..., :8] == 0).all()
    assert (large[..., 18:] > 200).all()  # where bicubic weights overshoot, nothing wraps around
    assert (large[..., :14] < 55).all()
