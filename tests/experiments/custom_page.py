"""The examples of docs/custom_parts.md as files."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "custom_parts.md"


def examples() -> dict[str, str]:
    """The text of each example by the name of its file, which its first line says."""
    blocks = re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    return dict(blocks)


def write_examples(folder: Path) -> None:
    """Writes all of them."""
    for name, text in examples().items():
        (folder / name).write_text(text, encoding="utf-8")
