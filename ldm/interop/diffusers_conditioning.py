"""tau_theta of diffusers pipelines: the text transformer of the paper, text encoders of transformers, class tables."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.conditioning import ClassConditioning, Conditioning, FrozenTextConditioning, TextConditioning
from ldm.conditioning.transformer import HEAD_WIDTH, HEADS
from ldm.errors import UserError
from ldm.interop.filling import fill
from ldm.interop.renaming import Substitutions
from ldm.lines import lines_of
from ldm.pretrained.transformers_folder import UnreadableFolderError, read_model, read_part

CLASS_TABLE = "weight"
"""Name of the one tensor of an exported class embedding."""

VOCABULARY, FAST_TOKENISER = "vocab.txt", "tokenizer.json"
"""Where a tokeniser's word pieces stand, of early and of late versions of transformers."""

# Ours -> LDMBertModel's.
_RENAMES = Substitutions(
    (
        (r"^token\.", "embed_tokens."),
        (r"^position\.", "embed_positions."),
        (r"^norm\.", "layer_norm."),
        (r"\.norm1\.", ".self_attn_layer_norm."),
        (r"\.norm2\.", ".final_layer_norm."),
        (r"\.attention\.to_out\.", ".self_attn.out_proj."),
        (r"\.attention\.to_([qkv])\.", r".self_attn.\1_proj."),
        (r"\.expand\.", ".fc1."),
        (r"\.contract\.", ".fc2."),
    )
)
_UNREAD = ("to_logits.",)
"""Of LDMBertModel, the layer to the vocabulary, which nothing reads."""

_BERT_ONLY: Mapping[str, Any] = {
    "encoder_attention_heads": HEADS,
    "head_dim": HEAD_WIDTH,
    "activation_function": "gelu",
    "scale_embedding": False,
}


def _bert_name(name: str) -> str:
    return f"model.{_RENAMES(name)}"


def ldm_bert(config: Mapping[str, Any], weights: Mapping[str, Tensor], tokeniser: Path) -> TextConditioning:
    """The conditioning of an LDMBertModel; the empty caption is that of the BERT tokeniser in the folder `tokeniser`.

    Raises: UserError for options that the paper's transformer has not, or weights that do not fit.
    """
    for key, value in _BERT_ONLY.items():
        if config.get(key, value) != value:
            raise UserError(f"the text transformer's config has {key}={config[key]!r}: only {value!r} is supported")
    width, length = config["d_model"], config["max_position_embeddings"]
    if config.get("encoder_ffn_dim", 4 * width) != 4 * width:
        raise UserError(
            f"the text transformer's config has encoder_ffn_dim={config['encoder_ffn_dim']}: only 4 d_model is"
        )
    null = _empty_caption(tokeniser, length)
    conditioning = TextConditioning(config["vocab_size"], null, width, config["encoder_layers"])
    names = {name: _bert_name(name) for name in conditioning.transformer.state_dict()}
    ours = {theirs: name for name, theirs in names.items()}
    read = {ours.get(name, name): value for name, value in weights.items() if not name.startswith(_UNREAD)}
    fill(conditioning.transformer, read, names, "the pipeline's text transformer")
    return conditioning


def _empty_caption(tokeniser: Path, length: int) -> Tensor:
    """[CLS] [SEP] and padding by the vocabulary of a BERT tokeniser. Raises: UserError where it is not there."""
    try:
        pieces = _vocabulary(tokeniser)
        begin, end, padding = (pieces[piece] for piece in ("[CLS]", "[SEP]", "[PAD]"))
    except (OSError, ValueError, KeyError) as error:
        wanted = f"{VOCABULARY} or {FAST_TOKENISER} with [CLS], [SEP] and [PAD]"
        raise UserError(f"{tokeniser} holds no BERT tokeniser ({wanted}): {error}") from error
    return torch.tensor([begin, end, *[padding] * (length - 2)])


def _vocabulary(tokeniser: Path) -> Mapping[str, int]:
    """The number of each word piece."""
    if (tokeniser / VOCABULARY).is_file():
        lines = lines_of((tokeniser / VOCABULARY).read_text(encoding="utf-8"))
        return {piece: number for number, piece in enumerate(lines)}
    found: Mapping[str, int] = json.loads((tokeniser / FAST_TOKENISER).read_text(encoding="utf-8"))["model"]["vocab"]
    return found


def transformers_text(encoder: Path, tokeniser: Path) -> FrozenTextConditioning:
    """The conditioning of a pipeline's text encoder (CLIP's, as a rule): its last hidden states, of all tokens.

    Raises: UserError where the folders do not hold both, or weights that are not safetensors.
    """
    try:
        words = read_part("AutoTokenizer", tokeniser)
        model = read_model("CLIPTextModel", encoder)
    except UnreadableFolderError as error:
        raise UserError(
            f"{encoder} and {tokeniser} hold no CLIP text encoder in safetensors with its tokeniser ({error})"
        ) from error
    model.eval().requires_grad_(False)

    def encode(tokens: Tensor) -> Tensor:
        hidden: Tensor = model(input_ids=tokens).last_hidden_state
        return hidden

    width, length = model.config.hidden_size, model.config.max_position_embeddings
    empty = words([""], padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    # Padding is seen like any word: no token of a vocabulary is -1.
    return FrozenTextConditioning(encode, len(words), empty["input_ids"][0], width, padding=-1)


def class_embedding(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Conditioning:
    """The class table that this program's export writes beside a UNet; one row more than classes is the null class."""
    for key in ("classes", "dim", "null_class"):
        if key not in config:
            raise UserError(f"the class embedding's config.json has no {key}, as exports of this program do")
    conditioning = ClassConditioning(config["classes"], config["dim"], config["null_class"])
    names = {"embedding.weight": CLASS_TABLE}
    given = {"embedding.weight" if name == CLASS_TABLE else name: value for name, value in weights.items()}
    fill(conditioning, given, names, "the class embedding")
    return conditioning
