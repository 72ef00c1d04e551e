"""First stages small enough for tests."""

import torch

from ldm.first_stage import build_first_stage


def small(regulariser, factor, **changes):
    """A narrow first stage for 32 px."""
    values = {
        "regulariser": regulariser,
        "factor": factor,
        "channels": 3,
        "ch": 16,
        "ch_mult": (1,) * factor.bit_length(),
        "num_res_blocks": 1,
        "resolution": 32,
        "attn_sides": (),
        "mid_attention": True,
        "dropout": 0.0,
        "options": {"codes": 29} if regulariser == "vq" else {},
    }
    torch.manual_seed(0)
    return build_first_stage(**{**values, **changes})
