"""A CLIP of random weights, small enough for tests."""

from pathlib import Path

import torch

from ldm.pretrained.torchvision_ops import ensure_torchvision

WORDS = ["a</w>", "red</w>", "cat</w>", "dog</w>"]


def save_tiny_clip(place: Path) -> None:
    """Writes model, tokenizer and preprocessing as transformers saves them."""
    ensure_torchvision()
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

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
