"""Hydra parses each file of conf/ once in this process, and copies it: parsing takes as long as all else."""

import copy
import functools
from pathlib import Path

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.plugins.config_source import ConfigResult

_parse = FileConfigSource.load_config


@functools.cache
def _parsed(provider: str, folder: str, name: str, changed: int) -> ConfigResult:
    return _parse(FileConfigSource(provider, folder), name)


def _load_config(source: FileConfigSource, config_path: str) -> ConfigResult:
    file = Path(source.path, source._normalize_file_name(config_path))
    if not file.exists():
        return _parse(source, config_path)  # which says so
    return copy.deepcopy(_parsed(source.provider, source.path, config_path, file.stat().st_mtime_ns))


def parse_once() -> None:
    """From here on."""
    FileConfigSource.load_config = _load_config
