"""Hidden features of a denoiser that are alike those of a frozen network that sees the clean images.

Source: Yu et al. 2024, REPA, arXiv 2410.06940.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.denoiser.contract import Hidden, ShowsHidden
from ldm.errors import UserError
from ldm.first_stage.teachers import TEACHERS, Teacher, features_at, load_teacher, place_teacher
from ldm.parts import option

GROUP: Final = "trainer.representation"


def check_shown(network: nn.Module, teacher: str | None) -> Hidden:
    """The hidden features of a network. Raises: UserError where it shows none."""
    if not isinstance(network, ShowsHidden):
        raise UserError(
            f"{GROUP}.teacher={teacher} aligns hidden features, and {type(network).__name__} shows none: give it a "
            "property `hidden` (ldm.denoiser.contract.Hidden), or leave the teacher out"
        )
    return network.hidden


@dataclass(frozen=True)
class Representation:
    """A denoiser's hidden features are aligned with a teacher's: the options. Without a teacher it is off."""

    teacher: str | None = option(None, choices=TEACHERS, help="frozen network that sees the clean images; null: none")
    weights: Path | None = option(None, help="its weights: a folder of transformers for dinov2")
    loss_weight: float = option(0.5, above=0, help="beside the loss of the denoiser")
    projector: int = option(256, low=1, help="width of the two hidden layers between them, which no sample needs")

    def load_teacher(self) -> Teacher:
        """The frozen teacher. Raises: UserError where its weights cannot be had."""
        assert self.teacher is not None
        return load_teacher(self.teacher, self.weights, GROUP)


class RepresentationTerm(nn.Module):
    """The term of the loss, over the noisy latents that the network saw under `watched`.

    Its projector is trained beside the network, and belongs to no sample; its teacher is not trained and in no state.

    Raises: UserError for a network that shows no hidden features.
    """

    def __init__(self, options: Representation, network: nn.Module, teacher: Teacher) -> None:
        super().__init__()
        self.options = options
        hidden, inner = check_shown(network, options.teacher), options.projector
        self.projector = nn.Sequential(
            nn.Linear(hidden.width, inner),
            nn.SiLU(),
            nn.Linear(inner, inner),
            nn.SiLU(),
            nn.Linear(inner, teacher.width),
        )
        # In lists they are no modules of this one.
        self._teacher, self._hidden = [teacher], [hidden]
        self._seen: list[Tensor] = []

    def place(self, device: torch.device | str, dtype: torch.dtype) -> None:
        """Moves both to a device; the teacher, which is not trained, computes in `dtype`."""
        self.to(device)
        place_teacher(self.teacher, device, dtype)

    @property
    def teacher(self) -> Teacher:
        """The frozen network."""
        return self._teacher[0]

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Keeps the hidden features of the network's next call, for `forward`."""

        def keep(layer: nn.Module, given: object, output: Tensor) -> None:
            self._seen = [output]

        handle = self._hidden[0].layer.register_forward_hook(keep)
        try:
            yield
        except BaseException:
            self._seen = []  # where memory did not suffice what was computed must go
            raise
        finally:
            handle.remove()

    def forward(self, image: Tensor) -> Tensor:
        """`loss_weight` times 1 - cosine of projected and teacher's features, a mean over each image's positions.

        Shapes: image (N, 3, H, W), whose noisy latents the network saw; result (N,).
        Source: arXiv 2410.06940, section 3.2, the loss there less a constant.
        """
        [seen], self._seen = self._seen, []
        tokens = self._hidden[0].tokens(seen).float()
        side, width = math.isqrt(tokens.shape[1]), self._hidden[0].width
        if tokens.shape[1:] != (side * side, width):
            raise UserError(
                f"{GROUP}.teacher={self.options.teacher}: the denoiser's `hidden` is said to be {width} wide and gives "
                f"{tokens.shape[1]} positions of {tokens.shape[2]}: it must give those of a square map, so wide"
            )
        features = features_at(self.teacher, image, side).flatten(2).transpose(1, 2)
        cosine = F.cosine_similarity(self.projector(tokens), features.float(), dim=2)
        return self.options.loss_weight * (1 - cosine).mean(1)
