"""First stages small enough for tests."""

import torch

from ldm.first_stage import build_first_stage

OPTIONS = {"vq": {"codes": 29}, "fsq": {"levels": [5, 4, 3]}}
CODES = {"vq": 29, "fsq": 5 * 4 * 3, "lfq": 2**3, "bsq": 2**3}
"""Of first stages with three channels."""


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
        "options": OPTIONS.get(regulariser, {}),
    }
    torch.manual_seed(0)
    return build_first_stage(**{**values, **changes})
