"""Networks that give NaN or infinity: the stage fails in one sentence, and nothing is recorded as measured."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from program import SWEEP, copy_of, run
from safetensors.torch import load_file, save_file

from ldm.finite import NotFiniteError, require_finite
from ldm.metrics.features import Features
from ldm.metrics.reconstruction import to_uint8
from ldm.records import read_sealed, write_json

MEASURED = ("reconstruction", "latents", "gaussian", "samples", "progress", "evaluation", "probe")


def test_values_pass_as_they_are_and_numbers_that_are_none_do_not() -> None:
    images = torch.linspace(-2, 2, 4 * 3 * 8 * 8).view(4, 3, 8, 8)
    assert require_finite(images, "it") is images
    for none in (float("nan"), float("inf"), -float("inf")):
        wrong = images.clone()
        wrong[1, 0, 2, 3] = wrong[3, 2, 0, 0] = none
        with pytest.raises(NotFiniteError, match=r"the decoder .* for 2 of 4 images"):
            to_uint8(wrong)
        with pytest.raises(NotFiniteError, match=r"the extractor \(logits\) .* for 1 of 2 images"):
            Features(np.zeros((2, 3), np.float32), np.array([[0.0], [none]], np.float32))


def spoil(weights: Path) -> None:
    """Makes the saved tensors of a network numbers that are none."""
    state = load_file(weights)
    save_file({k: torch.full_like(v, math.nan) if v.is_floating_point() else v for k, v in state.items()}, weights)


def forget_hashes(record: Path) -> None:
    """As if the record were from before files had hashes: else what follows would be called damaged."""
    write_json(record, {key: value for key, value in read_sealed(record).items() if key != "files"})


@pytest.mark.slow
def test_nothing_is_measured_of_networks_that_give_none(swept_store: Path, tmp_path: Path) -> None:
    store = copy_of(swept_store, tmp_path)
    for stage in MEASURED:
        shutil.rmtree(store / stage, ignore_errors=True)
    for record in [*store.glob("first_stage/*/record.json"), *store.glob("diffusion/*/record.json")]:
        forget_hashes(record)
    for record in store.glob("first_stage/*/record.json"):
        if json.loads(record.read_text())["axes"]["regulariser"] == "kl":
            spoil(record.parent / "weights.safetensors")
    for weights in store.glob("diffusion/**/*.safetensors"):
        spoil(weights)
    done = run(store, *SWEEP)
    assert done.returncode == 1, done.stdout
    assert "the encoder of the first stage gives numbers that are none (NaN or infinite) for 32 of 32" in done.stdout
    assert "the denoiser gives numbers that are none" in done.stdout
    assert "nothing was recorded as measured" in done.stdout
    assert "precision=fp32" not in done.stdout.partition("nothing was recorded")[0].rpartition("error")[2]
    measured = {path.parent.parent.name for path in store.glob("*/*/record.json")}
    assert not {"samples", "progress", "evaluation"} & measured
    found = store.glob("reconstruction/*/record.json")
    regularisers = [json.loads(path.read_text())["axes"]["regulariser"] for path in found]
    assert "kl" not in regularisers
    assert "vq" in regularisers
