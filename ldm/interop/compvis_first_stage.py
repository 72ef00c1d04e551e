"""First stages of CompVis/latent-diffusion: their configuration, their parameter names."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ldm.errors import UserError
from ldm.first_stage.coder import Decoder, Encoder
from ldm.first_stage.kl import KLFirstStage
from ldm.first_stage.vq import VectorQuantiser, VQFirstStage
from ldm.interop.filling import load_renamed
from ldm.interop.renaming import Renaming, expand

COMMITMENT_WEIGHT = 0.25
"""beta of every VQ model of the reference, on the codebook term (`legacy`)."""

CODEBOOK = "quantiser.codebook"
USAGE = "quantiser.usage"

QUANTISATION_NAMES = (
    ("to_latent.weight", "quant_conv.weight"),
    ("to_latent.bias", "quant_conv.bias"),
    ("from_latent.weight", "post_quant_conv.weight"),
    ("from_latent.bias", "post_quant_conv.bias"),
    (CODEBOOK, "quantize.embedding.weight"),
)
"""What stands between encoder and decoder; diffusers kept these names."""

NAMES = Renaming(
    (
        *expand(
            {
                "encoder.levels.{i}.blocks.{j}": "encoder.down.{i}.block.{j}",
                "encoder.middle.0": "encoder.mid.block_1",
                "encoder.middle.2": "encoder.mid.block_2",
                "decoder.levels.{r}.blocks.{j}": "decoder.up.{r}.block.{j}",
                "decoder.middle.0": "decoder.mid.block_1",
                "decoder.middle.2": "decoder.mid.block_2",
            },
            {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "shortcut": "nin_shortcut"},
        ),
        *expand(
            {
                "encoder.levels.{i}.attentions.{j}": "encoder.down.{i}.attn.{j}",
                "encoder.middle.1": "encoder.mid.attn_1",
                "decoder.levels.{r}.attentions.{j}": "decoder.up.{r}.attn.{j}",
                "decoder.middle.1": "decoder.mid.attn_1",
            },
            {"norm": "norm", "query": "q", "key": "k", "value": "v", "project": "proj_out"},
        ),
        *expand(
            {
                "encoder.levels.{i}.resample": "encoder.down.{i}.downsample",
                "decoder.levels.{r}.resample": "decoder.up.{r}.upsample",
            },
            {"conv": "conv"},
        ),
        *expand(
            {"encoder": "encoder", "decoder": "decoder"}, {"stem": "conv_in", "norm": "norm_out", "head": "conv_out"}
        ),
        *QUANTISATION_NAMES,
    )
)

_NETWORK = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "quantize.")

_VANILLA = ("vanilla", "vanilla-xformers")
"""Names of the reference's attention, the second for another program that computes it."""

_ONLY_VALUE = {"resamp_with_conv": True, "use_linear_attn": False, "give_pre_end": False, "tanh_out": False}
"""Options of the reference's networks that none of its published models sets otherwise."""


