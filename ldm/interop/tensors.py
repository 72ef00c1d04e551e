"""Finds the weights of a network in what a file holds, whatever wraps them there, and their moving average."""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ldm.errors import UserError
from ldm.interop.contract import WeightsKind
from ldm.pretrained.weight_files import SAVE_ANEW, contents, names_in

AVERAGE = frozenset({"ema", "swa", "polyak", "avg", "average", "averaged", "shadow", "teacher"})
"""Words that training programs call the moving average of the weights by, which is taken where there is one."""

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
"""A word of a name, whether joined by capitals, hyphens or underscores."""

LAYERS = frozenset({"pool", "pooling"})
"""Words of layers that average something else."""

COUNT = "n_averaged"
"""What torch's `AveragedModel` keeps beside its network, whose names begin with "module."."""

WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "params", "module", "net", "network", "weights", "autoencoder"),
    *("generator", "g", "model_params", "student", "checkpoint", "state"),
)
"""Where they keep the weights themselves."""

TRAINING_PREFIXES = ("module.", "_orig_mod.")
"""What parallel training and torch.compile put before the names of all tensors."""

logger = logging.getLogger(__name__)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a .safetensors file or of a pickled checkpoint, without what wraps them there.

    They lie on the CPU, in the types they were saved in, and are read from the disk as they are asked for. Of several
    networks in one file each keeps its name before those of its tensors.
    Raises: as `read_weights`.
    """
    return read_weights(path, "auto")[0]


def read_weights(path: Path, weights: str) -> tuple[dict[str, Tensor], WeightsKind]:
    """The named tensors as in `read_tensors`, and which they are where the file has a moving average beside others.

    `weights`: "raw" passes the average over; otherwise it is taken, and that is said. The average of a whole latent
    diffusion model is its reader's to choose.
    Raises: UserError where the file cannot be read, holds code, or no named tensors.
    """
    found = contents(path)
    choice = _Choice(path, weights != "raw")
    tensors = choice.of_names(plain_names(choice.named(found)))
    if any(not name.isdigit() for name in tensors):
        return tensors, choice.taken
    if tensors:
        raise UserError(f"{path} holds {len(tensors)} tensors without names, which fit no network: name them")
    if any(name.startswith("numpy.") and name.endswith("._reconstruct") for name in names_in(path)):
        raise UserError(f"{path} holds arrays of numpy in place of tensors: {SAVE_ANEW}")
    raise UserError(f"{path} holds no named tensors: it is no checkpoint of a model's weights")


def plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by their names without what parallel training, torch.compile and `AveragedModel` add to these."""
    dropped = COUNT if _is_counted(tensors) else None
    found = {name.replace("._orig_mod.", "."): value for name, value in tensors.items() if name != dropped}
    while prefix := next((p for p in TRAINING_PREFIXES if found and all(name.startswith(p) for name in found)), None):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


