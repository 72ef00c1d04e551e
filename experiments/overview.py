"""The settings of a composed config as --help shows them.

What they may be is read from a file, since the parts that declare it import torch, which takes longer than all else.
It is written by: python -c 'from experiments.overview import *; from experiments.settings import *; write(spelled())'.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from omegaconf import DictConfig, OmegaConf

from experiments.schema import leaf_values

SPELLED: Final = Path(__file__).with_name("settings.json")
NO_SETTINGS: Final = ("hydra", "sweep", "scale")


def write(spelled: Mapping[str, Mapping[str, str]]) -> None:
    """Writes what `experiments.settings.spelled` gives."""
    SPELLED.write_text(json.dumps(spelled, indent=1) + "\n", encoding="utf-8")


def read() -> dict[str, dict[str, str]]:
    """What was written."""
    found: dict[str, dict[str, str]] = json.loads(SPELLED.read_text(encoding="utf-8"))
    return found


def overview(*, _root_: DictConfig) -> str:
    """The settings of a composed config, a line each: its value, what it may be, and what it is."""
    kept = [str(key) for key in _root_ if key not in NO_SETTINGS]
    plain: dict[str, Any] = OmegaConf.to_container(OmegaConf.masked_copy(_root_, kept))  # type: ignore[assignment]
    known = dict[str, str]()
    chosen = {f"{key}={value}" for key, value in leaf_values(plain)}
    for choice, words in read().items():
        if not choice or choice in chosen:
            known |= words
    lines = (f"{f'{key}={_shown(value)}':<44} {known.get(key, '')}" for key, value in leaf_values(plain, known))
    return "\n".join(line.rstrip() for line in lines)


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
