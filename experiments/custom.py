"""Parts of the user's own: the class behind `package.module:Class`, its options, its declared version and its source.

A group of a config that holds one has the keys "target" and "options"; when it is resolved the options are complete,
and "version" stands beside them. Identities hold these three; the hash of the source file stands in records, and what
was made with another source under the same version is never mixed with what is new.
"""

import functools
import hashlib
import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

import torch

from experiments import trials
from experiments.published import placed
from experiments.stage import Plan, Settings
from experiments.store import Store
from ldm.data.contract import ImageSource, Split
from ldm.data.memo import ContentMemo
from ldm.data.versioned import VersionedImages
from ldm.denoiser import Denoiser
from ldm.diffusion import Schedule
from ldm.errors import UserError, nearest
from ldm.first_stage.build import FIRST_STAGES, loss_of
from ldm.first_stage.coder import Coders
from ldm.first_stage.contract import FirstStage
from ldm.first_stage.losses import FirstStageLoss, OwnLoss
from ldm.first_stage.perceptual import PerceptualLoss
from ldm.metrics.extractors import EXTRACTORS
from ldm.metrics.features import Extractor, Features
from ldm.metrics.values import MetricValue
from ldm.parts import checked_options, options_of
from ldm.records import LeftOut
from ldm.samplers import Sampler

KEYS = ("target", "options", "version", "files")
"""What a resolved group says of the user's part that it holds; "files" names the options that are paths, if any."""

SOURCES = "sources.json"
"""Where an artifact that is begun, and a folder of decoded images, keep what `sources_of` says of them."""

OWN_LOSS: Mapping[str, Any] = {
    "perceptual": "none",
    "perceptual_path": None,
    "perceptual_weight": 0.0,
    "discriminator": {"weight": 0.0, "start": 1, "channels": 0, "layers": 0, "norm": "group"},
}
"""The group `ae.loss` of a first stage that brings its loss: this program's loss has no part in it."""

Measure = Callable[[Features, Features], MetricValue | LeftOut]


@dataclass(frozen=True)
class Loaded:
    """A class or function, the version that it declares, and the hash of its source file as it was imported."""

    part: Any
    version: int
    source: str


def is_custom(group: Mapping[str, Any]) -> bool:
    """Whether a config group holds a part of the user's own."""
    return "options" in group and group.get("target") is not None


@functools.cache
def load(target: str, where: str) -> Loaded:
    """What `package.module:Name` names; the current working directory can be imported from. `where`: the setting.

    Raises: UserError where there is no such thing, or it declares no version.
    """
    part = _imported(target, where)
    version = getattr(part, "version", None)
    if not isinstance(version, int) or isinstance(version, bool):
        name = target.partition(":")[2]
        line = "version = 1" if inspect.isclass(part) else f"{name}.version = 1"
        raise UserError(
            f"{where}={target} declares no version as a whole number: write `{line}`, and raise it whenever its "
            "numbers change"
        )
    source = inspect.getsourcefile(part)
    assert source is not None  # it was imported from a file
    return Loaded(part, version, hashlib.blake2b(Path(source).read_bytes(), digest_size=8).hexdigest())


def _imported(target: Any, where: str) -> Any:
    module, colon, name = str(target).partition(":")
    if not (colon and module and name):
        raise UserError(f"{where}={target} names no class: write it as package.module:Class")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        found = importlib.import_module(module)
    except Exception as error:  # whatever the user's file raises
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            files = [path.stem for path in Path.cwd().glob("*.py")]
            raise UserError(
                f"{where}={target}: there is no module {error.name} in {here} or among the installed packages"
                f"{nearest(module, files)}"
            ) from error
        raise UserError(
            f"{where}={target}: {module} cannot be imported ({type(error).__name__}: {error}); mend it first"
        ) from error
    if not hasattr(found, name):
        names = [each for each in vars(found) if not each.startswith("_")]
        raise UserError(f"{where}={target}: the module {module} has no {name}{nearest(name, names)}")
    part = getattr(found, name)
    if not (inspect.isclass(part) or inspect.isfunction(part)):
        raise UserError(f"{where}={target} is neither a class nor a function, but {type(part).__name__}")
    return part


