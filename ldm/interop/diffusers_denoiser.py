"""The UNets of diffusers (UNet2DModel, UNet2DConditionModel), in and out: their config and names of weights."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ldm.conditioning import ClassConditioning
from ldm.denoiser.attention import SelfAttention, SpatialTransformer, TransformerBlock, reorder_heads
from ldm.denoiser.blocks import NORM_GROUPS, Convolution, ResidualBlock
from ldm.denoiser.unet import UNet
from ldm.errors import UserError
from ldm.interop.diffusers_names import current_name
from ldm.interop.diffusers_options import refuse_unknown
from ldm.interop.filling import load_renamed
from ldm.interop.renaming import Substitutions

# Values of a diffusers config under which its UNet is the paper's; a key that a config lacks has this value there.
_REQUIRED: dict[str, tuple[Any, ...]] = {
    "center_input_sample": (False,),
    "time_embedding_type": ("positional",),
    "time_embedding_dim": (None,),
    "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,),
    "time_cond_proj_dim": (None,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "downsample_padding": (1,),
    "downsample_type": ("conv",),
    "upsample_type": ("conv",),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2D", "UNetMidBlock2DCrossAttn"),
    "add_attention": (True,),
    "act_fn": ("silu",),
    "norm_eps": (1e-5,),
    "class_embed_type": (None,),
    "addition_embed_type": (None,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "only_cross_attention": (False,),
    "mid_block_only_cross_attention": (None, False),
    "dual_cross_attention": (False,),
    "attention_type": ("default",),
    "cross_attention_norm": (None,),
    "resnet_skip_time_act": (False,),
    "resnet_out_scale_factor": (1,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "reverse_transformer_layers_per_block": (None,),
}
_READ = {
    *("sample_size", "in_channels", "out_channels", "down_block_types", "up_block_types", "block_out_channels"),
    *("layers_per_block", "dropout", "attention_head_dim", "num_attention_heads", "norm_num_groups"),
    *("attn_norm_num_groups", "resnet_time_scale_shift", "cross_attention_dim", "transformer_layers_per_block"),
    *("use_linear_projection", "upcast_attention", "num_train_timesteps", "addition_embed_type_num_heads"),
    "num_class_embeds",
}
"""Options that are read, that the weights tell, or that mean nothing under the values above."""

CLASS_TABLE = "class_embedding.weight"
"""The embedding of classes that theirs adds to that of the time step."""

GROUPED = "Grouped"
"""How the names of exported classes begin whose norms have fewer groups where 32 does not divide the width."""

_PLAIN = ("DownBlock2D", "UpBlock2D")
_SELF = ("AttnDownBlock2D", "AttnUpBlock2D")
_CROSS = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")

# Ours -> diffusers within a block, applied in this order to the rest of a parameter's name.
_RENAMES = Substitutions(
    (
        (r"^time\.", "time_emb_proj."),
        (r"^skip\.", "conv_shortcut."),
        (r"^blocks\.", "transformer_blocks."),
        (r"\.self_attention\.", ".attn1."),
        (r"\.cross_attention\.", ".attn2."),
        (r"\.to_out\.", ".to_out.0."),
        (r"\.feed_forward\.expand\.", ".ff.net.0.proj."),
        (r"\.feed_forward\.contract\.", ".ff.net.2."),
    )
)
_SELF_ATTENTION_RENAMES = Substitutions(((r"^norm\.", "group_norm."), (r"^proj_out\.", "to_out.0.")))


def _single(config: Mapping[str, Any], key: str, default: Any) -> Any:
    """A value that a config gives once or once a level, all alike.

    Raises: UserError where levels differ.
    """
    value = config.get(key, default)
    if not isinstance(value, list | tuple):
        return value
    if len(set(value)) != 1:
        raise UserError(f"the diffusers config gives {key}={list(value)}, but this program's UNet needs one value")
    return value[0]


def _attention_levels(config: Mapping[str, Any], kinds: tuple[str, str]) -> list[int]:
    """The levels with attention.

    Raises: UserError for other kinds of blocks, or where the way up does not mirror the way down.
    """
    levels = []
    for names, plain, kind in zip(
        (config["down_block_types"], tuple(reversed(config["up_block_types"]))), _PLAIN, kinds, strict=True
    ):
        foreign = [name for name in names if name not in (plain, kind)]
        if foreign:
            raise UserError(f"the diffusers config has a block '{foreign[0]}', which this program's UNet cannot be")
        levels.append([level for level, name in enumerate(names) if name == kind])
    if levels[0] != levels[1]:
        raise UserError(f"the diffusers config has attention at levels {levels[0]} down but {levels[1]} up")
    return levels[0]


def _heads(config: Mapping[str, Any], attended: Sequence[int]) -> dict[str, int | None]:
    """Heads as our UNet takes them: UNet2DModel gives their width, UNet2DConditionModel their number.

    Raises: UserError where neither the number nor the width is the same at all levels with attention and in the middle.
    """
    if "cross_attention_dim" not in config:
        width = config.get("attention_head_dim", 8)
        return {"num_head_channels": width, "num_heads": 1 if width is None else None}
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    if not isinstance(heads, list | tuple):
        return {"num_head_channels": None, "num_heads": heads}
    places = sorted({*attended, len(heads) - 1})
    widths = {config["block_out_channels"][place] / heads[place] for place in places}
    if len(widths) == 1 and (width := widths.pop()) == int(width):
        return {"num_head_channels": int(width), "num_heads": None}
    return {"num_head_channels": None, "num_heads": _single(config, "attention_head_dim", 8)}


def unet_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of our `UNet` for the config of a UNet2DModel or (with `cross_attention_dim`) UNet2DConditionModel.

    Raises: UserError for an option under which theirs is not the paper's UNet.
    """
    for key, allowed in _REQUIRED.items():
        if key in config and config[key] not in allowed:
            raise UserError(f"the diffusers config has {key}={config[key]!r}, which this program's UNet cannot do")
    refuse_unknown(config, {*_REQUIRED, *_READ}, "the UNet")
    cross = "cross_attention_dim" in config
    is_told_classes = config.get("num_class_embeds") is not None
    if cross and is_told_classes:
        raise UserError(
            f"the diffusers config has num_class_embeds={config['num_class_embeds']} beside cross_attention_dim, but "
            "this program's UNet is told either classes or tokens"
        )
    adaptive = config.get("resnet_time_scale_shift", "default") == "scale_shift"
    if adaptive and not cross and config.get("attn_norm_num_groups") is None:
        raise UserError(
            "the diffusers config has resnet_time_scale_shift='scale_shift' without attn_norm_num_groups, whose middle "
            "attention has no norm, which this program's UNet cannot do"
        )
    widths = config["block_out_channels"]
    groups = config.get("norm_num_groups", NORM_GROUPS)
    if any(width % groups for width in widths) and not str(config.get("_class_name", "")).startswith(GROUPED):
        raise UserError(
            f"the diffusers config has block_out_channels={list(widths)}, which must be multiples of "
            f"norm_num_groups={groups}"
        )
    of_attention = config.get("attn_norm_num_groups")
    if of_attention not in (None, groups):
        raise UserError(
            f"the diffusers config has attn_norm_num_groups={of_attention} beside norm_num_groups={groups}, but this "
            "program's UNet has one number of groups"
        )
    # Sides only say where attention stands, which theirs says by level, whatever sample_size is.
    side = 2 ** len(widths)
    levels = _attention_levels(config, _CROSS if cross else _SELF)
    return {
        "in_channels": config["in_channels"],
        "out_channels": config["out_channels"],
        "model_channels": widths[0],
        "channel_mult": tuple(width / widths[0] for width in widths),
        "num_res_blocks": _single(config, "layers_per_block", 2),
        "latent_side": side,
        "attention_sides": tuple(side >> level for level in levels),
        **_heads(config, levels),
        "context_dim": 4 * widths[0] if is_told_classes else _single(config, "cross_attention_dim", None),
        "adds_context": is_told_classes,
        "transformer_depth": _single(config, "transformer_layers_per_block", 1),
        "use_scale_shift_norm": adaptive,
        "dropout": config.get("dropout", 0.0),
        "head_order": "qkv_first",
        "norm_groups": groups,
    }


