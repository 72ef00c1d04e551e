"""Image sets behind one contract, the memory-mapped cache, and the embedded scenes."""

from ldm.data.cache import build_cache, open_cache
from ldm.data.contract import SPLITS, Box, ImageCache, ImageSource, Item, Split, UnusableImage
from ldm.data.sources import SOURCES, open_splits

__all__ = [
    "SOURCES",
    "SPLITS",
    "Box",
    "ImageCache",
    "ImageSource",
    "Item",
    "Split",
    "UnusableImage",
    "build_cache",
    "open_cache",
    "open_splits",
]
