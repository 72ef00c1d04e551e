"""Reads what a weight file holds, by what the file is and not by its name: tensors, and nothing of it is run."""

import contextlib
import io
import itertools
import pickletools
import re
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ldm.errors import UserError
from ldm.intact import inflates_too_far, is_zip


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

SAVE_ANEW = "save its tensors anew as safetensors"

SIGNATURES: Mapping[bytes, str] = {
    b"\x1f\x8b": "is compressed by gzip: unpack it first",
    b"BZh": "is compressed by bzip2: unpack it first",
    b"\xfd7zXZ": "is compressed by xz: unpack it first",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd: unpack it first",
    b"7z\xbc\xaf": "is a 7-Zip archive: unpack it first",
    b"Rar!": "is a RAR archive: unpack it first",
    b"\x89HDF": f"is a file of HDF5, such as those of Keras: {SAVE_ANEW}",
    b"GGUF": f"is a file of GGUF, whose weights are quantised: {SAVE_ANEW}",
    b"\x93NUMPY": f"is an array of numpy, which has no names: {SAVE_ANEW}",
    b"\x89PNG": "is a picture (PNG), not a file of weights: give the path of one",
    b"\xff\xd8\xff": "is a picture (JPEG), not a file of weights: give the path of one",
    b"GIF8": "is a picture (GIF), not a file of weights: give the path of one",
    b"%PDF": "is a PDF, not a file of weights: give the path of one",
}
"""First bytes of other files that bear a checkpoint's name, and what is said of them."""

LARGEST_HEADER = 100_000_000
"""Bytes of the names in a safetensors file, at most."""

TAR_PARTS = {"sys_info", "pickle", "storages", "tensors"}
"""What a checkpoint of torch's first versions holds, which was a tar archive."""

READ_PROTOCOLS = (2, 3)
"""The versions of pickle that torch reads without running a file; it saves version 2."""

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
"""The number that torch's checkpoints begin with that are no zip archives."""


def contents(path: Path) -> Any:
    """What a .safetensors file or a pickled checkpoint holds, whatever its suffix; tensors lie on the CPU.

    Settings, paths and the like beside tensors are stood in for.
    Raises: UserError where the file is missing, damaged, something else, or names code.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    told = _told_of(path, head)
    if told is not None:
        raise UserError(f"{path} {told}")
    is_pickle = head.startswith(b"\x80") or is_zip(path)
    if _is_safetensors(head) or (path.suffix == ".safetensors" and not is_pickle):
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except Exception as error:
            reason = _begins(head) or str(error)
            raise UserError(f"{path} is no readable safetensors file ({reason}); fetch it anew") from error
    return _unpickled(path, head)


def _is_safetensors(head: bytes) -> bool:
    """Whether a file begins with the length of a header and the header's brace."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= LARGEST_HEADER


def _told_of(path: Path, head: bytes) -> str | None:
    """What is said of a file that is something else than its name says, as its first bytes tell; None for others."""
    start = _text(head).lstrip("\ufeff \r\n\t").lower()
    if start.startswith(("<!doctype", "<!--", "<html", "<?xml", "<head", "<script", "<body")):
        return "is a web page, not a file of weights: the download gave a page in its place; fetch it anew"
    if start.startswith("version https://git-lfs"):
        return "is a pointer of git-lfs, not the file itself: run git lfs pull where it came from"
    if not head:
        return "is empty; fetch it anew"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "is a picture (WebP), not a file of weights: give the path of one"
    told = next((told for sign, told in SIGNATURES.items() if head.startswith(sign)), None)
    if told is not None or _is_safetensors(head):
        return told
    if is_zip(path):
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            return f"is a damaged zip archive ({error}); fetch it anew"
        if any(map(inflates_too_far, entries)):
            return "would inflate to hundreds of times its size, as no checkpoint does: it is refused and not read"
        names = [entry.filename for entry in entries]
        if names and all(name.endswith(".npy") for name in names):
            return f"is an archive of numpy's arrays (.npz): {SAVE_ANEW}"
        if any(name.endswith("/constants.pkl") for name in names):
            return f"is a program of TorchScript, of which nothing was run: {SAVE_ANEW}"
        is_checkpoint = any(name.endswith("data.pkl") for name in names)
        return None if is_checkpoint else _of_others("zip", names)
    if head[257:262] == b"ustar":
        names = _first_in_tar(path)
        if set(names) >= TAR_PARTS:
            return f"is a tar archive as torch's first versions saved checkpoints, which is not read: {SAVE_ANEW}"
        return _of_others("tar", names)
    return None


def _of_others(kind: str, names: list[str]) -> str:
    held = ", ".join(names[:3]) or "nothing"
    return f"is a {kind} archive of other files ({held}), not a checkpoint: unpack it first"


