"""Samples of any size: drawn from noise of their own shape, measured in windows, shown as they are."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_plans import settings_of

from experiments.generate import AskedConditions, Generator, generate
from experiments.pictures import save_grid, to_uint8
from experiments.scoring import window_protocol, windows
from experiments.stages import samples
from experiments.stages.samples import _columns
from ldm.conditioning.contract import Unconditional
from ldm.data.fields import Fields
from ldm.diffusion import DenoisingModel, make_schedule
from ldm.diffusion.guidance import Guidance
from ldm.first_stage import IdentityFirstStage
from ldm.first_stage.latent_scale import LatentScale
from ldm.first_stage.tiled import Tiling
from ldm.randomness import SampleNoise
from ldm.records import Protocol
from ldm.samplers import DDIM

PROTOCOL = Protocol("generation", 8, "heldout", "hash", 8, 32, "rule", "judge", 112, "w", "float32", "even", 0)


NOTHING_ASKED = AskedConditions(Fields(None, {}), range(7), 0)


class Echo(torch.nn.Module):
    """Takes x_t for the clean image, so that one step returns the noise that sampling starts from."""

    def forward(self, x, index, context=None, concat=None):
        return x


def generator_of_noise(shape, tiling=None) -> Generator:
    """A generator whose images are its noise, halved."""
    schedule = make_schedule("scaled_linear")
    scale = LatentScale(torch.zeros(3, dtype=torch.float64), torch.full((3,), 0.5, dtype=torch.float64))
    model = DenoisingModel(Echo(), schedule, "x0")
    return Generator(model, Unconditional(), IdentityFirstStage(), scale, shape, (-1, 1), "cpu", tiling)


@pytest.mark.parametrize("tiling", [None, Tiling(5, 2)])
def test_a_sample_is_drawn_from_noise_of_its_own_shape(tiling):
    source = generator_of_noise((3, 12, 20), tiling)
    settings = {**settings_of("sampler.steps=1", "sampler.spacing=neutral", "sampler.seed=7")["sampler"]}
    batches = list(generate(source, DDIM(source.model.schedule), settings, Guidance(), NOTHING_ASKED, range(2, 7), 2))
    images = torch.cat([batch.images for batch in batches])
    expected = SampleNoise(7, range(2, 7))((3, 12, 20))
    assert torch.equal(images, to_uint8(0.5 * expected))
    torch.testing.assert_close(torch.cat([batch.latents for batch in batches]), 0.5 * expected)


def test_a_window_is_a_square_of_its_image_that_depends_on_seed_and_index_alone():
    rows, columns = torch.meshgrid(torch.arange(10), torch.arange(30), indexing="ij")
    images = torch.stack([torch.stack([rows, columns, torch.full_like(rows, n)]) for n in range(200)]).byte()
    found = windows(images, 8, 3, range(200))
    assert found.shape == (200, 3, 8, 8)
    corners = found[:, :, 0, 0]
    assert torch.equal(found, corners[:, :, None, None] + images[:1, :, :8, :8])
    assert (corners[:, 0].unique().tolist(), corners[:, 1].unique().tolist()) == ([0, 1, 2], list(range(23)))
    assert corners[:, 2].tolist() == list(range(200))
    parts = [
        windows(images[first : first + 64], 8, 3, range(first, min(200, first + 64))) for first in (0, 64, 128, 192)
    ]
    assert torch.equal(torch.cat(parts), found)
    assert not torch.equal(windows(images, 8, 4, range(200)), found)


def test_windows_are_never_compared_with_whole_samples():
    of_windows = window_protocol(PROTOCOL)
    assert of_windows.id != PROTOCOL.id
    assert of_windows.marks == ("one window of each larger sample, against whole images",)
    assert dataclasses.replace(of_windows, kind="generation", marks=()) == PROTOCOL


@pytest.mark.parametrize(("height", "width"), [(96, 256), (256, 96), (64, 64)])
def test_a_grid_shows_images_of_any_shape_in_about_the_same_outline(tmp_path: Path, height: int, width: int):
    images = torch.randint(0, 256, (64, 3, height, width), dtype=torch.uint8)
    columns = _columns(height, width)
    save_grid(tmp_path / "grid.png", list(images.split(columns)))
    shown = np.asarray(Image.open(tmp_path / "grid.png"))
    last = 63 // columns
    assert shown.shape[:2] == ((last + 1) * (height + 2) - 2, columns * (width + 2) - 2)
    assert 2.5 < shown.shape[1] / shown.shape[0] < 6
    top, left = last * (height + 2), (63 - last * columns) * (width + 2)
    np.testing.assert_array_equal(shown[top : top + height, left : left + width].transpose(2, 0, 1), images[63])


def test_small_images_are_enlarged_by_their_shorter_side(tmp_path: Path):
    save_grid(tmp_path / "grid.png", [torch.zeros(1, 3, 64, 16, dtype=torch.uint8)])
    assert Image.open(tmp_path / "grid.png").size == (64, 256)


def test_the_scale_of_samples_is_that_of_all_their_batches():
    rng = np.random.default_rng(0)
    latents = torch.from_numpy(rng.normal(3, 2, (7, 2, 4, 4)))
    images = torch.from_numpy(rng.integers(0, 256, (7, 3, 8, 8), dtype=np.uint8))
    images[0] = 255
    whole = LatentScale(torch.tensor([1.0]).double(), torch.tensor([4.0]).double())
    sums = sum(
        samples._scale_sums(SimpleNamespace(scale=whole), SimpleNamespace(latents=latents[part], images=images[part]))
        for part in (slice(0, 3), slice(3, 7))
    )
    facts = samples.scale_facts(sums)
    assert facts["latent_std"] == pytest.approx(float(latents.std(correction=0)) / 4, rel=1e-12)
    assert facts["saturated"] == pytest.approx(float(((images == 0) | (images == 255)).double().mean()), rel=1e-12)
