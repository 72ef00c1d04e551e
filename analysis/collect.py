"""Reads the records of a store into one tidy table: a row is one value with its axes, protocol and cost."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import settings
from analysis.papers import Published
from ldm.errors import UserError, nearest
from ldm.records import SCHEMA, STAGES, Cell, Cost, LeftOut, ResultRow, StageRecord, Sweep, read_record

REFERENCE_AXES = ("data", "resolution", "scale", "extractor")
FIRST_STAGE_AXES = ("f", "regulariser", "channels", "ae_seed", "budget", "ae_weights", settings.OF_FIRST_STAGE)
MODEL_AXES = (
    "conditioning",
    "task",
    "latent_scale",
    "schedule",
    "shift",
    "target",
    "weighting",
    "learning_rate_factor",
    "seed",
    "weights",
    settings.OF_MODEL,
)
PREDICTOR_AXES = ("conditioning", "latent_scale", "schedule", "shift")
"""Of the model, what its latents, its noise levels and its budget decide."""

SAMPLE_AXES = (
    "sampler",
    "steps",
    "eta",
    "variance",
    "spacing",
    "final",
    "clip",
    "guidance_scale",
    "guidance_rule",
    "guidance_interval",
    "guidance_rescale",
    "height",
    "width",
    "tile",
    "sampler_seed",
)
ALL_AXES = REFERENCE_AXES + FIRST_STAGE_AXES + MODEL_AXES + SAMPLE_AXES
AUTO = "auto"
"""The guidance scale of a cell that found its own; its rows have the scale that it found."""

TUNED = "tuned"
"""The guidance rule of such a cell."""

SOMETIMES_INACTIVE = ("eta", "variance", "guidance_rule", "guidance_interval", "guidance_rescale")
"""Axes that are empty where the sampler does not read them, or there is no guidance; that is no choice of its own."""

BEFORE: Mapping[str, Any] = {"learning_rate_factor": 1.0}
"""What sweeps stand at that were made before the axis existed."""

AXES_OF: Mapping[str, tuple[str, ...]] = {
    "reference": REFERENCE_AXES,
    "other_references": REFERENCE_AXES,
    "first_stage": REFERENCE_AXES + FIRST_STAGE_AXES,
    "reconstruction": REFERENCE_AXES + FIRST_STAGE_AXES,
    "coding": ("data", "resolution", "scale", *FIRST_STAGE_AXES),
    "latents": REFERENCE_AXES + FIRST_STAGE_AXES,
    "predictors": (*REFERENCE_AXES, *FIRST_STAGE_AXES, *PREDICTOR_AXES),
    "diffusion": REFERENCE_AXES + FIRST_STAGE_AXES + MODEL_AXES,
    "progress": REFERENCE_AXES + FIRST_STAGE_AXES + MODEL_AXES,
    "likelihood": ("data", "resolution", "scale", *FIRST_STAGE_AXES, *MODEL_AXES),
    "probe": ("data", "resolution", "scale"),
    "tuning": ALL_AXES,
    "samples": ALL_AXES,
    "evaluation": ALL_AXES,
    "training_set": REFERENCE_AXES,
    "memorisation": ALL_AXES,
}
"""The axes that a stage's rows depend on; the others are empty, so that a row shared by cells claims none of them."""

SAMPLES_NEED = ("reference", "other_references", "first_stage", "latents", "diffusion", "probe", "tuning", "samples")

PARENTS_OF: Mapping[str, tuple[str, ...]] = {
    "reconstruction": ("reference", "first_stage", "reconstruction"),
    "coding": ("first_stage", "coding"),
    "predictors": ("reference", "first_stage", "latents", "predictors"),
    "progress": ("reference", "first_stage", "latents", "diffusion", "progress"),
    "likelihood": ("first_stage", "latents", "diffusion", "likelihood"),
    "evaluation": (*SAMPLES_NEED, "evaluation"),
    "memorisation": (*SAMPLES_NEED, "training_set", "memorisation"),
}
"""The stages that write rows about a candidate, each with all that must be finished before it."""

