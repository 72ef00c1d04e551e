"""CLIP score: how near an image lies to its caption for a contrastive model of images and texts."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ldm.errors import UserError
from ldm.metrics.reconstruction import mean_value
from ldm.metrics.values import Metric, MetricValue, Variant, varied
from ldm.pretrained.transformers_folder import UnreadableFolderError, read_model, read_part
from ldm.pretrained.weights import content_hash, freeze
from ldm.records import TASK

CLIP_SCORE = Metric("clip_score", "CLIP score", True, TASK)
SCALE = 100.0
MISSING = (
    "CLIP score needs a CLIP model and none is given: name a local transformers folder with metrics.clip=PATH "
    "(e.g. of openai/clip-vit-large-patch14); all other metrics work without it."
)


class ClipScore:
    """100 max(cos(image, caption), 0) of a CLIP model's embeddings, image by image.

    The model, its tokenizer and its image preprocessing come from one local folder of transformers; nothing is
    downloaded. Captions are cut at the model's length.

    Raises: UserError where the folder holds no CLIP model.
    Source: Hessel et al. 2021, arXiv 2104.08718 (there with w = 2.5 in place of 100).
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        try:
            self.model: Any = freeze(read_model("CLIPModel", folder).float()).to(device)
            self.tokeniser: Any = read_part("AutoTokenizer", folder)
            self.preprocess: Any = read_part("AutoImageProcessor", folder)
        except UnreadableFolderError as error:
            raise UserError(
                f"metrics.clip={folder} holds no CLIP model that transformers can read ({error}): give a folder with "
                "config.json, weights as safetensors, tokenizer and preprocessor_config.json"
            ) from error
        self.device = device
        self.size = int(self.model.config.vision_config.image_size)
        self.weights_hash = content_hash(self.model.state_dict())

    @torch.inference_mode()
    def __call__(self, images: Tensor, captions: Sequence[str]) -> NDArray[np.float64]:
        """The scores of uint8 images (N, 3, H, W) and their captions, (N,)."""
        pixels = self.preprocess(list(images.cpu()), return_tensors="pt")["pixel_values"].to(self.device)
        texts = self.tokeniser(
            list(captions),
            padding=True,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.device)
        seen = self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)
        read = self.model.text_projection(self.model.text_model(**texts).pooler_output)
        cosine = F.cosine_similarity(seen.double(), read.double())
        found: NDArray[np.float64] = (SCALE * cosine.clamp(min=0)).cpu().numpy()
        return found


@functools.lru_cache(maxsize=1)
def load_clip_score(folder: Path, device: str) -> ClipScore:
    """The model of a folder, loaded once a process."""
    return ClipScore(folder, device)


def clip_score(scores: NDArray[np.float64], *variants: Variant) -> MetricValue:
    """The mean over images of scores (N,), with Student's interval."""
    return mean_value(varied(CLIP_SCORE, *variants), scores)
