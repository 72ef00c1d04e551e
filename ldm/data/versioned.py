"""Images under fingerprints that also hold what their source says of itself, such as the version of its code."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ldm.data.contract import Annotation, AnnotationValue, ImageSource, Item
from ldm.data.listing import ReadOnDemand
from ldm.records import content_hash


@dataclass(frozen=True)
class VersionedImages:
    """The source's images and annotations, an `ImageSource`; `said` is any JSON value that is hashed with them."""

    source: ImageSource
    said: Mapping[str, Any]

    @property
    def fingerprint(self) -> str:
        """A hash of the source's and of what it says."""
        return content_hash([self.source.fingerprint, self.said])

    @property
    def resolution(self) -> int:
        """The source's."""
        return self.source.resolution

    @property
    def size(self) -> tuple[int, int]:
        """The source's."""
        return self.source.size

    @property
    def classes(self) -> tuple[str, ...]:
        """The source's."""
        return self.source.classes

    @property
    def annotations(self) -> Mapping[str, Annotation]:
        """The source's kinds, with fingerprints of their own."""
        given, said = self.source.annotations, self.said
        return ReadOnDemand(
            given, lambda kind: replace(given[kind], fingerprint=content_hash([given[kind].fingerprint, said]))
        )

    @property
    def max_skipped_fraction(self) -> float:
        """The source's."""
        return self.source.max_skipped_fraction

    def __len__(self) -> int:
        return len(self.source)

    def name(self, index: int) -> str:
        """The name of image `index`."""
        return self.source.name(index)

    def item(self, index: int) -> Item:
        """Image `index` with its annotations."""
        return self.source.item(index)

    def annotation(self, kind: str, index: int) -> AnnotationValue:
        """The annotation of image `index`."""
        return self.source.annotation(kind, index)
