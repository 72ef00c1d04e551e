"""conf/data: every set that can be opened has a config, whose keys are its options."""

import pytest

from experiments.compose import composed
from experiments.resolve import with_scale_sizes
from experiments.schema import CONF
from ldm.data import SOURCES
from ldm.parts import options_of


def test_there_is_a_config_for_every_set() -> None:
    assert {file.stem for file in (CONF / "data").glob("*.yaml")} == {"custom", *SOURCES}


@pytest.mark.long
@pytest.mark.parametrize("name", SOURCES)
def test_its_keys_are_options_and_its_sizes_come_from_the_scale(name: str) -> None:
    values = composed([f"data={name}", "scale=paper"], needs_path=False)
    assert set(values["data"]) <= {"name", *options_of(SOURCES[name])}
    assert values["data"]["name"] == name
    assert with_scale_sizes(values)["resolution"] == (32 if name == "cifar10" else 256)
