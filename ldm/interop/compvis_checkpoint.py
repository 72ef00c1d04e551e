"""Whole checkpoints of CompVis latent-diffusion with their yaml: first stages, and latent diffusion models."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ldm.conditioning import (
    BoxTokenConditioning,
    ClassConditioning,
    Conditioning,
    InpaintingConditioning,
    SemanticConditioning,
    SuperResolutionConditioning,
    TextConditioning,
)
from ldm.conditioning.layout import PER_BOX, PER_CROP
from ldm.conditioning.transformer import TokenTransformer
from ldm.diffusion.schedule import Schedule, VariancePreservingSchedule, cosine_betas, linear_betas, scaled_linear_betas
from ldm.errors import UserError
from ldm.first_stage import FirstStage, IdentityFirstStage
from ldm.first_stage.kl import KLFirstStage
from ldm.interop import autoencoder_file
from ldm.interop.compvis_conditioning import CHANNEL_MAPPER, transformer_from_compvis
from ldm.interop.compvis_denoiser import (
    CLASS_EMBEDDING,
    EMA_PREFIX,
    MODEL_PREFIX,
    UNET_PREFIX,
    class_conditioning_from_compvis,
    unet_from_compvis,
)
from ldm.interop.compvis_first_stage import (
    build_autoencoding_engine,
    build_compvis_first_stage,
    load_compvis_first_stage,
)
from ldm.interop.contract import Loaded, RawConditioning, WeightsKind, check_taken
from ldm.interop.filling import load_renamed
from ldm.interop.formats import looks_like
from ldm.interop.tensors import read_weights
from ldm.lines import parsed_yaml

ENGINES = ("AutoencodingEngine", "AutoencodingEngineLegacy")
"""Classes of sgm for which a yaml says what regularises the latent."""

KL_MODELS = ("AutoencoderKL", "AutoencoderKLInferenceWrapper", *ENGINES)

FIRST_STAGES = (*KL_MODELS, "VQModel", "VQModelInterface", "IdentityFirstStage")
"""Classes of the reference and of sgm, its successor, that a yaml names as first stage."""

FIRST_STAGES_AROUND = ("DiffusionEngine", "LatentInpaintDiffusion", "LatentUpscaleDiffusion")
"""Classes of later programs of which the first stage alone is read."""

FIRST_STAGE_PREFIX = "first_stage_model."

BOX_KEYS = ("coordinates_bbox", "objects_bbox")
"""What the reference's data calls the token sequence of an image's boxes."""

_TRAINING = {
    *("ckpt_path", "ignore_keys", "load_only_unet", "monitor", "use_ema", "scheduler_config", "loss_type"),
    *("l_simple_weight", "original_elbo_weight", "learn_logvar", "logvar_init", "log_every_t", "num_timesteps_cond"),
    *("first_stage_key", "cond_stage_trainable", "unet_trainable", "use_positional_encodings"),
    *("v_posterior", "clip_denoised", "image_size", "channels"),
}
"""Options of the reference's LatentDiffusion that change its training, or nothing that the weights do not tell."""

_READ = {
    *("unet_config", "first_stage_config", "cond_stage_config", "cond_stage_key", "conditioning_key", "concat_mode"),
    *("scale_factor", "scale_by_std", "parameterization", "timesteps", "beta_schedule", "linear_start", "linear_end"),
    "cosine_s",
}
"""Those that are read here."""

_TARGETS = ("eps", "x0", "v")


def yaml_beside(path: Path) -> Path | None:
    """The model yaml that belongs to a checkpoint file: the only one in its folder, or that of the same name.

    Raises: UserError where there are several and none has the checkpoint's name.
    """
    found = [
        file
        for file in sorted(path.parent.iterdir())
        if file.suffix in (".yaml", ".yml") and _describes_model(_parsed(file).get("model"))
    ]
    named = [file for file in found if file.stem == path.stem]
    if len(named or found) > 1:
        raise UserError(
            f"{path.parent} holds several model yamls ({', '.join(file.name for file in found)}): name the one that "
            f"belongs to {path.name} {path.stem}.yaml, or put both into a folder of their own"
        )
    return next(iter(named or found), None)


def _describes_model(model: Any) -> bool:
    return isinstance(model, Mapping) and "target" in model


def read(path: Path, weights: str) -> Loaded:
    """The model of a checkpoint file and the yaml beside it; `weights` as in `ldm.interop.load`.

    Raises: UserError where the yaml is missing or describes what this program has not, or where weights do not fit it.
    """
    config = _config(path)
    state, taken = read_weights(path, weights)
    with _complete_yaml(path):
        if _class(config) in FIRST_STAGES:
            check_taken(path, weights, taken)
            return dataclasses.replace(_first_stage_alone(path, config, state, ""), weights=taken)
        return _whole(path, config, state, weights)


