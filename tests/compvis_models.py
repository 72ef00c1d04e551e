"""Small checkpoints written as CompVis' code writes them, with the options that its released models use."""

import copy
from pathlib import Path

import torch
import yaml

from ldm.conditioning.transformer import TokenTransformer
from ldm.denoiser import UNet
from ldm.interop.compvis_conditioning import stored_name
from ldm.interop.compvis_denoiser import compvis_unet_state, unet_arguments
from ldm.interop.compvis_first_stage import build_compvis_first_stage, to_compvis

DDCONFIG = {
    "double_z": False,
    "z_channels": 3,
    "resolution": 32,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}
VQ = {"target": "ldm.models.autoencoder.VQModelInterface", "params": {"embed_dim": 3, "n_embed": 16}}
KL = {"target": "ldm.models.autoencoder.AutoencoderKL", "params": {"embed_dim": 3}}
UNET = {
    "image_size": 16,
    "in_channels": 3,
    "out_channels": 3,
    "model_channels": 32,
    "attention_resolutions": [8, 4, 2],
    "num_res_blocks": 1,
    "channel_mult": [1, 2],
    "num_head_channels": 32,
}
CROSS = {"use_spatial_transformer": True, "transformer_depth": 1, "context_dim": 24}

RELEASED = {
    "celeba256": {},
    "lsun_churches256": {
        "unet": {"num_head_channels": -1, "num_heads": 8, "use_scale_shift_norm": True, "resblock_updown": True},
        "first_stage": KL,
        "params": {"scale_by_std": True, "concat_mode": False},
    },
    "cin256-v2": {
        "unet": {**CROSS, "num_head_channels": -1, "num_heads": 1},
        "condition": {
            "target": "ldm.modules.encoders.modules.ClassEmbedder",
            "params": {"n_classes": 7, "embed_dim": 24},
        },
        "params": {"conditioning_key": "crossattn", "use_ema": False},
    },
    "layout2img-openimages256": {
        "unet": {**CROSS, "transformer_depth": 3},
        "condition": {
            "target": "ldm.modules.encoders.modules.BERTEmbedder",
            "params": {"n_embed": 24, "n_layer": 2, "vocab_size": 40, "max_seq_len": 11, "use_tokenizer": False},
        },
        "params": {"conditioning_key": "crossattn", "cond_stage_key": "coordinates_bbox"},
    },
    "txt2img-1p4B": {
        "unet": {**CROSS, "num_head_channels": -1, "num_heads": 8, "use_checkpoint": True, "legacy": False},
        "first_stage": KL,
        "condition": {"target": "ldm.modules.encoders.modules.BERTEmbedder", "params": {"n_embed": 24, "n_layer": 1}},
        "params": {"conditioning_key": "crossattn", "scale_factor": 0.18215, "use_ema": False},
    },
    "semantic_synthesis512": {
        "unet": {"in_channels": 6, "attention_resolutions": [32, 16, 8], "num_head_channels": -1, "num_heads": 8},
        "condition": {
            "target": "ldm.modules.encoders.modules.SpatialRescaler",
            "params": {"n_stages": 1, "in_channels": 5, "out_channels": 3},
        },
        "params": {"concat_mode": True, "cond_stage_key": "segmentation"},
    },
    "bsr_sr": {
        "unet": {"in_channels": 6, "attention_resolutions": [16, 8]},
        "condition": {"target": "torch.nn.Identity"},
        "params": {"concat_mode": True, "cond_stage_key": "LR_image"},
    },
    "inpainting_big": {
        "unet": {"in_channels": 7, "num_head_channels": -1, "num_heads": 8, "resblock_updown": True},
        "condition": "__is_first_stage__",
        "params": {"concat_mode": True, "cond_stage_key": "masked_image"},
    },
}
"""What sets each released model apart, its sizes made small."""


PIXELS = {"first_stage": {"target": "ldm.models.autoencoder.IdentityFirstStage"}}
"""A diffusion model without a first stage, of which none was released."""


def published(name):
    """The yaml's content of a released model made small, and a state dict of random weights that fits it."""
    return made_of(RELEASED[name])


def made_of(own):
    """The same of what sets a model apart."""
    own = copy.deepcopy({"first_stage": VQ, **own})  # whoever changes what is made changes nothing here
    unet, first_stage = {**UNET, **own.get("unet", {})}, own["first_stage"]
    if "params" in first_stage:
        first_stage["params"]["ddconfig"] = {**DDCONFIG, "double_z": "n_embed" not in first_stage["params"]}
    condition = own.get("condition", "__is_unconditional__")
    params = {
        "linear_start": 0.0015,
        "linear_end": 0.0195,
        "timesteps": 1000,
        "image_size": unet["image_size"],
        "channels": 3,
        **own.get("params", {}),
        "unet_config": {"target": "ldm.modules.diffusionmodules.openaimodel.UNetModel", "params": unet},
        "first_stage_config": first_stage,
        "cond_stage_config": condition,
    }
    state = compvis_unet_state(UNet(**unet_arguments(unet)))
    if params.get("use_ema", True):
        state |= {f"model_ema.{k.removeprefix('model.').replace('.', '')}": v + 1 for k, v in state.items()}
    if "params" in first_stage:
        state |= to_compvis(build_compvis_first_stage(first_stage["params"]).state_dict(), "first_stage_model.")
    if isinstance(condition, dict):
        state |= conditioner(condition)
    elif condition == "__is_first_stage__":  # theirs registers the first stage twice
        state |= {k.replace("first_stage_model", "cond_stage_model"): v for k, v in state.items() if "first_stage" in k}
    if params.get("scale_by_std"):
        state["scale_factor"] = torch.tensor(0.25)
    return {"model": {"target": "ldm.models.diffusion.ddpm.LatentDiffusion", "params": params}}, state


def conditioner(config):
    """Random weights of a conditioner under its names."""
    options = config.get("params", {})
    match config["target"].rpartition(".")[2]:
        case "ClassEmbedder":
            return {"cond_stage_model.embedding.weight": torch.randn(options["n_classes"], options["embed_dim"])}
        case "BERTEmbedder":
            sizes = options.get("vocab_size", 30522), options.get("max_seq_len", 77), options["n_embed"]
            transformer = TokenTransformer(*sizes, options["n_layer"]).state_dict()
            return {stored_name(name): value for name, value in transformer.items()}
        case "SpatialRescaler":
            weight = torch.randn(options["out_channels"], options["in_channels"], 1, 1)
            return {"cond_stage_model.channel_mapper.weight": weight}
    return {}


def write(folder: Path, config, state):
    """Writes checkpoint and yaml, and gives the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    torch.save({"epoch": 1, "global_step": 2, "state_dict": state}, folder / "model.ckpt")
    return folder
