"""The table of image sets: every entry says what it needs, and a new one opens itself."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from ldm.data import SOURCES, open_splits
from ldm.data.emoji import EmojiScenes
from ldm.errors import UserError
from ldm.parts import MISSING, option, options_of

NEEDED = {
    name: {key for key, each in options_of(part).items() if each.default is MISSING} for name, part in SOURCES.items()
}


@pytest.mark.parametrize("name", SOURCES)
def test_every_entry_says_what_it_needs(name):
    assert SOURCES[name].title == f"data={name}"
    assert "resolution" in NEEDED[name]
    with pytest.raises(UserError) as refused:
        open_splits(name, 32)
    assert str(refused.value).startswith(f"data={name} needs data.")
    assert any(f"data.{key} " in str(refused.value) for key in NEEDED[name])


@pytest.mark.parametrize("name", sorted(set(SOURCES) - {"emoji"}))
def test_every_set_of_files_says_that_its_place_is_not_there(name, tmp_path):
    with pytest.raises(UserError, match="absent"):
        open_splits(name, 32, path=tmp_path / "absent")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"heldout_fraction": 1.0}, "data.heldout_fraction=1.0 is no number above 0 and below 1"),
        ({"max_skipped_fraction": 2}, "data.max_skipped_fraction=2 is no number from 0 to 1"),
        ({"n_train": 0}, "data.n_train=0 is no whole number of images from 1 on (or null)"),
        ({"resolution": 0}, "data.resolution=0 is no whole number of pixels from 1 to 32768"),
        ({"categorie": "bedroom"}, "data.categorie=bedroom is no option of data=lsun, did you mean 'category'?"),
    ],
)
def test_options_are_checked(options, said, tmp_path):
    with pytest.raises(UserError) as refused:
        open_splits("lsun", **{"resolution": 32, "path": tmp_path, **options})
    assert str(refused.value).startswith(said)


def test_a_new_set_needs_a_class_and_its_line(monkeypatch):
    @dataclass(frozen=True)
    class Pairs:
        """Two scenes of each split."""

        title: ClassVar[str] = "data=pairs"

        resolution: int = option(low=16, help="side")
        look: int = option(0, help="which scenes")

        def open(self, size, memo):
            return {split: EmojiScenes(split, self.resolution, 2, self.look) for split in ("train", "heldout")}

    monkeypatch.setitem(SOURCES, "pairs", Pairs)
    splits = open_splits("pairs", 16, look=3)
    expected = open_splits("emoji", 16, seed=3, n_train=2, n_heldout=2)
    assert {key: value.fingerprint for key, value in splits.items()} == {
        key: value.fingerprint for key, value in expected.items()
    }
    with pytest.raises(UserError, match=r"data\.look=odd is no whole number"):
        open_splits("pairs", 16, look="odd")
