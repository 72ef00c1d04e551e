"""First stages of Hugging Face diffusers (AutoencoderKL, VQModel): their configuration, their parameter names."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from ldm.errors import UserError
from ldm.first_stage.coder import Decoder, Encoder, Level, ResidualBlock, SelfAttention
from ldm.first_stage.contract import FirstStage
from ldm.first_stage.kl import KLFirstStage
from ldm.first_stage.vq import VectorQuantiser, VQFirstStage
from ldm.interop.compvis_first_stage import COMMITMENT_WEIGHT, QUANTISATION_NAMES, take_network
from ldm.interop.diffusers_names import current_name
from ldm.interop.diffusers_options import refuse_unknown
from ldm.interop.filling import fill
from ldm.interop.renaming import Renaming, expand

NAMES = Renaming(
    (
        *expand(
            {
                "encoder.levels.{i}.blocks.{j}": "encoder.down_blocks.{i}.resnets.{j}",
                "encoder.middle.0": "encoder.mid_block.resnets.0",
                "encoder.middle.2": "encoder.mid_block.resnets.1",
                "decoder.levels.{i}.blocks.{j}": "decoder.up_blocks.{i}.resnets.{j}",
                "decoder.middle.0": "decoder.mid_block.resnets.0",
                "decoder.middle.2": "decoder.mid_block.resnets.1",
            },
            {"norm1": "norm1", "conv1": "conv1", "norm2": "norm2", "conv2": "conv2", "shortcut": "conv_shortcut"},
        ),
        *expand(
            {
                "encoder.levels.{i}.attentions.{j}": "encoder.down_blocks.{i}.attentions.{j}",
                "encoder.middle.1": "encoder.mid_block.attentions.0",
                "decoder.levels.{i}.attentions.{j}": "decoder.up_blocks.{i}.attentions.{j}",
                "decoder.middle.1": "decoder.mid_block.attentions.0",
            },
            {"norm": "group_norm", "query": "to_q", "key": "to_k", "value": "to_v", "project": "to_out.0"},
        ),
        *expand(
            {
                "encoder.levels.{i}.resample": "encoder.down_blocks.{i}.downsamplers.0",
                "decoder.levels.{i}.resample": "decoder.up_blocks.{i}.upsamplers.0",
            },
            {"conv": "conv"},
        ),
        *expand(
            {"encoder": "encoder", "decoder": "decoder"},
            {"stem": "conv_in", "norm": "conv_norm_out", "head": "conv_out"},
        ),
        *QUANTISATION_NAMES,
    )
)

_PROJECTION = re.compile(r".*\.(query|key|value|project)\.weight")

KL_CLASS, VQ_CLASS = "AutoencoderKL", "VQModel"

_ONLY_VALUE = {
    "act_fn": "silu",
    "norm_type": "group",
    "lookup_from_codebook": False,
}

_READ = {
    *("in_channels", "out_channels", "down_block_types", "up_block_types", "block_out_channels", "layers_per_block"),
    *("latent_channels", "norm_num_groups", "sample_size", "use_quant_conv", "use_post_quant_conv"),
    *("mid_block_add_attention", "num_vq_embeddings", "vq_embed_dim", "force_upcast"),
    *("scaling_factor", "shift_factor", "latents_mean", "latents_std"),
}
"""Options that are read, here or for the scale of latents, and one of half precision."""


def from_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict of a diffusers one; their linear projections become 1x1 convolutions."""
    current = {current_name(name): tensor for name, tensor in state.items()}
    ours = take_network(current, NAMES.to_ours(current), ("",))
    return {
        name: tensor[:, :, None, None] if tensor.ndim == 2 and _PROJECTION.fullmatch(name) else tensor
        for name, tensor in ours.items()
    }


def load_diffusers_first_stage(
    model: KLFirstStage | VQFirstStage, state: Mapping[str, Tensor], told: str = "the autoencoder"
) -> None:
    """Fills a model with a diffusers state dict; `told` is what holds it.

    Raises: UserError for a weight that is missing, of another shape, or one more than the model has.
    """
    fill(model, from_diffusers(state), NAMES.to_theirs(model.state_dict()), told)


