"""The memory that a training is said to take, against what PyTorch's allocator hands out while it runs."""

from collections.abc import Callable, Iterator

import pytest
import torch
from tiny_plans import plan_of
from torch.profiler import ProfilerActivity, profile

from experiments import build
from experiments.conditions import Vocabulary
from experiments.counts import Step, count_denoiser, count_first_stage, training_bytes
from experiments.forecast import _made_up_images
from experiments.stages.first_stage import training_of
from ldm.first_stage.components import start_from_components
from ldm.training.diffusion import DiffusionSettings, DiffusionTraining
from ldm.training.peak_memory import peak_bytes

CLASSES = Vocabulary(3)


class Latents:
    """Noise in place of latents, with classes."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def __len__(self) -> int:
        return 1000

    def latents(self, indices, noise):
        return noise(self.shape)

    def fields(self, indices, draw):
        return {"label": torch.zeros(len(indices), dtype=torch.int64)}


def peak_of(call: Callable[[], object]) -> int:
    """The most bytes that a call held at a time beyond what there was before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    changes = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def held_by(*owners: object) -> int:
    """Bytes of all tensors in modules, optimisers."""

    def tensors(owner: object) -> Iterator[torch.Tensor]:
        match owner:
            case torch.Tensor():
                yield owner
            case torch.nn.Module():
                yield from (*owner.parameters(), *owner.buffers())
            case torch.optim.Optimizer():
                yield from (
                    value for state in owner.state.values() for value in state.values() if torch.is_tensor(value)
                )

    storages = {each.untyped_storage()._cdata: each.untyped_storage().nbytes() for o in owners for each in tensors(o)}
    return sum(storages.values())


def test_the_peak_of_known_operations():
    layer = torch.nn.Linear(10, 20, bias=False, device="meta")
    x = torch.empty(4, 10, device="meta")

    def step() -> None:
        layer.zero_grad()
        layer(x).tanh().sum().backward()

    def two_after_each_other() -> None:
        for _ in range(2):
            torch.empty(1000, device="meta").add_(1)

    # At the backward pass's end: gradients of the layer's 80 outputs and 200 weights, the sum and its gradient.
    assert peak_bytes(step) == 4 * (80 + 200 + 2)
    assert peak_bytes(two_after_each_other) == 4000


@pytest.mark.long
@pytest.mark.parametrize(("f", "batch"), [(4, 16), pytest.param(16, 16, marks=pytest.mark.slow), (16, 256)])
def test_a_training_of_diffusion_takes_what_it_is_said_to(f, batch):
    config = plan_of(f"ae.f={f}", f"trainer.batch={batch}", scale="cpu").config
    shape = (config["ae"]["channels"], 32 // f, 32 // f)
    model, conditions = build.denoising_model(config, config["ae"], 32 // f, CLASSES, "cpu")
    rate = config["trainer"]["matrix_learning_rate"]
    settings = DiffusionSettings(0, 4 * batch, batch, 1e-3, 0, 0.0, 1.0, 1000.0, 0.1, matrix_rate=rate)
    training = DiffusionTraining(model, conditions, Latents(*shape), settings)
    training.advance()  # makes the optimisers' states
    held = held_by(model, conditions, training.ema.module, *training.optimisers.values())
    counts = count_denoiser(config, shape, CLASSES)
    said = training_bytes(counts.step, "fp32")
    assert said == pytest.approx(held + peak_of(training.advance), rel=0.1)


@pytest.mark.long
@pytest.mark.parametrize(
    "change",
    [
        pytest.param("ae.f=4", marks=pytest.mark.slow),
        "ae.f=16 ae=vq",
        pytest.param("ae.f=4 ae.alignment.teacher=efficientnet_lite0", marks=pytest.mark.slow),
    ],
)
def test_a_training_of_a_first_stage_takes_what_it_is_said_to(change):
    plan = plan_of("ae.architecture.initialisation=near_linear", *change.split(), scale="cpu")
    settings = plan.stages["first_stage"].settings
    training = training_of(settings, _made_up_images(32), "cpu")
    training.advance()
    judges = [training.loss.perceptual]
    if training.alignment is not None:
        judges += [training.alignment, *training.alignment._teacher]
    held = held_by(training.model, *judges, *training.optimisers.values())
    step = count_first_stage(plan.config["ae"], 32).step
    assert training_bytes(step, "fp32") == pytest.approx(held + peak_of(training.advance), rel=0.1)


@pytest.mark.slow
def test_a_start_from_components_takes_what_it_is_said_to():
    ae = plan_of("ae.f=8", scale="cpu").config["ae"]
    images = torch.rand(1024, 3, 32, 32) * 2 - 1
    model = build.first_stage(ae, 32)
    taken = peak_of(lambda: start_from_components(model, images, 0))
    step = count_first_stage(ae, 32).step
    # Its tensors are counted, what its convolutions and solvers take for themselves is not.
    assert 0.8 * taken < step.starting_bytes <= taken
    assert training_bytes(step, "fp32") == step.lasting * 4 + step.starting_bytes


def test_under_bf16_most_of_what_passes_is_half_as_large():
    step = Step(0, passing_bytes=1000, lasting=100, starting_bytes=500)
    assert (training_bytes(step, "fp32"), training_bytes(step, "bf16")) == (1400, 1100)
    assert training_bytes(Step(0, 1000, 100, 900), "bf16") == 1300
    assert training_bytes(None, "fp32") is None
