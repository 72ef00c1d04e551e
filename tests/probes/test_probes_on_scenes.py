"""Probes of scale=cpu on the embedded scenes: what they find in held-out images is far above chance."""

import numpy as np
import pytest
import torch

from experiments.compose import composed, settings_only
from ldm.data import build_cache, open_splits
from ldm.metrics.task import shuffled_partners, task_score
from ldm.probes import PROBES, build_probe
from ldm.training.probe import ProbeSettings, ProbeTraining

LEAST = {"class": 0.45, "text": 0.7, "layout": 0.7, "semantic": 0.25}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Training and held-out scenes of scale=cpu."""
    place, sizes = tmp_path_factory.mktemp("scenes"), settings_only(composed(("scale=cpu",)))["scale"]["data"]["emoji"]
    splits = open_splits("emoji", sizes["resolution"], n_train=sizes["n_train"], n_heldout=sizes["n_heldout"])
    return {
        split: build_cache(source, place / split, workers=2, annotations=("captions", "boxes", "semantic"))
        for split, source in splits.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", PROBES)
def test_a_probe_is_far_above_its_floor(kind, scenes):
    train, heldout = scenes["train"], scenes["heldout"]
    table = settings_only(composed(("scale=cpu",)))["scale"]["probe"][kind]
    probe = build_probe(kind, table["side"], table["width"], train, seed=0)
    settings = ProbeSettings(0, table["images"], table["batch"], table["learning_rate"])
    training = ProbeTraining(probe, train, settings, "cpu")
    while training.step < settings.steps:
        training.advance()
    probe.network.eval()
    scores = {}
    with torch.inference_mode():
        for name, asked in (("real", np.arange(len(heldout))), ("floor", shuffled_partners(len(heldout), 0))):
            parts = np.array_split(np.arange(len(heldout)), 10)
            counts = [probe.counts(heldout.batch(p), probe.targets(heldout, asked[p])) for p in parts]
            scores[name] = task_score(probe.metric, np.concatenate(counts))
    assert scores["real"].ci_low > LEAST[kind]
    assert scores["floor"].ci_high < LEAST[kind] - 0.1
