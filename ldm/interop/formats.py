"""Which program's weights a set of names looks like, for messages about files that are not what was expected."""

from collections.abc import Collection

_SIGNS = (
    ("a whole CompVis latent diffusion model", ("model.diffusion_model.",)),
    ("a CompVis first stage", ("encoder.down.0.block.", "encoder.mid.block_1.")),
    ("the first stage of a CompVis latent diffusion model", ("first_stage_model.",)),
    ("a CompVis or guided-diffusion UNet on its own", ("input_blocks.",)),
    ("a diffusers autoencoder", ("encoder.down_blocks.", "decoder.up_blocks.")),
    ("a diffusion transformer", ("x_embedder.", "pos_embed.proj.")),
    ("a diffusers UNet", ("down_blocks.", "mid_block.")),
    ("a text encoder of transformers", ("text_model.", "bert.", "encoder.block.")),
    ("a tiny autoencoder", ("0.weight", "encoder.0.weight", "encoder.layers.0.weight", "decoder.layers.0.weight")),
)
"""(what it is, names one of which begins one of its weights), the more telling ones first."""


def looks_like(names: Collection[str]) -> str:
    """What these weights are, as far as their names show, or the first names where they do not."""
    for kind, signs in _SIGNS:
        if any(name.startswith(signs) for name in names):
            return kind
    shown = ", ".join(f"'{name}'" for name in sorted(names)[:3])
    return f"no format that this program reads ({shown}{', ...' if len(names) > 3 else ''})"
