"""What the stages of a cell cost, as columns of its rows."""

from collections.abc import Iterable, Mapping
from typing import Any

from analysis.store import Records
from ldm.records import Cell, Cost, StageRecord

TRAINED = ("first_stage", "latents", "learning_rate", "diffusion")
"""Stages whose seconds and FLOPs have columns of their own."""


COUNTED_WITH = {"nested": "first_stage"}
"""Stages whose cost is part of another's: a first stage that was cut took the training that it was cut from."""


def costs(records: Records, cell: Cell) -> dict[str, Any]:
    """What a cell's stages cost; unfinished stages give no entry."""
    found: dict[str, Any] = {}
    for stage, identity in cell.stages.items():
        record = records.get(stage, identity)
        if record is None:
            continue
        found[f"peak_of_{stage}"] = record.cost.peak_bytes
        column = COUNTED_WITH.get(stage, stage)
        if column in TRAINED:
            if not record.facts.get("given"):  # nobody knows what published weights cost
                found[f"{column}_seconds"] = found.get(f"{column}_seconds", 0) + record.cost.seconds
                found[f"{column}_flops"] = found.get(f"{column}_flops", 0) + record.cost.flops
            found |= {f"parameters_{part}": count for part, count in record.facts.get("parameters", {}).items()}
        if stage == "diffusion":
            found["learning_rate"] = record.facts.get("learning_rate")
        if stage == "samples":
            found |= _sampling(record.cost) | {"nfe": record.facts.get("nfe")}
            found["machine"] = _machine(record)
            found["tuned_scale"] = record.facts.get("guidance_scale")
    return found


def share(found: Mapping[str, Any], axes: Iterable[str], needed: Iterable[str]) -> dict[str, Any]:
    """What of a cell's costs its rows bear that depend on these axes and need these stages."""
    names = {"first_stage_", "latents_", "parameters_encoder", "parameters_decoder"} if "f" in axes else set()
    of_model = {"diffusion_", "learning_rate", "parameters_denoiser", "parameters_conditioning"}
    names |= of_model if "conditioning" in axes else set()
    names |= {"sample_", "nfe", "machine"} if "steps" in axes else set()
    peaks = [found.get(f"peak_of_{stage}") for stage in needed]
    own = {name: value for name, value in found.items() if name.startswith(tuple(names))}
    return {**own, "peak_bytes": max((peak for peak in peaks if peak), default=None)}


def _machine(record: StageRecord) -> str:
    """Where a stage ran, as timings name it; speeds of different machines are never drawn in one panel."""
    found = record.facts.get("made_on", record.environment)
    if "processor" not in found:
        return ""
    is_cpu = found.get("device") == "cpu"
    return f"{found['processor']}, {found['threads']} threads" if is_cpu else str(found["processor"])


def _sampling(cost: Cost) -> dict[str, float]:
    found = {"sample_seconds": cost.seconds}
    if cost.images and cost.seconds:
        found |= {
            "sample_images_per_second": cost.images_per_second,
            "sample_flops_per_image": cost.flops / cost.images,
        }
    return found