def _class(target: str, where: str) -> Loaded:
    loaded = load(target, where)
    if not inspect.isclass(loaded.part):
        raise UserError(f"{where}={target} is a function, and a class is needed here")
    return loaded


def axes(config: Mapping[str, Any]) -> dict[str, str]:
    """What tells cells with a first stage that comes trained apart in tables: its target."""
    ae = config["ae"]
    return {"ae_weights": ae["target"]} if is_custom(ae) and "training" not in ae else {}


def settings_in(group: Mapping[str, Any]) -> dict[str, Any]:
    """What a resolved group says of the user's part: target, options and version."""
    return {key: group[key] for key in KEYS if key in group}


def _settled(group: Mapping[str, Any], where: str, options: type, version: int) -> dict[str, Any]:
    """Target, version and all options of a part whose options are the fields of `options`, checked, as plain values."""
    given = group["options"] or {}
    if not isinstance(given, Mapping):
        raise UserError(f"{where}.options={given} is no mapping: write {where}.options='{{name: value}}'")
    known = options_of(options, plain=True)
    checked = checked_options(options, given, f"{where}.options", plain=True)
    whole = {name: each.default for name, each in known.items() if each.default is not MISSING} | checked
    files = [name for name, value in whole.items() if isinstance(value, Path)]
    plain = {name: list(v) if isinstance(v, tuple) else str(v) if name in files else v for name, v in whole.items()}
    return {"target": group["target"], "options": plain, "version": version, **({"files": files} if files else {})}


def _options(group: Mapping[str, Any], where: str, part: type, **others: Any) -> Any:
    """A part, or its options, with what a resolved group says; `others` are its fields that are no options."""
    values = checked_options(part, group["options"], f"{where}.options", plain=True)
    try:
        return part(**others, **values)
    except TypeError as error:
        raise UserError(
            f"{where}.target={group['target']} cannot be made of {', '.join((*others, *values)) or 'no options'} "
            f"({error}); its options are the fields of a dataclass"
        ) from error


# What a config says of each kind of part, resolved


def resolved_first_stage(ae: Mapping[str, Any]) -> dict[str, Any]:
    """The group `ae` with what the class says of itself; without training where it comes trained."""
    target = ae["target"]
    loaded = _class(target, "ae.target")
    part = loaded.part
    if not issubclass(part, FirstStage):
        raise UserError(f"ae.target={target} is no first stage: derive it from ldm.first_stage.FirstStage")
    f, channels = (
        value if (value := ae[key]) is not None else _declared(part, name, target, f"ae.{key}")
        for key, name in (("f", "factor"), ("channels", "channels"))
    )
    if f == 1:  # pixel space, whatever the first stage
        return {**ae, "f": 1}
    regulariser = getattr(part, "regulariser", None)
    if not isinstance(regulariser, str) or regulariser in FIRST_STAGES:
        raise UserError(
            f"ae.target={target} needs a `regulariser` of its own, the name that tables give it, and has {regulariser}"
        )
    own = {"regulariser": regulariser, "f": f, "channels": channels}
    own |= _settled(ae, "ae", part.Options, loaded.version)
    if getattr(part, "is_trained", False):
        return {**own, "seed": 0}
    loss = OWN_LOSS if hasattr(part, "own_loss") else ae["loss"]
    return {**own, "seed": ae["seed"], "loss": loss, "training": ae["training"]}


def _declared(part: type, name: str, target: str, key: str) -> int:
    value = getattr(part, name, None)
    if not isinstance(value, int):
        raise UserError(f"{key} must be given, since {target} declares no `{name}`")
    return value


