"""Places365 as it is handed out, without its classes: `data_256/` and `val_256/` (or `_large`), or `train/`, `val/`."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from ldm.data.annotations.lookup import AnnotationPlaces
from ldm.data.contract import Split
from ldm.data.layouts.folder import list_plain
from ldm.data.listing import Listing
from ldm.data.memo import ContentMemo
from ldm.data.on_disk import FileOptions, Size, Splits, open_listed

SIDES: dict[str, Split] = {
    **dict.fromkeys(("data_256", "data_large", "data_256_standard", "data_large_standard"), "train"),
    **dict.fromkeys(("val_256", "val_large"), "heldout"),
}


def list_places(path: Path, places: AnnotationPlaces, memo: ContentMemo) -> Listing:
    """Places365; folders of other names are read as `list_plain` reads them."""
    listing = list_plain(path, places, memo)
    sides = [next((SIDES[part] for part in entry.name.split("/") if part in SIDES), None) for entry in listing.entries]
    if not {"train", "heldout"} <= set(sides):
        return listing
    entries = [dataclasses.replace(entry, split=side) for entry, side in zip(listing.entries, sides, strict=True)]
    return dataclasses.replace(listing, entries=tuple(entries))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Places(FileOptions):
    """Places365, without its classes."""

    title: ClassVar[str] = "data=places"

    def open(self, size: Size, memo: ContentMemo) -> Splits:
        """Both splits; see `ldm.data.contract.DataSource`."""
        return open_listed(self, list_places(self.path, self.places, memo), size, memo)
