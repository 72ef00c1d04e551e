"""Known damage to images, in five strengths each: what a metric of images has to see.

Every damage is a pure function of (images, amount, seed, labels): uint8 images (N, 3, H, W) in, uint8 images out. What
is drawn at random is drawn alike for every amount, so that a stronger damage goes on where a weaker one stops.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ldm.randomness import generator

STRENGTHS: Final = (1, 2, 3, 4, 5)
SIDE: Final = 32
"""The side at which amounts in pixels are stated; they grow with the side."""

LUMA: Final = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (Rec. ITU-R BT.601)."""

_YIQ = torch.tensor([LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)], dtype=torch.float64)

Change = Callable[[Tensor, float, int, Tensor | None], Tensor]


def _rounded(images: Tensor) -> Tensor:
    return images.round().clamp(0, 255).to(torch.uint8)


def _mixed(images: Tensor, matrix: Tensor) -> Tensor:
    """Every pixel's colour times a matrix (3, 3)."""
    return _rounded(torch.einsum("dc,nchw->ndhw", matrix.float(), images.float()))


def _blur_matrix(side: int, deviation: float) -> Tensor:
    """The Gaussian blur of a row as a matrix (side, side); edges are mirrored, so rows and columns add up to 1."""
    reach = math.ceil(4 * deviation)
    offsets = torch.arange(-reach, reach + 1)
    weights = torch.exp(-0.5 * (offsets / deviation) ** 2)
    places = (torch.arange(side)[:, None] + offsets) % (2 * side)
    places = torch.where(places < side, places, 2 * side - 1 - places)
    return torch.zeros(side, side).scatter_add_(1, places, (weights / weights.sum()).expand(side, -1).contiguous())


def blurred(images: Tensor, deviation: float, seed: int = 0, labels: Tensor | None = None) -> Tensor:
    """Gaussian blur of that many pixels; mirrored edges keep every image's mean. Shapes: (N, 3, H, W), both."""
    if deviation == 0:
        return images
    rows, columns = (_blur_matrix(side, deviation) for side in images.shape[2:])
    return _rounded(rows @ images.float() @ columns.T)


def noisy(images: Tensor, deviation: float, seed: int = 0, labels: Tensor | None = None) -> Tensor:
    """White noise of that many grey levels in every channel. Shapes: (N, 3, H, W), both."""
    drawn = torch.randn(images.shape, generator=generator(seed, "noise"))
    return _rounded(images.float() + deviation * drawn)


def contrasted(images: Tensor, factor: float, seed: int = 0, labels: Tensor | None = None) -> Tensor:
    """Distances from the image's mean grey times a factor. Shapes: (N, 3, H, W), both."""
    grey = images.float().mean(dim=(1, 2, 3), keepdim=True)
    return _rounded(grey + factor * (images.float() - grey))