class _Choice:
    """Finds the weights in what a file holds, and takes their moving average or passes it over."""

    def __init__(self, path: Path, takes_average: bool) -> None:
        self.path, self.takes_average = path, takes_average
        self.taken: WeightsKind = "raw"

    def named(self, found: Any, is_average: bool = False) -> dict[str, Tensor]:
        """The tensors of a mapping, or of the mapping in it that holds weights; `is_average` where it is one itself."""
        parts = _parts(found)
        own = {str(name): value for name, value in parts.items() if isinstance(value, Tensor)}
        if is_average and (part := next(filter(_says_average, _firsts(own)), None)):  # beside the network it follows
            own = _under(part, own)
        elif _is_counted(own) and not is_average:
            self.taken = "ema"
        inner = {str(name): value for name, value in parts.items() if name not in own and _has_tensors(value)}
        averages = {
            name: plain_names(self.named(inner.pop(name), True))
            for name, value in list(inner.items())
            if _says_average(name) or _is_counted(_parts(value))
        }
        wrapper = next((name for name in sorted(inner, key=_rank) if _is_wrapper(name)), None)
        # Counters and losses are tensors, too, but no weights.
        if wrapper is not None and _weights_in(own) > len(_parts(inner[wrapper])):
            wrapper = None
        networks = {name: self.named(part, is_average) for name, part in inner.items() if wrapper in (None, name)}
        weights = own | _prefixed(networks) if wrapper is None else networks[wrapper]
        for name, average in averages.items():
            if not _weights_in(weights):
                self.taken = self.taken if is_average else "ema"
                return average
            plain = plain_names(weights)
            is_only = wrapper is not None or not networks
            if _mirrors(average, plain) or (is_only and _resembles(average, plain)):
                return self._chosen(name, plain, average)
            twin = next((other for other, part in networks.items() if _mirrors(average, plain_names(part))), None)
            if twin is not None:
                chosen = self._chosen(name, plain_names(networks[twin]), average)
                return chosen if twin == wrapper else own | _prefixed(networks | {twin: chosen})
            if wrapper is None and not all(key.isdigit() for key in average):  # a layer, or another network
                weights = weights | _prefixed({name: average})
            else:
                told = "%s holds a moving average (%s) that fits no weights in it: it is left out"
                logger.warning(told, self.path, name)
        return weights

    def of_names(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors without the average that lies among them under a name of its own before the first dot."""
        firsts = _firsts(tensors)
        for part in firsts:
            average = _under(part, tensors)
            if not (_says_average(part) or _is_counted(average)):
                continue
            average, rest = plain_names(average), _without(part, tensors)
            # The reference's moving average leaves the dots of names out.
            dotted = {name: average[short] for name in rest if (short := name.replace(".", "")) in average}
            average = dotted or average
            if _mirrors(average, rest):
                return self._chosen(part, rest, average)
            for twin in firsts:
                weights = plain_names(_under(twin, rest))
                # Two layers of one kind are no network and its average.
                is_network = _is_wrapper(twin) or any("." in name for name in average)
                if is_network and _mirrors(average, weights):
                    return _without(twin, rest) | _prefixed({twin: self._chosen(part, weights, average)})
        return tensors

    def _chosen(self, name: str, weights: dict[str, Tensor], average: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights or their average, which may have no names, but the order of the weights."""
        if not self.takes_average:
            return weights
        logger.warning("%s holds a moving average (%s) beside the weights: it is taken", self.path, name)
        self.taken = "ema"
        if all(key.isdigit() for key in average):
            return dict(zip(weights, average.values(), strict=True))
        # What is not averaged, such as buffers, is as it is.
        return weights | average if average.keys() <= weights.keys() else average


def _says_average(name: str) -> bool:
    words = {word.lower() for word in WORD.findall(name)}
    return bool(words & AVERAGE) and not words & LAYERS


def _is_counted(found: Mapping[Any, Any]) -> bool:
    """Whether this is the state of an `AveragedModel`."""
    return len(found) > 1 and COUNT in found and all(str(name).startswith(("module.", COUNT)) for name in found)


def _mirrors(average: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> bool:
    """Whether an average is that of these weights by names and shapes; what is not averaged it may lack."""
    return bool(average) and all(
        name in weights and weights[name].shape == value.shape for name, value in average.items()
    )


def _resembles(average: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> bool:
    """Whether an average under names of its own is that of these weights by most shapes, or without names by all."""
    theirs, ours = ([value.shape for value in tensors.values()] for tensors in (average, weights))
    if all(name.isdigit() for name in average):
        return theirs == ours
    return 2 * (Counter(theirs) & Counter(ours)).total() >= max(len(theirs), len(ours))


def _weights_in(tensors: Mapping[str, Tensor]) -> int:
    return sum(value.dim() > 0 for value in tensors.values())


def _parts(found: Any) -> Mapping[Any, Any]:
    if isinstance(found, Mapping):
        return found
    return dict(enumerate(found)) if isinstance(found, list | tuple) else {}


def _has_tensors(value: Any, depth: int = 4) -> bool:
    if isinstance(value, Tensor):
        return True
    return depth > 0 and any(_has_tensors(each, depth - 1) for each in _parts(value).values())


def _rank(name: str) -> int:
    """How early a name stands among the wrappers."""
    return WRAPPERS.index(name.lower()) if name.lower() in WRAPPERS else len(WRAPPERS)


def _is_wrapper(name: str) -> bool:
    return _rank(name) < len(WRAPPERS)


def _prefixed(networks: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for name, part in networks.items() for key, value in part.items()}


def _under(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")}


def _without(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in tensors.items() if not name.startswith(f"{part}.")}


def _firsts(names: Iterable[str]) -> list[str]:
    """What stands before the first dot of names."""
    return sorted({name.partition(".")[0] for name in names if "." in name})
