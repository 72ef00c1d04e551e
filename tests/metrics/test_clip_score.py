"""CLIP score with a tiny random CLIP, against transformers' own forward pass."""

import numpy as np
import pytest
import torch

from ldm.errors import UserError
from ldm.metrics.clip_score import ClipScore, clip_score
from ldm.metrics.values import OTHER_CONDITIONS


def test_the_score_is_the_cosine_of_transformers_own_pass(clip_folder):
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    images = torch.randint(0, 256, (4, 3, 20, 20), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    captions = ["a red cat", "dog", "a dog a dog a dog a dog a dog", "red"]
    found = ClipScore(clip_folder)(images, captions)
    model = CLIPModel.from_pretrained(clip_folder).eval()
    tokens = CLIPTokenizer.from_pretrained(clip_folder)(
        captions, padding=True, truncation=True, max_length=8, return_tensors="pt"
    )
    pixels = CLIPImageProcessor.from_pretrained(clip_folder)(list(images), return_tensors="pt")
    with torch.no_grad():
        logits = model(**tokens, **pixels).logits_per_image / model.logit_scale.exp()
    cosines = logits.diagonal().double().numpy()
    assert found == pytest.approx(100 * np.maximum(cosines, 0), abs=1e-4)
    opposed = ClipScore(clip_folder)
    opposed.model.visual_projection.weight.neg_()
    assert opposed(images, captions) == pytest.approx(100 * np.maximum(-cosines, 0), abs=1e-4)
    assert len(set(found.round(6))) > 1
    score = clip_score(np.array([10.0, 20.0, 30.0]), OTHER_CONDITIONS)
    assert (score.metric, score.value, score.n) == ("shuffled_clip_score", 20.0, 3)


def test_one_sentence_says_what_a_folder_lacks(tmp_path, clip_folder):
    with pytest.raises(UserError, match=r"metrics\.clip=.* holds no CLIP model"):
        ClipScore(tmp_path)
    (tmp_path / "config.json").write_text((clip_folder / "config.json").read_text())
    with pytest.raises(UserError, match=r"metrics\.clip="):
        ClipScore(tmp_path)