COST_COLUMNS = (
    "first_stage_seconds",
    "first_stage_flops",
    "latents_seconds",
    "latents_flops",
    "diffusion_seconds",
    "diffusion_flops",
    "sample_seconds",
    "sample_images_per_second",
    "sample_flops_per_image",
    "peak_bytes",
)
PARAMETER_COLUMNS = ("parameters_denoiser", "parameters_conditioning", "parameters_encoder", "parameters_decoder")
UNPRINTED = ("deviations", "alone")
"""Columns that are for comparisons alone."""

COLUMNS = (
    "stage",
    "cell",
    "first_stage",
    "model",
    "f",
    "regulariser",
    "channels",
    "sampler",
    "steps",
    "nfe",
    "guidance_scale",
    "seed",
    "images_seen",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "estimand",
    *UNPRINTED,
    "n",
    "protocol",
    *COST_COLUMNS,
    *PARAMETER_COLUMNS,
    *(
        axis
        for axis in ALL_AXES
        if axis not in {"f", "regulariser", "channels", "sampler", "steps", "guidance_scale", "seed"}
    ),
    "identity",
    "samples",
    "machine",
    "sweep",
)
WHOLE_NUMBERS = (
    "f",
    "channels",
    "steps",
    "nfe",
    "seed",
    "ae_seed",
    "sampler_seed",
    "images_seen",
    "n",
    "resolution",
    "height",
    "width",
    "tile",
    "peak_bytes",
    *PARAMETER_COLUMNS,
)
REAL_NUMBERS = (
    "value",
    "alone",
    "ci_low",
    "ci_high",
    "guidance_scale",
    "guidance_rescale",
    "learning_rate_factor",
    "eta",
    *(c for c in COST_COLUMNS if c != "peak_bytes"),
)


@dataclass(frozen=True)
class Missing:
    """A result that the sweep asks for and the store does not hold: `goal` is the stage that would have written it."""

    label: str
    goal: str
    stage: str
    identity: str
    failed: bool
    reason: str


@dataclass(frozen=True)
class Codec:
    """One point of a codec's curve on the held-out images, headers shared; `psnr` is None where it is lossless.

    `images`: whose they are, e.g. "emoji 32 px".
    """

    codec: str
    quality: int | None
    bits_per_pixel: float
    rmse255: float
    psnr: float | None
    n: int
    images: str = ""


def codec_curves(points: Iterable[Codec]) -> dict[tuple[str, str], list[Codec]]:
    """Points by codec and images, in the order of their rates."""
    curves: dict[tuple[str, str], list[Codec]] = {}
    for point in sorted(points, key=lambda point: point.bits_per_pixel):
        curves.setdefault((point.codec, point.images), []).append(point)
    return curves


@dataclass(frozen=True)
class CodedLatents:
    """KL latents quantised and coded: (bits per pixel, RMSE on 0-255, PSNR or None) of each step, finest first."""

    label: str
    f: int
    points: tuple[tuple[float, float, float | None], ...]


@dataclass(frozen=True)
class CodingCurve:
    """Progressive coding with one diffusion model: what has arrived, and the error of what is guessed from it.

    Units: bits a dimension of the image, `rmse255` in grey levels; both mean over n held-out images, noisiest first.
    `bounds`: the error's intervals over images; none in records from before they were kept.
    """

    label: str
    f: int
    regulariser: str
    bits_per_dim: tuple[float, ...]
    rmse255: tuple[float, ...]
    n: int
    protocol: str = ""
    bounds: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Tuning:
    """How the guidance of a cell was found: by scale the distance of n samples that are not the reported ones."""

    label: str
    metric: str
    n: int
    protocol: str
    scale: float
    is_at_the_end: bool
    tried: Mapping[float, ResultRow]


