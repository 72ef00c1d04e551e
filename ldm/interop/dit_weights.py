"""Diffusion transformers in the names of their authors' code, in and out: released checkpoints, and diffusers' class.

A file of bare weights says neither heads nor schedule: heads follow from the width as in the paper's table 1, schedule
and target are those that all of the paper's models were trained with.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.conditioning import ClassConditioning
from ldm.denoiser.dit import NORM_EPSILON, SIZES, DiT, grid_embedding
from ldm.denoiser.patches import PATCHES
from ldm.diffusion.schedule import VariancePreservingSchedule, linear_betas
from ldm.errors import UserError
from ldm.interop.contract import Loaded, RawConditioning
from ldm.interop.diffusers_options import refuse_unknown
from ldm.interop.filling import fill
from ldm.interop.renaming import Substitutions

SIGN = "x_embedder.proj.weight"
"""A weight by whose name a file is known to hold such a network."""

CLASS_TABLE, POSITIONS = "y_embedder.embedding_table.weight", "pos_embed"

DIFFUSERS_CLASS = "DiTTransformer2DModel"

DIFFUSERS_SHIFT = 1.0
"""Of the frequencies of the noise level in diffusers' class, whatever its weights were trained with."""

# Ours -> the authors'.
_RENAMES = Substitutions(
    (
        (r"^embed\.", "x_embedder.proj."),
        (r"^level\.first\.", "t_embedder.mlp.0."),
        (r"^level\.second\.", "t_embedder.mlp.2."),
        (r"\.attention\.qkv\.", ".attn.qkv."),
        (r"\.attention\.out\.", ".attn.proj."),
        (r"\.feed_forward\.expand\.", ".mlp.fc1."),
        (r"\.feed_forward\.contract\.", ".mlp.fc2."),
        (r"^(blocks\.\d+\.)modulation\.", r"\1adaLN_modulation.1."),
        (r"^modulation\.", "final_layer.adaLN_modulation.1."),
        (r"^out\.", "final_layer.linear."),
    )
)

# The authors' -> diffusers', of which each block has an embedding of noise level and class of its own.
_DIFFUSERS_RENAMES = Substitutions(
    (
        (r"^x_embedder\.", "pos_embed."),
        (r"^blocks\.", "transformer_blocks."),
        (r"\.attn\.proj\.", ".attn1.to_out.0."),
        (r"\.attn\.qkv\.", ".attn1.to_{}."),
        (r"\.mlp\.fc1\.", ".ff.net.0.proj."),
        (r"\.mlp\.fc2\.", ".ff.net.2."),
        (r"^(transformer_blocks\.\d+\.)adaLN_modulation\.1\.", r"\1norm1.linear."),
        (r"^final_layer\.adaLN_modulation\.1\.", "proj_out_1."),
        (r"^final_layer\.linear\.", "proj_out_2."),
        (r"^t_embedder\.mlp\.0\.", "norm1.emb.timestep_embedder.linear_1."),
        (r"^t_embedder\.mlp\.2\.", "norm1.emb.timestep_embedder.linear_2."),
        (r"^y_embedder\.", "norm1.emb.class_embedder."),
    )
)

_PER_BLOCK = "norm1.emb."

_DEFAULTS: Mapping[str, Any] = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "num_layers": 28,
    "sample_size": 32,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
    "norm_eps": 1e-5,
}
"""What diffusers' class takes where a config says nothing."""

_ONLY: Mapping[str, Any] = {
    "dropout": 0.0,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
}
"""Values of its config under which it is the paper's network."""

_UNREAD = ("out_channels", "norm_num_groups", "upcast_attention")
"""Options that the weights tell, or that its network does not read."""


def model_of(path: Path, state: Mapping[str, Tensor]) -> Loaded:
    """The model of a file's weights by the authors' names, such as those of DiT-XL-2-256x256.pt.

    The estimate of the variance that such networks also give is left out. Raises: UserError where it does not fit.
    """
    width = _of(state, SIGN, path).shape[0]
    heads = next((size["heads"] for size in SIZES.values() if size["width"] == width), None)
    if heads is None:
        known = ", ".join(str(size["width"]) for size in SIZES.values())
        raise UserError(
            f"{path} is a diffusion transformer of width {width}, whose heads no file tells: they are known of the "
            f"paper's widths alone, {known}"
        )
    channels, patch = state[SIGN].shape[1:3]
    network, conditioning = _network(state, heads, str(path), frequency_shift=0.0, epsilon=NORM_EPSILON)
    side = patch * round(_of(state, POSITIONS, path).shape[1] ** 0.5)
    return Loaded(
        "diffusion transformer",
        network=network,
        conditioning=None if conditioning is None else RawConditioning(conditioning),
        schedule=VariancePreservingSchedule(linear_betas(1e-4, 0.02)),
        latent_shape=(channels, side, side),
    )


