"""The columns of results.csv: those that scripts rely on, in their order, and behind them axes that are new."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

COST_COLUMNS = (
    "first_stage_seconds",
    "first_stage_flops",
    "latents_seconds",
    "latents_flops",
    "diffusion_seconds",
    "diffusion_flops",
    "sample_seconds",
    "sample_images_per_second",
    "sample_flops_per_image",
    "peak_bytes",
)
RATE_COST_COLUMNS = ("learning_rate_seconds", "learning_rate_flops")
"""What the trials cost by which a learning rate was found."""

PARAMETER_COLUMNS = ("parameters_denoiser", "parameters_conditioning", "parameters_encoder", "parameters_decoder")
UNPRINTED = ("deviations", "alone")
"""Columns that are for comparisons alone."""

MEANING = ("title", "unit", "higher_is_better", "group", "kind", "base", "variant", "headline_from")
"""What a row says of its metric (`ldm.records.ResultRow`); `network` is the extractor of its protocol."""

COLUMNS = (
    "stage",
    "cell",
    "first_stage",
    "model",
    "f",
    "regulariser",
    "channels",
    "sampler",
    "steps",
    "nfe",
    "guidance_scale",
    "seed",
    "images_seen",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "estimand",
    *UNPRINTED,
    "n",
    "protocol",
    *COST_COLUMNS,
    *PARAMETER_COLUMNS,
    "data",
    "resolution",
    "scale",
    "extractor",
    "ae_seed",
    "budget",
    "ae_weights",
    "ae_settings",
    "conditioning",
    "task",
    "latent_scale",
    "schedule",
    "shift",
    "target",
    "weighting",
    "learning_rate_factor",
    "weights",
    "settings",
    "eta",
    "variance",
    "spacing",
    "final",
    "clip",
    "guidance_rule",
    "guidance_interval",
    "guidance_rescale",
    "height",
    "width",
    "tile",
    "sampler_seed",
    "identity",
    "samples",
    "machine",
    "sweep",
    *MEANING,
    "network",
    "learning_rate_rule",
    "learning_rate",
    *RATE_COST_COLUMNS,
)
WHOLE_NUMBERS = (
    "f",
    "channels",
    "steps",
    "nfe",
    "seed",
    "ae_seed",
    "sampler_seed",
    "images_seen",
    "n",
    "resolution",
    "height",
    "width",
    "tile",
    "peak_bytes",
    "headline_from",
    *PARAMETER_COLUMNS,
)
REAL_NUMBERS = (
    "value",
    "alone",
    "ci_low",
    "ci_high",
    "guidance_scale",
    "guidance_rescale",
    "learning_rate_factor",
    "eta",
    *(c for c in COST_COLUMNS if c != "peak_bytes"),
    "learning_rate",
    *RATE_COST_COLUMNS,
)


def frame_of(rows: Iterable[Mapping[str, Any]], axes: Sequence[str], stages: Sequence[str]) -> pd.DataFrame:
    """The rows as a table, in the order of their stages; axes that have no column of old get one at the end."""
    columns = list(dict.fromkeys([*COLUMNS, *axes]))
    frame = pd.DataFrame(list(rows)).reindex(columns=columns)
    for column in WHOLE_NUMBERS:
        frame[column] = pd.to_numeric(frame[column]).astype("Int64")
    for column in REAL_NUMBERS:
        frame[column] = pd.to_numeric(frame[column]).astype(float)
    for column in set(columns) - set(WHOLE_NUMBERS) - set(REAL_NUMBERS) - {"deviations"}:
        frame[column] = frame[column].astype(object).where(frame[column].notna(), "")
    order = {stage: index for index, stage in enumerate(stages)}
    keys = ["regulariser", "f", "steps", "images_seen"]
    frame = frame.assign(order=frame["stage"].map(order)).sort_values(["order", *keys], kind="stable")
    # A copy holds columns of one kind together: every choice of rows, of which there are thousands, is faster by half.
    return frame.drop(columns="order").reset_index(drop=True).copy()
