"""What every reader of published weights gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ldm.conditioning.contract import Condition, Conditioning
from ldm.diffusion.schedule import Schedule
from ldm.errors import UserError
from ldm.first_stage.contract import FirstStage
from ldm.first_stage.latent_scale import LatentScale

WeightsKind = Literal["ema", "raw"]
"""Which of a denoiser's weights: their moving average over the training, or those that were trained."""

WEIGHTS = ("auto", "ema", "raw")
"""What may be asked for; "auto" is the moving average where the file has one."""


class RawConditioning(nn.Module):
    """tau_theta of a published model, called with the condition itself where the program's is called with named fields.

    `named` is the same network as the program's conditioning contract.
    """

    def __init__(self, named: Conditioning) -> None:
        super().__init__()
        self.named = named

    def condition(self, raw: Tensor | Mapping[str, Tensor]) -> Condition:
        """The condition of a batch: of its one field, of a mapping of fields, or of tokens or a map that exist already.

        Shapes: class labels (N,), tokens (N, L), label maps (N, H, W) of integers; boxes (N, M, 5); low-resolution
        images (N, 3, H, W); made already, in floating point: tokens (N, L, context_dim), maps (N, concat_channels, h,
        w).
        Raises: UserError for a condition that the model does not read.
        """
        named = self.named
        if isinstance(raw, Mapping):
            return named(raw)
        if raw.is_floating_point() and raw.dim() == 3 and raw.shape[2] == named.context_dim:
            return Condition(context=raw)
        if raw.is_floating_point() and raw.dim() == 4 and raw.shape[1] == named.concat_channels:
            return Condition(concat=raw)
        if len(named.fields) != 1:
            raise UserError(
                f"the model's condition is made of {', '.join(named.fields)}: give a mapping with these names, or the "
                f"map itself, (N, {named.concat_channels}, h, w); a tensor of shape {tuple(raw.shape)} is neither"
            )
        # Boxes have three axes: what has two, for a layout model, are the tokens that another program made of them.
        is_made = named.fields == ("boxes",) and raw.dim() == 2
        return named({"tokens" if is_made else named.fields[0]: raw})

    def forward(self, raw: Tensor | Mapping[str, Tensor]) -> Tensor:
        """What the network takes as `context` (of a model with cross-attention) or as `concat`; see `condition`.

        Shapes: raw as in `condition`; result (N, tokens, context_dim) or (N, concat_channels, h, w).
        Raises: UserError where the condition is both or neither.
        """
        made = self.condition(raw)
        parts = [part for part in (made.context, made.concat) if part is not None]
        if len(parts) != 1:
            raise UserError("the model's condition is not a single tensor: ask `condition` instead")
        return parts[0]


@dataclass(frozen=True)
class Loaded:
    """A published model: None where the file has no such component; networks in evaluation mode, without gradients.

    source: the format that was read.
    first_stage: encodes and decodes raw latents.
    network: (z_t, timestep, context=None, concat=None) -> prediction of the `target`.
    conditioning: raw condition -> context or concat.
    schedule, target: what the network was trained on ("eps", "x0" or "v").
    scale, shift: the network sees z = (raw - shift) * scale; numbers, or (C,) float64 where channels differ.
    weights: which weights the network has.
    latent_shape: (C, h, w) that the network was trained at; resolution: pixels a side that the first stage was.
    """

    source: str
    first_stage: FirstStage | None = None
    network: nn.Module | None = None
    conditioning: RawConditioning | None = None
    schedule: Schedule | None = None
    target: str = "eps"
    scale: float | Tensor = 1.0
    shift: float | Tensor = 0.0
    weights: WeightsKind = "raw"
    latent_shape: tuple[int, int, int] | None = None
    resolution: int | None = None

    def latent_scale(self) -> LatentScale:
        """Scale and shift as the program stores them, one for each channel, (C,).

        Raises: ValueError without a first stage.
        """
        if self.first_stage is None:
            raise ValueError("only a model with a first stage has raw latents")
        channel = torch.ones(self.first_stage.channels, dtype=torch.float64)
        return LatentScale(self.shift * channel, channel / self.scale)


def check_taken(path: Path, weights: str, taken: WeightsKind) -> None:
    """Checks that a file had the weights that were asked for.

    Raises: UserError where it had not.
    """
    if weights == "ema" and taken != "ema":
        raise UserError(f"weights=ema, but {path} holds no moving average beside its weights; use weights=raw or auto")
    if weights == "raw" and taken != "raw":
        raise UserError(f"weights=raw, but {path} holds a moving average alone; use weights=ema or auto")


def check_weights(weights: str) -> None:
    """Checks that `weights` is one of `WEIGHTS`.

    Raises: UserError where it is not.
    """
    if weights not in WEIGHTS:
        raise UserError(f"weights={weights} is none of {', '.join(WEIGHTS)}")
