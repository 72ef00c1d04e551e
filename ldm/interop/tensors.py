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
from ldm.interop.contract import WeightsKind


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


def empty_list(*args: Any) -> list[Any]:
    """Stands in for a list of a training program, whatever it was made with; what it held is put into it."""
    return []


HARMLESS = re.compile(
    r"argparse\.Namespace|pathlib\.\w+|datetime\.\w+|omegaconf\..+|typing\.\w+|(pytorch_)?lightning(_fabric)?\..+|"
    r"numpy\.(core|_core)\.(multiarray|numeric)\.\w+|numpy\.\w+|collections\.Counter|_codecs\.encode|"
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

LISTS = ("collections.deque",)

TENSOR_NAMES = re.compile(r"torch\.\w+|torch\.(_utils|_tensor|storage|serialization|nn\.parameter)\.\w+")
"""Names of torch that tensors alone are saved with; all others are those of whole networks, optimisers and the like."""

AVERAGE = re.compile(r"(^|_)(ema|avg|averaged?|shadow|teacher)(_|$)", re.IGNORECASE)
"""What training programs call the moving average of the weights, which is taken where there is one."""

WRAPPERS = (
    *("state_dict", "model_state_dict", "model", "params", "module", "net", "network", "weights", "autoencoder"),
    *("generator", "g", "model_params", "student", "checkpoint", "state"),
)
"""Where they keep the weights themselves."""

TRAINING_PREFIXES = ("module.", "_orig_mod.")
"""What parallel training and torch.compile put before the names of all tensors."""

SIGNATURES: Mapping[bytes, str] = {
    b"\x1f\x8b": "it is compressed by gzip: unpack it first",
    b"7z\xbc\xaf": "it is a 7-Zip archive: unpack it first",
    b"Rar!": "it is a RAR archive: unpack it first",
    b"\xfd7zXZ": "it is compressed by xz: unpack it first",
    b"\x89HDF": "it is a file of HDF5, such as those of Keras",
    b"GGUF": "it is a file of GGUF, whose weights are quantised",
}
"""First bytes of other files that bear a checkpoint's name."""

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
    _check_kind(path)
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        try:
            found: Any = load_file(path)
        except Exception as error:
            reason = _sign(path) or str(error)
            raise UserError(f"{path} is no readable safetensors file ({reason}); fetch it anew") from error
    else:
        found = _unpickled(path)
    choice = _Choice(path, weights != "raw")
    tensors = choice.of_names(plain_names(choice.named(found)))
    if any(not name.isdigit() for name in tensors):
        return tensors, choice.taken
    if tensors:
        raise UserError(f"{path} holds {len(tensors)} tensors without names, which fit no network: name them")
    if any(name.startswith("numpy.") and name.endswith("._reconstruct") for name in _looked_up(path)):
        raise UserError(f"{path} holds arrays of numpy in place of tensors: save them anew as safetensors")
    raise UserError(f"{path} holds no named tensors: it is no checkpoint of a model's weights")


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
    start = _text(head).lstrip("\ufeff \r\n\t").lower()
    if start.startswith(("<!doctype", "<!--", "<html", "<?xml", "<head", "<script", "<body")):
        raise UserError(
            f"{path} is a web page, not a file of weights: the download gave a page in its place; fetch it anew"
        )
    if start.startswith("version https://git-lfs"):
        raise UserError(f"{path} is a pointer of git-lfs, not the file itself: run git lfs pull where it came from")
    if not head:
        raise UserError(f"{path} is empty; fetch it anew")
    if zipfile.is_zipfile(path) and path.suffix != ".safetensors":
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if not any(name.endswith("data.pkl") for name in names):
            held = ", ".join(names[:3]) or "nothing"
            raise UserError(f"{path} is a zip archive of other files ({held}), not a checkpoint: unpack it first")


class _Choice:
    """Finds the weights in what a file holds, and takes their moving average or passes it over."""

    def __init__(self, path: Path, takes_average: bool) -> None:
        self.path, self.takes_average = path, takes_average
        self.taken: WeightsKind = "raw"

    def named(self, found: Any, is_average: bool = False) -> dict[str, Tensor]:
        """The tensors of a mapping, or of the mapping in it that holds weights; `is_average` where it is one itself."""
        parts = _parts(found)
        own = {str(name): value for name, value in parts.items() if isinstance(value, Tensor)}
        inner = {str(name): value for name, value in parts.items() if name not in own and _has_tensors(value)}
        averages = {name: self.named(inner.pop(name), True) for name in list(inner) if AVERAGE.search(name)}
        wrapper = next((name for name in sorted(inner, key=_rank) if _rank(name) < len(WRAPPERS)), None)
        # Counters and losses are tensors, too, but no weights.
        if wrapper is not None and sum(value.dim() > 0 for value in own.values()) > len(_parts(inner[wrapper])):
            wrapper = None
        networks = {name: self.named(part, is_average) for name, part in inner.items() if wrapper in (None, name)}
        weights = own | _prefixed(networks) if wrapper is None else networks[wrapper]
        for name, average in averages.items():
            if not weights:
                self.taken = self.taken if is_average else "ema"
                return average
            if wrapper is not None or not networks:
                return self._chosen(name, weights, average)
            twin = next((other for other, part in networks.items() if part.keys() == average.keys()), None)
            if twin is not None:
                return own | _prefixed(networks | {twin: self._chosen(name, networks[twin], average)})
        return weights

    def of_names(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors without the average that lies among them under a name of its own before the first dot."""
        firsts = sorted({name.partition(".")[0] for name in tensors if "." in name})
        for part in filter(AVERAGE.search, firsts):
            average, rest = _under(part, tensors), {k: v for k, v in tensors.items() if not k.startswith(f"{part}.")}
            # The reference's moving average leaves the dots of names out.
            dotted = {name: average[short] for name in rest if (short := name.replace(".", "")) in average}
            average = dotted or average
            if average.keys() <= rest.keys():
                return self._chosen(part, rest, average)
            twin = next(
                (other for other in firsts if other != part and _under(other, rest).keys() == average.keys()), ""
            )
            if twin:
                return rest | _prefixed({twin: self._chosen(part, _under(twin, rest), average)})
        return tensors

    def _chosen(self, name: str, weights: dict[str, Tensor], average: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights or their average, which may have no names, but the order of the weights."""
        if all(key.isdigit() for key in average):
            if [value.shape for value in average.values()] != [value.shape for value in weights.values()]:
                logger.warning(
                    "%s holds a moving average (%s) that fits no weights in it: it is left out", self.path, name
                )
                return weights
            average = dict(zip(weights, average.values(), strict=True))
        if not self.takes_average:
            return weights
        logger.warning("%s holds a moving average (%s) beside the weights: it is taken", self.path, name)
        self.taken = "ema"
        # What is not averaged, such as buffers, is as it is.
        return weights | average if average.keys() <= weights.keys() else average


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


def _prefixed(networks: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for name, part in networks.items() for key, value in part.items()}


def _under(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): value for name, value in tensors.items() if name.startswith(f"{part}.")}


def _text(head: bytes) -> str:
    is_wide = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    return head.decode("utf-16" if is_wide else "utf-8", errors="ignore" if is_wide else "replace")


def _sign(path: Path) -> str | None:
    """What a file is that is none of weights, where its first bytes tell."""
    with path.open("rb") as file:
        head = file.read(200)
    text = " ".join(_text(head).split())
    if text and text.isprintable() and "\ufffd" not in text:
        return f"it is a text that begins {text[:40]!r}"
    return next((told for start, told in SIGNATURES.items() if head.startswith(start)), None)


def _stood_in(path: Path) -> list[tuple[Callable[..., Any], str]]:
    """What stands in for the harmless names of a file beside those of tensors."""
    looked_up = {name for name in _looked_up(path) if name not in STAND_INS and not name.startswith("torch.")}
    mappings: list[tuple[Callable[..., Any], str]] = [(empty_mapping, name) for name in MAPPINGS]
    mappings += [(empty_list, name) for name in LISTS]
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
            shown = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
            raise UserError(
                f"{path} is refused and nothing of it was run: beside tensors its pickle names {shown}; "
                "give a file of tensors alone, such as safetensors"
            ) from error
        # Torch's own words would have the user switch off what keeps the file's code from being run.
        reason = _sign(path) or "it is none, or is damaged"
        raise UserError(f"{path} is no readable checkpoint of torch ({reason}); fetch it anew") from error


def _of_tensors(name: str) -> bool:
    """Whether tensors, or what stands in for something, are saved with this name."""
    return (
        bool(TENSOR_NAMES.fullmatch(name))
        or name in ("collections.OrderedDict", *MAPPINGS, *LISTS, *STAND_INS)
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
