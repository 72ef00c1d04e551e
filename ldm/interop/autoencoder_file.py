"""Autoencoders published as bare weights, without a configuration: their architecture is read from names and shapes."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm.errors import UserError
from ldm.first_stage.coder import Decoder, Encoder
from ldm.first_stage.contract import FirstStage
from ldm.first_stage.kl import KLFirstStage
from ldm.first_stage.vq import VectorQuantiser, VQFirstStage
from ldm.interop import compvis_first_stage, diffusers_first_stage
from ldm.interop.compvis_first_stage import CODEBOOK, COMMITMENT_WEIGHT
from ldm.interop.contract import Loaded, WeightsKind, check_taken
from ldm.interop.filling import fill
from ldm.interop.renaming import Renaming
from ldm.interop.tensors import read_weights
from ldm.interop.tiny_autoencoder import DIFFUSERS_PREFIXES, build_tiny_autoencoder, whole_tiny_autoencoder

FIRST_WEIGHTS = ("encoder.down.0.block.0.norm1.weight", "encoder.down_blocks.0.resnets.0.norm1.weight")
"""By CompVis' names and by those of diffusers. What stands before them stands before all names of the autoencoder."""

PARTS = ("first_stage_model.", "vae.", "autoencoder.", "first_stage.")
"""Parts of a larger model that are its autoencoder, where others in it have an encoder of the same kind, too."""

_HALVES = ("encoder", "decoder")
_NUMBERED = re.compile(r"\d+\.(conv\.0\.)?weight")


def read(path: Path, weights: str = "auto", is_part: bool = False) -> Loaded:
    """The first stage of a file of weights: Stable Diffusion's autoencoder and its kin, or a tiny autoencoder.

    Of a tiny autoencoder in two files either may be named; the other lies beside it under the same name with "encoder"
    and "decoder" exchanged. The scale of latents stands in none of these files: it is 1 here. With `is_part` the file
    may be that of a whole model. `weights` as in `ldm.interop.load`.
    Raises: UserError where the file holds neither, or weights are missing or do not fit.
    """
    state, taken = read_weights(path, weights)
    check_taken(path, weights, taken)
    return dataclasses.replace(model_of(path, state, weights, taken, is_part), weights=taken)


def model_of(
    path: Path, state: Mapping[str, Tensor], weights: str, taken: WeightsKind, is_part: bool = False
) -> Loaded:
    """The first stage of the weights that a file holds, of which `taken` was taken; else as `read`."""
    if any(_NUMBERED.fullmatch(name) for name in state):
        return Loaded("tiny autoencoder", _tiny_pair(path, state, weights, taken))
    if any(name.startswith(DIFFUSERS_PREFIXES) for name in state):
        return Loaded("tiny autoencoder, diffusers names", whole_tiny_autoencoder(state, DIFFUSERS_PREFIXES))
    prefixes = ("encoder.", "decoder.")
    if any(name.startswith(prefixes) and _NUMBERED.fullmatch(name.partition(".")[2]) for name in state):
        return Loaded("tiny autoencoder", whole_tiny_autoencoder(state, prefixes))
    if not is_part and any(name.startswith("model.diffusion_model.") for name in state):
        raise UserError(f"{path} holds a denoiser too, which cannot be read without its yaml: put that beside it")
    prefix = _prefix(path, state)
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    if FIRST_WEIGHTS[0] in own:
        ours = compvis_first_stage.from_compvis(own)
        return Loaded("autoencoder, CompVis names", _first_stage(path, ours, compvis_first_stage.NAMES))
    if FIRST_WEIGHTS[1] in own:
        ours = diffusers_first_stage.from_diffusers(own)
        return Loaded("autoencoder, diffusers names", _first_stage(path, ours, diffusers_first_stage.NAMES))
    raise UserError(
        f"{path} looks like no autoencoder's weights: neither {FIRST_WEIGHTS[0]} (CompVis) nor {FIRST_WEIGHTS[1]} "
        "(diffusers) nor 0.weight (a tiny autoencoder) is in it, but "
        f"'{min(own or state)}' is"
    )


