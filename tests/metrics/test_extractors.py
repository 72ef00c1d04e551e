"""The table of extractors: what comes with a package loads, what does not says where its weights are missing."""

import pytest
import torch

from ldm.errors import UserError
from ldm.metrics.extractors import EXTRACTORS, check_extractor, load_extractor

PACKAGED = [name for name, source in EXTRACTORS.items() if source.is_packaged]


@pytest.mark.parametrize("name", PACKAGED)
def test_a_packaged_extractor_needs_no_path(name):
    assert EXTRACTORS[name].find(None).is_file()
    extractor = load_extractor(name)
    assert extractor.name == name
    assert len(extractor(torch.zeros(2, 3, 40, 40, dtype=torch.uint8)).features) == 2


@pytest.mark.parametrize("name", sorted(set(EXTRACTORS) - set(PACKAGED)))
def test_weights_that_are_not_there_are_said(name, tmp_path):
    for read in (check_extractor, load_extractor):
        with pytest.raises(UserError, match="absent"):
            read(name, tmp_path / "absent")


def test_an_unknown_extractor_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match=r"extractor=dinov3 is none of .*, clip, did you mean 'dinov2'\?"):
        check_extractor("dinov3", None)


def test_titles_tell_extractors_apart():
    assert len({source.title for source in EXTRACTORS.values()}) == len(EXTRACTORS)
