"""First stages and denoisers whose weights are given: what they settle of a config, and the objects they are.

A group of a resolved config that was read from such a file has the key "path"; that of a denoiser is also in the groups
that come with it, `conditioning` and `diffusion`.
"""

import copy
import dataclasses
import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from experiments.conditions import CONDITIONS, conditions_of
from experiments.conditions.condition import BuildContext, ImportedForm, ImportedModel
from experiments.data_facts import DataFacts
from ldm import interop
from ldm.conditioning import Conditioning, Unconditional
from ldm.diffusion import Schedule
from ldm.errors import UserError
from ldm.first_stage.contract import FirstStage
from ldm.first_stage.identity import IdentityFirstStage
from ldm.first_stage.latent_scale import LatentScale

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def is_given(group: Mapping[str, Any]) -> bool:
    """Whether what a config group describes is read from a file rather than trained."""
    return "path" in group


def loaded(path: str, weights: str = "auto") -> interop.Loaded:
    """The model at a path, read once a process. Raises: UserError where it cannot be read."""
    return _loaded(str(Path(path).expanduser().resolve()), weights)


@functools.lru_cache(maxsize=4)
def _loaded(path: str, weights: str) -> interop.Loaded:
    with torch.device("cpu"):  # networks may be built without memory, what is read never is
        return interop.load(path, weights)


@functools.lru_cache(maxsize=4)
def _first_stage(path: str, weights: str) -> interop.Loaded:
    with torch.device("cpu"):
        return interop.load_first_stage(path, weights)


def first_stage_at(path: str, weights: str = "auto") -> interop.Loaded:
    """The first stage at a path, which may be a whole model's. Raises: UserError where there is none."""
    found = _first_stage(str(Path(path).expanduser().resolve()), weights)
    if found.first_stage is None:
        raise UserError(f"ae.path={path}: this is a {found.source}, which holds no first stage")
    return found


def trained_resolution(config: Mapping[str, Any]) -> int | None:
    """The side of the images that a given denoiser was trained on; None where it is trained here, or does not tell."""
    if not is_given(config["denoiser"]):
        return None
    found = loaded(config["denoiser"]["path"], config["denoiser"]["weights"])
    if found.latent_shape is None:
        return None
    is_identity = not is_given(config["ae"]) and config["ae"]["f"] == 1
    return found.latent_shape[1] * (1 if is_identity else _of(first_stage_at(_first_stage_path(config))).factor)


def _of(found: interop.Loaded) -> FirstStage:
    assert found.first_stage is not None
    return found.first_stage


def _first_stage_path(config: Mapping[str, Any]) -> str:
    """Raises UserError where no first stage was given."""
    ae, denoiser = config["ae"], config["denoiser"]
    if not is_given(ae):
        raise UserError(
            "denoiser=pretrained works on the latents of the first stage it was trained with, not of one trained here, "
            f"ae={ae['regulariser']}: add ae=pretrained (and ae.path=, where it lies elsewhere)"
        )
    path = ae["path"] or denoiser.get("path")
    if path is None:
        raise UserError("ae=pretrained needs ae.path=, the file or folder of a first stage")
    return str(path)


def resolved_first_stage(config: Mapping[str, Any]) -> dict[str, Any]:
    """The group `ae` with what the file says. Raises: UserError where the user says otherwise."""
    ae, path = config["ae"], _first_stage_path(config)
    found = first_stage_at(path, ae["weights"])
    model = _of(found)
    says = {"f": model.factor, "channels": model.channels, "regulariser": model.regulariser}
    for key, value in says.items():
        if ae[key] not in (None, value):
            raise UserError(f"ae.{key}={ae[key]}, but the first stage at {path} has {value}: leave ae.{key} out")
    # A file without an average has the identity that it had before there was a choice.
    taken = {} if ae["weights"] != "raw" and found.weights == "raw" else {"taken": found.weights}
    return {**says, "path": path, "seed": 0, **taken}


