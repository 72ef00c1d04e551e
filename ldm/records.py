"""What a stage writes and analysis reads: plain dataclasses, no torch.

A store holds one folder an artifact, `<store>/<stage>/<identity>/`, complete only when its `record.json` exists
(written last, by atomic rename), and one file a sweep, `<store>/sweeps/<sweep>.json`, that names the cells and the
identity of each of their stages.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCHEMA = 2
"""2: rows say what their metric means, records and sweeps the axes and parents of their stages."""


def content_hash(value: Any, digits: int = 16) -> str:
    """A hexadecimal hash of any JSON value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()[:digits]


SEAL = "sealed"
"""The key under which a JSON object holds the hash of all its others."""

STORE_MARK = ".ldm-store"
"""The file that says of a folder that it is a store."""


def is_store(folder: Path) -> bool:
    """Whether a folder is a store of this program; those of before the mark are known by two of their folders."""
    return (folder / STORE_MARK).is_file() or ((folder / "claims").is_dir() and (folder / "sweeps").is_dir())


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with the hash of its content, so that a flipped byte shows when it is read."""
    return {**value, SEAL: content_hash(json.loads(json.dumps(value)))}


def read_sealed(path: Path) -> Any:
    """The JSON value in a file, without its seal; what was written without one is not checked.

    Raises: ValueError where it is no JSON, or not what was written.
    """
    value = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(value, dict) and SEAL in value and value.pop(SEAL) != content_hash(value):
        raise ValueError("its content is not what was written: the file is damaged")
    return value


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically: a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


POPULATION = "population"
"""The value of infinitely many images."""

AT_N = "expected at this n"
"""The value that other images of the same number would have on average: what is biased by n is no more than that."""

GENERATION, NEIGHBOURHOODS, TASK = "generation", "neighbourhoods", "task"
RECONSTRUCTION, RATE, CODING = "reconstruction", "rate", "coding"
LIKELIHOOD, MEMORISATION, PREDICTORS = "likelihood", "memorisation", "predictors"
DETAIL = "detail"
GROUPS = (
    GENERATION,
    NEIGHBOURHOODS,
    TASK,
    RECONSTRUCTION,
    RATE,
    CODING,
    LIKELIHOOD,
    MEMORISATION,
    PREDICTORS,
    DETAIL,
)
"""Groups of metrics, each the section of the table that shows it; what is detail stands in results.csv alone."""

REAL, DECODED, WINDOWS = "real images", "decoded images", "windows of larger samples"
POSTERIOR_SAMPLE, SHUFFLED = "a posterior sample", "conditions of other samples"
GAUSSIAN, GAUSSIAN_BY_CLASS = "a Gaussian, no network", "a Gaussian of each class, no network"
"""Variants that analysis looks for: what a metric was measured of in place of samples or reconstructions."""


@dataclass(frozen=True)
class ResultRow:
    """One measured value. `n` = images it was computed from; `protocol` = id of how it was measured ("" for none).

    `estimand`: what the value estimates and its interval is to cover ("" in records from before it was said).
    `title`, `unit`: the metric as tables and axes write it; `higher_is_better` None: no end of it is better.
    `group`: the section of the table that it belongs to; "" for that of its stage. `kind`: its name without the network
    that saw the images, which all metrics of one formula share. `variant`: what it was measured of, in words, where
    that is not the samples or reconstructions themselves (a floor, a ceiling); `base`: the metric that this is a
    variant of, "" where it is none. `headline_from`: from how many images on it may stand for its group in a figure or
    a line of the log, since its bias is small enough (0: it has none that depends on n); None: it never does.
    These are written by `ldm.metrics.values.Metric` and empty in records of schema 1.
    `deviations`: what each block of the samples, and of the reference images, contributes to the value's deviation;
    with `alone` (what comes of neither) their squares add up to its variance. Rows of one protocol have the same
    blocks, of the same i and of the same reference images, so that their differences cancel what they share. None
    where it is not given.
    """

    metric: str
    value: float
    n: int
    protocol: str = ""
    ci_low: float | None = None
    ci_high: float | None = None
    images_seen: int | None = None
    seed: int | None = None
    estimand: str = ""
    deviations: tuple[tuple[float, ...], ...] | None = None
    alone: float = 0.0
    title: str = ""
    unit: str = ""
    higher_is_better: bool | None = None
    group: str = ""
    kind: str = ""
    base: str = ""
    variant: str = ""
    headline_from: int | None = None


@dataclass(frozen=True)
class LeftOut:
    """A metric that could not be computed, and the reason in one sentence."""

    metric: str
    reason: str


@dataclass(frozen=True)
class Cost:
    """What a stage cost. `flops` count one multiply-add as 2; `parts` = seconds by part (encode, denoise, ...)."""

    seconds: float = 0.0
    images: int = 0
    flops: float = 0.0
    peak_bytes: int = 0
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def images_per_second(self) -> float:
        """Throughput over the whole stage; 0 where nothing was timed."""
        return self.images / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True)
class Protocol:
    """How a metric was measured. Rows of different protocols are not compared. Swept axes never stand here."""

    kind: str  # "generation", "reconstruction", "windows", "coding", "rate_curve", "predictors", "likelihood", ...
    n_samples: int
    reference: str  # "heldout" or "train"
    reference_hash: str
    n_reference: int
    resolution: int
    resize: str
    extractor: str
    extractor_size: int
    extractor_weights: str
    extractor_precision: str
    class_balance: str
    evaluation_seed: int
    marks: tuple[str, ...] = ()  # e.g. "judge = loss network"
    sampler: str = ""  # where the measurement prescribes one, e.g. that of all milestones

    @property
    def id(self) -> str:
        """A short hash of all fields; those newer than the first stores count where they are set."""
        fields = dataclasses.asdict(self)
        return content_hash({name: value for name, value in fields.items() if name != "sampler" or value}, 10)


@dataclass(frozen=True)
class StageRecord:
    """All that is known of one finished stage; `record.json` is exactly this.

    `axes`: the values of the axes that its rows depend on; empty in records of schema 1. `files`: the SHA-256 of every
    other file of the artifact, by its path in the folder; None in records from before these were kept.
    """

    stage: str
    identity: str
    config: Mapping[str, Any]
    parents: Mapping[str, str]
    facts: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[ResultRow, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    protocols: Mapping[str, Any] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)
    environment: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""
    schema: int = SCHEMA
    axes: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        """The record as plain JSON values."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "StageRecord":
        """Reads what `to_json` gave."""
        data = {key: item for key, item in value.items() if key != SEAL}
        data["rows"] = tuple(_row(row) for row in data.get("rows", ()))
        data["left_out"] = tuple(LeftOut(**item) for item in data.get("left_out", ()))
        data["cost"] = Cost(**data.get("cost", {}))
        return StageRecord(**data)


