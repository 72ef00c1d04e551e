"""How low-resolution images come about: bicubic, or blur, noise and JPEG besides."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

DEGRADATIONS = ("bicubic", "blur_noise_jpeg")

# Ranges of what is drawn for each image: the blur's standard deviation in pixels of the low resolution, the noise's in
# grey levels, JPEG's quality.
_BLUR, _NOISE, _QUALITY = (0.1, 0.8), (1.0, 15.0), (40, 95)


def downsampled(image: Tensor, scale: int) -> Tensor:
    """Bicubic downsampling with antialiasing. Shapes: (N, 3, H, W) -> (N, 3, H / scale, W / scale)."""
    small = F.interpolate(image, scale_factor=1 / scale, mode="bicubic", antialias=True, align_corners=False)
    return small.clamp(-1, 1)


@dataclass(frozen=True)
class Degradation:
    """`bicubic` shrinks `scale` times; `blur_noise_jpeg` blurs before, and adds noise and JPEG's artefacts after.

    Source: in the spirit of Zhang et al. 2021 (BSRGAN), with one of each step in fixed order.
    """

    name: str
    scale: int

    def __call__(self, image: Tensor, draw: Callable[[], np.random.Generator]) -> Tensor:
        """Shapes: image (3, H, W) in [-1, 1]; result (3, H / scale, W / scale). Raises: ValueError for another name."""
        if self.name == "bicubic":
            return downsampled(image[None], self.scale)[0]
        if self.name != "blur_noise_jpeg":
            raise ValueError(f"no degradation '{self.name}': use one of {', '.join(DEGRADATIONS)}")
        rng = draw()
        small = downsampled(_blurred(image[None], self.scale * rng.uniform(*_BLUR)), self.scale)[0]
        noise = torch.from_numpy(rng.normal(0, rng.uniform(*_NOISE), small.shape).astype(np.float32))
        pixels = ((small + 1) * 127.5 + noise).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        return _through_jpeg(pixels, int(rng.integers(*_QUALITY, endpoint=True)))


def _blurred(image: Tensor, deviation: float) -> Tensor:
    """Gaussian blur, edges repeated."""
    reach = max(1, min(round(3 * deviation), min(image.shape[2:]) - 1))
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / deviation) ** 2)
    weights = (weights / weights.sum()).expand(3, 1, 1, -1)
    padded = F.pad(image, (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(padded, weights, groups=3), weights.transpose(2, 3), groups=3)


def _through_jpeg(pixels: np.ndarray, quality: int) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    again = np.array(Image.open(buffer))
    return torch.from_numpy(again).permute(2, 0, 1).float() / 127.5 - 1
