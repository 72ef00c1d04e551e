"""Text to image: word pieces of a caption, read by a transformer that is trained along, or by a frozen one."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ldm.conditioning.contract import Condition, Conditioning, field_of, masked_items
from ldm.conditioning.transformer import TokenTransformer
from ldm.errors import UserError


class TextConditioning(Conditioning):
    """A transformer over word pieces, trained with the denoiser; padding is seen like any word, as in the paper.

    `null_tokens` is the tokenised empty caption, which guidance takes as "no text".

    Shapes: field "tokens" (N, L) of integers; context (N, L, width).
    Source: Rombach et al. 2022, section 4.3.1 and appendix E.2.1.
    """

    fields = ("tokens",)
    concat_channels = 0
    null_tokens: Tensor

    def __init__(self, vocabulary: int, null_tokens: Tensor, width: int, depth: int) -> None:
        super().__init__()
        self.tokens = len(null_tokens)
        self.context_dim = width
        self.transformer = TokenTransformer(vocabulary, self.tokens, width, depth)
        self.register_buffer("null_tokens", null_tokens, persistent=False)

    def forward(self, fields: Mapping[str, Tensor]) -> Condition:
        """The tokens' embeddings, from the field and of the shape that the class states.

        Raises: UserError where the tokens are missing, no integers, or outside the vocabulary.
        """
        tokens = tokens_of(fields, self.tokens, self.transformer.vocabulary)
        return Condition(context=self.transformer(tokens))

    def drop(self, fields: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """All fields, with the captions where `mask`, (N,), is true replaced by the empty one; result as fields."""
        return with_captions_dropped(fields, mask, self.null_tokens)


class FrozenTextConditioning(Conditioning):
    """Word pieces read by a pretrained text encoder that is not trained: `encode(tokens) -> (N, L, width)`.

    The encoder stands outside this module, so that it is neither trained, nor averaged, nor saved with the denoiser.

    Shapes: field "tokens" (N, L) of integers; context (N, L, width), padding masked.
    """

    fields = ("tokens",)
    concat_channels = 0
    null_tokens: Tensor

    def __init__(
        self, encode: Callable[[Tensor], Tensor], vocabulary: int, null_tokens: Tensor, width: int, padding: int
    ) -> None:
        super().__init__()
        self.encode = encode
        self.vocabulary = vocabulary
        self.padding = padding
        self.tokens = len(null_tokens)
        self.context_dim = width
        self.register_buffer("null_tokens", null_tokens, persistent=False)

    def forward(self, fields: Mapping[str, Tensor]) -> Condition:
        """The tokens' embeddings, from the field and of the shape that the class states.

        Raises: UserError where the tokens are missing, no integers, or outside the vocabulary.
        """
        tokens = tokens_of(fields, self.tokens, self.vocabulary)
        seen = tokens != self.padding
        seen[:, 0] = (
            True  # where the first token pads, as in an empty caption of some tokenisers, something must be seen
        )
        with torch.no_grad():
            context = self.encode(tokens)
        return Condition(context=context, context_mask=seen)

    def drop(self, fields: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """All fields, with the captions where `mask`, (N,), is true replaced by the empty one; result as fields."""
        return with_captions_dropped(fields, mask, self.null_tokens)


def with_captions_dropped(fields: Mapping[str, Tensor], mask: Tensor, null_tokens: Tensor) -> dict[str, Tensor]:
    """All fields, with the field "tokens" replaced by the empty caption in the items where `mask` is true.

    Shapes: field "tokens" (N, L), mask (N,), null_tokens (L,); result as fields.
    """
    tokens = field_of(fields, "tokens")
    return {**fields, "tokens": masked_items(tokens, mask, null_tokens.to(tokens))}


def tokens_of(fields: Mapping[str, Tensor], length: int, vocabulary: int) -> Tensor:
    """The field "tokens", (N, length), checked (on a GPU, where reading it would stall every step, only its shape).

    Raises: UserError where it is missing, of another shape, no integers, or outside the vocabulary.
    """
    tokens = field_of(fields, "tokens")
    if tokens.dim() != 2 or tokens.shape[1] != length or tokens.is_floating_point():
        raise UserError(
            f"the conditioning reads {length} whole numbers an image, but the field 'tokens' holds {tokens.dtype} "
            f"of shape {tuple(tokens.shape)}: make sequences of that length"
        )
    if tokens.device.type == "cpu" and len(tokens) > 0 and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocabulary:
        raise UserError(
            f"token {int(tokens.max())} is outside the conditioning's vocabulary of {vocabulary}: use the "
            "tokeniser that the model was trained with"
        )
    return tokens.long()
