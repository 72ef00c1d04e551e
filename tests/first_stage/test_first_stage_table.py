"""What each entry of the table of first stages says of itself holds, and its rates are those of the functions."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from encoded import Encoded
from small_first_stage import CODES, small

from ldm.errors import UserError
from ldm.first_stage import FIRST_STAGES
from ldm.first_stage.build import build_first_stage_loss, first_stage_class, options_in
from ldm.first_stage.contract import Gaussian
from ldm.first_stage.tiny import TinyFirstStage, TinyLevel, tiny_decoder, tiny_encoder
from ldm.metrics.coded_latents import STEPS
from ldm.metrics.entropy_coding import coded_size, index_model
from ldm.metrics.rate import aggregate_moments, index_crossentropy, index_log2, kl_fitted, kl_prior
from ldm.metrics.reference_codecs import lossless_sizes
from ldm.parts import defaults_of, options_of

CONF = Path(__file__).parents[2] / "conf" / "ae"
PIXELS = 32 * 32


def made(regulariser):
    return small(regulariser, 1 if regulariser == "identity" else 4).eval()


def at_four(value):
    """What a scale says for f = 4."""
    return value[4] if isinstance(value, dict) else value


def numbers(measured):
    return {value.metric: value.value for value in measured.values}


@pytest.mark.parametrize("regulariser", FIRST_STAGES)
def test_an_entry_stands_under_its_own_name(regulariser):
    assert FIRST_STAGES[regulariser].regulariser == regulariser == made(regulariser).regulariser


@pytest.mark.parametrize("regulariser", FIRST_STAGES)
def test_options_are_what_its_config_holds_with_the_same_defaults(regulariser):
    kind = FIRST_STAGES[regulariser]
    config = yaml.safe_load((CONF / f"{regulariser}.yaml").read_text())
    config = {**config, "kl_weight": float(config["kl_weight"])} if "kl_weight" in config else config
    options, defaults = options_of(kind.Options), defaults_of(kind.Options)
    found = options_in(config)
    assert found.keys() == options.keys()
    # What is null stands for the scale's value; the options' own defaults are those of the small scales.
    given = {name: value for name, value in found.items() if value is not None}
    scale = yaml.safe_load((CONF.parent / "scale" / "cpu.yaml").read_text())["ae"]
    alike = {name: scale[name] for name in found if name not in given and not isinstance(scale.get(name, {}), dict)}
    assert given | alike == defaults
    if regulariser != "identity":  # which has none
        channels, filled = kind.filled(None, found, lambda name: at_four(scale.get(name)))
        assert channels > 0
        assert None not in filled.values()


@pytest.mark.parametrize("regulariser", FIRST_STAGES)
def test_penalties_are_the_terms_of_a_training_pass_and_each_has_an_option_that_weighs_it(regulariser):
    kind, model = FIRST_STAGES[regulariser], made(regulariser)
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    terms = model.forward_train(image).regularisation
    assert terms.keys() == kind.penalties.keys()
    assert model.forward_counted(image).regularisation.keys() == terms.keys()
    assert set(kind.penalties.values()) <= options_of(kind.Options).keys()


def test_the_loss_takes_weights_and_reduction_from_the_class():
    kl = build_first_stage_loss("kl", {"kl_weight": 0.5}, None, 1.0, 0.75)
    vq = build_first_stage_loss("vq", {"codes": 3, "weight": 2.0}, None, 1.0, 0.75)
    assert (kl.reduction, kl.regularisation_weights) == ("sum", {"kl": 0.5})
    assert (vq.reduction, vq.regularisation_weights) == ("mean", {"codebook": 2.0})
    fsq = build_first_stage_loss("fsq", {"levels": [3, 4]}, None, 1.0, 0.75)
    lfq = build_first_stage_loss("lfq", {"entropy_weight": 0.3}, None, 1.0, 0.75)
    assert (fsq.reduction, fsq.regularisation_weights) == ("mean", {})
    assert (lfq.reduction, lfq.regularisation_weights) == ("mean", {"entropy": 0.3, "commitment": 0.25})
    with pytest.raises(UserError, match="ae=klx is none of kl, vq, fsq, lfq, bsq, identity, did you mean 'kl'"):
        first_stage_class("klx")


@pytest.mark.parametrize("regulariser", FIRST_STAGES)
def test_codes_are_those_of_the_codebook_and_the_decoder_takes_their_vectors(regulariser):
    model = made(regulariser)
    raw = torch.randn(2, model.channels, 8, 8, generator=torch.Generator().manual_seed(1))
    assert (model.codes is None) == (model.codebook is None)
    assert model.codes == CODES.get(regulariser)
    if model.codebook is not None:
        indices = model.codebook.nearest(raw)
        assert indices.shape == (2, 8, 8)
        assert 0 <= int(indices.min()) < int(indices.max()) < model.codes
        taken = model.decode_quantised(model.codebook.embed(indices))
        torch.testing.assert_close(model.decode(raw), taken)


@pytest.mark.parametrize("regulariser", FIRST_STAGES)
@torch.no_grad()
def test_a_latent_that_is_drawn_depends_on_the_noise_as_its_posterior_says(regulariser):
    model = made(regulariser)
    encoding = model.encode(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    packed, posterior = model.pack(encoding), model.posterior(encoding)
    noise = torch.randn(posterior.mean.shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(model.latent(packed), posterior.mean)
    assert torch.equal(model.latent(packed, noise), posterior.sample(noise))
    assert torch.equal(model.latent(packed, noise), posterior.mean) == (not model.is_drawn)


@pytest.mark.parametrize("regulariser", FIRST_STAGES)
def test_what_is_counted_runs_without_memory_and_costs_what_training_costs(regulariser):
    from ldm.training.flops import count_flops

    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = made(regulariser)
    raw = model.latent(model.pack(model.encode(image))).detach()
    decoded, trained = count_flops(lambda: model.decode(raw)), count_flops(lambda: model.forward_train(image))
    assert (decoded > 0) == (regulariser != "identity")
    counted = model.to("meta")
    assert count_flops(lambda: counted.decode_counted(raw.to("meta"))) == decoded
    assert count_flops(lambda: counted.forward_counted(image.to("meta"))) == trained


@pytest.mark.parametrize("regulariser", FIRST_STAGES)
def test_its_rates_are_among_the_metrics_that_its_labels_name(regulariser):
    model = made(regulariser)
    names = list(numbers(model.rates(Encoded(model), Encoded(model, 7, seed=1))))
    assert {model.labels.rate, model.labels.crude_rate} == set(names)
    assert model.labels.rmse.endswith("_sample") == model.labels.psnr.endswith("_sample") == model.is_drawn


def test_posterior_rates_are_the_divergences():
    model = made("kl")
    train, heldout = Encoded(model), Encoded(model, 7, seed=1)
    found = model.rates(train, heldout)
    moments = aggregate_moments((e.mean, e.logvar) for e in train.encodings())
    held = [(e.mean, e.logvar) for e in heldout.encodings()]
    prior = np.concatenate([kl_prior(*posterior, PIXELS) for posterior in held])
    fitted = np.concatenate([kl_fitted(*posterior, moments, PIXELS) for posterior in held])
    assert list(numbers(found).items()) == [("rate_kl_prior", prior.mean()), ("rate_kl_fitted", fitted.mean())]
    assert [value.n for value in found.values] == [7, 7]
    assert found.left_out == ()
    assert found.facts == {
        "latent_mean": moments.mean.tolist(),
        "latent_variance": moments.variance.tolist(),
        "rate_images": 12,
    }


@torch.no_grad()
def spread_over_codes(model):
    """At the start all positions choose one code: their differences are small beside their mean."""
    latents = torch.cat([model.to_latent(model.encoder(image / 127.5 - 1)) for image in Encoded(model).images()])
    of_channel = (0, 2, 3)
    std, mean = latents.std(of_channel), latents.mean(of_channel)
    model.to_latent.bias.sub_(mean).div_(std)
    model.to_latent.weight.div_(std.view(-1, 1, 1, 1))
    if model.regulariser == "vq":
        model.quantiser.codebook.mul_(20)


@pytest.mark.parametrize("regulariser", CODES)
@torch.no_grad()
def test_index_rates_are_the_code_lengths(regulariser):
    model, codes = made(regulariser), CODES[regulariser]
    spread_over_codes(model)
    train, heldout = Encoded(model), Encoded(model, 7, seed=1)
    found = model.rates(train, heldout)
    seen, held = (
        torch.cat([model.quantise(latent).indices for latent in images.encodings()]) for images in (train, heldout)
    )
    counts = torch.bincount(seen.flatten(), minlength=codes)
    assert (counts > 0).sum() > 3
    frequency = counts[counts > 0] / counts.sum()
    crossentropy = index_crossentropy(held.numpy(), counts.numpy(), PIXELS)
    assert list(numbers(found).items()) == [
        ("rate_index_log2", index_log2(codes, 64, PIXELS)),
        ("rate_index_crossentropy", crossentropy.mean()),
    ]
    assert [value.n for value in found.values] == [7, 7]
    assert list(found.facts) == ["codes", "codebook_usage", "codebook_perplexity", "rate_images"]
    assert (found.facts["codes"], found.facts["rate_images"]) == (codes, 12)
    assert found.facts["codebook_usage"] == pytest.approx(float((counts > 0).sum()) / codes)
    assert found.facts["codebook_perplexity"] == pytest.approx(float((-(frequency * frequency.log()).sum()).exp()))
    size = coded_size(held, index_model(counts.numpy()))
    assert numbers(model.coded(train, heldout))["coded_index"] == size.together / (7 * PIXELS)


def test_pixel_rates_are_eight_bits_a_channel_and_png():
    model = made("identity")
    heldout = Encoded(model, 7, seed=1)
    png = lossless_sizes(heldout.stored.permute(0, 2, 3, 1).numpy())[0][0]
    assert png.codec == "png"
    found = model.rates(Encoded(model), heldout)
    assert numbers(found) == {"rate_raw": 24.0, "rate_lossless": png.bits_per_pixel}
    assert (found.left_out, found.facts) == ((), {})


def test_latents_in_steps_cost_more_and_err_less_the_finer_the_steps():
    model = made("kl")
    found = model.coded(Encoded(model), Encoded(model, 7, seed=1))
    assert list(numbers(found)) == ["coded_latent", "coded_latent_alone", "rmse255_coded", "psnr_coded"]
    matched, *curve = found.facts["quantised"]
    assert [point["step"] for point in curve] == list(STEPS)
    assert matched["step"] is None
    bits = [point["bits_per_pixel"] for point in curve]
    assert bits == sorted(bits, reverse=True)
    assert len(found.facts["matched_steps"]) == model.channels


def test_an_unregularised_first_stage_has_no_rate_and_says_why():
    levels = [TinyLevel(1), TinyLevel(1)]
    model = TinyFirstStage(tiny_encoder(2, 4, levels), tiny_decoder(2, 4, levels))
    found = model.rates(Encoded(model), Encoded(model))
    assert (model.labels.rate, model.labels.crude_rate, model.codes) == (None, None, None)
    assert found.values == ()
    assert [item.metric for item in found.left_out] == ["rate_kl_prior", "rate_kl_fitted"]


def test_labels_are_plain_data():
    for kind in FIRST_STAGES.values():
        assert all(isinstance(value, str) for value in dataclasses.asdict(kind.labels).values())
    assert not any(isinstance(made(name).encode(torch.zeros(1, 3, 32, 32)), Gaussian) for name in (*CODES, "identity"))


def test_latents_that_are_points_are_coded_in_steps_of_the_curve_alone():
    levels = [TinyLevel(1), TinyLevel(1)]
    model = TinyFirstStage(tiny_encoder(2, 4, levels), tiny_decoder(2, 4, levels))
    found = model.coded(Encoded(model), Encoded(model, 7, seed=1))
    assert not found.values
    [item] = found.left_out
    assert (item.metric, "points" in item.reason) == ("coded_latent", True)
    assert [point["step"] for point in found.facts["quantised"]] == list(STEPS)
    assert all(point["bits_per_pixel"] > 0 for point in found.facts["quantised"])
    assert "matched_steps" not in found.facts