@dataclass(frozen=True)
class Study:
    """All that the tables and figures are made of; `published` is drawn behind `frame` (columns: `COLUMNS`)."""

    sweep: str
    commands: tuple[str, ...]
    frame: pd.DataFrame
    cells: int
    missing: tuple[Missing, ...] = ()
    protocols: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    codecs: tuple[Codec, ...] = ()
    left_out: tuple[tuple[str, LeftOut], ...] = ()
    published: tuple[Published, ...] = ()
    tunings: tuple[Tuning, ...] = ()
    timings: pd.DataFrame = field(default_factory=pd.DataFrame)
    coding: tuple[CodingCurve, ...] = ()
    coded_latents: tuple[CodedLatents, ...] = ()


def collect(store: Path, sweep: str | None = None) -> pd.DataFrame:
    """The tidy table of a sweep (None: the latest, "all": every sweep); stage and identity name a row's record."""
    return read_study(store, sweep).frame


def read_study(store: Path, sweep: str | None = None) -> Study:
    """The rows, protocols, codec curves and missing results of one sweep (None: the latest, "all": every sweep).

    Raises: UserError where the store or sweep cannot be read, does not exist, or holds no finished row.
    """
    try:
        sweeps = settings.with_settings(_chosen_sweeps(store, sweep), ALL_AXES)
        return _study(_Records(store), sweeps, sweep)
    except OSError as error:
        raise UserError(f"The store '{store}' cannot be read ({error}): check its permissions.") from error


