"""The stages, one file each: a function from a job (stage config, parents' artifacts) to an outcome."""

from collections.abc import Callable, Mapping

from experiments.runner import Job, Outcome
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
    reconstruction,
    reference,
    samples,
    training_set,
    tuning,
)

FUNCTIONS: Mapping[str, Callable[[Job], Outcome]] = {
    "reference": reference.run,
    "other_references": other_references.run,
    "first_stage": first_stage.run,
    "reconstruction": reconstruction.run,
    "coding": coding.run,
    "latents": latents.run,
    "predictors": predictors.run,
    "diffusion": diffusion.run,
    "progress": progress.run,
    "likelihood": likelihood.run,
    "probe": probe.run,
    "tuning": tuning.run,
    "samples": samples.run,
    "evaluation": evaluation.run,
    "training_set": training_set.run,
    "memorisation": memorisation.run,
}
