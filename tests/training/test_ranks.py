"""Two ranks train what one process trains: the same weights, buffers, averages and losses, and the same codes."""

from dataclasses import dataclass

import pytest
import torch
from small_first_stages import first_stage_training, halves
from test_diffusion_training import Latents, training
from torch import Tensor

from ldm.data.contract import ImageCache
from ldm.first_stage.binary import entropy_of_mean
from ldm.first_stage.discriminator import BatchNorm
from ldm.first_stage.downsampling import Downsampling
from ldm.first_stage.equivariance import Equivariance
from ldm.first_stage.nested import Nested
from ldm.ranks import ALONE, Ranks, batch_mean, batch_sum, part_of_batch, whole_batch
from ldm.training.diffusion import train
from ldm.training.first_stage import train_first_stage

STEPS = 20


@dataclass(frozen=True)
class InFloat64:
    """The images of a set, in float64."""

    images: ImageCache

    @property
    def resolution(self) -> int:
        return self.images.resolution

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, *which) -> Tensor:
        return self.images.batch(*which).double()


def diffusion_run(ranks: Ranks, dtype: torch.dtype, changes: dict) -> tuple[dict, list[float]]:
    """Weights and averages after 20 steps, and the loss of each."""
    settings = {"images": STEPS * 6, **changes}
    run = training(data=Latents(dtype), ranks=ranks, **settings)
    losses = [float(report.values["loss"]) for report in train(run)]
    assert len(losses) == STEPS
    return {"trained": run.trained.state_dict(), "ema": run.ema.module.state_dict()}, losses


def first_stage_run(ranks: Ranks, dtype: torch.dtype, changes: dict) -> tuple[dict, list[dict[str, float]]]:
    """Weights and buffers of model and discriminator after 20 steps, and what each step reported."""
    batch = changes.get("batch", 4)
    run = first_stage_training(halves(), ranks=ranks, **{"images": STEPS * batch, **changes})
    if dtype == torch.float64:
        run.images = InFloat64(run.images)
        run.model.double()
        if run.alignment is not None:
            run.alignment.double()
        if run.discriminator is not None:
            run.discriminator.double()
    reports = [report.numbers() for report in train_first_stage(run)]
    assert len(reports) == STEPS
    state = run.state_dict()
    return {name: state[name] for name in ("model", "discriminator") if name in state}, reports


def numbers_of(state: dict) -> dict[str, Tensor]:
    return {f"{part} {name}": value for part, values in state.items() for name, value in values.items()}


def assert_same(one: dict, other: dict, tolerance: float) -> None:
    left, right = numbers_of(one), numbers_of(other)
    assert left.keys() == right.keys()
    for name, value in left.items():
        if value.is_floating_point():
            assert float((value - right[name]).abs().max()) <= tolerance, name
        else:
            assert torch.equal(value, right[name]), name


DIFFUSION = {
    "plain": {},
    "a batch of five": {"batch": 5, "images": STEPS * 5},
    "micro-batches": {"micro_batch": 2},
    "muon": {"matrix_rate": 2e-3},
}


@pytest.mark.long
@pytest.mark.parametrize("changes", DIFFUSION.values(), ids=DIFFUSION)
def test_two_ranks_train_the_diffusion_model_of_one(changes, two_ranks):
    whole, losses = diffusion_run(ALONE, torch.float64, changes)
    (first, first_losses), (second, _) = two_ranks(diffusion_run, torch.float64, changes)
    assert_same(first, whole, 1e-9)
    assert_same(first, second, 0.0)
    assert first_losses == pytest.approx(losses, rel=1e-6)  # reported in float32


@pytest.mark.long
def test_losses_of_two_ranks_in_float32_are_those_of_one(two_ranks):
    _, losses = diffusion_run(ALONE, torch.float32, {})
    (_, first), (_, second) = two_ranks(diffusion_run, torch.float32, {})
    assert first == second == pytest.approx(losses, rel=1e-4)


FIRST_STAGES = {
    "kl": {"regulariser": "kl"},
    "kl, batch norm, a batch of five": {"regulariser": "kl", "norm": "batch", "batch": 5},
    "vq": {"regulariser": "vq"},
    "vq, batch norm, muon, components": {
        "regulariser": "vq",
        "norm": "batch",
        "matrix_rate": 1e-3,
        "from_components": True,
    },
    "lfq": {"regulariser": "lfq", "norm": None},
    "kl, every shaping, a batch of five": {
        "regulariser": "kl",
        "batch": 5,
        "shapings": (Equivariance(rotation=True, scaling=True), Downsampling(0.25), Nested((1, 2, 3))),
        "aligned": True,
    },
    "bsq, a batch of five": {"regulariser": "bsq", "norm": None, "batch": 5},
}


QUICK = ("kl, batch norm, a batch of five", "vq, batch norm, muon, components")


def slow_but(quick: tuple[str, ...], changes: dict[str, dict]) -> list:
    """All of them, of which the quick suite tries those that are named."""
    marks = {name: () if name in quick else pytest.mark.slow for name in changes}
    return [pytest.param(given, id=name, marks=marks[name]) for name, given in changes.items()]


