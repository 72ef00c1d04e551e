"""The baseline without a network: in every plan, hung upon by nothing, the same numbers whatever the batches."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_plans import changed, plan_of

from experiments.stage import targets
from experiments.stages import STAGES
from experiments.stages.gaussian import _by_class, _Drawer, _seen, _Share
from ldm.first_stage.identity import IdentityFirstStage
from ldm.metrics.features import Features
from ldm.metrics.gaussian_latents import centred
from ldm.records import GAUSSIAN, GAUSSIAN_BY_CLASS


@pytest.mark.parametrize("f", [1, 4])
def test_it_is_in_every_plan_from_the_latents_on_and_nothing_hangs_on_it(f):
    plan = plan_of(f"ae.f={f}")
    asked = {
        until: {stage.name for stage in plan.needed(targets(STAGES, until))} for until in ("first_stage", "latents")
    }
    assert "gaussian" in asked["latents"] - asked["first_stage"]
    assert not any("gaussian" in stage.parents for stage in STAGES)
    assert "gaussian" not in {stage.name for stage in plan.needed(("evaluation",))}


@pytest.mark.parametrize(
    "setting", ["seed=1", "sampler.steps=7", "diffusion.target=v", "trainer.images=9", "guidance.scale=2"]
)
def test_no_diffusion_model_changes_it(setting):
    assert "gaussian" not in changed(plan_of(), plan_of(setting))


class Labelled:
    """Images of three classes, of which the last has one."""

    labels = np.array([0, 1, 1, 2, 0, 1])
    classes = ("cat", "dog", "eel")

    def __len__(self):
        return len(self.labels)


def test_classes_too_small_for_a_covariance_are_said_and_left_to_all_images():
    shares, [left_out] = _by_class(Labelled(), [1, 3, 0, 5, 2])
    found = [(share.samples.tolist(), share.images.tolist()) for share in shares]
    assert found == [([2], [0, 4]), ([0, 3, 4], [1, 2, 5]), ([1], [0, 1, 2, 3, 4, 5])]
    assert left_out.metric == "gaussian_class_samples"
    assert left_out.reason == "Class eel has 1 training image: its samples are of all classes'."


class Pixels:
    """Latents of a few images, which an extractor sees as they are."""

    device = "cpu"
    first_stage = IdentityFirstStage()
    pixels = torch.rand(9, 3, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.5

    def encoded(self, indices):
        return self.pixels[list(indices)]


def as_it_is(images):
    return Features(images.float().flatten(1).numpy(), None)


def seen(shares, sizes, seed=0):
    """What stands in the chunks of samples drawn in batches of these sizes, in the order of their numbers."""
    drawer = _Drawer(Pixels(), seed, shares)
    ends = np.cumsum(sizes).tolist()
    parts = [_seen(drawer, as_it_is, range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]
    order = np.argsort(np.concatenate([part["number"] for part in parts]))
    return np.concatenate([part["features"] for part in parts])[order]


def test_a_sample_is_a_draw_of_its_own_share_by_its_number_whatever_the_batches():
    shares = [_Share(np.array([1, 4, 5]), np.arange(5)), _Share(np.array([0, 2, 3]), np.arange(4, 9))]
    whole = seen(shares, [6])
    # To the grey level: products of other sizes may be rounded otherwise.
    np.testing.assert_allclose(seen(shares, [2, 3, 1]), whole, atol=1)
    alone = seen([_Share(np.arange(6), np.arange(5))], [6])
    np.testing.assert_allclose(alone[[1, 4, 5]], whole[[1, 4, 5]], atol=1)
    assert np.abs(alone[[0, 2, 3]] - whole[[0, 2, 3]]).max() > 10
    assert np.abs(seen(shares, [6], seed=1) - whole).max() > 10


def test_images_that_never_vary_are_drawn_as_they_are():
    data = Pixels()
    data.pixels = torch.full((5, 3, 4, 4), 0.5)
    assert centred([data.pixels], len(data.pixels)).covariance.abs().max() == 0
    drawer = _Drawer(data, 0, [_Share(np.arange(2), np.arange(5))])
    assert set(drawer.drawn(range(2))[1].flatten().tolist()) == {191}


def test_its_rows_are_floors_of_their_first_stage_under_the_protocol_of_the_samples(swept_store: Path) -> None:
    records = [json.loads(path.read_text()) for path in swept_store.glob("gaussian/*/record.json")]
    evaluated = [json.loads(path.read_text()) for path in swept_store.glob("evaluation/*/record.json")]
    [protocol] = {
        row["protocol"]
        for record in evaluated
        for row in record["rows"]
        if row["metric"] == "kd_efficientnet_lite2_colour"
    }
    assert {(record["axes"]["regulariser"], record["axes"]["f"]) for record in records} == {
        ("identity", 1),
        ("kl", 4),
        ("vq", 4),
    }
    for record in records:
        found = {row["variant"]: row for row in record["rows"] if row["base"] == "kd_efficientnet_lite2_colour"}
        assert set(found) == {GAUSSIAN, GAUSSIAN_BY_CLASS}
        assert {row["protocol"] for row in found.values()} == {protocol}
        assert all(row["ci_low"] < row["value"] < row["ci_high"] and row["deviations"] for row in found.values())
        folder = swept_store / "gaussian" / record["identity"]
        assert (folder / "gaussian.png").exists()
        assert not (folder / "parts").exists()
        assert record["facts"]["values"] == np.prod(latents_of(swept_store, record)["shape"])


def latents_of(store: Path, record: dict) -> dict:
    """The facts of the latents that a record hangs on."""
    facts: dict = json.loads((store / "latents" / record["parents"]["latents"] / "record.json").read_text())["facts"]
    return facts
