"""What one training step reports."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class StepReport:
    """The values of one step, still on the device: reading them waits for it, so that is left to who logs."""

    step: int
    images_seen: int
    values: Mapping[str, Tensor]

    def numbers(self) -> dict[str, float]:
        """The values as plain numbers."""
        return {name: float(value) for name, value in self.values.items()}