class _Records:
    """The records of a store, each file read once."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self._read: dict[tuple[str, str], StageRecord | None] = {}

    def get(self, stage: str, identity: str | None) -> StageRecord | None:
        """The record of a finished stage, or None."""
        if identity is None:
            return None
        key = (stage, identity)
        if key not in self._read:
            folder = self.store / stage / identity
            try:
                record = read_record(folder)
            except (ValueError, TypeError, AttributeError) as error:
                raise UserError(
                    f"'{folder / 'record.json'}' is not a record of this program ({error}): "
                    "remove the folder and run the sweep again."
                ) from error
            if record is not None and record.schema > SCHEMA:
                raise UserError(
                    f"'{folder / 'record.json'}' was written by a newer version of this program: read it with that one."
                )
            self._read[key] = record
        return self._read[key]

    def failure(self, stage: str, identity: str) -> str | None:
        """The error of a failed stage in one line, or None where it did not fail."""
        path = self.store / stage / identity / "failure.json"
        if not path.exists():
            return None
        try:
            return " ".join(str(json.loads(path.read_text(encoding="utf-8"))["error"]).split())
        except (ValueError, KeyError, TypeError):
            return f"its failure file {path} cannot be read"


def _chosen_sweeps(store: Path, sweep: str | None) -> list[Sweep]:
    if not store.is_dir():
        raise UserError(f"There is no store at '{store}': name the folder that run.py wrote with --store.")
    found = {path.stem: path for path in sorted((store / "sweeps").glob("*.json"))}
    if not found:
        raise UserError(f"The store '{store}' holds no sweeps: run `python run.py -m ...` with store={store} first.")
    if sweep is not None and sweep != "all" and sweep not in found:
        raise UserError(
            f"The store '{store}' holds no sweep '{sweep}'{nearest(sweep, found)}"
            f"{'' if nearest(sweep, found) else '; it holds ' + ', '.join(found)}."
        )
    if sweep is not None and sweep != "all":
        return [_read_sweep(found[sweep])]
    sweeps = sorted((_read_sweep(path) for path in found.values()), key=lambda item: (item.created, item.sweep))
    return sweeps if sweep == "all" else sweeps[-1:]


def _read_sweep(path: Path) -> Sweep:
    try:
        read = Sweep.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"'{path}' is not a sweep of this program ({error}): remove it or choose another --sweep."
        ) from error
    if read.schema > SCHEMA:
        raise UserError(f"'{path}' was written by a newer version of this program: read it with that version.")
    return read


def _study(records: _Records, sweeps: Sequence[Sweep], asked: str | None) -> Study:
    labels = CellLabels([cell for sweep in sweeps for cell in sweep.cells])
    # Coding curves have a figure of their own.
    coding_labels = CellLabels([cell for sweep in sweeps for cell in sweep.cells if "likelihood" in cell.stages])
    rows: list[dict[str, Any]] = []
    missing: dict[tuple[str, str], Missing] = {}
    protocols: dict[str, Mapping[str, Any]] = {}
    codecs: dict[tuple[Codec, ...], tuple[str, str]] = {}
    left_out: dict[tuple[str, LeftOut], None] = {}
    coding: list[CodingCurve] = []
    coded_latents: list[CodedLatents] = []
    tunings: list[Tuning] = []
    seen: set[tuple[str, str]] = set()
    cells: set[tuple[tuple[str, str], ...]] = set()
    for sweep in sweeps:
        for cell in sweep.cells:
            cells.add(tuple(sorted(cell.stages.items())))
            for gap in _gaps(records, cell, labels):
                missing.setdefault((gap.goal, cell.stages[gap.goal]), gap)
            costs = _costs(records, cell)
            for stage in STAGES:
                record = records.get(stage, cell.stages.get(stage))
                if record is None or (stage, record.identity) in seen:
                    continue
                seen.add((stage, record.identity))
                protocols.update(record.protocols)
                if points := tuple(_codec(point) for point in record.facts.get("codecs", ())):
                    images = f"{cell.axes.get('data')} {cell.axes.get('resolution')} px"
                    codecs.setdefault(points, (images, str(record.facts.get("reference_fingerprint", ""))[:8]))
                if "quantised" in record.facts:
                    coded_latents.append(_coded_latents(labels.label(cell, stage), cell, record.facts["quantised"]))
                if "progressive" in record.facts:
                    coding.append(_coding_curve(coding_labels.label(cell, stage), cell, record))
                if stage == "tuning":
                    tunings.append(_tuning(labels.label(cell, stage), record.facts))
                left_out.update(((labels.label(cell, stage), item), None) for item in record.left_out)
                rows += [_row(sweep, cell, record, item, costs) for item in record.rows]
    if not rows:
        failures = sum(gap.failed for gap in missing.values())
        raise UserError(
            f"Sweep '{sweeps[-1].sweep}' of the store '{records.store}' holds no finished result "
            f"({len(missing)} missing, {failures} of them failed): see `python -m experiments.ledger`."
        )
    return Study(
        sweep="all" if asked == "all" else sweeps[0].sweep,
        commands=tuple(dict.fromkeys(sweep.command for sweep in sweeps)),
        frame=_frame(rows),
        cells=len(cells),
        missing=tuple(missing.values()),
        protocols=protocols,
        codecs=_named_codecs(codecs),
        left_out=tuple(left_out),
        coding=tuple(coding),
        coded_latents=tuple(coded_latents),
        tunings=tuple(tunings),
        timings=_timings(
            records.store, {c.stages["samples"] for s in sweeps for c in s.cells if "samples" in c.stages}
        ),
    )


def _coded_latents(label: str, cell: Cell, points: Sequence[Mapping[str, Any]]) -> CodedLatents:
    found = [(p["bits_per_pixel"], p["rmse255"], p["psnr"]) for p in points if p["step"] is not None]
    return CodedLatents(label, int(cell.axes["f"]), tuple(found))


def _coding_curve(label: str, cell: Cell, record: StageRecord) -> CodingCurve:
    curve, [protocol] = record.facts["progressive"], {row.protocol for row in record.rows}
    ends = (curve.get(f"rmse255_{end}", ()) for end in ("low", "high"))
    bounds = [(low, high) for low, high in zip(*ends, strict=True) if low is not None]
    return CodingCurve(
        label,
        int(cell.axes["f"]),
        str(cell.axes["regulariser"]),
        tuple(curve["bits_per_dim"]),
        tuple(curve["rmse255"]),
        int(curve["n"]),
        protocol,
        tuple(bounds),
    )


def _tuning(label: str, facts: Mapping[str, Any]) -> Tuning:
    metric, n, protocol = facts["metric"], int(facts["n"]), str(facts.get("protocol", ""))
    tried = {
        float(item["scale"]): ResultRow(
            metric, n=n, protocol=protocol, **{k: v for k, v in item.items() if k != "scale"}
        )
        for item in facts["tried"]
    }
    return Tuning(label, metric, n, protocol, float(facts["scale"]), bool(facts["is_at_the_end"]), tried)


def _timings(store: Path, sampled: Collection[str]) -> pd.DataFrame:
    """What `python -m experiments.timing` measured: a line a sample set, machine and batch, seconds by part."""
    found = []
    for path in sorted((store / "timing").glob("*/record.json")):
        record = read_record(path.parent)
        if record is None or record.parents["samples"] not in sampled:
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


def _codec(point: Mapping[str, Any]) -> Codec:
    return Codec(**{item.name: point[item.name] for item in fields(Codec) if item.name != "images"})


def _named_codecs(found: Mapping[tuple[Codec, ...], tuple[str, str]]) -> tuple[Codec, ...]:
    """The points of each set of images with its name; with its fingerprint where two sets bear one name."""
    names = [name for name, _ in found.values()]
    named = []
    for points, (name, fingerprint) in found.items():
        images = name if names.count(name) == 1 else f"{name}, {fingerprint}, n = {points[0].n:,}"
        named += [replace(point, images=images) for point in points]
    return tuple(named)


def _row(sweep: Sweep, cell: Cell, record: StageRecord, item: ResultRow, costs: Mapping[str, Any]) -> dict[str, Any]:
    axes = AXES_OF[record.stage]
    row: dict[str, Any] = {axis: cell.axes.get(axis, BEFORE.get(axis)) for axis in axes}
    if row.get("guidance_scale") == AUTO:
        row |= {"guidance_scale": costs.get("tuned_scale"), "guidance_rule": TUNED}
    row |= {
        "stage": record.stage,
        "samples": cell.stages.get("samples", "") if "steps" in axes else "",
        "cell": cell.cell if "steps" in axes else "",
        "first_stage": cell.stages.get("first_stage", "") if "f" in axes else "",
        "model": cell.stages.get("diffusion", "") if "conditioning" in axes else "",
        "metric": item.metric,
        "value": item.value,
        "ci_low": item.ci_low,
        "ci_high": item.ci_high,
        "estimand": item.estimand,
        "deviations": item.deviations,
        "alone": item.alone,
        "n": item.n,
        "protocol": item.protocol,
        "images_seen": item.images_seen,
        "identity": record.identity,
        "sweep": sweep.sweep,
    }
    if item.seed is not None:
        row["seed"] = item.seed
    known = {"first_stage_", "latents_", "parameters_encoder", "parameters_decoder"} if "f" in axes else set()
    known |= {"diffusion_", "parameters_denoiser", "parameters_conditioning"} if "conditioning" in axes else set()
    known |= {"sample_", "nfe", "machine"} if "steps" in axes else set()
    row |= {name: value for name, value in costs.items() if name.startswith(tuple(known))}
    row["peak_bytes"] = _peak(record.stage, costs)
    return row


def _peak(stage: str, costs: Mapping[str, Any]) -> int | None:
    """The largest memory that the path to these rows needed."""
    peaks = [costs.get(f"peak_of_{parent}") for parent in PARENTS_OF.get(stage, (stage,))]
    return max((peak for peak in peaks if peak), default=None)


def _costs(records: _Records, cell: Cell) -> dict[str, Any]:
    """What a cell's stages cost; unfinished stages give no entry."""
    found: dict[str, Any] = {}
    for stage in STAGES:
        record = records.get(stage, cell.stages.get(stage))
        if record is None:
            continue
        found[f"peak_of_{stage}"] = record.cost.peak_bytes
        if stage in {"first_stage", "latents", "diffusion"}:
            if not record.facts.get("given"):  # nobody knows what published weights cost
                found[f"{stage}_seconds"] = record.cost.seconds
                found[f"{stage}_flops"] = record.cost.flops
            found |= {f"parameters_{part}": count for part, count in record.facts.get("parameters", {}).items()}
        if stage == "samples":
            found |= _sampling(record.cost) | {"nfe": record.facts.get("nfe")}
            found["machine"] = _machine(record)
            found["tuned_scale"] = record.facts.get("guidance_scale")
    return found


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


