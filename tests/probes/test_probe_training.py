"""Training of probes: that they learn to read each condition, and resumption."""

import dataclasses

import numpy as np
import pytest
import torch

from experiments.conditions import Vocabulary
from experiments.probe_memory import probe_bytes
from ldm.metrics.task import shuffled_partners, task_score
from ldm.metrics.values import OTHER_CONDITIONS, REAL_IMAGES
from ldm.probes import PROBES, build_probe
from ldm.training.checkpoint import load_checkpoint, save_checkpoint
from ldm.training.peak_memory import peak_bytes
from ldm.training.probe import ProbeSettings, ProbeTraining, ProbeTrainings, train


def trainings(images, kinds, seen=64, seed=0, start=None) -> ProbeTrainings:
    settings = ProbeSettings(seed=seed, images=seen, batch=16, learning_rate=1e-2)
    return ProbeTrainings(
        {kind: ProbeTraining(build_probe(kind, 8, 8, images, start or seed), images, settings, "cpu") for kind in kinds}
    )


@pytest.mark.long
@pytest.mark.parametrize("kind", PROBES)
def test_a_trained_probe_reads_the_condition_off_new_images(kind, squares, other_squares):
    run = trainings(squares, [kind], seen=640)
    assert len(list(train(run))) == 40
    probe = run.trainings[kind].probe
    probe.network.eval()
    with torch.inference_mode():
        images, partners = other_squares.batch(range(40)), shuffled_partners(40, 0)
        real = task_score(probe.metric, probe.counts(images, probe.targets(other_squares, range(40))), REAL_IMAGES)
        floor = task_score(probe.metric, probe.counts(images, probe.targets(other_squares, partners)), OTHER_CONDITIONS)
    assert real.value > 0.7  # label maps have twice the side of what the segmenter sees
    assert floor.ci_high < real.ci_low


@pytest.mark.parametrize("kind", PROBES)
def test_a_training_takes_the_memory_that_it_is_said_to(kind, squares):
    [training] = trainings(squares, [kind]).trainings.values()
    training.advance()  # makes the optimiser's state
    state = [value for own in training.optimiser.state.values() for value in own.values()]
    held = sum(value.numel() * 4 for value in [*training.probe.network.parameters(), *state])
    known = Vocabulary(3, box_classes=3, semantic_classes=4)
    said = probe_bytes(kind, {"side": 8, "width": 8, "batch": 16}, squares.resolution, known)
    assert said == pytest.approx(held + peak_bytes(training.advance), rel=0.15)


@pytest.mark.parametrize("stop", [1, 4, 6])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(stop, squares, tmp_path):
    """At step 4 the first of the two probes is done and the second not begun."""
    whole, first = (trainings(squares, ["class", "semantic"]) for _ in range(2))
    reports = list(train(whole))
    assert [report.step for report in reports] == list(range(1, 9))
    assert [report.images_seen for report in reports] == list(range(16, 129, 16))
    for report in train(first):
        if report.step == stop:
            break
    save_checkpoint(tmp_path / "last.pt", first.state_dict())
    resumed = trainings(squares, ["class", "semantic"], start=9)
    resumed.load_state_dict(load_checkpoint(tmp_path / "last.pt"))
    assert [report.step for report in train(resumed)] == list(range(stop + 1, 9))
    for kind in ("class", "semantic"):
        ends = [run.trainings[kind].probe.network.state_dict() for run in (whole, resumed, first)]
        assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
        if kind == "semantic":
            assert not torch.equal(ends[0]["head.weight"], ends[2]["head.weight"])


def test_images_without_an_answer_are_never_drawn(squares):
    labels = np.array(squares.labels)
    labels[:55] = -1
    known = dataclasses.replace(squares, labels=labels)
    training = trainings(known, ["class"]).trainings["class"]
    asked = []
    targets = training.probe.targets
    training.probe.targets = lambda images, indices: asked.extend(indices.tolist()) or targets(images, indices)
    for _ in range(4):
        training.advance()
    assert len(asked) == 64
    assert set(asked) <= set(range(55, 60))