def read_first_stage(path: Path, weights: str = "auto") -> Loaded:
    """The first stage alone, also of the checkpoint of a whole latent diffusion model. Raises: as `read`."""
    config = _config(path, FIRST_STAGES_AROUND)
    if _class(config) in FIRST_STAGES:
        return read(path, weights)
    with _complete_yaml(path):
        part = config["params"]["first_stage_config"]
        if _class(part) not in FIRST_STAGES:  # of a later program, such as sgm's; the weights tell what it is
            return autoencoder_file.read(path, weights, is_part=True)
        return _first_stage_alone(path, part, read_weights(path, weights)[0], FIRST_STAGE_PREFIX)


@contextlib.contextmanager
def _complete_yaml(path: Path) -> Iterator[None]:
    """Raises UserError for the key that what is done here looks up in the yaml, and does not find."""
    try:
        yield
    except KeyError as error:
        raise UserError(f"the yaml of {path} lacks the key {error}, without which its model cannot be built") from error


def _whole(path: Path, config: Mapping[str, Any], state: Mapping[str, Tensor], weights: str) -> Loaded:
    _expect(state, MODEL_PREFIX + UNET_PREFIX, "a latent diffusion model", path)
    return _latent_diffusion(path, config["params"], state, weights)


def _config(path: Path, others: Sequence[str] = ()) -> Mapping[str, Any]:
    """The yaml's `model`, of a first stage or a latent diffusion model. Raises: UserError where it is neither."""
    file = yaml_beside(path)
    if file is None:
        raise UserError(
            f"beside {path} lies no yaml that describes its model, as CompVis' code needs one: copy the config.yaml it "
            "was published with into the same folder"
        )
    config: Mapping[str, Any] = _parsed(file)["model"]
    if not isinstance(config.get("params"), Mapping):
        raise UserError(f"{file} has no model.params, which describe the model")
    if _class(config) not in (*FIRST_STAGES, "LatentDiffusion", *others):
        raise UserError(
            f"{file} describes a {config['target']}, which this program cannot be: it reads LatentDiffusion, "
            f"{', '.join(FIRST_STAGES[:-1])}"
        )
    return config