def _row(value: Mapping[str, Any]) -> ResultRow:
    told = value.get("deviations")
    return ResultRow(**{**value, "deviations": None if told is None else tuple(map(tuple, told))})


@dataclass(frozen=True)
class StageShape:
    """What analysis needs to know of a stage besides its records.

    `axes`: the axes that its rows depend on, in the order in which labels name them. `parents`: the stages that it is
    made of. `is_result`: whether its rows are about a candidate, so that it is missed where it is not there.
    """

    axes: tuple[str, ...]
    parents: tuple[str, ...]
    is_result: bool


@dataclass(frozen=True)
class Choice:
    """One value of an axis as tables and figures write it, and the axes that only some values have, of its own."""

    title: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One grid point. `axes` = what a plot may use (see `experiments.axes`); `stages` names identities.

    `settings`: by key, what was given that no axis shows and that can change a number; empty in sweeps of schema 1.
    """

    cell: str
    axes: Mapping[str, Any]
    overrides: tuple[str, ...]
    stages: Mapping[str, str]
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    """A call of run.py: its cells in the order of the grid, and the command that repeats it.

    `stages`: all stages of the program that ran it, parents first; empty in sweeps of schema 1. `choices`: by axis and
    value, the parts that it knew, as it called them.
    """

    sweep: str
    created: str
    command: str
    cells: tuple[Cell, ...]
    schema: int = SCHEMA
    stages: Mapping[str, StageShape] = field(default_factory=dict)
    choices: Mapping[str, Mapping[str, Choice]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The sweep as plain JSON values."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Sweep":
        """Reads what `to_json` gave."""
        data = {key: item for key, item in value.items() if key != SEAL}
        data["cells"] = tuple(Cell(**{**cell, "overrides": tuple(cell["overrides"])}) for cell in data["cells"])
        data["stages"] = {
            name: StageShape(tuple(shape["axes"]), tuple(shape["parents"]), shape["is_result"])
            for name, shape in data.get("stages", {}).items()
        }
        data["choices"] = {
            axis: {value: Choice(choice["title"], tuple(choice["options"])) for value, choice in named.items()}
            for axis, named in data.get("choices", {}).items()
        }
        return Sweep(**data)


@dataclass(frozen=True)
class Shortlist:
    """Which first stages of a grid diffusion is trained on, chosen by a predictor before any of it was.

    `<store>/shortlists/<name>.json` is exactly this. `name` is a hash of the grid and the rule, so that the same call
    finds its choice again. `predicted`: the predictor of every candidate, by the identity of the first stage. `kept`:
    those that it puts first, the best first. `controls`: drawn at random from the others by `seed`.
    `correlation`: its rank correlation with the kernel distance of samples, over `studied` first stages of the store,
    with `low` and `high`, the interval that holds for all predictors that were looked at; None where no study
    supports it, and the metric itself says which end is better. `within_f`: whether ranks were taken within each f.
    """

    name: str
    created: str
    predictor: str
    lower_is_better: bool
    seed: int
    predicted: Mapping[str, float]
    kept: tuple[str, ...]
    controls: tuple[str, ...]
    correlation: float | None = None
    low: float | None = None
    high: float | None = None
    studied: int = 0
    within_f: bool = False

    @property
    def trained(self) -> tuple[str, ...]:
        """The first stages that diffusion is trained on."""
        return (*self.kept, *self.controls)

    @property
    def pruned(self) -> tuple[str, ...]:
        """Those that it is not trained on."""
        return tuple(name for name in self.predicted if name not in self.trained)

    def to_json(self) -> dict[str, Any]:
        """The choice as plain JSON values."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> "Shortlist":
        """Reads what `to_json` gave."""
        return Shortlist(**{**value, "kept": tuple(value["kept"]), "controls": tuple(value["controls"])})


SHORTLISTS = "shortlists"
"""The folder of a store that holds them."""


def read_record(folder: Path) -> StageRecord | None:
    """The record of a finished artifact, or None where the folder holds none (missing, running, failed).

    Raises: ValueError where it is damaged.
    """
    path = folder / "record.json"
    if not path.exists():
        return None
    return StageRecord.from_json(read_sealed(path))
