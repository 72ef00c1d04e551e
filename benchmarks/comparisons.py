"""All comparisons by name."""

from collections.abc import Mapping

from benchmarks import measures, paper, sampling, steps
from benchmarks.contest import Comparison

COMPARISONS: Mapping[str, Comparison] = {
    "train_step_fp32": Comparison("Training step of a denoiser, both in float32", steps.exact_steps),
    "train_step_default": Comparison("The same, each in its default precision", steps.default_steps),
    "sample_fp32": Comparison("20 steps of DDIM, both in float32", sampling.exact_sampling),
    "sample_default": Comparison("The same, each in its default precision", sampling.default_sampling),
    "first_stage_step": Comparison("Training step of a KL first stage at f = 4", steps.first_stage_steps),
    "features_exact": Comparison("Inception features, both in float32", measures.exact_features),
    "features_bf16": Comparison("Inception features, ours in bfloat16", measures.bf16_features),
    "frechet": Comparison("Frechet distance", measures.frechet),
    "start_up": Comparison("--help, beside an import of torch", measures.start_up),
    "ldm4": Comparison("Training step of LDM-4 of the paper", paper.ldm4, needs_gpu=True),
    "ldm8": Comparison("Training step of LDM-8 of the paper", paper.ldm8, needs_gpu=True),
    "dit_xl": Comparison("Training step of DiT-XL/2", paper.dit_xl, needs_gpu=True),
}
