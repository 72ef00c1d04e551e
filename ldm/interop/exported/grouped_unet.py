"""diffusers' UNets with norms of the largest number of groups up to 32 that divides their channels.

diffusers gives all norms one number of groups, which widths that are no multiples of it do not allow.
"""

import functools
from typing import Any

from diffusers import UNet2DConditionModel, UNet2DModel
from torch import nn

GROUPS = 32


def _grouped(model: nn.Module, base: type, arguments: dict[str, Any]) -> None:
    """Builds `model` as `base` does, and sets the groups of its norms."""
    sizes = {key: 1 for key in ("norm_num_groups", "attn_norm_num_groups") if arguments.get(key) is not None}
    base.__init__(model, **{**arguments, **sizes})  # type: ignore[misc]
    model.register_to_config(**{key: arguments[key] for key in sizes})  # type: ignore[operator]
    for layer in model.modules():
        if isinstance(layer, nn.GroupNorm):
            layer.num_groups = max(n for n in range(1, GROUPS + 1) if layer.num_channels % n == 0)


class GroupedUNet2DModel(UNet2DModel):
    """UNet2DModel with such norms."""

    @functools.wraps(UNet2DModel.__init__)
    def __init__(self, **arguments: Any) -> None:
        _grouped(self, UNet2DModel, arguments)


class GroupedUNet2DConditionModel(UNet2DConditionModel):
    """UNet2DConditionModel with such norms."""

    @functools.wraps(UNet2DConditionModel.__init__)
    def __init__(self, **arguments: Any) -> None:
        _grouped(self, UNet2DConditionModel, arguments)