def to_diffusers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The diffusers state dict of one of our first stages, without training state."""
    return {
        theirs: state[ours].flatten(1) if _PROJECTION.fullmatch(ours) else state[ours]
        for ours, theirs in NAMES.to_theirs(state).items()
    }


def build_diffusers_first_stage(config: Mapping[str, Any]) -> KLFirstStage | VQFirstStage:
    """The network that the configuration of a diffusers AutoencoderKL or VQModel describes, with random weights.

    A configuration with `num_vq_embeddings` is a VQ model, else a KL model.
    Raises: UserError where the network is none of the paper's.
    """
    for key, value in _ONLY_VALUE.items():
        if config.get(key, value) != value:
            raise UserError(f"{key}={config[key]} of the diffusers configuration is not supported: only {value} is.")
    refuse_unknown(config, {*_ONLY_VALUE, *_READ}, "the autoencoder")
    projected = config.get("use_quant_conv", True)
    if config.get("use_post_quant_conv", True) != projected:
        raise UserError(
            "use_quant_conv and use_post_quant_conv of the diffusers configuration differ: they must agree."
        )
    widths = config["block_out_channels"]
    down, up = config["down_block_types"], config["up_block_types"]
    known = {"DownEncoderBlock2D", "AttnDownEncoderBlock2D", "UpDecoderBlock2D", "AttnUpDecoderBlock2D"}
    attended = [block.startswith("Attn") for block in down]
    if not known.issuperset((*down, *up)) or attended != [block.startswith("Attn") for block in reversed(up)]:
        raise UserError(
            f"down_block_types={tuple(down)} and up_block_types={tuple(up)} are not supported: they must mirror each "
            f"other and be of {', '.join(sorted(known))}."
        )
    vq = "num_vq_embeddings" in config
    # Sides only say where attention stands, which theirs says by level, whatever sample_size is.
    resolution = 2 ** len(widths)
    shared: dict[str, Any] = {
        "z_channels": config["latent_channels"],
        "ch": widths[0],
        "ch_mult": [width / widths[0] for width in widths],
        "num_res_blocks": config["layers_per_block"],
        "resolution": resolution,
        "attn_sides": [resolution // 2**level for level, has in enumerate(attended) if has],
        "mid_attention": config.get("mid_block_add_attention", True),
        "dropout": 0.0,
        "norm_groups": config["norm_num_groups"],
    }
    encoder = Encoder(in_channels=config["in_channels"], double_z=not vq, **shared)
    decoder = Decoder(out_channels=config["out_channels"], **shared)
    if vq:
        channels = config.get("vq_embed_dim") or config["latent_channels"]
        quantiser = VectorQuantiser(config["num_vq_embeddings"], channels, COMMITMENT_WEIGHT, legacy=True)
        return VQFirstStage(encoder, decoder, quantiser)
    return KLFirstStage(encoder, decoder, config["latent_channels"], projected)


def first_stage_config(model: FirstStage, resolution: int) -> dict[str, Any]:
    """The diffusers configuration of a KL or VQ first stage that was built here; its class stands in it.

    Raises: UserError for another first stage, for coders of another family, or norms with different numbers of groups.
    """
    written = _OWN_CONFIG.get(type(model))
    if written is None:
        raise UserError(
            f"a first stage of kind {type(model).__name__} has no class in diffusers: it cannot be exported"
        )
    own = written(model)
    if not isinstance(model.encoder, Encoder) or not isinstance(model.decoder, Decoder):
        raise UserError(
            f"diffusers has no {type(model).__name__} with a {type(model.encoder).__name__}: it cannot be exported"
        )
    levels = [level for level in model.encoder.levels if isinstance(level, Level)]
    attended = [isinstance(level.attentions[0], SelfAttention) for level in levels]
    groups = {layer.num_groups for layer in model.modules() if isinstance(layer, nn.GroupNorm)}
    if len(groups) != 1:
        raise UserError(f"the first stage's norms have {sorted(groups)} groups, but diffusers has one number for all")
    return {
        "in_channels": model.encoder.stem.in_channels,
        "out_channels": model.decoder.head.out_channels,
        "block_out_channels": [_width(level) for level in levels],
        "layers_per_block": len(levels[0].blocks),
        "down_block_types": ["AttnDownEncoderBlock2D" if has else "DownEncoderBlock2D" for has in attended],
        "up_block_types": ["AttnUpDecoderBlock2D" if has else "UpDecoderBlock2D" for has in reversed(attended)],
        "mid_block_add_attention": isinstance(model.encoder.middle[1], SelfAttention),
        "latent_channels": model.encoder.z_channels,
        "norm_num_groups": groups.pop(),
        "act_fn": "silu",
        "sample_size": resolution,
        **own,
    }


def _kl_config(model: KLFirstStage) -> dict[str, Any]:
    if model.channels != model.encoder.z_channels:
        raise UserError("a KL first stage of other channels in the latent than in the coder has no class in diffusers")
    projected = isinstance(model.to_latent, nn.Conv2d)
    return {"_class_name": KL_CLASS, "use_quant_conv": projected, "use_post_quant_conv": projected}


def _vq_config(model: VQFirstStage) -> dict[str, Any]:
    return {"_class_name": VQ_CLASS, "num_vq_embeddings": model.quantiser.codes, "vq_embed_dim": model.channels}


_OWN_CONFIG: Mapping[type[FirstStage], Callable[[Any], dict[str, Any]]] = {
    KLFirstStage: _kl_config,
    VQFirstStage: _vq_config,
}
"""What the configuration says of each kind of first stage that diffusers has a class for, its class among it."""


def _width(level: Level) -> int:
    last = level.blocks[-1]
    assert isinstance(last, ResidualBlock)
    return last.conv2.out_channels
