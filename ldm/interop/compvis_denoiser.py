"""UNets and class embeddings of CompVis latent-diffusion: their yaml parameters and the names in their checkpoints."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ldm.conditioning.class_label import ClassConditioning
from ldm.denoiser.unet import UNet
from ldm.errors import UserError
from ldm.interop.renaming import Substitutions

MODEL_PREFIX = "model."
EMA_PREFIX = "model_ema."
UNET_PREFIX = "diffusion_model."
CLASS_EMBEDDING = "cond_stage_model.embedding.weight"

# Ours -> CompVis, applied in this order to a parameter's name.
_RENAMES = Substitutions(
    (
        (r"^time_embedding\.first\.", "time_embed.0."),
        (r"^time_embedding\.second\.", "time_embed.2."),
        (r"^down\.0\.0\.conv\.", "input_blocks.0.0."),
        (r"^down\.(\d+)\.0\.conv\.", r"input_blocks.\1.0.op."),
        (r"^down\.", "input_blocks."),
        (r"^middle\.", "middle_block."),
        (r"^up\.", "output_blocks."),
        (r"^norm_out\.", "out.0."),
        (r"^conv_out\.", "out.2."),
        (r"\.norm1\.(weight|bias)$", r".in_layers.0.\1"),
        (r"\.conv1\.", ".in_layers.2."),
        (r"\.time\.", ".emb_layers.1."),
        (r"\.norm2\.(weight|bias)$", r".out_layers.0.\1"),
        (r"\.conv2\.", ".out_layers.3."),
        (r"\.skip\.", ".skip_connection."),
        (r"\.blocks\.(\d+)\.in_layers\.0\.", r".blocks.\1.norm1."),
        (r"\.blocks\.(\d+)\.out_layers\.0\.", r".blocks.\1.norm2."),
        (r"\.blocks\.", ".transformer_blocks."),
        (r"\.self_attention\.", ".attn1."),
        (r"\.cross_attention\.", ".attn2."),
        (r"\.to_out\.", ".to_out.0."),
        (r"\.feed_forward\.expand\.", ".ff.net.0.proj."),
        (r"\.feed_forward\.contract\.", ".ff.net.2."),
    )
)

# Options of the reference's UNet that ours has no counterpart for, and the one value under which they mean nothing.
_INERT = {"dims": 2, "conv_resample": True, "num_classes": None, "n_embed": None, "num_heads_upsample": -1}
_KNOWN = {
    *_INERT,
    *("image_size", "in_channels", "out_channels", "model_channels", "attention_resolutions", "num_res_blocks"),
    *("dropout", "channel_mult", "use_checkpoint", "use_fp16", "num_heads", "num_head_channels", "legacy"),
    *("use_scale_shift_norm", "resblock_updown", "use_new_attention_order", "use_spatial_transformer"),
    *("transformer_depth", "context_dim"),
}


def unet_arguments(params: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of our `UNet` for the `unet_config.params` of a CompVis yaml.

    Raises: UserError for an option that our UNet has no counterpart for.
    """
    foreign = [key for key in params if key not in _KNOWN or (key in _INERT and params[key] != _INERT[key])]
    if foreign:
        raise UserError(f"unet_config.params sets {', '.join(sorted(foreign))}, which this program's UNet cannot do")
    transformer = params.get("use_spatial_transformer", False)
    if transformer != (params.get("context_dim") is not None):
        raise UserError("unet_config.params must give use_spatial_transformer and context_dim together or neither")
    side = params["image_size"]
    width = params.get("num_head_channels", -1)
    return {
        "in_channels": params["in_channels"],
        "out_channels": params["out_channels"],
        "model_channels": params["model_channels"],
        "channel_mult": tuple(params.get("channel_mult", (1, 2, 4, 8))),
        "num_res_blocks": params["num_res_blocks"],
        "latent_side": side,
        "attention_sides": tuple(side // factor for factor in params["attention_resolutions"] if side % factor == 0),
        "num_head_channels": None if width == -1 else width,
        "num_heads": params.get("num_heads") if width == -1 else None,
        "context_dim": params["context_dim"] if transformer else None,
        "transformer_depth": params.get("transformer_depth", 1),
        "use_scale_shift_norm": params.get("use_scale_shift_norm", False),
        "resblock_updown": params.get("resblock_updown", False),
        "dropout": params.get("dropout", 0.0),
        "head_order": "qkv_first" if params.get("use_new_attention_order", False) else "heads_first",
    }


def unet_name(name: str) -> str:
    """CompVis' name, after "model.diffusion_model.", of the parameter that our UNet calls `name`."""
    return _RENAMES(name)


def _stored_name(name: str, ema: bool) -> str:
    """The full name in a checkpoint; LitEma stores its weights under the parameters' names without dots."""
    inner = UNET_PREFIX + unet_name(name)
    return EMA_PREFIX + inner.replace(".", "") if ema else MODEL_PREFIX + inner


def unet_state(checkpoint: Mapping[str, Tensor], unet: UNet, ema: bool = False) -> dict[str, Tensor]:
    """The weights of `unet` from the state dict of a CompVis checkpoint, plain or as its EMA (LitEma) holds them.

    Shapes: as in `unet`; the checkpoint's 1 x 1 convolutions in attention are our linear layers.
    Raises: UserError where the checkpoint lacks a weight, has one more, or has one of another size.
    """
    state = {}
    for name, parameter in unet.state_dict().items():
        stored = _stored_name(name, ema)
        if stored not in checkpoint:
            raise UserError(f"the checkpoint has no weight '{stored}', which the UNet of its yaml needs")
        if checkpoint[stored].numel() != parameter.numel():
            raise UserError(
                f"the checkpoint's weight '{stored}' has shape {tuple(checkpoint[stored].shape)}, but the UNet of its "
                f"yaml needs {tuple(parameter.shape)}"
            )
        state[name] = checkpoint[stored].reshape(parameter.shape).to(parameter.dtype)
    prefix = _stored_name("", ema)
    unused = sorted({key for key in checkpoint if key.startswith(prefix)} - {_stored_name(name, ema) for name in state})
    if unused:
        raise UserError(
            f"the checkpoint has {len(unused)} weights that the UNet of its yaml lacks, such as '{unused[0]}'"
        )
    return state


def compvis_unet_state(unet: UNet) -> dict[str, Tensor]:
    """The weights of `unet` as a CompVis checkpoint's state dict names and shapes them."""
    ours = unet.state_dict()
    state = {}
    for name, value in ours.items():
        module, _, kind = name.rpartition(".")
        place, _, layer = module.rpartition(".")
        if kind == "weight" and layer in ("qkv", "proj_in", "proj_out"):
            # The reference's self-attention projects by 1-d convolutions, its spatial transformer by 2-d ones.
            value = value[..., None] if f"{place}.qkv.weight" in ours else value[..., None, None]
        state[_stored_name(name, ema=False)] = value
    return state


def unet_from_compvis(params: Mapping[str, Any], checkpoint: Mapping[str, Tensor], ema: bool) -> UNet:
    """The UNet of a CompVis yaml's `unet_config.params` with the plain or the EMA weights of a checkpoint."""
    unet = UNet(**unet_arguments(params))
    unet.load_state_dict(unet_state(checkpoint, unet, ema))
    return unet


def class_conditioning_from_compvis(checkpoint: Mapping[str, Tensor], classes: int) -> ClassConditioning:
    """The class embedding of a checkpoint for `classes` real classes; a table with one row more has a null class.

    Raises: UserError where the checkpoint has no class embedding or one of another size.
    """
    table = checkpoint.get(CLASS_EMBEDDING)
    if table is None:
        raise UserError(f"the checkpoint has no class embedding '{CLASS_EMBEDDING}'")
    if len(table) not in (classes, classes + 1):
        raise UserError(f"the checkpoint's class embedding has {len(table)} rows, which do not fit {classes} classes")
    conditioning = ClassConditioning(classes, table.shape[1], null_class=len(table) > classes)
    conditioning.embedding.load_state_dict({"weight": table.to(conditioning.embedding.weight.dtype)})
    return conditioning
