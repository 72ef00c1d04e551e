"""The command line before and after Hydra: the default scale, and one sentence for what Hydra could not compose."""

import re
import shlex
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from experiments.allocator import keep_freed_memory
from experiments.console import say
from experiments.schema import CONF, leaves
from experiments.stopping import EXIT_CODE as STOPPED
from experiments.stopping import StoppedError
from ldm.errors import UserError, nearest

SCALES = ("tiny", "cpu", "gpu", "paper")
LAUNCHER_EXTRAS = {"joblib": "cluster"}
"""Launchers that come as plugins of Hydra, and which of this package's extras installs each."""


class CellsFailedError(Exception):
    """Some cells of a sweep could not be computed; what is known of them has been said."""


def check_given_once(argv: Sequence[str]) -> None:
    """Raises: UserError for a key that is given two values, of which one would be lost without a word."""
    seen: dict[str, str] = {}
    for argument in argv[1:]:
        key, equals, value = argument.partition("=")
        if not equals or argument.startswith("-"):
            continue
        key = key.lstrip("+")
        if key in seen:
            raise UserError(
                f"{key} is given twice, as {seen[key]} and as {value}: give it once, or sweep both with -m "
                f"{key}={seen[key]},{value}"
            )
        seen[key] = value


def has_no_choice(overrides: Sequence[str], globbed: Collection[str]) -> bool:
    """Whether a glob chose a file that others of its group are only based on, or one that needs more to be given."""
    pairs = ((group, name) for group, _, name in (override.partition("=") for override in overrides))
    return any(
        group in globbed and (name in _only_shared(group) or "???" in (CONF / group / f"{name}.yaml").read_text())
        for group, name in pairs
    )


def spanned(arguments: Sequence[str], params: Mapping[str, Any], loader: ConfigLoader) -> list[list[str]]:
    """The points of the grid that overrides span; `params`: what an experiment sweeps, of which theirs win."""
    asked = [f"{key}={values}" for key, values in params.items()]
    overrides = OverridesParser.create(config_loader=loader).parse_overrides([*asked, *arguments])
    [grid] = BasicSweeper.split_arguments(overrides, max_batch_size=None)
    globbed = {override.key_or_group for override in overrides if "glob(" in (override.input_line or "")}
    return [list(point) for point in grid if not has_no_choice(point, globbed)]


def with_scale(argv: list[str]) -> list[str]:
    """The arguments with `scale=` added where it was not given, and printed: cpu without a GPU, gpu with one.

    A value that begins with `~/` begins with the home folder. Raises: UserError for a key that is given twice.
    """
    argv = [_at_home(argument) for argument in argv]
    check_given_once(argv)
    asks_only = any(argument in ("-h", "--help", "--hydra-help", "--info", "--version") for argument in argv)
    asks_only |= any(argument in ("-sc", "--shell-completion") for argument in argv)
    given = any(re.match(r"\+*scale=", argument) for argument in argv)
    if asks_only or given:
        return argv
    import torch

    scale = "gpu" if torch.cuda.is_available() and "device=cpu" not in argv else "cpu"
    found = "a GPU" if scale == "gpu" else "no GPU"
    # Beside the output, which --cfg job > file is to hold alone.
    print(
        f"scale={scale}, since this machine has {found} in use (choose with scale={'|'.join(SCALES)})", file=sys.stderr
    )
    # Beside the other overrides: argparse takes them only in one piece, before -m or behind it.
    overrides = [position for position, argument in enumerate(argv) if position and re.match(r"[^-]*=", argument)]
    position = overrides[0] if overrides else len(argv)
    return [*argv[:position], f"scale={scale}", *argv[position:]]


HOME = re.compile(r"(?<=[=,])~/[^,\[\](){}'\"]*(?=,|$)")
"""A path in the home folder, alone or among several that are swept; no shell replaces it behind KEY=."""


def _at_home(argument: str) -> str:
    """An override whose paths in the home folder are whole ones."""
    if argument.startswith("-"):
        return argument
    return HOME.sub(lambda path: quoted(str(Path(path.group()).expanduser())), argument)


