"""All stages, one file each, in an order in which parents come first."""

from experiments.stage import Stage
from experiments.stages import (
    coding,
    diffusion,
    evaluation,
    first_stage,
    gaussian,
    latents,
    likelihood,
    memorisation,
    other_references,
    predictors,
    probe,
    progress,
    reconstruction,
    reference,
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
    latents.STAGE,
    gaussian.STAGE,
    predictors.STAGE,
    diffusion.STAGE,
    progress.STAGE,
    likelihood.STAGE,
    probe.STAGE,
    tuning.STAGE,
    samples.STAGE,
    evaluation.STAGE,
    training_set.STAGE,
    memorisation.STAGE,
)