def _first_in_tar(path: Path) -> list[str]:
    with contextlib.suppress(tarfile.TarError), tarfile.open(path, "r:") as archive:
        return [entry.name for entry in itertools.islice(archive, len(TAR_PARTS))]
    return []


def _stood_in(path: Path) -> list[tuple[Callable[..., Any], str]]:
    """What stands in for the harmless names of a file beside those of tensors."""
    looked_up = {name for name in names_in(path) if name not in STAND_INS and not name.startswith("torch.")}
    mappings: list[tuple[Callable[..., Any], str]] = [(empty_mapping, name) for name in MAPPINGS]
    mappings += [(empty_list, name) for name in LISTS]
    harmless = {name for name in looked_up if HARMLESS.fullmatch(name)}
    # Torch calls the classes of Python 2, by which files of the old protocol go, by their names of today.
    today = {f"builtins.{REVISED.get(word, word)}" for name in harmless if (word := name.rpartition(".")[2])}
    return [*mappings, *((Inert, name) for name in sorted(harmless | today))]


def _unpickled(path: Path, head: bytes) -> Any:
    known = [(value, name) for name, value in STAND_INS.items()]
    # Torch takes a path for what its suffix says, but maps none but paths into memory.
    mapped = is_zip(path) and path.suffix != ".safetensors"
    try:
        with torch.serialization.safe_globals([*known, *_stood_in(path)]), path.open("rb") as file:
            return torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged file fails in many ways
        foreign = sorted({name for name in names_in(path) if not _of_tensors(name)})
        if foreign:
            shown = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if len(foreign) > 5 else "")
            raise UserError(
                f"{path} is refused and nothing of it was run: beside tensors its pickle names {shown}; "
                "give a file of tensors alone, such as safetensors"
            ) from error
        told = _as_pickle(path)
        if told is not None:
            raise UserError(f"{path} {told}") from error
        # Torch's own words would have the user switch off what keeps the file's code from being run.
        reason = _begins(head) or "it is none, or is damaged"
        raise UserError(f"{path} is no readable checkpoint of torch ({reason}); fetch it anew") from error


def _as_pickle(path: Path) -> str | None:
    """Why a whole pickle that names no code is not read; None where there is none, or torch should have read it."""
    with contextlib.suppress(Exception):  # what is no pickle
        is_archive = is_zip(path)
        first = next(_pickles(path)) if is_archive else path.read_bytes()
        operations = [(operation.name, argument) for operation, argument, _ in pickletools.genops(first)]
        if not is_archive and all(argument != TORCH_MAGIC for _, argument in operations):
            return f"is a pickle that was not saved by torch.save: {SAVE_ANEW}"
        protocol = operations[0][1] if operations[0][0] == "PROTO" else "0 or 1"
        if protocol not in READ_PROTOCOLS:
            return (
                f"was saved with pickle protocol {protocol}, which is not read without running the file: save it anew "
                "as safetensors, or with torch.save without pickle_protocol"
            )
    return None


def _of_tensors(name: str) -> bool:
    """Whether tensors, or what stands in for something, are saved with this name."""
    return (
        bool(TENSOR_NAMES.fullmatch(name))
        or name in ("collections.OrderedDict", *MAPPINGS, *LISTS, *STAND_INS)
        or bool(HARMLESS.fullmatch(name))
    )


def names_in(path: Path) -> list[str]:
    """The names that the pickles of a file would look up, as far as they can be read without running them."""
    names: list[str] = []
    # What is no pickle stops the reading somewhere; the names up to there are what can be found.
    with contextlib.suppress(Exception):
        if is_zip(path):
            for pickle in _pickles(path):
                names.extend(_names_in_one(io.BytesIO(pickle)))
        else:
            with open(path, "rb") as file:
                while True:  # a file of the old format is several pickles, one after another
                    names.extend(_names_in_one(file))
    return names


def _pickles(archive: Path) -> Iterator[bytes]:
    with zipfile.ZipFile(archive) as opened:
        yield from (opened.read(entry) for entry in opened.namelist() if entry.endswith(".pkl"))


def _names_in_one(pickle: BinaryIO) -> Iterator[str]:
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


def _text(head: bytes) -> str:
    is_wide = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    return head.decode("utf-16" if is_wide else "utf-8", errors="ignore" if is_wide else "replace")


def _begins(head: bytes) -> str | None:
    """How a file begins that is a text."""
    text = " ".join(_text(head[:200]).split())
    is_text = text and text.isprintable() and "\ufffd" not in text
    return f"it is a text that begins {text[:40]!r}" if is_text else None