def is_dit(names: Mapping[str, Any]) -> bool:
    """Whether a file of these names holds a diffusion transformer by its authors' names."""
    return SIGN in names and "final_layer.linear.weight" in names


def from_diffusers(given: Mapping[str, Any], weights: Mapping[str, Tensor]) -> tuple[DiT, ClassConditioning | None]:
    """The network of a config of diffusers' class, and its classes: None where its table is all 0 and tells nothing.

    Raises: UserError for options or weights under which it is not the paper's.
    """
    config = {**_DEFAULTS, **given}
    for key, value in _ONLY.items():
        if config.get(key, value) != value:
            raise UserError(f"the diffusers config has {key}={config[key]!r}, which this program's DiT cannot do")
    refuse_unknown(config, {*_DEFAULTS, *_ONLY, *_UNREAD}, "the DiT")
    state = _from_diffusers_names(weights, config["num_layers"])
    told = f"the {DIFFUSERS_CLASS}"
    return _network(state, config["num_attention_heads"], told, DIFFUSERS_SHIFT, config["norm_eps"])


def diffusers_config(dit: DiT, latent_side: int, classes: int) -> dict[str, Any]:
    """The config of diffusers' class for a network on latents of that side, told `classes` of them.

    Raises: UserError for what it has no counterpart for.
    """
    if beyond := dit.beyond_the_paper:
        raise UserError(
            f"denoiser.{beyond[0]}=true has no counterpart in diffusers' {DIFFUSERS_CLASS}: it cannot be exported"
        )
    if dit.context_dim is not None and not dit.adds_context:
        raise UserError(
            f"diffusers' {DIFFUSERS_CLASS} has no cross-attention: a DiT of several tokens cannot be exported"
        )
    if dit.level.frequency_shift != DIFFUSERS_SHIFT:
        raise UserError(f"diffusers' {DIFFUSERS_CLASS} knows another embedding of noise levels: it cannot be exported")
    return {
        "_class_name": DIFFUSERS_CLASS,
        **_ONLY,
        "num_attention_heads": dit.width // dit.head_width,
        "attention_head_dim": dit.head_width,
        "in_channels": dit.in_channels,
        "out_channels": dit.out_channels,
        "num_layers": len(dit.blocks),
        "sample_size": latent_side,
        "patch_size": dit.patch,
        "num_embeds_ada_norm": classes,
        "norm_eps": dit.feed_forward_epsilon,
    }


def diffusers_state(dit: DiT, table: Tensor) -> dict[str, Tensor]:
    """The weights of a network as diffusers' class names them, with the `table` that it is told classes by.

    Shapes: table (classes + 1, context_dim), the last row that of no class; one of zeros (2, 1) tells nothing.
    """
    ours = {name: value for name, value in dit.state_dict().items() if not name.startswith("project_context.")}
    state = {_RENAMES(name): value for name, value in ours.items()}
    state[SIGN] = dit.embed.weight.unflatten(1, (dit.patch, dit.patch, -1)).permute(0, 3, 1, 2)
    is_told = dit.context_dim is not None
    state[CLASS_TABLE] = dit.project_context(table) if is_told else table.new_zeros(len(table), dit.width)
    named: dict[str, Tensor] = {}
    for name, value in state.items():
        theirs = _DIFFUSERS_RENAMES(name)
        if theirs.startswith(_PER_BLOCK):
            named |= {f"transformer_blocks.{block}.{theirs}": value.clone() for block in range(len(dit.blocks))}
        elif "{}" in theirs:
            named |= {theirs.format(part): rows for part, rows in zip("qkv", value.chunk(3), strict=True)}
        else:
            named[theirs] = value
    return named


def _of(state: Mapping[str, Tensor], name: str, path: object) -> Tensor:
    if name not in state:
        raise UserError(f"{path} has no weight '{name}', which a diffusion transformer needs")
    return state[name]


