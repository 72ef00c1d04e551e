"""Reconstructions measured batch by batch."""

import numpy as np
import pytest
import torch

from ldm.metrics.features import collected
from ldm.metrics.reconstructed import Reconstructed
from ldm.metrics.reconstruction import image_errors
from ldm.randomness import generator
from ldm.training.peak_memory import peak_bytes


class Means:
    """An extractor of mean colours under a name that metrics know."""

    name, weights_hash, size, resize, precision = "efficientnet_lite2", "0", 16, "none", "float32"

    def __call__(self, images):
        return collected(images.float().mean((2, 3)))


class Apart:
    """A perceptual distance: how far grey levels lie apart."""

    name, weights_hash = "apart", "0"

    def __call__(self, image, reconstruction):
        return (image - reconstruction).abs().mean((1, 2, 3))


def pairs(n):
    draws = generator(0, "pairs")
    return torch.randint(0, 256, (2, n, 3, 16, 16), generator=draws, dtype=torch.uint8)


def measured(originals, decoded, batch):
    found = Reconstructed([Apart()], Means())
    for pair in zip(originals.split(batch), decoded.split(batch), strict=True):
        found.add(*pair)
    return found


def test_batches_give_what_all_at_once_gives():
    originals, decoded = pairs(40)
    parts, whole = (measured(originals, decoded, batch) for batch in (7, 40))
    errors = image_errors(originals, decoded)
    np.testing.assert_allclose(parts.errors.mse, errors.mse, rtol=1e-15)
    np.testing.assert_allclose(parts.errors.ssim, errors.ssim, rtol=1e-12)
    np.testing.assert_allclose(
        parts.distances["apart"], (originals / 127.5 - decoded / 127.5).abs().mean((1, 2, 3)), rtol=1e-6
    )
    assert parts.frechet(0).value == pytest.approx(whole.frechet(0).value, rel=1e-5)


def test_memory_hangs_on_the_batch_alone():
    few, many = (peak_bytes(lambda n=n: measured(*pairs(n), 8)) - pairs(n).nbytes for n in (16, 64))
    assert many < 1.05 * few
