"""CLIP score with a tiny random CLIP, against transformers' own forward pass."""

import numpy as np
import pytest
import torch

from ldm.errors import UserError
from ldm.metrics.clip_score import ClipScore, clip_score
from ldm.pretrained.torchvision_ops import ensure_torchvision

WORDS = ["a</w>", "red</w>", "cat</w>", "dog</w>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIP of random weights as transformers saves it."""
    ensure_torchvision()
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

    place = tmp_path_factory.mktemp("clip")
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = [*letters, *(f"{x}</w>" for x in letters), *WORDS[1:], "<|startoftext|>", "<|endoftext|>"]
    ids = {word: index for index, word in enumerate(vocabulary)}
    merges = [("r", "e"), ("re", "d</w>"), ("c", "a"), ("ca", "t</w>"), ("d", "o"), ("do", "g</w>")]
    ids |= {"re": len(ids), "ca": len(ids) + 1, "do": len(ids) + 2}
    CLIPTokenizer(vocab=ids, merges=merges).save_pretrained(place)
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    end = ids["<|endoftext|>"]
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(
            text_config={**small, "vocab_size": len(ids), "max_position_embeddings": 8, "eos_token_id": end},
            vision_config={**small, "image_size": 16, "patch_size": 8},
            projection_dim=8,
        )
    )
    model.save_pretrained(place)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(place)
    return place


def test_the_score_is_the_cosine_of_transformers_own_pass(folder):
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    images = torch.randint(0, 256, (4, 3, 20, 20), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    captions = ["a red cat", "dog", "a dog a dog a dog a dog a dog", "red"]
    found = ClipScore(folder)(images, captions)
    model = CLIPModel.from_pretrained(folder).eval()
    tokens = CLIPTokenizer.from_pretrained(folder)(
        captions, padding=True, truncation=True, max_length=8, return_tensors="pt"
    )
    pixels = CLIPImageProcessor.from_pretrained(folder)(list(images), return_tensors="pt")
    with torch.no_grad():
        logits = model(**tokens, **pixels).logits_per_image / model.logit_scale.exp()
    cosines = logits.diagonal().double().numpy()
    assert found == pytest.approx(100 * np.maximum(cosines, 0), abs=1e-4)
    opposed = ClipScore(folder)
    opposed.model.visual_projection.weight.neg_()
    assert opposed(images, captions) == pytest.approx(100 * np.maximum(-cosines, 0), abs=1e-4)
    assert len(set(found.round(6))) > 1
    score = clip_score(np.array([10.0, 20.0, 30.0]), "shuffled_")
    assert (score.metric, score.value, score.n) == ("shuffled_clip_score", 20.0, 3)


def test_one_sentence_says_what_a_folder_lacks(tmp_path, folder):
    with pytest.raises(UserError, match=r"metrics\.clip=.* holds no CLIP model"):
        ClipScore(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(UserError, match=r"metrics\.clip="):
        ClipScore(tmp_path)
