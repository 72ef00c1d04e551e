"""A diffusion transformer in the names of its authors' code, made up."""

import torch

CLASSES = 5


def made_up(width=384, depth=2, channels=4, patch=2, classes=CLASSES, side=8):
    """Random weights of the names and shapes of the authors' code."""
    generator = torch.Generator().manual_seed(3)
    layers = {"t_embedder.mlp.0": (256, width), "t_embedder.mlp.2": (width, width)}
    for block in range(depth):
        layers |= {f"blocks.{block}.attn.qkv": (width, 3 * width), f"blocks.{block}.attn.proj": (width, width)}
        layers |= {f"blocks.{block}.mlp.fc1": (width, 4 * width), f"blocks.{block}.mlp.fc2": (4 * width, width)}
        layers |= {f"blocks.{block}.adaLN_modulation.1": (width, 6 * width)}
    layers |= {"final_layer.adaLN_modulation.1": (width, 2 * width)}
    layers |= {"final_layer.linear": (width, 2 * patch * patch * channels)}
    state = {}
    for name, (enters, leaves) in layers.items():
        state[f"{name}.weight"] = torch.randn(leaves, enters, generator=generator) / enters**0.5
        state[f"{name}.bias"] = torch.randn(leaves, generator=generator) / 10
    state["x_embedder.proj.weight"] = torch.randn(width, channels, patch, patch, generator=generator) / 4
    state["x_embedder.proj.bias"] = torch.randn(width, generator=generator) / 10
    state["y_embedder.embedding_table.weight"] = torch.randn(classes + 1, width, generator=generator)
    # As in MAE's get_2d_sincos_pos_embed: the column in the first half of the channels, the row in the second.
    grid = torch.arange(side // patch).double()
    waves = grid[:, None] * 10000.0 ** (-torch.arange(width // 4).double() / (width // 4))
    one = torch.cat([waves.sin(), waves.cos()], dim=1)
    places = [torch.cat([one[column], one[row]]) for row in range(len(grid)) for column in range(len(grid))]
    state["pos_embed"] = torch.stack(places)[None].float()
    return state