@pytest.mark.long
@pytest.mark.parametrize("changes", slow_but(QUICK, FIRST_STAGES))
def test_two_ranks_train_the_first_stage_of_one(changes, two_ranks):
    whole, reports = first_stage_run(ALONE, torch.float64, changes)
    (first, first_reports), (second, _) = two_ranks(first_stage_run, torch.float64, changes)
    assert_same(first, whole, 1e-9)
    assert_same(first, second, 0.0)
    for mine, alone in zip(first_reports, reports, strict=True):
        assert mine == pytest.approx(alone, rel=1e-8, abs=1e-12)
    if changes.get("norm", "group") is not None:
        assert {"discriminator", "adaptive_weight"} <= reports[-1].keys()
        assert reports[-1]["adaptive_weight"] > 0
    if changes["regulariser"] == "vq":
        assert 1 < reports[-1]["codebook_perplexity"] <= 24


@pytest.mark.slow
@pytest.mark.parametrize("regulariser", ["kl", "vq"])
def test_losses_of_a_first_stage_on_two_ranks_in_float32_are_those_of_one(regulariser, two_ranks):
    changes = {"regulariser": regulariser}
    _, reports = first_stage_run(ALONE, torch.float32, changes)
    (_, first), _ = two_ranks(first_stage_run, torch.float32, changes)
    assert [r["loss"] for r in first] == pytest.approx([r["loss"] for r in reports], rel=1e-4)


def test_ranks_share_items_in_order():
    for total in (1, 2, 5, 12):
        for count in (1, 2, 3, 5):
            shares = [Ranks(rank, count).share(total) for rank in range(count)]
            assert [i for share in shares for i in range(total)[share]] == list(range(total))
            sizes = [share.stop - share.start for share in shares]
            assert max(sizes) - min(sizes) <= 1


def test_a_lone_rank_hands_back_what_it_is_given():
    values = torch.arange(3.0)
    with part_of_batch(ALONE, 3):
        for function in (batch_mean, batch_sum, whole_batch, ALONE.sum):
            assert function(values) is values
    assert ALONE.seed(3, "dropout", 1) == Ranks(0, 2).seed(3, "dropout", 1) != Ranks(1, 2).seed(3, "dropout", 1)


def across(ranks: Ranks, items: Tensor, cotangents: Tensor) -> dict[str, Tensor]:
    """What looks across a batch of items, and gradients of a loss at this rank's items, as they are once summed."""
    with part_of_batch(ranks, len(items)) as part:
        mine = items[part.items].clone().requires_grad_()
        norm = BatchNorm(items.shape[1]).double()
        normalised = norm(mine)
        (normalised * cotangents[part.items]).flatten(1).sum(1).mean().backward()
        logits = items[part.items, :, 0, 0].clone().requires_grad_()
        entropy = entropy_of_mean(logits)
        entropy.backward()
        return {
            "normalised": whole_batch(normalised.detach()),
            "to_items": whole_batch(part.weight * mine.grad),
            "mean": norm.running_mean,
            "variance": norm.running_var,
            "entropy": entropy.detach(),
            "to_logits": whole_batch(part.weight * logits.grad),
        }


def test_statistics_across_the_batch_and_their_gradients_are_those_of_the_whole(two_ranks):
    """Of torch's own batch normalisation, for one, and of a batch that is divided unevenly."""
    draw = torch.Generator().manual_seed(0)
    items, cotangents = (torch.randn(5, 3, 2, 2, generator=draw, dtype=torch.float64) for _ in range(2))
    alone = across(ALONE, items, cotangents)
    torchs, mine = torch.nn.BatchNorm2d(3).double(), items.clone().requires_grad_()
    (torchs(mine) * cotangents).flatten(1).sum(1).mean().backward()
    assert torch.equal(alone["to_items"], mine.grad)
    assert torch.equal(alone["variance"], torchs.running_var)
    for found in two_ranks(across, items, cotangents):
        for name, value in alone.items():
            torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-14)


def missing_gradients(ranks: Ranks) -> list[Tensor | None]:
    """One weight is used by both ranks, one by the second alone, one by none; a frozen one has no gradient."""
    weights = [torch.nn.Parameter(torch.ones(2, dtype=dtype)) for dtype in (torch.float32, torch.float64) * 2]
    used = weights[:1] if ranks.is_first else weights[:2]
    for weight in used:
        ((ranks.rank + 1) * weight).sum().backward()
    ranks.sum_gradients([*weights, torch.nn.Parameter(torch.ones(2), requires_grad=False)], 0.5)
    return [weight.grad for weight in weights]


def test_gradients_are_summed_where_a_rank_has_one(two_ranks):
    for both, second, third, fourth in two_ranks(missing_gradients):
        assert torch.equal(both, torch.full((2,), 1.5))
        assert torch.equal(second, torch.ones(2, dtype=torch.float64))
        assert third is None
        assert fourth is None
