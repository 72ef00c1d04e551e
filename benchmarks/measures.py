"""What measures samples, beside torch-fidelity: features and the Frechet distance; and how quickly commands start."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.contest import Contest
from benchmarks.timing import Call
from ldm.metrics.features import InceptionExtractor, inception_network
from ldm.metrics.frechet import frechet_distance
from ldm.pretrained.torchvision_ops import ensure_torchvision

BATCH = 16


def exact_features(device: str) -> Iterator[Contest]:
    """Both in float32; equal to 3e-7."""
    return _features(torch.float32)


def bf16_features(device: str) -> Iterator[Contest]:
    """Ours in bfloat16, torch-fidelity in float32, the one precision that it has here."""
    return _features(torch.bfloat16)


def _features(dtype: torch.dtype) -> Iterator[Contest]:
    theirs = _inception()
    ours = InceptionExtractor(inception_network(theirs.state_dict()), "random", "cpu", dtype)
    images = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def peer() -> Any:
        return theirs(images)

    yield Contest("32 px, resized to 299", lambda: ours(images), peer, "torch-fidelity", BATCH)


def _inception() -> Any:
    """torch-fidelity's network with random weights, which cost as much as the standard ones and need no download."""
    ensure_torchvision()
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.manual_seed(0)
    with mock.patch("torch.load", return_value={}), mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"):
        return FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], "none").eval()


def frechet(device: str) -> Iterator[Contest]:
    """Of 500 against 1,000 features of 1,280."""
    ensure_torchvision()
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    random = np.random.default_rng(0)
    a, b = random.standard_normal((500, 1280)), random.standard_normal((1000, 1280))

    def theirs() -> None:
        statistics = [fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b)]
        fid_statistics_to_metric(*statistics, False)

    yield Contest("500 x 1,280", lambda: frechet_distance(a, b), theirs, "torch-fidelity", 1, "distances/s")


def start_up(device: str) -> Iterator[Contest]:
    """How long a user waits for --help, beside a program that only imports torch."""
    for script in ("run.py", "analysis/plot_tradeoffs.py"):
        yield Contest(
            f"{script} --help", _command(script, "--help"), _command("-c", "import torch"), "torch", 1, "calls/s"
        )


def _command(*arguments: str) -> Call:
    root = Path(__file__).resolve().parent.parent
    return lambda: subprocess.run([sys.executable, *arguments], cwd=root, capture_output=True, check=True)
