"""Tiny autoencoders (TAESD and its kin) as they are published: an encoder and a decoder, each a numbered row."""

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from torch import Tensor, nn

from ldm.errors import UserError
from ldm.first_stage.tiny import TinyFirstStage, TinyLevel, tiny_decoder, tiny_encoder
from ldm.interop.diffusers_options import refuse_unknown
from ldm.interop.filling import fill

DIFFUSERS_PREFIXES = ("encoder.layers.", "decoder.layers.")


def build_tiny_autoencoder(encoder: Mapping[str, Tensor], decoder: Mapping[str, Tensor]) -> TinyFirstStage:
    """The autoencoder of both halves' weights, its architecture read from their names and shapes.

    Names begin with the layer's number; whether layers without weights were counted there does not matter.
    Raises: UserError where a half is none of a tiny autoencoder, or the two do not fit each other.
    """
    halves = _half(encoder, "encoder", tiny_encoder, -1), _half(decoder, "decoder", tiny_decoder, 0)
    try:
        return TinyFirstStage(*halves)
    except ValueError as error:
        raise UserError(f"the tiny autoencoder's halves do not belong together: {error}") from error


_ONLY_VALUE = {"act_fn": "relu", "upsample_fn": "nearest", "upsampling_scaling_factor": 2}
"""Options of diffusers' AutoencoderTiny that do not stand in its weights."""

_READ = {
    *("in_channels", "out_channels", "latent_channels", "num_encoder_blocks", "num_decoder_blocks", "force_upcast"),
    *("encoder_block_out_channels", "decoder_block_out_channels", "block_out_channels"),
    *("latent_magnitude", "latent_shift", "scaling_factor", "shift_factor"),
}
"""Those that do, those of the scale of latents, and two of latents as 8-bit images."""


def tiny_from_diffusers(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> TinyFirstStage:
    """The autoencoder of diffusers' AutoencoderTiny.

    Raises: UserError for an option that ours does not have.
    """
    for key, value in _ONLY_VALUE.items():
        if config.get(key, value) != value:
            raise UserError(f"the tiny autoencoder's config has {key}={config[key]!r}: only {value!r} is supported")
    refuse_unknown(config, {*_ONLY_VALUE, *_READ}, "the tiny autoencoder")
    return whole_tiny_autoencoder(weights, DIFFUSERS_PREFIXES)


def whole_tiny_autoencoder(weights: Mapping[str, Tensor], prefixes: tuple[str, str]) -> TinyFirstStage:
    """The autoencoder whose encoder and decoder lie in one state dict under these prefixes.

    Raises: UserError for a weight under neither, and as `build_tiny_autoencoder`.
    """
    foreign = [name for name in weights if not name.startswith(prefixes)]
    if foreign:
        raise UserError(f"beside a tiny autoencoder there is '{min(foreign)}', which belongs to none")
    encoder, decoder = (
        {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        for prefix in prefixes
    )
    return build_tiny_autoencoder(encoder, decoder)


def _half(
    state: Mapping[str, Tensor],
    kind: str,
    build: Callable[[int, int, Sequence[TinyLevel]], nn.Sequential],
    latent_layer: int,
) -> nn.Sequential:
    """One half; `latent_layer` is the place, among the layers with weights, of the convolution at the latent."""
    try:
        numbers = sorted({int(name.partition(".")[0]) for name in state})
    except ValueError as error:
        raise UserError(
            f"the {kind} of a tiny autoencoder has numbered layers, but a weight is named {error}"
        ) from error
    layers = [_Layer(state, number) for number in numbers]
    if len(layers) < 2 or layers[0].is_block or layers[-1].is_block:
        raise UserError(f"the {kind} of a tiny autoencoder begins and ends with a convolution, but its weights do not")
    # Between the two ends, a convolution (without a bias) goes over to the next level.
    levels = [TinyLevel(0)]
    for is_block, row in groupby(layers[1:-1], key=lambda layer: layer.is_block):
        found = list(row)
        if is_block:
            levels[-1] = TinyLevel(len(found), pooled=found[0].is_pooled)
        else:
            levels += [TinyLevel(0)] * len(found)
    latent, width = layers[latent_layer].weight, layers[0].weight.shape[0]
    channels = latent.shape[0] if kind == "encoder" else latent.shape[1]
    network = build(channels, width, levels)
    # Names stand in the network's own order, so that its layers with weights meet theirs one by one.
    ours = dict.fromkeys(int(name.partition(".")[0]) for name in network.state_dict())
    number_of = dict(zip(numbers, ours, strict=True))
    names = {
        f"{number_of[int(number)]}.{rest}": f"{number}.{rest}"
        for number, _, rest in (name.partition(".") for name in state)
    }
    fill(network, {mine: state[theirs] for mine, theirs in names.items()}, names, f"the tiny autoencoder's {kind}")
    return network


class _Layer:
    """One numbered layer of a state dict: a convolution or a block."""

    def __init__(self, state: Mapping[str, Tensor], number: int) -> None:
        self.is_block = f"{number}.conv.0.weight" in state
        self.is_pooled = f"{number}.pool.0.weight" in state
        name = f"{number}.conv.0.weight" if self.is_block else f"{number}.weight"
        if name not in state:
            raise UserError(f"layer {number} of the tiny autoencoder has no weight '{name}'")
        self.weight = state[name]