def take_network(state: Mapping[str, Tensor], names: Mapping[str, str], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    """The tensors of `state` under new names; what lies under none of `prefixes` (losses, say) is left behind.

    A VQ model also receives a usage count of zero. Raises: UserError for a name under `prefixes` that is unknown.
    """
    unknown = [name for name in state if name not in names and name.startswith(prefixes)]
    if unknown:
        raise UserError(
            f"The checkpoint's first stage has the parameter {unknown[0]}, which no network of the paper has: give the "
            "weights of an AutoencoderKL or a VQ model."
        )
    ours = {names[name]: tensor for name, tensor in state.items() if name in names}
    if CODEBOOK in ours:
        ours[USAGE] = torch.zeros(len(ours[CODEBOOK]), dtype=torch.int64)
    return ours


def from_compvis(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """Our state dict of the first stage in a CompVis one; `prefix` is "first_stage_model." in a whole LDM."""
    own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    return take_network(own, NAMES.to_ours(own), _NETWORK)


def load_compvis_first_stage(model: KLFirstStage | VQFirstStage, state: Mapping[str, Tensor], prefix: str = "") -> None:
    """Fills a model that `build_compvis_first_stage` made from a CompVis state dict; `prefix` as in `from_compvis`.

    Raises: UserError for a weight that is missing, of another shape, or one more than the model has.
    """
    own = model.state_dict()
    stored = {ours: prefix + theirs for ours, theirs in NAMES.to_theirs(own).items()}
    unused = {name for name in state if name.startswith(tuple(prefix + part for part in _NETWORK))} - {*stored.values()}
    if unused:
        raise UserError(
            f"the checkpoint has {len(unused)} weights that the first stage of its yaml lacks, such as '{min(unused)}'"
        )
    counted = {name: value for name, value in own.items() if name == USAGE}  # training state, which no file has
    load_renamed(model, {**state, **counted}, {**stored, USAGE: USAGE})


def to_compvis(state: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """The CompVis state dict of one of our first stages, without training state."""
    names = NAMES.to_theirs(state)
    return {prefix + names[name]: state[name] for name in names}


def build_compvis_first_stage(params: Mapping[str, Any]) -> KLFirstStage | VQFirstStage:
    """The network that the `params` of a CompVis first-stage configuration describe, with random weights.

    A model with `n_embed` is a VQ model, else a KL model. Raises: UserError where the network is none of the paper's.
    """
    for key in ("ddconfig", "embed_dim"):
        if key not in params:
            raise UserError(
                f"The first-stage configuration lacks {key}: give the `params` of an AutoencoderKL or VQModel."
            )
    config = params["ddconfig"]
    if params.get("remap") is not None:
        raise UserError(f"remap={params['remap']} of the first-stage configuration is not supported.")
    vq = "n_embed" in params
    encoder, decoder = _encoder(config, "ddconfig", double_z=not vq), _decoder(config, "ddconfig")
    if vq:
        quantiser = VectorQuantiser(params["n_embed"], params["embed_dim"], COMMITMENT_WEIGHT, legacy=True)
        return VQFirstStage(encoder, decoder, quantiser)
    return KLFirstStage(encoder, decoder, params["embed_dim"])


def build_autoencoding_engine(of_encoder: Mapping[str, Any], of_decoder: Mapping[str, Any]) -> KLFirstStage:
    """The KL network, with random weights, of the options of an encoder and a decoder without convolutions between.

    Raises: UserError where one is none of the paper's, or they do not belong together.
    """
    encoder = _encoder(of_encoder, "encoder_config", double_z=True)
    decoder = _decoder(of_decoder, "decoder_config")
    for key, ours, theirs in (
        ("z_channels", encoder.z_channels, decoder.z_channels),
        ("levels in ch_mult", len(of_encoder["ch_mult"]), len(of_decoder["ch_mult"])),
    ):
        if ours != theirs:
            raise UserError(f"encoder_config has {ours} {key}, but decoder_config has {theirs}.")
    return KLFirstStage(encoder, decoder, encoder.z_channels, projected=False)


def _encoder(config: Mapping[str, Any], told: str, double_z: bool) -> Encoder:
    given = config.get("double_z", True)
    if given != double_z:
        raise UserError(
            f"{told}.double_z={given} does not fit a {'KL' if double_z else 'VQ'} model: set it to {double_z}."
        )
    return Encoder(in_channels=config["in_channels"], double_z=double_z, **_coder_arguments(config, told))


def _decoder(config: Mapping[str, Any], told: str) -> Decoder:
    return Decoder(out_channels=config["out_ch"], **_coder_arguments(config, told))


def _coder_arguments(config: Mapping[str, Any], told: str) -> dict[str, Any]:
    """What encoders and decoders take of the options of either; `told` is where these stand."""
    attention = config.get("attn_type", "vanilla")
    if attention not in (*_VANILLA, "none"):
        raise UserError(f"{told}.attn_type={attention} is not supported: only {', '.join(_VANILLA)} and none are.")
    for key, value in _ONLY_VALUE.items():
        if config.get(key, value) != value:
            raise UserError(f"{told}.{key}={config[key]} is not supported: only {value} is.")
    sides = [config["resolution"] // 2**level for level in range(len(config["ch_mult"]))]
    # The reference looks for each side among attn_resolutions and passes over those that never occur.
    return {
        "z_channels": config["z_channels"],
        "ch": config["ch"],
        "ch_mult": tuple(config["ch_mult"]),
        "num_res_blocks": config["num_res_blocks"],
        "resolution": config["resolution"],
        "attn_sides": [s for s in config["attn_resolutions"] if s in sides] if attention != "none" else [],
        "mid_attention": attention != "none",
        "dropout": config.get("dropout", 0.0),
    }
