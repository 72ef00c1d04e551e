"""conf/data: every set that can be opened has a config, whose keys are those that opening it takes."""

import inspect

import pytest

from experiments.compose import composed
from experiments.resolve import with_scale_sizes
from experiments.schema import CONF
from ldm.data import SOURCES, open_splits


def test_there_is_a_config_for_every_set() -> None:
    assert {file.stem for file in (CONF / "data").glob("*.yaml")} == set(SOURCES)


@pytest.mark.parametrize("name", SOURCES)
def test_its_keys_are_arguments_and_its_sizes_come_from_the_scale(name: str) -> None:
    values = composed([f"data={name}", "scale=paper"], needs_path=False)
    known = set(inspect.signature(open_splits).parameters)
    assert set(values["data"]) <= known
    assert values["data"]["name"] == name
    assert with_scale_sizes(values)["resolution"] == (32 if name == "cifar10" else 256)