def _frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(list(rows)).reindex(columns=list(COLUMNS))
    for column in WHOLE_NUMBERS:
        frame[column] = pd.to_numeric(frame[column]).astype("Int64")
    for column in REAL_NUMBERS:
        frame[column] = pd.to_numeric(frame[column]).astype(float)
    for column in set(COLUMNS) - set(WHOLE_NUMBERS) - set(REAL_NUMBERS) - {"deviations"}:
        frame[column] = frame[column].astype(object).where(frame[column].notna(), "")
    order = {stage: index for index, stage in enumerate(STAGES)}
    keys = ["regulariser", "f", "steps", "images_seen"]
    frame = frame.assign(order=frame["stage"].map(order)).sort_values(["order", *keys], kind="stable")
    return frame.drop(columns="order").reset_index(drop=True)


def _gaps(records: _Records, cell: Cell, labels: "CellLabels") -> Iterable[Missing]:
    for goal, needed in PARENTS_OF.items():
        if goal not in cell.stages or records.get(goal, cell.stages[goal]) is not None:
            continue
        open_stages = [s for s in needed if s in cell.stages and records.get(s, cell.stages[s]) is None]
        failures = {s: text for s in open_stages if (text := records.failure(s, cell.stages[s])) is not None}
        # The first failure is the cause of all that is open behind it.
        stage = next(iter(failures), open_stages[0])
        reason = f"{stage} failed: {failures[stage]}" if failures else f"{stage} is not finished"
        yield Missing(labels.label(cell, goal), goal, stage, cell.stages[stage], bool(failures), reason)