def resolved_denoiser(group: Mapping[str, Any]) -> dict[str, Any]:
    """The group `denoiser` with all options."""
    loaded = _class(group["target"], "denoiser.target")
    settled = _settled(group, "denoiser", loaded.part, loaded.version)
    return {"name": loaded.part.__name__, "architecture": None, **settled}


def resolved_sampler(group: Mapping[str, Any]) -> dict[str, Any]:
    """The group `sampler` with all options."""
    loaded = _class(group["target"], "sampler.target")
    return {**group, "name": loaded.part.__name__, **_settled(group, "sampler", loaded.part, loaded.version)}


def resolved_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The group `metrics` with its own extractor and its further metrics, as far as it has any."""
    return {**metrics, **_resolved_extractor(metrics), "extra": _resolved_extra(metrics["extra"])}


def _resolved_extractor(metrics: Mapping[str, Any]) -> dict[str, Any]:
    target = metrics["target"]
    if (metrics["extractor"] == "custom") != (target is not None):
        raise UserError(
            "metrics.extractor=custom and metrics.target=package.module:Class go together: "
            f"here they are {metrics['extractor']} and {'null' if target is None else target}"
        )
    if target is None:
        return {}
    loaded = _class(target, "metrics.target")
    settled = _settled(metrics, "metrics", loaded.part, loaded.version)
    name = getattr(_options(settled, "metrics", loaded.part), "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in EXTRACTORS:
        raise UserError(
            f"metrics.target={target} needs a `name` of its own in small letters, which names of metrics end with; "
            f"here it is {name}"
        )
    return {**settled, "extractor": name}


def _resolved_extra(extra: Any) -> list[dict[str, Any]]:
    if not isinstance(extra, list | tuple) or len(set(map(str, extra))) < len(extra):
        raise UserError(f"metrics.extra={extra} is no list of different metrics: [package.module:measure]")
    return [{"target": each, "options": {}, "version": load(each, "metrics.extra").version} for each in extra]


def resolved_data(data: Mapping[str, Any]) -> dict[str, Any]:
    """The group `data` with all options; the side is the class's own where none is given."""
    loaded = _class(data["target"], "data.target")
    side = {} if data["resolution"] is None else {"resolution": data["resolution"]}
    settled = _settled({**data, "options": {**(data["options"] or {}), **side}}, "data", loaded.part, loaded.version)
    options = dict(settled["options"])
    if "resolution" not in options:
        raise UserError(f"data.target={data['target']} needs an option `resolution`, the side of the images in pixels")
    resolution = options.pop("resolution")
    return {**data, "name": loaded.part.__name__, **settled, "options": options, "resolution": resolution}


_RESOLVED: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "ae": resolved_first_stage,
    "denoiser": resolved_denoiser,
    "sampler": resolved_sampler,
}


def resolved(config: Mapping[str, Any]) -> dict[str, Any]:
    """The groups of a config that hold parts of the user's own, with what these say. Raises: UserError."""
    own = {name: resolve(config[name]) for name, resolve in _RESOLVED.items() if is_custom(config[name])}
    return {**own, "metrics": resolved_metrics(config["metrics"])}


# What is built of them


def first_stage(ae: Mapping[str, Any], resolution: int) -> FirstStage:
    """The first stage of a resolved group; one that comes trained is built with its weights wherever networks are."""
    part = load(ae["target"], "ae.target").part
    options = _options(ae, "ae", part.Options)
    # No table of sizes knows it: the sizes of its networks are its own options.
    coders = Coders(ae["f"], ae["channels"], 0, (), 0, resolution, (), False, 0.0)
    if "training" in ae:
        model: FirstStage = part.build(coders, ae["channels"], options)
        return model
    with torch.device("cpu"):
        trained: FirstStage = part.build(coders, ae["channels"], options)
    return placed(trained)