def _places(unet: UNet) -> dict[str, str]:
    """Our module path -> theirs, for all blocks and for the layers outside blocks."""
    places = {
        "time_embedding.first": "time_embedding.linear_1",
        "time_embedding.second": "time_embedding.linear_2",
        "down.0.0.conv": "conv_in",
        "norm_out": "conv_norm_out",
        "conv_out": "conv_out",
        "middle.0": "mid_block.resnets.0",
        "middle.1": "mid_block.attentions.0",
        "middle.2": "mid_block.resnets.1",
    }
    per_level = len(unet.up) // (unet.halvings + 1)
    for way, first, resampler in (("down", 1, "downsamplers.0"), ("up", 0, "upsamplers.0")):
        for position, blocks in enumerate(list(getattr(unet, way))[first:]):
            level, place = divmod(position, per_level)
            for number, block in enumerate(blocks):
                if isinstance(block, Convolution):
                    theirs = resampler
                else:
                    attention = isinstance(block, SelfAttention | SpatialTransformer)
                    theirs = f"{'attentions' if attention else 'resnets'}.{place}"
                places[f"{way}.{position + first}.{number}"] = f"{way}_blocks.{level}.{theirs}"
    return places


def _translated(block: nn.Module, rest: str) -> str:
    renames = _SELF_ATTENTION_RENAMES if isinstance(block, SelfAttention) else _RENAMES
    return renames(rest)