def resolved_denoiser(config: Mapping[str, Any], facts: DataFacts) -> tuple[dict[str, Any], list[str]]:
    """The groups that a given denoiser settles, for a config whose first stage is resolved, and notes.

    Raises: UserError where the file holds no denoiser, or does not fit the first stage, the data or other settings.
    """
    path, weights = config["denoiser"]["path"], config["denoiser"]["weights"]
    found = loaded(path, weights)
    if found.network is None or found.schedule is None:
        raise UserError(f"denoiser.path={path}: this is a {found.source}, which holds no denoiser with its schedule")
    ae = config["ae"]
    if found.latent_shape is not None and found.latent_shape[0] != ae["channels"]:
        raise UserError(
            f"the denoiser at {path} knows latents of {found.latent_shape[0]} channels, but the first stage has "
            f"{ae['channels']}: they do not belong together"
        )
    if config["sampler"].get("clip") == "range":
        raise UserError("sampler.clip=range needs the range of training latents, which no file of weights tells")
    if config["metrics"]["predictors"]:
        raise UserError(
            "metrics.predictors=true trains a small denoiser, of which denoiser=pretrained says nothing: measure the "
            "first stage alone, with ae=pretrained until=first_stage and no denoiser.path"
        )
    source = {"path": path, "taken": found.weights}
    conditions, notes = _conditions(config, found, facts)
    side = config["data"]["resolution"] // ae["f"]
    if found.latent_shape is not None and found.latent_shape[1] != side:
        notes.append(
            f"the denoiser at {path} was trained on latents of side {found.latent_shape[1]}, and samples are of side "
            f"{side}, as data.resolution says"
        )
    notes.append(f"denoiser.path={path}: {found.source}, {found.weights} weights")
    halvings = getattr(found.network, "halvings", 0)
    return {
        "denoiser": {"name": "pretrained", "architecture": None, "halvings": halvings, **source},
        "conditioning": {**conditions, **source},
        "diffusion": {"schedule": "published", "target": found.target, "weighting": "plain", "shift": 1.0, **source},
        "latents": {"scale": "published"},
        "seed": 0,
    }, notes


def _conditions(config: Mapping[str, Any], found: interop.Loaded, facts: DataFacts) -> tuple[dict[str, Any], list[str]]:
    """The settings of the conditions that the model reads; those that are no property of the model stay the user's."""
    asked, path = config["conditioning"], config["denoiser"]["path"]
    if found.conditioning is None:
        _check_unconditional(found, path)
        if all(CONDITIONS[kind].is_optional for kind in conditions_of(config)):  # such as where nothing is said
            notes = ["the denoiser is unconditional: samples have no condition"] if conditions_of(config) else []
            return {}, notes
        raise UserError(f"the denoiser at {path} is unconditional: use conditioning=none")
    kind, sizes = _kind_of(found.conditioning.named, path)
    if conditions_of(config) != (kind,):
        raise UserError(f"the denoiser at {path} is conditioned on {kind}: use conditioning={kind}")
    condition = CONDITIONS[kind]
    if condition.is_optional and not condition.can_be_given_by(len(facts.classes), facts.annotations):
        raise UserError(f"the denoiser at {path} is told {condition.needs}, and data={config['data']['name']} has none")
    return {kind: {**asked[kind], **sizes}, "dropout": asked["dropout"]}, []


def _check_unconditional(found: interop.Loaded, path: str) -> None:
    """Raises UserError where a network is told something although its file does not say what."""
    shape, network = found.latent_shape, found.network
    wanted = getattr(network, "in_channels", None)
    if getattr(network, "context_dim", None) is not None or (shape is not None and wanted not in (None, shape[0])):
        raise UserError(
            f"the denoiser at {path} is conditioned, but on what, this program does not read of a {found.source}; in "
            "Python, ldm.interop.load gives the network, which takes context and concat"
        )


def _kind_of(named: Conditioning, path: str) -> tuple[str, Mapping[str, Any]]:
    """The condition that a network reads, as the group `conditioning` names it, and its sizes there."""
    for kind, form in _imported_forms():
        if isinstance(named, form.conditioning):
            return kind, form.options(named, path)
    raise UserError(
        f"the denoiser at {path} needs a condition that this program's data cannot give ({type(named).__name__}); in "
        "Python, ldm.interop.sample takes it"
    )