def _parsed(file: Path) -> Mapping[str, Any]:
    """What a yaml says; nothing for one that is none, such as the settings of another program with tags of its own."""
    try:
        found = parsed_yaml(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _class(config: Mapping[str, Any]) -> str:
    """The class that a yaml's `target` names, without its module."""
    return str(config.get("target", "")).rpartition(".")[2]


def _expect(state: Mapping[str, Tensor], prefix: str, what: str, path: Path) -> None:
    if not any(name.startswith(prefix) for name in state):
        raise UserError(
            f"the yaml beside {path} describes {what}, whose weights begin with '{prefix}', but the file holds none of "
            f"these: it looks like {looks_like(state)}"
        )


def _first_stage_alone(path: Path, config: Mapping[str, Any], state: Mapping[str, Tensor], prefix: str) -> Loaded:
    return Loaded(
        source="CompVis first stage",
        first_stage=_first_stage(path, config, state, prefix),
        resolution=_resolution(config),
    )


def _first_stage(path: Path, config: Mapping[str, Any], state: Mapping[str, Tensor], prefix: str) -> FirstStage:
    kind, params = _class(config), config.get("params") or {}
    if kind not in FIRST_STAGES:
        raise UserError(f"the yaml of {path} has the first stage {config.get('target')}, which is none of the paper's")
    if kind == "IdentityFirstStage":
        return IdentityFirstStage()
    _expect(state, f"{prefix}encoder.", "a first stage", path)
    if kind in ENGINES:
        _named(path, "regularizer_config", params["regularizer_config"], "DiagonalGaussianRegularizer")
    model = _engine(path, params) if kind == ENGINES[0] else build_compvis_first_stage(params)
    if (model.codes is None) != (kind in KL_MODELS):
        raise UserError(
            f"the yaml of {path} calls its first stage {kind}, but n_embed, the size of a VQ model's "
            f"codebook, is {'missing' if model.codes is None else 'given'}"
        )
    load_compvis_first_stage(model, state, prefix)
    return model


def _engine(path: Path, params: Mapping[str, Any]) -> KLFirstStage:
    """The network of sgm's AutoencodingEngine, which has no convolutions between coders and latent."""
    of_coders = []
    for key, coder in (("encoder_config", "Encoder"), ("decoder_config", "Decoder")):
        _named(path, key, params[key], f"diffusionmodules.model.{coder}")
        of_coders.append(_referred(path, params[key]["params"]))
    return build_autoencoding_engine(*of_coders)


def _named(path: Path, key: str, config: Mapping[str, Any], wanted: str) -> None:
    """Raises: UserError where a part of a yaml is of another class than `wanted`."""
    target = str(config.get("target"))
    if not f".{target}".endswith(f".{wanted}"):
        raise UserError(f"the yaml of {path} has the {key} {target}, which this program cannot be: it reads {wanted}")


def _referred(path: Path, options: Any) -> Any:
    """A mapping of a yaml, or the one that it names instead, as in `${model.params.encoder_config.params}`."""
    file = yaml_beside(path)
    if not isinstance(options, str) or file is None:
        return options
    found: Any = _parsed(file)
    for key in options.removeprefix("${").removesuffix("}").split("."):
        found = found[key] if isinstance(found, Mapping) else {}
    return found


def _resolution(config: Mapping[str, Any]) -> int | None:
    params = config.get("params") or {}
    coder = params.get("ddconfig") or (params.get("encoder_config") or {}).get("params")
    return coder.get("resolution") if isinstance(coder, Mapping) else None


def _latent_diffusion(path: Path, params: Mapping[str, Any], state: Mapping[str, Tensor], weights: str) -> Loaded:
    unknown = sorted(set(params) - _TRAINING - _READ)
    if unknown:
        raise UserError(
            f"the yaml of {path} sets {', '.join(unknown)}, which none of the published latent diffusion models does: "
            "this program does not know what the model makes of it"
        )
    taken = _weights_taken(path, state, weights)
    unet_params = params["unet_config"]["params"]
    first_stage = _first_stage(path, params["first_stage_config"], state, FIRST_STAGE_PREFIX)
    conditioning = _conditioning(path, params, state, first_stage)
    side = unet_params["image_size"]
    return Loaded(
        source="CompVis latent diffusion model",
        first_stage=first_stage,
        network=unet_from_compvis(unet_params, state, ema=taken == "ema"),
        conditioning=None if conditioning is None else RawConditioning(conditioning),
        schedule=_schedule(path, params),
        target=_target(path, params),
        scale=_scale(path, params, state),
        weights=taken,
        latent_shape=(unet_params["out_channels"], side, side),
        resolution=_resolution(params["first_stage_config"]),
    )


def _weights_taken(path: Path, state: Mapping[str, Tensor], weights: str) -> WeightsKind:
    has_ema = any(name.startswith(EMA_PREFIX + UNET_PREFIX.rstrip(".")) for name in state)
    if weights == "ema" and not has_ema:
        raise UserError(f"weights=ema, but {path} holds no moving average ('{EMA_PREFIX}...'); use weights=raw or auto")
    return "raw" if weights == "raw" or not has_ema else "ema"


def _schedule(path: Path, params: Mapping[str, Any]) -> Schedule:
    """The noise schedule; the reference calls "linear" what is linear in the square root of beta."""
    steps, kind = int(params.get("timesteps", 1000)), params.get("beta_schedule", "linear")
    ends = float(params.get("linear_start", 1e-4)), float(params.get("linear_end", 2e-2))
    match kind:
        case "linear":
            betas = scaled_linear_betas(*ends, steps)
        case "sqrt_linear":
            betas = linear_betas(*ends, steps)
        case "sqrt":
            betas = linear_betas(*ends, steps).sqrt()
        case "cosine":
            betas = cosine_betas(float(params.get("cosine_s", 8e-3)), steps)
        case _:
            raise UserError(
                f"the yaml of {path} has beta_schedule={kind}: only linear, sqrt_linear, sqrt and cosine are"
            )
    return VariancePreservingSchedule(betas)


def _target(path: Path, params: Mapping[str, Any]) -> str:
    given = params.get("parameterization", "eps")
    if given not in _TARGETS:
        raise UserError(f"the yaml of {path} has parameterization={given}: only {', '.join(_TARGETS)} are")
    return str(given)


def _scale(path: Path, params: Mapping[str, Any], state: Mapping[str, Tensor]) -> float:
    """The factor of raw latents; `scale_by_std` keeps the one that was measured in training among the weights."""
    if not params.get("scale_by_std", False):
        return float(params.get("scale_factor", 1.0))
    if "scale_factor" not in state:
        raise UserError(f"the yaml of {path} says scale_by_std, but the checkpoint has no 'scale_factor'")
    return float(state["scale_factor"])


def _conditioning(
    path: Path, params: Mapping[str, Any], state: Mapping[str, Tensor], first_stage: FirstStage
) -> Conditioning | None:
    """tau_theta, checked against what the UNet takes in; None for an unconditional model."""
    config, unet = params["cond_stage_config"], params["unet_config"]["params"]
    way = params.get("conditioning_key") or ("concat" if params.get("concat_mode", True) else "crossattn")
    extra = unet["in_channels"] - unet["out_channels"]
    key = params.get("cond_stage_key")
    made = None if config == "__is_unconditional__" else _tau_theta(path, config, key, state, first_stage, extra)
    tokens, channels = (None, 0) if made is None else (made.context_dim, made.concat_channels)
    if made is not None and way != ("crossattn" if tokens else "concat"):
        raise UserError(f"the yaml of {path} has conditioning_key={way}, which does not fit its cond_stage_config")
    if unet.get("context_dim") != tokens or extra != channels:
        raise UserError(
            f"the yaml of {path} has a UNet for tokens of width {unet.get('context_dim')} and {extra} channels beside "
            f"the latent, but its cond_stage_config gives width {tokens} and {channels} channels"
        )
    return made


def _tau_theta(
    path: Path, config: Any, key: str | None, state: Mapping[str, Tensor], first_stage: FirstStage, extra: int
) -> Conditioning:
    if config == "__is_first_stage__":
        # As the reference's script: hidden pixels are black, the mask that of the nearest pixel, the latent unscaled.
        return InpaintingConditioning(
            partial(_raw_mean, first_stage), first_stage.channels, first_stage.factor, covered=-1.0, reduction="nearest"
        )
    kind = _class(config) if isinstance(config, Mapping) else str(config)
    options = dict((config.get("params") or {}) if isinstance(config, Mapping) else {})
    match kind:
        case "ClassEmbedder":
            return _class_embedder(path, state, options.pop("n_classes", 1000), options)
        case "BERTEmbedder" | "TransformerEmbedder":
            return _token_reader(transformer_from_compvis(state), key)
        case "SpatialRescaler":
            return _rescaler(path, state, options)
        case "Identity" if extra == 3:
            return SuperResolutionConditioning(first_stage.factor, first_stage.factor)
    raise UserError(
        f"the yaml of {path} conditions by {config.get('target') if isinstance(config, Mapping) else config}, which "
        "this program cannot be: it reads ClassEmbedder, BERTEmbedder, SpatialRescaler, torch.nn.Identity (of images), "
        "__is_first_stage__ and __is_unconditional__"
    )


def _token_reader(transformer: TokenTransformer, key: str | None) -> Conditioning:
    """A reader of box tokens where the key of the model's data batches says so, else of text."""
    if key in BOX_KEYS and transformer.length % PER_BOX in (0, PER_CROP):
        return BoxTokenConditioning(transformer)
    # Which tokens mean "no text" no file says; whoever guides gives them.
    unknown_null = torch.zeros(transformer.length, dtype=torch.long)
    text = TextConditioning(
        transformer.vocabulary, unknown_null, transformer.token.embedding_dim, len(transformer.layers)
    )
    text.transformer.load_state_dict(transformer.state_dict())
    return text


def _raw_mean(first_stage: FirstStage, image: Tensor) -> Tensor:
    """The raw latent of an image, without drawing from its posterior."""
    return first_stage.latent(first_stage.pack(first_stage.encode(image)))


def _class_embedder(
    path: Path, state: Mapping[str, Tensor], classes: int, options: Mapping[str, Any]
) -> ClassConditioning:
    table = state.get(CLASS_EMBEDDING)
    expected = (classes, options.get("embed_dim"))
    if table is not None and tuple(table.shape) != expected:
        raise UserError(f"{path} has '{CLASS_EMBEDDING}' of shape {tuple(table.shape)}, but its yaml says {expected}")
    return class_conditioning_from_compvis(state, classes)


def _rescaler(path: Path, state: Mapping[str, Tensor], options: Mapping[str, Any]) -> SemanticConditioning:
    for key, only in (("method", "bilinear"), ("multiplier", 0.5), ("bias", False)):
        if options.get(key, only) != only:
            raise UserError(f"the yaml of {path} has a SpatialRescaler with {key}={options[key]}: only {only} is")
    classes, channels = options.get("in_channels", 3), options.get("out_channels")
    made = SemanticConditioning(classes, channels or classes, 2 ** options.get("n_stages", 1))
    if channels is None:
        nn.init.eye_(made.mapper.weight[:, :, 0, 0])
    else:
        load_renamed(made, state, {"mapper.weight": CHANNEL_MAPPER})
    return made