def unet_state(weights: Mapping[str, Tensor], unet: UNet) -> dict[str, Tensor]:
    """The weights of `unet`, built by `unet_arguments`, from a diffusers state dict; an embedding of classes is left.

    Raises: UserError where theirs lacks a weight, has one more, or has one of another shape.
    """
    weights = {current_name(name): value for name, value in weights.items()}
    unread = set(weights) - ({CLASS_TABLE} if unet.adds_context else set())

    def taken(name: str) -> Tensor:
        if name not in weights:
            raise UserError(f"the diffusers weights have no '{name}', which the UNet of their config needs")
        unread.discard(name)
        return weights[name]

    def fitted(value: Tensor, like: Tensor, name: str) -> Tensor:
        # 1 x 1 convolutions of theirs are linear layers of ours.
        if value.shape != like.shape and value.flatten(1).shape != like.shape:
            raise UserError(
                f"the diffusers weights have '{name}' of shape {tuple(value.shape)}; expected {tuple(like.shape)}"
            )
        return value.reshape(like.shape).to(like.dtype)

    state = {}
    for place, theirs in _places(unet).items():
        block = unet.get_submodule(place)
        for rest, parameter in block.state_dict().items():
            if isinstance(block, SelfAttention) and rest.startswith("qkv."):
                kind = rest.removeprefix("qkv.")
                rows = torch.cat([taken(f"{theirs}.to_{part}.{kind}") for part in "qkv"])
                value, name = reorder_heads(rows, block.heads, "qkv_first", block.head_order), f"{theirs}.to_q.{kind}"
            else:
                name = f"{theirs}.{_translated(block, rest)}"
                value = taken(name)
            state[f"{place}.{rest}"] = fitted(value, parameter, name)
    if unread:
        raise UserError(f"the diffusers weights hold {len(unread)} more than the UNet needs, such as '{min(unread)}'")
    return state


