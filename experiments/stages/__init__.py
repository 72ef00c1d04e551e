"""All stages, one file each, in an order in which parents come first."""

from experiments.stage import Stage
from experiments.stages import (
    coding,
    diffusion,
    evaluation,
    first_stage,
    latents,
    likelihood,
    memorisation,
    other_references,
    predictors,
    probe,
    progress,
    rate_curve,
    reconstruction,
    reference,
    sampler_check,
    samples,
    training_set,
    tuning,
)

STAGES: tuple[Stage, ...] = (
    reference.STAGE,
    other_references.STAGE,
    first_stage.STAGE,
    reconstruction.STAGE,
    coding.STAGE,
    rate_curve.STAGE,
    latents.STAGE,
    predictors.STAGE,
    diffusion.STAGE,
    progress.STAGE,
    likelihood.STAGE,
    probe.STAGE,
    tuning.STAGE,
    sampler_check.STAGE,
    samples.STAGE,
    evaluation.STAGE,
    training_set.STAGE,
    memorisation.STAGE,
)
