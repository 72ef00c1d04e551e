"""Tries parts of the user's own on tiny tensors before anything runs: a broken contract is refused in one sentence.

Each sentence names the setting, what was expected and what was found.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ldm.conditioning import Conditioning
from ldm.data.contract import SPLITS, ImageSource, Split
from ldm.errors import UserError
from ldm.first_stage.contract import FirstStage, Labels, Reconstruction, TrainableFirstStage
from ldm.first_stage.losses import FirstStageLoss, OwnLoss
from ldm.metrics.features import Extractor, Features
from ldm.metrics.values import MetricValue
from ldm.records import LeftOut
from ldm.samplers import Sampler, asked_levels

MOST_LATENTS = 8
"""The side of a trial's latents, where the images' own is not smaller."""

TRIAL_FEATURES = (64, 8)
"""Images and features that a metric is tried on."""


def sampler(part: Sampler, times: Tensor, where: str) -> None:
    """Tries two steps of a grid of noise levels. Raises: UserError where they do not give (x_s, state)."""
    x = torch.linspace(-1, 1, 2 * 3 * 4 * 4).view(2, 3, 4, 4)
    state: Any = None
    with _trial(f"{where}: a trial step"):
        for t, s in pairwise(times[:3]):
            found = part.step(lambda x_t, t: 0.5 * x_t, x, t, s, state, lambda shape: torch.ones(2, *shape))
            if not isinstance(found, tuple) or len(found) != 2:
                raise _broken(where, "step must give (x_s, state)", found)
            x_s, state = found
            _expect(where, "the x_s of step", x_s, tuple(x.shape), x.dtype)
        calls = asked_levels(part, times)
    if not calls:
        raise UserError(f"{where}: its steps must ask denoise for the clean image, and they never did")


def first_stage(model: FirstStage, loss: FirstStageLoss | OwnLoss | None, ae: Mapping[str, Any], side: int) -> None:
    """Tries to encode and decode two images of at most `side`, and a training pass where there is a `loss`.

    Raises: UserError where shapes, types or what the class says of itself are not as the contract has them.
    """
    where, f, channels = f"ae.target={ae['target']}", ae["f"], ae["channels"]
    if loss is not None and not isinstance(model, TrainableFirstStage):
        raise UserError(
            f"{where} is to be trained, but is no ldm.first_stage.TrainableFirstStage: derive it from "
            "ldm.first_stage.PlainFirstStage, or say `is_trained = True` if its build gives it its weights"
        )
    for key, given in (("factor", f), ("channels", channels)):
        if getattr(model, key, None) != given:
            raise UserError(
                f"{where}: its {key} must be {given}, as ae.{'f' if key == 'factor' else key} says, and is "
                f"{getattr(model, key, None)}"
            )
    for key, kind in (("regulariser", str), ("labels", Labels), ("is_drawn", bool), ("cache_channels", int)):
        if not isinstance(getattr(model, key, None), kind):
            raise UserError(f"{where}: its {key} must be of type {kind.__name__}, and is {getattr(model, key, None)}")
    small = min(side // f, MOST_LATENTS)
    image = torch.linspace(-1, 1, 2 * 3 * (small * f) ** 2).view(2, 3, small * f, small * f)
    latent = (2, channels, small, small)
    with _trial(f"{where}: a trial of encoding and decoding"), torch.no_grad():
        packed = model.pack(model.encode(image))
        _expect(where, "pack(encode(image))", packed, (2, model.cache_channels, small, small), torch.float32)
        raw = model.latent(packed)
        _expect(where, "latent(packed)", raw, latent, torch.float32)
        _expect(where, "decode(raw)", model.decode(raw), tuple(image.shape), torch.float32)
    if loss is not None:
        with _trial(f"{where}: a trial of training"):
            _try_training(model, loss, image, latent, where)


def _try_training(
    model: FirstStage, loss: FirstStageLoss | OwnLoss, image: Tensor, latent: tuple[int, ...], where: str
) -> None:
    result = model(image, torch.ones(latent))
    if not isinstance(result, Reconstruction):
        raise _broken(where, "forward_train must give a Reconstruction", result)
    _expect(where, "the image of forward_train", result.image, tuple(image.shape), torch.float32)
    terms = loss.generator_terms(image, result.image, result.regularisation, last_layer=model.last_layer)
    total: Any = terms.total
    if not isinstance(total, Tensor) or total.shape != () or not total.requires_grad:
        raise _broken(where, "the loss must be a tensor of shape () with a gradient", total)


def denoiser(network: nn.Module, conditions: Conditioning, channels: int, side: int, where: str) -> None:
    """Tries one call without memory, on the meta device. Raises: UserError where its result is not of x's shape."""
    with torch.device("meta"), _trial(f"{where}: a trial call"), torch.no_grad():
        x, index, given = torch.empty(2, channels, side, side), torch.empty(2), conditions.placeholder(2, (side, side))
        found = network(x, index, context=given.context, concat=given.concat)
        _expect(where, "the network's result", found, (2, channels, side, side), torch.float32)
        if not any(True for _ in network.parameters()):
            raise UserError(f"{where}: its network must have parameters to train, and has none")


