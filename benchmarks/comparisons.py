"""The comparisons, one function each: what is built, and who is timed against whom."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import Timing, race
from ldm.pretrained.torchvision_ops import ensure_torchvision

BATCH = 32


def unet(rounds: int) -> list[Timing]:
    """Forward and backward of an unconditional UNet, 32 px: ours, and diffusers' with the same weights."""
    ensure_torchvision()
    from diffusers import UNet2DModel

    from ldm.interop.diffusers_denoiser import unet_from_diffusers

    theirs: Any = UNet2DModel(
        sample_size=32,
        block_out_channels=(32, 64, 128),
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=16,
        norm_eps=1e-5,
    )
    ours = unet_from_diffusers(dict(theirs.config), theirs.state_dict()).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(BATCH, 3, 32, 32)
    fast = x.contiguous(memory_format=torch.channels_last)
    index = torch.full((BATCH,), 500.0)

    def train(network: Callable[[Tensor], Tensor], image: Tensor, bf16: bool = False) -> Callable[[], None]:
        def call() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = network(image).square().mean()
            loss.backward()

        return call

    contestants = {
        "ours, bf16": train(lambda image: ours(image, index), fast, bf16=True),
        "ours, float32": train(lambda image: ours(image, index), fast),
        "diffusers, float32": train(lambda image: theirs(image, index).sample, x),
        "diffusers, bf16": train(lambda image: theirs(image, index).sample, x, bf16=True),
    }
    return race(contestants, rounds, BATCH)


def autoencoder(rounds: int) -> list[Timing]:
    """Forward and backward of a KL first stage at f = 4, 32 px: ours, and diffusers' of the same shape."""
    ensure_torchvision()
    from diffusers import AutoencoderKL

    from ldm.interop.diffusers_first_stage import build_diffusers_first_stage

    theirs: Any = AutoencoderKL(
        block_out_channels=(32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=3,
        sample_size=32,
    )
    ours = build_diffusers_first_stage(dict(theirs.config)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(BATCH, 3, 32, 32)
    fast, noise = x.contiguous(memory_format=torch.channels_last), torch.randn(BATCH, 3, 8, 8)

    def ours_step(bf16: bool) -> Callable[[], None]:
        def call() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = ours(fast, noise).image.square().mean()
            loss.backward()

        return call

    def theirs_step(bf16: bool) -> Callable[[], None]:
        def call() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = theirs(x, sample_posterior=True).sample.square().mean()
            loss.backward()

        return call

    contestants = {
        "ours, bf16": ours_step(True),
        "ours, float32": ours_step(False),
        "diffusers, float32": theirs_step(False),
        "diffusers, bf16": theirs_step(True),
    }
    return race(contestants, rounds, BATCH)


def frechet(rounds: int) -> list[Timing]:
    """The Frechet distance of 500 against 1000 features of 1280: ours, and torch-fidelity's functions."""
    ensure_torchvision()
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    from ldm.metrics.frechet import frechet_distance

    random = np.random.default_rng(0)
    a, b = random.standard_normal((500, 1280)), random.standard_normal((1000, 1280))

    def theirs() -> None:
        statistics = [fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)]
        fid_statistics_to_metric(*statistics, False)

    return race({"ours": lambda: frechet_distance(a, b), "torch-fidelity": theirs}, rounds)


def extractor(rounds: int) -> list[Timing]:
    """EfficientNet-Lite2 on 32 px images enlarged to 112: float32, which measures, and bf16."""
    from ldm.metrics.extractors import load_extractor

    images = torch.randint(0, 256, (100, 3, 32, 32), dtype=torch.uint8)
    exact, fast = load_extractor("efficientnet_lite2"), load_extractor("efficientnet_lite2", dtype=torch.bfloat16)
    return race({"float32": lambda: exact(images), "bf16": lambda: fast(images)}, rounds, len(images))


def start_up(rounds: int) -> list[Timing]:
    """How long a user waits for --help."""
    root = Path(__file__).resolve().parent.parent

    def call(*arguments: str) -> Callable[[], object]:
        command = [sys.executable, *arguments, "--help"]
        return lambda: subprocess.run(command, cwd=root, capture_output=True, check=True)

    return race({"plot_tradeoffs --help": call("analysis/plot_tradeoffs.py"), "run.py --help": call("run.py")}, rounds)


COMPARISONS: dict[str, Callable[[int], list[Timing]]] = {
    function.__name__: function for function in (unet, autoencoder, frechet, extractor, start_up)
}
