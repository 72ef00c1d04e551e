"""What is said of the time that work will take, before it begins and on the way."""

import time

import pytest
import torch
from tiny_plans import FACTS, plan_of

from experiments import forecast as forecasts
from experiments import main
from experiments.budget import network_calls
from experiments.console import Whole
from experiments.counts import Step
from experiments.forecast import forecast, rounded
from experiments.stages import STAGES
from experiments.store import Store
from ldm.training.first_stage import FirstStageTraining


def keys_of(*plans):
    return {(planned.name, planned.identity) for plan in plans for planned in plan.stages.values()}


@pytest.fixture(autouse=True)
def _single_thread():
    """Nothing is timed for a comparison of one thread with several, unless a test asks for several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_little_work_is_not_timed():
    plan = plan_of("ae.f=8")
    assert forecast([plan], keys_of(plan), STAGES, lambda plan: FACTS) is None


def test_time_grows_with_the_images_and_no_stage_counts_twice(monkeypatch):
    monkeypatch.setattr(forecasts, "WORTH_TIMING", 1)
    timed = []
    monkeypatch.setattr(forecasts, "timed_first_stage", lambda config: timed.append("f") or first(config))
    monkeypatch.setattr(forecasts, "timed_denoiser", lambda config, known: timed.append("d") or denoiser())

    def first(config):
        return forecasts.FirstStageCounts({}, (1, 1, 1), encode=0.5, decode=0.25, step=Step(2.0, 0))

    def denoiser():
        return forecasts.DenoiserCounts(0, None, call=0.125, step=Step(4.0, 0))

    short, long = plan_of("ae.f=8", "sampler.steps=2"), plan_of("ae.f=8", "sampler.steps=4")
    found = forecast([short, long], keys_of(short, long), STAGES, lambda plan: FACTS).seconds
    assert timed == ["f", "d"]
    training = short.stages["diffusion"]
    assert found["diffusion", training.identity] == 4.0 * training.settings["training"]["images"]
    n = short.stages["samples"].settings["n_samples"]
    for plan, steps in ((short, 2), (long, 4)):
        assert found["samples", plan.stages["samples"].identity] == n * (steps * 0.125 + 0.25)
    assert found["latents", short.stages["latents"].identity] == 0.5 * FACTS.train_images


def test_networks_that_patience_does_not_reach_are_taken_for_as_slow_a_training(monkeypatch):
    """At equal FLOPs a denoiser of f = 8 sees more images than one of f = 4, and takes about as long."""
    monkeypatch.setattr(forecasts, "WORTH_TIMING", 1)
    monkeypatch.setattr(forecasts, "PATIENCE_SECONDS", -1)
    timed = []

    def denoiser(config, known):
        timed.append(config["ae"]["f"])
        return forecasts.DenoiserCounts(0, None, call=1.0, step=Step(4.0, 0))

    first = forecasts.FirstStageCounts({}, (1, 1, 1), encode=0.5, decode=0.25, step=Step(2.0, 0))
    monkeypatch.setattr(forecasts, "timed_first_stage", lambda config: first)
    monkeypatch.setattr(forecasts, "timed_denoiser", denoiser)
    for budget in ("flops", "images"):
        plans = [plan_of(f"ae.f={f}", f"trainer.budget={budget}", f"seed={seed}") for f in (4, 8) for seed in (0, 1)]
        found = forecast(plans, keys_of(*plans), STAGES, lambda plan: FACTS).seconds
        images = [plan.stages["diffusion"].settings["training"]["images"] for plan in plans]
        seconds = [found["diffusion", plan.stages["diffusion"].identity] for plan in plans]
        assert seconds[:2] == [4.0 * images[0]] * 2
        whole = images[0] if budget == "flops" else images[2]
        assert seconds[2:] == pytest.approx([4.0 * whole] * 2, rel=0.02)
        samples = plans[2].stages["samples"]
        each = whole / images[2] * network_calls(plans[2].config) + 0.25
        assert found["samples", samples.identity] == pytest.approx(samples.settings["n_samples"] * each, rel=0.02)
    assert images[0] == images[2]
    assert timed == [4, 4]


def test_networks_that_differ_in_seeds_alone_are_timed_once(monkeypatch):
    monkeypatch.setattr(forecasts, "WORTH_TIMING", 1)
    timed = []
    first = forecasts.FirstStageCounts({}, (1, 1, 1), encode=0.5, decode=0.25, step=Step(2.0, 0))
    of_denoiser = forecasts.DenoiserCounts(0, None, call=1.0, step=Step(4.0, 0))
    monkeypatch.setattr(
        forecasts, "timed_first_stage", lambda config: timed.append(config["ae"]["regulariser"]) or first
    )
    monkeypatch.setattr(forecasts, "timed_denoiser", lambda config, known: timed.append("denoiser") or of_denoiser)
    plans = [plan_of("ae.f=8", f"ae={ae}", f"ae.seed={seed}") for ae in ("kl", "vq") for seed in (0, 1)]
    forecast(plans, keys_of(*plans), STAGES, lambda plan: FACTS)
    assert timed == ["kl", "denoiser", "vq"]


@pytest.mark.parametrize(
    ("together", "pace", "note"),
    [(2.5, 1.6, None), (4.2, 4.0 / 4.2, None), (8.0, 0.5, "one thread trains 2.0 times as fast as 2 at the moment")],
)
def test_several_threads_that_hinder_each_other_are_told(monkeypatch, together, pace, note):
    """The longest training of each stage tells it, by its share of the time."""
    torch.set_num_threads(2)
    monkeypatch.setattr(forecasts, "WORTH_TIMING", 1)

    def slower(one):
        return Step(one if torch.get_num_threads() == 1 else one * together / 4.0, 0)

    monkeypatch.setattr(
        forecasts, "timed_first_stage", lambda config: forecasts.FirstStageCounts({}, (1, 1, 1), 0.5, 0.25, slower(2.0))
    )
    monkeypatch.setattr(
        forecasts, "timed_denoiser", lambda config, known: forecasts.DenoiserCounts(0, None, 1.0, slower(4.0))
    )
    plan = plan_of("ae.f=8")
    found = forecast([plan], keys_of(plan), STAGES, lambda plan: FACTS)
    assert found.pace == pytest.approx(pace)
    assert (found.note or "").startswith(note or "")
    assert (note is None) == (found.note is None)
    shared = forecast([plan], keys_of(plan), STAGES, lambda plan: FACTS, workers=2)
    assert (shared.pace, shared.note) == (2.0, None)


@pytest.mark.long
def test_what_is_timed_is_this_machine(monkeypatch):
    plan = plan_of("ae.f=8")
    advance, slept = FirstStageTraining.advance, 0.05

    def slowly(training):
        time.sleep(slept)
        return advance(training)

    monkeypatch.setattr(FirstStageTraining, "advance", slowly)
    first = forecasts.timed_first_stage(plan.config)
    batch = plan.config["ae"]["training"]["batch"]
    assert slept / batch < first.step.work
    assert 0 < first.encode < 1
    assert 0 < first.decode < 1
    denoiser = forecasts.timed_denoiser(plan.config, FACTS.vocabulary(()))
    assert 0 < denoiser.call < denoiser.step.work


def test_at_f_1_nothing_is_encoded():
    found = forecasts.timed_first_stage(plan_of("ae.f=1").config)
    assert (found.encode, found.decode, found.step) == (0, 0, None)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 seconds"), (89, "89 seconds"), (1500, "25 minutes"), (5 * 3600, "5.0 hours"), (72 * 3600, "3.0 days")],
)
def test_durations_are_rounded(seconds, said):
    assert rounded(seconds) == said


def test_the_whole_tells_what_is_left_at_the_pace_of_what_is_done(monkeypatch):
    now = 100.0
    monkeypatch.setattr("experiments.console.time.monotonic", lambda: now)
    whole = Whole({("first_stage", "a"): 30.0, ("diffusion", "b"): 60.0, ("evaluation", "c"): 0.0})
    assert whole.seconds_left() is None
    now += 15.0  # twice as fast as forecast
    assert whole.complete("first_stage", "a")
    assert not whole.complete("first_stage", "a")  # said twice
    assert not whole.complete("first_stage", "other")
    assert whole.seconds_left() == pytest.approx(30.0)
    assert str(whole) == "1 of 3 stages, 0:30 left"
    assert whole.complete("diffusion", "b")
    assert whole.seconds_left() == 0


def test_without_a_forecast_stages_are_counted():
    whole = Whole({("first_stage", "a"): 0.0, ("diffusion", "b"): 0.0})
    whole.complete("first_stage", "a")
    assert str(whole) == "1 of 2 stages"


def test_what_cannot_be_timed_stops_no_run(monkeypatch, tmp_path, capsys):
    def fails(*args):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(main, "forecast", fails)
    assert main._forecast([], [], Store(tmp_path), 1) is None
    assert "could not be timed (out of memory)" in capsys.readouterr().out
