"""Batches of normalised latents: from a cache of encodings, or from the images where encoding is free."""

import numpy as np
import pytest
import torch

from ldm.data import fields
from ldm.data.contract import ImageCache
from ldm.data.fields import Fields
from ldm.data.latents import CachedLatents, open_packed
from ldm.first_stage import build_first_stage
from ldm.first_stage.identity import IdentityFirstStage
from ldm.first_stage.latent_scale import latent_scale

MEAN, VARIANCE = torch.tensor([0.5, -1.0, 2.0]).double(), torch.tensor([4.0, 1.0, 0.25]).double()


@pytest.fixture(scope="module")
def noise_images() -> ImageCache:
    images = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), np.uint8)
    labels = np.arange(10) % 3
    names = tuple(map(str, range(10)))
    return ImageCache(None, "noise", 8, ("a", "b", "c"), names, (), images, labels, np.zeros(10, bool))


def first_stage(regulariser: str):
    torch.manual_seed(0)
    return build_first_stage(
        regulariser=regulariser,
        factor=2,
        channels=3,
        ch=8,
        ch_mult=(1, 1),
        num_res_blocks=1,
        resolution=8,
        attn_sides=(),
        mid_attention=False,
        dropout=0.0,
        options={"codes": 8} if regulariser == "vq" else {},
    ).eval()


def packed(model, images) -> np.ndarray:
    with torch.no_grad():
        return model.pack(model.encode(images.batch(range(len(images))))).numpy()


def labels(images):
    return Fields(images, {"label": fields.label})


def no_draw(item):
    raise AssertionError("labels are not random")


def draw(seed=0):
    """Noise for the images of `INDICES`."""
    stream = torch.Generator().manual_seed(seed)
    return lambda shape: torch.randn((len(INDICES), *shape), generator=stream)


INDICES = torch.tensor([7, 2, 2, 0])


def test_a_kl_latent_is_a_draw_from_its_cached_posterior_by_the_generator(noise_images):
    model, scale = first_stage("kl"), latent_scale("per_channel", MEAN, VARIANCE)
    cache = packed(model, noise_images)
    data = CachedLatents(cache, noise_images, model, scale, "cpu", labels(noise_images))
    z = data.latents(INDICES, draw())
    mean, logvar = torch.from_numpy(cache[INDICES]).chunk(2, dim=1)
    noise = draw()((3, 4, 4))
    raw = mean + (logvar / 2).exp() * noise
    expected = (raw - MEAN.view(1, 3, 1, 1)) / VARIANCE.sqrt().view(1, 3, 1, 1)
    torch.testing.assert_close(z, expected.float(), rtol=1e-5, atol=1e-6)
    assert torch.equal(z, data.latents(INDICES, draw()))
    assert not torch.equal(z, data.latents(INDICES, draw(1)))
    assert not torch.equal(z[1], z[2]), "one image twice in a batch is drawn twice"


@pytest.mark.parametrize("regulariser", ["kl", "vq"])
def test_latents_are_the_same_from_the_cache_and_from_the_images(regulariser, noise_images):
    model, scale = first_stage(regulariser), latent_scale("std_scalar", MEAN, VARIANCE)
    both = [
        CachedLatents(source, noise_images, model, scale, "cpu", labels(noise_images)).latents(INDICES, draw())
        for source in (packed(model, noise_images), None)
    ]
    torch.testing.assert_close(both[0], both[1], rtol=1e-5, atol=1e-6)
    assert not both[1].requires_grad


def test_a_vq_latent_is_the_one_before_quantisation_whatever_the_generator(noise_images):
    model, scale = first_stage("vq"), latent_scale("none", MEAN, VARIANCE)
    data = CachedLatents(packed(model, noise_images), noise_images, model, scale, "cpu", labels(noise_images))
    z = data.latents(INDICES, draw())
    assert torch.equal(z, data.latents(INDICES, draw(1)))
    torch.testing.assert_close(z, model.encode(noise_images.batch(INDICES)).detach(), rtol=1e-5, atol=1e-6)


def test_the_identity_gives_the_normalised_image(noise_images):
    std = 0.25
    scale = latent_scale("std_scalar", torch.zeros(3).double(), torch.full((3,), std**2).double())
    data = CachedLatents(None, noise_images, IdentityFirstStage(), scale, "cpu", labels(noise_images))
    pixels = torch.from_numpy(noise_images.images[INDICES]).permute(0, 3, 1, 2)
    torch.testing.assert_close(data.latents(INDICES, draw()), (pixels / 127.5 - 1) / std, rtol=1e-6, atol=1e-6)


def test_the_stream_goes_on_alike_whichever_first_stage_was_asked(noise_images):
    """What follows in the step (noise, noise levels) does not depend on the regulariser."""
    rest = []
    for regulariser in ("kl", "vq"):
        model, stream = first_stage(regulariser), draw()
        data = CachedLatents(
            None, noise_images, model, latent_scale("none", MEAN, VARIANCE), "cpu", labels(noise_images)
        )
        data.latents(INDICES, stream)
        rest.append(stream((3,)))
    assert torch.equal(rest[0], rest[1])


@pytest.mark.parametrize("regulariser", ["kl", "vq"])
def test_held_encodings_give_the_same_latents(monkeypatch, regulariser, noise_images):
    """They are held only where they fit, and images that were not encoded before never are."""
    monkeypatch.setattr("ldm.data.latents.AT_A_TIME", 3)
    model, scale = first_stage(regulariser), latent_scale("per_channel", MEAN, VARIANCE)
    cache = packed(model, noise_images)
    mapped, held = (CachedLatents(cache, noise_images, model, scale, "cpu", labels(noise_images)) for _ in range(2))
    assert not held.hold(cache.nbytes - 1)
    assert held.held is None
    assert held.hold(cache.nbytes)
    held.packed = None  # which it does not need any more
    assert held.hold(0)
    assert torch.equal(held.latents(INDICES, draw()), mapped.latents(INDICES, draw()))
    assert torch.equal(held.encoded(range(10)), torch.from_numpy(cache))
    held.packed = cache
    held.let_go()
    assert held.held is None
    assert torch.equal(held.latents(INDICES, draw()), mapped.latents(INDICES, draw()))
    assert not CachedLatents(None, noise_images, model, scale, "cpu", labels(noise_images)).hold(1e9)


def test_length_and_labels_are_those_of_the_images(noise_images):
    data = CachedLatents(
        None, noise_images, IdentityFirstStage(), latent_scale("none", MEAN, VARIANCE), "cpu", labels(noise_images)
    )
    assert len(data) == 10
    assert data.fields(INDICES, no_draw)["label"].tolist() == [1, 2, 2, 0]


def test_the_cache_is_mapped_not_read(tmp_path, noise_images):
    values = packed(first_stage("kl"), noise_images)
    np.save(tmp_path / "latents.npy", values)
    mapped = open_packed(tmp_path / "latents.npy")
    assert isinstance(mapped, np.memmap)
    assert np.array_equal(mapped, values)
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 0
