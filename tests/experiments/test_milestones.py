"""A milestone stands for a run that ends there."""

from pathlib import Path

import pytest
import torch
from program import latest_stages, run
from safetensors.torch import load_file

pytestmark = pytest.mark.program

CELL = ("ae=identity", "ae.f=1", "denoiser=dit", "until=diffusion", "precision=fp32", "trainer.ema_half_life=none")


@pytest.mark.long
def test_the_weights_of_a_milestone_are_those_of_a_run_that_ends_there(begun_store: Path) -> None:
    store = begun_store
    done = run(store, *CELL, "trainer.milestones=auto")
    assert done.returncode == 0, done.stdout + done.stderr
    longer = store / "diffusion" / latest_stages(store)["diffusion"]
    assert sorted(int(path.stem) for path in longer.glob("milestones/*")) == [16, 32, 64]
    done = run(store, *CELL, "trainer.images=32", "trainer.milestones=[1.0]")
    assert done.returncode == 0, done.stdout + done.stderr
    [alone] = set((store / "diffusion").iterdir()) - {longer}
    milestone, final = load_file(longer / "milestones" / "32.safetensors"), load_file(alone / "weights.safetensors")
    assert milestone.keys() == final.keys()
    assert all(torch.equal(milestone[name], final[name]) for name in final)
