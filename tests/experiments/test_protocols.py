"""What protocols say of images: a difference in how they were drawn or asked for is a difference of protocol."""

from types import SimpleNamespace
from typing import Any

import pytest
from tiny_plans import plan_of

from experiments.measure import generation_protocol, protocol_from, sample_protocol
from ldm.records import Protocol

EXTRACTOR = {"name": "net", "resize": "bilinear", "size": 112, "weights_hash": "abc", "precision": "fp32"}
FACTS = {"reference_fingerprint": "held", "n_reference": 40, "extractor": EXTRACTOR}


def job_of(*overrides: str) -> Any:
    """A job whose reference stage is finished."""
    return SimpleNamespace(plan=plan_of(*overrides), parent_record=lambda name: SimpleNamespace(facts=FACTS))


def protocol_of(*overrides: str, n: int = 32) -> Protocol:
    """How samples of that plan are measured."""
    return sample_protocol(job_of(*overrides), n)


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ("samples.conditions=heldout", "class_balance", "as in the held-out images"),
        ("metrics.reference=train", "reference", "train"),
        ("metrics.seed=3", "evaluation_seed", 3),
        ("metrics.allow_same_network=true", "marks", ("the judge may have trained the first stage",)),
    ],
)
def test_how_it_was_measured_is_part_of_the_protocol(setting: str, field: str, value: Any) -> None:
    """And its id."""
    plain, other = protocol_of(), protocol_of(setting)
    assert getattr(other, field) == value != getattr(plain, field)
    assert other.id != plain.id
    assert protocol_of(n=16).id != plain.id


@pytest.mark.parametrize(
    "swept", ["ae.f=8", "ae=vq", "sampler.steps=7", "guidance.scale=3", "seed=1", "sampler.seed=2", "sampler=heun"]
)
def test_swept_axes_are_no_part_of_it(swept: str) -> None:
    """They are columns, and their rows are there to be compared."""
    assert protocol_of(swept).id == protocol_of().id


def test_floors_are_of_images_whatever_samples_are_asked_for() -> None:
    """They belong to stages that know nothing of samples."""
    asked = job_of("samples.conditions=heldout")
    assert generation_protocol(asked, 32) == generation_protocol(job_of(), 32) == protocol_of()
    assert protocol_from(asked.plan.config, FACTS, 32, "heldout").class_balance == "as in the held-out images"