def first_stage_loss(ae: Mapping[str, Any], perceptual: PerceptualLoss | None) -> FirstStageLoss | OwnLoss:
    """The loss that the class brings, or this program's with the penalties and the reduction that it declares."""
    part, loss = load(ae["target"], "ae.target").part, ae["loss"]
    options = _options(ae, "ae", part.Options)
    if hasattr(part, "own_loss"):
        return OwnLoss(functools.partial(part.own_loss, options=options))
    return loss_of(part, options, perceptual, loss["perceptual_weight"], loss["discriminator"]["weight"])


def denoiser(settings: Mapping[str, Any]) -> Denoiser:
    """The options of a denoiser, from which its network is built."""
    built: Denoiser = _options(settings, "denoiser", load(settings["target"], "denoiser.target").part)
    return built


def sampler(settings: Mapping[str, Any], schedule: Schedule) -> Sampler:
    """The sampler of a resolved group."""
    part = load(settings["target"], "sampler.target").part
    built: Sampler = _options(settings, "sampler", part, schedule=schedule)
    return built


def extractor(settings: Mapping[str, Any], device: str) -> Extractor:
    """The extractor of a resolved group, loaded once a process."""
    return _extractor(json.dumps(settings_in(settings), sort_keys=True), device)


@functools.lru_cache
def _extractor(settings: str, device: str) -> Extractor:
    group = json.loads(settings)
    loaded: Extractor = _options(group, "metrics", load(group["target"], "metrics.target").part).load(device)
    return loaded


def measures(extra: list[Settings]) -> list[Measure]:
    """The further metrics of an evaluation's settings."""
    return [load(each["target"], "metrics.extra").part for each in extra]


def splits(data: Mapping[str, Any], size: tuple[int, int] | None, memo: Path) -> dict[Split, ImageSource]:
    """Training and held-out images of a resolved group; version and options are in their fingerprints."""
    part = load(data["target"], "data.target").part
    group = {**data, "options": {**data["options"], "resolution": data["resolution"]}}
    found = _options(group, "data", part).open(size, ContentMemo(memo))
    if size is None:
        trials.splits(found, data["resolution"], f"data.target={data['target']}")
    said = {key: data[key] for key in ("target", "options", "version")}
    return {split: VersionedImages(source, said) for split, source in found.items()}


# What their sources were


def sources_of(*settings: Any) -> dict[str, dict[str, Any]]:
    """Version and hash of the source file of each part of the user's own in these settings, by its target."""
    return {
        group["target"]: {"version": group["version"], "hash": load(group["target"], "target").source}
        for each in settings
        for group in _groups(each)
    }


def _groups(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        if is_custom(value) and "version" in value:
            yield value
        for inner in value.values():
            yield from _groups(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _groups(inner)


def check_sources(plan: Plan, store: Store) -> None:
    """Raises UserError where a source changed under the same version since an artifact of the plan was made with it."""
    for planned in plan.stages.values():
        now = sources_of(planned.settings, plan.config["data"])
        if now and store.is_complete(planned.name, planned.identity):
            record = store.record(planned.name, planned.identity)
            before = record.environment.get("sources", {}) if record else {}
            _check_source(now, before, store.folder(planned.name, planned.identity))


def check_images(data: Mapping[str, Any], folder: Path) -> None:
    """As `check_sources`, for images that lie decoded in that folder of the store, or will."""
    path = folder / SOURCES
    if is_custom(data) and path.exists():
        _check_source(sources_of(data), json.loads(path.read_text(encoding="utf-8")), folder)


def _check_source(now: Mapping[str, Any], before: Mapping[str, Any], folder: Path) -> None:
    for target, source in now.items():
        made = before.get(target, source)
        if made["version"] == source["version"] and made["hash"] != source["hash"]:
            raise UserError(
                f"the source file of {target} changed, but its version is still {source['version']}, with which "
                f"{folder} was made: raise `version` in it to compute anew, or restore the file (or remove that "
                "folder and all that was made of it)"
            )