def _imported_forms() -> list[tuple[str, ImportedForm]]:
    return [(name, kind.imported) for name, kind in CONDITIONS.items() if kind.imported is not None]


COMMON = (
    "vae",
    "vqvae",
    "autoencoder",
    "first_stage",
    "model.ckpt",
    "last.ckpt",
    "diffusion_pytorch_model.safetensors",
)
"""Names of files and folders that many models have: the folder above tells them apart."""


def name_of(path: str) -> str:
    """What tables call weights: their file or folder, with the folder above where many have the same name."""
    parts = Path(path).expanduser().absolute().parts
    unique = next((i for i in range(len(parts) - 1, 0, -1) if parts[i] not in COMMON), 0)
    return Path(*parts[unique:]).as_posix()


def check_names(given: Iterable[Mapping[str, Any]]) -> None:
    """Raises UserError where tables would call different first stages among resolved groups `ae` by one name."""
    paths: dict[str, str] = {}
    for path in (ae["path"] for ae in given if is_given(ae)):
        other = paths.setdefault(name_of(path), path)
        if Path(other).expanduser().resolve() != Path(path).expanduser().resolve():
            raise UserError(
                f"ae.path={other} and ae.path={path} would both be called {name_of(path)} in tables and figures: give "
                "one of the two another name"
            )


def axes(config: Mapping[str, Any]) -> dict[str, str | None]:
    """What tells cells with given weights apart in tables: the names of file or folder; None for what is trained."""
    ae, denoiser = config["ae"], config["denoiser"]
    return {
        "ae_weights": name_of(ae["path"]) if is_given(ae) else None,
        "weights": f"{name_of(denoiser['path'])} ({denoiser['taken']})" if is_given(denoiser) else None,
    }


def _given_first_stage(ae: Mapping[str, Any]) -> interop.Loaded:
    return first_stage_at(ae["path"], ae.get("taken", "auto"))


def first_stage(ae: Mapping[str, Any]) -> FirstStage:
    """The first stage of a resolved group `ae` that was given."""
    return placed(_of(_given_first_stage(ae)))


def denoiser(settings: Mapping[str, Any]) -> nn.Module:
    """The network of a resolved group `denoiser` that was given."""
    network = loaded(settings["path"], settings["taken"]).network
    assert network is not None
    return placed(network)


def schedule(settings: Mapping[str, Any]) -> Schedule:
    """The noise schedule of a resolved group `diffusion` that was given."""
    found = loaded(settings["path"], settings["taken"]).schedule
    assert found is not None
    return found


def latent_scale(denoiser: Mapping[str, Any], ae: Mapping[str, Any]) -> LatentScale:
    """The scale between the raw latents of a given first stage and those of a given denoiser."""
    found = loaded(denoiser["path"], denoiser["taken"])
    if ae["f"] == 1:
        return dataclasses.replace(found, first_stage=IdentityFirstStage()).latent_scale()
    return (found if found.first_stage is not None else _given_first_stage(ae)).latent_scale()


def conditioning(settings: Mapping[str, Any], context: BuildContext) -> Conditioning:
    """tau_theta of a resolved group `conditioning` that was given.

    Raises: UserError where model and data do not fit.
    """
    found, path = loaded(settings["path"], settings["taken"]), settings["path"]
    if found.conditioning is None:
        return Unconditional()
    named, model = found.conditioning.named, ImportedModel(path, found.latent_scale)
    for _, form in _imported_forms():
        if isinstance(named, form.conditioning):
            named = form.fitted(named, model, context)
    return placed(named)


def check_null(conditions: Conditioning) -> None:
    """Raises UserError where a given model cannot be guided, having no class that means none."""
    for _, form in _imported_forms():
        if isinstance(conditions, form.conditioning):
            form.check_null(conditions)


def placed(module: AnyModule) -> AnyModule:
    """The module itself, or a copy without memory where networks are being built without (on the meta device)."""
    device = torch.empty(0).device
    return module if device.type == "cpu" else copy.deepcopy(module).to(device).requires_grad_(True)
