"""Memory of networks that are called and not trained, counted on the meta device."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from experiments import build, stage_settings
from experiments.conditions import Vocabulary, sample_size
from ldm.errors import UserError
from ldm.first_stage.contract import FirstStage
from ldm.first_stage.tiled import decode_tiled
from ldm.metrics.features import AT_ONCE_ON_CPU, Extractor, Features, InceptionExtractor
from ldm.training.peak_memory import peak_bytes

META = torch.device("meta")
FLOAT_BYTES = 4
BF16_SHARE = 0.5
"""Of what passes through a denoiser in float32, under bf16: it was 0.47 to 0.61 in five networks. First stages and
extractors are called in float32 always."""

EXTRACT, EXTRACTOR = "extract", "extractor"
NETWORK_OF: Mapping[str, str] = {
    "encode": "first_stage",
    "decode": "first_stage",
    "decode_sample": "first_stage",
    "denoise": "denoiser",
    EXTRACT: EXTRACTOR,
}
"""The network of each call; `extract_by` names the calls of other extractors, whose networks have the same names."""


def extract_by(name: str) -> str:
    """The call of an extractor that is not the plan's own."""
    return f"{EXTRACT} {name}"


@dataclass(frozen=True)
class CallMemory:
    """Bytes of networks' weights, and what a call takes at the most: `once`, and for each image of a batch.

    What is missing is not known: an extractor's, where its weights are not on this machine. `once`: such as weights in
    another form; an extractor's are counted with its images. `halves`: how many images
    of a call a sample is under the config's guidance. `at_once`: how many images of a larger batch calls look at.
    `features`: numbers that an image has to an extractor, by its call. `others`: calls of the extractors beside the
    plan's own.
    """

    weights: Mapping[str, int]
    image: Mapping[str, int]
    once: Mapping[str, int] = field(default_factory=dict)
    halves: int = 1
    at_once: Mapping[str, int] = field(default_factory=dict)
    features: Mapping[str, int] = field(default_factory=dict)
    others: Sequence[str] = ()

    def of(self, batches: Mapping[str, int]) -> int | None:
        """The most bytes at a time of calls one after the other, each of so many images; None: not known."""
        if not batches.keys() <= self.image.keys():
            return None
        networks = {NETWORK_OF.get(call, call) for call in batches}
        at_once = {call: min(n, self.at_once.get(call, n)) for call, n in batches.items()}
        passing = (self.once.get(call, 0) + n * self.image[call] for call, n in at_once.items())
        return sum(self.weights[name] for name in networks) + max(passing)


def count_call_memory(config: Mapping[str, Any], channels: int, known: Vocabulary) -> CallMemory:
    """Of a resolved config, whose first stage has latents of so many channels."""
    resolution, f = config["data"]["resolution"], config["ae"]["f"]
    height, width = sample_size(config)
    with META:
        model = build.first_stage(config["ae"], resolution)
        conditions = build.conditioning(config["conditioning"], known, config["ae"])
        network = build.denoiser(config["denoiser"], channels, resolution // f, conditions)

    def latent(n: int, height: int, width: int) -> Tensor:
        return torch.empty(n, channels, height // f, width // f, device=META)

    def denoise(n: int) -> None:
        with META:
            given = conditions.placeholder(n, (height // f, width // f))
        network(latent(n, height, width), torch.empty(n, device=META), given.context, given.concat)

    calls: Mapping[str, Callable[[int], object]] = {
        "encode": lambda n: model.encode(torch.empty(n, 3, resolution, resolution, device=META)),
        "decode": lambda n: model.decode_counted(latent(n, resolution, resolution)),
        "decode_sample": lambda n: decode_sample(config, model, latent(n, height, width)),
        "denoise": denoise,
    }
    with torch.no_grad():
        passing = {name: _by_images(call) for name, call in calls.items()}
    share = {"denoise": BF16_SHARE} if config["precision"] == "bf16" else {}
    once, image = ({name: round(share.get(name, 1) * of[k]) for name, of in passing.items()} for k in (0, 1))
    weights = {"first_stage": _bytes(model), "denoiser": _bytes(network) + _bytes(conditions)}
    memory = CallMemory(weights, image, once, halves=1 if config["guidance"]["scale"] == 1 else 2)
    # Computed for one image, since what it gives are arrays: no network of this size takes long.
    black = torch.zeros(1, 3, resolution, resolution, dtype=torch.uint8)
    others = {extract_by(name): own for name, own in stage_settings.other_extractors(config).items()}
    for call, settings in {EXTRACT: stage_settings.extractor(config), **others}.items():
        try:
            memory = _with_extractor(memory, call, build.extractor(settings, "cpu"), black, config["device"])
        except UserError:
            continue
    return replace(memory, others=tuple(others))


def _by_images(call: Callable[[int], object]) -> tuple[float, float]:
    """What a call of a number of images takes whatever their number, and for each: of a line through two numbers."""
    few, many = peak_bytes(lambda: call(FEW)), peak_bytes(lambda: call(MANY))
    each = (many - few) / (MANY - FEW)
    return max(0.0, few - FEW * each), each


FEW, MANY = 2, 10


def _with_extractor(memory: CallMemory, call: str, extractor: Extractor, image: Tensor, device: str) -> CallMemory:
    """The memory with that of an extractor's call of images like this one."""
    seen = list[Features]()
    taken = peak_bytes(lambda: seen.append(extractor(image)))
    in_parts = isinstance(extractor, InceptionExtractor) and device == "cpu"
    return replace(
        memory,
        weights={**memory.weights, NETWORK_OF.get(call, call): sum(map(_bytes, vars(extractor).values()))},
        image={**memory.image, call: taken},
        at_once={**memory.at_once, **({call: AT_ONCE_ON_CPU} if in_parts else {})},
        features={**memory.features, call: seen[0].features.shape[1]},
    )


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
