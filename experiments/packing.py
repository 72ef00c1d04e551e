"""How many stages of a sweep one machine makes at a time: as many as a GPU's memory and the cores let."""

from typing import Final

from ldm.errors import UserError

AUTO: Final = "auto"
"""The value of hydra.launcher.workers that leaves it to the machine."""

ON_A_CPU: Final = 2
"""Workers that share the cores: two stages lose less than one to what one thread alone can do, and take more memory."""

CONTEXT_BYTES: Final = 700 * 2**20
"""What a process takes of a GPU before its first tensor: CUDA's context and the code of its kernels."""

SHARE: Final = 0.9
"""Of the free memory that is given out."""

GROWTH: Final = 1.5
"""Times what a network took while it was timed: a stage also holds an average of weights, other networks, and latents
if there is room, which leave where there is none."""

CORES_EACH: Final = 2
"""A process keeps a core busy with calls of kernels, and needs some of another for images."""


def whole_number(asked: int | str) -> int:
    """The number of workers that was asked for. Raises: UserError where it is none."""
    if not isinstance(asked, int):
        raise UserError(f"hydra.launcher.workers={asked}: give a whole number from 1 on, or {AUTO}")
    return asked


def workers_that_fit(peak_bytes: int, free_bytes: int, cores: int) -> int:
    """Processes whose stages take `peak_bytes` at most that fit a GPU side by side; one at least."""
    each = CONTEXT_BYTES + GROWTH * peak_bytes
    return max(1, min(int(SHARE * free_bytes / each), cores // CORES_EACH))
