"""Sampling: 20 steps of DDIM from the same network, ours by the one loop, the peer's by diffusers' pipeline."""

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.contest import Contest
from benchmarks.timing import Call
from benchmarks.workloads import WORKLOADS, Workload, diffusers_unet, our_unet
from ldm.conditioning.contract import Condition
from ldm.diffusion import DenoisingModel, guided, make_schedule
from ldm.randomness import SampleNoise
from ldm.samplers import DDIM, sample, time_grid
from ldm.training.precision import autocast_dtype, resolve_precision

STEPS, BATCH = 20, 50


def exact_sampling(device: str) -> Iterator[Contest]:
    """Both in float32."""
    return _sampling("fp32")


def default_sampling(device: str) -> Iterator[Contest]:
    """Ours in the precision that it chooses for this processor, diffusers in float32."""
    return _sampling(resolve_precision("auto", "cpu"))


def _sampling(precision: str) -> Iterator[Contest]:
    for work in WORKLOADS:
        theirs = diffusers_unet(work).eval()
        yield Contest(
            work.size, _ours(our_unet(theirs), work, precision), _diffusers_pipeline(theirs), "diffusers", BATCH
        )


def _ours(network: torch.nn.Module, work: Workload, precision: str) -> Call:
    model = DenoisingModel(network.eval(), make_schedule("linear"), "eps", autocast_dtype(precision))
    times = time_grid("trailing", STEPS, "clean", model.schedule)

    @torch.inference_mode()
    def call() -> torch.Tensor:
        noise = SampleNoise(0, range(BATCH))
        z = noise((3, work.side, work.side)).contiguous(memory_format=torch.channels_last)
        *_, z = sample(DDIM(model.schedule), guided(model, Condition()), z, times, noise)
        return z

    return call


def _diffusers_pipeline(network: Any) -> Call:
    from diffusers import DDIMPipeline, DDIMScheduler

    pipeline: Any = DDIMPipeline(network, DDIMScheduler(beta_schedule="linear", timestep_spacing="trailing"))
    pipeline.set_progress_bar_config(disable=True)
    return lambda: pipeline(batch_size=BATCH, num_inference_steps=STEPS, output_type="np")
