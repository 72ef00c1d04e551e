"""Hydra parses each file of conf/ once in this process, and copies it: parsing takes as long as all else."""

import functools
import pickle
from pathlib import Path

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource


def parse_once() -> None:
    """From here on."""
    Plugins.instance()  # which imports its own modules anew: the class that is looked at below is the one it uses
    files = SourcesRegistry.instance().resolve("file")
    parse = files.load_config

    @functools.cache
    def parsed(provider: str, folder: str, name: str, changed: int) -> bytes:
        return pickle.dumps(parse(files(provider, folder), name))

    def load_config(source: ConfigSource, config_path: str) -> ConfigResult:
        file = Path(source.path, source._normalize_file_name(config_path))
        if not file.exists():
            return parse(source, config_path)  # which says so
        return pickle.loads(parsed(source.provider, source.path, config_path, file.stat().st_mtime_ns))

    files.load_config = load_config
