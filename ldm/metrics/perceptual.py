"""The perceptual distances that outputs are compared with images by."""

from pathlib import Path
from typing import Final

from ldm.metrics.reconstruction import FeatureDistance, PerceptualDistance
from ldm.pretrained import efficientnet_lite, lpips

LPIPS: Final = "lpips_alex"
NO_LPIPS: Final = (
    "LPIPS needs AlexNet's weights and none are given: name torchvision's file with metrics.lpips=PATH; the feature "
    "distance stands in its place."
)


def perceptual_distances(lpips_path: str | None) -> list[PerceptualDistance]:
    """The feature distance of EfficientNet-Lite2, and LPIPS where the file of AlexNet's weights is given."""
    found: list[PerceptualDistance] = [FeatureDistance(efficientnet_lite.load("lite2"))]
    if lpips_path is not None:
        found.append(lpips.load("alex", Path(lpips_path).expanduser()))
    return found
