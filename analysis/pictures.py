"""The pictures that stages left beside their records, samples and reconstructions above all, under names that tell."""

import re
from collections.abc import Iterator
from pathlib import Path

from analysis.collect import Study


def pictures(study: Study) -> Iterator[tuple[str, Path]]:
    """By readable file name, such as "samples_KL_f=4_20_steps_grid.png", where each picture of the study lies."""
    taken: set[str] = set()
    for finished in study.finished:
        record = finished.record
        words = dict.fromkeys((record.stage, finished.label))
        for path in sorted(finished.folder.glob("*.png")):
            name = re.sub(r"[^\w=.]+", "_", "_".join([*words, path.stem]))
            if name in taken:  # what sets it apart stands in no label
                name = f"{name}_{record.identity}"
            taken.add(name)
            yield f"{name}.png", path
