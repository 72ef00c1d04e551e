"""metrics.sampler_check: whether twice the steps change anything, of the same noise and conditions."""

import json
from pathlib import Path

import pytest
from program import SHORT, copy_of, run
from tiny_plans import changed, identities, plan_of

from experiments.stages.sampler_check import is_limited, metric_of_check, moved
from ldm.metrics.intervals import Interval
from ldm.metrics.values import MetricValue
from ldm.records import DETAIL

ASKED = "metrics.sampler_check=true"

FADING = '''"""A toy sampler: the first step enlarges, each other fades the image by a share."""

from dataclasses import dataclass

from ldm.parts import option


@dataclass(frozen=True)
class Fading:
    title = "fading"
    version = 1

    schedule: object
    share: float = option(0.5, low=0, high=1, help="that each step fades the image by")

    def step(self, denoise, x_t, t, s, state, noise):
        denoise(x_t, t)
        return (4 * x_t if state is None else (1 - self.share) * x_t), True
'''


def test_it_is_planned_on_request_and_changes_nothing_else() -> None:
    assert "sampler_check" not in plan_of().stages
    assert changed(plan_of(), plan_of(ASKED)) == {"sampler_check"}
    assert plan_of().cell == plan_of(ASKED).cell
    stage = plan_of(ASKED).stages["sampler_check"]
    assert set(stage.parents) == {"samples", "reference"}
    assert plan_of(ASKED).stages["samples"].settings["sampler"]["steps"] == 2
    assert stage.settings == {"twice": 4, "n_samples": 32}
    assert [planned.name for planned in plan_of(ASKED).needed(("sampler_check",))][-1] == "sampler_check"


def test_its_identity_goes_by_the_sampler_and_the_number_of_samples() -> None:
    for setting in ("sampler.steps=3", "sampler.seed=1", "guidance.scale=2", "metrics.progress_samples=20"):
        assert "sampler_check" in changed(plan_of(ASKED), plan_of(ASKED, setting)), setting
    for setting in ("metrics.progress_steps=3", "metrics.progress_samples=40"):  # of 32 samples
        assert identities(plan_of(ASKED))["sampler_check"] == identities(plan_of(ASKED, setting))["sampler_check"]
    assert "sampler_check" in changed(plan_of(ASKED), plan_of(ASKED, "samples.keep=images"))  # as the samples do
    needed = {planned.name for planned in plan_of(ASKED, "guidance.scale=auto").needed(("sampler_check",))}
    assert {"samples", "tuning"} <= needed


@pytest.mark.parametrize(("steps", "twice"), [(400, 800), (500, 1000), (700, 1000), (1000, None)])
def test_there_are_no_more_steps_than_the_schedule_has(steps: int, twice: int | None) -> None:
    planned = plan_of(ASKED, f"sampler.steps={steps}").stages.get("sampler_check")
    assert (planned and planned.settings["twice"]) == twice


def distance(value: float, deviations: tuple[tuple[float, ...], ...]) -> Interval:
    """A kernel distance whose interval is wide."""
    return Interval(value, value - 0.2, value + 0.2, deviations)


def test_what_both_owe_to_the_same_noise_drops_out() -> None:
    """A change of a fourth of the interval is seen where the blocks deviate alike, and not where they do not."""
    metric, once = metric_of_check("e"), distance(0.5, ((0.05, -0.05, 0.04, -0.04), (0.03, -0.03)))
    found = moved(once, distance(0.55, ((0.051, -0.05, 0.04, -0.04), (0.03, -0.03))), metric, 100)
    assert (found.metric, found.n) == ("sampler_check_kd_e", 100)
    assert found.value == pytest.approx(0.05)
    assert is_limited(found)
    apart = ((-0.05, 0.05, -0.04, 0.04), (-0.03, 0.03))
    assert not is_limited(moved(once, distance(0.55, apart), metric, 100))


def test_the_difference_stands_in_results_alone_and_no_end_of_it_is_better() -> None:
    metric = metric_of_check("inception")
    assert metric.name == "sampler_check_kid"
    assert (metric.higher_is_better, metric.headline_from, metric.group) == (None, None, DETAIL)


@pytest.mark.parametrize(
    ("low", "high", "limited"), [(-0.1, 0.1, False), (0.0, 0.2, False), (0.01, 0.2, True), (-0.2, -0.01, True)]
)
def test_a_cell_is_limited_where_the_interval_leaves_out_none(low: float, high: float, limited: bool) -> None:
    assert is_limited(MetricValue(metric_of_check("e"), (low + high) / 2, 9, low, high)) is limited


def _check(store: Path, *overrides: str) -> dict:
    """The record of the check of a cell of one new sampler."""
    before = set(store.glob("sampler_check/*/record.json"))
    done = run(store, "ae.f=1", *SHORT, ASKED, "until=samples", *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    [path] = set(store.glob("sampler_check/*/record.json")) - before
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def store(swept_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which a model is trained, beside a sampler of one's own."""
    folder = tmp_path_factory.mktemp("checked")
    (folder / "fading.py").write_text(FADING)
    return copy_of(swept_store, folder)


def _fading(share: float) -> tuple[str, ...]:
    return ("sampler=custom", "sampler.target=fading:Fading", f"sampler.options={{share: {share}}}", "sampler.steps=1")


@pytest.mark.long
def test_what_changes_with_every_step_is_limited(store: Path) -> None:
    """Strong noise that the second step halves."""
    record = _check(store, *_fading(0.5), "metrics.progress_samples=160", "metrics.n_samples=160")
    facts, [found] = record["facts"], record["rows"]
    assert (facts["steps"], facts["twice"], facts["n"], facts["limited"]) == (1, 2, 160, True), (
        found["ci_low"],
        found["ci_high"],
    )
    once, twice = facts["distances"]
    assert found["value"] == pytest.approx(twice["value"] - once["value"])
    assert found["metric"] == "sampler_check_kd_efficientnet_lite2_colour"
    protocol = record["protocols"][found["protocol"]]
    assert protocol["marks"][-1] == "2 sampler steps against 1, on all images at once"
    assert not found["ci_low"] <= 0 <= found["ci_high"]
    assert record["cost"]["images"] == 160


@pytest.mark.long
def test_what_no_step_changes_is_not(store: Path) -> None:
    """The same images to the last bit: no difference, though each distance has its error."""
    record = _check(store, *_fading(0.0))
    once, twice = record["facts"]["distances"]
    assert once == twice
    assert (record["facts"]["limited"], record["rows"][0]["value"]) == (False, 0)
    assert record["rows"][0]["ci_high"] == 0


@pytest.mark.long
def test_too_few_samples_are_said(store: Path) -> None:
    record = _check(store, "metrics.progress_samples=8")
    assert record["rows"] == []
    assert record["facts"]["limited"] is None
    [left_out] = record["left_out"]
    assert left_out["metric"] == "sampler_check_kd_efficientnet_lite2_colour"
