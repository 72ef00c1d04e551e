"""conf/: every part that is chosen by name has its file with its options, and its name where choices are listed."""

import re

import pytest

from experiments.compose import composed
from experiments.schema import CONF
from ldm.denoiser import DENOISERS
from ldm.diffusion.guidance import CLIPS
from ldm.diffusion.schedule import SCHEDULES
from ldm.diffusion.target import TARGETS
from ldm.diffusion.weighting import WEIGHTINGS
from ldm.first_stage.perceptual import PERCEPTUAL_LOSSES
from ldm.metrics.extractors import EXTRACTORS
from ldm.parts import defaults_of, options_of
from ldm.samplers import SAMPLERS
from ldm.samplers.ddpm import VARIANCES
from ldm.samplers.spacing import FINALS, SPACINGS


def files(group: str) -> set[str]:
    return {file.stem for file in (CONF / group).glob("*.yaml")}


def test_every_part_of_a_group_has_its_file() -> None:
    assert files("sampler") == {"base", "custom", *SAMPLERS}
    assert files("denoiser") == {"custom", "pretrained", *DENOISERS}


@pytest.mark.long
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_options_of_a_sampler_stand_in_its_file_with_their_defaults(name: str) -> None:
    settings = composed([f"sampler={name}", "scale=tiny"])["sampler"]
    assert settings["name"] == name
    assert {key: settings[key] for key in options_of(SAMPLERS[name])} == defaults_of(SAMPLERS[name])


@pytest.mark.parametrize("name", DENOISERS)
def test_the_options_of_a_denoiser_are_the_keys_of_its_file(name: str) -> None:
    settings = composed([f"denoiser={name}", "scale=tiny"])["denoiser"]
    assert settings["name"] == name
    assert settings.keys() == {"name", "architecture", *options_of(DENOISERS[name])}


LISTED = (
    ("diffusion/default", "schedule", SCHEDULES),
    ("diffusion/default", "target", TARGETS),
    ("diffusion/default", "weighting", WEIGHTINGS),
    ("sampler/base", "variance", VARIANCES),
    ("sampler/base", "spacing", SPACINGS),
    ("sampler/base", "final", FINALS),
    ("sampler/base", "clip", CLIPS),
    ("metrics/default", "extractor", EXTRACTORS),
    ("metrics/default", "likelihood_clip", CLIPS),
    ("ae/base", "perceptual", PERCEPTUAL_LOSSES),
)


@pytest.mark.parametrize(("file", "key", "table"), LISTED)
def test_the_comment_of_a_setting_names_all_its_choices(file: str, key: str, table: object) -> None:
    [line] = re.findall(rf"^ *{key}:.*#(.*)$", (CONF / f"{file}.yaml").read_text(), re.M)
    names = re.findall(r"\w+", re.sub(r"\(.*?\)", "", line))
    assert [name for name in table if name not in names] == []
