"""From plain values to a first stage."""

from collections.abc import Sequence
from typing import Any

from ldm.errors import UserError
from ldm.first_stage.coder import NORM_GROUPS, Decoder, Encoder
from ldm.first_stage.contract import FirstStage
from ldm.first_stage.identity import IdentityFirstStage
from ldm.first_stage.initialisation import INITIALISATIONS, start_near_linear
from ldm.first_stage.kl import KLFirstStage
from ldm.first_stage.vq import VectorQuantiser, VQFirstStage

REGULARISERS = ("kl", "vq", "identity")
FACTORS = (1, 2, 4, 8, 16, 32, 64)
IMAGE_CHANNELS = 3


def check_factor(factor: int, resolution: int) -> None:
    """Raises UserError where images of `resolution` cannot be compressed by `factor`."""
    if factor not in FACTORS:
        raise UserError(
            f"ae.f={factor} is not a power of two from 1 to {FACTORS[-1]}: choose {', '.join(map(str, FACTORS))}."
        )
    if factor > resolution:
        raise UserError(
            f"ae.f={factor} is larger than the resolution of {resolution} px: choose a smaller f or larger images."
        )
    if resolution % factor:
        raise UserError(
            f"The resolution of {resolution} px is not divisible by ae.f={factor}: choose a multiple of {factor}."
        )


def norm_groups(narrowest: int, deepest: int, latent_side: int) -> int:
    """How many groups the normalisations have: the paper's 32 wherever they leave enough to normalise over.

    A group has 4 channels at least, as the paper's narrowest layers (128 in 32 groups): with one channel a group, the
    last normalisation of the decoder all but removes the mean colour. It also has 16 values at least at the latent's
    side: at side 1, a group of one value would always be normalised to zero.
    """
    return max(1, min(NORM_GROUPS, narrowest // 4, deepest * latent_side**2 // 16))


def build_first_stage(
    *,
    regulariser: str,
    factor: int,
    channels: int,
    ch: int,
    ch_mult: Sequence[int],
    num_res_blocks: int,
    resolution: int,
    attn_sides: Sequence[int],
    mid_attention: bool,
    dropout: float,
    codes: int,
    beta: float,
    legacy: bool,
    initialisation: str = "reference",
) -> FirstStage:
    """A first stage with random weights; factor 1 is the identity under any regulariser.

    `codes`, `beta` and `legacy` matter to VQ only, nothing beyond `resolution` matters to the identity.
    `initialisation`: see `ldm.first_stage.initialisation`.
    Raises: UserError where the values do not fit together.
    """
    if regulariser not in REGULARISERS:
        raise UserError(f"ae={regulariser} is not known: choose {', '.join(REGULARISERS)}.")
    if initialisation not in INITIALISATIONS:
        raise UserError(
            f"ae.architecture.initialisation={initialisation} is not known: choose {', '.join(INITIALISATIONS)}."
        )
    check_factor(factor, resolution)
    if factor == 1:
        return IdentityFirstStage()
    if regulariser == "identity":
        raise UserError(
            f"The identity first stage does not compress, but ae.f={factor}: choose ae.f=1, ae=kl or ae=vq."
        )
    if 2 ** (len(ch_mult) - 1) != factor:
        raise UserError(
            f"ae.architecture.ch_mult={list(ch_mult)} has {len(ch_mult)} levels, but ae.f={factor} takes "
            f"{factor.bit_length()}: give one multiplier for each halving and one more."
        )
    groups = norm_groups(ch * min(1, *ch_mult), ch * ch_mult[-1], resolution // factor)
    shared: dict[str, Any] = {
        "z_channels": channels,
        "ch": ch,
        "ch_mult": ch_mult,
        "num_res_blocks": num_res_blocks,
        "resolution": resolution,
        "attn_sides": attn_sides,
        "mid_attention": mid_attention,
        "dropout": dropout,
        "norm_groups": groups,
    }
    encoder = Encoder(in_channels=IMAGE_CHANNELS, double_z=regulariser == "kl", **shared)
    decoder = Decoder(out_channels=IMAGE_CHANNELS, **shared)
    model: FirstStage
    if regulariser == "kl":
        model = KLFirstStage(encoder, decoder, channels)
    else:
        model = VQFirstStage(encoder, decoder, VectorQuantiser(codes, channels, beta, legacy))
    if initialisation != "reference":
        start_near_linear(model)
    return model
