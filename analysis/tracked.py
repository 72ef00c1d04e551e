"""Results that were pushed to W&B, read back as a store in a process of its own: analysis imports no W&B."""

import subprocess
import sys
from pathlib import Path

from ldm.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


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
        raise UserError(told[-1].removeprefix("error: ") if told else f"the project {project} cannot be read")
    return into
