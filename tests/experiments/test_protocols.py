"""What protocols say of images: a difference in how they were drawn or asked for is a difference of protocol."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from program import run, with_images_of
from tiny_plans import job_for, plan_of

from experiments.protocols import through_distance, through_extractor
from experiments.scoring import (
    generation_protocol,
    protocol_from,
    reconstruction_protocol,
    sample_protocol,
)
from experiments.stage import Job
from ldm.records import Protocol

EXTRACTOR = {"name": "net", "resize": "bilinear", "size": 112, "weights_hash": "abc", "precision": "fp32"}
FACTS = {"reference_fingerprint": "reference", "n_reference": 40, "extractor": EXTRACTOR}
HELDOUT: Any = SimpleNamespace(fingerprint="held", resolution=32)
OF_32_PX: Any = SimpleNamespace(resolution=32)
LPIPS: Any = SimpleNamespace(name="lpips", weights_hash="def")


def job_of(stage: str, *overrides: str) -> Job:
    """The job of a stage of that plan, whose reference stage is finished."""
    return job_for(plan_of(*overrides), stage, OF_32_PX, FACTS)


def protocol_of(*overrides: str, n: int = 32) -> Protocol:
    """How samples of that plan are measured."""
    of_samples, of_milestones = (sample_protocol(job_of(stage, *overrides), n) for stage in ("evaluation", "progress"))
    assert of_samples == of_milestones
    return of_samples


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
    asked = job_of("reconstruction", "samples.conditions=heldout")
    assert generation_protocol(asked, 32) == generation_protocol(job_of("reconstruction"), 32) == protocol_of()
    settings = asked.parent("reference").settings
    assert protocol_from(settings, 32, FACTS, 32, "heldout").class_balance == "as in the held-out images"


def reconstruction_of(*overrides: str) -> tuple[Protocol, Protocol, Protocol]:
    """How 20 reconstructions of that plan are measured: by no network, by the extractor, by a perceptual distance."""
    job = job_of("reconstruction", *overrides)
    plain = reconstruction_protocol(job, HELDOUT, 20)
    generation = generation_protocol(job, 20)
    return plain, through_extractor(plain, generation), through_distance(plain, LPIPS, generation.marks)


def test_reconstructions_are_those_of_held_out_images_whatever_the_reference() -> None:
    """Their hash is that of the images they are compared with, which are no reference of samples."""
    for protocol in reconstruction_of():
        assert (protocol.kind, protocol.reference, protocol.reference_hash) == (
            "reconstruction",
            "the images themselves",
            "held",
        )
        assert protocol.class_balance == "as in the held-out images"
        assert (protocol.n_samples, protocol.n_reference) == (20, 20)
    assert reconstruction_of("metrics.reference=train") == reconstruction_of()


def test_only_rows_that_a_network_judges_name_it() -> None:
    """So that two extractors over one store agree on PSNR."""
    plain, judged, perceptual = reconstruction_of()
    assert [protocol.extractor for protocol in (plain, judged, perceptual)] == ["none", "net", "lpips"]
    assert perceptual.extractor_weights == "def"
    same_network = reconstruction_of("metrics.allow_same_network=true")
    assert [len(protocol.marks) for protocol in same_network] == [0, 1, 1]
    assert same_network[0] == plain


@pytest.mark.parametrize("swept", ["ae.f=8", "ae=vq", "ae.f=1", "ae.seed=1", "seed=1", "sampler.steps=7"])
def test_swept_axes_are_no_part_of_reconstructions_either(swept: str) -> None:
    """All first stages stand in one table."""
    assert reconstruction_of(swept) == reconstruction_of()


@pytest.fixture(scope="module")
def against_training(swept_store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Records by stage of pixels as their own latents, where samples would be compared with the training images."""
    store = with_images_of(swept_store, tmp_path_factory.mktemp("reference"))
    shutil.rmtree(store / "reference")
    done = run(store, "ae.f=1", "until=first_stage", "metrics.reference=train")
    assert done.returncode == 0, done.stdout + done.stderr
    paths = store.glob("*/*/record.json")
    return {record["stage"]: record for record in map(json.loads, map(Path.read_text, paths))}


def rows_of(record: dict, prefix: str) -> dict[str, tuple[float, int, str]]:
    """Value, n and protocol of the rows whose names begin so, by the rest of their names."""
    rows = [row for row in record["rows"] if row["metric"].startswith(prefix)]
    return {row["metric"].removeprefix(prefix): (row["value"], row["n"], row["protocol"]) for row in rows}


@pytest.mark.long
@pytest.mark.program
def test_decoded_images_are_those_of_the_real_floor_and_never_meet_their_originals(
    against_training: dict[str, dict],
) -> None:
    """A first stage that loses nothing leaves the floor where it is, in value and protocol."""
    real, decoded = (
        rows_of(against_training[stage], prefix)
        for stage, prefix in (("reference", "real_"), ("reconstruction", "decoded_"))
    )
    assert real == decoded
    assert real["fd_efficientnet_lite2_colour"][0] > 1  # against their own originals: 0
    [protocol] = {row[2] for row in decoded.values()}
    spelled = against_training["reconstruction"]["protocols"][protocol]
    assert (spelled["reference"], spelled["class_balance"]) == ("train", "as in the held-out images")
