"""A regulariser that nobody knows, given its file and its line in the table, goes through all that stages do."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from tiny_plans import plan_of

from experiments import build
from experiments.counts import count_first_stage
from experiments.stages.latents import EncodedImages
from experiments.stages.predictors import _codebook_use
from experiments.stages.reconstruction import _measure, _rate
from ldm.data.contract import ImageCache
from ldm.errors import UserError
from ldm.first_stage.build import FIRST_STAGES
from ldm.first_stage.contract import Labels, Reconstruction, TrainableFirstStage
from ldm.first_stage.latent_scale import LatentScale
from ldm.interop.diffusers_autoencoder import WrappedPoint
from ldm.metrics.values import Measured, Metric, MetricValue
from ldm.parts import option
from ldm.records import RATE
from ldm.training.first_stage import FirstStageSettings, FirstStageTraining

RATE_LEVELS = Metric("rate_levels", "log2 of the levels", False, RATE, "bits/px", headline_from=0)


class Rounded(TrainableFirstStage):
    """Every channel is rounded to one of a few levels; its rate is their logarithm."""

    @dataclass(frozen=True)
    class Options:
        levels: int = option(low=2, help="levels a channel")
        strength: float = option(0.5, low=0, help="weight of what pulls latents to levels")

    regulariser = "rounded"
    labels = Labels(title="rounded", rate="rate_levels")
    group = "rounding"
    penalties: ClassVar[Mapping[str, str]] = {"distance": "strength"}
    reduction = "mean"
    is_drawn = False

    def __init__(self, encoder, decoder, channels, levels):
        super().__init__()
        self.factor, self.channels, self.cache_channels = encoder.factor, channels, channels
        self.levels = levels
        self.encoder, self.decoder = encoder, decoder
        self.stepped = 0

    @classmethod
    def build(cls, coders, channels, options):
        return cls(*coders.make(), channels, options.levels)

    @property
    def codebook(self):
        # One number for the levels of all channels of a position.
        places = self.levels ** torch.arange(self.channels).view(-1, 1, 1)
        return SimpleNamespace(
            codes=self.levels**self.channels, nearest=lambda raw: (self._level(raw) * places).sum(1).long()
        )

    def _level(self, raw):
        return (torch.sigmoid(raw) * self.levels).floor().clamp(max=self.levels - 1)

    def encode(self, image):
        return self.encoder(image)

    def latent(self, packed, noise=None):
        return packed

    def decode(self, raw):
        rounded = (self._level(raw) + 0.5) / self.levels
        return self.decoder(raw + (rounded.logit() - raw).detach())

    def decode_counted(self, raw):
        return self.decode(raw)

    def rates(self, train, heldout):
        tokens = next(iter(heldout.encodings()))[0].numel()
        return Measured([MetricValue(RATE_LEVELS, tokens * np.log2(self.levels) / heldout.pixels, len(heldout))])

    def coded(self, train, heldout):
        return Measured()

    @property
    def last_layer(self):
        return self.decoder.head.weight

    def forward_train(self, image, noise=None):
        raw = self.encode(image)
        return Reconstruction(self.decode(raw), raw, {"distance": raw.square().mean()}, self.codebook.nearest(raw))

    def forward_counted(self, image):
        raw = self.encode(image)
        return Reconstruction(self.decode(raw), raw, {"distance": raw.square().mean()})

    def before_step(self, image, step, steps, draw):
        self.stepped += 1
        return {}


@pytest.fixture
def ae(monkeypatch):
    """A resolved group `ae` of the new regulariser, at f = 4 on images of 32 px."""
    monkeypatch.setitem(FIRST_STAGES, "rounded", Rounded)
    settings = plan_of("ae=kl", "ae.f=4").config["ae"]
    del settings["kl_weight"]
    return {**settings, "regulariser": "rounded", "rounding": {"levels": 3, "strength": 0.25}}


@pytest.fixture
def images():
    halves = np.zeros((8, 32, 32, 3), np.uint8)
    for index, image in enumerate(halves):
        image[: 4 * (index + 1)] = 255 - 20 * index
    return ImageCache(None, "halves", 32, (), tuple("abcdefgh"), (), halves, np.full(8, -1), np.zeros(8, bool))


def test_it_is_built_trained_for_a_step_and_measured_by_its_own_rate(ae, images):
    model = build.first_stage(ae, 32)
    assert isinstance(model, Rounded)
    assert (model.levels, model.codes) == (3, 3**model.channels)
    loss = build.first_stage_loss(ae, None)
    assert (loss.reduction, loss.regularisation_weights) == ("mean", {"distance": 0.25})
    before = model.last_layer.detach().clone()
    settings = FirstStageSettings(0, 4, 4, 1e-3, 0, "constant", None, adversarial_from=1)
    report = FirstStageTraining(model, loss, None, images, settings, "cpu").advance()
    assert {"distance", "codebook_usage", "codebook_perplexity"} <= report.values.keys()
    assert model.stepped == 1
    assert not torch.equal(model.last_layer, before)
    model.eval().requires_grad_(False)
    rates = _rate(model, images, images, [1, 4, 7], "cpu")
    [value] = rates.values
    assert (value.metric, value.n) == (model.labels.rate, 3)
    assert value.value == pytest.approx(model.channels * np.log2(3) / 16)
    originals, decoded, errors_of_draws = _measure(SimpleNamespace(device="cpu"), model, images, [1, 4, 7], 0)
    assert decoded.shape == originals.shape == (3, 3, 32, 32)
    assert errors_of_draws is None


@pytest.mark.long
def test_it_is_counted_and_its_codes_are_described(ae, images):
    counts = count_first_stage({**ae, "loss": {**ae["loss"], "perceptual": "none"}}, 32)
    assert counts.step.work > 2 * (counts.encode + counts.decode) > 0
    model = build.first_stage(ae, 32).eval().requires_grad_(False)
    latents = torch.cat(list(EncodedImages(model, images, range(8), "cpu").encodings()))
    zero, one = torch.zeros(model.channels).double(), torch.ones(model.channels).double()
    use = {value.metric: value.value for value in _codebook_use(model, LatentScale(zero, one), latents, "cpu")}
    different = len(model.codebook.nearest(latents).unique())
    assert use["codebook_usage"] == different / model.codes


def test_an_option_it_does_not_have_is_refused_with_the_nearest(ae):
    with pytest.raises(UserError, match=r"ae\.rounding\.level=2 .*did you mean 'levels'"):
        build.first_stage({**ae, "rounding": {"level": 2}}, 32)


def test_encoded_images_come_with_their_encodings_in_the_order_asked_for(ae, images):
    model = build.first_stage(ae, 32).eval().requires_grad_(False)
    chosen = EncodedImages(model, images, [6, 0, 3], "cpu")
    [stored], [encoding] = list(chosen.images()), list(chosen.encodings())
    assert (len(chosen), chosen.pixels) == (3, 1024)
    assert torch.equal(stored, images.uint8([6, 0, 3]))
    torch.testing.assert_close(encoding, model.encode(images.batch([6, 0, 3])))


class Inner(torch.nn.Module):
    """An autoencoder that another program wrote: 3 parameters in its encoder, 5 in its decoder, 7 beside them."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = torch.nn.Linear(2, 1), torch.nn.Linear(4, 1)
        self.between = torch.nn.Linear(6, 1)


def test_parameters_are_counted_by_network_however_deep_it_lies():
    counted = build.first_stage_parameters(WrappedPoint(Inner(), 4, 1), torch.nn.Linear(1, 1))
    assert counted == {"encoder": 3, "decoder": 5, "bottleneck": 7, "discriminator": 2}
    assert build.first_stage_parameters(build.first_stage(plan_of("ae.f=1").config["ae"], 32), None) == dict.fromkeys(
        counted, 0
    )