def sentence_for(error: BaseException) -> str:
    """What is wrong and what to do, in one sentence."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingMandatoryValue):
        key = re.search(r"full_key: (\S+)", str(error)) or re.search(r"[Mm]issing mandatory value: (\S+)", str(error))
        return f"{key.group(1) if key else 'a setting'} must be given, e.g. {key.group(1) if key else 'KEY'}=..."
    if isinstance(error, MissingConfigException):
        return _missing_choice(error)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _composition(error)
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename or ''}; give another folder for the results with store=DIR"
    return str(error)


def _unreadable(override: str) -> str:
    """What to paste in place of an override that Hydra cannot read."""
    key, equals, value = override.partition("=")
    if not equals:
        return (
            f"'{override}' is no KEY=VALUE; a value with blanks is quoted, such as {pasted('data.path', 'my photos')}"
        )
    return f"the value of {key} holds characters that have a meaning of their own; write {pasted(key, value)}"


def pasted(key: str, value: str) -> str:
    """An override as a shell takes it, whatever is in its value."""
    return shlex.quote(assigned(key, value))


def assigned(key: str, value: str) -> str:
    """An override as Hydra reads it, whatever is in its value."""
    return f"{key}={quoted(value)}"


def quoted(value: str) -> str:
    """A text as Hydra reads it, whatever is in it."""
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', value)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f'"{escaped}{trailing * chr(92)}"'


def _missing_choice(error: MissingConfigException) -> str:
    wanted = (error.missing_cfg_file or "").removesuffix(".yaml")
    group, _, name = wanted.rpartition("/")
    options = error.options or []
    if not group:
        return f"'{wanted}' is no group of settings{nearest(wanted, _groups())}"
    if group == "hydra/launcher" and name in LAUNCHER_EXTRAS:
        return f"{group}={name} needs packages: pip install -e '.[{LAUNCHER_EXTRAS[name]}]'"
    offered = sorted(set(options) - _only_shared(group))
    return f"{group}={name} is no choice{nearest(name, offered)} (there are {', '.join(offered)})"


def _only_shared(group: str) -> set[str]:
    """The files of a group that others in it are based on, which are no choices themselves."""
    files = (OmegaConf.load(path) for path in (CONF / group).glob("*.yaml"))
    listed = (OmegaConf.select(file, "defaults", default=()) for file in files)
    return {entry for defaults in listed for entry in defaults if isinstance(entry, str)}


def _composition(error: Exception) -> str:
    text = str(error.__cause__ or error)
    taken = [argument[1:].partition("=")[0] for argument in sys.argv[1:] if argument.startswith("~")]
    if taken:
        return f"~{taken[0]} takes away what every run needs; " + (
            "tracker.mode=disabled tracks nothing" if taken[0] == "tracker" else "leave it out"
        )
    key = re.search(r"full_key: (\S+)", text)
    if key and ("not in struct" in text or "is not in" in text):
        if elsewhere := _choices_with(key.group(1)):
            return f"{key.group(1)} is a setting of {elsewhere} alone: choose that as well"
        return f"'{key.group(1)}' is no setting{nearest(key.group(1), _settings())}; python run.py --help lists them"
    group = re.search(r"[Cc]ould not override '([^']+)'", str(error))
    if group:
        name = group.group(1)
        if elsewhere := _choices_with(name):
            return f"{name} is a setting of {elsewhere} alone: choose that as well"
        return f"'{name}' is no setting{nearest(name, [*_settings(), *_groups()])}; python run.py --help lists them"
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())


def _choices_with(key: str) -> str:
    """The choices of a group that have a setting, such as data=folder for data.path; "" where none has it."""
    group, _, inner = key.partition(".")
    files = sorted((CONF / group).glob("*.yaml")) if inner else []
    found = [path.stem for path in files if inner in leaves(OmegaConf.to_container(OmegaConf.load(path)))]
    names = ", ".join(name for name in found if name not in _only_shared(group))
    return f"{group}={names}" if names else ""


def _settings() -> list[str]:
    """The settings of the groups that the command line chooses."""
    GlobalHydra.instance().clear()
    choices = [argument for argument in sys.argv[1:] if re.fullmatch(r"\w+=\w+", argument) and _is_choice(argument)]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", choices)
    return list(leaves(OmegaConf.to_container(config, resolve=False)))


def _is_choice(argument: str) -> bool:
    group, _, name = argument.partition("=")
    return (Path(CONF) / group / f"{name}.yaml").exists()


def _groups() -> list[str]:
    return sorted(path.name for path in Path(CONF).iterdir() if path.is_dir())


def without(overrides: Sequence[str], key: str) -> list[str]:
    """The overrides but those of one key, whether set, added or forced."""
    return [override for override in overrides if override.partition("=")[0].lstrip("+") != key]


def exit_code(work: Callable[[], int]) -> int:
    """What `work` returns, 2 after one sentence about what the user can mend, 130 or 143 where it was stopped."""
    keep_freed_memory()
    try:
        return work()
    except (KeyboardInterrupt, StoppedError) as stop:
        say("stopped; the same command goes on from what it saved")
        return 130 if isinstance(stop, KeyboardInterrupt) else STOPPED
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        say(f"error: {sentence_for(error)}", style="bold red")
        return 2
    except Exception as error:
        if not _is_of_composing(error):
            raise
        said = " ".join(str(error).split()) or type(error).__name__
        say(f"error: these settings cannot be composed ({said}); python run.py --help lists them", style="bold red")
        return 2


COMPOSING = ("hydra", "omegaconf", "antlr4", "yaml")
"""Packages that compose settings; what they raise of Python's own errors is about the settings, too."""


def _is_of_composing(error: BaseException) -> bool:
    """Whether an error was raised in one of the packages that compose settings, and not in what they call."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] in COMPOSING