def _prefix(path: Path, state: Mapping[str, Tensor]) -> str:
    """What stands before the autoencoder's names. Raises: UserError where it may be one of several networks."""
    found = {name.removesuffix(first) for name in state for first in FIRST_WEIGHTS if name.endswith(first)}
    found = {prefix for prefix in found if not prefix or prefix.endswith(".")}
    if len(found) > 1:
        found = {prefix for prefix in found if prefix.endswith(PARTS)} or found
    if len(found) > 1 and "" not in found:
        raise UserError(f"{path} holds several autoencoders ({', '.join(sorted(found))}): save the one that is wanted")
    return "" if "" in found else next(iter(found), "")


def tiny_half_in(folder: Path) -> Path | None:
    """The encoder of the one tiny autoencoder in two files that a folder holds; None for none or several."""
    found = [
        file
        for file in folder.iterdir()
        if "encoder" in file.name and file.with_name(file.name.replace("encoder", "decoder")).is_file()
    ]
    return found[0] if len(found) == 1 else None


def _tiny_pair(path: Path, state: Mapping[str, Tensor], weights: str, taken: WeightsKind) -> FirstStage:
    """A tiny autoencoder of two files, one of which has been read.

    Raises: UserError where the other is not there, or only one of the two has a moving average that would be taken.
    """
    named = [half for half in _HALVES if half in path.name]
    if len(named) != 1:
        raise UserError(
            f"{path} is one half of a tiny autoencoder, but its name says neither encoder nor decoder: name the two "
            "files alike but for these words"
        )
    half, other = named[0], next(half for half in _HALVES if half != named[0])
    beside = path.with_name(path.name.replace(half, other))
    if not beside.is_file():
        raise UserError(f"{path} is the {half} of a tiny autoencoder; its {other}, {beside.name}, is not beside it")
    beside_state, beside_taken = read_weights(beside, weights)
    check_taken(beside, weights, beside_taken)
    if beside_taken != taken:
        averaged, plain = (path, beside) if taken == "ema" else (beside, path)
        raise UserError(
            f"{averaged} holds a moving average and {plain}, its other half, holds none: use weights=raw, or give both "
            "halves of one kind"
        )
    halves = {half: state, other: beside_state}
    return build_tiny_autoencoder(halves["encoder"], halves["decoder"])


def _first_stage(path: Path, state: Mapping[str, Tensor], names: Renaming) -> FirstStage:
    """The KL or VQ first stage of a state dict under our names; `names` are those of the file."""
    told = f"the autoencoder {path.name}"
    try:
        first_stage = _built(state)
    except KeyError as error:
        raise UserError(f"{told} lacks weights that every such network has ({error}, by our name)") from error
    fill(first_stage, state, names.to_theirs(first_stage.state_dict()), told)
    return first_stage


def _built(state: Mapping[str, Tensor]) -> FirstStage:
    """The network with random weights. Raises: KeyError for a weight that its architecture is read from."""
    widths: list[int] = []
    while (name := f"encoder.levels.{len(widths)}.blocks.0.conv2.weight") in state:
        widths.append(len(state[name]))
    ch = len(state["encoder.stem.weight"])
    blocks = 0
    while f"encoder.levels.0.blocks.{blocks}.conv2.weight" in state:
        blocks += 1
    # At what side a level works depends on the image; only which levels have attention stands in the weights.
    nominal = 2 ** len(widths)
    attended = [level for level in range(len(widths)) if f"encoder.levels.{level}.attentions.0.norm.weight" in state]
    is_vq = CODEBOOK in state
    shared: dict[str, Any] = {
        "z_channels": state["decoder.stem.weight"].shape[1],
        "ch": ch,
        "ch_mult": [width / ch for width in widths],
        "num_res_blocks": blocks,
        "resolution": nominal,
        "attn_sides": [nominal >> level for level in attended],
        "mid_attention": "encoder.middle.1.norm.weight" in state,
        "dropout": 0.0,
    }
    encoder = Encoder(in_channels=state["encoder.stem.weight"].shape[1], double_z=not is_vq, **shared)
    decoder = Decoder(out_channels=len(state["decoder.head.weight"]), **shared)
    if is_vq:
        codes, channels = state[CODEBOOK].shape
        return VQFirstStage(encoder, decoder, VectorQuantiser(codes, channels, COMMITMENT_WEIGHT, legacy=True))
    projected = "to_latent.weight" in state
    channels = state["from_latent.weight"].shape[1] if projected else shared["z_channels"]
    return KLFirstStage(encoder, decoder, channels, projected)
