"""The help of run.py as it was last written, since Hydra alone takes longer to import than this to read.

It holds for as long as no file of settings has changed, which a digest tells. `experiments.overview` writes it.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

CONF: Final = Path(__file__).resolve().parent.parent / "conf"
SPELLED: Final = Path(__file__).with_name("settings.json")
WRITTEN: Final = Path(__file__).with_name("help.json")


def digest() -> str:
    """Of the files that the help is made of: those of the groups, and what is said of their settings."""
    found = hashlib.sha256()
    for path in [*sorted(CONF.rglob("*.yaml")), SPELLED]:
        content = path.read_bytes()
        found.update(f"{path.name} {path.parent.name} {len(content)}\n".encode() + content)
    return found.hexdigest()


def write_help(text: str) -> None:
    """Keeps what `python run.py --help` prints now."""
    WRITTEN.write_text(json.dumps({"digest": digest(), "lines": text.splitlines()}, indent=1) + "\n", encoding="utf-8")


def written_help(arguments: Sequence[str]) -> str | None:
    """The help, where these arguments of run.py ask for it and for nothing else; None where it is to be composed."""
    if len(arguments) != 1 or arguments[0] not in {"-h", "--help"} or not WRITTEN.is_file():
        return None
    found = json.loads(WRITTEN.read_text(encoding="utf-8"))
    return "\n".join(found["lines"]) if found["digest"] == digest() else None
