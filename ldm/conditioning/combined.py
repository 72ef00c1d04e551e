"""Several conditions at once."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ldm.conditioning.contract import Condition, Conditioning
from ldm.errors import UserError


class CombinedConditioning(Conditioning):
    """Several conditionings at once: their tokens one after another, their maps stacked; all are dropped together.

    Raises: UserError for token widths that differ.
    """

    def __init__(self, parts: Mapping[str, Conditioning]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        widths = {name: part.context_dim for name, part in parts.items() if part.context_dim is not None}
        if len(set(widths.values())) > 1:
            told = ", ".join(f"conditioning.{name}.dim={width}" for name, width in widths.items())
            raise UserError(f"conditions that are given together need tokens of one width, not {told}")
        self.fields = tuple(dict.fromkeys(field for part in parts.values() for field in part.fields))
        self.tokens = sum(part.tokens for part in parts.values())
        self.context_dim = next(iter(widths.values()), None)
        self.concat_channels = sum(part.concat_channels for part in parts.values())

    def forward(self, fields: Mapping[str, Tensor]) -> Condition:
        """The conditions of all of them, joined.

        Shapes: contexts (N, tokens, width) joined along the tokens, maps (N, C, h, w) along the channels.
        """
        given: list[Condition] = [part(fields) for part in self.parts.values()]
        maps = [one.concat for one in given if one.concat is not None]
        contexts = [one for one in given if one.context is not None]
        return Condition(
            context=torch.cat([one.context for one in contexts], dim=1) if contexts else None,  # type: ignore[misc]
            concat=torch.cat(maps, dim=1) if maps else None,
            context_mask=_joined_masks(contexts),
        )

    def drop(self, fields: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """All fields, dropped by each conditioning in turn; mask (N,), result as fields."""
        dropped = dict(fields)
        for part in self.parts.values():
            assert isinstance(part, Conditioning)
            dropped = part.drop(dropped, mask)
        return dropped


def _joined_masks(given: list[Condition]) -> Tensor | None:
    """Which of the joined tokens are seen, (N, tokens); None where none of the conditions masks any."""
    if all(one.context_mask is None for one in given):
        return None
    masks = []
    for one in given:
        assert one.context is not None
        masks.append(one.context.new_ones(one.context.shape[:2], dtype=torch.bool))
        if one.context_mask is not None:
            masks[-1] = one.context_mask
    return torch.cat(masks, dim=1)
