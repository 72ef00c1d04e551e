"""Nested channels: what is dropped, and that a first stage that was cut is the one of fewer channels."""

from collections import Counter

import pytest
import torch
from small_first_stage import small

from ldm.errors import UserError
from ldm.first_stage.components import start_from_components
from ldm.first_stage.nested import Nested
from ldm.first_stage.shaping import LatentBatch, views_at

LATENTS = LatentBatch(n=50, channels=6, side=4)


def nested(channels, **changes):
    return small("kl", 4, channels=channels, is_nested=True, **changes)


def test_each_latent_keeps_its_first_channels_each_number_equally_often():
    latent = torch.randn(50, 6, 4, 4).abs() + 1
    kept = Counter()
    for step in range(60):
        views = views_at([Nested((1, 4, 6))], LATENTS, seed=0, step=step)
        seen = views.latent(latent)
        for before, after in zip(latent, seen, strict=True):
            number = int((after != 0).any(dim=(1, 2)).sum())
            assert torch.equal(after[:number], before[:number])
            assert not after[number:].any()
            kept[number] += 1
        assert views.image(latent) is latent
    assert set(kept) == {1, 4, 6}
    for count in kept.values():
        assert count == pytest.approx(1000, abs=4 * (3000 * 2 / 9) ** 0.5)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_a_cut_first_stage_is_the_whole_one_with_zeros_for_the_rest(channels):
    whole = nested(5).double().eval()
    cut = nested(channels).double().eval()
    cut.load_state_dict(whole.cut(channels))
    image = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    all_of_it, first = whole.encode(image), cut.encode(image)
    torch.testing.assert_close(first.mean, all_of_it.mean[:, :channels], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(first.logvar, all_of_it.logvar[:, :channels], rtol=1e-12, atol=1e-12)
    z = torch.randn(2, channels, 8, 8, dtype=torch.float64)
    padded = torch.cat((z, torch.zeros(2, 5 - channels, 8, 8, dtype=torch.float64)), 1)
    torch.testing.assert_close(cut.decode(z), whole.decode(padded), rtol=1e-12, atol=1e-12)


def test_components_come_in_the_order_of_their_size_so_that_more_channels_reconstruct_better():
    torch.manual_seed(0)
    coarse = torch.nn.functional.interpolate(torch.rand(12, 3, 6, 6), (32, 32), mode="bicubic").clamp(0, 1) * 2 - 1
    whole = nested(6, initialisation="components")
    start_from_components(whole, coarse, seed=0)
    with torch.no_grad():
        encoding = whole.encode(coarse)
        assert torch.allclose(encoding.logvar, torch.tensor(-6.0))
        errors = []
        for channels in (1, 3, 6):
            cut = nested(channels)
            cut.load_state_dict(whole.cut(channels))
            errors.append(float((cut.decode(cut.encode(coarse).mean) - coarse).abs().mean()))
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("numbers", [(6,), (4, 2, 6), (2, 2, 6), ()])
def test_numbers_that_are_no_choice_are_refused(numbers):
    with pytest.raises(UserError, match=r"is not a list of two or more rising numbers of channels, e.g. \[4,8,16\]"):
        Nested(numbers).check(LATENTS)


def test_the_last_number_is_all_channels():
    Nested((2, 6)).check(LATENTS)
    with pytest.raises(UserError, match=r"ae.nested=\[2, 4\] ends with all channels, and ae.channels=6"):
        Nested((2, 4)).check(LATENTS)
    with pytest.raises(UserError, match=r"no first channels can be cut from ae=vq; use ae=kl"):
        small("vq", 4, is_nested=True)
    with pytest.raises(UserError, match=r"no first channels can be cut from networks of ae.architecture.family=dc"):
        small("kl", 4, is_nested=True, family="dc")