def _network(
    state: Mapping[str, Tensor], heads: int, told: str, frequency_shift: float, epsilon: float
) -> tuple[DiT, ClassConditioning | None]:
    """Network and classes of weights by the authors' names. Raises: UserError where they do not fit."""
    embed, table = _of(state, SIGN, told), _of(state, CLASS_TABLE, told)
    width, channels, patch = embed.shape[:3]
    if patch not in PATCHES or width % heads:
        raise UserError(
            f"{told} has patches of side {patch} and {heads} heads over {width} channels, which is not read"
        )
    is_told = bool(table.any())
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    network = DiT(
        in_channels=channels,
        out_channels=channels,
        width=width,
        depth=depth,
        heads=heads,
        patch=patch,
        context_dim=width if is_told else None,
        adds_context=is_told,
        projects_context=False,
        frequency_shift=frequency_shift,
        feed_forward_epsilon=epsilon,
    )
    stored = {name: _RENAMES(name) for name in network.state_dict()}
    ours = {theirs: name for name, theirs in stored.items()}
    read = {ours.get(name, name): value for name, value in state.items() if name not in (CLASS_TABLE, POSITIONS)}
    read["embed.weight"] = embed.permute(0, 2, 3, 1).flatten(1)
    for name in ("out.weight", "out.bias"):
        if name in read:
            read[name] = _without_variance(read[name], patch, channels)
    fill(network, read, stored, told)
    if POSITIONS in state:
        _check_positions(state[POSITIONS], width, told)
    if not is_told:
        return network, None
    classes = ClassConditioning(len(table) - 1, width)
    fill(classes, {"embedding.weight": table}, {"embedding.weight": CLASS_TABLE}, told)
    return network, classes


def _without_variance(rows: Tensor, patch: int, channels: int) -> Tensor:
    """Rows of the last layer, of pixels by channels, without those of the estimated variance where it has them."""
    pixels = patch * patch
    if len(rows) != 2 * channels * pixels:
        return rows
    return rows.unflatten(0, (pixels, 2 * channels))[:, :channels].flatten(0, 1)


def _check_positions(given: Tensor, width: int, told: str) -> None:
    side = round(given.shape[1] ** 0.5)
    expected = torch.from_numpy(grid_embedding(side, side, width))
    if given.shape != (1, *expected.shape) or not torch.allclose(given[0].float(), expected, atol=1e-4):
        raise UserError(
            f"{told} has other embeddings of places ('{POSITIONS}') than sines and cosines, which is not read"
        )


def _from_diffusers_names(weights: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Weights of diffusers' class by the authors' names.

    Raises: UserError where its blocks embed noise level or class differently, which one network never does.
    """
    unread = dict(weights)
    first = "transformer_blocks.0."
    shared = [name.removeprefix(first) for name in weights if name.startswith(first + _PER_BLOCK)]
    for name in shared:
        found = [unread.pop(f"transformer_blocks.{block}.{name}", None) for block in range(depth)]
        if any(each is None or not torch.equal(each, weights[first + name]) for each in found):
            raise UserError(
                f"the blocks of the {DIFFUSERS_CLASS} embed noise level and class each in a way of its own ('{name}'), "
                "as a DiT of the paper does not"
            )
        unread[name] = weights[first + name]
    state = {}
    for name in _authors_names(depth):
        theirs = _DIFFUSERS_RENAMES(name)
        parts = [theirs.format(part) for part in "qkv"] if "{}" in theirs else [theirs]
        found = [unread.pop(part, None) for part in parts]
        if any(each is None for each in found):
            raise UserError(f"the {DIFFUSERS_CLASS} has no weight '{parts[0]}', which its config needs")
        state[name] = torch.cat([each for each in found if each is not None])
    if unread:
        raise UserError(f"the {DIFFUSERS_CLASS} has {len(unread)} weights too many, such as '{min(unread)}'")
    return state


def _authors_names(depth: int) -> list[str]:
    """All names of the authors' weights, but for the places."""
    layers = ["x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2"]
    inner = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "adaLN_modulation.1")
    layers += [f"blocks.{block}.{layer}" for block in range(depth) for layer in inner]
    layers += ["final_layer.adaLN_modulation.1", "final_layer.linear"]
    return [CLASS_TABLE, *(f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias"))]
