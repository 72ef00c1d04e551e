"""The table of denoisers: every entry builds from its options and keeps the contract."""

import pytest
import torch

from ldm.denoiser import DENOISERS, UNet, denoiser_options
from ldm.errors import UserError
from ldm.parts import options_of

SMALL = {
    "unet": {
        "model_channels": 32,
        "channel_mult": [1, 1.5, 2],
        "num_res_blocks": 1,
        "attention_sides": [4],
        "num_heads": None,
        "num_head_channels": 16,
    },
    "dit": {"width": 32, "depth": 2, "heads": 2, "patch": 2},
}
"""Options of a small network of each."""


@pytest.mark.parametrize("context_dim", [None, 5])
@pytest.mark.parametrize("name", DENOISERS)
def test_every_entry_builds_a_network_that_halves_as_often_as_it_says(name, context_dim):
    options = denoiser_options(name, SMALL[name])
    side = 2**options.halvings * 3
    network = options.build(in_channels=5, out_channels=3, latent_side=side, context_dim=context_dim).double()
    context = None if context_dim is None else torch.randn(2, 7, context_dim, dtype=torch.float64)
    x, concat = torch.randn(2, 3, side, side, dtype=torch.float64), torch.randn(2, 2, side, side, dtype=torch.float64)
    out = network(x, torch.tensor([3.0, 500.0]).double(), context=context, concat=concat)
    assert (out.shape, out.dtype) == (x.shape, x.dtype)
    if options.halvings:
        with pytest.raises(UserError, match=r"cannot be halved 2 times|does not divide the latent's side"):
            options.build(in_channels=3, out_channels=3, latent_side=side + 1, context_dim=context_dim)


@pytest.mark.parametrize("name", DENOISERS)
def test_every_entry_declares_options_with_help(name):
    part = DENOISERS[name]
    assert part.title
    assert set(part.context_options) <= set(options_of(part))
    assert all(each.help for each in options_of(part).values())


def test_options_of_one_name_have_one_default():
    """Identities leave out what is at its default by the option's name, whose denoiser's it may be."""
    found: dict[str, object] = {}
    for part in DENOISERS.values():
        for name, each in options_of(part).items():
            assert found.setdefault(name, each.default) == each.default, name


def test_the_options_of_the_unet_reach_it():
    given = {**SMALL["unet"], "num_heads": 2, "num_head_channels": None, "dropout": 0.25, "transformer_depth": 2}
    network = denoiser_options("unet", given).build(in_channels=3, out_channels=3, latent_side=8, context_dim=5)
    assert isinstance(network, UNet)
    assert {m.p for m in network.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}
    assert network.halvings == 2


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("unett", {}, "denoiser.name=unett is none of unet, dit, did you mean 'unet'?"),
        (
            "unet",
            {"chanel_mult": [1]},
            "denoiser.chanel_mult=[1] is no option of the UNet, did you mean 'channel_mult'?",
        ),
        ("unet", {"channel_mult": 2}, "denoiser.channel_mult=2 is no list of numbers above 0"),
        ("unet", {"model_channels": 1.5}, "denoiser.model_channels=1.5 is no whole number from 1 to"),
        ("unet", {"model_channels": None}, "denoiser.model_channels=null is no whole number from 1 to"),
        ("unet", {"dropout": 1}, "denoiser.dropout=1 is no number from 0 on and below 1"),
        ("unet", {"resblock_updown": "yes"}, "denoiser.resblock_updown=yes is neither true nor false"),
    ],
)
def test_what_cannot_be_built_is_refused(name, changes, said):
    with pytest.raises(UserError) as refused:
        denoiser_options(name, {**SMALL["unet"], **changes})
    assert str(refused.value).startswith(said)
