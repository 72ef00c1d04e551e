"""Training of the denoising model: resumption, micro-batches, randomness by step, and that it learns."""

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from ldm.conditioning import ClassConditioning
from ldm.data.fields import Draw
from ldm.denoiser import UNet
from ldm.denoiser.dit import DiT
from ldm.diffusion import DenoisingModel, make_schedule
from ldm.diffusion.times import LogitNormalTimes
from ldm.randomness import Noise
from ldm.ranks import ALONE, Ranks
from ldm.training.checkpoint import load_checkpoint, save_checkpoint
from ldm.training.diffusion import DiffusionSettings, DiffusionTraining, matrices_of, train
from ldm.training.draws import DRAWS
from ldm.training.flops import count_flops
from ldm.training.power_ema import exponent
from ldm.training.rate import learning_rate_factor

ON_A_GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
OF_CUBLAS = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
ON_A_CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: can't allocate memory: you tried")


class Network(nn.Module):
    """A small convolutional denoiser that reads index and context, with dropout."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 16, 3, padding=1)
        self.told = nn.Linear(5, 16)
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Conv2d(16, 2, 3, padding=1)
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []

    def forward(self, x: Tensor, index: Tensor, context: Tensor, concat: Tensor | None = None) -> Tensor:
        self.calls.append((x.detach(), index, context.detach()))
        told = self.told(torch.cat([context[:, 0], index[:, None] / 1000], dim=1))
        return self.last(self.dropout(torch.nn.functional.silu(self.first(x) + told[..., None, None])))


class SmallMemory(Network):
    """Has memory for so many images at a time, from so many calls on; whatever it raises, it was half-way."""

    def __init__(self, error: Exception, room: int, begins_at: int = 0) -> None:
        super().__init__()
        self.error, self.room, self.begins_at, self.tried = error, room, begins_at, []

    def forward(self, x: Tensor, *given: Tensor, **named: Tensor) -> Tensor:
        self.tried.append(len(x))
        result = super().forward(x, *given, **named)
        if len(self.tried) > self.begins_at and len(x) > self.room:
            raise self.error
        return result


class Latents:
    """Ten latents of two classes, the way a KL first stage gives them: a level for each class, and a draw."""

    def __init__(self, dtype: torch.dtype = torch.float32, spread: float = 0.1) -> None:
        self.labels = torch.arange(10) % 2
        self.spread = spread
        levels = torch.randn(2, 2, 1, 1, generator=torch.Generator().manual_seed(0), dtype=dtype)
        self.levels = levels.expand(2, 2, 4, 4)
        self.asked: list[Tensor] = []

    def __len__(self) -> int:
        return 10

    def latents(self, indices: Tensor, noise: Noise) -> Tensor:
        self.asked.append(indices)
        return self.levels[self.labels[indices]] + self.spread * noise((2, 4, 4))

    def fields(self, indices: Tensor, draw: Draw) -> Mapping[str, Tensor]:
        return {"label": self.labels[indices]}


def training(
    start: int = 0,
    dropout: float = 0.0,
    target: str = "eps",
    data: Latents | None = None,
    ranks: Ranks = ALONE,
    **changes,
):
    torch.manual_seed(start)
    settings = {
        "seed": 3,
        "images": 60,
        "batch": 6,
        "learning_rate": 5e-3,
        "warm_up": 12,
        "weight_decay": 0.01,
        "gradient_clip": 1.0,
        "ema_half_life": 30.0,
        "condition_dropout": 0.3,
        "decay": "cosine",
    }
    data = data or Latents()
    model = DenoisingModel(Network(dropout).to(data.levels.dtype), make_schedule("scaled_linear"), target)
    conditioning = ClassConditioning(2, 4).to(data.levels.dtype)
    return DiffusionTraining(model, conditioning, data, DiffusionSettings(**{**settings, **changes}), ranks)


def short_of_memory(error: Exception, room: int, begins_at: int = 0, **changes) -> DiffusionTraining:
    """A training whose network has little memory, with the same weights as others."""
    plain = training(**changes)
    network = SmallMemory(error, room, begins_at).to(plain.data.levels.dtype)
    network.load_state_dict(plain.model.network.state_dict())
    model = DenoisingModel(network, plain.model.schedule, "eps")
    return DiffusionTraining(model, plain.conditioning, plain.data, plain.settings)


def advanced_to(run: DiffusionTraining, step: int) -> DiffusionTraining:
    for report in train(run):
        if report.step == step:
            break
    return run


@pytest.mark.parametrize("stop", [1, 4, 9])
@pytest.mark.parametrize(("dropout", "noise"), [(0.0, "torch"), (0.3, "torch"), (0.3, "philox")])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(dropout, noise, stop, differences, tmp_path):
    whole, first = (advanced_to(training(dropout=dropout, noise=noise), step) for step in (10, stop))
    save_checkpoint(tmp_path / "last.pt", first.state_dict())
    resumed = training(start=99, dropout=dropout, noise=noise)
    resumed.load_state_dict(load_checkpoint(tmp_path / "last.pt"))
    assert (resumed.step, resumed.images_seen) == (stop, 6 * stop)
    assert differences(resumed.state_dict(), first.state_dict()) == []
    advanced_to(resumed, 10)
    assert differences(resumed.state_dict(), whole.state_dict()) == []
    changed = differences(whole.state_dict(), first.state_dict())
    for part in ("/step", "/trained/denoiser.first.weight", "/ema/denoiser.first.weight", "/optimiser/state/0/exp_avg"):
        assert part in changed


def test_power_averages_are_sums_over_all_steps_and_survive_a_resumption(tmp_path, differences):
    """Those of step k count (k/n)^(g+1) - ((k-1)/n)^(g+1); the training itself does not change."""
    whole, path = training(power_lengths=(0.1, 0.2)), []
    for _ in train(whole):
        path.append(torch.cat([p.detach().flatten() for p in whole.trained.parameters()]))
    for length, average in whole.averages.items():
        k = torch.arange(11, dtype=torch.float64) / 10
        expected = (k ** (exponent(length) + 1)).diff() @ torch.stack(path).double()
        found = torch.cat([p.flatten() for p in average.module.parameters()]).double()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert differences(advanced_to(training(), 10).trained.state_dict(), whole.trained.state_dict()) == []
    first = advanced_to(training(power_lengths=(0.1, 0.2)), 4)
    save_checkpoint(tmp_path / "last.pt", first.state_dict())
    resumed = training(start=99, power_lengths=(0.1, 0.2))
    resumed.load_state_dict(load_checkpoint(tmp_path / "last.pt"))
    assert differences(advanced_to(resumed, 10).state_dict(), whole.state_dict()) == []


def test_the_average_follows_conditioning_and_denoiser():
    run = advanced_to(training(learning_rate=0.02), 10)
    names = {name.split(".")[0] for name, _ in run.ema.module.named_parameters()}
    assert names == {"denoiser", "conditioning"}
    begun = training().trained.state_dict()
    for name, value in run.ema.module.state_dict().items():
        trained = run.trained.state_dict()[name]
        # Between where the weights began and where they are, nearer to the latter since the average ramps up.
        assert float((value - trained).norm()) < float((value - begun[name]).norm())
        assert not torch.equal(value, trained)


@pytest.mark.parametrize(("micro", "noise"), [*((n, "torch") for n in (1, 2, 4, 6, 100)), (4, "philox")])
def test_micro_batches_change_nothing_but_rounding(micro, noise):
    runs = [training(data=Latents(torch.float64), micro_batch=m, noise=noise) for m in (None, micro)]
    for run in runs:
        advanced_to(run, 5)
    assert [len(x) for x, _, _ in runs[1].model.network.calls[:2]] == {1: [1, 1], 2: [2, 2], 4: [4, 2]}.get(
        micro, [6, 6]
    )
    weights = [torch.cat([p.detach().flatten() for p in run.trained.parameters()]) for run in runs]
    assert (weights[0] - weights[1]).abs().max() < 1e-9 * weights[0].abs().max()
    in_float32 = [training(micro_batch=m) for m in (None, micro)]
    losses = [float(run.accumulate_gradients()["loss"]) for run in in_float32]
    gradients = [torch.cat([p.grad.flatten() for p in run.trained.parameters()]) for run in in_float32]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert (gradients[0] - gradients[1]).abs().max() < 1e-6 * gradients[0].abs().max()


@pytest.mark.parametrize("noise", DRAWS)
def test_what_is_random_at_a_step_does_not_depend_on_what_went_before(noise):
    one, other_seed = training(noise=noise), training(seed=4, noise=noise)
    other_history = training(start=5, learning_rate=1e-5, dropout=0.3, noise=noise)
    for run in (one, other_history, other_seed):
        for report in train(run):
            torch.manual_seed(report.step)  # another user of the global stream
    for step in range(10):
        for mine, theirs in zip(
            one.model.network.calls[step][:2], other_history.model.network.calls[step], strict=False
        ):
            assert torch.equal(mine, theirs)
        assert torch.equal(one.data.asked[step], other_history.data.asked[step])
        assert not torch.equal(one.model.network.calls[step][0], other_seed.model.network.calls[step][0])
    assert len({tuple(x.flatten().tolist()) for x, _, _ in one.model.network.calls}) == 10


def test_noise_levels_are_drawn_as_the_density_says_and_unbiased_losses_are_weighted():
    """A mean loss of a batch is that of its levels, each over how often it is drawn."""
    times = LogitNormalTimes(0.5, 2.0, unbiased=True)
    run = training(images=3000, batch=3000, condition_dropout=0.0, times=times)
    found = float(run.accumulate_gradients()["loss"])
    (x_t, index, _) = run.model.network.calls[0]
    expected = times.draw(200_000, 1000, torch.Generator().manual_seed(0)).double()
    assert float(index.mean()) == pytest.approx(float(expected.mean()), rel=0.03)
    plain = training(images=3000, batch=3000, condition_dropout=0.0, times=LogitNormalTimes(0.5, 2.0))
    losses = []
    plain.model.loss = lambda *a: losses.append(DenoisingModel.loss(plain.model, *a)) or losses[-1]
    plain.accumulate_gradients()
    assert torch.equal(plain.model.network.calls[0][0], x_t)
    weighted = times.weights(1000)[index.long()] * losses[0].detach().double()
    assert found == pytest.approx(float(weighted.mean()), rel=1e-5)


@pytest.mark.parametrize("noise", DRAWS)
def test_images_noise_levels_and_dropped_conditions_are_drawn_evenly(noise):
    run = training(images=6000, batch=3000, condition_dropout=0.3, noise=noise)
    run.accumulate_gradients()
    (_, index, context) = run.model.network.calls[0]
    counts = torch.bincount(run.data.asked[0], minlength=10)
    assert (counts - 300).abs().max() < 5 * 270**0.5
    assert torch.equal(index, index.round())
    assert (float(index.min()), float(index.max())) == pytest.approx((0, 999), abs=10)
    assert float(index.mean()) == pytest.approx(499.5, abs=5 * 289 / 3000**0.5)
    null = run.conditioning.embedding.weight[run.conditioning.null_class]
    is_dropped = (context[:, 0] == null).all(1)
    assert float(is_dropped.double().mean()) == pytest.approx(0.3, abs=5 * (0.21 / 3000) ** 0.5)
    given = run.conditioning.embedding.weight[run.data.labels[run.data.asked[0]]]
    assert torch.equal(context[~is_dropped, 0], given[~is_dropped])


def test_a_step_is_a_clipped_step_of_adamw_at_the_rate_of_the_rule():
    run = training(gradient_clip=0.05, warm_up=12)
    before = training()
    gradient_norm = float(run.advance().values["gradient_norm"])
    before.accumulate_gradients()
    reference = torch.optim.AdamW(before.trained.parameters(), lr=5e-3 * (1 / 12), weight_decay=0.01)
    norm = torch.stack([p.grad.norm() for p in before.trained.parameters()]).norm()
    assert gradient_norm == pytest.approx(float(norm), rel=1e-5)
    assert norm > 0.05
    for parameter in before.trained.parameters():
        parameter.grad *= 0.05 / norm
    reference.step()
    for mine, theirs in zip(run.trained.parameters(), before.trained.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("target", ["eps", "x0", "v"])
def test_the_loss_falls(target):
    """Each class has one latent, so that the condition tells the answer."""
    run = training(
        target=target,
        data=Latents(spread=0.0),
        images=200 * 32,
        batch=32,
        learning_rate=1e-2,
        condition_dropout=0.0,
        warm_up=0,
    )
    losses = [float(report.values["loss"]) for report in train(run)]
    assert sum(losses[-20:]) < 0.35 * sum(losses[:20]), losses[-1]


def test_a_half_finished_last_batch_is_made_whole():
    run = training(images=13)
    assert [report.images_seen for report in train(run)] == [6, 12, 18]
    assert list(train(run)) == []


@pytest.mark.parametrize("half_life", [math.inf, 30.0])
def test_a_milestone_of_a_constant_rate_is_a_run_that_ends_there_bit_for_bit(half_life, differences):
    """Weights and average alike: neither looks at how long the training will be."""
    constant = {"decay": "constant", "ema_half_life": half_life, "ema_share": 0.2}
    longer, alone = training(images=120, **constant), training(images=60, **constant)
    advanced_to(longer, 10)
    list(train(alone))
    assert alone.step == longer.step == 10
    assert differences(longer.state_dict(), alone.state_dict()) == []
    before = {name: value.clone() for name, value in longer.ema.module.state_dict().items()}
    list(train(longer))
    assert differences(before, longer.ema.module.state_dict())


def test_a_milestone_of_a_falling_rate_is_no_run_that_ends_there(differences):
    longer, alone = advanced_to(training(images=120), 10), advanced_to(training(images=60), 10)
    assert "/denoiser.first.weight" in differences(longer.ema.module.state_dict(), alone.ema.module.state_dict())


def test_muon_steps_the_matrices_of_the_network_alone_at_its_own_rate():
    run = training(matrix_rate=2e-3)
    [group] = run.optimisers["muon"].param_groups
    # 16 x 18; what reads the context and what gives the latent's channels are smaller.
    assert {id(weight) for weight in group["params"]} == {id(run.model.network.first.weight)}
    others = {id(weight) for weight in run.optimisers["optimiser"].param_groups[0]["params"]}
    assert others == {id(weight) for weight in run.trained.parameters()} - {id(weight) for weight in group["params"]}
    advanced_to(run, 4)
    factor = learning_rate_factor(3 * 6, 60, 12, "cosine")
    assert group["lr"] == pytest.approx(2e-3 * factor, rel=1e-12)
    assert run.optimisers["optimiser"].param_groups[0]["lr"] == pytest.approx(5e-3 * factor, rel=1e-12)
    assert set(training().optimisers) == {"optimiser"}


def test_muon_leaves_what_embeds_the_noise_level_to_adam():
    sizes = {"in_channels": 4, "out_channels": 4}
    attention = {"latent_side": 4, "attention_sides": [4], "num_heads": 2}
    unet = UNet(**sizes, **attention, model_channels=32, channel_mult=[1], num_res_blocks=1)
    transformer = DiT(**sizes, width=32, depth=1, heads=2, patch=1)
    for network, embedding in ((unet, unet.time_embedding), (transformer, transformer.level)):
        stepped = {id(weight) for weight in matrices_of(network)}
        assert stepped
        assert all(weight.ndim < 2 or min(weight.shape) >= 16 for weight in embedding.parameters())
        assert not stepped & {id(weight) for weight in embedding.parameters()}


def test_a_resumed_run_with_muon_equals_an_uninterrupted_one_bit_for_bit(differences, tmp_path):
    whole, first = advanced_to(training(matrix_rate=2e-3), 10), advanced_to(training(matrix_rate=2e-3), 4)
    save_checkpoint(tmp_path / "last.pt", first.state_dict())
    resumed = training(start=99, matrix_rate=2e-3)
    resumed.load_state_dict(load_checkpoint(tmp_path / "last.pt"))
    advanced_to(resumed, 10)
    assert differences(resumed.state_dict(), whole.state_dict()) == []
    assert "/muon/state/0/momentum" in differences(whole.state_dict(), first.state_dict())


def test_a_checkpoint_from_before_there_were_two_optimisers_is_gone_on_from(differences):
    whole, first = advanced_to(training(), 10), advanced_to(training(), 4)
    state = first.state_dict()
    assert set(state) == {"step", "trained", "ema", "optimiser"}
    assert not any(name.startswith("full") for group in state["optimiser"]["param_groups"] for name in group)
    resumed = training(start=99)
    resumed.load_state_dict(state)
    advanced_to(resumed, 10)
    assert differences(resumed.state_dict(), whole.state_dict()) == []


@pytest.mark.parametrize("error", [ON_A_GPU, ON_A_CPU, OF_CUBLAS])
@pytest.mark.parametrize(("room", "micro"), [(2, 2), (1, 1), (4, 3)])
def test_where_memory_does_not_suffice_a_step_is_made_in_smaller_passes(error, room, micro, caplog):
    """Of the same batch, with the same numbers up to rounding, and the passes stay small."""
    run, plain = short_of_memory(error, room, data=Latents(torch.float64)), training(data=Latents(torch.float64))
    reports = [[report.numbers() for report in train(each)] for each in (run, plain)]
    assert len(reports[0]) == len(reports[1]) == 10
    for got, expected in zip(*reports, strict=True):
        assert got == pytest.approx(expected, rel=1e-6)  # sums of losses are float32
    weights = [torch.cat([p.detach().flatten() for p in each.trained.parameters()]) for each in (run, plain)]
    assert (weights[0] - weights[1]).abs().max() < 1e-9 * weights[1].abs().max()
    assert run.smaller_passes == {"micro_batch": micro}
    assert plain.smaller_passes == {}
    refused = [n for n in (6, 3, 2) if n > room]
    assert run.model.network.tried == refused + [micro] * (60 // micro)
    assert f"{micro} images in one pass (trainer.micro_batch={micro}), the batch stays at 6" in caplog.text


def test_latents_leave_the_device_before_passes_become_smaller(caplog):
    class OnDevice(Latents):
        """Where the network has room for all images only once these are gone."""

        held: Tensor | None = torch.zeros(1)

        def let_go(self) -> None:
            self.held = None
            run.model.network.room = 6

    run = short_of_memory(ON_A_GPU, 2, data=OnDevice(torch.float64))
    plain = training(data=Latents(torch.float64))
    losses = [float(each.accumulate_gradients()["loss"]) for each in (plain,)] + [float(run.advance().values["loss"])]
    assert losses[0] == losses[1]
    assert run.smaller_passes == {}
    assert run.model.network.tried == [6, 6]
    assert "memory does not suffice at step 1: latents do not stay on the device" in caplog.text


def test_what_a_step_costs_is_counted_where_memory_does_not_suffice_for_all_of_it():
    run, plain = short_of_memory(ON_A_GPU, 2), training()
    counted = run.that_fits(lambda: count_flops(run.accumulate_gradients))
    assert counted == count_flops(plain.accumulate_gradients) > 0
    assert run.micro_batch == 2


def test_smaller_passes_are_gone_on_with_bit_for_bit(differences, tmp_path):
    whole, first = (advanced_to(short_of_memory(ON_A_CPU, 2, begins_at=3), step) for step in (10, 5))
    save_checkpoint(tmp_path / "last.pt", first.state_dict())
    resumed = short_of_memory(ON_A_CPU, 6, start=99)  # where there is memory again
    resumed.load_state_dict(load_checkpoint(tmp_path / "last.pt"))
    assert differences(advanced_to(resumed, 10).state_dict(), whole.state_dict()) == []


def test_no_memory_for_one_image_and_other_errors_are_errors():
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        short_of_memory(ON_A_CPU, 0).advance()
    run = short_of_memory(RuntimeError("sizes differ"), 2)
    with pytest.raises(RuntimeError, match="sizes differ"):
        run.advance()
    assert run.model.network.tried == [6]
