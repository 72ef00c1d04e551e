"""Captions to word pieces, and pretrained text encoders from a local folder."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ldm.errors import UserError
from ldm.pretrained.transformers_folder import UnreadableFolderError, read_model, read_part

VOCABULARY = "bert_uncased_vocab.txt"


@dataclass(frozen=True)
class Tokeniser:
    """Captions -> (N, `length`) word pieces, cut or padded with `padding`; `vocabulary` = how many pieces there are."""

    tokeniser: Any
    length: int
    vocabulary: int
    padding: int

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """The word pieces of captions: shape (N, length), int64."""
        encoded = self.tokeniser(
            list(captions), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        tokens: Tensor = encoded["input_ids"]
        return tokens

    @property
    def null(self) -> Tensor:
        """The word pieces of the empty caption: shape (length,), int64."""
        return self([""])[0]


def _tokeniser(loaded: Any, length: int) -> Tokeniser:
    return Tokeniser(loaded, length, len(loaded), int(loaded.pad_token_id or 0))


@functools.lru_cache
def bert_tokeniser(length: int) -> Tokeniser:
    """The word pieces of BERT (uncased), as the paper's text models use them; the vocabulary is shipped."""
    from transformers import BertTokenizer

    with resources.as_file(resources.files("ldm.pretrained").joinpath("assets").joinpath(VOCABULARY)) as path:
        return _tokeniser(BertTokenizer(str(path)), length)


@dataclass(frozen=True)
class PretrainedText:
    """A frozen text encoder: its tokeniser, the width of its tokens, and `encode(tokens) -> (N, L, width)`."""

    tokeniser: Tokeniser
    width: int
    encode: Callable[[Tensor], Tensor]


@functools.lru_cache
def pretrained_text(folder: Path, length: int, device: str) -> PretrainedText:
    """The text encoder and tokeniser of a local transformers folder (a BERT, a T5, CLIP's text half, ...), frozen.

    Raises: UserError where the folder does not hold both, or holds weights that are not safetensors.
    """
    try:
        tokeniser = _tokeniser(read_part("AutoTokenizer", folder), length)
        model = read_model("AutoModel", folder, unused=("pooler.", "decoder."))  # of which nothing is read
    except UnreadableFolderError as error:
        raise UserError(
            f"conditioning.text.encoder={folder} is no transformers folder with a text encoder in safetensors and its "
            f"tokeniser ({error})"
        ) from error
    for half in ("text_model", "encoder"):  # CLIP's text half; the encoder of an encoder-decoder such as T5
        if hasattr(model, half) and (half == "text_model" or model.config.is_encoder_decoder):
            model = getattr(model, half)
    model.eval().requires_grad_(False).to(device)

    def encode(tokens: Tensor) -> Tensor:
        attention = (tokens != tokeniser.padding).long()
        attention[:, 0] = 1
        hidden: Tensor = model(input_ids=tokens, attention_mask=attention).last_hidden_state
        return hidden.float()

    with torch.no_grad():
        width = encode(tokeniser.null[None].to(device)).shape[-1]
    return PretrainedText(tokeniser, width, encode)
