"""Reads the tensors of a weight file and nothing else of it: no code of a pickle runs, whatever it holds."""

import contextlib
import io
import logging
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ldm.errors import UserError


class Inert:
    """Stands in for a class of a training program: takes whatever a pickle hands it, and keeps and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        """An empty object, whatever the arguments."""
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        """Keeps nothing of it."""


_CALLBACKS = (
    "base.Callback",
    "callback.Callback",
    "checkpoint.Checkpoint",
    "early_stopping.EarlyStopping",
    "finetuning.BaseFinetuning",
    "gpu_stats_monitor.GPUStatsMonitor",
    "gradient_accumulation_scheduler.GradientAccumulationScheduler",
    "lr_monitor.LearningRateMonitor",
    "model_checkpoint.ModelCheckpoint",
    "progress.ProgressBar",
    "progress.ProgressBarBase",
    "progress.tqdm_progress.TQDMProgressBar",
    "stochastic_weight_avg.StochasticWeightAveraging",
    "timer.Timer",
)
_LIGHTNING = ("pytorch_lightning", "lightning.pytorch")

STAND_INS: Mapping[str, type] = {
    **{f"{package}.callbacks.{name}": Inert for package in _LIGHTNING for name in _CALLBACKS},
    **{f"{package}.utilities.parsing.AttributeDict": OrderedDict for package in _LIGHTNING},
}
"""Names that checkpoints of old training programs hold beside the tensors; none of them is ever imported."""


def empty_mapping(*args: Any) -> OrderedDict[Any, Any]:
    """Stands in for a mapping of a training program, whatever it was made with; what it held is put into it."""
    return OrderedDict()


HARMLESS = re.compile(
    r"argparse\.Namespace|pathlib\.\w+|datetime\.\w+|omegaconf\..+|typing\.\w+|(pytorch_)?lightning(_fabric)?\..+|"
    r"numpy\.(core|_core)\.(multiarray|numeric)\.\w+|numpy\.\w+|collections\.(deque|Counter)|_codecs\.encode|"
    r"(builtins|__builtin__)\.(int|long|float|bool|str|unicode|bytes|complex|list|dict|tuple|set|frozenset|slice|x?range|object)"
)
"""Names of settings, numbers and paths that training programs save beside tensors: stood in for, never imported."""

REVISED = {"long": "int", "unicode": "str", "xrange": "range"}

MAPPINGS = (
    "collections.defaultdict",
    "easydict.EasyDict",
    "addict.addict.Dict",
    "ml_collections.config_dict.ConfigDict",
)

AVERAGES = ("ema", "params_ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema", "ema_params", "shadow")
"""Where training programs keep the moving average of the weights, which is taken where there is one."""

WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "params", "module", "net", "network", "weights", "autoencoder"),
    *("generator", "model_params", "student"),
)
"""Where they keep the weights themselves."""

TRAINING_PREFIXES = ("module.", "_orig_mod.")
"""What parallel training and torch.compile put before the names of all tensors."""

logger = logging.getLogger(__name__)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a .safetensors file or of a pickled checkpoint, without what wraps them there.

    They lie on the CPU, in the types they were saved in, and are read from the disk as they are asked for. Of several
    networks in one file each keeps its name before those of its tensors.
    Raises: UserError where the file cannot be read, holds code, or no named tensors.
    """
    _check_kind(path)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            return plain_names(load_file(path))
        except Exception as error:
            raise UserError(f"{path} is no readable safetensors file ({error}); fetch it anew") from error
    tensors = _named_tensors(_unpickled(path), path)
    if not tensors:
        raise UserError(f"{path} holds no named tensors: it is no checkpoint of a model's weights")
    return plain_names(tensors)


