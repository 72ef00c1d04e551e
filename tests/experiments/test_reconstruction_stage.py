"""What the reconstruction stage says of first stages that have no rate."""

from experiments.stages import reconstruction
from ldm.first_stage.tiny import TinyFirstStage, TinyLevel, tiny_decoder, tiny_encoder


def test_latents_without_spread_or_codes_have_no_rate_and_say_so():
    levels = [TinyLevel(1), TinyLevel(1)]
    model = TinyFirstStage(tiny_encoder(2, 4, levels), tiny_decoder(2, 4, levels))
    rates = reconstruction._rate(model, range(4), range(4), [0, 1], "cpu")
    assert (list(rates.values), dict(rates.facts)) == ([], {})
    assert {item.metric for item in rates.left_out} == {"rate_kl_prior", "rate_kl_fitted"}
    assert all("no finite rate" in item.reason for item in rates.left_out)