def unet_from_diffusers(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> UNet:
    """The UNet of a diffusers config with the weights of a diffusers state dict."""
    unet = UNet(**unet_arguments(config))
    unet.load_state_dict(unet_state(weights, unet))
    return unet


def classes_from_diffusers(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> ClassConditioning:
    """The embedding of classes that a UNet of diffusers with `num_class_embeds` holds.

    Raises: UserError where it is missing or of another size than the config says.
    """
    conditioning = ClassConditioning(config["num_class_embeds"], 4 * config["block_out_channels"][0], null_class=False)
    load_renamed(conditioning, weights, {"embedding.weight": CLASS_TABLE})
    return conditioning


def unet_config(unet: UNet, latent_side: int) -> dict[str, Any]:
    """The diffusers config of a UNet that works on latents of that side; its class stands in it.

    Where widths do not allow 32 groups in every norm, the class is our own, which exports carry along.
    Raises: UserError for what theirs have no counterpart for.
    """
    if unet.adds_context:
        raise UserError("a UNet that adds its context to the time embedding cannot be exported")
    if unet.fold > 1:
        raise UserError(f"denoiser.fold={unet.fold} has no counterpart in diffusers' UNets: it cannot be exported")
    per_level = len(unet.up) // (unet.halvings + 1)
    firsts = [list(_blocks(unet.down[1 + level * per_level])) for level in range(unet.halvings + 1)]
    middle, attention = _blocks(unet.middle)[:2]
    assert isinstance(middle, ResidualBlock)
    if unet.halvings and not isinstance(_blocks(unet.down[per_level])[0], Convolution):
        raise UserError("denoiser.resblock_updown=true has no counterpart in diffusers' UNets: it cannot be exported")
    widths = [blocks[0].conv2.out_channels for blocks in firsts if isinstance(blocks[0], ResidualBlock)]
    # Of levels without attention the number of heads is never read.
    heads = [_heads_of(blocks[1]) if len(blocks) > 1 else 1 for blocks in firsts]
    heads[-1] = _heads_of(attention)
    down, up = (
        [kind if len(blocks) > 1 else plain for blocks in firsts]
        for kind, plain in zip(_SELF if unet.context_dim is None else _CROSS, _PLAIN, strict=True)
    )
    kind, groups = _norms(unet, "UNet2DModel" if unet.context_dim is None else "UNet2DConditionModel")
    config: dict[str, Any] = {
        "_class_name": kind,
        "sample_size": latent_side,
        "in_channels": unet.in_channels,
        "out_channels": unet.conv_out.out_channels,
        "block_out_channels": widths,
        "layers_per_block": per_level - 1,
        "down_block_types": down,
        "up_block_types": up[::-1],
        "norm_num_groups": groups,
        "norm_eps": 1e-5,
        "act_fn": "silu",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "downsample_padding": 1,
        "dropout": middle.dropout.p,
        "resnet_time_scale_shift": "scale_shift" if middle.scale_shift else "default",
    }
    if isinstance(attention, SpatialTransformer):
        return config | {
            "attention_head_dim": heads,
            "cross_attention_dim": unet.context_dim,
            "transformer_layers_per_block": len(attention.blocks),
            "use_linear_projection": True,
        }
    attended = {level for level, blocks in enumerate(firsts) if len(blocks) > 1} | {unet.halvings}
    head_widths = {widths[level] // heads[level] for level in attended}
    if len(head_widths) > 1 and {heads[level] for level in attended} != {1}:
        raise UserError(
            "denoiser.num_heads at attention of different widths has no counterpart in a UNet2DModel, whose heads have "
            "one width: it cannot be exported"
        )
    return config | {
        "attention_head_dim": head_widths.pop() if len(head_widths) == 1 else None,
        "attn_norm_num_groups": groups if middle.scale_shift else None,
    }


def _blocks(blocks: nn.Module) -> nn.ModuleList:
    assert isinstance(blocks, nn.ModuleList)
    return blocks


def _heads_of(attention: nn.Module) -> int:
    if isinstance(attention, SelfAttention):
        return attention.heads
    assert isinstance(attention, SpatialTransformer)
    first = attention.blocks[0]
    assert isinstance(first, TransformerBlock)
    return first.self_attention.heads


def _norms(unet: UNet, plain: str) -> tuple[str, int]:
    """The class for a UNet that would be a `plain` one of diffusers but for its norms, and its norm_num_groups."""
    groups = {layer.num_groups for layer in unet.modules() if isinstance(layer, nn.GroupNorm)}
    return (plain, groups.pop()) if len(groups) == 1 else (GROUPED + plain, NORM_GROUPS)


def diffusers_unet_state(unet: UNet) -> dict[str, Tensor]:
    """The weights of `unet` as the diffusers class of its `unet_config` names them: the inverse of `unet_state`."""
    state: dict[str, Tensor] = {}
    for place, theirs in _places(unet).items():
        block = unet.get_submodule(place)
        for rest, value in block.state_dict().items():
            if isinstance(block, SelfAttention) and rest.startswith("qkv."):
                rows = reorder_heads(value, block.heads, block.head_order, "qkv_first").chunk(3)
                kind = rest.removeprefix("qkv.")
                state |= {f"{theirs}.to_{part}.{kind}": row for part, row in zip("qkv", rows, strict=True)}
            else:
                state[f"{theirs}.{_translated(block, rest)}"] = value
    return state
