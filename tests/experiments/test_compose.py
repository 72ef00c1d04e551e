"""Points of a grid that differ in values alone are not composed, and are what composing them gives."""

import copy
import itertools
from collections.abc import Sequence

import pytest
from omegaconf import DictConfig

from experiments.compose import _composed, composed, composed_grid, composed_points, plain, sets_value
from experiments.schema import CONF
from ldm.errors import UserError

TINY = ("scale=tiny", "device=cpu", "precision=fp32")
SAMPLER = ("sampler.steps=3", "guidance.interval=[0.1,0.8]", "trainer.milestones=null", "ae.loss.perceptual=none")
OTHER_SAMPLER = (
    *("sampler.steps=null", "guidance.interval=[0.5,1]", "trainer.milestones=[0.5,1.0]"),
    "ae.loss.perceptual='lpips_vgg'",
)


class Composing:
    """Hydra, with the points that it composed."""

    def __init__(self) -> None:
        self.points: list[tuple[str, ...]] = []

    def __call__(self, point: Sequence[str]) -> DictConfig:
        self.points.append(tuple(point))
        return copy.deepcopy(_composed(tuple(point), CONF))


@pytest.mark.long
def test_every_point_is_what_composing_it_gives() -> None:
    axes = (("ae=kl", "ae=vq"), (("seed=0", *SAMPLER), ("seed=1", *OTHER_SAMPLER)))
    grid = [(*TINY, ae, *values) for ae, values in itertools.product(*axes)]
    hydra, each = Composing(), Composing()
    assert list(composed_grid(grid, hydra, "command")) == [plain(each(point), "command") for point in grid]
    assert [point[3] for point in hydra.points] == ["ae=kl", "ae=vq"]
    assert len(each.points) == 4


def test_settings_that_have_the_value_of_another_follow_it() -> None:
    """The seeds of a pair."""
    grid = [(*TINY, "+experiment=f_study", f"ae.seed={seed}", f"ae.f={f}") for seed in (0, 1, 2) for f in (4, 8)]
    hydra, each = Composing(), Composing()
    assert list(composed_grid(grid, hydra, "")) == [plain(each(point), "") for point in grid]
    assert [values["seed"] for values in composed_grid(grid, hydra, "")] == [0, 0, 1, 1, 2, 2]
    assert len(hydra.points) == 2  # one for each call


def test_points_without_a_path_are_each_what_composing_it_gives() -> None:
    shared = (*TINY, "data=folder", "data.resolution=32", "+experiment=f_study")
    points = [(*shared, f"ae.seed={seed}") for seed in (0, 1)]
    assert composed_points(points) == [composed(point, needs_path=False) for point in points]


@pytest.mark.parametrize(
    "reference",
    [
        "store=runs/${ae.seed}",
        "data.path=${oc.env:HOME}",
        "guidance.rescale=${sampler.eta} sampler.eta=${conditioning.dropout}",
    ],
)
def test_settings_that_are_more_than_the_value_of_another_are_composed_anew(reference) -> None:
    own = [*TINY, *reference.split()]
    own += ["data=folder"] if "path" in reference else []
    grid = [(*own, f"ae.seed={seed}") for seed in (0, 1)]
    hydra, each = Composing(), Composing()
    assert list(composed_grid(grid, hydra, "")) == [plain(each(point), "") for point in grid]
    assert len(hydra.points) == 2


@pytest.mark.long
def test_a_value_that_is_none_of_its_setting_is_refused_wherever_it_stands() -> None:
    for first, second in (("ae.f=4", "ae.f=four"), ("ae.f=four", "ae.f=4")):
        with pytest.raises(UserError, match=r"ae\.f=four is no whole number"):
            list(composed_grid([(*TINY, first), (*TINY, second)], Composing(), ""))


@pytest.mark.parametrize(
    ("override", "is_value"),
    [
        ("ae.f=4", True),
        ("seed=3", True),
        ("data.path='a b'", True),
        ("sampler.steps=", True),
        ("ae=kl", False),
        ("store=here", False),
        ("+ae.g=4", False),
        ("~ae.f", False),
        ("hydra/launcher=local", False),
        ("sampler.options={share: 0.5}", False),
        ("seed=${ae.seed}", False),
        ("tracker.entity=${oc.env:NAME}", False),
    ],
)
def test_what_sets_a_value(override: str, is_value: bool) -> None:
    assert sets_value(override) is is_value
