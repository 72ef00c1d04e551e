"""Conditions that are images themselves, concatenated to x_t: label maps, low-resolution images, masked images."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.conditioning.contract import Condition, Conditioning, field_of, masked_items
from ldm.errors import UserError


class SemanticConditioning(Conditioning):
    """A label map as one-hot channels, averaged over the pixels of each latent, mapped to a few channels.

    Averaging is what the reference's repeated bilinear halving amounts to. Labels outside 0 ... classes - 1 (unlabelled
    pixels, dropped maps) are zero in all channels.

    Shapes: field "semantic" (N, H, W) of integers; concat (N, channels, H / factor, W / factor).
    Source: Rombach et al. 2022, section 4.3.2 and appendix E.2.1 (the reference's SpatialRescaler).
    """

    fields = ("semantic",)
    tokens = 0
    context_dim = None

    def __init__(self, classes: int, channels: int, factor: int) -> None:
        super().__init__()
        self.classes = classes
        self.factor = factor
        self.concat_channels = channels
        self.mapper = nn.Conv2d(classes, channels, 1, bias=False)

    def forward(self, fields: Mapping[str, Tensor]) -> Condition:
        """The map of a batch, from the field and of the shape that the class states.

        Raises: UserError where the label map is missing, no integers, or of sides that `factor` does not divide.
        """
        labels = field_of(fields, "semantic")
        if labels.dim() != 3 or labels.is_floating_point() or any(side % self.factor for side in labels.shape[1:]):
            raise UserError(
                "the semantic conditioning reads maps (N, H, W) of whole numbers with sides divisible by "
                f"{self.factor}, but the field 'semantic' holds {labels.dtype} of shape {tuple(labels.shape)}"
            )
        known = (labels >= 0) & (labels < self.classes)
        one_hot = F.one_hot(labels.masked_fill(~known, self.classes).long(), self.classes + 1)[..., :-1]
        shares = F.avg_pool2d(one_hot.movedim(-1, 1).to(self.mapper.weight.dtype), self.factor)
        return Condition(concat=self.mapper(shares))

    def drop(self, fields: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """All fields, with every pixel unlabelled where `mask`, (N,), is true; result as fields."""
        return {**fields, "semantic": masked_items(field_of(fields, "semantic"), mask, -1)}


class SuperResolutionConditioning(Conditioning):
    """A low-resolution image brought to the latent's sides.

    At equal sides, as in the paper (f = 4, four times), it is concatenated as it is; a larger one gives its pixels as
    channels, so that nothing is lost; a smaller one is enlarged bicubically. Dropped images are grey.

    Shapes: field "low_resolution" (N, 3, H / scale, W / scale) in [-1, 1]; concat
    (N, concat_channels, H / factor, W / factor).
    Source: Rombach et al. 2022, section 4.4.
    """

    fields = ("low_resolution",)
    tokens = 0
    context_dim = None

    def __init__(self, scale: int, factor: int) -> None:
        super().__init__()
        self.scale = scale
        self.factor = factor
        self.gather = max(1, factor // scale)
        self.concat_channels = 3 * self.gather**2

    def forward(self, fields: Mapping[str, Tensor]) -> Condition:
        """The map of a batch, from the field and of the shape that the class states.

        Raises: UserError where the image is missing.
        """
        image = field_of(fields, "low_resolution")
        if self.gather > 1:
            return Condition(concat=F.pixel_unshuffle(image, self.gather))
        if self.scale > self.factor:
            ratio = self.scale // self.factor
            image = F.interpolate(image, scale_factor=ratio, mode="bicubic", align_corners=False)
        return Condition(concat=image)

    def drop(self, fields: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """All fields, with grey images where `mask`, (N,), is true; result as fields."""
        return {**fields, "low_resolution": masked_items(field_of(fields, "low_resolution"), mask, 0.0)}


class InpaintingConditioning(Conditioning):
    """The latent of the image without what the mask covers, and the covered share of each latent's pixels in [-1, 1].

    `encode(image) -> normalised latent` is the frozen first stage; it stands outside this module and is neither trained
    nor saved with it. Dropped images are covered altogether. Covered pixels have the value `covered`; the mask
    takes the covered share of a latent's pixels (`reduction` "area") or the first of them ("nearest").

    Shapes: fields "image" (N, 3, H, W) in [-1, 1] and "mask" (N, 1, H, W), 1 where to be filled in; concat
    (N, channels + 1, H / factor, W / factor).
    Source: Rombach et al. 2022, section 4.5; there pixels are covered by black (-1), and the mask is sampled at the
    nearest pixel, which thin strokes escape.
    """

    fields = ("image", "mask")
    tokens = 0
    context_dim = None

    def __init__(
        self,
        encode: Callable[[Tensor], Tensor],
        channels: int,
        factor: int,
        covered: float = 0.0,
        reduction: Literal["area", "nearest"] = "area",
    ) -> None:
        super().__init__()
        self.encode = encode
        self.factor = factor
        self.covered = covered
        self.reduction = reduction
        self.concat_channels = channels + 1

    def forward(self, fields: Mapping[str, Tensor]) -> Condition:
        """The map of a batch, from the fields and of the shape that the class states.

        Raises: UserError where image or mask is missing.
        """
        image, mask = field_of(fields, "image"), field_of(fields, "mask")
        with torch.no_grad():
            latent = self.encode(image * (1 - mask) + self.covered * mask)
        nearest = self.reduction == "nearest"
        pooled = mask[..., :: self.factor, :: self.factor] if nearest else F.avg_pool2d(mask, self.factor)
        return Condition(concat=torch.cat([latent, 2 * pooled - 1], dim=1))

    def drop(self, fields: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """All fields, with masks that cover everything where `mask`, (N,), is true; result as fields."""
        return {**fields, "mask": masked_items(field_of(fields, "mask"), mask, 1.0)}