class CellLabels:
    """Short names of cells, which say only what differs within the sweep."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        values = {axis: {str(cell.axes.get(axis)) for cell in cells} for axis in ALL_AXES}
        self.varying = {axis for axis, found in values.items() if len(found) > 1}
        # Channels and family follow from f in most sweeps: they are named only where they tell cells apart.
        by_candidate: dict[tuple[Any, Any], set[Any]] = {}
        for cell in cells:
            by_candidate.setdefault((cell.axes.get("regulariser"), cell.axes.get("f")), set()).add(
                cell.axes.get("channels")
            )
        if all(len(found) == 1 for found in by_candidate.values()):
            self.varying.discard("channels")

    def label(self, cell: Cell, stage: str) -> str:
        """The name of what `stage` measures of a cell, e.g. "KL f=8, 10 steps" for its samples."""
        axes = AXES_OF[stage]
        if "f" not in axes:
            return stage
        parts = [family_name(str(cell.axes.get("regulariser"))) + f" f={cell.axes.get('f')}"]
        if "steps" in axes:
            parts.append(f"{cell.axes.get('steps')} steps")
        others = [a for a in axes if a in self.varying and a not in {"f", "regulariser", "steps"}]
        others = [a for a in others if cell.axes.get(a) is not None]
        named = ("" if axis in settings.AXES else f"{axis}=" for axis in others)
        return ", ".join(parts + [name + str(cell.axes.get(axis)) for name, axis in zip(named, others, strict=True)])


def choices(values: "pd.Series[Any]") -> int:
    """How many different choices of the axis that the values are of there are."""
    is_tuned = values.name == "guidance_rule" and (values == TUNED).any()  # beside which none is a choice too
    return int(values.replace("", None).nunique(dropna=values.name in SOMETIMES_INACTIVE and not is_tuned))


def family_name(regulariser: str) -> str:
    """A regulariser as it is written in figures and tables."""
    return {"kl": "KL", "vq": "VQ", "identity": "pixels", "none": "unregularised"}.get(regulariser, regulariser)
