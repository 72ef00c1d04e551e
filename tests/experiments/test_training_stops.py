"""A training that is asked to stop, that diverges, or that is short of memory."""

import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments.stages.training import DivergedError, run_training
from experiments.stopping import EXIT_CODE, StoppedError, held_back, stop_on_signals
from ldm.training.checkpoint import load_checkpoint
from ldm.training.step import StepReport

STEPS = 12


@pytest.fixture(autouse=True)
def control_c_interrupts():
    """As in a terminal: a shell starts what runs in the background with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Sum:
    """A training whose weight after step k is the sum of 1 to k; `faults` are done in the step of that number."""

    def __init__(self, faults=None) -> None:
        self.step, self.weight, self.mask = 0, torch.zeros(3), torch.tensor([0.0, -torch.inf])
        self.faults = faults or {}

    def state_dict(self):
        return {"step": self.step, "network": {"weight": self.weight, "mask": self.mask}, "list": [self.weight]}

    def load_state_dict(self, state) -> None:
        self.step, self.weight = state["step"], state["network"]["weight"]

    def steps(self) -> Iterator[StepReport]:
        while self.step < STEPS:
            self.step += 1
            self.weight = self.weight + self.step
            self.loss = torch.tensor(1.0)
            self.faults.get(self.step, lambda: None)()
            yield StepReport(self.step, 10 * self.step, {"loss": self.loss})


def job(folder: Path, checkpoint_seconds: float = 1e9) -> SimpleNamespace:
    return SimpleNamespace(
        folder=folder,
        device="cpu",
        machine=SimpleNamespace(checkpoint_seconds=checkpoint_seconds),
        log=SimpleNamespace(log=lambda images, values: None),
        still_ours=lambda: None,
    )


def run(training: Sum, folder: Path, checkpoint_seconds: float = 1e9) -> None:
    silent = SimpleNamespace(advance_to=lambda done, note="": None)
    run_training(job(folder, checkpoint_seconds), training, training.steps(), silent, lambda step: None)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """The handlers of signals as they were, whatever a test sets."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_saves_behind_the_step_it_came_in_and_then_stops(tmp_path: Path, number: int) -> None:
    stop_on_signals()
    training = Sum({5: lambda: signal.raise_signal(number)})
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else StoppedError) as stop:
        run(training, tmp_path)
    if number != signal.SIGINT:
        assert stop.value.code == EXIT_CODE == 143
    assert load_checkpoint(tmp_path / "checkpoint.pt")["training"]["step"] == training.step == 5
    resumed = Sum()
    run(resumed, tmp_path)
    assert resumed.weight.tolist() == [STEPS * (STEPS + 1) / 2] * 3


def test_whoever_handles_a_signal_otherwise_may_let_the_training_go_on(tmp_path: Path) -> None:
    """Such as a launcher of Slurm's, which passes some signals over."""
    came = []
    signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    training = Sum({5: lambda: signal.raise_signal(signal.SIGTERM)})
    run(training, tmp_path)
    assert (came, training.step) == ([signal.SIGTERM], STEPS)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 5


def test_signals_act_at_the_end_of_what_holds_them_back_and_a_second_control_c_at_once() -> None:
    done = []

    def interrupt_twice() -> None:
        with held_back():
            signal.raise_signal(signal.SIGINT)
            done.append("first")
            signal.raise_signal(signal.SIGINT)
            done.append("second")

    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()
    assert done == ["first"]
    signal.signal(signal.SIGTERM, lambda number, frame: done.append("acted"))
    with held_back() as held:
        signal.raise_signal(signal.SIGTERM)
        assert held.came == [signal.SIGTERM]
        assert "acted" not in done
    assert done[1:] == ["acted"]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in workers
    with held_back() as held:
        signal.raise_signal(signal.SIGINT)
        assert held.came == []


@pytest.mark.parametrize("seconds", [0, 1e9])
def test_a_loss_that_is_none_is_named_with_its_step_though_it_is_read_later(tmp_path: Path, seconds: float) -> None:
    def lose() -> None:
        training.loss = torch.tensor(torch.nan)
        training.weight = training.weight * torch.nan

    training = Sum({7: lose})
    with pytest.raises(DivergedError, match="at step 7 loss is nan") as error:
        run(training, tmp_path, seconds)
    last = 7 if seconds == 0 else STEPS
    assert f"(network.weight and 1 more hold NaN or infinity by step {last})" in str(error.value)
    assert "mask" not in str(error.value)  # which holds infinity on purpose
    kept = load_checkpoint(tmp_path / "checkpoint.pt")
    if seconds == 0:
        assert "; the checkpoint of step 6 is kept; try a lower learning rate" in str(error.value)
        assert kept["training"]["network"]["weight"].tolist() == [21.0] * 3
    else:
        assert kept is None
        assert "checkpoint" not in str(error.value)


def test_weights_that_are_none_are_not_saved_though_the_loss_is_a_number(tmp_path: Path) -> None:
    def lose() -> None:
        training.weight = training.weight + torch.tensor([0.0, torch.inf, 0.0])

    training = Sum({7: lose})
    with pytest.raises(DivergedError, match=r"at step 7 .* is not \(network\.weight and 1 more hold") as error:
        run(training, tmp_path, 0)
    assert "the checkpoint of step 6 is kept" in str(error.value)
    resumed = Sum()
    run(resumed, tmp_path)
    assert resumed.weight.tolist() == [78.0] * 3


def test_weights_that_are_none_at_the_end_are_no_result(tmp_path: Path) -> None:
    training = Sum({STEPS: lambda: setattr(training, "weight", training.weight * torch.nan)})
    with pytest.raises(DivergedError, match=f"at step {STEPS}"):
        run(training, tmp_path)
