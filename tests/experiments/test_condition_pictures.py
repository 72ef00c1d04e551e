"""Pictures of conditions: what was told stands above what was made of it."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_plans import plan_of

from experiments.condition_pictures import COLUMNS, GAP, SIDE, save_condition_grid
from experiments.conditions import DataFacts, fields_of
from experiments.generate import AskedConditions
from ldm.data import build_cache, open_splits


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    source = open_splits("emoji", 32, n_train=12, n_heldout=12)["train"]
    return build_cache(
        source, tmp_path_factory.mktemp("scenes") / "cache", 1, annotations=("captions", "boxes", "semantic")
    )


def grid(scenes, path, *conditions):
    """The picture of these conditions for samples that are all red, as cells by row and column."""
    facts = DataFacts("a", "b", 12, 12, scenes.classes, scenes.annotations, scenes.annotations)
    settings = plan_of(f"conditioning=[{','.join(conditions)}]", facts=facts).config["conditioning"]
    asked = AskedConditions(fields_of(settings, scenes, "cpu"), list(range(12)), seed=0)
    red = torch.zeros(12, 3, 32, 32, dtype=torch.uint8)
    red[:, 0] = 255
    save_condition_grid(path, settings, asked, red)
    whole = np.asarray(Image.open(path))
    step = SIDE + GAP
    rows = (whole.shape[0] + GAP) // step
    return [
        [whole[r * step : r * step + SIDE, c * step : c * step + SIDE] for c in range(COLUMNS)] for r in range(rows)
    ]


@pytest.mark.long
def test_samples_stand_between_their_conditions_and_the_originals(scenes, tmp_path):
    cells = grid(scenes, tmp_path / "conditions.png", "text", "layout", "semantic")
    assert len(cells) == 5
    for column in range(COLUMNS):
        assert (cells[3][column] == (255, 0, 0)).all()
        assert np.array_equal(cells[4][column][2::4, 2::4], scenes.images[column])
        colours = np.unique(cells[2][column].reshape(-1, 3), axis=0)
        assert len(colours) == len(np.unique(scenes.semantic[column]))
        for row in (0, 1):
            drawn = (cells[row][column] != 255).mean()
            assert 0 < drawn < 0.5, "dark on white"


@pytest.mark.long
def test_degraded_and_masked_images_are_shown_as_they_are_told(scenes, tmp_path):
    [low], [masked] = (grid(scenes, tmp_path / f"{kind}.png", kind)[:1] for kind in ("superres", "inpaint"))
    for column in range(COLUMNS):
        assert len(np.unique(low[column].reshape(-1, 3), axis=0)) <= 64, "8 x 8 pixels"
        shown, whole = masked[column][2::4, 2::4], scenes.images[column]
        hidden = (shown == 128).all(-1)
        assert hidden.any()
        assert np.abs(shown[~hidden].astype(int) - whole[~hidden]).max() <= 1
