"""What names an artifact: a hash of its stage, the version of its code, its settings and its parents' identities."""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.stage import Settings, Stage
from ldm import interop
from ldm.errors import UserError
from ldm.records import StageRecord, content_hash

WEIGHT_FILES = ("weights", "perceptual_path", "encoder", "clip_model", "lpips_weights")
"""Settings whose values are paths of weights, of a file or of a folder."""

MODEL = "path"
"""The setting whose value is the path of a published model."""

OPTIONS = "options"
"""Beside a version: the options of a part of the user's own, of which `files` names those that are paths."""


def identity(stage: Stage, settings: Settings, parents: Mapping[str, str]) -> str:
    """The identity of a stage under this version of the code."""
    hashed = {
        "stage": stage.name,
        "code": stage.version,
        "config": hashed_settings(stage, settings),
        "parents": parents,
    }
    return content_hash(hashed)


def follows(stage: Stage, record: StageRecord) -> bool | None:
    """Whether a record's identity follows from its settings under this version of the stage's code, or an earlier one.

    None: it cannot be told here, since the settings name files by their paths, and not these files lie there.
    """
    versions = (dataclasses.replace(stage, version=number) for number in range(stage.version, 0, -1))
    try:
        is_same = any(identity(each, record.config, record.parents) == record.identity for each in versions)
    except UserError:
        return None
    return None if not is_same and _names_files(record.config) else is_same


def _names_files(settings: Settings) -> bool:
    """Whether the content of files is hashed with these settings."""
    if OPTIONS in settings and "version" in settings and settings.get("files"):
        return True
    return any(
        _names_files(value) if isinstance(value, Mapping) else key in (*WEIGHT_FILES, MODEL) and value is not None
        for key, value in settings.items()
    )


def hashed_settings(stage: Stage, settings: Settings) -> dict[str, Any]:
    """Settings as they are hashed: files by their content, without options at their defaults, 1.0 as 1."""
    return _without_defaults(_by_content(settings), stage.defaults, "")


def _without_defaults(settings: Settings, defaults: Settings, path: str) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in settings.items():
        here = f"{path}{key}"
        if here in defaults and value == defaults[here]:
            continue
        kept[key] = (
            _without_defaults(value, defaults, f"{here}.") if isinstance(value, Mapping) else _same_number(value)
        )
    return kept


def _same_number(value: Any) -> Any:
    """1 where 1.0 was given: guidance.scale=1 is the default 1.0."""
    if isinstance(value, list | tuple):
        return [_same_number(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _by_content(settings: Settings) -> dict[str, Any]:
    """The settings with files of weights named by what they hold, so that moving one changes no identity."""
    kept: dict[str, Any] = {}
    for key, value in settings.items():
        if key == OPTIONS and "version" in settings:
            files = settings.get("files", ())
            kept[key] = {name: _file_hash(Path(v).expanduser()) if name in files else v for name, v in value.items()}
        elif key in WEIGHT_FILES and value is not None:
            kept[key] = _file_hash(Path(value).expanduser())
        elif key == MODEL:
            kept[key] = content_hash(sorted(map(_file_hash, interop.files_of(Path(value).expanduser()))))
        else:
            kept[key] = _by_content(value) if isinstance(value, Mapping) else value
    return kept


@functools.lru_cache
def _file_hash(path: Path) -> str:
    """The hash of a file, or of a folder's files."""
    try:
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            return content_hash([[file.relative_to(path).as_posix(), _file_hash(file)] for file in files])
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:16]
    except OSError as error:
        raise UserError(f"there are no weights at {path} ({error.strerror})") from error
