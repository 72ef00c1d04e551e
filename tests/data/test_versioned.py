"""Images whose fingerprints hold what their source says of itself."""

from ldm.data import open_splits
from ldm.data.versioned import VersionedImages


def test_what_is_said_changes_the_fingerprints_and_nothing_else() -> None:
    source = open_splits("emoji", 16, n_train=2, n_heldout=2)["train"]
    one, two = (VersionedImages(source, {"version": version}) for version in (1, 2))
    assert len({source.fingerprint, one.fingerprint, two.fingerprint}) == 3
    assert one.annotations.keys() == source.annotations.keys()
    kinds = [images.annotations["boxes"] for images in (source, one, two)]
    assert len({kind.fingerprint for kind in kinds}) == 3
    assert len({kind.names for kind in kinds}) == 1
    assert (one.size, one.resolution, one.classes, len(one)) == ((16, 16), 16, source.classes, 2)
    assert (one.item(1).image == source.item(1).image).all()
    assert one.annotation("captions", 1) == source.annotation("captions", 1)