def plain_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by their names without what parallel training and torch.compile add to these."""
    found = {name.replace("._orig_mod.", "."): value for name, value in tensors.items()}
    while prefix := next((p for p in TRAINING_PREFIXES if found and all(name.startswith(p) for name in found)), None):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    return found


def _check_kind(path: Path) -> None:
    """Raises: UserError for a file that is something else than its name says, as its first bytes tell."""
    try:
        with path.open("rb") as file:
            head = file.read(200)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise UserError(
            f"{path} is a web page, not a file of weights: the download gave a page in its place; fetch it anew"
        )
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a pointer of git-lfs, not the file itself: run git lfs pull where it came from")
    if not head:
        raise UserError(f"{path} is empty; fetch it anew")
    if zipfile.is_zipfile(path) and path.suffix != ".safetensors":
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if not any(name.endswith("data.pkl") for name in names):
            held = ", ".join(names[:3]) or "nothing"
            raise UserError(f"{path} is a zip archive of other files ({held}), not a checkpoint: unpack it first")


def _named_tensors(found: Any, path: Path) -> dict[str, Tensor]:
    """The tensors of a mapping, or of the mapping in it that holds weights; the moving average where there is one."""
    if not isinstance(found, Mapping):
        return {}
    own = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    inner = {str(name): value for name, value in found.items() if isinstance(value, Mapping) and _has_tensors(value)}
    for name in (*AVERAGES, *WRAPPERS):
        if name in inner and len(own) <= len(inner[name]):
            averaged = [key for key in AVERAGES if key in inner]
            others = [key for key in WRAPPERS if key in inner]
            if averaged and others:
                logger.warning("%s holds %s and %s: the moving average is taken", path, averaged[0], others[0])
            return _named_tensors(inner[name], path)
    return own | {
        f"{name}.{key}": value for name, part in inner.items() for key, value in _named_tensors(part, path).items()
    }


def _has_tensors(value: Any, depth: int = 3) -> bool:
    if isinstance(value, Tensor):
        return True
    return depth > 0 and isinstance(value, Mapping) and any(_has_tensors(each, depth - 1) for each in value.values())


def _stood_in(path: Path) -> list[tuple[Callable[..., Any], str]]:
    """What stands in for the harmless names of a file beside those of tensors."""
    looked_up = {name for name in _looked_up(path) if name not in STAND_INS and not name.startswith("torch.")}
    mappings = [(empty_mapping, name) for name in MAPPINGS]
    harmless = {name for name in looked_up if HARMLESS.fullmatch(name)}
    # Torch calls the classes of Python 2, by which files of the old protocol go, by their names of today.
    today = {f"builtins.{REVISED.get(word, word)}" for name in harmless if (word := name.rpartition(".")[2])}
    return [*mappings, *((Inert, name) for name in sorted(harmless | today))]


def _unpickled(path: Path) -> Any:
    known = [(value, name) for name, value in STAND_INS.items()]
    try:
        with torch.serialization.safe_globals([*known, *_stood_in(path)]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged file fails in many ways
        foreign = sorted({name for name in _looked_up(path) if not _of_tensors(name)})
        if foreign:
            raise UserError(
                f"{path} is refused and nothing of it was run: beside tensors its pickle names {', '.join(foreign)}; "
                "give a file of tensors alone, such as safetensors"
            ) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        # Torch would have the user switch off what keeps the file's code from being run.
        reason = (
            "beside tensors it holds other objects" if "weights_only" in reason.lower().replace(" ", "_") else reason
        )
        raise UserError(f"{path} is no readable checkpoint of torch ({reason}); fetch it anew") from error


def _of_tensors(name: str) -> bool:
    """Whether tensors, or what stands in for something, are saved with this name."""
    return (
        name.startswith("torch.")
        or name in ("collections.OrderedDict", *MAPPINGS, *STAND_INS)
        or bool(HARMLESS.fullmatch(name))
    )


def _looked_up(path: Path) -> list[str]:
    """The names that the pickles of a file would look up, as far as they can be read without running them."""
    names: list[str] = []
    # What is no pickle stops the reading somewhere; the names up to there are what can be found.
    with contextlib.suppress(Exception):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for entry in archive.namelist():
                    if entry.endswith(".pkl"):
                        names.extend(_looked_up_by(io.BytesIO(archive.read(entry))))
        else:
            with open(path, "rb") as file:
                while True:  # a file of the old format is several pickles, one after another
                    names.extend(_looked_up_by(file))
    return names


def _looked_up_by(pickle: BinaryIO) -> Iterator[str]:
    """The names that one pickle looks up, without running it."""
    memo: dict[Any, Any] = {}
    strings = ["", ""]
    last: Any = None
    for operation, argument, _ in pickletools.genops(pickle):
        if operation.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif operation.name == "STACK_GLOBAL":  # its module and its name are the two strings on top of the stack
            yield ".".join(strings[-2:])
        elif operation.name == "MEMOIZE":
            memo[len(memo)] = last
        elif operation.name.endswith("PUT"):
            memo[argument] = last
        else:
            last = memo.get(argument) if operation.name.endswith("GET") else argument
            if isinstance(last, str):
                strings.append(last)
