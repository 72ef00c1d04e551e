"""Reads the tensors of a weight file and nothing else of it: no code of a pickle runs, whatever it holds."""

import contextlib
import io
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
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


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The named tensors of a .safetensors file or of a pickled checkpoint (its "state_dict" where it has one).

    They lie on the CPU, in the types they were saved in, and are read from the disk as they are asked for.
    Raises: UserError where the file cannot be read, holds anything but plain values, or no named tensors.
    """
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except Exception as error:
            raise UserError(f"{path} is no readable safetensors file ({error}); fetch it anew") from error
    found = _unpickled(path)
    state = found.get("state_dict", found) if isinstance(found, Mapping) else None
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)} if state else {}
    if not tensors:
        raise UserError(f"{path} holds no named tensors: it is no checkpoint of a model's weights")
    return tensors


def _unpickled(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([(value, name) for name, value in STAND_INS.items()]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # a damaged file fails in many ways
        foreign = sorted({name for name in _looked_up(path) if not _of_tensors(name)})
        if foreign:
            raise UserError(
                f"{path} is refused and nothing of it was run: beside tensors its pickle names {', '.join(foreign)}; "
                "give a file of tensors alone, such as safetensors"
            ) from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} is no readable checkpoint of torch ({reason}); fetch it anew") from error


def _of_tensors(name: str) -> bool:
    """Whether tensors, or what stands in for something, are saved with this name."""
    return name.startswith("torch.") or name == "collections.OrderedDict" or name in STAND_INS


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
