"""Trains the probes that samples are judged by, and asks them about held-out images: ceiling and floor."""

import functools
from typing import Any

import numpy as np
import torch

from experiments import axes, build, labels, stage_settings
from experiments.conditions import CONDITIONS, DataFacts, probe_options, probed
from experiments.conditions.probe_score import ProbeMeasure, probe_protocol
from experiments.conditions.scores import Values, asked_facts
from experiments.console import reporting
from experiments.counts import Counts
from experiments.probe_memory import probe_bytes
from experiments.scoring import chosen, described
from experiments.stage import Estimate, Job, Outcome, Settings, Stage
from experiments.stages.training import run_training
from ldm.data.contract import SPLITS, ImageCache
from ldm.errors import UserError
from ldm.metrics.task import shuffled_partners, task_score
from ldm.metrics.values import OTHER_CONDITIONS, REAL_IMAGES
from ldm.pretrained.weights import content_hash
from ldm.probes import PROBES
from ldm.records import LeftOut
from ldm.training.checkpoint import save_weights
from ldm.training.flops import count_flops
from ldm.training.probe import ProbeSettings, ProbeTraining, ProbeTrainings, train

BATCH = 100
MOST_HELDOUT_IMAGES = 5_000


def run(job: Job) -> Outcome:
    """Writes weights.safetensors, names behind their kind; a probe that these images cannot train is left out."""
    config = job.settings
    images, heldout = (job.images(split, config.get("annotations", ())) for split in SPLITS)
    trainings: dict[str, ProbeTraining] = {}
    obstacles: dict[str, str] = {}
    for kind in config["probes"]:
        try:
            trainings[kind] = _training(job, kind, images)
        except UserError as error:
            obstacles[kind] = str(error)
    flops = {kind: count_flops(functools.partial(_rehearsal, job, kind, images)) for kind in trainings}
    together = ProbeTrainings(trainings)
    with reporting(job.label, together.images) as reporter:
        meter = run_training(job, together, train(together), reporter, lambda step: None)
    weights = {f"{kind}.{name}": w for kind, t in trainings.items() for name, w in t.probe.network.state_dict().items()}
    save_weights(job.folder / "weights.safetensors", weights)
    rows, protocols, facts = [], [], {}
    left_out = [LeftOut(REAL_IMAGES.name(PROBES[kind].metric), reason) for kind, reason in obstacles.items()]
    indices = chosen(len(heldout), MOST_HELDOUT_IMAGES, config["seed"], "probe")
    partners = shuffled_partners(len(indices), config["seed"])
    for kind, training in trainings.items():
        probe = training.probe
        probe.network.eval()
        facts[kind] = {
            "side": probe.side,
            "answers": list(probe.answers),
            "parameters": build.parameters(probe.network),
            "weights_hash": content_hash(probe.network.state_dict()),
            "heldout_loss": _heldout_loss(training, heldout),
        }
        asked = asked_facts(heldout, "heldout", [a for a in [CONDITIONS[kind].annotation] if a is not None])
        protocol = probe_protocol(kind, facts[kind], asked, len(indices), job.resolution, config["seed"])
        protocols.append(protocol)
        measure = ProbeMeasure(probe, heldout, indices, partners, job.device)
        for name, found in _of_the_images_themselves(measure).items():
            variants = (REAL_IMAGES,) if name == probe.metric else (OTHER_CONDITIONS, REAL_IMAGES)
            score = task_score(probe.metric, found, *variants)
            if isinstance(score, LeftOut):
                left_out.append(score)
            else:
                rows.append(score.row(protocol.id))
    return Outcome(
        facts={"probes": facts, "obstacles": obstacles},
        rows=rows,
        left_out=left_out,
        protocols=described(protocols),
        cost=meter.cost(together.images, sum(t.settings.steps * flops[kind] for kind, t in trainings.items())),
    )


def _training(job: Job, kind: str, images: ImageCache) -> ProbeTraining:
    """Raises: UserError where these images cannot train this probe."""
    settings, seed = job.settings["probes"][kind], job.settings["seed"]
    probe = build.probe(kind, settings, images, seed, job.device)
    return ProbeTraining(
        probe,
        images,
        ProbeSettings(seed, settings["images"], settings["batch"], settings["learning_rate"]),
        job.device,
    )


@torch.inference_mode()
def _heldout_loss(training: ProbeTraining, heldout: ImageCache) -> float | None:
    """The training loss on the first usable held-out images, None where there is none."""
    probe, usable = training.probe, training.probe.usable(heldout)[:BATCH]
    if not usable:
        return None
    batch, targets = heldout.batch(usable), probe.targets(heldout, usable)
    return float(probe.loss(batch.to(training.device), targets.to(training.device)))


def _of_the_images_themselves(measure: ProbeMeasure) -> Values:
    """What a probe finds in the images whose conditions it asks for."""
    parts = [range(first, min(first + BATCH, len(measure.indices))) for first in range(0, len(measure.indices), BATCH)]
    found = [measure(measure.images.uint8(measure.indices[part.start : part.stop]), part, {}) for part in parts]
    return {name: np.concatenate([values[name] for values in found]) for name in found[0]}


def _rehearsal(job: Job, kind: str, images: ImageCache) -> None:
    """One step of a probe that is thrown away, for the count of its operations."""
    with torch.random.fork_rng(devices=[]):
        _training(job, kind, images).advance()


def settings(config: Settings, facts: DataFacts) -> Settings | None:
    """The images, and the sizes and training of each probe; none where there is no condition to ask for."""
    kinds = probed(config)
    if not kinds:
        return None
    return {
        "data": facts.train_fingerprint,
        **stage_settings.annotations(config, facts.annotations),
        "heldout": stage_settings.heldout(config, facts),
        "probes": {kind: _probe_settings(config, kind) for kind in kinds},
        "seed": 0,  # not that of the evaluation, with which all samples would be made anew
    }


def _probe_settings(config: Settings, kind: str) -> dict[str, Any]:
    """Sizes and training of a probe, and the arguments that only this kind has.

    Raises: UserError where the scale has none of that kind.
    """
    tables, scale = config["scale"]["probe"], config["scale"]["name"]
    if kind not in tables:
        raise UserError(f"scale={scale} has no probe for conditioning={kind}; it has them for {', '.join(tables)}")
    return {**tables[kind], **probe_options(config["conditioning"], kind)}


def estimate(settings: Settings, counts: Counts) -> Estimate | None:
    """Memory alone: of the probe that takes most, one after the other being trained."""
    images = counts.images
    if images is None:
        return None
    found = (probe_bytes(kind, own, images.resolution, images.known) for kind, own in settings["probes"].items())
    return Estimate(None, None, memory=max(found))


STAGE = Stage(
    name="probe",
    parents=(),
    version=1,
    axes=axes.OF_DATA,
    until=(),
    settings=settings,
    run=run,
    estimate=estimate,
    label=labels.condition,
)
