"""What milestones of diffusion trainings cost, and with what they are sampled: shared by the figures that draw them."""

import pandas as pd

from analysis.collect import Study


def with_flops(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with the FLOPs of diffusion training that each had cost after its images seen, and with the shares before.

    Columns `spent`, and `total` with first stage, encoding and the trials that found a learning rate; rows of given
    denoisers, whose cost nobody knows, go.
    """
    each = {
        one.record.identity: one.record.cost.flops / one.record.cost.images
        for one in study.finished
        if one.record.stage == "diffusion" and one.record.cost.images
    }
    spent = rows["model"].map(each).astype(float) * rows["images_seen"].astype(float)
    share = rows[["first_stage_flops", "latents_flops", "learning_rate_flops"]].fillna(0).sum(axis=1)
    return rows.assign(spent=spent, total=spent + share)[spent > 0]


def sampled_with(study: Study) -> str:
    """The sampler of the milestones, as a note; empty where there are none."""
    used = study.frame[study.frame["stage"] == "progress"]["protocol"].unique()
    samplers = dict.fromkeys(str(study.protocols[name].get("sampler", "")) for name in used if name in study.protocols)
    named = " or ".join(filter(None, samplers))
    return f"Milestones are sampled with {named}." if named else ""
