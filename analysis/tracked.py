"""Results that were pushed to W&B, read back as a store in a process of its own: analysis imports no W&B."""

import subprocess
import sys
from pathlib import Path

from ldm.errors import UserError

ROOT = Path(__file__).resolve().parent.parent

ERROR = "error: "
"""What the sentence begins with that a command ends with; warnings of packages may stand behind it."""


def pulled(project: str, into: Path) -> Path:
    """Writes the records of a project, PROJECT or ENTITY/PROJECT, into a folder and returns it.

    Raises: UserError where they cannot be had, with the sentence of `python -m experiments.tracking pull`.
    """
    entity, _, name = project.rpartition("/")
    given = [f"--entity={entity}"] if entity else []
    command = [sys.executable, "-m", "experiments.tracking", "pull", name, "--into", str(into.resolve()), *given]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if ended.returncode:
        told = [line for line in (ended.stdout + ended.stderr).splitlines() if line.strip()]
        said = [line.removeprefix(ERROR) for line in told if line.startswith(ERROR)] or told
        raise UserError(said[-1] if said else f"the project {project} cannot be read")
    return into
