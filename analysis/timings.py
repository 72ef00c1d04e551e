"""What `python -m experiments.timing` measured of sample sets."""

from collections.abc import Collection

import pandas as pd

from analysis.store import Records


def timings(records: Records, sampled: Collection[str]) -> pd.DataFrame:
    """A line a sample set of these, machine and batch, with seconds by part."""
    found = []
    for record in records.all_of("timing"):
        if record.parents["samples"] not in sampled:
            continue
        batch = record.config["batch"]
        found.append(
            {
                "samples": record.parents["samples"],
                "machine": record.facts["machine"],
                "device": record.config["machine"]["device"],
                "batch": batch,
                "precision": record.config["precision"],
                "guidance_scale": record.config["guidance"]["scale"],
                "sample_images_per_second": batch / record.cost.seconds,
                **{
                    f"{part}_seconds_per_image": record.cost.parts[part] / batch
                    for part in ("encode", "denoise", "decode")
                },
                "repeats": record.config["repeats"],
                "is_alone": record.facts["is_alone"],
                "created": record.created,
            }
        )
    return pd.DataFrame(found)
