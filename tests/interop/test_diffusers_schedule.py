"""Noise schedules of diffusers' configs, against diffusers' own."""

import pytest
import torch

from ldm.interop.diffusers_schedule import schedule_of


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("is_zero", [False, True])
def test_signal_left_at_each_step_is_diffusers(kind, is_zero):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(
        beta_schedule=kind, prediction_type="v_prediction", timestep_spacing="trailing", rescale_betas_zero_snr=is_zero
    )
    ours = schedule_of({**scheduler.config, "_class_name": "DDIMScheduler"})
    torch.testing.assert_close(ours.alpha_bar.float(), scheduler.alphas_cumprod, rtol=2e-4, atol=1e-6)
    assert (float(ours.alpha_bar[-1]) == 0) == is_zero
    assert ours.alpha(torch.ones(1)).isfinite().all()
