"""tau_theta of CompVis latent-diffusion: transformers over word pieces or box tokens, and label maps."""

import re
from collections.abc import Mapping

from torch import Tensor

from ldm.conditioning.transformer import TokenTransformer
from ldm.errors import UserError
from ldm.interop.filling import load_renamed
from ldm.interop.renaming import Substitutions

TRANSFORMER = "cond_stage_model.transformer."
CHANNEL_MAPPER = "cond_stage_model.channel_mapper.weight"

# Theirs numbers attention and feed-forward networks in one row, and keeps each with its norm.
_RENAMES = Substitutions(
    (
        (r"^token\.", "token_emb."),
        (r"^position\.", "pos_emb.emb."),
        (r"^layers\.(\d+)\.norm1\.", r"attn_layers.layers.\1*2+0.0."),
        (r"^layers\.(\d+)\.attention\.", r"attn_layers.layers.\1*2+0.1."),
        (r"^layers\.(\d+)\.norm2\.", r"attn_layers.layers.\1*2+1.0."),
        (r"^layers\.(\d+)\.expand\.", r"attn_layers.layers.\1*2+1.1.net.0.0."),
        (r"^layers\.(\d+)\.contract\.", r"attn_layers.layers.\1*2+1.1.net.2."),
    )
)
_PLACE = re.compile(r"(\d+)\*2\+(\d)")


def stored_name(name: str) -> str:
    return TRANSFORMER + _PLACE.sub(lambda found: str(2 * int(found[1]) + int(found[2])), _RENAMES(name))


def transformer_from_compvis(checkpoint: Mapping[str, Tensor]) -> TokenTransformer:
    """The transformer of a checkpoint's `BERTEmbedder`, its sizes read from its weights.

    Raises: UserError where weights are missing or do not fit.
    """
    try:
        vocabulary, width = checkpoint[f"{TRANSFORMER}token_emb.weight"].shape
        length = len(checkpoint[f"{TRANSFORMER}pos_emb.emb.weight"])
    except KeyError as error:
        raise UserError(f"the checkpoint has no text transformer: {error} is missing") from error
    numbered = re.compile(re.escape(TRANSFORMER) + r"attn_layers\.layers\.(\d+)\.")
    depth = len({match[1] for match in map(numbered.match, checkpoint) if match}) // 2
    transformer = TokenTransformer(vocabulary, length, width, depth)
    load_renamed(transformer, checkpoint, {name: stored_name(name) for name in transformer.state_dict()})
    return transformer
