"""Memory of networks that are called and not trained, counted on the meta device."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from experiments import build, stage_settings
from experiments.conditions import Vocabulary, sample_size
from ldm.errors import UserError
from ldm.first_stage.contract import FirstStage
from ldm.first_stage.tiled import decode_tiled
from ldm.metrics.features import AT_ONCE_ON_CPU, Features, InceptionExtractor
from ldm.training.peak_memory import peak_bytes

META = torch.device("meta")
FLOAT_BYTES = 4
BF16_SHARE = 0.5
"""Of what passes through a denoiser in float32, under bf16: it was 0.47 to 0.61 in five networks. First stages and
extractors are called in float32 always."""

Call = Literal["encode", "decode", "decode_sample", "denoise", "extract"]
NETWORK_OF: Mapping[Call, str] = {
    "encode": "first_stage",
    "decode": "first_stage",
    "decode_sample": "first_stage",
    "denoise": "denoiser",
    "extract": "extractor",
}


@dataclass(frozen=True)
class CallMemory:
    """Bytes of networks' weights, and those that one image of a batch takes on its way through a call, at the most.

    What is missing is not known: the extractor's, where its weights are not on this machine. `halves`: how many images
    of a call a sample is under the config's guidance. `at_once`: how many images of a larger batch calls look at.
    `features`: numbers that an image has to the extractor.
    """

    weights: Mapping[str, int]
    image: Mapping[Call, int]
    halves: int = 1
    at_once: Mapping[Call, int] = field(default_factory=dict)
    features: int | None = None

    def of(self, batches: Mapping[Call, int]) -> int | None:
        """The most bytes at a time of calls one after the other, each of so many images; None: not known."""
        if not batches.keys() <= self.image.keys():
            return None
        networks = {NETWORK_OF[call] for call in batches}
        passing = (min(n, self.at_once.get(call, n)) * self.image[call] for call, n in batches.items())
        return sum(self.weights[name] for name in networks) + max(passing)


def count_call_memory(config: Mapping[str, Any], channels: int, known: Vocabulary) -> CallMemory:
    """Of a resolved config, whose first stage has latents of so many channels."""
    resolution, f = config["data"]["resolution"], config["ae"]["f"]
    height, width = sample_size(config)
    with META:
        model = build.first_stage(config["ae"], resolution)
        conditions = build.conditioning(config["conditioning"], known, config["ae"])
        network = build.denoiser(config["denoiser"], channels, resolution // f, conditions)
        image = torch.empty(1, 3, resolution, resolution)
        latent = torch.empty(1, channels, resolution // f, resolution // f)
        sampled, level = torch.empty(1, channels, height // f, width // f), torch.empty(1)
        given = conditions.placeholder(1, (height // f, width // f))
    calls: Mapping[Call, Callable[[], object]] = {
        "encode": lambda: model.encode(image),
        "decode": lambda: model.decode_counted(latent),
        "decode_sample": lambda: decode_sample(config, model, sampled),
        "denoise": lambda: network(sampled, level, given.context, given.concat),
    }
    with torch.no_grad():
        passing = {name: peak_bytes(call) for name, call in calls.items()}
    if config["precision"] == "bf16":
        passing["denoise"] = round(BF16_SHARE * passing["denoise"])
    weights = {"first_stage": _bytes(model), "denoiser": _bytes(network) + _bytes(conditions)}
    halves = 1 if config["guidance"]["scale"] == 1 else 2
    try:
        extractor = build.extractor(stage_settings.extractor(config), "cpu")
    except UserError:
        return CallMemory(weights, passing, halves)
    # Computed for one image, since what it gives are arrays: no network of this size takes long.
    seen = list[Features]()
    black = torch.zeros(1, 3, resolution, resolution, dtype=torch.uint8)
    passing["extract"] = peak_bytes(lambda: seen.append(extractor(black)))
    weights["extractor"] = sum(map(_bytes, vars(extractor).values()))
    in_parts = isinstance(extractor, InceptionExtractor) and config["device"] == "cpu"
    at_once: Mapping[Call, int] = {"extract": AT_ONCE_ON_CPU} if in_parts else {}
    return CallMemory(weights, passing, halves, at_once, seen[0].features.shape[1])


def decode_sample(config: Mapping[str, Any], model: FirstStage, latent: Tensor) -> None:
    """Decodes latents of samples as a resolved config says, tile by tile where it has tiles, for counts alone."""
    tiling, decode = build.tiling(config["samples"]), model.decode_counted
    if tiling is None:
        decode(latent)
    else:
        list(decode_tiled(decode, latent, model.factor, tiling))


def _bytes(network: object) -> int:
    """Of a network's weights in float32; of pixels, which have none, 0."""
    return FLOAT_BYTES * build.parameters(network) if isinstance(network, nn.Module) else 0