def hue_turned(images: Tensor, degrees: float, seed: int = 0, labels: Tensor | None = None) -> Tensor:
    """Colours turned about the grey axis; luma stays but for clipping. Shapes: (N, 3, H, W), both."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = torch.tensor([(1, 0, 0), (0, cosine, -sine), (0, sine, cosine)], dtype=torch.float64)
    return _mixed(images, _YIQ.inverse() @ turn @ _YIQ)


def saturated(images: Tensor, factor: float, seed: int = 0, labels: Tensor | None = None) -> Tensor:
    """Distances of every pixel from its own grey times a factor; luma stays but for clipping.

    Shapes: (N, 3, H, W), both.
    """
    grey = torch.tensor(LUMA).expand(3, 3)
    return _mixed(images, factor * torch.eye(3) + (1 - factor) * grey)


def shuffled(images: Tensor, side: float, seed: int = 0, labels: Tensor | None = None) -> Tensor:
    """Square patches of that side in another order, for each image its own; a rest at the edges stays.

    Shapes: (N, 3, H, W), both.
    """
    patch = max(1, round(side))
    n, channels, height, width = images.shape
    high, wide = height // patch, width // patch
    keys = torch.rand(n, high * wide, generator=generator(seed, "patches"))
    whole = images[:, :, : high * patch, : wide * patch]
    patches = whole.reshape(n, channels, high, patch, wide, patch).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    moved = patches[torch.arange(n)[:, None], keys.argsort(dim=1)].unflatten(1, (high, wide))
    result = images.clone()
    result[:, :, : high * patch, : wide * patch] = moved.permute(0, 3, 1, 4, 2, 5).reshape(whole.shape)
    return result


def pasted(images: Tensor, share: float, seed: int = 0, labels: Tensor | None = None) -> Tensor:
    """A block of each image is that of the next one; `share` of the side. Shapes: (N, 3, H, W), both."""
    height, width = images.shape[2:]
    tall, broad = round(share * height), round(share * width)
    corners = torch.rand(len(images), 2, generator=generator(seed, "blocks"))
    result = images.clone()
    for image, other, (down, right) in zip(result, images.roll(-1, 0), corners.tolist(), strict=True):
        top, left = int(down * (height - tall + 1)), int(right * (width - broad + 1))
        block = (slice(None), slice(top, top + tall), slice(left, left + broad))
        image[block] = other[block]
    return result


def without_classes(images: Tensor, share: float, seed: int = 0, labels: Tensor | None = None) -> Tensor:
    """The images that are not of the missing share of the classes: fewer, and the rest as they are.

    Shapes: images (N, 3, H, W), labels (N,); result (M <= N, 3, H, W).
    Raises: ValueError where there are no labels.
    """
    if labels is None:
        raise ValueError("missing classes need labels")
    classes = labels.unique()
    order = classes[torch.randperm(len(classes), generator=generator(seed, "classes"))]
    return images[~torch.isin(labels, order[: int(share * len(classes) + 0.5)])]


def _replaced(images: Tensor, share: float, seed: int) -> tuple[Tensor, int]:
    """Which images are replaced, and one that never is."""
    order = torch.randperm(len(images), generator=generator(seed, "replaced"))
    return order[: min(round(share * len(images)), len(images) - 1)], int(order[-1])


def repeated(images: Tensor, share: float, seed: int = 0, labels: Tensor | None = None) -> Tensor:
    """A share of the images replaced by copies of another one. Shapes: (N, 3, H, W), both."""
    places, kept = _replaced(images, share, seed)
    result = images.clone()
    result[places] = images[kept]
    return result


def with_fields(images: Tensor, share: float, seed: int = 0, labels: Tensor | None = None) -> Tensor:
    """A share of the images replaced by plain fields, each of a fully saturated colour. Shapes: (N, 3, H, W), both."""
    places, _ = _replaced(images, share, seed)
    hues = 6 * torch.rand(len(images), 1, generator=generator(seed, "fields"))
    # Red, green and blue rise and fall by turns along the circle of hues.
    distance = ((hues - torch.tensor([0.0, 2.0, 4.0]) + 3) % 6 - 3).abs()
    colours = _rounded(255 * (2 - distance).clamp(0, 1))
    result = images.clone()
    result[places] = colours[places, :, None, None]
    return result


@dataclass(frozen=True)
class Damage:
    """A damage with its amounts at the five strengths, in a stated unit, those in pixels at a side of 32.

    `needs_labels`: it reads the classes of the images. `change(images, amount, seed, labels)` does it.
    """

    name: str
    title: str
    unit: str
    amounts: tuple[float, float, float, float, float]
    change: Change
    needs_labels: bool = False

    def amount(self, strength: int, side: int) -> float:
        """The amount of a strength from 1 to 5 in images of that side."""
        amount = self.amounts[strength - 1]
        return amount * side / SIDE if self.unit == "px" else amount

    def __call__(self, images: Tensor, strength: int, seed: int = 0, labels: Tensor | None = None) -> Tensor:
        """The damaged images; at strength 0 those that were given.

        Shapes: images uint8 (N, 3, H, W), labels (N,); result (M, 3, H, W), M < N for missing classes alone.
        Raises: ValueError where it needs labels and gets none.
        """
        if strength == 0:
            return images
        return self.change(images, self.amount(strength, min(images.shape[2:])), seed, labels)


SHARES: Final = (0.025, 0.05, 0.1, 0.2, 0.4)

DAMAGES: Final[Mapping[str, Damage]] = {
    damage.name: damage
    for damage in (
        Damage("blur", "blur", "px", (0.5, 0.75, 1, 1.5, 2), blurred),
        Damage("noise", "noise", "grey levels", (4, 8, 16, 32, 64), noisy),
        Damage("contrast", "contrast", "times", (1.25, 1.5, 2, 3, 4), contrasted),
        Damage("hue", "hue turned", "degrees", (10, 20, 40, 60, 90), hue_turned),
        Damage("saturation", "saturation", "times", (1.25, 1.5, 2, 3, 4), saturated),
        Damage("patches", "patches shuffled", "px", (16, 8, 4, 2, 1), shuffled),
        Damage("blocks", "blocks pasted", "of the side", (0.125, 0.25, 0.375, 0.5, 0.625), pasted),
        Damage("classes", "classes missing", "of all", (0.1, 0.2, 0.3, 0.4, 0.5), without_classes, needs_labels=True),
        Damage("repeated", "one image repeated", "of the images", SHARES, repeated),
        Damage("fields", "plain fields instead", "of the images", SHARES, with_fields),
    )
}
"""All damages by name. Colours are turned by a right angle at most: beyond, orange and blue change places, and a set of
images comes nearer to itself again."""
