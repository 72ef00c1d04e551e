"""Views of latents and images: against other programs, by brute force, and as functions of seed and step alone."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from small_first_stage import small

from ldm.errors import UserError
from ldm.first_stage.downsampling import Downsampling
from ldm.first_stage.equivariance import Equivariance, scaled
from ldm.first_stage.shaping import LatentBatch, views_at
from ldm.first_stage.shapings import SHAPINGS, axis_values, only_active, shapings_of

LATENTS = LatentBatch(n=2, channels=3, side=8)
BOTH = Equivariance(rotation=True, scaling=True)
ALWAYS = {"rotation": True, "probability": 1.0}


@pytest.mark.parametrize("side", [1, 3, 5, 7])
def test_scaling_is_that_of_pillow(side):
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(side))
    for factor in (1, 4):
        big = x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
        found = scaled(big, side, of=8)
        assert found.shape == (2, 3, side * factor, side * factor)
        for image, expected in zip(found.flatten(0, 1), big.flatten(0, 1), strict=True):
            pillow = Image.fromarray(expected.numpy().astype(np.float32)).resize(image.shape, Image.Resampling.BILINEAR)
            np.testing.assert_allclose(image.numpy(), np.asarray(pillow), atol=1e-6)


def test_latents_and_images_are_turned_alike_as_numpy_turns_them():
    latent, image = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 32, 32)
    turned = set()
    for step in range(20):
        views = views_at([Equivariance(**ALWAYS)], LATENTS, seed=0, step=step)
        seen = views.latent(latent)
        [turns] = [k for k in (1, 2, 3) if np.array_equal(np.rot90(latent.numpy(), k, (2, 3)), seen.numpy())]
        assert np.array_equal(np.rot90(image.numpy(), turns, (2, 3)), views.image(image).numpy())
        turned.add(turns)
    assert turned == {1, 2, 3}


def test_means_of_patches_are_equivariant_and_so_lose_nothing():
    """An encoder of means and a decoder of flat patches commute with tau, exactly where it is a rotation."""
    image = torch.rand(2, 3, 32, 32, dtype=torch.float64)

    def encode(x):
        return torch.nn.functional.avg_pool2d(x, 4)

    def decode(z):
        return z.repeat_interleave(4, 2).repeat_interleave(4, 3)

    flat = decode(encode(image))
    for step in range(12):
        views = views_at([Equivariance(**ALWAYS)], LATENTS, seed=1, step=step)
        torch.testing.assert_close(decode(views.latent(encode(flat))), views.image(flat), rtol=1e-12, atol=1e-12)
    views = views_at([Downsampling(0.25)], LATENTS, seed=1, step=0)
    constant = torch.full_like(image, 0.3)
    [(weight, view)] = views.beside.values()
    assert weight == 0.25
    torch.testing.assert_close(decode(view.latent(encode(constant))), view.image(constant))


def test_half_of_the_steps_are_changed_and_sides_are_drawn_evenly():
    views = [views_at([BOTH], LATENTS, seed=3, step=step) for step in range(4000)]
    sides = Counter(view.sides for view in views)
    assert set(sides) == {(side,) for side in range(2, 9)}  # a quarter of 8 up to 8 itself
    assert sides[(8,)] == pytest.approx(2000, abs=4 * 4000**0.5 / 2)
    for side in range(2, 8):
        assert sides[(side,)] == pytest.approx(2000 / 6, abs=4 * (2000 / 6) ** 0.5)


def test_views_depend_on_seed_and_step_alone():
    def sides(seed, *shapings):
        return [views_at(shapings, LATENTS, seed, step).in_place[0].side for step in range(50)]

    assert sides(0, BOTH) == sides(0, BOTH) == sides(0, BOTH, Downsampling(0.25))
    assert sides(0, BOTH) != sides(1, BOTH)


def test_rotation_with_scaling_leaves_latents_that_can_be_turned():
    latents = LatentBatch(1, 3, side=4)
    assert list(Equivariance(scaling=True).sides(latents)) == [1, 2, 3]
    assert list(BOTH.sides(latents)) == [2, 3]


@pytest.mark.parametrize(
    ("shaping", "side", "smallest", "sentence"),
    [
        (Equivariance(rotation=True), 1, 1, "a side of 1: choose a smaller ae.f"),
        (Equivariance(scaling=True), 1, 1, "a side of 1: choose a smaller ae.f"),
        (BOTH, 2, 1, "a side of 2: choose a smaller ae.f"),
        (Equivariance(scaling=True), 4, 4, "a side of 4 and the networks of the loss take no less than 4"),
        (Downsampling(0.25), 1, 1, "a side of 1: choose a smaller ae.f"),
        (Downsampling(0.25), 2, 2, "a side of 2 and the networks of the loss take no less than 2"),
    ],
)
def test_latents_that_are_too_small_are_refused(shaping, side, smallest, sentence):
    with pytest.raises(UserError, match=sentence):
        shaping.check(LatentBatch(1, 3, side, smallest))
    shaping.check(LatentBatch(1, 3, 2 * side + 2, smallest))


def test_a_group_holds_what_is_on_and_tables_name_it():
    off = {
        "equivariance": {"rotation": False, "scaling": False, "probability": 0.3},
        "downsampling": {"loss_weight": 0},
    }
    group = {"f": 4, **off}
    assert only_active(group, LATENTS) == {"f": 4}
    assert axis_values(group) == axis_values({"f": 1}) == dict.fromkeys(part.name for part in SHAPINGS)
    on = {**group, "equivariance": {"rotation": True, "scaling": True, "probability": 0.5}}
    assert only_active(on, LATENTS) == {"f": 4, "equivariance": on["equivariance"]}
    assert shapings_of(only_active(on, LATENTS)) == [BOTH]
    assert axis_values(on)["equivariance"] == "rotation+scaling"
    assert Equivariance(scaling=True, probability=0.25).value == "scaling p=0.25"
    with pytest.raises(UserError, match=r"ae\.equivariance\.probability=2"):
        shapings_of({"equivariance": {"rotation": True, "probability": 2}})


@pytest.mark.parametrize("regulariser", ["kl", "vq", "fsq", "lfq", "bsq"])
def test_a_view_is_decoded_in_place_of_the_latent_and_passes_gradients(regulariser):
    model = small(regulariser, 4).eval()
    image, noise = torch.rand(2, 3, 32, 32), torch.randn(2, 3, 8, 8)
    plain = model.forward_train(image, noise)
    same = model.forward_viewed(image, noise, lambda raw: raw)
    assert torch.equal(plain.image, same.image)
    turned = model.forward_viewed(image, noise, lambda raw: torch.rot90(raw, 1, (2, 3)))
    raw = model.latent(model.pack(model.encode(image)), noise)
    assert torch.equal(turned.whole, raw)
    torch.testing.assert_close(turned.image, model.decode(torch.rot90(raw, 1, (2, 3))))
    turned.image.sum().backward()
    assert model.encoder.head.weight.grad.abs().max() > 0
    halved = model.forward_viewed(image, noise, lambda raw: scaled(raw, 4, 8))
    assert halved.image.shape == (2, 3, 16, 16)
