"""A GPU gives the numbers of the CPU: draws are the CPU's, and float32 is no TF32. Skipped where there is none."""

from pathlib import Path

import pytest
import torch
from program import rows, run_afresh

pytestmark = pytest.mark.program

ROUNDING = 1e-5
"""Relative; 1e-6 was seen."""

OF_A_PROBE = "class_accuracy"
"""Ends the names of what a network says that is trained first, in which rounding grows."""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")
def test_pixels_are_measured_alike_on_gpu_and_cpu(tmp_path: Path) -> None:
    """Of the same identities: features, training, samples, bound and distances, all but rounding."""
    settings = ("ae.f=1", "precision=fp32", "metrics.likelihood=true", "metrics.memorisation=true")
    found = {}
    for device in ("cpu", "cuda"):
        done = run_afresh(tmp_path / device, f"device={device}", *settings, with_gpu=True)
        assert done.returncode == 0, done.stdout + done.stderr
        found[device] = {k: v for k, v in rows(tmp_path / device).items() if not k[2].endswith(OF_A_PROBE)}
    assert found["cuda"] == {key: pytest.approx(value, rel=ROUNDING, abs=1e-8) for key, value in found["cpu"].items()}
