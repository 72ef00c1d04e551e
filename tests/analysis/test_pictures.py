"""Pictures of each cell lie beside the figures, under names that tell what they show."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from analysis.collect import read_study
from analysis.pictures import pictures
from analysis.plot_tradeoffs import draw


def picture(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), shade).save(path)


STORE = Path(__file__).with_name("old_store") / "store"


@pytest.mark.long
@pytest.mark.usefixtures("one_figure")
def test_every_picture_has_a_name_of_its_own_that_names_its_cell(tmp_path: Path) -> None:
    store = Path(shutil.copytree(STORE, tmp_path / "store"))
    study = read_study(store)
    for shade, finished in enumerate(study.finished):
        if finished.record.stage in ("samples", "reconstruction"):
            picture(store / finished.record.stage / finished.record.identity / "grid.png", shade)
    found = dict(pictures(study))
    assert len(found) >= 4
    assert len({path.read_bytes() for path in found.values()}) == len(found)
    assert all("f=" in name and " " not in name for name in found)
    assert any(name.startswith("samples_") for name in found)
    draw(store, None, None, allow_mixed=True)
    [folder] = (store / "analysis").iterdir()
    for name, path in found.items():
        assert (folder / "pictures" / name).read_bytes() == path.read_bytes()