def extractor(part: Extractor, where: str) -> None:
    """Tries two and three images. Raises: UserError where features are no float32 array (N, d), or d depends on N."""
    for key, kind in (("name", str), ("weights_hash", str), ("size", int), ("resize", str), ("precision", str)):
        if not isinstance(getattr(part, key, None), kind):
            raise UserError(f"{where}: its {key} must be of type {kind.__name__}, and is {getattr(part, key, None)}")
    dimensions: dict[str, tuple[int, ...]] = {}
    for n in (2, 3):
        images = (torch.arange(n * 3 * 32 * 32) % 251).view(n, 3, 32, 32).to(torch.uint8)
        with _trial(f"{where}: a trial on {n} images"):
            found = part(images)
        if not isinstance(found, Features):
            raise _broken(where, "it must give Features", found)
        for name, array in found.arrays.items():
            expected = (n, *dimensions.get(name, ("d",)))
            shape = tuple(getattr(array, "shape", ()))
            fits = len(shape) == 2 and shape[0] == n and dimensions.get(name, shape[1:]) == shape[1:]
            if not isinstance(array, np.ndarray) or array.dtype != np.float32 or not fits:
                raise _broken(where, f"its {name} must be a float32 array of shape {_shape(expected)}", array)
            dimensions[name] = shape[1:]


def measure(function: Any, where: str) -> None:
    """Tries random features. Raises: UserError where the result is neither a MetricValue nor a LeftOut."""
    draw = np.random.default_rng(0)
    generated, reference = (
        Features(*(draw.random(TRIAL_FEATURES, dtype=np.float32) for _ in range(3))) for _ in range(2)
    )
    with _trial(f"{where}: a trial on random features"):
        found = function(generated, reference)
    if not isinstance(found, MetricValue | LeftOut):
        raise _broken(where, "it must give a MetricValue or a LeftOut", found)


def splits(found: Mapping[Split, ImageSource], resolution: int, where: str) -> None:
    """Looks at the first image of both splits. Raises: UserError where they are not as the contract has them."""
    if not isinstance(found, Mapping) or set(found) != set(SPLITS):
        raise _broken(where, "open must give {'train': ..., 'heldout': ...}", found)
    for split, source in found.items():
        with _trial(f"{where}: a trial of its {split} images"):
            if not len(source) or not isinstance(source.fingerprint, str):
                raise UserError(f"{where}: its {split} images must be one or more, with a fingerprint as text")
            image = source.item(0).image
        expected = (resolution, resolution, 3)
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape != expected:
            raise _broken(where, f"its {split} images must be uint8 arrays of shape {_shape(expected)}", image)


@contextmanager
def _trial(what: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever the user's class raises
        raise UserError(f"{what} failed ({type(error).__name__}: {error})") from error


def _expect(where: str, what: str, found: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if not isinstance(found, Tensor) or tuple(found.shape) != shape or found.dtype != dtype:
        raise _broken(where, f"{what} must be a {_type(dtype)} tensor of shape {_shape(shape)}", found)


def _broken(where: str, expected: str, found: Any) -> UserError:
    return UserError(f"{where}: {expected}, found {_described(found)}")


def _described(found: Any) -> str:
    if isinstance(found, Tensor | np.ndarray):
        kind = "tensor" if isinstance(found, Tensor) else "array"
        return f"a {_type(found.dtype)} {kind} of shape {_shape(tuple(found.shape))}"
    if isinstance(found, tuple):
        return f"({', '.join(map(_described, found))})"
    return "None" if found is None else f"an object of type {type(found).__name__}"


def _type(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _shape(sides: Sequence[Any]) -> str:
    return f"({', '.join(map(str, sides))}{',' if len(sides) == 1 else ''})"
